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
