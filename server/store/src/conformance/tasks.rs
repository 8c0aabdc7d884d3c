//! Definitions, policy, proposals, and the guards of tasks that only the database can ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mayfly_model::task::{
    Acknowledged, ActorClass, CloseCause, Decision, Definition, Grant, Instance, Issuance, Needs, Outcome,
    PROPOSALS_KEPT, Phase, PolicyFiles, Proposal, ProposalState, ProposedChange, SettledBy, Stage, Task, TaskId,
    TaskRefusal, TaskRequest, TaskStep, Terms, TtlTerm, Window,
};
use mayfly_model::{Change, Conflict, Delta, Selectors};
use mayfly_svid::{Timestamp, WindowId};

use super::{Fixture, World, id, serial};

const NAME: &str = "pay/migrate";

fn definition(class: &str) -> Definition {
    let text = format!(
        "name = \"{NAME}\"\nowner = \"ann\"\nclass = \"{class}\"\nescalation = \"#ops\"\n\
         [allowed]\nworkloads = [\"/web\"]\n[approval]\ncount = 1\ngroups = [\"leads\"]\n[ticket]\nrequired = true\n"
    );
    Definition::parse(&text).unwrap()
}

fn put(class: &str) -> Change {
    Change::DefinitionPut {
        definition: Box::new(definition(class)),
        author: "ann".into(),
    }
}

fn at(world: &World, seconds: i64) -> Timestamp {
    Timestamp::from_unix(world.now + seconds)
}

fn decision() -> Decision {
    Decision {
        phase: Phase::Open,
        allowed: true,
        reasons: vec![],
        determining: vec![],
        policy_digest: String::new(),
        inputs_digest: String::new(),
        at: Timestamp::default(),
    }
}

/// A request that needs nobody and is a grant at once.
fn task(world: &World, class: &str, key: &str, settle_before_next: bool) -> Task {
    let request = TaskRequest {
        task: NAME.parse().unwrap(),
        definition: definition(class).hash(),
        workload: id("/web"),
        entry_id: "e".parse().unwrap(),
        agent_id: id("/spire/agent/x509pop/a"),
        actor: ActorClass::Workload,
        person: None,
        owner: None,
        selectors: Selectors::default(),
        reason: "because".into(),
        ticket: None,
        window: Duration::from_secs(600),
        scopes: BTreeSet::new(),
        parameters: BTreeMap::new(),
        idempotency_key: key.into(),
        requested_at: at(world, 0),
    };
    let hour = Duration::from_secs(3600);
    let terms = Terms {
        needs: Needs::default(),
        grant: Grant {
            open_by: at(world, 3600),
            uses_left: 1,
            window_max: Duration::from_secs(600),
            concurrency: 1,
            settle_before_next,
            heartbeat: None,
            review: class == "breakglass",
            checkpoints: ["/svc/db".to_owned()].into(),
        },
        open_within: hour,
        wait_until: at(world, 3600),
    };
    Task::submitted(
        TaskId::random(),
        request,
        decision(),
        Outcome::Permit,
        terms,
        at(world, 0),
    )
    .unwrap()
}

fn submit(task: &Task) -> Change {
    Change::TaskSubmit(Box::new(task.clone()))
}

fn step(task: &Task, step: TaskStep) -> Change {
    Change::TaskStep {
        id: task.id.clone(),
        step: Box::new(step),
    }
}

fn lease(world: &World, number: u8) -> Issuance {
    Issuance {
        serial: serial(number),
        public_key_sha256: format!("{number:064}"),
        not_before: at(world, 0),
        not_after: at(world, 100),
        authority_id: "task-authority".into(),
        ttl_term: TtlTerm::Definition,
        revoked: None,
    }
}

fn open(world: &World, task: &Task, number: u8) -> Change {
    let window = Window::new(
        WindowId([number; 16]),
        Instance {
            agent_id: id("/spire/agent/x509pop/a"),
            pid: 1,
            uid: 1,
            start_ticks: 1,
            boot_id: "b".into(),
            include_descendants: false,
        },
        id("/task/pay/migrate/web"),
        lease(world, number),
        at(world, 0),
        at(world, 600),
    );
    step(
        task,
        TaskStep::Open {
            window: Box::new(window),
            decision: decision(),
        },
    )
}

