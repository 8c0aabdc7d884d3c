//! States of tasks, from the server to whoever keeps windows.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mayfly_proto::mayfly::workload::TaskState;
use tokio::sync::Notify;
use tracing::warn;

/// Far more than one node has; what is revoked is told by the deny set as well.
const CAPACITY: usize = 65_536;

/// The latest state of each request and window that was not taken out yet.
#[derive(Debug, Default)]
pub struct Mailbox {
    states: Mutex<HashMap<(String, String), TaskState>>,
    wake: Notify,
}

impl Mailbox {
    /// Puts states in. A later one of the same takes the place of an earlier one.
    pub fn put(&self, states: Vec<TaskState>) {
        if states.is_empty() {
            return;
        }
        let mut held = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for state in states {
            let key = (state.request_id.clone(), state.window_id.clone());
            if held.len() >= CAPACITY && !held.contains_key(&key) {
                warn!(
                    request_id = state.request_id,
                    "state of a task dropped: too many at a time"
                );
                continue;
            }
            held.insert(key, state);
        }
        drop(held);
        self.wake.notify_one();
    }

    /// Takes all out, once there are any. One taker at a time.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken before it returns.
    pub async fn take(&self) -> Vec<TaskState> {
        loop {
            let woken = self.wake.notified();
            let taken = std::mem::take(&mut *self.states.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken.into_values().collect();
            }
            woken.await;
        }
    }
}
