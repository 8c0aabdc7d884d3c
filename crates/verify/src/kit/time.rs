//! A time that never stands still and never goes back.
//!
//! The wall clock can be set back, and whoever compares with it then extends what was to end. A clock that counts from
//! the start of the machine cannot, but nothing in a certificate is written in it. So: where the wall clock stood at
//! the start and what has passed since, or the wall clock if it is ahead of that. Setting it back changes nothing,
//! setting it forward makes ends come earlier.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mayfly_runtime::{Clock, SystemClock};
use mayfly_svid::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// Where both times come from.
pub(crate) trait TimeSource: Debug + Send + Sync {
    /// The wall clock. May jump.
    fn wall(&self) -> SystemTime;

    /// How long the machine runs, sleep included. Never goes back.
    fn uptime(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Debug)]
pub(crate) struct MachineTime;

impl TimeSource for MachineTime {
    fn wall(&self) -> SystemTime {
        SystemClock.now()
    }

    fn uptime(&self) -> Duration {
        // Not CLOCK_MONOTONIC: it stands still while the machine sleeps, and windows do not.
        let now = clock_gettime(ClockId::Boottime);
        Duration::try_from(now).expect("the machine was started before now")
    }
}

/// See the module. A moment is the time since 1970, as a [`Duration`].
#[derive(Debug, Clone)]
pub(crate) struct Steady {
    source: Arc<dyn TimeSource>,
    /// What to add to the uptime.
    anchor: Duration,
    started: Duration,
}

impl Steady {
    pub(crate) fn new(source: Arc<dyn TimeSource>) -> Self {
        Self {
            anchor: since_1970(source.wall()),
            started: source.uptime(),
            source,
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.unjumped().max(since_1970(self.source.wall()))
    }

    /// [`now`](Self::now) in whole seconds.
    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp::from_unix(i64::try_from(self.now().as_secs()).unwrap_or(i64::MAX))
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.source.uptime()
    }

    /// By how much the wall clock was set since the start, to either side.
    pub(crate) fn jumped(&self) -> Duration {
        self.unjumped().abs_diff(since_1970(self.source.wall()))
    }

    fn unjumped(&self) -> Duration {
        self.anchor + self.source.uptime().saturating_sub(self.started)
    }
}

impl TimeProvider for Steady {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.now()))
    }
}

/// The first moment after the inclusive end `last`.
pub(crate) fn after_second(last: Timestamp) -> Duration {
    moment(last).saturating_add(Duration::from_secs(1))
}

/// The moment at which the second `at` begins.
pub(crate) fn moment(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.unix()).unwrap_or(0))
}

fn since_1970(wall: SystemTime) -> Duration {
    wall.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::tests::TestTime;

    #[test]
    fn a_jump_of_the_wall_clock_never_makes_it_earlier_than_it_was() {
        let source = Arc::new(TestTime::default());
        let steady = Steady::new(source.clone());
        let start = steady.now();
        source.jump(-600);
        source.pass(Duration::from_secs(5));
        assert_eq!(steady.now(), start + Duration::from_secs(5));
        assert_eq!(steady.jumped(), Duration::from_secs(600));
        source.jump(1200);
        assert_eq!(steady.now(), start + Duration::from_secs(605));
        source.jump(-600);
        source.pass(Duration::from_secs(1));
        assert_eq!(steady.now(), start + Duration::from_secs(6));
    }

    #[test]
    fn the_machines_time_passes() {
        let before = MachineTime.uptime();
        std::thread::sleep(Duration::from_millis(2));
        assert!(MachineTime.uptime() > before);
    }
}
