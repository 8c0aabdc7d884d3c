//! What was decided, by which policy, on which facts; and who agreed.

use std::collections::BTreeSet;
use std::fmt;

use mayfly_svid::Timestamp;
use serde::{Deserialize, Serialize};

use super::{GroupId, PersonId};

/// When a decision is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Somebody asks.
    Request,
    /// A person agrees.
    Approve,
    /// A grant is opened.
    Open,
    /// A further SVID.
    Renew,
    /// More time.
    Extend,
    /// It goes on after a stop.
    Resume,
}

/// What a first decision means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// No.
    Deny,
    /// Not before the ticket is as it has to be.
    WantTicket,
    /// Not before people agree.
    WantApproval,
    /// Yes.
    Permit,
}

/// One evaluation of policy. It can be repeated: the log has the inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When in the life of the task.
    pub phase: Phase,
    /// Whether it allows.
    pub allowed: bool,
    /// Stable words for why not, such as `environment-mismatch`.
    pub reasons: Vec<String>,
    /// The policies that made the difference, by their IDs.
    pub determining: Vec<String>,
    /// Hex SHA-256 of the policies in force.
    pub policy_digest: String,
    /// Hex SHA-256 of the facts.
    pub inputs_digest: String,
    /// When.
    pub at: Timestamp,
}

/// A person agreed to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who.
    pub person: PersonId,
    /// Their groups at that time, nested ones resolved.
    pub groups: BTreeSet<GroupId>,
    /// How they were known: `uid:1000`, or the SPIFFE ID of their certificate.
    pub authenticated_as: String,
    /// What they said.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// The last instant at which it counts.
    pub valid_until: Timestamp,
}

impl Phase {
    /// The word for it in answers and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Approve => "approve",
            Self::Open => "open",
            Self::Renew => "renew",
            Self::Extend => "extend",
            Self::Resume => "resume",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
