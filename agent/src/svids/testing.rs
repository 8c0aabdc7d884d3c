//! A worker's surroundings for tests: a server and clocks that are turned by hand. The API's tests stand on them as well.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use mayfly_model::{EntrySpec, ErrorKind};
use mayfly_runtime::{CancellationToken, Supervisor};
use mayfly_svid::{Bundle, TrustDomain, X509Authority};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use tokio::time::sleep;

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

    /// Milliseconds that have passed since it was made, whatever it was set to.
    pub(crate) fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap()
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

pub(crate) fn ca_params(common_name: &str) -> CertificateParams {
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

    pub(crate) fn sign(&self, csr_der: &[u8], id: &str) -> Vec<CertificateDer<'static>> {
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

    pub(crate) async fn subscribe(&self, id: &str) -> Subscription {
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

/// A server that is heard all the time.
pub(crate) fn always() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(1_000_000))
}
