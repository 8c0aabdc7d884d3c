//! Consumers that enforce what is revoked, and what they have enforced.
//!
//! They choose their names; their SPIFFE IDs were attested. Who has another ID is never summed up with them.
//!
//! A consumer whose connection was lost is not gone. Stopped, or behind a socket that was cut, it may hold connections, and
//! let in whom it would have refused with the next word, for as long as it believes the last one. So it is *away*: it goes on
//! being counted with what it acknowledged last, until the lease that it was told has ended or its process has. One of best
//! effort believes without end, so only its process ends that. Who comes back as the same instance is not away any more.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture, abortable};
use futures_util::stream::FuturesUnordered;
use mayfly_proto::mayfly::agent::{Enforced, EnforcedBy};
use mayfly_svid::SpiffeId;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::Moment;

/// Names of checkpoints that the processes of one user may register.
const NAMES_PER_USER: usize = 64;
/// Consumers of one user that may be away at a time. Further ones cannot register, so nobody is forgotten.
const AWAY_PER_USER: usize = 1024;
/// Names of which connections are told that ended before the last one of the name left.
const GONE_MAX: usize = 64;

/// All consumers that are connected or away, summed up by the names of their checkpoints and by who they are.
#[derive(Debug)]
pub struct Enforcers {
    /// Random, never 0: who was told something by another run of the agent is not known to this one.
    run: u64,
    book: Mutex<Book>,
    changed: Notify,
    /// Somebody is away, or not any more.
    left: Notify,
}

#[derive(Debug, Default)]
struct Book {
    next_id: u64,
    groups: BTreeMap<Key, Group>,
    /// Connections that those ended whose last one left since the last report; only what people are told.
    gone: BTreeMap<Consumers, u32>,
    /// Something is not reported yet.
    is_dirty: bool,
    /// Ends of processes that nobody waits for yet.
    leaving: Vec<Leaving>,
    /// Of each consumer that is away: to wait for its process no longer.
    waits: HashMap<u64, AbortHandle>,
}

/// A name, and who has it.
type Consumers = (String, SpiffeId);
/// The same, for one user.
type Key = (Consumers, u32);
/// Which process: its number and when it started.
type Process = (u32, u64);

/// Who registers.
pub struct Consumer {
    /// The user.
    pub uid: u32,
    /// Its number and when it started.
    pub process: (u32, u64),
    /// Ends when the process has.
    pub exited: BoxFuture<'static, ()>,
    /// Without a word it goes on.
    pub best_effort: bool,
    /// What it calls itself while it keeps what it was told; 0 if it does not say.
    pub instance: u64,
}

/// The consumers of one user under one name, with one ID.
#[derive(Debug, Default)]
struct Group {
    consumers: HashMap<u64, Registered>,
    ended: u32,
}

#[derive(Debug, Clone, Copy)]
struct Registered {
    process: Process,
    best_effort: bool,
    instance: u64,
    epoch: u64,
    left: u32,
    /// Until when it counts on the last word, to be on the safe side.
    believes_until: Option<Moment>,
    is_away: bool,
}

/// The end of the process of a consumer that is away.
struct Leaving {
    key: Key,
    id: u64,
    exited: Abortable<BoxFuture<'static, ()>>,
}

/// One consumer, until dropped.
pub struct Enforcer {
    all: Arc<Enforcers>,
    key: Key,
    id: u64,
    exited: Option<BoxFuture<'static, ()>>,
}

/// The user has registered too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TooManyConsumers {
    /// Names.
    #[error("the processes of one user may register {NAMES_PER_USER} checkpoints")]
    Names,
    /// Consumers that went away and may come back.
    #[error(
        "{AWAY_PER_USER} consumers of this user are away and may still count on what they were told; each is waited for until its \
         lease or its process has ended"
    )]
    Away,
}

impl Default for Enforcers {
    fn default() -> Self {
        Self {
            run: rand::random::<u64>().max(1),
            book: Mutex::default(),
            changed: Notify::new(),
            left: Notify::new(),
        }
    }
}

impl Enforcers {
    /// A consumer under the name `checkpoint`, attested to be `spiffe_id`; it has enforced nothing yet.
    ///
    /// # Errors
    /// The user has registered too many names, or too many of its consumers are away.
    pub fn join(
        self: &Arc<Self>,
        checkpoint: &str,
        spiffe_id: &SpiffeId,
        consumer: Consumer,
    ) -> Result<Enforcer, TooManyConsumers> {
        let Consumer {
            uid,
            process,
            exited,
            best_effort,
            instance,
        } = consumer;
        let mut book = self.lock();
        let key = ((checkpoint.to_owned(), spiffe_id.clone()), uid);
        if !book.groups.contains_key(&key) && book.of_user(uid).count() >= NAMES_PER_USER {
            return Err(TooManyConsumers::Names);
        }
        let came_back = book.away_as(&key, instance);
        // Who came back takes the place that it had.
        if came_back.is_empty() && book.away_of(uid) >= AWAY_PER_USER {
            return Err(TooManyConsumers::Away);
        }
        book.next_id += 1;
        let id = book.next_id;
        let registered = Registered {
            process,
            best_effort,
            instance,
            epoch: 0,
            left: 0,
            // What it was told before it believes still, whether or not it is told anything here.
            believes_until: book.believed_until(&key, &came_back),
            is_away: false,
        };
        book.groups
            .entry(key.clone())
            .or_default()
            .consumers
            .insert(id, registered);
        for id in came_back {
            book.remove(&key, id);
        }
        self.tell(book);
        Ok(Enforcer {
            all: Arc::clone(self),
            key,
            id,
            exited: Some(exited),
        })
    }

