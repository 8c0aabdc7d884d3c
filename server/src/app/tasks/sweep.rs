//! What happens by time, and what a change of policy ends: one pass over everything that is live, several times a second.
//!
//! The state says what is due; the pass only looks. It catches up after a stop, and a step that failed is tried by the next
//! pass. Deadlines are wall-clock instants that were fixed when a window opened: a clock that is set back moves none of
//! them, and monotonic time is counted besides, here ([`Ends`]) and by holders and consumers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mayfly_model::task::{CloseCause, DefinitionHash, Stage, Staleness, Task, TaskName, TaskStep, Window};
use mayfly_model::{Actor, Change, Revision, Step};
use mayfly_policy::Phase;
use mayfly_runtime::{CancellationToken, Chain};
use mayfly_svid::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, warn};

use super::ends::Ends;
use super::request::{refusal_of, with_note};
use super::retain::{KEPT_MAX, forget_before};
use super::window::present_definition;
use super::{TaskError, Tasks};
use crate::commit::Snapshot;

/// Between two passes.
const TICK: Duration = Duration::from_millis(250);
/// Acknowledgements that come within this are looked at together.
const GATHER: Duration = Duration::from_millis(25);
/// Between two looks at the tickets that requests wait for, and that windows rest on.
const TICKETS: Duration = Duration::from_secs(5);
/// Between two removals of what is over.
const PRUNE: Duration = Duration::from_secs(60);

/// Questions to the tracker at a time, of those that wait and of those that are open.
const TICKETS_AT_A_TIME: usize = 4;

/// What a pass remembers for the next.
#[derive(Default)]
pub(super) struct Memory {
    asked: AskedAbout,
    ends: Ends,
    /// Of this revision it is noted which agents there are.
    expected: Option<Revision>,
    pruned_at: Option<Instant>,
}

/// What open windows were asked about by policy.
#[derive(Default)]
struct AskedAbout {
    /// These policies.
    policy: Option<String>,
    /// These versions of their definitions.
    definitions: BTreeMap<TaskName, DefinitionHash>,
}

