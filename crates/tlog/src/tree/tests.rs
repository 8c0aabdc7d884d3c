use std::collections::BTreeMap;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
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
/// The same tree by another implementation, which shares no code with ours.
type Referee = MemoryBackedTree<Sha256, Vec<u8>>;

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

fn referee_of(size: u64) -> Referee {
    let mut referee = Referee::new();
    (0..size).for_each(|index| referee.push(entry(index)));
    referee
}

fn referee_root(referee: &Referee) -> Hash {
    Hash::new(referee.root().as_bytes().as_slice().try_into().unwrap())
}

fn root_for_referee(root: Hash, size: u64) -> RootHash<Sha256> {
    RootHash::new((*root.as_bytes()).into(), size)
}

/// Our proof is the referee's, both accept it, and we accept it for nothing else.
fn check_inclusion(tree: &Tree, tiles: &Tiles, referee: &Referee, index: u64) {
    let (size, root) = (referee.len(), referee_root(referee));
    let proof = tree.prove_inclusion(index, size, tiles).unwrap();
    let theirs = referee.prove_inclusion(usize::try_from(index).unwrap());
    assert_eq!(Hash::concat(&proof), theirs.as_bytes(), "entry {index} of {size}");
    let ours = InclusionProof::<Sha256>::try_from_bytes(Hash::concat(&proof)).unwrap();
    let their_root = root_for_referee(root, size);
    their_root.verify_inclusion(&entry(index), index, &ours).unwrap();

    let leaf = leaf_hash(&entry(index));
    verify_inclusion(leaf, index, size, root, &proof).unwrap();
    let refused = |leaf, index, size, root, proof: &[Hash]| {
        assert!(
            verify_inclusion(leaf, index, size, root, proof).is_err(),
            "{index} of {size}"
        );
    };
    refused(leaf_hash(b"another"), index, size, root, &proof);
    refused(leaf, index, size, leaf_hash(b"another"), &proof);
    refused(leaf, size, size, root, &proof);
    refused(leaf, index, size, root, &[&proof[..], &[leaf]].concat());
    if let Some((_, shorter)) = proof.split_last() {
        refused(leaf, index, size, root, shorter);
        refused(leaf, index ^ 1, size, root, &proof);
    }
}

fn check_consistency(tree: &Tree, tiles: &Tiles, referee: &Referee, from: u64, from_root: Hash) {
    let (size, root) = (referee.len(), referee_root(referee));
    let proof = tree.prove_consistency(from, size, tiles).unwrap();
    let verify = |from_root, proof: &[Hash]| verify_consistency(from, from_root, size, root, proof);
    verify(from_root, &proof).unwrap();
    assert!(verify(leaf_hash(b"another"), &proof).is_err(), "{from} to {size}");
    assert!(
        verify(from_root, &[&proof[..], &[from_root]].concat()).is_err(),
        "{from} to {size}"
    );
    if let Some((_, shorter)) = proof.split_last() {
        assert!(verify(from_root, shorter).is_err(), "{from} to {size}");
    }
    if from > 0 && from < size {
        let theirs = referee.prove_consistency(usize::try_from(size - from).unwrap());
        assert_eq!(Hash::concat(&proof), theirs.as_bytes(), "{from} to {size}");
        let ours = ConsistencyProof::<Sha256>::try_from_bytes(Hash::concat(&proof)).unwrap();
        root_for_referee(root, size)
            .verify_consistency(&root_for_referee(from_root, from), &ours)
            .unwrap();
    } else {
        assert!(proof.is_empty());
    }
}

