//! Our nouns: entries, agents, selectors, tokens, authorities; the changes that may happen to them, and the record of each.
//!
//! Values only: they are built by checking, carry no behaviour that needs a clock, a disk or a network, and know neither
//! gRPC nor SQL. A [`Change`] is what a caller asks of the committer; the store answers with [`Delta`]s (what to apply to
//! memory) or a [`Conflict`] (which guard refused); [`LogEntry`] is the evidence that is written in the same commit.
//!
//! Not here: the standards' nouns (`mayfly-svid`), the wire (`mayfly-proto`), SQL (`mayfly-store`).
//! Start at [`Entry`], then [`Change`].

mod agent;
mod authority;
mod change;
mod entry;
mod error;
mod exception;
pub mod log;
mod reserved;
mod selector;
pub mod task;
mod token;

pub use agent::Agent;
pub use authority::{Authority, AuthorityEvent, AuthorityState, InvalidTransition, KeyClass};
pub use change::{BundleDeleteMode, BundlePatch, Change, Conflict, Delta, EntryPatch, Step, SvidIntent};
pub use entry::{AdditionalAttributes, Entry, EntryError, EntryId, EntryIdError, EntrySpec, entries_digest};
pub use error::ErrorKind;
pub use exception::{
    ADMIN_SCOPE, DOWNSTREAM_SCOPE, EXCEPTION_MAX, Excepted, ExceptedError, Exception, ExceptionProblem, ExceptionState,
    ExceptionStep, Given,
};
pub use log::{Actor, LogEntry, Revision};
pub use reserved::{ReservedPath, agent_path, is_agent_id, reserved_path};
pub use selector::{MatchBy, Selector, SelectorError, Selectors};
pub use token::TokenHash;
