//! What the consumers behind each agent enforce, as the agents report it: the proof that a revocation has arrived.
//!
//! A consumer chooses its name, but who it is was attested by its agent, and an agent speaks only for IDs that it may serve.
//! So definitions name IDs: see [`CheckpointRule`].
//!
//! In memory only. After a restart every agent reports anew; until then nothing is settled by what was said before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mayfly_model::task::{Acknowledged, CheckpointRule};
use mayfly_svid::{SpiffeId, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

/// Consumers that count as one: the name that they registered with, and their base SPIFFE ID.
pub type ConsumerKey = (String, SpiffeId);

/// What one agent says of the consumers with one name and ID behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforcing {
    /// How many are connected.
    pub consumers: u32,
    /// All of them refuse what was revoked up to here.
    pub epoch: u64,
    /// Connections with task SVIDs that they could not end.
    pub left: u32,
}

/// What the consumers that a rule means do, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// How many are connected.
    pub consumers: u32,
    /// How many revocations the slowest has not acknowledged.
    pub behind: u64,
    /// The agent of one of them is away, so that what it enforces is not known.
    pub is_agent_gone: bool,
}

/// The last that an agent said.
#[derive(Debug, Default)]
struct Reported {
    consumers: BTreeMap<ConsumerKey, Said>,
    /// It is gone: what its consumers enforce is not known. They count as not enforcing until then.
    gone_until: Option<Instant>,
}

/// What an agent said, and when it did so first.
#[derive(Clone, Copy, Debug)]
struct Said {
    enforcing: Enforcing,
    since: Instant,
}

/// What is known of declared checkpoints and an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Those that refuse all that was revoked up to it.
    pub enforced: Vec<Acknowledged>,
    /// The others, as they were declared.
    pub missing: Vec<String>,
}

/// Consumers have come or gone: for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The name that they registered with, and who they are: `db@/svc/db`.
    pub name: String,
    /// How many there are; 0: they are gone.
    pub consumers: u32,
}

/// Who was there a moment ago is not gone yet, for the record.
const LOST_AFTER: Duration = Duration::from_secs(15);
/// Records of consumers that come and go, in one minute: names are chosen by whoever registers, and some may do so all the
/// time. What has no room is recorded later if it is still so then.
const RECORDS_A_MINUTE: u32 = 120;

/// All reports. Cheap to read.
#[derive(Debug)]
pub struct Checkpoints {
    agents: Mutex<HashMap<SpiffeId, Reported>>,
    recorded: Mutex<Recorded>,
    changed: watch::Sender<u64>,
}

/// Which consumers the log says are there, and how much it may say in this minute.
#[derive(Debug)]
struct Recorded {
    present: BTreeMap<ConsumerKey, Option<Instant>>,
    minute: Instant,
    left: u32,
}

/// The revocation lists that agents and consumers get: those of all task authorities that could have signed what still
/// counts.
#[derive(Clone, Debug, Default)]
pub struct ListSet {
    /// DER, one for each authority.
    pub ders: Vec<Vec<u8>>,
    /// All that was revoked up to here is on them.
    pub epoch: u64,
}

/// Where the newest are found.
pub type PublishedLists = Arc<ArcSwap<ListSet>>;

impl Default for Checkpoints {
    fn default() -> Self {
        Self {
            agents: Mutex::default(),
            recorded: Mutex::new(Recorded {
                present: BTreeMap::new(),
                minute: Instant::now(),
                left: RECORDS_A_MINUTE,
            }),
            changed: watch::Sender::new(0),
        }
    }
}

