//! What a worker does, with a server and clocks that tests turn by hand. The fakes serve the API's tests as well.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use mayfly_model::{AdditionalAttributes, EntrySpec, ErrorKind};
use mayfly_runtime::{CancellationToken, Supervisor};
use mayfly_svid::{Bundle, TrustDomain, X509Authority};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use tokio::time::{advance, sleep};

use super::*;
use crate::view::{ViewPublisher, ViewUpdate};

/// A wall clock that runs with tokio's, paused or not, and can be set apart from it.
#[derive(Debug)]
pub(crate) struct LinkedClock {
    start: Instant,
    base: SystemTime,
    shift: AtomicI64,
}

impl LinkedClock {
    pub(crate) fn at_unix(seconds: u64) -> Arc<Self> {
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Arc::new(Self {
            start: Instant::now(),
            base,
            shift: AtomicI64::new(0),
        })
    }

    pub(crate) fn jump(&self, seconds: i64) {
        self.shift.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for LinkedClock {
    fn now(&self) -> SystemTime {
        let shift = self.shift.load(Ordering::Relaxed);
        let by = Duration::from_secs(shift.unsigned_abs());
        let now = self.base + self.start.elapsed();
        if shift >= 0 { now + by } else { now - by }
    }
}

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca(common_name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(common_name), KeyPair::generate().unwrap()).unwrap()
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn td() -> TrustDomain {
    "td".parse().unwrap()
}

pub(crate) fn bundle(authorities: &[(&Ca, bool)]) -> Bundle {
    let x509_authorities = authorities.iter().map(|(ca, tainted)| X509Authority {
        cert_der: ca.der().clone(),
        tainted: *tainted,
    });
    Bundle {
        x509_authorities: x509_authorities.collect(),
        ..Bundle::empty(td())
    }
}

pub(crate) fn entry(id: &str, selectors: &[&str]) -> Entry {
    let spec = EntrySpec::new(
        format!("spiffe://td/{id}").parse().unwrap(),
        "spiffe://td/spire/agent/x509pop/a".parse().unwrap(),
        selectors.iter().map(|text| text.parse().unwrap()).collect(),
    );
    Entry {
        id: id.parse().unwrap(),
        spec,
        created_at: Timestamp::from_unix(0),
        revision_number: 0,
    }
}

/// A server that signs what the view says, unless a test has it misbehave.
pub(crate) struct FakeServer {
    pub(crate) ca: Mutex<Arc<Ca>>,
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) clock: Arc<LinkedClock>,
    /// Seconds that its clock is ahead of the agent's.
    pub(crate) ahead: AtomicI64,
    pub(crate) ttl: Mutex<Duration>,
    pub(crate) away: Mutex<bool>,
    pub(crate) latency: Mutex<Duration>,
    pub(crate) refused: Mutex<HashMap<EntryId, ErrorKind>>,
    /// Answers with a certificate of this ID.
    pub(crate) impostor: Mutex<Option<String>>,
    /// What it sends after the leaf.
    pub(crate) above_leaf: Mutex<Vec<CertificateDer<'static>>>,
    /// Answers with a certificate for this key's CSR.
    pub(crate) other_csr: Mutex<Option<Vec<u8>>>,
    pub(crate) batches: Mutex<Vec<Vec<EntryId>>>,
    pub(crate) issued: AtomicUsize,
}

impl FakeServer {
    pub(crate) fn issued(&self) -> usize {
        self.issued.load(Ordering::Relaxed)
    }

    pub(crate) fn set_away(&self, away: bool) {
        *self.away.lock().unwrap() = away;
    }

