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
use mayfly_model::task::CheckpointRule;
use mayfly_svid::SpiffeId;
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
    consumers: BTreeMap<ConsumerKey, Enforcing>,
    /// It is gone: what its consumers enforce is not known. They count as not enforcing until then.
    gone_until: Option<Instant>,
}

/// All reports. Cheap to read.
#[derive(Debug)]
pub struct Checkpoints {
    agents: Mutex<HashMap<SpiffeId, Reported>>,
    changed: watch::Sender<u64>,
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
            changed: watch::Sender::new(0),
        }
    }
}

impl Checkpoints {
    /// Takes over what `agent` says now: all of it, so whatever is not in `reports` is gone. The caller has made sure that
    /// the agent may serve these IDs.
    pub fn report(&self, agent: &SpiffeId, reports: BTreeMap<ConsumerKey, Enforcing>) {
        let mut consumers = reports;
        consumers.retain(|_, enforcing| enforcing.consumers > 0);
        let gone_until = None;
        lock(&self.agents).insert(agent.clone(), Reported { consumers, gone_until });
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

    /// Of the checkpoints in `rules`, those that do not refuse what was revoked up to `epoch`, as far as is known: nobody whom
    /// the rule means is registered, or one of them has not acknowledged, or has connections left. What is no rule means
    /// nobody.
    pub fn missing<'a>(&self, rules: &'a BTreeSet<String>, epoch: u64) -> Vec<&'a str> {
        let agents = lock(&self.agents);
        let is_enforced = |text: &String| {
            let Ok(rule) = CheckpointRule::parse(text) else {
                return false;
            };
            let mut meant = agents
                .iter()
                .filter(|(_, reported)| !reported.is_over())
                .flat_map(|(agent, reported)| reported.of(&rule, agent))
                .peekable();
            let refuses =
                |(enforcing, is_gone): (&Enforcing, bool)| !is_gone && enforcing.epoch >= epoch && enforcing.left == 0;
            meant.peek().is_some() && meant.all(refuses)
        };
        rules
            .iter()
            .filter(|rule| !is_enforced(rule))
            .map(String::as_str)
            .collect()
    }

    /// What the consumers that `rule` means do, where `epoch` is the newest.
    pub fn enforced(&self, rule: &str, epoch: u64) -> Enforced {
        let mut all = Enforced::default();
        let Ok(rule) = CheckpointRule::parse(rule) else {
            return all;
        };
        let agents = lock(&self.agents);
        for (agent, reported) in agents.iter().filter(|(_, reported)| !reported.is_over()) {
            for (enforcing, is_gone) in reported.of(&rule, agent) {
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
    fn of(&self, rule: &CheckpointRule<'_>, agent: &SpiffeId) -> Vec<(&Enforcing, bool)> {
        let (own, is_gone) = (agent.trust_domain(), self.gone_until.is_some());
        let meant = self
            .consumers
            .iter()
            .filter(|((name, id), _)| rule.means(name, id, &own));
        meant.map(|(_, enforcing)| (enforcing, is_gone)).collect()
    }

    fn is_over(&self) -> bool {
        self.gone_until.is_some_and(|until| Instant::now() > until)
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
