//! Tiles: the tree in pieces of 256 hashes that never change, and their names (C2SP tlog-tiles).
//!
//! A tile at level 0 holds the hashes of 256 entries; one at level *n* holds the roots of 256 full tiles below it. The
//! last one of each level is partial, in a tree of most sizes. What a reader fetches is named by [`TilePath`].

use std::fmt;
use std::str::FromStr;

use crate::hash::Hash;
use crate::number;

/// Hashes of a full tile, and entries of a full bundle.
pub const TILE_WIDTH: u16 = 256;
/// Bytes of a full tile.
pub const TILE_BYTES: usize = TILE_WIDTH as usize * Hash::LEN;
/// The highest level that a name can say.
pub const MAX_LEVEL: u8 = 63;
/// The longest name of a tile: `tile/entries/` and 19 digits.
const MAX_PATH_BYTES: usize = 64;

/// The name of a tile of hashes, `tile/<level>/<index>[.p/<width>]`, or of a bundle of entries,
/// `tile/entries/<index>[.p/<width>]`, relative to where the log is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u16,
}

/// What is in a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Hashes at this level, 0 to 63.
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

/// Text that names no tile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the path of a tile")]
pub struct TilePathError;

/// The root over the hashes of a full tile.
pub fn tile_root(hashes: &[Hash]) -> Hash {
    debug_assert!(
        hashes.len().is_power_of_two(),
        "only full subtrees have a place of their own"
    );
    match hashes {
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            Hash::node(tile_root(left), tile_root(right))
        }
    }
}

/// The width of the partial tile at `level` of a tree of `size` entries; zero if there is none.
pub(crate) fn partial_width(level: u8, size: u64) -> u16 {
    u16::try_from(at_level(level, size) % u64::from(TILE_WIDTH)).expect("a remainder is smaller than its divisor")
}

/// How many hashes there are at `level` of a tree of `size` entries.
pub(crate) fn at_level(level: u8, size: u64) -> u64 {
    size.checked_shr(8 * u32::from(level)).unwrap_or(0)
}

// === impl TilePath ===

impl TilePath {
    /// A full tile of hashes.
    ///
    /// # Errors
    /// The level is above [`MAX_LEVEL`], or the index above what any tree has.
    pub fn full(level: u8, index: u64) -> Result<Self, TilePathError> {
        Self::new(TileKind::Hashes(level), index, TILE_WIDTH)
    }

    /// The tile of `kind` at `index`, of the first `width` hashes or entries: 256 for a full one.
    ///
    /// # Errors
    /// The level is above [`MAX_LEVEL`], the index above what any tree has, or the width not 1 to 256.
    pub fn new(kind: TileKind, index: u64, width: u16) -> Result<Self, TilePathError> {
        let level = match kind {
            TileKind::Hashes(level) => level,
            TileKind::Entries => 0,
        };
        if level > MAX_LEVEL || i64::try_from(index).is_err() || !(1..=TILE_WIDTH).contains(&width) {
            return Err(TilePathError);
        }
        Ok(Self { kind, index, width })
    }

    /// What is in it.
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Its place among those of its kind, from zero.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes or entries, 1 to 256.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it will stay as it is, whatever is appended.
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// All tiles of a tree of that size: bundles of entries first, then hashes by level, each by index, the partial one
    /// last.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        let entries = Self::of_kind(TileKind::Entries, size);
        let levels = (0..=MAX_LEVEL).take_while(move |level| at_level(*level, size) > 0);
        entries.chain(levels.flat_map(move |level| Self::of_kind(TileKind::Hashes(level), size)))
    }

    /// All tiles of one kind of a tree of that size, by index, the partial one last.
    pub fn of_kind(kind: TileKind, size: u64) -> impl Iterator<Item = Self> {
        let level = match kind {
            TileKind::Hashes(level) => level,
            TileKind::Entries => 0,
        };
        let full = at_level(level, size) / u64::from(TILE_WIDTH);
        let partial = partial_width(level, size);
        let last = (partial > 0).then_some(Self {
            kind,
            index: full,
            width: partial,
        });
        let full = (0..full).map(move |index| Self {
            kind,
            index,
            width: TILE_WIDTH,
        });
        full.chain(last)
    }
}

impl FromStr for TilePath {
    type Err = TilePathError;

