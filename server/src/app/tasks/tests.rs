use std::collections::{BTreeMap, BTreeSet};

use mayfly_model::task::{Definition, Instance, Stage, TaskStep};
use mayfly_model::{Agent, Revision};

use super::settle::LEASES_AFTER_START;
use super::sweep::Memory;
use super::*;
use crate::app::checkpoints::{Enforcing, Report};
use crate::app::people::{Person, PersonRecord};
use crate::app::testing::{World, csr};
use crate::app::tickets::NoTracker;
use crate::watch::History;

const LEASE: Duration = Duration::from_secs(10);

/// A server with one agent, a workload of it, and a definition that the workload may run.
struct Jobs {
    world: World,
    tasks: Arc<Tasks>,
    agent: Arc<Agent>,
    process: Attested,
}

impl Jobs {
    async fn new(definition: &str) -> Self {
        Self::with(definition, People::nobody("td".parse().unwrap())).await
    }

    async fn with(definition: &str, people: People) -> Self {
        let world = World::new().await;
        let agent = world.agent("a").await;
        let entry = world.entry("web", &agent.id, |_| {}).await;
        let tasks = Tasks::new(TaskParts {
            committer: world.committer.clone(),
            clock: world.clock.clone(),
            policy: Arc::new(PolicyHolder::new(world.committer.clone(), world.archive())),
            people: Arc::new(people),
            tickets: Arc::new(NoTracker),
            issuance: world.issuance.clone(),
            checkpoints: Arc::default(),
            hub: Arc::new(Hub::new(History::new(vec![]), Revision(0))),
            settings: TaskSettings {
                lease: LEASE,
                ..TaskSettings::default()
            },
        });
        let jobs = Self {
            process: Attested::new(
                &world.committer.snapshot(),
                &agent,
                &entry,
                ["unix:uid:1".parse().unwrap()].into_iter().collect(),
                Instance {
                    agent_id: agent.id.clone(),
                    pid: 4711,
                    uid: 1,
                    start_ticks: 1,
                    boot_id: "b".into(),
                    include_descendants: false,
                },
                world.now(),
                world.now(),
            )
            .unwrap(),
            world,
            tasks,
            agent,
        };
        jobs.define(definition).await;
        jobs
    }

    async fn define(&self, more: &str) {
        let text = format!("name = \"pay/migrate\"\nowner = \"ann\"\n{more}\n[allowed]\nworkloads = [\"/web\"]\n");
        let definition = Box::new(Definition::parse(&text).unwrap());
        let author = "ann".into();
        self.world
            .commit(Change::DefinitionPut { definition, author })
            .await
            .unwrap();
    }

    async fn request(&self) -> Result<Arc<Task>, TaskError> {
        let asked = Asked {
            task: "pay/migrate".parse().unwrap(),
            reason: "a test".into(),
            ticket: None,
            window: None,
            scopes: BTreeSet::new(),
            parameters: BTreeMap::new(),
            idempotency_key: None,
        };
        self.tasks.request(&Actor::server(), &self.process, asked).await
    }

    async fn open(&self) -> Opened {
        let id = self.request().await.unwrap().id.clone();
        let opened = self.tasks.open(&Actor::server(), &self.process, &id, csr()).await;
        opened.unwrap()
    }

    async fn close(&self, opened: &Opened) {
        let (cause, detail) = (mayfly_model::task::CloseCause::Completed, String::new());
        let actor = Actor::server();
        let closed = self.tasks.close(&actor, &self.agent, opened.window, cause, detail);
        closed.await.unwrap();
    }

    /// A consumer says what it enforces.
    fn enforces(&self, epoch: u64) {
        let said = Enforcing {
            consumers: 2,
            epoch,
            ..Enforcing::default()
        };
        let key = ("db".to_owned(), "spiffe://td/svc/db".parse().unwrap());
        let report = Report {
            run: 1,
            consumers: [(key, said)].into(),
            ..Report::default()
        };
        self.tasks.checkpoints.says(&self.agent.id, report);
        self.tasks.checkpoints.follows(&self.agent.id, epoch);
    }

    async fn pass(&self) {
        self.tasks.pass(&mut Memory::default()).await.unwrap();
    }

    fn stage(&self, opened: &Opened) -> Stage {
        let task = self.tasks.found(&opened.task.id).unwrap();
        task.window(&opened.window).unwrap().stage
    }

    fn set(&self, seconds: u64) {
        self.world.clock.advance(Duration::from_secs(seconds));
    }
}

