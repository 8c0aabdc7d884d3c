//! One entry of the log, read from its bytes.

use serde_json::{Map, Value, json};

use crate::canonical::canonical;

/// The version of entries that is known here.
pub const VERSION: u64 = 1;

/// The longest entry, in bytes: bundles have 16 bits for it.
pub const ENTRY_MAX: usize = 65_535;

/// One entry of the log. What is private in it is either there or stands for itself as a commitment: see
/// [`crate::Details`].
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its place, from 0. Not in its bytes: whoever reads the log knows it.
    pub index: u64,
    /// The commit that it belongs to.
    pub revision: u64,
    /// What happened, such as `window.opened`; see [`crate::KINDS`].
    pub kind: String,
    /// Who asked for it: `uid:1000`, a SPIFFE ID, `server`, or a commitment to one.
    pub who: Value,
    /// From where.
    pub origin: Value,
    /// Why, by the word of who asked.
    pub reason: Value,
    /// What it is about.
    pub subject: String,
    /// When the server decided it, in Unix seconds.
    pub time: i64,
    /// The particulars, by kind.
    pub body: Value,
}

/// Bytes that are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} cannot be read: {problem}")]
pub struct EntryError {
    /// Which one.
    pub index: u64,
    /// What is wrong with it.
    pub problem: EntryProblem,
}

/// What is wrong with bytes that should be an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryProblem {
    /// Longer than bundles can hold.
    #[error("it has {0} bytes, at most {ENTRY_MAX} are allowed")]
    TooLong(usize),
    /// Not JSON.
    #[error("it is not JSON: {0}")]
    Syntax(String),
    /// JSON, and spelled otherwise than it has to be: somebody else than the server wrote it.
    #[error("it is not in the one spelling that entries have")]
    NotCanonical,
    /// Of another version than those known here.
    #[error("it is of version {0}, and only {VERSION} is known here; a newer `mayfly` may know it")]
    Version(String),
    /// A field is missing, is too much, or has another type.
    #[error("`{0}` is missing, unknown or of another type")]
    Field(String),
}

impl Entry {
    /// Reads the entry at `index`.
    ///
    /// # Errors
    /// The bytes are not those of an entry of version 1 in its one spelling.
    pub fn parse(index: u64, bytes: &[u8]) -> Result<Self, EntryError> {
        parse(index, bytes).map_err(|problem| EntryError { index, problem })
    }

    /// The bytes that it is read from.
    ///
    /// # Panics
    /// A field holds a number with a fraction, which no entry that was read has.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = json!({
            "body": self.body,
            "kind": self.kind,
            "origin": self.origin,
            "reason": self.reason,
            "revision": self.revision,
            "subject": self.subject,
            "time": self.time,
            "v": VERSION,
            "who": self.who,
        });
        canonical(&value).expect("entries have whole numbers only")
    }

    /// A field of the body; null if there is none.
    pub fn field(&self, name: &str) -> &Value {
        &self.body[name]
    }
}

fn parse(index: u64, bytes: &[u8]) -> Result<Entry, EntryProblem> {
    if bytes.len() > ENTRY_MAX {
        return Err(EntryProblem::TooLong(bytes.len()));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| EntryProblem::Syntax(error.to_string()))?;
    // Also what has a key twice, of which one reader would see the first and another one the last.
    if canonical(&value).as_deref() != Some(bytes) {
        return Err(EntryProblem::NotCanonical);
    }
    let Value::Object(mut fields) = value else {
        return Err(EntryProblem::Field("v".into()));
    };
    // The version first: it says what the rest may be.
    let version = fields.remove("v").unwrap_or(Value::Null);
    if version.as_u64() != Some(VERSION) {
        return Err(EntryProblem::Version(version.to_string()));
    }
    let entry = Entry {
        index,
        revision: take(&mut fields, "revision", |value| value.as_u64())?,
        kind: take(&mut fields, "kind", text)?,
        who: take(&mut fields, "who", text_or_commitment)?,
        origin: take(&mut fields, "origin", text_or_commitment)?,
        reason: take(&mut fields, "reason", text_or_commitment)?,
        subject: take(&mut fields, "subject", text)?,
        time: take(&mut fields, "time", |value| value.as_i64())?,
        body: take(&mut fields, "body", |value| Some(value.clone()))?,
    };
    match fields.into_iter().next() {
        Some((name, _)) => Err(EntryProblem::Field(name)),
        None => Ok(entry),
    }
}

