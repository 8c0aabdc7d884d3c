//! What the consumers behind each agent enforce, as the agents report it: the proof that a revocation has arrived.
//!
//! A consumer chooses its name, but who it is was attested by its agent, and an agent speaks only for IDs that it may serve.
//! So definitions name IDs: see [`CheckpointRule`].
//!
//! Nobody is shown to refuse anything by being away. A consumer that lost its connection may count on the last word that it
//! was told, so its agent goes on naming it; behind an agent that is silent nobody knows who is told what for as long as its
//! word may count; and an agent that was started anew knows nothing of those whom it told something before. Consumers of best
//! effort, who need no word, prove nothing at all.
//!
//! In memory only. After a restart every agent reports anew; until then nothing is settled by what was said before.

mod presence;
mod reported;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mayfly_model::task::{Acknowledged, CheckpointRule};
use mayfly_svid::{SpiffeId, Timestamp, TrustDomain};
use tokio::sync::watch;
use tokio::time::Instant;

use presence::Recorded;
use reported::{Reported, Said, Standing};

pub use presence::Presence;

/// Consumers that count as one: the name that they registered with, and their base SPIFFE ID. An empty name stands for
/// consumers of whatever name.
pub type ConsumerKey = (String, SpiffeId);

/// What one agent says of the consumers with one name and ID behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforcing {
    /// How many are connected.
    pub consumers: u32,
    /// How many are not, and may still count on what they were told.
    pub away: u32,
    /// How many of both go on without a word.
    pub best_effort: u32,
    /// All of them refuse what was revoked up to here.
    pub epoch: u64,
    /// Connections with task SVIDs that they could not end.
    pub left: u32,
}

/// All that an agent says at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Which run of the agent says so, and so knows of everybody whom it told something; 0 of one that forgets who leaves.
    pub run: u64,
    /// Those that are there.
    pub consumers: BTreeMap<ConsumerKey, Enforcing>,
    /// Who has consumers that are too many to be told apart.
    pub left_out: BTreeSet<SpiffeId>,
    /// Those that it names and may not speak for now. They prove nothing; whom it could speak for before is there still.
    pub not_its_own: BTreeMap<ConsumerKey, Enforcing>,
}

/// One stream of an agent, by a number that no other one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(u64);

/// What the consumers that a rule means do, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// How many are connected.
    pub consumers: u32,
    /// How many revocations the slowest has not acknowledged.
    pub behind: u64,
    /// One of them, or its agent, is away, so that what it enforces is not known.
    pub is_agent_gone: bool,
}

/// What is known of declared checkpoints and an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Those that refuse all that was revoked up to it.
    pub enforced: Vec<Acknowledged>,
    /// The others, as they were declared.
    pub missing: Vec<String>,
    /// Those of the others that never will, as one of their consumers goes on without a word.
    pub best_effort: Vec<String>,
    /// Agents behind which there may be somebody of whom nobody has heard, so that others are missing.
    pub silent: BTreeSet<SpiffeId>,
}

/// All reports. Cheap to read.
#[derive(Debug)]
pub struct Checkpoints {
    agents: Mutex<HashMap<SpiffeId, Reported>>,
    recorded: Mutex<Recorded>,
    changed: watch::Sender<u64>,
    streams: AtomicU64,
    began: Instant,
    /// For so long after the end of its stream an agent's consumers may have a fresh word of it: a lease, and the time for
    /// which an agent may wait before it reads what was sent, which is less than another. After it strict ones refuse
    /// everything, as their word has run out.
    gone_for: Duration,
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
        Self::new(Duration::from_secs(10))
    }
}

impl Checkpoints {
    /// Nothing is known yet. `lease`: for how long a word of the server counts.
    pub fn new(lease: Duration) -> Self {
        Self {
            agents: Mutex::default(),
            recorded: Mutex::default(),
            changed: watch::Sender::new(0),
            streams: AtomicU64::new(0),
            began: Instant::now(),
            gone_for: lease * 2,
        }
    }

    /// Notes that a stream of `agent` is open, the present one from now on.
    pub fn opened(&self, agent: &SpiffeId) -> StreamId {
        let stream = StreamId(self.streams.fetch_add(1, Ordering::Relaxed));
        let mut agents = lock(&self.agents);
        let expected = || Reported::expected(Instant::now());
        let reported = agents.entry(agent.clone()).or_insert_with(expected);
        reported.opened(stream, self.gone_for);
        drop(agents);
        self.tell();
        stream
    }

