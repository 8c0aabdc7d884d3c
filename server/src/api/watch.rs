//! `mayfly.agent.v1.Watch`: how agents follow the server.
//!
//! The response stream is a generator that HTTP/2 polls when the agent can take more, so nothing queues here: updates are
//! read from the newest snapshot chunk by chunk, one update at a time is unacknowledged, and what happens meanwhile waits
//! as IDs in the mailbox. Every end has a status; none is silent.

mod live;
mod log;
mod report;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, stream};
use mayfly_model::task::{CloseCause, TaskStep};
use mayfly_model::{Actor, Agent, Change, Revision, Step};
use mayfly_proto::mayfly::agent as wire;
use mayfly_proto::mayfly::agent::watch_request::Body as Inbound;
use mayfly_proto::status;
use mayfly_runtime::listen::ConnInfo;
use mayfly_runtime::{CancellationToken, Clock};
use mayfly_svid::{Serial, SpiffeId, Timestamp, WindowId};
use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use crate::app::caller::{Caller, presented_life};
use crate::app::checkpoints::{Checkpoints, PublishedLists};
use crate::app::evidence::witnesses::Witnesses;
use crate::commit::Committer;
use crate::watch::{Held, Hub, Session};
use live::{Live, connection_closing, standing, stopping};
use log::LogFeed;

/// Beacons are sent at multiples of this, so that those of many agents cost one wake-up of a thread.
const BEACON_GRID: Duration = Duration::from_millis(100);
/// How long an agent waits for the answer to an opening.
const OPENING: Duration = Duration::from_secs(30);

/// How streams behave.
#[derive(Clone, Copy, Debug)]
pub struct WatchSettings {
    /// Between two beacons: a quarter of the lease.
    pub beacon_interval: Duration,
    /// An update that is not acknowledged for so long ends the stream.
    pub ack_timeout: Duration,
    /// Streams that may be catching up at once; others wait.
    pub admitted: usize,
    /// How long one waits for admission before it is asked to come back.
    pub admission_wait: Duration,
    /// Between two digests.
    pub digest_interval: Duration,
    /// For how long a word counts with agents: what they hold of strict definitions is lost after it.
    pub lease: Duration,
}

impl WatchSettings {
    fn lease_ms(&self) -> u32 {
        u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX)
    }
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            beacon_interval: Duration::from_millis(2_500),
            ack_timeout: Duration::from_secs(30),
            admitted: 256,
            admission_wait: Duration::from_secs(2),
            digest_interval: Duration::from_secs(300),
            lease: Duration::from_secs(10),
        }
    }
}

/// What streams carry between agents and those who settle windows.
#[derive(Clone, Default)]
pub struct TaskFeeds {
    /// The revocation lists, for agents.
    pub lists: PublishedLists,
    /// What consumers enforce, from agents.
    pub checkpoints: Arc<Checkpoints>,
    /// Who watches the log; none if nobody is shown it.
    pub witnesses: Option<Arc<Witnesses>>,
}

/// The service.
pub struct WatchService {
    committer: Committer,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    settings: WatchSettings,
    feeds: TaskFeeds,
    admission: Arc<Semaphore>,
    opening: Mutex<()>,
    stop: CancellationToken,
    /// What [`BEACON_GRID`] counts from.
    began: Instant,
}

impl WatchService {
    /// Serves until `stop` is cancelled; then each stream ends with `Unavailable`.
    pub fn new(
        committer: Committer,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
        settings: WatchSettings,
        feeds: TaskFeeds,
        stop: CancellationToken,
    ) -> Self {
        Self {
            committer,
            hub,
            clock,
            settings,
            feeds,
            admission: Arc::new(Semaphore::new(settings.admitted)),
            opening: Mutex::default(),
            stop,
            began: Instant::now(),
        }
    }
}

