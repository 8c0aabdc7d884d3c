//! Whether the log is refused: one word that task keepers and the API read.

use std::sync::Arc;

use tokio::sync::watch;

/// Why the server's log is refused, if it is. Clones are the same.
#[derive(Clone, Debug)]
pub struct Distrust {
    why: watch::Sender<Option<Arc<str>>>,
}

impl Default for Distrust {
    fn default() -> Self {
        Self {
            why: watch::Sender::new(None),
        }
    }
}

impl Distrust {
    /// Follows the reason.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.why.subscribe()
    }

    /// What a process is told that asks for a task, if it is to be refused.
    pub fn refusal(&self) -> Option<String> {
        self.why.borrow().as_deref().map(|why| {
            format!(
                "no task SVIDs on this node: its agent refuses the server's log, as {why}; base SVIDs stay. Tell who \
                 runs the server; how a node takes a new log is in docs/witness.md"
            )
        })
    }

    /// Only a change wakes who follows.
    pub(crate) fn set(&self, why: Option<&str>) {
        self.why.send_if_modified(|now| {
            let changed = now.as_deref() != why;
            *now = why.map(Into::into);
            changed
        });
    }
}