    /// Takes over what `agent` says now over `stream`: all of it. The caller has made sure that the agent may serve these IDs.
    pub fn report(&self, agent: &SpiffeId, stream: StreamId, report: Report) {
        self.note(agent, stream, |reported| reported.report(stream, report, self.gone_for));
    }

    /// Notes that `agent` has taken over all that was revoked up to `epoch`. It has told of its consumers up to then.
    pub fn applied(&self, agent: &SpiffeId, stream: StreamId, epoch: u64) {
        self.note(agent, stream, |reported| reported.applied(epoch));
    }

    /// Notes that `stream` of an agent has ended. What its consumers enforce is not known any more.
    pub fn gone(&self, agent: &SpiffeId, stream: StreamId) {
        self.note(agent, stream, |reported| reported.gone(self.gone_for));
    }

    /// Of a stream that is not the present one nothing is known any more, and its end is no news.
    fn note(&self, agent: &SpiffeId, stream: StreamId, change: impl FnOnce(&mut Reported)) {
        if let Some(reported) = lock(&self.agents).get_mut(agent)
            && reported.present() == Some(stream)
        {
            change(reported);
        }
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Notes which agents there are, for as long as those that have not come back since this process began may have
    /// consumers with a fresh word from before.
    pub fn expect<'a>(&self, all: impl Iterator<Item = &'a SpiffeId>) {
        let until = self.began + self.gone_for;
        if Instant::now() > until {
            return;
        }
        let mut agents = lock(&self.agents);
        for agent in all {
            if !agents.contains_key(agent) {
                agents.insert(agent.clone(), Reported::expected(until));
            }
        }
    }