impl Checkpoints {
    /// Takes over what `agent` says now: all of it, so whatever is not in `reports` is gone. The caller has made sure that
    /// the agent may serve these IDs.
    pub fn report(&self, agent: &SpiffeId, reports: BTreeMap<ConsumerKey, Enforcing>) {
        let mut agents = lock(&self.agents);
        let before = agents.remove(agent).unwrap_or_default();
        let since = |key: &ConsumerKey, enforcing: &Enforcing| {
            let same = before.consumers.get(key).filter(|said| said.enforcing == *enforcing);
            same.map_or_else(Instant::now, |said| said.since)
        };
        let consumers = reports
            .into_iter()
            .filter(|(_, enforcing)| enforcing.consumers > 0)
            .map(|(key, enforcing)| {
                let since = since(&key, &enforcing);
                (key, Said { enforcing, since })
            })
            .collect();
        let gone_until = None;
        agents.insert(agent.clone(), Reported { consumers, gone_until });
        drop(agents);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Notes that the stream of an agent ended. What its consumers enforce is not known any more; after `gone_for`, which is
    /// longer than the lease, strict ones refuse everything, as their word has run out.
    pub fn gone(&self, agent: &SpiffeId, gone_for: Duration) {
        let mut agents = lock(&self.agents);
        agents.retain(|_, reported| !reported.is_over());
        if let Some(reported) = agents.get_mut(agent) {
            reported.gone_until.get_or_insert_with(|| Instant::now() + gone_for);
        }
        drop(agents);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Of the checkpoints in `rules`, those that refuse what was revoked up to `epoch`, and those of which it is not known:
    /// nobody whom the rule means is registered, or one of them has not acknowledged, or has connections left. What is no
    /// rule means nobody.
    pub fn word(&self, rules: &BTreeSet<String>, epoch: u64, now: Timestamp) -> Word {
        let agents = lock(&self.agents);
        let mut word = Word::default();
        for text in rules {
            let meant: Vec<(Said, bool)> = match CheckpointRule::parse(text) {
                Ok(rule) => agents
                    .iter()
                    .filter(|(_, reported)| !reported.is_over())
                    .flat_map(|(agent, reported)| reported.of(&rule, agent))
                    .collect(),
                Err(_) => vec![],
            };
            let refuses = |(Said { enforcing, .. }, is_gone): &(Said, bool)| {
                !is_gone && enforcing.epoch >= epoch && enforcing.left == 0
            };
            let last = meant.iter().map(|(said, _)| said.since).max();
            match last.filter(|_| meant.iter().all(refuses)) {
                None => word.missing.push(text.clone()),
                Some(last) => word.enforced.push(Acknowledged {
                    name: text.clone(),
                    consumers: meant
                        .iter()
                        .fold(0, |all, (said, _)| said.enforcing.consumers.saturating_add(all)),
                    epoch: meant
                        .iter()
                        .map(|(said, _)| said.enforcing.epoch)
                        .min()
                        .unwrap_or(epoch),
                    at: now.minus(last.elapsed()),
                }),
            }
        }
        word
    }

    /// Of the checkpoints in `rules`, those that are not known to refuse what was revoked up to `epoch`.
    pub fn missing(&self, rules: &BTreeSet<String>, epoch: u64) -> Vec<String> {
        self.word(rules, epoch, Timestamp::default()).missing
    }

    /// Which consumers have come or gone since the last call, as far as the log may say so by now. Who was there a moment
    /// ago is not gone.
    pub fn presences(&self) -> Vec<Presence> {
        let mut now: BTreeMap<ConsumerKey, u32> = BTreeMap::new();
        for reported in lock(&self.agents).values().filter(|reported| !reported.is_over()) {
            for (key, said) in &reported.consumers {
                let count = now.entry(key.clone()).or_default();
                *count = count.saturating_add(said.enforcing.consumers);
            }
        }
        lock(&self.recorded).changes(&now)
    }

    /// What the consumers that `rule` means do, where `epoch` is the newest.
    pub fn enforced(&self, rule: &str, epoch: u64) -> Enforced {
        let mut all = Enforced::default();
        let Ok(rule) = CheckpointRule::parse(rule) else {
            return all;
        };
        let agents = lock(&self.agents);
        for (agent, reported) in agents.iter().filter(|(_, reported)| !reported.is_over()) {
            for (Said { enforcing, .. }, is_gone) in reported.of(&rule, agent) {
                all.consumers = all.consumers.saturating_add(enforcing.consumers);
                all.behind = all.behind.max(epoch.saturating_sub(enforcing.epoch));
                all.is_agent_gone |= is_gone;
            }
        }
        all
    }

    /// Changes with each report.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Reported {
    /// The consumers that `rule` means, and whether their agent is gone. Agents are of our own trust domain.
    fn of(&self, rule: &CheckpointRule<'_>, agent: &SpiffeId) -> Vec<(Said, bool)> {
        let (own, is_gone) = (agent.trust_domain(), self.gone_until.is_some());
        let meant = self
            .consumers
            .iter()
            .filter(|((name, id), _)| rule.means(name, id, &own));
        meant.map(|(_, said)| (*said, is_gone)).collect()
    }

    fn is_over(&self) -> bool {
        self.gone_until.is_some_and(|until| Instant::now() > until)
    }
}

impl Recorded {
    fn changes(&mut self, now: &BTreeMap<ConsumerKey, u32>) -> Vec<Presence> {
        if self.minute.elapsed() >= Duration::from_secs(60) {
            (self.minute, self.left) = (Instant::now(), RECORDS_A_MINUTE);
        }
        let mut changes = vec![];
        let mut lost = vec![];
        for (key, missing_since) in &mut self.present {
            if now.contains_key(key) {
                *missing_since = None;
            } else if missing_since.get_or_insert_with(Instant::now).elapsed() > LOST_AFTER && self.left > 0 {
                self.left -= 1;
                lost.push(key.clone());
            }
        }
        for key in lost {
            self.present.remove(&key);
            changes.push(Presence::new(&key, 0));
        }
        for (key, consumers) in now {
            if self.left > 0 && !self.present.contains_key(key) {
                self.left -= 1;
                self.present.insert(key.clone(), None);
                changes.push(Presence::new(key, *consumers));
            }
        }
        changes
    }
}

impl Presence {
    fn new((name, id): &ConsumerKey, consumers: u32) -> Self {
        let name = format!("{name}@{}", id.path());
        Self { name, consumers }
    }
}

/// Each change above leaves the data whole, so a panic of another holder does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, left: u32) -> Enforcing {
        Enforcing {
            consumers: 1,
            epoch,
            left,
        }
    }

