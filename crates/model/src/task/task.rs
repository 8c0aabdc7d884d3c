//! One request and all that came of it, and the guards of every step.
//!
//! [`Task::apply`] is a pure function: a task and a step give the next task, or say why not. The store calls it inside the
//! commit on what is on the disk, so that of two who ask for the same step one finds it done. The invariants I1, I2, I4, I5,
//! I9 and I11 of the task model are here, where no policy reaches.

use std::collections::BTreeSet;
use std::time::Duration;

use mayfly_svid::{Timestamp, WindowId};
use serde::{Deserialize, Serialize};

use super::{
    Approval, ApprovalRule, CloseCause, Decision, Event, NoSuchStep, Outcome, RequestDigest, Stage, StepContext,
    TaskId, TaskRefusal, TaskRequest, TaskStep, Window,
};

mod approvals;
mod windows;

pub use approvals::distinct_groups;
pub use windows::ISSUANCES_MAX;

/// Decisions that are kept with a task; the log has all.
const DECISIONS_KEPT: usize = 8;

/// What a request must have before it becomes a grant: the strictest of its definition and the policies that allowed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Who has to agree; each rule must be met. Empty: nobody.
    pub approvals: Vec<ApprovalRule>,
    /// A ticket.
    pub ticket: bool,
}

/// Eligibility to open windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The last instant at which it can be opened.
    pub open_by: Timestamp,
    /// Windows that it can still open.
    pub uses_left: u32,
    /// The longest that a window of it is open, extensions included: the definition's or a policy's.
    pub window_max: Duration,
    /// The most windows of this task and workload at a time.
    pub concurrency: u32,
    /// No window before the last one is settled.
    pub settle_before_next: bool,
    /// A missing sign of life ends a window after so long.
    pub heartbeat: Option<Duration>,
    /// Somebody has to look at it after it was opened: break-glass.
    pub review: bool,
    /// The consumers whose word settles its windows, as its definition declared them: those of a newer version did not
    /// enforce these windows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub checkpoints: BTreeSet<String>,
}

/// A request and all that came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its ID.
    pub id: TaskId,
    /// What was asked for.
    pub request: TaskRequest,
    /// Of the request.
    pub digest: RequestDigest,
    /// Where the request or the grant stands.
    pub stage: Stage,
    /// Since when.
    pub stage_since: Timestamp,
    /// What it needs.
    pub needs: Needs,
    /// The grant that it becomes.
    pub grant: Grant,
    /// How long a grant may wait to be opened.
    pub open_within: Duration,
    /// The last instant at which it waits for people or a ticket.
    pub wait_until: Timestamp,
    /// Who agreed.
    pub approvals: Vec<Approval>,
    /// The newest decisions, oldest first.
    pub decisions: Vec<Decision>,
    /// Every window that it opened.
    pub windows: Vec<Window>,
    /// Why it ended without a window, for people.
    pub message: String,
    /// Break-glass was used and nobody has looked at it yet.
    pub review_due: bool,
}

// === impl Task ===

