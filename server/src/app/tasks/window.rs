//! Windows are opened, renewed, extended and ended by the processes that hold them.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::task::{
    CloseCause, DefinitionVersion, Issuance, TTL_FLOOR, Task, TaskId, TaskRefusal, TaskStep, TtlTerm, Window,
};
use mayfly_model::{Actor, Agent, Change, Conflict};
use mayfly_policy::{Obligations, Phase, Ticket};
use mayfly_svid::{SpiffeId, TaskPath, Timestamp, WindowId, X509Svid};
use rand::Rng;
use tracing::info;

use super::facts::{Attested, Decided, Question};
use super::request::with_note;
use super::{TaskError, Tasks, is_done_already};
use crate::app::issue::WindowRequest;
use crate::commit::{CommitError, Snapshot};

/// SVIDs are valid from this long before they are made, for consumers whose clocks are a little behind.
const BACKDATE: Duration = Duration::from_secs(10);

/// A window with a new SVID.
#[derive(Debug)]
pub struct Opened {
    /// The task as it stands now.
    pub task: Arc<Task>,
    /// Which window of it.
    pub window: WindowId,
    /// Its definition.
    pub definition: Arc<DefinitionVersion>,
    /// The SVID.
    pub svid: X509Svid,
}

impl Tasks {
    /// Opens a window of a grant for a process, with its first SVID.
    ///
    /// # Errors
    /// It is not a grant of this workload, policy does not allow it now, or a guard refuses it.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was handed to the committer: the window may be open.
    pub async fn open(
        &self,
        actor: &Actor,
        process: &Attested,
        id: &TaskId,
        csr_der: Vec<u8>,
    ) -> Result<Opened, TaskError> {
        let task = self.own(id, &process.entry.spec.spiffe_id)?;
        let definition = self.definition_of(&task)?;
        // A grant is of who asked: another person's process with the same identity has no part in it.
        let (actor_class, person) = self.principal(process.instance.uid, &definition);
        if actor_class != task.request.actor || person != task.request.person {
            return Err(TaskError::NoSuchRequest(id.clone()));
        }
        let ticket = self.ticket(&task.request).await;
        let state = self.committer.snapshot();
        let mut question = self.waiting(Phase::Open, &task, &definition, ticket);
        question.node = &process.agent.id;
        question.selectors = &process.selectors;
        question.attested_at = process.attested_at;
        let decided = self.decide(&state, question);
        self.require(actor, id, &decided).await?;
        let now = decided.at;
        let obligations = &decided.decision.obligations;
        let longest = task.request.window.min(task.grant.window_max);
        let longest = obligations.window_cap.map_or(longest, |cap| longest.min(cap));
        let closes_at = now.plus(longest);
        let window_id = WindowId(rand::rng().random());
        let spiffe_id = identity(&task, &definition, window_id, &state)?;
        let (not_after, ttl_term) = life(&definition, obligations, process, closes_at, now)?;
        let request = WindowRequest {
            task_id: id.clone(),
            window_id,
            agent_id: process.agent.id.clone(),
            spiffe_id: spiffe_id.clone(),
            class: definition.definition.class,
            definition: definition.hash,
            csr_der,
            not_before: now.minus(BACKDATE),
            not_after,
            ttl_term,
            closes_at,
        };
        let record = |issuance: &Issuance| {
            let window = Window::new(
                window_id,
                process.instance.clone(),
                spiffe_id,
                issuance.clone(),
                now,
                closes_at,
            );
            let step = TaskStep::Open {
                window: Box::new(window),
                decision: decided.record(),
            };
            vec![with_note(id, step, &decided)]
        };
        let issued = self.issuance.for_window(actor, request, record).await?;
        let task = self.found(id)?;
        info!(request_id = %id, window_id = %window_id, task = %task.request.task, workload = %task.request.workload,
              closes_at = %closes_at, not_after = %issued.issuance.not_after, "window opened");
        Ok(Opened {
            task,
            window: window_id,
            definition,
            svid: issued.svid,
        })
    }

