//! Asks the server for tasks, over whatever connection there is (`mayfly.agent.v1.Tasks`).

use std::sync::Arc;

use async_trait::async_trait;
use mayfly_model::ErrorKind;
use mayfly_proto::mayfly::agent::tasks_client::TasksClient;
use mayfly_proto::mayfly::agent::{
    CloseTaskRequest, ExtendTaskRequest, HeartbeatTaskRequest, IssuedTaskResponse, OpenTaskRequest, RenewTaskRequest,
    RequestTaskRequest, TaskResponse,
};
use mayfly_proto::mayfly::workload::TaskState;
use mayfly_proto::status::Reason;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::call::{self, CallError};
use super::issuer::kind_of;
use super::link::Link;
use crate::news::News;
use crate::tasks::{TaskError, TaskServer};

/// What callers are told where there are no tasks.
pub const NO_TASKS: &str = "the server of this agent has no tasks: it is not a Mayfly server, or an older one";

/// The server, as the one who decides on tasks.
#[derive(Clone, Debug)]
pub struct ServerTasks {
    link: Arc<Link>,
    news: Arc<News>,
}

// === impl ServerTasks ===

impl ServerTasks {
    /// Calls over the connection that `link` has at the time of the call; what is issued, the witness of `news` wants to
    /// see in the log.
    pub fn new(link: Arc<Link>, news: Arc<News>) -> Self {
        Self { link, news }
    }

    fn issued(&self, answer: IssuedTaskResponse) -> IssuedTaskResponse {
        if let (Some(witness), Some(leaf)) = (self.news.witness(), answer.cert_chain.first()) {
            witness.was_sent(leaf);
        }
        answer
    }

    fn client(&self, call: &'static str) -> Result<TasksClient<Channel>, CallError> {
        let away = || CallError::new(call, Status::unavailable("the agent is not connected to the server"));
        Ok(TasksClient::new(self.link.channel().ok_or_else(away)?))
    }

    async fn call<T, F>(&self, call: &'static str, send: impl FnOnce(TasksClient<Channel>) -> F) -> Result<T, TaskError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let result = match self.client(call) {
            Ok(client) => call::unary(call, send(client)).await,
            Err(error) => Err(error),
        };
        result.map_err(|error| {
            self.link.report(&error);
            error_of(&error)
        })
    }
}

/// What a failed call means to the process that asked.
fn error_of(error: &CallError) -> TaskError {
    if error.refusal().is_some_and(|reason| reason != Reason::Unknown) {
        // It is the agent that the server will not hear, which is no matter of the process.
        return TaskError::new(
            ErrorKind::Unavailable,
            "the server does not accept this agent at present",
        );
    }
    match error.code() {
        Code::Unimplemented => TaskError::new(ErrorKind::Unimplemented, NO_TASKS),
        Code::Unauthenticated => TaskError::new(ErrorKind::Unavailable, "the server does not know this agent yet"),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => TaskError::new(
            ErrorKind::Unavailable,
            "the server cannot be reached at present; try again",
        ),
        code => TaskError::new(kind_of(code), error.message()),
    }
}

fn state_of(response: TaskResponse) -> Result<TaskState, TaskError> {
    let missing = || TaskError::new(ErrorKind::Internal, "the server's answer has no state");
    response.state.ok_or_else(missing)
}

#[async_trait]
impl TaskServer for ServerTasks {
    async fn request(&self, request: RequestTaskRequest) -> Result<TaskState, TaskError> {
        let answer = self.call("Tasks.Request", async |mut client| client.request(request).await);
        state_of(answer.await?)
    }

    async fn open(&self, request: OpenTaskRequest) -> Result<IssuedTaskResponse, TaskError> {
        let answer = self.call("Tasks.Open", async |mut client| client.open(request).await);
        Ok(self.issued(answer.await?))
    }

    async fn renew(&self, request: RenewTaskRequest) -> Result<IssuedTaskResponse, TaskError> {
        let answer = self.call("Tasks.Renew", async |mut client| client.renew(request).await);
        Ok(self.issued(answer.await?))
    }

    async fn extend(&self, window_id: String, seconds: u32) -> Result<TaskState, TaskError> {
        let request = ExtendTaskRequest { window_id, seconds };
        let answer = self.call("Tasks.Extend", async |mut client| client.extend(request).await);
        state_of(answer.await?)
    }

    async fn heartbeat(&self, window_id: String) -> Result<TaskState, TaskError> {
        let request = HeartbeatTaskRequest { window_id };
        let answer = self.call("Tasks.Heartbeat", async |mut client| client.heartbeat(request).await);
        state_of(answer.await?)
    }

    async fn close(&self, request: CloseTaskRequest) -> Result<TaskState, TaskError> {
        let answer = self.call("Tasks.Close", async |mut client| client.close(request).await);
        state_of(answer.await?)
    }
}
