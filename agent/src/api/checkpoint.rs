//! `mayfly.workload.v1.Checkpoint`: consumers of certificates learn what is revoked, and say what they enforce.
//!
//! A stream is a generator, as those of the Workload API: HTTP/2 asks it for the next message when the consumer can take
//! one, and what came meanwhile is in it. It holds no more than a place in the set that all share.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use mayfly_proto::mayfly::workload as pb;
use mayfly_proto::mayfly::workload::checkpoint_server::{Checkpoint, CheckpointServer};
use mayfly_proto::mayfly::workload::enforce_request::Body;
use mayfly_runtime::Clock;
use mayfly_runtime::listen::ConnInfo;
use mayfly_svid::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::ApiMetrics;
use super::caller::{Caller, CallerError, Callers, StreamSlot};
use super::metrics::Refusal;
use super::workload::{FRESH, HeaderCheck, refusal_status};
use crate::news::{Cursor, DenySet, Enforcer, News, Word};
use crate::tasks::TaskMetrics;
use crate::view::View;

/// Items in one message: below a megabyte of them.
const PIECE: usize = 4096;
/// A consumer says hello within this.
const HELLO: Duration = Duration::from_secs(10);
const MAX_NAME: usize = 128;

/// The service.
#[derive(Clone)]
pub(super) struct CheckpointApi {
    pub(super) news: Arc<News>,
    pub(super) views: watch::Receiver<Arc<View>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) callers: Arc<Callers>,
    pub(super) metrics: ApiMetrics,
    pub(super) task_metrics: TaskMetrics,
}

/// One consumer.
struct Consumer {
    requests: Streaming<pb::EnforceRequest>,
    enforcer: Enforcer,
    denied: watch::Receiver<Arc<DenySet>>,
    word: watch::Receiver<Option<Word>>,
    cursor: Cursor,
    /// Until when the consumer believes that the last word counts.
    told_end: Option<Instant>,
    caller: Arc<Caller>,
    connection: ConnInfo,
    metrics: TaskMetrics,
    _slot: StreamSlot,
}

impl CheckpointApi {
    /// With the check of the security header in front.
    pub(super) fn into_service(self) -> InterceptedService<CheckpointServer<Self>, HeaderCheck> {
        let check = HeaderCheck::new(self.metrics.clone());
        InterceptedService::new(CheckpointServer::new(self).max_decoding_message_size(4096), check)
    }

    fn refuse(&self, reason: Refusal) -> Status {
        self.metrics.count_refusal(reason);
        refusal_status(reason)
    }

    /// Whether the caller has an identity at all: what is revoked is for those who check certificates of this domain.
    async fn attest(&self, caller: &Caller) -> Result<(), Status> {
        let selectors = caller.attest(FRESH).await.map_err(|error| {
            self.refuse(match error {
                CallerError::Over => Refusal::CallerOver,
                CallerError::Busy => Refusal::Overload,
                CallerError::Attest(_) => Refusal::Attestation,
            })
        })?;
        let view = Arc::clone(&self.views.borrow());
        let now = Timestamp::from(self.clock.now());
        if view.matching(&selectors).iter().any(|entry| !entry.is_expired(now)) {
            return Ok(());
        }
        Err(self.refuse(if view.synced() {
            Refusal::NoIdentity
        } else {
            Refusal::NotSynced
        }))
    }
}

/// The name in a hello, if it is one.
fn name_of(hello: &pb::EnforceHello) -> Result<&str, Status> {
    let name = hello.checkpoint.as_str();
    let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._/-".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_known) {
        let what = format!("checkpoint: a name has 1 to {MAX_NAME} of a-z 0-9 . _ / -");
        return Err(Status::invalid_argument(what));
    }
    Ok(name)
}

#[tonic::async_trait]
impl Checkpoint for CheckpointApi {
    type EnforceStream = BoxStream<'static, Result<pb::EnforceResponse, Status>>;

