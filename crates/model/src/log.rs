//! The record that each commit leaves: [`Record`] as a change states it, [`seal`](Envelope::seal) as the log keeps it,
//! [`LogEntry`] as it is read again.
//!
//! An entry of the log is canonical JSON, at most [`ENTRY_MAX`] bytes: an object with the fields `body`, `kind`, `origin`,
//! `reason`, `revision`, `subject`, `time`, `v` and `who`. Its position, from 0, is its index; the Merkle tree is over these
//! bytes. What is private is not in it, only a [commitment](private::Commitment) to it.

mod canonical;
pub mod private;

use std::fmt;

use mayfly_svid::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use canonical::canonical;
use canonical::quoted;
use private::{Hide, Reveal};

/// The longest entry: bundles of entries state lengths in 16 bits (C2SP tlog-tiles).
pub const ENTRY_MAX: usize = 65_535;

/// What is kept beside the log as a whole if the entry would be too long with it: what else a decision says stays legible.
const BULK: &[&str] = &["facts"];

/// The version of the entries that are written.
const VERSION: u64 = 1;

/// The number of a commit. Grows by one with each; what agents resume from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// [`Actor::who`] of the server itself.
const SERVER: &str = "server";

/// Who asked for a change, from where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `uid:1000`, a SPIFFE ID, or `server` for what the server does by itself.
    pub who: String,
    /// A peer address, `pid:123`, or empty.
    pub origin: String,
    /// The reason that the caller gave; empty if none.
    pub reason: String,
}

impl Actor {
    /// The server itself, for what happens by time.
    pub fn server() -> Self {
        Self {
            who: SERVER.into(),
            origin: String::new(),
            reason: String::new(),
        }
    }
}

/// What the log shall say of a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// A constant such as `entry.created`.
    pub kind: &'static str,
    /// What it is about: an entry ID, a SPIFFE ID, a trust domain, an authority ID.
    pub subject: String,
    /// The particulars, by kind. Never a secret.
    pub body: Body,
}

/// The particulars of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Fields, of which some are private by their names.
    Fields(Value),
    /// Canonical JSON without anything private: for what there is most of.
    Text(String),
}

/// One entry of the log, read again: what happened, by whom, to what, when.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// Position in the log, from 0, without gaps.
    pub index: u64,
    /// The commit that it belongs to.
    pub revision: Revision,
    /// A constant such as `entry.created`.
    pub kind: String,
    /// Who, from where, why; `?` for what was erased.
    pub actor: Actor,
    /// What it is about: an entry ID, a SPIFFE ID, a trust domain, an authority ID.
    pub subject: String,
    /// When the server decided it.
    pub time: Timestamp,
    /// The particulars, by kind; what was erased is an object with its commitment still.
    pub body: Value,
}

/// Text that is no entry.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} of the log cannot be read: {problem}")]
pub struct EntryUnreadable {
    /// Which one.
    pub index: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// What the entries of one change have in common: all but the kind, the subject and the body.
pub struct Envelope {
    /// From behind the kind to the subject.
    middle: String,
    /// From behind the subject to the end.
    end: String,
}

impl Envelope {
    /// The one of a change that `actor` made, which the commit `revision` has; what is private is handed to `hide`.
    ///
    /// # Errors
    /// Those of `hide`.
    pub fn new<E>(revision: Revision, time: Timestamp, actor: &Actor, hide: &mut Hide<'_, E>) -> Result<Self, E> {
        let Actor { who, origin, reason } = actor;
        // Nodes and the server are no people; where anybody is on the network is for nobody to read.
        let is_machine = who == SERVER || who.strip_prefix("spiffe://").is_some_and(is_of_a_node);
        let mut text = |text: &str, is_private: bool| match is_private && !text.is_empty() {
            true => hide
                .value(&json!(text))
                .map(|commitment| canonical(&commitment.to_value())),
            false => Ok(quoted(text)),
        };
        let (who, origin, reason) = (text(who, !is_machine)?, text(origin, true)?, text(reason, true)?);
        Ok(Self {
            middle: format!(r#","origin":{origin},"reason":{reason},"revision":{revision},"subject":"#),
            end: format!(r#","time":{},"v":{VERSION},"who":{who}}}"#, time.unix()),
        })
    }

    /// The entry of `record`: canonical JSON, with what is private handed to `hide`.
    ///
    /// # Errors
    /// Those of `hide`.
    pub fn seal<E>(&self, record: Record, hide: &mut Hide<'_, E>) -> Result<String, E> {
        let Record { kind, subject, body } = record;
        let (kind, subject) = (quoted(kind), quoted(&subject));
        let parts = |body| {
            [
                r#"{"body":"#,
                body,
                r#","kind":"#,
                &kind,
                &self.middle,
                &subject,
                &self.end,
            ]
        };
        let around: usize = parts("").iter().map(|part| part.len()).sum();
        let fits = |body: &str| around + body.len() <= ENTRY_MAX;
        let sealed = match body {
            Body::Text(text) => match fits(&text) {
                true => text,
                false => {
                    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
                    canonical(&hide.value(&value)?.to_value())
                }
            },
            // Tried before anything is kept: what is beside the log is what an entry names, and nothing else.
            Body::Fields(value) => {
                let would_fit = |bulk: &[&str]| fits(&canonical(&private::outline(value.clone(), bulk)));
                match [&[][..], BULK].into_iter().find(|bulk| would_fit(bulk)) {
                    Some(bulk) => canonical(&hide.fields(value, bulk)?),
                    None => canonical(&hide.value(&value)?.to_value()),
                }
            }
        };
        Ok(parts(&sealed).concat())
    }
}

/// Whether what follows `spiffe://` is the ID of a server or an agent.
fn is_of_a_node(rest: &str) -> bool {
    rest.split_once('/')
        .is_some_and(|(_, path)| path == "spire/server" || path.starts_with("spire/agent/"))
}

impl LogEntry {
    /// Reads the entry at `index`, with what is private where `reveal` still knows it.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn parse(index: u64, text: &str, reveal: &Reveal<'_>) -> Result<Self, EntryUnreadable> {
        let refuse = |problem: String| EntryUnreadable { index, problem };
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let fields: Map<String, Value> = fields
            .into_iter()
            .map(|(name, value)| (name, reveal.all(value)))
            .collect();
        let version = fields.get("v").and_then(Value::as_u64);
        if version != Some(VERSION) {
            return Err(refuse(format!("it is of version {version:?}, only {VERSION} is known")));
        }
        let missing = |name: &str| refuse(format!("`{name}` is missing or of another type"));
        let text = |name: &str| match fields.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Object(_)) => Ok("?".to_owned()),
            _ => Err(missing(name)),
        };
        Ok(Self {
            index,
            revision: Revision(
                fields
                    .get("revision")
                    .and_then(Value::as_u64)
                    .ok_or_else(|| missing("revision"))?,
            ),
            kind: text("kind")?,
            actor: Actor {
                who: text("who")?,
                origin: text("origin")?,
                reason: text("reason")?,
            },
            subject: text("subject")?,
            time: Timestamp::from_unix(
                fields
                    .get("time")
                    .and_then(Value::as_i64)
                    .ok_or_else(|| missing("time"))?,
            ),
            body: fields.get("body").cloned().ok_or_else(|| missing("body"))?,
        })
    }
}

#[cfg(test)]
mod tests;
