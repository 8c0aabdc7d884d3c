//! A keeper's surroundings for tests: a server that decides as a test says, and processes that are turned by hand. The
//! API's tests stand on them as well.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use mayfly_model::Entry;
use mayfly_proto::mayfly::agent::{
    CloseCause, CloseTaskRequest, IssuedTaskResponse, OpenTaskRequest, RenewTaskRequest, RequestTaskRequest,
};
use mayfly_proto::mayfly::workload::{Revoked, Stage as TaskStage};
use mayfly_runtime::{CancellationToken, Supervisor};
use mayfly_svid::{TASK_EXTENSION_ARCS, TaskExtension, Timestamp, WindowId, X509Svid};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, SanType, SerialNumber,
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::*;
use crate::svids::testing::{Ca, LinkedClock, Stage as SvidStage, entry};

/// A server that says yes, unless a test has it do something else.
pub(crate) struct FakeTaskServer {
    pub(crate) ca: Mutex<Arc<Ca>>,
    clock: Arc<LinkedClock>,
    serials: AtomicU64,
    pub(crate) state: Mutex<ServerState>,
}

pub(crate) struct ServerState {
    /// What was asked, in order.
    pub(crate) log: Vec<String>,
    pub(crate) away: bool,
    /// What requests are answered with.
    pub(crate) stage: TaskStage,
    /// How many more windows its answers say that there are.
    pub(crate) opens_left: u32,
    pub(crate) refuse_opening: Option<ErrorKind>,
    pub(crate) refuse_renewal: Option<ErrorKind>,
    /// Windows are opened and the answer is lost.
    pub(crate) lose_answers: bool,
    pub(crate) ttl: i64,
    pub(crate) window: i64,
    pub(crate) strict: bool,
    pub(crate) promote: bool,
    pub(crate) heartbeat: (u32, u32),
    pub(crate) latency: Duration,
    /// By ID: the request, the end, and whether it is open.
    pub(crate) windows: BTreeMap<String, (String, i64, bool)>,
    pub(crate) holders: BTreeMap<String, ProcessKey>,
    /// Seconds that its clock is ahead of the agent's wall clock.
    pub(crate) ahead: i64,
}

impl FakeTaskServer {
    fn now(&self) -> i64 {
        Timestamp::from(self.clock.now()).unix() + self.lock().ahead
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, ServerState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.lock().log.iter().filter(|line| line.starts_with(what)).count()
    }

    async fn enter(&self, what: String) -> Result<(), TaskError> {
        let latency = self.lock().latency;
        tokio::time::sleep(latency).await;
        let mut state = self.lock();
        if state.away {
            return Err(TaskError::new(ErrorKind::Unavailable, "away"));
        }
        state.log.push(what);
        Ok(())
    }

    pub(crate) fn state(&self, request_id: &str, window_id: &str, stage: TaskStage) -> TaskState {
        let state = self.lock();
        TaskState {
            request_id: request_id.into(),
            task: "pay/migrate".into(),
            stage: stage.into(),
            window_id: window_id.into(),
            spiffe_id: "spiffe://td/task/pay/migrate/a".into(),
            closes_at: state.windows.get(window_id).map_or(0, |(_, closes_at, _)| *closes_at),
            hint: "task/pay/migrate".into(),
            holder_pid: state.holders.get(window_id).map_or(0, |holder| holder.pid),
            holder_start_ticks: state.holders.get(window_id).map_or(0, |holder| holder.start_ticks),
            ..TaskState::default()
        }
    }

