use std::convert::Infallible;
use std::task::{Context, Poll};

use http::Response as HttpResponse;
use mayfly_proto::mayfly::agent::watch_client::WatchClient;
use mayfly_proto::mayfly::agent::watch_response::Body as Outbound;
use mayfly_proto::mayfly::agent::watch_server::WatchServer;
use mayfly_runtime::listen::Peer;
use mayfly_svid::Serial;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::body::Body;
use tower::Service;

use super::*;
use crate::app::testing::{World, csr, id};
use crate::watch::History;

/// A server with nothing but this service, in front of which the gate has done its work.
struct Fixture {
    world: World,
    service: Arc<WatchService>,
}

/// One agent's connection.
#[derive(Clone)]
struct Connected {
    server: WatchServer<WatchService>,
    agent: Arc<Agent>,
    info: ConnInfo,
}

impl Service<http::Request<Body>> for Connected {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = <WatchServer<WatchService> as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        request.extensions_mut().insert(Caller::Agent(self.agent.clone()));
        request.extensions_mut().insert(self.info.clone());
        self.server.call(request)
    }
}

/// Both directions of a stream that may not have been answered yet.
struct Watching {
    requests: mpsc::Sender<wire::WatchRequest>,
    answer: tokio::task::JoinHandle<Result<Response<Streaming<wire::WatchResponse>>, Status>>,
}

/// A stream that was answered.
struct Opened {
    requests: mpsc::Sender<wire::WatchRequest>,
    messages: Streaming<wire::WatchResponse>,
}

impl Fixture {
    async fn new(admitted: usize) -> Self {
        let settings = WatchSettings {
            admitted,
            admission_wait: Duration::from_millis(200),
            beacon_interval: Duration::from_millis(20),
            ..WatchSettings::default()
        };
        let hub = Arc::new(Hub::new(History::new(vec![]), Revision(0)));
        let seen = hub.clone();
        let world = World::observed(move |applied| seen.observe(applied)).await;
        let stop = CancellationToken::new();
        let service = WatchService::new(
            world.committer.clone(),
            hub,
            world.clock.clone(),
            settings,
            TaskFeeds::default(),
            stop,
        );
        Self {
            world,
            service: Arc::new(service),
        }
    }

    /// An agent that attested just now, perhaps not for the first time.
    async fn attested(&self, name: &str) -> Connected {
        let agent_id = id(&format!("/spire/agent/t/{name}"));
        let template = self.world.agent(name).await;
        let attest = |serial: &Serial, expires_at| {
            let agent = Agent {
                serial: Some(serial.clone()),
                expires_at,
                ..(*template).clone()
            };
            Change::AgentAttest {
                agent: Box::new(agent),
                token: None,
            }
        };
        let actor = Actor::server();
        let issued = self.world.issuance.for_agent(&actor, &agent_id, &csr(), attest).await;
        let chain = issued.unwrap().chain().to_vec();
        Connected {
            server: WatchServer::from_arc(self.service.clone()),
            agent: self.world.committer.snapshot().agent(&agent_id).unwrap().clone(),
            info: ConnInfo::new(Peer::Tcp("192.0.2.1:1".parse().unwrap()), Some(chain.into())),
        }
    }
}

impl Connected {
    /// Opens a stream and says nothing yet.
    fn watch(&self) -> Watching {
        let (requests, outgoing) = mpsc::channel(8);
        let mut client = WatchClient::new(self.clone());
        #[allow(clippy::disallowed_methods, reason = "the test itself waits for it")]
        let answer = tokio::spawn(async move { client.watch(ReceiverStream::new(outgoing)).await });
        Watching { requests, answer }
    }

    async fn watch_from_nothing(&self) -> Watching {
        let watching = self.watch();
        watching.hello().await;
        watching
    }
}

impl Watching {
    async fn hello(&self) {
        let body = Some(Inbound::Hello(wire::Hello::default()));
        self.requests.send(wire::WatchRequest { body }).await.unwrap();
    }

    /// The server's side, and the agent's, which the stream ends with.
    async fn opened(self) -> Result<Opened, Status> {
        let messages = self.answer.await.unwrap()?.into_inner();
        Ok(Opened {
            requests: self.requests,
            messages,
        })
    }

