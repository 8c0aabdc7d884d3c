//! The register of exceptions: who may have standing power, what that does to issuing, and its end (S6).
//!
//! Granting, renewing and giving back go the way of definitions and policies (`changes`): one person who is not the
//! exception's owner, or two where the settings want it. Ending needs nobody else.
//!
//! Not here: what may follow what (`mayfly_model::Exception`), how it is recorded (`mayfly-store`).

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::{
    ADMIN_SCOPE, Actor, Change, Conflict, DOWNSTREAM_SCOPE, Entry, ErrorKind, Excepted, Exception, ExceptionProblem,
    ExceptionState, ExceptionStep, Step, reserved_path,
};
use mayfly_runtime::{CancellationToken, Chain, Clock};
use mayfly_svid::{SpiffeId, Timestamp};
use tracing::{info, warn};

use super::changes::By;
use super::people::People;
use crate::commit::{CommitError, Committer, Snapshot};

/// Exceptions that are not ended, at most: a register that nobody can read is none.
const REGISTER_MAX: usize = 1_000;
/// The wall clock may step; nothing sleeps longer than this without looking at it again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After a commit that did not happen.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Why an exception is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExceptionError {
    /// It does not say what it has to.
    #[error(transparent)]
    Problem(#[from] ExceptionProblem),
    /// Its owner is nobody.
    #[error("owner: `{0}` is nobody whom the server knows; an administrator can add a `[[people]]` section")]
    UnknownOwner(String),
    /// Exceptions are for base identities.
    #[error("identity: `{0}` is no base identity of this trust domain, and others have no standing power here")]
    NoBaseIdentity(String),
    /// There is no such entry.
    #[error("identity: there is no entry `{0}`")]
    NoSuchEntry(String),
    /// The owner may not agree to it.
    #[error("the owner of an exception does not agree to it; somebody else has to")]
    Own,
    /// An entry still has the power.
    #[error("entry `{entry}` still has {rights}; take that away first, then end the exception")]
    PowerRemains {
        /// Which.
        entry: String,
        /// `admin`, `downstream` or both.
        rights: String,
    },
    /// There are many.
    #[error("there are {REGISTER_MAX} exceptions that nobody ended; end some first")]
    Full,
    /// None of that ID.
    #[error("there is no exception `{0}`; `mayfly task exception list` shows them")]
    NotFound(String),
}

/// Whether standing power is covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// No exception names it, or the power was given back.
    Unnamed,
    /// Until then, exclusive.
    Until(Timestamp),
    /// The exception that named it is over.
    Over {
        /// Which.
        id: String,
    },
}

/// Whether the power of an entry is covered now. Of two exceptions, one of the entry and one of its identity, the one that
/// is over counts.
pub fn cover(snapshot: &Snapshot, entry: &Entry, now: Timestamp) -> Cover {
    covered_by(snapshot.exceptions_of_entry(entry), now)
}

/// The same of an identity, whoever gives it.
pub fn cover_of(snapshot: &Snapshot, id: &SpiffeId, now: Timestamp) -> Cover {
    covered_by(snapshot.exception_of(&Excepted::Identity(id.clone())).into_iter(), now)
}

fn covered_by<'a>(exceptions: impl Iterator<Item = &'a Arc<Exception>>, now: Timestamp) -> Cover {
    let mut cover = Cover::Unnamed;
    for exception in exceptions {
        if exception.stops(now) {
            return Cover::Over {
                id: exception.id.clone(),
            };
        }
        if exception.is_in_force(now) {
            let end = exception.expires_at;
            cover = Cover::Until(match cover {
                Cover::Until(other) => other.min(end),
                _ => end,
            });
        }
    }
    cover
}

/// The power over this server that an entry has, as exceptions name it.
pub fn power_of(entry: &Entry) -> impl Iterator<Item = &'static str> {
    let rights = [
        (entry.spec.admin, ADMIN_SCOPE),
        (entry.spec.downstream, DOWNSTREAM_SCOPE),
    ];
    rights.into_iter().filter(|(has, _)| *has).map(|(_, scope)| scope)
}

/// Whether what somebody wants to happen to the exception `id` makes sense now.
///
/// # Errors
/// It does not.
pub fn check(by: By<'_>, people: &People, id: &str, change: &ExceptionStep) -> Result<(), ExceptionError> {
    change.check(by.now)?;
    let present = by.snapshot.exception(id);
    let found = || present.ok_or_else(|| ExceptionError::NotFound(id.chars().take(64).collect()));
    match change {
        ExceptionStep::Grant { exception } => {
            if !people.is_known(&exception.owner) {
                return Err(ExceptionError::UnknownOwner(exception.owner.to_string()));
            }
            check_identity(&exception.identity, by.snapshot)?;
            let kept = by
                .snapshot
                .exceptions()
                .filter(|kept| kept.state != ExceptionState::Ended);
            if kept.count() >= REGISTER_MAX {
                return Err(ExceptionError::Full);
            }
        }
        ExceptionStep::Renew { .. } => {
            let owner = &found()?.owner;
            if !people.is_known(owner) {
                return Err(ExceptionError::UnknownOwner(owner.to_string()));
            }
        }
        ExceptionStep::End { power_removed: true } => power_is_gone(found()?, by)?,
        ExceptionStep::End { power_removed: false } | ExceptionStep::Expire => {
            found()?;
        }
    }
    Ok(())
}

