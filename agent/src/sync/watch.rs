//! The watch stream: the server pushes, the agent applies and acknowledges (`mayfly.agent.v1`).
//!
//! ```text
//!   agent                                   server
//!     Hello(history, revision) ────────────▶
//!     ◀──────────────────── Update(more) … Update     one at a time
//!     Ack(revision, rejected) ─────────────▶
//!     ◀──────────────────────────────── Beacon        a sign of life, and a check
//! ```
//!
//! A resumed stream names what is held, so nothing is sent twice. Silence for four beacon intervals counts as a lost
//! connection, a check that fails as a reason to ask for everything.

use std::time::Duration;

use mayfly_proto::mayfly::agent::watch_client::WatchClient;
use mayfly_proto::mayfly::agent::{Ack, Beacon, Hello, Update as Chunk, WatchRequest, WatchResponse};
use mayfly_proto::mayfly::agent::{watch_request, watch_response};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use super::call::{CALL_TIMEOUT, CallError};
use super::holdings::{Applied, Holdings, Position, Update};

const CALL: &str = "Watch";
/// Until the first beacon tells the interval.
const FIRST_SILENCE: Duration = Duration::from_secs(30);
/// Beacons that may fail to come.
const MISSED_BEACONS: u32 = 4;
/// A chunk has at most 512 KiB, so this is a margin, not a limit that is met.
const MAX_MESSAGE: usize = 4 << 20;

/// The chunks of one revision together: some hundred thousand entries. Whoever sends more has lost its way.
const MAX_UPDATE: usize = 256 << 20;

/// An open watch stream.
#[derive(Debug)]
pub(super) struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    gathering: Option<Gathering>,
    silence: Duration,
    deadline: Instant,
}

/// What came over the stream.
#[derive(Debug, PartialEq)]
pub(super) enum WatchEvent {
    /// A change was applied and acknowledged.
    Applied(Applied),
    /// A sign of life, or a part of a change.
    Alive,
    /// We do not hold what the server believes that we hold.
    Diverged,
}

/// The chunks of a revision that is not complete.
#[derive(Debug)]
struct Gathering {
    position: Position,
    update: Update,
    /// Encoded size of the chunks.
    size: usize,
}

// === impl WatchStream ===

impl WatchStream {
    /// Opens a stream that goes on where `holdings` stand.
    ///
    /// # Errors
    /// The server refused, is away, or has no such service (`Unimplemented`).
    ///
    /// # Cancel safety
    /// Safe: the stream is given up.
    pub(super) async fn open(channel: Channel, holdings: &Holdings) -> Result<Self, CallError> {
        let (history, revision) = holdings.position().map_or((String::new(), 0), |position| {
            (position.history.clone(), position.revision)
        });
        debug!(history, revision, "opening the watch stream");
        let hello = Hello {
            agent_version: super::AGENT_VERSION.to_owned(),
            history,
            revision,
        };
        // Two: the hello and one acknowledgement. The server sends nothing more before it has that one.
        let (requests, outgoing) = mpsc::channel(2);
        send(&requests, watch_request::Body::Hello(hello))?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let opened = tokio::time::timeout(CALL_TIMEOUT, client.watch(ReceiverStream::new(outgoing))).await;
        let responses = opened
            .map_err(|_| CallError::new(CALL, Status::deadline_exceeded("the stream did not open in time")))?
            .map_err(|status| CallError::new(CALL, status))?
            .into_inner();
        let deadline = Instant::now() + FIRST_SILENCE;
        Ok(Self {
            requests,
            responses,
            gathering: None,
            silence: FIRST_SILENCE,
            deadline,
        })
    }

