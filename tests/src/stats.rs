//! Latencies: collected, sorted, printed.

use std::fmt;
use std::time::Duration;

/// Samples of how long something took.
#[derive(Debug, Default, Clone)]
pub struct Millis(Vec<Duration>);

impl Millis {
    /// One more.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sample that `share` of all (0 to 1) do not exceed; nearest rank.
    ///
    /// # Panics
    /// There is no sample.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank"
        )]
        let rank = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
        sorted[rank - 1]
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no samples");
        }
        let show = |share| self.quantile(share).as_secs_f64() * 1e3;
        write!(
            f,
            "n={} p50={:.2} ms p90={:.2} ms p99={:.2} ms max={:.2} ms",
            self.0.len(),
            show(0.5),
            show(0.9),
            show(0.99),
            show(1.0)
        )
    }
}
