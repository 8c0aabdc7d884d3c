//! What is asked for: an immutable snapshot, and the digest that approvals are bound to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use mayfly_svid::{SpiffeId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ActorClass, DefinitionHash, PersonId, TaskName};
use crate::{EntryId, Selectors};

/// The longest reason, in bytes.
pub const REASON_MAX: usize = 1024;
/// The longest ticket reference, in bytes.
pub const TICKET_MAX: usize = 128;
/// The longest idempotency key, in bytes.
pub const KEY_MAX: usize = 128;
/// The most scopes, as definitions have them.
pub const SCOPES_MAX: usize = 100;
/// The longest scope, in bytes.
pub const SCOPE_MAX: usize = 128;
/// The most parameters.
pub const PARAMETERS_MAX: usize = 32;
/// The longest key of a parameter, in bytes.
pub const PARAMETER_KEY_MAX: usize = 64;
/// The longest value of a parameter, in bytes.
pub const PARAMETER_VALUE_MAX: usize = 256;

/// The ID of a request and of all that comes of it: a UUID (version 7), so that newer ones sort last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TaskId(Arc<str>);

/// Text that is not the ID of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the ID of a request")]
pub struct TaskIdError(String);

/// SHA-256 of what is asked for: who approves, approves exactly this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RequestDigest(pub [u8; 32]);

/// What is asked for, by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRequest {
    /// The task.
    pub task: TaskName,
    /// The version of its definition.
    pub definition: DefinitionHash,
    /// Base SPIFFE ID of the workload.
    pub workload: SpiffeId,
    /// The entry that gives it.
    pub entry_id: EntryId,
    /// The agent that attested the process.
    pub agent_id: SpiffeId,
    /// What kind of principal it is, by how it authenticated.
    pub actor: ActorClass,
    /// The person behind the process, if its user is known as one.
    pub person: Option<PersonId>,
    /// Who owns the workload, if that is known: they do not approve either.
    pub owner: Option<PersonId>,
    /// What held of the process.
    pub selectors: Selectors,
    /// Why. For people; authorizes nothing.
    pub reason: String,
    /// A reference in the tracker.
    pub ticket: Option<String>,
    /// How long the window shall be; at most the definition's.
    pub window: Duration,
    /// A part of the definition's, or all.
    pub scopes: BTreeSet<String>,
    /// What the task is about.
    pub parameters: BTreeMap<String, String>,
    /// The same key of the same workload and task is the same request.
    pub idempotency_key: String,
    /// When.
    pub requested_at: Timestamp,
}

/// What makes a request impossible, whatever policy says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct RequestProblem {
    /// The field of the request.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl TaskId {
    /// A fresh one.
    pub fn random() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TaskId {
    type Err = TaskIdError;

    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let refused = || TaskIdError(text.chars().take(64).collect());
        let id = uuid::Uuid::try_parse(text).map_err(|_| refused())?;
        Ok(Self(id.to_string().into()))
    }
}

impl TryFrom<String> for TaskId {
    type Error = TaskIdError;

    fn try_from(text: String) -> Result<Self, TaskIdError> {
        text.parse()
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.0.as_ref().into()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RequestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RequestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestDigest {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)?;
        Ok(Self(digest))
    }
}

impl TryFrom<String> for RequestDigest {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RequestDigest> for String {
    fn from(digest: RequestDigest) -> Self {
        digest.to_string()
    }
}

impl TaskRequest {
    /// What approvals are bound to: everything that is asked for and who asks, but not when and from which node, so that a
    /// job that comes back asks for the same.
    pub fn digest(&self) -> RequestDigest {
        // Every field by name: whoever adds one decides whether it is approved.
        let Self {
            task,
            definition,
            workload,
            entry_id: _,
            agent_id: _,
            actor,
            person,
            owner: _,
            selectors: _,
            reason,
            ticket,
            window,
            scopes,
            parameters,
            idempotency_key: _,
            requested_at: _,
        } = self;
        let mut text = b"mayfly task request 1\n".to_vec();
        let asked = (
            task,
            definition,
            workload,
            actor,
            person,
            reason,
            ticket,
            window.as_secs(),
            scopes,
            parameters,
        );
        serde_json::to_writer(&mut text, &asked).expect("a request has string keys and finite numbers only");
        let hash = digest::digest(&digest::SHA256, &text);
        RequestDigest(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Sizes and forms that hold whatever the definition says.
    pub fn check(&self) -> Vec<RequestProblem> {
        let mut problems = vec![];
        let mut refuse = |field, problem: &str| {
            problems.push(RequestProblem {
                field,
                problem: problem.into(),
            });
        };
        let is_text = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n');
        if self.reason.trim().is_empty() || self.reason.len() > REASON_MAX || !is_text(&self.reason) {
            refuse("reason", "say why, in 1 to 1024 bytes without control characters");
        }
        if let Some(ticket) = &self.ticket
            && (ticket.is_empty() || ticket.len() > TICKET_MAX || !ticket.bytes().all(|b| b.is_ascii_graphic()))
        {
            refuse("ticket", "at most 128 printable ASCII characters without space");
        }
        if self.idempotency_key.len() > KEY_MAX || !is_text(&self.idempotency_key) {
            refuse("idempotency_key", "at most 128 bytes without control characters");
        }
        let is_scope =
            |scope: &String| (1..=SCOPE_MAX).contains(&scope.len()) && scope.bytes().all(|b| b.is_ascii_graphic());
        if self.scopes.len() > SCOPES_MAX || !self.scopes.iter().all(is_scope) {
            refuse(
                "scopes",
                "at most 100, each 1 to 128 printable ASCII characters without space",
            );
        }
        let is_key = |key: &String| {
            (1..=PARAMETER_KEY_MAX).contains(&key.len())
                && key
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        };
        let is_value = |value: &String| value.len() <= PARAMETER_VALUE_MAX && is_text(value);
        if self.parameters.len() > PARAMETERS_MAX
            || !self.parameters.keys().all(is_key)
            || !self.parameters.values().all(is_value)
        {
            refuse(
                "parameters",
                "at most 32, keys of 1 to 64 of a-z 0-9 . _ -, values up to 256 bytes without control characters",
            );
        }
        problems
    }
}
