//! How long the server has not shown the log that is known, over all streams: who is cut off and called again has not
//! seen it any the sooner. Only the time for which a stream was open counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Witness;

/// A log that is known has to be shown within so much time of streams, and accepted: whoever hides it cannot be
/// vouched for.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);

/// One stream on which the log has yet to be shown.
#[derive(Debug)]
pub(crate) struct Watching {
    witness: Arc<Witness>,
    since: Instant,
}

// === impl Watching ===

impl Watching {
    /// A stream begins.
    pub(crate) fn new(witness: Arc<Witness>) -> Self {
        witness.stream_begins();
        let since = Instant::now();
        Self { witness, since }
    }

    /// Whether it has taken too long by now; asked again, it is not before that time has passed again.
    pub(crate) fn is_overdue(&mut self) -> bool {
        let waited = self.count();
        let is_overdue = waited.is_some_and(|waited| waited >= SHOWN_WITHIN);
        if is_overdue {
            self.witness.lock().unshown = Some(Duration::ZERO);
        }
        is_overdue
    }

    fn count(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let passed = now - std::mem::replace(&mut self.since, now);
        let mut state = self.witness.lock();
        state.unshown = state.unshown.map(|unshown| unshown + passed);
        state.unshown
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.count();
    }
}
