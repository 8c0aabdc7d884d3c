//! One stream as the witness sees it: how long the server takes to show what it has to show, over all streams, and
//! which entries it was asked for.
//!
//! Who is cut off and called again has not seen it any the sooner, so the clock goes on from stream to stream. It
//! counts while one is open. Of a time in which nobody looked no more than [`UNSEEN`] counts, as this process may have been
//! stopped, and nobody hid anything; the time between two streams is such a time, too: otherwise a server could cut
//! each one off at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::mayfly::agent::Prove;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Missing, State, Witness};

/// A log that is known has to be shown within so much time of streams, and accepted: whoever hides it cannot be
/// vouched for.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
/// So much of a time in which nobody looked counts.
const UNSEEN: Duration = Duration::from_secs(5);
/// Entries that the server shows later are asked for when these have come.
const ASKED_AT_ONCE: usize = 256;

/// One stream.
#[derive(Debug)]
pub(crate) struct Watching {
    witness: Arc<Witness>,
    /// The entries that the server was asked for on this stream, and has not shown.
    asked: BTreeSet<u64>,
    owing: watch::Receiver<()>,
}

// === impl Watching ===

impl Watching {
    /// A stream begins.
    pub(crate) fn new(witness: Arc<Witness>) -> Self {
        witness.lock().looks();
        witness.stream_begins();
        let mut owing = witness.owing.subscribe();
        // What is owed from before is asked for anew.
        owing.mark_changed();
        let asked = BTreeSet::new();
        Self { witness, asked, owing }
    }

    /// Whose it is.
    pub(crate) fn witness(&self) -> &Arc<Witness> {
        &self.witness
    }

    /// Waits until something more is owed.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub(crate) async fn owes(&mut self) {
        if self.owing.changed().await.is_err() {
            // The witness is gone, and with it the agent.
            std::future::pending::<()>().await;
        }
    }

    /// What the server is to be asked for now; it counts as asked.
    pub(crate) fn question(&mut self) -> Option<Prove> {
        let owed = self.witness.owed();
        self.asked.retain(|index| owed.contains(index));
        let room = ASKED_AT_ONCE - self.asked.len();
        let indexes: Vec<u64> = owed.difference(&self.asked).take(room).copied().collect();
        self.asked.extend(&indexes);
        (!indexes.is_empty()).then_some(Prove { indexes })
    }

    /// What has taken too long by now, where the server may be silent for `silence`. A log that is being looked at is
    /// not hidden, whatever it is found to be; what is owed is late all the same.
    pub(crate) fn overdue(&mut self, silence: Duration, is_looking: bool) -> Option<Missing> {
        let mut state = self.witness.lock();
        let now = state.looks();
        let is_hidden = !is_looking && state.unshown.is_some_and(|since| now - since >= SHOWN_WITHIN);
        if is_hidden {
            state.unshown = Some(now);
        }
        let is_late = !state.debts.overdue(now, silence).is_empty();
        (is_hidden || is_late).then_some(Missing { is_hidden, silence })
    }
}

impl State {
    /// The clock of streams, which goes on up to now.
    fn looks(&mut self) -> Duration {
        let now = Instant::now();
        let passed = self
            .looked_at
            .replace(now)
            .map_or(Duration::ZERO, |before| now - before);
        self.streamed += passed.min(UNSEEN);
        self.streamed
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.witness.lock().looks();
    }
}
