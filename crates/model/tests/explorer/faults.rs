//! Faults that are planted in the transition function, to see that the explorer finds them.

use std::time::Duration;

use mayfly_model::task::{
    Acknowledged, CloseCause, SETTLE_LEEWAY, SettledBy, Stage, StepContext, Task, TaskRefusal, TaskRequest, TaskStep,
    Window,
};
use mayfly_svid::WindowId;

const DAY: Duration = Duration::from_secs(86_400);

/// A guard that is not there, or an effect that is another one. The last two are the store's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    RequestersApprove,
    OneApprovalSuffices,
    ApprovalsNeverGrowOld,
    OpenedTooLate,
    ExtendedBeyondItsDefinition,
    ExtendedBeyondWhatPeopleApproved,
    RefusedByPolicyAndDone,
    OpenedWithoutEnd,
    UsesAreNotCounted,
    LeaseOutlivesItsWindow,
    RenewalMovesTheEnd,
    EndedGoesOn,
    EndsNeedAnOpenWindow,
    EndRevokesNothing,
    EndTakesAnEpochThatWas,
    SvidsAreForgottenOnceOver,
    ResumedForgives,
    RenewalForgives,
    RevokedInWordsOnly,
    BeatsAreWantedOfTheSuspended,
    LateBeatRevives,
    RenewedAfterMissedBeats,
    ExtendedAfterMissedBeats,
    MissedBeatsEndNothing,
    SettledBeforeItsTime,
    SettledWithoutLeeway,
    SettledByNobody,
    SettledByWhoLags,
    SettledByOneOfTwo,
    SettledIsGivenUp,
    SettledGoesOn,
    SettledIsWrittenAgain,
    RiskOfOnePerson,
    RiskOfOnePersonTwice,
    RiskOfThoseWhoAsked,
    RiskOfWhatIsNotGivenUp,
    NothingIsLogged,
    KeysAreShared,
}