#[test]
fn roots_and_proofs_of_all_sizes_are_those_of_another_implementation() {
    let (whole, tiles) = tree_of(600);
    let mut referee = Referee::new();
    let mut growing = Tree::new();
    let mut roots = vec![Hash::EMPTY];
    assert_eq!(growing.root(), Hash::EMPTY);
    assert_eq!(growing.prove_consistency(0, 0, &Tiles::new()).unwrap(), []);
    for size in 1..=600 {
        referee.push(entry(size - 1));
        growing.append(&leaves(size - 1..size)).unwrap();
        let root = referee_root(&referee);
        assert_eq!(growing.root(), root, "size {size}");
        assert_eq!(whole.root_at(size, &tiles).unwrap(), root, "size {size}");
        roots.push(root);
        // From the tree as it is and from one that went on; where tiles begin and end, and somewhere between.
        for index in [0, size / 3, size / 2, size - 1] {
            check_inclusion(&growing, &tiles, &referee, index);
            check_inclusion(&whole, &tiles, &referee, index);
        }
        for from in [0, 1, size / 3, size / 2, size.next_power_of_two() / 2, size - 1, size] {
            let from_root = roots[usize::try_from(from).unwrap()];
            check_consistency(&growing, &tiles, &referee, from, from_root);
            check_consistency(&whole, &tiles, &referee, from, from_root);
        }
    }
    assert_eq!(growing, whole, "one by one or at once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn larger_trees_are_those_of_another_implementation(
        size in 601..3_000u64, index in any::<u64>(), from in any::<u64>(),
    ) {
        let (tree, tiles) = tree_of(size);
        let referee = referee_of(size);
        prop_assert_eq!(tree.root(), referee_root(&referee));
        check_inclusion(&tree, &tiles, &referee, index % size);
        let from = from % size + 1;
        let from_root = referee_root(&referee_of(from));
        prop_assert_eq!(tree.root_at(from, &tiles).unwrap(), from_root);
        check_consistency(&tree, &tiles, &referee, from, from_root);
    }

    #[test]
    fn no_proof_of_others_makes_verifying_panic(
        leaf in any::<[u8; 32]>(), index in any::<u64>(), size in any::<u64>(), hashes in 0..70usize,
    ) {
        let leaf = Hash::new(leaf);
        let proof = vec![leaf; hashes];
        prop_assert!(verify_inclusion(leaf, index, size, Hash::EMPTY, &proof).is_err());
        let consistent = verify_consistency(index, leaf, size, Hash::EMPTY, &proof);
        prop_assert!(consistent.is_err());
    }
}

#[test]
fn a_tree_of_three_levels_goes_on_from_its_tiles() {
    // The example of tlog-tiles: 273 full tiles and one of 112; one full and one of 17; one of 1.
    let (tree, tiles) = tree_of(70_000);
    let referee = referee_of(70_000);
    assert_eq!(tree.root(), referee_root(&referee));
    assert_eq!(tiles.len(), 273 + 1);
    let partial: Vec<String> = tree.partial_tiles().map(|path| path.to_string()).collect();
    assert_eq!(partial, ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]);
    let named: Vec<TilePath> = TilePath::all(70_000)
        .filter(|path| path.kind() != TileKind::Entries)
        .collect();
    assert_eq!(named.len(), 273 + 1 + 3);

    let tail = leaves(70_000 - 112..70_000);
    let mut resumed = Tree::resume(70_000, &tail, &tiles).unwrap();
    assert_eq!(resumed, tree);
    let mut further = tree.clone();
    let next = leaves(70_000..70_300);
    assert_eq!(resumed.append(&next).unwrap(), further.append(&next).unwrap());
    assert_eq!(resumed.root(), further.root());
    for index in [0, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999] {
        check_inclusion(&tree, &tiles, &referee, index);
    }
    let wrong = Tree::resume(70_000, &tail[1..], &tiles);
    assert!(matches!(
        wrong,
        Err(TreeError::Tail {
            expected: 112,
            given: 111
        })
    ));
}

