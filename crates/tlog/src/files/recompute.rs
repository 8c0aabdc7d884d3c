//! Recomputes a log from its entries, and finds each place where the files say something else.
//!
//! From the root down, what is above is known to be right when what is below is looked at: a tile is right if the root
//! over it is the hash in the tile above. From the entries up, what is below says what a wrong tile should have been. The
//! two together tell a wrong tile from a wrong entry. One tile of each level and one bundle are in memory at a time.

use crate::bundle;
use crate::checkpoint::Checkpoint;
use crate::hash::{Hash, leaf_hash};
use crate::tile::{TILE_WIDTH, TileKind, TilePath, at_level, partial_width, tile_root};
use crate::tree::{Tree, fold_right};

use super::verify::{bundle_path, unreadable};
use super::{CHECKPOINT, Damage, DamageKind, Damages, LogDir, MAX_DAMAGES};

/// Where stored and recomputed hashes differ in more places than these, it is not tried out which of them are right.
const MAX_DOUBTS: usize = 10;

/// After as many bundles that are not there, no more are looked for: a checkpoint can claim any size.
const MAX_MISSING: u32 = 1000;

const WIDTH: u64 = TILE_WIDTH as u64;

/// Verifies all tiles and bundles of the log with that checkpoint.
pub(super) fn check(dir: &LogDir, checkpoint: &Checkpoint) -> Result<(), Damages> {
    let mut check = Check {
        dir,
        found: Vec::new(),
        more: 0,
        missing: 0,
    };
    check.whole(checkpoint.size(), checkpoint.root());
    let Check { found, more, .. } = check;
    match found.is_empty() {
        true => Ok(()),
        false => Err(Damages { found, more }),
    }
}

struct Check<'a> {
    dir: &'a LogDir,
    found: Vec<Damage>,
    more: u64,
    missing: u32,
}

/// A tile as it is stored, if it can be read, and as it follows from what is below.
struct Doubtful {
    /// `None` for a level without a partial tile, which has no hashes.
    path: Option<TilePath>,
    stored: Option<Vec<Hash>>,
    computed: Vec<Hash>,
}

