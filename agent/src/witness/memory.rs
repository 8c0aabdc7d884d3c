//! What a witness remembers, and its file.
//!
//! JSON: `{"version": 1, "known": {"keys": […], "checkpoint": "…"}, "refused": {"why": "…", "at": 0, "checkpoint":
//! "…"}, "overdue": {"entries": […], "more": true, "stands_at": 0}}`, the parts where there are any. The checkpoint is
//! the whole note, so that an older server is shown its own signature.

use std::io;
use std::path::Path;

use mayfly_runtime::files::{FileError, PRIVATE, read_capped, write_atomic};
use mayfly_tlog::checkpoint::{CheckpointError, SignedCheckpoint};
use mayfly_tlog::note::{VerifierKey, VerifierKeyError};
use serde::{Deserialize, Serialize};

use super::debts::Overdue;

/// Two notes with all signatures they may have, and all that is overdue with the longest names.
const MAX_BYTES: u64 = 8 << 20;
const VERSION: u32 = 1;

/// What a witness remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// The log, once one was seen.
    pub(super) known: Option<Known>,
    /// The log that was shown last is refused.
    pub(super) refused: Option<Refused>,
    /// It is refused until it shows this as well.
    pub(super) overdue: Overdue,
    /// The file is there and says nothing that could be used: nothing is accepted, and the file stays as it is.
    pub(super) is_unreadable: bool,
}

/// A log, as far as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The keys that speak for it.
    pub(super) keys: Vec<VerifierKey>,
    /// The last checkpoint.
    pub(super) checkpoint: SignedCheckpoint,
}

/// A refusal, with what was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refused {
    /// For people.
    pub(super) why: String,
    /// When, Unix seconds.
    pub(super) at: i64,
    /// The note: if the log signed it, it is evidence.
    pub(super) checkpoint: String,
}

/// The file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum MemoryError {
    #[error("the file of the witness")]
    File(#[from] FileError),
    #[error("`{0}` is not the JSON that a witness writes")]
    Json(String, #[source] serde_json::Error),
    #[error("`{0}` is of a later version")]
    Version(String),
    #[error("a key of the log in `{0}`")]
    Key(String, #[source] VerifierKeyError),
    #[error("the checkpoint in `{0}`")]
    Checkpoint(String, #[source] CheckpointError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known: Option<WrittenKnown>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
    #[serde(default, skip_serializing_if = "Overdue::is_empty")]
    overdue: Overdue,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKnown {
    keys: Vec<String>,
    checkpoint: String,
}

// === impl Memory ===

impl Memory {
    /// That of a file, or of somebody who has seen nothing if there is none. Blocks.
    pub(super) fn load(file: &Path) -> Result<Self, MemoryError> {
        let name = || file.display().to_string();
        let bytes = match read_capped(file, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error.into()),
        };
        let written: Written = serde_json::from_slice(&bytes).map_err(|error| MemoryError::Json(name(), error))?;
        if written.version != VERSION {
            return Err(MemoryError::Version(name()));
        }
        let known = written.known.map(|known| {
            let keys = known.keys.iter().map(|key| key.parse::<VerifierKey>());
            let keys: Vec<_> = keys
                .collect::<Result<_, _>>()
                .map_err(|error| MemoryError::Key(name(), error))?;
            let checkpoint = SignedCheckpoint::open(known.checkpoint.as_bytes(), &keys);
            let checkpoint = checkpoint.map_err(|error| MemoryError::Checkpoint(name(), error))?;
            Ok::<_, MemoryError>(Known { keys, checkpoint })
        });
        Ok(Self {
            known: known.transpose()?,
            refused: written.refused,
            overdue: written.overdue,
            is_unreadable: false,
        })
    }

    /// That of a file that cannot be used.
    pub(super) fn unreadable(why: String, at: i64) -> Self {
        let checkpoint = String::new();
        Self {
            known: None,
            refused: Some(Refused { why, at, checkpoint }),
            overdue: Overdue::default(),
            is_unreadable: true,
        }
    }

    /// Replaces the file. Blocks until it is on disk.
    pub(super) fn save(&self, file: &Path) -> Result<(), FileError> {
        let written = Written {
            version: VERSION,
            known: self.known.as_ref().map(|known| WrittenKnown {
                keys: known.key_texts(),
                checkpoint: known.checkpoint.to_string(),
            }),
            refused: self.refused.clone(),
            overdue: self.overdue.clone(),
        };
        let mut text = serde_json::to_vec_pretty(&written).expect("strings and numbers are JSON");
        text.push(b'\n');
        write_atomic(file, &text, PRIVATE)
    }

    /// Why the log is refused, if it is.
    pub(super) fn why(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.why.as_str())
    }

    /// Whether the file of the one would do for the other: cosignatures on a checkpoint, and when the same refusal came
    /// again, are not worth a write.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let known = |memory: &Self| {
            let known = memory.known.as_ref();
            known.map(|known| (known.keys.clone(), known.checkpoint.checkpoint().clone()))
        };
        known(self) == known(other) && self.why() == other.why() && self.overdue == other.overdue
    }
}

// === impl Known ===

impl Known {
    pub(super) fn key_texts(&self) -> Vec<String> {
        self.keys.iter().map(ToString::to_string).collect()
    }
}
