//! What passes between `sync`, which speaks with the server, and those who act on tasks (`tasks`, `api`).
//!
//! ```text
//!   sync ──▶ DenySet (what is revoked) · Word (how fresh that is) · Mailbox (states of tasks) ──▶ tasks, api
//!   sync ◀── window IDs that are held · Enforcers (what consumers behind this agent enforce)  ◀── tasks, api
//! ```
//!
//! Everything here is the latest state, never a queue: whoever is slow sees what it led to. As in `view`, which is the
//! same for entries and bundles, nobody here decides anything.

mod denied;
mod enforcers;
mod mailbox;
mod moment;
mod word;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mayfly_proto::mayfly::workload::Revoked;
use tokio::sync::watch;

pub use denied::{Cursor, DenySet, Piece};
pub use enforcers::{Consumer, Enforcer, Enforcers, TooManyConsumers};
pub use mailbox::Mailbox;
pub use moment::Moment;
#[cfg(test)]
pub(crate) use moment::sleeping;
pub use word::{DEFAULT_LEASE, Word};

use crate::witness::{Distrust, Witness};

/// Whether the server knows tasks at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Not heard yet.
    Unknown,
    /// It is one of ours.
    Tasks,
    /// It is followed by polling, as SPIRE's are: no tasks, no revocation.
    Nothing,
}

/// The exchange; one of each agent.
#[derive(Debug)]
pub struct News {
    denied: watch::Sender<Arc<DenySet>>,
    word: watch::Sender<Option<Word>>,
    offer: watch::Sender<Offer>,
    tasks: Mailbox,
    held: Mutex<Vec<String>>,
    enforcers: Arc<Enforcers>,
    witness: OnceLock<Arc<Witness>>,
    distrust: Distrust,
}

impl Default for News {
    fn default() -> Self {
        Self {
            denied: watch::Sender::default(),
            word: watch::Sender::new(None),
            offer: watch::Sender::new(Offer::Unknown),
            tasks: Mailbox::default(),
            held: Mutex::default(),
            enforcers: Arc::default(),
            witness: OnceLock::new(),
            distrust: Distrust::default(),
        }
    }
}

impl News {
    /// Nothing heard, nothing held.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Follows what is revoked.
    pub fn denied(&self) -> watch::Receiver<Arc<DenySet>> {
        self.denied.subscribe()
    }

    /// Adds to what is revoked. Whoever follows is woken if anything is new.
    pub fn revoke(&self, fresh_start: bool, revoked: Vec<Revoked>, epoch: u64) {
        let mut next = DenySet::clone(&self.denied.borrow());
        let changed = next.apply(fresh_start, revoked, epoch);
        self.publish(next, changed);
    }

    fn publish(&self, next: DenySet, wake: bool) {
        self.denied.send_if_modified(|denied| {
            *denied = Arc::new(next);
            wake
        });
    }

    /// The epoch up to which everything is known.
    pub fn epoch(&self) -> u64 {
        self.denied.borrow().epoch()
    }

    /// Follows the server's last word.
    pub fn word(&self) -> watch::Receiver<Option<Word>> {
        self.word.subscribe()
    }

    /// The server spoke, said for how long that counts, and what is held here is all that it wanted to be held. 0 of a server
    /// that does not say it.
    pub fn heard(&self, lease_ms: u32) {
        let next = self.word.borrow().unwrap_or_default().again(lease_ms);
        self.word.send_replace(Some(next));
    }

    /// As [`heard`](Self::heard), with what a beacon says; what is over by the server's clock is forgotten.
    pub fn heard_beacon(&self, time_unix_ms: i64, interval_ms: u32, lease_ms: u32) {
        let word = self.word.borrow().unwrap_or_default();
        let next = word.beacon(time_unix_ms, interval_ms, lease_ms);
        self.word.send_replace(Some(next));
        if self.denied.borrow().has_expired(time_unix_ms / 1000) {
            let mut set = DenySet::clone(&self.denied.borrow());
            set.forget_expired(time_unix_ms / 1000);
            self.publish(set, false);
        }
    }

    /// Follows whether the server knows tasks.
    pub fn offer(&self) -> watch::Receiver<Offer> {
        self.offer.subscribe()
    }

    /// Says whether the server knows tasks.
    pub fn set_offer(&self, offer: Offer) {
        self.offer
            .send_if_modified(|old| std::mem::replace(old, offer) != offer);
    }

    /// States of tasks that the server told.
    pub fn tasks(&self) -> &Mailbox {
        &self.tasks
    }

    /// The windows that a hello names.
    pub fn held_windows(&self) -> Vec<String> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which windows a hello names from now on.
    pub fn set_held_windows(&self, held: Vec<String>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Consumers that enforce what is revoked.
    pub fn enforcers(&self) -> &Arc<Enforcers> {
        &self.enforcers
    }

    /// Who looks at the server's log, if anybody does.
    pub fn witness(&self) -> Option<&Arc<Witness>> {
        self.witness.get()
    }

    /// Has `witness` look at the server's log from now on; the first one stays.
    pub fn set_witness(&self, witness: Arc<Witness>) {
        // Said once, by `assemble`.
        let _ = self.witness.set(witness);
    }

    /// Whether the server's log is refused, and so every task SVID.
    pub fn distrust(&self) -> &Distrust {
        &self.distrust
    }
}