#[test]
fn a_damaged_tile_gets_into_no_proof() {
    let (tree, tiles) = tree_of(70_000);
    for damaged in ["tile/0/000", "tile/0/272", "tile/1/000"] {
        let path: TilePath = damaged.parse().unwrap();
        let mut tiles = tiles.clone();
        tiles.get_mut(&path).unwrap()[5 * 32] ^= 1;
        let index = path.index() * 256;
        for index in [index + 4, index + 5, index + 200] {
            let refused = tree.prove_inclusion(index, 70_000, &tiles);
            assert!(
                matches!(refused, Err(TreeError::Inconsistent(_))),
                "{damaged}, {index}: {refused:?}"
            );
        }
        let refused = tree.root_at(path.index() * 256 + 100, &tiles);
        assert!(refused.is_err(), "{damaged}: {refused:?}");

        tiles.get_mut(&path).unwrap().pop();
        let refused = tree.prove_inclusion(index, 70_000, &tiles);
        assert!(
            matches!(refused, Err(TreeError::Length { length: 8191, .. })),
            "{damaged}: {refused:?}"
        );
        tiles.remove(&path);
        let refused = tree.prove_inclusion(index, 70_000, &tiles);
        assert!(
            matches!(refused, Err(TreeError::Missing { path: missing }) if missing == path),
            "{damaged}"
        );
    }
}

#[test]
fn questions_beyond_the_tree_are_refused() {
    let (tree, tiles) = tree_of(300);
    let range = |result: Result<Vec<Hash>, TreeError>| matches!(result, Err(TreeError::Range { .. }));
    assert!(range(tree.prove_inclusion(300, 300, &tiles)));
    assert!(range(tree.prove_inclusion(0, 301, &tiles)));
    assert!(range(tree.prove_inclusion(u64::MAX - 1, u64::MAX, &tiles)));
    assert!(range(tree.prove_consistency(2, 1, &tiles)));
    assert!(range(tree.prove_consistency(0, 301, &tiles)));
    assert!(range(tree.prove_consistency(1, u64::MAX, &tiles)));
    assert!(matches!(tree.root_at(301, &tiles), Err(TreeError::Range { .. })));
    assert!(matches!(Tree::resume(u64::MAX, &[], &tiles), Err(TreeError::Full)));
}

#[test]
fn the_partial_tile_of_an_earlier_tree_is_the_beginning_of_the_one_now() {
    let (tree, _) = tree_of(300);
    let path = |text: &str| text.parse::<TilePath>().unwrap();
    let widest = tree.partial_tile(path("tile/0/001.p/44")).unwrap();
    assert_eq!(widest, Hash::concat(&leaves(256..300)));
    assert_eq!(tree.partial_tile(path("tile/0/001.p/7")).unwrap(), widest[..7 * 32]);
    assert!(tree.partial_tile(path("tile/1/000.p/1")).is_some());
    for other in [
        "tile/0/001.p/45",
        "tile/0/001",
        "tile/0/000",
        "tile/0/000.p/3",
        "tile/2/000.p/1",
        "tile/entries/001.p/44",
    ] {
        assert_eq!(tree.partial_tile(path(other)), None, "{other}");
    }
}

#[test]
fn a_tree_goes_on_from_its_partial_tiles_alone() {
    for size in [0, 1, 255, 256, 257, 300, 511, 512, 65_535, 65_536, 65_537, 70_000] {
        let (tree, _) = tree_of(size);
        let tiles: Tiles = tree
            .partial_tiles()
            .map(|path| (path, tree.partial_tile(path).unwrap()))
            .collect();
        let mut again = Tree::of_partial_tiles(size, |path| tiles.get(&path).cloned()).unwrap();
        assert_eq!(again, tree, "{size} entries");
        let mut grown = tree;
        grown.append(&leaves(size..size + 300)).unwrap();
        again.append(&leaves(size..size + 300)).unwrap();
        assert_eq!(again, grown);
        for path in tiles.keys() {
            let without = |asked: TilePath| tiles.get(&asked).cloned().filter(|_| asked != *path);
            assert_eq!(Tree::of_partial_tiles(size, without), None, "{size} without {path}");
            let short = |asked: TilePath| {
                let mut bytes = tiles.get(&asked).cloned()?;
                bytes.truncate(bytes.len() - usize::from(asked == *path));
                Some(bytes)
            };
            assert_eq!(Tree::of_partial_tiles(size, short), None, "{size} with a cut {path}");
        }
    }
    assert_eq!(Tree::of_partial_tiles(MAX_TREE_SIZE + 1, |_| Some(vec![0; 32])), None);
}
