//! The register of exceptions: standing power that somebody answers for, for a time (S6).
//!
//! ```text
//!   Grant ─▶ InForce ─┬─ Expire ─▶ Expired ─┐
//!               ▲ └───┼── End ───▶ Ended  ◀─┘ End
//!               └ Renew ◀── Expired
//! ```
//!
//! An identity has one exception at a time, its newest. Once that is over its identity gets no SVIDs, until another one is
//! granted, it is renewed, or somebody ends it with the word that the power was taken away. One that names an entry is about
//! what that entry gives to whom ([`Given`]): another entry that gives the same stands where that one stood.
//!
//! Not here: who may grant one (`server/src/app/exceptions.rs`), and what it does to issuing (`server/src/app/issue.rs`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mayfly_svid::{SpiffeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::task::{PersonId, REASON_MAX, SCOPE_MAX, SCOPES_MAX};
use crate::{Conflict, EntryId, EntryIdError, EntrySpec};

/// The longest exception, and the most that a renewal adds to the time at which it is made.
pub const EXCEPTION_MAX: Duration = Duration::from_secs(90 * 86_400);

/// The scope of an exception that covers an entry with `admin`.
pub const ADMIN_SCOPE: &str = "mayfly:admin";
/// The scope of an exception that covers an entry with `downstream`.
pub const DOWNSTREAM_SCOPE: &str = "mayfly:downstream";

/// Who has standing power: all entries that give a SPIFFE ID, or one entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Excepted {
    /// A base identity.
    Identity(SpiffeId),
    /// An entry.
    Entry(EntryId),
}

/// What an entry gives to whom: the power that an exception of it is about. The entry's ID is no name for that, as whoever
/// deletes it can make it again with another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Given {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// Below whom.
    pub parent_id: SpiffeId,
}

/// Text that names nobody.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ExceptedError {
    /// It begins as a SPIFFE ID and is none.
    #[error(transparent)]
    Identity(#[from] mayfly_svid::IdError),
    /// It is no ID of an entry either.
    #[error("is neither a SPIFFE ID nor the ID of an entry: {0}")]
    Entry(#[from] EntryIdError),
}

/// Where an exception stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExceptionState {
    /// It covers its identity, until its end.
    InForce,
    /// Its end has come.
    Expired,
    /// Somebody ended it.
    Ended,
}

/// Standing power that somebody answers for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// A UUID, version 7.
    pub id: String,
    /// Who has it.
    pub identity: Excepted,
    /// What it may do, for people.
    pub allows: String,
    /// The same, as definitions and policies name it.
    pub scopes: BTreeSet<String>,
    /// Who answers for it.
    pub owner: PersonId,
    /// Why it cannot be a task.
    pub reason: String,
    /// What is done instead, so that it does no harm.
    pub compensating_control: String,
    /// Who agreed to it, the last time.
    pub approved_by: String,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// When somebody agreed to it, the last time.
    pub approved_at: Timestamp,
    /// The first instant at which it does not cover any more.
    pub expires_at: Timestamp,
    /// How often it was renewed.
    pub renewals: u32,
    /// Where it stands.
    pub state: ExceptionState,
    /// When it was ended or expired.
    pub ended_at: Option<Timestamp>,
    /// It was ended because the identity has no standing power any more.
    pub power_removed: bool,
    /// What the entry that it names gave when it was granted; none where it names an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives: Option<Given>,
}

/// What happens to an exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum ExceptionStep {
    /// It is granted. Its state, times and approval are those of the commit.
    Grant {
        /// It.
        exception: Box<Exception>,
    },
    /// Somebody looked at it again.
    Renew {
        /// Its new end.
        expires_at: Timestamp,
        /// Why it is still there.
        reason: String,
    },
    /// It is over before its time, or was over already.
    End {
        /// The identity has no standing power any more: it is one like any other.
        power_removed: bool,
    },
    /// Its end has come.
    Expire,
}