impl Tasks {
    /// Does what is due, until `stop`.
    ///
    /// # Errors
    /// None; the type is the supervisor's.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acknowledged = self.checkpoints.changed();
        let mut memory = Memory::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
                // A window is settled soon after the last consumer says so, however often they say something.
                _ = acknowledged.changed() => tokio::time::sleep(GATHER).await,
            }
            if let Err(failure) = self.pass(&mut memory).await {
                error!(error = %Chain(&failure), "a pass over the tasks did not get through, the next one tries again");
            }
        }
    }

    pub(super) async fn pass(&self, memory: &mut Memory) -> Result<(), TaskError> {
        let (state, now, actor) = (self.committer.snapshot(), self.now(), Actor::server());
        let mut steps = vec![];
        // As often as the state changes, not as often as agents say something: thousands may come back after a start.
        if memory.expected != Some(state.revision()) {
            memory.expected = Some(state.revision());
            self.expect_agents(&state, now);
        }
        memory
            .ends
            .note(state.open_tasks().flat_map(|task| task.live_windows()), now);
        for task in state.due_tasks(now) {
            steps.extend(by_patience(task, now, &memory.ends).map(|step| (task.clone(), step)));
            steps.extend(self.due(&state, task, now).into_iter().map(|step| (task.clone(), step)));
        }
        for chunk in steps.chunks(256) {
            self.commit_due(&actor, chunk).await?;
        }
        self.record_presences(&actor).await?;
        let mut asked = self.to_be_asked(&state);
        let outdated = memory
            .asked
            .outdated(&asked, &state, |task| task.request.ticket.is_none());
        let mut ends = vec![];
        for task in outdated {
            ends.extend(self.not_allowed(&state, &task).await);
        }
        self.commit_ends(&actor, ends).await?;
        // Only now: what failed above is asked again by the next pass.
        std::mem::swap(&mut memory.asked, &mut asked);
        if memory.pruned_at.is_none_or(|at| at.elapsed() >= PRUNE) {
            memory.pruned_at = Some(Instant::now());
            let before = forget_before(state.oldest_tasks(), now, self.settings.retention, KEPT_MAX);
            if let Some(before) = before {
                self.committer
                    .commit(self.step(&actor, Change::TaskPrune { before }))
                    .await?;
            }
        }
        Ok(())
    }

    /// Looks at tickets, until `stop`: those that requests wait for, and those that windows rest on. Apart from what time
    /// does, and from each other, as a tracker may be slow, and anybody may name tickets that there are not.
    ///
    /// # Errors
    /// None; the type is the supervisor's.
    pub async fn run_tickets(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow_awaited_tickets() => {}
            () = self.follow_tickets_of_open() => {}
        }
        Ok(())
    }

    async fn follow_awaited_tickets(&self) {
        let actor = Actor::server();
        loop {
            tokio::time::sleep(TICKETS).await;
            let (state, now) = (self.committer.snapshot(), self.now());
            let waits = |task: &&Arc<Task>| task.stage == Stage::AwaitingTicket && now <= task.wait_until;
            let waiting: Vec<Arc<Task>> = state.live_tasks().filter(waits).cloned().collect();
            let turns = Semaphore::new(TICKETS_AT_A_TIME);
            let each = waiting
                .into_iter()
                .map(|task| self.ask_again_in_turn(&turns, &actor, task));
            join_all(each.collect::<Vec<_>>()).await;
        }
    }

    async fn follow_tickets_of_open(&self) {
        let actor = Actor::server();
        let (mut asked, mut looked_at) = (AskedAbout::default(), Instant::now());
        let rests = |task: &Task| task.request.ticket.is_some();
        loop {
            tokio::time::sleep(TICK).await;
            let state = self.committer.snapshot();
            let present = self.to_be_asked(&state);
            if looked_at.elapsed() >= TICKETS {
                // All of them, whatever they were asked about.
                (asked, looked_at) = (AskedAbout::default(), Instant::now());
            }
            let outdated = asked.outdated(&present, &state, rests);
            let turns = Semaphore::new(TICKETS_AT_A_TIME);
            let each = outdated
                .into_iter()
                .map(|task| self.end_not_allowed_in_turn(&turns, &actor, &state, task));
            let all = join_all(each.collect::<Vec<_>>()).await;
            if all.into_iter().all(|done| done) {
                asked = present;
            }
        }
    }

    async fn ask_again_in_turn(&self, turns: &Semaphore, actor: &Actor, task: Arc<Task>) -> bool {
        let _turn = turns.acquire().await;
        told(&task, self.ask_again(actor, &task).await.or_else(ignore_refusal))
    }

    async fn end_not_allowed_in_turn(
        &self,
        turns: &Semaphore,
        actor: &Actor,
        state: &Snapshot,
        task: Arc<Task>,
    ) -> bool {
        let _turn = turns.acquire().await;
        let ends = self.not_allowed(state, &task).await;
        told(&task, self.commit_ends(actor, ends).await)
    }

    /// What open windows have to be asked about now.
    fn to_be_asked(&self, state: &Snapshot) -> AskedAbout {
        let mut definitions = BTreeMap::new();
        for task in state.open_tasks() {
            let name = &task.request.task;
            if !definitions.contains_key(name) {
                let found = state.definition(name);
                let hash = found.map_or(task.request.definition, |found| found.hash);
                definitions.insert(name.clone(), hash);
            }
        }
        AskedAbout {
            policy: Some(self.policy.current().digest().to_string()),
            definitions,
        }
    }

    async fn commit_due(&self, actor: &Actor, due: &[(Arc<Task>, TaskStep)]) -> Result<(), TaskError> {
        let steps: Vec<Step> = due
            .iter()
            .map(|(task, step)| {
                self.step(
                    actor,
                    Change::TaskStep {
                        id: task.id.clone(),
                        step: Box::new(step.clone()),
                    },
                )
            })
            .collect();
        for ((task, step), result) in due.iter().zip(self.committer.commit_all(steps).await) {
            // Whoever was quicker did as well.
            result.map(drop).map_err(TaskError::from).or_else(ignore_refusal)?;
            match step {
                TaskStep::Close { window, cause, detail } => {
                    warn!(request_id = %task.id, window_id = %window, cause = cause.word(), detail, "window ended");
                }
                TaskStep::GiveUp { window, detail, .. } => {
                    error!(request_id = %task.id, window_id = %window, missing = detail,
                           hint = "consumers with these IDs do not enforce what was revoked, or the server does not know of \
                                   all of them: see whether they run and reach their agents, and whether agents that are \
                                   named reach the server; `mayfly task now` shows it",
                           "revocation incomplete");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What time asks of a task.
    fn due(&self, state: &Snapshot, task: &Task, now: Timestamp) -> Vec<TaskStep> {
        let mut steps = vec![];
        let is_late = match task.stage {
            Stage::AwaitingApproval | Stage::AwaitingTicket => now > task.wait_until,
            Stage::Armed => now > task.grant.open_by,
            _ => false,
        };
        if is_late {
            steps.push(TaskStep::Expire);
        }
        for window in &task.windows {
            steps.extend(self.due_of_window(state, task, window, now));
        }
        steps
    }

    fn due_of_window(&self, state: &Snapshot, task: &Task, window: &Window, now: Timestamp) -> Option<TaskStep> {
        let id = window.id;
        let close = |cause, detail: &str| {
            Some(TaskStep::Close {
                window: id,
                cause,
                detail: detail.into(),
            })
        };
        match window.stage {
            Stage::Open | Stage::Suspended if now >= window.closes_at => {
                close(CloseCause::TimedOut, "its time is over")
            }
            Stage::Open | Stage::Suspended => {
                if window.heartbeat_due.is_some_and(|due| now >= due) {
                    return close(CloseCause::HeartbeatLost, "its process gave no sign of life");
                }
                match state.agent(&window.instance.agent_id) {
                    None => return close(CloseCause::AttestationLost, "its node was evicted"),
                    Some(agent) if agent.banned => return close(CloseCause::AttestationLost, "its node was banned"),
                    Some(_) => {}
                }
                let Some(definition) = present_definition(state, task, window) else {
                    return close(
                        CloseCause::PolicyWithdrawn,
                        "its definition was retired or is of another class",
                    );
                };
                let is_strict = definition.definition.ending.staleness == Staleness::Strict;
                if is_strict && self.is_lost(&window.instance.agent_id) {
                    return close(CloseCause::LeaseLost, "its node was not heard for the lease");
                }
                None
            }
            // Its holder is gone, or does not say; what it had is over by itself.
            Stage::Closing if now > window.last_second() => Some(TaskStep::Confirm { window: id }),
            Stage::Closing => None,
            Stage::Closed | Stage::RevocationIncomplete => self.settlement(state, task, window, now),
            _ => None,
        }
    }

    /// Asks the policy and the definition in force about windows of a task that were opened under older ones: the changes
    /// that end what they do not allow, each with the record of its decision.
    async fn not_allowed(&self, state: &Snapshot, task: &Arc<Task>) -> Vec<Change> {
        let ticket = self.ticket(&task.request).await;
        let mut changes = vec![];
        for window in task.live_windows() {
            // One without a definition is due to end by itself.
            let Some(definition) = present_definition(state, task, window) else {
                continue;
            };
            let decided = self.decide(
                state,
                self.about(Phase::Sweep, task, window, definition, ticket.clone(), None),
            );
            if let Err(denied) = decided.require() {
                warn!(request_id = %task.id, window_id = %window.id, reasons = %denied, "policy allows the window no more");
                let step = TaskStep::Close {
                    window: window.id,
                    cause: CloseCause::PolicyWithdrawn,
                    detail: denied.to_string(),
                };
                changes.push(with_note(&task.id, step, &decided));
            }
        }
        changes
    }

    async fn commit_ends(&self, actor: &Actor, changes: Vec<Change>) -> Result<(), TaskError> {
        let steps = changes.into_iter().map(|change| self.step(actor, change));
        for result in self.committer.commit_all(steps.collect()).await {
            // One that ended meanwhile needs nothing more.
            result.map(drop).map_err(TaskError::from).or_else(ignore_refusal)?;
        }
        Ok(())
    }
}

/// Ends windows whose time is over although the wall clock, which was set back, has not come to their end.
fn by_patience(task: &Task, now: Timestamp, ends: &Ends) -> impl Iterator<Item = TaskStep> {
    let over = task
        .live_windows()
        .filter(move |window| now < window.closes_at && ends.is_over(&window.id));
    over.map(|window| TaskStep::Close {
        window: window.id,
        // By the wall clock, which the record is of, it is not over yet: it is the definition that allows no more.
        cause: CloseCause::PolicyWithdrawn,
        detail: "its time is over, although the clock was set back meanwhile".into(),
    })
}

impl AskedAbout {
    /// The tasks with open windows, among those that `wanted` names, that were not asked about `present`.
    fn outdated(&self, present: &Self, state: &Snapshot, wanted: impl Fn(&Task) -> bool) -> Vec<Arc<Task>> {
        let is_new_policy = self.policy != present.policy;
        let is_outdated = |task: &&Arc<Task>| {
            let name = &task.request.task;
            let before = self.definitions.get(name).unwrap_or(&task.request.definition);
            is_new_policy || present.definitions.get(name).is_some_and(|now| now != before)
        };
        let open = state.open_tasks().filter(|task| wanted(task));
        open.filter(is_outdated).cloned().collect()
    }
}

/// Whether it got through; what did not is in the log.
fn told(task: &Task, result: Result<(), TaskError>) -> bool {
    if let Err(failure) = &result {
        error!(request_id = %task.id, error = %Chain(failure), "a task could not be decided again, it is tried again");
    }
    result.is_ok()
}

fn ignore_refusal(error: TaskError) -> Result<(), TaskError> {
    match refusal_of(&error) {
        Some(_) => Ok(()),
        None => Err(error),
    }
}
