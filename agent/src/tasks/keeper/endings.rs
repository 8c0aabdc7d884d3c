//! How windows end.

use std::sync::Arc;

use mayfly_model::ErrorKind;
use mayfly_proto::mayfly::agent::{CloseCause, CloseTaskRequest};
use mayfly_proto::mayfly::workload::{Stage, TaskState};
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::metrics::End;
use super::super::{HolderEvent, ProcessKey, Reply, TaskError};
use super::Keeper;

/// The longest detail that the server is told, in bytes.
const MAX_DETAIL: usize = 256;

impl Keeper {
    /// Ends a window here and now: the key is dropped, nobody is shown it any more, and the server is told.
    pub(super) fn end(&mut self, id: &str, cause: End, detail: &str, waiter: Option<Reply>) {
        let Some(mut state) = self.drop_window(id, cause, detail) else {
            return;
        };
        let until = Instant::now() + self.settings.close_wait;
        state.message = detail.to_owned();
        let waiter = waiter.map(|reply| (reply, until, state));
        self.closes.push(close_request(id, cause, detail), waiter);
    }

    /// The server has ended it. It is told that nothing is left of it here: before, it cannot take the window for settled.
    pub(super) fn end_by_server(&mut self, id: &str, reasons: &[String]) {
        let detail = reasons.join(", ");
        if self.drop_window(id, End::Server, &detail).is_some() {
            self.closes.push(close_request(id, End::Server, &detail), None);
        }
    }

    /// While the server's log is refused there are no windows: what was signed by it may not be on record.
    pub(super) fn end_distrusted(&mut self) {
        let why = self.distrust.borrow_and_update().clone();
        let Some(why) = why.filter(|_| !self.windows.is_empty()) else {
            return;
        };
        let detail = format!("the agent refuses the server's log: {why}");
        let windows: Vec<Arc<str>> = self.windows.keys().cloned().collect();
        for id in windows {
            self.end(&id, End::LogRefused, &detail, None);
        }
    }

    /// A window of which this agent has nothing, and that shall not stay open.
    pub(super) fn close_unheld(&mut self, id: &str, cause: End, detail: &str) {
        warn!(
            window_id = id,
            detail, "a window is open that nobody here holds, closing it"
        );
        self.closes.push(close_request(id, cause, detail), None);
    }

    /// The server was not heard for the lease: the window has no SVID until it is again, and still agrees.
    pub(super) fn lease_lost(&mut self, id: &str) {
        self.metrics.lease_lost.inc();
        info!(window_id = id, "the server is not heard: task SVID withdrawn");
        let Some(window) = self.windows.get(id) else { return };
        let state = TaskState {
            stage: Stage::Suspended as i32,
            reasons: vec!["lease_lost".to_owned()],
            message: "the server is not heard; the SVID comes back when it is".to_owned(),
            ..self.state_of(id)
        };
        self.tell(window.process, &window.request_id, state);
    }

    /// Wipes a window; returns the state that its request has then.
    fn drop_window(&mut self, id: &str, cause: End, detail: &str) -> Option<TaskState> {
        let window = self.windows.remove(id)?;
        self.dirty = true;
        self.metrics.count_end(cause);
        info!(
            window_id = id,
            request_id = window.request_id,
            pid = window.process.pid,
            cause = cause.word(),
            detail,
            "window ended, key wiped"
        );
        let tracked = self.processes.tracked_mut(window.process, &window.request_id);
        let mut state = TaskState::default();
        if let Some(tracked) = tracked {
            tracked.window = None;
            state = tracked.state.borrow().clone();
            // If the server has spoken already, its words are the better ones.
            if super::is_live(&state) {
                state.stage = Stage::Closed as i32;
                state.reasons = vec![cause.word().to_owned()];
                state.message = detail.to_owned();
                tracked.tell(state.clone());
            }
        }
        for reply in window.waiters {
            let ended = TaskError::new(ErrorKind::FailedPrecondition, "the window has ended");
            self.outbox.push((reply, Err(ended)));
        }
        Some(state)
    }

    /// Ends all that a process has, and forgets it.
    pub(super) fn forget(&mut self, key: ProcessKey, cause: End, detail: &str) {
        let windows = self.windows.values().filter(|window| window.process == key);
        let windows: Vec<Arc<str>> = windows.map(|window| Arc::clone(&window.id)).collect();
        for id in windows {
            self.end(&id, cause, detail, None);
        }
        if let Some(process) = self.processes.remove(key) {
            for tracked in process.requests.into_values() {
                for reply in tracked.opening.into_iter().flatten() {
                    let gone = TaskError::new(ErrorKind::PermissionDenied, "the process ended or changed");
                    self.outbox.push((reply, Err(gone)));
                }
            }
        }
    }

    pub(super) fn holder_event(&mut self, key: ProcessKey, event: HolderEvent) {
        match event {
            // Whoever is done says so; whoever is gone without a word has failed.
            HolderEvent::Exited => self.forget(key, End::Failed, "the process ended without a word"),
            HolderEvent::Changed => self.forget(key, End::AttestationLost, "the process changed"),
            HolderEvent::Unclear => self.forget(key, End::AttestationLost, "the process could not be attested"),
            HolderEvent::Selectors(selectors) => {
                if let Some(process) = self.processes.get_mut(key) {
                    process.selectors = selectors;
                    let view = Arc::clone(&self.views.borrow());
                    self.check_entries(key, &view);
                }
            }
        }
    }
}

fn close_request(id: &str, cause: End, detail: &str) -> CloseTaskRequest {
    let wire = match cause {
        End::Completed => CloseCause::Completed,
        // The server's own refusal, or its log's, needs no cause of ours, and is not the holder's misconduct.
        End::Failed | End::Server | End::LogRefused => CloseCause::Failed,
        End::TimedOut => CloseCause::TimedOut,
        End::AttestationLost => CloseCause::AttestationLost,
        End::Deviated => CloseCause::Deviated,
        End::HeartbeatLost => CloseCause::HeartbeatLost,
    };
    let end = (0..=MAX_DETAIL.min(detail.len()))
        .rev()
        .find(|end| detail.is_char_boundary(*end));
    CloseTaskRequest {
        window_id: id.to_owned(),
        cause: wire.into(),
        detail: detail[..end.unwrap_or(0)].to_owned(),
    }
}
