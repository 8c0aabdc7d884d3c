//! Versions of definitions, policies of the operators, changes that wait for a second person, and what is revoked.

use std::collections::BTreeMap;

use mayfly_svid::{Serial, Timestamp, WindowId};
use serde::{Deserialize, Serialize};

use super::{Definition, DefinitionHash, TaskName};
use crate::ExceptionStep;

/// A version of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionVersion {
    /// What it says.
    pub definition: Definition,
    /// Of its content.
    pub hash: DefinitionHash,
    /// 1 for the first, one more with each change.
    pub version: u32,
    /// No new requests.
    pub retired: bool,
    /// Who defined it: a person, or `uid:1000` and the like where nobody is known by it.
    pub author: String,
    /// When.
    pub defined_at: Timestamp,
}

/// The operators' policy: Cedar files by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFiles {
    /// File name to text.
    pub files: BTreeMap<String, String>,
    /// Who set it.
    pub author: String,
    /// When.
    pub set_at: Timestamp,
}

/// What a proposal would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ProposedChange {
    /// A definition comes into force.
    Definition {
        /// It.
        definition: Box<Definition>,
    },
    /// A definition is retired.
    Retirement {
        /// Which.
        name: TaskName,
    },
    /// A policy comes into force.
    Policy {
        /// It, whole.
        files: BTreeMap<String, String>,
    },
    /// Something happens to an exception of the register.
    Exception {
        /// Its ID.
        id: String,
        /// What.
        change: Box<ExceptionStep>,
    },
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProposalState {
    /// It waits for somebody else than its author.
    Pending,
    /// It is in force.
    Approved,
    /// It will not be.
    Rejected,
}

/// A change of what gives authority, which a second person has to agree to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// A UUID, version 7.
    pub id: String,
    /// What it would do.
    pub change: ProposedChange,
    /// Who proposes it.
    pub author: String,
    /// When.
    pub proposed_at: Timestamp,
    /// Where it stands.
    pub state: ProposalState,
    /// Who decided.
    pub decided_by: String,
    /// When.
    pub decided_at: Option<Timestamp>,
}

/// Proposals that are kept once they are decided; the log has all.
pub const PROPOSALS_KEPT: usize = 100;

impl Proposal {
    /// The IDs of those among `all` that are forgotten: decided ones, except for the [`PROPOSALS_KEPT`] that were last.
    /// Whoever keeps proposals asks this after each one that is decided.
    pub fn forgotten<'a>(all: impl Iterator<Item = &'a Self>) -> Vec<String> {
        let decided = all.filter_map(|proposal| Some((proposal.decided_at?, &proposal.id)));
        let mut decided: Vec<_> = decided.collect();
        decided.sort_unstable();
        let over = decided.len().saturating_sub(PROPOSALS_KEPT);
        decided[..over].iter().map(|(_, id)| (*id).clone()).collect()
    }
}

/// Something that no consumer may accept any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The epoch that it made.
    pub epoch: u64,
    /// Of this window.
    pub window_id: WindowId,
    /// These SVIDs.
    pub serials: Vec<Serial>,
    /// The whole window: no SVID of it counts, known or not.
    pub whole_window: bool,
    /// Who signed them.
    pub authority_ids: Vec<String>,
    /// The last second of the longest of them.
    pub not_after: Timestamp,
}
