//! The log read from its beginning: what it says that there is, and where it shows what must not be.
//!
//! [`Replay`] takes entries in their order, keeps what is live, and collects [`Violation`]s instead of stopping at the
//! first. It trusts no server: what a window, an SVID or an approval may be is checked here anew, by code that shares
//! nothing with the server's. What was settled is forgotten, or kept as history for the report.
//!
//! Entries of one revision are one commit, within which the order says nothing about what was there first: what has to be
//! in the same commit is compared when it is complete (`commit.rs`).
//!
//! Not decidable from a log: I13, which is about the stream of an agent.

mod body;
mod commit;
mod hidden;
mod register;
mod request;
mod standing;
mod state;
mod svid;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use crate::canonical::sha256;
use crate::details::commitment_of;
use crate::kinds::{family, is_always_small, is_known};
use crate::span::Span;
use crate::{Details, Entry, EntryError, Invariant, Violation};

pub use register::{Checkpoint, Exception, Governance, LogEvent, PolicyUse, Privileged, Probe};
pub use state::{
    Acknowledgement, Approval, ApprovalRule, Definition, Ended, Needs, Request, Said, Settled, Stage, Stray, Svid,
    Window,
};

use commit::Commit;
use hidden::Hidden;
use svid::Intended;

/// Clocks of servers differ by so much: what is further back was set.
const CLOCK_STEP: i64 = 5;

/// The log, as far as it was read.
#[derive(Debug, Default)]
pub struct Replay {
    details: Details,
    keeps_history: bool,
    next_index: u64,
    revision: u64,
    /// The latest time that was seen, and the last.
    latest: Option<i64>,
    time: i64,
    first_time: Option<i64>,
    commit: Commit,
    violations: Vec<Violation>,
    notes: Notes,
    hidden: Hidden,
    counts: BTreeMap<String, u64>,
    definitions: BTreeMap<String, Definition>,
    in_force: BTreeMap<String, String>,
    requests: BTreeMap<String, Request>,
    windows: BTreeMap<String, Window>,
    /// Those that are not settled, by workload and task.
    by_holder: BTreeMap<(String, String), BTreeSet<String>>,
    settled: Vec<Window>,
    over: Vec<Request>,
    /// Windows and requests that are forgotten, and serial numbers and keys of SVIDs: the beginnings of their hashes, as
    /// these only grow.
    gone: HashSet<u128>,
    serials: HashSet<u128>,
    keys: HashSet<u128>,
    intended: BTreeMap<String, Intended>,
    /// Of these, how many were left when they were looked through last.
    pending: usize,
    strays: Vec<Stray>,
    classes: BTreeMap<String, String>,
    agents: BTreeMap<String, bool>,
    entries: BTreeMap<String, String>,
    privileged: Vec<Privileged>,
    exceptions: BTreeMap<String, Exception>,
    checkpoints: BTreeMap<String, Checkpoint>,
    probes: Vec<Probe>,
    policies: BTreeMap<String, PolicyUse>,
    reasons: BTreeMap<String, u64>,
    governance: Vec<Governance>,
    pending_changes: BTreeMap<String, Value>,
    log_events: Vec<LogEvent>,
    epoch: u64,
    base_svids: u64,
    task_svids: u64,
    decisions: u64,
}

/// What is worth knowing and breaks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The clock was set back: the entry, the latest time before it, and its own.
    pub clock_steps: Vec<(u64, i64, i64)>,
    /// Kinds that are not known here, with their first entry.
    pub unknown_kinds: BTreeMap<String, u64>,
    /// Entries whose bodies are kept beside the log and are not known here.
    pub unread: Vec<u64>,
    /// SVIDs of which the log does not say whether they were signed: the server stopped in between.
    pub unknown_outcomes: u64,
    /// Spans between two entries that were longer than an hour: from, to.
    pub silences: Vec<Span>,
}

/// Between two entries; longer ones are noted.
const SILENCE: i64 = 3_600;

/// How much there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries.
    pub entries: u64,
    /// Requests.
    pub requests: u64,
    /// Windows.
    pub windows: u64,
    /// SVIDs of tasks.
    pub task_svids: u64,
    /// All other SVIDs.
    pub base_svids: u64,
    /// Decisions of policy.
    pub decisions: u64,
}

impl Replay {
    /// Nothing read yet. What is settled is forgotten, so memory is bounded by what is live, and 16 bytes for each SVID.
    pub fn new(details: Details) -> Self {
        Self {
            details,
            ..Self::default()
        }
    }

