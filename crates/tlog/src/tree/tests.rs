use std::collections::BTreeMap;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof};
use proptest::prelude::*;
use sha2::Sha256;

use super::*;
use crate::hash::leaf_hash;

impl TileSource for BTreeMap<TilePath, Vec<u8>> {
    fn tile(&self, path: TilePath) -> Result<Option<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        Ok(self.get(&path).cloned())
    }
}

type Tiles = BTreeMap<TilePath, Vec<u8>>;

fn entry(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

fn leaves(range: std::ops::Range<u64>) -> Vec<Hash> {
    range.map(|index| leaf_hash(&entry(index))).collect()
}

fn tree_of(size: u64) -> (Tree, Tiles) {
    let mut tree = Tree::new();
    let tiles = tree.append(&leaves(0..size)).unwrap();
    (tree, tiles.into_iter().collect())
}

/// The same entries in the tree of another implementation.
fn referee_of(size: u64) -> MemoryBackedTree<Sha256, Vec<u8>> {
    let mut referee = MemoryBackedTree::new();
    (0..size).for_each(|index| referee.push(entry(index)));
    referee
}

fn referee_root(referee: &MemoryBackedTree<Sha256, Vec<u8>>) -> Hash {
    Hash::new(referee.root().as_bytes().as_slice().try_into().unwrap())
}

#[test]
fn roots_of_all_sizes_are_those_of_another_implementation() {
    let mut referee = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut tree = Tree::new();
    let mut tiles = Tiles::new();
    assert_eq!(tree.root(), Hash::EMPTY);
    let mut roots = vec![tree.root()];
    for index in 0..600 {
        referee.push(entry(index));
        tiles.extend(tree.append(&leaves(index..index + 1)).unwrap());
        assert_eq!(tree.root(), referee_root(&referee), "size {}", index + 1);
        roots.push(tree.root());
    }
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(tree.root_at(size as u64, &tiles).unwrap(), *root, "size {size}");
    }
}
