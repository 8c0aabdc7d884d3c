//! gRPC channels to other processes: over a Unix socket, or over TCP with a TLS configuration of our own.
//!
//! The channels connect when first used and again when the connection is lost.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// A host (name, IPv4 or IPv6 address) and a port: `ca.example.org:8081`, `[::1]:8081`. Made by parsing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is not a [`HostPort`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostPortError {
    /// No `:` with a port behind it.
    #[error("the port is missing")]
    NoPort,
    /// Not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// Neither a DNS name nor an IP address.
    #[error("the host is neither a name nor an address")]
    Host,
}

/// Timeouts of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelSettings {
    /// For connecting, TLS handshake included.
    pub connect_timeout: Duration,
    /// How often the peer is asked whether it is there, also while no call is open.
    pub keepalive_interval: Duration,
    /// How long its answer may take before the connection is given up.
    pub keepalive_timeout: Duration,
}

/// A channel to the server on the Unix socket `path`. `:authority` is `localhost`, as the gRPC specification asks.
pub fn unix_channel(path: &Path) -> Channel {
    unix_channel_with(path, &ChannelSettings::default())
}

/// [`unix_channel`] with other timeouts.
pub fn unix_channel_with(path: &Path, settings: &ChannelSettings) -> Channel {
    let path: Arc<PathBuf> = Arc::new(path.to_owned());
    // Nobody has to ping across a Unix socket: the kernel tells when the peer is gone.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(settings.connect_timeout);
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let path = Arc::clone(&path);
        async move { UnixStream::connect(path.as_path()).await.map(TokioIo::new) }
    }))
}

/// A channel to `address` over TLS. `config` decides whom to trust and which certificate to show; when its resolver
/// or verifier changes its mind, new connections follow. HTTP/2 is offered by ALPN whatever `config` says.
pub fn tls_channel(address: &HostPort, config: Arc<ClientConfig>, settings: &ChannelSettings) -> Channel {
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let address = Arc::new(address.clone());
    // tonic would insist on its own TLS for a URI with `https`; the origin is what the server sees.
    let uri = Uri::try_from(format!("http://{address}")).expect("a HostPort is a valid authority");
    let origin = Uri::try_from(format!("https://{address}")).expect("a HostPort is a valid authority");
    Endpoint::from(uri)
        .origin(origin)
        .connect_timeout(settings.connect_timeout)
        .http2_keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (connector, address) = (connector.clone(), Arc::clone(&address));
            async move {
                let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
                tcp.set_nodelay(true)?;
                connector.connect(address.server_name(), tcp).await.map(TokioIo::new)
            }
        }))
}

// === impl ChannelSettings ===

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

// === impl HostPort ===

impl HostPort {
    /// Name or address; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.host.clone()).expect("checked when it was parsed")
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError::NoPort)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or(HostPortError::Port)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(HostPortError::Host),
            None if host.contains(':') => return Err(HostPortError::Host),
            None => host,
        };
        if ServerName::try_from(host).is_err() {
            return Err(HostPortError::Host);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_port_is_read_back_as_it_was_written() {
        for text in ["ca.example.org:8081", "localhost:1", "127.0.0.1:65535", "[::1]:8081"] {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_host_and_port_is_refused_with_the_reason() {
        for (text, why) in [
            ("ca.example.org", HostPortError::NoPort),
            ("ca.example.org:", HostPortError::Port),
            ("ca.example.org:0", HostPortError::Port),
            ("ca.example.org:65536", HostPortError::Port),
            (":8081", HostPortError::Host),
            ("::1:8081", HostPortError::Host),
            ("[::g]:8081", HostPortError::Host),
            ("https://ca:8081", HostPortError::Host),
            ("a b:8081", HostPortError::Host),
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(why), "{text}");
        }
    }
}
