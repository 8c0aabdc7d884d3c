//! The keeper against a server in this process.

mod own_svid;
mod tasks;
mod trust;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::ErrorKind;
use mayfly_node_attest::{AgentError, AgentHalf, Builtin, Deps};
use mayfly_proto::status::Reason;
use mayfly_runtime::{CancellationToken, Clock, Readiness, SystemClock, files};
use mayfly_svid::Bundle;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::identity::{self, Identity, OwnKey};
use super::keeper::{ATTESTATION, FIRST_SYNC};
use super::renew::{Joining, renewed};
use super::test_server::{TestCa, TestServer};
use super::*;
use crate::news::News;
use crate::svids::{IssueRequest, Issuer};
use crate::view::{View, ViewPublisher};

/// Longer than anything here takes; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent without workloads.
struct TestAgent {
    dir: Arc<TempDir>,
    readiness: Readiness,
    views: watch::Receiver<Arc<View>>,
    link: Arc<Link>,
    news: Arc<News>,
    stop: CancellationToken,
}

/// Proves itself again and again: the answer is the question backwards.
#[derive(Debug)]
struct TestPop;

impl AgentHalf for TestPop {
    fn name(&self) -> &'static str {
        "test_pop"
    }

    fn payload(&self) -> Result<Zeroizing<Vec<u8>>, AgentError> {
        Ok(Zeroizing::new(b"question".to_vec()))
    }

    fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, AgentError> {
        Ok(challenge.iter().rev().copied().collect())
    }
}

fn pop() -> Evidence {
    Evidence::new(Box::new(TestPop), vec![], String::new())
}

fn token_file(dir: &Path) -> Evidence {
    let file = dir.join("token");
    let section = toml::Table::from_iter([("token_file".to_owned(), file.to_str().unwrap().into())]);
    let deps = Deps {
        trust_domain: "td".parse().unwrap(),
        base_dir: dir.to_owned(),
    };
    let half = (Builtin::find("join_token").unwrap().agent)(section, &deps).unwrap();
    Evidence::new(half, vec![file], "make a new token".into())
}

fn token_in(dir: &Path, token: &str) -> Evidence {
    files::write_atomic(&dir.join("token"), format!("{token}\n").as_bytes(), files::PRIVATE).unwrap();
    token_file(dir)
}

