//! Readiness as guards: each part that has to come up holds a [`BlockReady`] and drops it when it is up.
//!
//! The process is ready when no guard is left. A guard has a name, so that `/ready` says what is missing. Something that
//! is lacking ([`Lacking`]) is told there as well, and is no reason to take the process out of service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Whether all parts are up, and which are not. Clones share the state.
#[derive(Debug, Clone)]
pub struct Readiness {
    shared: Arc<Shared>,
}

/// Keeps the process "not ready" until dropped.
#[derive(Debug)]
#[must_use = "dropping the guard says that this part is up"]
pub struct BlockReady {
    shared: Arc<Shared>,
    id: u64,
}

/// Says that the process does without something until dropped.
#[derive(Debug)]
#[must_use = "dropping the guard says that it is there again"]
pub struct Lacking {
    shared: Arc<Shared>,
    id: u64,
}

#[derive(Debug)]
struct Shared {
    next_id: AtomicU64,
    missing: watch::Sender<BTreeMap<u64, String>>,
    lacking: watch::Sender<BTreeMap<u64, String>>,
}

// === impl Readiness ===

impl Readiness {
    /// Nothing blocks yet: ready.
    pub fn new() -> Self {
        let missing = watch::Sender::new(BTreeMap::new());
        Self {
            shared: Arc::new(Shared {
                next_id: AtomicU64::new(0),
                missing,
                lacking: watch::Sender::default(),
            }),
        }
    }

    /// Not ready until the guard is dropped. `name` says what is awaited, for example "first bundle".
    pub fn block(&self, name: impl Into<String>) -> BlockReady {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let name = name.into();
        self.shared.missing.send_modify(|missing| {
            missing.insert(id, name);
        });
        BlockReady {
            shared: Arc::clone(&self.shared),
            id,
        }
    }

    /// Ready or not as before, and without `what` until the guard is dropped: for what is worth a person's look and would
    /// only be made worse by taking the process out of service.
    pub fn lack(&self, what: impl Into<String>) -> Lacking {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.shared.lacking.send_modify(|lacking| {
            lacking.insert(id, what.into());
        });
        Lacking {
            shared: Arc::clone(&self.shared),
            id,
        }
    }

    /// What there is not although the process may be ready, oldest first.
    pub fn lacking(&self) -> Vec<String> {
        self.shared.lacking.borrow().values().cloned().collect()
    }

    /// True if nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.shared.missing.borrow().is_empty()
    }

    /// What is missing, oldest first.
    pub fn missing(&self) -> Vec<String> {
        self.shared.missing.borrow().values().cloned().collect()
    }

    /// Waits until nothing is missing.
    ///
    /// # Cancel safety
    /// Safe: it only observes.
    pub async fn wait(&self) {
        let mut missing = self.shared.missing.subscribe();
        // The sender lives in `self`, so the channel cannot be closed here.
        let _ = missing.wait_for(BTreeMap::is_empty).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

// === impl BlockReady ===

impl Drop for BlockReady {
    fn drop(&mut self) {
        let id = self.id;
        self.shared.missing.send_modify(|missing| {
            if let Some(name) = missing.remove(&id) {
                tracing::info!(part = name, waiting_for = missing.len(), "part is ready");
            }
        });
    }
}

// === impl Lacking ===

impl Drop for Lacking {
    fn drop(&mut self) {
        self.shared.lacking.send_modify(|lacking| {
            lacking.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_ready_when_the_last_guard_is_dropped_and_names_what_is_missing() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let store = readiness.block("store");
        let bundle = readiness.block("first bundle");
        assert_eq!(readiness.missing(), ["store", "first bundle"]);
        drop(store);
        assert_eq!(readiness.missing(), ["first bundle"]);
        drop(bundle);
        readiness.wait().await;
        assert!(readiness.is_ready());
    }

    #[test]
    fn what_is_lacking_is_told_and_keeps_nobody_from_being_ready() {
        let readiness = Readiness::new();
        let tasks = readiness.lack("task SVIDs");
        assert_eq!(readiness.lacking(), ["task SVIDs"]);
        assert!(readiness.is_ready() && readiness.missing().is_empty());
        drop(tasks);
        assert!(readiness.lacking().is_empty());
    }

    #[test]
    fn two_guards_of_one_name_are_two() {
        let readiness = Readiness::new();
        let first = readiness.block("listener");
        let second = readiness.block("listener");
        drop(first);
        assert!(!readiness.is_ready());
        drop(second);
        assert!(readiness.is_ready());
    }
}
