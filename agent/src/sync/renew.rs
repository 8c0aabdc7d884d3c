//! When and how the agent's own SVID is renewed, and when it is lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::status::Reason;
use mayfly_runtime::{BackoffPolicy, Chain};
use mayfly_svid::Timestamp;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::attest::{self, AttestError};
use super::connection::Connector;
use super::evidence::Evidence;
use super::identity::Identity;
use super::metrics::SyncMetrics;

const RETRY: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(1), Duration::from_secs(60));
/// The wall clock is looked at this often, as it may jump while we sleep.
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

/// The agent cannot go on with the identity that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The server does not accept it, for this reason.
    Refused(Reason),
    /// Its end has passed.
    Expired,
}

/// Waits until `identity` is to be renewed, and renews it; tries again until it is done or lost.
///
/// # Errors
/// The identity is lost: only attestation can help.
///
/// # Cancel safety
/// As [`attest::attest`].
pub(super) async fn renewed(
    joining: Arc<Joining>,
    identity: Arc<Identity>,
    channel: Channel,
) -> Result<Arc<Identity>, Lost> {
    until(&joining.connector, identity.renew_at()).await;
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

async fn until(connector: &Connector, moment: Timestamp) {
    loop {
        let now = Timestamp::from(connector.clock().now());
        if now >= moment {
            return;
        }
        tokio::time::sleep(moment.since(now).min(LOOK)).await;
    }
}
