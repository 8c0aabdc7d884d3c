//! SHA-256 hashes of leaves and nodes (RFC 6962 §2.1).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A hash in the tree, 32 bytes. `Display` and [`FromStr`] are standard base64 with padding, as in all text formats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; Self::LEN]);

/// Text that is not 32 bytes in standard base64, in its one spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hash: 32 bytes in base64 are expected")]
pub struct HashError;

/// The hash of an entry as a leaf of the tree (RFC 6962 §2.1: one zero byte stands before it).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    tlog_tiles::record_hash(entry).into()
}

// === impl Hash ===

impl Hash {
    /// Its length in bytes.
    pub const LEN: usize = 32;
    /// The root of the tree without entries: the hash of nothing (RFC 6962 §2.1).
    pub const EMPTY: Self = Self(tlog_tiles::EMPTY_HASH.0);

    /// From its bytes.
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The node over two others.
    pub(crate) fn node(left: Self, right: Self) -> Self {
        tlog_tiles::node_hash(left.into(), right.into()).into()
    }

    /// The hashes of a tile; `None` if its length is no multiple of theirs.
    pub(crate) fn all_of(bytes: &[u8]) -> Option<Vec<Self>> {
        let (hashes, rest) = bytes.as_chunks::<{ Self::LEN }>();
        rest.is_empty().then(|| hashes.iter().copied().map(Self).collect())
    }

    /// The bytes of a tile.
    pub(crate) fn concat(hashes: &[Self]) -> Vec<u8> {
        hashes.iter().flat_map(|hash| hash.0).collect()
    }
}

impl From<tlog_tiles::Hash> for Hash {
    fn from(hash: tlog_tiles::Hash) -> Self {
        Self(hash.0)
    }
}

impl From<Hash> for tlog_tiles::Hash {
    fn from(hash: Hash) -> Self {
        Self(hash.0)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        // Not more is decoded than can be a hash, however long the text is.
        if text.len() != 44 {
            return Err(HashError);
        }
        let bytes = STANDARD.decode(text).map_err(|_| HashError)?;
        bytes.try_into().map(Self).map_err(|_| HashError)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_one_spelling() {
        let hash = leaf_hash(b"");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        let text = hash.to_string();
        let spellings = [
            text.trim_end_matches('=').to_owned(),
            format!("{text}\n"),
            format!(" {text}"),
            text.replace('=', ""),
            String::new(),
            // The last character before the padding has two bits that mean nothing: they are zero.
            format!("{}B=", &"A".repeat(42)),
            text.replace(['+', '/'], "-"),
        ];
        for spelling in spellings {
            assert_ne!(spelling, text);
            assert_eq!(spelling.parse::<Hash>(), Err(HashError), "{spelling:?}");
        }
    }

    #[test]
    fn leaves_nodes_and_the_empty_tree_hash_as_rfc_6962_says() {
        // RFC 6962 §2.1, computed by `printf '\0' | sha256sum` and its like.
        assert_eq!(
            hex::encode(leaf_hash(b"").as_bytes()),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            hex::encode(Hash::EMPTY.as_bytes()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let node = Hash::node(leaf_hash(b""), leaf_hash(&[0]));
        assert_eq!(
            hex::encode(node.as_bytes()),
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
        );
    }
}