    /// Of the checkpoints in `rules`, those that refuse what was revoked up to `epoch`, and those of which it is not known:
    /// nobody whom the rule means is registered, or one of them has not acknowledged, has connections left or is of best
    /// effort. What is no rule means nobody.
    ///
    /// That is by what is known of consumers. Who may have others is told by [`Self::silent_of`].
    pub fn word(&self, rules: &BTreeSet<String>, epoch: u64, now: Timestamp) -> Word {
        let agents = lock(&self.agents);
        let mut word = Word::default();
        for text in rules {
            let meant = match CheckpointRule::parse(text) {
                Ok(rule) => meant(&agents, &rule),
                Err(_) => vec![],
            };
            let refuses = |(said, standing): &(Said, Standing)| {
                *standing != Standing::Silent && said.enforcing.refuses_up_to(epoch)
            };
            let last = meant.iter().map(|(said, _)| said.since).max();
            match last.filter(|_| meant.iter().all(refuses)) {
                None => {
                    if meant.iter().any(|(said, _)| said.enforcing.best_effort > 0) {
                        word.best_effort.push(text.clone());
                    }
                    word.missing.push(text.clone());
                }
                Some(last) => word.enforced.push(Acknowledged {
                    name: text.clone(),
                    consumers: meant
                        .iter()
                        .fold(0, |all, (said, _)| said.enforcing.count().saturating_add(all)),
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

    /// Those of `agents` of which it is not known who is behind them, and whether those refuse what was revoked up to `epoch`:
    /// without a stream, or with one on which they have not said, or taken over, enough.
    pub fn silent_of(&self, epoch: u64, agents: &BTreeSet<SpiffeId>) -> BTreeSet<SpiffeId> {
        let (known, now) = (lock(&self.agents), Instant::now());
        let hides = |agent: &&SpiffeId| known.get(*agent).is_some_and(|reported| reported.may_hide(epoch, now));
        agents.iter().filter(hides).cloned().collect()
    }

    /// Whether there is one, of all agents.
    pub fn is_any_silent(&self, epoch: u64) -> bool {
        let now = Instant::now();
        lock(&self.agents)
            .values()
            .any(|reported| reported.may_hide(epoch, now))
    }

    /// Those of which something was heard or is expected.
    pub fn agents(&self) -> Vec<SpiffeId> {
        lock(&self.agents).keys().cloned().collect()
    }

    /// Which consumers have come or gone since the last call, as far as the log may say so by now. Who was there a moment
    /// ago is not gone. Agents of which there is nothing left to remember are forgotten here: the end of a stream is no
    /// moment to look at all of them, as thousands may end.
    pub fn presences(&self) -> Vec<Presence> {
        let now = Instant::now();
        let mut present: BTreeMap<ConsumerKey, u32> = BTreeMap::new();
        let mut agents = lock(&self.agents);
        agents.retain(|_, reported| !reported.is_over(now));
        for reported in agents.values() {
            for (key, said, standing) in reported.counted(now) {
                if standing != Standing::Lost && said.enforcing.consumers > 0 {
                    let count = present.entry(key.clone()).or_default();
                    *count = count.saturating_add(said.enforcing.consumers);
                }
            }
        }
        drop(agents);
        lock(&self.recorded).changes(&present)
    }

    /// What the consumers that `rule` means do, where `epoch` is the newest.
    pub fn enforced(&self, rule: &str, epoch: u64) -> Enforced {
        let mut all = Enforced::default();
        let Ok(rule) = CheckpointRule::parse(rule) else {
            return all;
        };
        for (Said { enforcing, .. }, standing) in meant(&lock(&self.agents), &rule) {
            if standing != Standing::Lost {
                all.consumers = all.consumers.saturating_add(enforcing.consumers);
            }
            all.behind = all.behind.max(epoch.saturating_sub(enforcing.epoch));
            all.is_agent_gone |= standing != Standing::Told || enforcing.away > 0;
        }
        all
    }

    /// Changes with each report.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
impl Checkpoints {
    /// `agent` says so, over the stream that it has or else a new one.
    pub(crate) fn says(&self, agent: &SpiffeId, report: Report) {
        self.report(agent, self.present(agent), report);
    }

    /// It has taken over what was revoked up to `epoch`.
    pub(crate) fn follows(&self, agent: &SpiffeId, epoch: u64) {
        self.applied(agent, self.present(agent), epoch);
    }

    /// Its stream ends.
    pub(crate) fn leaves(&self, agent: &SpiffeId) {
        self.gone(agent, self.present(agent));
    }

    /// Of the checkpoints in `rules`, those that are not known to refuse what was revoked up to `epoch`.
    pub(crate) fn missing(&self, rules: &BTreeSet<String>, epoch: u64) -> Vec<String> {
        self.word(rules, epoch, Timestamp::default()).missing
    }

    fn present(&self, agent: &SpiffeId) -> StreamId {
        let present = lock(&self.agents).get(agent).and_then(Reported::present);
        present.unwrap_or_else(|| self.opened(agent))
    }
}

impl Enforcing {
    fn count(&self) -> u32 {
        self.consumers.saturating_add(self.away)
    }

    /// Whether that all of them refuse what was revoked up to `epoch` is shown. What one has acknowledged it refuses for as
    /// long as it runs, connected or not, and so does who comes after it, as it hears all of it again first; unless it is of
    /// best effort and goes on without.
    fn refuses_up_to(&self, epoch: u64) -> bool {
        self.best_effort == 0 && self.epoch >= epoch && self.left == 0
    }

    /// Both of them, if nothing is known of who is who.
    fn worse(self, other: Self) -> Self {
        Self {
            consumers: self.consumers.max(other.consumers),
            away: self.away.max(other.away),
            best_effort: self.best_effort.max(other.best_effort),
            epoch: self.epoch.min(other.epoch),
            left: self.left.max(other.left),
        }
    }
}

/// The consumers that `rule` means. Agents are of our own trust domain.
fn meant(agents: &HashMap<SpiffeId, Reported>, rule: &CheckpointRule<'_>) -> Vec<(Said, Standing)> {
    let now = Instant::now();
    let is_meant = |(name, id): &ConsumerKey, own: &TrustDomain| {
        if name.is_empty() {
            rule.may_mean(id, own)
        } else {
            rule.means(name, id, own)
        }
    };
    let each = agents.iter().flat_map(|(agent, reported)| {
        let own = agent.trust_domain();
        let counted = reported.counted(now).filter(move |(key, ..)| is_meant(key, &own));
        counted.map(|(_, said, standing)| (said, standing))
    });
    each.collect()
}

/// Each change above leaves the data whole, so a panic of another holder does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
