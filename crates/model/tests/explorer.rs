//! Every order of events that two servers, an agent and some people can make of one request, explored over the real
//! transition function: messages arrive late, twice or never, servers crash between commit and signature, their view of
//! the state is old and their clocks disagree. After each event the invariants I1 to I12 of the task model must hold.
//!
//! What the database adds to the transition function (a key belongs to one window, I10; state and log are one commit, I3
//! and I14) is in [`Store`]; its own tests are with the store. I6 has no child windows yet, I7 is the name of an identity,
//! and I13 is the agent's.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use mayfly_model::task::{
    ActorClass, Approval, ApprovalRule, CloseCause, Decision, DefinitionHash, Grant, Instance, Issuance, Needs,
    Outcome, Phase, SettledBy, Stage, StepContext, Task, TaskId, TaskRefusal, TaskRequest, TaskStep, Terms, TtlTerm,
    Window,
};
use mayfly_model::{EntryId, Selectors};
use mayfly_svid::{Serial, Timestamp, WindowId};

/// One unit of the model's time, in seconds.
const UNIT: i64 = 60;
/// How long a window is open, and an SVID lives.
const WINDOW: i64 = 3 * UNIT;
const LEASE: i64 = 2 * UNIT;
/// The model's time ends here.
const END: i64 = 5 * UNIT;

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Tick,
    /// A server's clock is set back by a unit, once.
    ClockBack(usize),
    Refresh(usize),
    /// A server is killed: what it had committed and not signed stays unsigned.
    Crash(usize),
    PolicyTurns,
    Approve(usize, usize),
    Open(usize, u8),
    Renew(usize, u8),
    Extend(usize),
    Suspend(usize),
    Resume(usize),
    Close(usize, CloseCause),
    Confirm(usize),
    Settle(usize),
    Expire(usize),
    Sign(usize),
}

/// The requester, the owner of the workload, and two approvers.
const PEOPLE: [&str; 4] = ["requester", "owner", "ann", "bob"];

/// An SVID that left a server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Svid {
    window: WindowId,
    serial: Serial,
    key: u8,
    not_after: Timestamp,
}

/// What all servers share: one commit at a time.
#[derive(Clone, Debug)]
struct Store {
    task: Task,
    epoch: u64,
    /// Which window each key belongs to.
    keys: BTreeMap<u8, WindowId>,
    /// Serials whose intent is in the log.
    logged: BTreeSet<u8>,
}

#[derive(Clone, Debug)]
struct Server {
    /// The state as it knows it.
    seen: Task,
    clock: i64,
    /// Committed and not signed.
    pending: Option<Svid>,
}

#[derive(Clone, Debug)]
struct World {
    now: i64,
    store: Store,
    servers: [Server; 2],
    svids: Vec<Svid>,
    policy_allows: bool,
    clock_moved: bool,
    crashes: u8,
    next_serial: u8,
}

fn at(time: i64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000 + time)
}

fn id(path: &str) -> mayfly_svid::SpiffeId {
    format!("spiffe://td{path}").parse().unwrap()
}

fn decision(allowed: bool) -> Decision {
    Decision {
        phase: Phase::Request,
        allowed,
        reasons: vec![],
        determining: vec![],
        policy_digest: String::new(),
        inputs_digest: String::new(),
        at: at(0),
    }
}

fn beginning(needs_people: bool) -> World {
    let request = TaskRequest {
        task: "pay/migrate".parse().unwrap(),
        definition: DefinitionHash([0; 32]),
        workload: id("/ns/pay/migrator"),
        entry_id: "e".parse::<EntryId>().unwrap(),
        agent_id: id("/spire/agent/t/a"),
        actor: ActorClass::Workload,
        person: Some("requester".parse().unwrap()),
        owner: Some("owner".parse().unwrap()),
        selectors: Selectors::default(),
        reason: "because".into(),
        ticket: None,
        window: Duration::from_secs(WINDOW as u64),
        scopes: BTreeSet::new(),
        parameters: BTreeMap::new(),
        idempotency_key: String::new(),
        requested_at: at(0),
    };
    let rule = ApprovalRule {
        count: 2,
        groups: BTreeSet::from(["leads".parse().unwrap()]),
        distinct_groups: None,
        valid_for: Duration::from_secs(2 * UNIT as u64),
    };
    let terms = Terms {
        needs: Needs {
            approvals: if needs_people { vec![rule] } else { vec![] },
            ticket: false,
        },
        grant: Grant {
            open_by: at(0),
            uses_left: 1,
            window_max: Duration::from_secs((WINDOW + UNIT) as u64),
            concurrency: 1,
            settle_before_next: false,
            heartbeat: None,
            review: false,
            checkpoints: BTreeSet::new(),
        },
        open_within: Duration::from_secs(2 * UNIT as u64),
        wait_until: at(3 * UNIT),
    };
    let outcome = if needs_people {
        Outcome::WantApproval
    } else {
        Outcome::Permit
    };
    let task_id: TaskId = "0190a000-0000-7000-8000-000000000000".parse().unwrap();
    let task = Task::submitted(task_id, request, decision(true), outcome, terms, at(0)).unwrap();
    let server = Server {
        seen: task.clone(),
        clock: 0,
        pending: None,
    };
    World {
        now: 0,
        store: Store {
            task,
            epoch: 0,
            keys: BTreeMap::new(),
            logged: BTreeSet::new(),
        },
        servers: [server.clone(), server],
        svids: vec![],
        policy_allows: true,
        clock_moved: false,
        crashes: 0,
        next_serial: 1,
    }
}

