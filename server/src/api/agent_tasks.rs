//! `mayfly.agent.v1.Tasks`: what agents ask on behalf of the processes that they attested.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::Selectors;
use mayfly_model::task::{Instance, Stage, Staleness, Task, Window};
use mayfly_proto::convert::task::{close_cause, task_state};
use mayfly_proto::mayfly::agent::tasks_server::Tasks as TasksApi;
use mayfly_proto::mayfly::agent::{self as wire, *};
use mayfly_proto::mayfly::workload::TaskState;
use mayfly_svid::WindowId;
use tonic::{Request, Response, Status};

use super::status::{invalid, to_status};
use super::{Api, Call};
use crate::app::tasks::{Asked, Attested, Opened, TaskError};

/// The longest name of a boot, in bytes: the kernel's is a UUID.
const BOOT_ID_MAX: usize = 64;
/// The longest detail of an end, in bytes; more is cut.
const DETAIL_MAX: usize = 256;

pub(super) struct AgentTasksService(pub(super) Arc<Api>);

impl AgentTasksService {
    /// While this server's database is not the one that belongs to its log, nobody gets an SVID of a task.
    fn ensure_sound(&self) -> Result<(), Status> {
        let doubt = self.0.feeds.witnesses.as_ref().and_then(|witnesses| witnesses.doubt());
        doubt.map_or(Ok(()), |why| {
            let what =
                format!("the server signs nothing for tasks: {why}. Its operator has to restore the right database");
            Err(Status::failed_precondition(what))
        })
    }
}

#[tonic::async_trait]
impl TasksApi for AgentTasksService {
    async fn request(&self, request: Request<RequestTaskRequest>) -> Result<Response<TaskResponse>, Status> {
        let call = Call::of(&request)?;
        let RequestTaskRequest { instance, request } = request.into_inner();
        let process = process_of(&call, instance, false)?;
        let asked = read_asked(request.ok_or_else(|| invalid("request: is missing"))?)?;
        let task = self
            .0
            .tasks
            .request(&call.actor, &process, asked)
            .await
            .map_err(status)?;
        answer(task_state(&task, window_for(&task, &process.instance)))
    }

    async fn open(&self, request: Request<OpenTaskRequest>) -> Result<Response<IssuedTaskResponse>, Status> {
        self.ensure_sound()?;
        let call = Call::of(&request)?;
        let OpenTaskRequest {
            instance,
            request_id,
            csr,
            include_descendants,
        } = request.into_inner();
        let process = process_of(&call, instance, include_descendants)?;
        let id = request_id
            .parse()
            .map_err(|error| invalid(format!("request_id: {error}")))?;
        let opened = self
            .0
            .tasks
            .open(&call.actor, &process, &id, csr)
            .await
            .map_err(status)?;
        Ok(Response::new(issued(&opened)))
    }

    async fn renew(&self, request: Request<RenewTaskRequest>) -> Result<Response<IssuedTaskResponse>, Status> {
        self.ensure_sound()?;
        let call = Call::of(&request)?;
        let RenewTaskRequest {
            instance,
            window_id,
            csr,
        } = request.into_inner();
        let process = process_of(&call, instance, false)?;
        let window = read_window(&window_id)?;
        let opened = self
            .0
            .tasks
            .renew(&call.actor, &process, window, csr)
            .await
            .map_err(status)?;
        Ok(Response::new(issued(&opened)))
    }

    async fn extend(&self, request: Request<ExtendTaskRequest>) -> Result<Response<TaskResponse>, Status> {
        let call = Call::of(&request)?;
        let agent = call.agent()?.clone();
        let ExtendTaskRequest { window_id, seconds } = request.into_inner();
        let window = read_window(&window_id)?;
        let more = Duration::from_secs(u64::from(seconds));
        let extended = self.0.tasks.extend(&call.actor, &agent, window, more).await;
        let task = extended.map_err(status)?;
        answer(task_state(&task, task.window(&window)))
    }

    async fn heartbeat(&self, request: Request<HeartbeatTaskRequest>) -> Result<Response<TaskResponse>, Status> {
        let call = Call::of(&request)?;
        let agent = call.agent()?.clone();
        let window = read_window(&request.into_inner().window_id)?;
        let task = self
            .0
            .tasks
            .heartbeat(&call.actor, &agent, window)
            .await
            .map_err(status)?;
        answer(task_state(&task, task.window(&window)))
    }

