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
//! connect again. Attestation can be costly (it may hash a program), so only so many run at a time, a quarter of them
//! for one user, and only so many of a user wait; beyond that callers are told to come again (WEP-25). Whoever makes its
//! own attestations slow waits behind itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use mayfly_model::Selector;
use mayfly_runtime::{CancellationToken, Chain, TaskSet};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::{ApiMetrics, ApiSettings};
use crate::attest::{Ancestor, AttestError, Attestors, PeerError, PeerProcess, Tracer};
use crate::quiet::Quiet;
pub(super) use crate::tasks::SelectorSet;

/// Selectors shown in one line of the log; a process may have thousands.
const SHOWN: usize = 40;

/// A process on the socket. A port, so that tests can have one that changes.
#[async_trait]
pub(super) trait Process: Send + Sync + 'static {
    fn pid(&self) -> u32;
    fn uid(&self) -> u32;
    /// In clock ticks since boot.
    fn start_time(&self) -> u64;
    /// The processes above it, nearest first; empty if that cannot be said for sure.
    fn ancestors(&self) -> Vec<Ancestor>;
    /// Who traces it or, with `descendants`, one of those below it.
    fn tracer(&self, descendants: bool) -> Option<Tracer>;
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
    pub(super) process: Box<dyn Process>,
    callers: Arc<Callers>,
    user: Arc<User>,
    standing: watch::Sender<Standing>,
    attested_at: Mutex<Option<Instant>>,
    /// One attestation of a caller at a time; who waited finds it done.
    turn: Semaphore,
    streams: AtomicUsize,
}

/// All callers that are connected, and what they share.
pub(super) struct Callers {
    settings: ApiSettings,
    metrics: ApiMetrics,
    slots: Semaphore,
    all: Mutex<Vec<Weak<Caller>>>,
    users: Mutex<HashMap<u32, Weak<User>>>,
    without_entry: Quiet,
    not_attested: Quiet,
}

/// What the callers of one user share.
struct User {
    /// Its part of the attestations at a time.
    share: Semaphore,
    waiting: AtomicUsize,
    streams: AtomicUsize,
    /// Its streams that ask for SVIDs at a time.
    claiming: Semaphore,
}

/// Streams of one user that ask for SVIDs at a time. One worker answers everybody, in order: a user with a thousand
/// streams has two before anybody else's, not all of them.
const CLAIMING: usize = 2;

/// One open stream of a caller, until dropped.
pub(super) struct StreamSlot {
    caller: Arc<Caller>,
}

/// One reason besides streams to look after a caller, until dropped.
pub(super) struct LookedAfter {
    caller: Arc<Caller>,
}

/// One attestation that waits for its turn, until dropped.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

// === impl LocalProcess ===

#[async_trait]
impl Process for LocalProcess {
    fn pid(&self) -> u32 {
        self.peer.pid()
    }

    fn uid(&self) -> u32 {
        self.peer.uid()
    }

    fn start_time(&self) -> u64 {
        self.peer.start_time()
    }

    fn ancestors(&self) -> Vec<Ancestor> {
        self.peer.ancestors()
    }

