//! Who calls: one [`Caller`] per connection, what its attestation says, and the sweep that notices when it changes.
//!
//! ```text
//!  connection ──▶ Caller ──attest──▶ Standing ──watch──▶ its streams
//!                   ▲
//!  sweep ───────────┘  every 0.5 s: same process as at the start? (some system calls)
//!                      every 30 s:  attested in full
//! ```
//!
//! A process that is not any more who connected (another program, other users or groups) is over for good: it has to
//! connect again. Attestation can be costly (it may hash a program), so only so many run at a time, and only so many
//! wait; beyond that callers are told to come again (WEP-25).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use mayfly_model::Selector;
use mayfly_runtime::{CancellationToken, Chain, TaskSet};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::{ApiMetrics, ApiSettings};
use crate::attest::{AttestError, Attestors, PeerError, PeerProcess};

/// How long a look at whether a process is the same counts.
const SEEN: Duration = Duration::from_millis(10);

/// The selectors of a process.
pub(super) type SelectorSet = Arc<BTreeSet<Selector>>;

/// A process on the socket. A port, so that tests can have one that changes.
#[async_trait]
pub(super) trait Process: Send + Sync + 'static {
    fn pid(&self) -> u32;
    fn uid(&self) -> u32;
    /// Cheap: whether it is still who connected.
    fn ensure_unchanged(&self) -> Result<(), PeerError>;
    /// Returns when it has ended.
    async fn exited(&self);
    /// Describes it.
    async fn attest(&self) -> Result<BTreeSet<Selector>, AttestError>;
}

/// The real thing.
pub(super) struct LocalProcess {
    pub(super) peer: PeerProcess,
    pub(super) attestors: Arc<Attestors>,
}

/// What is known of a caller.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Not attested yet.
    Unknown,
    /// These hold of it.
    Known(SelectorSet),
    /// It could not be attested this time.
    Unclear,
    /// The process ended, or is another than the one that connected.
    Over,
}

/// Why a caller's selectors are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallerError {
    #[error("the calling process ended or changed; it has to connect again")]
    Over,
    #[error("too many callers are being attested")]
    Busy,
    #[error("the calling process could not be attested")]
    Attest(#[source] AttestError),
}

/// The process on one connection.
pub(super) struct Caller {
    process: Box<dyn Process>,
    callers: Arc<Callers>,
    standing: watch::Sender<Standing>,
    attested_at: Mutex<Option<Instant>>,
    seen_at: Mutex<Option<Instant>>,
    /// One attestation of a caller at a time; who waited finds it done.
    turn: Semaphore,
    streams: AtomicUsize,
}

/// All callers that are connected, and what they share.
pub(super) struct Callers {
    settings: ApiSettings,
    metrics: ApiMetrics,
    slots: Semaphore,
    waiting: AtomicUsize,
    all: Mutex<Vec<Weak<Caller>>>,
    streams_of_uid: Mutex<HashMap<u32, usize>>,
}

/// One open stream of a caller, until dropped.
pub(super) struct StreamSlot {
    caller: Arc<Caller>,
}

/// One attestation that waits for a slot, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

// === impl LocalProcess ===

#[async_trait]
impl Process for LocalProcess {
    fn pid(&self) -> u32 {
        self.peer.pid()
    }

    fn uid(&self) -> u32 {
        self.peer.uid()
    }

    fn ensure_unchanged(&self) -> Result<(), PeerError> {
        self.peer.ensure_unchanged()
    }

    async fn exited(&self) {
        self.peer.exited().await;
    }

    async fn attest(&self) -> Result<BTreeSet<Selector>, AttestError> {
        self.attestors.attest(&self.peer).await
    }
}

// === impl Caller ===

impl Caller {
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn uid(&self) -> u32 {
        self.process.uid()
    }

    /// Follows what is known of it.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Returns when the process has ended.
    pub(super) async fn exited(&self) {
        self.process.exited().await;
    }

    /// Whether it is still who connected; a few system calls. Streams that are told the same thing at the same time
    /// share one look.
    pub(super) fn ensure_unchanged(&self) -> Result<(), CallerError> {
        if let Standing::Over = *self.standing.borrow() {
            return Err(CallerError::Over);
        }
        let mut seen_at = lock(&self.seen_at);
        if seen_at.is_some_and(|at| at.elapsed() < SEEN) {
            return Ok(());
        }
        match self.process.ensure_unchanged() {
            Ok(()) => {
                *seen_at = Some(Instant::now());
                Ok(())
            }
            Err(error) => Err(self.note(error.into())),
        }
    }

