//! The test server's tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use mayfly_proto::mayfly::agent::tasks_server::Tasks;
use mayfly_proto::mayfly::agent::{
    CloseCause, CloseTaskRequest, Enforced, EnforcedBy, ExtendTaskRequest, HeartbeatTaskRequest, IssuedTaskResponse,
    OpenTaskRequest, RenewTaskRequest, RequestTaskRequest, TaskResponse, Update,
};
use mayfly_proto::mayfly::workload::{Revoked, Stage, TaskState};
use mayfly_runtime::{Clock, SystemClock};
use mayfly_svid::{TaskExtension, Timestamp, WindowId};
use tonic::{Request, Response, Status};

use super::TestServer;

const ID: &str = "spiffe://td/task/pay/migrate/a";

/// What it knows of tasks.
#[derive(Default)]
pub(in crate::sync) struct TaskBook {
    /// At which revision, and what.
    pub(in crate::sync) revoked: Vec<(u64, Revoked)>,
    pub(in crate::sync) told: Vec<(u64, TaskState)>,
    pub(in crate::sync) epoch: u64,
    pub(in crate::sync) crls: Vec<Vec<u8>>,
    /// By ID: the end, and whether it is open.
    pub(in crate::sync) windows: BTreeMap<String, (i64, bool)>,
    /// Process ID and start of who has which.
    pub(in crate::sync) holders: BTreeMap<String, (u32, u64)>,
    /// The reports that came.
    pub(in crate::sync) enforced: Vec<Vec<EnforcedBy>>,
    /// For how long it says that its words count.
    pub(in crate::sync) lease_ms: u32,
    /// There are none: calls are not known.
    pub(in crate::sync) absent: bool,
}

impl TaskBook {
    pub(super) fn fill(&self, update: &mut Update, held: u64) {
        let is_new = |at: u64| update.snapshot || at > held;
        let revoked = self.revoked.iter().filter(|(at, _)| is_new(*at));
        let revoked = revoked.map(|(_, item)| item.clone()).collect();
        let told = self.told.iter().filter(|(at, _)| is_new(*at));
        update.tasks = told.map(|(_, state)| state.clone()).collect();
        update.revoked = revoked;
        update.epoch = self.epoch;
        update.lease_ms = self.lease_ms;
    }
}

impl TestServer {
    pub(super) fn enforced(&self, enforced: Enforced) {
        self.state().tasks.enforced.push(enforced.checkpoints);
    }

    /// Revokes, and tells.
    pub(in crate::sync) fn revoke(&self, window_id: &str, serials: Vec<Vec<u8>>) {
        self.set(|state| {
            state.revision += 1;
            state.tasks.epoch += 1;
            let item = Revoked {
                window_id: window_id.into(),
                serials,
                not_after: 4_000_000_000,
                epoch: state.tasks.epoch,
            };
            state.tasks.revoked.push((state.revision, item));
        });
    }

    /// Tells the state of a task.
    pub(in crate::sync) fn tell(&self, window_id: &str, stage: Stage) {
        let told = self.task_state(window_id, stage);
        self.set(|state| {
            state.revision += 1;
            state.tasks.told.push((state.revision, told));
        });
    }

    fn task_state(&self, window_id: &str, stage: Stage) -> TaskState {
        let closes_at = self
            .state()
            .tasks
            .windows
            .get(window_id)
            .map_or(0, |(closes_at, _)| *closes_at);
        let holder = self.state().tasks.holders.get(window_id).copied();
        let (holder_pid, holder_start_ticks) = holder.unwrap_or_default();
        TaskState {
            request_id: "r1".into(),
            task: "pay/migrate".into(),
            stage: stage.into(),
            window_id: window_id.into(),
            spiffe_id: ID.into(),
            closes_at,
            holder_pid,
            holder_start_ticks,
            ..TaskState::default()
        }
    }

    fn check_tasks<T>(&self, request: &Request<T>, line: String) -> Result<(), Status> {
        self.caller(request)?;
        if self.state().tasks.absent {
            return Err(Status::unimplemented("unknown service"));
        }
        self.note(line);
        Ok(())
    }

    fn issue_task(&self, window_id: &str, csr: &[u8]) -> IssuedTaskResponse {
        let (closes_at, _) = self.state().tasks.windows[window_id];
        let extension = TaskExtension {
            window_id: window_id.parse().unwrap(),
            definition_hash: [0; 16],
            closes: Timestamp::from_unix(closes_at),
            log_index: 1,
        };
        let certificate = self.ca.sign_task(csr, ID, Duration::from_secs(300), &extension);
        IssuedTaskResponse {
            state: Some(self.task_state(window_id, Stage::Open)),
            cert_chain: vec![certificate],
            strict: true,
            ..IssuedTaskResponse::default()
        }
    }
}

#[async_trait]
impl Tasks for TestServer {
    async fn request(&self, request: Request<RequestTaskRequest>) -> Result<Response<TaskResponse>, Status> {
        self.check_tasks(&request, "Task request".into())?;
        let state = Some(self.task_state("", Stage::Armed));
        Ok(Response::new(TaskResponse { state }))
    }

    async fn open(&self, request: Request<OpenTaskRequest>) -> Result<Response<IssuedTaskResponse>, Status> {
        self.check_tasks(&request, "Task open".into())?;
        let window_id = WindowId(rand::random()).to_string();
        let closes_at = SystemClock.unix_now() + 900;
        self.state().tasks.windows.insert(window_id.clone(), (closes_at, true));
        let instance = request.get_ref().instance.as_ref();
        let holder = instance.map(|instance| (instance.pid, instance.start_ticks));
        self.state()
            .tasks
            .holders
            .insert(window_id.clone(), holder.unwrap_or_default());
        Ok(Response::new(self.issue_task(&window_id, &request.get_ref().csr)))
    }

    async fn renew(&self, request: Request<RenewTaskRequest>) -> Result<Response<IssuedTaskResponse>, Status> {
        self.check_tasks(&request, "Task renew".into())?;
        let RenewTaskRequest { window_id, csr, .. } = request.into_inner();
        if !self
            .state()
            .tasks
            .windows
            .get(&window_id)
            .is_some_and(|(_, open)| *open)
        {
            return Err(Status::not_found("no such window"));
        }
        Ok(Response::new(self.issue_task(&window_id, &csr)))
    }

    async fn extend(&self, request: Request<ExtendTaskRequest>) -> Result<Response<TaskResponse>, Status> {
        self.check_tasks(&request, "Task extend".into())?;
        let ExtendTaskRequest { window_id, seconds } = request.into_inner();
        let mut state = self.task_state(&window_id, Stage::Open);
        state.closes_at += i64::from(seconds);
        Ok(Response::new(TaskResponse { state: Some(state) }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatTaskRequest>) -> Result<Response<TaskResponse>, Status> {
        self.check_tasks(&request, "Task heartbeat".into())?;
        let state = Some(self.task_state(&request.get_ref().window_id, Stage::Open));
        Ok(Response::new(TaskResponse { state }))
    }

    async fn close(&self, request: Request<CloseTaskRequest>) -> Result<Response<TaskResponse>, Status> {
        let cause = CloseCause::try_from(request.get_ref().cause).unwrap();
        self.check_tasks(&request, format!("Task close {}", cause.as_str_name()))?;
        let window_id = request.into_inner().window_id;
        if let Some((_, open)) = self.state().tasks.windows.get_mut(&window_id) {
            *open = false;
        }
        let state = Some(self.task_state(&window_id, Stage::Closed));
        Ok(Response::new(TaskResponse { state }))
    }
}
