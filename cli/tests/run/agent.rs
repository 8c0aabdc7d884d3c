//! An agent for these tests: the Workload API and its tasks on a real socket, moved by hand.
//!
//! It keeps the contract of `proto/mayfly/workload/v1/task.proto` as far as `mayfly run` can see it: one request per
//! content, states on a stream, the identity of an open window on the ordinary one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mayfly_proto::mayfly::workload::tasks_server::{Tasks, TasksServer};
use mayfly_proto::mayfly::workload::*;
use mayfly_proto::spiffe::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use mayfly_proto::spiffe::workload::*;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

pub(crate) const TASK_ID: &str = "spiffe://example.org/task/pay/db-migrate/batch";
const BASE_ID: &str = "spiffe://example.org/batch";
const HINT: &str = "task/pay/db-migrate";

/// A running agent.
pub(crate) struct Agent {
    dir: tempfile::TempDir,
    shared: Shared,
    /// Of its own, so that all connections end with it.
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Shared(Arc<State>);

struct State {
    inner: Mutex<Inner>,
    task: watch::Sender<TaskState>,
    /// Changes when the identity is to be another one.
    identity: watch::Sender<u64>,
}

struct Inner {
    calls: Vec<String>,
    requests: BTreeMap<String, String>,
    asked: u32,
    /// Where a new request stands.
    first: Stage,
    refuse_open: Option<Status>,
    /// Whether the window has an identity while it is open.
    with_identity: bool,
    forgotten: bool,
    window: Duration,
    issuer: Issuer<'static, KeyPair>,
    authority: Vec<u8>,
}

impl Agent {
    /// One whose requests stand at `first`.
    pub(crate) async fn start(first: Stage) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // OpenSSL takes a certificate whose issuer has no name for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.subject_alt_names = vec![uri("spiffe://example.org")];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = params.self_signed(&key).unwrap().der().to_vec();
        let inner = Inner {
            calls: vec![],
            requests: BTreeMap::new(),
            asked: 0,
            first,
            refuse_open: None,
            with_identity: true,
            forgotten: false,
            window: Duration::from_secs(600),
            issuer: Issuer::new(params, key),
            authority,
        };
        let mut agent = Self {
            dir: tempfile::tempdir().unwrap(),
            shared: Shared(Arc::new(State {
                inner: Mutex::new(inner),
                task: watch::Sender::new(TaskState::default()),
                identity: watch::Sender::new(0),
            })),
            runtime: None,
        };
        agent.serve();
        agent
    }

