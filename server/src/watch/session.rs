//! One agent's stream: what it holds, and what to send it next. No wire, no waiting.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use mayfly_model::task::{CLOCK_SLACK, Revocation, Task};
use mayfly_model::{Agent, Entry, EntryId, Revision, entries_digest};
use mayfly_svid::{Bundle, SpiffeId, Timestamp, TrustDomain};

use super::{Hub, Pending, Resume};
use crate::commit::Snapshot;

/// About the most that the state of one window takes on the wire.
const TASK_WEIGHT: usize = 1024;

/// What an agent says that it holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// The history that its revision belongs to; empty when it holds nothing.
    pub history: String,
    /// The revision.
    pub revision: Revision,
}

/// An update that is about to be sent: what to look up, in the order of sending. Small; the content is read chunk by chunk.
#[derive(Debug)]
pub struct Plan {
    /// The state that all chunks are read from.
    pub state: Arc<Snapshot>,
    /// Whether it replaces everything.
    pub snapshot: bool,
    entries: VecDeque<EntryId>,
    removed_entries: Vec<EntryId>,
    bundles: VecDeque<Arc<Bundle>>,
    removed_bundles: Vec<TrustDomain>,
    tasks: VecDeque<Arc<Task>>,
    revoked: VecDeque<Arc<Revocation>>,
    lists: bool,
}

/// One piece of a plan.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Entries to hold.
    pub entries: Vec<Arc<Entry>>,
    /// Entries to drop.
    pub removed_entries: Vec<EntryId>,
    /// Bundles to hold.
    pub bundles: Vec<Arc<Bundle>>,
    /// Bundles to drop.
    pub removed_bundles: Vec<TrustDomain>,
    /// Tasks as they stand.
    pub tasks: Vec<Arc<Task>>,
    /// What is to be refused.
    pub revoked: Vec<Arc<Revocation>>,
    /// The revocation lists are to be sent along.
    pub lists: bool,
    /// Whether more chunks follow.
    pub more: bool,
}

/// What one stream knows of its agent.
#[derive(Debug)]
pub struct Session {
    agent_id: SpiffeId,
    bundles_sent: BTreeSet<TrustDomain>,
    rejected: BTreeSet<EntryId>,
    /// All that was revoked up to here was sent.
    epoch_sent: u64,
}

impl Session {
    /// A session with `agent_id`, which has been sent nothing yet.
    pub fn new(agent_id: SpiffeId) -> Self {
        Self {
            agent_id,
            bundles_sent: BTreeSet::new(),
            rejected: BTreeSet::new(),
            epoch_sent: 0,
        }
    }

    /// What to send first to an agent that holds `held`. Always a plan, perhaps an empty one: the agent learns by it that
    /// it is in step.
    pub fn first(&mut self, hub: &Hub, held: &Held, agent: &Agent, state: &Arc<Snapshot>, now: Timestamp) -> Plan {
        let resume = if held.history == state.history() {
            hub.resume(agent, held.revision, state)
        } else {
            Resume::Snapshot
        };
        // What it has of tasks and revocations is not asked: they are few, and are told whole.
        let mut plan = match resume {
            Resume::Snapshot => self.everything(agent, state, now),
            Resume::Delta { entries, bundles } => {
                // What it was sent on an earlier stream is not known here, but follows from the entries that it holds:
                // those that it may see, apart from what changed since.
                let mut held = state.authorized_entries(agent);
                held.retain(|entry| !entries.contains(&entry.id));
                self.bundles_sent = wanted_bundles(&held, state);
                self.delta(agent, state, now, entries, bundles)
            }
        };
        if !plan.snapshot {
            self.add_tasks(&mut plan, agent, now);
        }
        plan
    }

