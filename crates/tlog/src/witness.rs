//! Witnesses (C2SP tlog-witness): who remembers the last checkpoint of a log, and cosigns the next one only if it goes on
//! from there. [`Witness`] decides, without network or files; agents use it, and so does `mayfly audit witness`.
//!
//! ```text
//! request ─▶ consider ─▶ Accepted ─▶ record ─▶ (the caller saves the state) ─▶ cosign ─▶ answer
//!                └─────▶ Refusal ─▶ its status and body
//! ```

mod request;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
use crate::cosignature::cosign;
use crate::hash::Hash;
use crate::merkle::verify_consistency;
use crate::note::{Algorithm, NoteSigner, SignError, Signature, VerifierKey};
use crate::number;

pub use request::{AddCheckpoint, MAX_REQUEST_BYTES, RequestError};

/// The type of the body that answers a [`Refusal::Conflict`].
pub const SIZE_CONTENT_TYPE: &str = "text/x.tlog.size";

/// What a witness knows: the last checkpoint of each log that it has accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    known: BTreeMap<String, Known>,
}

/// The last tree of a log that a witness has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its entries.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// A checkpoint that goes on from the last one. Only [`Witness::consider`] makes one, and only its cosignature may be
/// handed out, after [`Witness::record`] and after the state is saved.
#[derive(Clone, Debug)]
pub struct Accepted {
    checkpoint: SignedCheckpoint,
    before: Option<Known>,
}

/// Why a checkpoint is not cosigned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no checkpoint.
    #[error("it is no checkpoint")]
    Malformed(#[source] CheckpointError),
    /// None of the keys is one of that log.
    #[error("log `{origin}` is not known")]
    UnknownLog {
        /// The log it speaks for.
        origin: String,
    },
    /// The log did not sign it.
    #[error("log `{origin}` did not sign it")]
    BadSignature {
        /// The log it speaks for.
        origin: String,
        /// What is wrong.
        source: CheckpointError,
    },
    /// The proof is said to lead from a larger tree to this one.
    #[error("a proof from {old} entries does not lead to {size}")]
    OldAboveSize {
        /// The larger.
        old: u64,
        /// The size of the checkpoint.
        size: u64,
    },
    /// The proof does not begin where the last checkpoint ended.
    #[error("the last checkpoint has {known} entries, the proof begins at {old}")]
    Conflict {
        /// The size of the last checkpoint; zero if there was none.
        known: u64,
        /// Where the proof begins.
        old: u64,
    },
    /// The log has lost entries: it was larger.
    #[error("the log has {size} entries and had {known}")]
    Shorter {
        /// The size of the last checkpoint.
        known: u64,
        /// The size of this one.
        size: u64,
        /// Where the proof begins.
        old: u64,
    },
    /// The log has another past: as many entries under another root.
    #[error("the log has two roots over {size} entries: {known} and {root}")]
    Fork {
        /// The size of both.
        size: u64,
        /// The root of the last checkpoint.
        known: Hash,
        /// The root of this one.
        root: Hash,
    },
    /// That the log goes on from the last checkpoint is not shown: it has another past, or the proof is wrong.
    #[error("that the log goes on from its first {old} entries is not shown")]
    BadProof {
        /// Where the proof begins.
        old: u64,
    },
}

/// The state of a witness that was considered is not the one it has now; consider again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another checkpoint was accepted meanwhile")]
pub struct Outdated;

/// Text that is not the state of a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the state of the witness is not `<size> <root> <origin>`, or not the only one of its log")]
pub struct StateError {
    /// Counted from one.
    pub line: usize,
}

// === impl Witness ===

