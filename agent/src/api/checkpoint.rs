//! `mayfly.workload.v1.Checkpoint`: consumers of certificates learn what is revoked, and say what they enforce.
//!
//! A consumer registers with a name of its choice and as one of its base identities, which its agent attests. It is dropped
//! as soon as it has not that identity any more: what it said does not count for whoever it is then.
//!
//! A stream is a generator, as those of the Workload API: HTTP/2 asks it for the next message when the consumer can take
//! one, and what came meanwhile is in it. It holds no more than a place in the set that all share.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use mayfly_model::Entry;
use mayfly_model::task::{CHECKPOINT_MAX, is_checkpoint_name};
use mayfly_proto::mayfly::workload as pb;
use mayfly_proto::mayfly::workload::checkpoint_server::{Checkpoint, CheckpointServer};
use mayfly_proto::mayfly::workload::enforce_request::Body;
use mayfly_runtime::Clock;
use mayfly_runtime::listen::ConnInfo;
use mayfly_svid::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::ApiMetrics;
use super::caller::{Caller, CallerError, Callers, SelectorSet, Standing, StreamSlot};
use super::metrics::Refusal;
use super::workload::{FRESH, HeaderCheck, refusal_status};
use crate::news::{self, Cursor, DenySet, Enforcer, Moment, News, Word};
use crate::tasks::TaskMetrics;
use crate::view::View;

/// Items in one message: below a megabyte of them.
const PIECE: usize = 4096;
/// A consumer says hello within this.
const HELLO: Duration = Duration::from_secs(10);

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
    told_end: Option<Moment>,
    caller: Arc<Caller>,
    /// What gives the identity that it registered as.
    entry: Arc<Entry>,
    views: watch::Receiver<Arc<View>>,
    standing: watch::Receiver<Standing>,
    clock: Arc<dyn Clock>,
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

    /// What holds of the caller, and the entries of its identities: what is revoked is for those who check certificates of
    /// this domain.
    async fn attest(&self, caller: &Caller) -> Result<Vec<Arc<Entry>>, Status> {
        let selectors = caller.attest(FRESH).await.map_err(|error| {
            self.refuse(match error {
                CallerError::Over => Refusal::CallerOver,
                CallerError::Busy => Refusal::Overload,
                CallerError::Attest(_) => Refusal::Attestation,
            })
        })?;
        let view = Arc::clone(&self.views.borrow());
        let now = Timestamp::from(self.clock.now());
        let mut found = view.matching(&selectors);
        found.retain(|entry| !entry.is_expired(now));
        if found.is_empty() {
            return Err(self.refuse(if view.synced() {
                Refusal::NoIdentity
            } else {
                Refusal::NotSynced
            }));
        }
        Ok(found)
    }
}

/// The name in a hello, if it is one.
fn name_of(hello: &pb::EnforceHello) -> Result<&str, Status> {
    let name = hello.checkpoint.as_str();
    if !is_checkpoint_name(name) {
        let what = format!("checkpoint: a name has 1 to {CHECKPOINT_MAX} of a-z 0-9 . _ / -");
        return Err(Status::invalid_argument(what));
    }
    Ok(name)
}

/// The identity that a hello names, or the first one.
fn entry_of(hello: &pb::EnforceHello, entries: Vec<Arc<Entry>>) -> Result<Arc<Entry>, Status> {
    let is_named = |entry: &Arc<Entry>| hello.spiffe_id.is_empty() || entry.spec.spiffe_id.as_str() == hello.spiffe_id;
    let found = entries.into_iter().find(is_named);
    found.ok_or_else(|| Status::permission_denied("spiffe_id: this process does not have that identity"))
}

