//! Tasks with a name, an owner and an end; signals and the orderly stop.
//!
//! ```text
//!   first SIGTERM/SIGINT, `stop()`, or the end of a task that must not end
//!        │
//!        ▼
//!   stop token cancelled ── tasks stop accepting, drain, return ──▶ all returned: done
//!        │                                                          drain time over: the rest is aborted
//!        └── second signal: exit at once
//! ```
//!
//! A long-lived task is started by [`Supervisor::spawn`] or [`Supervisor::spawn_once`]; short ones that come with
//! connections or requests go into a bounded [`TaskSet`]. A panic is an error like any other.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use crate::backoff::BackoffPolicy;
use crate::telemetry::Chain;

const RESTART: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(200), Duration::from_secs(30));
/// A task that lived this long is taken as healthy: its next restart starts again with a short pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// Bound of [`Supervisor::spawn_detached`].
const MAX_DETACHED: u32 = 65_536;

/// What happens when a task ends although nobody asked it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// The process stops in order and reports the failure. Ending with `Ok` is a failure as well: it was to run on.
    StopProcess,
    /// After an error or a panic it is started again, with jittered backoff. Ending with `Ok` means it is done.
    Restart,
}

/// Owner of the long-lived tasks. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

/// Short-lived tasks, at most so many at a time. Clones are handles of the same set.
#[derive(Debug, Clone)]
pub struct TaskSet {
    name: &'static str,
    limit: u32,
    slots: Arc<Semaphore>,
    abort: CancellationToken,
}

/// The set is full, or has been shut down; the task was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("task set `{name}` is full (limit {limit}) or closed")]
pub struct TaskSetFull {
    /// Name of the set.
    pub name: &'static str,
    /// Its bound.
    pub limit: u32,
}

/// Why a supervised process did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// A task that must run until the stop failed.
    #[error("task `{name}` failed")]
    TaskFailed {
        /// Name of the task.
        name: &'static str,
        /// Its error.
        source: anyhow::Error,
    },
    /// A task that must run until the stop returned.
    #[error("task `{name}` ended before it was asked to")]
    TaskEnded {
        /// Name of the task.
        name: &'static str,
    },
    /// Some tasks did not end in the time that the stop allows; they were aborted.
    #[error("still running when the time to stop was over: {}", names.join(", "))]
    StopTimedOut {
        /// Names of the tasks.
        names: Vec<&'static str>,
    },
    /// The signal handlers could not be installed.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
}

#[derive(Debug)]
struct Shared {
    stop: CancellationToken,
    next_id: AtomicU64,
    running: watch::Sender<BTreeMap<u64, Running>>,
    failure: Mutex<Option<SupervisorError>>,
    detached: TaskSet,
}

struct Running {
    name: &'static str,
    abort: Option<AbortHandle>,
}

/// Waits for SIGTERM or SIGINT until the process is told to stop, then stops it. See [`Supervisor::run_until_signal`].
pub async fn run_until_signal(supervisor: Supervisor, drain: Duration) -> Result<(), SupervisorError> {
    supervisor.run_until_signal(drain).await
}

// === impl Supervisor ===

