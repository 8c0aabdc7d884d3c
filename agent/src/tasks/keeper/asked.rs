//! What processes ask for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mayfly_model::{EntryId, ErrorKind};
use mayfly_proto::mayfly::agent::{OpenTaskRequest, RequestTaskRequest};
use mayfly_proto::mayfly::workload::RequestRequest;
use tokio::time::Instant;

use super::super::metrics::End;
use super::super::{Applicant, Command, Ending, Holder, ProcessKey, Reply, TaskError};
use super::{Keeper, Landed, instance, new_key};

/// A renewal that is asked for this soon after the last one has just been done.
const JUST_RENEWED: Duration = Duration::from_secs(1);

/// The same words for a request that does not exist and for one of somebody else.
fn not_yours(request_id: &str) -> TaskError {
    let what = format!(
        "this process has no request `{request_id}`; requests belong to the process that made them: call Request, which \
         gives the same one again"
    );
    TaskError::new(ErrorKind::NotFound, what)
}

impl Keeper {
    pub(super) fn asked(&mut self, command: Command) {
        match command {
            Command::Request {
                applicant,
                entry_id,
                request,
                reply,
            } => self.request(applicant, &entry_id, request, reply),
            Command::Open {
                applicant,
                request_id,
                include_descendants,
                reply,
            } => self.open(applicant, request_id, include_descendants, reply),
            Command::Watch {
                holder,
                request_id,
                reply,
            } => {
                let tracked = self
                    .find(&holder)
                    .and_then(|key| self.processes.tracked(key, &request_id));
                let answer = tracked.map(|tracked| tracked.state.subscribe());
                let _ = reply.send(answer.ok_or_else(|| not_yours(&request_id)));
            }
            Command::Renew {
                holder,
                request_id,
                reply,
            } => match self.window_of(&holder, &request_id) {
                Ok(id) => self.renew(&id, reply),
                Err(error) => self.outbox.push((reply, Err(error))),
            },
            Command::Extend {
                holder,
                request_id,
                seconds,
                reply,
            } => match self.window_of(&holder, &request_id) {
                Ok(id) => self.extend(&id, holder.uid(), seconds, reply),
                Err(error) => self.outbox.push((reply, Err(error))),
            },
            Command::Heartbeat {
                holder,
                request_id,
                reply,
            } => match self.window_of(&holder, &request_id) {
                Ok(id) => self.heartbeat(&id, holder.uid(), reply),
                Err(error) => self.outbox.push((reply, Err(error))),
            },
            Command::End {
                holder,
                request_id,
                ending,
                detail,
                reply,
            } => match self.window_of(&holder, &request_id) {
                Ok(id) => {
                    let cause = match ending {
                        Ending::Completed => End::Completed,
                        Ending::Failed => End::Failed,
                    };
                    self.end(&id, cause, &detail, Some(reply));
                }
                Err(error) => self.end_again(&holder, &request_id, error, reply),
            },
        }
    }

    /// The process behind `holder`, if it is known and still who it was when it became so. A process that executed another
    /// program has the same number and start: what was its before ends here.
    fn find(&mut self, holder: &Arc<dyn Holder>) -> Option<ProcessKey> {
        let key = holder.key();
        let process = self.processes.get(key)?;
        if Arc::ptr_eq(&process.holder, holder) || process.holder.is_unchanged() {
            return Some(key);
        }
        self.forget(key, End::AttestationLost, "the process changed");
        None
    }

    /// The window that the process holds for this request.
    fn window_of(&mut self, holder: &Arc<dyn Holder>, request_id: &str) -> Result<Arc<str>, TaskError> {
        let key = self.find(holder).ok_or_else(|| not_yours(request_id))?;
        let tracked = self.processes.tracked(key, request_id);
        let tracked = tracked.ok_or_else(|| not_yours(request_id))?;
        tracked.window.clone().ok_or_else(|| {
            let what = format!("the request `{request_id}` has no open window; Watch tells how it stands");
            TaskError::new(ErrorKind::FailedPrecondition, what)
        })
    }

    /// Ending twice is no error: the first end counts.
    fn end_again(&mut self, holder: &Arc<dyn Holder>, request_id: &str, error: TaskError, reply: Reply) {
        let tracked = self.processes.tracked(holder.key(), request_id);
        let spent = tracked.filter(|tracked| error.kind != ErrorKind::NotFound && tracked.is_spent());
        let answer = spent.map(|tracked| tracked.state.borrow().clone()).ok_or(error);
        self.outbox.push((reply, answer));
    }

