//! What is wrong with the files of a log, and where.

use std::fmt;

use crate::checkpoint::CheckpointError;
use crate::cosignature::CosignatureError;
use crate::note::{Note, NoteError};
use crate::tile::TilePath;

/// The most places that are named; what is wrong beyond is counted.
pub const MAX_DAMAGES: usize = 100;

/// A place where the files of a log are not what they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, relative to the folder of the log.
    pub file: String,
    /// The byte of the file where it begins, from zero, if there is one.
    pub offset: Option<u64>,
    /// The entry it is in, if it is in one.
    pub entry: Option<u64>,
    /// What is wrong there.
    pub kind: DamageKind,
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// The file is not there.
    Missing,
    /// The file cannot be read.
    Unreadable {
        /// Why.
        why: String,
    },
    /// A tile has another length than its name says.
    Length {
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The checkpoint is none, or not signed by the log.
    Checkpoint(CheckpointError),
    /// A signature on the checkpoint of a key that is not known, so that nobody can say whether it is damaged.
    UnknownSignature {
        /// In whose name it is.
        name: String,
    },
    /// A hash in a tile is not the one of what is below it.
    Hash,
    /// An entry is not the one that was logged.
    Entry {
        /// How many entries behind it, in the same bundle, are not either; all, if their lengths are lost.
        others: u16,
    },
    /// Entries follow where none were logged.
    TooMany,
    /// Tiles and entries agree with each other and not with what was signed: some entry of these was exchanged together with
    /// its hashes.
    Replaced {
        /// How many entries, from the one that is named.
        entries: u64,
    },
}

/// All places that were found, at least one, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damages {
    /// The places, [`MAX_DAMAGES`] at most.
    pub found: Vec<Damage>,
    /// How many more there are.
    pub more: u64,
}

// === impl Damage ===

impl Damage {
    pub(super) fn in_file(file: impl fmt::Display, kind: DamageKind) -> Self {
        Self {
            file: file.to_string(),
            offset: None,
            entry: None,
            kind,
        }
    }

    pub(super) fn at(path: TilePath, offset: usize, kind: DamageKind) -> Self {
        Self {
            offset: Some(offset as u64),
            ..Self::in_file(path, kind)
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(entry) = self.entry {
            write!(f, ", entry {entry}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", byte {offset}")?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the file is missing"),
            Self::Unreadable { why } => write!(f, "the file cannot be read: {why}"),
            Self::Length { expected, found } => write!(f, "{expected} bytes are expected, there are {found}"),
            // The words of the cause; that it is about the checkpoint, its place says.
            Self::Checkpoint(CheckpointError::Note(error)) => write!(f, "{error}"),
            Self::Checkpoint(CheckpointError::Cosignature(error)) => write!(f, "{error}"),
            Self::Checkpoint(error) => write!(f, "{error}"),
            Self::UnknownSignature { name } => write!(f, "the key of the signature of `{name}` is not known"),
            Self::Hash => f.write_str("the hash is not the one of what is below it"),
            Self::Entry { others: 0 } => f.write_str("the entry is not the one that was logged"),
            Self::Entry { others } => {
                write!(
                    f,
                    "the entry is not the one that was logged, nor are {others} behind it"
                )
            }
            Self::TooMany => f.write_str("more follows than was logged"),
            Self::Replaced { entries } => write!(
                f,
                "some of {entries} entries from here on was exchanged together with its hashes: they are not what was signed"
            ),
        }
    }
}

impl fmt::Display for Damages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, damage) in self.found.iter().enumerate() {
            let parting = if number == 0 { "" } else { "; " };
            write!(f, "{parting}{damage}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Damages {}

/// Where in the bytes of a checkpoint an error lies: its byte, or the beginning of its line.
pub(super) fn offset_in_checkpoint(bytes: &[u8], error: &CheckpointError) -> Option<u64> {
    let start_of = |line: usize| {
        let mut starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        match line {
            0 | 1 => Some(0),
            _ => starts.nth(line - 2).map(|(end, _)| end as u64 + 1),
        }
    };
    match error {
        CheckpointError::Note(NoteError::NotText { offset }) => Some(*offset as u64),
        // Where the signatures begin, without what has to stand before them; or they would.
        CheckpointError::Note(NoteError::Unsigned | NoteError::Unended) => {
            let dash = "\u{2014} ".as_bytes();
            let begin = bytes.windows(dash.len()).position(|window| window == dash);
            Some(begin.unwrap_or(bytes.len()) as u64)
        }
        CheckpointError::Note(NoteError::Line { line, .. }) | CheckpointError::Line { line, .. } => start_of(*line),
        CheckpointError::EmptyRoot { .. } => start_of(3),
        CheckpointError::Origin { .. } => Some(0),
        CheckpointError::Note(NoteError::BadSignature { name, key_id })
        | CheckpointError::Cosignature(CosignatureError { name, key_id }) => {
            let note = Note::parse(bytes).ok()?;
            let mut signatures = note.signatures().iter();
            let bad = signatures.find(|line| line.name() == name && line.key_id() == *key_id)?;
            Some(note.offset_of(bad) as u64)
        }
        _ => None,
    }
}