fn close(task: &Task, number: u8) -> Change {
    step(
        task,
        TaskStep::Close {
            window: WindowId([number; 16]),
            cause: CloseCause::Completed,
            detail: String::new(),
        },
    )
}

/// All checkpoints say so.
fn settled(world: &World, window: WindowId) -> TaskStep {
    let said = Acknowledged {
        name: "/svc/db".into(),
        consumers: 1,
        epoch: u64::MAX,
        at: at(world, 0),
    };
    TaskStep::Settle {
        window,
        residual: 3,
        term: SettledBy::Enforced,
        checkpoints: vec![said],
    }
}

pub(crate) fn a_definition_has_versions_and_a_new_one_supersedes_what_waits(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let early = task(&world, "standard", "k", false);
    assert!(matches!(world.refuses(submit(&early)), Conflict::DefinitionNotFound(_)));
    world.does(put("standard"));
    assert!(matches!(world.refuses(put("standard")), Conflict::DefinitionUnchanged));
    world.does(submit(&early));
    // The other class is another content.
    let deltas = world.does(put("breakglass"));
    assert!(
        matches!(&deltas[..], [Delta::DefinitionPut(version), Delta::TaskPut(task)]
        if version.version == 2 && task.stage == Stage::Superseded)
    );
    assert!(matches!(
        world.refuses(open(&world, &early, 1)),
        Conflict::Task(TaskRefusal::Stage(_))
    ));
    let late = task(&world, "standard", "k", false);
    assert!(matches!(world.refuses(submit(&late)), Conflict::DefinitionChanged(_)));
    world.does(Change::DefinitionRetire(NAME.parse().unwrap()));
    assert!(matches!(
        world.refuses(Change::DefinitionRetire(NAME.parse().unwrap())),
        Conflict::DefinitionNotFound(_)
    ));
    let versions = world.archive().definition_versions(&NAME.parse().unwrap()).unwrap();
    assert_eq!(
        versions.iter().map(|version| version.version).collect::<Vec<_>>(),
        [1, 2]
    );
    world.finish();
}

pub(crate) fn one_key_is_one_live_request_and_one_window(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(put("standard"));
    let (first, twin, other) = (
        task(&world, "standard", "k", false),
        task(&world, "standard", "k", false),
        task(&world, "standard", "l", false),
    );
    world.does(submit(&first));
    assert!(matches!(world.refuses(submit(&twin)), Conflict::TaskExists(found) if found.id == first.id));
    world.does(submit(&other));
    world.does(open(&world, &first, 1));
    assert!(matches!(world.refuses(open(&world, &first, 2)), Conflict::Task(_)));
    assert!(matches!(
        world.refuses(open(&world, &other, 2)),
        Conflict::TooManyWindows { open: 1 }
    ));
    world.does(close(&first, 1));
    // The key of the first window, in another one.
    assert!(matches!(world.refuses(open(&world, &other, 1)), Conflict::KeyReused));
    world.does(open(&world, &other, 2));
    let renew = |world: &World, number| {
        step(
            &other,
            TaskStep::Renew {
                window: WindowId([2; 16]),
                issuance: lease(world, number),
                decision: decision(),
            },
        )
    };
    assert!(matches!(world.refuses(renew(&world, 2)), Conflict::KeyReused));
    world.does(renew(&world, 3));
    world.finish();
}

pub(crate) fn an_end_has_an_epoch_and_what_it_refuses_is_known_after_a_restart(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(put("standard"));
    let (first, second) = (task(&world, "standard", "k", true), task(&world, "standard", "l", true));
    world.does(submit(&first));
    world.does(open(&world, &first, 1));
    world.does(submit(&second));
    let revoke = step(
        &first,
        TaskStep::RevokeSvid {
            window: WindowId([1; 16]),
            serial: serial(1),
        },
    );
    let deltas = world.does(revoke);
    assert!(matches!(&deltas[..], [Delta::TaskPut(_), Delta::Revoked(what)]
        if what.epoch == 1 && !what.whole_window && what.serials == [serial(1)]));
    let deltas = world.does(close(&first, 1));
    assert!(matches!(&deltas[..], [Delta::TaskPut(_), Delta::Revoked(what)] if what.epoch == 2 && what.whole_window));
    assert!(matches!(
        world.refuses(close(&first, 1)),
        Conflict::Task(TaskRefusal::AlreadyEnded)
    ));
    assert_eq!(world.store.load().unwrap().epoch, 2);
    // Nothing before the last one is settled, where the definition says so.
    assert!(matches!(
        world.refuses(open(&world, &second, 2)),
        Conflict::NotSettled(_)
    ));
    let window = WindowId([1; 16]);
    world.does(step(&first, TaskStep::Confirm { window }));
    world.does(step(&first, settled(&world, window)));
    world.does(open(&world, &second, 2));
    world.finish();
}

