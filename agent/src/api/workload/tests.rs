//! The streams with a process and a server that tests turn by hand ([`Scene`]), and in [`socket`] over a real socket.

mod endings;
mod enforce;
mod socket;
mod tasks;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use mayfly_model::{Entry, ErrorKind, Selector};
use mayfly_proto::spiffe::workload::{X509BundlesResponse, X509svidResponse};
use mayfly_runtime::listen::{Peer, UnixPeer};
use mayfly_runtime::{CancellationToken, Supervisor};
use mayfly_svid::verify::verify_x509_svid;
use mayfly_svid::{Bundle, Timestamp, TrustAnchors, X509Svid};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::*;
use crate::api::caller::Process;
use crate::attest::{Ancestor, AttestError, PeerError, Tracer};
use crate::news::News;
use crate::svids::testing::{Stage, bundle, ca, entry, td};
use crate::tasks::Tasks;
use crate::tasks::testing::{FakeTaskServer, keeper_beside};
use crate::view::ViewUpdate;

/// A process whose nature a test decides.
#[derive(Clone, Default)]
struct FakeProcess(Arc<Nature>);

#[derive(Default)]
struct Nature {
    /// Added to 1000.
    user: u32,
    selectors: Mutex<BTreeSet<Selector>>,
    above: Mutex<Vec<Ancestor>>,
    changed: Mutex<bool>,
    ended: CancellationToken,
    attestation_takes: Mutex<Duration>,
    breaks: Mutex<bool>,
    fails: Mutex<bool>,
}

#[async_trait]
impl Process for FakeProcess {
    fn pid(&self) -> u32 {
        7
    }

    fn uid(&self) -> u32 {
        1000 + self.0.user
    }

    fn start_time(&self) -> u64 {
        u64::from(self.0.user)
    }

    fn ancestors(&self) -> Vec<Ancestor> {
        self.0.above.lock().unwrap().clone()
    }

    fn tracer(&self, _: bool) -> Option<Tracer> {
        None
    }

    fn ensure_unchanged(&self) -> Result<(), PeerError> {
        if *self.0.changed.lock().unwrap() {
            Err(PeerError::Changed {
                pid: 7,
                what: "program",
            })
        } else {
            Ok(())
        }
    }

    async fn exited(&self) {
        self.0.ended.cancelled().await;
    }

    async fn attest(&self) -> Result<BTreeSet<Selector>, AttestError> {
        let takes = *self.0.attestation_takes.lock().unwrap();
        sleep(takes).await;
        assert!(
            !*self.0.breaks.lock().unwrap(),
            "the attestor breaks down, as the test wants it"
        );
        if *self.0.fails.lock().unwrap() {
            return Err(AttestError::AllFailed { count: 1 });
        }
        self.ensure_unchanged()?;
        Ok(self.0.selectors.lock().unwrap().clone())
    }
}

/// A process `s:1` with one connection, and everything behind it.
struct Scene {
    stage: Stage,
    api: WorkloadApi,
    process: FakeProcess,
    caller: Arc<Caller>,
    connection: ConnInfo,
    tasks: Tasks,
    task_server: Arc<FakeTaskServer>,
    news: Arc<News>,
    _task_supervisor: Supervisor,
}

impl Scene {
    fn with(entries: Vec<Entry>) -> Self {
        Self::of(Stage::start(entries), ApiSettings::default())
    }

