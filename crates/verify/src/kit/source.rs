//! What a service knows from its agent, kept up to date.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mayfly_runtime::{OnExit, Supervisor};
use mayfly_svid::{SpiffeId, TrustDomain};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::acceptor::Acceptor;
use super::checkpoint::Checkpoint;
use super::connector::Connector;
use super::line::Line;
use super::own::{Show, Shown};
use super::settings::{Settings, SettingsError, Staleness};
use super::state::State;
use super::time::{MachineTime, Steady, TimeSource};
use super::verifier::{KitVerifier, Tracking};
use super::workload::Workload;
use super::{Ended, Matcher, keeper};
use crate::{client_config, server_config};

/// The own SVIDs, the bundles and what is revoked, kept up to date by the local agent. Clones are handles of the same
/// one; it follows the agent until the last of them is gone, with the acceptors and connections made from it.
#[derive(Clone)]
pub struct Source {
    inner: Arc<Inner>,
}

struct Inner {
    state: Arc<State>,
    settings: Settings,
    followers: Supervisor,
}

/// How far a source has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Own SVID and bundles are there.
    pub(crate) material: bool,
    /// What is revoked is there.
    pub(crate) revocations: bool,
    /// The agent was asked for it, whatever it said.
    pub(crate) asked: bool,
}

/// Why there is no [`Source`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The settings cannot be used.
    #[error("the settings of the verifier kit are wrong")]
    Settings(#[from] SettingsError),
    /// The agent gave no identity in time.
    #[error("the agent at `{socket}` gave no identity within {waited:?}")]
    NoIdentity {
        /// Where it was asked.
        socket: String,
        /// How long.
        waited: Duration,
    },
    /// The agent did not say in time what is revoked, and the service is strict.
    #[error("the agent at `{socket}` did not say within {waited:?} what is revoked")]
    NoRevocations {
        /// Where it was asked.
        socket: String,
        /// How long.
        waited: Duration,
    },
}

/// What the kit has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Everything that was revoked up to here is enforced.
    pub epoch: u64,
    /// How long the agent's last word counts; `None` when it has run out.
    pub lease: Option<Duration>,
    /// Windows and serial numbers that are refused now.
    pub revoked: usize,
    /// Connections that are open.
    pub live: usize,
    /// Handshakes that were refused.
    pub refused: u64,
    /// Connections that were ended, by reason.
    pub ended: Vec<(Ended, u64)>,
}

impl Source {
    /// Connects to the agent and waits until there is an own identity and, for a strict service, word on what is
    /// revoked.
    ///
    /// # Errors
    /// The settings are wrong, or the agent does not answer in time.
    pub async fn connect(settings: Settings) -> Result<Self, SourceError> {
        Self::connect_at(settings, Arc::new(MachineTime)).await
    }

    pub(crate) async fn connect_at(settings: Settings, time: Arc<dyn TimeSource>) -> Result<Self, SourceError> {
        settings.check()?;
        let state = State::new(Steady::new(time), settings.staleness, settings.lifetime());
        let source = Self {
            inner: Arc::new(Inner {
                state: Arc::new(state),
                followers: Supervisor::new(),
                settings,
            }),
        };
        let mut progress = source.follow();
        source.wait(&mut progress).await?;
        Ok(source)
    }

    /// Accepts connections of peers that `wanted` lets in. Shows the own base SVID.
    pub fn acceptor(&self, wanted: Matcher) -> Acceptor {
        Acceptor::new(self.clone(), wanted, Show::Base)
    }

    /// Connects to servers that `wanted` lets in. Shows the first of the own SVIDs: inside a window that makes it the
    /// default, the task SVID.
    pub fn connector(&self, wanted: Matcher) -> Connector {
        Connector::new(self.clone(), wanted, Show::First)
    }

    /// A configuration for servers that do not use an [`Acceptor`]. Handshakes are judged in the same way, but nobody
    /// ends their connections: they are reported as ones that could not be ended.
    pub fn server_config(&self, wanted: Matcher, show: Show) -> ServerConfig {
        self.server_config_with(wanted, show, Tracking::Untracked)
    }

