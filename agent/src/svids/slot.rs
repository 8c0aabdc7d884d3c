//! One entry's state, and the one function that decides what it needs now.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mayfly_model::Entry;
use mayfly_runtime::{Backoff, BackoffPolicy};
use mayfly_svid::Timestamp;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;

use super::check::Standing;
use super::queue::{Place, Priority};
use super::{Failure, SvidState, X509Material};

/// An SVID is not renewed sooner after it came than this, however short it is.
const SHORTEST_RENEWAL: Duration = Duration::from_millis(500);

/// How often it is looked at whether what has lingered long enough can go.
const LINGER_LOOK: Duration = Duration::from_secs(1);

/// Both clocks, read once per round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) mono: Instant,
    pub(super) wall: SystemTime,
}

/// What the worker holds for one entry.
pub(super) struct Slot {
    /// The entry as the view has it; `None` if it has none.
    entry: Option<Arc<Entry>>,
    /// The entry's end on the monotonic clock, drawn when the entry came.
    entry_end: Option<Instant>,
    pub(super) states: watch::Sender<SvidState>,
    held: Option<Held>,
    /// Number of the call that it is asked for in.
    pub(super) flight: Option<u64>,
    pub(super) subscribers: usize,
    pub(super) prefetch: bool,
    /// Whether it is counted among those that hold an SVID.
    pub(super) counted: bool,
    /// Since when nobody wants it.
    idle_since: Option<Instant>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    last_failure: Option<Failure>,
}

struct Held {
    material: Arc<X509Material>,
    renew_at: Instant,
    renew_at_wall: Timestamp,
    /// Three quarters of its life: from here on a renewal goes before others.
    late_at: Instant,
    tainted: bool,
}

/// What becomes of the slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nobody wants it: away with it.
    Drop,
    Keep(Place),
}

impl Now {
    pub(super) fn timestamp(&self) -> Timestamp {
        Timestamp::from(self.wall)
    }

    /// When the wall clock will say `at`, if it runs on as it does now.
    pub(super) fn deadline(&self, at: Timestamp) -> Instant {
        self.mono + SystemTime::from(at).duration_since(self.wall).unwrap_or_default()
    }
}

impl Slot {
    pub(super) fn new(backoff: BackoffPolicy, now: Now) -> Self {
        Self {
            entry: None,
            entry_end: None,
            states: watch::Sender::new(SvidState::Pending),
            held: None,
            flight: None,
            subscribers: 0,
            prefetch: false,
            counted: false,
            idle_since: Some(now.mono),
            backoff: backoff.start(),
            retry_at: None,
            last_failure: None,
        }
    }

    pub(super) fn entry(&self) -> Option<&Arc<Entry>> {
        self.entry.as_ref()
    }

    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Until when what is held can be served.
    pub(super) fn valid_until(&self) -> Option<Timestamp> {
        self.held.as_ref().map(|held| held.material.valid_until)
    }

    /// To be called after `subscribers` or `prefetch` were changed.
    pub(super) fn count_wanted(&mut self, now: Now) {
        if self.subscribers > 0 || self.prefetch {
            self.idle_since = None;
        } else {
            self.idle_since.get_or_insert(now.mono);
        }
    }

