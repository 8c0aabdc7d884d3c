//! What stands without a request, and who enforces, as values.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::span::{Span, merged};

/// An identity with privileges of its own: its entry has `admin` or `downstream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileged {
    /// The registration entry.
    pub entry_id: String,
    /// The identity.
    pub spiffe_id: String,
    /// `admin`, `downstream`.
    pub rights: BTreeSet<&'static str>,
    /// Since when.
    pub since: i64,
    /// Until when.
    pub until: Option<i64>,
    /// The entry of the log.
    pub index: u64,
}

/// Standing authority that somebody answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its ID.
    pub id: String,
    /// For whom: a SPIFFE ID, or a registration entry.
    pub identity: String,
    /// Who answers for it.
    pub owner: Value,
    /// Why.
    pub reason: Value,
    /// What makes up for it.
    pub control: Value,
    /// What it covers; everything if nothing is named.
    pub scopes: BTreeSet<String>,
    /// When it was granted.
    pub granted_at: i64,
    /// The entry.
    pub index: u64,
    /// When it was in force: one span for the grant and one for each renewal.
    pub spans: Vec<Span>,
    /// How often it was renewed.
    pub renewals: u64,
    /// Somebody ended it: when, and where.
    pub ended: Option<(i64, u64)>,
    /// The server noted that it is over: when, and where.
    pub expired: Option<(i64, u64)>,
}

/// A consumer that enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// When it registered first.
    pub since: i64,
    /// The last entry about it.
    pub index: u64,
    /// Since when it has been gone.
    pub lost_at: Option<i64>,
}

/// A test of a consumer from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The entry.
    pub index: u64,
    /// When.
    pub at: i64,
    /// Of which window; none for base identities.
    pub window: Option<String>,
    /// Which consumer.
    pub checkpoint: String,
    /// What was tried.
    pub kind: String,
    /// What happened.
    pub outcome: String,
    /// What should have.
    pub expected: String,
}

/// A policy as decisions named it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyUse {
    /// The first decision by it.
    pub first_at: i64,
    /// The last one.
    pub last_at: i64,
    /// Decisions by verdict.
    pub verdicts: BTreeMap<String, u64>,
}

/// A change of what gives authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governance {
    /// The entry.
    pub index: u64,
    /// When.
    pub at: i64,
    /// `definition.put`, `definition.retired` or `policy.set`.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// Who defined it.
    pub author: Value,
    /// Who agreed; null if nobody was asked.
    pub decided_by: Value,
}

/// Something of the log itself, or about who watches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// The entry.
    pub index: u64,
    /// When.
    pub at: i64,
    /// Its kind.
    pub kind: String,
    /// Its particulars.
    pub body: Value,
}

impl Exception {
    /// When it was in force.
    pub fn in_force(&self) -> Vec<Span> {
        let ended = self.ended.map_or(i64::MAX, |(at, _)| at);
        let cut = self.spans.iter().map(|(from, to)| (*from, (*to).min(ended)));
        merged(cut.filter(|(from, to)| from < to).collect())
    }

    /// Whether it says why an identity has privileges of its own.
    pub fn covers(&self, held: &Privileged) -> bool {
        let is_meant = self.identity == held.spiffe_id || self.identity == held.entry_id;
        let covers = |right: &&str| self.scopes.contains(&format!("mayfly:{right}"));
        is_meant && (self.scopes.is_empty() || held.rights.iter().all(covers))
    }

    /// The first second at which it is not in force any more, unless it is ended before.
    pub fn expires_at(&self) -> i64 {
        self.spans.last().map_or(self.granted_at, |(_, to)| *to)
    }
}
