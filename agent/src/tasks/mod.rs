//! Windows of tasks that processes of this node hold, with the keys and SVIDs that exist only inside of them.
//!
//! ```text
//!  api: request, open, renew, heartbeat, end ──▶ ┌────────┐ ──▶ TaskServer (`sync`: one call each)
//!       Board: who gets which task SVID   ◀───── │ Keeper │ ◀── News: states, what is revoked, the server's last word
//!                                                └────────┘ ◀── Holder: the process ended, changed, lost selectors
//! ```
//!
//! One [`Keeper`] owns all state, so nothing here is locked. A window is bound to the process that opened it, and ends
//! here by whatever comes first: its holder says so, dies, is not any more who it was, or is debugged; its time is over
//! by our own monotonic clock; signs of life do not come; the server says so. Then the key is wiped and the SVID is off
//! the board in the same step, with the server reachable or not; that the server hears of it is tried until it answers.
//!
//! A window's end and an SVID's end are drawn once from the server's clock and kept monotonic: no setting of a wall clock
//! moves them. The agent keeps nothing on disk: after a restart it holds no window, says so, and the server closes them.
//!
//! Not here: who may open what, which the server decides; who a process is (`attest`, `api`). Messages are those of the
//! wire, as the agent passes most of them on. Start at [`start`].

mod board;
mod closes;
mod holder;
mod keeper;
mod metrics;
mod process;
mod server;
mod svid;
mod window;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::{EntryId, ErrorKind};
use mayfly_proto::mayfly::workload::{RequestRequest, TaskState};
use mayfly_runtime::{BackoffPolicy, Clock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use board::{Board, Shown};
pub use holder::{Ancestor, Holder, HolderError, HolderEvent, ProcessKey, SelectorSet, Tracer};
pub use keeper::Keeper;
pub use metrics::TaskMetrics;
pub use server::{TaskError, TaskServer};
pub use svid::TaskSvid;

use crate::news::News;
use crate::view::View;

/// Bound of the keeper's inbox; a full one makes callers wait.
const INBOX: usize = 256;

/// How windows are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSettings {
    /// How long one call to the server may take.
    pub call_timeout: Duration,
    /// How long who ends a window waits for the server to have heard of it.
    pub close_wait: Duration,
    /// Pauses after failures.
    pub backoff: BackoffPolicy,
    /// Calls of one user at a time.
    pub calls_per_uid: usize,
    /// Processes of one user with requests.
    pub processes_per_uid: usize,
    /// Requests of one process.
    pub requests_per_process: usize,
    /// Windows that ended here and of which the server has not heard.
    pub closes: usize,
    /// How often holders are looked at for what a holder does not do; not at all if none.
    pub tripwires: Option<Duration>,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(30),
            close_wait: Duration::from_secs(2),
            backoff: BackoffPolicy::new(Duration::from_millis(200), Duration::from_secs(30)),
            calls_per_uid: 64,
            processes_per_uid: 256,
            requests_per_process: 64,
            closes: 4096,
            tripwires: Some(Duration::from_millis(500)),
        }
    }
}

/// A process that asks, as it was just attested.
#[derive(Clone)]
pub struct Applicant {
    /// The process.
    pub holder: Arc<dyn Holder>,
    /// What holds of it.
    pub selectors: SelectorSet,
    /// When that was found out.
    pub attested_at: Instant,
}

/// How a process ends its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is done.
    Completed,
    /// It failed.
    Failed,
}

/// Asks the keeper. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Tasks {
    commands: mpsc::Sender<Command>,
    board: watch::Receiver<Arc<Board>>,
}

type Reply = oneshot::Sender<Result<TaskState, TaskError>>;

/// What is asked of the keeper.
enum Command {
    Request {
        applicant: Applicant,
        entry_id: EntryId,
        request: RequestRequest,
        reply: Reply,
    },
    Open {
        applicant: Applicant,
        request_id: String,
        include_descendants: bool,
        reply: Reply,
    },
    Watch {
        holder: Arc<dyn Holder>,
        request_id: String,
        reply: oneshot::Sender<Result<watch::Receiver<TaskState>, TaskError>>,
    },
    Renew {
        holder: Arc<dyn Holder>,
        request_id: String,
        reply: Reply,
    },
    Extend {
        holder: Arc<dyn Holder>,
        request_id: String,
        seconds: u32,
        reply: Reply,
    },
    Heartbeat {
        holder: Arc<dyn Holder>,
        request_id: String,
        reply: Reply,
    },
    End {
        holder: Arc<dyn Holder>,
        request_id: String,
        ending: Ending,
        detail: String,
        reply: Reply,
    },
}

