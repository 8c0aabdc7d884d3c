//! What an agent says that consumers enforce, off the wire: of whom it may speak, and how much of it is told apart.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_model::Agent;
use mayfly_model::task::CHECKPOINT_MAX;
use mayfly_proto::mayfly::agent as wire;
use mayfly_svid::SpiffeId;
use tracing::info;

use crate::app::checkpoints::{Enforcing, Report};
use crate::commit::Snapshot;

/// Of those that a report names as having ended connections, so many are in the log.
const CHECKPOINTS_LOGGED: usize = 10;
/// More names of consumers than this are not told apart of one agent. Who has further ones counts as enforcing nothing.
const CHECKPOINTS_MAX: usize = 1000;

/// Reads what `agent` says. It vouches for the processes of its own node: nobody enforces anything there whose SVID it cannot
/// have.
pub(super) fn read(state: &Snapshot, agent: Option<&Agent>, said: &wire::Enforced) -> Report {
    let mut report = Report {
        run: said.run,
        consumers: BTreeMap::new(),
        left_out: BTreeSet::new(),
        not_its_own: BTreeMap::new(),
    };
    for by in &said.checkpoints {
        let Ok(id) = by.spiffe_id.parse::<SpiffeId>() else {
            continue;
        };
        if report.left_out.contains(&id) {
            continue;
        }
        let is_its_own = state
            .entries_of_spiffe_id(&id)
            .any(|entry| agent.is_some_and(|agent| state.is_authorized(agent, entry)));
        let name: String = by.checkpoint.chars().take(CHECKPOINT_MAX).collect();
        let enforcing = Enforcing {
            consumers: by.consumers,
            away: by.away,
            best_effort: by.best_effort,
            epoch: by.epoch,
            left: by.connections_left,
        };
        if !is_its_own {
            // An entry that was deleted ends no consumer: see `Report::not_its_own`.
            report.not_its_own.insert((name, id), enforcing);
            continue;
        }
        // One without a name would stand for all names.
        if name.is_empty() || report.consumers.len() >= CHECKPOINTS_MAX {
            report.left_out.insert(id);
            continue;
        }
        report.consumers.insert((name, id), enforcing);
    }
    report
}

/// Writes down who ended connections.
pub(super) fn log(agent_id: &SpiffeId, said: &wire::Enforced) {
    let ended = said.checkpoints.iter().filter(|by| by.connections_ended > 0);
    for by in ended.take(CHECKPOINTS_LOGGED) {
        let name: String = by.checkpoint.chars().take(CHECKPOINT_MAX).collect();
        info!(%agent_id, checkpoint = name, ended = by.connections_ended, left = by.connections_left, epoch = by.epoch,
              "consumers ended connections");
    }
}
