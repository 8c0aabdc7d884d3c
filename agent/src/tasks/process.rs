//! Processes that asked for tasks, and what they asked for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mayfly_model::{Entry, ErrorKind};
use mayfly_proto::mayfly::workload::{Stage, TaskState};
use mayfly_runtime::CancellationToken;
use tokio::sync::watch;

use super::{Holder, ProcessKey, Reply, SelectorSet, TaskError, TaskSettings};

/// One process.
pub(super) struct Process {
    pub(super) holder: Arc<dyn Holder>,
    /// What held of it when it was last attested.
    pub(super) selectors: SelectorSet,
    pub(super) requests: HashMap<String, Tracked>,
    /// Ends the stream of its events.
    pub(super) forgotten: CancellationToken,
}

/// One request, as one process has it.
pub(super) struct Tracked {
    pub(super) entry: Arc<Entry>,
    pub(super) state: watch::Sender<TaskState>,
    /// Who waits for the answer of the server to `Open`; there is a call under way if this is not `None`.
    pub(super) opening: Option<Vec<Reply>>,
    /// An `Open` of which it is not known whether it counted, and whether it was for descendants too.
    pub(super) lost_open: Option<bool>,
    /// The window that is held for it.
    pub(super) window: Option<Arc<str>>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Processes {
    all: HashMap<ProcessKey, Process>,
    by_request: HashMap<String, HashSet<ProcessKey>>,
}

impl Processes {
    pub(super) fn get(&self, key: ProcessKey) -> Option<&Process> {
        self.all.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: ProcessKey) -> Option<&mut Process> {
        self.all.get_mut(&key)
    }

    pub(super) fn tracked(&self, key: ProcessKey, request_id: &str) -> Option<&Tracked> {
        self.all.get(&key)?.requests.get(request_id)
    }

    pub(super) fn tracked_mut(&mut self, key: ProcessKey, request_id: &str) -> Option<&mut Tracked> {
        self.all.get_mut(&key)?.requests.get_mut(request_id)
    }

    /// Processes that have this request.
    pub(super) fn with_request(&self, request_id: &str) -> Vec<ProcessKey> {
        let found = self.by_request.get(request_id);
        found.map_or_else(Vec::new, |keys| keys.iter().copied().collect())
    }