    fn from_str(text: &str) -> Result<Self, TilePathError> {
        if text.len() > MAX_PATH_BYTES {
            return Err(TilePathError);
        }
        let rest = text.strip_prefix("tile/").ok_or(TilePathError)?;
        let (kind, rest) = rest.split_once('/').ok_or(TilePathError)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => {
                let level = number::parse(level).and_then(|level| u8::try_from(level).ok());
                TileKind::Hashes(level.ok_or(TilePathError)?)
            }
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => {
                let width = number::parse(width).and_then(|width| u16::try_from(width).ok());
                let partial = width.filter(|width| *width < TILE_WIDTH);
                (index, partial.ok_or(TilePathError)?)
            }
            None => (rest, TILE_WIDTH),
        };
        let mut number = 0u64;
        for element in index.split('/') {
            let digits = element.strip_prefix('x').unwrap_or(element);
            if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(TilePathError);
            }
            let digits: u64 = digits.parse().map_err(|_| TilePathError)?;
            number = number.checked_mul(1000).ok_or(TilePathError)?;
            number = number.checked_add(digits).ok_or(TilePathError)?;
        }
        let path = Self::new(kind, number, width)?;
        // One spelling: which elements begin with an x, and that there is none too many.
        if path.to_string() != text {
            return Err(TilePathError);
        }
        Ok(path)
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
            TileKind::Entries => f.write_str("tile/entries/")?,
        }
        let mut power = 1000u64;
        while self.index / power >= 1000 {
            power *= 1000;
        }
        while power > 1 && self.index >= 1000 {
            write!(f, "x{:03}/", self.index / power % 1000)?;
            power /= 1000;
        }
        write!(f, "{:03}", self.index % 1000)?;
        match self.is_full() {
            true => Ok(()),
            false => write!(f, ".p/{}", self.width),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tile_has_one_name() {
        let names = [
            ("tile/0/000", TileKind::Hashes(0), 0, 256),
            ("tile/63/999", TileKind::Hashes(63), 999, 256),
            ("tile/1/x001/000", TileKind::Hashes(1), 1000, 256),
            ("tile/0/x001/x234/067", TileKind::Hashes(0), 1_234_067, 256),
            ("tile/0/x001/x234/067.p/5", TileKind::Hashes(0), 1_234_067, 5),
            ("tile/entries/x001/234.p/255", TileKind::Entries, 1234, 255),
            (
                "tile/0/x009/x223/x372/x036/x854/x775/807",
                TileKind::Hashes(0),
                i64::MAX as u64,
                256,
            ),
        ];
        for (name, kind, index, width) in names {
            let path = TilePath::new(kind, index, width).unwrap();
            assert_eq!(path.to_string(), name);
            assert_eq!(name.parse(), Ok(path));
        }
        let refused = [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "/tile/0/000",
            "tile/0/000/",
            "tile//000",
            "tile/00/000",
            "tile/64/000",
            "tile/256/000",
            "tile/-1/000",
            "tile/data/000",
            "tile/8/0/000",
            "tile/0/0",
            "tile/0/0000",
            "tile/0/x000",
            "tile/0/x000/001",
            "tile/0/001/000",
            "tile/0/x001/x000",
            "tile/0/X001/000",
            "tile/0/xx01/000",
            "tile/0/+01",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000.p",
            "tile/0/000.p/1/2",
            "tile/0/x001.p/1/000",
            "tile/0/../000",
            "tile/0/000\0",
            "tile/entries/0/000",
            "tile/0/x009/x223/x372/x036/x854/x775/808",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
        ];
        for name in refused {
            assert_eq!(name.parse::<TilePath>(), Err(TilePathError), "{name}");
        }
        assert!(TilePath::new(TileKind::Hashes(64), 0, 1).is_err());
        assert!(TilePath::new(TileKind::Entries, 0, 0).is_err());
        assert!(TilePath::new(TileKind::Entries, 0, 257).is_err());
        assert!(TilePath::new(TileKind::Entries, u64::MAX, 1).is_err());
    }

    #[test]
    fn the_tiles_of_a_tree_are_those_of_the_specification() {
        // tlog-tiles, Partial Tiles: a tree of 70,000 entries, and one of 256.
        let count = |size, kind: fn(&TilePath) -> bool| TilePath::all(size).filter(kind).count();
        assert_eq!(
            count(70_000, |path| path.kind() == TileKind::Hashes(0) && path.is_full()),
            273
        );
        let partial: Vec<String> = TilePath::all(70_000)
            .filter(|path| !path.is_full())
            .map(|path| path.to_string())
            .collect();
        let expected = [
            "tile/entries/273.p/112",
            "tile/0/273.p/112",
            "tile/1/001.p/17",
            "tile/2/000.p/1",
        ];
        assert_eq!(partial, expected);
        let all: Vec<String> = TilePath::all(256).map(|path| path.to_string()).collect();
        assert_eq!(all, ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]);
        assert_eq!(TilePath::all(0).count(), 0);
        assert_eq!(
            TilePath::all(u64::MAX).take(10).count(),
            10,
            "no size is too large to begin with"
        );
    }

    proptest! {
        #[test]
        fn names_of_others_make_no_panic(text in "tile/([0-9]{1,3}|entries)/(x[0-9]{3}/){0,8}[0-9]{2,4}(.p/[0-9]{1,4})?") {
            if let Ok(path) = text.parse::<TilePath>() {
                prop_assert_eq!(path.to_string(), text);
            }
        }

        #[test]
        fn what_is_written_is_read(level in 0..=63u8, index in 0..=i64::MAX as u64, width in 1..=256u16) {
            for kind in [TileKind::Hashes(level), TileKind::Entries] {
                let path = TilePath::new(kind, index, width).unwrap();
                prop_assert_eq!(path.to_string().parse(), Ok(path));
            }
        }
    }
}