    async fn enforce(
        &self,
        request: Request<Streaming<pb::EnforceRequest>>,
    ) -> Result<Response<Self::EnforceStream>, Status> {
        let extensions = request.extensions();
        let (Some(caller), Some(connection)) = (extensions.get::<Arc<Caller>>(), extensions.get::<ConnInfo>()) else {
            return Err(self.refuse(Refusal::Internal));
        };
        let (caller, connection) = (Arc::clone(caller), connection.clone());
        let slot = self.callers.open_stream(&caller);
        let slot = slot.ok_or_else(|| self.refuse(Refusal::Overload))?;
        self.attest(&caller).await?;
        let mut requests = request.into_inner();
        let first = timeout(HELLO, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(Body::Hello(hello)) = first.and_then(|first| first.body) else {
            return Err(Status::invalid_argument("the first message is the hello"));
        };
        let name = name_of(&hello)?;
        let enforcer = self.news.enforcers().join(name, caller.uid());
        let enforcer = enforcer.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        info!(
            checkpoint = name,
            version = hello.version.chars().take(MAX_NAME).collect::<String>(),
            peer_pid = caller.pid(),
            "consumer enforces what is revoked"
        );
        self.task_metrics.consumers.inc();
        let consumer = Consumer {
            requests,
            enforcer,
            denied: self.news.denied(),
            word: self.news.word(),
            cursor: Cursor::default(),
            told_end: None,
            caller,
            connection,
            metrics: self.task_metrics.clone(),
            _slot: slot,
        };
        let messages = unfold(Some(consumer), async |consumer| {
            let mut consumer = consumer?;
            match consumer.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(consumer))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(messages.boxed()))
    }
}

impl Consumer {
    /// The next message; `None` when the consumer has gone.
    async fn next(&mut self) -> Result<Option<pb::EnforceResponse>, Status> {
        loop {
            if let Some(message) = self.due() {
                return Ok(Some(message));
            }
            let closing = self.connection.closing();
            tokio::select! {
                biased;
                changed = self.denied.changed() => changed.map_err(|_| refusal_status(Refusal::Draining))?,
                changed = self.word.changed() => changed.map_err(|_| refusal_status(Refusal::Draining))?,
                message = self.requests.message() => match message?.map(|message| message.body) {
                    Some(Some(Body::Ack(ack))) => self.acknowledged(ack),
                    Some(Some(Body::Hello(_))) => {
                        return Err(Status::invalid_argument("a hello comes first and only there"));
                    }
                    // A message of a later version of the interface.
                    Some(None) => {}
                    None => return Ok(None),
                },
                () = self.caller.exited() => return Err(refusal_status(Refusal::CallerOver)),
                () = self.caller.over() => return Err(refusal_status(Refusal::CallerOver)),
                () = closing.cancelled() => return Err(refusal_status(Refusal::Draining)),
                () = async { sleep_until(self.told_end.unwrap_or_else(Instant::now)).await }, if self.told_end.is_some() => {}
            }
        }
    }

    /// What there is to tell now.
    fn due(&mut self) -> Option<pb::EnforceResponse> {
        let now = Instant::now();
        let word = *self.word.borrow_and_update();
        let left = word.and_then(|word| word.left(now));
        let piece = self.denied.borrow_and_update().clone().next(&mut self.cursor, PIECE);
        let is_news = match (word, left, self.told_end) {
            (Some(word), Some(_), told) => {
                // An update is followed by a word on its own: that need not be told twice.
                told.is_none_or(|told| word.end() >= told + word.lease / 8)
            }
            (_, _, told) => told.is_some(),
        };
        if piece.is_none() && !is_news {
            return None;
        }
        self.told_end = left.map(|left| now + left);
        // Rounded down: never longer than it counts.
        let lease_ms = left.map_or(0, |left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
        let message = pb::EnforceResponse {
            lease_ms,
            epoch: self.cursor.epoch(),
            ..pb::EnforceResponse::default()
        };
        let Some(piece) = piece else { return Some(message) };
        if piece.snapshot {
            self.enforcer.begin_anew();
        }
        Some(pb::EnforceResponse {
            snapshot: piece.snapshot,
            epoch: piece.epoch,
            revoked: piece.items,
            ..message
        })
    }

    fn acknowledged(&self, ack: pb::EnforceAck) {
        let pb::EnforceAck {
            epoch,
            connections_ended,
            connections_left,
        } = ack;
        debug!(
            epoch,
            connections_ended,
            connections_left,
            peer_pid = self.caller.pid(),
            "consumer acknowledged"
        );
        // Nobody enforces what it was not told.
        let epoch = epoch.min(self.cursor.epoch());
        self.enforcer.acknowledge(epoch, connections_ended, connections_left);
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.metrics.consumers.dec();
    }
}
