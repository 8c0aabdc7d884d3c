//! When the authority of a window that has ended is shown dead, and when an agent has lost its windows.

use std::collections::BTreeSet;

use mayfly_model::task::{SettledBy, Stage, Task, TaskStep, Window};
use mayfly_model::{Actor, Change};
use mayfly_svid::{SpiffeId, Timestamp};
use serde_json::json;

use super::{TaskError, Tasks};
use crate::app::checkpoints::{Presence, Word};

/// After a start agents have so many leases to come back before any of them has lost its windows: a server that was away for
/// a moment, or a fleet that comes back all at once, is no reason to end them. No window lasts longer by it, and nobody's word
/// counts for longer either: agents and consumers count their own lease, from the last that they heard.
pub(super) const LEASES_AFTER_START: u32 = 3;

impl Tasks {
    /// Whether an agent was not heard for the lease.
    pub(super) fn is_lost(&self, agent: &SpiffeId) -> bool {
        let lease = self.settings.lease;
        let away = self.hub.away_since(agent).map(|since| since.elapsed());
        away.is_some_and(|away| away > lease) && self.began.elapsed() > lease * LEASES_AFTER_START
    }

    /// Whether old authority is shown dead (T31): expired, by clocks that are behind too, or refused by every checkpoint that
    /// the definition declared when the window was asked for.
    pub(super) fn settlement(&self, task: &Task, window: &Window, now: Timestamp) -> Option<TaskStep> {
        let (closed_at, epoch) = (window.closed_at?, window.epoch?);
        let declared = &task.grant.checkpoints;
        let Word { enforced, missing } = self.word(declared, epoch, now);
        let settle = |term, until: Timestamp, checkpoints| TaskStep::Settle {
            window: window.id,
            residual: u32::try_from(until.since(closed_at).as_secs()).unwrap_or(u32::MAX),
            term,
            checkpoints,
        };
        if !declared.is_empty() && missing.is_empty() {
            return Some(settle(SettledBy::Enforced, now, enforced));
        }
        if now > window.dead_by() {
            return Some(settle(SettledBy::Expired, window.dead_by(), enforced));
        }
        // Where nobody was declared who could refuse it, it is over when it expires.
        let is_overdue = !declared.is_empty() && now > closed_at.plus(self.settings.settle_within);
        (is_overdue && window.stage == Stage::Closed).then(|| TaskStep::GiveUp {
            window: window.id,
            detail: format!("not acknowledged by {}", missing.join(", ")),
            checkpoints: enforced,
        })
    }

    fn word(&self, declared: &BTreeSet<String>, epoch: u64, now: Timestamp) -> Word {
        if declared.is_empty() {
            return Word::default();
        }
        self.checkpoints.word(declared, epoch, now)
    }

    /// Writes down which consumers have come or gone.
    pub(super) async fn record_presences(&self, actor: &Actor) -> Result<(), TaskError> {
        let note = |Presence { name, consumers }: Presence| Change::Note {
            kind: if consumers > 0 {
                "checkpoint.registered"
            } else {
                "checkpoint.lost"
            },
            subject: name.clone(),
            body: json!({ "name": name, "consumers": consumers }),
        };
        let notes = self.checkpoints.presences().into_iter().map(note);
        let steps: Vec<_> = notes.map(|change| self.step(actor, change)).collect();
        if steps.is_empty() {
            return Ok(());
        }
        for result in self.committer.commit_all(steps).await {
            result?;
        }
        Ok(())
    }
}
