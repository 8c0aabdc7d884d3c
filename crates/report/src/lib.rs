//! The report as people get it: the page that they read, the note that signs it, and the checks that need no server.
//!
//! What the report says is made by `mayfly-audit`, from the log alone; here it is only handed on:
//!
//! ```text
//! report.json ──page──▶ report.html          one file, no scripts, nothing is fetched
//!      │
//!      ├──note──▶ report.json.note            the log's key over its SHA-256
//!      └──check─▶ what can be told from the file itself, from a key, from a copy of the log
//! ```
//!
//! The page is made from the bytes of the JSON and from nothing else, so whoever has one can make the other.
//!
//! Not here: arguments and files (the CLI), who may have a report and who signs it (the server).

/// The longest report, in bytes, that is made or taken. Tables are cut, so that a month has some hundred kilobytes; whoever
/// reads one that somebody else made needs many times its length.
pub const REPORT_MAX: usize = 64 << 20;

pub mod check;
pub mod export;
pub mod note;
mod page;

pub use page::{PageError, page};