    /// How many consumers are connected.
    pub fn len(&self) -> usize {
        let book = self.lock();
        let all = book.groups.values().flat_map(|group| group.consumers.values());
        all.filter(|consumer| !consumer.is_away).count()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum for each name and ID: what all of its consumers have enforced. Connections that were ended are told once.
    pub fn report(&self) -> Enforced {
        let mut book = self.lock();
        book.forget_unbelieving(Moment::now());
        book.is_dirty = false;
        let mut sums: BTreeMap<Consumers, EnforcedBy> = BTreeMap::new();
        for (consumers, ended) in std::mem::take(&mut book.gone) {
            let sum = sums.entry(consumers).or_default();
            sum.connections_ended = ended;
        }
        for ((consumers, _), group) in &mut book.groups {
            let sum = sums.entry(consumers.clone()).or_default();
            for consumer in group.consumers.values() {
                sum.epoch = if sum.consumers == 0 && sum.away == 0 {
                    consumer.epoch
                } else {
                    sum.epoch.min(consumer.epoch)
                };
                sum.consumers += u32::from(!consumer.is_away);
                sum.away += u32::from(consumer.is_away);
                sum.best_effort += u32::from(consumer.best_effort);
                sum.connections_left = sum.connections_left.saturating_add(consumer.left);
            }
            let ended = std::mem::take(&mut group.ended);
            sum.connections_ended = sum.connections_ended.saturating_add(ended);
        }
        let named = sums.into_iter().map(|((checkpoint, spiffe_id), sum)| EnforcedBy {
            checkpoint,
            spiffe_id: spiffe_id.to_string(),
            ..sum
        });
        Enforced {
            checkpoints: named.collect(),
            run: self.run,
        }
    }

    /// Whether there is something that was not reported.
    pub fn is_dirty(&self) -> bool {
        self.lock().is_dirty
    }

    /// Waits until there may be something new to report. One waits at a time.
    ///
    /// # Cancel safety
    /// Safe: what was not reported is told to whoever waits next.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Forgets who is away as soon as it cannot count on anything any more. Never ends; one runs at a time.
    ///
    /// # Cancel safety
    /// Who was away when it was dropped and is of best effort stays that.
    pub async fn look_after_away(&self) {
        let mut ends = FuturesUnordered::new();
        loop {
            let (leaving, next) = self.take_leaving();
            for Leaving { key, id, exited } in leaving {
                ends.push(async move {
                    // Or it is not waited for any more.
                    let _ = exited.await;
                    (key, id)
                });
            }
            tokio::select! {
                Some((key, id)) = ends.next(), if !ends.is_empty() => self.forget(&key, id),
                () = self.left.notified() => {}
                () = async {
                    match next {
                        Some(next) => sleep_until(next.timer()).await,
                        None => pending().await,
                    }
                } => {}
            }
        }
    }

    /// Forgets whose time has come. Who left since, and when to look again.
    fn take_leaving(&self) -> (Vec<Leaving>, Option<Moment>) {
        let mut book = self.lock();
        let leaving = std::mem::take(&mut book.leaving);
        let has_forgotten = book.forget_unbelieving(Moment::now());
        let all = book.groups.values().flat_map(|group| group.consumers.values());
        let next = all.filter_map(Registered::unbelieving_at).min();
        if has_forgotten {
            self.tell(book);
        }
        (leaving, next)
    }

    fn forget(&self, key: &Key, id: u64) {
        let mut book = self.lock();
        if book.remove(key, id) {
            self.tell(book);
        }
    }

    fn tell(&self, mut book: MutexGuard<'_, Book>) {
        book.is_dirty = true;
        drop(book);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Consumer {
    /// A strict one of `uid` that lives on.
    pub(crate) fn of_user(uid: u32) -> Self {
        Self {
            uid,
            process: (uid, 1),
            exited: Box::pin(pending()),
            best_effort: false,
            instance: 0,
        }
    }
}

impl Book {
    fn of_user(&self, uid: u32) -> impl Iterator<Item = &Group> {
        self.groups
            .iter()
            .filter(move |((_, user), _)| *user == uid)
            .map(|(_, group)| group)
    }

    fn away_of(&self, uid: u32) -> usize {
        let all = self.of_user(uid).flat_map(|group| group.consumers.values());
        all.filter(|consumer| consumer.is_away).count()
    }

    fn consumer(&mut self, key: &Key, id: u64) -> Option<&mut Registered> {
        self.groups.get_mut(key)?.consumers.get_mut(&id)
    }

    /// Those who are away and count on nothing any more. Says whether there were any.
    fn forget_unbelieving(&mut self, now: Moment) -> bool {
        let mut over = vec![];
        for (key, group) in &self.groups {
            let is_over = |consumer: &Registered| consumer.unbelieving_at().is_some_and(|end| end <= now);
            let ids = group.consumers.iter().filter(|(_, consumer)| is_over(consumer));
            over.extend(ids.map(|(id, _)| (key.clone(), *id)));
        }
        for (key, id) in &over {
            self.remove(key, *id);
        }
        !over.is_empty()
    }

    /// Those who are away and call themselves so; nobody who does not say.
    fn away_as(&self, key: &Key, instance: u64) -> Vec<u64> {
        let is_it = |consumer: &Registered| instance != 0 && consumer.is_away && consumer.instance == instance;
        let all = self.groups.get(key).into_iter().flat_map(|group| &group.consumers);
        all.filter(|(_, consumer)| is_it(consumer)).map(|(id, _)| *id).collect()
    }

    fn believed_until(&self, key: &Key, ids: &[u64]) -> Option<Moment> {
        let group = self.groups.get(key)?;
        let all = ids.iter().filter_map(|id| group.consumers.get(id));
        all.filter_map(|consumer| consumer.believes_until).max()
    }

    fn remove(&mut self, key: &Key, id: u64) -> bool {
        if let Some(wait) = self.waits.remove(&id) {
            wait.abort();
        }
        let Some(group) = self.groups.get_mut(key) else {
            return false;
        };
        let was_there = group.consumers.remove(&id).is_some();
        if group.consumers.is_empty() {
            let ended = group.ended;
            self.groups.remove(key);
            // That nobody is left says itself: who is not in a report is gone.
            if ended > 0 && (self.gone.len() < GONE_MAX || self.gone.contains_key(&key.0)) {
                let gone = self.gone.entry(key.0.clone()).or_default();
                *gone = gone.saturating_add(ended);
            }
        }
        was_there
    }

    /// One that was away before, of the same process, which does not say what tells them apart: then one stands for both.
    fn same_away(&mut self, key: &Key, leaver: &Registered) -> Option<&mut Registered> {
        let is_same = |other: &&mut Registered| {
            other.is_away
                && (other.instance, leaver.instance) == (0, 0)
                && other.process == leaver.process
                && other.best_effort == leaver.best_effort
        };
        self.groups.get_mut(key)?.consumers.values_mut().find(is_same)
    }
}

impl Registered {
    /// When it does not count on anything any more, if it is away and time ends that.
    fn unbelieving_at(&self) -> Option<Moment> {
        self.believes_until.filter(|_| self.is_away && !self.best_effort)
    }
}

impl std::fmt::Debug for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaving")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Enforcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enforcer")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Enforcer {
    /// It is about to be told that it may count on what it knows until then.
    pub fn believes_until(&self, until: Moment) {
        let mut book = self.all.lock();
        if let Some(consumer) = book.consumer(&self.key, self.id) {
            consumer.believes_until = consumer.believes_until.max(Some(until));
        }
    }

    /// It refuses everything up to `epoch`, has ended so many connections since the last time, and could not end so many.
    pub fn acknowledge(&self, epoch: u64, ended: u32, left: u32) {
        let mut book = self.all.lock();
        let Some(group) = book.groups.get_mut(&self.key) else {
            return;
        };
        group.ended = group.ended.saturating_add(ended);
        let Some(consumer) = group.consumers.get_mut(&self.id) else {
            return;
        };
        consumer.epoch = consumer.epoch.max(epoch);
        consumer.left = left;
        self.all.tell(book);
    }

    /// What it was sent does not lead on from what it had: it has enforced nothing of it yet.
    pub fn begin_anew(&self) {
        let mut book = self.all.lock();
        if let Some(consumer) = book.consumer(&self.key, self.id) {
            consumer.epoch = 0;
        }
        self.all.tell(book);
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        let mut book = self.all.lock();
        let Some(leaver) = book.consumer(&self.key, self.id).map(|consumer| *consumer) else {
            return;
        };
        let counts_on_something =
            leaver.best_effort || leaver.believes_until.is_some_and(|until| until > Moment::now());
        if !counts_on_something {
            book.remove(&self.key, self.id);
        } else if let Some(before) = book.same_away(&self.key, &leaver) {
            before.epoch = before.epoch.min(leaver.epoch);
            before.left = before.left.saturating_add(leaver.left);
            before.believes_until = before.believes_until.max(leaver.believes_until);
            book.remove(&self.key, self.id);
        } else {
            if let Some(consumer) = book.consumer(&self.key, self.id) {
                consumer.is_away = true;
            }
            if let Some(exited) = self.exited.take() {
                let (exited, wait) = abortable(exited);
                book.waits.insert(self.id, wait);
                let (key, id) = (self.key.clone(), self.id);
                book.leaving.push(Leaving { key, id, exited });
            }
        }
        self.all.tell(book);
        self.all.left.notify_one();
    }
}

#[cfg(test)]
mod tests;
