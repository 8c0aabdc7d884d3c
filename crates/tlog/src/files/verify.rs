//! Verifies a folder: the signatures of its checkpoint, then everything below.

use std::fmt;

use mayfly_runtime::files::FileError;

use crate::bundle;
use crate::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
use crate::hash::{Hash, leaf_hash};
use crate::note::{Algorithm, Note, NoteError, Signature, VerifierKey};
use crate::tile::{TILE_WIDTH, TileKind, TilePath};
use crate::tree::Tree;

use super::damage::offset_in_checkpoint;
use super::{CHECKPOINT, Damage, DamageKind, Damages, LogDir, is_missing, recompute};

/// Whose signatures a checkpoint may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogKeys {
    log: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    allow_unknown: bool,
}

/// A log whose every file was verified: nothing else makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedLog {
    dir: LogDir,
    checkpoint: SignedCheckpoint,
    cosigned: Vec<(VerifierKey, u64)>,
    unknown: Vec<String>,
}

/// The entries of a log with their indexes, in order. See [`VerifiedLog::entries`].
#[derive(Debug)]
pub struct Entries<'a> {
    log: &'a VerifiedLog,
    tree: Tree,
    bundle: std::vec::IntoIter<Vec<u8>>,
    next: u64,
    failed: bool,
}

// === impl LogKeys ===

impl LogKeys {
    /// The keys of the log; more than one if it has changed its key.
    pub fn new(log: impl IntoIterator<Item = VerifierKey>) -> Self {
        Self {
            log: log.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The witnesses that may have cosigned.
    #[must_use]
    pub fn with_witnesses(mut self, witnesses: impl IntoIterator<Item = VerifierKey>) -> Self {
        self.witnesses.extend(witnesses);
        self
    }

    /// Also takes a checkpoint with signatures of other keys. They are named in [`VerifiedLog::unknown_signatures`]: whether
    /// they are damaged cannot be said.
    #[must_use]
    pub fn allow_unknown_signatures(mut self) -> Self {
        self.allow_unknown = true;
        self
    }
}

// === impl LogDir ===

impl LogDir {
    /// Recomputes every tile from the entries, and verifies every signature. Blocks for as long as reading the files takes.
    ///
    /// # Errors
    /// A bit of the files is not what it was: the places, as exactly as can be said.
    pub fn verify_all(&self, keys: &LogKeys) -> Result<VerifiedLog, Damages> {
        let verified = self.verify_checkpoint(keys).map_err(|damage| Damages {
            found: vec![damage],
            more: 0,
        })?;
        recompute::check(self, verified.checkpoint.checkpoint())?;
        Ok(verified)
    }

    fn verify_checkpoint(&self, keys: &LogKeys) -> Result<VerifiedLog, Damage> {
        let bytes = self.read_checkpoint().map_err(|error| unreadable(CHECKPOINT, &error))?;
        let failed = |error: CheckpointError| Damage {
            offset: offset_in_checkpoint(&bytes, &error),
            ..Damage::in_file(CHECKPOINT, DamageKind::Checkpoint(error))
        };
        let note = Note::parse(&bytes).map_err(|error| failed(error.into()))?;
        Checkpoint::parse(note.text()).map_err(failed)?;
        // Keys of another kind than a witness has would not be asked below.
        let is_witness = |key: &&VerifierKey| key.algorithm() == Algorithm::CosignatureV1;
        let known = || keys.log.iter().chain(keys.witnesses.iter().filter(is_witness));
        let is_unknown = |signature: &&Signature| !known().any(|key| signature.is_by(key));
        let unknown: Vec<&Signature> = note.signatures().iter().filter(is_unknown).collect();
        let checkpoint = SignedCheckpoint::verify(note.clone(), &keys.log);
        let not_by_the_log = matches!(
            checkpoint,
            Err(CheckpointError::Origin { .. } | CheckpointError::Note(NoteError::NoKnownKey))
        );
        // A signature whose name is damaged looks like one of an unknown key.
        let suspect = not_by_the_log || (checkpoint.is_ok() && !keys.allow_unknown);
        if let Some(signature) = unknown.first().filter(|_| suspect) {
            let name = signature.name().to_owned();
            return Err(Damage {
                offset: Some(note.offset_of(signature) as u64),
                ..Damage::in_file(CHECKPOINT, DamageKind::UnknownSignature { name })
            });
        }
        let checkpoint = checkpoint.map_err(failed)?;
        let cosigned = checkpoint.cosigned_by(&keys.witnesses).map_err(failed)?;
        let cosigned = cosigned
            .into_iter()
            .map(|cosigned| (cosigned.key.clone(), cosigned.timestamp));
        Ok(VerifiedLog {
            dir: self.clone(),
            cosigned: cosigned.collect(),
            unknown: unknown
                .into_iter()
                .map(|signature| signature.name().to_owned())
                .collect(),
            checkpoint,
        })
    }
}

// === impl VerifiedLog ===

impl VerifiedLog {
    /// The checkpoint that covers all of it.
    pub fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }

    /// The witnesses whose cosignatures were verified, and when they made them, in seconds since 1970.
    pub fn cosigned(&self) -> &[(VerifierKey, u64)] {
        &self.cosigned
    }

    /// In whose names there are signatures that were not verified, since their keys are not known.
    pub fn unknown_signatures(&self) -> &[String] {
        &self.unknown
    }

    /// The folder it is in.
    pub fn dir(&self) -> &LogDir {
        &self.dir
    }

    /// Reads the entries, bundle by bundle. The files may have changed since they were verified, so the root is computed
    /// once more on the way: only after the last entry is it known that all of them were the ones that were signed, and an
    /// error comes in the place of the end if they were not.
    pub fn entries(&self) -> Entries<'_> {
        Entries {
            log: self,
            tree: Tree::new(),
            bundle: Vec::new().into_iter(),
            next: 0,
            failed: false,
        }
    }
}

