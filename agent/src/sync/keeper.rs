//! The one task that keeps the agent in step with its server.
//!
//! ```text
//!   establish trust ──▶ join ──────────────▶ serve ──── renewed: new connection first, then the old one goes
//!                        ▲   an SVID is there   │
//!                        └──── lost: expired, evicted (withdraw), banned (withdraw) ◀──┘
//! ```
//!
//! It does not end by itself, also not when the agent is banned: a restart by the service manager would change nothing
//! and hide the message. It asks again, seldom, and at once when the evidence on disk has changed.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::status::Reason;
use mayfly_runtime::client::{ChannelSettings, HostPort};
use mayfly_runtime::{Backoff, BackoffPolicy, BlockReady, CancellationToken, Chain, Clock, Readiness};
use mayfly_svid::{Bundle, SpiffeId, Timestamp, TrustDomain};
use tokio::time::Instant;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use super::attest;
use super::bundle_file::{self, BundleFileError};
use super::call::CallError;
use super::connection::Connector;
use super::evidence::Evidence;
use super::follower::{Break, Follower};
use super::holdings::{Applied, Holdings};
use super::identity::{self, Identity, IdentityError};
use super::link::Link;
use super::metrics::SyncMetrics;
use super::renew::{Joining, Lost, renewed};
use super::trust::{Trust, TrustError, TrustSource};
use crate::news::News;
use crate::view::ViewPublisher;

const CONNECT: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(250), Duration::from_secs(30));
/// After an answer that will be the same until somebody acts.
const REFUSED: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(10), Duration::from_secs(300));
/// While waiting that long, evidence on disk is looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// A connection that lived this long was a good one: the next pause is short again.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// The agent's own SVID is not renewed more often than this, or than four times in its life.
const RENEWAL_GAP: Duration = Duration::from_secs(60);
/// How long the way to the server may take while the old connection still works.
const HANDOVER: Duration = Duration::from_secs(10);

/// What readiness waits for, in the words of `/ready`.
pub(super) const ATTESTATION: &str = "attestation";
pub(super) const FIRST_SYNC: &str = "first sync with the server";

/// What the keeper is made of.
pub struct KeeperParts {
    /// The trust domain of the server and of this agent.
    pub trust_domain: TrustDomain,
    /// The server.
    pub server: HostPort,
    /// Where the first bundle comes from, if none is kept.
    pub trust_source: Option<TrustSource>,
    /// What proves the node.
    pub evidence: Evidence,
    /// Where bundle, key and SVID are kept. Locked by the caller.
    pub data_dir: PathBuf,
    /// Judges certificates.
    pub clock: Arc<dyn Clock>,
    /// Timeouts of connections.
    pub channel: ChannelSettings,
    /// Where the picture is published. Nobody else writes.
    pub views: Arc<ViewPublisher>,
    /// Where what concerns tasks is exchanged. Nobody else writes what the server said.
    pub news: Arc<News>,
    /// Where the way to the server is published.
    pub link: Arc<Link>,
    /// Blocked while the agent is not attested, and until it has heard the server in full.
    pub readiness: Readiness,
    /// Counters.
    pub metrics: SyncMetrics,
}