impl Fault {
    /// All, with what is said to be broken when one is found.
    pub(crate) const ALL: [(Self, &'static str); 38] = [
        (Self::RequestersApprove, "I4"),
        (Self::OneApprovalSuffices, "I4"),
        (Self::ApprovalsNeverGrowOld, "I4"),
        (Self::OpenedTooLate, "I4"),
        (Self::ExtendedBeyondItsDefinition, "I2"),
        (Self::ExtendedBeyondWhatPeopleApproved, "I4"),
        (Self::RefusedByPolicyAndDone, "I8"),
        (Self::OpenedWithoutEnd, "I9"),
        (Self::UsesAreNotCounted, "I9"),
        (Self::LeaseOutlivesItsWindow, "I2"),
        (Self::RenewalMovesTheEnd, "I5"),
        (Self::EndedGoesOn, "I11"),
        (Self::EndsNeedAnOpenWindow, "I12"),
        (Self::EndRevokesNothing, "revoked"),
        (Self::EndTakesAnEpochThatWas, "revoked"),
        (Self::SvidsAreForgottenOnceOver, "revoked"),
        (Self::ResumedForgives, "revoked"),
        (Self::RenewalForgives, "revoked"),
        (Self::RevokedInWordsOnly, "revoked"),
        (Self::BeatsAreWantedOfTheSuspended, "heartbeat"),
        (Self::LateBeatRevives, "heartbeat"),
        (Self::RenewedAfterMissedBeats, "heartbeat"),
        (Self::ExtendedAfterMissedBeats, "heartbeat"),
        (Self::MissedBeatsEndNothing, "I12"),
        (Self::SettledBeforeItsTime, "settled"),
        (Self::SettledWithoutLeeway, "settled"),
        (Self::SettledByNobody, "settled"),
        (Self::SettledByWhoLags, "settled"),
        (Self::SettledByOneOfTwo, "settled"),
        (Self::SettledIsGivenUp, "I11"),
        (Self::SettledGoesOn, "I11"),
        (Self::SettledIsWrittenAgain, "final"),
        (Self::RiskOfOnePerson, "risk"),
        (Self::RiskOfOnePersonTwice, "risk"),
        (Self::RiskOfThoseWhoAsked, "risk"),
        (Self::RiskOfWhatIsNotGivenUp, "risk"),
        (Self::NothingIsLogged, "I3"),
        (Self::KeysAreShared, "I10"),
    ];

    /// The transition function with this fault.
    pub(crate) fn apply(self, task: &Task, step: &TaskStep, context: StepContext) -> Result<Task, TaskRefusal> {
        match self {
            Self::RequestersApprove
            | Self::OneApprovalSuffices
            | Self::ApprovalsNeverGrowOld
            | Self::OpenedTooLate
            | Self::ExtendedBeyondItsDefinition
            | Self::ExtendedBeyondWhatPeopleApproved
            | Self::RefusedByPolicyAndDone => self.of_decisions(task, step, context),
            Self::OpenedWithoutEnd
            | Self::UsesAreNotCounted
            | Self::LeaseOutlivesItsWindow
            | Self::RenewalMovesTheEnd => self.of_leases(task, step, context),
            Self::BeatsAreWantedOfTheSuspended
            | Self::LateBeatRevives
            | Self::RenewedAfterMissedBeats
            | Self::ExtendedAfterMissedBeats
            | Self::MissedBeatsEndNothing => self.of_beats(task, step, context),
            Self::SettledBeforeItsTime
            | Self::SettledWithoutLeeway
            | Self::SettledByNobody
            | Self::SettledByWhoLags
            | Self::SettledByOneOfTwo
            | Self::SettledIsGivenUp
            | Self::SettledGoesOn
            | Self::SettledIsWrittenAgain => self.of_settlement(task, step, context),
            Self::RiskOfOnePerson
            | Self::RiskOfOnePersonTwice
            | Self::RiskOfThoseWhoAsked
            | Self::RiskOfWhatIsNotGivenUp => self.of_risks(task, step, context),
            Self::NothingIsLogged | Self::KeysAreShared => task.apply(step, context),
            _ => self.of_ends(task, step, context),
        }
    }

    fn of_decisions(self, task: &Task, step: &TaskStep, context: StepContext) -> Result<Task, TaskRefusal> {
        let (mut given, mut step) = (task.clone(), step.clone());
        match (self, &mut step) {
            (Self::RequestersApprove, TaskStep::Approve { .. }) => given.request.person = None,
            (Self::ApprovalsNeverGrowOld, TaskStep::Open { .. }) if !task.approvals.is_empty() => {
                let far = context.now.plus(DAY);
                given
                    .approvals
                    .iter_mut()
                    .for_each(|approval| approval.valid_until = far);
                given.grant.open_by = far;
            }
            (Self::OpenedTooLate, TaskStep::Open { .. }) => given.grant.open_by = context.now,
            (Self::ExtendedBeyondItsDefinition, TaskStep::Extend { .. }) => given.grant.window_max = DAY,
            (Self::ExtendedBeyondWhatPeopleApproved, TaskStep::Extend { .. }) => given.needs.approvals.clear(),
            (Self::OneApprovalSuffices, _) => given.needs.approvals.iter_mut().for_each(|rule| rule.count = 1),
            (
                Self::RefusedByPolicyAndDone,
                TaskStep::Open { decision, .. }
                | TaskStep::Renew { decision, .. }
                | TaskStep::Approve { decision, .. }
                | TaskStep::Resume { decision, .. },
            ) => decision.allowed = true,
            _ => {}
        }
        let mut next = given.apply(&step, context)?;
        (next.request, next.needs) = (task.request.clone(), task.needs.clone());
        if matches!(step, TaskStep::Open { .. } | TaskStep::Extend { .. }) {
            next.approvals.clone_from(&task.approvals);
            next.grant.window_max = task.grant.window_max;
        }
        Ok(next)
    }

    fn of_leases(self, task: &Task, step: &TaskStep, context: StepContext) -> Result<Task, TaskRefusal> {
        let mut given = task.clone();
        match (self, step) {
            (Self::LeaseOutlivesItsWindow, TaskStep::Renew { window, .. }) => {
                // It is in force, and as long as it likes.
                let closes_at = task.window(window).filter(|window| context.now < window.closes_at);
                for window in given.windows.iter_mut().filter(|_| closes_at.is_some()) {
                    window.closes_at = window.closes_at.plus(DAY);
                }
                let mut next = given.apply(step, context)?;
                for (window, was) in next.windows.iter_mut().zip(&task.windows) {
                    window.closes_at = was.closes_at;
                }
                Ok(next)
            }
            (Self::OpenedWithoutEnd, TaskStep::Open { .. }) => {
                let mut next = task.apply(step, context)?;
                (next.stage, next.grant.uses_left) = (Stage::Armed, task.grant.uses_left);
                Ok(next)
            }
            (Self::UsesAreNotCounted, TaskStep::Open { .. }) => {
                let mut next = task.apply(step, context)?;
                next.grant.uses_left = task.grant.uses_left;
                Ok(next)
            }
            (Self::RenewalMovesTheEnd, TaskStep::Renew { window, .. }) => {
                let mut next = task.apply(step, context)?;
                let held = of(&mut next, window);
                held.closes_at = held.closes_at.plus(Duration::from_secs(1));
                Ok(next)
            }
            _ => task.apply(step, context),
        }
    }

    fn of_ends(self, task: &Task, step: &TaskStep, context: StepContext) -> Result<Task, TaskRefusal> {
        match (self, step) {
            (Self::EndedGoesOn, TaskStep::Resume { window, decision })
                if decision.allowed && task.window(window).is_some_and(has_ended) =>
            {
                let mut next = task.clone();
                of(&mut next, window).stage = Stage::Open;
                Ok(next)
            }
            (Self::EndsNeedAnOpenWindow, TaskStep::Close { window, .. })
                if task
                    .window(window)
                    .is_some_and(|window| window.stage == Stage::Suspended) =>
            {
                Err(TaskRefusal::AlreadyEnded)
            }
            (Self::EndRevokesNothing, TaskStep::Close { window, .. }) => {
                let mut next = task.apply(step, context)?;
                of(&mut next, window)
                    .issuances
                    .iter_mut()
                    .for_each(|issuance| issuance.revoked = None);
                Ok(next)
            }
            (Self::EndTakesAnEpochThatWas, TaskStep::Close { .. }) => {
                let next_epoch = context.next_epoch - 1;
                task.apply(step, StepContext { next_epoch, ..context })
            }
            (Self::SvidsAreForgottenOnceOver, TaskStep::Close { window, .. }) => {
                let mut next = task.apply(step, context)?;
                of(&mut next, window)
                    .issuances
                    .retain(|issuance| issuance.not_after >= context.now);
                Ok(next)
            }
            (Self::ResumedForgives, TaskStep::Resume { window, .. })
            | (Self::RenewalForgives, TaskStep::Renew { window, .. }) => {
                let mut next = task.apply(step, context)?;
                of(&mut next, window)
                    .issuances
                    .iter_mut()
                    .for_each(|issuance| issuance.revoked = None);
                Ok(next)
            }
            (Self::RevokedInWordsOnly, TaskStep::RevokeSvid { .. }) => {
                task.apply(step, context)?;
                Ok(task.clone())
            }
            _ => task.apply(step, context),
        }
    }

    fn of_beats(self, task: &Task, step: &TaskStep, context: StepContext) -> Result<Task, TaskRefusal> {
        let forgives = matches!(
            (self, step),
            (Self::LateBeatRevives, TaskStep::Heartbeat { .. })
                | (Self::RenewedAfterMissedBeats, TaskStep::Renew { .. })
                | (Self::ExtendedAfterMissedBeats, TaskStep::Extend { .. })
        );
        match (self, step) {
            (Self::BeatsAreWantedOfTheSuspended, TaskStep::Suspend { window, .. }) => {
                let mut next = task.apply(step, context)?;
                of(&mut next, window).heartbeat_due = task.window(window).and_then(|window| window.heartbeat_due);
                Ok(next)
            }
            (
                Self::MissedBeatsEndNothing,
                TaskStep::Close {
                    cause: CloseCause::HeartbeatLost,
                    ..
                },
            ) => Err(TaskRefusal::AlreadyEnded),
            _ if forgives => {
                let mut given = task.clone();
                given.windows.iter_mut().for_each(|window| window.heartbeat_due = None);
                let mut next = given.apply(step, context)?;
                for (window, was) in next.windows.iter_mut().zip(&task.windows) {
                    window.heartbeat_due = window.heartbeat_due.or(was.heartbeat_due);
                }
                Ok(next)
            }
            _ => task.apply(step, context),
        }
    }

    fn of_settlement(self, task: &Task, step: &TaskStep, context: StepContext) -> Result<Task, TaskRefusal> {
        let later = |by| StepContext {
            now: context.now.plus(by),
            ..context
        };
        match (self, step) {
            (
                Self::SettledBeforeItsTime,
                TaskStep::Settle {
                    term: SettledBy::Expired,
                    ..
                },
            ) => task.apply(step, later(Duration::from_secs(600))),
            (
                Self::SettledWithoutLeeway,
                TaskStep::Settle {
                    term: SettledBy::Expired,
                    ..
                },
            ) => task.apply(step, later(SETTLE_LEEWAY)),
            (
                Self::SettledByNobody,
                TaskStep::Settle {
                    term: SettledBy::Enforced,
                    ..
                },
            ) if task.grant.checkpoints.is_empty() => {
                let mut given = task.clone();
                let TaskStep::Settle { window, residual, .. } = step else {
                    return given.apply(step, context);
                };
                let held = of(&mut given, window);
                held.stage = held.stage.on(mayfly_model::task::Event::Settle)?;
                (held.settled_at, held.residual) = (Some(context.now), Some(*residual));
                Ok(given)
            }
            (Self::SettledByWhoLags, TaskStep::Settle { checkpoints, .. }) => {
                let newest = |said: &Acknowledged| Acknowledged {
                    epoch: u64::MAX,
                    ..said.clone()
                };
                let mut step = step.clone();
                if let TaskStep::Settle { checkpoints: given, .. } = &mut step {
                    *given = checkpoints.iter().map(newest).collect();
                }
                task.apply(&step, context)
            }
            (Self::SettledByOneOfTwo, TaskStep::Settle { checkpoints, .. }) => {
                let mut given = task.clone();
                given
                    .grant
                    .checkpoints
                    .retain(|name| checkpoints.first().is_none_or(|said| said.name == *name));
                let mut next = given.apply(step, context)?;
                next.grant.checkpoints.clone_from(&task.grant.checkpoints);
                Ok(next)
            }
            (Self::SettledIsGivenUp, TaskStep::GiveUp { window, .. }) => {
                moved(task, window, Stage::RevocationIncomplete).map_or_else(|| task.apply(step, context), Ok)
            }
            (Self::SettledGoesOn, TaskStep::Resume { window, decision }) if decision.allowed => {
                moved(task, window, Stage::Open).map_or_else(|| task.apply(step, context), Ok)
            }
            (Self::SettledIsWrittenAgain, TaskStep::AcceptRisk { window, .. }) => {
                match moved(task, window, Stage::Settled) {
                    Some(mut next) => {
                        of(&mut next, window).settled_at = Some(context.now.plus(DAY));
                        Ok(next)
                    }
                    None => task.apply(step, context),
                }
            }
            _ => task.apply(step, context),
        }
    }

    fn of_risks(self, task: &Task, step: &TaskStep, context: StepContext) -> Result<Task, TaskRefusal> {
        let TaskStep::AcceptRisk { window, reason, .. } = step else {
            return task.apply(step, context);
        };
        let other = TaskStep::AcceptRisk {
            window: *window,
            by: "nobody".parse().expect("a name"),
            reason: reason.clone(),
        };
        let given = Task {
            request: TaskRequest {
                person: None,
                owner: None,
                ..task.request.clone()
            },
            ..task.clone()
        };
        match self {
            Self::RiskOfWhatIsNotGivenUp => {
                let mut given = task.clone();
                let held = of(&mut given, window);
                let was = held.stage;
                if was == Stage::Closed {
                    held.stage = Stage::RevocationIncomplete;
                }
                let mut next = given.apply(step, context)?;
                let held = of(&mut next, window);
                if held.stage != Stage::Settled {
                    held.stage = was;
                }
                Ok(next)
            }
            Self::RiskOfThoseWhoAsked => Ok(Task {
                request: task.request.clone(),
                ..given.apply(step, context)?
            }),
            Self::RiskOfOnePerson => task
                .apply(step, context)?
                .apply(&other, context)
                .or_else(|_| task.apply(step, context)),
            Self::RiskOfOnePersonTwice => match task.apply(step, context) {
                Err(TaskRefusal::SecondPerson(_)) => task.apply(&other, context),
                result => result,
            },
            _ => task.apply(step, context),
        }
    }
}

/// The task with a settled window elsewhere.
fn moved(task: &Task, window: &WindowId, to: Stage) -> Option<Task> {
    task.window(window).filter(|window| window.stage == Stage::Settled)?;
    let mut next = task.clone();
    of(&mut next, window).stage = to;
    Some(next)
}

fn of<'a>(task: &'a mut Task, id: &WindowId) -> &'a mut Window {
    let found = task.windows.iter_mut().find(|window| window.id == *id);
    found.expect("the step was done to it")
}

fn has_ended(window: &Window) -> bool {
    matches!(window.stage, Stage::Closing | Stage::Closed)
}
