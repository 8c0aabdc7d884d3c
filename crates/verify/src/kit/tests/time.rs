use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::kit::time::{MachineTime, TimeSource};

/// Clocks that tests can set: standing still, or running with the machine's.
#[derive(Debug, Default)]
pub(crate) struct TestTime {
    running: bool,
    /// Seconds that the wall clock was set by.
    jumped: AtomicI64,
    /// Milliseconds that passed for both clocks, as when the machine slept.
    passed: AtomicU64,
}

impl TestTime {
    pub(crate) fn running() -> Self {
        Self {
            running: true,
            ..Self::default()
        }
    }

    pub(crate) fn jump(&self, seconds: i64) {
        self.jumped.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn pass(&self, by: Duration) {
        self.passed
            .fetch_add(by.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        Duration::from_millis(self.passed.load(Ordering::SeqCst))
    }
}

impl TimeSource for TestTime {
    fn wall(&self) -> SystemTime {
        let start = if self.running {
            MachineTime.wall()
        } else {
            UNIX_EPOCH + Duration::from_secs(1_750_000_000)
        };
        let jumped = self.jumped.load(Ordering::SeqCst);
        let by = Duration::from_secs(jumped.unsigned_abs());
        if jumped < 0 {
            start + self.passed() - by
        } else {
            start + self.passed() + by
        }
    }

    fn uptime(&self) -> Duration {
        let start = if self.running {
            MachineTime.uptime()
        } else {
            Duration::from_secs(1000)
        };
        start + self.passed()
    }
}