    /// The same for clients that do not use a [`Connector`].
    pub fn client_config(&self, wanted: Matcher, show: Show) -> ClientConfig {
        self.client_config_with(wanted, show, Tracking::Untracked)
    }

    /// The ID of the own base SVID; `None` while there is none.
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        let own = self.state().own.load();
        own.find(&Show::Base).map(|own| own.svid.spiffe_id().clone())
    }

    /// The own trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        let own = self.state().own.load();
        own.trust_domain
            .clone()
            .expect("a source is there once it has an identity")
    }

    /// What it has done so far.
    pub fn status(&self) -> Status {
        let state = self.state();
        let counters = &state.counters;
        let reasons = [
            Ended::Revoked,
            Ended::WindowOver,
            Ended::Expired,
            Ended::NoFreshWord,
            Ended::AuthorityGone,
        ];
        Status {
            epoch: counters.epoch.load(Ordering::Relaxed),
            lease: state.lease.left(state.time.uptime()),
            revoked: state.revoked_len(),
            live: state.live.open(),
            refused: counters.refused.load(Ordering::Relaxed),
            ended: reasons
                .map(|reason| (reason, counters.ended[reason as usize].load(Ordering::Relaxed)))
                .into(),
        }
    }

    pub(crate) fn state(&self) -> &Arc<State> {
        &self.inner.state
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(crate) fn server_config_with(&self, wanted: Matcher, show: Show, tracking: Tracking) -> ServerConfig {
        let own = Arc::new(Shown {
            source: self.clone(),
            show,
        });
        let clients = Arc::new(KitVerifier::new(self.clone(), wanted, tracking));
        let mut config = server_config(own, clients, Arc::new(self.state().time.clone()));
        config.alpn_protocols.clear();
        config
    }

    pub(crate) fn client_config_with(&self, wanted: Matcher, show: Show, tracking: Tracking) -> ClientConfig {
        let own = Arc::new(Shown {
            source: self.clone(),
            show,
        });
        let servers = Arc::new(KitVerifier::new(self.clone(), wanted, tracking));
        let mut config = client_config(Some(own), servers, Arc::new(self.state().time.clone()));
        config.alpn_protocols.clear();
        config
    }

    fn follow(&self) -> watch::Receiver<Progress> {
        let (progress, receiver) = watch::channel(Progress::default());
        let progress = Arc::new(progress);
        let followers = &self.inner.followers;
        let line = Line::new(self.inner.settings.socket.clone());
        let workload = Workload::new(&line, self.state(), &progress);
        followers.spawn("workload api", OnExit::Restart, move |stop| {
            let workload = workload.clone();
            async move { workload.follow(stop).await }
        });
        let checkpoint = Checkpoint::new(&line, &self.inner.settings, self.state(), &progress);
        followers.spawn("checkpoint", OnExit::Restart, move |stop| {
            let checkpoint = checkpoint.clone();
            async move { checkpoint.follow(stop).await }
        });
        let state = Arc::clone(self.state());
        followers.spawn("connection ends", OnExit::Restart, move |stop| {
            keeper::keep(Arc::clone(&state), stop)
        });
        receiver
    }

    async fn wait(&self, progress: &mut watch::Receiver<Progress>) -> Result<(), SourceError> {
        let Settings {
            socket,
            staleness,
            first_word,
            ..
        } = &self.inner.settings;
        let (socket, waited) = (socket.display().to_string(), *first_word);
        let deadline = Instant::now() + waited;
        let has = |progress: &Progress| progress.material;
        if !matches!(timeout_at(deadline, progress.wait_for(has)).await, Ok(Ok(_))) {
            return Err(SourceError::NoIdentity { socket, waited });
        }
        let strict = *staleness == Staleness::Strict;
        let has = |progress: &Progress| progress.revocations || (progress.asked && !strict);
        match timeout_at(deadline, progress.wait_for(has)).await {
            Ok(Ok(_)) => Ok(()),
            _ if !strict => Ok(()),
            _ => Err(SourceError::NoRevocations { socket, waited }),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.followers.stop();
    }
}
