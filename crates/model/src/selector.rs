//! Selectors: statements that an attestor makes about a node or a process.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest selector text, type and value together, in bytes.
const MAX_SELECTOR_LEN: usize = 2048;

/// `type:value`, where the type names the attestor that owns it and holds no colon: `unix:uid:1000` is the type `unix` and
/// the value `uid:1000`. One shared text, ordered by it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Selector(Arc<str>);

/// Text that is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// There is no colon.
    #[error("selector `{text}` has no `:`; write it as type:value, for example unix:uid:1000")]
    NoColon {
        /// What was given.
        text: String,
    },
    /// Nothing before the colon, or a colon or white space within the type.
    #[error("selector type `{kind}` is empty or holds a colon or white space")]
    BadType {
        /// The type as given.
        kind: String,
    },
    /// Nothing after the colon.
    #[error("selector of type `{kind}` has no value")]
    NoValue {
        /// The type as given.
        kind: String,
    },
    /// Longer than 2048 bytes.
    #[error("selector has {len} bytes, at most {MAX_SELECTOR_LEN} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

impl Selector {
    /// A selector of type `kind`.
    ///
    /// # Errors
    /// The type is empty or holds a colon or white space, the value is empty, or the whole is too long.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() || kind.contains(|c: char| c == ':' || c.is_whitespace()) {
            return Err(SelectorError::BadType { kind: kind.into() });
        }
        if value.is_empty() {
            return Err(SelectorError::NoValue { kind: kind.into() });
        }
        let len = kind.len() + 1 + value.len();
        if len > MAX_SELECTOR_LEN {
            return Err(SelectorError::TooLong { len });
        }
        Ok(Self(format!("{kind}:{value}").into()))
    }

    /// The attestor that owns it, for example `unix`.
    pub fn kind(&self) -> &str {
        self.0.split_once(':').map_or("", |(kind, _)| kind)
    }

    /// What the attestor states, for example `uid:1000`.
    pub fn value(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, value)| value)
    }

    /// `type:value`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        match text.split_once(':') {
            Some((kind, value)) => Self::new(kind, value),
            None => Err(SelectorError::NoColon { text: text.into() }),
        }
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.0.as_ref().into()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of selectors: sorted, without duplicates, shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Selector>", into = "Vec<Selector>")]
pub struct Selectors(Arc<[Selector]>);

/// How a filter compares selector sets (SPIRE's `SelectorMatch.MatchBehavior`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchBy {
    /// The same set.
    Exact,
    /// Every selector of the thing is in the filter.
    Subset,
    /// Every selector of the filter is in the thing.
    Superset,
    /// At least one in common.
    Any,
}

impl Selectors {
    /// The selectors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `selector` is among them.
    pub fn contains(&self, selector: &Selector) -> bool {
        self.0.binary_search(selector).is_ok()
    }

    /// Whether all of these are in `other`: an entry matches a process when this holds.
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.iter().all(|selector| other.contains(selector))
    }

    /// Whether this set, of a thing in a list, passes the filter `wanted`.
    pub fn matches(&self, wanted: &Self, by: MatchBy) -> bool {
        match by {
            MatchBy::Exact => self == wanted,
            MatchBy::Subset => self.is_subset_of(wanted),
            MatchBy::Superset => wanted.is_subset_of(self),
            MatchBy::Any => wanted.iter().any(|selector| self.contains(selector)),
        }
    }
}

impl FromIterator<Selector> for Selectors {
    fn from_iter<I: IntoIterator<Item = Selector>>(iter: I) -> Self {
        let mut all: Vec<Selector> = iter.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all.into())
    }
}

impl From<Vec<Selector>> for Selectors {
    fn from(all: Vec<Selector>) -> Self {
        all.into_iter().collect()
    }
}

impl From<Selectors> for Vec<Selector> {
    fn from(set: Selectors) -> Self {
        set.0.to_vec()
    }
}

impl<'a> IntoIterator for &'a Selectors {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> Selectors {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_type_ends_at_the_first_colon() {
        let selector: Selector = "unix:uid:1000".parse().unwrap();
        assert_eq!((selector.kind(), selector.value()), ("unix", "uid:1000"));
        assert_eq!(selector.to_string(), "unix:uid:1000");
    }

    #[test]
    fn refuses_missing_parts_and_oversize() {
        assert!(matches!("unix".parse::<Selector>(), Err(SelectorError::NoColon { .. })));
        assert!(matches!(":x".parse::<Selector>(), Err(SelectorError::BadType { .. })));
        assert!(matches!(
            "unix:".parse::<Selector>(),
            Err(SelectorError::NoValue { .. })
        ));
        assert!(matches!(Selector::new("a:b", "c"), Err(SelectorError::BadType { .. })));
        assert!(matches!(Selector::new("a b", "c"), Err(SelectorError::BadType { .. })));
        assert!(matches!(
            Selector::new("a", &"c".repeat(2047)),
            Err(SelectorError::TooLong { .. })
        ));
    }

    #[test]
    fn the_four_match_modes_compare_the_thing_with_the_filter() {
        let thing = set(&["a:1", "b:2"]);
        let cases = [
            (vec!["b:2", "a:1"], [true, true, true, true]),
            (vec!["a:1"], [false, false, true, true]),
            (vec!["a:1", "b:2", "c:3"], [false, true, false, true]),
            (vec!["a:1", "c:3"], [false, false, false, true]),
            (vec!["c:3"], [false, false, false, false]),
        ];
        for (filter, expected) in cases {
            let got = [MatchBy::Exact, MatchBy::Subset, MatchBy::Superset, MatchBy::Any]
                .map(|by| thing.matches(&set(&filter), by));
            assert_eq!(got, expected, "{filter:?}");
        }
    }

    #[test]
    fn sets_ignore_order_and_duplicates() {
        assert_eq!(set(&["b:2", "a:1", "b:2"]), set(&["a:1", "b:2"]));
    }
}