// === impl Entries ===

impl Entries<'_> {
    fn read_bundle(&mut self) -> Result<(), Damage> {
        let size = self.log.checkpoint.size();
        let width = size.saturating_sub(self.next).min(u64::from(TILE_WIDTH));
        let width = u16::try_from(width).expect("not more than a bundle");
        if width == 0 {
            return match self.tree.root() == self.log.checkpoint.root() {
                true => Ok(()),
                false => Err(Damage::in_file(CHECKPOINT, DamageKind::Replaced { entries: size })),
            };
        }
        let path = bundle_path(self.next / u64::from(TILE_WIDTH), width);
        let bytes = self.log.dir.read(path).map_err(|error| unreadable(path, &error))?;
        let entries = bundle::entries(&bytes, width).map_err(|error| Damage {
            entry: Some(self.next + u64::from(error.entry)),
            ..Damage::at(path, error.offset, DamageKind::Entry { others: 0 })
        })?;
        let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        self.tree
            .append(&leaves)
            .expect("the tree is not larger than its checkpoint");
        let entries: Vec<Vec<u8>> = entries.into_iter().map(<[u8]>::to_vec).collect();
        self.bundle = entries.into_iter();
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(u64, Vec<u8>), Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.bundle.len() == 0
            && let Err(damage) = self.read_bundle()
        {
            self.failed = true;
            return Some(Err(damage));
        }
        let entry = self.bundle.next()?;
        self.next += 1;
        Some(Ok((self.next - 1, entry)))
    }
}

pub(super) fn bundle_path(index: u64, width: u16) -> TilePath {
    TilePath::new(TileKind::Entries, index, width).expect("the tree has room for its bundles")
}

pub(super) fn unreadable(file: impl fmt::Display, error: &FileError) -> Damage {
    let kind = match is_missing(error) {
        true => DamageKind::Missing,
        false => DamageKind::Unreadable { why: chain(error) },
    };
    Damage::in_file(file, kind)
}

/// An error and its causes, as people read them.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
