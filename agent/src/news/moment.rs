//! An instant of a clock that goes on while the machine sleeps.
//!
//! Timers and [`Instant`] count by `CLOCK_MONOTONIC`, which stands still in a suspend. What was promised for ten seconds is
//! over ten seconds later all the same, so leases are counted by this one.

use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// The two clocks are read one after the other: less than this between them is not sleep.
const NOISE_MS: u64 = 100;

/// See the module: the running clock, moved on by all the sleep since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Instant);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self(Instant::now() + slept())
    }

    /// When a timer has to fire for it, if the machine does not sleep before.
    pub fn timer(self) -> Instant {
        self.0.checked_sub(slept()).unwrap_or_else(Instant::now)
    }

    /// What has passed since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

/// How long the machine has slept since it was started.
fn slept() -> Duration {
    static SLEPT_MS: AtomicU64 = AtomicU64::new(0);
    let since_start = |clock| Duration::try_from(clock_gettime(clock)).expect("the machine was started before now");
    // In this order, so that what passes between the two is never taken for sleep.
    let with_sleep = since_start(ClockId::Boottime);
    let measured = with_sleep.saturating_sub(since_start(ClockId::Monotonic));
    let measured = u64::try_from(measured.as_millis()).unwrap_or(u64::MAX);
    let known = SLEPT_MS.load(Ordering::Relaxed);
    let slept = if is_sleep(known, measured) {
        SLEPT_MS.fetch_max(measured, Ordering::Relaxed).max(measured)
    } else {
        known
    };
    Duration::from_millis(slept) + in_tests()
}

fn is_sleep(known_ms: u64, measured_ms: u64) -> bool {
    measured_ms >= known_ms.saturating_add(NOISE_MS)
}

#[cfg(not(test))]
fn in_tests() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
use sleeping::in_tests;

/// Sleep of the machine, as far as the present thread can tell.
#[cfg(test)]
pub(crate) mod sleeping {
    use std::cell::Cell;
    use std::time::Duration;

    thread_local!(static SLEPT: Cell<Duration> = const { Cell::new(Duration::ZERO) });

    pub(super) fn in_tests() -> Duration {
        SLEPT.get()
    }

    /// The machine sleeps: no timer and no clock of the runtime notices.
    pub(crate) fn sleep(duration: Duration) {
        SLEPT.set(SLEPT.get() + duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sleep_counts_and_no_timer_knows_of_it() {
        let begun = Moment::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(Moment::now().since(begun), Duration::from_secs(2));
        let (end, due) = (begun + Duration::from_secs(10), Instant::now() + Duration::from_secs(8));
        assert_eq!(end.timer(), due);
        sleeping::sleep(Duration::from_secs(5));
        assert_eq!(Moment::now().since(begun), Duration::from_secs(7));
        assert_eq!(end.timer(), due - Duration::from_secs(5));
        assert!(Moment::now() < end);
        sleeping::sleep(Duration::from_secs(3));
        assert!(Moment::now() >= end);
        assert_eq!(begun.since(Moment::now()), Duration::ZERO);
    }

    #[test]
    fn what_passes_between_two_readings_is_no_sleep() {
        assert!(!is_sleep(5_000, 5_000 + NOISE_MS - 1));
        assert!(!is_sleep(5_000, 4_000));
        assert!(is_sleep(5_000, 5_000 + NOISE_MS));
    }

    // On a machine that never slept both are the same clock.
    #[tokio::test]
    async fn it_is_the_clock_that_consumers_read() {
        let uptime = |clock| Duration::try_from(clock_gettime(clock)).unwrap();
        let ahead = uptime(ClockId::Boottime).saturating_sub(uptime(ClockId::Monotonic));
        assert!(slept().abs_diff(ahead) < Duration::from_secs(1));
    }
}
