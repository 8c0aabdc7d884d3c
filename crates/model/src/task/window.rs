//! Windows: authority that is in force for one process, and the leases on it.

use std::time::Duration;

use mayfly_svid::{Serial, SpiffeId, Timestamp, WindowId};
use serde::{Deserialize, Serialize};

use super::{PersonId, Stage};

/// How wrong a clock may be. An SVID that is over by one server's clock may count for consumers whose clocks are right, so
/// it is neither forgotten nor left out of what is refused before this time has passed as well.
pub const CLOCK_SLACK: Duration = Duration::from_secs(15 * 60);
/// A window is settled by time only so long after the last second of its SVIDs (T31): a consumer whose clock is behind
/// takes them until then. Less than [`CLOCK_SLACK`], as somebody may wait for it to open the next window, and as SVIDs begin
/// only 10 s before they are made: a consumer that is further behind refuses each new one at first, which is seen.
pub const SETTLE_LEEWAY: Duration = Duration::from_secs(30);

/// The process that a window is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The agent that attested it.
    pub agent_id: SpiffeId,
    /// Process ID.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// When it started, in clock ticks since boot: with the process ID it names one process of one boot.
    pub start_ticks: u64,
    /// Which boot.
    pub boot_id: String,
    /// Its descendants have part in the window.
    pub include_descendants: bool,
}

impl Instance {
    /// Whether both are the same process, whoever else has part in a window of it.
    #[must_use]
    pub fn is_same_process(&self, other: &Self) -> bool {
        let name = |instance: &Self| (instance.pid, instance.uid, instance.start_ticks);
        name(self) == name(other) && self.boot_id == other.boot_id && self.agent_id == other.agent_id
    }
}

/// The term that made an SVID's life as short as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TtlTerm {
    /// `limits.max_ttl` of the definition.
    Definition,
    /// The end of the window.
    Window,
    /// The process's attestation is good for so long.
    Attestation,
    /// The agent's own SVID ends.
    Agent,
    /// `@ttl_cap` of a policy.
    Policy,
    /// The authority ends.
    Authority,
}

/// One SVID of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuance {
    /// Its serial number.
    pub serial: Serial,
    /// Hex SHA-256 of its SubjectPublicKeyInfo; no other window may have the same.
    pub public_key_sha256: String,
    /// `notBefore`.
    pub not_before: Timestamp,
    /// `notAfter`, its last second.
    pub not_after: Timestamp,
    /// Who signed.
    pub authority_id: String,
    /// What made it so short.
    pub ttl_term: TtlTerm,
    /// The epoch from which on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// Why a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseCause {
    /// T21: the task is done.
    Completed,
    /// T22: the task failed.
    Failed,
    /// T23: its time is over.
    TimedOut,
    /// T24: the process is not any more who it was, or its node is not.
    AttestationLost,
    /// T25: it did what it should not.
    Deviated,
    /// T26: signs of life did not come.
    HeartbeatLost,
    /// T26: its node was not heard for the lease.
    LeaseLost,
    /// T27: policy or definition do not allow it any more.
    PolicyWithdrawn,
    /// T28: somebody ended it.
    Revoked,
}

/// Authority in force, or what was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Random, never used again.
    pub id: WindowId,
    /// Where it stands: `Open` or later.
    pub stage: Stage,
    /// Who holds it.
    pub instance: Instance,
    /// The identity that it gives.
    pub spiffe_id: SpiffeId,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The first instant at which it is over.
    pub closes_at: Timestamp,
    /// The first instant at which a missing sign of life ends it.
    pub heartbeat_due: Option<Timestamp>,
    /// SVIDs that may still count, oldest first.
    pub issuances: Vec<Issuance>,
    /// How many there were in all.
    pub issued: u32,
    /// Why it ended.
    pub cause: Option<CloseCause>,
    /// More of that, for people.
    pub detail: String,
    /// When it ended.
    pub closed_at: Option<Timestamp>,
    /// The epoch from which on its SVIDs are refused.
    pub epoch: Option<u64>,
    /// When it was settled.
    pub settled_at: Option<Timestamp>,
    /// Seconds from its end to the last instant at which an SVID of it could count; known once settled.
    pub residual: Option<u32>,
    /// What shows that it is dead, once it is settled; none if people accepted that nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_by: Option<SettledBy>,
    /// The checkpoints that refuse it, when it was settled or given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acknowledged: Vec<Acknowledged>,
    /// Somebody accepts that it cannot be settled; a second one has to agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskAccepted>,
    /// The second one, which settled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk_agreed: Option<RiskAccepted>,
}

/// What showed that nobody takes an SVID of a window any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettledBy {
    /// All of them expired, [`SETTLE_LEEWAY`] ago.
    #[default]
    Expired,
    /// Every checkpoint that was declared refuses them.
    Enforced,
}

/// What one declared checkpoint said of the end of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// As its definition declares it.
    pub name: String,
    /// How many consumers it stands for.
    pub consumers: u32,
    /// All of them refuse what was revoked up to here.
    pub epoch: u64,
    /// When the last of them said so, by the server's clock.
    pub at: Timestamp,
}

/// An administrator accepts in writing that a window cannot be shown dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskAccepted {
    /// Who.
    pub by: PersonId,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl CloseCause {
    /// The word for it in answers and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::AttestationLost => "attestation_lost",
            Self::Deviated => "deviated",
            Self::HeartbeatLost => "heartbeat_lost",
            Self::LeaseLost => "lease_lost",
            Self::PolicyWithdrawn => "policy_withdrawn",
            Self::Revoked => "revoked",
        }
    }
}

impl SettledBy {
    /// The word for it in answers and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Enforced => "enforced",
        }
    }
}

impl TtlTerm {
    /// The word for it in answers and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Definition => "definition.max_ttl",
            Self::Window => "window.closes",
            Self::Attestation => "attestation.fresh_until",
            Self::Agent => "agent_svid.not_after",
            Self::Policy => "policy.ttl_cap",
            Self::Authority => "authority.not_after",
        }
    }
}

impl Issuance {
    /// Whether it may still count for somebody at `now`, by whatever clock.
    pub fn may_count(&self, now: Timestamp) -> bool {
        self.not_after.plus(CLOCK_SLACK) >= now
    }
}

impl Window {
    /// A window as it is opened, with its first SVID.
    pub fn new(
        id: WindowId,
        instance: Instance,
        spiffe_id: SpiffeId,
        first: Issuance,
        opened_at: Timestamp,
        closes_at: Timestamp,
    ) -> Self {
        Self {
            id,
            stage: Stage::Open,
            instance,
            spiffe_id,
            opened_at,
            closes_at,
            // The step that opens it sets this, as its grant says.
            heartbeat_due: None,
            issuances: vec![first],
            issued: 1,
            cause: None,
            detail: String::new(),
            closed_at: None,
            epoch: None,
            settled_at: None,
            residual: None,
            settled_by: None,
            acknowledged: vec![],
            risk: None,
            risk_agreed: None,
        }
    }

    /// The last second of the longest of its SVIDs.
    pub fn last_second(&self) -> Timestamp {
        let ends = self.issuances.iter().map(|issuance| issuance.not_after);
        ends.max().unwrap_or_else(|| self.closed_at.unwrap_or(self.opened_at))
    }

    /// The last instant at which a consumer may take an SVID of it whose clock is behind.
    pub fn dead_by(&self) -> Timestamp {
        self.last_second().plus(SETTLE_LEEWAY)
    }
}
