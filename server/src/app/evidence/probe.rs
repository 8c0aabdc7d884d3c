//! What attempts on consumers came to: for the report, which says "not tested" without.

use std::sync::Arc;

use mayfly_model::Actor;
use mayfly_svid::WindowId;
use serde_json::json;

use super::{Evidence, EvidenceError, note};

/// The kind of the record.
const FINISHED: &str = "probe.finished";

/// One attempt. Its fields are as the record has them.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The name of the consumer.
    pub checkpoint: String,
    /// What was tried, in a word.
    pub kind: String,
    /// What should come of it.
    pub expected: String,
    /// What did.
    pub outcome: String,
    /// Whose credentials were tried, if a window's.
    pub window: Option<WindowId>,
    /// Where the consumer listens.
    pub target: String,
    /// More, for people; private.
    pub detail: String,
}

impl Evidence {
    /// Records an attempt.
    ///
    /// # Errors
    /// It could not be committed.
    pub async fn record_probe(self: &Arc<Self>, actor: Actor, probe: Probe) -> Result<(), EvidenceError> {
        let Probe {
            checkpoint,
            kind,
            expected,
            outcome,
            window,
            target,
            detail,
        } = probe;
        let body = json!({ "checkpoint": checkpoint, "kind": kind, "expected": expected, "outcome": outcome,
                           "window": window, "target": target, "detail": detail });
        note(&self.committer, self.clock.as_ref(), actor, FINISHED, checkpoint, body).await
    }
}