#[tokio::test]
async fn who_is_refused_again_and_again_fills_no_memory() {
    // The workload is of no environment.
    let jobs = Jobs::new("environment = \"prod\"").await;
    for _ in 0..100 {
        assert_eq!(jobs.request().await.unwrap().stage, Stage::Denied);
    }
    for _ in 0..5 {
        let refused = jobs.request().await.unwrap_err();
        assert!(
            matches!(&refused, TaskError::Denied(reasons) if reasons[0].id == "environment-mismatch"),
            "{refused}"
        );
    }
    assert_eq!(jobs.world.committer.snapshot().tasks_before(None).count(), 100);
    assert_eq!(jobs.world.logged("policy.decided").len(), 105, "the log has them all");
}

#[tokio::test]
async fn an_agent_that_renews_without_a_pause_is_told_to_wait() {
    let jobs = Jobs::new("").await;
    let opened = jobs.open().await;
    let actor = Actor::server();
    let renew = || jobs.tasks.renew(&actor, &jobs.process, opened.window, csr());
    for _ in 0..4 {
        renew().await.unwrap();
    }
    let decided = jobs.world.logged("policy.decided").len();
    let refused = renew().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted, "{refused}");
    assert!(refused.to_string().contains("the next one is not before"), "{refused}");
    assert_eq!(
        jobs.world.logged("policy.decided").len(),
        decided,
        "nothing was decided"
    );
    // A life of 310 s: after half of it there is room again.
    jobs.set(160);
    renew().await.unwrap();
}

#[tokio::test]
async fn agents_have_some_leases_to_come_back_after_a_start() {
    let jobs = Jobs::new("").await;
    let opened = jobs.open().await;
    tokio::time::pause();
    tokio::time::advance(LEASE * (LEASES_AFTER_START - 1)).await;
    assert!(
        !jobs.tasks.is_lost(&jobs.agent.id),
        "it was never heard, for longer than the lease"
    );
    tokio::time::advance(LEASE).await;
    assert!(jobs.tasks.is_lost(&jobs.agent.id));
    tokio::time::resume();
    jobs.pass().await;
    let window = jobs.tasks.found(&opened.task.id).unwrap().windows[0].clone();
    assert_eq!(window.cause, Some(mayfly_model::task::CloseCause::LeaseLost));
}

// Requirement S81
#[tokio::test]
async fn a_settlement_says_who_enforced_it_and_since_when() {
    let jobs = Jobs::new("[ending]\ncheckpoints = [\"db@/svc/*\"]").await;
    let opened = jobs.open().await;
    jobs.enforces(0);
    jobs.pass().await;
    let registered = jobs.world.logged("checkpoint.registered");
    assert_eq!(registered[0].subject, "db@/svc/db");
    jobs.close(&opened).await;
    // A newer version that declares nobody does not speak for windows of the older one.
    jobs.define("").await;
    jobs.pass().await;
    assert_eq!(
        jobs.stage(&opened),
        Stage::Closed,
        "nobody has said that they enforce it"
    );
    let epoch = jobs.world.committer.snapshot().epoch();
    jobs.enforces(epoch);
    jobs.pass().await;
    assert_eq!(jobs.stage(&opened), Stage::Settled);
    let settled = &jobs.world.logged("window.settled")[0].body;
    assert_eq!(settled["term"], "enforced");
    let said = &settled["checkpoints"][0];
    assert_eq!(said["name"], "db@/svc/*");
    assert_eq!(
        (said["consumers"].as_u64(), said["epoch"].as_u64()),
        (Some(2), Some(epoch))
    );
    assert_eq!(said["at"].as_i64(), Some(jobs.world.now().unix()));
}

#[tokio::test]
async fn a_window_that_nobody_enforces_is_settled_when_clocks_that_are_behind_take_its_svids_no_more() {
    let jobs = Jobs::new("[ending]\ncheckpoints = [\"db@/svc/*\"]").await;
    let opened = jobs.open().await;
    jobs.close(&opened).await;
    jobs.set(60);
    jobs.pass().await;
    assert_eq!(jobs.stage(&opened), Stage::RevocationIncomplete);
    // The SVID lives for 300 s, its last second is the one before.
    jobs.set(300 - 60);
    jobs.pass().await;
    assert_eq!(jobs.stage(&opened), Stage::RevocationIncomplete, "it has just expired");
    jobs.set(30);
    jobs.pass().await;
    assert_eq!(jobs.stage(&opened), Stage::Settled);
    let settled = &jobs.world.logged("window.settled")[0].body;
    assert_eq!(
        (settled["term"].as_str(), settled["residual"].as_u64()),
        (Some("expired"), Some(329))
    );
}

