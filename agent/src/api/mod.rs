//! The services on the agent's socket: the Workload API, tasks, what is revoked, health, reflection.
//!
//! ```text
//!  UnixSocket ──▶ Gate: PeerProcess, Caller ──▶ AuthorityFilter ──▶ HTTP/2 ──▶ SpiffeWorkloadAPI (security header)
//!                                                                            ├▶ Tasks, Checkpoint (security header)
//!                                                                            ├▶ grpc.health.v1      (without)
//!                                                                            └▶ grpc.reflection     (without)
//! ```
//!
//! | file | |
//! |---|---|
//! | [`authority`] | lets clients through that send the socket's path as `:authority` |
//! | `caller` | who is on a connection, attested again and again |
//! | `workload` | the RPCs and their streams |
//! | `task` | processes ask for tasks |
//! | `checkpoint` | consumers learn what is revoked |
//! | `holder` | a caller as the holder of windows |
//!
//! Here the parts of the agent meet: who calls (`attest`), what the server allows (`view`), SVIDs (`svids`, `tasks`). None of
//! these knows another. Start at [`WorkloadServer`].

pub mod authority;
mod caller;
mod checkpoint;
mod holder;
mod metrics;
mod task;
mod workload;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use authority::AuthorityFilter;
use caller::{Callers, LocalProcess};
use mayfly_proto::spiffe::workload::spiffe_workload_api_server as pb;
use mayfly_runtime::listen::{Accepted, Acceptor, Limits, ListenMetrics, Peer, Server, UnixBindError, UnixSocket};
use mayfly_runtime::{CancellationToken, Clock};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::error;

use crate::attest::{Attestors, PeerProcess};
use crate::news::News;
use crate::svids::Svids;
use crate::tasks::{TaskMetrics, Tasks};
use crate::view::View;

pub use metrics::{ApiMetrics, Refusal, RefusalLabel};

/// How the Workload API is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiSettings {
    /// The socket.
    pub socket_path: PathBuf,
    /// Who may connect to it. Everybody by default: callers are known by what they are, not by file permissions.
    pub socket_mode: u32,
    /// How long the first answer waits for an entry that matches, and for SVIDs that are not ready.
    pub hold: Duration,
    /// How long a caller that has entries and no SVID at all waits for one that is being made.
    pub issue_hold: Duration,
    /// The least time between two messages of a stream.
    pub update_gap: Duration,
    /// How often a caller with streams is attested in full.
    pub reattest_interval: Duration,
    /// How often it is looked at whether callers with streams are still who connected.
    pub sweep_interval: Duration,
    /// Attestations at a time, of all callers; a quarter of them, rounded up, for one user.
    pub attestations_at_a_time: usize,
    /// Attestations of one user that may wait for their turn.
    pub attestations_waiting: usize,
    /// Streams of one user at a time, root included.
    pub streams_per_uid: usize,
    /// Bounds of the socket: connections in all and per user, sizes, the time to drain.
    pub limits: Limits,
}

/// What the services are made of.
#[derive(Clone, Debug)]
pub struct ApiParts {
    /// Gives SVIDs.
    pub svids: Svids,
    /// What the server allows.
    pub views: watch::Receiver<Arc<View>>,
    /// Says what a process is.
    pub attestors: Arc<Attestors>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: ApiMetrics,
    /// Keeps windows.
    pub tasks: Tasks,
    /// What is revoked, and who enforces it.
    pub news: Arc<News>,
    /// Counters of tasks.
    pub task_metrics: TaskMetrics,
}

/// The agent's socket, bound and not yet served.
pub struct WorkloadServer {
    server: Server<UnixSocket, Gate>,
    callers: Arc<Callers>,
    parts: ApiParts,
    settings: ApiSettings,
}

/// Finds out who connects, and lets every client's `:authority` pass.
struct Gate {
    callers: Arc<Callers>,
    attestors: Arc<Attestors>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            socket_path: "/run/mayfly/agent.sock".into(),
            socket_mode: 0o666,
            hold: Duration::from_millis(300),
            issue_hold: Duration::from_secs(3),
            update_gap: Duration::from_millis(50),
            reattest_interval: Duration::from_secs(30),
            sweep_interval: Duration::from_millis(500),
            attestations_at_a_time: 8,
            attestations_waiting: 1024,
            streams_per_uid: 1024,
            limits: Limits {
                max_connections_per_peer: 256,
                ..Limits::unix()
            },
        }
    }
}

// === impl WorkloadServer ===