    /// How the stream ends, and how many updates came before.
    async fn end(self) -> (usize, Status) {
        let mut messages = match self.answer.await.unwrap() {
            Ok(messages) => messages.into_inner(),
            Err(status) => return (0, status),
        };
        let mut updates = 0;
        loop {
            match messages.message().await {
                Ok(Some(message)) => updates += usize::from(matches!(message.body, Some(Outbound::Update(_)))),
                Ok(None) => panic!("a silent end"),
                Err(status) => return (updates, status),
            }
        }
    }
}

impl Opened {
    async fn next(&mut self) -> Result<Outbound, Status> {
        let message = self.messages.message().await?;
        Ok(message.expect("no silent end").body.expect("a known message"))
    }

    async fn acknowledge(&self, revision: u64, rejected: Vec<wire::RejectedEntry>) {
        let body = Some(Inbound::Ack(wire::Ack { revision, rejected }));
        self.requests.send(wire::WatchRequest { body }).await.unwrap();
    }
}

// Promise 4
#[tokio::test]
async fn who_loses_its_standing_before_its_hello_is_told_nothing() {
    let fixture = Fixture::new(8).await;
    for (change, code) in [
        (Change::AgentBan(id("/spire/agent/t/a")), Code::PermissionDenied),
        (Change::AgentDelete(id("/spire/agent/t/a")), Code::PermissionDenied),
    ] {
        let watching = fixture.attested("a").await.watch();
        tokio::task::yield_now().await;
        fixture.world.commit(change).await.unwrap();
        watching.hello().await;
        let (updates, end) = watching.end().await;
        assert_eq!((updates, end.code()), (0, code));
        let _ = fixture.world.commit(Change::AgentDelete(id("/spire/agent/t/a"))).await;
    }
}

