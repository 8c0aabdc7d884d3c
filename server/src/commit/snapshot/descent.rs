//! Which entries descend from which agents: those below an agent's own ID, and those below each name that an alias gives
//! it, at any depth. An agent is trusted with what descends from it, and with nothing else.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use mayfly_model::{Agent, Entry, EntryId, Selector, is_agent_id};
use mayfly_svid::SpiffeId;
use rpds::RedBlackTreeSetSync;

use super::{Index, Snapshot};

impl Snapshot {
    /// Every entry that `agent` may serve, once each, in no meaningful order.
    pub fn authorized_entries(&self, agent: &Agent) -> Vec<Arc<Entry>> {
        let mut seen = self.names_of(agent);
        let mut parents: Vec<&SpiffeId> = seen.iter().copied().collect();
        let mut entries = Vec::new();
        while let Some(parent) = parents.pop() {
            for entry in self.entries_of_parent(parent) {
                entries.push(entry.clone());
                if seen.insert(&entry.spec.spiffe_id) {
                    parents.push(&entry.spec.spiffe_id);
                }
            }
        }
        entries
    }

    /// Whether `agent` may serve `entry`: the walk of [`Self::authorized_entries`], upwards.
    pub fn is_authorized(&self, agent: &Agent, entry: &Entry) -> bool {
        self.is_below(agent, &entry.spec.parent_id)
    }

    /// Whether `agent` may serve the entries below `parent`.
    pub fn is_below(&self, agent: &Agent, parent: &SpiffeId) -> bool {
        // Most are right below their agent, and this is asked twice for each SVID.
        if *parent == agent.id {
            return true;
        }
        let names = self.names_of(agent);
        let count =
            |index: &Index<SpiffeId, EntryId>, id: &SpiffeId| index.get(id).map_or(0, RedBlackTreeSetSync::size);
        let own: usize = names.iter().map(|name| count(&self.entries_by_parent, name)).sum();
        let mut found = false;
        self.walk_up(parent, &mut |id| {
            found = names.contains(id);
            // A fleet may share a name by an entry below each of its agents. Then what is right below this one is less
            // to look through than all that lead up from there, which would be done for each agent of the fleet.
            if !found && own < count(&self.entries_by_spiffe_id, id) {
                let mut below = names.iter().flat_map(|name| self.entries_of_parent(name));
                found = below.any(|entry| entry.spec.spiffe_id == *id);
            }
            found
        });
        found
    }

    /// The agents that may serve entries below `parent`.
    pub fn agents_below(&self, parent: &SpiffeId) -> BTreeSet<SpiffeId> {
        let mut agents = BTreeSet::new();
        self.walk_up(parent, &mut |name| {
            if is_agent_id(name) {
                agents.insert(name.clone());
            }
            for alias in self.aliases_of_name(name) {
                agents.extend(self.agents_matching(alias).map(|agent| agent.id.clone()));
            }
            false
        });
        agents
    }

    /// Agents whose selectors fit `alias`, found by its rarest selector.
    pub fn agents_matching<'a>(&'a self, alias: &'a Entry) -> impl Iterator<Item = &'a Arc<Agent>> {
        let holders = |selector: &Selector| self.agents_by_selector.get(selector);
        let rarest = alias
            .spec
            .selectors
            .iter()
            .map(holders)
            .min_by_key(|set| set.map_or(0, RedBlackTreeSetSync::size))
            .flatten();
        rarest
            .into_iter()
            .flat_map(RedBlackTreeSetSync::iter)
            .filter_map(|id| self.agents.get(id))
            .filter(|agent| alias.spec.selectors.is_subset_of(&agent.selectors))
    }

    /// The selector under which an entry is found among the aliases; none if it is not one. Selectors that many agents
    /// have, such as a cluster's or an authority's, tend to come first in the order, so it is the last.
    pub(super) fn alias_key<'a>(&self, entry: &'a Entry) -> Option<&'a Selector> {
        let is_alias = entry.spec.parent_id == self.server_id;
        entry.spec.selectors.iter().last().filter(|_| is_alias)
    }

    /// The agent's own ID and what aliases call it. A set: several aliases may give one name.
    fn names_of<'a>(&'a self, agent: &'a Agent) -> HashSet<&'a SpiffeId> {
        let of_selector = |selector| self.listed(self.aliases_by_selector.get(selector), None);
        let aliases = agent.selectors.iter().flat_map(of_selector);
        let fitting = aliases.filter(|alias| alias.spec.selectors.is_subset_of(&agent.selectors));
        let names = fitting.map(|alias| &alias.spec.spiffe_id);
        std::iter::once(&agent.id).chain(names).collect()
    }

    fn aliases_of_name(&self, name: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        let all = self.entries_of_spiffe_id(name);
        all.filter(|entry| entry.spec.parent_id == self.server_id)
    }

    /// Visits `parent` and every ID above it, each once; ends early when `visit` says so. Cycles of entries end.
    fn walk_up(&self, parent: &SpiffeId, visit: &mut dyn FnMut(&SpiffeId) -> bool) {
        let mut seen = HashSet::from([parent]);
        let mut pending = vec![parent];
        while let Some(parent) = pending.pop() {
            if visit(parent) {
                return;
            }
            let above = self.entries_of_spiffe_id(parent).map(|entry| &entry.spec.parent_id);
            pending.extend(above.filter(|above| **above != self.server_id && seen.insert(above)));
        }
    }
}
