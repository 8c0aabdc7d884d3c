//! Bodies of entries, as far as they mean something here. Unknown fields are let be: a newer server may add some.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::state::Needs;
use crate::Entry;

#[derive(Deserialize)]
pub(super) struct Requested {
    pub(super) request: Asked,
    pub(super) digest: String,
    pub(super) stage: String,
    #[serde(default)]
    pub(super) needs: Needs,
    #[serde(default)]
    pub(super) decisions: Vec<Decision>,
}

#[derive(Deserialize)]
pub(super) struct Asked {
    pub(super) task: String,
    pub(super) definition: String,
    pub(super) workload: String,
    #[serde(default)]
    pub(super) person: Value,
    #[serde(default)]
    pub(super) owner: Value,
    #[serde(default)]
    pub(super) ticket: Value,
    #[serde(default)]
    pub(super) reason: Value,
    pub(super) window: Seconds,
    #[serde(default)]
    pub(super) scopes: BTreeSet<String>,
    pub(super) requested_at: i64,
    /// The request of whose window this one is a part; nothing delegates yet.
    #[serde(default)]
    pub(super) parent: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Seconds {
    pub(super) secs: i64,
}

/// A decision as tasks keep it.
#[derive(Clone, Default, Deserialize)]
pub(super) struct Decision {
    #[serde(default)]
    pub(super) allowed: bool,
    #[serde(default)]
    pub(super) policy_digest: String,
    #[serde(default)]
    pub(super) inputs_digest: String,
}

#[derive(Deserialize)]
pub(super) struct Decided {
    #[serde(default)]
    pub(super) facts: Value,
    pub(super) decision: PolicyDecision,
}

/// A decision as the policy gave it.
#[derive(Deserialize)]
pub(super) struct PolicyDecision {
    pub(super) verdict: String,
    #[serde(default)]
    pub(super) reasons: Vec<Reason>,
    #[serde(default)]
    pub(super) policy_digest: String,
    #[serde(default)]
    pub(super) inputs_digest: String,
}

#[derive(Deserialize)]
pub(super) struct Reason {
    pub(super) id: String,
}

#[derive(Deserialize)]
pub(super) struct DecidedAgain {
    pub(super) decision: Decision,
    pub(super) outcome: String,
}

#[derive(Deserialize)]
pub(super) struct Approved {
    pub(super) approval: Approval,
    pub(super) digest: String,
    pub(super) decision: Decision,
}

#[derive(Deserialize)]
pub(super) struct Approval {
    pub(super) person: Value,
    #[serde(default)]
    pub(super) groups: BTreeSet<String>,
    pub(super) at: i64,
    pub(super) valid_until: i64,
}

#[derive(Deserialize)]
pub(super) struct Opened {
    pub(super) window: OpenedWindow,
    pub(super) decision: Decision,
}

#[derive(Deserialize)]
pub(super) struct OpenedWindow {
    pub(super) id: String,
    pub(super) instance: Instance,
    pub(super) spiffe_id: String,
    pub(super) opened_at: i64,
    pub(super) closes_at: i64,
    #[serde(default)]
    pub(super) issuances: Vec<Issuance>,
}

#[derive(Deserialize)]
pub(super) struct Instance {
    pub(super) agent_id: String,
}

#[derive(Deserialize)]
pub(super) struct Issuance {
    pub(super) serial: String,
    #[serde(default)]
    pub(super) public_key_sha256: String,
    pub(super) not_after: i64,
    #[serde(default)]
    pub(super) authority_id: String,
}

/// What all later steps of a window have.
#[derive(Deserialize)]
pub(super) struct OfWindow {
    pub(super) window: String,
    #[serde(default)]
    pub(super) issuance: Option<Issuance>,
    #[serde(default)]
    pub(super) closes_at: Option<i64>,
    #[serde(default)]
    pub(super) decision: Option<Decision>,
    #[serde(default)]
    pub(super) serial: Option<String>,
    #[serde(default)]
    pub(super) cause: Option<String>,
    #[serde(default)]
    pub(super) residual: Option<u64>,
    #[serde(default)]
    pub(super) epoch: Option<u64>,
    #[serde(default)]
    pub(super) by: Value,
    #[serde(default)]
    pub(super) term: Option<String>,
    #[serde(default)]
    pub(super) checkpoints: Vec<Acknowledged>,
}

#[derive(Deserialize)]
pub(super) struct Acknowledged {
    pub(super) name: String,
    #[serde(default)]
    pub(super) consumers: u64,
    #[serde(default)]
    pub(super) epoch: u64,
    #[serde(default)]
    pub(super) at: i64,
}

#[derive(Deserialize)]
pub(super) struct Intended {
    #[serde(default)]
    pub(super) authority_id: String,
    pub(super) not_after: i64,
    pub(super) public_key_sha256: String,
    pub(super) serial: String,
    #[serde(default)]
    pub(super) window_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Outcome {
    #[serde(default)]
    pub(super) signed: Vec<String>,
    #[serde(default)]
    pub(super) failed: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Defined {
    pub(super) hash: String,
    #[serde(default)]
    pub(super) version: u64,
    #[serde(default)]
    pub(super) author: Value,
    pub(super) definition: Definition,
}

#[derive(Deserialize)]
pub(super) struct Definition {
    pub(super) name: String,
    #[serde(default)]
    pub(super) owner: Value,
    #[serde(default)]
    pub(super) class: String,
    #[serde(default)]
    pub(super) sensitivity: u64,
    #[serde(default)]
    pub(super) scopes: BTreeSet<String>,
    #[serde(default)]
    pub(super) review_by: Value,
    #[serde(default)]
    pub(super) allowed: Allowed,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) approval: Rule,
    #[serde(default)]
    pub(super) ending: Ending,
}

#[derive(Default, Deserialize)]
pub(super) struct Allowed {
    #[serde(default)]
    pub(super) workloads: BTreeSet<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct Limits {
    #[serde(default)]
    pub(super) max_uses: Option<u64>,
    #[serde(default)]
    pub(super) concurrency: Option<u64>,
    /// As people write durations.
    #[serde(default)]
    pub(super) max_window: Option<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct Rule {
    #[serde(default)]
    pub(super) count: u32,
}

#[derive(Default, Deserialize)]
pub(super) struct Ending {
    #[serde(default)]
    pub(super) settle_before_next: bool,
    #[serde(default)]
    pub(super) checkpoints: BTreeSet<String>,
}

#[derive(Deserialize)]
pub(super) struct RegistrationEntry {
    pub(super) spec: EntrySpec,
}

#[derive(Deserialize)]
pub(super) struct EntrySpec {
    pub(super) spiffe_id: String,
    #[serde(default)]
    pub(super) admin: bool,
    #[serde(default)]
    pub(super) downstream: bool,
}

#[derive(Deserialize)]
pub(super) struct Exception {
    #[serde(default)]
    pub(super) identity: String,
    #[serde(default)]
    pub(super) owner: Value,
    #[serde(default)]
    pub(super) reason: Value,
    #[serde(default, alias = "compensating_control")]
    pub(super) control: Value,
    #[serde(default)]
    pub(super) scopes: BTreeSet<String>,
    #[serde(default)]
    pub(super) expires_at: Option<i64>,
}

#[derive(Deserialize)]
pub(super) struct Probe {
    #[serde(default)]
    pub(super) window: Option<String>,
    #[serde(default)]
    pub(super) checkpoint: String,
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) outcome: String,
    #[serde(default)]
    pub(super) expected: String,
}

/// The body of an entry, or what is wrong with it.
pub(super) fn read<T: DeserializeOwned>(entry: &Entry) -> Result<T, String> {
    if crate::details::commitment_of(&entry.body).is_some() {
        return Err(format!(
            "the body of a `{}` is kept beside the log and is not known here",
            entry.kind
        ));
    }
    T::deserialize(&entry.body).map_err(|error| format!("the body is not that of a `{}`: {error}", entry.kind))
}