    fn by(name: &str, id: &str, enforcing: Enforcing) -> BTreeMap<ConsumerKey, Enforcing> {
        [((name.to_owned(), id.parse().unwrap()), enforcing)].into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_enforces_only_when_all_behind_all_agents_do() {
        let checkpoints = Checkpoints::default();
        let (a, b): (SpiffeId, SpiffeId) = (
            "spiffe://td/spire/agent/a".parse().unwrap(),
            "spiffe://td/spire/agent/b".parse().unwrap(),
        );
        let rules = BTreeSet::from(["db@/svc/*".to_owned()]);
        let missing = |epoch| checkpoints.missing(&rules, epoch).len();
        assert_eq!(missing(1), 1, "nobody is registered");
        checkpoints.report(&a, by("db", "spiffe://td/svc/one", at(7, 0)));
        checkpoints.report(&b, by("db", "spiffe://td/svc/two", at(5, 0)));
        assert_eq!(missing(5), 0);
        assert_eq!(missing(6), 1, "the other is behind");
        checkpoints.report(&b, by("db", "spiffe://td/svc/two", at(7, 1)));
        assert_eq!(missing(6), 1, "a connection is left");
        checkpoints.gone(&b, Duration::from_secs(15));
        assert_eq!(missing(7), 1, "what is behind it is not known");
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(missing(7), 1, "its consumers may have a fresh word still");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(missing(7), 0);
    }

    // Requirement S81
    #[tokio::test(start_paused = true)]
    async fn the_word_of_a_checkpoint_says_how_many_refuse_what_and_since_when() {
        let checkpoints = Checkpoints::default();
        let agent: SpiffeId = "spiffe://td/spire/agent/a".parse().unwrap();
        let rules = BTreeSet::from(["/svc/*".to_owned(), "queue@/svc/*".to_owned()]);
        let mut all = by("db", "spiffe://td/svc/one", at(7, 0));
        all.extend(by("db", "spiffe://td/svc/two", at(9, 0)));
        checkpoints.report(&agent, all.clone());
        tokio::time::advance(Duration::from_secs(5)).await;
        // It says the same again, which is not when it said so first.
        checkpoints.report(&agent, all);
        let word = checkpoints.word(&rules, 7, Timestamp::from_unix(1_005));
        let said = Acknowledged {
            name: "/svc/*".into(),
            consumers: 2,
            epoch: 7,
            at: Timestamp::from_unix(1_000),
        };
        assert_eq!(
            (word.enforced, word.missing),
            (vec![said], vec!["queue@/svc/*".to_owned()])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_and_goes_all_the_time_is_not_recorded_all_the_time() {
        let checkpoints = Checkpoints::default();
        let agent: SpiffeId = "spiffe://td/spire/agent/a".parse().unwrap();
        let named = |presences: Vec<Presence>| {
            let each = presences.into_iter();
            each.map(|presence| (presence.name, presence.consumers))
                .collect::<Vec<_>>()
        };
        let there = || checkpoints.report(&agent, by("db", "spiffe://td/svc/db", at(1, 0)));
        there();
        assert_eq!(named(checkpoints.presences()), [("db@/svc/db".to_owned(), 1)]);
        for _ in 0..50 {
            checkpoints.report(&agent, BTreeMap::new());
            assert!(checkpoints.presences().is_empty(), "it may come back");
            tokio::time::advance(Duration::from_secs(1)).await;
            there();
            assert!(checkpoints.presences().is_empty());
        }
        checkpoints.report(&agent, BTreeMap::new());
        checkpoints.presences();
        tokio::time::advance(LOST_AFTER + Duration::from_secs(1)).await;
        assert_eq!(named(checkpoints.presences()), [("db@/svc/db".to_owned(), 0)]);
        // Names that are made up one after the other.
        tokio::time::advance(Duration::from_secs(60)).await;
        let mut recorded = 0;
        for number in 0..1000 {
            checkpoints.report(&agent, by(&format!("n{number}"), "spiffe://td/svc/db", at(1, 0)));
            recorded += checkpoints.presences().len();
        }
        assert_eq!(recorded, usize::try_from(RECORDS_A_MINUTE).unwrap());
    }

    #[test]
    fn who_takes_a_name_of_others_neither_settles_anything_nor_holds_it_up() {
        let checkpoints = Checkpoints::default();
        let agent: SpiffeId = "spiffe://td/spire/agent/a".parse().unwrap();
        let rules = BTreeSet::from(["/svc/db".to_owned(), "db@/svc/db".to_owned()]);
        let mut all = by("db", "spiffe://td/ns/evil", at(9, 0));
        checkpoints.report(&agent, all.clone());
        assert_eq!(
            checkpoints.missing(&rules, 7),
            ["/svc/db", "db@/svc/db"],
            "it is not who was declared"
        );
        all.extend(by("db", "spiffe://td/svc/db", at(8, 0)));
        all.extend(by("db", "spiffe://td/ns/evil", at(0, 3)));
        checkpoints.report(&agent, all);
        assert!(checkpoints.missing(&rules, 7).is_empty(), "and nobody waits for it");
        let old = BTreeSet::from(["db".to_owned()]);
        assert_eq!(checkpoints.missing(&old, 1), ["db"], "a name alone means nobody");
    }
}
