//! A task is asked for, waits, and becomes a grant or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::task::{
    ApprovalRule, DefinitionVersion, Grant, Needs, Outcome, RequestDigest, Stage, Task, TaskClass, TaskId, TaskName,
    TaskRefusal, TaskRequest, TaskStep, Terms,
};
use mayfly_model::{Actor, Change, Conflict};
use mayfly_policy::{Obligations, Phase};
use mayfly_svid::Timestamp;
use tracing::info;

use super::facts::{Attested, Decided, Question};
use super::retain::OF_WORKLOAD_MAX;
use super::{TaskError, Tasks};
use crate::commit::{CommitError, Snapshot};

/// Requests of one workload for one task that wait or can be opened. More are refused: each is kept, and asked about.
const READY_MAX: usize = 100;
/// Requests of one workload for one task that policy refused at once and that are kept beside the log. Of more only the log
/// knows, as who asks again and again for what it does not get would fill the memory otherwise.
const REFUSED_MAX: usize = 100;

/// What a process says that it wants.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The task.
    pub task: TaskName,
    /// Why.
    pub reason: String,
    /// A reference in the tracker.
    pub ticket: Option<String>,
    /// How long; as long as the definition says if none.
    pub window: Option<Duration>,
    /// Fewer scopes than the definition has; all if empty.
    pub scopes: BTreeSet<String>,
    /// What it is about.
    pub parameters: BTreeMap<String, String>,
    /// The same key is the same request; derived from the content if none.
    pub idempotency_key: Option<String>,
}

