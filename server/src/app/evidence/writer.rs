//! The one who appends: follows the database, keeps tiles that fill, signs a checkpoint over it all.

use mayfly_store::ArchiveReader;
use mayfly_tlog::Hash;
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::note::{Note, VerifierKey};
use mayfly_tlog::tile::{TILE_WIDTH, TilePath};
use mayfly_tlog::tree::Tree;
use tracing::warn;

use super::key::LogKeys;
use super::tiles::{TileFiles, leaves};
use super::{EvidenceError, Published};

/// Entries that are read at a time.
const BATCH: usize = 4096;

pub(super) struct Writer {
    files: TileFiles,
    tree: Tree,
}

impl Writer {
    /// Takes up the tree at the last checkpoint, and shows that the database leads to it.
    pub(super) fn resume(
        files: TileFiles,
        reader: &mut ArchiveReader,
        keys: &[VerifierKey],
    ) -> Result<Self, EvidenceError> {
        let file = files.checkpoint();
        let Some(bytes) = files.read_checkpoint()? else {
            return Self::from_start(files, reader, 0);
        };
        let last = SignedCheckpoint::open(&bytes, keys);
        let last = last.map_err(|source| EvidenceError::Checkpoint {
            file: file.clone(),
            source,
        });
        let found = reader.size()?;
        // A database that names no key has not even the first entry.
        if let (true, Some(shown)) = (keys.is_empty(), claimed_size(&bytes)) {
            return Err(EvidenceError::Shorter { found, shown, file });
        }
        let last = last?;
        let (shown, root) = (last.size(), last.root());
        if found < shown {
            return Err(EvidenceError::Shorter { found, shown, file });
        }
        let tail = shown - shown % u64::from(TILE_WIDTH);
        let tail = leaves(reader, tail, (shown - tail) as usize)?;
        let resumed = Tree::resume(shown, &tail, &files)?;
        if resumed.root() == root && last_tile_is_of_the_entries(&resumed, &files, reader)? {
            return Ok(Self { files, tree: resumed });
        }
        // The tiles may be damaged; the entries may not be.
        let anew = Self::from_start(files, reader, shown)?;
        if anew.tree.root() != root {
            return Err(EvidenceError::Rewritten { shown, file });
        }
        warn!(
            entries = shown,
            "tiles of the log were damaged and were made anew from its entries"
        );
        Ok(anew)
    }

    /// The tree over the first `size` entries, with all its tiles made anew.
    fn from_start(files: TileFiles, reader: &mut ArchiveReader, size: u64) -> Result<Self, EvidenceError> {
        let mut writer = Self {
            files,
            tree: Tree::new(),
        };
        writer.append(reader, size)?;
        Ok(writer)
    }

    /// Appends all that is in the database, and signs it.
    pub(super) fn catch_up(
        &mut self,
        reader: &mut ArchiveReader,
        origin: &str,
        keys: &LogKeys,
    ) -> Result<Published, EvidenceError> {
        let size = reader.size()?;
        self.append(reader, size)?;
        let checkpoint = Checkpoint::new(origin, self.tree.size(), self.tree.root());
        let checkpoint = checkpoint.map_err(|error| EvidenceError::Format(error.to_string()))?;
        let checkpoint = keys.sign(checkpoint)?;
        self.files.write_checkpoint(&checkpoint.to_bytes())?;
        Ok(Published {
            checkpoint,
            tree: self.tree.clone(),
        })
    }

    fn append(&mut self, reader: &mut ArchiveReader, size: u64) -> Result<(), EvidenceError> {
        while self.tree.size() < size {
            let missing = usize::try_from(size - self.tree.size()).unwrap_or(BATCH);
            let leaves: Vec<Hash> = leaves(reader, self.tree.size(), missing.min(BATCH))?;
            if leaves.is_empty() {
                return Err(EvidenceError::Format(
                    "the database has fewer entries than it says".into(),
                ));
            }
            // Tiles first: a tree that has them in it is one whose files are there.
            let mut grown = self.tree.clone();
            self.files.write(&grown.append(&leaves)?)?;
            self.tree = grown;
        }
        Ok(())
    }
}

/// What a checkpoint says that nobody can verify.
fn claimed_size(bytes: &[u8]) -> Option<u64> {
    let note = Note::parse(bytes).ok()?;
    Some(Checkpoint::parse(note.text()).ok()?.size())
}

/// Whether the last full tile is that of the entries: a tree of old tiles and other entries behind them has the right root.
fn last_tile_is_of_the_entries(
    tree: &Tree,
    files: &TileFiles,
    reader: &mut ArchiveReader,
) -> Result<bool, EvidenceError> {
    let Some(index) = (tree.size() / u64::from(TILE_WIDTH)).checked_sub(1) else {
        return Ok(true);
    };
    let path = TilePath::full(0, index).map_err(|error| EvidenceError::Format(error.to_string()))?;
    let kept = files.of(tree, path)?.unwrap_or_default();
    let entries = leaves(reader, index * u64::from(TILE_WIDTH), TILE_WIDTH.into())?;
    Ok(kept == entries.iter().flat_map(|leaf| *leaf.as_bytes()).collect::<Vec<u8>>())
}
