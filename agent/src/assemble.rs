//! Puts the agent together: the only file that names every part.
//!
//! ```text
//!   Keeper (sync) ──publishes──▶ View ──▶ Worker (svids) ◀── WorkloadServer (api) ◀── processes
//!        │                                   │
//!        ├── Link ◀── ServerIssuer ◀─────────┘ certificates
//!        └── Witness: is the server's log the one that it was?
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mayfly_runtime::admin_http::{AdminHttp, AdminPages};
use mayfly_runtime::files::{self, DirLock};
use mayfly_runtime::{Clock, Readiness, Supervisor, SystemClock};
use mayfly_svid::Bundle;
use prometheus_client::registry::Registry;
use tracing::info;

use crate::api::{ApiMetrics, ApiParts, WorkloadServer};
use crate::config::Settings;
use crate::news::News;
use crate::svids::{self, SvidMetrics};
use crate::sync::{AGENT_VERSION, Keeper, KeeperParts, Link, ServerIssuer, ServerTasks, SyncMetrics, channel_settings};
use crate::tasks::{self, TaskMetrics, TaskParts};
use crate::view::ViewPublisher;
use crate::witness::{Witness, WitnessMetrics, WitnessParts};

/// An agent whose sockets are bound and whose tasks run.
#[derive(Debug)]
pub struct Agent {
    supervisor: Supervisor,
    readiness: Readiness,
    drain: Duration,
    _lock: DirLock,
}

/// Binds, loads and starts everything. Must be called within a tokio runtime.
///
/// # Errors
/// Something that no waiting can mend: the folder is in use, the socket is taken, what is kept cannot be read.
pub fn start(settings: Settings) -> anyhow::Result<Agent> {
    let lock = files::lock_dir(&settings.data_dir).context("cannot use data_dir")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (supervisor, readiness) = (Supervisor::new(), Readiness::new());
    let mut registry = Registry::with_prefix("mayfly_agent");

    let views = Arc::new(ViewPublisher::new(Bundle::empty(settings.trust_domain.clone())));
    let (link, news) = (Link::new(), News::new());
    let svid_metrics = SvidMetrics::default();
    svid_metrics.register(&mut registry);
    let issuer = Arc::new(ServerIssuer::new(Arc::clone(&link), Arc::clone(&news)));
    let (svids, worker) = svids::start(
        settings.svids,
        issuer,
        views.subscribe(),
        link.heard(),
        Arc::clone(&clock),
        svid_metrics,
    );

    let witness_metrics = WitnessMetrics::default();
    witness_metrics.register(&mut registry);
    let witness = Witness::open(WitnessParts {
        data_dir: &settings.data_dir,
        clock: Arc::clone(&clock),
        distrust: news.distrust().clone(),
        readiness: readiness.clone(),
        metrics: witness_metrics,
    })?;
    news.set_witness(witness);

    let sync_metrics = SyncMetrics::default();
    sync_metrics.register(&mut registry);
    let keeper = Keeper::new(KeeperParts {
        trust_domain: settings.trust_domain,
        server: settings.server,
        trust_source: settings.trust_source,
        evidence: settings.evidence,
        data_dir: settings.data_dir,
        clock: Arc::clone(&clock),
        channel: channel_settings(),
        views: Arc::clone(&views),
        news: Arc::clone(&news),
        link: Arc::clone(&link),
        readiness: readiness.clone(),
        metrics: sync_metrics,
    })?;

    let task_metrics = TaskMetrics::default();
    task_metrics.register(&mut registry);
    let parts = TaskParts {
        server: Arc::new(ServerTasks::new(Arc::clone(&link), Arc::clone(&news))),
        news: Arc::clone(&news),
        views: views.subscribe(),
        clock: Arc::clone(&clock),
        boot_id: boot_id()?,
        metrics: task_metrics.clone(),
    };
    let (tasks, task_keeper) = tasks::start(settings.tasks, parts);

    let api_metrics = ApiMetrics::default();
    api_metrics.register(&mut registry);
    let parts = ApiParts {
        svids,
        views: views.subscribe(),
        attestors: Arc::new(settings.attestors),
        clock,
        metrics: api_metrics,
        tasks,
        news,
        task_metrics,
    };
    let workload_api = WorkloadServer::bind(settings.api, parts)?;
    workload_api.listen_metrics().register(&mut registry, "workload_api");

    if let Some(address) = settings.health {
        let pages = AdminPages {
            readiness: readiness.clone(),
            liveness: Arc::new(|| Ok(())),
            registry: Arc::new(registry),
        };
        let pages = AdminHttp::bind(address, pages.router())?;
        info!(address = %pages.address(), "health and metrics pages");
        supervisor.spawn_once("admin_http", async move |stop| {
            pages.serve(stop).await;
            Ok(())
        });
    }
    supervisor.spawn_once("svids", |stop| worker.run(stop));
    supervisor.spawn_once("tasks", |stop| task_keeper.run(stop));
    supervisor.spawn_once("sync", async move |stop| {
        keeper.run(stop).await;
        Ok(())
    });
    supervisor.spawn_once("workload_api", async move |stop| {
        workload_api.run(stop).await;
        Ok(())
    });
    info!(version = AGENT_VERSION, "agent started");
    Ok(Agent {
        supervisor,
        readiness,
        drain: settings.drain,
        _lock: lock,
    })
}

/// Which boot of the machine this is: a process's number and start mean something within one only.
fn boot_id() -> anyhow::Result<String> {
    let file = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    Ok(text.trim().to_owned())
}

// === impl Agent ===

impl Agent {
    /// What is still missing until the agent is of use.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// The tasks, to stop them from within.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Runs until a signal, then ends streams and stops. A second signal ends the process at once.
    ///
    /// # Errors
    /// A task failed.
    pub async fn run(self) -> anyhow::Result<()> {
        // Streams have `drain`; tasks that close after them get a moment more.
        let drain = self.drain + Duration::from_secs(2);
        self.supervisor.run_until_signal(drain).await?;
        info!("agent stopped");
        Ok(())
    }
}
