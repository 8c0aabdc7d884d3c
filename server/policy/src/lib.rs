//! What may happen now: task policy and the API's own authorization, decided by Cedar.
//!
//! ```text
//!   files of users ─┐                       ┌─ Facts of a request (typed, bounded, digest)
//!   builtin/*.cedar ┴▶ PolicySet::load ──▶ decide ──▶ Decision: verdict, reasons, obligations, digests
//! ```
//!
//! Three things hold whatever users write. The guards (`builtin/guard.cedar`) are forbids and always loaded, and a
//! forbid wins over every permit. An error anywhere is a denial: Cedar by itself skips a policy that errs, even a
//! forbid. What is not understood at load, an attribute or an annotation, keeps the whole set from being loaded.
//!
//! Synchronous, without clock, store or I/O. Not here: the steps of a task (`mayfly_model::task`), gathering facts and
//! acting on verdicts (`server`). `docs/policy.md` is for those who write policies. Start at [`PolicySet`], then
//! [`Facts`].

mod annotation;
mod builtin;
mod call;
mod cedar;
mod decide;
mod decision;
mod derive;
mod digest;
mod edit;
mod error;
mod facts;
mod lint;
mod load;
mod reason;
mod replay;
mod set;
mod table;
mod why;

pub use annotation::{Duty, Obligations};
pub use builtin::{GUARDS, Guard};
pub use call::{Access, CallFacts, Role, RoleGrant, RoleParseError};
pub use decision::{Decision, Missing, Reason, Verdict};
pub use digest::Digest;
pub use edit::{EditFacts, Edited, RevokeFacts, Revoker};
pub use error::{PolicyError, PolicyErrors};
pub use facts::{Approval, Facts, Node, OpenWindow, Person, Phase, Pinned, Process, Ticket, Usage};
pub use lint::{LintKind, PolicyLint};
pub use replay::Difference;
pub use set::PolicySet;
pub use table::{CaseResult, TableError};
pub use why::{Flip, Signal};

#[cfg(test)]
mod tests;
