//! A world with a task, as the figures of tasks need it: a server with policies, an agent, and processes that run it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mayfly_proto::mayfly::task::definitions_client::DefinitionsClient;
use mayfly_proto::mayfly::task::policy_client::PolicyClient;
use mayfly_proto::mayfly::task::revoke_request::Scope;
use mayfly_proto::mayfly::task::tasks_client::TasksClient as PeoplesTasksClient;
use mayfly_proto::mayfly::task::{DefineRequest, RevokeRequest, SetPolicyRequest};
use mayfly_proto::mayfly::workload::tasks_client::TasksClient;
use mayfly_proto::mayfly::workload::{EndRequest, OpenRequest, RequestRequest, Stage, TaskState};
use mayfly_proto::spiffe::workload::X509svid;
use mayfly_proto::spire::types::Entry;
use mayfly_svid::{Bundle, TaskExtension, X509Svid};
use mayfly_tests::caller::channel_over;
use mayfly_tests::tasks::{CHECKPOINT, JOB_UID, PEOPLE};
use mayfly_tests::{Agent, AgentOptions, Caller, Proxy, Server, selector};
use tokio::sync::Notify;
use tonic::Request;
use tonic::transport::Channel;

use crate::parts::entries::create;
use crate::target::{Target, start_agent_with, start_server_with};
use crate::workload;

/// The task.
pub const TASK: &str = "pay/settle-day";
/// The SPIFFE ID path of consumers, which run as this program's user.
pub const SERVICE: &str = "/svc/pay-db";
/// What entries call the agent.
const NODE: &str = "/node";
const PATIENCE: Duration = Duration::from_secs(60);
/// One user runs all consumers here; by default it may have 256 connections.
const MANY: &str = "max_connections_per_uid = 8000\nstreams_per_uid = 8000\nattestations_waiting = 8000\n";

/// The policies that the repository shows its users. None of them is about this task alone; those about sensitivity,
/// agents and partners are asked at every decision.
const POLICIES: [(&str, &str); 6] = [
    (
        "1.cedar",
        include_str!("../../../server/policy/examples/policies/1-schema-migration.cedar"),
    ),
    (
        "2.cedar",
        include_str!("../../../server/policy/examples/policies/2-deploy.cedar"),
    ),
    (
        "3.cedar",
        include_str!("../../../server/policy/examples/policies/3-data-export.cedar"),
    ),
    (
        "4.cedar",
        include_str!("../../../server/policy/examples/policies/4-agent-envelope.cedar"),
    ),
    (
        "5.cedar",
        include_str!("../../../server/policy/examples/policies/5-break-glass.cedar"),
    ),
    (
        "6.cedar",
        include_str!("../../../server/policy/examples/policies/6-third-party.cedar"),
    ),
];

/// Server and agent, with the task in force.
#[derive(Debug)]
pub struct World {
    /// The server.
    pub server: Server,
    /// The same, to be called.
    pub target: Target,
    /// The agent.
    pub agent: Agent,
    /// Between agent and server, if there is something.
    pub proxy: Option<Proxy>,
}

/// A process of the job's user with its stream of SVIDs.
#[derive(Debug)]
pub struct Job {
    // Ends with this.
    _process: Caller,
    tasks: TasksClient<Channel>,
    seen: Rc<Seen>,
    reading: tokio::task::JoinHandle<()>,
}

/// Inside a window.
#[derive(Debug)]
pub struct Inside {
    /// The request.
    pub request_id: String,
    /// The window.
    pub window_id: String,
    /// When the call to open it was answered.
    pub opened: Instant,
    /// When the request was answered.
    pub granted: Instant,
    /// When the SVID came on the stream.
    pub arrived: Instant,
    /// With its key.
    pub svid: X509svid,
}

#[derive(Debug, Default)]
struct Seen {
    windows: RefCell<HashMap<String, (Instant, X509svid)>>,
    changed: Notify,
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let yes = "true".parse().expect("plain ASCII");
    request.metadata_mut().insert("workload.spiffe.io", yes);
    request
}

impl World {
    /// Starts all of it. Windows wait for consumers if `has_checkpoint`; the lease is that of the server unless one is
    /// given; with `is_cuttable` there is a proxy between agent and server.
    ///
    /// # Errors
    /// Something was refused.
    pub async fn start(has_checkpoint: bool, lease: Option<Duration>, is_cuttable: bool) -> Result<Self> {
        let lease = lease.map_or(String::new(), |lease| {
            let (whole, quarter) = (lease.as_millis(), lease.as_millis() / 4);
            format!("[tasks]\nlease = \"{whole}ms\"\n[watch]\nbeacon_interval = \"{quarter}ms\"\n")
        });
        let server = start_server_with(&format!("{PEOPLE}{lease}")).await?;
        let target = Target::of(&server).await?;
        let proxy = if is_cuttable {
            Some(Proxy::to(server.port()).await)
        } else {
            None
        };
        let options = AgentOptions {
            port: proxy.as_ref().map(Proxy::port),
            workload_api: MANY.into(),
            ..AgentOptions::default()
        };
        let (agent, _) = start_agent_with(&server, Some(NODE), options).await?;
        let entry = |path: &str, of: String| Entry {
            spiffe_id: Some(target.wire_id(path)),
            parent_id: Some(target.wire_id(NODE)),
            selectors: vec![selector(&of)],
            ..Entry::default()
        };
        let service = entry(SERVICE, workload::own_selector());
        let job = entry("/ns/pay/settler", format!("unix:uid:{JOB_UID}"));
        create(&target, vec![service, job]).await?;

        let ending = if has_checkpoint {
            format!("[ending]\ncheckpoints = [\"{CHECKPOINT}@{SERVICE}\"]\n")
        } else {
            String::new()
        };
        let definition = format!(
            "name = \"{TASK}\"\nowner = \"ann\"\n[allowed]\nworkloads = [\"/ns/pay/settler\"]\n\
             [limits]\nmax_window = \"10m\"\nmax_ttl = \"5m\"\nconcurrency = 100\n{ending}"
        );
        let defined = DefinitionsClient::new(target.operator())
            .define(DefineRequest { definition })
            .await?;
        ensure!(defined.get_ref().in_force, "the definition waits for a second person");
        let request = SetPolicyRequest {
            files: POLICIES
                .iter()
                .map(|(name, text)| ((*name).into(), (*text).into()))
                .collect(),
            replaces: String::new(),
        };
        let set = PolicyClient::new(target.operator()).set(request).await?;
        ensure!(set.get_ref().in_force, "the policies wait for a second person");
        Ok(Self {
            server,
            target,
            agent,
            proxy,
        })
    }