#[tonic::async_trait]
impl wire::watch_server::Watch for WatchService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let Some(Caller::Agent(agent)) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::permission_denied("only agents watch"));
        };
        let connection = request.extensions().get::<ConnInfo>();
        let Some((svid, closing)) = connection.and_then(|info| Some((presented_life(info)?, info.closing()))) else {
            return Err(Status::unauthenticated("the connection has no X.509-SVID"));
        };
        let mut inbound = request.into_inner();
        let hello = tokio::select! {
            () = self.stop.cancelled() => return Err(stopping()),
            () = closing.cancelled() => return Err(connection_closing()),
            hello = timeout(self.settings.ack_timeout, inbound.message()) => hello,
        };
        let hello = hello
            .map_err(|_| Status::deadline_exceeded("no hello came"))??
            .and_then(|message| message.body);
        let Some(Inbound::Hello(hello)) = hello else {
            return Err(Status::invalid_argument("the first message is a hello"));
        };
        // After the hello, so that whoever is silent takes no place from others.
        let admitted = timeout(self.settings.admission_wait, self.admission.clone().acquire_owned()).await;
        let Ok(Ok(place)) = admitted else {
            let pause = rand::rng().random_range(Duration::from_millis(100)..self.settings.admission_wait * 2);
            return Err(status::unavailable_retry(
                "many agents are catching up; come back",
                pause,
            ));
        };
        // In a box: the generator and its future would each have room for all of it, for as long as the agent watches.
        let live = Box::new(self.open(&agent.id, svid, &hello, inbound, place, closing)?);
        info!(agent_id = %agent.id, held = hello.revision, "agent watches");
        let stream = stream::unfold(Some(live), |live| async move {
            let mut live = live?;
            match live.next().await {
                Ok(body) => Some((Ok(wire::WatchResponse { body: Some(body) }), Some(live))),
                Err(status) => {
                    info!(agent_id = %live.session.agent_id(), code = ?status.code(), reason = status.message(),
                          "agent's watch ends");
                    Some((Err(status), None))
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl WatchService {
    fn open(
        &self,
        agent_id: &SpiffeId,
        (serial, not_after): (Serial, Timestamp),
        hello: &wire::Hello,
        inbound: Streaming<wire::WatchRequest>,
        place: OwnedSemaphorePermit,
        closing: CancellationToken,
    ) -> Result<Live, Status> {
        // The call was admitted before the hello came, and much may have happened since. Asked here so that an older
        // stream does not end for one that has lost its standing, and below for what commits meanwhile.
        let agent = standing(&self.committer.snapshot(), agent_id, &serial)?;
        self.report_version(&agent, &hello.agent_version);
        self.close_lost_windows(agent_id, &hello.window_ids);
        // The order matters: see `Hub::open` and `Hub::observed`.
        let (mailbox, stream) = {
            // Of two that open at the same time, the same one is the present one here and there.
            let _turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            (self.hub.open(agent_id), self.feeds.checkpoints.opened(agent_id))
        };
        mailbox.catch_up(place);
        let revision = self.hub.observed();
        let state = self.committer.snapshot();
        let now: Timestamp = self.clock.now().into();
        let start = Instant::now();
        let first = start + self.settings.beacon_interval;
        let behind = (first - self.began).as_nanos() % BEACON_GRID.as_nanos();
        let behind = Duration::from_nanos(u64::try_from(behind).expect("less than the grid"));
        let mut beacon = interval_at(first - behind, self.settings.beacon_interval);
        // One that is late does not move the next ones off the grid.
        beacon.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let log = LogFeed::new(self.feeds.witnesses.as_ref(), agent_id, hello.witness.as_ref());
        let mut live = Live {
            log,
            committer: self.committer.clone(),
            hub: self.hub.clone(),
            clock: self.clock.clone(),
            settings: self.settings,
            feeds: self.feeds.clone(),
            stop: self.stop.clone(),
            closing,
            session: Session::new(agent_id.clone()),
            serial,
            stream,
            mailbox,
            inbound,
            sending: None,
            unacknowledged: None,
            sent_epoch: 0,
            beacon,
            digest_due: start,
            // Monotonic, so that a step of the wall clock never lengthens it.
            expires: start + not_after.since(now),
        };
        let agent = live.agent(&state)?;
        let held = Held {
            history: hello.history.clone(),
            revision: Revision(hello.revision),
        };
        let plan = live.session.first(&self.hub, &held, &agent, &state, now);
        live.sending = Some((revision, plan));
        Ok(live)
    }

    /// Ends windows that an agent should hold and does not: it was started anew, and their processes have nothing of them.
    fn close_lost_windows(&self, agent_id: &SpiffeId, held: &[String]) {
        let now: Timestamp = self.clock.now().into();
        let held: HashSet<WindowId> = held.iter().filter_map(|id| id.parse().ok()).collect();
        let state = self.committer.snapshot();
        for task in state.live_tasks_of(agent_id) {
            let lost = task.live_windows().filter(|window| {
                window.instance.agent_id == *agent_id
                    && !held.contains(&window.id)
                    // The answer to the opening may still be on its way; what is lost then, the agent ends itself.
                    && window.opened_at.plus(OPENING) < now
            });
            for window in lost {
                let step = TaskStep::Close {
                    window: window.id,
                    cause: CloseCause::AttestationLost,
                    detail: "its agent was started anew".into(),
                };
                self.committer.commit_later(Step {
                    actor: Actor {
                        who: agent_id.to_string(),
                        origin: String::new(),
                        reason: String::new(),
                    },
                    time: now,
                    change: Change::TaskStep {
                        id: task.id.clone(),
                        step: Box::new(step),
                    },
                });
            }
        }
    }

    fn report_version(&self, agent: &Agent, version: &str) {
        let version: String = version.chars().filter(|c| !c.is_control()).take(255).collect();
        if agent.version == version || version.is_empty() {
            return;
        }
        let actor = Actor {
            who: agent.id.to_string(),
            origin: String::new(),
            reason: String::new(),
        };
        let change = Change::AgentReport {
            id: agent.id.clone(),
            version,
        };
        self.committer.commit_later(Step {
            actor,
            time: self.clock.now().into(),
            change,
        });
    }
}

#[cfg(test)]
mod tests;
