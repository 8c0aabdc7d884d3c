//! Services behind the verifier kit, many in this process: each has an agent's word of its own, a port, and a connection
//! of somebody inside a window.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use mayfly_tests::tasks::CHECKPOINT;
use mayfly_verify::Authorize;
use mayfly_verify::kit::{Acceptor, Matcher, Settings, Source};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::jobs::{Inside, SERVICE, TASK};
use crate::target::client_tls_to;

/// Connections that are made at a time.
const AT_A_TIME: usize = 16;
/// What a service says to whom it has let in.
const WELCOME: u8 = b'!';

/// The services. They end when dropped.
#[derive(Debug)]
pub struct Enforcers(Vec<Enforcer>);

#[derive(Debug)]
struct Enforcer {
    source: Source,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// Somebody with the SVID of a window and its key, or a copy of both.
#[derive(Debug, Clone)]
pub struct Visitor {
    tls: Arc<ClientConfig>,
}

/// What became of a handshake.
#[derive(Debug)]
pub enum Visit {
    /// The service has let the visitor in.
    In(Box<TlsStream<TcpStream>>),
    /// It has not, which the visitor learned then.
    Refused(Instant),
}

impl Enforcers {
    /// Starts `count` of them with the agent at `socket`, strict, under one checkpoint.
    ///
    /// # Errors
    /// One of them has no identity, or no word on what is revoked.
    pub async fn start(socket: &Path, count: usize) -> Result<Self> {
        let starting = (0..count).map(|_| Enforcer::start(socket));
        let started = stream::iter(starting).buffer_unordered(AT_A_TIME).try_collect().await?;
        Ok(Self(started))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where they are.
    pub fn addresses(&self) -> impl ExactSizeIterator<Item = SocketAddr> {
        self.0.iter().map(|enforcer| enforcer.address)
    }

    /// Connections that are open.
    pub fn live(&self) -> usize {
        self.0.iter().map(|enforcer| enforcer.source.status().live).sum()
    }

    /// Whether all of them have fresh word.
    pub fn have_word(&self) -> bool {
        self.0.iter().all(|enforcer| enforcer.source.status().lease.is_some())
    }

    /// Lets `visitor` into each of them.
    ///
    /// # Errors
    /// One of them refuses.
    pub async fn let_in(&self, visitor: &Visitor) -> Result<Vec<TlsStream<TcpStream>>> {
        let visits = self
            .addresses()
            .map(async |address| match visitor.visit(address).await? {
                Visit::In(stream) => Ok(*stream),
                Visit::Refused(_) => anyhow::bail!("{address} refuses who is inside the window"),
            });
        stream::iter(visits).buffered(AT_A_TIME).try_collect().await
    }

    /// How many of them refuse a handshake of `visitor` now.
    ///
    /// # Errors
    /// One of them cannot be reached.
    pub async fn refusing(&self, visitor: &Visitor) -> Result<usize> {
        let visits: Vec<Visit> = stream::iter(self.addresses().map(|address| visitor.visit(address)))
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await?;
        Ok(visits.iter().filter(|visit| matches!(visit, Visit::Refused(_))).count())
    }
}

impl Enforcer {
    async fn start(socket: &Path) -> Result<Self> {
        let mut settings = Settings::new(socket, CHECKPOINT);
        settings.first_word = Duration::from_secs(120);
        let source = Source::connect(settings).await?;
        let acceptor = source.acceptor(Matcher::task(TASK)?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = tokio::task::spawn_local(accept(listener, acceptor));
        Ok(Self {
            source,
            address,
            accepting,
        })
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Holds every connection until its peer is over, as a service that waits for requests does.
async fn accept(listener: TcpListener, acceptor: Acceptor) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        connections.spawn_local(async move {
            let Ok(mut connection) = acceptor.accept(tcp).await else {
                return;
            };
            if connection.write_all(&[WELCOME]).await.is_ok() {
                // Ends with the peer, whoever of the two goes first.
                let _ = connection.read(&mut [0]).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Visitor {
    /// With what somebody has who is inside, or who has copied it out.
    ///
    /// # Errors
    /// It is no SVID with its key.
    pub fn new(inside: &Inside) -> Result<Self> {
        let (svid, bundle) = (inside.certificate()?, inside.bundle()?);
        let service = bundle.trust_domain.with_path(SERVICE)?;
        let tls = client_tls_to(
            Authorize::Id(service),
            &bundle,
            Some((&svid, &inside.svid.x509_svid_key)),
        )?;
        Ok(Self { tls })
    }

    /// One handshake, to the service's first word or its refusal.
    ///
    /// # Errors
    /// Nobody is there.
    pub async fn visit(&self, address: SocketAddr) -> Result<Visit> {
        let tcp = TcpStream::connect(address).await.context("a service is gone")?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        let refused = || Ok(Visit::Refused(Instant::now()));
        let Ok(mut tls) = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await else {
            return refused();
        };
        // In TLS 1.3 a client is done before the server has looked at it.
        match tls.read_u8().await {
            Ok(word) => {
                ensure!(word == WELCOME, "a service said {word}");
                Ok(Visit::In(Box::new(tls)))
            }
            Err(_) => refused(),
        }
    }
}

/// Waits until the other side is gone; when that was.
pub async fn cut(mut stream: TlsStream<TcpStream>) -> Instant {
    while let Ok(1..) = stream.read(&mut [0; 16]).await {}
    Instant::now()
}
