//! Task definitions: what a task may do, who may run it, for how long and after whose approval.
//!
//! Written by people as TOML, immutable once defined: a change is a new version with a hash of its own. What could not be
//! safe is refused ([`Definition::check`]), with every reason at once.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest;
use mayfly_svid::Timestamp;
use serde::{Deserialize, Serialize};

use super::{GroupId, PathPattern, PersonId, TaskName};
use crate::Selectors;

mod check;

/// The longest window of an ordinary definition.
pub const WINDOW_MAX: Duration = Duration::from_secs(8 * 3600);
/// The longest window of a break-glass definition.
pub const BREAKGLASS_WINDOW_MAX: Duration = Duration::from_secs(3600);
/// The shortest life of a task SVID: less is refused and never rounded up.
pub const TTL_FLOOR: Duration = Duration::from_secs(20);
/// The longest life of a task SVID.
pub const TTL_MAX: Duration = Duration::from_secs(3600);
/// The most windows that one grant opens.
pub const USES_MAX: u32 = 100;
/// The most people that must approve.
pub const APPROVALS_MAX: u32 = 10;
/// The longest text of a definition, in bytes.
pub const DEFINITION_MAX: usize = 64 * 1024;

/// SHA-256 of a definition's content: what approvals, grants and certificates refer to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DefinitionHash(pub [u8; 32]);

/// What kind of authority a definition gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskClass {
    /// Planned work, below `/task`.
    #[default]
    Standard,
    /// Emergencies, below `/breakglass`: shorter, never unattended, reviewed before the next use.
    Breakglass,
}

/// Who runs it. It follows from how somebody authenticated, never from what a request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorClass {
    /// A process that an agent attested.
    #[default]
    Workload,
    /// A process that a person runs by hand: attested, and the user is known as a person.
    Human,
}

/// What a consumer does when it has no fresh word on what was revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Staleness {
    /// Task SVIDs are refused, and withdrawn from their holders, once no word came for the lease.
    #[default]
    Strict,
    /// They count to their expiry.
    BestEffort,
}

/// A definition as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// `<team>/<task>`.
    pub name: TaskName,
    /// What it is for, for those who approve.
    #[serde(default)]
    pub description: String,
    /// Who answers for it.
    pub owner: PersonId,
    /// Whom to call: an address or a channel, for people.
    #[serde(default)]
    pub escalation: String,
    /// What kind of authority it gives.
    #[serde(default)]
    pub class: TaskClass,
    /// Who runs it.
    #[serde(default)]
    pub actor: ActorClass,
    /// The environment, such as `prod`; the workload's must be the same. Empty: those of no environment.
    #[serde(default)]
    pub environment: String,
    /// 0 harmless to 3 critical. From 2 on a person has to approve.
    #[serde(default)]
    pub sensitivity: u8,
    /// What the holder may do, in the consumers' own words; a request may ask for fewer.
    #[serde(default)]
    pub scopes: BTreeSet<String>,
    /// No new request from this instant on, Unix seconds in records, RFC 3339 or a date in TOML.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "date")]
    pub review_by: Option<Timestamp>,
    /// Who may run it.
    pub allowed: Allowed,
    /// How long, how often.
    #[serde(default)]
    pub limits: Limits,
    /// Who must agree first.
    #[serde(default)]
    pub approval: ApprovalRule,
    /// Whether a ticket is needed.
    #[serde(default)]
    pub ticket: TicketRule,
    /// Signs of life that are expected of a holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatRule>,
    /// How it ends.
    #[serde(default)]
    pub ending: Ending,
    /// How the identity looks.
    #[serde(default)]
    pub identity: IdentityForm,
}

/// Who may run a task: one of the paths, and all of the selectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Base SPIFFE IDs, as paths of the own trust domain; at least one.
    pub workloads: BTreeSet<PathPattern>,
    /// What must hold of the process besides.
    #[serde(default)]
    pub selectors: Selectors,
}

/// How long and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest a window is open, extensions included. Default 15 min.
    #[serde(with = "humantime_serde")]
    pub max_window: Duration,
    /// The longest life of one SVID. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub max_ttl: Duration,
    /// Windows that one grant opens, one after the other or beside each other. Default 1.
    pub max_uses: u32,
    /// Windows of this task that one workload may have open at a time. Default 1.
    pub concurrency: u32,
    /// How old the process's attestation may be at a decision. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub evidence_max_age: Duration,
    /// How long a request waits for approvals or its ticket. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub request_ttl: Duration,
    /// How long a grant may wait to be opened. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub open_within: Duration,
}

/// Who must agree before a grant is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalRule {
    /// How many distinct people. 0: the policy alone decides, and may still ask for some.
    pub count: u32,
    /// The groups they must be of; each approver is in at least one.
    pub groups: BTreeSet<GroupId>,
    /// How many different ones of these groups the approvers must come from. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distinct_groups: Option<u32>,
    /// How long an approval counts, to the opening. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub valid_for: Duration,
}