    /// What to send for what waited in the mailbox; none if nothing of it concerns this agent any more.
    pub fn next(&mut self, pending: Pending, agent: &Agent, state: &Arc<Snapshot>, now: Timestamp) -> Option<Plan> {
        let plan = if pending.everything {
            self.everything(agent, state, now)
        } else {
            let mut plan = self.delta(agent, state, now, pending.entries, pending.bundles);
            plan.tasks = pending.tasks.iter().filter_map(|id| state.task(id)).cloned().collect();
            if pending.revoked {
                self.add_revoked(&mut plan, now);
            }
            plan
        };
        (!plan.is_empty() || plan.lists).then_some(plan)
    }

    /// The agent took over an update, apart from `rejected`.
    pub fn acknowledged(&mut self, rejected: impl IntoIterator<Item = EntryId>) {
        self.rejected.extend(rejected);
    }

    /// How many entries it has not taken over.
    pub fn rejected(&self) -> usize {
        self.rejected.len()
    }

    /// How many entries the agent should hold, and the digest of them.
    pub fn expected(&self, agent: &Agent, state: &Snapshot, now: Timestamp) -> (u64, u64) {
        let entries: Vec<_> = state
            .authorized_entries(agent)
            .into_iter()
            .filter(|entry| !entry.is_expired(now) && !self.rejected.contains(&entry.id))
            .collect();
        (entries.len() as u64, entries_digest(entries.iter().map(AsRef::as_ref)))
    }

    /// The agent that this session is with.
    pub fn agent_id(&self) -> &SpiffeId {
        &self.agent_id
    }

    fn everything(&mut self, agent: &Agent, state: &Arc<Snapshot>, now: Timestamp) -> Plan {
        let entries: Vec<_> = state
            .authorized_entries(agent)
            .into_iter()
            .filter(|entry| !entry.is_expired(now))
            .collect();
        self.rejected.clear();
        self.bundles_sent = wanted_bundles(&entries, state);
        let mut plan = Plan {
            state: state.clone(),
            snapshot: true,
            bundles: self
                .bundles_sent
                .iter()
                .filter_map(|name| state.bundle(name))
                .cloned()
                .collect(),
            entries: entries.into_iter().map(|entry| entry.id.clone()).collect(),
            removed_entries: vec![],
            removed_bundles: vec![],
            tasks: VecDeque::new(),
            revoked: VecDeque::new(),
            lists: false,
        };
        self.add_tasks(&mut plan, agent, now);
        plan
    }

    /// All that the agent has to know of tasks, as if it knew nothing.
    fn add_tasks(&mut self, plan: &mut Plan, agent: &Agent, now: Timestamp) {
        plan.tasks = plan.state.live_tasks_of(&agent.id).cloned().collect();
        self.epoch_sent = 0;
        self.add_revoked(plan, now);
    }

    fn add_revoked(&mut self, plan: &mut Plan, now: Timestamp) {
        let new = plan.state.revocations_after(self.epoch_sent);
        // A clock that is ahead must not keep what still counts from being refused.
        let may_count = |revocation: &&Arc<Revocation>| revocation.not_after.plus(CLOCK_SLACK) >= now;
        plan.revoked = new.filter(may_count).cloned().collect();
        plan.lists = true;
        self.epoch_sent = plan.state.epoch();
    }