    fn of(stage: Stage, settings: ApiSettings) -> Self {
        let metrics = ApiMetrics::default();
        let (tasks, task_server, news, _, task_supervisor) = keeper_beside(&stage);
        let callers = Callers::new(settings.clone(), metrics.clone());
        let process = FakeProcess::default();
        process.0.selectors.lock().unwrap().insert("s:1".parse().unwrap());
        let caller = callers.admit(Box::new(process.clone()));
        let api = WorkloadApi::new(
            settings,
            stage.svids.clone(),
            stage.views.subscribe(),
            tasks.board(),
            stage.clock.clone(),
            metrics,
            Arc::clone(&callers),
        );
        stage.supervisor.spawn_once("sweep", async move |stop| {
            callers.sweep(stop).await;
            Ok(())
        });
        let peer = Peer::Unix(UnixPeer {
            pid: Some(7),
            uid: 1000,
            gid: 1000,
        });
        Self {
            stage,
            api,
            process,
            caller,
            connection: ConnInfo::new(peer, None),
            tasks,
            task_server,
            news,
            _task_supervisor: task_supervisor,
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Arc::clone(&self.caller));
        request.extensions_mut().insert(self.connection.clone());
        request
    }

    async fn svids(&self) -> Stream<X509svidResponse> {
        self.api
            .fetch_x509svid(self.request(pb::X509svidRequest {}))
            .await
            .unwrap()
            .into_inner()
    }

    async fn bundles(&self) -> Stream<X509BundlesResponse> {
        self.api
            .fetch_x509_bundles(self.request(pb::X509BundlesRequest {}))
            .await
            .unwrap()
            .into_inner()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from(self.stage.clock.now())
    }
}

async fn told<T>(stream: &mut Stream<T>) -> T {
    stream
        .next()
        .await
        .expect("a stream never ends without a status")
        .expect("a message")
}

async fn ended<T: std::fmt::Debug>(stream: &mut Stream<T>) -> (Code, String) {
    let status = stream
        .next()
        .await
        .expect("a stream never ends without a status")
        .expect_err("a status");
    assert!(stream.next().await.is_none(), "and nothing after it");
    (status.code(), status.message().to_owned())
}

/// Whether nothing is told for two minutes.
async fn quiet<T>(stream: &mut Stream<T>) -> bool {
    timeout(Duration::from_secs(120), stream.next()).await.is_err()
}

fn ids(message: &X509svidResponse) -> Vec<&str> {
    message
        .svids
        .iter()
        .map(|svid| svid.spiffe_id.as_str().trim_start_matches("spiffe://td/"))
        .collect()
}

fn aged(id: &str, created: i64) -> Entry {
    Entry {
        created_at: Timestamp::from_unix(created),
        ..entry(id, &["s:1"])
    }
}

fn no_identity() -> (Code, String) {
    (Code::PermissionDenied, "no identity issued".into())
}

// WAX-01 WAX-02 WAX-03 WAX-04 WAX-05 WAX-07 WAX-08 WAX-09 WAX-12 WAPI-12 WAPI-13 WAPI-23
#[tokio::test(start_paused = true)]
async fn the_first_message_comes_at_once_with_every_identity_whole_and_the_oldest_first() {
    let scene = Scene::with(vec![
        aged("young", 30),
        aged("old", 10),
        aged("middle", 20),
        entry("other", &["s:2"]),
    ]);
    let start = Instant::now();
    let message = told(&mut scene.svids().await).await;
    assert!(start.elapsed() < Duration::from_millis(20), "{:?}", start.elapsed());
    assert_eq!(ids(&message), ["old", "middle", "young"]);
    assert!(message.crl.is_empty());
    for svid in &message.svids {
        let parsed = X509Svid::from_concatenated_der(&svid.x509_svid).unwrap();
        assert_eq!(parsed.spiffe_id().as_str(), svid.spiffe_id);
        let key = KeyPair::try_from(svid.x509_svid_key.as_slice()).unwrap();
        assert_eq!(key.subject_public_key_info(), parsed.public_key_der());
        let own = scene.stage.views.current().own().clone();
        assert_eq!(svid.bundle, own.x509_concatenated_der());
        verify_x509_svid(parsed.chain(), &TrustAnchors::from_bundle(&own), scene.now()).unwrap();
    }
    // A request is an event of its own, and the order is the same each time.
    assert_eq!(ids(&told(&mut scene.svids().await).await), ["old", "middle", "young"]);
}

