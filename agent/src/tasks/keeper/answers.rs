//! What the server says, asked and unasked.

use std::sync::Arc;

use mayfly_model::{Entry, ErrorKind};
use mayfly_proto::mayfly::agent::IssuedTaskResponse;
use mayfly_proto::mayfly::workload::{Stage, TaskState};
use mayfly_runtime::Chain;
use tracing::{debug, error, info, warn};

use super::super::metrics::End;
use super::super::process::{is_final, is_holder};
use super::super::svid::{FaultyTaskSvid, TaskSvid};
use super::super::window::{Binding, Window};
use super::super::{HolderError, ProcessKey, Reply, TaskError};
use super::{Keeper, Landed, RenewError, is_live};
use crate::svids::check::NewKey;

impl Keeper {
    pub(super) fn landed(&mut self, landed: Landed) {
        match landed {
            Landed::Requested {
                applicant,
                entry,
                result,
                reply,
            } => {
                self.call_done(applicant.holder.uid());
                let named = |state: TaskState| {
                    let nameless = || TaskError::new(ErrorKind::Internal, "the server's answer names no request");
                    if state.request_id.is_empty() && !is_final(state.stage) {
                        return Err(nameless());
                    }
                    Ok(state)
                };
                let known = result.and_then(named).map(|state| {
                    self.know(&applicant);
                    let (key, most) = (applicant.holder.key(), self.settings.requests_per_process);
                    let id = state.request_id.clone();
                    self.processes.track(key, entry, state.clone(), most);
                    let state = self
                        .processes
                        .tracked(key, &id)
                        .map(|tracked| tracked.state.borrow().clone());
                    state.unwrap_or_default()
                });
                if let Ok(state) = &known {
                    self.drop_final(applicant.holder.key(), state);
                }
                self.outbox.push((reply, known));
            }
            Landed::Opened {
                process,
                uid,
                request_id,
                entry,
                include_descendants,
                issued,
            } => {
                self.call_done(uid);
                self.opened(process, request_id, entry, include_descendants, issued);
            }
            Landed::Renewed { window, issued } => self.renewed(&window, issued),
            Landed::Extended { uid, result, reply } => {
                self.call_done(uid);
                if let Ok(state) = &result {
                    self.told(vec![state.clone()]);
                }
                self.outbox.push((reply, result));
            }
            Landed::Beaten {
                window,
                uid,
                result,
                reply,
            } => {
                self.call_done(uid);
                self.beaten(&window, result, reply);
            }
            Landed::Closed { window_id, result } => self.closed(&window_id, result),
            Landed::Looked { tracers, took } => self.looked(tracers, took),
        }
    }

