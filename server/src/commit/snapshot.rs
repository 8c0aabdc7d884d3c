//! The state of the server in memory, immutable. A commit makes a new one that shares all it did not touch.

use std::ops::Bound;
use std::sync::Arc;

use mayfly_model::task::{DefinitionVersion, PolicyFiles, Proposal, TaskName};
use mayfly_model::{
    Agent, Authority, AuthorityState, Delta, Entry, EntryId, Excepted, Exception, Given, KeyClass, Revision, Selector,
};
use mayfly_store::State;
use mayfly_svid::{Bundle, SpiffeId, Timestamp, TrustDomain};
use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};

mod descent;
mod exceptions;
mod tasks;

use tasks::TaskIndex;
pub(crate) use tasks::agents_of;

/// Everything that hot paths read, as of one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    trust_domain: TrustDomain,
    server_id: SpiffeId,
    history: Arc<str>,
    revision: Revision,
    entries: RedBlackTreeMapSync<EntryId, Arc<Entry>>,
    entries_by_parent: HashTrieMapSync<SpiffeId, RedBlackTreeSetSync<EntryId>>,
    entries_by_spiffe_id: HashTrieMapSync<SpiffeId, RedBlackTreeSetSync<EntryId>>,
    entries_by_expiry: RedBlackTreeSetSync<(Timestamp, EntryId)>,
    /// Those right below the server, which name all agents that they fit, each under one of its selectors.
    aliases_by_selector: HashTrieMapSync<Selector, RedBlackTreeSetSync<EntryId>>,
    /// Those with power over the server.
    privileged: RedBlackTreeSetSync<EntryId>,
    agents: RedBlackTreeMapSync<SpiffeId, Arc<Agent>>,
    agents_by_selector: HashTrieMapSync<Selector, RedBlackTreeSetSync<SpiffeId>>,
    authorities: RedBlackTreeMapSync<String, Arc<Authority>>,
    bundles: RedBlackTreeMapSync<TrustDomain, Arc<Bundle>>,
    definitions: RedBlackTreeMapSync<TaskName, Arc<DefinitionVersion>>,
    policy: Option<Arc<PolicyFiles>>,
    proposals: RedBlackTreeMapSync<String, Arc<Proposal>>,
    exceptions: RedBlackTreeMapSync<String, Arc<Exception>>,
    /// The one that was granted last, of each identity.
    exception_of: HashTrieMapSync<Excepted, String>,
    /// The same of those that name an entry, by what it gave.
    exception_of_given: HashTrieMapSync<Given, String>,
    /// Those that are in force.
    exceptions_by_expiry: RedBlackTreeSetSync<(Timestamp, String)>,
    tasks: TaskIndex,
    epoch: u64,
}

impl Snapshot {
    /// The state as the store has it; the change history in it is for others.
    pub(crate) fn load(trust_domain: TrustDomain, state: State) -> Self {
        let State {
            history,
            revision,
            entries,
            agents,
            authorities,
            bundles,
            definitions,
            policy,
            proposals,
            exceptions,
            tasks,
            revocations,
            epoch,
            changes: _,
        } = state;
        let mut loaded = Self {
            server_id: trust_domain.server_id(),
            trust_domain,
            history: history.into(),
            revision,
            entries: RedBlackTreeMapSync::new_sync(),
            entries_by_parent: HashTrieMapSync::new_sync(),
            entries_by_spiffe_id: HashTrieMapSync::new_sync(),
            entries_by_expiry: RedBlackTreeSetSync::new_sync(),
            aliases_by_selector: HashTrieMapSync::new_sync(),
            privileged: RedBlackTreeSetSync::new_sync(),
            agents: RedBlackTreeMapSync::new_sync(),
            agents_by_selector: HashTrieMapSync::new_sync(),
            authorities: RedBlackTreeMapSync::new_sync(),
            bundles: RedBlackTreeMapSync::new_sync(),
            definitions: RedBlackTreeMapSync::new_sync(),
            policy: policy.map(Arc::new),
            proposals: RedBlackTreeMapSync::new_sync(),
            exceptions: RedBlackTreeMapSync::new_sync(),
            exception_of: HashTrieMapSync::new_sync(),
            exception_of_given: HashTrieMapSync::new_sync(),
            exceptions_by_expiry: RedBlackTreeSetSync::new_sync(),
            tasks: TaskIndex::default(),
            epoch,
        };
        entries.into_iter().for_each(|entry| loaded.entry_put(Arc::new(entry)));
        agents.into_iter().for_each(|agent| loaded.agent_put(Arc::new(agent)));
        for authority in authorities {
            loaded.authorities.insert_mut(authority.id.clone(), Arc::new(authority));
        }
        for bundle in bundles {
            loaded.bundles.insert_mut(bundle.trust_domain.clone(), Arc::new(bundle));
        }
        for version in definitions {
            let name = version.definition.name.clone();
            loaded.definitions.insert_mut(name, Arc::new(version));
        }
        for proposal in proposals {
            loaded.proposals.insert_mut(proposal.id.clone(), Arc::new(proposal));
        }
        for exception in exceptions {
            loaded.exception_put(Arc::new(exception));
        }
        tasks.into_iter().for_each(|task| loaded.tasks.put(Arc::new(task)));
        for revocation in revocations {
            loaded.tasks.revoke(Arc::new(revocation));
        }
        loaded
    }

