//! Tasks: asked for, decided, approved, opened, renewed and ended.
//!
//! ```text
//!   agent ── Request ─▶ request.rs ─┐               ┌─▶ Committer: TaskSubmit, TaskStep (guards: `Task::apply`, store)
//!         ── Open ────▶ window.rs ──┼─▶ facts.rs ─▶ PolicySet::decide
//!         ── Renew ───▶ window.rs ──┤               └─▶ log: policy.decided, with the facts
//!   people ─ Approve ─▶ approve.rs ─┤
//!   time ─────────────▶ sweep.rs ───┘   revoke.rs: ends windows by scope
//! ```
//!
//! Every step is one commit with its decision. What may follow what is the model's, whether it may be now the policy's;
//! here the facts are gathered and the two are brought together.
//!
//! Not here: the wire (`api`), signing (`issue`), definitions and policy as such (`definitions`, `policy`).

mod approve;
mod ends;
mod facts;
mod reach;
mod request;
mod retain;
mod revoke;
mod settle;
mod sweep;
mod window;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::task::{PersonId, RequestProblem, Task, TaskId, TaskName, TaskRefusal};
use mayfly_model::{Actor, Change, Conflict, ErrorKind, Step};
use mayfly_policy::Reason;
use mayfly_runtime::Clock;
use mayfly_svid::{SpiffeId, Timestamp, WindowId};
use tokio::time::Instant;

use super::checkpoints::Checkpoints;
use super::issue::{Issuance, IssueError};
use super::people::People;
use super::policy::PolicyHolder;
use super::tickets::TicketChecker;
use crate::commit::{CommitError, Committer};
use crate::watch::Hub;

use reach::Reach;

pub use facts::Attested;
pub use request::Asked;
pub use revoke::Scope;
pub use window::Opened;

/// How tasks behave besides what their definitions say.
#[derive(Clone, Copy, Debug)]
pub struct TaskSettings {
    /// An agent that was not heard for so long has lost its windows of definitions that are strict.
    pub lease: Duration,
    /// A window whose checkpoints have not acknowledged by then is `RevocationIncomplete`.
    pub settle_within: Duration,
    /// What is over is forgotten after so long; the log keeps it.
    pub retention: Duration,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            settle_within: Duration::from_secs(30),
            retention: Duration::from_secs(7 * 86_400),
        }
    }
}

/// What the use cases stand on.
pub struct TaskParts {
    /// The state and the way to change it.
    pub committer: Committer,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// The policy in force.
    pub policy: Arc<PolicyHolder>,
    /// Who is who.
    pub people: Arc<People>,
    /// The tracker.
    pub tickets: Arc<dyn TicketChecker>,
    /// The way to sign.
    pub issuance: Issuance,
    /// What consumers enforce.
    pub checkpoints: Arc<Checkpoints>,
    /// Which agents are there.
    pub hub: Arc<Hub>,
    /// The rest.
    pub settings: TaskSettings,
}

/// All that is done with tasks.
pub struct Tasks {
    committer: Committer,
    clock: Arc<dyn Clock>,
    policy: Arc<PolicyHolder>,
    people: Arc<People>,
    tickets: Arc<dyn TicketChecker>,
    issuance: Issuance,
    checkpoints: Arc<Checkpoints>,
    hub: Arc<Hub>,
    reach: Reach,
    settings: TaskSettings,
    /// When this process did.
    began: Instant,
}

/// Why something about a task did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// No such definition, or not for this workload: the two read the same.
    #[error("there is no task `{0}` that this workload may run")]
    NoSuchTask(TaskName),
    /// No such request, or not one of the caller's: the two read the same.
    #[error("there is no request `{0}`")]
    NoSuchRequest(TaskId),
    /// No such window, or not one of the caller's: the two read the same.
    #[error("there is no window `{0}`")]
    NoSuchWindow(WindowId),
    /// The agent may not serve this identity, or there is none.
    #[error("entry not found or not authorized")]
    NoSuchEntry,
    /// What is asked for cannot be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<RequestProblem>),
    /// The key was used for another request.
    #[error("request `{0}` has this idempotency key and asks for something else")]
    OtherRequest(TaskId),
    /// So many wait already.
    #[error("{ready} requests of this workload for `{task}` wait or can be opened already; end some of them first")]
    TooMany {
        /// For what.
        task: TaskName,
        /// How many.
        ready: usize,
    },
    /// So many were asked for within days.
    #[error(
        "this workload has asked for `{task}` {kept} times of late; of so many no further one is taken before a day"
    )]
    TooOften {
        /// For what.
        task: TaskName,
        /// How many are kept.
        kept: usize,
    },
    /// Policy says no.
    #[error("{}", words(.0))]
    Denied(Vec<Reason>),
    /// The caller is nobody that the configuration knows as a person.
    #[error(
        "{who} is not known as a person; an administrator can add a `[[people]]` section with this uid or SPIFFE ID to the \
         server's configuration"
    )]
    NotAPerson {
        /// Who called.
        who: String,
    },
    /// A person who may not do this.
    #[error("{person} may not do this: {why}")]
    NotAllowed {
        /// Who.
        person: PersonId,
        /// What would be needed.
        why: &'static str,
    },
    /// The SVID would live too short to be of use.
    #[error("the SVID would live for {left:?}, less than {floor:?}: {term} ends too soon")]
    TooShort {
        /// What is left.
        left: Duration,
        /// The least.
        floor: Duration,
        /// What makes it so short.
        term: &'static str,
    },
    /// Nothing fits the scope.
    #[error("nothing that is open fits: there is no {0}")]
    NothingToRevoke(String),
    /// The commit refused it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It could not be signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