    fn delta(
        &mut self,
        agent: &Agent,
        state: &Arc<Snapshot>,
        now: Timestamp,
        entries: BTreeSet<EntryId>,
        changed_bundles: BTreeSet<TrustDomain>,
    ) -> Plan {
        let mut plan = Plan {
            state: state.clone(),
            snapshot: false,
            entries: VecDeque::new(),
            removed_entries: vec![],
            bundles: VecDeque::new(),
            removed_bundles: vec![],
            tasks: VecDeque::new(),
            revoked: VecDeque::new(),
            lists: false,
        };
        let mut bundles: BTreeSet<TrustDomain> = changed_bundles.intersection(&self.bundles_sent).cloned().collect();
        for id in entries {
            self.rejected.remove(&id);
            match state.entry(&id) {
                Some(entry) if !entry.is_expired(now) && state.is_authorized(agent, entry) => {
                    let new = entry
                        .spec
                        .federates_with
                        .iter()
                        .filter(|name| !self.bundles_sent.contains(name));
                    bundles.extend(new.cloned());
                    plan.entries.push_back(id);
                }
                _ => plan.removed_entries.push(id),
            }
        }
        if changed_bundles.contains(state.trust_domain()) {
            bundles.insert(state.trust_domain().clone());
        }
        // A bundle that is created after the entry that wants it.
        for name in changed_bundles {
            if !bundles.contains(&name)
                && state
                    .authorized_entries(agent)
                    .iter()
                    .any(|entry| entry.spec.federates_with.contains(&name))
            {
                bundles.insert(name);
            }
        }
        for name in bundles {
            match state.bundle(&name) {
                Some(bundle) => {
                    self.bundles_sent.insert(name);
                    plan.bundles.push_back(bundle.clone());
                }
                None => {
                    if self.bundles_sent.remove(&name) {
                        plan.removed_bundles.push(name);
                    }
                }
            }
        }
        plan
    }
}

/// The own bundle and those of the trust domains that `entries` federate with, as far as they exist.
fn wanted_bundles(entries: &[Arc<Entry>], state: &Snapshot) -> BTreeSet<TrustDomain> {
    let foreign = entries.iter().flat_map(|entry| &entry.spec.federates_with);
    std::iter::once(state.trust_domain())
        .chain(foreign)
        .filter(|name| state.bundle(name).is_some())
        .cloned()
        .collect()
}

impl Plan {
    /// Whether there is nothing to send but perhaps revocation lists, which go with every first update.
    pub fn is_empty(&self) -> bool {
        !self.snapshot
            && self.entries.is_empty()
            && self.removed_entries.is_empty()
            && self.bundles.is_empty()
            && self.removed_bundles.is_empty()
            && self.tasks.is_empty()
            && self.revoked.is_empty()
    }

    /// The next piece, of about `size` bytes by the measure of `weigh`. Call it until a chunk says that no more follow;
    /// an empty plan has one empty chunk.
    pub fn chunk(&mut self, size: usize, entry_weight: impl Fn(&Entry) -> usize) -> Chunk {
        let mut chunk = Chunk {
            removed_entries: std::mem::take(&mut self.removed_entries),
            removed_bundles: std::mem::take(&mut self.removed_bundles),
            ..Chunk::default()
        };
        let mut weight = chunk.removed_entries.len() * 40;
        // First, as nothing is more urgent than what ends.
        while weight < size
            && let Some(revocation) = self.revoked.pop_front()
        {
            weight += 48 + revocation.serials.len() * 22;
            chunk.revoked.push(revocation);
        }
        while weight < size
            && let Some(task) = self.tasks.pop_front()
        {
            weight += TASK_WEIGHT * task.windows.len().max(1);
            chunk.tasks.push(task);
        }
        chunk.lists = std::mem::take(&mut self.lists);
        while weight < size
            && let Some(bundle) = self.bundles.pop_front()
        {
            weight += 64
                + bundle
                    .x509_authorities
                    .iter()
                    .map(|a| a.cert_der.len() + 8)
                    .sum::<usize>();
            weight += bundle
                .jwt_authorities
                .iter()
                .map(|a| a.public_key_der.len() + 64)
                .sum::<usize>();
            chunk.bundles.push(bundle);
        }
        while weight < size
            && let Some(id) = self.entries.pop_front()
        {
            if let Some(entry) = self.state.entry(&id) {
                weight += entry_weight(entry);
                chunk.entries.push(entry.clone());
            }
        }
        chunk.more =
            !self.entries.is_empty() || !self.bundles.is_empty() || !self.tasks.is_empty() || !self.revoked.is_empty();
        chunk
    }
}
