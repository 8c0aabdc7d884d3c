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
//! Start at [`Definition`], then [`Stage`], then [`Task`].

mod definition;
mod name;

pub use definition::{
    APPROVALS_MAX, ActorClass, Allowed, ApprovalRule, BREAKGLASS_WINDOW_MAX, DEFINITION_MAX, Definition,
    DefinitionError, DefinitionHash, DefinitionProblem, Ending, HeartbeatRule, IdentityForm, Limits, Staleness,
    TTL_FLOOR, TTL_MAX, TaskClass, TicketRule, USES_MAX, WINDOW_MAX,
};
pub use name::{GroupId, NameError, PathPattern, PersonId, TaskName};
