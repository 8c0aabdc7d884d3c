//! When the authority of a window that has ended is shown dead, and when an agent has lost its windows.

use std::collections::BTreeSet;
use std::sync::Arc;

use mayfly_model::task::{Acknowledged, CheckpointRule, SettledBy, Stage, Task, TaskStep, Window};
use mayfly_model::{Actor, Agent, Change};
use mayfly_svid::{SpiffeId, Timestamp};
use serde_json::json;

use super::{TaskError, Tasks};
use crate::app::checkpoints::{Presence, Word};
use crate::commit::Snapshot;

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
        let Word {
            enforced,
            missing,
            best_effort,
        } = self.word(state, declared, epoch, now);
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
            detail: not_acknowledged(&missing, &best_effort),
            checkpoints: enforced,
        })
    }

    /// What is known of the checkpoints in `declared`. Where an agent that may have a consumer of such an ID is silent, one may
    /// have registered there of which nobody here has heard: then it is not known that all of them refuse anything.
    fn word(&self, state: &Snapshot, declared: &BTreeSet<String>, epoch: u64, now: Timestamp) -> Word {
        if declared.is_empty() {
            return Word::default();
        }
        let mut word = self.checkpoints.word(declared, epoch, now);
        if word.enforced.is_empty() {
            return word;
        }
        let silent = self.silent_agents(state, epoch, now);
        if silent.is_empty() {
            return word;
        }
        let is_hidden = |acknowledged: &Acknowledged| may_hide_some(state, &silent, &acknowledged.name);
        let (hidden, enforced) = word.enforced.into_iter().partition(is_hidden);
        let hidden: Vec<Acknowledged> = hidden;
        word.missing
            .extend(hidden.into_iter().map(|acknowledged| acknowledged.name));
        word.enforced = enforced;
        word
    }

    fn silent_agents(&self, state: &Snapshot, epoch: u64, now: Timestamp) -> Vec<Arc<Agent>> {
        // Before this process began those that are over had their last word long ago.
        let lasts = |agent: &&Arc<Agent>| agent.expires_at.plus(self.settings.lease * LEASES_AFTER_START) >= now;
        let all = state.agents_after(None).filter(lasts).map(|agent| &agent.id);
        let silent = self.checkpoints.silent(epoch, all);
        silent.iter().filter_map(|id| state.agent(id).cloned()).collect()
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

/// Whether one of `silent` may serve an ID that `rule` means.
fn may_hide_some(state: &Snapshot, silent: &[Arc<Agent>], rule: &str) -> bool {
    let Ok(rule) = CheckpointRule::parse(rule) else {
        return false;
    };
    let mut meant = state
        .entries_after(None)
        .filter(|entry| rule.may_mean(&entry.spec.spiffe_id, state.trust_domain()));
    meant.any(|entry| silent.iter().any(|agent| state.is_authorized(agent, entry)))
}

fn not_acknowledged(missing: &[String], best_effort: &[String]) -> String {
    let mut detail = format!("not acknowledged by {}", missing.join(", "));
    if !best_effort.is_empty() {
        let who = best_effort.join(", ");
        detail.push_str(&format!(
            "; a consumer of {who} is of best effort, so only time settles it"
        ));
    }
    detail
}