    /// Decides anew about a window that is open, and issues a further SVID. Its end does not move (I5).
    ///
    /// # Errors
    /// As for [`Tasks::open`]. What policy does not allow any more ends the window.
    ///
    /// # Cancel safety
    /// As for [`Tasks::open`].
    pub async fn renew(
        &self,
        actor: &Actor,
        process: &Attested,
        window_id: WindowId,
        csr_der: Vec<u8>,
    ) -> Result<Opened, TaskError> {
        let task = self.held(&window_id, &process.agent)?;
        let window = task.window(&window_id).ok_or(TaskError::NoSuchWindow(window_id))?;
        let same =
            window.instance.is_same_process(&process.instance) && task.request.workload == process.entry.spec.spiffe_id;
        if !same {
            return Err(TaskError::NoSuchWindow(window_id));
        }
        // Asked again inside the commit; here it spares the decision and the signature's preparation.
        let now = self.now();
        window.may_renew(now.minus(BACKDATE), now).map_err(refused)?;
        let ticket = self.ticket(&task.request).await;
        let state = self.committer.snapshot();
        let definition = present_definition(&state, &task, window).cloned();
        let definition = definition.ok_or_else(|| TaskError::NoSuchTask(task.request.task.clone()))?;
        let decided = self.decide(
            &state,
            self.about(Phase::Renew, &task, window, &definition, ticket, Some(process)),
        );
        let id = task.id.clone();
        if let Err(denied) = self.require(actor, &id, &decided).await {
            self.end(
                actor,
                &task,
                window_id,
                CloseCause::PolicyWithdrawn,
                denied.to_string(),
                false,
            )
            .await?;
            return Err(denied);
        }
        let now = decided.at;
        let obligations = &decided.decision.obligations;
        let (not_after, ttl_term) = life(&definition, obligations, process, window.closes_at, now)?;
        let request = WindowRequest {
            task_id: id.clone(),
            window_id,
            agent_id: process.agent.id.clone(),
            spiffe_id: window.spiffe_id.clone(),
            class: definition.definition.class,
            // What was asked for and approved, although a newer version may decide about it.
            definition: task.request.definition,
            csr_der,
            not_before: now.minus(BACKDATE),
            not_after,
            ttl_term,
            closes_at: window.closes_at,
        };
        let record = |issuance: &Issuance| {
            let step = TaskStep::Renew {
                window: window_id,
                issuance: issuance.clone(),
                decision: decided.record(),
            };
            vec![with_note(&id, step, &decided)]
        };
        let issued = self.issuance.for_window(actor, request, record).await?;
        Ok(Opened {
            task: self.found(&id)?,
            window: window_id,
            definition,
            svid: issued.svid,
        })
    }

    /// Moves the end of a window by `more`, within what its definition and the policies of its request allow (T16).
    ///
    /// # Errors
    /// The agent does not hold it, people approved it as it is, policy does not allow it, or it is as long as it may be.
    pub async fn extend(
        &self,
        actor: &Actor,
        agent: &Agent,
        window_id: WindowId,
        more: Duration,
    ) -> Result<Arc<Task>, TaskError> {
        let task = self.held(&window_id, agent)?;
        let window = task.window(&window_id).ok_or(TaskError::NoSuchWindow(window_id))?;
        let definition = self.definition_of(&task)?;
        let ticket = self.ticket(&task.request).await;
        let state = self.committer.snapshot();
        let latest = window.opened_at.plus(task.grant.window_max);
        let closes_at = window.closes_at.plus(more).min(latest);
        let mut question = self.about(Phase::Extend, &task, window, &definition, ticket, None);
        question.duration = closes_at.since(window.opened_at);
        let decided = self.decide(&state, question);
        let id = task.id.clone();
        self.require(actor, &id, &decided).await?;
        let step = TaskStep::Extend {
            window: window_id,
            closes_at,
            decision: decided.record(),
        };
        self.change(actor, &id, with_note(&id, step, &decided)).await
    }

    /// Takes a sign of life of the process that holds a window.
    ///
    /// # Errors
    /// The agent does not hold it, or it is over.
    pub async fn heartbeat(&self, actor: &Actor, agent: &Agent, window: WindowId) -> Result<Arc<Task>, TaskError> {
        let task = self.held(&window, agent)?;
        let id = task.id.clone();
        self.commit_step(actor, &id, TaskStep::Heartbeat { window }).await
    }

    /// Ends a window that an agent holds. The agent says with it that the process has nothing of it any more.
    ///
    /// # Errors
    /// The agent does not hold it, or it could not be stored. One that has ended already is no error.
    pub async fn close(
        &self,
        actor: &Actor,
        agent: &Agent,
        window: WindowId,
        cause: CloseCause,
        detail: String,
    ) -> Result<Arc<Task>, TaskError> {
        let task = self.held(&window, agent)?;
        self.end(actor, &task, window, cause, detail, true).await?;
        self.found(&task.id)
    }

    /// Ends a window for `cause`; with `is_gone` its holder has nothing any more.
    pub(super) async fn end(
        &self,
        actor: &Actor,
        task: &Task,
        window: WindowId,
        cause: CloseCause,
        detail: String,
        is_gone: bool,
    ) -> Result<(), TaskError> {
        let step = |step| Change::TaskStep {
            id: task.id.clone(),
            step: Box::new(step),
        };
        // An agent's clock may be a little ahead of ours: for us it is the process that is done.
        let now = self.now();
        let early = task.window(&window).is_some_and(|held| now < held.closes_at);
        let cause = if cause == CloseCause::TimedOut && early {
            CloseCause::Completed
        } else {
            cause
        };
        let close = step(TaskStep::Close { window, cause, detail });
        let confirm = is_gone.then(|| step(TaskStep::Confirm { window }));
        let steps = std::iter::once(close)
            .chain(confirm)
            .map(|change| self.step(actor, change));
        let mut failure = None;
        for result in self.committer.commit_all(steps.collect()).await {
            if let Err(error) = result.map_err(TaskError::from)
                && !is_done_already(&error)
                && super::request::refusal_of(&error).is_none()
            {
                failure.get_or_insert(error);
            }
        }
        match failure {
            Some(error) => Err(error),
            None => {
                info!(request_id = %task.id, window_id = %window, cause = cause.word(), "window ended");
                Ok(())
            }
        }
    }

