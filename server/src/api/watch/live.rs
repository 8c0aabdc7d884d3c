//! One stream, as it runs: what goes out on it and what comes in.

use std::sync::Arc;

use mayfly_model::{Agent, Entry, EntryId, Revision};
use mayfly_proto::convert::task::task_states;
use mayfly_proto::mayfly::agent as wire;
use mayfly_proto::mayfly::agent::watch_request::Body as Inbound;
use mayfly_proto::mayfly::agent::watch_response::Body as Outbound;
use mayfly_proto::status::{self, Reason};
use mayfly_runtime::{CancellationToken, Clock};
use mayfly_svid::{Serial, SpiffeId};
use tokio::time::{Instant, Interval, sleep_until};
use tonic::{Code, Status, Streaming};
use tracing::warn;

use super::log::LogFeed;
use super::{TaskFeeds, WatchSettings, report};
use crate::app::checkpoints::StreamId;
use crate::commit::{Committer, Snapshot};
use crate::watch::{End, Hub, Mailbox, Plan, Session};

/// One message carries about this much, so that an agent with very many entries needs no large buffer.
const CHUNK: usize = 512 * 1024;
/// An agent that holds back more entries than this misbehaves.
const REJECTED_MAX: usize = 10_000;
/// Of those that one acknowledgement rejects, so many are in the server's logs; the agent's have all.
const REJECTED_LOGGED: usize = 10;

/// One open stream.
pub(super) struct Live {
    pub(super) log: LogFeed,
    pub(super) committer: Committer,
    pub(super) hub: Arc<Hub>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: WatchSettings,
    pub(super) feeds: TaskFeeds,
    pub(super) stop: CancellationToken,
    /// The connection is about to be closed, for its age or because the server stops.
    pub(super) closing: CancellationToken,
    pub(super) session: Session,
    /// Of the SVID that the stream was opened with.
    pub(super) serial: Serial,
    /// It, as those know it who count consumers.
    pub(super) stream: StreamId,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) inbound: Streaming<wire::WatchRequest>,
    /// The update that is being sent, and the revision that the agent holds after it.
    pub(super) sending: Option<(Revision, Plan)>,
    /// The revision that waits for its acknowledgement, and until when.
    pub(super) unacknowledged: Option<(Revision, Instant)>,
    /// All that was revoked up to here was in it.
    pub(super) sent_epoch: u64,
    pub(super) beacon: Interval,
    pub(super) digest_due: Instant,
    pub(super) expires: Instant,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.mailbox.caught_up();
        self.hub.close(self.session.agent_id(), &self.mailbox);
        // Another one may be open by now, and its agent may have said on it who is there.
        self.feeds.checkpoints.gone(self.session.agent_id(), self.stream);
    }
}

impl Live {
    /// The next message, when there is one; an error is the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Outbound, Status> {
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
        let agent_id = self.session.agent_id();
        self.feeds.checkpoints.applied(agent_id, self.stream, self.sent_epoch);
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
            .report(agent_id, self.stream, report::read(&state, agent, said));
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

    pub(super) fn agent(&self, state: &Snapshot) -> Result<Arc<Agent>, Status> {
        standing(state, self.session.agent_id(), &self.serial)
    }
}

/// The agent's record, while it may watch; otherwise the end of its stream.
pub(super) fn standing(state: &Snapshot, id: &SpiffeId, serial: &Serial) -> Result<Arc<Agent>, Status> {
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

pub(super) fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}

pub(super) fn connection_closing() -> Status {
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
