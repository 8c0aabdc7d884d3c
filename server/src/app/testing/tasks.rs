//! Windows without those who decide about them: requests that are granted as they come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mayfly_model::task::{
    ActorClass, CloseCause, Decision, Definition, Grant, Instance, Issuance as Lease, Needs, Outcome, Phase, Task,
    TaskClass, TaskId, TaskRequest, TaskStep, Terms, TtlTerm, Window,
};
use mayfly_model::{Actor, Agent, Change, EntryId};
use mayfly_svid::{SpiffeId, Timestamp, WindowId};

use super::{World, csr, id};
use crate::app::issue::{IssueError, WindowRequest, WindowSvid};
use crate::commit::StepResult;

const MIGRATE: &str = r#"
name = "pay/migrate"
owner = "alice"
environment = "prod"
scopes = ["schema:write"]
review_by = 2030-06-30

[allowed]
workloads = ["/web"]

[limits]
max_window = "30m"
concurrency = 100
"#;

/// A window that a test opens, and the SVIDs that it asks for.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) task_id: TaskId,
    pub(crate) window_id: WindowId,
    pub(crate) request: WindowRequest,
}

pub(crate) fn decision(phase: Phase, at: Timestamp) -> Decision {
    Decision {
        phase,
        allowed: true,
        reasons: vec![],
        determining: vec![],
        policy_digest: String::new(),
        inputs_digest: String::new(),
        at,
    }
}

/// The definition of `pay/migrate`.
pub(crate) fn migrate() -> Definition {
    Definition::parse(MIGRATE).unwrap()
}

impl World {
    /// A request for `pay/migrate` that is armed, of `agent`.
    pub(crate) async fn armed(&self, agent: &Agent) -> Opened {
        let definition = migrate();
        if self.committer.snapshot().definition(&definition.name).is_none() {
            let (definition, author) = (Box::new(definition.clone()), "alice".into());
            self.commit(Change::DefinitionPut { definition, author }).await.unwrap();
        }
        let (now, task_id) = (self.now(), TaskId::random());
        let request = TaskRequest {
            task: definition.name.clone(),
            definition: definition.hash(),
            workload: id("/web"),
            entry_id: EntryId::random(),
            agent_id: agent.id.clone(),
            actor: ActorClass::Workload,
            person: None,
            owner: None,
            selectors: mayfly_model::Selectors::default(),
            reason: "a test".into(),
            ticket: None,
            window: Duration::from_secs(900),
            scopes: BTreeSet::new(),
            parameters: BTreeMap::new(),
            idempotency_key: task_id.to_string(),
            requested_at: now,
        };
        let terms = Terms {
            needs: Needs::default(),
            grant: Grant {
                open_by: now.plus(Duration::from_secs(600)),
                uses_left: 1,
                window_max: Duration::from_secs(1800),
                concurrency: 100,
                settle_before_next: false,
                heartbeat: None,
                review: false,
                checkpoints: BTreeSet::new(),
            },
            open_within: Duration::from_secs(600),
            wait_until: now.plus(Duration::from_secs(600)),
        };
        let decided = decision(Phase::Request, now);
        let task = Task::submitted(task_id.clone(), request, decided, Outcome::Permit, terms, now).unwrap();
        self.commit(Change::TaskSubmit(Box::new(task))).await.unwrap();
        let window_id = WindowId(uuid_bytes());
        let request = WindowRequest {
            task_id: task_id.clone(),
            window_id,
            agent_id: agent.id.clone(),
            spiffe_id: id("/task/pay/migrate/web"),
            class: TaskClass::Standard,
            definition: definition.hash(),
            csr_der: csr(),
            not_before: now,
            not_after: now.plus(Duration::from_secs(300)),
            ttl_term: TtlTerm::Definition,
            closes_at: now.plus(Duration::from_secs(900)),
        };
        Opened {
            task_id,
            window_id,
            request,
        }
    }

    /// The first SVID of a window, which it opens.
    pub(crate) async fn open_window(&self, armed: &Opened) -> Result<WindowSvid, IssueError> {
        let (request, at) = (armed.request.clone(), self.now());
        let record = |lease: &Lease| vec![opens(&request, lease, at)];
        self.issuance
            .for_window(&Actor::server(), armed.request.clone(), record)
            .await
    }

    /// A further SVID, with a new key.
    pub(crate) async fn renew(&self, opened: &Opened) -> Result<WindowSvid, IssueError> {
        let now = self.now();
        let request = WindowRequest {
            csr_der: csr(),
            not_before: now,
            not_after: now.plus(Duration::from_secs(300)),
            ..opened.request.clone()
        };
        let record = |lease: &Lease| {
            let step = TaskStep::Renew {
                window: opened.window_id,
                issuance: lease.clone(),
                decision: decision(Phase::Renew, now),
            };
            vec![step_of(&opened.task_id, step)]
        };
        self.issuance.for_window(&Actor::server(), request, record).await
    }

    /// Ends the window.
    pub(crate) async fn close(&self, opened: &Opened) -> StepResult {
        let step = TaskStep::Close {
            window: opened.window_id,
            cause: CloseCause::Completed,
            detail: String::new(),
        };
        self.commit(step_of(&opened.task_id, step)).await
    }

    /// An agent with an open window, and its SVID.
    pub(crate) async fn opened(&self, agent: &Agent) -> (Opened, WindowSvid) {
        let armed = self.armed(agent).await;
        let svid = self.open_window(&armed).await.unwrap();
        (armed, svid)
    }
}

pub(crate) fn step_of(id: &TaskId, step: TaskStep) -> Change {
    let (id, step) = (id.clone(), Box::new(step));
    Change::TaskStep { id, step }
}

/// The step that opens a window with its first SVID.
pub(crate) fn opens(request: &WindowRequest, lease: &Lease, at: Timestamp) -> Change {
    let window = Window::new(
        request.window_id,
        instance(&request.agent_id),
        request.spiffe_id.clone(),
        lease.clone(),
        at,
        request.closes_at,
    );
    let (window, decision) = (Box::new(window), decision(Phase::Open, at));
    step_of(&request.task_id, TaskStep::Open { window, decision })
}

fn instance(agent_id: &SpiffeId) -> Instance {
    Instance {
        agent_id: agent_id.clone(),
        pid: 4711,
        uid: 1000,
        start_ticks: 1,
        boot_id: "b".into(),
        include_descendants: false,
    }
}

fn uuid_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}
