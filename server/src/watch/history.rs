//! What changed after which revision, so that an agent that was away gets a delta instead of everything.

use std::collections::{BTreeSet, HashSet, VecDeque};

use mayfly_model::{Agent, Delta, EntryId, Revision};
use mayfly_store::{ChangeRow, Changed};
use mayfly_svid::{SpiffeId, TrustDomain};

use crate::commit::{Applied, Snapshot};

/// Rows kept; as many as the store gives back after a restart.
const KEPT: usize = 100_000;
/// An agent that missed more rows than this gets a snapshot: looking at each row would cost more.
const MISSED_MAX: usize = 2_000;

/// The most recent changes, oldest first.
#[derive(Debug)]
pub struct History {
    rows: VecDeque<ChangeRow>,
    /// Every change after this revision is in `rows`.
    complete_after: Revision,
}

/// How an agent that holds an older revision gets to the present one.
#[derive(Debug, PartialEq, Eq)]
pub enum Resume {
    /// By looking at these again; empty when nothing of its concern changed.
    Delta {
        /// Entries that changed, and may be gone or no longer its own.
        entries: BTreeSet<EntryId>,
        /// Bundles that changed, and may be gone.
        bundles: BTreeSet<TrustDomain>,
    },
    /// By being told everything.
    Snapshot,
}

impl History {
    /// The history as the store kept it.
    pub fn new(rows: Vec<ChangeRow>) -> Self {
        let complete_after = if rows.len() < KEPT {
            Revision(0)
        } else {
            // The oldest revision may have lost some of its rows.
            rows.first().map_or(Revision(0), |row| row.revision)
        };
        Self {
            rows: rows.into(),
            complete_after,
        }
    }

    /// Adds what a commit changed.
    pub fn record(&mut self, applied: &Applied) {
        let revision = applied.after.revision();
        if applied.reloaded {
            // What the database was ahead of memory is in no delta.
            self.rows.clear();
            self.complete_after = revision;
        }
        for delta in &applied.deltas {
            for what in changed(delta, &applied.before) {
                self.rows.push_back(ChangeRow { revision, what });
            }
        }
        while self.rows.len() > KEPT {
            if let Some(row) = self.rows.pop_front() {
                self.complete_after = row.revision;
            }
        }
    }

    /// How `agent`, which holds `held`, gets to `now`.
    pub fn resume(&self, agent: &Agent, held: Revision, now: &Snapshot) -> Resume {
        if held < self.complete_after || held > now.revision() {
            return Resume::Snapshot;
        }
        let missed = self.rows.partition_point(|row| row.revision <= held);
        if self.rows.len() - missed > MISSED_MAX {
            return Resume::Snapshot;
        }
        let server = now.trust_domain().server_id();
        let parents: HashSet<&SpiffeId> = self
            .rows
            .range(missed..)
            .filter_map(|row| row.what.parent_id())
            .collect();
        let (mut entries, mut bundles) = (BTreeSet::new(), BTreeSet::new());
        for row in self.rows.range(missed..) {
            match &row.what {
                // An alias or the agent itself decides over whole groups of entries.
                Changed::Entry { parent_id, .. } if *parent_id == server => return Resume::Snapshot,
                Changed::Agent(id) if *id == agent.id => return Resume::Snapshot,
                Changed::Agent(_) => {}
                Changed::Entry {
                    id,
                    parent_id,
                    spiffe_id,
                } => {
                    if !now.is_below(agent, parent_id) {
                        continue;
                    }
                    // What stands below it, or stood there, came or went with it.
                    if parents.contains(spiffe_id) || now.entries_of_parent(spiffe_id).next().is_some() {
                        return Resume::Snapshot;
                    }
                    entries.insert(id.clone());
                }
                Changed::Bundle(trust_domain) => {
                    bundles.insert(trust_domain.clone());
                }
            }
        }
        Resume::Delta { entries, bundles }
    }
}

/// The rows of one delta; `before` tells where an entry was, and whether an agent's selectors changed.
fn changed(delta: &Delta, before: &Snapshot) -> Vec<Changed> {
    match delta {
        Delta::EntryPut(entry) => {
            let here = Changed::entry(entry);
            let there = before
                .entry(&entry.id)
                .map(|old| Changed::entry(old))
                .filter(|there| *there != here);
            there.into_iter().chain([here]).collect()
        }
        Delta::EntryGone(entry) => vec![Changed::entry(entry)],
        Delta::AgentPut(agent) => {
            let same = before
                .agent(&agent.id)
                .is_some_and(|old| old.selectors == agent.selectors);
            if same {
                vec![]
            } else {
                vec![Changed::Agent(agent.id.clone())]
            }
        }
        Delta::AgentGone(id) => vec![Changed::Agent(id.clone())],
        Delta::BundlePut(bundle) => vec![Changed::Bundle(bundle.trust_domain.clone())],
        Delta::BundleGone(trust_domain) => vec![Changed::Bundle(trust_domain.clone())],
        // Tasks and what is revoked are told whole when a stream opens.
        Delta::AuthorityPut(_)
        | Delta::AuthorityGone(_)
        | Delta::DefinitionPut(_)
        | Delta::PolicyPut(_)
        | Delta::ProposalPut(_)
        | Delta::ExceptionPut(_)
        | Delta::TaskPut(_)
        | Delta::TaskGone(_)
        | Delta::Revoked(_) => vec![],
    }
}
