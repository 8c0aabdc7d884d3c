//! What the log has said so far, as values.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::span::{Span, merged};

/// A version of a task definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The hash of its content.
    pub hash: String,
    /// `<team>/<task>`.
    pub name: String,
    /// 1 for the first.
    pub version: u64,
    /// Who answers for it.
    pub owner: Value,
    /// Who defined it.
    pub author: Value,
    /// Whether it is for emergencies.
    pub is_breakglass: bool,
    /// 0 to 3.
    pub sensitivity: u64,
    /// What its holder may do.
    pub scopes: BTreeSet<String>,
    /// Who may run it, as paths of base identities; one that ends in `/*` means all below.
    pub workloads: BTreeSet<String>,
    /// People that have to agree by the definition alone.
    pub approvals: u32,
    /// Windows that one grant opens; none if the log does not say.
    pub max_uses: Option<u64>,
    /// Windows that one workload may have open at a time; none if the log does not say.
    pub concurrency: Option<u64>,
    /// No window before the last one of the same workload is settled.
    pub settle_before_next: bool,
    /// The longest window, in seconds.
    pub max_window: Option<i64>,
    /// Consumers that were declared.
    pub checkpoints: BTreeSet<String>,
    /// No new request from then on.
    pub review_by: Option<i64>,
    /// Since when it is in force.
    pub defined_at: i64,
    /// The entry that says so.
    pub index: u64,
    /// When it stopped being in force: replaced or retired.
    pub until: Option<i64>,
    /// The last time that a window of its name was opened.
    pub used_at: Option<i64>,
}

/// Who has to agree; one rule of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ApprovalRule {
    /// How many people.
    #[serde(default)]
    pub count: u32,
    /// Of which groups.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Of how many different ones.
    #[serde(default)]
    pub distinct_groups: Option<u32>,
}

/// What a request has to have before it is a grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Needs {
    /// Each must be met.
    #[serde(default)]
    pub approvals: Vec<ApprovalRule>,
    /// A ticket.
    #[serde(default)]
    pub ticket: bool,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words of the task model")]
pub enum Stage {
    AwaitingTicket,
    AwaitingApproval,
    Armed,
    Consumed,
    Denied,
    Expired,
    Cancelled,
    Superseded,
    Lapsed,
    Withdrawn,
}

/// A person agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Who.
    pub person: Value,
    /// Their groups at that time.
    pub groups: BTreeSet<String>,
    /// When.
    pub at: i64,
    /// The last second at which it counts.
    pub valid_until: i64,
    /// The entry.
    pub index: u64,
    /// Seconds that the request had waited for people.
    pub latency: i64,
}

/// A person said no, or looked at what was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Who.
    pub by: Value,
    /// When.
    pub at: i64,
    /// The entry.
    pub index: u64,
    /// For a refusal: seconds that the request had waited for people.
    pub latency: i64,
}

/// A request and what came of it, without its windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its ID.
    pub id: String,
    /// The entry.
    pub index: u64,
    /// The task.
    pub task: String,
    /// The definition's hash.
    pub definition: String,
    /// Base SPIFFE ID of who asks.
    pub workload: String,
    /// The person behind it; null if there is none.
    pub person: Value,
    /// Who owns the workload; null if nobody does.
    pub owner: Value,
    /// The groups of `person`, by the facts of the first decision.
    pub person_groups: BTreeSet<String>,
    /// The ticket; null if there is none.
    pub ticket: Value,
    /// Why.
    pub reason: Value,
    /// Of everything that is asked for.
    pub digest: String,
    /// What it wants to do.
    pub scopes: BTreeSet<String>,
    /// The request of whose window it is a part.
    pub parent: Option<String>,
    /// How long the window shall be.
    pub seconds: i64,
    /// When.
    pub requested_at: i64,
    /// Where it stands.
    pub stage: Stage,
    /// Since when it waits, or waited, for people.
    pub waiting_since: i64,
    /// What it needs.
    pub needs: Needs,
    /// Who agreed.
    pub approvals: Vec<Approval>,
    /// Who said no.
    pub refused: Option<Said>,
    /// How often it was opened.
    pub opened: u64,
    /// Windows of it that are not settled.
    pub unsettled: u64,
    /// Whether somebody has to look at it after its use.
    pub review_due: bool,
    /// Who did.
    pub reviewed: Option<Said>,
}

/// An SVID of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svid {
    /// Its serial number.
    pub serial: String,
    /// When it was recorded.
    pub from: i64,
    /// Its last second.
    pub not_after: i64,
    /// From then on it is refused.
    pub revoked_at: Option<i64>,
    /// It was never signed.
    pub is_void: bool,
}

/// How a window ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: i64,
    /// The entry.
    pub index: u64,
    /// Why, as a word.
    pub cause: String,
    /// The epoch from which on its SVIDs are refused.
    pub epoch: Option<u64>,
}

/// A consumer enforced the end of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Its name.
    pub name: String,
    /// How many there were.
    pub consumers: u64,
    /// Up to which epoch.
    pub epoch: u64,
    /// When.
    pub at: i64,
}

