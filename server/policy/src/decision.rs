//! What a decision says.

use serde::{Deserialize, Serialize};

use crate::{Digest, Obligations};

/// Whether it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may.
    Allow,
    /// Not yet, and it would be with what [`Decision::missing`] names. Only for requests, never for windows.
    Wait,
    /// It may not.
    Deny,
}

/// What a request can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Its ticket: absent, not open, or of another kind.
    Ticket,
    /// The people of [`Obligations::approvals`].
    Approvals,
}

/// Why, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable: of a guard, of a policy (`@id`), `no-permit`, `engine-error`, or `input-…`.
    pub id: String,
    /// What is wrong and what to do.
    pub text: String,
}

/// An answer with its grounds. Its record and that of the facts are enough to repeat it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// Why not, or what for it waits; nothing if allowed.
    pub reasons: Vec<Reason>,
    /// For [`Verdict::Wait`].
    pub missing: Vec<Missing>,
    /// What comes with it; of permits that applied, so empty if denied.
    pub obligations: Obligations,
    /// The `@id`s of the policies that decided, sorted: permits if allowed, forbids if denied.
    pub determining: Vec<String>,
    /// Of the policies.
    pub policy_digest: Digest,
    /// Of the facts.
    pub inputs_digest: Digest,
}

impl Decision {
    /// Whether it may be, now.
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// The ids of the reasons.
    pub fn reason_ids(&self) -> Vec<&str> {
        self.reasons.iter().map(|reason| reason.id.as_str()).collect()
    }
}

impl Reason {
    pub(crate) fn new(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            text: text.into(),
        }
    }
}