    /// The same, and everything is kept for the report.
    pub fn with_history(details: Details) -> Self {
        Self {
            keeps_history: true,
            ..Self::new(details)
        }
    }

    /// Takes the next entry.
    pub fn take(&mut self, entry: &Entry) {
        self.take_in_its_place(entry);
        self.hidden.commits_to(entry);
    }

    fn take_in_its_place(&mut self, entry: &Entry) {
        if entry.index != self.next_index {
            let message = format!("entry {} is expected here", self.next_index);
            self.violate(Invariant::Completeness, entry.index, message);
        }
        self.next_index = entry.index.saturating_add(1);
        self.take_revision(entry);
        self.take_time(entry);
        *self.counts.entry(entry.kind.clone()).or_default() += 1;
        if !is_known(&entry.kind) {
            // Whoever writes the log could hide under a name of his own what SVIDs and windows did.
            if matches!(family(&entry.kind), "svid" | "window") {
                let message = format!("`{}` is no kind of entry that is known here", entry.kind);
                self.violate(Invariant::Completeness, entry.index, message);
            }
            self.notes
                .unknown_kinds
                .entry(entry.kind.clone())
                .or_insert(entry.index);
            return;
        }
        if commitment_of(&entry.body).is_some() && is_always_small(&entry.kind) {
            let message = format!(
                "a `{}` is never too long for an entry, and its body is hidden",
                entry.kind
            );
            self.violate(Invariant::Completeness, entry.index, message);
        }
        let revealed;
        let entry = if self.details.is_empty() {
            entry
        } else {
            revealed = self.details.reveal_entry(entry.clone());
            &revealed
        };
        if let Some(commitment) = commitment_of(&entry.body) {
            self.notes.unread.push(entry.index);
            if !is_always_small(&entry.kind) {
                self.hidden.hide(commitment, entry, "the body");
            }
            return;
        }
        let epoch = entry.field("epoch").as_u64();
        let taken = match family(&entry.kind) {
            "task" => self.take_request(entry),
            "window" => self.take_window(entry),
            "svid" => self.take_svid(entry),
            "policy" if entry.kind == "policy.decided" => self.take_decision(entry),
            _ => self.take_standing(entry),
        };
        if let Err(message) = taken {
            self.violate(Invariant::Completeness, entry.index, message);
        }
        // Settlements name epochs of others; these say so in lists.
        if let Some(epoch) = epoch.filter(|_| entry.kind != "checkpoint.registered") {
            if epoch <= self.epoch {
                let message = format!("epoch {epoch} comes after epoch {}", self.epoch);
                self.violate(Invariant::I11, entry.index, message);
            }
            self.epoch = self.epoch.max(epoch);
        }
    }

