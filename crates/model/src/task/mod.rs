//! Tasks: the only way to authority beyond a workload's base identity.
//!
//! ```text
//!   Definition ──▶ TaskRequest ──▶ grant ──▶ Window ──▶ task SVIDs
//!   what, who,     asked, with     eligible  in force    leases on
//!   how long       a digest        to open   here, now   the window
//! ```
//!
//! A [`Task`] is one request and all that came of it. [`Stage::on`] has every step that there is, [`Task::apply`] asks its
//! guards; the store calls it inside the commit, so that a step which two ask for happens once.
//!
//! Not here: whether policy allows a step (`mayfly-policy`), who may ask (`server`), keys.
//! Nor is there a step that makes an open window narrower (T17): what would become narrower are its scopes, which no
//! X.509-SVID carries, so nobody who checks certificates would notice.
//! Start at [`Definition`], then [`Stage`], then [`Task`].

mod change;
mod checkpoint;
mod decision;
mod definition;
mod name;
mod request;
mod stage;
mod step;
#[expect(clippy::module_inception, reason = "the noun that the module is named after")]
mod task;
mod window;

pub use change::{DefinitionVersion, PROPOSALS_KEPT, PolicyFiles, Proposal, ProposalState, ProposedChange, Revocation};
pub use checkpoint::{CHECKPOINT_MAX, CheckpointRule, CheckpointRuleError, is_checkpoint_name};
pub use decision::{Approval, Decision, Outcome, Phase};
pub use definition::{
    APPROVALS_MAX, ActorClass, Allowed, ApprovalRule, BREAKGLASS_WINDOW_MAX, DEFINITION_MAX, Definition,
    DefinitionError, DefinitionHash, DefinitionProblem, Ending, HeartbeatRule, IdentityForm, Limits, Staleness,
    TTL_FLOOR, TTL_MAX, TaskClass, TicketRule, USES_MAX, WINDOW_MAX,
};
pub use name::{GroupId, NameError, PathPattern, PersonId, TaskName};
pub use request::{
    KEY_MAX, PARAMETER_KEY_MAX, PARAMETER_VALUE_MAX, PARAMETERS_MAX, REASON_MAX, RequestDigest, RequestProblem,
    SCOPE_MAX, SCOPES_MAX, TICKET_MAX, TaskId, TaskIdError, TaskRequest,
};
pub use stage::{Event, NoSuchStep, Stage};
pub use step::{StepContext, TaskRefusal, TaskStep};
pub use task::{Grant, ISSUANCES_MAX, Needs, Task, Terms, distinct_groups};
pub use window::{
    Acknowledged, CLOCK_SLACK, CloseCause, Instance, Issuance, RiskAccepted, SETTLE_LEEWAY, SettledBy, TtlTerm, Window,
};
