//! The steps of a task, and why one does not happen.

use mayfly_svid::{Serial, Timestamp, WindowId};
use serde::{Deserialize, Serialize};

use super::{
    Acknowledged, Approval, CloseCause, Decision, Issuance, NoSuchStep, Outcome, PersonId, RequestDigest, SettledBy,
    Window,
};

/// One step of a task. Who asked and when is in the commit that carries it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum TaskStep {
    /// Decided again while it waits for its ticket.
    Decide {
        /// The decision.
        decision: Decision,
        /// What it means.
        outcome: Outcome,
    },
    /// A person agrees. With the last one that is needed the request becomes a grant.
    Approve {
        /// Who, and to what.
        approval: Approval,
        /// What they looked at.
        digest: RequestDigest,
        /// The decision, with this approval among the facts.
        decision: Decision,
    },
    /// A person says no.
    Refuse {
        /// Who.
        by: PersonId,
        /// Why.
        reason: String,
    },
    /// Taken back by the requester or the owner: a waiting request is cancelled, a grant withdrawn.
    Cancel {
        /// Why.
        reason: String,
    },
    /// A newer definition is in force.
    Supersede {
        /// Why.
        reason: String,
    },
    /// Its time to wait or to be opened is over.
    Expire,
    /// The grant opens a window.
    Open {
        /// The window, with its first SVID.
        window: Box<Window>,
        /// The decision.
        decision: Decision,
    },
    /// A further SVID.
    Renew {
        /// Which window.
        window: WindowId,
        /// The SVID.
        issuance: Issuance,
        /// The decision.
        decision: Decision,
    },
    /// The end moves.
    Extend {
        /// Which window.
        window: WindowId,
        /// The new end.
        closes_at: Timestamp,
        /// The decision.
        decision: Decision,
    },
    /// A sign of life.
    Heartbeat {
        /// Which window.
        window: WindowId,
    },
    /// Stops a window for now.
    Suspend {
        /// Which window.
        window: WindowId,
        /// Why.
        reason: String,
    },
    /// It goes on; the SVIDs from before stay refused.
    Resume {
        /// Which window.
        window: WindowId,
        /// The decision.
        decision: Decision,
    },
    /// Refuses one SVID, the window goes on.
    RevokeSvid {
        /// Which window.
        window: WindowId,
        /// Which SVID.
        serial: Serial,
    },
    /// Ends a window.
    Close {
        /// Which window.
        window: WindowId,
        /// Why.
        cause: CloseCause,
        /// More of that, for people.
        detail: String,
    },
    /// The holder has nothing any more.
    Confirm {
        /// Which window.
        window: WindowId,
    },
    /// Old authority is shown dead.
    Settle {
        /// Which window.
        window: WindowId,
        /// Seconds from its end to the last instant at which an SVID of it could count.
        residual: u32,
        /// What shows it.
        #[serde(default)]
        term: SettledBy,
        /// What the checkpoints said that were declared: all of them where they show it, otherwise those that refuse it.
        #[serde(default)]
        checkpoints: Vec<Acknowledged>,
    },
    /// It could not be shown in time.
    GiveUp {
        /// Which window.
        window: WindowId,
        /// What is missing.
        detail: String,
        /// What the checkpoints said that refuse it.
        #[serde(default)]
        checkpoints: Vec<Acknowledged>,
    },
    /// Somebody with the admin role accepts, in writing, that it cannot be shown. The second one who does settles it.
    AcceptRisk {
        /// Which window.
        window: WindowId,
        /// Who.
        by: PersonId,
        /// In writing.
        reason: String,
    },
    /// Break-glass was looked at.
    Review {
        /// By whom.
        by: PersonId,
        /// What they found.
        reason: String,
    },
}

/// Why a step does not happen. Nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskRefusal {
    /// It does not stand where this step begins.
    #[error("the request or its window does not allow this now: {0}")]
    Stage(#[from] NoSuchStep),
    /// It has ended already: the step has nothing to do, which is as good as done.
    #[error("it has ended already")]
    AlreadyEnded,
    /// No such window of this request.
    #[error("the request has no window `{0}`")]
    NoSuchWindow(WindowId),
    /// No such SVID of this window.
    #[error("the window has no SVID {0} that could still count")]
    NoSuchSvid(Serial),
    /// What was looked at is not what is asked for.
    #[error("the digest is not that of the request; look at it again")]
    OtherDigest,
    /// The requester, or the owner of the workload that asks.
    #[error("{0} may not: who asks, or owns what asks, does not approve it, review it or accept its risk")]
    SelfApproval(PersonId),
    /// Approved already.
    #[error("{0} has approved already; it takes different people")]
    ApprovedAlready(PersonId),
    /// Not one of those who may.
    #[error("{0} is in none of the groups that may approve")]
    NotAnApprover(PersonId),
    /// It is too late.
    #[error("the time for it was over at {0}")]
    TooLate(Timestamp),
    /// It is too early, by the clock of the server.
    #[error("its time is over only at {0}")]
    TooEarly(Timestamp),
    /// Approvals have become too old since.
    #[error("approvals are missing or have become too old")]
    ApprovalsMissing,
    /// No uses are left.
    #[error("the grant was opened as often as it may be")]
    NoUsesLeft,
    /// It would last longer than its grant or its window.
    #[error("it would last longer than {0} allows")]
    TooLong(&'static str),
    /// Another process, node or workload than the one that it is bound to.
    #[error("it is bound to another process")]
    OtherInstance,
    /// An extension of what people approved.
    #[error("people approved this window as it is; ask again for more time")]
    NeedsNewApproval,
    /// It takes two.
    #[error(
        "{0} accepted it already, and it takes two; another administrator has to agree. If there is none, add a person with \
         the admin role to the server's configuration (`[[people]]` and `[[operators]]`), or wait: the window settles by \
         itself once its SVIDs have expired"
    )]
    SecondPerson(PersonId),
    /// Who approved does not review.
    #[error("{0} approved this use; somebody else has to look at it")]
    ReviewOfOwn(PersonId),
    /// A checkpoint that was declared does not refuse it, as far as is known.
    #[error("checkpoint `{0}` is not known to enforce the end of the window")]
    NotEnforced(String),
    /// More SVIDs than anybody needs.
    #[error("it has had its SVIDs for now; the next one is not before {0}")]
    TooSoon(Timestamp),
    /// The decision that came with it says no.
    #[error("the decision that goes with it is a refusal")]
    Refused,
    /// A policy of one needs none, and a rule without approvers has none.
    #[error("the request needs approvals of nobody, which nobody can give")]
    NobodyCanApprove,
}

/// What a step needs to know besides the task.
#[derive(Clone, Copy, Debug)]
pub struct StepContext {
    /// The server's time.
    pub now: Timestamp,
    /// The epoch that a revocation of this step gets.
    pub next_epoch: u64,
}