impl WorkloadServer {
    /// Binds the socket. It appears in one step and replaces the one of a predecessor that died (IOP-20); who connects
    /// before [`run`](Self::run) waits.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the kernel refuses.
    pub fn bind(settings: ApiSettings, parts: ApiParts) -> Result<Self, UnixBindError> {
        let socket = UnixSocket::bind(&settings.socket_path, settings.socket_mode)?;
        let callers = Callers::new(settings.clone(), parts.metrics.clone());
        let gate = Gate {
            callers: Arc::clone(&callers),
            attestors: Arc::clone(&parts.attestors),
        };
        let limits = Limits {
            // Twice the streams, so that those that are one too many still hear why.
            max_requests_per_peer: Some(u32::try_from(settings.streams_per_uid.saturating_mul(2)).unwrap_or(u32::MAX)),
            ..settings.limits.clone()
        };
        let server = Server::new("workload_api", socket, limits).acceptor(gate);
        Ok(Self {
            server,
            callers,
            parts,
            settings,
        })
    }

    /// Counters of the socket.
    pub fn listen_metrics(&self) -> &ListenMetrics {
        self.server.metrics()
    }

    /// Serves until `stop`. Then no connection is accepted, every stream is told `Unavailable` (IOP-17), and what is
    /// open after [`Limits::drain_timeout`] is cut.
    ///
    /// # Cancel safety
    /// If dropped, all connections are dropped, which clients may take for the end of their identity: use `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self {
            server,
            callers,
            parts,
            settings,
        } = self;
        let (reporter, health) = tonic_health::server::health_reporter();
        let views = parts.views.clone();
        let ApiParts {
            svids,
            views: of_api,
            clock,
            metrics,
            attestors: _,
            tasks,
            news,
            task_metrics,
        } = parts;
        let task_api = task::TaskApi {
            tasks: tasks.clone(),
            news: Arc::clone(&news),
            views: of_api.clone(),
            clock: Arc::clone(&clock),
            callers: Arc::clone(&callers),
            metrics: metrics.clone(),
        };
        let enforcers = Arc::clone(news.enforcers());
        let checkpoint = checkpoint::CheckpointApi {
            news,
            views: of_api.clone(),
            clock: Arc::clone(&clock),
            callers: Arc::clone(&callers),
            metrics: metrics.clone(),
            task_metrics,
        };
        let board = tasks.board();
        let api = workload::WorkloadApi::new(settings, svids, of_api, board, clock, metrics, Arc::clone(&callers));
        let routes = Routes::new(api.into_service())
            .add_service(task_api.into_service())
            .add_service(checkpoint.into_service())
            .add_service(health);
        let routes = add_reflection(routes).prepare();
        // The sweep ends with the last connection: callers that drain are looked after as well.
        let served = CancellationToken::new();
        let serve = async {
            server.serve(routes, stop.clone()).await;
            served.cancel();
        };
        let look_after = async {
            tokio::select! {
                () = served.cancelled() => {}
                () = enforcers.look_after_away() => {}
            }
        };
        tokio::join!(
            serve,
            look_after,
            callers.sweep(served.clone()),
            report_health(reporter, views, stop.clone())
        );
    }
}

/// Our own services on this socket and no others: each is a file of its own (WEP-31).
fn task_files() -> FileDescriptorSet {
    // Compiled in: it can be read, or no build would have come here.
    let mut files = FileDescriptorSet::decode(mayfly_proto::FILE_DESCRIPTOR_SET).unwrap_or_default();
    files.file.retain(|file| file.package() == "mayfly.workload.v1");
    files
}

/// Reflection in both versions that clients ask for (WEP-34), over the published interfaces and, beside them, ours.
fn add_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(mayfly_proto::WORKLOAD_DESCRIPTOR_SET)
            .register_file_descriptor_set(task_files())
            .register_encoded_file_descriptor_set(mayfly_proto::grpc::health::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            // Compiled in, so only a broken build comes here; the API itself does not need it.
            error!(%error, "reflection is not offered");
            routes
        }
    }
}

/// Serving as long as processes can be served, not serving any more from `stop` on.
async fn report_health(reporter: HealthReporter, mut views: watch::Receiver<Arc<View>>, stop: CancellationToken) {
    let report = async |status| {
        for service in ["", pb::SERVICE_NAME] {
            reporter.set_service_status(service, status).await;
        }
    };
    let follow = async {
        loop {
            let serving = views.borrow_and_update().is_serving();
            report(if serving {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            })
            .await;
            if views.wait_for(|view| view.is_serving() != serving).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => report(ServingStatus::NotServing).await,
        () = follow => {}
    }
}

// === impl Gate ===

impl Acceptor<UnixStream> for Gate {
    type Io = AuthorityFilter<UnixStream>;

    async fn accept(&self, socket: UnixStream, peer: Peer) -> io::Result<Accepted<Self::Io>> {
        let process = PeerProcess::of(&socket).map_err(io::Error::other)?;
        let process = LocalProcess {
            peer: process,
            attestors: Arc::clone(&self.attestors),
        };
        let mut accepted = Accepted::new(AuthorityFilter::new(socket), peer);
        accepted.extensions.insert(self.callers.admit(Box::new(process)));
        Ok(accepted)
    }
}
