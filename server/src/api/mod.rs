//! The gRPC API: one file per service. Each converts, asks `app`, and converts back.
//!
//! ```text
//!   request ─▶ Gate: is there such a method here? who calls? may they? (SERVICES) ─▶ service ─▶ app ─▶ answer
//!               span, request ID, counters, Call in the extensions                    status.rs: errors
//! ```
//!
//! [`SERVICES`] says for every method who may call it, and [`gate`] is the one place that asks; no service checks a
//! caller's class again. What a service needs of its caller is in the [`Call`] that the gate leaves with the request.
//!
//! Bounds of what a caller may send: a message of 4 MiB (256 KiB where anybody may call), a batch of [`BATCH_MAX`]
//! items (500 for SVIDs), a page of 1000 items, a reason of 1 KiB; `AttestAgent`, which anybody may call, has its own
//! ([`limits`]). No memory is set aside by a number that a caller states. Lists have pages, and batches leave for another
//! call what they could not show ([`batch`]): their answers are within the 4 MiB that gRPC's clients read.
//!
//! Not here: decisions (`app`), sockets and TLS (`mayfly_runtime::listen`). Start at [`SERVICES`], then `gate`.

pub mod watch;

mod agent;
mod agent_tasks;
mod audit;
mod audit_report;
mod batch;
mod bundle;
mod call;
mod debt;
mod debug;
mod definitions;
mod driven;
mod entry;
mod exceptions;
mod gate;
mod health;
mod limits;
mod logger;
mod metrics;
mod page;
mod policy;
mod proposals;
mod services;
mod status;
mod svid;
mod sync;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::grpc::health::health_server::HealthServer;
use mayfly_proto::mayfly::agent::tasks_server::TasksServer as AgentTasksServer;
use mayfly_proto::mayfly::agent::watch_server::WatchServer;
use mayfly_proto::mayfly::audit::audit_server::AuditServer;
use mayfly_proto::mayfly::task::debt_server::DebtServer;
use mayfly_proto::mayfly::task::definitions_server::DefinitionsServer;
use mayfly_proto::mayfly::task::exceptions_server::ExceptionsServer;
use mayfly_proto::mayfly::task::policy_server::PolicyServer;
use mayfly_proto::mayfly::task::proposals_server::ProposalsServer;
use mayfly_proto::mayfly::task::tasks_server::TasksServer;
use mayfly_proto::spire::server;
use mayfly_runtime::telemetry::LogHandle;
use mayfly_runtime::{Clock, Readiness};
use mayfly_svid::{Timestamp, X509Svid};
use tokio::time::Instant;
use tonic::service::Routes;

pub use batch::BATCH_MAX;
pub use call::Call;
pub use gate::Gate;
pub use limits::AttestLimits;
pub use metrics::ApiMetrics;
pub use services::{Face, SERVICES, Service};

use crate::app::attest_agent::Attestors;
use crate::app::authorities::Authorities;
use crate::app::caller::RoleMap;
use crate::app::changes::Changes;
use crate::app::debt::Measuring;
use crate::app::evidence::Evidence;
use crate::app::issue::Issuance;
use crate::app::people::People;
use crate::app::policy::PolicyHolder;
use crate::app::standing::Authorizer;
use crate::app::tasks::Tasks;
use crate::commit::Committer;
use limits::AttestGuard;

use watch::{TaskFeeds, WatchService};

/// The largest message that is read.
const MESSAGE_MAX: usize = 4 << 20;
/// The largest message that is read by methods that strangers may call: an attestation with its payload of 128 KiB.
const STRANGERS_MESSAGE_MAX: usize = 256 << 10;

/// The server's own SVID, as presented now.
pub type OwnSvid = Arc<dyn Fn() -> Option<X509Svid> + Send + Sync>;

/// What the services stand on. `assemble` builds it.
pub struct Deps {
    /// The state and the way to change it.
    pub committer: Committer,
    /// The log, and what is durable and not in memory.
    pub evidence: Arc<Evidence>,
    /// The way to sign.
    pub issuance: Issuance,
    /// The node attestors that are configured.
    pub attestors: Attestors,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// For health: "" is SERVING while this is ready and commits reach the disk.
    pub readiness: Readiness,
    /// For Logger.
    pub log: LogHandle,
    /// For Debug.
    pub own_svid: OwnSvid,
    /// Who is an operator.
    pub roles: RoleMap,
    /// Who is who.
    pub people: Arc<People>,
    /// The operators' policy.
    pub policy: Arc<PolicyHolder>,
    /// Whether definitions and policies want a second person.
    pub two_person: bool,
    /// Requests, grants and windows.
    pub tasks: Arc<Tasks>,
    /// For the hard cut.
    pub authorities: Arc<Authorities>,
    /// Revocation lists, and what consumers enforce.
    pub feeds: TaskFeeds,
    /// Bounds of `AttestAgent`.
    pub attest_limits: AttestLimits,
    /// The longest life of a join token.
    pub join_token_max_ttl: Duration,
    /// `mayfly.agent.v1`.
    pub watch: Arc<WatchService>,
}

