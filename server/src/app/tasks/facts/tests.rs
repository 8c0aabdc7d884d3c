use std::collections::BTreeMap;
use std::time::Instant;

use mayfly_model::Revision;
use mayfly_model::task::{Approval as Given, Issuance, Needs, Terms, TtlTerm};
use mayfly_model::{Delta, EntryId};
use mayfly_store::State;
use mayfly_svid::{Serial, WindowId};
use proptest::prelude::*;

use super::*;
use crate::app::testing::tasks::{decision, migrate};
use crate::app::testing::{START, World, id};

const HOUR: i64 = 3600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(i64::try_from(START).unwrap() + seconds)
}

fn version() -> DefinitionVersion {
    let definition = migrate();
    DefinitionVersion {
        hash: definition.hash(),
        definition,
        version: 1,
        retired: false,
        author: "ann".into(),
        defined_at: at(0),
    }
}

/// Of these, those that were asked for at `when`; with windows of these stages.
fn task(number: u64, name: &str, workload: &str, when: i64, stage: Stage, windows: &[Stage]) -> Task {
    let request = TaskRequest {
        task: name.parse().unwrap(),
        definition: migrate().hash(),
        workload: id(workload),
        entry_id: EntryId::random(),
        agent_id: id("/spire/agent/t/a"),
        actor: ActorClass::Workload,
        person: None,
        owner: None,
        selectors: Selectors::default(),
        reason: "a test".into(),
        ticket: None,
        window: Duration::from_secs(900),
        scopes: BTreeSet::new(),
        parameters: BTreeMap::new(),
        idempotency_key: number.to_string(),
        requested_at: at(when),
    };
    let terms = Terms {
        needs: Needs::default(),
        grant: mayfly_model::task::Grant {
            open_by: at(when + HOUR),
            uses_left: 1,
            window_max: Duration::from_secs(900),
            concurrency: 100,
            settle_before_next: false,
            heartbeat: None,
            review: name.ends_with("glass"),
            checkpoints: BTreeSet::new(),
        },
        open_within: Duration::from_secs(3600),
        wait_until: at(when + HOUR),
    };
    let decided = decision(ModelPhase::Request, at(when));
    // Newer ones sort last.
    let id = format!("01900000-0000-7000-8000-{number:012x}").parse().unwrap();
    let mut task = Task::submitted(id, request, decided, Outcome::Permit, terms, at(when)).unwrap();
    task.stage = stage;
    task.windows = (0_u8..)
        .zip(windows)
        .map(|(nth, stage)| window(number, nth, when, *stage))
        .collect();
    task.review_due = task.grant.review && number.is_multiple_of(2) && !windows.is_empty();
    task.approvals = vec![Given {
        person: format!("p{number}").parse().unwrap(),
        groups: BTreeSet::new(),
        authenticated_as: "uid:1".into(),
        reason: String::new(),
        at: at(when),
        valid_until: at(when + HOUR),
    }];
    task
}

fn window(number: u64, nth: u8, when: i64, stage: Stage) -> Window {
    let mut window_id = [nth; 16];
    window_id[..8].copy_from_slice(&number.to_be_bytes());
    Window {
        stage,
        ..Window::new(
            WindowId(window_id),
            Instance {
                agent_id: id("/spire/agent/t/a"),
                pid: 1,
                uid: 1,
                start_ticks: 1,
                boot_id: "b".into(),
                include_descendants: false,
            },
            id("/task/pay/migrate/web"),
            Issuance {
                serial: Serial::from_be_bytes(&[&[1], &window_id[..9]].concat()).unwrap(),
                public_key_sha256: String::new(),
                not_before: at(when),
                not_after: at(when + 300),
                authority_id: String::new(),
                ttl_term: TtlTerm::Definition,
                revoked: None,
            },
            at(when + i64::from(nth)),
            at(when + 900),
        )
    }
}

fn snapshot(tasks: Vec<Task>) -> Snapshot {
    let state = State {
        history: "h".into(),
        revision: Revision(1),
        tasks,
        ..State::default()
    };
    Snapshot::load("td".parse().unwrap(), state)
}