/// Whether `by` is somebody else than the one who answers for it.
///
/// # Errors
/// It is the same.
pub fn agrees(by: By<'_>, id: &str, change: &ExceptionStep) -> Result<(), ExceptionError> {
    let owner = match change {
        ExceptionStep::Grant { exception } => Some(&exception.owner),
        _ => by.snapshot.exception(id).map(|present| &present.owner),
    };
    match owner {
        Some(owner) if owner.as_str() == by.standing.author() => Err(ExceptionError::Own),
        _ => Ok(()),
    }
}

fn check_identity(identity: &Excepted, snapshot: &Snapshot) -> Result<(), ExceptionError> {
    match identity {
        Excepted::Identity(id) if id.is_member_of(snapshot.trust_domain()) && reserved_path(id).is_none() => Ok(()),
        Excepted::Identity(id) => Err(ExceptionError::NoBaseIdentity(id.to_string())),
        Excepted::Entry(id) if snapshot.entry(id).is_some() => Ok(()),
        Excepted::Entry(id) => Err(ExceptionError::NoSuchEntry(id.to_string())),
    }
}

/// What this server itself can see of the power.
fn power_is_gone(exception: &Exception, by: By<'_>) -> Result<(), ExceptionError> {
    let is_meant = |entry: &&Arc<Entry>| match &exception.identity {
        Excepted::Identity(id) => entry.spec.spiffe_id == *id,
        // This one, or one that was made in its place.
        Excepted::Entry(_) => {
            let mut counting = by.snapshot.exceptions_of_entry(entry);
            counting.any(|counting| counting.id == exception.id)
        }
    };
    let live = |entry: &&Arc<Entry>| !entry.is_expired(by.now);
    match by.snapshot.privileged_entries().filter(live).find(is_meant) {
        None => Ok(()),
        Some(entry) => Err(ExceptionError::PowerRemains {
            entry: entry.id.to_string(),
            rights: power_of(entry).collect::<Vec<_>>().join(" and "),
        }),
    }
}

/// Ends an exception before its time: its identity gets nothing any more.
///
/// # Errors
/// There is none, it is ended already, or it could not be stored.
///
/// # Cancel safety
/// Dropping the future does not undo what was handed to the committer.
pub async fn end(committer: &Committer, by: By<'_>, id: &str) -> Result<Arc<Exception>, CommitError> {
    let step = Step {
        actor: by.actor.clone(),
        time: by.now,
        change: Change::ExceptionStep {
            id: id.to_owned(),
            step: Box::new(ExceptionStep::End { power_removed: false }),
            approved_by: by.standing.author(),
        },
    };
    committer.commit(step).await?;
    let ended = committer.snapshot().exception(id).cloned();
    Ok(ended.ok_or(Conflict::ExceptionNotFound)?)
}

/// What a step would do, in words, for who decides about it.
pub fn describe(id: &str, change: &ExceptionStep) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{name}: {value}").expect("a string takes all");
    };
    line("exception", &id);
    match change {
        ExceptionStep::Grant { exception } => {
            line("step", &"grant");
            line("identity", &exception.identity);
            line("allows", &exception.allows);
            line(
                "scopes",
                &exception.scopes.iter().cloned().collect::<Vec<_>>().join(", "),
            );
            line("owner", &exception.owner);
            line("reason", &exception.reason);
            line("compensating control", &exception.compensating_control);
            line("expires", &exception.expires_at);
        }
        ExceptionStep::Renew { expires_at, reason } => {
            line("step", &"renew");
            line("reason", reason);
            line("expires", expires_at);
        }
        ExceptionStep::End { power_removed } => {
            line("step", &"end");
            line("power removed", power_removed);
        }
        ExceptionStep::Expire => line("step", &"expire"),
    }
    text
}

/// Notes the end of each exception at its instant. That nothing is issued from then on does not wait for it.
pub async fn expire(committer: Committer, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let mut revision = committer.revision();
    loop {
        let now: Timestamp = clock.now().into();
        let due = committer.snapshot().next_exception_end();
        let pause = match due {
            Some((end, id)) if end <= now => {
                let step = Step {
                    actor: Actor::server(),
                    time: now,
                    change: Change::ExceptionStep {
                        id: id.clone(),
                        step: Box::new(ExceptionStep::Expire),
                        approved_by: String::new(),
                    },
                };
                match committer.commit(step).await {
                    Ok(_) => {
                        info!(exception_id = id, "exception expired: its identity gets no more SVIDs");
                        Duration::ZERO
                    }
                    // Somebody else ended or renewed it, as the next snapshot tells.
                    Err(CommitError::Conflict(_)) => TRY_AGAIN,
                    Err(failure) => {
                        warn!(exception_id = id, error = %Chain(&failure), "that an exception expired is not noted yet");
                        TRY_AGAIN
                    }
                }
            }
            Some((end, _)) => end.since(now).min(LOOK_AGAIN),
            None => LOOK_AGAIN,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = revision.changed() => if changed.is_err() { return },
        }
    }
}

impl ExceptionError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Problem(_) | Self::UnknownOwner(_) | Self::NoBaseIdentity(_) | Self::NoSuchEntry(_) => {
                ErrorKind::InvalidArgument
            }
            Self::Own => ErrorKind::PermissionDenied,
            Self::PowerRemains { .. } => ErrorKind::FailedPrecondition,
            Self::Full => ErrorKind::ResourceExhausted,
            Self::NotFound(_) => ErrorKind::NotFound,
        }
    }
}

#[cfg(test)]
mod tests;
