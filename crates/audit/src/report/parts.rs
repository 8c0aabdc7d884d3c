//! The report's shape: thirteen parts, as they stand in its JSON. Instants are Unix seconds, durations seconds, shares
//! thousandths; there are no fractions. What is private is shown as far as it is known.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Scope, Thresholds};
use crate::meter::{Distribution, Listed, Meter};
use crate::replay::Acknowledgement;
use crate::{Invariant, Violation};

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

/// Part 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endings {
    /// Windows that were open within the period.
    pub windows: u64,
    /// Those that ended, by cause.
    pub by_cause: BTreeMap<String, u64>,
    /// Those that were settled because consumers said so, not because everything had expired.
    pub settled_by_checkpoints: u64,
    /// Seconds from the end of a window to the last instant at which an SVID of it could count.
    pub residual: Distribution,
    /// Seconds from the end of a window to its settlement.
    pub to_settled: Distribution,
    /// Windows that have ended and are not settled, or that are over and have not ended.
    pub unsettled: Listed<EndingRow>,
    /// Windows, the longest residual first.
    pub rows: Listed<EndingRow>,
    /// Connections that consumers closed.
    pub connections_closed: State,
    /// What SVIDs were exchanged for.
    pub derivations_ended: State,
}

/// How a window ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct EndingRow {
    pub window: String,
    pub task: String,
    pub workload: String,
    pub opened_at: i64,
    pub closes_at: i64,
    pub ended_at: Option<i64>,
    pub cause: Option<String>,
    pub last_not_after: i64,
    pub epoch: Option<u64>,
    pub confirmed_at: Option<i64>,
    pub settled_at: Option<i64>,
    pub residual: Option<u64>,
    pub is_accepted_risk: bool,
    pub checkpoints: Vec<Acknowledgement>,
    /// Where it stands in the log: opened, ended, settled.
    pub evidence: Vec<u64>,
}

/// Part 6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// Of all of them.
    pub state: State,
    /// Consumers that registered or that definitions declare, each with every kind of test.
    pub matrix: Vec<ProbeRow>,
    /// Every result.
    pub results: Listed<ProbeResult>,
    /// Ways that nobody tries yet, such as `cloud`.
    pub classes: BTreeMap<String, State>,
}

/// A consumer and what it refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// Its name.
    pub checkpoint: String,
    /// By kind of test; the newest result of each.
    pub by_kind: BTreeMap<String, State>,
}

/// A test from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct ProbeResult {
    pub index: u64,
    pub at: i64,
    pub checkpoint: String,
    pub kind: String,
    pub window: Option<String>,
    pub outcome: String,
    pub expected: String,
}

/// Part 8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// The register, the oldest first.
    pub exceptions: Vec<ExceptionRow>,
    /// Identities with privileges of their own within the period.
    pub privileged: Vec<PrivilegedRow>,
    /// Windows whose end could not be shown and was accepted.
    pub accepted_risks: Vec<EndingRow>,
    /// Windows that are not settled at the end of the period.
    pub unsettled: u64,
    /// Systems that can only be used with standing authority.
    pub legacy: State,
}

/// An exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct ExceptionRow {
    pub id: String,
    pub identity: String,
    pub owner: String,
    pub reason: String,
    pub control: String,
    pub granted_at: i64,
    pub expires_at: i64,
    pub renewals: u64,
    pub age_days: i64,
    /// `in_force`, `expired` or `ended`.
    pub state: String,
    pub index: u64,
}

/// An identity with privileges of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct PrivilegedRow {
    pub identity: String,
    pub entry_id: String,
    pub rights: BTreeSet<String>,
    pub since: i64,
    pub until: Option<i64>,
    /// Exceptions that say why.
    pub exceptions: Vec<String>,
    /// Seconds of the period in which none did.
    pub uncovered_seconds: i64,
    pub index: u64,
}

/// Part 9.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlass {
    /// Each use, the first one first.
    pub uses: Vec<BreakGlassUse>,
    /// Seconds that they gave power.
    pub privileged_seconds: i64,
}

/// A use of break-glass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct BreakGlassUse {
    pub request: String,
    pub window: String,
    pub task: String,
    pub workload: String,
    pub person: String,
    pub ticket: String,
    pub reason: String,
    pub approvers: Vec<String>,
    pub opened_at: i64,
    pub ended_at: Option<i64>,
    pub privileged_seconds: i64,
    /// `done`, `due` or `overdue`.
    pub review: String,
    pub reviewed_by: String,
    pub reviewed_at: Option<i64>,
    pub index: u64,
}

/// Part 10.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approvals {
    /// Requests that were made within the period, by where they stand.
    pub requests: BTreeMap<String, u64>,
    /// Windows that somebody agreed to, and windows that policy alone allowed.
    pub approved_windows: u64,
    /// See `approved_windows`.
    pub unattended_windows: u64,
    /// Seconds from the moment that people are asked to each answer.
    pub latency: Distribution,
    /// Those who answered.
    pub people: Vec<ApproverRow>,
    /// Who agreed to whose requests.
    pub matrix: Listed<DutyRow>,
}

/// How a person answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they are")]
pub struct ApproverRow {
    pub person: String,
    pub approved: u64,
    pub refused: u64,
    pub approved_permille: u64,
    /// Of their approvals.
    pub latency: Distribution,
    /// The share of approvals of requests by people with whom they share a group.
    pub self_group_permille: u64,
    /// The code of the finding about it, if there is one.
    pub flag: Option<String>,
}

/// Separation of duties: who asked, who agreed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they are")]
pub struct DutyRow {
    pub requester: String,
    pub approver: String,
    pub approvals: u64,
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