    /// Says whether it is another than before.
    pub(super) fn set_entry(&mut self, entry: Option<&Arc<Entry>>, now: Now) -> bool {
        let same = match (&self.entry, entry) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.entry = entry.cloned();
            self.entry_end = entry
                .and_then(|entry| entry.spec.expires_at)
                .map(|end| now.deadline(end));
            // What was refused for the old one may be granted for the new one.
            self.retry_at = None;
            self.backoff.reset();
        }
        !same
    }

    /// The own bundle changed; `standing` says what it has on an authority.
    pub(super) fn judge(&mut self, standing: impl FnOnce(&X509Material) -> Standing) {
        if let Some(held) = &mut self.held {
            match standing(&held.material) {
                Standing::Trusted => held.tainted = false,
                Standing::Tainted => {
                    if !held.tainted {
                        self.retry_at = None;
                    }
                    held.tainted = true;
                }
                // No peer accepts it any more, and it would not verify against the bundle beside it (WAX-09).
                Standing::Gone => {
                    self.held = None;
                    self.retry_at = None;
                }
            }
        }
        // A certificate of an authority that had not been heard of yet may be good now.
        if self.last_failure == Some(Failure::Faulty) {
            self.retry_at = None;
        }
    }

    /// Takes a new SVID in.
    pub(super) fn accept(&mut self, material: X509Material, tainted: bool, now: Now) {
        let life = material.deadline.saturating_duration_since(now.mono);
        let half = life
            .mul_f64(0.5 * rand::rng().random_range(0.9..=1.1))
            .max(SHORTEST_RENEWAL);
        self.held = Some(Held {
            renew_at: now.mono + half,
            renew_at_wall: Timestamp::from(now.wall + half),
            late_at: now.mono + life.mul_f64(0.75),
            material: Arc::new(material),
            tainted,
        });
        self.flight = None;
        self.last_failure = None;
        self.retry_at = None;
        if tainted {
            // The server still signs with it: no use in asking as fast as it answers.
            self.retry_at = Some(now.mono + self.backoff.next_delay());
        } else {
            self.backoff.reset();
        }
    }

    /// The attempt failed; returns the pause before the next one.
    pub(super) fn fail(&mut self, failure: Failure, now: Now) -> Duration {
        let pause = self.backoff.next_delay();
        self.flight = None;
        self.last_failure = Some(failure);
        self.retry_at = Some(now.mono + pause);
        pause
    }

    /// The server can be reached again: no reason to wait, and what lingers can be replaced from now on.
    pub(super) fn server_is_back(&mut self, now: Now) {
        self.retry_at = None;
        self.idle_since = self.idle_since.map(|_| now.mono);
    }

    /// Brings what is published up to date and says what is to be done next and when. All rules are here; it may be
    /// called at any time and as often as one likes. `heard`: when the server, that could give another SVID, was heard.
    pub(super) fn settle(&mut self, now: Now, linger: Duration, heard: Option<Instant>) -> Plan {
        let wall = now.timestamp();
        let entry = match &self.entry {
            Some(entry) if !entry.is_expired(wall) && self.entry_end.is_none_or(|end| now.mono < end) => entry,
            _ => {
                self.held = None;
                self.flight = None;
                self.retry_at = None;
                self.last_failure = None;
                self.publish(SvidState::Withdrawn);
                return if self.subscribers == 0 {
                    Plan::Drop
                } else {
                    Plan::Keep(Place::default())
                };
            }
        };
        let serves = |held: &Held| {
            held.material.is_valid(wall, now.mono) && held.material.svid.spiffe_id() == &entry.spec.spiffe_id
        };
        if !self.held.as_ref().is_some_and(serves) {
            self.held = None;
        }
        let mut linger_end = self.idle_since.map(|since| since + linger);
        if let Some(end) = linger_end.filter(|end| *end <= now.mono) {
            // Not before the server was heard after it: it may be away, and nobody has noticed yet.
            if self.held.is_none() || heard.is_some_and(|heard| heard >= end) {
                return Plan::Drop;
            }
            linger_end = heard.map(|_| now.mono + linger.max(LINGER_LOOK));
        }

        let mut timers = vec![linger_end, self.entry_end];
        let mut walls = vec![entry.spec.expires_at];
        let need = match &self.held {
            None if self.subscribers > 0 => Some(Priority::First),
            None => Some(Priority::Prefetch),
            Some(held) => {
                timers.extend([
                    Some(held.material.deadline),
                    Some(held.late_at).filter(|at| *at > now.mono),
                ]);
                walls.push(Some(held.material.valid_until));
                let stale = held.material.entry.revision_number != entry.revision_number;
                if stale || held.tainted || held.late_at <= now.mono {
                    Some(Priority::Overdue)
                } else if held.renew_at <= now.mono || held.renew_at_wall <= wall {
                    Some(Priority::Renewal)
                } else {
                    timers.push(Some(held.renew_at));
                    walls.push(Some(held.renew_at_wall));
                    None
                }
            }
        };
        let mut ready = None;
        // What only lingers is not renewed.
        if let Some(priority) = need
            && self.idle_since.is_none()
            && self.flight.is_none()
        {
            match self.retry_at {
                Some(retry_at) if retry_at > now.mono => timers.push(Some(retry_at)),
                _ => ready = Some((priority, self.retry_at.unwrap_or(now.mono))),
            }
        }
        let state = match (&self.held, self.last_failure) {
            (Some(held), _) => SvidState::Ready(Arc::clone(&held.material)),
            (None, Some(failure)) => SvidState::Failed(failure),
            (None, None) => SvidState::Pending,
        };
        self.publish(state);
        Plan::Keep(Place {
            ready,
            timer: timers.into_iter().flatten().min(),
            wall: walls.into_iter().flatten().min(),
        })
    }

    fn publish(&self, next: SvidState) {
        self.states.send_if_modified(|state| {
            let same = match (&*state, &next) {
                (SvidState::Pending, SvidState::Pending) | (SvidState::Withdrawn, SvidState::Withdrawn) => true,
                (SvidState::Failed(old), SvidState::Failed(new)) => old == new,
                (SvidState::Ready(old), SvidState::Ready(new)) => Arc::ptr_eq(old, new),
                _ => false,
            };
            if !same {
                *state = next;
            }
            !same
        });
    }
}
