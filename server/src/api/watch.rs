//! `mayfly.agent.v1.Watch`: how agents follow the server.
//!
//! The response stream is a generator that HTTP/2 polls when the agent can take more, so nothing queues here: updates are
//! read from the newest snapshot chunk by chunk, one update at a time is unacknowledged, and what happens meanwhile waits
//! as IDs in the mailbox. Every end has a status; none is silent.

mod log;
mod report;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use mayfly_model::task::{CloseCause, TaskStep};
use mayfly_model::{Actor, Agent, Change, Entry, EntryId, Revision, Step};
use mayfly_proto::convert::task::task_states;
use mayfly_proto::mayfly::agent as wire;
use mayfly_proto::mayfly::agent::watch_request::Body as Inbound;
use mayfly_proto::mayfly::agent::watch_response::Body as Outbound;
use mayfly_proto::status::{self, Reason};
use mayfly_runtime::listen::ConnInfo;
use mayfly_runtime::{CancellationToken, Clock};
use mayfly_svid::{Serial, SpiffeId, Timestamp, WindowId, X509Svid};
use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::app::caller::Caller;
use crate::app::checkpoints::{Checkpoints, PublishedLists};
use crate::app::evidence::witnesses::Witnesses;
use crate::commit::{Committer, Snapshot};
use crate::watch::{End, Held, Hub, Mailbox, Plan, Session};
use log::LogFeed;

/// One message carries about this much, so that an agent with very many entries needs no large buffer.
const CHUNK: usize = 512 * 1024;
/// Beacons are sent at multiples of this, so that those of many agents cost one wake-up of a thread.
const BEACON_GRID: Duration = Duration::from_millis(100);
/// How long an agent waits for the answer to an opening.
const OPENING: Duration = Duration::from_secs(30);
/// An agent that holds back more entries than this misbehaves.
const REJECTED_MAX: usize = 10_000;
/// Of those that one acknowledgement rejects, so many are in the server's logs; the agent's have all.
const REJECTED_LOGGED: usize = 10;

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
        let connection = request.extensions().get::<ConnInfo>().cloned();
        let presented = connection.as_ref().and_then(|info| info.peer_certificates.as_deref());
        let Some(Ok(svid)) = presented.map(|chain| X509Svid::from_chain(chain.to_vec())) else {
            return Err(Status::unauthenticated("the connection has no X.509-SVID"));
        };
        let closing = connection.map_or_else(CancellationToken::new, |info| info.closing());
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
        let live = self.open(&agent.id, &svid, &hello, inbound, place, closing)?;
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
        svid: &X509Svid,
        hello: &wire::Hello,
        inbound: Streaming<wire::WatchRequest>,
        place: OwnedSemaphorePermit,
        closing: CancellationToken,
    ) -> Result<Live, Status> {
        // The call was admitted before the hello came, and much may have happened since. Asked here so that an older
        // stream does not end for one that has lost its standing, and below for what commits meanwhile.
        let agent = standing(&self.committer.snapshot(), agent_id, svid.serial())?;
        self.report_version(&agent, &hello.agent_version);
        self.close_lost_windows(agent_id, &hello.window_ids);
        // The order matters: see `Hub::open` and `Hub::observed`.
        let mailbox = self.hub.open(agent_id);
        self.feeds.checkpoints.opened(agent_id);
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
            serial: svid.serial().clone(),
            mailbox,
            inbound,
            sending: None,
            unacknowledged: None,
            sent_epoch: 0,
            beacon,
            digest_due: start,
            // Monotonic, so that a step of the wall clock never lengthens it.
            expires: start + svid.not_after().since(now),
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

/// One open stream.
struct Live {
    log: LogFeed,
    committer: Committer,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    settings: WatchSettings,
    feeds: TaskFeeds,
    stop: CancellationToken,
    /// The connection is about to be closed, for its age or because the server stops.
    closing: CancellationToken,
    session: Session,
    /// Of the SVID that the stream was opened with.
    serial: Serial,
    mailbox: Arc<Mailbox>,
    inbound: Streaming<wire::WatchRequest>,
    /// The update that is being sent, and the revision that the agent holds after it.
    sending: Option<(Revision, Plan)>,
    /// The revision that waits for its acknowledgement, and until when.
    unacknowledged: Option<(Revision, Instant)>,
    /// All that was revoked up to here was in it.
    sent_epoch: u64,
    beacon: Interval,
    digest_due: Instant,
    expires: Instant,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.mailbox.caught_up();
        if self.hub.close(self.session.agent_id(), &self.mailbox) {
            self.feeds.checkpoints.gone(self.session.agent_id());
        }
    }
}