    fn issue(&self, window_id: &str, csr: &[u8]) -> IssuedTaskResponse {
        let now = self.now();
        let (request_id, closes_at, ttl) = {
            let state = self.lock();
            let (request_id, closes_at, _) = state.windows[window_id].clone();
            (request_id, closes_at, state.ttl)
        };
        let at = |seconds: i64| time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let mut csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI("spiffe://td/task/pay/migrate/a".try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = at(now - 30);
        params.not_after = at((now + ttl).min(closes_at) - 1);
        params.serial_number = Some(SerialNumber::from(self.serials.fetch_add(1, Ordering::Relaxed) + 1));
        let extension = TaskExtension {
            window_id: window_id.parse().unwrap(),
            definition_hash: [1; 16],
            closes: Timestamp::from_unix(closes_at),
            log_index: 7,
        };
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            TASK_EXTENSION_ARCS,
            extension.to_der(),
        )];
        csr.params = params;
        let ca = Arc::clone(&self.ca.lock().unwrap());
        let told = self.state(&request_id, window_id, TaskStage::Open);
        let state = self.lock();
        IssuedTaskResponse {
            cert_chain: vec![csr.signed_by(&*ca).unwrap().der().to_vec()],
            promote_default: state.promote,
            strict: state.strict,
            heartbeat_seconds: state.heartbeat.0,
            heartbeats_missed: state.heartbeat.1,
            state: Some(told),
        }
    }
}

#[async_trait]
impl TaskServer for FakeTaskServer {
    async fn request(&self, request: RequestTaskRequest) -> Result<TaskState, TaskError> {
        let instance = request.instance.unwrap();
        self.enter(format!("request {} {}", instance.entry_id, instance.pid))
            .await?;
        let stage = self.lock().stage;
        let key = request.request.unwrap().idempotency_key;
        let mut asked = self.state(&format!("r{key}"), "", stage);
        asked.opens_left = self.lock().opens_left;
        Ok(asked)
    }

    async fn open(&self, request: OpenTaskRequest) -> Result<IssuedTaskResponse, TaskError> {
        self.enter(format!("open {}", request.request_id)).await?;
        if let Some(kind) = self.lock().refuse_opening {
            return Err(TaskError::new(kind, "no"));
        }
        let window_id = WindowId(rand::random()).to_string();
        let closes_at = self.now() + self.lock().window;
        let instance = request.instance.unwrap();
        let holder = ProcessKey {
            pid: instance.pid,
            start_ticks: instance.start_ticks,
        };
        self.lock().holders.insert(window_id.clone(), holder);
        self.lock()
            .windows
            .insert(window_id.clone(), (request.request_id, closes_at, true));
        if self.lock().lose_answers {
            return Err(TaskError::new(ErrorKind::Unavailable, "the answer is lost"));
        }
        Ok(self.issue(&window_id, &request.csr))
    }

    async fn renew(&self, request: RenewTaskRequest) -> Result<IssuedTaskResponse, TaskError> {
        self.enter(format!("renew {}", request.instance.unwrap().pid)).await?;
        if let Some(kind) = self.lock().refuse_renewal {
            return Err(TaskError::new(kind, "no"));
        }
        let open = self
            .lock()
            .windows
            .get(&request.window_id)
            .is_some_and(|(_, _, open)| *open);
        if !open {
            return Err(TaskError::new(ErrorKind::FailedPrecondition, "the window is closed"));
        }
        Ok(self.issue(&request.window_id, &request.csr))
    }

    async fn extend(&self, window_id: String, seconds: u32) -> Result<TaskState, TaskError> {
        self.enter("extend".into()).await?;
        let request_id = self.lock().windows[&window_id].0.clone();
        let mut state = self.state(&request_id, &window_id, TaskStage::Open);
        state.closes_at += i64::from(seconds);
        Ok(state)
    }

    async fn heartbeat(&self, window_id: String) -> Result<TaskState, TaskError> {
        self.enter("heartbeat".into()).await?;
        let request_id = self.lock().windows[&window_id].0.clone();
        Ok(self.state(&request_id, &window_id, TaskStage::Open))
    }

