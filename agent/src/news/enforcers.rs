//! Consumers that enforce what is revoked, and what they have enforced.
//!
//! They choose their names; their SPIFFE IDs were attested. Who has another ID is never summed up with them.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mayfly_proto::mayfly::agent::EnforcedBy;
use mayfly_svid::SpiffeId;
use tokio::sync::Notify;

/// Names of checkpoints that the processes of one user may register.
const NAMES_PER_USER: usize = 64;

/// All consumers that are connected, summed up by the names of their checkpoints and by who they are.
#[derive(Debug, Default)]
pub struct Enforcers {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Book {
    next_id: u64,
    groups: BTreeMap<(Consumers, u32), Group>,
    /// Those whose last one left since the last report.
    gone: BTreeMap<Consumers, u32>,
}

/// A name, and who has it.
type Consumers = (String, SpiffeId);

/// The consumers of one user under one name, with one ID.
#[derive(Debug, Default)]
struct Group {
    consumers: HashMap<u64, Consumer>,
    ended: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Consumer {
    epoch: u64,
    left: u32,
}

/// One consumer, until dropped.
#[derive(Debug)]
pub struct Enforcer {
    all: Arc<Enforcers>,
    key: (Consumers, u32),
    id: u64,
}

/// The user has registered too many names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the processes of one user may register {NAMES_PER_USER} checkpoints")]
pub struct TooManyCheckpoints;

impl Enforcers {
    /// A consumer of the user `uid` under the name `checkpoint`, attested to be `spiffe_id`; it has enforced nothing yet.
    ///
    /// # Errors
    /// The user has registered too many names.
    pub fn join(
        self: &Arc<Self>,
        checkpoint: &str,
        spiffe_id: &SpiffeId,
        uid: u32,
    ) -> Result<Enforcer, TooManyCheckpoints> {
        let mut book = self.lock();
        let key = ((checkpoint.to_owned(), spiffe_id.clone()), uid);
        let names = book.groups.keys().filter(|(_, user)| *user == uid).count();
        if !book.groups.contains_key(&key) && names >= NAMES_PER_USER {
            return Err(TooManyCheckpoints);
        }
        book.next_id += 1;
        let id = book.next_id;
        let group = book.groups.entry(key.clone()).or_default();
        group.consumers.insert(id, Consumer::default());
        drop(book);
        self.changed.notify_one();
        Ok(Enforcer {
            all: Arc::clone(self),
            key,
            id,
        })
    }

    /// How many consumers there are.
    pub fn len(&self) -> usize {
        self.lock().groups.values().map(|group| group.consumers.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum for each name and ID: what all of its consumers have enforced. Connections that were ended are told once.
    pub fn report(&self) -> Vec<EnforcedBy> {
        let mut book = self.lock();
        let mut sums: BTreeMap<Consumers, EnforcedBy> = BTreeMap::new();
        for (consumers, ended) in std::mem::take(&mut book.gone) {
            let sum = sums.entry(consumers).or_default();
            sum.connections_ended = ended;
        }
        for ((consumers, _), group) in &mut book.groups {
            let sum = sums.entry(consumers.clone()).or_default();
            for consumer in group.consumers.values() {
                sum.epoch = if sum.consumers == 0 {
                    consumer.epoch
                } else {
                    sum.epoch.min(consumer.epoch)
                };
                sum.consumers += 1;
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
        named.collect()
    }

    /// Waits until there is something new to report. One waits at a time.
    ///
    /// # Cancel safety
    /// Safe: what was not reported is told to whoever waits next.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Enforcer {
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
        drop(book);
        self.all.changed.notify_one();
    }

    /// What it was sent does not lead on from what it had: it has enforced nothing of it yet.
    pub fn begin_anew(&self) {
        let mut book = self.all.lock();
        let group = book.groups.get_mut(&self.key);
        if let Some(consumer) = group.and_then(|group| group.consumers.get_mut(&self.id)) {
            consumer.epoch = 0;
        }
        drop(book);
        self.all.changed.notify_one();
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        let mut book = self.all.lock();
        if let Some(group) = book.groups.get_mut(&self.key) {
            group.consumers.remove(&self.id);
            if group.consumers.is_empty() {
                let ended = group.ended;
                book.groups.remove(&self.key);
                let gone = book.gone.entry(self.key.0.clone()).or_default();
                *gone = gone.saturating_add(ended);
            }
        }
        drop(book);
        self.all.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> SpiffeId {
        "spiffe://td/svc/db".parse().unwrap()
    }

    fn told(all: &Enforcers) -> Vec<(String, u32, u64, u32, u32)> {
        let report = all.report().into_iter();
        report
            .map(|sum| {
                (
                    sum.checkpoint,
                    sum.consumers,
                    sum.epoch,
                    sum.connections_ended,
                    sum.connections_left,
                )
            })
            .collect()
    }

    #[test]
    fn a_checkpoint_has_enforced_what_all_of_its_consumers_have() {
        let all = Arc::new(Enforcers::default());
        let (one, two) = (
            all.join("db", &service(), 1).unwrap(),
            all.join("db", &service(), 2).unwrap(),
        );
        let other = all.join("web", &service(), 1).unwrap();
        one.acknowledge(7, 3, 1);
        other.acknowledge(9, 0, 0);
        assert_eq!(told(&all), [("db".into(), 2, 0, 3, 1), ("web".into(), 1, 9, 0, 0)]);
        two.acknowledge(6, 1, 2);
        one.acknowledge(5, 0, 0);
        assert_eq!(
            told(&all),
            [("db".into(), 2, 6, 1, 2), ("web".into(), 1, 9, 0, 0)],
            "never backwards, and ended ones are told once"
        );
        two.acknowledge(6, 4, 0);
        drop(two);
        assert_eq!(told(&all)[0], ("db".into(), 1, 7, 4, 0), "who left holds nobody up");
        drop(one);
        assert_eq!(
            told(&all)[0],
            ("db".into(), 0, 0, 0, 0),
            "that nobody is left is told once"
        );
        assert_eq!(told(&all).len(), 1);
    }

    #[test]
    fn who_takes_a_name_is_told_apart_by_who_it_is() {
        let all = Arc::new(Enforcers::default());
        let evil = "spiffe://td/ns/evil".parse().unwrap();
        let (right, wrong) = (
            all.join("db", &service(), 1).unwrap(),
            all.join("db", &evil, 1).unwrap(),
        );
        right.acknowledge(3, 0, 0);
        wrong.acknowledge(9, 0, 0);
        let report = all.report().into_iter().map(|sum| (sum.spiffe_id, sum.epoch));
        let report: Vec<_> = report.collect();
        assert_eq!(
            report,
            [("spiffe://td/ns/evil".into(), 9), ("spiffe://td/svc/db".into(), 3)]
        );
    }

    #[test]
    fn one_user_has_so_many_names() {
        let all = Arc::new(Enforcers::default());
        let held: Vec<_> = (0..NAMES_PER_USER)
            .map(|i| all.join(&format!("c{i}"), &service(), 1).unwrap())
            .collect();
        assert_eq!(all.join("more", &service(), 1).unwrap_err(), TooManyCheckpoints);
        assert!(
            all.join("c1", &service(), 1).is_ok(),
            "more consumers of a name that it has"
        );
        assert!(all.join("more", &service(), 2).is_ok());
        drop(held);
        assert!(all.join("more", &service(), 1).is_ok());
    }
}
