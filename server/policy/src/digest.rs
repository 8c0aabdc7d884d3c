//! SHA-256 of what was decided, and by what.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Serialize};

/// A SHA-256 that names a policy set or the facts of a decision. `Display` is 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of the JSON of `value`, whose types have no unordered maps, after a line that says what it is.
    pub(crate) fn of_json(what: &str, value: &impl Serialize) -> Self {
        let mut text = format!("{what}\n").into_bytes();
        serde_json::to_writer(&mut text, value).expect("string keys and finite numbers only");
        Self::of(&text)
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        let hash = digest::digest(&SHA256, bytes);
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)?;
        Ok(Self(digest))
    }
}
