//! Reads single hashes of a tree out of its tiles, each tile once.
//!
//! What is read is not verified here: the proof that is made of it is, against the root. `tlog_tiles` has a reader that
//! verifies tiles as it reads them; it is not used, since it misses some when several roots of the right edge share a
//! tile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::hash::Hash;
use crate::tile::tile_root;

use super::{TileSource, Tree, TreeError, read_full};

/// Hashes of one tree, for one question.
pub(super) struct Reader<'a> {
    tree: &'a Tree,
    source: &'a dyn TileSource,
    tiles: RefCell<BTreeMap<(u8, u64), Vec<Hash>>>,
    /// Why a hash could not be read: the errors of `tlog_tiles` have no room for it.
    failure: RefCell<Option<TreeError>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(tree: &'a Tree, source: &'a dyn TileSource) -> Self {
        Self {
            tree,
            source,
            tiles: RefCell::default(),
            failure: RefCell::default(),
        }
    }

    /// The root over the first `size` entries.
    pub(super) fn root(&self, size: u64) -> Result<Hash, TreeError> {
        tlog_tiles::tree_hash(size, self)
            .map(Into::into)
            .map_err(|_| self.failure())
    }

    /// The hash of entry `index`.
    pub(super) fn leaf(&self, index: u64) -> Result<Hash, TreeError> {
        self.hash(0, index)
    }

    pub(super) fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, TreeError> {
        let proof = tlog_tiles::prove_record(size, index, self).map_err(|_| self.failure())?;
        Ok(proof.into_iter().map(Into::into).collect())
    }

    pub(super) fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, TreeError> {
        if from == 0 {
            return Ok(Vec::new());
        }
        let proof = tlog_tiles::prove_tree(to, from, self).map_err(|_| self.failure())?;
        Ok(proof.into_iter().map(Into::into).collect())
    }

    /// The root over the 2^`height` entries from `index` × 2^`height` on.
    fn hash(&self, height: u8, index: u64) -> Result<Hash, TreeError> {
        let (level, inside) = (height / 8, height % 8);
        let tile = index >> (8 - inside);
        let first = usize::try_from((index << inside) % 256).expect("a remainder of 256");
        let last = first + (1 << inside);
        if let Some(hashes) = self.tree.partial_hashes(level, tile) {
            let found = hashes.get(first..last).map(tile_root);
            return found.ok_or(TreeError::Range {
                asked: index,
                size: self.tree.size,
            });
        }
        let mut tiles = self.tiles.borrow_mut();
        let hashes = match tiles.entry((level, tile)) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(free) => free.insert(read_full(self.source, level, tile)?),
        };
        Ok(tile_root(&hashes[first..last]))
    }

    fn failure(&self) -> TreeError {
        let failure = self.failure.borrow_mut().take();
        failure.expect("sizes and indexes are checked before, so only reading fails")
    }
}

impl tlog_tiles::HashReader for Reader<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let read = |index: &u64| {
            let (height, index) = tlog_tiles::split_stored_hash_index(*index);
            self.hash(height, index).map(Into::into).map_err(|error| {
                *self.failure.borrow_mut() = Some(error);
                tlog_tiles::Error::InvalidTile
            })
        };
        indexes.iter().map(read).collect()
    }
}