    /// Whether one more process of this user, or one more request of this process, has room.
    pub(super) fn check_room(&self, holder: &dyn Holder, settings: &TaskSettings) -> Result<(), TaskError> {
        let full = |what: String| TaskError::new(ErrorKind::ResourceExhausted, what);
        match self.all.get(&holder.key()) {
            Some(process) => {
                let live = process.requests.values().filter(|tracked| !tracked.is_spent()).count();
                if live >= settings.requests_per_process {
                    let most = settings.requests_per_process;
                    return Err(full(format!(
                        "this process has {most} requests, which is the most; end some"
                    )));
                }
            }
            None => {
                let uid = holder.uid();
                let count = self.all.values().filter(|process| process.holder.uid() == uid).count();
                if count >= settings.processes_per_uid {
                    let most = settings.processes_per_uid;
                    return Err(full(format!(
                        "{most} processes of user {uid} have requests, which is the most"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Adds a process, unless it is there; says whether it is new.
    pub(super) fn add(&mut self, holder: &Arc<dyn Holder>, selectors: &SelectorSet) -> bool {
        let mut new = false;
        let process = self.all.entry(holder.key()).or_insert_with(|| {
            new = true;
            Process {
                holder: Arc::clone(holder),
                selectors: Arc::clone(selectors),
                requests: HashMap::new(),
                forgotten: CancellationToken::new(),
            }
        });
        process.selectors = Arc::clone(selectors);
        new
    }

    /// The process has this request from now on.
    pub(super) fn track(&mut self, key: ProcessKey, entry: Arc<Entry>, state: TaskState, most: usize) {
        let Some(process) = self.all.get_mut(&key) else { return };
        let id = state.request_id.clone();
        if let Some(tracked) = process.requests.get_mut(&id) {
            tracked.entry = entry;
            if tracked.window.is_none() && tracked.opening.is_none() && state.opens_left > 0 {
                // One that it had is over, and there is another to be had.
                tracked.state.send_replace(state);
            } else {
                tracked.tell(state);
            }
            return;
        }
        if process.requests.len() >= most {
            // What is over makes room; there is some, as it was looked for before.
            let spent = process.requests.iter().find(|(_, tracked)| tracked.is_spent());
            if let Some(spent) = spent.map(|(id, _)| id.clone()) {
                self.forget_request(key, &spent);
            }
        }
        let Some(process) = self.all.get_mut(&key) else { return };
        let tracked = Tracked {
            entry,
            state: watch::Sender::new(state),
            opening: None,
            lost_open: None,
            window: None,
        };
        process.requests.insert(id.clone(), tracked);
        self.by_request.entry(id).or_default().insert(key);
    }

    /// Forgets a request; who watches it sees its last state and then the end. With its last one a process is forgotten.
    pub(super) fn drop_request(&mut self, key: ProcessKey, request_id: &str) {
        self.forget_request(key, request_id);
        if self.all.get(&key).is_some_and(|process| process.requests.is_empty()) {
            self.remove(key);
        }
    }

    fn forget_request(&mut self, key: ProcessKey, request_id: &str) {
        if let Some(process) = self.all.get_mut(&key) {
            process.requests.remove(request_id);
        }
        self.unlink(key, request_id);
    }

    /// Forgets a process with all of its requests.
    pub(super) fn remove(&mut self, key: ProcessKey) -> Option<Process> {
        let process = self.all.remove(&key)?;
        for request_id in process.requests.keys() {
            self.unlink(key, request_id);
        }
        process.forgotten.cancel();
        Some(process)
    }

    fn unlink(&mut self, key: ProcessKey, request_id: &str) {
        if let Some(keys) = self.by_request.get_mut(request_id) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_request.remove(request_id);
            }
        }
    }
}

impl Tracked {
    /// Publishes `next`, unless it is older than what is known: pushes and answers overtake each other.
    pub(super) fn tell(&self, next: TaskState) {
        self.state.send_if_modified(|state| {
            let same_window = next.window_id.is_empty() || next.window_id == state.window_id;
            if *state == next || same_window && rank(next.stage) < rank(state.stage) {
                return false;
            }
            *state = next;
            true
        });
    }

    /// Whether a state is no word for this process: it is about the window of another one, and this one has a window of its
    /// own or can open one.
    pub(super) fn is_for_another(&self, key: ProcessKey, state: &TaskState) -> bool {
        let known = self.state.borrow();
        let has_own = !known.window_id.is_empty() && is_holder(key, &known);
        !state.window_id.is_empty() && !is_holder(key, state) && (has_own || state.opens_left > 0)
    }

    /// Whether nothing of it can be of use to the process any more.
    pub(super) fn is_spent(&self) -> bool {
        self.window.is_none() && self.opening.is_none() && rank(self.state.borrow().stage) >= CLOSED
    }
}

const CLOSED: u8 = 5;

/// Whether a state is the last one.
pub(super) fn is_final(stage: i32) -> bool {
    [Stage::Denied, Stage::Settled, Stage::Lapsed]
        .map(|stage| stage as i32)
        .contains(&stage)
}

/// Whether the window of a state is this process's.
pub(super) fn is_holder(key: ProcessKey, state: &TaskState) -> bool {
    (state.holder_pid, state.holder_start_ticks) == (key.pid, key.start_ticks)
}

/// How far along a stage is.
fn rank(stage: i32) -> u8 {
    match Stage::try_from(stage).unwrap_or_default() {
        Stage::Unspecified => 0,
        Stage::AwaitingTicket => 1,
        Stage::AwaitingApproval => 2,
        Stage::Armed => 3,
        Stage::Open | Stage::Suspended => 4,
        Stage::Closed => CLOSED,
        Stage::Denied | Stage::Settled | Stage::Lapsed => 6,
    }
}
