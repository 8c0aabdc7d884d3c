//! How fresh what we know is.

use std::time::Duration;

use mayfly_svid::Timestamp;
use tokio::time::Instant;

/// The lease until a beacon told another.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);
/// A beacon comes each quarter of the lease.
const BEACONS_PER_LEASE: u32 = 4;
const SHORTEST_LEASE: Duration = Duration::from_millis(500);
const LONGEST_LEASE: Duration = Duration::from_secs(300);

/// The server's last word on the watch stream. All of it is monotonic: no setting of this machine's clock makes it last
/// longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// When it came.
    pub at: Instant,
    /// How long it counts.
    pub lease: Duration,
    /// What the server's clock said, in Unix milliseconds, and when that came.
    server_time: Option<(Instant, i64)>,
}

impl Default for Word {
    fn default() -> Self {
        Self {
            at: Instant::now(),
            lease: DEFAULT_LEASE,
            server_time: None,
        }
    }
}

impl Word {
    /// The first instant at which it does not count any more.
    pub fn end(&self) -> Instant {
        self.at + self.lease
    }

    /// How long it still counts; `None` if it does not.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.end().checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// The server's clock now, as far as it is known; never ahead of it.
    pub fn server_now(&self, now: Instant) -> Option<Timestamp> {
        let (at, unix_ms) = self.server_time?;
        let passed = i64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(i64::MAX);
        Some(Timestamp::from_unix(unix_ms.saturating_add(passed).div_euclid(1000)))
    }

    pub(super) fn again(self) -> Self {
        Self {
            at: Instant::now(),
            ..self
        }
    }

    pub(super) fn beacon(self, time_unix_ms: i64, interval_ms: u32) -> Self {
        let at = Instant::now();
        let lease = Duration::from_millis(interval_ms.into()) * BEACONS_PER_LEASE;
        Self {
            at,
            lease: if interval_ms == 0 {
                self.lease
            } else {
                lease.clamp(SHORTEST_LEASE, LONGEST_LEASE)
            },
            server_time: if time_unix_ms > 0 {
                Some((at, time_unix_ms))
            } else {
                self.server_time
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_word_counts_for_four_beacons_and_then_not_at_all() {
        let word = Word::default().beacon(1_000_500, 2_500);
        assert_eq!(word.lease, Duration::from_secs(10));
        advance(Duration::from_millis(9_999)).await;
        assert_eq!(word.left(Instant::now()), Some(Duration::from_millis(1)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(word.left(Instant::now()), None);
        assert_eq!(word.server_now(Instant::now()), Some(Timestamp::from_unix(1_010)));
        let next = word.again();
        assert_eq!(next.left(Instant::now()), Some(Duration::from_secs(10)));
        assert_eq!(
            next.server_now(Instant::now()),
            word.server_now(Instant::now()),
            "kept where none was told"
        );
    }
}