    /// Listens, again after [`Agent::stop`].
    pub(crate) fn serve(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let inside = runtime.enter();
        let listener = UnixListener::bind(self.socket()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(self.socket(), mode).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(self.shared.clone()))
            .add_service(TasksServer::new(self.shared.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(async move { server.await.unwrap() });
        drop(inside);
        self.runtime = Some(runtime);
    }

    /// Is gone, with all connections.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The request goes to another stage, for these reasons.
    pub(crate) fn set(&self, stage: Stage, reasons: &[&str]) {
        self.shared.0.task.send_modify(|task| {
            task.set_stage(stage);
            task.reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
            if stage == Stage::Armed {
                task.approvals_missing = 0;
            }
        });
        self.shared.0.identity.send_modify(|_| {});
    }

    /// Changes something else of it.
    pub(crate) fn modify(&self, change: impl FnOnce(&mut TaskState)) {
        self.shared.0.task.send_modify(change);
    }

    /// The identity is renewed.
    pub(crate) fn rotate(&self) {
        self.shared.0.identity.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn refuse_open(&self, status: Status) {
        self.shared.lock().refuse_open = Some(status);
    }

    pub(crate) fn without_identity(&self) {
        self.shared.lock().with_identity = false;
    }

    pub(crate) fn window(&self, window: Duration) {
        self.shared.lock().window = window;
    }

    /// As an agent that was started anew and has lost the window.
    pub(crate) fn forget(&self) {
        self.shared.lock().forgotten = true;
    }

    /// What was called, with what matters of it.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.shared.lock().calls.clone()
    }

    /// Waits until `call` was made.
    pub(crate) async fn called(&self, call: &str) {
        crate::until(&format!("the call {call}"), || {
            self.calls().iter().any(|made| made.starts_with(call))
        })
        .await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

fn uri(id: &str) -> SanType {
    SanType::URI(Ia5String::try_from(id).unwrap())
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap()
    }

    fn enter<T>(&self, request: &Request<T>, call: impl Into<String>) -> Result<MutexGuard<'_, Inner>, Status> {
        // WEP-07
        if request
            .metadata()
            .get("workload.spiffe.io")
            .is_none_or(|value| value != "true")
        {
            return Err(Status::invalid_argument("security header missing"));
        }
        let mut inner = self.lock();
        inner.calls.push(call.into());
        Ok(inner)
    }

    fn task(&self) -> TaskState {
        self.0.task.borrow().clone()
    }

    fn end(&self, call: &str, request: Request<EndRequest>, reason: &str) -> Result<Response<TaskState>, Status> {
        let call = format!("{call} {}", request.get_ref().detail);
        drop(self.enter(&request, call)?);
        self.0.task.send_modify(|task| {
            task.set_stage(Stage::Closed);
            task.reasons = vec![reason.to_owned()];
        });
        self.0.identity.send_modify(|_| {});
        Ok(Response::new(self.task()))
    }

    fn svid(&self, id: &str, hint: &str) -> X509svid {
        let inner = self.lock();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // A name that programs know which know no SPIFFE IDs: the same files serve as those of servers.
        params.subject_alt_names = vec![uri(id), SanType::DnsName(Ia5String::try_from("localhost").unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        X509svid {
            spiffe_id: id.into(),
            x509_svid: params.signed_by(&key, &inner.issuer).unwrap().der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: inner.authority.clone(),
            hint: hint.into(),
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Tasks for Shared {
    type WatchStream = Answers<TaskState>;

    async fn request(&self, request: Request<RequestRequest>) -> Result<Response<TaskState>, Status> {
        let body = request.get_ref();
        let content = format!(
            "{} {} {} {} {:?} {:?} {}",
            body.task,
            body.reason,
            body.ticket,
            body.window_seconds,
            body.scopes,
            body.parameters,
            body.idempotency_key
        );
        let mut inner = self.enter(&request, format!("request {content}"))?;
        if body.task == "pay/unknown" {
            return Err(Status::not_found("no such task"));
        }
        let waits = [Stage::AwaitingTicket, Stage::AwaitingApproval, Stage::Armed].contains(&self.task().stage());
        // Without a key of its own a run whose like had its window is another one.
        let known = inner.requests.contains_key(&content) && (waits || !body.idempotency_key.is_empty());
        if !known {
            inner.asked += 1;
            let id = format!("r{}", inner.asked);
            inner.requests.insert(content.clone(), id);
        }
        let id = inner.requests[&content].clone();
        let first = inner.first;
        drop(inner);
        if !known {
            self.0.task.send_modify(|task| {
                *task = TaskState {
                    request_id: id,
                    task: body.task.clone(),
                    heartbeat_seconds: 1,
                    stage: first.into(),
                    digest: "d16e57".into(),
                    ..TaskState::default()
                };
                match first {
                    Stage::AwaitingApproval => {
                        task.approvals_missing = 2;
                        task.approver_groups = vec!["dba".into(), "sre".into()];
                    }
                    Stage::Denied => {
                        task.reasons = vec!["environment-mismatch".into()];
                        task.message = "not from this node".into();
                    }
                    _ => {}
                }
            });
        }
        Ok(Response::new(self.task()))
    }

    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<TaskState>, Status> {
        let body = request.get_ref();
        let inner = self.enter(
            &request,
            format!("open {} {}", body.request_id, body.include_descendants),
        )?;
        if let Some(status) = &inner.refuse_open {
            return Err(status.clone());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let closes_at = (now + inner.window).as_secs() as i64;
        drop(inner);
        self.0.task.send_modify(|task| {
            task.set_stage(Stage::Open);
            task.window_id = "w-1".into();
            task.spiffe_id = TASK_ID.into();
            task.closes_at = closes_at;
            task.hint = HINT.into();
        });
        self.0.identity.send_modify(|_| {});
        Ok(Response::new(self.task()))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let inner = self.enter(&request, "watch")?;
        if inner.forgotten {
            return Err(Status::not_found("no such request of this process"));
        }
        drop(inner);
        let states = WatchStream::new(self.0.task.subscribe()).map(Ok);
        Ok(Response::new(Box::pin(states)))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<TaskState>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn extend(&self, _: Request<ExtendRequest>) -> Result<Response<TaskState>, Status> {
        Err(Status::failed_precondition("`mayfly run` does not extend windows"))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<TaskState>, Status> {
        drop(self.enter(&request, "heartbeat")?);
        Ok(Response::new(self.task()))
    }

    async fn complete(&self, request: Request<EndRequest>) -> Result<Response<TaskState>, Status> {
        self.end("complete", request, "completed")
    }

    async fn fail(&self, request: Request<EndRequest>) -> Result<Response<TaskState>, Status> {
        self.end("fail", request, "failed")
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Shared {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        drop(self.enter(&request, "fetch")?);
        let shared = self.clone();
        let answers = WatchStream::new(self.0.identity.subscribe()).map(move |_| {
            let mut svids = vec![shared.svid(BASE_ID, "")];
            let with_identity = shared.lock().with_identity && !shared.lock().forgotten;
            if with_identity && shared.task().stage() == Stage::Open {
                svids.push(shared.svid(TASK_ID, HINT));
            }
            Ok(X509svidResponse {
                svids,
                crl: vec![],
                federated_bundles: BTreeMap::new(),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn fetch_witsvid(&self, _: Request<WitsvidRequest>) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }
}
