//! What the entries of a server's log mean.
//!
//! Everything here is a value or a pure function: entries are handed over in their order, and nothing is read or written.
//! The server, the CLI, an auditor's machine and the tests use the same code, which trusts none of the server's: it parses
//! bytes ([`Entry`]), replays what they say ([`Replay`]), finds what must not be ([`Violation`]) and what somebody should
//! look at ([`Finding`]), measures ([`mod@meter`]), and makes of it the report that an auditor reads ([`Report`]).
//!
//! Same entries, same values, same report, byte for byte: there is no clock, no randomness, and no fraction.
//!
//! Not here: the Merkle tree, its checkpoints and proofs (`mayfly-tlog`), who writes entries (`mayfly-model`), files and
//! pages (the CLI). Start at [`Entry`], then [`Replay`], then [`Report`]. The schema of entries is `docs/events.md`.

pub mod canonical;
mod details;
mod entry;
pub mod finding;
mod findings;
#[cfg(test)]
mod hostile;
mod kinds;
pub mod meter;
pub mod replay;
pub mod report;
pub mod span;
#[cfg(test)]
mod testing;
mod violation;

pub use details::{Details, NotCommitted, commitment_of};
pub use entry::{ENTRY_MAX, Entry, EntryError, EntryProblem, VERSION};
pub use finding::{Finding, Scope, Severity, Thresholds};
pub use findings::findings;
pub use kinds::{KINDS, Kind, family, is_known};
pub use replay::Replay;
pub use report::{LogFacts, Report, TreeHead};
pub use violation::{Invariant, Violation};