impl Store {
    /// One commit: guard, keys and log together.
    fn commit(&mut self, step: &TaskStep, now: Timestamp) -> Result<(), TaskRefusal> {
        let next_epoch = self.epoch + 1;
        let next = self.task.apply(step, StepContext { now, next_epoch })?;
        let new = match step {
            TaskStep::Open { window, .. } => Some((window.id, &window.issuances[0])),
            TaskStep::Renew { window, issuance, .. } => Some((*window, issuance)),
            _ => None,
        };
        if let Some((window, issuance)) = new {
            let key = issuance.public_key_sha256.parse().unwrap();
            if self.keys.contains_key(&key) {
                return Err(TaskRefusal::OtherInstance); // What the store calls a reused key.
            }
            self.keys.insert(key, window);
            self.logged.insert(issuance.serial.as_be_bytes()[0]);
        }
        let used = |window: &Window| {
            window.epoch == Some(next_epoch) || window.issuances.iter().any(|i| i.revoked == Some(next_epoch))
        };
        if next.windows.iter().any(used) {
            self.epoch = next_epoch;
        }
        self.task = next;
        Ok(())
    }
}

impl World {
    fn events(&self) -> Vec<Event> {
        let mut events = vec![];
        if self.now < END {
            events.push(Event::Tick);
        }
        if self.policy_allows {
            events.push(Event::PolicyTurns);
        }
        for (index, server) in self.servers.iter().enumerate() {
            if server.seen != self.store.task {
                events.push(Event::Refresh(index));
            }
            if !self.clock_moved && server.clock >= UNIT {
                events.push(Event::ClockBack(index));
            }
            if server.pending.is_some() {
                events.push(Event::Sign(index));
                if self.crashes == 0 {
                    events.push(Event::Crash(index));
                }
                continue; // One call at a time.
            }
            if server.seen.stage == Stage::AwaitingApproval {
                events.extend((0..PEOPLE.len()).map(|person| Event::Approve(index, person)));
            }
            if server.seen.stage == Stage::Armed {
                events.extend([Event::Open(index, 1), Event::Open(index, 2), Event::Expire(index)]);
            }
            for window in &server.seen.windows {
                match window.stage {
                    Stage::Open => events.extend([
                        Event::Renew(index, 2),
                        Event::Extend(index),
                        Event::Suspend(index),
                        Event::Close(index, CloseCause::Completed),
                        Event::Close(index, CloseCause::TimedOut),
                    ]),
                    Stage::Suspended => {
                        events.extend([Event::Resume(index), Event::Close(index, CloseCause::Revoked)]);
                    }
                    Stage::Closing => events.push(Event::Confirm(index)),
                    Stage::Closed => events.push(Event::Settle(index)),
                    _ => {}
                }
            }
        }
        events
    }