/// Something about an exception that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ExceptionProblem {
    /// Which part.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Exception {
    /// Whether it covers its identity at `now`. Its end counts whether or not somebody has noted it.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.state == ExceptionState::InForce && now < self.expires_at
    }

    /// Whether its identity gets nothing because of it.
    pub fn stops(&self, now: Timestamp) -> bool {
        !self.power_removed && !self.is_in_force(now)
    }

    /// What it is after `step`, agreed to by `by`. `newest` is the one of its identity that was granted last, which is this
    /// one unless it is being granted.
    ///
    /// # Errors
    /// It cannot happen to it.
    pub fn after(
        present: Option<&Self>,
        newest: Option<&Self>,
        step: &ExceptionStep,
        by: &str,
        now: Timestamp,
    ) -> Result<Self, Conflict> {
        let replaced_by = |id: &str| newest.filter(|newest| newest.id != id).map(|newest| newest.id.clone());
        match (step, present) {
            (ExceptionStep::Grant { exception }, None) => {
                if let Some(newest) = newest.filter(|newest| newest.is_in_force(now)) {
                    return Err(Conflict::ExceptionExists(newest.id.clone()));
                }
                if exception.expires_at <= now {
                    return Err(Conflict::ExceptionOver);
                }
                Ok(Self {
                    approved_by: by.to_owned(),
                    granted_at: now,
                    approved_at: now,
                    renewals: 0,
                    state: ExceptionState::InForce,
                    ended_at: None,
                    power_removed: false,
                    ..exception.as_ref().clone()
                })
            }
            (ExceptionStep::Grant { exception }, Some(_)) => Err(Conflict::ExceptionExists(exception.id.clone())),
            (_, None) => Err(Conflict::ExceptionNotFound),
            (ExceptionStep::Renew { expires_at, reason }, Some(present)) => {
                if let Some(other) = replaced_by(&present.id) {
                    return Err(Conflict::ExceptionExists(other));
                }
                if present.state == ExceptionState::Ended || *expires_at <= now {
                    return Err(Conflict::ExceptionOver);
                }
                Ok(Self {
                    reason: reason.clone(),
                    approved_by: by.to_owned(),
                    approved_at: now,
                    expires_at: *expires_at,
                    renewals: present.renewals.saturating_add(1),
                    state: ExceptionState::InForce,
                    ended_at: None,
                    ..present.clone()
                })
            }
            (ExceptionStep::End { power_removed }, Some(present)) => {
                let is_news = present.state != ExceptionState::Ended || (*power_removed && !present.power_removed);
                if !is_news {
                    return Err(Conflict::ExceptionOver);
                }
                Ok(Self {
                    state: ExceptionState::Ended,
                    ended_at: present.ended_at.or(Some(now)),
                    power_removed: *power_removed,
                    ..present.clone()
                })
            }
            (ExceptionStep::Expire, Some(present)) => {
                if present.state != ExceptionState::InForce || now < present.expires_at {
                    return Err(Conflict::ExceptionNotDue);
                }
                Ok(Self {
                    state: ExceptionState::Expired,
                    ended_at: Some(now),
                    ..present.clone()
                })
            }
        }
    }

    /// Whether texts, scopes and end are as they have to be, for one that is granted at `now`.
    ///
    /// # Errors
    /// The first thing that is not.
    pub fn check(&self, now: Timestamp) -> Result<(), ExceptionProblem> {
        let texts = [
            ("allows", &self.allows),
            ("reason", &self.reason),
            ("compensating_control", &self.compensating_control),
        ];
        for (field, text) in texts {
            check_text(field, text)?;
        }
        let is_scope =
            |scope: &String| (1..=SCOPE_MAX).contains(&scope.len()) && scope.bytes().all(|b| b.is_ascii_graphic());
        if self.scopes.len() > SCOPES_MAX || !self.scopes.iter().all(is_scope) {
            let problem = format!("at most {SCOPES_MAX} scopes of 1 to {SCOPE_MAX} printable ASCII characters");
            return Err(ExceptionProblem {
                field: "scopes",
                problem,
            });
        }
        check_end(self.expires_at, now)
    }
}

impl Given {
    /// By an entry that says this.
    pub fn by(spec: &EntrySpec) -> Self {
        Self {
            spiffe_id: spec.spiffe_id.clone(),
            parent_id: spec.parent_id.clone(),
        }
    }
}

impl ExceptionStep {
    /// Whether a renewal is as it has to be at `now`.
    ///
    /// # Errors
    /// Its reason or its end is not.
    pub fn check(&self, now: Timestamp) -> Result<(), ExceptionProblem> {
        match self {
            Self::Grant { exception } => exception.check(now),
            Self::Renew { expires_at, reason } => {
                check_text("reason", reason)?;
                check_end(*expires_at, now)
            }
            Self::End { .. } | Self::Expire => Ok(()),
        }
    }
}

fn check_text(field: &'static str, text: &str) -> Result<(), ExceptionProblem> {
    let problem = if text.trim().is_empty() {
        "say it in words; an exception that nobody can explain is none".to_owned()
    } else if text.len() > REASON_MAX {
        format!("has {} bytes, at most {REASON_MAX} are allowed", text.len())
    } else if text.chars().any(|c| c.is_control() && c != '\n') {
        "has control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(ExceptionProblem { field, problem })
}

fn check_end(expires_at: Timestamp, now: Timestamp) -> Result<(), ExceptionProblem> {
    let problem = if expires_at <= now {
        "is not in the future".to_owned()
    } else if expires_at > now.plus(EXCEPTION_MAX) {
        "is more than 90 days away; grant less, and look at it again then".to_owned()
    } else {
        return Ok(());
    };
    let field = "expires_at";
    Err(ExceptionProblem { field, problem })
}

impl ExceptionState {
    /// The word for it in answers and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::InForce => "in_force",
            Self::Expired => "expired",
            Self::Ended => "ended",
        }
    }
}

impl FromStr for Excepted {
    type Err = ExceptedError;

    fn from_str(text: &str) -> Result<Self, ExceptedError> {
        // No ID of an entry has a colon.
        if text.contains(':') {
            Ok(Self::Identity(text.parse()?))
        } else {
            Ok(Self::Entry(text.parse()?))
        }
    }
}

impl fmt::Display for Excepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => id.fmt(f),
            Self::Entry(id) => id.fmt(f),
        }
    }
}

impl TryFrom<String> for Excepted {
    type Error = ExceptedError;

    fn try_from(text: String) -> Result<Self, ExceptedError> {
        text.parse()
    }
}

impl From<Excepted> for String {
    fn from(excepted: Excepted) -> Self {
        excepted.to_string()
    }
}

#[cfg(test)]
mod tests;
