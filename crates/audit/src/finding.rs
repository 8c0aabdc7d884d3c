//! What somebody should look at.

mod codes;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use codes::{CODES, Code, remedy};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The claim of the report does not hold.
    Critical,
    /// Somebody has standing power, or could have.
    High,
    /// A control does not do what it is there for.
    Medium,
    /// Worth knowing.
    Low,
}

/// Something that somebody should look at. What is private in it is shown as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable word; [`CODES`] has them all.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a window, an identity, a person, a task.
    pub subject: String,
    /// Since when, in Unix seconds.
    pub since: i64,
    /// What is wrong, for people.
    pub message: String,
    /// Entries of the log that show it; the first ones if there are many.
    pub evidence: Vec<u64>,
}

/// From where on something is a finding. Durations in seconds, shares in thousandths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// A window is unsettled when it ended so long ago. An hour is the longest life of a task SVID.
    pub settle_within: i64,
    /// A window is not ended when it was over so long ago.
    pub end_within: i64,
    /// People who agree with a median latency below this do not read.
    pub approval_seconds: i64,
    /// If they agreed so often.
    pub approval_count: u64,
    /// People who never refused, of so many.
    pub never_refused: u64,
    /// The share of approvals within one's own groups, of `approval_count` at least.
    pub self_group_permille: u64,
    /// So many identical requests within `loop_period` are a loop.
    pub loop_requests: u64,
    /// See `loop_requests`.
    pub loop_period: i64,
    /// Windows of one workload and task that begin so soon after the last one's end are a chain.
    pub chain_gap: i64,
    /// Of so many windows.
    pub chain_windows: u64,
    /// Which gave authority for so long.
    pub chain_seconds: i64,
    /// A window that was extended so often.
    pub extensions: u64,
    /// The share of the period in which one workload may have one task.
    pub duty_permille: u64,
    /// The same of any single day (UTC).
    pub duty_day_permille: u64,
    /// A privileged identity may be without an exception for so long after it was made.
    pub exception_grace: i64,
    /// The longest exception.
    pub exception_max: i64,
    /// Break-glass is to be looked at so soon after its window ended.
    pub review_within: i64,
    /// So many uses of one break-glass definition within the period are too many.
    pub breakglass_uses: u64,
    /// A definition that was not used for so long.
    pub dormant: i64,
    /// Instants within the period, besides one each hour, at which authority is compared.
    pub random_instants: u64,
    /// The most rows of a table; the rest is counted.
    pub rows: u64,
    /// The most entries that a finding names.
    pub evidence: u64,
}

/// What a report is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Scope {
    /// Everything.
    #[default]
    All,
    /// The tasks of a team.
    Team(String),
    /// One task, `<team>/<task>`.
    Task(String),
    /// One workload, or those below a path that ends in `/*`.
    Workload(String),
    /// What a person answers for.
    Owner(String),
}

/// Text that is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no scope: write `all`, `team:pay`, `task:pay/migrate`, `workload:spiffe://…` (also with `/*`) or `owner:ann`"
)]
pub struct ScopeError(String);

impl Default for Thresholds {
    fn default() -> Self {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        Self {
            settle_within: HOUR + 15 * MINUTE,
            end_within: 5 * MINUTE,
            approval_seconds: 5,
            approval_count: 5,
            never_refused: 50,
            self_group_permille: 800,
            loop_requests: 24,
            loop_period: DAY,
            chain_gap: 2 * MINUTE,
            chain_windows: 6,
            chain_seconds: 2 * HOUR,
            extensions: 8,
            duty_permille: 250,
            duty_day_permille: 750,
            exception_grace: HOUR,
            exception_max: 90 * DAY,
            review_within: DAY,
            breakglass_uses: 5,
            dormant: 90 * DAY,
            random_instants: 256,
            rows: 1_000,
            evidence: 20,
        }
    }
}

impl Scope {
    /// Whether a task, held or asked for by `workload` and answered for by `owner`, is meant.
    pub fn means(&self, task: &str, workload: &str, owner: &str) -> bool {
        match self {
            Self::All => true,
            Self::Team(team) => task.split_once('/').is_some_and(|(of, _)| of == team),
            Self::Task(name) => task == name,
            Self::Workload(_) => self.means_identity(workload),
            Self::Owner(person) => owner == person,
        }
    }

    /// Whether an identity by itself is meant; only `all` and `workload:` say so.
    pub fn means_identity(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Workload(pattern) => match pattern.strip_suffix("/*") {
                Some(above) => id.strip_prefix(above).is_some_and(|rest| rest.starts_with('/')),
                None => id == pattern,
            },
            _ => false,
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let rest = |what: &str| {
            text.strip_prefix(what)
                .filter(|rest| !rest.is_empty())
                .map(str::to_owned)
        };
        if text == "all" {
            return Ok(Self::All);
        }
        rest("team:")
            .map(Self::Team)
            .or_else(|| rest("task:").map(Self::Task))
            .or_else(|| rest("workload:").map(Self::Workload))
            .or_else(|| rest("owner:").map(Self::Owner))
            .ok_or_else(|| ScopeError(text.into()))
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;

    fn try_from(text: String) -> Result<Self, ScopeError> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Team(team) => write!(f, "team:{team}"),
            Self::Task(task) => write!(f, "task:{task}"),
            Self::Workload(id) => write!(f, "workload:{id}"),
            Self::Owner(person) => write!(f, "owner:{person}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_written_as_they_are_read() {
        for text in ["all", "team:pay", "task:pay/x", "workload:spiffe://td/a/*", "owner:ann"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        assert!("pay".parse::<Scope>().is_err() && "team:".parse::<Scope>().is_err());
    }

    #[test]
    fn a_scope_ends_at_a_slash() {
        let below: Scope = "workload:spiffe://td/ns/*".parse().unwrap();
        assert!(below.means("a/b", "spiffe://td/ns/x/y", ""));
        assert!(!below.means("a/b", "spiffe://td/nsx", "") && !below.means("a/b", "spiffe://td/ns", ""));
        let team: Scope = "team:pay".parse().unwrap();
        assert!(team.means("pay/x", "w", "") && !team.means("payroll/x", "w", "") && !team.means_identity("pay"));
    }
}