/// Whether `entry` still gives its identity to a process of which `selectors` hold.
fn stands(entry: &Entry, view: &View, selectors: Option<&SelectorSet>, now: Timestamp) -> bool {
    let now_so = view.entry(&entry.id).filter(|now_so| {
        let all_hold = |selectors: &SelectorSet| now_so.spec.selectors.iter().all(|one| selectors.contains(one));
        !now_so.is_expired(now) && now_so.spec.spiffe_id == entry.spec.spiffe_id && selectors.is_none_or(all_hold)
    });
    now_so.is_some()
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
        let entries = self.attest(&caller).await?;
        let mut requests = request.into_inner();
        let first = timeout(HELLO, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(Body::Hello(hello)) = first.and_then(|first| first.body) else {
            return Err(Status::invalid_argument("the first message is the hello"));
        };
        let name = name_of(&hello)?;
        let entry = entry_of(&hello, entries)?;
        let spiffe_id = &entry.spec.spiffe_id;
        let process = Arc::clone(&caller);
        let registering = news::Consumer {
            uid: caller.uid(),
            process: (caller.pid(), caller.process.start_time()),
            exited: Box::pin(async move { process.exited().await }),
            best_effort: hello.best_effort,
            instance: hello.instance,
        };
        let enforcer = self.news.enforcers().join(name, spiffe_id, registering);
        let enforcer = enforcer.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        info!(
            checkpoint = name,
            %spiffe_id,
            version = hello.version.chars().take(CHECKPOINT_MAX).collect::<String>(),
            best_effort = hello.best_effort,
            peer_pid = caller.pid(),
            "consumer enforces what is revoked"
        );
        self.task_metrics.consumers.inc();
        let standing = caller.standing();
        let consumer = Consumer {
            requests,
            enforcer,
            denied: self.news.denied(),
            word: self.news.word(),
            cursor: Cursor::default(),
            told_end: None,
            caller,
            entry,
            views: self.views.clone(),
            standing,
            clock: Arc::clone(&self.clock),
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
            self.check_identity()?;
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
                changed = self.views.changed() => changed.map_err(|_| refusal_status(Refusal::Draining))?,
                // It lives as long as the caller.
                _ = self.standing.changed() => {}
                () = self.caller.exited() => return Err(refusal_status(Refusal::CallerOver)),
                () = self.caller.over() => return Err(refusal_status(Refusal::CallerOver)),
                () = closing.cancelled() => return Err(refusal_status(Refusal::Draining)),
                () = async {
                    if let Some(end) = self.told_end {
                        sleep_until(end.timer()).await;
                    }
                }, if self.told_end.is_some() => {}
            }
        }
    }

    /// Ends the stream of who is not any more who registered.
    fn check_identity(&mut self) -> Result<(), Status> {
        let selectors = match &*self.standing.borrow_and_update() {
            Standing::Known(selectors) => Some(Arc::clone(selectors)),
            // A moment's trouble of an attestor; who is over is told so below.
            Standing::Unknown | Standing::Unclear | Standing::Over => None,
        };
        let now = Timestamp::from(self.clock.now());
        if stands(&self.entry, &self.views.borrow_and_update(), selectors.as_ref(), now) {
            return Ok(());
        }
        info!(
            spiffe_id = %self.entry.spec.spiffe_id,
            peer_pid = self.caller.pid(),
            "consumer has not the identity any more that it registered as"
        );
        Err(refusal_status(Refusal::NoIdentity))
    }

    /// What there is to tell now.
    fn due(&mut self) -> Option<pb::EnforceResponse> {
        let (uptime, now) = both_clocks(uptime, Moment::now);
        let word = *self.word.borrow_and_update();
        let left = word.and_then(|word| word.left_for_consumers(now));
        let piece = self.denied.borrow_and_update().clone().next(&mut self.cursor, PIECE);
        let is_news = match (word, left, self.told_end) {
            (Some(word), Some(left), told) => {
                // An update is followed by a word on its own: that need not be told twice.
                told.is_none_or(|told| now + left >= told + word.lease / 8)
            }
            (_, _, told) => told.is_some(),
        };
        if piece.is_none() && !is_news {
            return None;
        }
        self.told_end = left.map(|left| now + left);
        if let (Some(word), Some(end)) = (word, self.told_end) {
            // Not to the instant: it has to end its connections by then.
            self.enforcer.believes_until(end + word.consumers_margin());
        }
        // What lies in a buffer until the consumer reads it does not become fresher by that.
        let lease_until_ms = left.map_or(0, |left| u64::try_from((uptime + left).as_millis()).unwrap_or(u64::MAX));
        // Rounded down: never longer than it counts.
        let lease_ms = left.map_or(0, |left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
        let message = pb::EnforceResponse {
            lease_ms,
            lease_until_ms,
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

/// Now, by what consumers see and by what we count. Theirs comes first: what passes between the two may make the end that
/// they are told earlier than ours, never later.
fn both_clocks(uptime: impl FnOnce() -> Duration, now: impl FnOnce() -> Moment) -> (Duration, Moment) {
    let uptime = uptime();
    (uptime, now())
}

/// How long the machine runs, sleep included: what consumers on it see as well.
fn uptime() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).expect("the machine was started before now")
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.metrics.consumers.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn an_agent_that_is_held_up_between_its_clocks_tells_consumers_no_later_end_than_it_counts() {
        // Both count from the same instant here; each reading is followed by a stall.
        let (begin, passed) = (Moment::now(), Cell::new(Duration::ZERO));
        let read = || passed.replace(passed.get() + Duration::from_secs(3));
        let (uptime, now) = both_clocks(read, || begin + read());
        let (told, counted) = (uptime, now.since(begin));
        assert!(told <= counted, "told {told:?}, counted {counted:?}");
    }
}
