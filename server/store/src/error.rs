//! What can go wrong with a database.

use std::path::PathBuf;

use mayfly_model::{ErrorKind, Revision};
use mayfly_svid::TrustDomain;

/// The cause as the database library tells it; statements may appear in it, values do not.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// The database did not do what it was asked. Guards that refuse are not errors: see `mayfly_model::Conflict`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database could not be opened or created.
    #[error("cannot open the database `{path}`")]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: Source,
    },
    /// Its schema could not be brought up to date.
    #[error("cannot bring the schema of the database up to date")]
    Migrate {
        /// Why not.
        source: Source,
    },
    /// A newer release has used it.
    #[error("the database has schema {found}, this release knows up to {known}; start the newer release again")]
    NewerSchema {
        /// The schema of the database.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// It belongs to another trust domain.
    #[error("the database belongs to the trust domain `{found}`, the server is configured for `{expected}`")]
    ForeignTrustDomain {
        /// Whose it is, as written there.
        found: String,
        /// The server's own.
        expected: TrustDomain,
    },
    /// No space.
    #[error("the disk of the database is full")]
    Full {
        /// As the library tells it.
        source: Source,
    },
    /// The disk does not take writes.
    #[error("the disk of the database is read-only")]
    ReadOnly {
        /// As the library tells it.
        source: Source,
    },
    /// Another process holds it for longer than we wait.
    #[error("the database is locked by another process")]
    Busy {
        /// As the library tells it.
        source: Source,
    },
    /// Another process has written to it, so that this one's memory is out of date.
    #[error("another process has changed the database: revision {found} instead of {expected}")]
    ChangedElsewhere {
        /// What was committed here last.
        expected: Revision,
        /// What the database has.
        found: Revision,
    },
    /// A stored value cannot be understood.
    #[error("the database holds a {table} record that cannot be read: {problem}")]
    Corrupt {
        /// In which table.
        table: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An operation failed for another reason, such as an I/O error.
    #[error("the database failed to {doing}")]
    Failed {
        /// What it was asked to do.
        doing: &'static str,
        /// As the library tells it.
        source: Source,
    },
    /// A commit failed at its very end and the database cannot be asked whether it counts. Nothing may be answered to
    /// whoever asked for it, and memory must be built anew.
    #[error("it is not known whether the last commit happened; the state must be loaded again")]
    FateUnknown,
}

impl StoreError {
    /// Whether the store refuses to go on until [`Store::load`](crate::Store::load): what is durable is not known here.
    pub fn needs_reload(&self) -> bool {
        matches!(self, Self::FateUnknown | Self::ChangedElsewhere { .. })
    }

    /// Nothing was written, because of what is about the database and not of what was to be written: the same may go well
    /// later.
    pub fn will_pass(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::ReadOnly { .. } | Self::Busy { .. })
    }

    /// What it means for a caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } | Self::ReadOnly { .. } | Self::Busy { .. } | Self::Failed { .. } | Self::FateUnknown => {
                ErrorKind::Unavailable
            }
            _ => ErrorKind::Internal,
        }
    }

    /// For whoever asked for a change that this prevented: who has to do what. Without particulars, as callers may be
    /// far away.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Full { .. } => "the disk of the server's database is full; free space and try again",
            Self::ReadOnly { .. } => {
                "the disk of the server's database is read-only; make it writable, and restart the server if it was \
                 mounted anew"
            }
            Self::Busy { .. } => "another process holds the server's database; try again",
            _ => "the server's database failed; its log says how",
        }
    }
}
