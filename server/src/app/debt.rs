//! What stands: the log of a period, measured and judged, and the state as it is at this moment beside it.
//!
//! The analysis is `mayfly-audit`'s, the same that makes the report. The log is read for it by [`Measuring`], which keeps
//! what it read.
//!
//! Not here: standing power that is excepted (`exceptions`), metrics (`meter`), what a report looks like (the CLI).

mod measuring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mayfly_audit::meter::View;
use mayfly_audit::{Scope, Thresholds};
use mayfly_model::task::{Definition, Stage, Task, Window};
use mayfly_model::{Entry, ErrorKind, Exception, ExceptionState};
use mayfly_svid::Timestamp;

use super::archive::ArchiveError;
use super::checkpoints::{Checkpoints, Enforced};
use super::exceptions::power_of;
use crate::commit::Snapshot;

pub use measuring::{Measured, Measuring};

/// The longest period: ten years.
const PERIOD_MAX: i64 = 3_660 * 86_400;
/// The period of who does not say.
const PERIOD: i64 = 30 * 86_400;
/// A review that is due so soon is told.
const REVIEW_AHEAD: Duration = Duration::from_secs(14 * 86_400);
/// The most rows of a table.
const ROWS_MAX: usize = 1_000;

/// What was asked is no period.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebtError {
    /// Not a period.
    #[error("since, until: a period begins before it ends, after 1970, and is at most ten years long")]
    Period,
    /// Not a scope.
    #[error("scope: {0}")]
    Scope(#[from] mayfly_audit::finding::ScopeError),
    /// The log could not be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// A review that is due, or soon will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueReview {
    /// `break-glass` or `definition`.
    pub kind: &'static str,
    /// The request or the task.
    pub subject: String,
    /// Who answers for the task.
    pub owner: String,
    /// When it is due; of break-glass when it was asked for.
    pub due: Timestamp,
}

/// What definitions count on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRow {
    /// As they name it.
    pub rule: String,
    /// Which ones do.
    pub tasks: BTreeSet<String>,
    /// What it does.
    pub enforced: Enforced,
}

/// What stands at this moment, each list with the worst first.
#[derive(Debug, Default)]
pub struct Standing {
    /// Exceptions that are not ended, and those that still stop their identity.
    pub exceptions: Vec<Arc<Exception>>,
    /// Windows that ended and are not settled, with their tasks.
    pub unsettled: Vec<(Arc<Task>, Window)>,
    /// Reviews.
    pub reviews: Vec<DueReview>,
    /// Entries with power over this server, and the exception in force that covers each.
    pub privileged: Vec<(Arc<Entry>, Option<Arc<Exception>>)>,
    /// Consumers that definitions count on.
    pub checkpoints: Vec<CheckpointRow>,
}

/// The period from `since` to `until`, both of which may be 0 for what is usual, about `scope`.
///
/// # Errors
/// It is none.
pub fn period(since: i64, until: i64, scope: &str, now: Timestamp) -> Result<View, DebtError> {
    let to = if until == 0 { now.unix() } else { until };
    let from = if since == 0 {
        to.saturating_sub(PERIOD).max(0)
    } else {
        since
    };
    if from < 0 || from >= to || to.checked_sub(from).is_none_or(|length| length > PERIOD_MAX) {
        return Err(DebtError::Period);
    }
    let scope = if scope.is_empty() { Scope::All } else { scope.parse()? };
    let thresholds = Thresholds::default();
    Ok(View {
        from,
        to,
        scope,
        thresholds,
    })
}