    fn opened(
        &mut self,
        process: ProcessKey,
        request_id: String,
        entry: Arc<Entry>,
        include_descendants: bool,
        issued: Result<(NewKey, IssuedTaskResponse), TaskError>,
    ) {
        let tracked = self.processes.tracked_mut(process, &request_id);
        // The process ended meanwhile: its window, if there is one, ends with it.
        let waiting = tracked.and_then(|tracked| tracked.opening.take());
        let answer = issued.and_then(|(key, answer)| {
            let state = answer
                .state
                .clone()
                .filter(|state| !state.window_id.is_empty() && is_live(state));
            let state = state.ok_or_else(|| TaskError::new(ErrorKind::Internal, "the server opened no window"))?;
            Ok((key, answer, state))
        });
        if let (Ok((_, _, state)), Some(why)) = (&answer, self.news.distrust().refusal()) {
            self.close_unheld(&state.window_id, End::LogRefused, "the agent refuses the server's log");
            for reply in waiting.into_iter().flatten() {
                self.outbox
                    .push((reply, Err(TaskError::new(ErrorKind::FailedPrecondition, &why))));
            }
            return;
        }
        let (key, answer, state) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                if let Some(tracked) = self.processes.tracked_mut(process, &request_id) {
                    tracked.lost_open = error.is_ambiguous().then_some(include_descendants);
                    let known = tracked.state.borrow().clone();
                    self.drop_final(process, &known);
                }
                for reply in waiting.into_iter().flatten() {
                    self.outbox.push((reply, Err(error.clone())));
                }
                return;
            }
        };
        let Some(waiting) = waiting else {
            self.close_unheld(&state.window_id, End::Failed, "the process ended while it was opened");
            return;
        };
        self.adopt(process, &request_id, entry, include_descendants, &state);
        let id: Arc<str> = state.window_id.as_str().into();
        let told = TaskState {
            request_id: request_id.clone(),
            ..state
        };
        self.tell(process, &request_id, told);
        self.take_svid(&id, key, answer);
        info!(
            window_id = &*id,
            request_id,
            pid = process.pid,
            include_descendants,
            "window opened"
        );
        let state = self.state_of(&id);
        for reply in waiting {
            self.outbox.push((reply, Ok(state.clone())));
        }
    }

    /// Holds a window from now on.
    fn adopt(
        &mut self,
        process: ProcessKey,
        request_id: &str,
        entry: Arc<Entry>,
        include_descendants: bool,
        state: &TaskState,
    ) {
        self.next_order += 1;
        let binding = Binding {
            request_id: request_id.to_owned(),
            process,
            entry,
            include_descendants,
            order: self.next_order,
        };
        let window = Window::new(binding, state, self.server_now(), self.settings.backoff);
        if let Some(tracked) = self.processes.tracked_mut(process, request_id) {
            tracked.window = Some(Arc::clone(&window.id));
            tracked.lost_open = None;
        }
        self.dirty = true;
        self.windows.insert(Arc::clone(&window.id), window);
    }

    /// Takes a certificate in, if it is what was asked for; says whether it is.
    fn take_svid(&mut self, id: &Arc<str>, key: NewKey, mut answer: IssuedTaskResponse) -> bool {
        let server_now = self.server_now();
        let trust_domain = &self.own.trust_domain;
        let chain = std::mem::take(&mut answer.cert_chain);
        let checked = answer.state.as_ref().ok_or(FaultyTaskSvid::NoState).and_then(|state| {
            if state.window_id != **id {
                return Err(FaultyTaskSvid::OtherWindow);
            }
            TaskSvid::check(&self.authorities, trust_domain, state, chain, key, server_now)
        });
        let Some(window) = self.windows.get_mut(id) else {
            return false;
        };
        window.set_terms(&answer);
        match checked {
            Ok(svid) if self.denied.borrow().denies(svid.svid().serial().as_be_bytes()) => {
                debug!(window_id = &**id, "the SVID was revoked on its way");
                window.renewal_failed();
                false
            }
            Ok(svid) => {
                self.metrics.issued.inc();
                info!(window_id = &**id, spiffe_id = %svid.svid().spiffe_id(), serial = %svid.svid().serial(),
                    not_after = %svid.svid().not_after(), "task SVID received");
                let tainted = self.authorities.standing(svid.authority()) == crate::svids::check::Standing::Tainted;
                window.accept(svid);
                if tainted {
                    // The server still signs with it: no use in asking as fast as it answers.
                    window.renew_soon(true);
                }
                true
            }
            Err(error) => {
                self.metrics.failed.inc();
                error!(window_id = &**id, error = %Chain(&error), "the task SVID cannot be used");
                window.renewal_failed();
                false
            }
        }
    }

    fn renewed(&mut self, id: &Arc<str>, issued: Result<(NewKey, IssuedTaskResponse), RenewError>) {
        let Some(window) = self.windows.get_mut(id) else { return };
        window.renewing = false;
        let (process, waiters) = (window.process, std::mem::take(&mut window.waiters));
        let error = match issued {
            Ok((key, answer)) => {
                let state = answer.state.clone();
                if self.take_svid(id, key, answer) {
                    if let (Some(state), Some(window)) = (state, self.windows.get(id)) {
                        let request_id = window.request_id.clone();
                        self.tell(
                            process,
                            &request_id,
                            TaskState {
                                request_id: request_id.clone(),
                                ..state
                            },
                        );
                    }
                    let state = self.state_of(id);
                    for reply in waiters {
                        self.outbox.push((reply, Ok(state.clone())));
                    }
                    return;
                }
                TaskError::new(
                    ErrorKind::Unavailable,
                    "what the server sent cannot be used; it is asked again",
                )
            }
            Err(error) => self.not_renewed(id, process, error),
        };
        for reply in waiters {
            self.outbox.push((reply, Err(error.clone())));
        }
    }

    fn not_renewed(&mut self, id: &Arc<str>, process: ProcessKey, error: RenewError) -> TaskError {
        self.metrics.failed.inc();
        let Some(window) = self.windows.get_mut(id) else {
            return TaskError::new(ErrorKind::NotFound, "the window has ended");
        };
        let lost = |what: &str| TaskError::new(ErrorKind::PermissionDenied, what);
        match error {
            RenewError::Server(error) if error.is_of_the_moment() => {
                debug!(window_id = &**id, %error, "task SVID not renewed, trying again");
                window.renewal_failed();
                error
            }
            RenewError::Server(error) => {
                let decided = matches!(error.kind, ErrorKind::PermissionDenied | ErrorKind::NotFound);
                if window.renewal_refused() || decided {
                    let detail = format!("the server refused to renew it: {error}");
                    self.end(id, End::Server, &detail, None);
                }
                error
            }
            RenewError::Holder(HolderError::Busy) => {
                window.renewal_failed();
                TaskError::new(ErrorKind::Unavailable, HolderError::Busy.to_string())
            }
            // What it is comes as an event, and there it is told apart.
            RenewError::Holder(HolderError::Over) => {
                window.withdraw();
                window.renewal_failed();
                lost("the process ended or changed")
            }
            RenewError::Holder(error @ HolderError::Unclear(_)) => {
                self.end(id, End::AttestationLost, &error.to_string(), None);
                lost("the process could not be attested")
            }
            RenewError::Selectors(selectors) => {
                if let Some(process) = self.processes.get_mut(process) {
                    process.selectors = selectors;
                }
                let view = Arc::clone(&self.views.borrow());
                self.check_entries(process, &view);
                lost("the entry of its base identity does not match the process any more")
            }
        }
    }

    fn beaten(&mut self, id: &Arc<str>, result: Result<TaskState, TaskError>, reply: Reply) {
        let answer = match result {
            Ok(state) => {
                if let Some(window) = self.windows.get(id) {
                    let (process, request_id) = (window.process, window.request_id.clone());
                    self.tell(
                        process,
                        &request_id,
                        TaskState {
                            request_id: request_id.clone(),
                            ..state
                        },
                    );
                }
                Ok(self.state_of(id))
            }
            Err(error) => {
                if let Some(window) = self.windows.get_mut(id) {
                    window.beat_was_lost();
                }
                if error.is_of_the_moment() {
                    let mut state = self.state_of(id);
                    state.message = format!("it counts here; the server has not heard of it: {error}");
                    Ok(state)
                } else {
                    Err(error)
                }
            }
        };
        self.outbox.push((reply, answer));
    }

    fn closed(&mut self, window_id: &str, result: Result<TaskState, TaskError>) {
        let state = match result {
            Ok(state) => Some(state),
            Err(error) if error.is_of_the_moment() || error.kind == ErrorKind::PermissionDenied => {
                warn!(window_id, %error, "the server has not heard that the window ended, trying again");
                self.closes.failed(window_id, tokio::time::Instant::now());
                return;
            }
            // There is nothing there that could be closed.
            Err(error) => {
                debug!(window_id, %error, "the server has no such window to close");
                None
            }
        };
        if let Some(state) = &state {
            self.told(vec![state.clone()]);
        }
        if let Some(reply) = self.closes.heard(window_id) {
            self.outbox.push((reply, Ok(state.unwrap_or_default())));
        }
    }

    /// States that the server told by itself.
    pub(super) fn told(&mut self, states: Vec<TaskState>) {
        for state in states {
            for process in self.processes.with_request(&state.request_id) {
                self.told_process(process, &state);
            }
            let held = self.windows.contains_key(state.window_id.as_str());
            if state.window_id.is_empty() || held {
                if held && !is_live(&state) {
                    self.end_by_server(&state.window_id, &state.reasons);
                    for process in self.processes.with_request(&state.request_id) {
                        self.drop_final(process, &state);
                    }
                }
                continue;
            }
            let keys = self.processes.with_request(&state.request_id);
            let opening = keys.iter().any(|key| {
                self.processes
                    .tracked(*key, &state.request_id)
                    .is_some_and(|tracked| tracked.opening.is_some())
            });
            if is_live(&state) && !opening && !self.closes.has(&state.window_id) {
                self.close_unheld(&state.window_id, End::AttestationLost, "the agent holds no such window");
            }
        }
    }

    fn told_process(&mut self, process: ProcessKey, state: &TaskState) {
        let Some(tracked) = self.processes.tracked_mut(process, &state.request_id) else {
            return;
        };
        let unheld = !state.window_id.is_empty() && !self.windows.contains_key(state.window_id.as_str());
        if unheld
            && is_live(state)
            && is_holder(process, state)
            && tracked.opening.is_none()
            && let Some(include_descendants) = tracked.lost_open.take()
        {
            // The answer to `Open` was lost and the window was not: another SVID makes it good.
            info!(
                window_id = state.window_id,
                "window found that was opened by a call whose answer was lost"
            );
            let entry = Arc::clone(&tracked.entry);
            self.adopt(process, &state.request_id, entry, include_descendants, state);
        } else if tracked.is_for_another(process, state) {
            return;
        }
        if let Some(window) = self.windows.get_mut(state.window_id.as_str())
            && is_live(state)
        {
            window.told(state);
        }
        // A window that ended here is not open for anybody, whatever was on its way.
        let stale = unheld && is_live(state) && self.closes.has(&state.window_id);
        if !stale {
            self.tell(process, &state.request_id, state.clone());
        }
        self.drop_final(process, state);
    }

    /// Publishes the state of a request.
    pub(super) fn tell(&self, process: ProcessKey, request_id: &str, state: TaskState) {
        if let Some(tracked) = self.processes.tracked(process, request_id) {
            tracked.tell(state);
        }
    }

    /// Forgets a request of which nothing more will be heard.
    fn drop_final(&mut self, process: ProcessKey, state: &TaskState) {
        let held = self.windows.contains_key(state.window_id.as_str()) && !state.window_id.is_empty();
        // Whoever waits for it to open is told what the server says to that.
        let tracked = self.processes.tracked(process, &state.request_id);
        let goes_on =
            tracked.is_some_and(|tracked| tracked.opening.is_some() || tracked.is_for_another(process, state));
        if is_final(state.stage) && !held && !goes_on {
            self.processes.drop_request(process, &state.request_id);
        }
    }

    /// The present state of the request that a window is of.
    pub(super) fn state_of(&self, id: &str) -> TaskState {
        let window = self.windows.get(id);
        let tracked = window.and_then(|window| self.processes.tracked(window.process, &window.request_id));
        tracked.map_or_else(
            || TaskState {
                window_id: id.to_owned(),
                stage: Stage::Closed as i32,
                ..TaskState::default()
            },
            |tracked| tracked.state.borrow().clone(),
        )
    }
}