impl Witness {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what [`Self::to_text`] wrote.
    ///
    /// # Errors
    /// It is something else. A witness that began anew would accept a shorter log, so that is not to be shrugged off.
    pub fn parse(text: &str) -> Result<Self, StateError> {
        let mut known = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let failed = StateError { line: number + 1 };
            let mut parts = line.splitn(3, ' ');
            let (Some(size), Some(root), Some(origin)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(failed);
            };
            let size = number::parse(size).ok_or(failed)?;
            let root = root.parse().map_err(|_| failed)?;
            Checkpoint::new(origin, size, root).map_err(|_| failed)?;
            if known.insert(origin.to_owned(), Known { size, root }).is_some() {
                return Err(failed);
            }
        }
        Ok(Self { known })
    }

    /// The state as text, to be saved before a cosignature goes out. One line per log, sorted.
    pub fn to_text(&self) -> String {
        self.known.iter().fold(String::new(), |mut text, (origin, known)| {
            writeln!(text, "{} {} {origin}", known.size, known.root).expect("writing to a string does not fail");
            text
        })
    }

    /// The last checkpoint that was accepted of log `origin`.
    pub fn known(&self, origin: &str) -> Option<Known> {
        self.known.get(origin).copied()
    }

    /// Decides about the next checkpoint of a log, in the order in which tlog-witness says it. `log_keys` are those of
    /// all logs that are witnessed; the name of a key is the origin of its log.
    ///
    /// # Errors
    /// It is not to be cosigned.
    pub fn consider(&self, request: &AddCheckpoint, log_keys: &[VerifierKey]) -> Result<Accepted, Refusal> {
        let note = request.checkpoint();
        let checkpoint = Checkpoint::parse(note.text()).map_err(Refusal::Malformed)?;
        let (origin, size, root) = (checkpoint.origin(), checkpoint.size(), checkpoint.root());
        let of_the_log = |key: &&VerifierKey| key.algorithm() == Algorithm::Ed25519 && key.name() == origin;
        let keys: Vec<VerifierKey> = log_keys.iter().filter(of_the_log).cloned().collect();
        if keys.is_empty() {
            let origin = origin.to_owned();
            return Err(Refusal::UnknownLog { origin });
        }
        let signed = SignedCheckpoint::verify(note.clone(), &keys).map_err(|source| match source {
            CheckpointError::EmptyRoot { root } => Refusal::Fork {
                size,
                known: Hash::EMPTY,
                root,
            },
            source => Refusal::BadSignature {
                origin: origin.to_owned(),
                source,
            },
        })?;
        let before = self.known(origin);
        let Known {
            size: known,
            root: known_root,
        } = before.unwrap_or(Known::NOTHING);
        let old = request.old_size();
        if size < known {
            return Err(Refusal::Shorter { known, size, old });
        }
        if old > size {
            return Err(Refusal::OldAboveSize { old, size });
        }
        if old != known {
            return Err(Refusal::Conflict { known, old });
        }
        if old == size && root != known_root {
            return Err(Refusal::Fork {
                size,
                known: known_root,
                root,
            });
        }
        verify_consistency(old, known_root, size, root, request.proof()).map_err(|_| Refusal::BadProof { old })?;
        Ok(Accepted {
            checkpoint: signed,
            before,
        })
    }

    /// Remembers an accepted checkpoint.
    ///
    /// # Errors
    /// Meanwhile another one was recorded: what was considered is out of date, and cosigning it could take the log back.
    pub fn record(&mut self, accepted: &Accepted) -> Result<(), Outdated> {
        let checkpoint = &accepted.checkpoint;
        if self.known(checkpoint.origin()) != accepted.before {
            return Err(Outdated);
        }
        let known = Known {
            size: checkpoint.size(),
            root: checkpoint.root(),
        };
        self.known.insert(checkpoint.origin().to_owned(), known);
        Ok(())
    }
}

// === impl Known ===

impl Known {
    /// What is known of a log before its first checkpoint: that it begins with nothing.
    pub const NOTHING: Self = Self {
        size: 0,
        root: Hash::EMPTY,
    };
}

// === impl Accepted ===

impl Accepted {
    /// The checkpoint, verified.
    pub fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }

    /// What was known before, `None` for the first checkpoint of a log.
    pub fn before(&self) -> Option<Known> {
        self.before
    }

    /// Cosigns it; `timestamp` is now, in seconds since 1970. To be handed out after the state was saved.
    ///
    /// # Errors
    /// The key did not sign.
    pub fn cosign(&self, signer: &dyn NoteSigner, timestamp: u64) -> Result<Signature, SignError> {
        cosign(signer, self.checkpoint.note().text(), timestamp)
    }
}

// === impl Refusal ===

impl Refusal {
    /// The HTTP status that answers it (tlog-witness, add-checkpoint).
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::OldAboveSize { .. } => 400,
            Self::Shorter { old, size, .. } if old > size => 400,
            Self::BadSignature { .. } => 403,
            Self::UnknownLog { .. } => 404,
            Self::Conflict { .. } | Self::Shorter { .. } => 409,
            Self::Fork { .. } | Self::BadProof { .. } => 422,
        }
    }

    /// The body of the answer, of type [`SIZE_CONTENT_TYPE`], for status 409: the size from which a proof has to begin.
    pub fn conflict_body(&self) -> Option<String> {
        match self {
            Self::Conflict { known, .. } | Self::Shorter { known, .. } if self.status() == 409 => {
                Some(format!("{known}\n"))
            }
            _ => None,
        }
    }

    /// Whether it tells of the log, by its own signature, that it does not only grow: something for people to look at.
    /// An old checkpoint that somebody sends once more is [`Self::Shorter`], too.
    pub fn is_about_the_log(&self) -> bool {
        matches!(self, Self::Shorter { .. } | Self::Fork { .. } | Self::BadProof { .. })
    }
}

#[cfg(test)]
mod tests;
