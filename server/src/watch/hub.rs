//! The open streams, by agent, and which of them a commit concerns.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mayfly_model::task::TaskId;
use mayfly_model::{Agent, Delta, Entry, EntryId, Revision};
use mayfly_svid::{SpiffeId, TrustDomain};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use super::{History, Resume};
use crate::commit::{Applied, Snapshot, agents_of};

/// More IDs than this wait for one agent, and it is told everything instead.
const PENDING_MAX: usize = 1024;

/// All open streams. One per agent: a newer one ends the older.
#[derive(Debug)]
pub struct Hub {
    streams: Mutex<HashMap<SpiffeId, Arc<Mailbox>>>,
    history: Mutex<History>,
    observed: AtomicU64,
    /// When agents that have no stream now had their last one.
    left: Mutex<HashMap<SpiffeId, Instant>>,
    began: Instant,
}

/// What waits for one stream: IDs only, so it is small however slow the agent is.
#[derive(Debug, Default)]
pub struct Mailbox {
    pending: Mutex<Pending>,
    wake: Notify,
    /// Here and not with the stream: one that its agent does not read is not run, and would never let go of it.
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

/// What a stream has to look at again.
#[derive(Debug, Default)]
pub struct Pending {
    /// Entries that changed or may no longer be the agent's.
    pub entries: BTreeSet<EntryId>,
    /// Bundles that changed.
    pub bundles: BTreeSet<TrustDomain>,
    /// Tasks of the agent's processes that changed.
    pub tasks: BTreeSet<TaskId>,
    /// Something was revoked, or there are other revocation lists.
    pub revoked: bool,
    /// Everything: too much changed, or what the agent may see at all.
    pub everything: bool,
    /// The stream ends, for this reason.
    pub end: Option<End>,
}

/// Why the server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The agent was banned.
    Banned,
    /// The agent was evicted.
    Evicted,
    /// The agent opened another stream.
    Superseded,
}

impl Pending {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.bundles.is_empty()
            && self.tasks.is_empty()
            && !self.revoked
            && !self.everything
            && self.end.is_none()
    }
}

impl Mailbox {
    /// Takes all that waits.
    pub fn take(&self) -> Pending {
        std::mem::take(&mut *lock(&self.pending))
    }

    /// Why the stream has to end, if it has to.
    pub fn end(&self) -> Option<End> {
        lock(&self.pending).end
    }

    /// Whether something waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.pending).is_empty()
    }

    /// Waits until there may be something to take.
    ///
    /// # Cancel safety
    /// Safe: a wake-up that nobody waited for is kept.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Keeps `place`, one of those that there are for agents that catch up, until [`Self::caught_up`] or the end.
    pub fn catch_up(&self, place: OwnedSemaphorePermit) {
        *lock(&self.place) = Some(place);
    }

    /// Makes room for another agent.
    pub fn caught_up(&self) {
        *lock(&self.place) = None;
    }

    /// The first reason stands: a ban is not hidden by what comes after it.
    fn finish(&self, end: End) {
        self.add(|pending| {
            pending.end.get_or_insert(end);
        });
        self.caught_up();
    }

    fn add(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = lock(&self.pending);
        change(&mut pending);
        if pending.everything || pending.entries.len() > PENDING_MAX {
            pending.everything = true;
            pending.entries = BTreeSet::new();
        }
        drop(pending);
        self.wake.notify_one();
    }
}