    async fn close(&self, request: CloseTaskRequest) -> Result<TaskState, TaskError> {
        let cause = CloseCause::try_from(request.cause).unwrap();
        let cause = cause.as_str_name().trim_start_matches("CLOSE_CAUSE_").to_lowercase();
        self.enter(format!("close {cause}")).await?;
        let request_id = {
            let mut state = self.lock();
            let window = state.windows.get_mut(&request.window_id);
            let (request_id, _, open) = window.ok_or_else(|| TaskError::new(ErrorKind::NotFound, "no such window"))?;
            *open = false;
            request_id.clone()
        };
        let mut told = self.state(&request_id, &request.window_id, TaskStage::Closed);
        told.reasons = vec![cause];
        Ok(told)
    }
}

/// A process whose nature a test decides.
pub(crate) struct FakeHolder {
    key: ProcessKey,
    pub(crate) selectors: Mutex<SelectorSet>,
    pub(crate) changed: Mutex<bool>,
    pub(crate) above: Mutex<Vec<Ancestor>>,
    pub(crate) attestation: Mutex<Option<HolderError>>,
    pub(crate) tracer: Mutex<Option<Tracer>>,
    events: broadcast::Sender<HolderEvent>,
}

impl FakeHolder {
    pub(crate) fn new(pid: u32) -> Arc<Self> {
        Arc::new(Self {
            key: ProcessKey { pid, start_ticks: 5 },
            selectors: Mutex::new(Arc::new(["s:1".parse().unwrap()].into())),
            changed: Mutex::default(),
            above: Mutex::default(),
            attestation: Mutex::default(),
            tracer: Mutex::default(),
            events: broadcast::channel(16).0,
        })
    }

    pub(crate) fn emit(&self, event: HolderEvent) {
        let _ = self.events.send(event);
    }
}

#[async_trait]
impl Holder for FakeHolder {
    fn key(&self) -> ProcessKey {
        self.key
    }

    fn uid(&self) -> u32 {
        1000
    }

    fn is_unchanged(&self) -> bool {
        !*self.changed.lock().unwrap()
    }

    fn tracer(&self, _: bool) -> Option<Tracer> {
        *self.tracer.lock().unwrap()
    }

    fn ancestors(&self) -> Vec<Ancestor> {
        self.above.lock().unwrap().clone()
    }

    async fn attest(&self, _: Duration) -> Result<SelectorSet, HolderError> {
        match self.attestation.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => Ok(Arc::clone(&self.selectors.lock().unwrap())),
        }
    }

    fn events(self: Arc<Self>) -> BoxStream<'static, HolderEvent> {
        let events = BroadcastStream::new(self.events.subscribe());
        events.filter_map(async |event| event.ok()).boxed()
    }
}

/// A keeper that runs, and all that it talks to.
pub(crate) struct Stage {
    pub(crate) tasks: Tasks,
    pub(crate) server: Arc<FakeTaskServer>,
    pub(crate) news: Arc<News>,
    pub(crate) svids: SvidStage,
    pub(crate) metrics: TaskMetrics,
    _supervisor: Supervisor,
}

impl Stage {
    /// With one entry `a` that wants `s:1`, in step with its server, and no word of it yet.
    pub(crate) fn start() -> Self {
        Self::beside(SvidStage::start(vec![entry("a", &["s:1"])]))
    }

    pub(crate) fn beside(svids: SvidStage) -> Self {
        let (tasks, server, news, metrics, supervisor) = keeper_beside(&svids);
        Self {
            tasks,
            server,
            news,
            svids,
            metrics,
            _supervisor: supervisor,
        }
    }

    /// The server is heard now, and then every 2.5 s for as long as the guard lives.
    pub(crate) fn beacons(&self) -> CancellationToken {
        let (news, stop) = (Arc::clone(&self.news), CancellationToken::new());
        let (until, clock) = (stop.clone(), Arc::clone(&self.svids.clock));
        let beat = async move {
            while !until.is_cancelled() {
                // By the server's clock, whatever ours is set to.
                news.heard_beacon(1_750_000_000_000 + clock.elapsed_ms(), 2_500, 0);
                tokio::time::sleep(Duration::from_millis(2_500)).await;
            }
        };
        self._supervisor.spawn_detached("beacons", beat).unwrap();
        stop
    }

