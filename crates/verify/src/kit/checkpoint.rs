//! Follows what is revoked, and tells the agent what is enforced.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::unfold;
use mayfly_proto::mayfly::workload::checkpoint_client::CheckpointClient;
use mayfly_proto::mayfly::workload::enforce_request::Body;
use mayfly_proto::mayfly::workload::{EnforceAck, EnforceHello, EnforceRequest, EnforceResponse, Revoked};
use mayfly_runtime::CancellationToken;
use mayfly_svid::{Serial, Timestamp};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tracing::{debug, warn};

use super::deny::Revocation;
use super::line::{Call, Line};
use super::settings::{Settings, Staleness};
use super::source::Progress;
use super::state::State;
use super::workload::{MESSAGE_MAX, RECONNECT, with_header};

#[derive(Clone)]
pub(crate) struct Checkpoint {
    line: Line,
    name: String,
    best_effort: bool,
    /// Random: what comes back after a lost connection is what was away, not another one that knows less.
    instance: u64,
    state: Arc<State>,
    progress: Arc<watch::Sender<Progress>>,
}

impl Checkpoint {
    pub(crate) fn new(
        line: &Line,
        settings: &Settings,
        state: &Arc<State>,
        progress: &Arc<watch::Sender<Progress>>,
    ) -> Self {
        Self {
            line: line.clone(),
            name: settings.checkpoint.clone(),
            best_effort: settings.staleness == Staleness::BestEffort,
            instance: rand::random::<u64>().max(1),
            state: Arc::clone(state),
            progress: Arc::clone(progress),
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn follow(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = RECONNECT.start();
        loop {
            let (mut heard, call) = (false, self.line.call());
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.stream(&call, &mut heard) => ended,
            };
            if heard {
                backoff.reset();
            }
            if let Err(status) = &ended {
                debug!(%status, "the checkpoint's stream ended");
                self.line.ended(&call, status);
            }
            self.progress.send_modify(|progress| progress.asked = true);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = backoff.wait() => {}
            }
        }
    }

    async fn stream(&self, call: &Call, heard: &mut bool) -> Result<(), Status> {
        let mut client = CheckpointClient::new(call.channel.clone()).max_decoding_message_size(MESSAGE_MAX);
        // When the agent does not take acknowledgements, the next message waits with them.
        let (acks, requests) = mpsc::channel(16);
        let hello = EnforceHello {
            checkpoint: self.name.clone(),
            version: concat!("verify-kit ", env!("CARGO_PKG_VERSION")).into(),
            // The first base identity, which acceptors show as well.
            spiffe_id: String::new(),
            best_effort: self.best_effort,
            instance: self.instance,
        };
        let hello = EnforceRequest {
            body: Some(Body::Hello(hello)),
        };
        acks.try_send(hello).expect("a new channel has room");
        let requests = unfold(requests, async |mut requests: mpsc::Receiver<_>| {
            Some((requests.recv().await?, requests))
        });
        let mut messages = client.enforce(with_header(requests)).await?.into_inner();
        let mut acknowledged = None;
        let mut whole = false;
        while let Some(message) = messages.message().await? {
            *heard = true;
            let epoch = message.epoch;
            let says_more = message.snapshot || !message.revoked.is_empty();
            self.enforce(message, &mut whole);
            if !whole {
                warn!(
                    epoch,
                    "a revocation is not understood: nothing is acknowledged before the next snapshot"
                );
                continue;
            }
            // All that could not be ended, each time: the agent goes by the last number that it heard. When that changes
            // without a revocation, as a window has ended, the next sign of life is answered with it.
            let connections_left = self.state.left();
            if says_more || acknowledged != Some((epoch, connections_left)) {
                let connections_ended = self.state.counters.take_for_ack();
                let ack = EnforceAck {
                    epoch,
                    connections_ended,
                    connections_left,
                };
                let ack = EnforceRequest {
                    body: Some(Body::Ack(ack)),
                };
                if acks.send(ack).await.is_err() {
                    let counters = &self.state.counters;
                    counters.put_back(connections_ended);
                    return Err(Status::cancelled("the stream is gone"));
                }
                acknowledged = Some((epoch, connections_left));
            }
        }
        Ok(())
    }

    /// When this returns, new handshakes refuse what the message revokes, and connections that were open are ended.
    /// `whole` says whether everything since the last snapshot was understood.
    fn enforce(&self, message: EnforceResponse, whole: &mut bool) {
        let revocations: Vec<Revocation> = message.revoked.iter().filter_map(read).collect();
        *whole = (*whole || message.snapshot) && revocations.len() == message.revoked.len();
        self.state.revoke(&revocations);
        if !*whole {
            return;
        }
        // Only now: whoever waits for a fresh word must not get in before what it says holds.
        let (uptime, lease) = (self.state.time.uptime(), Duration::from_millis(message.lease_ms.into()));
        let left = match message.lease_until_ms {
            0 => lease,
            until => lease.min(Duration::from_millis(until).saturating_sub(uptime)),
        };
        self.state.lease.renew(uptime, left);
        self.state.counters.epoch.store(message.epoch, Ordering::Relaxed);
        if message.snapshot {
            self.progress.send_modify(|progress| progress.revocations = true);
        }
    }
}

fn read(revoked: &Revoked) -> Option<Revocation> {
    let serials: Result<_, _> = revoked
        .serials
        .iter()
        .map(|serial| Serial::from_be_bytes(serial))
        .collect();
    Some(Revocation {
        window: match revoked.window_id.as_str() {
            "" => None,
            id => Some(id.parse().ok()?),
        },
        serials: serials.ok()?,
        not_after: Timestamp::from_unix(revoked.not_after),
    })
}
