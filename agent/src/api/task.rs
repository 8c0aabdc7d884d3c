//! `mayfly.workload.v1.Tasks`: processes ask for tasks, on the same socket and by the same rules as the Workload API.
//!
//! Here a call is checked and its caller attested; what becomes of it is a matter of [`Tasks`]. A request belongs to the
//! process that made it: to everybody else it does not exist.

mod limits;

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use mayfly_model::{EntryId, ErrorKind};
use mayfly_proto::mayfly::workload as pb;
use mayfly_proto::mayfly::workload::tasks_server::{Tasks as Service, TasksServer};
use mayfly_runtime::Clock;
use mayfly_runtime::listen::ConnInfo;
use mayfly_svid::{SpiffeId, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use super::ApiMetrics;
use super::caller::{Caller, CallerError, Callers, StreamSlot};
use super::metrics::Refusal;
use super::workload::{FRESH, HeaderCheck, refusal_status};
use crate::news::{News, Offer};
use crate::sync::NO_TASKS;
use crate::tasks::{Applicant, Ending, Holder, TaskError, Tasks};
use crate::view::View;

/// A request with everything that it may have.
const MAX_REQUEST: usize = 64 * 1024;

/// The service.
#[derive(Clone)]
pub(super) struct TaskApi {
    pub(super) tasks: Tasks,
    pub(super) news: Arc<News>,
    pub(super) views: watch::Receiver<Arc<View>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) callers: Arc<Callers>,
    pub(super) metrics: ApiMetrics,
}

/// One `Watch`.
struct Follow {
    states: watch::Receiver<pb::TaskState>,
    caller: Arc<Caller>,
    connection: ConnInfo,
    told: bool,
    _slot: StreamSlot,
}

impl TaskApi {
    /// With the check of the security header in front of every call.
    pub(super) fn into_service(self) -> InterceptedService<TasksServer<Self>, HeaderCheck> {
        let check = HeaderCheck::new(self.metrics.clone());
        InterceptedService::new(TasksServer::new(self).max_decoding_message_size(MAX_REQUEST), check)
    }

    fn refuse(&self, reason: Refusal) -> Status {
        self.metrics.count_refusal(reason);
        refusal_status(reason)
    }

    /// Who calls, if there are tasks to be had at all.
    fn caller<T>(&self, request: &Request<T>) -> Result<(Arc<Caller>, ConnInfo), Status> {
        if *self.news.offer().borrow() == Offer::Nothing {
            return Err(Status::unimplemented(NO_TASKS));
        }
        let extensions = request.extensions();
        let (Some(caller), Some(connection)) = (extensions.get::<Arc<Caller>>(), extensions.get::<ConnInfo>()) else {
            return Err(self.refuse(Refusal::Internal));
        };
        Ok((Arc::clone(caller), connection.clone()))
    }

    /// Nobody gets further into a task while the server's log is refused; out of it always.
    fn ensure_trusted(&self) -> Result<(), Status> {
        self.news
            .distrust()
            .refusal()
            .map_or(Ok(()), |why| Err(Status::failed_precondition(why)))
    }

    /// As [`caller`](Self::caller), and still who connected.
    fn holder<T>(&self, request: &Request<T>) -> Result<Arc<dyn Holder>, Status> {
        let (caller, connection) = self.caller(request)?;
        if let Err(error) = caller.ensure_unchanged() {
            return Err(self.not_attested(error, &connection));
        }
        Ok(caller)
    }

    /// As [`caller`](Self::caller), attested just now.
    async fn applicant<T>(&self, request: &Request<T>) -> Result<Applicant, Status> {
        let (caller, connection) = self.caller(request)?;
        let attested = caller.attest(FRESH).await;
        let selectors = attested.map_err(|error| self.not_attested(error, &connection))?;
        Ok(Applicant {
            selectors,
            attested_at: caller.attested_at().unwrap_or_else(Instant::now),
            holder: caller,
        })
    }

    fn not_attested(&self, error: CallerError, connection: &ConnInfo) -> Status {
        self.refuse(match error {
            CallerError::Over => {
                connection.close();
                Refusal::CallerOver
            }
            CallerError::Busy => Refusal::Overload,
            CallerError::Attest(_) => Refusal::Attestation,
        })
    }

    /// The entry whose identity asks: the first that matches, or the one with this SPIFFE ID.
    fn entry(&self, applicant: &Applicant, spiffe_id: &str) -> Result<EntryId, Status> {
        let wanted = match spiffe_id {
            "" => None,
            text => Some(
                text.parse::<SpiffeId>()
                    .map_err(|error| Status::invalid_argument(format!("spiffe_id: {error}")))?,
            ),
        };
        let view = Arc::clone(&self.views.borrow());
        let now = Timestamp::from(self.clock.now());
        let mut entries = view.matching(&applicant.selectors);
        entries.retain(|entry| !entry.is_expired(now));
        if entries.is_empty() {
            return Err(self.refuse(if view.synced() {
                Refusal::NoIdentity
            } else {
                Refusal::NotSynced
            }));
        }
        let named = entries
            .iter()
            .find(|entry| wanted.as_ref().is_none_or(|wanted| entry.spec.spiffe_id == *wanted));
        let none = || {
            let ids: Vec<_> = entries.iter().map(|entry| entry.spec.spiffe_id.as_str()).collect();
            let ids = ids.join(", ");
            Status::permission_denied(format!("this process is not `{spiffe_id}`; it is {ids}"))
        };
        Ok(named.ok_or_else(none)?.id.clone())
    }
}