    fn sign(&self, csr_der: &[u8], id: &str) -> Vec<CertificateDer<'static>> {
        let now = Timestamp::from(self.clock.now()).unix() + self.ahead.load(Ordering::Relaxed);
        let at = |seconds: i64| time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let mut csr = CertificateSigningRequestParams::from_der(&csr_der.into()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "test");
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = at(now - 10);
        params.not_after = at(now + i64::try_from(self.ttl.lock().unwrap().as_secs()).unwrap() - 1);
        let serial = self.issued.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        params.serial_number = Some(SerialNumber::from(serial));
        csr.params = params;
        let ca = self.ca.lock().unwrap().clone();
        let mut chain = vec![csr.signed_by(&ca).unwrap().der().clone()];
        chain.extend(self.above_leaf.lock().unwrap().iter().cloned());
        chain
    }
}

#[async_trait]
impl Issuer for FakeServer {
    async fn issue(&self, requests: Vec<IssueRequest>) -> Result<Vec<IssueAnswer>, IssueError> {
        self.batches
            .lock()
            .unwrap()
            .push(requests.iter().map(|request| request.entry_id.clone()).collect());
        let latency = *self.latency.lock().unwrap();
        sleep(latency).await;
        if *self.away.lock().unwrap() {
            return Err(IssueError("connection refused".into()));
        }
        let view = self.views.borrow().clone();
        let answer = |request: &IssueRequest| {
            if let Some(kind) = self.refused.lock().unwrap().get(&request.entry_id) {
                return Err(IssueRefusal {
                    kind: *kind,
                    message: "no".into(),
                });
            }
            let Some(entry) = view.entry(&request.entry_id) else {
                return Err(IssueRefusal {
                    kind: ErrorKind::NotFound,
                    message: "no such entry".into(),
                });
            };
            let impostor = self.impostor.lock().unwrap().clone();
            let csr_der = self
                .other_csr
                .lock()
                .unwrap()
                .clone()
                .unwrap_or(request.csr_der.clone());
            Ok(self.sign(&csr_der, &impostor.unwrap_or(entry.spec.spiffe_id.to_string())))
        };
        Ok(requests.iter().map(answer).collect())
    }
}

/// A worker that runs, and all that it talks to.
pub(crate) struct Stage {
    pub(crate) svids: Svids,
    pub(crate) server: Arc<FakeServer>,
    pub(crate) views: Arc<ViewPublisher>,
    pub(crate) clock: Arc<LinkedClock>,
    pub(crate) heard: watch::Sender<Option<Instant>>,
    pub(crate) metrics: SvidMetrics,
    pub(crate) supervisor: Supervisor,
}

impl Stage {
    /// In step with a server that has these entries. SVIDs live an hour.
    pub(crate) fn start(entries: Vec<Entry>) -> Self {
        Self::start_at(1_750_000_000, entries, SvidSettings::default())
    }

    pub(crate) fn start_at(unix: u64, entries: Vec<Entry>, settings: SvidSettings) -> Self {
        mayfly_runtime::install_crypto_provider();
        let clock = LinkedClock::at_unix(unix);
        let ca = Arc::new(ca("first"));
        let views = Arc::new(ViewPublisher::new(bundle(&[(&ca, false)])));
        views.apply(ViewUpdate {
            revision: 1,
            synced: true,
            puts: entries,
            ..ViewUpdate::default()
        });
        let server = Arc::new(FakeServer {
            ca: Mutex::new(ca),
            views: views.subscribe(),
            clock: Arc::clone(&clock),
            ahead: AtomicI64::new(0),
            ttl: Mutex::new(Duration::from_secs(3600)),
            away: Mutex::default(),
            latency: Mutex::new(Duration::from_millis(2)),
            refused: Mutex::default(),
            impostor: Mutex::default(),
            above_leaf: Mutex::default(),
            other_csr: Mutex::default(),
            batches: Mutex::default(),
            issued: AtomicUsize::new(0),
        });
        let metrics = SvidMetrics::default();
        let heard = watch::Sender::new(always());
        let (svids, worker) = super::start(
            settings,
            server.clone(),
            views.subscribe(),
            heard.subscribe(),
            clock.clone(),
            metrics.clone(),
        );
        let supervisor = Supervisor::new();
        supervisor.spawn_once("svids", |stop: CancellationToken| worker.run(stop));
        Self {
            svids,
            server,
            views,
            clock,
            heard,
            metrics,
            supervisor,
        }
    }

