//! Signed notes (C2SP signed-note): a text, and lines that say who signed it.
//!
//! ```text
//! the text, any number of lines
//!
//! — example.com/log AAAAAbase64…
//! ```
//!
//! [`Note`] is what was written, nothing about it is known to be true. What keys say about it is
//! [`Note::verified_by`]; [`crate::checkpoint::SignedCheckpoint`] is a note that has been verified.

mod key;
mod signer;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use key::{Algorithm, MAX_NAME_BYTES, VerifierKey, VerifierKeyError};
pub use signer::{Ed25519Key, KeyFileError, NoteSigner, SignError};

/// The longest note that is read; the longest that the Go implementation reads, too.
pub const MAX_NOTE_BYTES: usize = 1_000_000;
/// The most signatures of a note. A reader has to take at least 16 (signed-note, Format).
pub const MAX_SIGNATURES: usize = 100;
/// The longest signature that is read, key ID included: one of ML-DSA-87, the longest in sight, has 4,627 bytes.
pub const MAX_SIGNATURE_BYTES: usize = 8 * 1024;

const LINE_START: &str = "\u{2014} ";

/// A text and its signatures, as they were written: who signed is not known before [`Self::verified_by`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// One signature line. Whether it is one, its key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    name: String,
    key_id: u32,
    bytes: Vec<u8>,
}

/// Bytes that are no note, or none that is believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Longer than [`MAX_NOTE_BYTES`].
    #[error("the note has {length} bytes, at most {MAX_NOTE_BYTES} are read")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// Not UTF-8, or a control character other than a newline.
    #[error("byte {offset} of the note is not text")]
    NotText {
        /// Where.
        offset: usize,
    },
    /// A text that does not end in a newline.
    #[error("the text of the note does not end in a newline")]
    Unended,
    /// No blank line between text and signatures, or no signature.
    #[error("the note has no signatures after a blank line")]
    Unsigned,
    /// A line where a signature should be, and is not.
    #[error("line {line} of the note is not a signature: {why}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than [`MAX_SIGNATURES`].
    #[error("the note has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    /// A signature in the name of a key that is known, which that key did not make.
    #[error("the signature of `{name}` (key {key_id:08x}) is not one of that key")]
    BadSignature {
        /// The name of the key.
        name: String,
        /// Its ID.
        key_id: u32,
    },
    /// None of the signatures is by a key that is known.
    #[error("no signature of the note is by a known key")]
    NoKnownKey,
}

// === impl Note ===

impl Note {
    /// A text without signatures yet. It must end in a newline and have no other control characters.
    ///
    /// # Errors
    /// It cannot be the text of a note.
    pub fn new(text: impl Into<String>) -> Result<Self, NoteError> {
        let text = text.into();
        if text.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong { length: text.len() });
        }
        check_characters(&text)?;
        if !text.ends_with('\n') {
            return Err(NoteError::Unended);
        }
        Ok(Self {
            text,
            signatures: Vec::new(),
        })
    }

    /// Reads a note: at most [`MAX_NOTE_BYTES`], one to [`MAX_SIGNATURES`] signatures. Verifies nothing.
    ///
    /// # Errors
    /// It is no signed note, in the one spelling that each note has: written again, the same bytes come out.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong { length: bytes.len() });
        }
        let whole = std::str::from_utf8(bytes).map_err(|error| NoteError::NotText {
            offset: error.valid_up_to(),
        })?;
        check_characters(whole)?;
        // The text may have blank lines itself, so the last one parts it from the signatures.
        let split = whole.rfind("\n\n").ok_or(NoteError::Unsigned)? + 1;
        let (text, lines) = (&whole[..split], &whole[split + 1..]);
        if lines.is_empty() {
            return Err(NoteError::Unsigned);
        }
        let above = text.matches('\n').count() + 1;
        Ok(Self {
            text: text.to_owned(),
            signatures: Signature::parse_lines(lines, above)?,
        })
    }

    /// The text, its last newline included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in their order.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Adds a signature at the end, unverified.
    ///
    /// # Errors
    /// The note is full.
    pub fn push(&mut self, signature: Signature) -> Result<(), NoteError> {
        if self.signatures.len() >= MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// Where the line of one of its signatures begins, in the bytes of the note.
    pub(crate) fn offset_of(&self, signature: &Signature) -> usize {
        let before = self.signatures.iter().take_while(|other| *other != signature);
        self.text.len() + 1 + before.map(|other| other.to_string().len()).sum::<usize>()
    }

    /// Puts a signature in the place of the one of the same key, or at the end.
    pub(crate) fn replace(&mut self, signature: Signature) -> Result<(), NoteError> {
        let same = |old: &&mut Signature| old.name == signature.name && old.key_id == signature.key_id;
        match self.signatures.iter_mut().find(same) {
            Some(old) => *old = signature,
            None => self.push(signature)?,
        }
        Ok(())
    }

    /// Signs the text with a key of [`Algorithm::Ed25519`] and adds the signature at the end.
    ///
    /// # Errors
    /// The key did not sign, is of another kind, or the note is full.
    pub fn sign(&mut self, signer: &dyn NoteSigner) -> Result<(), SignError> {
        let signature = signer::sign_text(signer, &self.text)?;
        self.push(signature).map_err(|error| SignError::new(signer, error))
    }

    /// Which of `keys` signed the text, each once, in the order of the signatures. Signatures of other keys are
    /// ignored, as they have to be (signed-note, Signatures).
    ///
    /// # Errors
    /// A signature is in the name of one of `keys` and not by it, so that the note as a whole is not to be believed; or
    /// none of them signed.
    pub fn verified_by<'a>(&self, keys: &'a [VerifierKey]) -> Result<Vec<&'a VerifierKey>, NoteError> {
        let mut found: Vec<&VerifierKey> = Vec::new();
        for signature in &self.signatures {
            for key in keys.iter().filter(|key| signature.is_by(key)) {
                if !key.verifies(&self.text, signature) {
                    return Err(NoteError::BadSignature {
                        name: signature.name.clone(),
                        key_id: signature.key_id,
                    });
                }
                if !found.contains(&key) {
                    found.push(key);
                }
            }
        }
        if found.is_empty() {
            return Err(NoteError::NoKnownKey);
        }
        Ok(found)
    }

    /// The bytes of the note, as [`Self::parse`] reads them.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| write!(f, "{line}"))
    }
}