impl Task {
    /// A request as it stands after its first decision.
    ///
    /// # Errors
    /// The outcome wants approvals of nobody.
    pub fn submitted(
        id: TaskId,
        request: TaskRequest,
        decision: Decision,
        outcome: Outcome,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Self, TaskRefusal> {
        let Terms {
            needs,
            grant,
            open_within,
            wait_until,
        } = terms;
        let mut task = Self {
            id,
            digest: request.digest(),
            request,
            stage: Stage::Submitted,
            stage_since: now,
            needs,
            grant,
            open_within,
            wait_until,
            approvals: vec![],
            decisions: vec![],
            windows: vec![],
            message: String::new(),
            review_due: false,
        };
        task.decide(decision, outcome, now)?;
        Ok(task)
    }

    /// The window with this ID.
    pub fn window(&self, id: &WindowId) -> Option<&Window> {
        self.windows.iter().find(|window| window.id == *id)
    }

    /// Windows that can still be renewed or resumed.
    pub fn live_windows(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(|window| window.stage.is_live_window())
    }

    /// Whether policy refused it when it was asked for, and nobody looked at it.
    pub fn is_refused(&self) -> bool {
        self.stage == Stage::Denied && self.message.is_empty() && self.decisions.len() == 1
    }

    /// The latest instant that it notes of itself.
    pub fn changed_at(&self) -> Timestamp {
        let settled = self.windows.iter().filter_map(|window| window.settled_at);
        settled.fold(self.stage_since, Timestamp::max)
    }

    /// Whether nothing can happen any more.
    pub fn is_over(&self) -> bool {
        self.stage.is_final() && !self.review_due && self.windows.iter().all(|window| window.stage.is_final())
    }

    /// The task after `step`.
    ///
    /// # Errors
    /// A guard does not hold; nothing changes.
    pub fn apply(&self, step: &TaskStep, context: StepContext) -> Result<Self, TaskRefusal> {
        let StepContext { now, next_epoch } = context;
        let mut next = self.clone();
        match step {
            TaskStep::Decide { decision, outcome } => {
                if self.stage != Stage::AwaitingTicket {
                    return Err(NoSuchStep {
                        from: self.stage,
                        event: Event::Permit,
                    }
                    .into());
                }
                next.in_time(now)?;
                next.decide(decision.clone(), *outcome, now)?;
            }
            TaskStep::Approve {
                approval,
                digest,
                decision,
            } => next.approve(approval, *digest, decision, now)?,
            TaskStep::Refuse { by, reason } => {
                if self.stage != Stage::AwaitingApproval {
                    return Err(NoSuchStep {
                        from: self.stage,
                        event: Event::Refuse,
                    }
                    .into());
                }
                next.move_on(Event::Refuse, now)?;
                next.message = format!("{by} refused: {reason}");
            }
            TaskStep::Cancel { reason } => {
                let event = if self.stage == Stage::Armed {
                    Event::Withdraw
                } else {
                    Event::Cancel
                };
                next.move_on(event, now)?;
                next.message.clone_from(reason);
            }
            TaskStep::Supersede { reason } => {
                next.move_on(Event::Supersede, now)?;
                next.message.clone_from(reason);
            }
            TaskStep::Expire => next.expire(now)?,
            TaskStep::Open { window, decision } => next.open(window, decision, now)?,
            TaskStep::Renew {
                window,
                issuance,
                decision,
            } => next.renew(window, issuance, decision, now)?,
            TaskStep::Extend {
                window,
                closes_at,
                decision,
            } => next.extend(window, *closes_at, decision, now)?,
            TaskStep::Heartbeat { window } => {
                let after = next.grant.heartbeat;
                let window = next.window_mut(window)?;
                window.stage = window.stage.on(Event::Renew)?;
                window.in_force(now)?;
                window.heartbeat_due = after.map(|after| now.plus(after));
            }
            TaskStep::Suspend { window, reason } => {
                let window = next.window_mut(window)?;
                window.stage = window.stage.on(Event::Suspend)?;
                // Who has nothing need not say that it lives.
                window.heartbeat_due = None;
                window.detail.clone_from(reason);
                window.revoke(next_epoch, now);
            }
            TaskStep::Resume { window, decision } => {
                let heartbeat = next.grant.heartbeat;
                next.note_decision(decision)?;
                let window = next.window_mut(window)?;
                window.stage = window.stage.on(Event::Resume)?;
                window.in_force(now)?;
                window.detail.clear();
                // The refused SVIDs are out of force; the window itself is not.
                window.epoch = None;
                window.heartbeat_due = heartbeat.map(|after| now.plus(after));
            }
            TaskStep::RevokeSvid { window, serial } => {
                let window = next.window_mut(window)?;
                let issuance = window
                    .issuances
                    .iter_mut()
                    .find(|issuance| issuance.serial == *serial && issuance.may_count(now))
                    .ok_or_else(|| TaskRefusal::NoSuchSvid(serial.clone()))?;
                if issuance.revoked.is_some() {
                    return Err(TaskRefusal::AlreadyEnded);
                }
                issuance.revoked = Some(next_epoch);
            }
            TaskStep::Close { window, cause, detail } => {
                let window = next.window_mut(window)?;
                if !window.stage.is_live_window() {
                    return Err(TaskRefusal::AlreadyEnded);
                }
                if *cause == CloseCause::TimedOut && now < window.closes_at {
                    return Err(TaskRefusal::TooEarly(window.closes_at));
                }
                window.stage = window.stage.on(Event::Close)?;
                window.cause = Some(*cause);
                window.detail.clone_from(detail);
                window.closed_at = Some(now);
                window.heartbeat_due = None;
                window.revoke(next_epoch, now);
            }
            TaskStep::Confirm { window } => {
                let window = next.window_mut(window)?;
                window.stage = window.stage.on(Event::Confirm)?;
            }
            TaskStep::Settle {
                window,
                residual,
                term,
                checkpoints,
            } => next.settle(window, *residual, *term, checkpoints, now)?,
            TaskStep::GiveUp {
                window,
                detail,
                checkpoints,
            } => {
                let window = next.window_mut(window)?;
                window.stage = window.stage.on(Event::GiveUp)?;
                window.detail.clone_from(detail);
                window.acknowledged.clone_from(checkpoints);
            }
            TaskStep::AcceptRisk { window, by, reason } => next.accept_risk(window, by, reason, now)?,
            TaskStep::Review { by, reason } => {
                if !self.review_due {
                    return Err(TaskRefusal::AlreadyEnded);
                }
                if self.request.person.as_ref() == Some(by) || self.request.owner.as_ref() == Some(by) {
                    return Err(TaskRefusal::SelfApproval(by.clone()));
                }
                if self.approvals.iter().any(|approval| approval.person == *by) {
                    return Err(TaskRefusal::ReviewOfOwn(by.clone()));
                }
                next.review_due = false;
                next.message = format!("reviewed by {by}: {reason}");
            }
        }
        Ok(next)
    }

    fn move_on(&mut self, event: Event, now: Timestamp) -> Result<(), TaskRefusal> {
        self.stage = self.stage.on(event)?;
        self.stage_since = now;
        Ok(())
    }

    fn window_mut(&mut self, id: &WindowId) -> Result<&mut Window, TaskRefusal> {
        let found = self.windows.iter_mut().find(|window| window.id == *id);
        found.ok_or(TaskRefusal::NoSuchWindow(*id))
    }

    fn in_time(&self, now: Timestamp) -> Result<(), TaskRefusal> {
        if now > self.wait_until {
            return Err(TaskRefusal::TooLate(self.wait_until));
        }
        Ok(())
    }

    /// Keeps a decision that allows; one that refuses stops the step.
    fn note_decision(&mut self, decision: &Decision) -> Result<(), TaskRefusal> {
        if !decision.allowed {
            return Err(TaskRefusal::Refused);
        }
        self.keep(decision.clone());
        Ok(())
    }

    fn keep(&mut self, decision: Decision) {
        if self.decisions.len() == DECISIONS_KEPT {
            self.decisions.remove(0);
        }
        self.decisions.push(decision);
    }

    fn decide(&mut self, decision: Decision, outcome: Outcome, now: Timestamp) -> Result<(), TaskRefusal> {
        let permits = outcome == Outcome::Permit;
        // A refusal never becomes anything else on the way, and what needs people does not go past them.
        if outcome != Outcome::Deny && !decision.allowed {
            return Err(TaskRefusal::Refused);
        }
        if self.needs.approvals.iter().any(|rule| rule.groups.is_empty()) {
            return Err(TaskRefusal::NobodyCanApprove);
        }
        if permits && !self.is_approved(now) {
            return Err(TaskRefusal::ApprovalsMissing);
        }
        self.keep(decision);
        match outcome {
            Outcome::Deny => self.move_on(Event::Refuse, now),
            Outcome::WantTicket if self.stage == Stage::AwaitingTicket => Ok(()),
            Outcome::WantTicket => self.move_on(Event::WantTicket, now),
            Outcome::WantApproval => self.move_on(Event::WantApproval, now),
            Outcome::Permit => self.arm(now),
        }
    }

    fn arm(&mut self, now: Timestamp) -> Result<(), TaskRefusal> {
        self.move_on(Event::Permit, now)?;
        self.move_on(Event::Arm, now)?;
        self.grant.open_by = self.opens_until(now.plus(self.open_within));
        Ok(())
    }

    fn expire(&mut self, now: Timestamp) -> Result<(), TaskRefusal> {
        let (event, end) = match self.stage {
            Stage::Armed => (Event::Lapse, self.grant.open_by),
            _ => (Event::Expire, self.wait_until),
        };
        let next = self.stage.on(event)?;
        if now <= end {
            return Err(TaskRefusal::TooEarly(end));
        }
        (self.stage, self.stage_since) = (next, now);
        self.message = match event {
            Event::Lapse => "it was not opened in time".into(),
            _ => "it waited too long".into(),
        };
        Ok(())
    }
}

/// What a request gets when it is decided for the first time: from its definition and the policies that spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What it needs.
    pub needs: Needs,
    /// The grant that it may become.
    pub grant: Grant,
    /// How long that may wait to be opened.
    pub open_within: Duration,
    /// The last instant at which the request waits.
    pub wait_until: Timestamp,
}

#[cfg(test)]
mod tests;
