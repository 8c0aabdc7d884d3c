//! A server to be measured: ours, started here, or any that speaks SPIRE's API; and agents that have joined it.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt, stream};
use hyper_util::rt::TokioIo;
use mayfly_proto::spire::server::agent::agent_client::AgentClient;
use mayfly_proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_request, attest_agent_response,
};
use mayfly_proto::spire::server::bundle::GetBundleRequest;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::types::{AttestationData, Spiffeid};
use mayfly_runtime::client::unix_channel;
use mayfly_svid::{Bundle, SpiffeId, TrustDomain, X509Authority, X509Svid};
use mayfly_tests::agent::private;
use mayfly_tests::{Server, ServerOptions, attest};
use mayfly_verify::{Authorize, BundleSet, SpiffeServerVerifier, SvidResolver, client_config};
use rustls::ClientConfig;
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::pin;
use crate::process::Process;

/// Limits that are there for strangers; here thousands of agents come from one address.
const OPEN: &str = "[limits]\nattestations_per_second = 100000\nattestation_burst = 100000\nattestations = 1024\n\
                    connections = 20000\nconnections_per_address = 20000\n";

/// A server, and how to get at it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host and port for agents.
    pub address: String,
    /// The operators' socket.
    pub admin: PathBuf,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// What its certificate is verified with.
    pub bundle: Bundle,
    /// Its process.
    pub process: Process,
}

/// An agent that has joined: its SPIFFE ID, and TLS with its SVID.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    tls: Arc<ClientConfig>,
}

/// Octets that have passed below TLS.
#[derive(Debug, Default)]
pub struct Traffic {
    /// To the server.
    pub up: AtomicU64,
    /// From it.
    pub down: AtomicU64,
}

/// Starts a server of ours on its processor.
///
/// # Errors
/// The kernel refuses to pin.
///
/// # Panics
/// It does not start.
pub async fn start_server() -> Result<Server> {
    start_server_with("").await
}

/// The same with more sections in its configuration.
///
/// # Errors
/// The kernel refuses to pin.
///
/// # Panics
/// It does not start.
pub async fn start_server_with(sections: &str) -> Result<Server> {
    let mut server = Server::prepare(&ServerOptions {
        // Thousands of streams end at a stop, on a machine that may be busy.
        top: "drain = \"60s\"\n".into(),
        sections: format!("{OPEN}{sections}"),
    });
    private(&server.config());
    pin::as_system(|| server.daemon.start())?;
    server.wait_ready().await;
    Ok(server)
}

/// Starts an agent of ours on the server's processor; gives it with its SPIFFE ID. `alias` is a second name by which
/// entries may call it.
///
/// # Errors
/// The server gives no token.
///
/// # Panics
/// It does not start.
pub async fn start_agent(server: &Server, alias: Option<&str>) -> Result<(mayfly_tests::Agent, String)> {
    start_agent_with(server, alias, mayfly_tests::AgentOptions::default()).await
}

/// The same with other settings.
///
/// # Errors
/// The server gives no token.
///
/// # Panics
/// It does not start.
pub async fn start_agent_with(
    server: &Server,
    alias: Option<&str>,
    options: mayfly_tests::AgentOptions,
) -> Result<(mayfly_tests::Agent, String)> {
    let target = Target::of(server).await?;
    let token = target.token(alias).await?;
    let id = target.agent_id(&token);
    let mut agent = mayfly_tests::Agent::prepare(
        server,
        mayfly_tests::AgentOptions {
            join: Some(mayfly_tests::Join::Token(token)),
            ..options
        },
    )
    .await;
    pin::as_system(|| agent.daemon.start())?;
    agent.wait_ready().await;
    Ok((agent, id))
}

