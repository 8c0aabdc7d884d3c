//! Proofs that verify alone (C2SP tlog-proof): an entry, where it is in the log, the way to the root, and the checkpoint
//! with all its signatures. Who has the keys needs nothing else, and nobody to ask.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::bundle::MAX_ENTRY_BYTES;
use crate::checkpoint::{CheckpointError, SignedCheckpoint};
use crate::hash::{Hash, leaf_hash};
use crate::merkle::{MAX_PROOF_HASHES, ProofError, verify_inclusion};
use crate::note::{MAX_NOTE_BYTES, Note, NoteError, VerifierKey};
use crate::number;

/// The ending of the name of a file with a proof.
pub const FILE_EXTENSION: &str = "tlog-proof";
/// The longest text that is read: the longest note, the longest entry in base64, and the proof.
pub const MAX_TEXT_BYTES: usize = MAX_NOTE_BYTES + MAX_ENTRY_BYTES.div_ceil(3) * 4 + 4096;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// A proof as it was written. What it says is true only if [`Self::verify`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    entry: Option<Vec<u8>>,
    index: u64,
    hashes: Vec<Hash>,
    checkpoint: Note,
}

/// An entry that was verified to be in a log: nothing else makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenEntry {
    index: u64,
    entry: Vec<u8>,
    checkpoint: SignedCheckpoint,
}

/// Bytes that prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofTextError {
    /// Longer than [`MAX_TEXT_BYTES`].
    #[error("the proof has {length} bytes, at most {MAX_TEXT_BYTES} are read")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// A line that does not belong there.
    #[error("line {line} of the proof is wrong: {why}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is expected.
        why: &'static str,
    },
    /// The entry is not in it, and was not given either.
    #[error("the proof does not contain the entry")]
    NoEntry,
    /// It contains another entry than the one that is asked for.
    #[error("the proof is one of another entry")]
    OtherEntry,
    /// Its checkpoint is none, or not signed by the log.
    #[error("the checkpoint of the proof")]
    Checkpoint(#[from] CheckpointError),
    /// The hashes do not lead from the entry to the root.
    #[error("the entry is not shown to be in the log")]
    Inclusion(#[from] ProofError),
}

// === impl Proof ===

impl Proof {
    /// The proof that `entry` is at `index` of the tree of `checkpoint`; `hashes` is what
    /// [`crate::tree::Tree::prove_inclusion`] made. The entry goes along as extra data.
    ///
    /// # Errors
    /// It is not: a proof that does not verify is not written.
    pub fn new(
        entry: &[u8],
        index: u64,
        hashes: Vec<Hash>,
        checkpoint: &SignedCheckpoint,
    ) -> Result<Self, ProofTextError> {
        let (size, root) = (checkpoint.size(), checkpoint.root());
        verify_inclusion(leaf_hash(entry), index, size, root, &hashes)?;
        Ok(Self {
            entry: Some(entry.to_vec()),
            index,
            hashes,
            checkpoint: checkpoint.note().clone(),
        })
    }

    /// Reads the text of a proof. Verifies nothing.
    ///
    /// # Errors
    /// It is none, in the one spelling that each has.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofTextError> {
        if bytes.len() > MAX_TEXT_BYTES {
            return Err(ProofTextError::TooLong { length: bytes.len() });
        }
        let failed = |line, why| ProofTextError::Line { line, why };
        let mut lines = Lines { rest: bytes, number: 0 };
        let header = lines.next();
        if header != Some(HEADER) {
            return Err(failed(1, "`c2sp.org/tlog-proof@v1` is expected"));
        }
        let mut line = lines.next();
        let mut entry = None;
        if let Some(extra) = line.and_then(|line| line.strip_prefix("extra ")) {
            let decoded = (extra.len() <= MAX_ENTRY_BYTES.div_ceil(3) * 4)
                .then(|| STANDARD.decode(extra).ok())
                .flatten()
                .filter(|extra| extra.len() <= MAX_ENTRY_BYTES);
            entry = Some(decoded.ok_or(failed(2, "the extra data is not base64, or too long"))?);
            line = lines.next();
        }
        let index = line
            .and_then(|line| line.strip_prefix("index "))
            .and_then(number::parse);
        let index = index.ok_or(failed(lines.number, "`index` and a number are expected"))?;
        let mut hashes = Vec::new();
        loop {
            match lines.next() {
                Some("") => break,
                Some(line) if hashes.len() < MAX_PROOF_HASHES => {
                    let hash = line.parse().map_err(|_| failed(lines.number, "a hash is expected"))?;
                    hashes.push(hash);
                }
                _ => return Err(failed(lines.number, "a blank line and a checkpoint are expected")),
            }
        }
        Ok(Self {
            entry,
            index,
            hashes,
            checkpoint: Note::parse(lines.rest).map_err(CheckpointError::from)?,
        })
    }

    /// The entry, if the proof contains one. It says nothing as long as it is not verified.
    pub fn entry(&self) -> Option<&[u8]> {
        self.entry.as_deref()
    }

    /// Where the entry is said to be, from zero.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The note of the checkpoint.
    pub fn checkpoint(&self) -> &Note {
        &self.checkpoint
    }

    /// Verifies that the entry in the proof is in the log, as one of `log_keys` signed it. Who cosigned is asked of the
    /// checkpoint of what comes back.
    ///
    /// # Errors
    /// The proof contains no entry, or does not show it.
    pub fn verify(&self, log_keys: &[VerifierKey]) -> Result<ProvenEntry, ProofTextError> {
        let entry = self.entry.as_deref().ok_or(ProofTextError::NoEntry)?;
        self.verify_entry(entry, log_keys)
    }

    /// The same for an entry that the caller has; the proof contains it, or none.
    ///
    /// # Errors
    /// The proof is one of another entry, or does not show it.
    pub fn verify_entry(&self, entry: &[u8], log_keys: &[VerifierKey]) -> Result<ProvenEntry, ProofTextError> {
        if self.entry.as_deref().is_some_and(|own| own != entry) {
            return Err(ProofTextError::OtherEntry);
        }
        let checkpoint = SignedCheckpoint::verify(self.checkpoint.clone(), log_keys)?;
        let (size, root) = (checkpoint.size(), checkpoint.root());
        verify_inclusion(leaf_hash(entry), self.index, size, root, &self.hashes)?;
        Ok(ProvenEntry {
            index: self.index,
            entry: entry.to_vec(),
            checkpoint,
        })
    }
}

/// The text, as [`Proof::parse`] reads it.
impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(entry) = &self.entry {
            writeln!(f, "extra {}", STANDARD.encode(entry))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

// === impl ProvenEntry ===

impl ProvenEntry {
    /// Where it is in the log, from zero.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Its bytes.
    pub fn entry(&self) -> &[u8] {
        &self.entry
    }

    /// The checkpoint that was shown to cover it.
    pub fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }
}

// === impl Lines ===

/// Lines of text in front of a note.
pub(crate) struct Lines<'a> {
    /// What follows the lines so far.
    pub(crate) rest: &'a [u8],
    /// The number of the line that was read last, or could not be.
    pub(crate) number: usize,
}

impl<'a> Lines<'a> {
    /// The next line without its newline; `None` if there is none, or it is not text.
    pub(crate) fn next(&mut self) -> Option<&'a str> {
        self.number += 1;
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&self.rest[..end]).ok()?;
        self.rest = &self.rest[end + 1..];
        Some(line)
    }
}

impl From<NoteError> for ProofTextError {
    fn from(error: NoteError) -> Self {
        Self::Checkpoint(error.into())
    }
}

#[cfg(test)]
mod tests;