impl TestAgent {
    /// With the token `t0` and the server's bundle as a file.
    fn start(server: &TestServer) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let evidence = token_in(dir.path(), "t0");
        Self::start_with(server, dir, evidence, Some(server.ca.bundle()))
    }

    /// The same agent after a restart.
    fn restarted(self, server: &TestServer) -> Self {
        self.stop.cancel();
        Self::start_with(server, Arc::clone(&self.dir), token_file(self.dir.path()), None)
    }

    fn start_with(server: &TestServer, dir: Arc<TempDir>, evidence: Evidence, bundle: Option<Bundle>) -> Self {
        let source = bundle.map(|bundle| {
            let path = dir.path().join("bootstrap.pem");
            std::fs::write(&path, bundle.x509_to_pem()).unwrap();
            TrustSource::Path(path)
        });
        Self::try_start(server, dir, evidence, source).unwrap()
    }

    fn try_start(
        server: &TestServer,
        dir: Arc<TempDir>,
        evidence: Evidence,
        trust_source: Option<TrustSource>,
    ) -> Result<Self, StartError> {
        mayfly_runtime::install_crypto_provider();
        let readiness = Readiness::new();
        let own = Bundle::empty("td".parse().unwrap());
        let views = Arc::new(ViewPublisher::new(own));
        let receiver = views.subscribe();
        let (link, news) = (Link::new(), News::new());
        let keeper = Keeper::new(KeeperParts {
            trust_domain: "td".parse().unwrap(),
            server: server.address.to_string().parse().unwrap(),
            trust_source,
            evidence,
            data_dir: dir.path().to_owned(),
            clock: Arc::new(SystemClock),
            channel: channel_settings(),
            views,
            news: Arc::clone(&news),
            link: Arc::clone(&link),
            readiness: readiness.clone(),
            metrics: SyncMetrics::default(),
        })?;
        let stop = CancellationToken::new();
        #[allow(clippy::disallowed_methods, reason = "tests may spawn")]
        tokio::spawn(keeper.run(stop.clone()));
        Ok(Self {
            dir,
            readiness,
            views: receiver,
            link,
            news,
            stop,
        })
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Arc<View>) -> bool) {
        let seen = timeout(PATIENCE, self.views.wait_for(condition)).await;
        assert!(seen.is_ok(), "the picture never showed: {what}");
    }

    async fn holds(&mut self, ids: &[&str]) {
        self.until(&ids.join(" "), |view| view.synced() && held(view) == ids)
            .await;
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn held(view: &View) -> Vec<String> {
    let mut ids: Vec<_> = view.entries().map(|entry| entry.id.to_string()).collect();
    ids.sort();
    ids
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn changes_are_pushed_and_what_cannot_be_used_is_rejected_by_name() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.put("b", "/b");
    agent.holds(&["a", "b"]).await;
    server.put("b", "/task/b");
    agent.holds(&["a"]).await;
    server.delete("a");
    agent.holds(&[]).await;
    eventually("the rejection", || {
        server.log().iter().any(|line| line.ends_with(" -b"))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(
        server.count("Hello"),
        1,
        "a rejected entry is no reason to resync: {:?}",
        server.log()
    );
}

#[tokio::test]
async fn a_resumed_stream_sends_nothing_twice() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    eventually("the ack", || server.count("Ack") == 1).await;
    server.cut_streams();
    eventually("the second stream", || server.count("Hello h1 2") == 1).await;
    assert_eq!(
        held(&agent.views.borrow()),
        ["a"],
        "a lost connection takes nothing away"
    );
    server.put("b", "/b");
    agent.holds(&["a", "b"]).await;
    let sent: Vec<_> = server
        .log()
        .into_iter()
        .filter(|l| l.starts_with("Snapshot") || l.starts_with("Delta"))
        .collect();
    assert_eq!(sent, ["Snapshot 2 [a]", "Delta 3 [b]"]);
}

#[tokio::test]
async fn another_history_is_answered_with_a_snapshot_that_replaces_everything() {
    let mut server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.stop().await;
    server.set(|state| {
        state.history = "h2".into();
        state.entries.clear();
    });
    server.put("z", "/z");
    server.restart();
    agent.holds(&["z"]).await;
}

#[tokio::test]
async fn an_empty_picture_is_the_servers_word() {
    let server = TestServer::start().await;
    server.delete("a");
    let mut agent = TestAgent::start(&server);
    agent.holds(&[]).await;
}

#[tokio::test]
async fn different_contents_are_noticed_and_asked_for_anew() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    // As if a change had been lost on the way.
    server.set(|state| {
        let lost = super::holdings::tests::wire_entry("lost", "/lost", 0);
        state.entries.insert("lost".into(), (state.revision, Some(lost)));
    });
    agent.holds(&["a", "lost"]).await;
    assert_eq!(server.count("Hello  0"), 2, "{:?}", server.log());
}

#[tokio::test]
async fn silence_for_four_beacons_is_a_lost_connection() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    server.set(|state| state.silent = true);
    eventually("another stream", || server.count("Hello") > 1).await;
    assert_eq!(held(&agent.views.borrow()), ["a"]);
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let mut server = TestServer::start().await;
    server.stop().await;
    let mut agent = TestAgent::start(&server);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!agent.views.borrow().synced(), "no entries is not yet a statement");
    assert_eq!(agent.readiness.missing(), [ATTESTATION, FIRST_SYNC]);
    server.restart();
    agent.holds(&["a"]).await;
}