/// The same by a look at every task.
fn by_looking(all: &[Task], about: &Task, now: Timestamp) -> Usage {
    let mut usage = Usage::default();
    let same = || all.iter().filter(|other| other.request.task == about.request.task);
    let own = || same().filter(|other| other.request.workload == about.request.workload);
    for window in own().flat_map(|other| &other.windows) {
        match window.stage {
            Stage::Settled => {}
            stage if stage.is_live_window() => usage.open_windows += 1,
            _ => usage.unsettled += 1,
        }
    }
    usage.reviews_due = u32::try_from(same().filter(|other| other.review_due).count()).unwrap();
    let is_recent = |window: &&Window| now.since(window.opened_at) <= Duration::from_secs(86_400);
    let windows = own().flat_map(|other| &other.windows);
    usage.same_day = u32::try_from(windows.filter(is_recent).count()).unwrap();
    usage
}

const STAGES: [Stage; 5] = [
    Stage::Open,
    Stage::Suspended,
    Stage::Closing,
    Stage::RevocationIncomplete,
    Stage::Settled,
];

proptest! {
    // What is counted with each commit is what a look at everything finds, in whatever order tasks come, change and go.
    #[test]
    fn usage_is_counted_as_a_look_at_every_task_would(
        steps in proptest::collection::vec((0..20_u64, 0..2_usize, 0..2_usize, proptest::collection::vec(0..5_usize, 0..4), 0..6_u8), 1..60),
    ) {
        let (names, workloads) = (["pay/migrate", "pay/glass"], ["/web", "/db"]);
        let mut state = snapshot(vec![]);
        let mut all: BTreeMap<u64, Task> = BTreeMap::new();
        for (number, name, workload, stages, what) in steps {
            let stages: Vec<Stage> = stages.into_iter().map(|stage| STAGES[stage]).collect();
            let delta = match (what, all.get(&number)) {
                (0, Some(_)) => Delta::TaskGone(Arc::new(all.remove(&number).unwrap())),
                // What it is about stays.
                (_, Some(present)) => {
                    let request = present.request.clone();
                    let mut next = task(number, request.task.as_str(), request.workload.path(), 0, Stage::Consumed, &stages);
                    next.request = request;
                    all.insert(number, next.clone());
                    Delta::TaskPut(Arc::new(next))
                }
                (_, None) => {
                    // Either well within the day or well before it.
                    let when = if what > 3 { -2 * 86_400 } else { -HOUR };
                    let next = task(number, names[name], workloads[workload], when, Stage::Armed, &stages);
                    all.insert(number, next.clone());
                    Delta::TaskPut(Arc::new(next))
                }
            };
            state = state.with(Revision(2), &[delta]);
            let everything: Vec<Task> = all.values().cloned().collect();
            for name in names {
                for workload in workloads {
                    let about = task(99, name, workload, 0, Stage::Armed, &[]);
                    let counted = super::usage(&state, &about.request, &version(), None, None, at(0));
                    prop_assert_eq!(counted, by_looking(&everything, &about, at(0)));
                    let ready = everything.iter().filter(|other| {
                        other.request.task == about.request.task && other.request.workload == about.request.workload
                            && other.stage == Stage::Armed
                    });
                    let indexed = state.ready_tasks_of(&about.request.task, &about.request.workload).count();
                    prop_assert_eq!(indexed, ready.count());
                }
            }
            // In the order of what happens first, and nothing twice.
            let due: Vec<&TaskId> = state.due_tasks(at(10 * 86_400)).map(|task| &task.id).collect();
            let once: BTreeSet<&TaskId> = due.iter().copied().collect();
            prop_assert_eq!(due.len(), once.len());
        }
    }
}

#[test]
fn the_window_that_a_question_is_about_does_not_count_and_the_last_use_of_break_glass_is_found() {
    let mut all = vec![task(1, "pay/migrate", "/web", -HOUR, Stage::Consumed, &[Stage::Open])];
    all.push(task(2, "pay/migrate", "/web", -HOUR, Stage::Consumed, &[Stage::Closed]));
    let about = all[0].clone();
    let usage_of = |window| {
        let state = snapshot(all.clone());
        super::usage(&state, &about.request, &version(), Some(&about), window, at(0))
    };
    assert_eq!((usage_of(None).open_windows, usage_of(None).unsettled), (1, 1));
    assert_eq!(usage_of(Some(&about.windows[0])).open_windows, 0);
    // Asked for earlier, and opened later.
    let mut early = task(3, "pay/glass", "/web", -HOUR, Stage::Consumed, &[Stage::Settled]);
    early.windows[0].opened_at = at(-10);
    let late = task(5, "pay/glass", "/web", -600, Stage::Consumed, &[Stage::Settled]);
    let asks = task(7, "pay/glass", "/web", 0, Stage::Armed, &[]);
    let mut version = version();
    version.definition.class = TaskClass::Breakglass;
    let state = snapshot(vec![early, late, asks.clone()]);
    let usage = super::usage(&state, &asks.request, &version, Some(&asks), None, at(0));
    assert_eq!(usage.previous_approvers, BTreeSet::from(["p3".parse().unwrap()]));
}

