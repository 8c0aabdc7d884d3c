//! The report's shape: thirteen parts, as they stand in its JSON. Instants are Unix seconds, durations seconds, shares
//! thousandths; there are no fractions. What is private is shown as far as it is known.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Scope, Thresholds};
use crate::meter::{Listed, Meter};
use crate::{Invariant, Violation};

use super::records::{Approvals, BreakGlass, Debt, Endings, Probes};

/// The version of the report's shape.
pub const REPORT_VERSION: u64 = 1;

/// What an auditor reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub v: u64,
    /// 1: what is claimed, about what, on which log.
    pub claim: Claim,
    /// What somebody should look at, the worst first.
    pub findings: Vec<Finding>,
    /// 2: whether the log is whole.
    pub completeness: Completeness,
    /// 3: who had authority at sampled instants.
    pub zero_standing: ZeroStanding,
    /// 4: nothing was issued without what has to come first.
    pub joins: Joins,
    /// 5: how authority ended.
    pub endings: Endings,
    /// 6: what consumers refused when they were tried.
    pub probes: Probes,
    /// 7: how much power there was, and how much of it only looked short.
    pub meter: Meter,
    /// 8: what stands, and who answers for it.
    pub debt: Debt,
    /// 9: emergencies.
    pub break_glass: BreakGlass,
    /// 10: how people agreed.
    pub approvals: Approvals,
    /// 11: by which rules.
    pub policy: Policy,
    /// 12: the controls that this speaks to.
    pub controls: Vec<Control>,
    /// 13: what this does not show.
    pub limits: Vec<Limit>,
    /// From where on something is a finding.
    pub thresholds: Thresholds,
}

/// How something stands that a report can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was looked at, and is as it has to be.
    Held,
    /// It was looked at, and is not.
    Broken,
    /// Nobody tried.
    NotTested,
    /// The log has nothing of it.
    NotRecorded,
}

/// The size and the root hash of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeHead {
    /// Entries.
    pub size: u64,
    /// 64 hex digits.
    pub root: String,
}

/// What is known of the log besides its entries; whoever checked its tree says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFacts {
    /// Which log.
    pub origin: String,
    /// A checkpoint from before the period, if there is one.
    pub begin: Option<TreeHead>,
    /// The checkpoint that the report is about.
    pub end: TreeHead,
    /// Who cosigned that, by the names of the witnesses.
    pub cosigned_by: Vec<String>,
    /// The signed checkpoint that `end` is taken from, as a note; empty if there is none.
    #[serde(default)]
    pub checkpoint: String,
    /// The hashes, in hex, that show that the log at `end` begins with the one at `begin` (RFC 6962 §2.1.2).
    #[serde(default)]
    pub consistency: Vec<String>,
    /// The verifier keys of the log by its own word, the newest first. Whoever checks compares them with what they know.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// Part 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// In one sentence.
    pub sentence: String,
    /// Whether nothing in the log speaks against it.
    pub holds: bool,
    /// The first second.
    pub from: i64,
    /// The first second that is not in it.
    pub to: i64,
    /// About what.
    pub scope: Scope,
    /// On which log.
    pub log: LogFacts,
}

/// Part 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completeness {
    /// Entries that were read, from the beginning of the log.
    pub entries: u64,
    /// Those of the period.
    pub in_period: u64,
    /// Those of the log that are later than the period and were left out.
    pub after_period: u64,
    /// Whether the log has as many as its checkpoint says.
    pub is_whole: bool,
    /// Entries by kind, of all that were read.
    pub by_kind: BTreeMap<String, u64>,
    /// Kinds that are not known here, with their first entry.
    pub unknown_kinds: BTreeMap<String, u64>,
    /// Gaps, and entries that cannot be read.
    pub gaps: Vec<Violation>,
    /// Entries that are kept beside the log and are not known here.
    pub unread: Vec<u64>,
    /// The clock was set back.
    pub clock_steps: Vec<ClockStep>,
    /// Spans without any entry that were longer than an hour: the server was away, or nobody wanted anything.
    pub silences: Listed<Silence>,
    /// SVIDs of which the log does not say whether they were signed.
    pub unknown_outcomes: u64,
    /// Keys of the log, witnesses, erasures, earlier reports.
    pub log_events: Listed<LogRow>,
}

