//! The shape of parts 5 to 10: endings, probes, debt, emergencies, approvals. Part 7 is [`crate::meter::Meter`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::parts::State;
use crate::meter::{Distribution, Listed};
use crate::replay::Acknowledgement;

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
    /// Of all of them: `held` if every cell of the matrix was tried, and refused.
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