/// How a window was settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// When.
    pub at: i64,
    /// The entry.
    pub index: u64,
    /// Seconds from the end to the last instant at which an SVID could count.
    pub residual: u64,
    /// Consumers showed it, before everything had expired.
    pub is_enforced: bool,
    /// Consumers that refuse it.
    pub checkpoints: Vec<Acknowledgement>,
    /// Somebody accepted that it could not be shown.
    pub is_accepted_risk: bool,
}

/// A window and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its ID.
    pub id: String,
    /// The request.
    pub request: String,
    /// The task.
    pub task: String,
    /// Base SPIFFE ID of who holds it.
    pub workload: String,
    /// The agent that attested it.
    pub agent_id: String,
    /// The identity that it gives.
    pub spiffe_id: String,
    /// Whether it is of an emergency.
    pub is_breakglass: bool,
    /// Who answers for the task.
    pub owner: Value,
    /// The person behind it; null if there is none.
    pub person: Value,
    /// Consumers that were declared.
    pub checkpoints: BTreeSet<String>,
    /// Whether somebody had to agree.
    pub is_approved: bool,
    /// When it was opened.
    pub opened_at: i64,
    /// The entry.
    pub index: u64,
    /// Seconds that were asked for.
    pub asked: i64,
    /// The first second at which it is over.
    pub closes_at: i64,
    /// The entries that moved the end.
    pub extensions: Vec<u64>,
    /// How many SVIDs there were.
    pub issued: u64,
    /// The last second of the longest.
    pub last_not_after: i64,
    /// SVIDs, as long as it is not settled.
    pub svids: Vec<Svid>,
    /// When SVIDs of it counted: known once it is settled.
    pub counted: Vec<Span>,
    /// Stops, the last one perhaps without an end.
    pub stops: Vec<(i64, Option<i64>)>,
    /// How it ended.
    pub ended: Option<Ended>,
    /// When its holder had nothing any more.
    pub confirmed_at: Option<i64>,
    /// When it was said, and where, that its end could not be shown.
    pub incomplete: Option<(i64, u64)>,
    /// Who was the first to accept that it cannot be shown; it takes two.
    pub risk_by: Option<Value>,
    /// How it was settled.
    pub settled: Option<Settled>,
}

/// An SVID of a task that belongs to no window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The identity.
    pub spiffe_id: String,
    /// When it counts.
    pub span: Span,
    /// The entry.
    pub index: u64,
}

impl Stage {
    pub(super) fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "denied" => Self::Denied,
            "awaiting_ticket" => Self::AwaitingTicket,
            "awaiting_approval" => Self::AwaitingApproval,
            "armed" => Self::Armed,
            _ => return None,
        })
    }

    /// Whether it waits for somebody.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::AwaitingTicket | Self::AwaitingApproval)
    }

    /// Whether nothing can come of it any more.
    pub fn is_final(self) -> bool {
        !self.is_waiting() && self != Self::Armed
    }
}

impl Svid {
    fn span(&self, until: i64) -> Option<Span> {
        let end = self
            .revoked_at
            .unwrap_or(i64::MAX)
            .min(self.not_after.saturating_add(1))
            .min(until);
        (!self.is_void && end > self.from).then_some((self.from, end))
    }
}

impl Window {
    /// When it gave authority: from its opening to its end, without stops; what is not over yet ends at `until`.
    pub fn in_force(&self, until: i64) -> Vec<Span> {
        let end = self
            .ended
            .as_ref()
            .map_or(until, |ended| ended.at.min(until))
            .min(self.closes_at);
        let mut spans = vec![];
        let mut from = self.opened_at;
        for (stopped, resumed) in &self.stops {
            if *stopped > from {
                spans.push((from, (*stopped).min(end)));
            }
            from = resumed.unwrap_or(end);
        }
        spans.push((from, end));
        spans.retain(|(from, to)| from < to);
        spans
    }

    /// When SVIDs of it counted; what is not over yet ends at `until`.
    pub fn svids_counted(&self, until: i64) -> Vec<Span> {
        let spans = self.svids.iter().filter_map(|svid| svid.span(until));
        merged(spans.chain(self.counted.iter().copied()).collect())
    }

    pub(super) fn forget_svids(&mut self) {
        self.counted = self.svids_counted(i64::MAX);
        self.svids = vec![];
    }

    /// Whether it can still be renewed or resumed.
    pub fn is_live(&self) -> bool {
        self.ended.is_none()
    }
}

impl Definition {
    /// Whether it may be run by the identity with this SPIFFE ID, by its path.
    pub fn allows(&self, spiffe_id: &str) -> bool {
        let path = spiffe_id
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let matches = |path: &str, pattern: &String| match pattern.strip_suffix("/*") {
            Some(above) => path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/')),
            None => path == pattern,
        };
        path.is_some_and(|path| self.workloads.iter().any(|pattern| matches(path, pattern)))
    }
}