/// The clock was set back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// The entry.
    pub index: u64,
    /// The time before it.
    pub before: i64,
    /// Its own.
    pub after: i64,
}

/// A span without entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they are")]
pub struct Silence {
    pub from: i64,
    pub to: i64,
}

/// Something of the log itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they are")]
pub struct LogRow {
    pub index: u64,
    pub at: i64,
    pub kind: String,
    pub detail: String,
}

/// Part 3. Windows say who may have authority, SVIDs who has it; both are taken from the log by replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZeroStanding {
    /// Whether no SVID counted without a window.
    pub state: State,
    /// Instants at full hours.
    pub hourly: u64,
    /// Instants that the log's root hash chose.
    pub random: u64,
    /// At full hours: what was open.
    pub samples: Vec<Sample>,
    /// The most identities with authority at any of the instants.
    pub most: u64,
    /// Where the two differ.
    pub differences: Listed<Difference>,
}

/// One instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: i64,
    /// Identities with an open window.
    pub open: u64,
    /// Identities with an SVID that counts.
    pub live: u64,
}

/// An identity that is in one set and not in the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// When.
    pub at: i64,
    /// Whose.
    pub spiffe_id: String,
    /// `svid_without_window`, which must not be; or `window_without_svid`: nobody renewed.
    pub what: String,
}

/// Part 4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joins {
    /// SVIDs of tasks, each joined with its window and its commit.
    pub task_svids: u64,
    /// Windows, each joined with its request, decision, definition and approvals.
    pub windows: u64,
    /// Decisions of policy.
    pub decisions: u64,
    /// All other SVIDs: they carry no privileges by themselves, see part 8.
    pub base_svids: u64,
    /// Each rule.
    pub checks: Vec<JoinCheck>,
    /// Where one is broken.
    pub violations: Listed<Violation>,
}

/// A rule and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCheck {
    /// Which one.
    pub invariant: Invariant,
    /// What it says.
    pub says: String,
    /// How it stands.
    pub state: State,
    /// How often it is broken.
    pub violations: u64,
}

/// Part 11.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Policies by which was decided, the first one first.
    pub digests: Vec<PolicyRow>,
    /// Why something was refused, and how often.
    pub refusals: BTreeMap<String, u64>,
    /// Changes of definitions and policy within the period.
    pub changes: Vec<ChangeRow>,
    /// Definitions in force at the end of the period.
    pub definitions: Vec<DefinitionRow>,
    /// Proofs about policies by a solver.
    pub solver: State,
    /// Decisions of the period, decided anew.
    pub replay: State,
}

/// A policy as decisions name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they are")]
pub struct PolicyRow {
    pub digest: String,
    pub first_at: i64,
    pub last_at: i64,
    pub verdicts: BTreeMap<String, u64>,
}

/// A change of what gives authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they are")]
pub struct ChangeRow {
    pub index: u64,
    pub at: i64,
    pub kind: String,
    pub subject: String,
    pub author: String,
    /// Who agreed; empty if nobody was asked.
    pub decided_by: String,
}

/// A definition in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct DefinitionRow {
    pub name: String,
    pub version: u64,
    pub hash: String,
    pub owner: String,
    pub is_breakglass: bool,
    pub sensitivity: u64,
    pub approvals: u32,
    pub max_window: Option<i64>,
    pub checkpoints: BTreeSet<String>,
    pub review_by: Option<i64>,
    pub used_at: Option<i64>,
    pub defined_at: i64,
}

/// Part 12: a control of a standard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Whose, with the edition.
    pub framework: String,
    /// As the standard calls it today.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Labels that documents still use for it.
    pub older_labels: Vec<String>,
    /// Parts of this report that speak to it.
    pub parts: Vec<u8>,
    /// What the report shows of it.
    pub state: State,
    /// Findings that speak against it.
    pub findings: BTreeSet<String>,
    /// What is shown, and what is not.
    pub note: String,
}

/// Part 13.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What is not shown.
    pub what: String,
    /// Why, and what follows.
    pub why: String,
}