#[tonic::async_trait]
impl Service for TaskApi {
    type WatchStream = BoxStream<'static, Result<pb::TaskState, Status>>;

    async fn request(&self, request: Request<pb::RequestRequest>) -> Result<Response<pb::TaskState>, Status> {
        limits::check(request.get_ref()).map_err(Status::invalid_argument)?;
        self.ensure_trusted()?;
        let applicant = self.applicant(&request).await?;
        let entry_id = self.entry(&applicant, &request.get_ref().spiffe_id)?;
        answer(self.tasks.request(applicant, entry_id, request.into_inner()).await)
    }

    async fn open(&self, request: Request<pb::OpenRequest>) -> Result<Response<pb::TaskState>, Status> {
        self.ensure_trusted()?;
        let applicant = self.applicant(&request).await?;
        let pb::OpenRequest {
            request_id,
            include_descendants,
        } = request.into_inner();
        answer(self.tasks.open(applicant, request_id, include_descendants).await)
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let holder = self.holder(&request)?;
        let (caller, connection) = self.caller(&request)?;
        let slot = self.callers.open_stream(&caller);
        let slot = slot.ok_or_else(|| self.refuse(Refusal::Overload))?;
        let states = self.tasks.watch(holder, request.into_inner().request_id).await;
        let follow = Follow {
            states: states.map_err(|error| status(&error))?,
            caller,
            connection,
            told: false,
            _slot: slot,
        };
        let states = unfold(Some(follow), async |follow| {
            let mut follow = follow?;
            match follow.next().await? {
                Ok(state) => Some((Ok(state), Some(follow))),
                Err(reason) => Some((Err(refusal_status(reason)), None)),
            }
        });
        Ok(Response::new(states.boxed()))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::TaskState>, Status> {
        self.ensure_trusted()?;
        let holder = self.holder(&request)?;
        answer(self.tasks.renew(holder, request.into_inner().request_id).await)
    }

    async fn extend(&self, request: Request<pb::ExtendRequest>) -> Result<Response<pb::TaskState>, Status> {
        self.ensure_trusted()?;
        let holder = self.holder(&request)?;
        let pb::ExtendRequest { request_id, seconds } = request.into_inner();
        answer(self.tasks.extend(holder, request_id, seconds).await)
    }

    async fn heartbeat(&self, request: Request<pb::HeartbeatRequest>) -> Result<Response<pb::TaskState>, Status> {
        let holder = self.holder(&request)?;
        answer(self.tasks.heartbeat(holder, request.into_inner().request_id).await)
    }

    async fn complete(&self, request: Request<pb::EndRequest>) -> Result<Response<pb::TaskState>, Status> {
        self.end(request, Ending::Completed).await
    }

    async fn fail(&self, request: Request<pb::EndRequest>) -> Result<Response<pb::TaskState>, Status> {
        self.end(request, Ending::Failed).await
    }
}

impl TaskApi {
    async fn end(&self, request: Request<pb::EndRequest>, ending: Ending) -> Result<Response<pb::TaskState>, Status> {
        limits::check_detail(&request.get_ref().detail).map_err(Status::invalid_argument)?;
        let holder = self.holder(&request)?;
        let pb::EndRequest { request_id, detail } = request.into_inner();
        answer(self.tasks.end(holder, request_id, ending, detail).await)
    }
}

impl Follow {
    /// The next state; `None` after the last one.
    async fn next(&mut self) -> Option<Result<pb::TaskState, Refusal>> {
        loop {
            if !self.told {
                self.told = true;
                return Some(Ok(self.states.borrow_and_update().clone()));
            }
            let closing = self.connection.closing();
            tokio::select! {
                biased;
                changed = self.states.changed() => {
                    changed.ok()?;
                    self.told = false;
                }
                () = self.caller.exited() => return Some(Err(Refusal::CallerOver)),
                () = self.caller.over() => return Some(Err(Refusal::CallerOver)),
                () = closing.cancelled() => return Some(Err(Refusal::Draining)),
            }
        }
    }
}

fn answer(result: Result<pb::TaskState, TaskError>) -> Result<Response<pb::TaskState>, Status> {
    result.map(Response::new).map_err(|error| status(&error))
}

fn status(error: &TaskError) -> Status {
    let code = match error.kind {
        ErrorKind::InvalidArgument => tonic::Code::InvalidArgument,
        ErrorKind::NotFound => tonic::Code::NotFound,
        ErrorKind::AlreadyExists => tonic::Code::AlreadyExists,
        ErrorKind::Unauthenticated => tonic::Code::Unauthenticated,
        ErrorKind::PermissionDenied => tonic::Code::PermissionDenied,
        ErrorKind::FailedPrecondition => tonic::Code::FailedPrecondition,
        ErrorKind::ResourceExhausted => tonic::Code::ResourceExhausted,
        ErrorKind::Aborted => tonic::Code::Aborted,
        ErrorKind::Unavailable => tonic::Code::Unavailable,
        ErrorKind::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        ErrorKind::Unimplemented => tonic::Code::Unimplemented,
        ErrorKind::Internal => tonic::Code::Internal,
    };
    Status::new(code, &error.message)
}