impl Hub {
    /// A hub without streams, which resumes from `history`; `loaded` is the revision of the state at start.
    pub fn new(history: History, loaded: Revision) -> Self {
        Self {
            streams: Mutex::default(),
            history: Mutex::new(history),
            observed: AtomicU64::new(loaded.0),
            left: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Up to which revision every stream has been told. Read it before a mailbox or a snapshot: what one then finds there
    /// covers at least this revision, so this is what an agent may be said to hold. The snapshot's own revision is not: a
    /// commit becomes visible a moment before its streams are told.
    pub fn observed(&self) -> Revision {
        Revision(self.observed.load(Ordering::Acquire))
    }

    /// Opens the stream of `agent`; an older one of it ends. Call this before looking at the snapshot to resume from, so
    /// that no commit falls between the two.
    pub fn open(&self, agent: &SpiffeId) -> Arc<Mailbox> {
        let mailbox = Arc::new(Mailbox::default());
        lock(&self.left).remove(agent);
        if let Some(older) = lock(&self.streams).insert(agent.clone(), mailbox.clone()) {
            older.finish(End::Superseded);
        }
        mailbox
    }

    /// Forgets a stream that ended; a newer one of the same agent stays. Answers whether it was the present one.
    pub fn close(&self, agent: &SpiffeId, mailbox: &Arc<Mailbox>) -> bool {
        let mut streams = lock(&self.streams);
        let is_present = streams.get(agent).is_some_and(|open| Arc::ptr_eq(open, mailbox));
        if is_present {
            streams.remove(agent);
            lock(&self.left).insert(agent.clone(), Instant::now());
        }
        is_present
    }

    /// Since when `agent` has had no stream; none while it has one. What it had before this process began counts from there.
    pub fn away_since(&self, agent: &SpiffeId) -> Option<Instant> {
        let streams = lock(&self.streams);
        if streams.contains_key(agent) {
            return None;
        }
        Some(lock(&self.left).get(agent).copied().unwrap_or(self.began))
    }

    /// How many streams are open.
    pub fn open_count(&self) -> usize {
        lock(&self.streams).len()
    }

    /// How `agent`, which holds `held`, gets to `now`.
    pub fn resume(&self, agent: &Agent, held: Revision, now: &Snapshot) -> Resume {
        lock(&self.history).resume(agent, held, now)
    }

    /// Marks every stream that a commit concerns. Runs on the committer's thread.
    pub fn observe(&self, applied: &Applied) {
        lock(&self.history).record(applied);
        self.mark(applied);
        self.observed.store(applied.after.revision().0, Ordering::Release);
    }

    fn mark(&self, applied: &Applied) {
        let streams = lock(&self.streams);
        if streams.is_empty() {
            return;
        }
        if applied.reloaded {
            streams
                .values()
                .for_each(|mailbox| mailbox.add(|pending| pending.everything = true));
        }
        let tell = |id: &SpiffeId, change: &dyn Fn(&mut Pending)| {
            if let Some(mailbox) = streams.get(id) {
                mailbox.add(change);
            }
        };
        let finish = |id: &SpiffeId, end| {
            if let Some(mailbox) = streams.get(id) {
                mailbox.finish(end);
            }
        };
        let tell_all_of_bundle = |name: &TrustDomain| {
            for mailbox in streams.values() {
                mailbox.add(|pending| {
                    pending.bundles.insert(name.clone());
                });
            }
        };
        let mut revoked = false;
        for delta in &applied.deltas {
            match delta {
                Delta::EntryPut(entry) => {
                    let old = applied.before.entry(&entry.id);
                    concern(applied, entry, old.map(AsRef::as_ref), &tell);
                }
                Delta::EntryGone(entry) => concern(applied, entry, Some(entry.as_ref()), &tell),
                Delta::AgentPut(agent) if agent.banned => finish(&agent.id, End::Banned),
                Delta::AgentPut(agent) => {
                    let old = applied.before.agent(&agent.id);
                    if old.is_some_and(|old| old.selectors != agent.selectors) {
                        tell(&agent.id, &|pending| pending.everything = true);
                    }
                }
                Delta::AgentGone(id) => finish(id, End::Evicted),
                Delta::BundlePut(bundle) => tell_all_of_bundle(&bundle.trust_domain),
                Delta::BundleGone(name) => tell_all_of_bundle(name),
                Delta::TaskPut(task) => {
                    for agent in agents_of(task) {
                        tell(agent, &|pending| {
                            pending.tasks.insert(task.id.clone());
                        });
                    }
                }
                Delta::Revoked(_) => revoked = true,
                Delta::AuthorityPut(_)
                | Delta::AuthorityGone(_)
                | Delta::DefinitionPut(_)
                | Delta::PolicyPut(_)
                | Delta::ProposalPut(_)
                | Delta::ExceptionPut(_)
                | Delta::TaskGone(_) => {}
            }
        }
        drop(streams);
        if revoked {
            self.tell_revoked();
        }
    }

    /// Tells every stream that there is something new to refuse.
    pub fn tell_revoked(&self) {
        for mailbox in lock(&self.streams).values() {
            mailbox.add(|pending| pending.revoked = true);
        }
    }
}

/// Changes what an agent is to be told.
type Tell<'a> = dyn Fn(&SpiffeId, &dyn Fn(&mut Pending)) + 'a;

/// Tells the agents that `entry`, which was `old`, concerns or concerned.
fn concern(applied: &Applied, entry: &Entry, old: Option<&Entry>, tell: &Tell<'_>) {
    let server = applied.after.trust_domain().server_id();
    // An alias, or an entry with entries below it, decides over more than itself.
    let has_children =
        |snapshot: &Snapshot, entry: &Entry| snapshot.entries_of_parent(&entry.spec.spiffe_id).next().is_some();
    let group = has_children(&applied.after, entry) || old.is_some_and(|old| has_children(&applied.before, old));
    let mut agents = applied.after.agents_below(&entry.spec.parent_id);
    if entry.spec.parent_id == server {
        agents.extend(applied.after.agents_matching(entry).map(|agent| agent.id.clone()));
    }
    if let Some(old) = old {
        agents.extend(applied.before.agents_below(&old.spec.parent_id));
        if old.spec.parent_id == server {
            agents.extend(applied.before.agents_matching(old).map(|agent| agent.id.clone()));
        }
    }
    for agent in &agents {
        tell(agent, &|pending| {
            if group {
                pending.everything = true;
            } else {
                pending.entries.insert(entry.id.clone());
            }
        });
    }
}

/// Locks without caring for a panic of another holder: each change above leaves the data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
