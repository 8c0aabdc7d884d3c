//! The tree of a log that grows: [`Tree`] appends hashes, hands out tiles as they fill, and proves.
//!
//! It holds the partial tile of each level and nothing else, so it is small (8 kB a level) and cheap to clone for
//! readers. Full tiles never change; the owner of the tree keeps them and lends them through a [`TileSource`].

mod reader;

use std::error::Error;

use crate::checkpoint::MAX_TREE_SIZE;
use crate::hash::Hash;
use crate::merkle::{ProofError, verify_consistency, verify_inclusion};
use crate::tile::{TILE_WIDTH, TileKind, TilePath, TilePathError, at_level, partial_width, tile_root};

use reader::Reader;

/// Where full tiles of hashes are kept.
pub trait TileSource {
    /// The bytes of a full tile of hashes, `None` if it is not there. Blocks. What comes back is not trusted.
    ///
    /// # Errors
    /// It cannot be read.
    fn tile(&self, path: TilePath) -> Result<Option<Vec<u8>>, Box<dyn Error + Send + Sync>>;
}

/// The tree over the hashes that were appended so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// The partial tile of each level, from the leaves up; each has less than 256 hashes.
    levels: Vec<Vec<Hash>>,
}

/// A tile that is full now: its name and its bytes.
pub type FullTile = (TilePath, Vec<u8>);

