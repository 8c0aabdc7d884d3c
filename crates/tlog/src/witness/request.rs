//! The body of `add-checkpoint`: where the proof begins, the proof, and the checkpoint.

use std::fmt;

use crate::hash::Hash;
use crate::merkle::MAX_PROOF_HASHES;
use crate::note::{MAX_NOTE_BYTES, Note, NoteError};
use crate::number;
use crate::proof::Lines;

/// The longest body that is read: the longest note, and the lines before it.
pub const MAX_REQUEST_BYTES: usize = MAX_NOTE_BYTES + 4096;

/// What a log sends to a witness. Nothing about it is known to be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    old_size: u64,
    proof: Vec<Hash>,
    checkpoint: Note,
}

/// Bytes that are no body of `add-checkpoint`; the answer is status 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Longer than [`MAX_REQUEST_BYTES`].
    #[error("the request has {length} bytes, at most {MAX_REQUEST_BYTES} are read")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// A line that does not belong there.
    #[error("line {line} of the request is wrong: {why}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is expected.
        why: &'static str,
    },
    /// What follows the blank line is no note.
    #[error("the checkpoint of the request")]
    Note(#[from] NoteError),
}

impl AddCheckpoint {
    /// The request to cosign `checkpoint`; `proof` is what [`crate::tree::Tree::prove_consistency`] makes from `old_size`.
    ///
    /// # Errors
    /// The proof has more hashes than any.
    pub fn new(old_size: u64, proof: Vec<Hash>, checkpoint: Note) -> Result<Self, RequestError> {
        if proof.len() > MAX_PROOF_HASHES {
            return Err(RequestError::Line {
                line: 2 + MAX_PROOF_HASHES,
                why: "a proof has at most 63 hashes",
            });
        }
        Ok(Self {
            old_size,
            proof,
            checkpoint,
        })
    }

    /// Reads the body of a request. Verifies nothing.
    ///
    /// # Errors
    /// It is none, in the one spelling that each has.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLong { length: body.len() });
        }
        let failed = |line, why| RequestError::Line { line, why };
        let mut lines = Lines { rest: body, number: 0 };
        let old_size = lines
            .next()
            .and_then(|line| line.strip_prefix("old "))
            .and_then(number::parse);
        let old_size = old_size.ok_or(failed(1, "`old` and a tree size are expected"))?;
        let mut proof = Vec::new();
        loop {
            match lines.next() {
                Some("") => break,
                Some(line) if proof.len() < MAX_PROOF_HASHES => {
                    let hash = line.parse().map_err(|_| failed(lines.number, "a hash is expected"))?;
                    proof.push(hash);
                }
                _ => return Err(failed(lines.number, "a blank line and a checkpoint are expected")),
            }
        }
        Ok(Self {
            old_size,
            proof,
            checkpoint: Note::parse(lines.rest)?,
        })
    }

    /// Where the proof begins: the size of the last checkpoint that the witness cosigned.
    pub fn old_size(&self) -> u64 {
        self.old_size
    }

    /// The proof that the checkpoint goes on from there.
    pub fn proof(&self) -> &[Hash] {
        &self.proof
    }

    /// The note of the checkpoint.
    pub fn checkpoint(&self) -> &Note {
        &self.checkpoint
    }
}

/// The body, as [`AddCheckpoint::parse`] reads it.
impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