// Requirement S39
#[tokio::test]
async fn nobody_approves_as_the_user_who_asks_under_whatever_name() {
    let bob = PersonRecord {
        id: "bob".parse().unwrap(),
        uids: [1].into(),
        spiffe_ids: BTreeSet::new(),
        groups: BTreeSet::new(),
    };
    let people = People::new("td".parse().unwrap(), [bob], &BTreeMap::new(), []);
    let jobs = Jobs::with("approval = { count = 1, groups = [\"leads\"] }", people).await;
    let task = jobs.request().await.unwrap();
    assert_eq!(task.stage, Stage::AwaitingApproval);
    let approve = async |authenticated_as: &str| {
        // By the configuration of now.
        let carol = Person {
            id: "carol".parse().unwrap(),
            groups: ["leads".parse().unwrap()].into(),
            authenticated_as: authenticated_as.into(),
        };
        let (actor, reason) = (Actor::server(), "looked at it".into());
        jobs.tasks.approve(&actor, &carol, &task.id, task.digest, reason).await
    };
    let refused = approve("uid:1").await.unwrap_err();
    let is_shared = |reason: &Reason| reason.id == "approve-with-requesters-key";
    assert!(
        matches!(&refused, TaskError::Denied(reasons) if reasons.iter().any(is_shared)),
        "{refused}"
    );
    assert_eq!(approve("uid:2").await.unwrap().stage, Stage::Armed);
}

#[tokio::test]
async fn what_was_asked_for_elsewhere_stays_when_a_node_is_revoked() {
    let jobs = Jobs::new("[limits]\nmax_uses = 2").await;
    let opened = jobs.open().await;
    let task = jobs.tasks.found(&opened.task.id).unwrap();
    assert_eq!(task.stage, Stage::Armed, "it can be opened once more");
    let mut elsewhere = Task::clone(&task);
    elsewhere.request.agent_id = "spiffe://td/spire/agent/t/b".parse().unwrap();
    let scope = Scope::Node(jobs.agent.id.clone());
    let ends = |task: &Task| {
        let steps = scope.steps(task, "the node is lost");
        let cancels = |(_, step): &(_, TaskStep)| matches!(step, TaskStep::Cancel { .. });
        (steps.len(), steps.iter().any(cancels))
    };
    assert_eq!(ends(&task), (2, true));
    assert_eq!(ends(&elsewhere), (1, false), "only its window");
}

/// A task that a consumer with the path `/svc/db` settles, which has acknowledged the end of its window, and another agent.
async fn acknowledged() -> (Jobs, Opened, Arc<Agent>) {
    let jobs = Jobs::new("[ending]\ncheckpoints = [\"/svc/*\"]").await;
    let other = jobs.world.agent("b").await;
    for agent in [&jobs.agent, &other] {
        jobs.world.entry("svc/db", &agent.id, |_| {}).await;
        jobs.tasks.checkpoints.says(
            &agent.id,
            Report {
                run: 1,
                ..Report::default()
            },
        );
    }
    let opened = jobs.open().await;
    jobs.close(&opened).await;
    let epoch = jobs.world.committer.snapshot().epoch();
    jobs.tasks.checkpoints.follows(&other.id, epoch);
    jobs.enforces(epoch);
    (jobs, opened, other)
}

#[tokio::test]
async fn an_agent_that_is_cut_off_and_then_evicted_may_have_consumers_still() {
    let (jobs, opened, other) = acknowledged().await;
    jobs.tasks.checkpoints.leaves(&other.id);
    jobs.world.commit(Change::AgentDelete(other.id.clone())).await.unwrap();
    jobs.pass().await;
    assert_eq!(jobs.stage(&opened), Stage::Closed, "who is behind it is not known");
    tokio::time::pause();
    tokio::time::advance(LEASE * 2 + Duration::from_secs(1)).await;
    tokio::time::resume();
    jobs.pass().await;
    assert_eq!(jobs.stage(&opened), Stage::Settled, "nobody there has a fresh word");
}

#[tokio::test]
async fn a_window_that_only_a_silent_agent_holds_up_says_so() {
    let (jobs, opened, other) = acknowledged().await;
    let epoch = jobs.world.committer.snapshot().epoch();
    let declared = ["/svc/*".to_owned()].into();
    let waits_for = || jobs.tasks.waits_for(&declared, epoch);
    assert!(waits_for().is_empty());
    jobs.tasks.checkpoints.opened(&other.id);
    assert_eq!(waits_for(), ["/svc/*"]);
    jobs.set(60);
    jobs.pass().await;
    assert_eq!(jobs.stage(&opened), Stage::RevocationIncomplete);
    let given_up = &jobs.world.logged("window.revocation_incomplete")[0].body;
    assert!(given_up.to_string().contains(other.id.as_str()), "{given_up}");
    // One that serves others has nobody whom the window waits for.
    let elsewhere = jobs.world.agent("c").await;
    jobs.tasks.checkpoints.opened(&elsewhere.id);
    jobs.tasks.checkpoints.says(
        &other.id,
        Report {
            run: 1,
            ..Report::default()
        },
    );
    jobs.tasks.checkpoints.follows(&other.id, epoch);
    assert!(waits_for().is_empty());
    jobs.pass().await;
    assert_eq!(jobs.stage(&opened), Stage::Settled);
}