impl Tasks {
    /// Asks for a task on behalf of a process. The request that comes back may be there already, and may be refused.
    ///
    /// # Errors
    /// It cannot be asked for; nothing is kept but the record of a refusal.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was handed to the committer.
    pub async fn request(&self, actor: &Actor, process: &Attested, asked: Asked) -> Result<Arc<Task>, TaskError> {
        let now = self.now();
        let state = self.committer.snapshot();
        let no_such_task = || TaskError::NoSuchTask(asked.task.clone());
        let definition = state.definition(&asked.task).cloned().ok_or_else(no_such_task)?;
        let workload = &process.entry.spec.spiffe_id;
        let is_allowed = definition
            .definition
            .allowed
            .workloads
            .iter()
            .any(|path| path.matches(workload, state.trust_domain()));
        if !is_allowed {
            // Whoever may not run it does not learn that it is there.
            return Err(no_such_task());
        }
        let is_keyed = asked.idempotency_key.is_some();
        let mut request = self.snapshot_of(process, &definition, asked, now);
        let problems = request.check();
        if !problems.is_empty() {
            return Err(TaskError::Invalid(problems));
        }
        match present(&state, &request)? {
            Some(present) if is_keyed || present.stage.is_waiting() || present.stage == Stage::Armed => {
                return Ok(present);
            }
            // Its uses are windows already: this is another run of the same job.
            Some(_) => request.idempotency_key = TaskId::random().to_string(),
            None => {}
        }
        let ticket = self.ticket(&request).await;
        let decided = self.decide(
            &state,
            Question {
                phase: Phase::Request,
                request: &request,
                definition: &definition,
                node: &process.agent.id,
                selectors: &process.selectors,
                attested_at: process.attested_at,
                task: None,
                window: None,
                duration: request.window,
                ticket,
                approver: None,
                approval: None,
            },
        );
        let id = TaskId::random();
        let outcome = decided.outcome();
        if outcome == Outcome::Deny && state.refused_count(&request.task, &request.workload) >= REFUSED_MAX {
            self.require(actor, &id, &decided).await?;
        }
        let terms = terms(&definition, &decided.decision.obligations, now);
        let task = Task::submitted(id.clone(), request, decided.record(), outcome, terms, now)
            .map_err(super::window::refused)?;
        let change = Change::Together(vec![Change::TaskSubmit(Box::new(task)), decided.note(&id)]);
        match self.change(actor, &id, change).await {
            // Somebody asked for the same at the same time.
            Err(TaskError::Commit(CommitError::Conflict(Conflict::TaskExists(present)))) => Ok(present),
            Ok(task) => {
                tell(&task, outcome);
                Ok(task)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at a request that waits for its ticket again.
    ///
    /// # Errors
    /// It does not wait for that any more.
    pub(super) async fn ask_again(&self, actor: &Actor, task: &Task) -> Result<(), TaskError> {
        let ticket = self.ticket(&task.request).await;
        let state = self.committer.snapshot();
        let Some(definition) = state.definition(&task.request.task).cloned() else {
            return Ok(()); // Superseded by the commit that took it away.
        };
        let decided = self.decide(&state, self.waiting(Phase::Arm, task, &definition, ticket));
        let outcome = decided.outcome();
        if outcome == Outcome::WantTicket {
            return Ok(());
        }
        let step = TaskStep::Decide {
            decision: decided.record(),
            outcome,
        };
        let task = self
            .change(actor, &task.id, with_note(&task.id, step, &decided))
            .await?;
        tell(&task, outcome);
        Ok(())
    }

    /// A question about a request that waits: by what was known of the process when it asked.
    pub(super) fn waiting<'a>(
        &self,
        phase: Phase,
        task: &'a Task,
        definition: &'a Arc<DefinitionVersion>,
        ticket: Option<mayfly_policy::Ticket>,
    ) -> Question<'a> {
        Question {
            phase,
            request: &task.request,
            definition,
            node: &task.request.agent_id,
            selectors: &task.request.selectors,
            attested_at: task.request.requested_at,
            task: Some(task),
            window: None,
            duration: task.request.window,
            ticket,
            approver: None,
            approval: None,
        }
    }

    fn snapshot_of(
        &self,
        process: &Attested,
        definition: &DefinitionVersion,
        asked: Asked,
        now: Timestamp,
    ) -> TaskRequest {
        let Asked {
            task,
            reason,
            ticket,
            window,
            scopes,
            parameters,
            idempotency_key,
        } = asked;
        let spec = &definition.definition;
        let (class, person) = self.principal(process.instance.uid, definition);
        let workload = process.entry.spec.spiffe_id.clone();
        let mut request = TaskRequest {
            task,
            definition: definition.hash,
            entry_id: process.entry.id.clone(),
            agent_id: process.agent.id.clone(),
            actor: class,
            person,
            owner: self.people.workload_facts(&workload).owner,
            workload,
            selectors: process.selectors.clone(),
            reason,
            ticket,
            // Never more than the definition says, whatever is asked.
            window: window.map_or(spec.limits.max_window, |window| window.min(spec.limits.max_window)),
            scopes: if scopes.is_empty() { spec.scopes.clone() } else { scopes },
            parameters,
            idempotency_key: String::new(),
            requested_at: now,
        };
        // By default the content is the key, so that a job that was ended while its request waited finds it again.
        request.idempotency_key = idempotency_key.unwrap_or_else(|| request.digest().to_string());
        request
    }
}

/// The live request with the same key; one that waits or can be opened before one that is used up.
fn present(state: &Snapshot, request: &TaskRequest) -> Result<Option<Arc<Task>>, TaskError> {
    let is_ready = |other: &Task| other.stage.is_waiting() || other.stage == Stage::Armed;
    let (name, workload, digest) = (&request.task, &request.workload, request.digest());
    let keyed = state.keyed_tasks_of(name, workload, &request.idempotency_key);
    let is_derived = is_derived(&request.idempotency_key, &digest);
    let alike = state
        .ready_tasks_of(name, workload)
        .filter(|other| is_derived && other.digest == digest);
    let ready = state.ready_tasks_of(name, workload).count();
    // Of those that are ready the oldest.
    let same = keyed.chain(alike).min_by_key(|other| (!is_ready(other), &other.id));
    match same {
        Some(other) if other.digest != digest => Err(TaskError::OtherRequest(other.id.clone())),
        None if ready >= READY_MAX => Err(TaskError::TooMany {
            task: request.task.clone(),
            ready,
        }),
        None if state.kept_count(name, workload) >= OF_WORKLOAD_MAX => Err(TaskError::TooOften {
            task: request.task.clone(),
            kept: OF_WORKLOAD_MAX,
        }),
        other => Ok(other.cloned()),
    }
}

/// Whether a key is the one that requests have by themselves.
fn is_derived(key: &str, digest: &RequestDigest) -> bool {
    key == digest.to_string()
}

/// The step with the record of its decision, in one commit.
pub(super) fn with_note(id: &TaskId, step: TaskStep, decided: &Decided) -> Change {
    Change::Together(vec![
        Change::TaskStep {
            id: id.clone(),
            step: Box::new(step),
        },
        decided.note(id),
    ])
}

/// What a request gets: of its definition, and of what policy adds to it.
fn terms(definition: &DefinitionVersion, obligations: &Obligations, now: Timestamp) -> Terms {
    let spec = &definition.definition;
    let window_max = obligations
        .window_cap
        .map_or(spec.limits.max_window, |cap| cap.min(spec.limits.max_window));
    let approvals: Vec<ApprovalRule> = obligations
        .approvals
        .iter()
        .filter(|rule| rule.count > 0)
        .cloned()
        .collect();
    Terms {
        needs: Needs {
            approvals,
            ticket: spec.ticket.required,
        },
        grant: Grant {
            open_by: now.plus(spec.limits.open_within),
            uses_left: spec.limits.max_uses,
            window_max,
            concurrency: spec.limits.concurrency,
            settle_before_next: spec.ending.settle_before_next,
            heartbeat: spec.heartbeat.as_ref().map(|rule| rule.interval * rule.missed),
            review: spec.class == TaskClass::Breakglass,
            checkpoints: spec.ending.checkpoints.clone(),
        },
        open_within: spec.limits.open_within,
        wait_until: now.plus(spec.limits.request_ttl),
    }
}

fn tell(task: &Task, outcome: Outcome) {
    let reasons = task
        .decisions
        .last()
        .map(|decision| decision.reasons.join(" "))
        .unwrap_or_default();
    let groups: Vec<String> = task
        .needs
        .approvals
        .iter()
        .flat_map(|rule| &rule.groups)
        .map(ToString::to_string)
        .collect();
    info!(request_id = %task.id, task = %task.request.task, workload = %task.request.workload, stage = task.stage.word(),
          ?outcome, reasons, approver_groups = groups.join(" "), "task requested");
}

/// Whether a refusal of the model says that there was nothing to do.
pub(super) fn refusal_of(error: &TaskError) -> Option<&TaskRefusal> {
    match error {
        TaskError::Commit(CommitError::Conflict(Conflict::Task(refusal))) => Some(refusal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mayfly_model::{ErrorKind, Revision};
    use mayfly_store::State;

    use super::*;
    use crate::app::testing::{World, id};

    #[tokio::test]
    async fn who_has_asked_too_often_of_late_finds_what_is_there_and_gets_nothing_new() {
        let world = World::new().await;
        let agent = world.agent("a").await;
        let armed = world.armed(&agent).await;
        let first = world
            .committer
            .snapshot()
            .task(&armed.task_id)
            .unwrap()
            .as_ref()
            .clone();
        let over = |number: usize| {
            let mut task = first.clone();
            task.id = format!("01900000-0000-7000-8000-{number:012x}").parse().unwrap();
            task.request.idempotency_key = number.to_string();
            task.stage = Stage::Cancelled;
            task
        };
        let kept = |count: usize| {
            let state = State {
                history: "h".into(),
                revision: Revision(1),
                tasks: (1..count).map(over).chain([first.clone()]).collect(),
                ..State::default()
            };
            Snapshot::load("td".parse().unwrap(), state)
        };
        let another = |change: fn(&mut TaskRequest)| {
            let mut request = first.request.clone();
            request.idempotency_key = "another".into();
            change(&mut request);
            request
        };
        let fewer = kept(OF_WORKLOAD_MAX - 1);
        assert!(present(&fewer, &another(|_| ())).unwrap().is_none());
        let state = kept(OF_WORKLOAD_MAX);
        let refused = present(&state, &another(|_| ())).unwrap_err();
        assert!(
            matches!(
                refused,
                TaskError::TooOften {
                    kept: OF_WORKLOAD_MAX,
                    ..
                }
            ),
            "{refused}"
        );
        assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
        let found = present(&state, &first.request).unwrap().unwrap();
        assert_eq!(found.id, first.id);
        // What others ask for, and what it asks for besides, has bounds of its own.
        let of_other = another(|request| request.workload = id("/ns/pay/other"));
        assert!(present(&state, &of_other).unwrap().is_none());
        let of_task = another(|request| request.task = "pay/other".parse().unwrap());
        assert!(present(&state, &of_task).unwrap().is_none());
    }
}