/// A question that the tree, or who keeps its tiles, cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// An index or a size behind the end.
    #[error("{asked} is not within the tree of {size} entries")]
    Range {
        /// What was asked for.
        asked: u64,
        /// As large the tree is, or was to be.
        size: u64,
    },
    /// No tree can be larger.
    #[error("the tree is full")]
    Full,
    /// The hashes behind the last full tile are not as many as the size says.
    #[error("{expected} hashes follow the last full tile, not {given}")]
    Tail {
        /// As many belong there.
        expected: u16,
        /// As many were given.
        given: usize,
    },
    /// A full tile is not where it is kept.
    #[error("`{path}` is missing")]
    Missing {
        /// Which one.
        path: TilePath,
    },
    /// A full tile that cannot be read.
    #[error("`{path}` cannot be read")]
    Read {
        /// Which one.
        path: TilePath,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A full tile of another length than all of them have.
    #[error("`{path}` has {length} bytes")]
    Length {
        /// Which one.
        path: TilePath,
        /// As long it is.
        length: usize,
    },
    /// The tiles do not lead to the root of the tree: one of those that were read is damaged.
    #[error("the tiles do not lead to the root of the tree")]
    Inconsistent(#[source] ProofError),
}

// === impl Tree ===

impl Tree {
    /// The tree without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` entries whose full tiles are in `source`; `tail` are the leaf hashes behind the last full one.
    ///
    /// Reads at most 255 tiles a level. Nothing about them is verified but their length: the caller compares
    /// [`Self::root`], or [`Self::root_at`], with a checkpoint.
    ///
    /// # Errors
    /// A tile cannot be read, or the tail has another length than the size says.
    pub fn resume(size: u64, tail: &[Hash], source: &dyn TileSource) -> Result<Self, TreeError> {
        if size > MAX_TREE_SIZE {
            return Err(TreeError::Full);
        }
        let expected = partial_width(0, size);
        if tail.len() != usize::from(expected) {
            return Err(TreeError::Tail {
                expected,
                given: tail.len(),
            });
        }
        let mut levels = vec![tail.to_vec()];
        for level in 1u8.. {
            let above = at_level(level, size);
            if above == 0 {
                break;
            }
            let width = u64::from(partial_width(level, size));
            let roots = (above - width..above).map(|index| Ok(tile_root(&read_full(source, level - 1, index)?)));
            levels.push(roots.collect::<Result<_, TreeError>>()?);
        }
        let mut tree = Self { size, levels };
        tree.trim();
        Ok(tree)
    }

    /// The tree of `size` entries from its partial tiles, as [`Self::partial_tile`] hands them out; `None` if one of them
    /// is missing or is no tile of that width. Nothing else is verified: the caller compares [`Self::root`] with a
    /// checkpoint.
    pub fn of_partial_tiles(size: u64, mut tile: impl FnMut(TilePath) -> Option<Vec<u8>>) -> Option<Self> {
        let mut levels = vec![];
        for level in (0u8..).take_while(|level| at_level(*level, size) > 0) {
            let (width, index) = (
                partial_width(level, size),
                at_level(level, size) / u64::from(TILE_WIDTH),
            );
            let hashes = match width {
                0 => vec![],
                width => {
                    let path = TilePath::new(TileKind::Hashes(level), index, width).ok()?;
                    Hash::all_of(&tile(path)?).filter(|hashes| hashes.len() == usize::from(width))?
                }
            };
            levels.push(hashes);
        }
        let mut tree = Self { size, levels };
        tree.trim();
        (size <= MAX_TREE_SIZE).then_some(tree)
    }

    /// How many entries it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends the leaf hashes of entries. Hands out the tiles of hashes that became full, lower levels first.
    ///
    /// # Errors
    /// No tree can have so many entries; nothing was appended.
    pub fn append(&mut self, leaves: &[Hash]) -> Result<Vec<FullTile>, TreeError> {
        let size = self.size.checked_add(leaves.len() as u64);
        size.filter(|size| *size <= MAX_TREE_SIZE).ok_or(TreeError::Full)?;
        let mut full = Vec::new();
        for leaf in leaves {
            self.append_one(*leaf, &mut full);
        }
        Ok(full)
    }

    /// The root over all entries. Hashes what is in the partial tiles: some hundred hashes, not more.
    pub fn root(&self) -> Hash {
        // The rightmost subtrees are the smallest, and the deepest in the tree (RFC 6962 §2.1).
        let mut root = None;
        for hashes in &self.levels {
            root = fold_right(hashes, root);
        }
        root.unwrap_or(Hash::EMPTY)
    }

    /// The bytes of a partial tile of hashes, or of a beginning of one: what a reader of this tree, or of an earlier one,
    /// asks for. `None` for everything else, full tiles among it.
    pub fn partial_tile(&self, path: TilePath) -> Option<Vec<u8>> {
        let TileKind::Hashes(level) = path.kind() else {
            return None;
        };
        let hashes = self.levels.get(usize::from(level))?;
        let index = at_level(level, self.size) / u64::from(TILE_WIDTH);
        let width = usize::from(path.width());
        (path.index() == index && width <= hashes.len()).then(|| Hash::concat(&hashes[..width]))
    }

    /// The names of the partial tiles of hashes of this tree, lower levels first.
    pub fn partial_tiles(&self) -> impl Iterator<Item = TilePath> {
        let levels = (0u8..).take(self.levels.len());
        levels.flat_map(|level| TilePath::of_kind(TileKind::Hashes(level), self.size).filter(|path| !path.is_full()))
    }

    /// The root over the first `size` entries, shown to be a beginning of this tree.
    ///
    /// # Errors
    /// The tree is smaller, or a tile is missing or damaged.
    pub fn root_at(&self, size: u64, source: &dyn TileSource) -> Result<Hash, TreeError> {
        let reader = Reader::new(self, source);
        self.verified_root_at(size, &reader)
    }

    /// The proof that entry `index` is in the tree of the first `size` entries, verified against the root of this tree.
    ///
    /// # Errors
    /// The index is not in that tree, or that tree not in this one; or a tile is missing or damaged.
    pub fn prove_inclusion(&self, index: u64, size: u64, source: &dyn TileSource) -> Result<Vec<Hash>, TreeError> {
        if index >= size {
            return Err(TreeError::Range { asked: index, size });
        }
        let reader = Reader::new(self, source);
        let root = self.verified_root_at(size, &reader)?;
        let proof = reader.inclusion(index, size)?;
        let leaf = reader.leaf(index)?;
        verify_inclusion(leaf, index, size, root, &proof).map_err(TreeError::Inconsistent)?;
        Ok(proof)
    }

    /// The proof that the tree of the first `to` entries begins with that of the first `from`, verified against the root
    /// of this tree. It is empty if `from` is zero or `to`.
    ///
    /// # Errors
    /// The sizes are not in this order, or not in this tree; or a tile is missing or damaged.
    pub fn prove_consistency(&self, from: u64, to: u64, source: &dyn TileSource) -> Result<Vec<Hash>, TreeError> {
        if from > to {
            return Err(TreeError::Range { asked: from, size: to });
        }
        let reader = Reader::new(self, source);
        let to_root = self.verified_root_at(to, &reader)?;
        let from_root = reader.root(from)?;
        let proof = reader.consistency(from, to)?;
        verify_consistency(from, from_root, to, to_root, &proof).map_err(TreeError::Inconsistent)?;
        Ok(proof)
    }

    /// The hash at a place in the partial tile of a level, if it is there.
    fn partial_hashes(&self, level: u8, tile: u64) -> Option<&[Hash]> {
        let hashes = self.levels.get(usize::from(level))?;
        let index = at_level(level, self.size) / u64::from(TILE_WIDTH);
        (tile == index).then_some(hashes)
    }

    fn verified_root_at(&self, size: u64, reader: &Reader<'_>) -> Result<Hash, TreeError> {
        if size > self.size {
            return Err(TreeError::Range {
                asked: size,
                size: self.size,
            });
        }
        let root = reader.root(size)?;
        let proof = reader.consistency(size, self.size)?;
        verify_consistency(size, root, self.size, self.root(), &proof).map_err(TreeError::Inconsistent)?;
        Ok(root)
    }

    fn append_one(&mut self, leaf: Hash, full: &mut Vec<FullTile>) {
        let mut hash = leaf;
        for level in 0u8.. {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[usize::from(level)];
            hashes.push(hash);
            if hashes.len() < usize::from(TILE_WIDTH) {
                break;
            }
            let index = at_level(level + 1, self.size);
            let path = TilePath::full(level, index).expect("the tree is not larger than the largest");
            full.push((path, Hash::concat(hashes)));
            hash = tile_root(hashes);
            hashes.clear();
        }
        self.size += 1;
    }

    /// The hashes of the partial tile of each level, from the leaves up; one that is empty for a level that has none.
    pub(crate) fn into_levels(self) -> Vec<Vec<Hash>> {
        self.levels
    }

    /// Two trees of the same entries are equal, however they came to be.
    fn trim(&mut self) {
        while self.levels.last().is_some_and(Vec::is_empty) {
            self.levels.pop();
        }
    }
}

/// The root over full subtrees of falling size, and over `right` behind them.
pub(crate) fn fold_right(mut hashes: &[Hash], right: Option<Hash>) -> Option<Hash> {
    let mut roots = Vec::new();
    while !hashes.is_empty() {
        let largest = 1 << hashes.len().ilog2();
        let (left, rest) = hashes.split_at(largest);
        roots.push(tile_root(left));
        hashes = rest;
    }
    roots.into_iter().rev().fold(right, |right, left| {
        Some(right.map_or(left, |right| Hash::node(left, right)))
    })
}

fn read_full(source: &dyn TileSource, level: u8, index: u64) -> Result<Vec<Hash>, TreeError> {
    let path = TilePath::full(level, index).map_err(|TilePathError| TreeError::Full)?;
    let bytes = source.tile(path).map_err(|source| TreeError::Read { path, source })?;
    let bytes = bytes.ok_or(TreeError::Missing { path })?;
    let hashes = Hash::all_of(&bytes).filter(|hashes| hashes.len() == usize::from(TILE_WIDTH));
    hashes.ok_or(TreeError::Length {
        path,
        length: bytes.len(),
    })
}

#[cfg(test)]
mod tests;
