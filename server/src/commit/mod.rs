//! The one write path: every change of the durable state goes through the [`Committer`].
//!
//! ```text
//!   caller ── Step ──▶ queue ──▶ one thread: collect what has arrived
//!                                  │  and the records that were set aside
//!                                  └▶ Store::commit: one transaction, guards, state, log, revision, fsync
//!                                  └▶ apply the deltas to a copy of the snapshot and publish it
//!                                  └▶ tell the observer (watch hub), then answer the callers
//! ```
//!
//! What is answered is durable; what is durable is in memory before anyone hears of it. Group commit needs no timer: while
//! one transaction waits for the disk, the next batch gathers in the queue.
//!
//! Not here: SQL (`mayfly-store`), what a change means (`mayfly-model`), who may ask for it (`api`, `app`).

mod snapshot;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use arc_swap::ArcSwap;
use mayfly_model::task::TaskRefusal;
use mayfly_model::{Conflict, Delta, ErrorKind, Revision, Step};
use mayfly_store::{ChangeRow, Store, StoreError};
use mayfly_svid::TrustDomain;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

pub use snapshot::Snapshot;
pub(crate) use snapshot::agents_of;

/// Steps that wait for the committer; further callers wait for room.
const QUEUE: usize = 1024;
/// One transaction takes at most about this many steps, so that no caller waits for an endless batch.
const BATCH: usize = 512;
/// Records that are set aside for the next transaction; more than that come together only when it does not end.
const ASIDE: usize = 4096;

/// Why a change did not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Its guard did not hold.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The store could not make it durable. Nothing of the batch happened.
    #[error("the change could not be stored: {}", .0.remedy())]
    Store(#[source] Arc<StoreError>),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopped,
}

impl CommitError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Conflict(conflict) => conflict_kind(conflict),
            Self::Store(_) | Self::Stopped => ErrorKind::Unavailable,
        }
    }
}

fn conflict_kind(conflict: &Conflict) -> ErrorKind {
    match conflict {
        Conflict::EntryExists(_)
        | Conflict::TokenExists
        | Conflict::BundleExists
        | Conflict::TaskExists(_)
        | Conflict::DefinitionUnchanged => ErrorKind::AlreadyExists,
        Conflict::EntryNotFound
        | Conflict::AgentNotFound
        | Conflict::BundleNotFound
        | Conflict::TaskNotFound
        | Conflict::DefinitionNotFound(_)
        | Conflict::ProposalNotPending(_) => ErrorKind::NotFound,
        Conflict::PolicyChanged => ErrorKind::Aborted,
        Conflict::OwnProposal => ErrorKind::PermissionDenied,
        Conflict::Task(refusal) => refusal_kind(refusal),
        Conflict::TooManyWindows { .. } => ErrorKind::ResourceExhausted,
        Conflict::DefinitionChanged(_) | Conflict::NotSettled(_) | Conflict::ReviewDue(_) | Conflict::KeyReused => {
            ErrorKind::FailedPrecondition
        }
        Conflict::ExceptionExists(_) => ErrorKind::AlreadyExists,
        Conflict::ExceptionNotFound => ErrorKind::NotFound,
        Conflict::ExceptionOver | Conflict::ExceptionNotDue | Conflict::EntryExcepted(_) => {
            ErrorKind::FailedPrecondition
        }
        Conflict::NothingToErase => ErrorKind::NotFound,
        Conflict::EntryInvalid(_) | Conflict::FederatedBundleNotFound(_) => ErrorKind::InvalidArgument,
        Conflict::AgentBanned | Conflict::SerialNotInUse => ErrorKind::PermissionDenied,
        // SPIRE answers a used token with InvalidArgument, and its agents expect that.
        Conflict::TokenUnusable => ErrorKind::InvalidArgument,
        Conflict::BundleInUse(_) | Conflict::SerialNotRenewed | Conflict::AuthorityState(_) => {
            ErrorKind::FailedPrecondition
        }
        _ => ErrorKind::Internal,
    }
}