    /// Ends a window as an operator.
    ///
    /// # Errors
    /// The server's.
    pub async fn revoke(&self, window_id: &str) -> Result<()> {
        let request = RevokeRequest {
            scope: Some(Scope::WindowId(window_id.into())),
            reason: "measured".into(),
            hard_cut: false,
        };
        let ended = PeoplesTasksClient::new(self.target.operator()).revoke(request).await?;
        ensure!(ended.get_ref().window_ids.len() == 1, "{ended:?}");
        Ok(())
    }
}

impl Job {
    /// A process with an identity and an open stream.
    ///
    /// # Errors
    /// The agent's.
    pub async fn start(agent: &Agent) -> Result<Self> {
        let mut process = Caller::spawn(JOB_UID);
        let channel = channel_over(process.connect(&agent.socket()));
        let (_, mut messages) = mayfly_tests::eventually("the job's base SVID", PATIENCE, async || {
            workload::subscribe(channel.clone()).await.ok()
        })
        .await;
        let seen: Rc<Seen> = Rc::default();
        let noted = Rc::clone(&seen);
        let reading = tokio::task::spawn_local(async move {
            while let Ok(Some(message)) = messages.message().await {
                let now = Instant::now();
                for svid in message.svids {
                    if let Some(window) = window_of(&svid) {
                        noted.windows.borrow_mut().entry(window).or_insert((now, svid));
                    }
                }
                noted.changed.notify_waiters();
            }
        });
        Ok(Self {
            _process: process,
            tasks: TasksClient::new(channel),
            seen,
            reading,
        })
    }

    /// Asks for the task, opens its window and waits for its SVID on the stream.
    ///
    /// # Errors
    /// It was refused.
    pub async fn enter(&self, key: u64) -> Result<Inside> {
        let mut tasks = self.tasks.clone();
        let request = RequestRequest {
            task: TASK.into(),
            reason: "settles the day's payments".into(),
            idempotency_key: format!("{}-{key}", std::process::id()),
            ..RequestRequest::default()
        };
        let state = tasks
            .request(with_header(request))
            .await
            .context("Request")?
            .into_inner();
        let granted = Instant::now();
        ensure!(state.stage() == Stage::Armed, "the request is not granted: {state:?}");
        let request = OpenRequest {
            request_id: state.request_id.clone(),
            include_descendants: false,
        };
        let TaskState {
            request_id, window_id, ..
        } = tasks.open(with_header(request)).await.context("Open")?.into_inner();
        let opened = Instant::now();
        let wait = async {
            loop {
                let changed = self.seen.changed.notified();
                if let Some(found) = self.seen.windows.borrow_mut().remove(&window_id) {
                    return found;
                }
                changed.await;
            }
        };
        let Ok((arrived, svid)) = tokio::time::timeout(PATIENCE, wait).await else {
            bail!("the SVID of window {window_id} did not come");
        };
        Ok(Inside {
            request_id,
            window_id,
            opened,
            granted,
            arrived,
            svid,
        })
    }

    /// Says that the task is done.
    ///
    /// # Errors
    /// The agent's.
    pub async fn complete(&self, inside: &Inside) -> Result<()> {
        let request = EndRequest {
            request_id: inside.request_id.clone(),
            detail: String::new(),
        };
        self.tasks
            .clone()
            .complete(with_header(request))
            .await
            .context("Complete")?;
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Inside {
    /// The SVID, read.
    ///
    /// # Errors
    /// It is none.
    pub fn certificate(&self) -> Result<X509Svid> {
        Ok(X509Svid::from_concatenated_der(&self.svid.x509_svid)?)
    }

    /// What its holder verifies others with.
    ///
    /// # Errors
    /// It is none.
    pub fn bundle(&self) -> Result<Bundle> {
        let trust_domain = self.certificate()?.spiffe_id().trust_domain();
        Ok(Bundle::from_concatenated_der(trust_domain, &self.svid.bundle)?)
    }
}

/// The window of a task SVID.
fn window_of(svid: &X509svid) -> Option<String> {
    let svid = X509Svid::from_concatenated_der(&svid.x509_svid).ok()?;
    let task = TaskExtension::from_certificate_der(&svid.chain()[0]).ok()??;
    Some(task.window_id.to_string())
}