    /// Lets somebody look at the log as if it ended here, with these entries behind it that cannot be read, and goes on as
    /// if nobody had. The last commit has to be complete.
    pub(crate) fn as_if_over<'e, T>(
        &mut self,
        unreadable: impl Iterator<Item = &'e EntryError>,
        look: impl FnOnce(&Self) -> T,
    ) -> T {
        self.end_commit();
        let (next_index, told) = (self.next_index, self.violations.len());
        let unknown_outcomes = self.notes.unknown_outcomes;
        unreadable.for_each(|error| self.take_unreadable(error));
        self.finish();
        let seen = look(self);
        self.next_index = next_index;
        self.violations.truncate(told);
        self.notes.unknown_outcomes = unknown_outcomes;
        seen
    }

    /// Checks what has to be seen from the end: the last commit is complete.
    pub fn finish(&mut self) {
        self.end_commit();
        self.end_hidden();
        self.notes.unknown_outcomes = self.count_unknown_outcomes();
    }

    fn take_revision(&mut self, entry: &Entry) {
        if entry.revision == self.revision && self.next_index > 1 {
            return;
        }
        self.end_commit();
        let is_first = self.next_index == 1;
        if entry.revision < self.revision {
            let message = format!("revision {} comes after revision {}", entry.revision, self.revision);
            self.violate(Invariant::I14, entry.index, message);
        } else if !is_first && entry.revision > self.revision.saturating_add(1) {
            let message = format!(
                "the log has nothing of revisions {} to {}",
                self.revision + 1,
                entry.revision - 1
            );
            self.violate(Invariant::I14, entry.index, message);
        }
        self.revision = entry.revision;
    }

    fn take_time(&mut self, entry: &Entry) {
        let latest = self.latest.unwrap_or(entry.time);
        if entry.time < latest.saturating_sub(CLOCK_STEP) && entry.time < self.time.saturating_sub(CLOCK_STEP) {
            self.notes.clock_steps.push((entry.index, self.time, entry.time));
        }
        if self.latest.is_some() && entry.time.saturating_sub(latest) > SILENCE {
            self.notes.silences.push((latest, entry.time));
        }
        self.first_time.get_or_insert(entry.time);
        self.latest = Some(latest.max(entry.time));
        self.time = entry.time;
    }

    /// Takes note of an entry that cannot be read; what it said is missing from here on.
    pub fn take_unreadable(&mut self, error: &EntryError) {
        self.next_index = error.index.saturating_add(1);
        self.violate(Invariant::Completeness, error.index, error.problem.to_string());
    }

    fn violate(&mut self, invariant: Invariant, index: u64, message: impl Into<String>) {
        self.violations.push(Violation {
            invariant,
            index,
            time: self.time,
            message: message.into(),
        });
    }

    /// What must not be, in the order in which it was found.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What is worth knowing besides.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// How much there was.
    pub fn totals(&self) -> Totals {
        let count = |kind: &str| self.counts.get(kind).copied().unwrap_or_default();
        Totals {
            entries: self.counts.values().sum(),
            requests: count("task.requested"),
            windows: count("window.opened"),
            task_svids: self.task_svids,
            base_svids: self.base_svids,
            decisions: self.decisions,
        }
    }

    /// Entries by kind.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// The times of the first and of the latest entry.
    pub fn times(&self) -> Option<Span> {
        self.first_time.zip(self.latest)
    }

    /// A window that is not settled, or any with history.
    pub fn window(&self, id: &str) -> Option<&Window> {
        self.windows
            .get(id)
            .or_else(|| self.settled.iter().find(|window| window.id == id))
    }

    /// All windows that are not settled, and with history all others.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.settled.iter().chain(self.windows.values())
    }

    /// All requests of which something can still come, and with history all others.
    pub fn requests(&self) -> impl Iterator<Item = &Request> {
        self.over.iter().chain(self.requests.values())
    }

    /// All versions of definitions, by hash.
    pub fn definitions(&self) -> impl Iterator<Item = &Definition> {
        self.definitions.values()
    }

    /// The version of a definition with this hash.
    pub fn definition(&self, hash: &str) -> Option<&Definition> {
        self.definitions.get(hash)
    }

    /// The version of a definition that is in force.
    pub fn definition_in_force(&self, task: &str) -> Option<&Definition> {
        self.in_force.get(task).and_then(|hash| self.definitions.get(hash))
    }

    /// Whether an SVID with this serial number was recorded before it was signed.
    pub fn has_serial(&self, serial: &str) -> bool {
        self.serials.contains(&short(serial))
    }

    /// SVIDs of tasks that belong to no window.
    pub fn strays(&self) -> &[Stray] {
        &self.strays
    }

    /// Identities with privileges of their own, those that were removed included.
    pub fn privileged(&self) -> &[Privileged] {
        &self.privileged
    }

    /// The identity that a registration entry gives.
    pub fn identity_of_entry(&self, entry_id: &str) -> Option<&str> {
        self.entries.get(entry_id).map(String::as_str)
    }

    /// The register of exceptions.
    pub fn exceptions(&self) -> impl Iterator<Item = &Exception> {
        self.exceptions.values()
    }

    /// Consumers that registered.
    pub fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.checkpoints.values()
    }

    /// Tests of consumers from outside.
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// Policies by their digests, as decisions named them.
    pub fn policies(&self) -> &BTreeMap<String, PolicyUse> {
        &self.policies
    }

    /// How often each reason refused something.
    pub fn reasons(&self) -> &BTreeMap<String, u64> {
        &self.reasons
    }

    /// Changes of what gives authority.
    pub fn governance(&self) -> &[Governance] {
        &self.governance
    }

    /// Entries about the log itself, its witnesses, and what was erased.
    pub fn log_events(&self) -> &[LogEvent] {
        &self.log_events
    }

    /// Agents that are attested and not banned.
    pub fn agents(&self) -> BTreeSet<&str> {
        self.agents
            .iter()
            .filter(|(_, banned)| !**banned)
            .map(|(id, _)| id.as_str())
            .collect()
    }

    /// Learns values, for the entries to come.
    pub(crate) fn details_mut(&mut self) -> &mut Details {
        &mut self.details
    }

    /// What private values are shown with.
    pub fn details(&self) -> &Details {
        &self.details
    }
}

/// The beginning of a hash: enough to tell two of them apart, and small.
fn short(text: &str) -> u128 {
    let hash = sha256(&[text.as_bytes()]);
    u128::from_be_bytes(hash[..16].try_into().expect("half of 32 bytes"))
}