#[test]
fn what_is_refused_of_a_task_is_forgotten_with_it_and_with_no_other() {
    let tasks = [1, 2].map(|number| task(number, "pay/migrate", "/web", -HOUR, Stage::Consumed, &[Stage::Settled]));
    let revoked = |epoch: u64, task: &Task| {
        let revocation = mayfly_model::task::Revocation {
            epoch,
            window_id: task.windows[0].id,
            serials: vec![],
            whole_window: true,
            authority_ids: vec![],
            not_after: at(0),
        };
        Delta::Revoked(Arc::new(revocation))
    };
    let all = [revoked(1, &tasks[0]), revoked(2, &tasks[1]), revoked(3, &tasks[0])];
    let state = snapshot(tasks.to_vec()).with(Revision(2), &all);
    let epochs = |state: &Snapshot| {
        state
            .revocations_after(0)
            .map(|revocation| revocation.epoch)
            .collect::<Vec<_>>()
    };
    assert_eq!(epochs(&state), [1, 2, 3]);
    let after = state.with(Revision(3), &[Delta::TaskGone(Arc::new(tasks[0].clone()))]);
    assert_eq!(epochs(&after), [2]);
    assert_eq!(after.epoch(), 3, "and no epoch comes again");
}

/// P7: what a decision costs does not grow with what there is besides.
#[test]
fn a_decision_costs_the_same_with_ten_thousand_tasks() {
    let world = |count: u64| {
        let each = |number: u64| {
            let stages: &[Stage] = if number.is_multiple_of(50) {
                &[Stage::Open]
            } else {
                &[Stage::Closed]
            };
            let when = -i64::try_from(number % 80_000).unwrap();
            task(number, "pay/migrate", "/web", when, Stage::Consumed, stages)
        };
        snapshot((0..count).map(each).collect())
    };
    let about = task(u64::from(u32::MAX), "pay/migrate", "/web", 0, Stage::Armed, &[]);
    let version = version();
    let cost = |state: &Snapshot| {
        let once = || {
            let began = Instant::now();
            for _ in 0..100 {
                std::hint::black_box(super::usage(state, &about.request, &version, Some(&about), None, at(0)));
            }
            began.elapsed() / 100
        };
        (0..10).map(|_| once()).min().unwrap()
    };
    let (few, many) = (world(200), world(10_000));
    let (at_few, at_many) = (cost(&few), cost(&many));
    println!("usage: {at_few:?} with 200 tasks, {at_many:?} with 10,000");
    // A day has 144 steps at most that are counted, 2 of them are there with few.
    assert!(
        at_many < at_few * 20 + Duration::from_micros(100),
        "{at_few:?} {at_many:?}"
    );
    let looked_at = |now| many.due_tasks(at(now)).count();
    assert_eq!(
        looked_at(-20_000),
        200,
        "a pass looks at what is open, and at nothing that is not due"
    );
    assert_eq!(looked_at(1_000), 10_000);
}

#[tokio::test]
async fn an_agent_that_says_too_much_of_a_process_is_not_heard() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    let attested = |more: usize| {
        let many = (0..more).map(|n| format!("unix:supplementary_gid:{n:09}").parse().unwrap());
        let selectors = many.chain(["unix:uid:1".parse().unwrap()]).collect();
        let instance = Instance {
            agent_id: agent.id.clone(),
            pid: 1,
            uid: 1,
            start_ticks: 1,
            boot_id: "boot".into(),
            include_descendants: false,
        };
        let state = world.committer.snapshot();
        Attested::new(&state, &agent, &entry, selectors, instance, world.now(), world.now()).err()
    };
    assert!(attested(900).is_none());
    let refused = attested(1_100).unwrap().to_string();
    assert!(
        refused.contains("instance.selectors") && refused.contains("at most 32768"),
        "{refused}"
    );
}
