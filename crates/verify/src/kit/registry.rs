//! The live connections, found by what can end them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mayfly_svid::{Serial, WindowId, X509Svid};
use tokio::sync::Notify;

use super::Source;
use super::peer::Live;

/// Certificates whose handshakes are told apart when others keep the connections.
const UNTRACKED_MAX: usize = 1 << 16;

/// The live connections. Held locked for look-ups only, never while one is ended.
#[derive(Default)]
pub(crate) struct Registry {
    index: Mutex<Index>,
    /// The one that ends first has changed.
    pub(crate) sooner: Notify,
}

#[derive(Default)]
struct Index {
    next_id: u64,
    live: HashMap<u64, Arc<Live>>,
    by_serial: HashMap<Serial, HashSet<u64>>,
    by_window: HashMap<WindowId, HashSet<u64>>,
    by_end: BTreeSet<(Duration, u64)>,
    tasks: HashSet<u64>,
    /// Handshakes of connections that cannot be ended, as others keep them or the kernel refused: they are only counted.
    untracked: HashMap<Serial, Untracked>,
    /// Those for which there was no room: anybody's, so each counts as revoked.
    beyond: Untracked,
}

/// Connections that one certificate opened. Whether they are still open nobody knows, so they count until their end.
#[derive(Default)]
struct Untracked {
    trust_domain: Box<str>,
    window: Option<WindowId>,
    handshakes: u32,
    /// When nothing that the certificate stands for goes on.
    end: Duration,
    is_revoked: bool,
}

/// Takes a connection off the list when it is dropped: when the connection is gone and nobody has a handle of its peer.
pub(crate) struct Registered {
    pub(crate) live: Arc<Live>,
    id: u64,
    /// Somebody has to go on following the agent.
    _source: Source,
}

impl Registry {
    pub(crate) fn add(&self, live: Arc<Live>, source: &Source) -> Registered {
        let mut index = self.lock();
        let id = index.next_id;
        index.next_id += 1;
        let is_first = index.next_end().is_none_or(|end| live.end < end);
        index.by_end.insert((live.end, id));
        let serial = live.svid.serial().clone();
        index.by_serial.entry(serial).or_default().insert(id);
        if let Some(task) = &live.task {
            index.by_window.entry(task.window_id).or_default().insert(id);
        }
        if live.is_task {
            index.tasks.insert(id);
        }
        index.live.insert(id, Arc::clone(&live));
        drop(index);
        if is_first {
            self.sooner.notify_one();
        }
        Registered {
            live,
            id,
            _source: source.clone(),
        }
    }