    fn request(&mut self, applicant: Applicant, entry_id: &EntryId, request: RequestRequest, reply: Reply) {
        // What was another program's is not this one's.
        self.find(&applicant.holder);
        let entry = self.views.borrow().entry(entry_id).cloned();
        let Some(entry) = entry else {
            let gone = TaskError::new(ErrorKind::PermissionDenied, "no identity issued");
            self.outbox.push((reply, Err(gone)));
            return;
        };
        let room = self.processes.check_room(applicant.holder.as_ref(), &self.settings);
        if let Err(error) = room.and_then(|()| self.count_call(applicant.holder.uid())) {
            self.outbox.push((reply, Err(error)));
            return;
        }
        let message = RequestTaskRequest {
            instance: Some(instance(&applicant, entry_id, &self.boot_id)),
            request: Some(request),
        };
        let server = Arc::clone(&self.server);
        let call = async move { server.request(message).await };
        self.call(call, move |result| Landed::Requested {
            applicant,
            entry,
            result,
            reply,
        });
    }

    fn open(&mut self, applicant: Applicant, request_id: String, include_descendants: bool, reply: Reply) {
        let uid = applicant.holder.uid();
        let refuse = |keeper: &mut Self, reply, error| keeper.outbox.push((reply, Err(error)));
        let Some(key) = self.find(&applicant.holder) else {
            return refuse(self, reply, not_yours(&request_id));
        };
        let Some(tracked) = self.processes.tracked_mut(key, &request_id) else {
            return refuse(self, reply, not_yours(&request_id));
        };
        if tracked.window.is_some() {
            let state = tracked.state.borrow().clone();
            self.outbox.push((reply, Ok(state)));
            return;
        }
        if let Some(waiting) = &mut tracked.opening {
            waiting.push(reply);
            return;
        }
        let entry = Arc::clone(&tracked.entry);
        if !entry
            .spec
            .selectors
            .iter()
            .all(|selector| applicant.selectors.contains(selector))
        {
            let what = "the entry that this request was made with does not match the process any more";
            return refuse(self, reply, TaskError::new(ErrorKind::PermissionDenied, what));
        }
        let made = self
            .count_call(uid)
            .and_then(|()| new_key().inspect_err(|_| self.call_done(uid)));
        let (key_pair, csr) = match made {
            Ok(made) => made,
            Err(error) => return refuse(self, reply, error),
        };
        if let Some(tracked) = self.processes.tracked_mut(key, &request_id) {
            tracked.opening = Some(vec![reply]);
            tracked.lost_open = None;
        }
        let message = OpenTaskRequest {
            instance: Some(instance(&applicant, &entry.id, &self.boot_id)),
            request_id: request_id.clone(),
            csr,
            include_descendants,
        };
        let server = Arc::clone(&self.server);
        let call = async move { server.open(message).await.map(|answer| (key_pair, answer)) };
        self.call(call, move |issued| Landed::Opened {
            process: key,
            uid,
            request_id,
            entry,
            include_descendants,
            issued,
        });
    }

    fn renew(&mut self, id: &Arc<str>, reply: Reply) {
        let fresh = self.was_fresh;
        let Some(window) = self.windows.get_mut(id) else { return };
        if window.svid().is_some_and(|svid| svid.given_at.elapsed() < JUST_RENEWED) {
            let state = self.state_of(id);
            self.outbox.push((reply, Ok(state)));
        } else if !fresh {
            let what = "the server is not heard at present; the SVID is renewed as soon as it is";
            self.outbox
                .push((reply, Err(TaskError::new(ErrorKind::Unavailable, what))));
        } else {
            window.waiters.push(reply);
            window.renew_soon(false);
        }
    }

    fn extend(&mut self, id: &Arc<str>, uid: u32, seconds: u32, reply: Reply) {
        if let Err(error) = self.count_call(uid) {
            self.outbox.push((reply, Err(error)));
            return;
        }
        let (server, window_id) = (Arc::clone(&self.server), id.to_string());
        let call = async move { server.extend(window_id, seconds).await };
        self.call(call, move |result| Landed::Extended { uid, result, reply });
    }

    fn heartbeat(&mut self, id: &Arc<str>, uid: u32, reply: Reply) {
        let now = Instant::now();
        let pass_on = self.windows.get_mut(id).is_some_and(|window| window.beat(now));
        // It counts here in any case.
        if !pass_on || self.count_call(uid).is_err() {
            let state = self.state_of(id);
            self.outbox.push((reply, Ok(state)));
            return;
        }
        let (server, window) = (Arc::clone(&self.server), Arc::clone(id));
        let window_id = id.to_string();
        self.call(async move { server.heartbeat(window_id).await }, move |result| {
            Landed::Beaten {
                window,
                uid,
                result,
                reply,
            }
        });
    }

    /// Knows `applicant` from now on, and follows what becomes of it.
    pub(super) fn know(&mut self, applicant: &Applicant) {
        let Applicant { holder, selectors, .. } = applicant;
        if !self.processes.add(holder, selectors) {
            return;
        }
        let key = holder.key();
        if let Some(process) = self.processes.get(key) {
            let events = Arc::clone(holder).events();
            let forgotten = process.forgotten.clone();
            let events = events.map(move |event| (key, event));
            let events = events.take_until(async move { forgotten.cancelled().await });
            self.events.push(events.boxed());
        }
    }
}