/// Whether a ticket is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketRule {
    /// It must be there and open, at the opening and at each renewal.
    #[serde(default)]
    pub required: bool,
    /// It must be of one of these kinds; any if empty.
    #[serde(default)]
    pub kinds: BTreeSet<String>,
}

/// Signs of life that are expected of a holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRule {
    /// Between two.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// After so many that did not come the window closes.
    pub missed: u32,
}

/// How a window ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ending {
    /// The same workload opens no further window before the last one is settled.
    #[serde(default)]
    pub settle_before_next: bool,
    /// What happens without fresh word.
    #[serde(default)]
    pub staleness: Staleness,
    /// The consumers that enforce it: whom to believe, each text a [`CheckpointRule`](super::CheckpointRule).
    #[serde(default)]
    pub checkpoints: BTreeSet<String>,
}

/// How the identity looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityForm {
    /// The SPIFFE ID ends in `/w/<window>`: another one for each window.
    #[serde(default)]
    pub instance_id: bool,
    /// On the stream the task SVID stands before the base SVID and so is the default identity. For jobs, not for servers.
    #[serde(default)]
    pub promote_default: bool,
}

/// Why a definition could not be safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct DefinitionProblem {
    /// The key in the text, such as `limits.max_window`.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// Text that is not a definition.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DefinitionError {
    /// Too long to be one.
    #[error("the definition has {len} bytes, at most {DEFINITION_MAX} are allowed")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// It is not the TOML of a definition.
    #[error("{0}")]
    Syntax(String),
    /// It could not be safe.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Unsafe(Vec<DefinitionProblem>),
}

// === impl Definition ===

impl Definition {
    /// Reads and checks a definition.
    ///
    /// # Errors
    /// It is not TOML, has keys that are not known, or could not be safe. The text names line or key.
    pub fn parse(text: &str) -> Result<Self, DefinitionError> {
        if text.len() > DEFINITION_MAX {
            return Err(DefinitionError::TooLong { len: text.len() });
        }
        let definition: Self =
            toml::from_str(text).map_err(|error| DefinitionError::Syntax(error.to_string().trim_end().into()))?;
        let problems = definition.check();
        if problems.is_empty() {
            Ok(definition)
        } else {
            Err(DefinitionError::Unsafe(problems))
        }
    }

    /// The definition as TOML that [`Definition::parse`] reads as the same.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a definition has string keys and finite numbers only")
    }

    /// The hash of its content, by its JSON: the fields in their order, all of them, sets sorted.
    pub fn hash(&self) -> DefinitionHash {
        let mut text = b"mayfly task definition 1\n".to_vec();
        serde_json::to_writer(&mut text, self).expect("a definition has string keys and finite numbers only");
        let hash = digest::digest(&digest::SHA256, &text);
        DefinitionHash(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The first segment of the SPIFFE IDs that it gives.
    pub fn root(&self) -> &'static str {
        match self.class {
            TaskClass::Standard => "task",
            TaskClass::Breakglass => "breakglass",
        }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_window: Duration::from_secs(15 * 60),
            max_ttl: Duration::from_secs(5 * 60),
            max_uses: 1,
            concurrency: 1,
            evidence_max_age: Duration::from_secs(5 * 60),
            request_ttl: Duration::from_secs(86_400),
            open_within: an_hour(),
        }
    }
}

fn an_hour() -> Duration {
    Duration::from_secs(3600)
}

// === impl ApprovalRule ===

impl Default for ApprovalRule {
    fn default() -> Self {
        Self {
            count: 0,
            groups: BTreeSet::new(),
            distinct_groups: None,
            valid_for: an_hour(),
        }
    }
}

// === impl DefinitionHash ===

impl DefinitionHash {
    /// The first 12 hex digits, enough for people to tell versions apart.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<DefinitionHash> for String {
    fn from(hash: DefinitionHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for DefinitionHash {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash)?;
        Ok(Self(hash))
    }
}

/// An instant in TOML: a date, which means its first second in UTC, or RFC 3339, as text or as TOML's own date.
mod date {
    use mayfly_svid::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use time::format_description::well_known::{Iso8601, Rfc3339};
    use time::{Date, OffsetDateTime};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Toml(toml::value::Datetime),
    }

    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.serialize_str(&at.to_string()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Toml(date) => date.to_string(),
        };
        let instant = OffsetDateTime::parse(&text, &Rfc3339).ok();
        let day = || {
            Date::parse(&text, &Iso8601::DATE)
                .ok()
                .map(|day| day.midnight().assume_utc())
        };
        instant
            .or_else(day)
            .map(|at| Some(Timestamp::from_unix(at.unix_timestamp())))
            .ok_or_else(|| D::Error::custom(format!("`{text}` is not a date such as 2027-06-30")))
    }
}

#[cfg(test)]
mod tests;
