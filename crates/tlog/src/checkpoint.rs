//! Checkpoints (C2SP tlog-checkpoint): how large a log is, what its root is, signed by the log.

use std::fmt;

use crate::cosignature;
use crate::hash::Hash;
use crate::note::{Algorithm, Note, NoteError, NoteSigner, SignError, Signature, VerifierKey};
use crate::number;

/// The largest tree: implementations in other languages count in signed 64-bit integers.
pub const MAX_TREE_SIZE: u64 = i64::MAX as u64;

/// What a log says of itself, unsigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

/// A checkpoint that the log has signed: that one of its keys did was verified when this was made, and nothing else makes
/// one. Dereferences to nothing: what is asked of it says whether it means the claim or the note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
}

/// A cosignature that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned<'a> {
    /// Who made it.
    pub key: &'a VerifierKey,
    /// When, in seconds since 1970.
    pub timestamp: u64,
}

/// Bytes that are no checkpoint, or none of that log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// No note, or not signed by the log.
    #[error("the note of the checkpoint")]
    Note(#[from] NoteError),
    /// A note that says something else.
    #[error("line {line} of the checkpoint is wrong: {why}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is signed, but not by a key that belongs to the log it speaks for.
    #[error("no known key of log `{origin}` signed the checkpoint")]
    Origin {
        /// The log it speaks for.
        origin: String,
    },
    /// A root over no entries that is not [`Hash::EMPTY`].
    #[error("{root} is not the root of a log without entries")]
    EmptyRoot {
        /// The root it says.
        root: Hash,
    },
    /// A cosignature that is not by that key over this checkpoint.
    #[error("the cosignature cannot be added")]
    Cosignature(#[from] cosignature::CosignatureError),
}

// === impl Checkpoint ===

impl Checkpoint {
    /// The claim of log `origin` to have `size` entries under `root`. No extension lines: nobody could audit them.
    ///
    /// # Errors
    /// The origin is empty or not one line of text, the size too large, or the root of an empty log not
    /// [`Hash::EMPTY`].
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Self, CheckpointError> {
        let text = format!("{origin}\n{size}\n{root}\n");
        let checkpoint = Self::parse(&text)?;
        checkpoint.check_empty()?;
        if checkpoint.origin != origin {
            return Err(CheckpointError::Line {
                line: 1,
                why: "an origin is one line",
            });
        }
        Ok(checkpoint)
    }

    /// Reads the text of a note. Lines after the third are kept as they are: what they mean is not known here.
    ///
    /// # Errors
    /// It is no checkpoint, in the one spelling that each has.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let failed = |line, why| CheckpointError::Line { line, why };
        // What a note can say, a note checks.
        Note::new(text)?;
        let mut lines = text.strip_suffix('\n').ok_or(NoteError::Unended)?.split('\n');
        let origin = lines.next().filter(|line| !line.is_empty());
        let origin = origin.ok_or(failed(1, "an origin is expected"))?;
        let size = lines.next().and_then(number::parse);
        let size = size.ok_or(failed(2, "a tree size is expected"))?;
        let root = lines.next().and_then(|line| line.parse().ok());
        let root = root.ok_or(failed(3, "a root hash is expected"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if let Some(blank) = extensions.iter().position(String::is_empty) {
            return Err(failed(4 + blank, "an extension line is not empty"));
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
            extensions,
        })
    }

    /// Which log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// A log without entries has one root (RFC 6962 §2.1). Looked at after the signature, as witnesses have to.
    fn check_empty(&self) -> Result<(), CheckpointError> {
        match self.size == 0 && self.root != Hash::EMPTY {
            true => Err(CheckpointError::EmptyRoot { root: self.root }),
            false => Ok(()),
        }
    }

    /// How many entries it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over them.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Lines after the third. A log of ours writes none.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

/// The text that is signed.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

// === impl SignedCheckpoint ===

impl SignedCheckpoint {
    /// Reads a checkpoint and verifies that the log it speaks for has signed it.
    ///
    /// `log_keys` are the keys of the logs that the caller trusts, of any number of logs; the name of a key is the origin
    /// of its log. A key of one log does not speak for another.
    ///
    /// # Errors
    /// It is no checkpoint, a signature in the name of one of these keys is not by it, or none of the log's keys signed.
    pub fn open(bytes: &[u8], log_keys: &[VerifierKey]) -> Result<Self, CheckpointError> {
        Self::verify(Note::parse(bytes)?, log_keys)
    }

    /// The same for a note that has been read already.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn verify(note: Note, log_keys: &[VerifierKey]) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::parse(note.text())?;
        let signed_by = note.verified_by(log_keys)?;
        let of_the_log = |key: &&VerifierKey| key.algorithm() == Algorithm::Ed25519 && key.name() == checkpoint.origin;
        if !signed_by.iter().any(of_the_log) {
            return Err(CheckpointError::Origin {
                origin: checkpoint.origin,
            });
        }
        checkpoint.check_empty()?;
        Ok(Self { checkpoint, note })
    }

    /// Signs a checkpoint as its log.
    ///
    /// # Errors
    /// The key did not sign, or its name is not the origin of the checkpoint.
    pub fn sign(checkpoint: Checkpoint, signer: &dyn NoteSigner) -> Result<Self, SignError> {
        if signer.verifier_key().name() != checkpoint.origin {
            return Err(SignError::new(signer, "its name is not the origin of the checkpoint"));
        }
        let mut note = Note::new(checkpoint.to_string()).map_err(|error| SignError::new(signer, error))?;
        note.sign(signer)?;
        Ok(Self { checkpoint, note })
    }

    /// Signs once more, as the same log with another key: so that who knows only the next key, or only the one before,
    /// reads it too.
    ///
    /// # Errors
    /// As [`Self::sign`], or the note is full.
    pub fn sign_also(&mut self, signer: &dyn NoteSigner) -> Result<(), SignError> {
        if signer.verifier_key().name() != self.checkpoint.origin {
            return Err(SignError::new(signer, "its name is not the origin of the checkpoint"));
        }
        self.note.sign(signer)
    }

    /// Which log.
    pub fn origin(&self) -> &str {
        &self.checkpoint.origin
    }

    /// How many entries it has.
    pub fn size(&self) -> u64 {
        self.checkpoint.size
    }

    /// The root over them.
    pub fn root(&self) -> Hash {
        self.checkpoint.root
    }

    /// What the log says.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note that says it, with all signatures, known or not.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Adds a cosignature of `key`, once: a later one of the same key takes the place of the earlier.
    ///
    /// # Errors
    /// It is not by that key over this checkpoint, or the note is full.
    pub fn add_cosignature(&mut self, key: &VerifierKey, signature: Signature) -> Result<u64, CheckpointError> {
        let timestamp = cosignature::verify(key, self.note.text(), &signature)?;
        self.note.replace(signature)?;
        Ok(timestamp)
    }

    /// The cosignatures of `witnesses`, each at most once. Signatures of others are ignored.
    ///
    /// # Errors
    /// One is in the name of a witness and not by it.
    pub fn cosigned_by<'a>(&self, witnesses: &'a [VerifierKey]) -> Result<Vec<Cosigned<'a>>, CheckpointError> {
        let mut found: Vec<Cosigned<'_>> = Vec::new();
        for signature in self.note.signatures() {
            let of_witness = |key: &&VerifierKey| key.algorithm() == Algorithm::CosignatureV1 && signature.is_by(key);
            for key in witnesses.iter().filter(of_witness) {
                let timestamp = cosignature::verify(key, self.note.text(), signature)?;
                if !found.iter().any(|cosigned| cosigned.key == key) {
                    found.push(Cosigned { key, timestamp });
                }
            }
        }
        Ok(found)
    }

    /// The bytes of the note.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.note.to_bytes()
    }
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.note, f)
    }
}

#[cfg(test)]
mod tests;