impl Live {
    /// The next message, when there is one; an error is the end of the stream.
    async fn next(&mut self) -> Result<Outbound, Status> {
        loop {
            // Whoever is to trust what follows looks at the log first.
            if let Some(until) = self.log.comes_first_until() {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(stopping()),
                    () = self.closing.cancelled() => return Err(connection_closing()),
                    head = self.log.head() => if let Some(head) = head { return Ok(Outbound::LogHead(head)) },
                    () = sleep_until(until) => {}
                }
            }
            if let Some(update) = self.next_chunk() {
                return Ok(Outbound::Update(update));
            }
            if self.unacknowledged.is_none() && self.plan_next()? {
                continue;
            }
            let ack_deadline = self.unacknowledged.map(|(_, deadline)| deadline);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(stopping()),
                () = self.closing.cancelled() => return Err(connection_closing()),
                () = sleep_until(self.expires) => {
                    return Err(status::permission_denied(Reason::AgentExpired, "the agent's SVID has expired"));
                }
                message = self.inbound.message() => self.received(message?)?,
                () = self.mailbox.wait() => self.check_end()?,
                head = self.log.head() => if let Some(head) = head { return Ok(Outbound::LogHead(head)) },
                _ = self.beacon.tick() => {
                    self.log.beacon();
                    return Ok(Outbound::Beacon(self.beacon_now()?));
                }
                () = sleep_until(ack_deadline.unwrap_or(self.expires)), if ack_deadline.is_some() => {
                    return Err(Status::deadline_exceeded("an update was not acknowledged"));
                }
            }
        }
    }

    fn next_chunk(&mut self) -> Option<wire::Update> {
        let (revision, plan) = self.sending.as_mut()?;
        let revision = *revision;
        let chunk = plan.chunk(CHUNK, entry_weight);
        let update = wire::Update {
            lease_ms: self.settings.lease_ms(),
            history: plan.state.history().into(),
            revision: revision.0,
            snapshot: plan.snapshot,
            more: chunk.more,
            entries: chunk.entries.iter().map(|entry| entry.as_ref().into()).collect(),
            removed_entry_ids: chunk.removed_entries.iter().map(ToString::to_string).collect(),
            bundles: chunk.bundles.iter().map(|bundle| bundle.as_ref().into()).collect(),
            removed_trust_domains: chunk.removed_bundles.iter().map(ToString::to_string).collect(),
            tasks: chunk.tasks.iter().flat_map(|task| task_states(task)).collect(),
            revoked: chunk
                .revoked
                .iter()
                .map(|revocation| revocation.as_ref().into())
                .collect(),
            // Said with the last piece: before it not all of that is there.
            epoch: if chunk.more { 0 } else { plan.state.epoch() },
            crls: if chunk.lists {
                self.feeds.lists.load().ders.clone()
            } else {
                vec![]
            },
        };
        if !chunk.more {
            self.sending = None;
            self.sent_epoch = update.epoch;
            self.unacknowledged = Some((revision, Instant::now() + self.settings.ack_timeout));
        }
        Some(update)
    }

    /// Looks into the mailbox; true if there is now something to send.
    fn plan_next(&mut self) -> Result<bool, Status> {
        let revision = self.hub.observed();
        let pending = self.mailbox.take();
        if pending.is_empty() {
            return Ok(false);
        }
        if let Some(end) = pending.end {
            return Err(ended(end));
        }
        let state = self.committer.snapshot();
        let agent = self.agent(&state)?;
        let plan = self.session.next(pending, &agent, &state, self.clock.now().into());
        self.sending = plan.map(|plan| (revision, plan));
        Ok(self.sending.is_some())
    }

    /// An end does not wait for the acknowledgement of an update.
    fn check_end(&mut self) -> Result<(), Status> {
        match self.mailbox.end() {
            Some(end) => Err(ended(end)),
            None => Ok(()),
        }
    }

    fn received(&mut self, message: Option<wire::WatchRequest>) -> Result<(), Status> {
        let Some(message) = message else {
            return Err(Status::new(Code::Unavailable, "the agent closed its side"));
        };
        let ack = match message.body {
            Some(Inbound::Ack(ack)) => ack,
            Some(Inbound::Enforced(enforced)) => {
                self.enforced(&enforced);
                return Ok(());
            }
            Some(Inbound::Witnessed(answer)) => {
                self.log.answered(&answer);
                return Ok(());
            }
            Some(Inbound::Prove(wanted)) => {
                let too_many = |_| Status::resource_exhausted("waits for too many entries of the log");
                return self.log.prove(&wanted).map_err(too_many);
            }
            _ => {
                return Err(Status::invalid_argument(
                    "only acknowledgements, reports and questions about the log follow the hello",
                ));
            }
        };
        let expected = self.unacknowledged.map(|(revision, _)| revision);
        if expected != Some(Revision(ack.revision)) {
            return Err(Status::invalid_argument("acknowledges a revision that was not sent"));
        }
        if self.session.rejected() + ack.rejected.len() > REJECTED_MAX {
            return Err(Status::resource_exhausted("rejects too many entries"));
        }
        for rejected in ack.rejected.iter().take(REJECTED_LOGGED) {
            let reason: String = rejected.reason.chars().take(256).collect();
            warn!(agent_id = %self.session.agent_id(), entry_id = rejected.entry_id, reason, rejected = ack.rejected.len(),
                  "agent rejected an entry");
        }
        let ids = ack
            .rejected
            .iter()
            .filter_map(|rejected| rejected.entry_id.parse::<EntryId>().ok());
        self.session.acknowledged(ids.collect::<Vec<_>>());
        self.unacknowledged = None;
        self.feeds.checkpoints.applied(self.session.agent_id(), self.sent_epoch);
        self.mailbox.caught_up();
        Ok(())
    }

    fn enforced(&self, said: &wire::Enforced) {
        let agent_id = self.session.agent_id();
        report::log(agent_id, said);
        let state = self.committer.snapshot();
        let agent = state.agent(agent_id).map(AsRef::as_ref);
        self.feeds
            .checkpoints
            .report(agent_id, report::read(&state, agent, said));
    }

    fn beacon_now(&mut self) -> Result<wire::Beacon, Status> {
        let now = self.clock.now();
        let mut beacon = wire::Beacon {
            time_unix_ms: i64::try_from(
                now.duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis()),
            )
            .unwrap_or(i64::MAX),
            epoch: self.committer.snapshot().epoch(),
            interval_ms: u32::try_from(self.settings.beacon_interval.as_millis()).unwrap_or(u32::MAX),
            lease_ms: self.settings.lease_ms(),
            ..wire::Beacon::default()
        };
        let observed = self.hub.observed();
        let state = self.committer.snapshot();
        let agent = self.agent(&state)?;
        // Only an agent that has been told everything may take the revision for its own, and only it has the digest.
        if self.unacknowledged.is_none() && self.mailbox.is_empty() {
            beacon.revision = observed.0;
            if Instant::now() >= self.digest_due && state.revision() == observed {
                self.digest_due = Instant::now() + self.settings.digest_interval;
                let (entries, digest) = self.session.expected(&agent, &state, now.into());
                (beacon.entries, beacon.digest) = (entries, Some(digest));
            }
        }
        Ok(beacon)
    }

    fn agent(&self, state: &Snapshot) -> Result<Arc<Agent>, Status> {
        standing(state, self.session.agent_id(), &self.serial)
    }
}

