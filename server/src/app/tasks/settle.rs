//! When the authority of a window that has ended is shown dead, and when an agent has lost its windows.

use std::collections::BTreeSet;
use std::sync::Arc;

use mayfly_model::task::{SettledBy, Stage, Task, TaskStep, Window};
use mayfly_model::{Actor, Agent, Change};
use mayfly_svid::{SpiffeId, Timestamp};
use serde_json::json;

use super::{TaskError, Tasks};
use crate::app::checkpoints::{Presence, Word};
use crate::commit::Snapshot;

/// Of the agents that hold a settlement up, so many are named.
const SILENT_NAMED: usize = 3;

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
    pub(super) fn settlement(
        &self,
        state: &Snapshot,
        task: &Task,
        window: &Window,
        now: Timestamp,
    ) -> Option<TaskStep> {
        let (closed_at, epoch) = (window.closed_at?, window.epoch?);
        let declared = &task.grant.checkpoints;
        let word = self.word(state, declared, epoch, now);
        let settle = |term, until: Timestamp, checkpoints| TaskStep::Settle {
            window: window.id,
            residual: u32::try_from(until.since(closed_at).as_secs()).unwrap_or(u32::MAX),
            term,
            checkpoints,
        };
        if !declared.is_empty() && word.missing.is_empty() {
            return Some(settle(SettledBy::Enforced, now, word.enforced));
        }
        if now > window.dead_by() {
            return Some(settle(SettledBy::Expired, window.dead_by(), word.enforced));
        }
        // Where nobody was declared who could refuse it, it is over when it expires.
        let is_overdue = !declared.is_empty() && now > closed_at.plus(self.settings.settle_within);
        (is_overdue && window.stage == Stage::Closed).then(|| TaskStep::GiveUp {
            window: window.id,
            detail: not_acknowledged(&word),
            checkpoints: word.enforced,
        })
    }

    /// What is known of the checkpoints in `declared`. Where an agent that may have a consumer of such an ID is silent, one may
    /// have registered there of which nobody here has heard: then it is not known that all of them refuse anything.
    pub fn word(&self, state: &Snapshot, declared: &BTreeSet<String>, epoch: u64, now: Timestamp) -> Word {
        if declared.is_empty() {
            return Word::default();
        }
        let mut word = self.checkpoints.word(declared, epoch, now);
        if !self.checkpoints.is_any_silent(epoch) {
            return word;
        }
        for acknowledged in std::mem::take(&mut word.enforced) {
            let agents = self.reach.agents(state, &self.checkpoints, &acknowledged.name);
            let silent = self.checkpoints.silent_of(epoch, &agents);
            if silent.is_empty() {
                word.enforced.push(acknowledged);
            } else {
                word.silent.extend(silent);
                word.missing.push(acknowledged.name);
            }
        }
        word
    }

    /// Notes which agents there are, as those that do not come back after a start are silent too.
    pub(super) fn expect_agents(&self, state: &Snapshot, now: Timestamp) {
        // Before this process began those that are over had their last word long ago.
        let lasts = |agent: &&Arc<Agent>| agent.expires_at.plus(self.settings.lease * LEASES_AFTER_START) >= now;
        let all = state.agents_after(None).filter(lasts);
        self.checkpoints.expect(all.map(|agent| &agent.id));
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

fn not_acknowledged(word: &Word) -> String {
    let mut detail = format!("not acknowledged by {}", word.missing.join(", "));
    if !word.best_effort.is_empty() {
        let who = word.best_effort.join(", ");
        detail.push_str(&format!(
            "; a consumer of {who} is of best effort, so only time settles it"
        ));
    }
    if !word.silent.is_empty() {
        let named = word.silent.iter().take(SILENT_NAMED).map(SpiffeId::as_str);
        let named: Vec<&str> = named.collect();
        detail.push_str(&format!(
            "; agents that may have such consumers and are not heard, or have not taken it over: {} ({}{})",
            word.silent.len(),
            named.join(", "),
            if word.silent.len() > named.len() { ", …" } else { "" },
        ));
    }
    detail
}