    /// Its selectors, from an attestation that is no older than `max_age`.
    ///
    /// # Cancel safety
    /// Safe: an attestation that is not waited for is dropped.
    pub(super) async fn attest(&self, max_age: Duration) -> Result<SelectorSet, CallerError> {
        // Never closed, so always granted.
        let _turn = self.turn.acquire().await;
        if let Standing::Over = *self.standing.borrow() {
            return Err(CallerError::Over);
        }
        if self.attested_at().is_some_and(|at| at.elapsed() <= max_age)
            && let Standing::Known(selectors) = &*self.standing.borrow()
        {
            return Ok(Arc::clone(selectors));
        }
        let _slot = self.callers.slot().await?;
        let begun = Instant::now();
        let result = self.process.attest().await;
        self.callers
            .metrics
            .attestation_seconds
            .observe(begun.elapsed().as_secs_f64());
        match result {
            Ok(selectors) => {
                *lock(&self.attested_at) = Some(begun);
                let selectors = Arc::new(selectors);
                self.standing.send_if_modified(|standing| {
                    let same = matches!(&*standing, Standing::Known(old) if *old == selectors);
                    *standing = Standing::Known(Arc::clone(&selectors));
                    !same
                });
                Ok(selectors)
            }
            Err(error) => Err(self.note(error)),
        }
    }

    /// Publishes that it could not be attested.
    fn note(&self, error: AttestError) -> CallerError {
        let pid = self.pid();
        let over = matches!(
            &error,
            AttestError::Peer {
                source: PeerError::Exited { .. } | PeerError::Changed { .. }
            }
        );
        if over {
            debug!(peer_pid = pid, error = %Chain(&error), "caller is not any more who connected");
            self.standing.send_replace(Standing::Over);
            return CallerError::Over;
        }
        warn!(peer_pid = pid, error = %Chain(&error), "caller could not be attested");
        self.standing.send_replace(Standing::Unclear);
        CallerError::Attest(error)
    }

    fn attested_at(&self) -> Option<Instant> {
        *lock(&self.attested_at)
    }
}

// === impl Callers ===

impl Callers {
    pub(super) fn new(settings: ApiSettings, metrics: ApiMetrics) -> Arc<Self> {
        Arc::new(Self {
            slots: Semaphore::new(settings.attestations_at_a_time.max(1)),
            settings,
            metrics,
            waiting: AtomicUsize::new(0),
            all: Mutex::default(),
            streams_of_uid: Mutex::default(),
        })
    }

    /// A caller on a new connection.
    pub(super) fn admit(self: &Arc<Self>, process: Box<dyn Process>) -> Arc<Caller> {
        let caller = Arc::new(Caller {
            process,
            callers: Arc::clone(self),
            standing: watch::Sender::new(Standing::Unknown),
            attested_at: Mutex::new(None),
            seen_at: Mutex::new(None),
            turn: Semaphore::new(1),
            streams: AtomicUsize::new(0),
        });
        lock(&self.all).push(Arc::downgrade(&caller));
        caller
    }

    /// Counts one more stream; `None` if the user has as many as it may.
    pub(super) fn open_stream(&self, caller: &Arc<Caller>) -> Option<StreamSlot> {
        let mut streams = lock(&self.streams_of_uid);
        let count = streams.entry(caller.uid()).or_insert(0);
        if *count >= self.settings.streams_per_uid {
            return None;
        }
        *count += 1;
        caller.streams.fetch_add(1, Ordering::Relaxed);
        Some(StreamSlot {
            caller: Arc::clone(caller),
        })
    }

    async fn slot(&self) -> Result<tokio::sync::SemaphorePermit<'_>, CallerError> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Ok(slot);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.settings.attestations_waiting {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(CallerError::Busy);
        }
        let _waiting = Waiting(&self.waiting);
        self.slots.acquire().await.map_err(|_| CallerError::Busy)
    }

    /// Looks after all callers that have streams, until `stop`.
    pub(super) async fn sweep(self: &Arc<Self>, stop: CancellationToken) {
        let mut tick = interval(self.settings.sweep_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let tasks = TaskSet::new("reattest", 256);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            for (index, caller) in self.with_streams().into_iter().enumerate() {
                if index % 8 == 7 {
                    tokio::task::yield_now().await;
                }
                // Published, so its streams know.
                if caller.ensure_unchanged().is_err() {
                    continue;
                }
                let due = caller
                    .attested_at()
                    .is_none_or(|at| at.elapsed() >= self.settings.reattest_interval);
                if due && caller.turn.available_permits() > 0 {
                    // If there are too many already, the next sweep comes soon.
                    let _ = tasks.spawn(async move {
                        // What comes of it is published.
                        let _ = caller.attest(Duration::ZERO).await;
                    });
                }
            }
        }
        tasks.shutdown(Duration::ZERO).await;
    }

    fn with_streams(&self) -> Vec<Arc<Caller>> {
        let mut found = vec![];
        lock(&self.all).retain(|caller| match caller.upgrade() {
            Some(caller) => {
                if caller.streams.load(Ordering::Relaxed) > 0 {
                    found.push(caller);
                }
                true
            }
            None => false,
        });
        found
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.caller.streams.fetch_sub(1, Ordering::Relaxed);
        let mut streams = lock(&self.caller.callers.streams_of_uid);
        if let Some(count) = streams.get_mut(&self.caller.uid()) {
            *count -= 1;
            // Users that left must not stay in the map for ever.
            if *count == 0 {
                streams.remove(&self.caller.uid());
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
