//! What entries only commit to: people, reasons, tickets, selectors, addresses, and what is too large.
//!
//! A private value stands in an entry as `{"commitment":"<64 hex digits>"}`, the SHA-256 of a salt and the value's canonical
//! JSON. Equal values have equal commitments for as long as they are kept, so whoever compares people compares JSON values,
//! and needs none of this. Whoever shows them asks here.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Entry;
use crate::canonical::{canonical, sha256};

/// Values by the commitments to them. What was erased is not here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details(BTreeMap<String, (Vec<u8>, Value)>);

/// A value that is not what was committed to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what was handed over for the commitment {0} is not what it commits to")]
pub struct NotCommitted(pub String);

impl Details {
    /// Takes over a value, if it is what `commitment` commits to.
    ///
    /// # Errors
    /// It is not.
    pub fn add(&mut self, commitment: &str, salt: &[u8], value: Value) -> Result<(), NotCommitted> {
        let text = canonical(&value).ok_or_else(|| NotCommitted(commitment.into()))?;
        if hex::encode(sha256(&[salt, &text])) != commitment {
            return Err(NotCommitted(commitment.into()));
        }
        self.0.insert(commitment.into(), (salt.into(), value));
        Ok(())
    }

    /// Every commitment with its salt and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8], &Value)> {
        self.0
            .iter()
            .map(|(name, (salt, value))| (name.as_str(), salt.as_slice(), value))
    }

    /// Whether the value behind a commitment is known.
    pub fn knows(&self, commitment: &str) -> bool {
        self.0.contains_key(commitment)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` with everything in it that is known, at any depth.
    #[must_use]
    pub fn reveal(&self, value: Value) -> Value {
        if self.0.is_empty() {
            return value;
        }
        if let Some(commitment) = commitment_of(&value) {
            // Only what was private as a whole has private parts of its own, and they are there in plain text.
            return self
                .0
                .get(commitment)
                .map_or_else(|| value.clone(), |(_, known)| known.clone());
        }
        match value {
            Value::Array(items) => items.into_iter().map(|item| self.reveal(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, field)| (name, self.reveal(field)))
                .collect(),
            plain => plain,
        }
    }

    /// An entry with everything in it that is known.
    #[must_use]
    pub fn reveal_entry(&self, entry: Entry) -> Entry {
        if self.0.is_empty() {
            return entry;
        }
        // What is too large is committed to with what is private within it left out of sight: the outer one suffices.
        let Entry {
            who,
            origin,
            reason,
            body,
            ..
        } = entry;
        Entry {
            who: self.reveal(who),
            origin: self.reveal(origin),
            reason: self.reveal(reason),
            body: self.reveal(body),
            ..entry
        }
    }

    /// A private value for people to read: itself, or the beginning of the commitment to it.
    pub fn show(&self, value: &Value) -> String {
        match self.reveal(value.clone()) {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => match commitment_of(&other) {
                Some(commitment) => format!("commitment:{}", &commitment[..16]),
                None => other.to_string(),
            },
        }
    }
}

/// The commitment that stands for a value here, if one does.
pub fn commitment_of(value: &Value) -> Option<&str> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let text = fields.get("commitment")?.as_str()?;
    let is_hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_hash.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn commit(salt: &[u8], value: &Value) -> String {
        hex::encode(sha256(&[salt, &canonical(value).unwrap()]))
    }

    #[test]
    fn only_what_was_committed_to_is_taken() {
        let ann = commit(b"0123456789abcdef", &json!("ann"));
        let mut details = Details::default();
        let wrong = details.add(&ann, b"0123456789abcdef", json!("joe"));
        assert_eq!(wrong, Err(NotCommitted(ann.clone())));
        assert_eq!(
            details.add(&ann, b"other", json!("ann")),
            Err(NotCommitted(ann.clone()))
        );
        details.add(&ann, b"0123456789abcdef", json!("ann")).unwrap();
        let body = json!({ "person": { "commitment": ann }, "by": { "commitment": "0".repeat(64) } });
        let revealed = details.reveal(body);
        assert_eq!(
            revealed,
            json!({ "person": "ann", "by": { "commitment": "0".repeat(64) } })
        );
        assert_eq!(details.show(&revealed["person"]), "ann");
        assert_eq!(details.show(&revealed["by"]), "commitment:0000000000000000");
    }

    #[test]
    fn what_only_looks_like_a_commitment_is_none() {
        for value in [
            json!({ "commitment": "AB".repeat(32) }),
            json!({ "commitment": "ab" }),
            json!("ab"),
            json!({
                "commitment": "ab".repeat(32), "more": 1
            }),
        ] {
            assert_eq!(commitment_of(&value), None, "{value}");
        }
    }
}