/// Why the agent cannot start. Trying again does not help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kept bundle cannot be used.
    #[error("cannot use the trust bundle that was kept")]
    Bundle(#[from] BundleFileError),
    /// The kept identity cannot be used.
    #[error("cannot use the agent identity that was kept")]
    Identity(#[from] IdentityError),
    /// The folder is that of another agent.
    #[error("`{path}` holds the identity `{id}`, which is not of the trust domain `{trust_domain}`")]
    OtherTrustDomain {
        /// The file.
        path: PathBuf,
        /// What it holds.
        id: SpiffeId,
        /// The configured trust domain.
        trust_domain: TrustDomain,
    },
    /// There is no bundle and no way to get one.
    #[error(transparent)]
    NoTrust(TrustError),
}

/// Keeps the agent known to the server, connected and up to date.
pub struct Keeper {
    joining: Arc<Joining>,
    trust: Arc<Trust>,
    trust_source: Option<TrustSource>,
    kept: Option<Arc<Identity>>,
    holdings: Holdings,
    link: Arc<Link>,
    follower: Option<Follower>,
    /// The follower uses the identity before the present one, as the new connection could not be made.
    outdated: bool,
    readiness: Readiness,
    attested: Option<BlockReady>,
    synced: Option<BlockReady>,
    metrics: SyncMetrics,
    backoff: Backoff,
    /// Before this there is no further attempt to follow the server.
    not_before: Instant,
}

// === impl Keeper ===

impl Keeper {
    /// Reads what the data folder keeps.
    ///
    /// # Errors
    /// It is damaged or foreign, or no server could ever be believed.
    pub fn new(parts: KeeperParts) -> Result<Self, StartError> {
        let trust = Arc::new(Trust::load(&parts.data_dir, &parts.trust_domain)?);
        if !trust.is_established() && parts.trust_source.is_none() {
            let path = bundle_file::stored_path(&parts.data_dir);
            return Err(StartError::NoTrust(TrustError::NoSource { path }));
        }
        if parts.trust_source == Some(TrustSource::InsecureBootstrap) {
            warn!(
                "insecure_bootstrap is on: at its first start the agent believes any server. \
                 Set trust_bundle_path instead, except for trying things out"
            );
        }
        let kept = identity::load(&parts.data_dir)?;
        if let Some(identity) = &kept
            && !identity.svid().spiffe_id().is_member_of(&parts.trust_domain)
        {
            return Err(StartError::OtherTrustDomain {
                path: identity::stored_path(&parts.data_dir),
                id: identity.svid().spiffe_id().clone(),
                trust_domain: parts.trust_domain,
            });
        }
        let connector = Connector::new(parts.server, Arc::clone(&trust), parts.clock, parts.channel);
        let joining = Joining {
            connector,
            evidence: parts.evidence,
            data_dir: parts.data_dir,
            metrics: parts.metrics.clone(),
        };
        Ok(Self {
            joining: Arc::new(joining),
            trust,
            trust_source: parts.trust_source,
            kept,
            holdings: Holdings::new(parts.trust_domain, parts.views, parts.news),
            link: parts.link,
            follower: None,
            outdated: false,
            attested: Some(parts.readiness.block(ATTESTATION)),
            synced: Some(parts.readiness.block(FIRST_SYNC)),
            readiness: parts.readiness,
            metrics: parts.metrics,
            backoff: CONNECT.start(),
            not_before: Instant::now(),
        })
    }

    /// Runs until `stop`.
    ///
    /// # Cancel safety
    /// If dropped, the connection is dropped with it; what is kept on disk is whole at every moment.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            never = self.live() => match never {},
        }
    }

    async fn live(&mut self) -> Infallible {
        self.establish_trust().await;
        let mut held = self.kept.take().map(|kept| (kept, true));
        if let Some((kept, _)) = held.as_ref().filter(|(kept, _)| self.is_expired(kept)) {
            warn!(not_after = %kept.svid().not_after(), "the agent's own SVID has expired, attesting anew");
        }
        loop {
            let (mut identity, mut is_kept) = match held.take() {
                Some(held) if !self.is_expired(&held.0) => held,
                held => self.join(held).await,
            };
            self.attested = None;
            let id = identity.svid().spiffe_id().clone();
            let lost = self.serve(&mut identity, &mut is_kept).await;
            // A clock that was set far ahead may be set right: then it has not expired after all.
            let by_clock = lost == Lost::Expired && self.is_expired(&identity);
            held = by_clock.then_some((identity, is_kept));
            self.link.set(None);
            self.follower = None;
            self.set_connected(false);
            self.lost(&id, lost);
        }
    }

    fn is_expired(&self, identity: &Identity) -> bool {
        identity.is_expired(Timestamp::from(self.joining.connector.clock().now()))
    }

    async fn establish_trust(&mut self) {
        let mut backoff = CONNECT.start();
        loop {
            let established = self
                .trust
                .establish(self.trust_source.as_ref(), &self.joining.connector)
                .await;
            let Err(error) = established else { break };
            let pause = backoff.next_delay();
            let retry_in_ms = pause.as_millis();
            if error.is_of_the_moment() {
                warn!(error = %Chain(&error), retry_in_ms, "no trust bundle yet");
            } else {
                error!(error = %Chain(&error), retry_in_ms, "no trust bundle yet");
            }
            tokio::time::sleep(pause).await;
        }
        if let Some(bundle) = self.trust.current() {
            self.holdings.start_with(Bundle::clone(&bundle));
        }
    }

    /// Attests until it is done, or until `held` is valid by the clock; says whether the identity is kept on disk.
    async fn join(&mut self, held: Option<(Arc<Identity>, bool)>) -> (Arc<Identity>, bool) {
        let joining = Arc::clone(&self.joining);
        let (mut backoff, mut refused) = (CONNECT.start(), REFUSED.start());
        loop {
            let stamp = joining.evidence.stamp();
            let error = match attest::attest(&joining.connector, &joining.evidence).await {
                Ok(identity) => {
                    let svid = identity.svid();
                    info!(agent_id = %svid.spiffe_id(), not_after = %svid.not_after(), "agent attested");
                    let is_kept = joining.keep(&identity);
                    return (identity, is_kept);
                }
                Err(error) => error,
            };
            self.metrics.renewal_failures.inc();
            let pause = match (error.retry_after(), error.is_permanent()) {
                (Some(hint), _) => backoff.next_delay_with_hint(hint),
                (None, true) => refused.next_delay(),
                (None, false) => backoff.next_delay(),
            };
            let retry_in_ms = pause.as_millis();
            if error.refusal() == Some(Reason::AgentBanned) {
                error!(error = %Chain(&error), retry_in_ms, hint = BANNED_HINT, "the server has banned this agent");
            } else if error.is_permanent() {
                let hint = joining.evidence.remedy();
                error!(error = %Chain(&error), retry_in_ms, hint, "this agent cannot attest");
            } else if error.server_not_believed() {
                error!(error = %Chain(&error), retry_in_ms, hint = self.trust_hint(), "the server is not believed");
            } else {
                warn!(error = %Chain(&error), retry_in_ms, "this agent is not attested yet");
            }
            let deadline = Instant::now() + pause;
            while Instant::now() < deadline && (!error.is_permanent() || joining.evidence.stamp() == stamp) {
                if let Some(held) = held.as_ref().filter(|(held, _)| !self.is_expired(held)) {
                    warn!("by the clock, which was set, the agent's own SVID is valid after all");
                    return held.clone();
                }
                tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)).await;
            }
        }
    }

    /// Follows the server and renews, as long as the agent has an identity.
    async fn serve(&mut self, identity: &mut Arc<Identity>, is_kept: &mut bool) -> Lost {
        if let Some(witness) = self.holdings.news().witness() {
            witness.becomes(identity.svid().spiffe_id());
        }
        let mut channel = match self.joining.connector.identified(identity) {
            Ok(channel) => channel,
            Err(error) => {
                error!(error = %Chain(&error), "the agent's own SVID cannot be used, attesting anew");
                return Lost::Expired;
            }
        };
        self.link.set(Some(channel.clone()));
        let mut earliest = Instant::now();
        loop {
            self.metrics.own_svid_not_after.set(identity.svid().not_after().unix());
            let renewal = renewed(
                Arc::clone(&self.joining),
                Arc::clone(identity),
                *is_kept,
                earliest,
                channel.clone(),
            );
            let next = tokio::select! {
                next = renewal => next,
                lost = self.follow(&channel) => return lost,
            };
            let next = match next {
                Ok(next) => next,
                Err(lost) => return lost,
            };
            *is_kept = self.joining.keep(&next);
            match self.joining.connector.identified(&next) {
                Ok(next) => channel = next,
                Err(error) => error!(error = %Chain(&error), "the renewed SVID cannot be used"),
            }
            // By a clock far ahead it is over already. The server would be asked without end.
            earliest = Instant::now() + (next.svid().not_after().since(next.svid().not_before()) / 4).min(RENEWAL_GAP);
            *identity = next;
            self.hand_over(&channel).await;
        }
    }

    /// Moves to the connection of a renewed identity. The old one is dropped when the new one works, or has failed by
    /// itself.
    async fn hand_over(&mut self, channel: &Channel) {
        if self.follower.is_some() {
            match tokio::time::timeout(HANDOVER, Follower::open(channel, &self.link, &self.holdings)).await {
                Ok(Ok(follower)) => {
                    self.follower = Some(follower);
                    self.outdated = false;
                }
                failed => {
                    let error = failed.ok().and_then(Result::err).map(|error| Chain(&error).to_string());
                    warn!(
                        error,
                        "no connection as the renewed identity yet, the old one is still used"
                    );
                    self.outdated = true;
                }
            }
        }
        self.link.set(Some(channel.clone()));
    }

    /// Follows the server through all breaks of the connection.
    async fn follow(&mut self, channel: &Channel) -> Lost {
        loop {
            tokio::time::sleep_until(self.not_before).await;
            let broken = match self.follow_once(channel).await {
                Err(broken) => broken,
                Ok(never) => match never {},
            };
            let good = self
                .follower
                .take()
                .is_some_and(|follower| follower.since().elapsed() >= GOOD_AFTER);
            let outdated = std::mem::take(&mut self.outdated);
            self.set_connected(false);
            if good {
                self.backoff.reset();
            }
            let pause = match &broken {
                Break::Diverged => {
                    self.metrics.resyncs.inc();
                    self.holdings.forget_position();
                    self.backoff.next_delay()
                }
                Break::Doubt => self.backoff.next_delay(),
                Break::Failed(error) => {
                    self.metrics.disconnects.inc();
                    if let Some(reason) = error.refusal()
                        && reason != Reason::Unknown
                        && !(outdated && reason == Reason::AgentNotActive)
                    {
                        return Lost::Refused(reason);
                    }
                    match error.retry_after() {
                        Some(hint) => self.backoff.next_delay_with_hint(hint),
                        None => self.backoff.next_delay(),
                    }
                }
            };
            // Kept outside of this future: a renewal in between must not cut a pause short that the server asked for.
            self.not_before = Instant::now() + pause;
            if let Break::Failed(error) = &broken {
                self.report(error, good, pause);
            }
        }
    }

    async fn follow_once(&mut self, channel: &Channel) -> Result<Infallible, Break> {
        if self.follower.is_none() {
            let follower = Follower::open(channel, &self.link, &self.holdings)
                .await
                .map_err(Break::Failed)?;
            info!(server = %self.joining.connector.server(), mode = follower.mode(), "connected to the server");
            self.follower = Some(follower);
            self.set_connected(true);
        }
        loop {
            let Some(follower) = &mut self.follower else {
                unreachable!("set above and taken by the caller only")
            };
            let applied = tokio::select! {
                applied = follower.next(&mut self.holdings) => applied?,
                () = self.link.doubted() => return Err(Break::Doubt),
            };
            self.link.set_heard(Some(Instant::now()));
            if let Some(applied) = applied {
                self.applied(applied);
            }
        }
    }

    fn set_connected(&self, connected: bool) {
        self.metrics.connected.set(i64::from(connected));
        self.link.set_heard(connected.then(Instant::now));
    }

    fn applied(&mut self, applied: Applied) {
        if let Some(bundle) = &applied.own_bundle {
            self.trust.adopt(bundle);
        }
        let view = self.holdings.view();
        self.metrics
            .revision
            .set(i64::try_from(view.revision()).unwrap_or(i64::MAX));
        self.metrics.entries.set(i64::try_from(view.len()).unwrap_or(i64::MAX));
        self.synced = None;
    }

    fn report(&self, error: &CallError, was_good: bool, pause: Duration) {
        let retry_in_ms = pause.as_millis();
        if error.server_not_believed() {
            error!(error = %Chain(error), retry_in_ms, hint = self.trust_hint(), "the server is not believed");
        } else if was_good {
            // Servers close connections now and then, by GOAWAY; that is no news.
            info!(error = %Chain(error), retry_in_ms, "connection to the server ended, reconnecting");
        } else {
            warn!(
                error = %Chain(error),
                retry_in_ms,
                "no connection to the server; what is held is served until it expires"
            );
        }
    }

    /// The server's word, or the end of the SVID, put into effect.
    fn lost(&mut self, id: &SpiffeId, lost: Lost) {
        self.not_before = Instant::now();
        self.attested = Some(self.readiness.block(ATTESTATION));
        let withdrawn = match lost {
            Lost::Refused(Reason::AgentBanned) => {
                error!(agent_id = %id, hint = BANNED_HINT, "the server has banned this agent: all identities withdrawn");
                true
            }
            Lost::Refused(Reason::AgentNotAttested) => {
                warn!(agent_id = %id, "the server has evicted this agent: all identities withdrawn, attesting anew");
                true
            }
            Lost::Refused(reason) => {
                warn!(agent_id = %id, ?reason, "the server wants this agent to attest anew");
                false
            }
            Lost::Expired => {
                warn!(agent_id = %id, "the agent's own SVID has expired, attesting anew");
                false
            }
        };
        if withdrawn {
            self.synced = Some(self.readiness.block(FIRST_SYNC));
            self.holdings.withdraw();
            if let Err(error) = identity::forget(&self.joining.data_dir) {
                error!(error = %Chain(&error), "the agent's identity on disk cannot be deleted");
            }
        }
    }

    fn trust_hint(&self) -> String {
        let path = bundle_file::stored_path(&self.joining.data_dir);
        format!(
            "if the server is the right one and its authorities were replaced while this agent was away, delete `{}` \
             and provide the present bundle",
            path.display()
        )
    }
}

const BANNED_HINT: &str = "if the node can be trusted again, run `mayfly agent evict` for this agent on the server and \
                           give it new evidence (a new join token); it is asked for by itself";
