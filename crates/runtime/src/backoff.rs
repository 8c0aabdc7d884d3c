//! Pauses between attempts: exponential, jittered, with a floor and a ceiling.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How long to pause between attempts. Cannot be built wrong: in a `const`, a wrong one does not compile.
///
/// ```
/// use std::time::Duration;
/// use mayfly_runtime::BackoffPolicy;
/// const RECONNECT: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(200), Duration::from_secs(30));
/// let mut backoff = RECONNECT.start();
/// assert!(backoff.next_delay() <= Duration::from_millis(200));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    first: Duration,
    longest: Duration,
}

/// The pauses of one series of attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
    rng: SmallRng,
}

/// A policy that would spin or never grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a backoff needs 1 ms <= first <= longest, got first {first:?} and longest {longest:?}")]
pub struct InvalidBackoff {
    first: Duration,
    longest: Duration,
}

// === impl BackoffPolicy ===

impl BackoffPolicy {
    /// Pauses that double from `first` up to `longest`.
    ///
    /// # Panics
    /// Unless 1 ms ≤ `first` ≤ `longest`. In a `const` this is a compile error; for values from outside there is
    /// [`BackoffPolicy::try_new`].
    pub const fn new(first: Duration, longest: Duration) -> Self {
        assert!(
            first.as_millis() >= 1,
            "the first pause of a backoff must be at least 1 ms"
        );
        assert!(
            first.as_nanos() <= longest.as_nanos(),
            "the longest pause of a backoff must not be below the first"
        );
        Self { first, longest }
    }

    /// [`BackoffPolicy::new`] for values that come from settings.
    ///
    /// # Errors
    /// Unless 1 ms ≤ `first` ≤ `longest`.
    pub const fn try_new(first: Duration, longest: Duration) -> Result<Self, InvalidBackoff> {
        if first.as_millis() >= 1 && first.as_nanos() <= longest.as_nanos() {
            Ok(Self { first, longest })
        } else {
            Err(InvalidBackoff { first, longest })
        }
    }

    /// Starts a series with its own randomness.
    pub fn start(self) -> Backoff {
        Backoff {
            policy: self,
            failures: 0,
            rng: SmallRng::from_os_rng(),
        }
    }

    /// Starts a series that is the same for the same seed. For tests.
    pub fn start_seeded(self, seed: u64) -> Backoff {
        Backoff {
            policy: self,
            failures: 0,
            rng: SmallRng::seed_from_u64(seed),
        }
    }
}

// === impl Backoff ===

impl Backoff {
    /// The pause after one more failure: between half of the step and the step, which doubles each time.
    pub fn next_delay(&mut self) -> Duration {
        let doublings = self.failures.min(31);
        self.failures = self.failures.saturating_add(1);
        let step = self
            .policy
            .first
            .saturating_mul(1 << doublings)
            .min(self.policy.longest);
        step.mul_f64(self.rng.random_range(0.5..=1.0))
    }

    /// The pause after one more failure for which the server named a time: never earlier than `hint`, up to a quarter
    /// later so that the many who got the same hint do not come back together, and never below our own pause.
    pub fn next_delay_with_hint(&mut self, hint: Duration) -> Duration {
        let own = self.next_delay();
        hint.saturating_add(hint.mul_f64(self.rng.random_range(0.0..=0.25)))
            .max(own)
    }

    /// Starts over: the attempt succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the start or the last [`Backoff::reset`].
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Sleeps for [`Backoff::next_delay`].
    ///
    /// # Cancel safety
    /// If dropped, the failure is counted and the rest of the pause is lost.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(10));

    #[test]
    fn grows_from_the_first_to_the_longest_and_stays_there() {
        let mut backoff = POLICY.start_seeded(7);
        let mut step = Duration::from_millis(100);
        for _ in 0..100 {
            let delay = backoff.next_delay();
            assert!(
                delay >= step / 2 && delay <= step,
                "{delay:?} is not within half of {step:?}"
            );
            step = (step * 2).min(Duration::from_secs(10));
        }
        assert_eq!(backoff.failures(), 100);
    }

    #[test]
    fn starts_over_after_a_success() {
        let mut backoff = POLICY.start();
        for _ in 0..20 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }

    #[test]
    fn never_comes_back_before_the_servers_hint() {
        let mut backoff = POLICY.start_seeded(1);
        let hint = Duration::from_secs(4);
        for _ in 0..3 {
            let delay = backoff.next_delay_with_hint(hint);
            assert!(delay >= hint && delay <= hint.mul_f64(1.25), "{delay:?}");
        }
        for _ in 0..10 {
            backoff.next_delay();
        }
        assert!(
            backoff.next_delay_with_hint(Duration::ZERO) >= Duration::from_secs(5),
            "a hint never shortens"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses_and_another_seed_others() {
        let series = |seed| {
            let mut backoff = POLICY.start_seeded(seed);
            [backoff.next_delay(), backoff.next_delay(), backoff.next_delay()]
        };
        assert_eq!(series(3), series(3));
        assert_ne!(series(3), series(4));
    }

    #[test]
    fn a_policy_that_would_spin_or_shrink_is_refused() {
        assert!(BackoffPolicy::try_new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(BackoffPolicy::try_new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