fn refusal_kind(refusal: &TaskRefusal) -> ErrorKind {
    match refusal {
        TaskRefusal::SelfApproval(_)
        | TaskRefusal::NotAnApprover(_)
        | TaskRefusal::OtherInstance
        | TaskRefusal::Refused => ErrorKind::PermissionDenied,
        TaskRefusal::NoSuchWindow(_) | TaskRefusal::NoSuchSvid(_) => ErrorKind::NotFound,
        _ => ErrorKind::FailedPrecondition,
    }
}

/// What one durable commit did, for those who follow along.
#[derive(Debug)]
pub struct Applied {
    /// The state before it.
    pub before: Arc<Snapshot>,
    /// The state after it.
    pub after: Arc<Snapshot>,
    /// What changed, in order.
    pub deltas: Vec<Delta>,
    /// The state was read anew from the store: what changed is not known, so everyone has to look again.
    pub reloaded: bool,
}

/// Called on the committer's thread after each commit, before callers hear of it. Must be quick
/// and must not block: it marks who has to look again.
pub type Observer = Box<dyn Fn(&Applied) + Send>;

/// The answer to one step: what it did, or the guard that stopped it.
pub type StepResult = Result<Vec<Delta>, CommitError>;

/// What a step did, and where the log says so.
#[derive(Clone, Debug)]
pub struct Done {
    /// What changed, in order.
    pub deltas: Vec<Delta>,
    /// The index of its last entry, if it left any.
    pub log_index: Option<u64>,
}

struct Job {
    steps: Vec<Step>,
    reply: oneshot::Sender<Vec<Result<Done, CommitError>>>,
}

/// The handle that callers have. Cloning is cheap; the thread ends when the last handle is gone.
#[derive(Clone)]
pub struct Committer {
    queue: mpsc::Sender<Job>,
    aside: Arc<Aside>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    healthy: watch::Receiver<bool>,
    revision: watch::Receiver<Revision>,
}

/// What the store held at start, besides the snapshot.
pub struct Recovered {
    /// The change history, oldest first.
    pub changes: Vec<ChangeRow>,
}

impl Committer {
    /// Loads the state and starts the committing thread.
    ///
    /// # Errors
    /// The store cannot be read, or the thread cannot be started.
    pub fn start(
        mut store: Box<dyn Store>,
        trust_domain: &TrustDomain,
        observer: impl FnOnce(&Recovered, &Snapshot) -> Observer,
    ) -> Result<Self, StartError> {
        let mut state = store.load().map_err(StartError::Load)?;
        let recovered = Recovered {
            changes: std::mem::take(&mut state.changes),
        };
        let loaded = Snapshot::load(trust_domain.clone(), state);
        info!(revision = %loaded.revision(), entries = loaded.entry_count(), agents = loaded.agent_count(), "state loaded");
        let observer = observer(&recovered, &loaded);
        let snapshot = Arc::new(ArcSwap::from_pointee(loaded));
        let (queue, jobs) = mpsc::channel(QUEUE);
        let aside = Arc::new(Aside::default());
        let (health, healthy) = watch::channel(true);
        let (advance, revision) = watch::channel(snapshot.load().revision());
        let mut writer = Writer {
            store,
            jobs,
            aside: aside.clone(),
            snapshot: snapshot.clone(),
            observer,
            health,
            advance,
        };
        thread::Builder::new()
            .name("commit".into())
            .spawn(move || writer.run())
            .map_err(StartError::Thread)?;
        Ok(Self {
            queue,
            aside,
            snapshot,
            healthy,
            revision,
        })
    }

    /// The state as of the newest commit. Cheap; take it once per request so that the request sees one state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Whether the last commit reached the disk. A server that cannot write is alive, but not ready.
    pub fn healthy(&self) -> watch::Receiver<bool> {
        self.healthy.clone()
    }