    /// The world after `event`; what a guard refuses changes nothing.
    fn after(&self, event: Event) -> Self {
        let mut next = self.clone();
        match event {
            Event::Tick => {
                next.now += UNIT;
                next.servers.iter_mut().for_each(|server| server.clock += UNIT);
            }
            Event::ClockBack(index) => {
                next.servers[index].clock -= UNIT;
                next.clock_moved = true;
            }
            Event::Refresh(index) => next.servers[index].seen = next.store.task.clone(),
            Event::Crash(index) => {
                next.servers[index].pending = None;
                next.servers[index].seen = next.store.task.clone();
                next.crashes += 1;
            }
            Event::PolicyTurns => next.policy_allows = false,
            Event::Sign(index) => next.sign(index),
            Event::Open(index, key) => next.open(index, key),
            Event::Renew(index, key) => next.renew(index, key),
            Event::Approve(index, person) => {
                let now = at(next.servers[index].clock);
                let step = TaskStep::Approve {
                    approval: Approval {
                        person: PEOPLE[person].parse().unwrap(),
                        groups: BTreeSet::from(["leads".parse().unwrap()]),
                        authenticated_as: String::new(),
                        reason: String::new(),
                        at: now,
                        valid_until: now.plus(Duration::from_secs(2 * UNIT as u64)),
                    },
                    digest: next.servers[index].seen.digest,
                    decision: decision(next.policy_allows),
                };
                next.step(index, &step);
            }
            Event::Expire(index) => next.step(index, &TaskStep::Expire),
            Event::Extend(index) => {
                let window = &next.servers[index].seen.windows[0];
                let step = TaskStep::Extend {
                    window: window.id,
                    closes_at: window.opened_at.plus(Duration::from_secs((WINDOW + UNIT) as u64)),
                    decision: decision(next.policy_allows),
                };
                next.step(index, &step);
            }
            Event::Suspend(index) => {
                let window = next.servers[index].seen.windows[0].id;
                let reason = String::new();
                next.step(index, &TaskStep::Suspend { window, reason });
            }
            Event::Resume(index) => {
                let window = next.servers[index].seen.windows[0].id;
                let decision = decision(next.policy_allows);
                next.step(index, &TaskStep::Resume { window, decision });
            }
            Event::Close(index, cause) => {
                let window = next.servers[index].seen.windows[0].id;
                let detail = String::new();
                next.step(index, &TaskStep::Close { window, cause, detail });
            }
            Event::Confirm(index) => {
                let window = next.servers[index].seen.windows[0].id;
                next.step(index, &TaskStep::Confirm { window });
            }
            Event::Settle(index) => {
                let step = TaskStep::Settle {
                    window: next.servers[index].seen.windows[0].id,
                    residual: 0,
                    term: SettledBy::Expired,
                    checkpoints: vec![],
                };
                next.step(index, &step);
            }
        }
        next
    }

    fn step(&mut self, index: usize, step: &TaskStep) {
        let now = at(self.servers[index].clock);
        if self.store.commit(step, now).is_ok() {
            self.servers[index].seen = self.store.task.clone();
        }
    }

    fn lease(&mut self, index: usize, key: u8, closes_at: Timestamp) -> Issuance {
        let now = at(self.servers[index].clock);
        let end = now.plus(Duration::from_secs(LEASE as u64)).min(closes_at);
        let serial = Serial::from_be_bytes(&[self.next_serial]).unwrap();
        self.next_serial += 1;
        Issuance {
            serial,
            public_key_sha256: key.to_string(),
            not_before: now,
            not_after: end.minus(Duration::from_secs(1)),
            authority_id: String::new(),
            ttl_term: TtlTerm::Definition,
            revoked: None,
        }
    }

    fn open(&mut self, index: usize, key: u8) {
        let now = at(self.servers[index].clock);
        let closes_at = now.plus(Duration::from_secs(WINDOW as u64));
        let issuance = self.lease(index, key, closes_at);
        // Each server makes windows of its own.
        let window_id = WindowId([index as u8 * 2 + key; 16]);
        let window = Window {
            id: window_id,
            stage: Stage::Open,
            instance: Instance {
                agent_id: id("/spire/agent/t/a"),
                pid: 1,
                uid: 1,
                start_ticks: 1,
                boot_id: String::new(),
                include_descendants: false,
            },
            spiffe_id: id("/task/pay/migrate/ns/pay/migrator"),
            opened_at: now,
            closes_at,
            heartbeat_due: None,
            issuances: vec![issuance.clone()],
            issued: 1,
            cause: None,
            detail: String::new(),
            closed_at: None,
            epoch: None,
            settled_at: None,
            residual: None,
            risk: None,
        };
        let step = TaskStep::Open {
            window: Box::new(window),
            decision: decision(self.policy_allows),
        };
        self.commit_lease(index, &step, window_id, issuance, key);
    }

    fn renew(&mut self, index: usize, key: u8) {
        let window = self.servers[index].seen.windows[0].clone();
        let issuance = self.lease(index, key, window.closes_at);
        let step = TaskStep::Renew {
            window: window.id,
            issuance: issuance.clone(),
            decision: decision(self.policy_allows),
        };
        self.commit_lease(index, &step, window.id, issuance, key);
    }

    fn commit_lease(&mut self, index: usize, step: &TaskStep, window: WindowId, issuance: Issuance, key: u8) {
        let now = at(self.servers[index].clock);
        let allowed = self.policy_allows;
        let result = self.store.commit(step, now);
        assert!(allowed || result.is_err(), "I8: a refusal of policy gave something");
        if result.is_ok() {
            let server = &mut self.servers[index];
            server.seen = self.store.task.clone();
            server.pending = Some(Svid {
                window,
                serial: issuance.serial,
                key,
                not_after: issuance.not_after,
            });
        }
    }