    /// A refusal is kept in the log with its facts, then told.
    pub(super) async fn require(&self, actor: &Actor, id: &TaskId, decided: &Decided) -> Result<(), TaskError> {
        let result = decided.require();
        if result.is_err() {
            self.committer.commit(self.step(actor, decided.note(id))).await?;
        }
        result
    }

    /// The task of a window that `agent` holds.
    fn held(&self, window: &WindowId, agent: &Agent) -> Result<Arc<Task>, TaskError> {
        let task = self.task_of(window)?;
        let is_its = task
            .window(window)
            .is_some_and(|held| held.instance.agent_id == agent.id);
        if is_its {
            Ok(task)
        } else {
            Err(TaskError::NoSuchWindow(*window))
        }
    }

    fn definition_of(&self, task: &Task) -> Result<Arc<DefinitionVersion>, TaskError> {
        let state = self.committer.snapshot();
        let definition = state
            .definition(&task.request.task)
            .filter(|found| found.hash == task.request.definition);
        definition
            .cloned()
            .ok_or_else(|| TaskError::NoSuchTask(task.request.task.clone()))
    }

    /// A question about a window that is open.
    pub(super) fn about<'a>(
        &self,
        phase: Phase,
        task: &'a Task,
        window: &'a Window,
        definition: &'a Arc<DefinitionVersion>,
        ticket: Option<Ticket>,
        process: Option<&'a Attested>,
    ) -> Question<'a> {
        let mut question = self.waiting(phase, task, definition, ticket);
        question.window = Some(window);
        question.node = &window.instance.agent_id;
        question.duration = window.closes_at.since(window.opened_at);
        match process {
            Some(process) => {
                question.selectors = &process.selectors;
                question.attested_at = process.attested_at;
            }
            // It was attested for its last SVID.
            None => question.attested_at = window.issuances.last().map_or(window.opened_at, |last| last.not_before),
        }
        question
    }
}

/// What is in force for a window that is open: the newest version, which may be newer than the one that it was opened
/// under, and still has to allow it (T27). None when it was retired, or gives another kind of authority by now.
pub(super) fn present_definition<'a>(
    state: &'a Snapshot,
    task: &Task,
    window: &Window,
) -> Option<&'a Arc<DefinitionVersion>> {
    let root = |definition: &DefinitionVersion| format!("/{}/", definition.definition.root());
    let definition = state.definition(&task.request.task)?;
    window
        .spiffe_id
        .path()
        .starts_with(&root(definition))
        .then_some(definition)
}

pub(super) fn refused(refusal: TaskRefusal) -> TaskError {
    TaskError::Commit(CommitError::Conflict(Conflict::Task(refusal)))
}

/// The SPIFFE ID of a window.
fn identity(
    task: &Task,
    definition: &DefinitionVersion,
    window: WindowId,
    state: &Snapshot,
) -> Result<SpiffeId, TaskError> {
    let name = &task.request.task;
    let mut path = format!(
        "/{}/{}/{}{}",
        definition.definition.root(),
        name.team(),
        name.task(),
        task.request.workload.path()
    );
    if definition.definition.identity.instance_id {
        path.push_str(&format!("/w/{window}"));
    }
    let id = state.trust_domain().with_path(&path).map_err(|_| {
        TaskError::Invalid(vec![mayfly_model::task::RequestProblem {
            field: "spiffe_id",
            problem: format!("the identity `{path}` would be longer than a SPIFFE ID may be"),
        }])
    })?;
    debug_assert!(TaskPath::of(&id).is_some(), "{id}");
    Ok(id)
}

/// The last second of an SVID that is made now, and what makes it so short. Less than the floor is refused.
fn life(
    definition: &DefinitionVersion,
    obligations: &Obligations,
    process: &Attested,
    closes_at: Timestamp,
    now: Timestamp,
) -> Result<(Timestamp, TtlTerm), TaskError> {
    let limits = &definition.definition.limits;
    let terms = [
        (now.plus(limits.max_ttl), TtlTerm::Definition),
        (closes_at, TtlTerm::Window),
        (process.attested_at.plus(limits.evidence_max_age), TtlTerm::Attestation),
        (process.agent.expires_at, TtlTerm::Agent),
    ];
    let policy = obligations.ttl_cap.map(|cap| (now.plus(cap), TtlTerm::Policy));
    let (end, term) = terms
        .into_iter()
        .chain(policy)
        .min_by_key(|(end, _)| *end)
        .expect("there are four at least");
    let left = end.since(now);
    if left < TTL_FLOOR {
        return Err(TaskError::TooShort {
            left,
            floor: TTL_FLOOR,
            term: term.word(),
        });
    }
    // `not_after` is the last second that counts, an end the first that does not.
    Ok((end.minus(Duration::from_secs(1)), term))
}