#[tokio::test]
async fn an_svid_that_was_replaced_opens_no_stream_ends_none_and_keeps_none_open() {
    let fixture = Fixture::new(8).await;
    let stolen = fixture.attested("a").await;
    let late = stolen.watch();
    let mut open = stolen.watch_from_nothing().await.opened().await.unwrap();
    assert!(matches!(open.next().await.unwrap(), Outbound::Update(_)));

    let rightful = fixture.attested("a").await;
    let end = loop {
        match open.next().await {
            Ok(message) => assert!(matches!(message, Outbound::Beacon(_))),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("another SVID"), "{end}");

    let mut rightful = rightful.watch_from_nothing().await.opened().await.unwrap();
    assert!(matches!(rightful.next().await.unwrap(), Outbound::Update(_)));
    late.hello().await;
    let (updates, end) = late.end().await;
    assert_eq!((updates, end.code()), (0, Code::Unavailable));
    assert!(
        matches!(rightful.next().await.unwrap(), Outbound::Beacon(_)),
        "still open"
    );
}

#[tokio::test]
async fn one_agent_takes_one_place_among_those_that_catch_up_however_many_streams_it_opens() {
    let fixture = Fixture::new(2).await;
    let (greedy, other) = (fixture.attested("a").await, fixture.attested("b").await);
    let silent: Vec<_> = (0..8).map(|_| greedy.watch()).collect();
    let mut unread = vec![];
    for _ in 0..8 {
        unread.push(greedy.watch_from_nothing().await.opened().await.unwrap());
    }
    let mut opened = other.watch_from_nothing().await.opened().await.unwrap();
    assert!(matches!(opened.next().await.unwrap(), Outbound::Update(_)));
    drop((silent, unread));
}

#[tokio::test]
async fn places_run_out_for_agents_that_do_not_acknowledge_and_come_back_with_them() {
    let fixture = Fixture::new(1).await;
    let (slow, other) = (fixture.attested("a").await, fixture.attested("b").await);
    let mut slow = slow.watch_from_nothing().await.opened().await.unwrap();
    let Outbound::Update(update) = slow.next().await.unwrap() else {
        panic!("no update")
    };
    let refused = other.watch_from_nothing().await.opened().await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    slow.acknowledge(update.revision, vec![]).await;
    // The acknowledgement is read before the beacon that follows.
    slow.next().await.unwrap();
    slow.next().await.unwrap();
    assert!(other.watch_from_nothing().await.opened().await.is_ok());
}

#[tokio::test]
async fn an_agent_that_rejects_without_end_is_let_go() {
    let fixture = Fixture::new(8).await;
    let mut opened = fixture
        .attested("a")
        .await
        .watch_from_nothing()
        .await
        .opened()
        .await
        .unwrap();
    let mut round = 0;
    let end = loop {
        let update = match opened.next().await {
            Ok(Outbound::Update(update)) => update,
            Ok(Outbound::Beacon(_) | Outbound::LogHead(_)) => continue,
            Err(status) => break status,
        };
        round += 1;
        assert!(round < 4, "rejections pile up");
        let rejected = |n| wire::RejectedEntry {
            entry_id: format!("r{round}-{n}"),
            reason: "no".into(),
        };
        opened
            .acknowledge(update.revision, (0..6_000).map(rejected).collect())
            .await;
        fixture
            .world
            .entry(&format!("web{round}"), &id("/spire/agent/t/a"), |_| {})
            .await;
    };
    assert_eq!(end.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn every_word_says_for_how_long_it_counts() {
    let fixture = Fixture::new(8).await;
    let connected = fixture.attested("a").await;
    let mut opened = connected.watch_from_nothing().await.opened().await.unwrap();
    for _ in 0..2 {
        match opened.next().await.unwrap() {
            Outbound::Update(update) => {
                assert_eq!(update.lease_ms, 10_000);
                opened.acknowledge(update.revision, vec![]).await;
            }
            Outbound::Beacon(beacon) => assert_eq!(beacon.lease_ms, 10_000),
            Outbound::LogHead(_) => unreachable!("it is no witness"),
        }
    }
}

#[tokio::test]
async fn an_agent_speaks_only_for_consumers_whose_svids_it_may_have() {
    let fixture = Fixture::new(8).await;
    let connected = fixture.attested("a").await;
    fixture.attested("b").await;
    fixture.world.entry("db", &id("/spire/agent/t/a"), |_| {}).await;
    fixture.world.entry("elsewhere", &id("/spire/agent/t/b"), |_| {}).await;
    let mut opened = connected.watch_from_nothing().await.opened().await.unwrap();
    let by = |path: &str| wire::EnforcedBy {
        checkpoint: "db".into(),
        spiffe_id: id(path).to_string(),
        consumers: 1,
        epoch: 7,
        ..wire::EnforcedBy::default()
    };
    let nameless = wire::EnforcedBy {
        spiffe_id: String::new(),
        ..by("/db")
    };
    let checkpoints = vec![by("/db"), by("/elsewhere"), by("/nobody"), nameless];
    let body = Some(Inbound::Enforced(wire::Enforced { checkpoints, run: 1 }));
    let known = fixture.service.feeds.checkpoints.clone();
    let mut changed = known.changed();
    opened.requests.send(wire::WatchRequest { body }).await.unwrap();
    // The server's side runs while it is read.
    tokio::select! {
        told = changed.changed() => told.unwrap(),
        () = async { while opened.next().await.is_ok() {} } => panic!("the stream ended"),
    }
    let rules = ["/db", "/elsewhere", "/nobody", "db@/*"].map(String::from).into();
    assert_eq!(known.missing(&rules, 7), ["/elsewhere", "/nobody"]);
}

#[tokio::test]
async fn a_consumer_whose_entry_was_deleted_is_not_taken_for_gone() {
    let fixture = Fixture::new(8).await;
    let connected = fixture.attested("a").await;
    let agent_id = id("/spire/agent/t/a");
    fixture.world.entry("svc/a", &agent_id, |_| {}).await;
    let deleted = fixture.world.entry("svc/b", &agent_id, |_| {}).await;
    let mut opened = connected.watch_from_nothing().await.opened().await.unwrap();
    let by = |path: &str, epoch, best_effort| wire::EnforcedBy {
        checkpoint: "x".into(),
        spiffe_id: id(path).to_string(),
        consumers: 1,
        epoch,
        best_effort,
        ..wire::EnforcedBy::default()
    };
    let known = fixture.service.feeds.checkpoints.clone();
    for epoch in [6, 7] {
        let checkpoints = vec![by("/svc/a", epoch, 0), by("/svc/b", 6, 1)];
        let body = Some(Inbound::Enforced(wire::Enforced { checkpoints, run: 1 }));
        let mut changed = known.changed();
        opened.requests.send(wire::WatchRequest { body }).await.unwrap();
        let is_told = || known.missing(&["/svc/a".to_owned()].into(), epoch).is_empty();
        // The server's side runs while it is read.
        while !is_told() {
            tokio::select! {
                told = changed.changed() => told.unwrap(),
                () = async { while opened.next().await.is_ok() {} } => panic!("the stream ended"),
            }
        }
        assert_eq!(known.missing(&["/svc/*".to_owned()].into(), 6), ["/svc/*"]);
        if epoch == 6 {
            fixture
                .world
                .commit(Change::EntryDelete(deleted.clone()))
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn consumers_that_a_report_has_no_room_for_count_as_enforcing_nothing() {
    let fixture = Fixture::new(8).await;
    let connected = fixture.attested("a").await;
    for name in ["db", "other"] {
        fixture.world.entry(name, &id("/spire/agent/t/a"), |_| {}).await;
    }
    let mut opened = connected.watch_from_nothing().await.opened().await.unwrap();
    let by = |name: String, path: &str| wire::EnforcedBy {
        checkpoint: name,
        spiffe_id: id(path).to_string(),
        consumers: 1,
        epoch: 7,
        ..wire::EnforcedBy::default()
    };
    let mut checkpoints = vec![by("x".into(), "/other")];
    checkpoints.extend((0..999).map(|number| by(format!("n{number}"), "/db")));
    let known = fixture.service.feeds.checkpoints.clone();
    let rules: std::collections::BTreeSet<String> = ["/db", "n7@/db", "late@/db", "/other"].map(String::from).into();
    for (late, missing) in [
        (None, vec!["late@/db"]),
        (Some("late"), vec!["/db", "late@/db", "n7@/db"]),
    ] {
        checkpoints.extend(late.map(|name| by(name.into(), "/db")));
        let enforced = wire::Enforced {
            checkpoints: checkpoints.clone(),
            run: 1,
        };
        let body = Some(Inbound::Enforced(enforced));
        let mut changed = known.changed();
        opened.requests.send(wire::WatchRequest { body }).await.unwrap();
        // The server's side runs while it is read.
        tokio::select! {
            told = changed.changed() => told.unwrap(),
            () = async { while opened.next().await.is_ok() {} } => panic!("the stream ended"),
        }
        assert_eq!(known.missing(&rules, 7), missing);
    }
}

#[tokio::test]
async fn an_agent_is_silent_until_it_has_said_who_is_there_and_taken_over_what_is_revoked() {
    let fixture = Fixture::new(8).await;
    let connected = fixture.attested("a").await;
    let known = fixture.service.feeds.checkpoints.clone();
    let agent_id = id("/spire/agent/t/a");
    let agents = [agent_id].into();
    let is_silent = || !known.silent_of(0, &agents).is_empty();
    known.expect(agents.iter());
    let mut changed = known.changed();
    assert!(is_silent(), "it has not come back since the start");
    let mut opened = connected.watch_from_nothing().await.opened().await.unwrap();
    let Outbound::Update(update) = opened.next().await.unwrap() else {
        panic!("no update")
    };
    opened.acknowledge(update.revision, vec![]).await;
    assert!(is_silent());
    let body = Some(Inbound::Enforced(wire::Enforced {
        run: 1,
        ..wire::Enforced::default()
    }));
    opened.requests.send(wire::WatchRequest { body }).await.unwrap();
    while is_silent() {
        changed.borrow_and_update();
        tokio::select! {
            told = changed.changed() => told.unwrap(),
            () = async { while opened.next().await.is_ok() {} } => panic!("the stream ended"),
        }
    }
    drop(opened);
    while !is_silent() {
        changed.changed().await.unwrap();
    }
}
