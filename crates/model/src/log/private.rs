//! What is kept beside the log: an entry only commits to it, so that it can be erased without breaking a proof.
//!
//! A [`Commitment`] is SHA-256 over a random salt and the canonical JSON of a value; in an entry it is the object
//! `{"commitment":"<64 hex digits>"}`. As long as it is kept, a value has one salt, so that an auditor who knows no names
//! still sees that two people are different. Once it is erased, a later use of the same value begins anew.
//!
//! Private are people, what they wrote, and what describes their processes, by the names of fields: [`FIELDS`].

use std::convert::Infallible;
use std::fmt;

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};

use super::canonical;

/// The fields of records that are private, wherever they stand in a body. An object in one of [`DESCRIBED`] is no value
/// itself: its `id` and `key` are, and those of its fields that are named here.
pub const FIELDS: &[&str] = &[
    "approver",
    "author",
    "authenticated_as",
    "by",
    "compensating_control",
    "contact",
    "detail",
    "escalation",
    "files",
    "message",
    "owner",
    "parameters",
    "person",
    "previous_approvers",
    "reason",
    "selectors",
    "target",
    "ticket",
    "wanted",
];

/// Those of [`FIELDS`] whose objects describe a person or a ticket, of which the log may say some things.
pub const DESCRIBED: &[&str] = &["approver", "by", "person", "ticket"];

/// Private in the objects that describe people.
const OF_PEOPLE: &[&str] = &["id", "key"];

/// The length of a salt.
pub const SALT_LEN: usize = 16;

/// What stands in an entry for a value that is kept beside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commitment(pub [u8; 32]);

/// Hands each private value to somebody who keeps it and answers the commitment to it.
pub struct Hide<'a, E>(&'a mut dyn FnMut(&str) -> Result<Commitment, E>);

/// Turns commitments back into what was committed to, where that is still known.
pub struct Reveal<'a>(&'a dyn Fn(&Commitment) -> Option<Value>);

impl Commitment {
    /// To `value`, which is canonical JSON.
    pub fn new(salt: &[u8; SALT_LEN], value: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(salt);
        context.update(value.as_bytes());
        let hash = context.finish();
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// As it stands in an entry.
    pub fn to_value(self) -> Value {
        json!({ NAME: self.to_string() })
    }

    /// The one that stands for a value here, if one does.
    pub fn of(value: &Value) -> Option<Self> {
        match value.as_object() {
            Some(fields) if fields.len() == 1 => fields.get(NAME)?.as_str()?.parse().ok(),
            _ => None,
        }
    }

    /// All in `value`, at any depth.
    pub fn all_of(value: &Value) -> Vec<Self> {
        let mut found = vec![];
        collect(value, &mut found);
        found
    }
}

/// The one field of what stands for a value.
const NAME: &str = "commitment";

fn collect(value: &Value, found: &mut Vec<Commitment>) {
    match value {
        _ if Commitment::of(value).is_some() => found.extend(Commitment::of(value)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, found)),
        Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

impl<'a, E> Hide<'a, E> {
    /// Asks `keep` for the commitment to each value, of which it gets the canonical JSON.
    pub fn new(keep: &'a mut dyn FnMut(&str) -> Result<Commitment, E>) -> Self {
        Self(keep)
    }

    pub(super) fn value(&mut self, value: &Value) -> Result<Commitment, E> {
        (self.0)(&canonical(value))
    }

    /// `value` with commitments in the place of what is private in it, and of its fields that are named in `bulk`.
    pub(super) fn fields(&mut self, value: Value, bulk: &[&str]) -> Result<Value, E> {
        let value = match value {
            Value::Object(fields) => {
                let kept = fields.into_iter().map(|(name, value)| {
                    let value = match bulk.contains(&name.as_str()) {
                        true => self.value(&value)?.to_value(),
                        false => value,
                    };
                    Ok((name, value))
                });
                kept.collect::<Result<Map<_, _>, E>>().map(Value::Object)?
            }
            other => other,
        };
        self.walk(value, &[])
    }

    fn walk(&mut self, value: Value, also: &[&str]) -> Result<Value, E> {
        match value {
            Value::Object(fields) => {
                let hidden = fields.into_iter().map(|(name, value)| {
                    let value = match FIELDS.contains(&name.as_str()) || also.contains(&name.as_str()) {
                        true => self.hidden(&name, value)?,
                        false => self.walk(value, &[])?,
                    };
                    Ok((name, value))
                });
                hidden.collect::<Result<Map<_, _>, E>>().map(Value::Object)
            }
            Value::Array(items) => {
                let items = items.into_iter().map(|item| self.walk(item, &[]));
                items.collect::<Result<_, E>>().map(Value::Array)
            }
            plain => Ok(plain),
        }
    }

    fn hidden(&mut self, name: &str, value: Value) -> Result<Value, E> {
        match &value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(value),
            Value::String(text) if text.is_empty() => Ok(value),
            Value::Array(items) if items.is_empty() => Ok(value),
            Value::Object(fields) if fields.is_empty() => Ok(value),
            Value::Object(_) if DESCRIBED.contains(&name) => self.walk(value, OF_PEOPLE),
            _ => self.value(&value).map(Commitment::to_value),
        }
    }
}

/// What [`Hide::fields`] makes of `value`, as long as that is, and with nothing kept.
pub(super) fn outline(value: Value, bulk: &[&str]) -> Value {
    let mut nobody = |_: &str| Ok::<_, Infallible>(Commitment([0; 32]));
    match Hide::new(&mut nobody).fields(value, bulk) {
        Ok(outline) => outline,
        Err(never) => match never {},
    }
}

impl<'a> Reveal<'a> {
    /// Asks `known` for each value.
    pub fn new(known: &'a dyn Fn(&Commitment) -> Option<Value>) -> Self {
        Self(known)
    }

    /// `value` with all that is known.
    pub fn all(&self, value: Value) -> Value {
        if let Some(commitment) = Commitment::of(&value) {
            return (self.0)(&commitment).unwrap_or(value);
        }
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (name, self.all(value)))
                .collect(),
            Value::Array(items) => items.into_iter().map(|item| self.all(item)).collect(),
            plain => plain,
        }
    }
}

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Commitment {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash)?;
        Ok(Self(hash))
    }
}