/// The agent's record, while it may watch; otherwise the end of its stream.
fn standing(state: &Snapshot, id: &SpiffeId, serial: &Serial) -> Result<Arc<Agent>, Status> {
    match state.agent(id) {
        None => Err(ended(End::Evicted)),
        Some(agent) if agent.banned => Err(ended(End::Banned)),
        // Whether it has to attest anew is for the next call to find out: a renewal may have overtaken this stream.
        Some(agent) if !agent.uses(serial) => Err(Status::unavailable(
            "another SVID of this agent is in force; come back with that",
        )),
        Some(agent) => Ok(agent.clone()),
    }
}

fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}

fn connection_closing() -> Status {
    Status::unavailable("the connection is closing; come back")
}

fn ended(end: End) -> Status {
    match end {
        End::Banned => status::permission_denied(Reason::AgentBanned, "the agent is banned"),
        End::Evicted => {
            status::permission_denied(Reason::AgentNotAttested, "the agent is evicted: it must attest anew")
        }
        End::Superseded => Status::unavailable("superseded by a newer stream of this agent"),
    }
}

/// About as many bytes as the entry takes on the wire.
fn entry_weight(entry: &Entry) -> usize {
    let spec = &entry.spec;
    let texts = spec
        .selectors
        .iter()
        .map(|selector| selector.as_str().len() + 8)
        .sum::<usize>()
        + spec.dns_names.iter().map(|name| name.len() + 4).sum::<usize>()
        + spec
            .federates_with
            .iter()
            .map(|name| name.as_str().len() + 4)
            .sum::<usize>();
    entry.id.as_str().len()
        + spec.spiffe_id.as_str().len()
        + spec.parent_id.as_str().len()
        + spec.hint.len()
        + texts
        + 64
}

#[cfg(test)]
mod tests;
