//! The live connections, found by what can end them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mayfly_svid::{Serial, WindowId};
use tokio::sync::Notify;

use super::Source;
use super::peer::{Admitted, Live};

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
    /// Handshakes of connections that others keep, by serial number: they cannot be ended, only counted.
    untracked: HashMap<Serial, Untracked>,
}

struct Untracked {
    window: Option<WindowId>,
    handshakes: u32,
    end: Duration,
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
        index.untracked.retain(|_, untracked| untracked.end > now);
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

    /// Remembers a handshake whose connection is not ours.
    pub(crate) fn add_untracked(&self, admitted: &Admitted, end: Duration) {
        let mut index = self.lock();
        let untracked = index
            .untracked
            .entry(admitted.svid.serial().clone())
            .or_insert_with(|| Untracked {
                window: admitted.task.map(|task| task.window_id),
                handshakes: 0,
                end,
            });
        untracked.handshakes = untracked.handshakes.saturating_add(1);
    }

    /// How many such handshakes there were with certificates that `is_revoked`. They are forgotten.
    pub(crate) fn take_untracked(&self, is_revoked: impl Fn(&Serial, Option<WindowId>) -> bool) -> u32 {
        let mut index = self.lock();
        let mut count = 0_u32;
        index.untracked.retain(|serial, untracked| {
            let revoked = is_revoked(serial, untracked.window);
            if revoked {
                count = count.saturating_add(untracked.handshakes);
            }
            !revoked
        });
        count
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
