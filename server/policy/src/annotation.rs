//! What a policy says beside yes and no.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use mayfly_model::task::{APPROVALS_MAX, ApprovalRule, GroupId, TTL_FLOOR, TTL_MAX, WINDOW_MAX};
use serde::{Deserialize, Serialize};

/// The annotations that there are.
pub(crate) const KNOWN: [&str; 6] = ["id", "reason", "approvals", "ttl_cap", "window_cap", "obligation"];

/// What comes with a permission: the strictest of all permits that applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obligations {
    /// Who has to agree; each rule must be met. The definition's own comes first. Empty: nobody.
    pub approvals: Vec<ApprovalRule>,
    /// No SVID lives longer.
    #[serde(with = "humantime_serde")]
    pub ttl_cap: Option<Duration>,
    /// No window is open longer.
    #[serde(with = "humantime_serde")]
    pub window_cap: Option<Duration>,
    /// What is to be done afterwards.
    pub duties: BTreeSet<Duty>,
}

/// Something to be done because of a window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Duty {
    /// Somebody reviews what was done, so soon after the window closed.
    PostReview(#[serde(with = "humantime_serde")] Duration),
}

/// The annotations of one policy, read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Annotations {
    pub(crate) reason: Option<String>,
    pub(crate) approvals: Option<ApprovalRule>,
    pub(crate) ttl_cap: Option<Duration>,
    pub(crate) window_cap: Option<Duration>,
    pub(crate) duty: Option<Duty>,
}

impl Obligations {
    /// Adds what `more` demands.
    pub(crate) fn add(&mut self, more: &Annotations) {
        let strictest = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        self.ttl_cap = strictest(self.ttl_cap, more.ttl_cap);
        self.window_cap = strictest(self.window_cap, more.window_cap);
        if let Some(rule) = &more.approvals
            && !self.approvals.contains(rule)
        {
            self.approvals.push(rule.clone());
        }
        if let Some(Duty::PostReview(within)) = more.duty {
            let sooner = self.duties.iter().map(|Duty::PostReview(due)| *due).min();
            let within = sooner.map_or(within, |due| due.min(within));
            self.duties = [Duty::PostReview(within)].into();
        }
    }
}

impl Annotations {
    /// Reads `key` with `value`; `is_permit` says of what kind the policy is.
    pub(crate) fn read(&mut self, key: &str, value: &str, is_permit: bool) -> Result<(), String> {
        if !KNOWN.contains(&key) {
            let near = KNOWN.iter().min_by_key(|known| strsim::damerau_levenshtein(known, key));
            let near = near.expect("there are some");
            return Err(format!(
                "`@{key}` is no annotation here; did you mean `@{near}`? There are: @{}",
                KNOWN.join(", @")
            ));
        }
        if !is_permit && !matches!(key, "id" | "reason") {
            return Err(format!(
                "`@{key}` says what comes with a permission; a forbid gives none"
            ));
        }
        match key {
            "reason" => self.reason = Some(text(value)?),
            "approvals" => self.approvals = Some(rule(value)?),
            "ttl_cap" => self.ttl_cap = Some(duration(value, TTL_FLOOR, TTL_MAX)?),
            "window_cap" => self.window_cap = Some(duration(value, TTL_FLOOR, WINDOW_MAX)?),
            "obligation" => self.duty = Some(duty(value)?),
            _ => {}
        }
        Ok(())
    }
}

fn text(value: &str) -> Result<String, String> {
    if (1..=512).contains(&value.len()) && !value.chars().any(char::is_control) {
        Ok(value.into())
    } else {
        Err("a reason has 1 to 512 bytes without control characters".into())
    }
}

fn duration(value: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let shown = |duration| humantime::format_duration(duration);
    let parsed =
        humantime::parse_duration(value).map_err(|e| format!("`{value}` is not a duration such as 120s: {e}"))?;
    if (least..=most).contains(&parsed) && parsed.subsec_nanos() == 0 {
        Ok(parsed)
    } else {
        let (least, most) = (shown(least), shown(most));
        Err(format!("`{value}` is not whole seconds between {least} and {most}"))
    }
}

/// `N:group` or `N:group,group`.
fn rule(value: &str) -> Result<ApprovalRule, String> {
    let shape =
        || format!("`{value}` is not a number of people and their groups, such as 2:sre-leads or 2:sre,pay/leads");
    let (count, groups) = value.split_once(':').ok_or_else(shape)?;
    let count: u32 = count.parse().map_err(|_| shape())?;
    if !(1..=APPROVALS_MAX).contains(&count) {
        return Err(format!(
            "`{value}` wants {count} people; between 1 and {APPROVALS_MAX} can be wanted"
        ));
    }
    let groups = groups
        .split(',')
        .map(|group| group.trim().parse::<GroupId>().map_err(|e| e.to_string()))
        .collect::<Result<_, _>>()?;
    Ok(ApprovalRule {
        count,
        groups,
        ..ApprovalRule::default()
    })
}

/// `post-review:24h`.
fn duty(value: &str) -> Result<Duty, String> {
    let day = Duration::from_secs(86_400);
    match value.split_once(':') {
        Some(("post-review", within)) => Ok(Duty::PostReview(duration(within, Duration::from_secs(60), 30 * day)?)),
        _ => Err(format!("`{value}` is no obligation; there is post-review:24h")),
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PostReview(within) => write!(f, "post-review:{}", humantime::format_duration(*within)),
        }
    }
}