    /// Waits for the next message and applies it to `holdings`.
    ///
    /// # Errors
    /// The stream ended, was silent for too long, or makes no sense. What was applied stays.
    ///
    /// # Cancel safety
    /// Safe: a message is taken off the stream and handled in one step.
    pub(super) async fn next(&mut self, holdings: &mut Holdings) -> Result<WatchEvent, CallError> {
        let message = tokio::time::timeout_at(self.deadline, self.responses.message())
            .await
            .map_err(|_| {
                let silence = self.silence.as_millis();
                CallError::new(
                    CALL,
                    Status::deadline_exceeded(format!("no sign of life for {silence} ms")),
                )
            })?;
        let message = message
            .map_err(|status| CallError::new(CALL, status))?
            .ok_or_else(|| CallError::new(CALL, Status::unavailable("the server ended the stream")))?;
        self.deadline = Instant::now() + self.silence;
        match message.body {
            Some(watch_response::Body::Update(chunk)) => self.gather(chunk, holdings),
            Some(watch_response::Body::Beacon(beacon)) => Ok(self.check(&beacon, holdings)),
            // A message of a later version of the interface.
            None => Ok(WatchEvent::Alive),
        }
    }

    fn gather(&mut self, chunk: Chunk, holdings: &mut Holdings) -> Result<WatchEvent, CallError> {
        let size = chunk.encoded_len();
        let position = Position {
            history: chunk.history,
            revision: chunk.revision,
        };
        let mut gathering = self.gathering.take().unwrap_or_else(|| Gathering {
            position: position.clone(),
            update: Update {
                snapshot: chunk.snapshot,
                ..Default::default()
            },
            size: 0,
        });
        gathering.size += size;
        if gathering.size > MAX_UPDATE {
            let what = format!("one revision has more than {MAX_UPDATE} bytes");
            return Err(CallError::malformed(CALL, what));
        }
        if gathering.position != position || gathering.update.snapshot != chunk.snapshot {
            return Err(CallError::malformed(
                CALL,
                "a revision began before the one before it was complete",
            ));
        }
        // A delta leads on from what is held; in another history that means nothing.
        let other_history = holdings.position().is_none_or(|held| held.history != position.history);
        if !chunk.snapshot && other_history {
            holdings.forget_position();
            return Err(CallError::malformed(
                CALL,
                "a change without the snapshot that it belongs to",
            ));
        }
        let update = &mut gathering.update;
        update.entries.extend(chunk.entries);
        update.removed_entry_ids.extend(chunk.removed_entry_ids);
        update.bundles.extend(chunk.bundles);
        update.removed_trust_domains.extend(chunk.removed_trust_domains);
        if chunk.more {
            self.gathering = Some(gathering);
            return Ok(WatchEvent::Alive);
        }
        let applied = holdings.apply(gathering.update, position.clone());
        debug!(
            revision = position.revision,
            rejected = applied.rejected.len(),
            "update applied"
        );
        let ack = Ack {
            revision: position.revision,
            rejected: applied.rejected.clone(),
        };
        send(&self.requests, watch_request::Body::Ack(ack))?;
        Ok(WatchEvent::Applied(applied))
    }

    fn check(&mut self, beacon: &Beacon, holdings: &mut Holdings) -> WatchEvent {
        let interval = Duration::from_millis(beacon.interval_ms.into());
        self.silence = interval.clamp(Duration::from_millis(100), Duration::from_secs(300)) * MISSED_BEACONS;
        self.deadline = Instant::now() + self.silence;
        if self.gathering.is_some() {
            return WatchEvent::Alive;
        }
        // Named only to those who were told everything up to it.
        holdings.advance(beacon.revision);
        if beacon.digest == 0 || holdings.agrees_with(beacon.entries, beacon.digest) {
            return WatchEvent::Alive;
        }
        let revision = holdings.position().map_or(0, |position| position.revision);
        warn!(
            revision,
            entries = holdings.view().len(),
            server_entries = beacon.entries,
            "the server believes that other entries are held here, asking for all of them"
        );
        WatchEvent::Diverged
    }
}

fn send(requests: &mpsc::Sender<WatchRequest>, body: watch_request::Body) -> Result<(), CallError> {
    // Full: the server sent a second update without waiting for the acknowledgement of the first. Closed: the stream
    // has ended, and why is what the next read tells.
    match requests.try_send(WatchRequest { body: Some(body) }) {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        Err(mpsc::error::TrySendError::Full(_)) => Err(CallError::malformed(
            CALL,
            "updates came faster than they were acknowledged",
        )),
    }
}
