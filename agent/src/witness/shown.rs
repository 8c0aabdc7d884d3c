//! One stream as the witness sees it: how long the server takes to show what it has to show, over all streams, and which
//! entries it was asked for.
//!
//! Who is cut off and called again has not seen it any the sooner, so the clock goes on from stream to stream. Only the
//! time for which one was open counts, and of a time without a sign of life no more than the server may be silent: while
//! this process itself was stopped, nobody hid anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::mayfly::agent::Prove;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Missing, Witness};

/// A log that is known has to be shown within so much time of streams, and accepted: whoever hides it cannot be
/// vouched for.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
/// Entries that the server shows later are asked for when these have come.
const ASKED_AT_ONCE: usize = 256;

/// One stream.
#[derive(Debug)]
pub(crate) struct Watching {
    witness: Arc<Witness>,
    since: Instant,
    /// The entries that the server was asked for on this stream, and has not shown.
    asked: BTreeSet<u64>,
    owing: watch::Receiver<()>,
}

// === impl Watching ===

impl Watching {
    /// A stream begins.
    pub(crate) fn new(witness: Arc<Witness>) -> Self {
        witness.stream_begins();
        let since = Instant::now();
        let mut owing = witness.owing.subscribe();
        // What is owed from before is asked for anew.
        owing.mark_changed();
        let asked = BTreeSet::new();
        Self {
            witness,
            since,
            asked,
            owing,
        }
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

    /// What has taken too long by now, where the server may be silent for `silence`; asked again, it is not before that
    /// time has passed again.
    pub(crate) fn overdue(&mut self, silence: Duration) -> Option<Missing> {
        self.count(silence);
        let mut state = self.witness.lock();
        let now = state.streamed;
        let is_hidden = state.unshown.is_some_and(|since| now - since >= SHOWN_WITHIN);
        if is_hidden {
            state.unshown = Some(now);
        }
        let missing = Missing {
            is_hidden,
            overdue: state.debts.take_overdue(now, silence),
        };
        (missing.is_hidden || !missing.overdue.is_empty()).then_some(missing)
    }

    fn count(&mut self, at_most: Duration) {
        let now = Instant::now();
        let passed = now - std::mem::replace(&mut self.since, now);
        self.witness.lock().streamed += passed.min(at_most);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.count(SHOWN_WITHIN);
    }
}