pub(crate) fn break_glass_waits_for_its_review_and_what_is_over_is_forgotten(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(put("breakglass"));
    let (first, second) = (
        task(&world, "breakglass", "k", false),
        task(&world, "breakglass", "l", false),
    );
    world.does(submit(&first));
    world.does(open(&world, &first, 1));
    world.does(close(&first, 1));
    assert!(matches!(world.refuses(submit(&second)), Conflict::ReviewDue(due) if due == first.id));
    let (by, reason) = ("ann".parse().unwrap(), "as announced".into());
    world.does(step(&first, TaskStep::Review { by, reason }));
    world.does(submit(&second));
    let window = WindowId([1; 16]);
    world.does(step(&first, TaskStep::Confirm { window }));
    world.does(step(&first, settled(&world, window)));
    let before = at(&world, 1);
    let deltas = world.does(Change::TaskPrune { before });
    assert!(matches!(&deltas[..], [Delta::TaskGone(gone)] if gone.id == first.id));
    // What it refused goes with it.
    world.memory.revocations.clear();
    world.finish();
}

pub(crate) fn a_proposal_is_decided_once_by_somebody_else_and_does_what_it_says(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let proposal = Proposal {
        id: "p1".into(),
        change: ProposedChange::Policy {
            files: [("a.cedar".to_owned(), "// nothing".to_owned())].into(),
        },
        author: "ann".into(),
        proposed_at: at(&world, 0),
        state: ProposalState::Pending,
        decided_by: String::new(),
        decided_at: None,
    };
    let decide = |by: &str, approve| Change::ProposalDecide {
        id: "p1".into(),
        by: by.into(),
        approve,
    };
    assert!(matches!(
        world.refuses(decide("bob", true)),
        Conflict::ProposalNotPending(_)
    ));
    world.does(Change::ProposalAdd(Box::new(proposal.clone())));
    assert!(matches!(
        world.refuses(Change::ProposalAdd(Box::new(proposal))),
        Conflict::ProposalNotPending(_)
    ));
    assert!(matches!(world.refuses(decide("ann", true)), Conflict::OwnProposal));
    let deltas = world.does(decide("bob", true));
    assert!(matches!(&deltas[..], [Delta::PolicyPut(policy), Delta::ProposalPut(_)]
        if policy.author == "ann, approved by bob"));
    assert!(matches!(
        world.refuses(decide("cay", false)),
        Conflict::ProposalNotPending(_)
    ));
    let set = |world: &World, replaces| Change::PolicySet {
        policy: Box::new(PolicyFiles {
            files: BTreeMap::new(),
            author: "cay".into(),
            set_at: at(world, 9),
        }),
        replaces,
    };
    let stale = Some(at(&world, -1));
    assert!(matches!(world.refuses(set(&world, stale)), Conflict::PolicyChanged));
    let present = Some(at(&world, 0));
    world.does(set(&world, present));
    // One's own is taken back, and of those that are decided the last ones are kept.
    for number in 0..=PROPOSALS_KEPT {
        let id = format!("q{number:03}");
        let (state, author) = (ProposalState::Pending, "ann".to_owned());
        let proposal = Proposal {
            id: id.clone(),
            change: ProposedChange::Retirement {
                name: "pay/migrate".parse().unwrap(),
            },
            author: author.clone(),
            proposed_at: at(&world, 0),
            state,
            decided_by: String::new(),
            decided_at: None,
        };
        world.does(Change::ProposalAdd(Box::new(proposal)));
        world.now += 1;
        let (by, approve) = (author, false);
        world.does(Change::ProposalDecide { id, by, approve });
    }
    let kept = world.store.load().unwrap().proposals;
    assert_eq!(kept.len(), PROPOSALS_KEPT);
    assert_eq!(kept[0].id, "q001", "p1 and q000 were decided first");
    world.finish();
}