    /// Those of these windows and serial numbers, each once.
    pub(crate) fn of<'a>(
        &self,
        windows: impl IntoIterator<Item = &'a WindowId>,
        serials: impl IntoIterator<Item = &'a Serial>,
    ) -> Vec<Arc<Live>> {
        let index = self.lock();
        let by_window = windows.into_iter().filter_map(|window| index.by_window.get(window));
        let by_serial = serials.into_iter().filter_map(|serial| index.by_serial.get(serial));
        let ids: HashSet<u64> = by_window.chain(by_serial).flatten().copied().collect();
        ids.iter().filter_map(|id| index.live.get(id).cloned()).collect()
    }

    /// Those that have reached their end at `now`.
    pub(crate) fn due(&self, now: Duration) -> Vec<Arc<Live>> {
        let mut index = self.lock();
        index.forget_untracked(now);
        let due = index.by_end.range(..=(now, u64::MAX));
        due.filter_map(|(_, id)| index.live.get(id).cloned()).collect()
    }

    /// Those with task SVIDs.
    pub(crate) fn tasks(&self) -> Vec<Arc<Live>> {
        let index = self.lock();
        index
            .tasks
            .iter()
            .filter_map(|id| index.live.get(id).cloned())
            .collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.lock().live.values().cloned().collect()
    }

    /// The moment at which the next one ends.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.lock().next_end()
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        let index = self.lock();
        index.live.values().filter(|live| live.has_socket()).count()
    }

    /// Remembers a connection with this certificate that cannot be ended, until `end`.
    pub(crate) fn add_untracked(&self, svid: &X509Svid, window: Option<WindowId>, end: Duration, is_revoked: bool) {
        let mut index = self.lock();
        let has_room = index.untracked.len() < UNTRACKED_MAX || index.untracked.contains_key(svid.serial());
        let untracked = if has_room {
            index.untracked.entry(svid.serial().clone()).or_default()
        } else {
            &mut index.beyond
        };
        untracked.handshakes = untracked.handshakes.saturating_add(1);
        untracked.end = untracked.end.max(end);
        if has_room {
            untracked.trust_domain = svid.spiffe_id().trust_domain_name().into();
            untracked.window = window;
            untracked.is_revoked |= is_revoked;
        }
    }

    /// From now on those count whose certificates `is_revoked`, by their trust domain, serial number and window.
    pub(crate) fn revoke_untracked(&self, is_revoked: impl Fn(&str, &Serial, Option<WindowId>) -> bool) {
        for (serial, untracked) in &mut self.lock().untracked {
            untracked.is_revoked |= is_revoked(&untracked.trust_domain, serial, untracked.window);
        }
    }

    /// How many connections go on, for all that is known at `now`, although they are revoked.
    pub(crate) fn left(&self, now: Duration) -> u32 {
        let mut index = self.lock();
        index.forget_untracked(now);
        let revoked = index.untracked.values().filter(|untracked| untracked.is_revoked);
        let all = revoked.map(|untracked| untracked.handshakes);
        all.fold(index.beyond.handshakes, u32::saturating_add)
    }

    fn remove(&self, id: u64, live: &Live) {
        let mut index = self.lock();
        index.live.remove(&id);
        index.tasks.remove(&id);
        index.by_end.remove(&(live.end, id));
        if let Some(ids) = index.by_serial.get_mut(live.svid.serial()) {
            ids.remove(&id);
            if ids.is_empty() {
                index.by_serial.remove(live.svid.serial());
            }
        }
        if let Some(window) = live.task.map(|task| task.window_id)
            && let Some(ids) = index.by_window.get_mut(&window)
        {
            ids.remove(&id);
            if ids.is_empty() {
                index.by_window.remove(&window);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn forget_untracked(&mut self, now: Duration) {
        self.untracked.retain(|_, untracked| untracked.end > now);
        if self.beyond.end <= now {
            self.beyond = Untracked::default();
        }
    }

    /// The earliest end of one that has not been ended before.
    fn next_end(&self) -> Option<Duration> {
        let mut ends = self.by_end.iter();
        ends.find(|(_, id)| self.live.get(id).is_some_and(|live| !live.is_ended()))
            .map(|(end, _)| *end)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.live.state.live.remove(self.id, &self.live);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::tests::{Leaf, TestCa};

    const JOB: &str = "spiffe://td/task/pay/db-migrate/ns/pay/job";

    #[test]
    fn what_cannot_be_ended_counts_once_it_is_revoked_and_until_its_end() {
        let (ca, registry) = (TestCa::new("td"), Registry::default());
        let of = |leaf: Leaf| X509Svid::from_chain(vec![ca.issue(&leaf).cert_der]).unwrap();
        let (one, other, failed) = (of(Leaf::task(JOB)), of(Leaf::task(JOB)), of(Leaf::task(JOB)));
        let (window, at) = (Some(WindowId([7; 16])), Duration::from_secs);
        registry.add_untracked(&one, window, at(10), false);
        registry.add_untracked(&one, window, at(10), false);
        registry.add_untracked(&other, None, at(30), false);
        registry.add_untracked(&failed, None, at(20), true);
        assert_eq!(registry.left(at(0)), 1);
        registry.revoke_untracked(|trust_domain, _, of| trust_domain == "td" && of == window);
        assert_eq!(registry.left(at(0)), 3);
        // Another revocation takes nothing back.
        registry.revoke_untracked(|_, serial, _| serial == other.serial());
        assert_eq!((registry.left(at(9)), registry.left(at(9))), (4, 4));
        assert_eq!(
            (registry.left(at(10)), registry.left(at(20)), registry.left(at(30))),
            (2, 1, 0)
        );
        assert!(registry.lock().untracked.is_empty());
    }

    #[test]
    fn what_there_is_no_room_for_counts_as_revoked() {
        let (ca, registry) = (TestCa::new("td"), Registry::default());
        let svid = X509Svid::from_chain(vec![ca.issue(&Leaf::task(JOB)).cert_der]).unwrap();
        let others = (1..=UNTRACKED_MAX as u64).map(|number| {
            let serial = Serial::from_be_bytes(&number.to_be_bytes()).unwrap();
            let end = Duration::from_secs(50);
            (
                serial,
                Untracked {
                    end,
                    ..Untracked::default()
                },
            )
        });
        registry.lock().untracked.extend(others);
        registry.add_untracked(&svid, None, Duration::from_secs(10), false);
        registry.add_untracked(&svid, None, Duration::from_secs(20), false);
        assert_eq!(registry.lock().untracked.len(), UNTRACKED_MAX);
        assert_eq!(registry.left(Duration::from_secs(19)), 2);
        assert_eq!(registry.left(Duration::from_secs(20)), 0);
    }
}
