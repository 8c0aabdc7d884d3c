//! Two servers on one store, the SVIDs that left them, and consumers; what each event does to these.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use mayfly_model::task::{
    CloseCause, Decision, Issuance, Phase, SettledBy, Stage, StepContext, Task, TaskRefusal, TaskStep, Window,
};
use mayfly_svid::{Serial, SpiffeId, Timestamp, WindowId};

use crate::consumers::Consumers;
use crate::faults::Fault;
use crate::scenario::Scenario;

/// A server's clock may be ahead by so much, which is less than the leeway of settlement.
const AHEAD: i64 = 29;

/// What happens next: server, window and whatever else it takes, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Event {
    Tick,
    /// A server's clock is set back by a unit; one of them is set once.
    ClockBack(usize),
    ClockAhead(usize),
    Refresh(usize),
    /// A server is killed: what it had committed and not signed stays unsigned.
    Crash(usize),
    PolicyTurns,
    Approve(usize, usize),
    Open(usize, u8),
    Renew(usize, usize, u8),
    Extend(usize, usize),
    Heartbeat(usize, usize),
    Suspend(usize, usize),
    Resume(usize, usize),
    /// The newest SVID of the window.
    RevokeSvid(usize, usize),
    Close(usize, usize, CloseCause),
    Confirm(usize, usize),
    Settle(usize, usize, SettledBy),
    GiveUp(usize, usize),
    AcceptRisk(usize, usize, usize),
    Expire(usize),
    Sign(usize),
    /// A consumer hears of all that was revoked.
    Learn(usize),
    /// A server hears what a consumer refuses.
    Tell(usize, usize),
    Vanish(usize),
    ComeBack(usize),
}

/// The requester, the owner of the workload, and two others.
pub(crate) const PEOPLE: [&str; 4] = ["requester", "owner", "ann", "bob"];

/// An SVID: of the intent in the log, or one that left a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Svid {
    pub(crate) window: WindowId,
    pub(crate) serial: Serial,
    pub(crate) key: u8,
    pub(crate) not_after: Timestamp,
}

/// What all servers share: one commit at a time.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) task: Rc<Task>,
    pub(crate) epoch: u64,
    /// Which window each key belongs to.
    pub(crate) keys: BTreeMap<u8, WindowId>,
    /// Whose intent is in the log.
    pub(crate) logged: Vec<Svid>,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// The state as it knows it.
    pub(crate) seen: Rc<Task>,
    /// Its clock is so far ahead.
    pub(crate) skew: i64,
    /// Committed and not signed.
    pub(crate) pending: Option<Svid>,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) scenario: &'static Scenario,
    fault: Option<Fault>,
    pub(crate) now: i64,
    pub(crate) store: Store,
    pub(crate) servers: [Server; 2],
    pub(crate) consumers: Consumers,
    pub(crate) svids: Vec<Svid>,
    pub(crate) policy_allows: bool,
    pub(crate) clock_moved: bool,
    pub(crate) crashes: u8,
    pub(crate) vanished: u8,
    /// Who accepted a risk, and was not refused.
    pub(crate) accepted: Vec<(WindowId, usize)>,
}

pub(crate) fn at(time: i64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000 + time)
}

pub(crate) fn id(path: &str) -> SpiffeId {
    format!("spiffe://td{path}").parse().unwrap()
}

