//! The port towards the server.

use async_trait::async_trait;
use mayfly_model::ErrorKind;
use mayfly_proto::mayfly::agent::{
    CloseTaskRequest, IssuedTaskResponse, OpenTaskRequest, RenewTaskRequest, RequestTaskRequest,
};
use mayfly_proto::mayfly::workload::TaskState;

/// Asks the server for tasks. Every call may be dropped at any time; whether it counted is then not known.
#[async_trait]
pub trait TaskServer: Send + Sync + 'static {
    /// Asks for a task.
    ///
    /// # Errors
    /// The server did not take the request, or was not reached.
    async fn request(&self, request: RequestTaskRequest) -> Result<TaskState, TaskError>;

    /// Opens a window.
    ///
    /// # Errors
    /// The server refused, or was not reached; then the window may be open all the same.
    async fn open(&self, request: OpenTaskRequest) -> Result<IssuedTaskResponse, TaskError>;

    /// Gets a further SVID.
    ///
    /// # Errors
    /// The server refused, or was not reached.
    async fn renew(&self, request: RenewTaskRequest) -> Result<IssuedTaskResponse, TaskError>;

    /// Has the end of a window moved by so many seconds, or as many of them as may be.
    ///
    /// # Errors
    /// The server refused, or was not reached; then the end may have moved all the same.
    async fn extend(&self, window_id: String, seconds: u32) -> Result<TaskState, TaskError>;

    /// Passes a sign of life on.
    ///
    /// # Errors
    /// The server refused, or was not reached.
    async fn heartbeat(&self, window_id: String) -> Result<TaskState, TaskError>;

    /// Tells of an end.
    ///
    /// # Errors
    /// The server did not take it, or was not reached.
    async fn close(&self, request: CloseTaskRequest) -> Result<TaskState, TaskError>;
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    /// What it means.
    pub kind: ErrorKind,
    /// For people, with what to do where that is known.
    pub message: String,
}

impl TaskError {
    /// With these words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Whether it is not known if the call counted.
    pub(super) fn is_ambiguous(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Internal | ErrorKind::Unauthenticated
        )
    }

    /// Whether asking the same again, unchanged, can help.
    pub(super) fn is_of_the_moment(&self) -> bool {
        self.is_ambiguous() || matches!(self.kind, ErrorKind::Aborted | ErrorKind::ResourceExhausted)
    }
}
