//! Tiles of the log: full ones of hashes are files below `tile/`, under their names in the tile log; the rest is made when
//! it is asked for. A file that is missing or cut short is made anew from the entries, so none of them is synced.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mayfly_runtime::files::{FileError, PRIVATE, read_capped, write_atomic};
use mayfly_store::{ArchiveReader, StoreError};
use mayfly_tlog::bundle::push_entry;
use mayfly_tlog::tile::{TILE_WIDTH, TileKind, TilePath, tile_root};
use mayfly_tlog::tree::{FullTile, TileSource, Tree, TreeError};
use mayfly_tlog::{Hash, leaf_hash};
use tracing::warn;

use super::super::archive::Archive;
use super::EvidenceError;

/// The folder of the tiles: how their names begin.
const TILES: &str = "tile";

/// A full tile of hashes.
const TILE_BYTES: u64 = TILE_WIDTH as u64 * Hash::LEN as u64;

/// The folder of the log. Clones are the same.
#[derive(Clone)]
pub(super) struct TileFiles {
    dir: Arc<Path>,
    archive: Archive,
}

impl TileFiles {
    pub(super) fn new(dir: PathBuf, archive: Archive) -> Self {
        let dir = dir.into();
        Self { dir, archive }
    }

    /// The file of the newest checkpoint.
    pub(super) fn checkpoint(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    /// The newest checkpoint, if there is one.
    pub(super) fn read_checkpoint(&self) -> Result<Option<Vec<u8>>, EvidenceError> {
        match read_capped(&self.checkpoint(), 1 << 20) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the newest checkpoint: synced, as nothing else tells what was shown to others.
    pub(super) fn write_checkpoint(&self, bytes: &[u8]) -> Result<(), EvidenceError> {
        make_dir(&self.dir)?;
        Ok(write_atomic(&self.checkpoint(), bytes, PRIVATE)?)
    }

    /// Keeps tiles that became full.
    pub(super) fn write(&self, tiles: &[FullTile]) -> Result<(), EvidenceError> {
        for (path, bytes) in tiles {
            let file = self.dir.join(path.to_string());
            make_dir(file.parent().unwrap_or(&self.dir))?;
            let failed = |source| FileError::Write {
                path: file.clone(),
                source,
            };
            // Several may make the same tile at the same time: each beside it under a name of its own.
            let part = file.with_extension(format!("{:016x}.part", rand::random::<u64>()));
            let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, &file));
            if written.is_err() {
                // It may not have come into being.
                let _ = fs::remove_file(&part);
            }
            written.map_err(failed)?;
        }
        Ok(())
    }

    /// Any tile or bundle of `tree`, if it has one of that name.
    pub(super) fn of(&self, tree: &Tree, path: TilePath) -> Result<Option<Vec<u8>>, EvidenceError> {
        let (first, end) = (path.index().checked_mul(u64::from(TILE_WIDTH)), u64::from(path.width()));
        let Some((first, end)) = first.and_then(|first| Some((first, first.checked_add(end)?))) else {
            return Ok(None);
        };
        let level = match path.kind() {
            TileKind::Entries if end <= tree.size() => return self.bundle(first, path.width()).map(Some),
            TileKind::Entries => return Ok(None),
            TileKind::Hashes(level) => level,
        };
        if let Some(bytes) = tree.partial_tile(path) {
            return Ok(Some(bytes));
        }
        let hashes = tree.size().checked_shr(8 * u32::from(level)).unwrap_or(0);
        if end > hashes {
            return Ok(None);
        }
        let full = TilePath::full(level, path.index()).map_err(|error| EvidenceError::Format(error.to_string()))?;
        let mut bytes = self.full(full)?;
        bytes.truncate(usize::from(path.width()) * Hash::LEN);
        Ok(Some(bytes))
    }

    /// Asks `question`; if tiles do not lead to the root of their tree, once more with tiles that are made anew from the
    /// entries, which are the truth.
    pub(super) fn mending<T>(&self, question: impl Fn() -> Result<T, TreeError>) -> Result<T, TreeError> {
        let answer = question();
        let Err(TreeError::Inconsistent(_)) = answer else {
            return answer;
        };
        warn!("tiles of the log are damaged and are made anew from its entries");
        match fs::remove_dir_all(self.dir.join(TILES)) {
            Ok(()) => question(),
            Err(_) => answer,
        }
    }

    fn bundle(&self, first: u64, width: u16) -> Result<Vec<u8>, EvidenceError> {
        let entries = self.archive.reader()?.entries(first, width.into())?;
        let mut bundle = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 2).sum());
        for entry in &entries {
            push_entry(&mut bundle, entry.as_bytes()).map_err(|error| EvidenceError::Format(error.to_string()))?;
        }
        Ok(bundle)
    }

    /// A full tile of hashes that the tree has: its file, or made anew.
    fn full(&self, path: TilePath) -> Result<Vec<u8>, EvidenceError> {
        let file = self.dir.join(path.to_string());
        match read_capped(&file, TILE_BYTES) {
            Ok(bytes) if bytes.len() as u64 == TILE_BYTES => return Ok(bytes),
            Ok(_) => {}
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let bytes = self.made(path)?;
        self.write(&[(path, bytes.clone())])?;
        Ok(bytes)
    }

    /// The same from what is below it.
    fn made(&self, path: TilePath) -> Result<Vec<u8>, EvidenceError> {
        let first = path.index() * u64::from(TILE_WIDTH);
        match path.kind() {
            TileKind::Hashes(0) | TileKind::Entries => {
                let leaves = leaves(&mut self.archive.reader()?, first, TILE_WIDTH.into())?;
                Ok(leaves.iter().flat_map(|leaf| *leaf.as_bytes()).collect())
            }
            TileKind::Hashes(level) => {
                let below = (first..).take(TILE_WIDTH.into()).map(|index| {
                    let below = TilePath::full(level - 1, index);
                    let below = below.map_err(|error| EvidenceError::Format(error.to_string()))?;
                    Ok(*tile_root_of(&self.full(below)?).as_bytes())
                });
                Ok(below.collect::<Result<Vec<_>, EvidenceError>>()?.concat())
            }
        }
    }
}

fn tile_root_of(bytes: &[u8]) -> Hash {
    let hashes: Vec<Hash> = bytes
        .as_chunks::<{ Hash::LEN }>()
        .0
        .iter()
        .copied()
        .map(Hash::new)
        .collect();
    tile_root(&hashes)
}

/// The leaf hashes of entries from index `from` on, at most `limit`.
pub(super) fn leaves(reader: &mut ArchiveReader, from: u64, limit: usize) -> Result<Vec<Hash>, StoreError> {
    let entries = reader.entries(from, limit)?;
    Ok(entries.iter().map(|entry| leaf_hash(entry.as_bytes())).collect())
}

impl TileSource for TileFiles {
    fn tile(&self, path: TilePath) -> Result<Option<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        Ok(Some(self.full(path)?))
    }
}

fn make_dir(dir: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| FileError::Write {
        path: dir.into(),
        source,
    })
}
