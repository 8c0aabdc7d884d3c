//! People agree, refuse, take back, and look at what was done.

use std::sync::Arc;

use mayfly_model::task::{Approval, Outcome, PersonId, RequestDigest, Stage, Task, TaskId, TaskStep};
use mayfly_model::{Actor, Change};
use mayfly_policy::Phase;
use mayfly_svid::WindowId;
use tracing::info;

use super::request::with_note;
use super::{TaskError, Tasks};
use crate::app::people::Person;

impl Tasks {
    /// `person` agrees to what `digest` stands for. With the last approval that is needed the request becomes a grant.
    ///
    /// # Errors
    /// The person may not, or the request is another one or does not wait for people.
    pub async fn approve(
        &self,
        actor: &Actor,
        person: &Person,
        id: &TaskId,
        digest: RequestDigest,
        reason: String,
    ) -> Result<Arc<Task>, TaskError> {
        let task = self.found(id)?;
        let ticket = self.ticket(&task.request).await;
        let now = self.now();
        let state = self.committer.snapshot();
        let definition = state
            .definition(&task.request.task)
            .cloned()
            .ok_or_else(|| TaskError::NoSuchTask(task.request.task.clone()))?;
        let approver = mayfly_policy::Person {
            id: person.id.clone(),
            groups: person.groups.clone(),
            key: Some(person.authenticated_as.clone()),
        };
        // May this person approve this at all?
        let mut question = self.waiting(Phase::Approve, &task, &definition, ticket.clone());
        question.approver = Some(approver.clone());
        let decided = self.decide(&state, question);
        self.require(actor, id, &decided).await?;
        // And what becomes of the request with it?
        let mut question = self.waiting(Phase::Arm, &task, &definition, ticket);
        question.approval = Some(mayfly_policy::Approval { by: approver, at: now });
        let decided = self.decide(&state, question);
        if decided.outcome() == Outcome::Deny {
            self.require(actor, id, &decided).await?;
        }
        let valid_for = task
            .needs
            .approvals
            .iter()
            .map(|rule| rule.valid_for)
            .min()
            .unwrap_or_default();
        let step = TaskStep::Approve {
            approval: Approval {
                person: person.id.clone(),
                groups: person.groups.clone(),
                authenticated_as: person.authenticated_as.clone(),
                reason,
                at: now,
                valid_until: now.plus(valid_for),
            },
            digest,
            decision: decided.record(),
        };
        let task = self.change(actor, id, with_note(id, step, &decided)).await?;
        info!(request_id = %id, task = %task.request.task, person = %person.id, stage = task.stage.word(), "task approved");
        Ok(task)
    }

    /// `person`, who could have agreed, says no: nobody else can agree any more.
    ///
    /// # Errors
    /// The person is none of those who could, or the request does not wait for people.
    pub async fn refuse(
        &self,
        actor: &Actor,
        person: &Person,
        id: &TaskId,
        reason: String,
    ) -> Result<Arc<Task>, TaskError> {
        let task = self.found(id)?;
        let may = task
            .needs
            .approvals
            .iter()
            .any(|rule| !person.groups.is_disjoint(&rule.groups));
        if !may && !self.is_owner(&task, &person.id) {
            return Err(not_allowed(
                person,
                "one of the groups that approve it, or owning the definition",
            ));
        }
        let by = person.id.clone();
        self.commit_step(actor, id, TaskStep::Refuse { by, reason }).await
    }

    /// Takes back a request that waits, or a grant that was not opened: by the person who asked, an approver of it, the owner
    /// of the definition, or an administrator (T9, T13).
    ///
    /// # Errors
    /// The person is none of them, or it has gone on.
    pub async fn withdraw(
        &self,
        actor: &Actor,
        person: Option<&Person>,
        is_admin: bool,
        id: &TaskId,
        reason: String,
    ) -> Result<Arc<Task>, TaskError> {
        let task = self.found(id)?;
        self.require_say(&task, actor, person, is_admin)?;
        self.commit_step(actor, id, TaskStep::Cancel { reason }).await
    }

    /// Stops a window for now; its SVIDs are refused from now on.
    ///
    /// # Errors
    /// The person has no say in it, or it is not open.
    pub async fn suspend(
        &self,
        actor: &Actor,
        person: Option<&Person>,
        is_admin: bool,
        window: WindowId,
        reason: String,
    ) -> Result<Arc<Task>, TaskError> {
        let task = self.task_of(&window)?;
        self.require_say(&task, actor, person, is_admin)?;
        let id = task.id.clone();
        self.commit_step(actor, &id, TaskStep::Suspend { window, reason }).await
    }

