//! X.509-SVIDs of the processes on this node: made when asked for, renewed while wanted, wiped after.
//!
//! ```text
//!  api: subscribe(entry) ──▶ ┌────────┐ ── batches of CSRs ──▶ Issuer (`sync`: one RPC)
//!       watch::Receiver ◀─── │ Worker │ ◀─ certificates, checked before use
//!                            └────────┘ ◀─ View: entry gone or changed, authority tainted or gone
//! ```
//!
//! One [`Worker`] owns all state, so nothing here is locked. All who want the SVID of one entry share it: each holds a
//! [`Subscription`], a `watch` receiver of [`SvidState`]. What is wanted by nobody is wiped after a short while, but not
//! while the server could not replace it: whoever asks next is served as long as it is valid.
//!
//! Every entry has its own backoff, and what is due is asked for in the order of [`Priority`]; so an entry that the
//! server refuses delays no other. A renewal that fails leaves the SVID that is still valid in place.
//!
//! An SVID ends when either clock says so: its deadline is monotonic and is also compared with the wall clock, so that
//! a jump of the wall clock ends it early or not at all, and never extends it.
//!
//! Not here: which process gets which entry (`api`), how the server is reached (`sync`). Start at [`start`].

pub(crate) mod check;
mod issuer;
mod metrics;
mod queue;
mod slot;
mod worker;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mayfly_model::{Entry, EntryId};
use mayfly_runtime::{BackoffPolicy, Clock};
use mayfly_svid::{Timestamp, X509Svid};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use issuer::{IssueAnswer, IssueError, IssueRefusal, IssueRequest, Issuer};
pub use metrics::SvidMetrics;
pub use queue::Priority;
use worker::Server;
pub use worker::Worker;

use crate::view::View;

/// Bound of the worker's inbox; a full one makes callers wait.
const INBOX: usize = 1024;

/// How SVIDs are asked for and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidSettings {
    /// How long an SVID is kept that nobody wants any more, so that a client that asks, leaves and asks again does not
    /// cost a signature each time.
    pub linger: Duration,
    /// Certificates asked for in one call; SPIRE's servers take at most 500.
    pub batch_size: usize,
    /// Calls at a time. While all are under way, requests collect for the next one.
    pub calls_in_flight: usize,
    /// How long one call may take.
    pub call_timeout: Duration,
    /// Pauses of one entry after failures.
    pub backoff: BackoffPolicy,
}

impl Default for SvidSettings {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(5),
            batch_size: 50,
            calls_in_flight: 4,
            call_timeout: Duration::from_secs(30),
            backoff: BackoffPolicy::new(Duration::from_millis(200), Duration::from_secs(30)),
        }
    }
}

/// What is known of the SVID of one entry.
#[derive(Clone, Debug)]
pub enum SvidState {
    /// Being made.
    Pending,
    /// Valid when it was put here; see [`X509Material::is_valid`].
    Ready(Arc<X509Material>),
    /// There is none, for this reason; the worker goes on trying.
    Failed(Failure),
    /// The entry is gone or has expired: there is no such identity.
    Withdrawn,
}

/// Why there is no SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The server gave no answer, or was not able to issue.
    ServerAway,
    /// The server says that this agent or this entry may not have it.
    Denied,
    /// What the server sent is not the SVID that was asked for.
    Faulty,
}

/// An X.509-SVID with its private key.
pub struct X509Material {
    svid: X509Svid,
    key_der: Zeroizing<Vec<u8>>,
    entry: Arc<Entry>,
    authority: CertificateDer<'static>,
    valid_until: Timestamp,
    deadline: Instant,
}

/// Asks the worker. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Svids {
    claims: mpsc::Sender<Claim>,
}

/// A claim on the SVID of one entry, until dropped.
#[derive(Debug)]
pub struct Subscription {
    entry_id: EntryId,
    states: watch::Receiver<SvidState>,
    released: Arc<Released>,
}

/// The worker is no more: the process is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("SVIDs are not made any more, the agent is stopping")]
pub struct Stopped;

/// Somebody wants the SVID of an entry.
#[derive(Debug)]
struct Claim {
    entry_id: EntryId,
    reply: oneshot::Sender<Subscription>,
}

/// Subscriptions that were dropped and not yet counted. As many as there were subscriptions at most.
#[derive(Debug, Default)]
struct Released {
    entries: Mutex<Vec<EntryId>>,
    wake: Notify,
}

/// Makes the worker and the handle to it. The worker is to be run ([`Worker::run`]) by the supervisor; its end is the
/// end of the process. `heard` says when the server was last heard, `None` while it is away; each time that it comes back,
/// what waits for its next attempt is asked for at once.
pub fn start(
    settings: SvidSettings,
    issuer: Arc<dyn Issuer>,
    views: watch::Receiver<Arc<View>>,
    heard: watch::Receiver<Option<Instant>>,
    clock: Arc<dyn Clock>,
    metrics: SvidMetrics,
) -> (Svids, Worker) {
    let (sender, claims) = mpsc::channel(INBOX);
    let server = Server { issuer, heard, views };
    (
        Svids { claims: sender },
        Worker::new(settings, server, clock, metrics, claims),
    )
}

// === impl Svids ===

impl Svids {
    /// Claims the SVID of an entry. It is made if nobody had claimed it before.
    ///
    /// # Errors
    /// The worker has ended.
    ///
    /// # Cancel safety
    /// Safe: a claim that is not received is given back.
    pub async fn subscribe(&self, entry_id: EntryId) -> Result<Subscription, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.claims.send(Claim { entry_id, reply }).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

// === impl Subscription ===

impl Subscription {
    /// Whose SVID it is.
    pub fn entry_id(&self) -> &EntryId {
        &self.entry_id
    }

    /// The present state, seen from now on.
    pub fn current(&mut self) -> SvidState {
        self.states.borrow_and_update().clone()
    }

    /// Whether the state is another than the one last seen. That the worker has ended is told by
    /// [`changed`](Self::changed) only.
    pub fn has_changed(&self) -> bool {
        self.states.has_changed().unwrap_or(false)
    }

    /// Waits until the state is another than the one last seen.
    ///
    /// # Errors
    /// The worker has ended.
    ///
    /// # Cancel safety
    /// Safe: a change that was not reported stays unseen.
    pub async fn changed(&mut self) -> Result<(), Stopped> {
        self.states.changed().await.map_err(|_| Stopped)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.released
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.entry_id.clone());
        self.released.wake.notify_one();
    }
}

impl Released {
    fn take(&self) -> Vec<EntryId> {
        std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl X509Material ===

impl X509Material {
    /// The certificates.
    pub fn svid(&self) -> &X509Svid {
        &self.svid
    }

    /// The entry that it was made for, as it was then.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// The authority of the own bundle that the chain leads to: one certificate, DER.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// Whether it may still be served, by both clocks.
    pub fn is_valid(&self, wall: Timestamp, now: Instant) -> bool {
        wall < self.valid_until && now < self.deadline
    }

    /// The private key, PKCS#8, DER, not encrypted (WAX-08): to be handed to the workload whose SVID this is, and to
    /// nobody else. The only way out.
    pub fn expose_for_workload(&self) -> &[u8] {
        &self.key_der
    }
}

impl fmt::Debug for X509Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Material")
            .field("spiffe_id", self.svid.spiffe_id())
            .field("serial", self.svid.serial())
            .field("valid_until", &self.valid_until)
            .finish_non_exhaustive()
    }
}