#[tokio::test]
async fn an_agent_restarted_while_the_server_is_away_recovers_by_itself() {
    let mut server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.stop().await;
    assert_eq!(held(&agent.views.borrow()), ["a"]);
    let mut agent = agent.restarted(&server);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!agent.views.borrow().synced());
    server.restart();
    agent.holds(&["a"]).await;
    assert!(agent.link.heard().borrow().is_some());
}

#[tokio::test]
async fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let server = TestServer::start().await;
    server.set(|state| state.busy = Some((1, Duration::from_secs(2))));
    let started = Instant::now();
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_without_watch_is_polled() {
    let server = TestServer::start().await;
    server.set(|state| {
        state.watch = false;
        let mut entry = super::holdings::tests::wire_entry("f", "/f", 0);
        entry.federates_with = vec!["other".into(), "unknown".into()];
        state.entries.insert("f".into(), (1, Some(entry)));
        let mut bundle = TestCa::new("other").wire_bundle();
        bundle.sequence_number = 7;
        state.federated.insert("other".into(), bundle);
    });
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a", "f"]).await;
    assert_eq!(agent.views.borrow().all_federated().len(), 1);
    assert!(server.log().contains(&format!("PostStatus {AGENT_VERSION}")));
    server.delete("a");
    server.delete("f");
    agent.holds(&[]).await;
}

#[tokio::test]
async fn of_many_entries_only_the_changed_ones_are_polled_whole() {
    let server = TestServer::start().await;
    server.set(|state| {
        state.watch = false;
        state.sparse_above = 2;
    });
    for id in ["b", "c", "d"] {
        server.put(id, &format!("/{id}"));
    }
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a", "b", "c", "d"]).await;
    server.put("c", "/c2");
    server.delete("d");
    agent.link.poll_soon();
    agent.holds(&["a", "b", "c"]).await;
    let asked: Vec<_> = server
        .log()
        .into_iter()
        .filter(|line| line.starts_with("Sync ids"))
        .collect();
    assert_eq!(asked, ["Sync ids a b c d", "Sync ids c"]);
}

fn csr(entry_id: &str) -> IssueRequest {
    let csr_der = identity::OwnKey::generate().unwrap().csr_der().unwrap();
    IssueRequest {
        entry_id: entry_id.parse().unwrap(),
        csr_der,
    }
}

#[tokio::test]
async fn certificates_are_signed_in_order_in_as_small_batches_as_the_server_wants() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    let issuer = ServerIssuer::new(Arc::clone(&agent.link), Arc::clone(&agent.news));
    assert!(issuer.issue(vec![csr("a")]).await.is_err(), "not connected yet");
    agent.holds(&["a"]).await;
    server.set(|state| state.max_batch = 2);
    let answers = issuer
        .issue(vec![csr("a"), csr("gone"), csr("a"), csr("a"), csr("a")])
        .await
        .unwrap();
    assert_eq!(
        answers.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, false, true, true, true]
    );
    assert_eq!(answers[1].as_ref().unwrap_err().kind, ErrorKind::NotFound);
    let calls: Vec<_> = server
        .log()
        .into_iter()
        .filter(|line| line.starts_with("Batch"))
        .collect();
    assert_eq!(calls.first().map(String::as_str), Some("BatchNewX509SVID 5"));
    assert!(
        calls[1..]
            .iter()
            .all(|call| call.ends_with(" 2") || call.ends_with(" 1")),
        "{calls:?}"
    );
}

#[tokio::test]
async fn an_entry_that_the_server_does_not_know_yet_is_looked_up_at_once() {
    let server = TestServer::start().await;
    server.set(|state| state.watch = false);
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.put("b", "/b");
    let started = Instant::now();
    let answers = ServerIssuer::new(Arc::clone(&agent.link), Arc::clone(&agent.news))
        .issue(vec![csr("gone")])
        .await
        .unwrap();
    assert!(answers[0].is_err());
    agent.holds(&["a", "b"]).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}