    async fn close(&self, request: Request<CloseTaskRequest>) -> Result<Response<TaskResponse>, Status> {
        let call = Call::of(&request)?;
        let agent = call.agent()?.clone();
        let CloseTaskRequest {
            window_id,
            cause,
            detail,
        } = request.into_inner();
        let window = read_window(&window_id)?;
        let cause = CloseCause::try_from(cause)
            .ok()
            .and_then(close_cause)
            .ok_or_else(|| invalid("cause: is none that agents have"))?;
        let detail = cut(detail);
        let closed = self.0.tasks.close(&call.actor, &agent, window, cause, detail).await;
        let task = closed.map_err(status)?;
        answer(task_state(&task, task.window(&window)))
    }
}

fn status(error: TaskError) -> Status {
    to_status(&error)
}

fn answer(state: TaskState) -> Result<Response<TaskResponse>, Status> {
    Ok(Response::new(TaskResponse { state: Some(state) }))
}

fn issued(opened: &Opened) -> IssuedTaskResponse {
    let definition = &opened.definition.definition;
    let heartbeat = definition.heartbeat.as_ref();
    IssuedTaskResponse {
        state: Some(task_state(&opened.task, opened.task.window(&opened.window))),
        cert_chain: opened.svid.chain().iter().map(|der| der.to_vec()).collect(),
        promote_default: definition.identity.promote_default,
        strict: definition.ending.staleness == Staleness::Strict,
        heartbeat_seconds: heartbeat.map_or(0, |rule| u32::try_from(rule.interval.as_secs()).unwrap_or(u32::MAX)),
        heartbeats_missed: heartbeat.map_or(0, |rule| rule.missed),
    }
}

/// The window that a process is told of when it asks for a task: the one that it has, or none while it can open one. When
/// there is nothing for it to open, the newest says why.
fn window_for<'a>(task: &'a Task, process: &Instance) -> Option<&'a Window> {
    let own = |window: &&Window| window.instance.is_same_process(process);
    let mut own = task.windows.iter().rev().filter(own);
    match own.clone().find(|window| window.stage.is_live_window()) {
        None if task.stage == Stage::Armed => None,
        live => live.or_else(|| own.next()).or(task.windows.last()),
    }
}

fn process_of(call: &Call, instance: Option<wire::Instance>, include_descendants: bool) -> Result<Attested, Status> {
    let agent = call.agent()?;
    let wire::Instance {
        entry_id,
        selectors,
        pid,
        uid,
        start_ticks,
        boot_id,
        attested_ms_ago,
    } = instance.ok_or_else(|| invalid("instance: is missing"))?;
    let entry_id = entry_id.parse().map_err(|_| to_status(&TaskError::NoSuchEntry))?;
    if boot_id.is_empty() || boot_id.len() > BOOT_ID_MAX || !boot_id.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(invalid("instance.boot_id: is no name of a boot"));
    }
    let selectors: Result<Selectors, _> = selectors.iter().map(|text| text.parse()).collect();
    let selectors = selectors.map_err(|error| invalid(format!("instance.selectors: {error}")))?;
    let instance = Instance {
        agent_id: agent.id.clone(),
        pid,
        uid,
        start_ticks,
        boot_id,
        include_descendants,
    };
    let attested_at = call.now.minus(Duration::from_millis(u64::from(attested_ms_ago)));
    Attested::new(
        &call.snapshot,
        agent,
        &entry_id,
        selectors,
        instance,
        attested_at,
        call.now,
    )
    .map_err(|refused| to_status(&refused))
}

fn read_asked(wire: mayfly_proto::mayfly::workload::RequestRequest) -> Result<Asked, Status> {
    let mayfly_proto::mayfly::workload::RequestRequest {
        task,
        reason,
        ticket,
        window_seconds,
        scopes,
        parameters,
        idempotency_key,
        spiffe_id: _, // The agent has found the entry that gives it.
    } = wire;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Asked {
        task: task.parse().map_err(|error| invalid(format!("task: {error}")))?,
        reason,
        ticket: given(ticket),
        window: Some(window_seconds)
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(u64::from(seconds))),
        scopes: scopes.into_iter().collect(),
        parameters: parameters.into_iter().collect(),
        idempotency_key: given(idempotency_key),
    })
}

pub(super) fn read_window(text: &str) -> Result<WindowId, Status> {
    text.parse().map_err(|error| invalid(format!("window_id: {error}")))
}

fn cut(mut detail: String) -> String {
    detail.retain(|c| !c.is_control());
    detail.truncate(detail.floor_char_boundary(DETAIL_MAX.min(detail.len())));
    detail
}
