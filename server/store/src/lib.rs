//! The durable state of a server.

mod error;
mod port;

use std::path::Path;

use mayfly_svid::TrustDomain;

pub use error::StoreError;
pub use port::{ChangeRow, Changed, Committed, State, StepOutcome, Store};

/// Opens the SQLite database at `path` for a server of `trust_domain`; creates it if there is none.
///
/// # Errors
/// It cannot be opened, or it belongs to another trust domain or to a newer release.
pub fn open_sqlite(path: &Path, _trust_domain: &TrustDomain) -> Result<Box<dyn Store>, StoreError> {
    Err(StoreError::Open { path: path.into(), source: "the SQLite store follows".into() })
}