    /// Changes with each commit: wakes those who follow the snapshot.
    pub fn revision(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    /// Makes one change durable.
    ///
    /// # Errors
    /// Its guard did not hold, or it could not be stored; in both cases nothing happened.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the change: it may still be committed.
    pub async fn commit(&self, step: Step) -> StepResult {
        self.commit_all(vec![step])
            .await
            .pop()
            .unwrap_or(Err(CommitError::Stopped))
    }

    /// Makes changes durable together; each stands or falls by its own guard. The answers are in the order of the steps.
    ///
    /// # Cancel safety
    /// As for [`Self::commit`].
    pub async fn commit_all(&self, steps: Vec<Step>) -> Vec<StepResult> {
        let done = self.commit_done(steps).await;
        done.into_iter().map(|result| result.map(|done| done.deltas)).collect()
    }

    /// As [`Self::commit`], and answers where the log says so.
    ///
    /// # Errors
    /// As for [`Self::commit`].
    pub async fn commit_logged(&self, step: Step) -> Result<Done, CommitError> {
        self.commit_done(vec![step])
            .await
            .pop()
            .unwrap_or(Err(CommitError::Stopped))
    }

    async fn commit_done(&self, steps: Vec<Step>) -> Vec<Result<Done, CommitError>> {
        if steps.is_empty() {
            return vec![];
        }
        self.hand_over(steps).await
    }

    async fn hand_over(&self, steps: Vec<Step>) -> Vec<Result<Done, CommitError>> {
        let count = steps.len();
        let (reply, answer) = oneshot::channel();
        let stopped = || (0..count).map(|_| Err(CommitError::Stopped)).collect();
        if self.queue.send(Job { steps, reply }).await.is_err() {
            return stopped();
        }
        answer.await.unwrap_or_else(|_| stopped())
    }

    /// Waits until all that was handed over before is durable or refused, what was set aside too: for the end of the
    /// process, as nobody waits for that.
    pub async fn flush(&self) {
        self.hand_over(vec![]).await;
    }

    /// Hands over a change that nobody waits for. Dropped with a log line when the queue is full.
    pub fn commit_later(&self, step: Step) {
        let (reply, _) = oneshot::channel();
        let steps = vec![step];
        if self.queue.try_send(Job { steps, reply }).is_err() {
            error!("a change that nobody waits for was dropped: the commit queue is full");
        }
    }

    /// Sets a record aside. The next commit writes it, whatever that is for, as a transaction of its own would cost as much as
    /// the one that it reports of; [`Self::commit_aside`] sees to it that there is a next one. It outlasts a disk that is full.
    /// Dropped with a log line when too many wait, which only evidence of an outcome may be: its intent is durable already.
    pub fn set_aside(&self, record: Step) {
        debug_assert!(
            record.change.is_record(),
            "what changes the state must not wait for others"
        );
        let mut aside = self.aside.lock();
        if aside.len() < ASIDE {
            aside.push(record);
        } else {
            drop(aside);
            error!("a record was not written: too many wait for a commit");
        }
    }

    /// Commits what was set aside, if there is any by now.
    pub async fn commit_aside(&self) {
        let is_empty = self.aside.lock().is_empty();
        if !is_empty {
            self.flush().await;
        }
    }
}

/// Records for the next commit.
#[derive(Default)]
struct Aside(Mutex<Vec<Step>>);

impl Aside {
    /// What could not be written waits on, in front of what came since, as far as there is room.
    fn put_back(&self, records: &[Step]) {
        let mut waiting = self.lock();
        let kept = records.len().min(ASIDE.saturating_sub(waiting.len()));
        waiting.splice(..0, records[..kept].iter().cloned());
        drop(waiting);
        if kept < records.len() {
            error!(
                count = records.len() - kept,
                "records were not written: too many wait for a commit"
            );
        }
    }