/// What the keeper is made of.
pub struct TaskParts {
    /// Asks the server.
    pub server: Arc<dyn TaskServer>,
    /// What the server says.
    pub news: Arc<News>,
    /// What the server allows.
    pub views: watch::Receiver<Arc<View>>,
    /// The wall clock; only for as long as the server's is not known.
    pub clock: Arc<dyn Clock>,
    /// Which boot of the machine this is.
    pub boot_id: String,
    /// Counters.
    pub metrics: TaskMetrics,
}

/// Makes the keeper and the handle to it. The keeper is to be run ([`Keeper::run`]) by the supervisor; its end is the end
/// of the process.
pub fn start(settings: TaskSettings, parts: TaskParts) -> (Tasks, Keeper) {
    let (commands, inbox) = mpsc::channel(INBOX);
    let board = watch::Sender::default();
    let tasks = Tasks {
        commands,
        board: board.subscribe(),
    };
    (tasks, Keeper::new(settings, parts, inbox, board))
}

// === impl Tasks ===

impl Tasks {
    /// Follows which process gets which task SVID.
    pub fn board(&self) -> watch::Receiver<Arc<Board>> {
        self.board.clone()
    }

    /// Asks the server for a task, on behalf of `applicant` as `entry_id`.
    ///
    /// # Errors
    /// The server's, or a limit of this agent.
    ///
    /// # Cancel safety
    /// The server may have taken the request; asking again gives the same.
    pub async fn request(
        &self,
        applicant: Applicant,
        entry_id: EntryId,
        request: RequestRequest,
    ) -> Result<TaskState, TaskError> {
        self.ask(|reply| Command::Request {
            applicant,
            entry_id,
            request,
            reply,
        })
        .await
    }

    /// Opens the window of a request of this process. If it holds one already, that is the answer.
    ///
    /// # Errors
    /// The request is not this process's; the server's errors.
    ///
    /// # Cancel safety
    /// The window may be opened all the same; it is the process's until it ends.
    pub async fn open(
        &self,
        applicant: Applicant,
        request_id: String,
        include_descendants: bool,
    ) -> Result<TaskState, TaskError> {
        self.ask(|reply| Command::Open {
            applicant,
            request_id,
            include_descendants,
            reply,
        })
        .await
    }

    /// Follows the state of a request of this process; the sender is gone after the last one.
    ///
    /// # Errors
    /// The request is not this process's.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn watch(
        &self,
        holder: Arc<dyn Holder>,
        request_id: String,
    ) -> Result<watch::Receiver<TaskState>, TaskError> {
        self.ask(|reply| Command::Watch {
            holder,
            request_id,
            reply,
        })
        .await
    }

    /// Renews the SVID of a window of this process now.
    ///
    /// # Errors
    /// The process holds no such window; the server's errors.
    ///
    /// # Cancel safety
    /// The renewal goes on.
    pub async fn renew(&self, holder: Arc<dyn Holder>, request_id: String) -> Result<TaskState, TaskError> {
        self.ask(|reply| Command::Renew {
            holder,
            request_id,
            reply,
        })
        .await
    }

    /// Moves the end of a window of this process by `seconds`, or as many of them as may be.
    ///
    /// # Errors
    /// The process holds no such window, or the server refused.
    ///
    /// # Cancel safety
    /// The end may have moved.
    pub async fn extend(
        &self,
        holder: Arc<dyn Holder>,
        request_id: String,
        seconds: u32,
    ) -> Result<TaskState, TaskError> {
        self.ask(|reply| Command::Extend {
            holder,
            request_id,
            seconds,
            reply,
        })
        .await
    }

    /// A sign of life for a window of this process.
    ///
    /// # Errors
    /// The process holds no such window.
    ///
    /// # Cancel safety
    /// It has counted.
    pub async fn heartbeat(&self, holder: Arc<dyn Holder>, request_id: String) -> Result<TaskState, TaskError> {
        self.ask(|reply| Command::Heartbeat {
            holder,
            request_id,
            reply,
        })
        .await
    }

    /// Ends a window of this process.
    ///
    /// # Errors
    /// The request is not this process's, or has no window.
    ///
    /// # Cancel safety
    /// It has ended.
    pub async fn end(
        &self,
        holder: Arc<dyn Holder>,
        request_id: String,
        ending: Ending,
        detail: String,
    ) -> Result<TaskState, TaskError> {
        self.ask(|reply| Command::End {
            holder,
            request_id,
            ending,
            detail,
            reply,
        })
        .await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, TaskError>>) -> Command,
    ) -> Result<T, TaskError> {
        let stopping = || TaskError::new(ErrorKind::Unavailable, "the agent is stopping");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}