// WEP-27 WAX-16 IOP-14 IOP-18
#[tokio::test(start_paused = true)]
async fn a_caller_without_identity_is_told_so_after_the_hold() {
    let scene = Scene::with(vec![entry("other", &["s:2"])]);
    let start = Instant::now();
    assert_eq!(ended(&mut scene.svids().await).await, no_identity());
    assert_eq!(start.elapsed().as_millis(), 300);
    // AMB-19 WAX-23
    assert_eq!(ended(&mut scene.bundles().await).await, no_identity());
}

// WEP-28
#[tokio::test(start_paused = true)]
async fn an_entry_that_comes_within_the_hold_is_served_within_milliseconds() {
    let scene = Scene::with(vec![]);
    let mut stream = scene.svids().await;
    assert!(timeout(Duration::from_millis(200), stream.next()).await.is_err());
    scene.stage.put(entry("late", &["s:1"]));
    let start = Instant::now();
    assert_eq!(ids(&told(&mut stream).await), ["late"]);
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
}

// WEP-25
#[tokio::test(start_paused = true)]
async fn an_agent_that_has_not_heard_its_server_says_come_again() {
    let scene = Scene::with(vec![]);
    let fresh = crate::view::ViewPublisher::new(Bundle::empty(td()));
    let sources = &scene.api.sources;
    let sources = Sources {
        settings: sources.settings.clone(),
        svids: sources.svids.clone(),
        views: fresh.subscribe(),
        board: sources.board.clone(),
        clock: sources.clock.clone(),
        metrics: sources.metrics.clone(),
    };
    let api = WorkloadApi {
        sources: Arc::new(sources),
        callers: scene.api.callers.clone(),
    };
    let mut stream = api
        .fetch_x509svid(scene.request(pb::X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ended(&mut stream).await.0, Code::Unavailable);
}

// WEP-25
#[tokio::test(start_paused = true)]
async fn without_server_and_without_an_svid_the_answer_is_unavailable() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    scene.stage.server.set_away(true);
    let start = Instant::now();
    assert_eq!(ended(&mut scene.svids().await).await.0, Code::Unavailable);
    assert!(start.elapsed() < Duration::from_millis(400));
    // What needs no server is still there.
    assert_eq!(told(&mut scene.bundles().await).await.bundles.len(), 1);
    scene.stage.server.set_away(false);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(ids(&told(&mut scene.svids().await).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_signature_that_takes_longer_than_the_hold_is_waited_for() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    *scene.stage.server.latency.lock().unwrap() = Duration::from_millis(1500);
    assert_eq!(ids(&told(&mut scene.svids().await).await), ["a"]);
    scene.stage.put(entry("b", &["s:1"]));
    scene.stage.remove("a");
    *scene.stage.server.latency.lock().unwrap() = Duration::from_secs(20);
    sleep(Duration::from_secs(6)).await;
    let start = Instant::now();
    assert_eq!(ended(&mut scene.svids().await).await.0, Code::Unavailable);
    assert_eq!(start.elapsed().as_secs(), 3, "but not for ever");
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refuses_to_sign_is_no_identity() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    scene
        .stage
        .server
        .refused
        .lock()
        .unwrap()
        .insert("a".parse().unwrap(), ErrorKind::PermissionDenied);
    assert_eq!(ended(&mut scene.svids().await).await, no_identity());
}

#[tokio::test(start_paused = true)]
async fn one_entry_that_cannot_be_signed_does_not_block_the_others() {
    let scene = Scene::with(vec![aged("bad", 1), aged("good", 2)]);
    scene
        .stage
        .server
        .refused
        .lock()
        .unwrap()
        .insert("bad".parse().unwrap(), ErrorKind::Internal);
    let mut stream = scene.svids().await;
    let start = Instant::now();
    assert_eq!(ids(&told(&mut stream).await), ["good"]);
    assert!(start.elapsed() <= Duration::from_millis(300), "{:?}", start.elapsed());
    scene.stage.server.refused.lock().unwrap().clear();
    assert_eq!(
        ids(&told(&mut stream).await),
        ["bad", "good"],
        "the order is that of the entries"
    );
}

// WAPI-10 WAPI-11 WAPI-29 WAX-16
#[tokio::test(start_paused = true)]
async fn messages_are_whole_and_the_last_entry_takes_the_stream_with_it() {
    let scene = Scene::with(vec![aged("a", 1), aged("b", 2), aged("c", 3)]);
    let mut stream = scene.svids().await;
    told(&mut stream).await;
    scene.stage.remove("b");
    let message = told(&mut stream).await;
    assert_eq!(ids(&message), ["a", "c"]);
    assert!(
        message
            .svids
            .iter()
            .all(|svid| !svid.bundle.is_empty() && !svid.x509_svid_key.is_empty())
    );
    scene.stage.remove("a");
    assert_eq!(ids(&told(&mut stream).await), ["c"]);
    let start = Instant::now();
    scene.stage.remove("c");
    assert_eq!(ended(&mut stream).await, no_identity());
    assert!(start.elapsed() < Duration::from_millis(5));
}

// WAPI-11 WAPI-14
#[tokio::test(start_paused = true)]
async fn nothing_is_said_twice_and_a_burst_is_said_as_one() {
    let scene = Scene::with(vec![aged("a", 0)]);
    let mut stream = scene.svids().await;
    told(&mut stream).await;
    scene.stage.put(entry("other", &["s:2"]));
    scene.stage.put(Entry {
        revision_number: 0,
        ..aged("a", 0)
    });
    assert!(quiet(&mut stream).await);

    let own = scene.stage.server.ca.lock().unwrap().clone();
    let mut bundles = scene.bundles().await;
    told(&mut bundles).await;
    let (mut messages, mut latest) = (0, 0);
    let mut count = 1;
    while latest < 101 * own.der().len() {
        if count <= 100 {
            count += 1;
            scene.stage.trust(bundle(&vec![(&*own, false); count]));
        }
        sleep(Duration::from_millis(1)).await;
        if let Some(message) = bundles.next().now_or_never() {
            messages += 1;
            latest = message.unwrap().unwrap().bundles["spiffe://td"].len();
        }
    }
    assert!(messages <= 5, "{messages} messages for a burst of 100 changes");
    assert!(quiet(&mut bundles).await);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_the_latest_state_and_no_backlog() {
    let scene = Scene::with(vec![aged("a", 0)]);
    let mut stream = scene.svids().await;
    told(&mut stream).await;
    for i in 1..=50 {
        scene.stage.put(aged(&format!("e{i}"), i));
        sleep(Duration::from_secs(1)).await;
    }
    // It was told of one entry only, so it has no claim on the others before it looks.
    let mut last = told(&mut stream).await;
    while last.svids.len() < 51 {
        last = told(&mut stream).await;
    }
    assert!(quiet(&mut stream).await);
}

// WAPI-26 WAX-13 IOP-31
#[tokio::test(start_paused = true)]
async fn the_oldest_entry_keeps_a_disputed_hint() {
    let hinted = |id: &str, created, hint: &str| {
        let mut entry = aged(id, created);
        entry.spec.hint = hint.into();
        entry
    };
    let scene = Scene::with(vec![
        hinted("b", 2, "db"),
        hinted("a", 1, "db"),
        hinted("c", 3, "wéb ∞"),
        aged("d", 4),
    ]);
    let mut stream = scene.svids().await;
    let hints = |message: X509svidResponse| message.svids.into_iter().map(|svid| svid.hint).collect::<Vec<_>>();
    assert_eq!(hints(told(&mut stream).await), ["db", "", "wéb ∞", ""]);
    scene.stage.remove("a");
    assert_eq!(hints(told(&mut stream).await), ["db", "wéb ∞", ""]);
}

// WAX-10 WAX-11 IOP-09 IOP-10 AMB-16 AMB-17
#[tokio::test(start_paused = true)]
async fn foreign_bundles_are_those_of_the_entries_and_never_empty_or_the_own_one() {
    let foreign = |name: &str, ca: Option<&crate::svids::testing::Ca>| Bundle {
        trust_domain: name.parse().unwrap(),
        ..bundle(&ca.map(|ca| (ca, false)).into_iter().collect::<Vec<_>>())
    };
    let (b_ca, c_ca) = (ca("b"), ca("c"));
    let mut a = aged("a", 0);
    a.spec.federates_with = ["b", "empty", "unknown", "td"]
        .map(|name| name.parse().unwrap())
        .to_vec();
    let scene = Scene::with(vec![a.clone()]);
    scene.stage.update(ViewUpdate {
        federated_puts: vec![
            foreign("b", Some(&b_ca)),
            foreign("c", Some(&c_ca)),
            foreign("empty", None),
        ],
        ..ViewUpdate::default()
    });
    let (mut svids, mut bundles) = (scene.svids().await, scene.bundles().await);
    let message = told(&mut svids).await;
    assert_eq!(message.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://b"]);
    assert_eq!(message.federated_bundles["spiffe://b"], b_ca.der().to_vec());
    // WAX-19 WAX-20 WAX-21
    let message = told(&mut bundles).await;
    assert_eq!(
        message.bundles.keys().collect::<Vec<_>>(),
        ["spiffe://b", "spiffe://td"]
    );
    assert!(message.crl.is_empty());

    a.spec.federates_with.push("c".parse().unwrap());
    a.revision_number = 1;
    scene.stage.put(a);
    assert_eq!(told(&mut bundles).await.bundles.len(), 3);
    assert_eq!(told(&mut svids).await.federated_bundles.len(), 2);
    // The own bundle changes for both.
    let own = scene.stage.server.ca.lock().unwrap().clone();
    let next = ca("next");
    scene.stage.trust(bundle(&[(&own, false), (&next, false)]));
    assert_eq!(
        told(&mut bundles).await.bundles["spiffe://td"],
        [own.der().to_vec(), next.der().to_vec()].concat()
    );
    let mut message = told(&mut svids).await;
    while message.svids[0].bundle.len() == own.der().len() {
        message = told(&mut svids).await; // the entry's new revision is signed anew
    }
    scene.stage.update(ViewUpdate {
        federated_removes: vec!["b".parse().unwrap()],
        ..ViewUpdate::default()
    });
    assert_eq!(told(&mut bundles).await.bundles.len(), 2);
}

// IOP-10 WAX-03
#[tokio::test(start_paused = true)]
async fn an_empty_own_bundle_is_not_sent() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    scene.stage.trust(Bundle::empty(td()));
    assert_eq!(ended(&mut scene.bundles().await).await.0, Code::Unavailable);
    assert_eq!(ended(&mut scene.svids().await).await.0, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_svid_is_sent_and_the_key_is_a_new_one() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    let mut stream = scene.svids().await;
    let first = told(&mut stream).await;
    let start = Instant::now();
    let second = told(&mut stream).await;
    assert!((27..=33).contains(&(start.elapsed().as_secs() / 60)));
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
}

#[tokio::test(start_paused = true)]
async fn an_entry_ends_for_both_streams_at_its_own_end() {
    let mut short = entry("a", &["s:1"]);
    short.spec.expires_at = Some(Timestamp::from_unix(1_750_000_100));
    let scene = Scene::with(vec![short]);
    let (mut svids, mut bundles) = (scene.svids().await, scene.bundles().await);
    told(&mut svids).await;
    told(&mut bundles).await;
    sleep(Duration::from_secs(90)).await;
    // The SVID is renewed on the way, as it is short as well.
    let (svids, bundles) = tokio::join!(
        async {
            loop {
                match svids.next().await.unwrap() {
                    Ok(_) => {}
                    Err(status) => return status.code(),
                }
            }
        },
        ended(&mut bundles)
    );
    assert_eq!((svids, bundles), (Code::PermissionDenied, no_identity()));
    let after = Timestamp::from_unix(1_750_000_100);
    assert!(
        scene.now() >= after && scene.now() <= after.plus(Duration::from_secs(2)),
        "{}",
        scene.now()
    );
}

// WEP-25
#[tokio::test(start_paused = true)]
async fn streams_of_one_user_and_attestations_have_a_bound() {
    let settings = ApiSettings {
        streams_per_uid: 2,
        ..ApiSettings::default()
    };
    let scene = Scene::of(Stage::start(vec![entry("a", &["s:1"])]), settings);
    let (one, _two) = (scene.svids().await, scene.svids().await);
    let refused = scene
        .api
        .fetch_x509svid(scene.request(pb::X509svidRequest {}))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    drop(one);
    told(&mut scene.svids().await).await;

    let settings = ApiSettings {
        attestations_at_a_time: 1,
        attestations_waiting: 1,
        ..ApiSettings::default()
    };
    let scene = Scene::of(Stage::start(vec![entry("a", &["s:1"])]), settings);
    *scene.process.0.attestation_takes.lock().unwrap() = Duration::from_secs(1);
    let other = || {
        let caller = scene.api.callers.admit(Box::new(scene.process.clone()));
        async move { caller.attest(Duration::ZERO).await.map_err(|error| error.to_string()) }
    };
    let (a, b, c) = tokio::join!(other(), other(), other());
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(c.unwrap_err(), "too many callers are being attested");
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_attestations_are_slow_keeps_no_other_user_waiting() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    *scene.process.0.attestation_takes.lock().unwrap() = Duration::from_secs(5);
    let attest = |process: &FakeProcess| {
        let caller = scene.api.callers.admit(Box::new(process.clone()));
        async move { caller.attest(Duration::ZERO).await.map(|_| Instant::now()) }
    };
    let start = Instant::now();
    let slow = futures_util::future::join_all((0..256).map(|_| attest(&scene.process)));
    let other = FakeProcess(Arc::new(Nature {
        user: 1,
        ..Nature::default()
    }));
    let other = async {
        sleep(Duration::from_secs(1)).await;
        attest(&other).await
    };
    let (slow, other) = tokio::join!(slow, other);
    assert!(other.unwrap() - start < Duration::from_millis(1100));
    assert!(slow.iter().all(Result::is_ok));
}

// IOP-19
#[tokio::test(start_paused = true)]
async fn clients_that_cancel_at_any_point_leave_nothing_behind() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    for i in 0..2000_u64 {
        let mut stream = scene.svids().await;
        let _ = timeout(Duration::from_micros(i % 7 * 500), stream.next()).await;
    }
    sleep(Duration::from_secs(6)).await;
    assert_eq!(scene.api.sources.metrics.streams_open.get(), 0);
    assert_eq!(scene.stage.metrics.held.get(), 0);
    assert!(scene.stage.server.issued() < 5);
}

// IOP-33
#[tokio::test(start_paused = true)]
async fn a_message_stays_below_what_grpc_clients_receive() {
    let scene = Scene::with((0..40).map(|i| aged(&format!("e{i}"), i)).collect());
    let own = scene.stage.server.ca.lock().unwrap().clone();
    let mut large = bundle(&[(&own, false)]);
    for _ in 0..400 {
        let cert_der = CertificateDer::from(vec![0x30; 500]);
        large.x509_authorities.insert(
            0,
            mayfly_svid::X509Authority {
                cert_der,
                tainted: false,
            },
        );
    }
    scene.stage.trust(large);
    let message = told(&mut scene.svids().await).await;
    assert!(prost::Message::encoded_len(&message) < 4 * 1024 * 1024);
    assert!(message.svids.len() < 40 && message.svids.len() > 10);
    assert_eq!(ids(&message)[0], "e0");
}