    /// Signs what was committed, if by what this server knows it may still be.
    fn sign(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let Some(svid) = server.pending.take() else { return };
        let still = server.seen.window(&svid.window).is_some_and(|window| {
            let counted = window.issuances.iter().find(|issuance| issuance.serial == svid.serial);
            window.stage == Stage::Open && counted.is_some_and(|issuance| issuance.revoked.is_none())
        });
        if still {
            self.svids.push(svid);
        }
    }

    fn key(&self) -> String {
        format!("{self:?}")
    }

    /// What must hold now, and what must hold of the way from `before`.
    fn check(&self, before: &Self, event: Event) {
        let task = &self.store.task;
        for svid in &self.svids {
            let window = task.window(&svid.window).expect("I1: an SVID without a window");
            assert!(svid.not_after < window.closes_at, "I2: an SVID outlives its window");
            assert!(
                self.store.logged.contains(&svid.serial.as_be_bytes()[0]),
                "I3: signed and not logged"
            );
            assert_eq!(self.store.keys[&svid.key], svid.window, "I10: a key of two windows");
            // What left a server in any order of events is refused once the window has ended, or is over by itself.
            let counts = |issuance: &&Issuance| issuance.serial == svid.serial;
            if !window.stage.is_live_window() {
                let refused = window
                    .issuances
                    .iter()
                    .find(counts)
                    .is_none_or(|issuance| issuance.revoked.is_some());
                let pruned_early = window.issuances.iter().find(counts).is_none()
                    && svid.not_after >= window.closed_at.expect("it has ended");
                assert!(
                    refused && (!pruned_early || window.stage == Stage::Settled),
                    "an SVID survives its window"
                );
            }
        }
        if !task.needs.approvals.is_empty() && !matches!(task.stage, Stage::AwaitingApproval | Stage::Denied) {
            let people: BTreeSet<&str> = task.approvals.iter().map(|approval| approval.person.as_str()).collect();
            let opened = !task.windows.is_empty() || task.stage == Stage::Armed;
            assert!(!opened || people.len() >= 2, "I4: a grant without its approvals");
            assert!(
                !people.contains("requester") && !people.contains("owner"),
                "I4: one's own approval"
            );
        }
        assert!(task.windows.len() <= 1, "I9: a grant of one use opened twice");
        for old in &before.store.task.windows {
            let new = task
                .window(&old.id)
                .expect("windows are never forgotten while the task lives");
            assert!(
                new.stage >= old.stage || old.stage == Stage::Suspended,
                "I11: {:?} to {:?}",
                old.stage,
                new.stage
            );
            if !old.stage.is_live_window() {
                assert!(!new.stage.is_live_window(), "I11: an end was taken back");
                assert_eq!(new.closes_at, old.closes_at);
            }
            if !matches!(event, Event::Extend(_)) {
                assert_eq!(new.closes_at, old.closes_at, "I5: {event:?} moved the end");
            }
            let longest = Duration::from_secs((WINDOW + UNIT) as u64);
            assert!(
                new.closes_at <= new.opened_at.plus(longest),
                "a window longer than its definition"
            );
        }
        assert!(before.store.task.stage <= task.stage, "a request went back");
        assert!(before.store.epoch <= self.store.epoch, "an epoch went back");
        for window in task.live_windows() {
            let step = TaskStep::Close {
                window: window.id,
                cause: CloseCause::Revoked,
                detail: String::new(),
            };
            let context = StepContext {
                now: at(self.now),
                next_epoch: self.store.epoch + 1,
            };
            task.apply(&step, context).expect("I12: an end that was refused");
        }
    }
}

/// Explores everything that can happen, breadth first, up to `most` worlds; how many there were, and how many had an SVID.
fn explore(needs_people: bool, most: usize) -> (usize, usize) {
    let start = beginning(needs_people);
    let mut seen = HashSet::from([start.key()]);
    let mut queue = VecDeque::from([start]);
    let mut with_svid = 0;
    while let Some(world) = queue.pop_front() {
        with_svid += usize::from(!world.svids.is_empty());
        for event in world.events() {
            let next = world.after(event);
            next.check(&world, event);
            if seen.len() < most && seen.insert(next.key()) {
                queue.push_back(next);
            }
        }
    }
    (seen.len(), with_svid)
}

#[test]
fn no_order_of_events_gives_authority_that_was_not_granted() {
    let most = if std::env::var_os("MAYFLY_FULL").is_some() {
        2_000_000
    } else {
        60_000
    };
    for needs_people in [false, true] {
        let (worlds, with_svid) = explore(needs_people, most);
        println!("needs people: {needs_people}: {worlds} worlds, {with_svid} of them with an SVID");
        assert!(with_svid > 0, "nothing was ever issued, so nothing was shown");
    }
}
