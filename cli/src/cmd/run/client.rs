//! The tasks of the agent, as calls and as what happens to one request.

use std::time::Duration;

use mayfly_proto::mayfly::workload::tasks_client::TasksClient;
use mayfly_proto::mayfly::workload::{
    EndRequest, HeartbeatRequest, OpenRequest, RequestRequest, Stage, TaskState, WatchRequest,
};
use mayfly_runtime::BackoffPolicy;
use tokio::sync::mpsc;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::workload::{Identity, Workload, identities};

const RECONNECT: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(2));
/// The longest word for the record about how it ended.
const DETAIL_MAX: usize = 256;

/// What happens to a request, and to the identity of its window.
pub(crate) enum Event {
    /// It stands so now.
    State(Box<TaskState>),
    /// The agent does not know it, or not for this process.
    Unknown(Status),
    /// The agent does not answer; it is asked again.
    Away(Status),
    /// The identity of the window, new or renewed.
    Identity(Box<Identity>),
    /// The window has no identity now.
    NoIdentity,
    /// What the agent sent as an identity is none.
    Unusable(String),
}

/// The agent's tasks.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    client: TasksClient<Channel>,
    timeout: Duration,
}

impl Tasks {
    /// Those behind `workload`.
    pub(crate) fn of(workload: &Workload, timeout: Duration) -> Self {
        Self {
            client: workload.tasks(),
            timeout,
        }
    }

    /// Asks for a task. An agent that is just starting is asked again.
    ///
    /// # Errors
    /// The agent's status.
    pub(crate) async fn request(&self, request: &RequestRequest) -> Result<TaskState, Status> {
        self.persistently(async || self.client.clone().request(self.message(request.clone())).await)
            .await
    }

    /// Opens the window for this process and what it starts.
    ///
    /// # Errors
    /// The agent's status.
    pub(crate) async fn open(&self, id: &str) -> Result<TaskState, Status> {
        let request = OpenRequest {
            request_id: id.to_owned(),
            include_descendants: true,
        };
        self.persistently(async || self.client.clone().open(self.message(request.clone())).await)
            .await
    }

    /// Says that the task is over: well, or with what went wrong. Tried again for as long as one call may take.
    ///
    /// # Errors
    /// The agent's status.
    pub(crate) async fn end(&self, id: &str, well: bool, detail: &str) -> Result<TaskState, Status> {
        let mut cut = detail.len().min(DETAIL_MAX);
        while !detail.is_char_boundary(cut) {
            cut -= 1;
        }
        let request = EndRequest {
            request_id: id.to_owned(),
            detail: detail[..cut].to_owned(),
        };
        let call = async || {
            let (mut client, message) = (self.client.clone(), self.message(request.clone()));
            if well {
                client.complete(message).await
            } else {
                client.fail(message).await
            }
        };
        self.persistently(call).await
    }