/// What all services share.
pub struct Api {
    committer: Committer,
    evidence: Arc<Evidence>,
    issuance: Issuance,
    attestors: Attestors,
    clock: Arc<dyn Clock>,
    readiness: Readiness,
    log: LogHandle,
    own_svid: OwnSvid,
    authorizer: Authorizer,
    policy: Arc<PolicyHolder>,
    changes: Changes,
    measuring: Measuring,
    tasks: Arc<Tasks>,
    authorities: Arc<Authorities>,
    feeds: TaskFeeds,
    attest_guard: AttestGuard,
    join_token_max_ttl: Duration,
    watch: Arc<WatchService>,
    started: Instant,
    metrics: ApiMetrics,
    confirming: mayfly_runtime::TaskSet,
}

impl Api {
    /// Takes what it needs; the time of the start is now.
    pub fn new(deps: Deps) -> Arc<Self> {
        let Deps {
            committer,
            evidence,
            issuance,
            attestors,
            clock,
            readiness,
            log,
            own_svid,
            roles,
            people,
            policy,
            two_person,
            tasks,
            authorities,
            feeds,
            attest_limits,
            join_token_max_ttl,
            watch,
        } = deps;
        let measuring = Measuring::new(evidence.archive().clone());
        let changes = Changes::new(committer.clone(), people.clone(), policy.clone(), two_person);
        Arc::new(Self {
            committer,
            evidence,
            issuance,
            attestors,
            clock,
            readiness,
            log,
            own_svid,
            authorizer: Authorizer::new(roles, people, policy.clone()),
            policy,
            changes,
            measuring,
            tasks,
            authorities,
            feeds,
            attest_guard: AttestGuard::new(attest_limits),
            join_token_max_ttl,
            watch,
            started: Instant::now(),
            metrics: ApiMetrics::default(),
            confirming: mayfly_runtime::TaskSet::new("confirm_agent", 1024),
        })
    }

    /// Counters of all calls; register them once.
    pub fn metrics(&self) -> &ApiMetrics {
        &self.metrics
    }

    fn now(&self) -> Timestamp {
        self.clock.now().into()
    }
}

/// All services of one listener behind the gate, for [`mayfly_runtime::listen::Server::serve`].
pub fn routes(api: &Arc<Api>, face: Face) -> Gate<Routes> {
    let services = |message_max| services(api, face, message_max);
    Gate::new(
        api.clone(),
        face,
        services(MESSAGE_MAX),
        services(STRANGERS_MESSAGE_MAX),
    )
}

fn services(api: &Arc<Api>, face: Face, message_max: usize) -> Routes {
    let mut routes = Routes::builder();
    macro_rules! add {
        ($server:ty, $service:expr) => {
            routes.add_service(<$server>::from_arc($service).max_decoding_message_size(message_max));
        };
    }
    add!(
        server::agent::agent_server::AgentServer<_>,
        Arc::new(agent::AgentService(api.clone()))
    );
    add!(
        server::bundle::bundle_server::BundleServer<_>,
        Arc::new(bundle::BundleService(api.clone()))
    );
    add!(
        server::entry::entry_server::EntryServer<_>,
        Arc::new(entry::EntryService(api.clone()))
    );
    add!(
        server::svid::svid_server::SvidServer<_>,
        Arc::new(svid::SvidService(api.clone()))
    );
    add!(WatchServer<_>, api.watch.clone());
    add!(
        DefinitionsServer<_>,
        Arc::new(definitions::DefinitionsService(api.clone()))
    );
    add!(
        AgentTasksServer<_>,
        Arc::new(agent_tasks::AgentTasksService(api.clone()))
    );
    add!(TasksServer<_>, Arc::new(tasks::TasksService(api.clone())));
    add!(PolicyServer<_>, Arc::new(policy::PolicyService(api.clone())));
    add!(ProposalsServer<_>, Arc::new(proposals::ProposalsService(api.clone())));
    add!(
        ExceptionsServer<_>,
        Arc::new(exceptions::ExceptionsService(api.clone()))
    );
    add!(DebtServer<_>, Arc::new(debt::DebtService(api.clone())));
    add!(AuditServer<_>, Arc::new(audit::AuditService(api.clone())));
    add!(HealthServer<_>, Arc::new(health::HealthService(api.clone(), face)));
    if face == Face::Local {
        add!(
            server::debug::debug_server::DebugServer<_>,
            Arc::new(debug::DebugService(api.clone()))
        );
        add!(
            server::logger::logger_server::LoggerServer<_>,
            Arc::new(logger::LoggerService(api.clone()))
        );
        let reflection = |own: &'static str| {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(mayfly_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(mayfly_proto::grpc::health::FILE_DESCRIPTOR_SET);
            // Of what the descriptors have, only what is served here; of itself only this version, as it has no other's.
            SERVICES
                .iter()
                .map(|service| service.name)
                .filter(|name| !name.starts_with("grpc.reflection.") || *name == own)
                .fold(builder, |builder, name| builder.with_service_name(name))
        };
        let v1 = reflection("grpc.reflection.v1.ServerReflection").build_v1();
        let v1alpha = reflection("grpc.reflection.v1alpha.ServerReflection").build_v1alpha();
        routes.add_service(v1.expect("embedded descriptors decode"));
        routes.add_service(v1alpha.expect("embedded descriptors decode"));
    }
    routes.routes().prepare()
}

#[cfg(test)]
mod tests;
