//! What the consumers behind each agent enforce, as the agents report it: the proof that a revocation has arrived.
//!
//! In memory only. After a restart every agent reports anew; until then nothing is settled by what was said before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mayfly_svid::SpiffeId;
use tokio::sync::watch;
use tokio::time::Instant;

/// What one agent says of the consumers with one name behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforcing {
    /// How many are connected.
    pub consumers: u32,
    /// All of them refuse what was revoked up to here.
    pub epoch: u64,
    /// Connections with task SVIDs that they could not end.
    pub left: u32,
}

/// The last that an agent said, and since when it has been silent.
#[derive(Debug, Default)]
struct Reported {
    by_name: BTreeMap<String, Enforcing>,
    gone_at: Option<Instant>,
}

/// What the consumers behind an agent that is gone enforce is not known: they count as not enforcing for so long. Strict ones
/// refuse everything by then, as their word has run out.
const GONE_FOR: Duration = Duration::from_secs(15);

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
    /// Takes over what `agent` says now: all of it, so whatever is not in `reports` is gone.
    pub fn report(&self, agent: &SpiffeId, reports: BTreeMap<String, Enforcing>) {
        let by_name: BTreeMap<String, Enforcing> = reports
            .into_iter()
            .filter(|(_, enforcing)| enforcing.consumers > 0)
            .collect();
        let gone_at = None;
        lock(&self.agents).insert(agent.clone(), Reported { by_name, gone_at });
        self.changed.send_modify(|count| *count += 1);
    }

    /// Notes that the stream of an agent ended: what its consumers enforce is not known any more.
    pub fn gone(&self, agent: &SpiffeId) {
        let mut agents = lock(&self.agents);
        agents.retain(|_, reported| !reported.is_over());
        if let Some(reported) = agents.get_mut(agent) {
            reported.gone_at.get_or_insert_with(Instant::now);
        }
        drop(agents);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Of the checkpoints in `names`, those that do not refuse what was revoked up to `epoch`, as far as is known: nobody
    /// registered with the name, or one of them has not acknowledged, or has connections left.
    pub fn missing<'a>(&self, names: &'a BTreeSet<String>, epoch: u64) -> Vec<&'a str> {
        let agents = lock(&self.agents);
        let is_enforced = |name: &String| {
            let mut consumers = agents
                .values()
                .filter(|reported| !reported.is_over())
                .filter_map(|reported| Some((reported.by_name.get(name)?, reported.gone_at.is_some())))
                .peekable();
            let refuses =
                |(enforcing, is_gone): (&Enforcing, bool)| !is_gone && enforcing.epoch >= epoch && enforcing.left == 0;
            consumers.peek().is_some() && consumers.all(refuses)
        };
        names
            .iter()
            .filter(|name| !is_enforced(name))
            .map(String::as_str)
            .collect()
    }

    /// Changes with each report.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Reported {
    fn is_over(&self) -> bool {
        self.gone_at.is_some_and(|at| at.elapsed() > GONE_FOR)
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

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_enforces_only_when_all_behind_all_agents_do() {
        let checkpoints = Checkpoints::default();
        let (a, b): (SpiffeId, SpiffeId) = (
            "spiffe://td/spire/agent/a".parse().unwrap(),
            "spiffe://td/spire/agent/b".parse().unwrap(),
        );
        let names = BTreeSet::from(["db".to_owned()]);
        assert_eq!(checkpoints.missing(&names, 1), ["db"], "nobody is registered");
        checkpoints.report(&a, [("db".to_owned(), at(7, 0))].into());
        checkpoints.report(&b, [("db".to_owned(), at(5, 0))].into());
        assert!(checkpoints.missing(&names, 5).is_empty());
        assert_eq!(checkpoints.missing(&names, 6), ["db"], "the other is behind");
        checkpoints.report(&b, [("db".to_owned(), at(7, 1))].into());
        assert_eq!(checkpoints.missing(&names, 6), ["db"], "a connection is left");
        checkpoints.gone(&b);
        assert_eq!(checkpoints.missing(&names, 7), ["db"], "what is behind it is not known");
        tokio::time::advance(GONE_FOR + Duration::from_secs(1)).await;
        assert!(checkpoints.missing(&names, 7).is_empty());
    }
}
