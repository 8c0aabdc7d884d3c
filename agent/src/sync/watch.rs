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
//! connection, a check that fails as a reason to ask for everything. What the messages do is in [`Changes`]. What the
//! consumers behind this agent enforce goes the other way on the same stream, summed up, a few times a second at most; so
//! does what the [witness](crate::witness) says of the server's log, whose head comes first of all, and asks of it.

use std::time::Duration;

use mayfly_proto::mayfly::agent::watch_client::WatchClient;
use mayfly_proto::mayfly::agent::{Ack, Beacon, Hello, LogHead, WatchRequest, WatchResponse, Witnessed};
use mayfly_proto::mayfly::agent::{watch_request, watch_response};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::debug;

use super::call::{CALL_TIMEOUT, CallError};
use super::changes::{Changes, WatchEvent};
use super::holdings::Holdings;
use crate::news::Moment;
use crate::witness::Watching;

const CALL: &str = "Watch";
/// Until the first beacon tells the interval.
const FIRST_SILENCE: Duration = Duration::from_secs(30);
/// Beacons that may fail to come.
const MISSED_BEACONS: u32 = 4;
/// A chunk has at most 512 KiB, so this is a margin, not a limit that is met.
const MAX_MESSAGE: usize = 4 << 20;
/// Places that stay free: for an answer about the log, an acknowledgement, and the report that goes before that.
const OWED: usize = 3;
/// Between two looks at what the log has to show: its own, as a server that hides it chooses what comes, and when.
const CHECK_GAP: Duration = Duration::from_secs(1);
/// Between two reports of what consumers enforce.
const REPORT_GAP: Duration = Duration::from_millis(100);