impl Check<'_> {
    fn whole(&mut self, size: u64, root: Hash) {
        // The partial tiles are the right edge of the tree; the root is over them, and all else is below.
        let edge = self.edge(size, root);
        for (level, hashes) in edge.iter().enumerate().rev() {
            let level = u8::try_from(level).expect("a tree has at most eight levels");
            let first = at_level(level, size) / WIDTH * WIDTH;
            match level.checked_sub(1) {
                Some(below) => {
                    for (index, hash) in (first..).zip(hashes) {
                        self.full_tile(below, index, *hash);
                    }
                }
                None if hashes.is_empty() => {}
                None => self.bundle(first / WIDTH, hashes),
            }
        }
    }

    /// The hashes of the partial tiles, from the leaves up, as they should be. Notes where they are not.
    fn edge(&mut self, size: u64, root: Hash) -> Vec<Vec<Hash>> {
        let levels: Vec<u8> = (0..).take_while(|level| at_level(*level, size) > 0).collect();
        let mut stored = Vec::new();
        for level in &levels {
            let width = partial_width(*level, size);
            let kind = TileKind::Hashes(*level);
            let path = TilePath::new(kind, at_level(*level, size) / WIDTH, width).ok();
            stored.push(path.map_or((None, Some(Vec::new())), |path| (Some(path), self.hashes(path))));
        }
        let over = |tiles: &[Vec<Hash>]| {
            let root = tiles.iter().fold(None, |right, hashes| fold_right(hashes, right));
            root.unwrap_or(Hash::EMPTY)
        };
        let all: Option<Vec<Vec<Hash>>> = stored.iter().map(|(_, hashes)| hashes.clone()).collect();
        if let Some(all) = all.filter(|all| over(all) == root) {
            return all;
        }
        let doubtful = stored.into_iter().zip(self.computed(size));
        let doubtful = doubtful.map(|((path, stored), computed)| Doubtful { path, stored, computed });
        let replaced = Damage::in_file(CHECKPOINT, DamageKind::Replaced { entries: size });
        self.settle(doubtful.collect(), &over, root, replaced)
    }

    /// Verifies the full tile whose root is known to be `root`, and all below it.
    fn full_tile(&mut self, level: u8, index: u64, root: Hash) {
        if self.is_hopeless() {
            return;
        }
        let path = TilePath::full(level, index).expect("the tree has room for its tiles");
        let stored = self.hashes(path);
        let hashes = match stored.filter(|hashes| tile_root(hashes) == root) {
            Some(hashes) => hashes,
            None => self.settle_tile(path, level, index, root),
        };
        match level.checked_sub(1) {
            Some(below) => {
                for (below_index, hash) in (index * WIDTH..).zip(hashes) {
                    self.full_tile(below, below_index, hash);
                }
            }
            None => self.bundle(index, &hashes),
        }
    }

    fn settle_tile(&mut self, path: TilePath, level: u8, index: u64, root: Hash) -> Vec<Hash> {
        let doubtful = Doubtful {
            path: Some(path),
            stored: read_hashes(self.dir, path).ok(),
            computed: self.hashes_from_entries(level, index),
        };
        let entries = WIDTH << (8 * u32::from(level));
        let replaced = Damage {
            entry: Some(index * entries),
            ..Damage::in_file(path, DamageKind::Replaced { entries })
        };
        let mut settled = self.settle(vec![doubtful], &|tiles| tile_root(&tiles[0]), root, replaced);
        settled.pop().expect("one tile comes back for one")
    }

    /// Finds out which of the stored hashes are wrong: those in whose places the computed ones make the root come out.
    /// `replaced` is what to say if none differ, and it does not come out.
    fn settle(
        &mut self,
        tiles: Vec<Doubtful>,
        over: &dyn Fn(&[Vec<Hash>]) -> Hash,
        root: Hash,
        replaced: Damage,
    ) -> Vec<Vec<Hash>> {
        let mut settled: Vec<Vec<Hash>> = tiles.iter().map(|tile| tile.computed.clone()).collect();
        let mut doubts = Vec::new();
        for (number, tile) in tiles.iter().enumerate() {
            let Some(stored) = &tile.stored else { continue };
            let differ = stored
                .iter()
                .zip(&tile.computed)
                .enumerate()
                .filter(|(_, (a, b))| a != b);
            doubts.extend(differ.map(|(place, (stored, _))| (number, place, *stored)));
        }
        // Once enough is named, no more time goes into telling one from the other.
        let many = doubts.len() > MAX_DOUBTS || self.more > 0;
        let tried = if many { 1 } else { 1usize << doubts.len() };
        let mut found = false;
        for choice in 0..tried {
            for (bit, (number, place, stored)) in doubts.iter().enumerate() {
                let keep = choice >> bit & 1 == 1;
                settled[*number][*place] = if keep { *stored } else { tiles[*number].computed[*place] };
            }
            if over(&settled) == root {
                found = true;
                break;
            }
        }
        let mut named = false;
        for (number, tile) in tiles.iter().enumerate() {
            let (Some(path), Some(stored)) = (tile.path, &tile.stored) else {
                continue;
            };
            // Not settled: what is stored stands against what follows from below, and both may be wrong.
            let right = if found { &settled[number] } else { &tile.computed };
            for (place, (stored, right)) in stored.iter().zip(right).enumerate().filter(|(_, (a, b))| a != b) {
                let inside = stored
                    .as_bytes()
                    .iter()
                    .zip(right.as_bytes())
                    .take_while(|(a, b)| a == b)
                    .count();
                self.note(Damage::at(path, place * Hash::LEN + inside, DamageKind::Hash));
                named = true;
            }
        }
        if !found {
            if !named {
                self.note(replaced);
            }
            settled = tiles
                .into_iter()
                .map(|tile| tile.stored.unwrap_or(tile.computed))
                .collect();
        }
        settled
    }

    /// Verifies a bundle against the hashes of its entries.
    fn bundle(&mut self, index: u64, leaves: &[Hash]) {
        let width = u16::try_from(leaves.len()).expect("not more than a bundle");
        let path = bundle_path(index, width);
        let bytes = match self.dir.read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.missing += 1;
                return self.note(unreadable(path, &error));
            }
        };
        let mut wrong: Option<(u16, usize, u16)> = None;
        let mut rest = &bytes[..];
        for (number, leaf) in (0u16..).zip(leaves) {
            let offset = bytes.len() - rest.len();
            match bundle::split_entry(rest) {
                Some((entry, behind)) => {
                    rest = behind;
                    match &mut wrong {
                        _ if leaf_hash(entry) == *leaf => {}
                        Some((_, _, others)) => *others += 1,
                        None => wrong = Some((number, offset, 0)),
                    }
                }
                None => {
                    let (first, at, _) = wrong.unwrap_or((number, offset, 0));
                    wrong = Some((first, at, width - first - 1));
                    rest = &[];
                    break;
                }
            }
        }
        if let Some((number, offset, others)) = wrong {
            self.note(Damage {
                entry: Some(index * WIDTH + u64::from(number)),
                ..Damage::at(path, offset, DamageKind::Entry { others })
            });
        } else if !rest.is_empty() {
            self.note(Damage::at(path, bytes.len() - rest.len(), DamageKind::TooMany));
        }
    }

    /// The hashes of a tile. Notes why if there are none.
    fn hashes(&mut self, path: TilePath) -> Option<Vec<Hash>> {
        match read_hashes(self.dir, path) {
            Ok(hashes) => Some(hashes),
            Err(damage) => {
                self.note(damage);
                None
            }
        }
    }

    /// The partial tiles as they follow from the entries.
    fn computed(&mut self, size: u64) -> Vec<Vec<Hash>> {
        let mut tree = Tree::new();
        for path in TilePath::of_kind(TileKind::Entries, size) {
            let leaves = self.leaves(path.index(), path.width());
            tree.append(&leaves)
                .expect("the tree is not larger than its checkpoint");
            if self.is_hopeless() {
                let levels = (0..).take_while(|level| at_level(*level, size) > 0);
                return levels
                    .map(|level| vec![Hash::EMPTY; usize::from(partial_width(level, size))])
                    .collect();
            }
        }
        tree.into_levels()
    }

    /// The hashes of a full tile as they follow from the entries.
    fn hashes_from_entries(&mut self, level: u8, index: u64) -> Vec<Hash> {
        if self.is_hopeless() {
            return vec![Hash::EMPTY; usize::from(TILE_WIDTH)];
        }
        let Some(below) = level.checked_sub(1) else {
            return self.leaves(index, TILE_WIDTH);
        };
        let tiles = (index * WIDTH..).take(usize::from(TILE_WIDTH));
        tiles
            .map(|index| tile_root(&self.hashes_from_entries(below, index)))
            .collect()
    }

    /// The hashes of the entries of a bundle; as they are stored, if the bundle is none.
    fn leaves(&mut self, index: u64, width: u16) -> Vec<Hash> {
        match self.dir.read(bundle_path(index, width)) {
            Ok(bytes) => {
                if let Ok(entries) = bundle::entries(&bytes, width) {
                    return entries.into_iter().map(leaf_hash).collect();
                }
            }
            Err(_) => self.missing += 1,
        }
        let path = TilePath::new(TileKind::Hashes(0), index, width).expect("the tree has room for its tiles");
        let stored = read_hashes(self.dir, path);
        stored.unwrap_or_else(|_| vec![Hash::EMPTY; usize::from(width)])
    }

    fn is_hopeless(&self) -> bool {
        self.missing >= MAX_MISSING
    }

    fn note(&mut self, damage: Damage) {
        match self.found.len() < MAX_DAMAGES {
            true => self.found.push(damage),
            false => self.more += 1,
        }
    }
}

fn read_hashes(dir: &LogDir, path: TilePath) -> Result<Vec<Hash>, Damage> {
    let bytes = dir.read(path).map_err(|error| unreadable(path, &error))?;
    let expected = usize::from(path.width()) * Hash::LEN;
    let hashes = Hash::all_of(&bytes).filter(|hashes| hashes.len() == usize::from(path.width()));
    hashes.ok_or_else(|| {
        let kind = DamageKind::Length {
            expected: expected as u64,
            found: bytes.len() as u64,
        };
        Damage::at(path, expected.min(bytes.len()), kind)
    })
}
