//! Which agents may have consumers that are declared: looked up once for all windows of a pass.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use mayfly_model::Revision;
use mayfly_model::task::CheckpointRule;
use mayfly_svid::SpiffeId;

use crate::app::checkpoints::Checkpoints;
use crate::commit::Snapshot;

/// What was looked up last.
#[derive(Debug, Default)]
pub(super) struct Reach(Mutex<LookedUp>);

/// As it is at one revision.
#[derive(Debug, Default)]
struct LookedUp {
    at: Option<Revision>,
    by_rule: HashMap<String, Arc<BTreeSet<SpiffeId>>>,
}

impl Reach {
    /// The agents that may serve an ID that `rule` means, and those that have no record any more: they may have served any.
    pub(super) fn agents(&self, state: &Snapshot, checkpoints: &Checkpoints, rule: &str) -> Arc<BTreeSet<SpiffeId>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Some(state.revision());
        {
            let looked_up = lock();
            let found = looked_up.by_rule.get(rule).filter(|_| looked_up.at == at);
            if let Some(found) = found {
                return found.clone();
            }
        }
        let mut agents = below(state, rule);
        agents.extend(checkpoints.agents().into_iter().filter(|id| state.agent(id).is_none()));
        let agents = Arc::new(agents);
        let mut looked_up = lock();
        if looked_up.at != at {
            *looked_up = LookedUp {
                at,
                ..LookedUp::default()
            };
        }
        looked_up.by_rule.insert(rule.to_owned(), agents.clone());
        agents
    }
}

fn below(state: &Snapshot, rule: &str) -> BTreeSet<SpiffeId> {
    let Ok(rule) = CheckpointRule::parse(rule) else {
        return BTreeSet::new();
    };
    let own = state.trust_domain();
    // Many entries have the same parent.
    let parents: BTreeSet<&SpiffeId> = match rule.only(own) {
        Some(id) => {
            let entries = state.entries_of_spiffe_id(&id);
            entries.map(|entry| &entry.spec.parent_id).collect()
        }
        None => {
            let entries = state.entries_after(None);
            let meant = entries.filter(|entry| rule.may_mean(&entry.spec.spiffe_id, own));
            meant.map(|entry| &entry.spec.parent_id).collect()
        }
    };
    parents
        .into_iter()
        .flat_map(|parent| state.agents_below(parent))
        .collect()
}