/// An open watch stream.
#[derive(Debug)]
pub(super) struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    changes: Changes,
    silence: Duration,
    /// What comes after it is not fresh: it may have lain in a buffer while this process was stopped or the machine slept.
    deadline: Moment,
    reported_at: Instant,
    /// When consumers' news are to be reported.
    report_at: Option<Instant>,
    /// The witness looks at the head of the log: it saves what it accepts before it answers.
    looking: Option<JoinHandle<Witnessed>>,
    /// What the log has to show; none if there is no witness.
    watching: Option<Watching>,
    /// When that is looked at next.
    check_at: Instant,
    /// The witness puts down what was not shown.
    missing: Option<JoinHandle<()>>,
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
            window_ids: holdings.news().held_windows(),
            witness: holdings.news().witness().and_then(|witness| witness.hello()),
        };
        // The hello, one acknowledgement and one answer to a head of the log, as the server sends nothing more before it
        // has those, and reports of what consumers enforce and questions about the log, which leave room for them.
        let (requests, outgoing) = mpsc::channel(4 + OWED);
        send(&requests, watch_request::Body::Hello(hello))?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let opened = tokio::time::timeout(CALL_TIMEOUT, client.watch(ReceiverStream::new(outgoing))).await;
        let responses = opened
            .map_err(|_| CallError::new(CALL, Status::deadline_exceeded("the stream did not open in time")))?
            .map_err(|status| CallError::new(CALL, status))?
            .into_inner();
        let deadline = Moment::now() + FIRST_SILENCE;
        Ok(Self {
            requests,
            responses,
            changes: Changes::default(),
            silence: FIRST_SILENCE,
            deadline,
            reported_at: Instant::now() - REPORT_GAP,
            // What an earlier stream was told means nothing on this one.
            report_at: Some(Instant::now()),
            looking: None,
            watching: holdings.news().witness().cloned().map(Watching::new),
            check_at: Instant::now() + CHECK_GAP,
            missing: None,
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
        let message = loop {
            let due = self.report_at;
            tokio::select! {
                biased;
                // Before any message, however many there are.
                () = tokio::time::sleep_until(self.check_at), if self.watching.is_some() => self.check(),
                answer = finished(&mut self.looking), if self.looking.is_some() => {
                    self.looking = None;
                    if let Some(answer) = answer {
                        send(&self.requests, watch_request::Body::Witnessed(answer))?;
                    }
                    self.check();
                }
                message = tokio::time::timeout_at(self.deadline.timer(), self.responses.message()) => break message,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.report_if_room(holdings);
                }
                () = more_is_owed(&mut self.watching) => self.ask(),
                () = holdings.news().enforcers().changed(), if due.is_none() => {
                    self.report_at = Some(self.reported_at + REPORT_GAP);
                }
            }
        };
        let silence = || {
            let silence = self.silence.as_millis();
            let what = format!("no sign of life for {silence} ms");
            CallError::new(CALL, Status::deadline_exceeded(what))
        };
        let message = message
            .map_err(|_| silence())?
            .map_err(|status| CallError::new(CALL, status))?
            .ok_or_else(|| CallError::new(CALL, Status::unavailable("the server ended the stream")))?;
        // One that lay in a buffer is there before a timer is looked at.
        if Moment::now() >= self.deadline {
            return Err(silence());
        }
        self.deadline = Moment::now() + self.silence;
        let (mut beacon, mut lease_ms) = (None, 0);
        match &message.body {
            Some(watch_response::Body::Beacon(body)) => {
                self.expect_beacons(body);
                (beacon, lease_ms) = (Some((body.time_unix_ms, body.interval_ms)), body.lease_ms);
            }
            Some(watch_response::Body::Update(update)) => lease_ms = update.lease_ms,
            Some(watch_response::Body::LogHead(head)) => self.look(head.clone(), holdings)?,
            None => {}
        }
        let event = self.changes.take(message, holdings)?;
        match (&event, beacon) {
            (WatchEvent::Agreed, Some((time_unix_ms, interval_ms))) => {
                holdings.news().heard_beacon(time_unix_ms, interval_ms, lease_ms);
            }
            (WatchEvent::Applied(_), _) => holdings.news().heard(lease_ms),
            _ => {}
        }
        if let (WatchEvent::Applied(applied), Some(position)) = (&event, holdings.position()) {
            // What it acknowledges holds for whoever registers from now on; of those before it the server has heard.
            // The server has taken the last acknowledgement and the report before it, so there is a place for this one.
            if holdings.news().enforcers().is_dirty() {
                self.report(holdings)?;
            }
            let ack = Ack {
                revision: position.revision,
                rejected: applied.rejected.clone(),
            };
            send(&self.requests, watch_request::Body::Ack(ack))?;
        }
        Ok(event)
    }

    /// Tells the server what consumers enforce, unless the stream is not taking anything just now.
    fn report_if_room(&mut self, holdings: &Holdings) {
        if self.requests.capacity() > OWED {
            // There is room, so it can only be that the stream has ended, which the next read tells.
            let _ = self.report(holdings);
        } else {
            let now = Instant::now();
            (self.reported_at, self.report_at) = (now, Some(now + REPORT_GAP));
        }
    }

    /// Tells the server what consumers enforce.
    fn report(&mut self, holdings: &Holdings) -> Result<(), CallError> {
        (self.reported_at, self.report_at) = (Instant::now(), None);
        let enforced = holdings.news().enforcers().report();
        send(&self.requests, watch_request::Body::Enforced(enforced))
    }

    /// Has the witness look at the head of the log.
    fn look(&mut self, head: LogHead, holdings: &Holdings) -> Result<(), CallError> {
        if self.looking.is_some() {
            return Err(CallError::malformed(
                CALL,
                "heads of the log came faster than they were answered",
            ));
        }
        let witness = holdings.news().witness().cloned();
        self.looking = witness.map(|witness| tokio::task::spawn_blocking(move || witness.consider(&head)));
        Ok(())
    }

    /// Has the witness know when the log, or what it has to show, was not shown for too long, and asks for what is owed.
    fn check(&mut self) {
        self.check_at = Instant::now() + CHECK_GAP;
        let (silence, is_looking) = (self.silence, self.looking.is_some());
        // One after the other, however long the disk takes.
        let is_telling = self.missing.as_ref().is_some_and(|missing| !missing.is_finished());
        if !is_telling
            && let Some(watching) = &mut self.watching
            && let Some(missing) = watching.overdue(silence, is_looking)
        {
            let witness = watching.witness().clone();
            // Nobody waits for it: it is put down, and seen by all, when the disk has it.
            self.missing = Some(tokio::task::spawn_blocking(move || witness.misses(&missing)));
        }
        self.ask();
    }

    /// Asks for what the log has to show and was not asked for yet; later if there is no room for it now.
    fn ask(&mut self) {
        if self.requests.capacity() > OWED
            && let Some(question) = self.watching.as_mut().and_then(Watching::question)
        {
            let body = Some(watch_request::Body::Prove(question));
            // As for a report.
            let _ = self.requests.try_send(WatchRequest { body });
        }
    }

    /// How long the server may be silent, from what it says of itself.
    fn expect_beacons(&mut self, beacon: &Beacon) {
        let interval = Duration::from_millis(beacon.interval_ms.into());
        self.silence = interval.clamp(Duration::from_millis(100), Duration::from_secs(300)) * MISSED_BEACONS;
        self.deadline = Moment::now() + self.silence;
    }
}

/// Waits until the log has to show more than the server was asked for.
async fn more_is_owed(watching: &mut Option<Watching>) {
    match watching {
        Some(watching) => watching.owes().await,
        None => std::future::pending().await,
    }
}

/// What the witness answers; none if the process is stopping.
async fn finished(looking: &mut Option<JoinHandle<Witnessed>>) -> Option<Witnessed> {
    match looking {
        Some(looking) => looking.await.ok(),
        None => None,
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

#[cfg(test)]
mod buffered;
#[cfg(test)]
mod tests;
