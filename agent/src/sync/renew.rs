//! When and how the agent's own SVID is renewed, and when it is lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::status::Reason;
use mayfly_runtime::{BackoffPolicy, Chain, Clock};
use mayfly_svid::Timestamp;
use tokio::time::Instant;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use super::attest::{self, AttestError};
use super::connection::Connector;
use super::evidence::Evidence;
use super::identity::{self, Identity};
use super::metrics::SyncMetrics;

const RETRY: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(1), Duration::from_secs(60));
/// The wall clock is looked at this often, as it may jump while we sleep; and what could not be written is written.
const LOOK: Duration = Duration::from_secs(30);

/// What it takes to get an SVID, shared by the first time and all later ones.
#[derive(Debug)]
pub(super) struct Joining {
    /// Ways to the server.
    pub connector: Connector,
    /// What proves the node.
    pub evidence: Evidence,
    /// Where the identity is kept.
    pub data_dir: PathBuf,
    /// Where failures are counted.
    pub metrics: SyncMetrics,
}

impl Joining {
    /// Keeps `identity` for the next start; says whether that could be done. It is used in any case.
    pub(super) fn keep(&self, identity: &Identity) -> bool {
        let kept = identity::save(&self.data_dir, identity);
        if let Err(error) = &kept {
            error!(error = %Chain(error), "the agent's identity is used but cannot be kept for the next start");
        }
        kept.is_ok()
    }
}

/// The agent cannot go on with the identity that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The server does not accept it, for this reason.
    Refused(Reason),
    /// Its end has passed.
    Expired,
}

/// Waits until `identity` is to be renewed, but not before `earliest`, and renews it; tries again until it is done or
/// lost. While it waits it tries to keep it, if it is not `kept`: after a restart without it, used evidence would not get
/// the agent in again.
///
/// # Errors
/// The identity is lost: only attestation can help.
///
/// # Cancel safety
/// As [`attest::attest`].
pub(super) async fn renewed(
    joining: Arc<Joining>,
    identity: Arc<Identity>,
    mut kept: bool,
    earliest: Instant,
    channel: Channel,
) -> Result<Arc<Identity>, Lost> {
    let mut due = Due::at(identity.renew_at(), earliest, joining.connector.clock().as_ref());
    while !due.wait(joining.connector.clock().as_ref()).await {
        kept = kept || joining.keep(&identity);
    }
    let mut backoff = RETRY.start();
    let mut must_attest = identity.reattestable();
    loop {
        let attempt = if must_attest {
            attest::attest(&joining.connector, &joining.evidence).await
        } else {
            attest::renew(&joining.connector, channel.clone(), &identity).await
        };
        let error = match attempt {
            Ok(renewed) => {
                info!(not_after = %renewed.svid().not_after(), attested = must_attest, "agent SVID renewed");
                return Ok(renewed);
            }
            Err(error) => error,
        };
        joining.metrics.renewal_failures.inc();
        match error.refusal() {
            Some(Reason::AgentMustReattest) if !must_attest => {
                must_attest = true;
                continue;
            }
            Some(Reason::Unknown | Reason::AgentMustReattest) | None => {}
            Some(reason) => return Err(Lost::Refused(reason)),
        }
        if identity.is_expired(Timestamp::from(joining.connector.clock().now())) {
            return Err(Lost::Expired);
        }
        let pause = match error.retry_after() {
            Some(hint) => backoff.next_delay_with_hint(hint),
            None => backoff.next_delay(),
        };
        report(&error, &identity, pause);
        tokio::time::sleep(pause).await;
    }
}

fn report(error: &AttestError, identity: &Identity, pause: Duration) {
    warn!(
        error = %Chain(error),
        valid_until = %identity.svid().not_after(),
        retry_in_ms = pause.as_millis(),
        "agent SVID not renewed, the old one is still used"
    );
}

/// A moment by both clocks. A wall clock that is set back must not delay it: the server counts on.
struct Due {
    wall: Timestamp,
    mono: Instant,
    earliest: Instant,
}

impl Due {
    fn at(wall: Timestamp, earliest: Instant, clock: &dyn Clock) -> Self {
        Self {
            wall,
            mono: Instant::now() + wall.since(Timestamp::from(clock.now())),
            earliest,
        }
    }

    /// Waits for the moment, but for at most [`LOOK`]; says whether it has come.
    async fn wait(&mut self, clock: &dyn Clock) -> bool {
        let left = self
            .wall
            .since(Timestamp::from(clock.now()))
            .min(self.mono - Instant::now())
            .max(self.earliest - Instant::now());
        tokio::time::sleep(left.min(LOOK)).await;
        let now = Instant::now();
        now >= self.earliest && (Timestamp::from(clock.now()) >= self.wall || now >= self.mono)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svids::testing::LinkedClock;

    #[tokio::test(start_paused = true)]
    async fn a_moment_comes_by_whichever_clock_is_first() {
        let start = Instant::now();
        let clock = LinkedClock::at_unix(1_000_000);
        let mut due = Due::at(Timestamp::from_unix(1_001_800), start, clock.as_ref());
        assert!(!due.wait(clock.as_ref()).await);
        clock.jump(-600);
        while !due.wait(clock.as_ref()).await {}
        assert_eq!(
            start.elapsed().as_secs(),
            1800,
            "not later because the wall clock was set back"
        );

        let mut due = Due::at(Timestamp::from_unix(1_003_000), start, clock.as_ref());
        clock.jump(6_000);
        assert!(due.wait(clock.as_ref()).await);
        assert!(start.elapsed() < Duration::from_secs(1802));
    }

    // Attack 24: what comes is over by a clock that is far ahead, and asking as fast as the server answers helps nobody.
    #[tokio::test(start_paused = true)]
    async fn a_moment_that_is_past_when_it_is_set_comes_no_earlier_than_it_may() {
        let start = Instant::now();
        let clock = LinkedClock::at_unix(1_000_000);
        let mut due = Due::at(
            Timestamp::from_unix(999_000),
            start + Duration::from_secs(90),
            clock.as_ref(),
        );
        while !due.wait(clock.as_ref()).await {}
        assert_eq!(start.elapsed().as_secs(), 90);
    }
}