    pub(crate) async fn ask(&self, holder: &Arc<FakeHolder>, key: &str) -> Result<TaskState, TaskError> {
        let request = RequestRequest {
            task: "pay/migrate".into(),
            reason: "test".into(),
            idempotency_key: key.into(),
            ..RequestRequest::default()
        };
        self.tasks
            .request(applicant(holder), "a".parse().unwrap(), request)
            .await
    }

    /// Asks and opens; returns the state.
    pub(crate) async fn opened(&self, holder: &Arc<FakeHolder>, descendants: bool) -> TaskState {
        let asked = self.ask(holder, "1").await.unwrap();
        self.tasks
            .open(applicant(holder), asked.request_id, descendants)
            .await
            .unwrap()
    }

    /// The serial numbers that `holder` gets.
    pub(crate) fn serials(&self, holder: &Arc<FakeHolder>) -> Vec<Vec<u8>> {
        let board = Arc::clone(&self.tasks.board().borrow());
        let shown = board.entitled(holder.as_ref()).into_iter();
        shown
            .map(|shown| X509Svid::serial(shown.svid.svid()).as_be_bytes().to_vec())
            .collect()
    }

    /// Waits until `holder` gets so many task SVIDs; fails after a minute of the test's time.
    pub(crate) async fn gets(&self, holder: &Arc<FakeHolder>, count: usize) {
        let mut board = self.tasks.board();
        let waits = async {
            while self.serials(holder).len() != count {
                board.changed().await.unwrap();
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(60), waits).await;
        assert!(
            seen.is_ok(),
            "never {count} task SVIDs but {}",
            self.serials(holder).len()
        );
    }

    /// Revokes serial numbers of a window.
    pub(crate) fn revoke(&self, epoch: u64, window_id: &str, serials: Vec<Vec<u8>>) {
        let item = Revoked {
            window_id: window_id.into(),
            serials,
            not_after: 1_760_000_000,
            epoch,
        };
        self.news.revoke(false, vec![item], epoch);
    }
}

/// A keeper for the same view and clock, with the same authority.
pub(crate) fn keeper_beside(svids: &SvidStage) -> (Tasks, Arc<FakeTaskServer>, Arc<News>, TaskMetrics, Supervisor) {
    let server = Arc::new(FakeTaskServer {
        ca: Mutex::new(Arc::clone(&svids.server.ca.lock().unwrap())),
        clock: Arc::clone(&svids.clock),
        serials: AtomicU64::new(100),
        state: Mutex::new(ServerState {
            log: vec![],
            away: false,
            stage: TaskStage::Armed,
            refuse_renewal: None,
            opens_left: 0,
            refuse_opening: None,
            lose_answers: false,
            ttl: 300,
            window: 900,
            strict: true,
            promote: false,
            heartbeat: (0, 0),
            latency: Duration::from_millis(1),
            windows: BTreeMap::new(),
            holders: BTreeMap::new(),
            ahead: 0,
        }),
    });
    let (news, metrics, supervisor) = (News::new(), TaskMetrics::default(), Supervisor::new());
    let parts = TaskParts {
        server: server.clone(),
        news: Arc::clone(&news),
        views: svids.views.subscribe(),
        clock: svids.clock.clone(),
        boot_id: "boot".into(),
        metrics: metrics.clone(),
    };
    let (tasks, keeper) = start(TaskSettings::default(), parts);
    supervisor.spawn_once("tasks", |stop: CancellationToken| keeper.run(stop));
    (tasks, server, news, metrics, supervisor)
}

pub(crate) fn applicant(holder: &Arc<FakeHolder>) -> Applicant {
    Applicant {
        selectors: Arc::clone(&holder.selectors.lock().unwrap()),
        attested_at: Instant::now(),
        holder: holder.clone(),
    }
}

pub(crate) fn other_entry() -> Entry {
    entry("b", &["s:2"])
}