    /// For a push or a take: it is whole in between.
    fn lock(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The committing thread has ended, by a panic: this process commits nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the committing thread has ended")]
pub struct CommitterEnded;

/// The server's state could not be brought up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store cannot be read.
    #[error("cannot load the state from the store")]
    Load(#[source] StoreError),
    /// No thread.
    #[error("cannot start the committing thread")]
    Thread(#[source] std::io::Error),
}

struct Writer {
    store: Box<dyn Store>,
    jobs: mpsc::Receiver<Job>,
    aside: Arc<Aside>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    observer: Observer,
    health: watch::Sender<bool>,
    advance: watch::Sender<Revision>,
}

impl Writer {
    fn run(&mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            let (mut batch, mut count) = (vec![], 0);
            let mut next = Some(first);
            while let Some(job) = next {
                count += job.steps.len();
                batch.push(job);
                next = if count < BATCH { self.jobs.try_recv().ok() } else { None };
            }
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Job>) {
        let mut steps = std::mem::take(&mut *self.aside.lock());
        let records = steps.len();
        let mut replies = Vec::with_capacity(batch.len());
        for job in batch {
            replies.push((job.steps.len(), job.reply));
            steps.extend(job.steps);
        }
        if steps.is_empty() {
            // Who only waits for what came before has waited.
            for (_, reply) in replies {
                let _ = reply.send(vec![]);
            }
            return;
        }
        let mut results: std::vec::IntoIter<Result<Done, CommitError>> = match self.store.commit(&steps) {
            Ok(committed) => {
                // A batch of which nothing happened wrote nothing: nobody has to look again, and whether the store can be
                // written is not known.
                if committed.revision > self.snapshot.load().revision() {
                    self.health
                        .send_if_modified(|healthy| !std::mem::replace(healthy, true));
                    self.publish(committed.revision, &committed.outcomes);
                }
                committed
                    .outcomes
                    .into_iter()
                    .zip(committed.log_indexes)
                    .map(|(outcome, log_index)| match outcome {
                        Ok(deltas) => Ok(Done { deltas, log_index }),
                        Err(conflict) => Err(CommitError::from(conflict)),
                    })
                    .collect::<Vec<_>>()
            }
            Err(failure) => {
                error!(error = %mayfly_runtime::Chain(&failure), steps = steps.len(), "nothing was stored");
                self.health
                    .send_if_modified(|healthy| std::mem::replace(healthy, false));
                if failure.will_pass() {
                    self.aside.put_back(&steps[..records]);
                }
                let failure = match failure.needs_reload().then(|| self.reload()) {
                    // What keeps it from being loaded is what somebody has to mend.
                    Some(Err(obstacle)) => Arc::new(obstacle),
                    _ => Arc::new(failure),
                };
                steps.iter().map(|_| Err(CommitError::Store(failure.clone()))).collect()
            }
        }
        .into_iter();
        results.by_ref().take(records).for_each(drop);
        for (count, reply) in replies {
            // A caller that is gone does not need the answer.
            let _ = reply.send(results.by_ref().take(count).collect());
        }
    }

    fn publish(&self, revision: Revision, outcomes: &[Result<Vec<Delta>, Conflict>]) {
        let deltas: Vec<Delta> = outcomes.iter().flatten().flatten().cloned().collect();
        let before = self.snapshot.load_full();
        let after = Arc::new(before.with(revision, &deltas));
        self.snapshot.store(after.clone());
        (self.observer)(&Applied {
            before,
            after,
            deltas,
            reloaded: false,
        });
        self.advance.send_replace(revision);
    }

    /// The store does not know what memory should hold, so memory is built anew from what is durable. While that fails,
    /// every commit does, and the next one tries again.
    fn reload(&mut self) -> Result<(), StoreError> {
        match self.store.load() {
            Ok(state) => {
                let before = self.snapshot.load_full();
                let after = Arc::new(Snapshot::load(before.trust_domain().clone(), state));
                info!(revision = %after.revision(), "state loaded anew");
                self.snapshot.store(after.clone());
                let revision = after.revision();
                (self.observer)(&Applied {
                    before,
                    after,
                    deltas: vec![],
                    reloaded: true,
                });
                self.advance.send_replace(revision);
                Ok(())
            }
            Err(failure) => {
                error!(error = %mayfly_runtime::Chain(&failure), "the state cannot be loaded anew");
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests;