    async fn subscribe(&self, id: &str) -> Subscription {
        self.svids.subscribe(id.parse().unwrap()).await.unwrap()
    }

    pub(crate) fn put(&self, entry: Entry) {
        self.update(ViewUpdate {
            puts: vec![entry],
            ..ViewUpdate::default()
        });
    }

    pub(crate) fn remove(&self, id: &str) {
        self.update(ViewUpdate {
            removes: vec![id.parse().unwrap()],
            ..ViewUpdate::default()
        });
    }

    pub(crate) fn trust(&self, own: Bundle) {
        self.update(ViewUpdate {
            own: Some(own),
            ..ViewUpdate::default()
        });
    }

    pub(crate) fn update(&self, update: ViewUpdate) {
        let revision = self.views.current().revision() + 1;
        self.views.apply(ViewUpdate { revision, ..update });
    }
}

async fn ready(subscription: &mut Subscription) -> Arc<X509Material> {
    loop {
        if let SvidState::Ready(material) = subscription.current() {
            return material;
        }
        subscription.changed().await.unwrap();
    }
}

/// A server that is heard all the time.
fn always() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(1_000_000))
}

/// Lets everything that is due happen, and no time pass to speak of.
async fn rest() {
    sleep(Duration::from_millis(5)).await;
}

