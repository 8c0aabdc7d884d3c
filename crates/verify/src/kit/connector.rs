//! Makes connections for a client.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::acceptor::ConnectError;
use super::connection::Connection;
use super::own::Show;
use super::socket::SharedTcp;
use super::verifier::Tracking;
use super::{Matcher, Source};

/// Makes TLS connections to the servers that a [`Matcher`] lets in, with an own SVID, and ends them with the servers'
/// authority. Host names lead to a server; they say nothing about who it is.
#[derive(Debug, Clone)]
pub struct Connector {
    source: Source,
    wanted: Arc<Matcher>,
    config: Arc<ClientConfig>,
}

impl Connector {
    pub(crate) fn new(source: Source, wanted: Matcher, show: Show) -> Self {
        let config = source.client_config_with(wanted.clone(), show, Tracking::Tracked);
        Self {
            source,
            wanted: Arc::new(wanted),
            config: Arc::new(config),
        }
    }

    /// Shows this one of the own SVIDs instead of the first.
    #[must_use]
    pub fn showing(self, show: Show) -> Self {
        let alpn = self.config.alpn_protocols.clone();
        let mut connector = Self::new(self.source, Arc::unwrap_or_clone(self.wanted), show);
        Arc::make_mut(&mut connector.config).alpn_protocols = alpn;
        connector
    }

    /// The protocols that it offers, the preferred one first. None unless this is called.
    #[must_use]
    pub fn alpn<'a>(mut self, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        let protocols = protocols.into_iter().map(|protocol| protocol.as_bytes().to_vec());
        Arc::make_mut(&mut self.config).alpn_protocols = protocols.collect();
        self
    }

    /// Connects to `host:port`, within the time that the settings give a handshake.
    ///
    /// # Errors
    /// There is nobody, or not who is wanted.
    ///
    /// # Cancel safety
    /// If dropped, the connection is closed.
    pub async fn connect(&self, address: &str) -> Result<Connection, ConnectError> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|_| ConnectError::Host {
            address: address.into(),
        })?;
        let refused = |source| ConnectError::Tcp {
            address: address.into(),
            source,
        };
        let tcp = timeout(self.source.settings().handshake, TcpStream::connect(address))
            .await
            .map_err(|_| ConnectError::TimedOut)?
            .map_err(refused)?;
        tcp.set_nodelay(true).map_err(refused)?;
        self.connect_over(tcp, name).await
    }

    /// The handshake over a connection that is there already. `name` is only sent, for servers that choose by it.
    ///
    /// # Errors
    /// Who is there is not wanted, or does not speak TLS 1.3, or takes too long.
    ///
    /// # Cancel safety
    /// If dropped, the connection is closed.
    pub async fn connect_over(&self, tcp: TcpStream, name: ServerName<'static>) -> Result<Connection, ConnectError> {
        let generation = self.source.state().generation();
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(name, SharedTcp(Arc::new(tcp)));
        let tls = timeout(self.source.settings().handshake, handshake)
            .await
            .map_err(|_| ConnectError::TimedOut)?
            .map_err(ConnectError::Handshake)?;
        Connection::register(tls.into(), generation, &self.source, &self.wanted).map_err(ConnectError::from)
    }
}