impl Target {
    /// A server that was started here.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn of(server: &Server) -> Result<Self> {
        let address = format!("127.0.0.1:{}", server.port());
        Self::at(&address, &server.socket(), mayfly_tests::TRUST_DOMAIN).await
    }

    /// Any server. Its process is the one behind the socket.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn at(address: &str, admin: &Path, trust_domain: &str) -> Result<Self> {
        let trust_domain: TrustDomain = trust_domain.parse()?;
        let mut client = BundleClient::new(unix_channel(admin));
        let wire = client.get_bundle(GetBundleRequest { output_mask: None }).await;
        let wire = wire.context("the server gives no bundle")?.into_inner();
        let mut bundle = Bundle::empty(trust_domain.clone());
        bundle.x509_authorities = wire
            .x509_authorities
            .into_iter()
            .map(|authority| X509Authority {
                cert_der: authority.asn1.into(),
                tainted: authority.tainted,
            })
            .collect();
        Ok(Self {
            address: address.into(),
            admin: admin.into(),
            trust_domain,
            bundle,
            process: Process::behind(admin)?,
        })
    }

    /// A channel for operators.
    pub fn operator(&self) -> Channel {
        unix_channel(&self.admin)
    }

    /// A SPIFFE ID of this trust domain as the wire has it.
    pub fn wire_id(&self, path: &str) -> Spiffeid {
        Spiffeid {
            trust_domain: self.trust_domain.to_string(),
            path: path.into(),
        }
    }

    /// A join token; the agent that uses it is also called `alias`.
    ///
    /// # Errors
    /// The server's.
    pub async fn token(&self, alias: Option<&str>) -> Result<String> {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            agent_id: alias.map(|path| self.wire_id(path)),
            ..Default::default()
        };
        let made = AgentClient::new(self.operator()).create_join_token(request).await;
        Ok(made.context("no join token")?.into_inner().value)
    }

    /// The SPIFFE ID of the agent that joins by `token`.
    pub fn agent_id(&self, token: &str) -> String {
        format!("spiffe://{}/spire/agent/join_token/{token}", self.trust_domain)
    }

    /// Lets `count` agents join, many at a time.
    ///
    /// # Errors
    /// The first one that was refused.
    pub async fn join(&self, count: usize, alias: Option<&str>) -> Result<Vec<Identity>> {
        let anonymous = client_tls(&self.bundle, None)?;
        let anonymous = connect(&self.address, &anonymous, &Arc::default()).await?;
        let operator = self.operator();
        let joining = (0..count).map(|_| self.join_one(operator.clone(), anonymous.clone(), alias));
        let joined: Vec<_> = stream::iter(joining).buffer_unordered(32).collect().await;
        joined.into_iter().collect()
    }

    async fn join_one(&self, operator: Channel, anonymous: Channel, alias: Option<&str>) -> Result<Identity> {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            agent_id: alias.map(|path| self.wire_id(path)),
            ..Default::default()
        };
        let made = AgentClient::new(operator).create_join_token(request).await;
        let token = made.context("no join token")?.into_inner().value;
        let (csr, key) = attest::csr();
        let first = AttestAgentRequest {
            step: Some(attest_agent_request::Step::Params(attest_agent_request::Params {
                data: Some(AttestationData {
                    r#type: "join_token".into(),
                    payload: token.into_bytes(),
                }),
                params: Some(AgentX509svidParams { csr }),
            })),
        };
        let answer = attest::attest(anonymous, first).await.context("an agent cannot join")?;
        let Some(attest_agent_response::Step::Result(result)) = answer.step else {
            bail!("the attestation did not end: {answer:?}");
        };
        let chain = result
            .svid
            .context("no SVID")?
            .cert_chain
            .into_iter()
            .map(Into::into)
            .collect();
        let svid = X509Svid::from_chain(chain)?;
        Ok(Identity {
            id: svid.spiffe_id().clone(),
            tls: client_tls(&self.bundle, Some((&svid, &key.serialize_der())))?,
        })
    }

    /// A connection of an agent, ready.
    ///
    /// # Errors
    /// It was refused.
    pub async fn connect(&self, identity: &Identity, traffic: &Arc<Traffic>) -> Result<Channel> {
        connect(&self.address, &identity.tls, traffic).await
    }
}

/// TLS as our agents do it, with or without an SVID and its key (PKCS#8).
///
/// # Errors
/// The key is not that of the SVID.
pub fn client_tls(bundle: &Bundle, own: Option<(&X509Svid, &[u8])>) -> Result<Arc<ClientConfig>> {
    client_tls_to(Authorize::Id(bundle.trust_domain.server_id()), bundle, own)
}

/// The same to servers of these identities.
///
/// # Errors
/// The key is not that of the SVID.
pub fn client_tls_to(
    servers: Authorize,
    bundle: &Bundle,
    own: Option<(&X509Svid, &[u8])>,
) -> Result<Arc<ClientConfig>> {
    let bundles = BundleSet::new();
    bundles.publish([bundle]);
    let verifier = SpiffeServerVerifier::new(Arc::new(bundles), servers);
    let own = match own {
        None => None,
        Some((svid, key)) => {
            let resolver = SvidResolver::new();
            resolver.publish(svid, &PrivatePkcs8KeyDer::from(key))?;
            Some(Arc::new(resolver) as Arc<dyn rustls::client::ResolvesClientCert>)
        }
    };
    Ok(Arc::new(client_config(
        own,
        Arc::new(verifier),
        Arc::new(DefaultTimeProvider),
    )))
}

/// One gRPC connection over TLS, ready; with the signs of life that our agents give.
///
/// # Errors
/// It was refused.
pub async fn connect(address: &str, tls: &Arc<ClientConfig>, traffic: &Arc<Traffic>) -> Result<Channel> {
    let connector = TlsConnector::from(Arc::clone(tls));
    let host = address
        .rsplit_once(':')
        .context("an address is host:port")?
        .0
        .to_owned();
    let name = ServerName::try_from(host)?;
    let (to, traffic) = (address.to_owned(), Arc::clone(traffic));
    let connector = service_fn(move |_| {
        let (connector, name, to, traffic) = (connector.clone(), name.clone(), to.clone(), Arc::clone(&traffic));
        async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let io = connector.connect(name, Counted { stream, traffic }).await?;
            Ok::<_, io::Error>(TokioIo::new(io))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .origin(format!("https://{address}").parse()?)
        .connect_timeout(Duration::from_secs(30))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// A stream whose octets are counted.
struct Counted {
    stream: TcpStream,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.traffic.down.fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, data);
        self.count(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.count(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Counted {
    fn count(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &polled {
            self.traffic.up.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }
}
