//! Accepts connections for a service.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connection::Connection;
use super::own::Show;
use super::socket::SharedTcp;
use super::state::Refusal;
use super::verifier::Tracking;
use super::{Matcher, Source};

/// Accepts TLS connections of the peers that a [`Matcher`] lets in, and ends them with the peers' authority.
#[derive(Debug, Clone)]
pub struct Acceptor {
    source: Source,
    wanted: Arc<Matcher>,
    config: Arc<ServerConfig>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The TCP connection could not be made.
    #[error("cannot connect to `{address}`")]
    Tcp {
        /// Where to.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The host is not a DNS name or an IP address.
    #[error("`{address}` does not begin with a name or an address")]
    Host {
        /// What was given.
        address: String,
    },
    /// One side refused the other, or somebody does not speak TLS 1.3. A [`rustls::Error`] inside says which.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The peer was refused by what became known while the handshake ran.
    #[error("the peer was refused while the handshake ran")]
    Refused(#[source] Refusal),
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    Anonymous,
    /// The handshake took too long.
    #[error("the TLS handshake took too long")]
    TimedOut,
}

impl Acceptor {
    pub(crate) fn new(source: Source, wanted: Matcher, show: Show) -> Self {
        let config = source.server_config_with(wanted.clone(), show, Tracking::Tracked);
        Self {
            source,
            wanted: Arc::new(wanted),
            config: Arc::new(config),
        }
    }

    /// Shows this one of the own SVIDs instead of the base SVID.
    #[must_use]
    pub fn showing(self, show: Show) -> Self {
        let alpn = self.config.alpn_protocols.clone();
        let mut acceptor = Self::new(self.source, Arc::unwrap_or_clone(self.wanted), show);
        Arc::make_mut(&mut acceptor.config).alpn_protocols = alpn;
        acceptor
    }

    /// The protocols that it offers, the preferred one first: `["h2", "http/1.1"]`. None unless this is called.
    #[must_use]
    pub fn alpn<'a>(mut self, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        let protocols = protocols.into_iter().map(|protocol| protocol.as_bytes().to_vec());
        Arc::make_mut(&mut self.config).alpn_protocols = protocols.collect();
        self
    }

    /// The handshake, within the time that the settings give it.
    ///
    /// # Errors
    /// The peer is refused, or does not speak TLS 1.3, or takes too long.
    ///
    /// # Cancel safety
    /// If dropped, the connection is closed.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Connection, ConnectError> {
        let generation = self.source.state().generation();
        let handshake = TlsAcceptor::from(Arc::clone(&self.config)).accept(SharedTcp(Arc::new(tcp)));
        let tls = timeout(self.source.settings().handshake, handshake)
            .await
            .map_err(|_| ConnectError::TimedOut)?
            .map_err(ConnectError::Handshake)?;
        Connection::register(tls.into(), generation, &self.source, &self.wanted).map_err(ConnectError::from)
    }
}

impl From<Option<Refusal>> for ConnectError {
    fn from(refusal: Option<Refusal>) -> Self {
        refusal.map_or(Self::Anonymous, Self::Refused)
    }
}