fn serial(state: SvidState) -> String {
    match state {
        SvidState::Ready(material) => material.svid().serial().to_string(),
        other => format!("{other:?}"),
    }
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

#[tokio::test(start_paused = true)]
async fn makes_an_svid_when_asked_and_shares_it() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let (mut one, mut two) = (stage.subscribe("a").await, stage.subscribe("a").await);
    let (first, second) = (ready(&mut one).await, ready(&mut two).await);
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(first.svid().spiffe_id().as_str(), "spiffe://td/a");
    // WAX-04 WAX-08
    let key = KeyPair::try_from(first.expose_for_workload()).unwrap();
    assert_eq!(
        rcgen::PublicKeyData::subject_public_key_info(&key),
        first.svid().public_key_der()
    );
    assert_eq!(stage.server.issued(), 1);
    assert_eq!(stage.metrics.held.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_key_shows_in_debug() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    let material = ready(&mut subscription).await;
    let text = format!("{material:?} {subscription:?} {:?}", subscription.current());
    assert!(!text.contains("key"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn renews_at_half_life_give_or_take_a_tenth() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    sleep(minutes(26)).await;
    assert_eq!(stage.server.issued(), 1);
    sleep(minutes(8)).await;
    assert_eq!(serial(subscription.current()), "2");
    assert_eq!(stage.server.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn serves_the_old_svid_while_renewal_fails_and_withdraws_it_at_its_end() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.server.set_away(true);
    sleep(minutes(58)).await;
    assert_eq!(serial(subscription.current()), "1");
    sleep(minutes(3)).await;
    assert!(matches!(subscription.current(), SvidState::Failed(Failure::ServerAway)));
    stage.server.set_away(false);
    sleep(minutes(1)).await;
    assert_eq!(serial(subscription.current()), "2");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_refused_delays_no_other() {
    let stage = Stage::start(vec![entry("bad", &["s:1"]), entry("good", &["s:1"])]);
    stage
        .server
        .refused
        .lock()
        .unwrap()
        .insert("bad".parse().unwrap(), ErrorKind::PermissionDenied);
    let mut bad = stage.subscribe("bad").await;
    for _ in 0..20 {
        sleep(minutes(1)).await;
    }
    assert!(matches!(bad.current(), SvidState::Failed(Failure::Denied)));
    let start = Instant::now();
    ready(&mut stage.subscribe("good").await).await;
    assert!(start.elapsed() < Duration::from_millis(10));
    let asked = stage.server.batches.lock().unwrap().len();
    assert!((20..80).contains(&asked), "asked {asked} times in 20 minutes");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_and_goes_costs_one_signature() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    for _ in 0..20 {
        ready(&mut stage.subscribe("a").await).await;
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(stage.server.issued(), 1);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 0, "wiped when nobody wants it any more");
    ready(&mut stage.subscribe("a").await).await;
    assert_eq!(stage.server.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_only_lingers_is_not_renewed() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    *stage.server.ttl.lock().unwrap() = Duration::from_secs(4);
    ready(&mut stage.subscribe("a").await).await;
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.server.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_lingers_stays_while_the_server_is_away_and_goes_when_it_is_back_or_at_its_end() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    ready(&mut stage.subscribe("a").await).await;
    stage.heard.send_replace(None);
    stage.server.set_away(true);
    sleep(minutes(50)).await;
    assert_eq!(serial(stage.subscribe("a").await.current()), "1", "served as before");
    stage.heard.send_replace(always());
    stage.server.set_away(false);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.metrics.held.get(), 1, "it lingers anew");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.metrics.held.get(), 0);

    ready(&mut stage.subscribe("a").await).await;
    stage.heard.send_replace(None);
    sleep(minutes(61)).await;
    assert_eq!(stage.metrics.held.get(), 0, "and never longer than it is valid");
}

#[tokio::test(start_paused = true)]
async fn what_lingers_stays_until_the_server_gave_a_sign_of_life_after_it() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let hear = || {
        let now = Some(Instant::now());
        stage
            .heard
            .send_if_modified(|heard| std::mem::replace(heard, now).is_none());
    };
    ready(&mut stage.subscribe("a").await).await;
    hear();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(stage.metrics.held.get(), 1, "it hangs, and nobody knows yet");
    hear();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_lingers_stays_while_nothing_can_be_issued() {
    let stage = Stage::start(vec![entry("a", &["s:1"]), entry("b", &["s:1"])]);
    ready(&mut stage.subscribe("a").await).await;
    stage.server.set_away(true);
    let mut b = stage.subscribe("b").await;
    sleep(minutes(1)).await;
    assert_eq!(serial(stage.subscribe("a").await.current()), "1");
    stage.server.set_away(false);
    ready(&mut b).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 1, "b's only");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_no_claim_behind() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    for _ in 0..100 {
        // Polled once, so that the request is on its way, and dropped.
        let mut asking = Box::pin(stage.svids.subscribe("a".parse().unwrap()));
        assert!(futures_util::poll!(&mut asking).is_pending());
    }
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_together_share_a_call_and_no_call_is_too_large() {
    let entries = (0..130).map(|i| entry(&format!("e{i}"), &["s:1"])).collect();
    let stage = Stage::start(entries);
    let ids: Vec<String> = (0..130).map(|i| format!("e{i}")).collect();
    let mut subscriptions = futures_util::future::join_all(ids.iter().map(|id| stage.subscribe(id))).await;
    for subscription in &mut subscriptions {
        ready(subscription).await;
    }
    let sizes: Vec<usize> = stage.server.batches.lock().unwrap().iter().map(Vec::len).collect();
    assert!(sizes.iter().all(|size| *size <= 50), "{sizes:?}");
    assert!(sizes.len() <= 6, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_goes_takes_its_svid_with_it_at_once() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.remove("a");
    rest().await;
    assert!(matches!(subscription.current(), SvidState::Withdrawn));
    assert_eq!(stage.metrics.held.get(), 0);
    stage.put(entry("a", &["s:1"]));
    rest().await;
    assert_eq!(serial(subscription.current()), "2", "and it comes back with it");
}

#[tokio::test(start_paused = true)]
async fn a_changed_entry_is_signed_anew_and_another_identity_replaces_the_old_at_once() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    let mut changed = Entry {
        revision_number: 1,
        ..entry("a", &["s:1"])
    };
    changed.spec.dns_names = vec!["a.example".into()];
    stage.put(changed.clone());
    rest().await;
    assert_eq!(serial(subscription.current()), "2");

    stage.server.set_away(true);
    changed.revision_number = 2;
    changed.spec.spiffe_id = "spiffe://td/b".parse().unwrap();
    stage.put(changed);
    rest().await;
    assert!(
        matches!(subscription.current(), SvidState::Failed(_)),
        "the old identity is not the entry's any more"
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_ends_its_svid_at_its_own_end_without_the_server() {
    let mut short = entry("a", &["s:1"]);
    short.spec.expires_at = Some(Timestamp::from_unix(1_750_000_600));
    let stage = Stage::start(vec![short]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.server.set_away(true);
    sleep(Duration::from_secs(598)).await;
    assert!(matches!(subscription.current(), SvidState::Ready(_)));
    sleep(Duration::from_secs(3)).await;
    assert!(matches!(subscription.current(), SvidState::Withdrawn));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_back_extends_nothing() {
    let mut short = entry("short", &["s:1"]);
    short.spec.expires_at = Some(Timestamp::from_unix(1_750_000_600));
    let stage = Stage::start(vec![entry("a", &["s:1"]), short]);
    let (mut a, mut short) = (stage.subscribe("a").await, stage.subscribe("short").await);
    let material = ready(&mut a).await;
    ready(&mut short).await;
    stage.server.set_away(true);
    stage.clock.jump(-86_400);
    sleep(Duration::from_secs(602)).await;
    assert!(matches!(short.current(), SvidState::Withdrawn));
    sleep(minutes(51)).await;
    assert!(matches!(a.current(), SvidState::Failed(_)));
    assert!(!material.is_valid(Timestamp::from(stage.clock.now()), Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_clock_behind_the_servers_neither_stops_the_service_nor_extends_it() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.clock.jump(-600);
    stage.server.ahead.store(600, Ordering::Relaxed);
    sleep(minutes(34)).await;
    assert_eq!(serial(subscription.current()), "2", "renewed in time");
    assert_eq!(stage.server.issued(), 2, "and once");
    stage.server.set_away(true);
    sleep(minutes(61)).await;
    assert!(matches!(subscription.current(), SvidState::Failed(_)));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_ends_what_has_expired_by_it() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.server.set_away(true);
    stage.clock.jump(3601);
    sleep(Duration::from_secs(2)).await;
    assert!(matches!(
        subscription.current(),
        SvidState::Failed(_) | SvidState::Pending
    ));
    stage.clock.jump(-3601);
    stage.server.set_away(false);
    sleep(minutes(1)).await;
    assert!(matches!(subscription.current(), SvidState::Ready(_)));
}

#[tokio::test(start_paused = true)]
async fn an_svid_of_a_tainted_authority_is_renewed_at_once_and_served_until_then() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    let (old, new) = (stage.server.ca.lock().unwrap().clone(), Arc::new(ca("second")));

    stage.trust(bundle(&[(&old, true), (&new, false)]));
    sleep(Duration::from_secs(10)).await;
    let asked = stage.server.issued();
    assert!(
        (2..10).contains(&asked),
        "asked {asked} times although the server still signs with it"
    );
    assert!(matches!(subscription.current(), SvidState::Ready(_)));

    *stage.server.ca.lock().unwrap() = new.clone();
    sleep(minutes(1)).await;
    let material = ready(&mut subscription).await;
    assert_eq!(material.authority(), new.der());
    let asked = stage.server.issued();
    sleep(minutes(5)).await;
    assert_eq!(stage.server.issued(), asked, "now it is at rest");
}

// WAX-09
#[tokio::test(start_paused = true)]
async fn an_svid_whose_authority_left_the_bundle_is_not_served() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    let new = Arc::new(ca("second"));
    stage.server.set_away(true);
    stage.trust(bundle(&[(&new, false)]));
    rest().await;
    assert!(matches!(subscription.current(), SvidState::Failed(_)));
    *stage.server.ca.lock().unwrap() = new;
    stage.server.set_away(false);
    stage.heard.send_replace(always());
    rest().await;
    assert_eq!(
        serial(subscription.current()),
        "2",
        "asked for at once, not after the pause"
    );
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_what_was_asked_for_is_refused() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    *stage.server.impostor.lock().unwrap() = Some("spiffe://td/somebody-else".into());
    let mut subscription = stage.subscribe("a").await;
    rest().await;
    assert!(matches!(subscription.current(), SvidState::Failed(Failure::Faulty)));

    *stage.server.impostor.lock().unwrap() = None;
    *stage.server.other_csr.lock().unwrap() = Some(super::check::NewKey::generate().unwrap().1);
    sleep(minutes(1)).await;
    assert!(
        matches!(subscription.current(), SvidState::Failed(Failure::Faulty)),
        "somebody else's key"
    );

    *stage.server.other_csr.lock().unwrap() = None;
    let new = Arc::new(ca("not heard of yet"));
    *stage.server.ca.lock().unwrap() = new.clone();
    sleep(minutes(1)).await;
    assert!(matches!(subscription.current(), SvidState::Failed(Failure::Faulty)));
    stage.trust(bundle(&[(&new, false)]));
    rest().await;
    assert!(
        matches!(subscription.current(), SvidState::Ready(_)),
        "tried again as soon as the bundle came"
    );
}

// WAX-05 WAX-06 WAX-09 IOP-07 IOP-08
#[tokio::test(start_paused = true)]
async fn intermediates_follow_the_leaf_and_the_root_is_left_out() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let root = ca("root");
    let key = KeyPair::generate().unwrap();
    let between = CertifiedIssuer::signed_by(ca_params("between"), key, &root).unwrap();
    *stage.server.above_leaf.lock().unwrap() = vec![between.der().clone(), root.der().clone()];
    let between_der = between.der().clone();
    *stage.server.ca.lock().unwrap() = Arc::new(between);
    stage.trust(bundle(&[(&root, false)]));
    let mut subscription = stage.subscribe("a").await;
    let material = ready(&mut subscription).await;
    assert_eq!(material.svid().chain().len(), 2);
    assert_eq!(material.svid().chain()[1], between_der);
    assert_eq!(material.authority(), root.der());
}

#[tokio::test(start_paused = true)]
async fn prefetched_entries_are_held_without_a_workload() {
    let mut wanted = entry("a", &["s:1"]);
    wanted.spec.additional_attributes = Some(AdditionalAttributes::default());
    let stage = Stage::start(vec![wanted, entry("b", &["s:1"])]);
    sleep(minutes(120)).await;
    assert_eq!(stage.metrics.held.get(), 1);
    assert!(stage.server.issued() >= 3);
    stage.put(Entry {
        revision_number: 1,
        ..entry("a", &["s:1"])
    });
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_or_is_dropped_does_not_stop_the_worker() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    *stage.server.latency.lock().unwrap() = minutes(600);
    let mut subscription = stage.subscribe("a").await;
    sleep(Duration::from_secs(31)).await;
    assert!(matches!(subscription.current(), SvidState::Failed(Failure::ServerAway)));
    *stage.server.latency.lock().unwrap() = Duration::ZERO;
    sleep(minutes(1)).await;
    ready(&mut subscription).await;
    stage.supervisor.shutdown(Duration::from_secs(1)).await.unwrap();
    assert!(subscription.changed().await.is_err());
    advance(Duration::ZERO).await;
    assert_eq!(stage.svids.subscribe("a".parse().unwrap()).await.unwrap_err(), Stopped);
}
