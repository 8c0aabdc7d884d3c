//! A log as a folder: the files that it is served as, and exported as.
//!
//! ```text
//! checkpoint                       written last: without it there is no log here
//! tile/0/000   tile/0/001.p/17     hashes
//! tile/entries/000 …               entries
//! ```
//!
//! [`LogDir`] reads and writes single files, [`LogWriter`] a whole log from its entries, [`LogDir::verify_all`] recomputes
//! everything and names each place that is damaged.

mod damage;
mod recompute;
mod verify;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mayfly_runtime::files::{FileError, PUBLIC, read_capped, write_atomic};

use crate::bundle::{EntryTooLong, MAX_BUNDLE_BYTES, push_entry};
use crate::checkpoint::SignedCheckpoint;
use crate::hash::{Hash, leaf_hash};
use crate::note::MAX_NOTE_BYTES;
use crate::tile::{TILE_BYTES, TILE_WIDTH, TileKind, TilePath};
use crate::tree::{TileSource, Tree, TreeError};

pub use damage::{Damage, DamageKind, Damages, MAX_DAMAGES};
pub use verify::{Entries, LogKeys, VerifiedLog};

/// The name of the file, and of the page, with the checkpoint.
pub const CHECKPOINT: &str = "checkpoint";

/// A folder with the files of a log. Nothing about them is known to be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDir {
    dir: PathBuf,
}

/// Writes a log into a folder, entry by entry. Holds one bundle in memory.
#[derive(Debug)]
pub struct LogWriter {
    dir: LogDir,
    tree: Tree,
    /// The entries behind the last full bundle.
    bundle: Vec<u8>,
}

/// A log was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The folder holds a log already.
    #[error("`{dir}` holds a log already")]
    Taken {
        /// The folder.
        dir: PathBuf,
    },
    /// A file cannot be written.
    #[error("a file of the log")]
    File(#[from] FileError),
    /// An entry that no bundle can hold.
    #[error("entry {index}")]
    Entry {
        /// Which one.
        index: u64,
        /// As long it is.
        source: EntryTooLong,
    },
    /// No log can be larger.
    #[error("the tree of the log")]
    Tree(#[from] TreeError),
    /// The checkpoint is one of another log: the entries that were written have another size or root.
    #[error("the entries are not those of the checkpoint: {written} with root {root}")]
    OtherLog {
        /// As many were written.
        written: u64,
        /// The root over them.
        root: Hash,
    },
}

// === impl LogDir ===

impl LogDir {
    /// The log in folder `dir`. Reads nothing.
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The bytes of the checkpoint. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is longer than a note can be.
    pub fn read_checkpoint(&self) -> Result<Vec<u8>, FileError> {
        read_capped(&self.dir.join(CHECKPOINT), MAX_NOTE_BYTES as u64)
    }

    /// Replaces the checkpoint as a whole. Blocks.
    ///
    /// # Errors
    /// It cannot be written; the old one is as it was.
    pub fn write_checkpoint(&self, checkpoint: &SignedCheckpoint) -> Result<(), FileError> {
        write_atomic(&self.dir.join(CHECKPOINT), &checkpoint.to_bytes(), PUBLIC)
    }

    /// The bytes of a tile or bundle. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is longer than it can be.
    pub fn read(&self, path: TilePath) -> Result<Vec<u8>, FileError> {
        let limit = match path.kind() {
            TileKind::Hashes(_) => TILE_BYTES,
            TileKind::Entries => MAX_BUNDLE_BYTES,
        };
        read_capped(&self.dir.join(path.to_string()), limit as u64)
    }

    /// Writes a tile or bundle, not synced: what a power cut takes, [`Self::verify_all`] misses. Blocks.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: TilePath, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.dir.join(path.to_string());
        let folder = path.parent().expect("the name of a tile has several elements");
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, bytes));
        written.map_err(|source| FileError::Write { path, source })
    }
}

/// Full tiles; a reader of proofs needs no others, see [`Tree::resume`].
impl TileSource for LogDir {
    fn tile(&self, path: TilePath) -> Result<Option<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        match self.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

// === impl LogWriter ===

impl LogWriter {
    /// Begins a log in folder `dir`, made if it is not there. Blocks.
    ///
    /// # Errors
    /// The folder cannot be made, or has a checkpoint.
    pub fn create(dir: &Path) -> Result<Self, WriteError> {
        let failed = |source| FileError::Dir {
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        if dir.join(CHECKPOINT).try_exists().map_err(failed)? {
            return Err(WriteError::Taken { dir: dir.to_owned() });
        }
        Ok(Self {
            dir: LogDir::open(dir),
            tree: Tree::new(),
            bundle: Vec::new(),
        })
    }

    /// Appends an entry. Blocks.
    ///
    /// # Errors
    /// It is too long, or a file cannot be written.
    pub fn append(&mut self, entry: &[u8]) -> Result<(), WriteError> {
        let index = self.tree.size();
        push_entry(&mut self.bundle, entry).map_err(|source| WriteError::Entry { index, source })?;
        for (path, bytes) in self.tree.append(&[leaf_hash(entry)])? {
            self.dir.write(path, &bytes)?;
        }
        if self.tree.size().is_multiple_of(u64::from(TILE_WIDTH)) {
            let path = TilePath::new(TileKind::Entries, index / u64::from(TILE_WIDTH), TILE_WIDTH);
            self.dir
                .write(path.expect("the tree has room for its bundles"), &self.bundle)?;
            self.bundle.clear();
        }
        Ok(())
    }

    /// The tree over the entries so far, for a checkpoint of it to be signed.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Writes the checkpoint over the entries, and with it the log is there. Blocks.
    ///
    /// # Errors
    /// The checkpoint is one of other entries, or a file cannot be written.
    pub fn finish(self, checkpoint: &SignedCheckpoint) -> Result<LogDir, WriteError> {
        let (written, root) = (self.tree.size(), self.tree.root());
        if (checkpoint.size(), checkpoint.root()) != (written, root) {
            return Err(WriteError::OtherLog { written, root });
        }
        let partial = TilePath::of_kind(TileKind::Entries, written).last();
        if let Some(path) = partial.filter(|path| !path.is_full()) {
            self.dir.write(path, &self.bundle)?;
        }
        for path in self.tree.partial_tiles() {
            let bytes = self
                .tree
                .partial_tile(path)
                .expect("the tree has the tiles that it names");
            self.dir.write(path, &bytes)?;
        }
        self.dir.write_checkpoint(checkpoint)?;
        Ok(self.dir)
    }
}

fn is_missing(error: &FileError) -> bool {
    matches!(error, FileError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests;
