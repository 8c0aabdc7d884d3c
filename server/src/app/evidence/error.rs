//! Why the log cannot be brought up, or does not answer.

use std::path::PathBuf;

use mayfly_keys::KeyError;
use mayfly_model::ErrorKind;
use mayfly_runtime::files::FileError;
use mayfly_store::StoreError;
use mayfly_tlog::checkpoint::CheckpointError;
use mayfly_tlog::note::SignError;
use mayfly_tlog::tree::TreeError;

use crate::app::archive::ArchiveError;
use crate::commit::CommitError;

/// The log could not be brought up, or does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The log of the database ends before what was shown to others.
    #[error(
        "the database is older than its log: it has {found} entries, and checkpoint `{file}` was signed over {shown}. \
         This is a backup that was restored. Restore a newer one; or, if there is none, begin a new log: move the whole \
         data folder away, start anew, and tell those who watch this log why"
    )]
    Shorter {
        /// Entries in the database.
        found: u64,
        /// Entries at the checkpoint.
        shown: u64,
        /// The checkpoint.
        file: PathBuf,
    },
    /// The entries are others than those that were shown.
    #[error(
        "the entries of the database are not those that checkpoint `{file}` was signed over: the first {shown} lead to \
         another root. The database was changed by hand, or is of another time. Restore the one that belongs to it"
    )]
    Rewritten {
        /// Entries at the checkpoint.
        shown: u64,
        /// The checkpoint.
        file: PathBuf,
    },
    /// The last checkpoint cannot be read.
    #[error(
        "`{file}` is no checkpoint of this log; if the file was damaged, restore it from a witness or a reader of the log"
    )]
    Checkpoint {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// There is no such entry, or none yet at a checkpoint.
    #[error("the log has {size} entries, and none with index {index}")]
    NoSuchEntry {
        /// What was asked for.
        index: u64,
        /// The size.
        size: u64,
    },
    /// No checkpoint covers an entry within the time in which one should.
    #[error("entry {index} is not under a checkpoint yet; try again in a second")]
    NotCovered {
        /// The entry.
        index: u64,
    },
    /// No entry says anything about it.
    #[error("the log has no entries about it")]
    NothingAbout,
    /// What is to be forgotten stands in the reason for that.
    #[error("the reason says what is to be forgotten, and reasons are kept; say it in other words")]
    SaidAgain,
    /// A file.
    #[error("the files of the log")]
    File(#[from] FileError),
    /// The database.
    #[error("the entries of the log")]
    Store(#[from] StoreError),
    /// The database, asked.
    #[error("the entries of the log")]
    Archive(#[from] ArchiveError),
    /// The log's own events.
    #[error("an event of the log")]
    Commit(#[from] CommitError),
    /// The log's key.
    #[error("the key of the log")]
    Key(#[from] KeyError),
    /// A signature.
    #[error("the checkpoint of the log")]
    Sign(#[from] SignError),
    /// The tree.
    #[error("the tree of the log")]
    Tree(#[from] TreeError),
    /// A proof or a bundle that cannot be written, such as one of an entry that is too long.
    #[error("the log cannot be written as files: {0}")]
    Format(String),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopped,
}

impl EvidenceError {
    /// What it means for a caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchEntry { .. } | Self::NothingAbout => ErrorKind::NotFound,
            Self::SaidAgain => ErrorKind::InvalidArgument,
            Self::Archive(error) => error.kind(),
            Self::Commit(error) => error.kind(),
            Self::Store(_) | Self::Stopped | Self::NotCovered { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}