    /// Tells what happens to the request until it is over, or nobody listens.
    pub(crate) async fn follow(self, id: String, events: mpsc::Sender<Event>) {
        let mut backoff = RECONNECT.start();
        loop {
            let watch = WatchRequest { request_id: id.clone() };
            let mut message = Request::new(watch);
            mark(&mut message);
            let status = match self.client.clone().watch(message).await {
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(state)) => {
                                backoff.reset();
                                let over = is_over(state.stage());
                                if events.send(Event::State(Box::new(state))).await.is_err() || over {
                                    return;
                                }
                            }
                            Ok(None) => break Status::unavailable("the agent ended the stream"),
                            Err(status) => break status,
                        }
                    }
                }
                Err(status) => status,
            };
            if is_final(status.code()) {
                let _ = events.send(Event::Unknown(status)).await;
                return;
            }
            if events.send(Event::Away(status)).await.is_err() {
                return;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Gives a sign of life after each `pause` until nobody listens.
    pub(crate) async fn live(self, id: String, pause: Duration, events: mpsc::Sender<Event>) {
        let mut beat = tokio::time::interval(pause);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.tick().await;
        loop {
            tokio::select! {
                () = events.closed() => return,
                _ = beat.tick() => {}
            }
            let request = HeartbeatRequest { request_id: id.clone() };
            // What it means when they do not arrive is the agent's to say, on the stream.
            if let Ok(answer) = self.client.clone().heartbeat(self.message(request)).await
                && is_over(answer.get_ref().stage())
                && events.send(Event::State(Box::new(answer.into_inner()))).await.is_err()
            {
                return;
            }
        }
    }

    fn message<T>(&self, body: T) -> Request<T> {
        let mut message = Request::new(body);
        mark(&mut message);
        message.set_timeout(self.timeout);
        message
    }

    /// Calls until there is another answer than "not now", at most for the time that one call may take.
    async fn persistently<F>(&self, call: F) -> Result<TaskState, Status>
    where
        F: AsyncFn() -> Result<tonic::Response<TaskState>, Status>,
    {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let mut backoff = RECONNECT.start();
        loop {
            let status = match tokio::time::timeout_at(deadline, call()).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(Status::deadline_exceeded("")),
            };
            let pause = backoff.next_delay();
            if !is_passing(&status) || tokio::time::Instant::now() + pause >= deadline {
                return Err(status);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Follows the identity of the window that `state` describes, until nobody listens.
pub(crate) async fn follow_identity(workload: Workload, state: TaskState, events: mpsc::Sender<Event>) {
    let mut backoff = RECONNECT.start();
    // Chain and bundle of what was told last: a stream that begins anew begins with what is known.
    let mut last: Option<(Vec<Vec<u8>>, String)> = None;
    loop {
        let mut no_identity = false;
        match workload.stream().await {
            Ok(mut stream) => {
                while let Ok(Some(answer)) = stream.message().await {
                    backoff.reset();
                    let event = match identities(answer) {
                        Ok(all) => match of_window(all, &state) {
                            None => Event::NoIdentity,
                            Some(identity) => {
                                let chain = identity.svid.chain().iter().map(|der| der.to_vec()).collect();
                                let seen = Some((chain, identity.bundle.x509_to_pem()));
                                if seen == last {
                                    continue;
                                }
                                last = seen;
                                Event::Identity(Box::new(identity))
                            }
                        },
                        Err(error) => Event::Unusable(error.to_string()),
                    };
                    if matches!(event, Event::NoIdentity) {
                        last = None;
                    }
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            }
            // Not even a base identity.
            Err(status) if status.code() == Code::PermissionDenied => no_identity = true,
            Err(_) => {}
        }
        if no_identity {
            last = None;
            if events.send(Event::NoIdentity).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = events.closed() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// The identity of the window. A window inside another one of the same task has the same name: the newest is ours.
pub(crate) fn of_window(all: Vec<Identity>, state: &TaskState) -> Option<Identity> {
    let ours = all.into_iter().filter(|identity| {
        identity.hint == state.hint
            && (state.spiffe_id.is_empty() || identity.svid.spiffe_id().as_str() == state.spiffe_id)
    });
    ours.max_by_key(|identity| identity.svid.not_before())
}

/// Whether nothing follows that could give authority again.
pub(crate) fn is_over(stage: Stage) -> bool {
    matches!(stage, Stage::Denied | Stage::Closed | Stage::Settled | Stage::Lapsed)
}

/// Whether asking again would give the same answer.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::Unimplemented
    )
}

/// Whether it is about the connection, or about a moment. A server that is busy says so with `Unavailable`; what tonic
/// makes of a connection that broke has no code of its own.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Aborted | Code::Cancelled => true,
        Code::Unknown | Code::Internal => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

fn mark<T>(message: &mut Request<T>) {
    // WEP-07
    message
        .metadata_mut()
        .insert("workload.spiffe.io", AsciiMetadataValue::from_static("true"));
}
