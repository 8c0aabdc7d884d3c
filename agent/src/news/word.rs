//! How fresh what we know is.

use std::time::Duration;

use mayfly_svid::Timestamp;

use super::Moment;

/// The lease until the server told another.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);
/// A beacon comes each quarter of the lease.
const BEACONS_PER_LEASE: u32 = 4;
const SHORTEST_LEASE: Duration = Duration::from_millis(500);
const LONGEST_LEASE: Duration = Duration::from_secs(300);
/// Consumers are told this part of the lease less: what the server said took its time to come here, and takes it again from
/// here to them.
const CONSUMERS_MARGIN: u32 = 20;

/// The server's last word on the watch stream. All of it is counted in [`Moment`]s: neither a setting of this machine's clock
/// nor its sleep makes it last longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// When it came.
    pub at: Moment,
    /// How long it counts: what the server says, and not longer than a few of its beacons.
    pub lease: Duration,
    /// After so long without one, beacons have failed to come.
    beacons: Option<Duration>,
    /// What the server's clock said, in Unix milliseconds, and when that came.
    server_time: Option<(Moment, i64)>,
}

impl Default for Word {
    fn default() -> Self {
        Self {
            at: Moment::now(),
            lease: DEFAULT_LEASE,
            beacons: None,
            server_time: None,
        }
    }
}

impl Word {
    /// The first instant at which it does not count any more.
    pub fn end(&self) -> Moment {
        self.at + self.lease
    }

    /// How long it still counts; `None` if it does not.
    pub fn left(&self, now: Moment) -> Option<Duration> {
        Some(self.end().since(now)).filter(|left| !left.is_zero())
    }

    /// How long consumers may count on it: a little less than we do.
    pub fn left_for_consumers(&self, now: Moment) -> Option<Duration> {
        let left = self.left(now)?.checked_sub(self.consumers_margin());
        left.filter(|left| !left.is_zero())
    }

    /// How much less than we.
    pub fn consumers_margin(&self) -> Duration {
        self.lease / CONSUMERS_MARGIN
    }

    /// The server's clock now, as far as it is known; never ahead of it.
    pub fn server_now(&self, now: Moment) -> Option<Timestamp> {
        let (at, unix_ms) = self.server_time?;
        let passed = i64::try_from(now.since(at).as_millis()).unwrap_or(i64::MAX);
        Some(Timestamp::from_unix(unix_ms.saturating_add(passed).div_euclid(1000)))
    }

    /// The server spoke, and said that it counts for `lease_ms`.
    pub(super) fn again(self, lease_ms: u32) -> Self {
        let told = (lease_ms > 0).then(|| Duration::from_millis(lease_ms.into()));
        let lease = told.into_iter().chain(self.beacons).min().unwrap_or(self.lease);
        Self {
            at: Moment::now(),
            lease: lease.clamp(SHORTEST_LEASE, LONGEST_LEASE),
            ..self
        }
    }

    pub(super) fn beacon(self, time_unix_ms: i64, interval_ms: u32, lease_ms: u32) -> Self {
        let beacons = Duration::from_millis(interval_ms.into()) * BEACONS_PER_LEASE;
        let next = Self {
            beacons: Some(beacons).filter(|beacons| !beacons.is_zero()).or(self.beacons),
            ..self
        };
        let next = next.again(lease_ms);
        Self {
            server_time: if time_unix_ms > 0 {
                Some((next.at, time_unix_ms))
            } else {
                self.server_time
            },
            ..next
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::super::moment::sleeping;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_word_counts_for_four_beacons_and_then_not_at_all() {
        let word = Word::default().beacon(1_000_500, 2_500, 0);
        assert_eq!(word.lease, Duration::from_secs(10));
        advance(Duration::from_millis(9_999)).await;
        assert_eq!(word.left(Moment::now()), Some(Duration::from_millis(1)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(word.left(Moment::now()), None);
        assert_eq!(word.server_now(Moment::now()), Some(Timestamp::from_unix(1_010)));
        let next = word.again(0);
        assert_eq!(next.left(Moment::now()), Some(Duration::from_secs(10)));
        assert_eq!(
            next.server_now(Moment::now()),
            word.server_now(Moment::now()),
            "kept where none was told"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_counts_no_longer_than_the_server_says_and_than_beacons_may_fail_to_come() {
        let lease = |word: Word| word.lease.as_millis();
        let word = Word::default().again(3_000);
        assert_eq!(lease(word), 3_000, "an update says it as well");
        assert_eq!(lease(word.again(0)), 3_000);
        assert_eq!(lease(word.beacon(1, 2_500, 5_000)), 5_000);
        assert_eq!(lease(word.beacon(1, 2_500, 60_000)), 10_000);
        assert_eq!(lease(word.beacon(1, 2_500, 0)), 10_000, "a server that does not say it");
        assert_eq!(lease(word.beacon(1, 2_500, 0).again(5_000)), 5_000);
        assert_eq!(
            lease(word.beacon(1, 2_500, 5_000).again(20_000)),
            10_000,
            "it was set anew"
        );
        assert_eq!(lease(word.again(1)), SHORTEST_LEASE.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn consumers_are_told_less_than_is_left() {
        let word = Word::default().beacon(1_000_500, 2_500, 10_000);
        advance(Duration::from_millis(4_000)).await;
        let left = |word: &Word| word.left_for_consumers(Moment::now());
        assert_eq!(left(&word), Some(Duration::from_millis(5_500)));
        advance(Duration::from_millis(5_500)).await;
        assert_eq!((left(&word), word.left(Moment::now()).is_some()), (None, true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_sleep_of_the_machine_makes_no_word_last_longer() {
        let word = Word::default().beacon(1_000_500, 2_500, 10_000);
        advance(Duration::from_secs(2)).await;
        sleeping::sleep(Duration::from_secs(7));
        assert_eq!(word.left(Moment::now()), Some(Duration::from_secs(1)));
        assert_eq!(word.server_now(Moment::now()), Some(Timestamp::from_unix(1_009)));
        sleeping::sleep(Duration::from_secs(3_600));
        assert_eq!(word.left(Moment::now()), None);
        assert_eq!(word.left_for_consumers(Moment::now()), None);
        assert!(word.end().timer() < tokio::time::Instant::now());
    }
}
