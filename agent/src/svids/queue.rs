//! When the worker has to look at which entry, and what it asks for first. No clock and no state of its own: an index.

use std::collections::{BTreeSet, HashMap};

use mayfly_model::EntryId;
use mayfly_svid::Timestamp;
use tokio::time::Instant;

/// What is asked for first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A workload waits and there is nothing valid.
    First,
    /// There is a valid one that must be replaced soon: it runs out, its entry changed, its authority is tainted.
    Overdue,
    /// An ordinary renewal at half life.
    Renewal,
    /// Nobody waits yet.
    Prefetch,
}

/// Where one entry stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// To be asked for, since when it is due.
    pub(super) ready: Option<(Priority, Instant)>,
    /// To be looked at again then.
    pub(super) timer: Option<Instant>,
    /// And when the wall clock says this.
    pub(super) wall: Option<Timestamp>,
}

/// All places. An entry is in each list at most once.
#[derive(Debug, Default)]
pub(super) struct Queue {
    places: HashMap<EntryId, Place>,
    ready: BTreeSet<(Priority, Instant, EntryId)>,
    timers: BTreeSet<(Instant, EntryId)>,
    walls: BTreeSet<(Timestamp, EntryId)>,
}

impl Queue {
    /// Puts `id` there, and nowhere else.
    pub(super) fn place(&mut self, id: &EntryId, place: Place) {
        let old = self.places.get(id).copied().unwrap_or_default();
        if old == place {
            return;
        }
        if let Some((priority, since)) = old.ready {
            self.ready.remove(&(priority, since, id.clone()));
        }
        if let Some(at) = old.timer {
            self.timers.remove(&(at, id.clone()));
        }
        if let Some(at) = old.wall {
            self.walls.remove(&(at, id.clone()));
        }
        if let Some((priority, since)) = place.ready {
            self.ready.insert((priority, since, id.clone()));
        }
        if let Some(at) = place.timer {
            self.timers.insert((at, id.clone()));
        }
        if let Some(at) = place.wall {
            self.walls.insert((at, id.clone()));
        }
        if place == Place::default() {
            self.places.remove(id);
        } else {
            self.places.insert(id.clone(), place);
        }
    }

    /// The most urgent entry, longest due first. It stays in the queue until it is placed anew.
    pub(super) fn next_ready(&self) -> Option<EntryId> {
        self.ready.first().map(|(_, _, id)| id.clone())
    }

    /// When the next timer is due.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// An entry whose timer is due. It stays in the queue until it is placed anew.
    pub(super) fn due(&self, now: Instant) -> Option<EntryId> {
        self.timers
            .first()
            .filter(|(at, _)| *at <= now)
            .map(|(_, id)| id.clone())
    }

    /// All entries that the wall clock has caught up with.
    pub(super) fn wall_due(&self, wall: Timestamp) -> Vec<EntryId> {
        self.walls
            .iter()
            .take_while(|(at, _)| *at <= wall)
            .map(|(_, id)| id.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn first_issues_come_before_renewals_and_the_longest_due_first() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let ready = |priority, ms| Place {
            ready: Some((priority, now + Duration::from_millis(ms))),
            ..Place::default()
        };
        let id = |text: &str| text.parse::<EntryId>().unwrap();
        queue.place(&id("renewal"), ready(Priority::Renewal, 0));
        queue.place(&id("late"), ready(Priority::First, 2));
        queue.place(&id("early"), ready(Priority::First, 1));
        queue.place(&id("overdue"), ready(Priority::Overdue, 0));
        queue.place(&id("prefetch"), ready(Priority::Prefetch, 0));
        let mut order = vec![];
        while let Some(next) = queue.next_ready() {
            order.push(next.to_string());
            queue.place(&next, Place::default());
        }
        assert_eq!(order, ["early", "late", "overdue", "renewal", "prefetch"]);
        assert!(queue.places.is_empty());
    }
}