    /// Lets a window that was stopped go on, if policy still says so. By an approver of the task or its owner, who is not
    /// who asked.
    ///
    /// # Errors
    /// The person may not, policy does not allow it, or it is not stopped.
    pub async fn resume(&self, actor: &Actor, person: &Person, window: WindowId) -> Result<Arc<Task>, TaskError> {
        let task = self.task_of(&window)?;
        let approves = task
            .needs
            .approvals
            .iter()
            .any(|rule| !person.groups.is_disjoint(&rule.groups));
        let asked = task.request.person.as_ref() == Some(&person.id);
        if asked || (!approves && !self.is_owner(&task, &person.id)) {
            return Err(not_allowed(
                person,
                "approving it or owning the definition, and not having asked for it",
            ));
        }
        let ticket = self.ticket(&task.request).await;
        let state = self.committer.snapshot();
        let definition = state
            .definition(&task.request.task)
            .cloned()
            .ok_or_else(|| TaskError::NoSuchTask(task.request.task.clone()))?;
        let held = task.window(&window).ok_or(TaskError::NoSuchWindow(window))?;
        let decided = self.decide(&state, self.about(Phase::Sweep, &task, held, &definition, ticket, None));
        decided.require()?;
        let step = TaskStep::Resume {
            window,
            decision: decided.record(),
        };
        self.change(actor, &task.id, with_note(&task.id, step, &decided)).await
    }

    /// The review after break-glass, by somebody else than who used it who approves such uses or owns the definition.
    ///
    /// # Errors
    /// None is due, the person used it, or has no say in it.
    pub async fn review(
        &self,
        actor: &Actor,
        person: &Person,
        id: &TaskId,
        reason: String,
    ) -> Result<Arc<Task>, TaskError> {
        let task = self.found(id)?;
        self.require_say(&task, actor, Some(person), false)?;
        if task.live_windows().next().is_some() {
            return Err(not_allowed(person, "the window to be over before it is reviewed"));
        }
        if task.approvals.iter().any(|approval| approval.person == person.id) {
            return Err(not_allowed(person, "not having approved this use"));
        }
        let by = person.id.clone();
        self.commit_step(actor, id, TaskStep::Review { by, reason }).await
    }

    /// Accepts in writing that a window could not be settled; the second administrator who does settles it (T33).
    ///
    /// # Errors
    /// It is not one of those, or the person asked for it, owns what did, or accepted it already.
    pub async fn accept_risk(
        &self,
        actor: &Actor,
        person: &Person,
        window: WindowId,
        reason: String,
    ) -> Result<Arc<Task>, TaskError> {
        let id = self.task_of(&window)?.id.clone();
        let by = person.id.clone();
        self.commit_step(actor, &id, TaskStep::AcceptRisk { window, by, reason })
            .await
    }

    /// The task that opened this window.
    ///
    /// # Errors
    /// There is none.
    pub fn task_of(&self, window: &WindowId) -> Result<Arc<Task>, TaskError> {
        let state = self.committer.snapshot();
        state
            .task_of_window(window)
            .cloned()
            .ok_or(TaskError::NoSuchWindow(*window))
    }

    pub(super) async fn commit_step(&self, actor: &Actor, id: &TaskId, step: TaskStep) -> Result<Arc<Task>, TaskError> {
        let change = Change::TaskStep {
            id: id.clone(),
            step: Box::new(step),
        };
        self.change(actor, id, change).await
    }

    /// Whether a person has a say in ending a task: ending needs no approval (I12), but not everybody ends everything.
    pub(super) fn require_say(
        &self,
        task: &Task,
        actor: &Actor,
        person: Option<&Person>,
        is_admin: bool,
    ) -> Result<(), TaskError> {
        if is_admin {
            return Ok(());
        }
        let person = person.ok_or_else(|| TaskError::NotAPerson { who: actor.who.clone() })?;
        let asked = task.request.person.as_ref() == Some(&person.id);
        let approved = task.approvals.iter().any(|approval| approval.person == person.id);
        let could = task
            .needs
            .approvals
            .iter()
            .any(|rule| !person.groups.is_disjoint(&rule.groups));
        if asked || approved || could || self.is_owner(task, &person.id) {
            Ok(())
        } else {
            Err(not_allowed(
                person,
                "having asked for it, approving it, owning the definition, or the admin role",
            ))
        }
    }

    fn is_owner(&self, task: &Task, person: &PersonId) -> bool {
        let state = self.committer.snapshot();
        let definition = state.definition(&task.request.task);
        let owns_definition = definition.is_some_and(|version| version.definition.owner == *person);
        owns_definition || (task.request.owner.as_ref() == Some(person) && task.stage != Stage::AwaitingApproval)
    }
}

fn not_allowed(person: &Person, why: &'static str) -> TaskError {
    TaskError::NotAllowed {
        person: person.id.clone(),
        why,
    }
}