    fn tracer(&self, descendants: bool) -> Option<Tracer> {
        self.peer.tracer(descendants)
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

    /// Waits for the turn of one of its user's streams to ask for SVIDs.
    pub(super) async fn claiming(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so always granted.
        self.user.claiming.acquire().await.ok()
    }

    /// Returns when it is known that the process is not any more who connected; it may live on as another.
    pub(super) async fn over(&self) {
        let mut standing = self.standing();
        // It has ended as soon as its sender, which is here.
        drop(standing.wait_for(|standing| matches!(standing, Standing::Over)).await);
    }

    /// Returns when the process has ended.
    pub(super) async fn exited(&self) {
        self.process.exited().await;
    }

    /// Whether it is still who connected; a few system calls.
    pub(super) fn ensure_unchanged(&self) -> Result<(), CallerError> {
        if let Standing::Over = *self.standing.borrow() {
            return Err(CallerError::Over);
        }
        self.process.ensure_unchanged().map_err(|error| self.note(error.into()))
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
        let _slot = self.callers.slot(&self.user).await?;
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
                let mut over = false;
                self.standing.send_if_modified(|standing| {
                    // A sweep may have seen what is over by now and over for good.
                    over = matches!(standing, Standing::Over);
                    let same = matches!(&*standing, Standing::Known(old) if *old == selectors);
                    if !over {
                        *standing = Standing::Known(Arc::clone(&selectors));
                    }
                    !over && !same
                });
                if over { Err(CallerError::Over) } else { Ok(selectors) }
            }
            Err(error) => Err(self.note(error)),
        }
    }

    /// Has the sweep look after it, also without a stream.
    pub(super) fn look_after(self: &Arc<Self>) -> LookedAfter {
        self.streams.fetch_add(1, Ordering::Relaxed);
        LookedAfter {
            caller: Arc::clone(self),
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
        self.callers.not_attested.about(pid, self.uid(), |left_out| {
            warn!(peer_pid = pid, error = %Chain(&error), left_out, "caller could not be attested");
        });
        let mut over = false;
        self.standing.send_if_modified(|standing| {
            // A sweep may have seen what is over by now and over for good.
            over = matches!(standing, Standing::Over);
            if !over {
                *standing = Standing::Unclear;
            }
            !over
        });
        if over {
            CallerError::Over
        } else {
            CallerError::Attest(error)
        }
    }

    pub(super) fn attested_at(&self) -> Option<Instant> {
        *lock(&self.attested_at)
    }

    /// Writes down that no entry matches it, for whoever looks for the reason.
    pub(super) fn log_without_entry(&self, selectors: &SelectorSet) {
        let (peer_pid, peer_uid, count) = (self.pid(), self.uid(), selectors.len());
        self.callers.without_entry.about(peer_pid, peer_uid, |left_out| {
            let selectors: Vec<String> = selectors.iter().take(SHOWN).map(Selector::to_string).collect();
            info!(
                peer_pid,
                peer_uid,
                count,
                ?selectors,
                left_out,
                "no entry matches the caller"
            );
        });
    }
}

// === impl Callers ===

impl Callers {
    pub(super) fn new(settings: ApiSettings, metrics: ApiMetrics) -> Arc<Self> {
        Arc::new(Self {
            slots: Semaphore::new(settings.attestations_at_a_time.max(1)),
            settings,
            metrics,
            all: Mutex::default(),
            users: Mutex::default(),
            without_entry: Quiet::default(),
            not_attested: Quiet::default(),
        })
    }

    /// A caller on a new connection.
    pub(super) fn admit(self: &Arc<Self>, process: Box<dyn Process>) -> Arc<Caller> {
        let caller = Arc::new(Caller {
            user: self.user(process.uid()),
            process,
            callers: Arc::clone(self),
            standing: watch::Sender::new(Standing::Unknown),
            attested_at: Mutex::new(None),
            turn: Semaphore::new(1),
            streams: AtomicUsize::new(0),
        });
        lock(&self.all).push(Arc::downgrade(&caller));
        caller
    }

    fn user(&self, uid: u32) -> Arc<User> {
        let mut users = lock(&self.users);
        if let Some(user) = users.get(&uid).and_then(Weak::upgrade) {
            return user;
        }
        let user = Arc::new(User {
            share: Semaphore::new(self.settings.attestations_at_a_time.div_ceil(4).max(1)),
            waiting: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            claiming: Semaphore::new(CLAIMING),
        });
        users.insert(uid, Arc::downgrade(&user));
        user
    }

    /// Counts one more stream; `None` if the user has as many as it may.
    pub(super) fn open_stream(&self, caller: &Arc<Caller>) -> Option<StreamSlot> {
        let one_more = |count| (count < self.settings.streams_per_uid).then_some(count + 1);
        let streams = &caller.user.streams;
        streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        caller.streams.fetch_add(1, Ordering::Relaxed);
        Some(StreamSlot {
            caller: Arc::clone(caller),
        })
    }

    /// Waits for the turn of one of the user's callers.
    async fn slot<'a>(&'a self, user: &'a User) -> Result<[SemaphorePermit<'a>; 2], CallerError> {
        if let (Ok(share), Ok(slot)) = (user.share.try_acquire(), self.slots.try_acquire()) {
            return Ok([share, slot]);
        }
        let waiting = Waiting::one_more(&user.waiting);
        if waiting.before >= self.settings.attestations_waiting {
            return Err(CallerError::Busy);
        }
        // Never closed, so always granted. In this order, so that a user without a share takes no slot.
        let share = user.share.acquire().await.map_err(|_| CallerError::Busy)?;
        let slot = self.slots.acquire().await.map_err(|_| CallerError::Busy)?;
        Ok([share, slot])
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
        // Users that left must not stay in the map for ever.
        lock(&self.users).retain(|_, user| user.strong_count() > 0);
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
        self.caller.user.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for LookedAfter {
    fn drop(&mut self) {
        self.caller.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'a> Waiting<'a> {
    fn one_more(count: &'a AtomicUsize) -> Self {
        Self {
            count,
            before: count.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