    /// This state with `deltas` applied, as of `revision`.
    #[must_use]
    pub(crate) fn with(&self, revision: Revision, deltas: &[Delta]) -> Self {
        let mut next = self.clone();
        next.revision = revision;
        for delta in deltas {
            match delta {
                Delta::EntryPut(entry) => next.entry_put(entry.clone()),
                Delta::EntryGone(entry) => next.entry_gone(&entry.id),
                Delta::AgentPut(agent) => next.agent_put(agent.clone()),
                Delta::AgentGone(id) => next.agent_gone(id),
                Delta::AuthorityPut(authority) => {
                    next.authorities.insert_mut(authority.id.clone(), authority.clone());
                }
                Delta::AuthorityGone(id) => {
                    next.authorities.remove_mut(id);
                }
                Delta::BundlePut(bundle) => {
                    next.bundles.insert_mut(bundle.trust_domain.clone(), bundle.clone());
                }
                Delta::BundleGone(trust_domain) => {
                    next.bundles.remove_mut(trust_domain);
                }
                Delta::DefinitionPut(version) => {
                    let name = version.definition.name.clone();
                    next.definitions.insert_mut(name, version.clone());
                }
                Delta::PolicyPut(policy) => next.policy = Some(policy.clone()),
                Delta::ProposalPut(proposal) => {
                    next.proposals.insert_mut(proposal.id.clone(), proposal.clone());
                    // As the store does.
                    for forgotten in Proposal::forgotten(next.proposals().map(AsRef::as_ref)) {
                        next.proposals.remove_mut(&forgotten);
                    }
                }
                Delta::ExceptionPut(exception) => next.exception_put(exception.clone()),
                Delta::TaskPut(task) => next.tasks.put(task.clone()),
                Delta::TaskGone(task) => next.tasks.forget(task),
                Delta::Revoked(revocation) => {
                    next.epoch = next.epoch.max(revocation.epoch);
                    next.tasks.revoke(revocation.clone());
                }
            }
        }
        next
    }

    /// The server's trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Names the database whose revisions these are: an agent resumes only within one history.
    pub fn history(&self) -> &str {
        &self.history
    }

    /// The number of the newest commit in it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many entries there are, expired ones included.
    pub fn entry_count(&self) -> usize {
        self.entries.size()
    }

    /// The entry with this ID.
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    /// All entries in the order of their IDs, from after `after` on.
    pub fn entries_after(&self, after: Option<&EntryId>) -> impl Iterator<Item = &Arc<Entry>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((start, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// Entries with this parent, in the order of their IDs.
    pub fn entries_of_parent(&self, parent: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries_of_parent_after(parent, None)
    }

    /// The same from after `after` on.
    pub fn entries_of_parent_after(
        &self,
        parent: &SpiffeId,
        after: Option<&EntryId>,
    ) -> impl Iterator<Item = &Arc<Entry>> {
        self.listed(self.entries_by_parent.get(parent), after)
    }

    /// Entries that give this SPIFFE ID, in the order of their IDs.
    pub fn entries_of_spiffe_id(&self, id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries_of_spiffe_id_after(id, None)
    }

    /// The same from after `after` on.
    pub fn entries_of_spiffe_id_after(
        &self,
        id: &SpiffeId,
        after: Option<&EntryId>,
    ) -> impl Iterator<Item = &Arc<Entry>> {
        self.listed(self.entries_by_spiffe_id.get(id), after)
    }

    /// The entry that expires next, if any has an end.
    pub fn next_expiry(&self) -> Option<(Timestamp, EntryId)> {
        self.entries_by_expiry.first().cloned()
    }

    /// How many agents there are, banned and expired ones included.
    pub fn agent_count(&self) -> usize {
        self.agents.size()
    }

    /// The agent with this ID.
    pub fn agent(&self, id: &SpiffeId) -> Option<&Arc<Agent>> {
        self.agents.get(id)
    }

    /// All agents in the order of their IDs, from after `after` on.
    pub fn agents_after(&self, after: Option<&SpiffeId>) -> impl Iterator<Item = &Arc<Agent>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.agents
            .range::<SpiffeId, _>((start, Bound::Unbounded))
            .map(|(_, agent)| agent)
    }

    /// All authorities that are known, in no meaningful order.
    pub fn authorities(&self) -> impl Iterator<Item = &Arc<Authority>> {
        self.authorities.values()
    }

    /// The authority of `class` that signs now.
    pub fn active_authority(&self, class: KeyClass) -> Option<&Arc<Authority>> {
        self.authorities
            .values()
            .find(|a| a.class == class && a.state == AuthorityState::Active)
    }

    /// The server's own bundle; none before the first authority was prepared.
    pub fn own_bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundles.get(&self.trust_domain)
    }