fn words(reasons: &[Reason]) -> String {
    let each = reasons.iter().map(|reason| format!("{} [{}]", reason.text, reason.id));
    each.collect::<Vec<_>>().join("; ")
}

// === impl TaskError ===

impl TaskError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchTask(_) | Self::NoSuchRequest(_) | Self::NoSuchWindow(_) | Self::NoSuchEntry => {
                ErrorKind::NotFound
            }
            Self::NothingToRevoke(_) => ErrorKind::NotFound,
            Self::Invalid(_) => ErrorKind::InvalidArgument,
            Self::OtherRequest(_) => ErrorKind::AlreadyExists,
            Self::Denied(_) | Self::NotAPerson { .. } | Self::NotAllowed { .. } => ErrorKind::PermissionDenied,
            Self::TooShort { .. } => ErrorKind::FailedPrecondition,
            Self::TooMany { .. } | Self::TooOften { .. } => ErrorKind::ResourceExhausted,
            Self::Commit(CommitError::Conflict(Conflict::Task(TaskRefusal::TooSoon(_))))
            | Self::Issue(IssueError::Commit(CommitError::Conflict(Conflict::Task(TaskRefusal::TooSoon(_))))) => {
                ErrorKind::ResourceExhausted
            }
            Self::Commit(source) => source.kind(),
            Self::Issue(source) => source.kind(),
        }
    }
}

// === impl Tasks ===

impl Tasks {
    /// Takes what it needs.
    pub fn new(parts: TaskParts) -> Arc<Self> {
        let TaskParts {
            committer,
            clock,
            policy,
            people,
            tickets,
            issuance,
            checkpoints,
            hub,
            settings,
        } = parts;
        Arc::new(Self {
            committer,
            clock,
            policy,
            people,
            tickets,
            issuance,
            checkpoints,
            hub,
            reach: Reach::default(),
            settings,
            began: Instant::now(),
        })
    }

    /// The checkpoints in `declared` that are not known to refuse all that was revoked up to `epoch`.
    pub fn waits_for(&self, declared: &BTreeSet<String>, epoch: u64) -> Vec<String> {
        let state = self.committer.snapshot();
        self.word(&state, declared, epoch, self.now()).missing
    }

    fn now(&self) -> Timestamp {
        self.clock.now().into()
    }

    fn step(&self, actor: &Actor, change: Change) -> Step {
        Step {
            actor: actor.clone(),
            time: self.now(),
            change,
        }
    }

    /// Makes a change of one task durable; the task after it.
    async fn change(&self, actor: &Actor, id: &TaskId, change: Change) -> Result<Arc<Task>, TaskError> {
        self.committer.commit(self.step(actor, change)).await?;
        self.found(id)
    }

    fn found(&self, id: &TaskId) -> Result<Arc<Task>, TaskError> {
        let state = self.committer.snapshot();
        let task = state.task(id).cloned();
        task.ok_or_else(|| TaskError::NoSuchRequest(id.clone()))
    }

    /// The request with this ID if it is of `workload`.
    fn own(&self, id: &TaskId, workload: &SpiffeId) -> Result<Arc<Task>, TaskError> {
        let task = self.found(id)?;
        if task.request.workload == *workload {
            Ok(task)
        } else {
            Err(TaskError::NoSuchRequest(id.clone()))
        }
    }
}

/// Whether a step found itself done already, which is as good as doing it.
fn is_done_already(error: &TaskError) -> bool {
    matches!(
        error,
        TaskError::Commit(CommitError::Conflict(Conflict::Task(TaskRefusal::AlreadyEnded)))
    )
}

#[cfg(test)]
mod tests;