impl Supervisor {
    /// Without tasks.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                stop: CancellationToken::new(),
                next_id: AtomicU64::new(0),
                running: watch::Sender::new(BTreeMap::new()),
                failure: Mutex::new(None),
                detached: TaskSet::new("detached", MAX_DETACHED),
            }),
        }
    }

    /// Cancelled as soon as the process is to stop.
    pub fn stop_token(&self) -> CancellationToken {
        self.shared.stop.clone()
    }

    /// Asks the process to stop, as the first signal would.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Names of the tasks that run, oldest first.
    pub fn running(&self) -> Vec<&'static str> {
        self.shared.running.borrow().values().map(|task| task.name).collect()
    }

    /// Starts a long-lived task. `task` is called once per (re)start with a token that is cancelled at the stop; the
    /// future should then return soon.
    ///
    /// A closure that gives away what it captured cannot be called twice: clone inside (`move |stop| { let x =
    /// x.clone(); async move { … } }`), or use [`Supervisor::spawn_once`].
    pub fn spawn<F, Fut>(&self, name: &'static str, on_exit: OnExit, mut task: F)
    where
        F: FnMut(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let supervisor = self.clone();
        self.start(name, async move {
            let stop = supervisor.shared.stop.clone();
            let mut backoff = RESTART.start();
            loop {
                let started = Instant::now();
                // The call itself is inside the caught part: it is the task's code as well.
                let result = caught(async { task(stop.clone()).await }).await;
                if stop.is_cancelled() || on_exit == OnExit::StopProcess {
                    supervisor.ended(name, result);
                    return;
                }
                let Err(error) = result else {
                    info!("task is done");
                    return;
                };
                if started.elapsed() >= HEALTHY_AFTER {
                    backoff.reset();
                }
                let pause = backoff.next_delay();
                warn!(error = %Chain::of(&error), pause_ms = pause.as_millis(), "task failed and will be restarted");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    /// Starts a long-lived task that cannot be restarted: its end stops the process ([`OnExit::StopProcess`]).
    pub fn spawn_once<F, Fut>(&self, name: &'static str, task: F)
    where
        F: FnOnce(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let supervisor = self.clone();
        self.start(name, async move {
            let stop = supervisor.shared.stop.clone();
            let result = caught(async { task(stop).await }).await;
            supervisor.ended(name, result);
        });
    }

    /// Starts a short task that nobody waits for. A panic in it is logged.
    ///
    /// # Errors
    /// 65,536 of them are running, or the process is stopping.
    pub fn spawn_detached<Fut>(&self, name: &'static str, task: Fut) -> Result<(), TaskSetFull>
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.shared.detached.spawn_named(name, task)
    }

    /// Runs until a signal, [`Supervisor::stop`], or the failure of a task; then stops, with `drain` for the tasks to
    /// end. A second signal exits the process at once, with status 128 + signal number.
    ///
    /// # Errors
    /// A task failed (the first one is reported), or some did not end in time.
    pub async fn run_until_signal(&self, drain: Duration) -> Result<(), SupervisorError> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(SupervisorError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(SupervisorError::Signals)?;
        let next = async || {
            tokio::select! {
                _ = terminate.recv() => 15,
                _ = interrupt.recv() => 2,
            }
        };
        self.run_until(next, drain, |signal| {
            warn!(signal, "second signal: leaving at once");
            std::process::exit(128 + signal)
        })
        .await
    }

    async fn run_until<S, E>(&self, mut next_signal: S, drain: Duration, exit_now: E) -> Result<(), SupervisorError>
    where
        S: AsyncFnMut() -> i32,
        E: FnOnce(i32),
    {
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            signal = next_signal() => info!(signal, "signal received, stopping"),
        }
        let shutdown = self.shutdown(drain);
        tokio::pin!(shutdown);
        tokio::select! {
            result = &mut shutdown => return result,
            signal = next_signal() => exit_now(signal),
        }
        shutdown.await
    }

    /// Stops: cancels the token, waits up to `drain` for the tasks, aborts the rest.
    ///
    /// # Errors
    /// A task failed before or during the stop (the first one is reported), or some did not end in time.
    ///
    /// # Cancel safety
    /// If dropped, the stop goes on but nobody aborts the stragglers; it can be called again.
    pub async fn shutdown(&self, drain: Duration) -> Result<(), SupervisorError> {
        self.shared.stop.cancel();
        let deadline = Instant::now() + drain;
        let mut running = self.shared.running.subscribe();
        let all_ended = tokio::time::timeout_at(deadline, running.wait_for(BTreeMap::is_empty))
            .await
            .is_ok();
        let late = self.abort_rest();
        self.shared
            .detached
            .shutdown(deadline.saturating_duration_since(Instant::now()))
            .await;
        if let Some(failure) = self.failure_slot().take() {
            return Err(failure);
        }
        if all_ended {
            Ok(())
        } else {
            Err(SupervisorError::StopTimedOut { names: late })
        }
    }

    fn abort_rest(&self) -> Vec<&'static str> {
        let running = self.shared.running.borrow();
        for task in running.values() {
            warn!(task = task.name, "task did not end in time and is aborted");
            if let Some(abort) = &task.abort {
                abort.abort();
            }
        }
        running.values().map(|task| task.name).collect()
    }

    fn start(&self, name: &'static str, run: impl Future<Output = ()> + Send + 'static) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.shared.running.send_modify(|running| {
            running.insert(id, Running { name, abort: None });
        });
        let registered = Registered {
            shared: Arc::clone(&self.shared),
            id,
        };
        let run = async move {
            let _registered = registered;
            run.await;
        };
        let abort = spawn(run.instrument(info_span!("task", name))).abort_handle();
        self.shared.running.send_modify(|running| {
            // It may have ended already.
            if let Some(task) = running.get_mut(&id) {
                task.abort = Some(abort);
            }
        });
    }

    fn ended(&self, name: &'static str, result: anyhow::Result<()>) {
        let asked = self.shared.stop.is_cancelled();
        let failure = match result {
            Ok(()) if asked => return,
            Ok(()) => SupervisorError::TaskEnded { name },
            Err(source) => SupervisorError::TaskFailed { name, source },
        };
        error!(error = %Chain(&failure), "task ended, stopping the process");
        self.failure_slot().get_or_insert(failure);
        self.shared.stop.cancel();
    }

    fn failure_slot(&self) -> std::sync::MutexGuard<'_, Option<SupervisorError>> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

// === impl TaskSet ===

impl TaskSet {
    /// An empty set for at most `limit` tasks at a time. `name` goes into each task's span.
    pub fn new(name: &'static str, limit: u32) -> Self {
        let slots = Arc::new(Semaphore::new(usize::try_from(limit).unwrap_or(Semaphore::MAX_PERMITS)));
        Self {
            name,
            limit,
            slots,
            abort: CancellationToken::new(),
        }
    }

    /// Starts a task now.
    ///
    /// # Errors
    /// The set is full or shut down; `task` is dropped without having been polled.
    pub fn spawn<Fut>(&self, task: Fut) -> Result<(), TaskSetFull>
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.spawn_named(self.name, task)
    }

    /// Tasks that run at this moment.
    pub fn len(&self) -> usize {
        (self.limit as usize).saturating_sub(self.slots.available_permits())
    }

    /// True if no task runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes no more tasks, waits up to `drain` for those that run, then drops the rest at their next await.
    /// Returns how many were dropped.
    ///
    /// # Cancel safety
    /// If dropped, it can be called again.
    pub async fn shutdown(&self, drain: Duration) -> usize {
        // Whoever holds all slots knows that no task runs.
        let empty = tokio::time::timeout(drain, self.slots.acquire_many(self.limit)).await;
        let rest = if empty.is_ok() { 0 } else { self.len() };
        self.slots.close();
        self.abort.cancel();
        rest
    }

    /// Drops the tasks when the returned guard is dropped, for owners that may be dropped themselves.
    pub(crate) fn abort_on_drop(&self) -> tokio_util::sync::DropGuard {
        self.abort.clone().drop_guard()
    }

    fn spawn_named<Fut>(&self, name: &'static str, task: Fut) -> Result<(), TaskSetFull>
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let full = TaskSetFull {
            name: self.name,
            limit: self.limit,
        };
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| full)?;
        let abort = self.abort.clone();
        // Each async block below would otherwise reserve the size of the task once more.
        let task = Box::pin(task);
        let run = async move {
            let _slot = slot;
            let task = caught(async move {
                task.await;
                Ok(())
            });
            tokio::select! {
                () = abort.cancelled() => {}
                result = task => if let Err(error) = result {
                    error!(error = %Chain::of(&error), "task failed");
                },
            }
        };
        spawn(run.instrument(info_span!("task", name)));
        Ok(())
    }
}

// === helpers ===

/// Takes the task off the list however it ends, by abort as well.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.running.send_modify(|running| {
            running.remove(&self.id);
        });
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Runs `task`; a panic becomes an error with its message.
async fn caught(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // What a panicking task leaves behind is its own: locks are poisoned or not held over `.await`.
    AssertUnwindSafe(task).catch_unwind().await.unwrap_or_else(|panic| {
        let message = (panic.downcast_ref::<&str>().copied())
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no message)");
        Err(anyhow::anyhow!("panicked: {message}"))
    })
}

#[expect(clippy::disallowed_methods, reason = "the supervisor is who may spawn")]
pub(crate) fn spawn<Fut>(task: Fut) -> tokio::task::JoinHandle<Fut::Output>
where
    Fut: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(task)
}

#[cfg(test)]
mod tests;
