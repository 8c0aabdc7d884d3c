//! The server's TCP side without an agent: TLS as an agent opens it, and `AttestAgent` with whatever evidence.

use std::sync::Arc;

use mayfly_proto::spire::server::agent::agent_client::AgentClient;
use mayfly_proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, AttestAgentResponse, attest_agent_request, attest_agent_response,
};
use mayfly_proto::spire::types::AttestationData;
use mayfly_runtime::client::{ChannelSettings, HostPort, tls_channel};
use mayfly_svid::{Bundle, SpiffeId, X509Svid};
use mayfly_verify::{Authorize, BundleSet, SpiffeServerVerifier, SvidResolver, client_config};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tonic::Status;
use tonic::transport::Channel;

use crate::TRUST_DOMAIN;

/// An X.509-SVID with its key.
#[derive(Debug)]
pub struct Credential {
    /// The chain.
    pub svid: X509Svid,
    /// The key.
    pub key: KeyPair,
}

/// A channel to the server on `port` over TLS, anonymous or with an agent's SVID.
pub fn channel(port: u16, bundle: &Bundle, own: Option<&Credential>) -> Channel {
    let bundles = BundleSet::new();
    bundles.publish([bundle]);
    let server_id: SpiffeId = format!("spiffe://{TRUST_DOMAIN}/spire/server")
        .parse()
        .expect("a SPIFFE ID");
    let verifier = SpiffeServerVerifier::new(Arc::new(bundles), Authorize::Id(server_id));
    let own = own.map(|own| {
        let resolver = SvidResolver::new();
        resolver
            .publish(&own.svid, &PrivatePkcs8KeyDer::from(own.key.serialize_der()))
            .expect("the key is that of the certificate");
        Arc::new(resolver) as Arc<dyn rustls::client::ResolvesClientCert>
    });
    let config = client_config(own, Arc::new(verifier), Arc::new(DefaultTimeProvider));
    let address: HostPort = format!("127.0.0.1:{port}").parse().expect("host and port");
    tls_channel(&address, Arc::new(config), &ChannelSettings::default())
}

/// A channel as [`channel`]'s, anonymous, from another of the loopback addresses.
pub fn channel_from(from: std::net::Ipv4Addr, port: u16, bundle: &Bundle) -> Channel {
    use hyper_util::rt::TokioIo;
    let crate::attack::Face::Server { tls, .. } = crate::attack::Face::server_at(port, bundle, from) else {
        unreachable!("a server's face is a server's")
    };
    let connector = tokio_rustls::TlsConnector::from(tls);
    let connect = move |_| {
        let connector = connector.clone();
        async move {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let stream = socket.connect((std::net::Ipv4Addr::LOCALHOST, port).into()).await?;
            stream.set_nodelay(true)?;
            let name = "127.0.0.1".try_into().expect("an address");
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    };
    tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(connect))
}

/// A certificate request for a fresh key, and the key.
pub fn csr() -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .expect("a request")
        .der()
        .to_vec();
    (csr, key)
}

/// A certificate request that asks for one URI name, and its key.
pub fn csr_for(uri: &str) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("plain ASCII"))];
    let csr = params.serialize_request(&key).expect("a request").der().to_vec();
    (csr, key)
}

/// The first message of `AttestAgent`.
pub fn params(kind: &str, payload: &[u8], csr: Vec<u8>) -> AttestAgentRequest {
    AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(attest_agent_request::Params {
            data: Some(AttestationData {
                r#type: kind.into(),
                payload: payload.to_vec(),
            }),
            params: Some(AgentX509svidParams { csr }),
        })),
    }
}

/// One `AttestAgent` with one message, and the first answer to it.
///
/// # Errors
/// The server's.
pub async fn attest(channel: Channel, first: AttestAgentRequest) -> Result<AttestAgentResponse, Status> {
    attest_all(channel, vec![first]).await
}

/// One `AttestAgent` with all of these messages, and the last answer to them.
///
/// # Errors
/// The server's.
pub async fn attest_all(channel: Channel, messages: Vec<AttestAgentRequest>) -> Result<AttestAgentResponse, Status> {
    let mut client = AgentClient::new(channel);
    let mut answers = client.attest_agent(tokio_stream::iter(messages)).await?.into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await? {
        last = Some(answer);
    }
    last.ok_or_else(|| Status::unknown("no answer"))
}

/// Attests by a join token.
///
/// # Errors
/// The server's.
pub async fn join(channel: Channel, token: &str) -> Result<Credential, Status> {
    let (csr, key) = csr();
    let answer = attest(channel, params("join_token", token.as_bytes(), csr)).await?;
    Ok(Credential {
        svid: svid_of(answer),
        key,
    })
}

/// The SVID of an answer that ends an attestation well.
///
/// # Panics
/// It is another answer.
pub fn svid_of(answer: AttestAgentResponse) -> X509Svid {
    let Some(attest_agent_response::Step::Result(result)) = answer.step else {
        panic!("not the end of an attestation: {answer:?}");
    };
    let chain = result
        .svid
        .expect("an SVID")
        .cert_chain
        .into_iter()
        .map(Into::into)
        .collect();
    X509Svid::from_chain(chain).expect("the server issues X.509-SVIDs")
}
