//! The record that each commit leaves.

use std::fmt;

use mayfly_svid::Timestamp;
use serde::{Deserialize, Serialize};

/// The number of a commit. Grows by one with each; what agents resume from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

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
            who: "server".into(),
            origin: String::new(),
            reason: String::new(),
        }
    }
}

/// One record of the log: what happened, by whom, to what, when.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// Position in the log, from 1, without gaps.
    pub index: u64,
    /// The commit that it belongs to.
    pub revision: Revision,
    /// A constant such as `entry.created`.
    pub kind: String,
    /// Who, from where, why.
    pub actor: Actor,
    /// What it is about: an entry ID, a SPIFFE ID, a trust domain, an authority ID.
    pub subject: String,
    /// When the server decided it.
    pub time: Timestamp,
    /// The particulars, by kind. Never a secret.
    pub body: serde_json::Value,
}