fn take<T>(fields: &mut Map<String, Value>, name: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, EntryProblem> {
    let value = fields.remove(name);
    value
        .as_ref()
        .and_then(read)
        .ok_or_else(|| EntryProblem::Field(name.into()))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn text_or_commitment(value: &Value) -> Option<Value> {
    (value.is_string() || crate::details::commitment_of(value).is_some()).then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> Entry {
        Entry {
            index: 7,
            revision: 3,
            kind: "window.opened".into(),
            who: json!("spiffe://td/spire/agent/a"),
            origin: json!(""),
            reason: json!({ "commitment": "ab".repeat(32) }),
            subject: "0192".into(),
            time: 1_800_000_000,
            body: json!({ "window": { "id": "é\n" }, "a": [null, true, -1] }),
        }
    }

    fn problem(text: &str) -> EntryProblem {
        Entry::parse(0, text.as_bytes()).unwrap_err().problem
    }

    #[test]
    fn an_entry_is_what_its_bytes_say() {
        assert_eq!(Entry::parse(7, &entry().to_bytes()), Ok(entry()));
    }

    #[test]
    fn what_is_spelled_otherwise_is_refused() {
        let text = String::from_utf8(entry().to_bytes()).unwrap();
        assert_eq!(
            problem(&text.replace("\"v\":1", "\"v\": 1")),
            EntryProblem::NotCanonical
        );
        assert_eq!(
            problem(&text.replace("\"v\":1", "\"v\":1,\"v\":1")),
            EntryProblem::NotCanonical
        );
        assert_eq!(problem(&text.replace("-1]", "-1.0]")), EntryProblem::NotCanonical);
        assert_eq!(
            problem(&text.replace("[null,true,-1]", "[null,true,-0]")),
            EntryProblem::NotCanonical
        );
        assert_eq!(problem(&text.replace('é', "\\u00e9")), EntryProblem::NotCanonical);
        assert_eq!(problem(&format!("{text}\n")), EntryProblem::NotCanonical);
        let moved = text
            .replace("\"kind\":\"window.opened\",", "")
            .replace("\"v\":1", "\"v\":1,\"kind\":\"x\"");
        assert_eq!(problem(&moved), EntryProblem::NotCanonical);
        assert!(matches!(problem("{"), EntryProblem::Syntax(_)));
        assert_eq!(
            problem(&"1".repeat(ENTRY_MAX + 1)),
            EntryProblem::TooLong(ENTRY_MAX + 1)
        );
    }

    #[test]
    fn other_versions_and_other_fields_are_refused_by_name() {
        let text = String::from_utf8(entry().to_bytes()).unwrap();
        assert_eq!(
            problem(&text.replace("\"v\":1", "\"v\":2")),
            EntryProblem::Version("2".into())
        );
        assert_eq!(problem("{}"), EntryProblem::Version("null".into()));
        assert_eq!(problem("[]"), EntryProblem::Field("v".into()));
        assert_eq!(
            problem(&text.replace("\"v\":1", "\"v\":1,\"vx\":1")),
            EntryProblem::Field("vx".into())
        );
        assert_eq!(
            problem(&text.replace("\"revision\":3", "\"revision\":-3")),
            EntryProblem::Field("revision".into())
        );
        let who = text.replace("\"who\":\"spiffe://td/spire/agent/a\"", "\"who\":{}");
        assert_eq!(problem(&who), EntryProblem::Field("who".into()));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::parse(0, &bytes);
        }

        #[test]
        fn a_flipped_bit_is_refused_or_another_entry(place in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = entry().to_bytes();
            let place = place % bytes.len();
            bytes[place] ^= 1 << bit;
            if let Ok(other) = Entry::parse(7, &bytes) {
                prop_assert_ne!(&other, &entry());
                prop_assert_eq!(other.to_bytes(), bytes);
            }
        }
    }
}