// === impl Signature ===

impl Signature {
    /// A signature of `key`; `bytes` is what its algorithm says they are.
    pub(crate) fn by(key: &VerifierKey, bytes: Vec<u8>) -> Self {
        Self {
            name: key.name().to_owned(),
            key_id: key.id(),
            bytes,
        }
    }

    /// Reads signature lines, as a witness answers them: one to [`MAX_SIGNATURES`], each ended by a newline.
    ///
    /// # Errors
    /// Something else is among them.
    pub fn parse_all(bytes: &[u8]) -> Result<Vec<Self>, NoteError> {
        if bytes.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong { length: bytes.len() });
        }
        let lines = std::str::from_utf8(bytes).map_err(|error| NoteError::NotText {
            offset: error.valid_up_to(),
        })?;
        check_characters(lines)?;
        if lines.is_empty() {
            return Err(NoteError::Unsigned);
        }
        Self::parse_lines(lines, 0)
    }

    /// The name of the key it says it is by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ID of the key it says it is by.
    pub fn key_id(&self) -> u32 {
        self.key_id
    }

    /// What follows the key ID.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it is in the name of this key. Whether the key made it is another question.
    pub fn is_by(&self, key: &VerifierKey) -> bool {
        self.key_id == key.id() && self.name == key.name()
    }

    fn parse_lines(lines: &str, above: usize) -> Result<Vec<Self>, NoteError> {
        let body = lines.strip_suffix('\n').ok_or(NoteError::Unended)?;
        let mut signatures = Vec::new();
        for (number, line) in body.split('\n').enumerate() {
            if signatures.len() >= MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            let failed = |why| NoteError::Line {
                line: above + number + 1,
                why,
            };
            signatures.push(Self::parse_line(line).map_err(failed)?);
        }
        Ok(signatures)
    }

    fn parse_line(line: &str) -> Result<Self, &'static str> {
        let rest = line.strip_prefix(LINE_START).ok_or("it does not begin with a dash")?;
        let (name, base64) = rest.split_once(' ').ok_or("it has no name and value")?;
        key::check_name(name)?;
        if base64.len() > MAX_SIGNATURE_BYTES.div_ceil(3) * 4 {
            return Err("it is too long");
        }
        let bytes = STANDARD.decode(base64).map_err(|_| "its value is not base64")?;
        let (key_id, signature) = bytes.split_first_chunk::<4>().ok_or("its value is too short")?;
        if signature.is_empty() {
            return Err("its value is too short");
        }
        Ok(Self {
            name: name.to_owned(),
            key_id: u32::from_be_bytes(*key_id),
            bytes: signature.to_vec(),
        })
    }
}

/// The line, its newline included.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = [&self.key_id.to_be_bytes()[..], &self.bytes].concat();
        writeln!(f, "{LINE_START}{} {}", self.name, STANDARD.encode(value))
    }
}

fn check_characters(text: &str) -> Result<(), NoteError> {
    match text.bytes().position(|byte| byte < 0x20 && byte != b'\n') {
        Some(offset) => Err(NoteError::NotText { offset }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