impl Standing {
    /// As of a state. `checkpoints` is what consumers say.
    pub fn of(snapshot: &Snapshot, checkpoints: &Checkpoints, now: Timestamp) -> Self {
        let mut exceptions: Vec<_> = snapshot
            .exceptions()
            .filter(|exception| exception.state != ExceptionState::Ended || is_stopping(snapshot, exception, now))
            .cloned()
            .collect();
        sort_exceptions(&mut exceptions, now);
        let mut unsettled = vec![];
        let mut reviews = vec![];
        for task in snapshot.live_tasks() {
            let ended = |window: &&Window| !window.stage.is_live_window() && window.stage != Stage::Settled;
            let ended = task.windows.iter().filter(ended);
            unsettled.extend(ended.map(|window| (task.clone(), window.clone())));
            if task.review_due {
                let version = snapshot.definition(&task.request.task);
                reviews.push(DueReview {
                    kind: "break-glass",
                    subject: task.id.to_string(),
                    owner: version.map_or(String::new(), |version| version.definition.owner.to_string()),
                    due: task.request.requested_at,
                });
            }
        }
        let given_up = |window: &Window| window.stage == Stage::RevocationIncomplete;
        unsettled.sort_by_key(|(_, window)| (!given_up(window), window.closed_at, window.id));
        let definitions = || in_force(snapshot);
        reviews.extend(definitions().filter_map(|definition| {
            let due = definition.review_by.filter(|due| *due <= now.plus(REVIEW_AHEAD))?;
            Some(DueReview {
                kind: "definition",
                subject: definition.name.to_string(),
                owner: definition.owner.to_string(),
                due,
            })
        }));
        reviews.sort_by(|a, b| (a.due, &a.subject).cmp(&(b.due, &b.subject)));
        let mut privileged: Vec<_> = snapshot
            .privileged_entries()
            .map(|entry| {
                let mut covering = snapshot.exceptions_of_entry(entry);
                let in_force = covering.find(|exception| exception.is_in_force(now)).cloned();
                (entry.clone(), in_force)
            })
            .collect();
        privileged.sort_by_key(|(_, covered)| covered.is_some());
        let mut rules: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for definition in definitions() {
            for rule in &definition.ending.checkpoints {
                rules.entry(rule).or_default().insert(definition.name.to_string());
            }
        }
        let mut rows: Vec<CheckpointRow> = rules
            .into_iter()
            .map(|(rule, tasks)| CheckpointRow {
                enforced: checkpoints.enforced(rule, snapshot.epoch()),
                rule: rule.to_owned(),
                tasks,
            })
            .collect();
        rows.sort_by_key(|row| {
            let Enforced {
                consumers,
                behind,
                is_agent_gone,
            } = row.enforced;
            (consumers > 0 && !is_agent_gone, std::cmp::Reverse(behind))
        });
        unsettled.truncate(ROWS_MAX);
        reviews.truncate(ROWS_MAX);
        privileged.truncate(ROWS_MAX);
        rows.truncate(ROWS_MAX);
        Self {
            exceptions,
            unsettled,
            reviews,
            privileged,
            checkpoints: rows,
        }
    }
}

/// Definitions that are in force.
fn in_force(snapshot: &Snapshot) -> impl Iterator<Item = &Definition> {
    let versions = snapshot.definitions_after(None).filter(|version| !version.retired);
    versions.map(|version| &version.definition)
}

/// Whether its identity gets nothing because of this one.
pub fn is_stopping(snapshot: &Snapshot, exception: &Exception, now: Timestamp) -> bool {
    let counts = snapshot.exception_of(&exception.identity);
    counts.is_some_and(|counts| counts.id == exception.id) && exception.stops(now)
}

/// Those that are over first, by their ends; then those that end next; then what somebody ended.
pub fn sort_exceptions(exceptions: &mut [Arc<Exception>], now: Timestamp) {
    exceptions.sort_by_key(|exception| {
        let rank = match exception.state {
            ExceptionState::Ended => 2,
            _ if exception.is_in_force(now) => 1,
            _ => 0,
        };
        (rank, exception.expires_at, exception.id.clone())
    });
}

/// The scopes of power over this server that an entry has, for tables.
pub fn rights_of(entry: &Entry) -> Vec<String> {
    power_of(entry).map(str::to_owned).collect()
}

impl DebtError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Period | Self::Scope(_) => ErrorKind::InvalidArgument,
            Self::Archive(error) => error.kind(),
        }
    }
}

#[cfg(test)]
mod tests;
