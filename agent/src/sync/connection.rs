//! Channels to the server: TLS 1.3, HTTP/2, and the server believed only as `spiffe://<td>/spire/server`.
//!
//! A channel connects when first used and again when the connection is lost; the address is resolved each time, and the
//! bundle of that moment decides. A renewed identity gets a new channel, the old one lives until its last user is gone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mayfly_runtime::Clock;
use mayfly_runtime::client::{ChannelSettings, HostPort, tls_channel};
use mayfly_svid::TrustDomain;
use mayfly_verify::dangerous::InsecureServerVerifier;
use mayfly_verify::{AnchorSource, Authorize, SpiffeServerVerifier, client_config};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use tonic::transport::Channel;

use super::identity::{Identity, IdentityError};
use super::trust::Trust;

/// Makes channels to one server.
#[derive(Debug)]
pub struct Connector {
    server: HostPort,
    trust: Arc<Trust>,
    clock: Arc<dyn Clock>,
    settings: ChannelSettings,
}

// === impl Connector ===

impl Connector {
    /// For the server at `server`, believed by `trust`.
    pub fn new(server: HostPort, trust: Arc<Trust>, clock: Arc<dyn Clock>, settings: ChannelSettings) -> Self {
        Self {
            server,
            trust,
            clock,
            settings,
        }
    }

    /// The server's address.
    pub fn server(&self) -> &HostPort {
        &self.server
    }

    /// The trust domain whose server this is.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.trust.trust_domain()
    }

    /// The clock that certificates are judged by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// A channel that shows no certificate: for the first attestation.
    pub fn anonymous(&self) -> Channel {
        self.channel(None, self.verifier())
    }

    /// A channel of this agent as `identity`.
    ///
    /// # Errors
    /// The TLS library does not take the key.
    pub fn identified(&self, identity: &Identity) -> Result<Channel, IdentityError> {
        Ok(self.channel(Some(identity.tls_resolver()?), self.verifier()))
    }

    /// A channel to whoever answers, for one call; the verifier then knows what was presented.
    pub fn unverified(&self) -> (Channel, Arc<InsecureServerVerifier>) {
        let verifier = Arc::new(InsecureServerVerifier::new());
        (self.channel(None, Arc::clone(&verifier) as _), verifier)
    }

    fn verifier(&self) -> Arc<dyn ServerCertVerifier> {
        let anchors: Arc<dyn AnchorSource> = self.trust.anchors();
        Arc::new(SpiffeServerVerifier::new(
            anchors,
            Authorize::Id(self.trust.trust_domain().server_id()),
        ))
    }

    fn channel(&self, own: Option<Arc<dyn ResolvesClientCert>>, verifier: Arc<dyn ServerCertVerifier>) -> Channel {
        let config = client_config(own, verifier, Arc::new(TlsTime(Arc::clone(&self.clock))));
        tls_channel(&self.server, Arc::new(config), &self.settings)
    }
}

/// Timeouts towards the server: a dead one is noticed within half a minute also where nothing is sent.
pub fn channel_settings() -> ChannelSettings {
    ChannelSettings {
        connect_timeout: Duration::from_secs(10),
        keepalive_interval: Duration::from_secs(20),
        keepalive_timeout: Duration::from_secs(10),
    }
}

/// Our clock, as rustls asks for it.
struct TlsTime(Arc<dyn Clock>);

impl TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.unix_now()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

impl fmt::Debug for TlsTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
