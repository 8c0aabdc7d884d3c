//! Configurations, and the identity of a connection.

use std::sync::Arc;

use mayfly_svid::X509Svid;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, ServerConfig};

const EXPECT_SUITES: &str = "the aws-lc-rs provider has TLS 1.3 cipher suites and key exchange groups";

/// A server that speaks gRPC: TLS 1.3, `h2`, X25519MLKEM768 preferred, no tickets and no session storage.
/// `clock` decides which certificates are valid.
pub fn server_config(
    own: Arc<dyn ResolvesServerCert>,
    clients: Arc<dyn ClientCertVerifier>,
    clock: Arc<dyn TimeProvider>,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), clock)
        .with_protocol_versions(&[&TLS13])
        .expect(EXPECT_SUITES)
        .with_client_cert_verifier(clients)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// A client that speaks gRPC, with the same properties as [`server_config`]. Without `own` it stays anonymous.
pub fn client_config(
    own: Option<Arc<dyn ResolvesClientCert>>,
    servers: Arc<dyn ServerCertVerifier>,
    clock: Arc<dyn TimeProvider>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), clock)
        .with_protocol_versions(&[&TLS13])
        .expect(EXPECT_SUITES)
        .dangerous()
        .with_custom_certificate_verifier(servers);
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Who is at the other end: read from the leaf that the handshake verified, with its chain.
///
/// `None` while the handshake runs, and for a client that came without certificate. It means something only on a
/// connection whose configuration has [`SpiffeClientVerifier`](crate::SpiffeClientVerifier) or
/// [`SpiffeServerVerifier`](crate::SpiffeServerVerifier).
pub fn peer_svid(connection: &CommonState) -> Option<X509Svid> {
    if connection.is_handshaking() {
        return None;
    }
    let chain = connection.peer_certificates()?;
    X509Svid::from_chain(chain.to_vec()).ok()
}
