//! The durable state of a server: what it knows, what it did, and the number of each commit.
//!
//! Values of `mayfly-model` go in and come out; SQL does not leave this crate. [`Store::commit`] does a batch of steps in
//! one transaction, each under the guard that its `Change` documents, and writes the log records and the change history
//! with them: evidence and state cannot drift. One file per record holds its statements; `dialect` is the seam to the
//! database, `migrations/` its schema.
//!
//! Not here: the committer's thread, batching and memory (`server/src/commit`), who may ask (`api`, `app`), keys.
//! Start at [`Store`], then `sql_store.rs`, then `step.rs`.

mod agent;
mod archive;
mod authority;
mod bundle;
#[cfg(test)]
mod conformance;
mod definition;
mod dialect;
mod entry;
mod error;
mod exception;
mod history;
mod log;
mod port;
mod sql_store;
mod step;
mod task;
mod token;

use std::path::Path;

use mayfly_svid::TrustDomain;

pub use archive::{ArchiveReader, PrivateValue};
pub use error::StoreError;
pub use port::{ChangeRow, Changed, Committed, State, StepOutcome, Store};

/// Opens the SQLite database at `path` for a server of `trust_domain`; creates it, mode 0600, if there is none. Its
/// folder must exist.
///
/// # Errors
/// It cannot be opened, or it belongs to another trust domain or to a newer release.
pub fn open_sqlite(path: &Path, trust_domain: &TrustDomain) -> Result<Box<dyn Store>, StoreError> {
    let database = dialect::sqlite::Sqlite::open(path)?;
    Ok(Box::new(sql_store::SqlStore::open(database, trust_domain)?))
}