pub(crate) fn decision(allowed: bool) -> Decision {
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

/// The transition function, or a planted fault in its place.
fn apply(task: &Task, step: &TaskStep, context: StepContext, fault: Option<Fault>) -> Result<Task, TaskRefusal> {
    match fault {
        None => task.apply(step, context),
        Some(fault) => fault.apply(task, step, context),
    }
}

impl Store {
    /// One commit: guard, keys and log together.
    fn commit(&mut self, step: &TaskStep, now: Timestamp, fault: Option<Fault>) -> Result<(), TaskRefusal> {
        let next_epoch = self.epoch + 1;
        let next = apply(&self.task, step, StepContext { now, next_epoch }, fault)?;
        let new = match step {
            TaskStep::Open { window, .. } => Some((window.id, &window.issuances[0])),
            TaskStep::Renew { window, issuance, .. } => Some((*window, issuance)),
            _ => None,
        };
        if let Some((window, issuance)) = new {
            let key = issuance.public_key_sha256.parse().unwrap();
            let is_of_another = self.keys.get(&key).is_some_and(|owner| *owner != window);
            let is_used = self.keys.contains_key(&key);
            let is_refused = if fault == Some(Fault::KeysAreShared) {
                is_used && !is_of_another
            } else {
                is_used
            };
            if is_refused {
                return Err(TaskRefusal::OtherInstance); // What the store calls a reused key.
            }
            self.keys.entry(key).or_insert(window);
            if fault != Some(Fault::NothingIsLogged) {
                self.logged.push(Svid {
                    window,
                    serial: issuance.serial.clone(),
                    key,
                    not_after: issuance.not_after,
                });
            }
        }
        let used = |window: &Window| {
            window.epoch == Some(next_epoch) || window.issuances.iter().any(|i| i.revoked == Some(next_epoch))
        };
        if next.windows.iter().any(used) {
            self.epoch = next_epoch;
        }
        self.task = next.into();
        Ok(())
    }
}

impl World {
    /// The scenario as it begins; its events must all have an effect.
    pub(crate) fn new(scenario: &'static Scenario, fault: Option<Fault>) -> Self {
        let task = Rc::new(scenario.task());
        let server = Server {
            seen: task.clone(),
            skew: 0,
            pending: None,
        };
        Self {
            scenario,
            fault,
            now: 0,
            store: Store {
                task,
                epoch: 0,
                keys: BTreeMap::new(),
                logged: vec![],
            },
            servers: [server.clone(), server],
            consumers: Consumers::new(scenario.declared),
            svids: vec![],
            policy_allows: true,
            clock_moved: false,
            crashes: 0,
            vanished: 0,
            accepted: vec![],
        }
    }

    /// A server's time.
    pub(crate) fn clock(&self, server: usize) -> Timestamp {
        at(self.now + self.servers[server].skew)
    }

    /// What a step of a server would make of the task, if its guards let it.
    pub(crate) fn would(&self, server: usize, step: &TaskStep) -> Option<Task> {
        let context = StepContext {
            now: self.clock(server),
            next_epoch: self.store.epoch + 1,
        };
        apply(&self.store.task, step, context, self.fault).ok()
    }

    /// The world after `event`; what a guard refuses changes nothing.
    pub(crate) fn after(&self, event: Event) -> Self {
        let mut next = self.clone();
        match event {
            Event::Tick => {
                next.now += next.scenario.unit;
                next.consumers.tick(next.now, next.scenario.unit);
            }
            Event::ClockBack(server) => {
                next.servers[server].skew = -next.scenario.unit;
                next.clock_moved = true;
            }
            Event::ClockAhead(server) => {
                next.servers[server].skew = AHEAD;
                next.clock_moved = true;
            }
            Event::Refresh(server) => next.servers[server].seen = next.store.task.clone(),
            Event::Crash(server) => {
                next.servers[server].pending = None;
                next.servers[server].seen = next.store.task.clone();
                next.crashes += 1;
            }
            Event::PolicyTurns => next.policy_allows = false,
            Event::Sign(server) => next.sign(server),
            Event::Open(server, key) => next.open(server, key),
            Event::Renew(server, window, key) => next.renew(server, window, key),
            Event::Learn(consumer) => next.consumers.learn(consumer, next.store.epoch, next.now),
            Event::Tell(server, consumer) => next.consumers.tell(server, consumer),
            Event::Vanish(consumer) => {
                next.consumers.vanish(consumer, next.now);
                next.vanished += 1;
            }
            Event::ComeBack(consumer) => next.consumers.come_back(consumer),
            Event::AcceptRisk(server, window, person) => {
                let window = next.window_of(server, window).id;
                let step = TaskStep::AcceptRisk {
                    window,
                    by: PEOPLE[person].parse().unwrap(),
                    reason: String::new(),
                };
                if next.commit(server, &step) {
                    next.accepted.push((window, person));
                }
            }
            other => {
                let (server, step) = next.step_of(other);
                next.commit(server, &step);
            }
        }
        next
    }

    pub(crate) fn window_of(&self, server: usize, number: usize) -> &Window {
        &self.servers[server].seen.windows[number]
    }

    /// Whether it happened.
    pub(crate) fn commit(&mut self, server: usize, step: &TaskStep) -> bool {
        let now = self.clock(server);
        let result = self.store.commit(step, now, self.fault);
        if result.is_ok() {
            self.servers[server].seen = self.store.task.clone();
        }
        result.is_ok()
    }

    pub(crate) fn commit_lease(
        &mut self,
        server: usize,
        step: &TaskStep,
        window: WindowId,
        issuance: Issuance,
        key: u8,
    ) {
        if self.commit(server, step) {
            self.servers[server].pending = Some(Svid {
                window,
                serial: issuance.serial,
                key,
                not_after: issuance.not_after,
            });
        }
    }

    /// Signs what was committed, if by what this server knows it may still be.
    fn sign(&mut self, server: usize) {
        let server = &mut self.servers[server];
        let Some(svid) = server.pending.take() else { return };
        let still = server.seen.window(&svid.window).is_some_and(|window| {
            let counted = window.issuances.iter().find(|issuance| issuance.serial == svid.serial);
            window.stage == Stage::Open && counted.is_some_and(|issuance| issuance.revoked.is_none())
        });
        if still {
            self.svids.push(svid);
        }
    }

    /// What tells worlds apart. Left out is what no guard looks at: texts, decisions, and who the parties are, which never
    /// changes. 128 bits, so that two worlds are not taken for one.
    pub(crate) fn fingerprint(&self) -> u128 {
        let half = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            seed.hash(&mut hasher);
            let shared = (
                self.now,
                self.policy_allows,
                self.clock_moved,
                self.crashes,
                self.vanished,
            );
            (shared, &self.consumers, &self.svids, &self.accepted).hash(&mut hasher);
            (self.store.epoch, &self.store.keys, &self.store.logged).hash(&mut hasher);
            hash_task(&self.store.task, &mut hasher);
            for server in &self.servers {
                (server.skew, &server.pending).hash(&mut hasher);
                let is_present = Rc::ptr_eq(&server.seen, &self.store.task) || server.seen == self.store.task;
                is_present.hash(&mut hasher);
                if !is_present {
                    hash_task(&server.seen, &mut hasher);
                }
            }
            hasher.finish()
        };
        u128::from(half(0)) << 64 | u128::from(half(1))
    }
}

fn hash_task(task: &Task, into: &mut DefaultHasher) {
    (task.stage, task.grant.open_by, task.grant.uses_left).hash(into);
    for approval in &task.approvals {
        (approval.person.as_str(), approval.at).hash(into);
    }
    for window in &task.windows {
        (window.id, window.stage, window.opened_at, window.closes_at).hash(into);
        (window.heartbeat_due, window.cause, window.closed_at).hash(into);
        let risk = window.risk.as_ref().map(|risk| risk.by.as_str());
        (window.epoch, window.settled_at, window.residual, risk).hash(into);
        for Issuance {
            serial,
            not_before,
            not_after,
            revoked,
            ..
        } in &window.issuances
        {
            (serial, not_before, not_after, revoked).hash(into);
        }
    }
}