    /// The bundle of `trust_domain`, the own one included.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.bundles.get(trust_domain)
    }

    /// Foreign bundles in the order of their names, from after `after` on.
    pub fn federated_bundles_after(&self, after: Option<&TrustDomain>) -> impl Iterator<Item = &Arc<Bundle>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let own = &self.trust_domain;
        self.bundles
            .range((start, Bound::Unbounded))
            .filter(move |(name, _)| *name != own)
            .map(|(_, bundle)| bundle)
    }

    /// The version of a definition that is in force; none if there is none or it is retired.
    pub fn definition(&self, name: &TaskName) -> Option<&Arc<DefinitionVersion>> {
        self.definitions.get(name).filter(|version| !version.retired)
    }

    /// The newest versions of all definitions in the order of their names, from after `after` on, retired ones too.
    pub fn definitions_after(&self, after: Option<&TaskName>) -> impl Iterator<Item = &Arc<DefinitionVersion>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.definitions
            .range((start, Bound::Unbounded))
            .map(|(_, version)| version)
    }

    /// The operators' policy, if one was ever set.
    pub fn policy(&self) -> Option<&Arc<PolicyFiles>> {
        self.policy.as_ref()
    }

    /// All proposals, oldest first.
    pub fn proposals(&self) -> impl Iterator<Item = &Arc<Proposal>> {
        self.proposals.values()
    }

    /// The proposal with this ID.
    pub fn proposal(&self, id: &str) -> Option<&Arc<Proposal>> {
        self.proposals.get(id)
    }

    /// The number of the newest revocation.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn listed<'a>(
        &'a self,
        ids: Option<&'a RedBlackTreeSetSync<EntryId>>,
        after: Option<&EntryId>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        ids.into_iter()
            .flat_map(move |ids| ids.range((start.clone(), Bound::Unbounded)))
            .filter_map(|id| self.entries.get(id))
    }

    fn entry_put(&mut self, entry: Arc<Entry>) {
        self.entry_gone(&entry.id);
        index_insert(&mut self.entries_by_parent, &entry.spec.parent_id, entry.id.clone());
        index_insert(&mut self.entries_by_spiffe_id, &entry.spec.spiffe_id, entry.id.clone());
        if let Some(end) = entry.spec.expires_at {
            self.entries_by_expiry.insert_mut((end, entry.id.clone()));
        }
        if let Some(selector) = self.alias_key(&entry) {
            index_insert(&mut self.aliases_by_selector, selector, entry.id.clone());
        }
        if entry.spec.admin || entry.spec.downstream {
            self.privileged.insert_mut(entry.id.clone());
        }
        self.entries.insert_mut(entry.id.clone(), entry);
    }

    fn entry_gone(&mut self, id: &EntryId) {
        let Some(entry) = self.entries.get(id).cloned() else {
            return;
        };
        index_remove(&mut self.entries_by_parent, &entry.spec.parent_id, id);
        index_remove(&mut self.entries_by_spiffe_id, &entry.spec.spiffe_id, id);
        if let Some(end) = entry.spec.expires_at {
            self.entries_by_expiry.remove_mut(&(end, id.clone()));
        }
        if let Some(selector) = self.alias_key(&entry) {
            index_remove(&mut self.aliases_by_selector, selector, id);
        }
        self.privileged.remove_mut(id);
        self.entries.remove_mut(id);
    }

    fn agent_put(&mut self, agent: Arc<Agent>) {
        self.agent_gone(&agent.id);
        for selector in &agent.selectors {
            index_insert(&mut self.agents_by_selector, selector, agent.id.clone());
        }
        self.agents.insert_mut(agent.id.clone(), agent);
    }

    fn agent_gone(&mut self, id: &SpiffeId) {
        let Some(agent) = self.agents.get(id).cloned() else {
            return;
        };
        for selector in &agent.selectors {
            index_remove(&mut self.agents_by_selector, selector, id);
        }
        self.agents.remove_mut(id);
    }
}

type Index<K, V> = HashTrieMapSync<K, RedBlackTreeSetSync<V>>;

fn index_insert<K, V>(index: &mut Index<K, V>, key: &K, value: V)
where
    K: Clone + Eq + std::hash::Hash,
    V: Ord,
{
    match index.get_mut(key) {
        Some(set) => set.insert_mut(value),
        None => {
            let mut set = RedBlackTreeSetSync::new_sync();
            set.insert_mut(value);
            index.insert_mut(key.clone(), set);
        }
    }
}

fn index_remove<K, V>(index: &mut Index<K, V>, key: &K, value: &V)
where
    K: Clone + Eq + std::hash::Hash,
    V: Ord,
{
    let Some(set) = index.get_mut(key) else { return };
    set.remove_mut(value);
    if set.is_empty() {
        index.remove_mut(key);
    }
}

#[cfg(test)]
mod tests;
