//! Between the socket and HTTP: TLS, or whatever a caller puts there.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::ready;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::PollSemaphore;

use super::peer::{self, PeerShares};
use super::{ConnInfo, Limits, Peer};

/// Makes of a raw socket what HTTP is spoken on, and says what is known of the peer.
///
/// Runs in the connection's own task, within [`Limits::handshake_timeout`], so it may wait for the peer. An error ends
/// this connection only.
pub trait Acceptor<S>: Send + Sync + 'static {
    /// What HTTP is spoken on.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Takes the connection on.
    ///
    /// # Cancel safety
    /// It is dropped when the time is over; the connection is then closed.
    fn accept(&self, socket: S, peer: Peer) -> impl Future<Output = io::Result<Accepted<Self::Io>>> + Send;
}

/// A connection that HTTP can be spoken on.
#[derive(Debug)]
pub struct Accepted<Io> {
    /// The stream.
    pub io: Io,
    /// What is known of the peer; an extension of each request.
    pub info: ConnInfo,
    /// More extensions for each request, cloned into it.
    pub extensions: http::Extensions,
}

/// Takes the socket as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

/// TLS by a rustls configuration.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    slots: Arc<Semaphore>,
    shares: Arc<PeerShares>,
    turns: Arc<PeerShares>,
}

// === impl Accepted ===

impl<Io> Accepted<Io> {
    /// Without TLS and without further extensions.
    pub fn new(io: Io, peer: Peer) -> Self {
        Self {
            io,
            info: ConnInfo::new(peer, None),
            extensions: http::Extensions::new(),
        }
    }
}

// === impl Plain ===

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Acceptor<S> for Plain {
    type Io = S;

    async fn accept(&self, socket: S, peer: Peer) -> io::Result<Accepted<S>> {
        Ok(Accepted::new(socket, peer))
    }
}

// === impl Tls ===

impl Tls {
    /// TLS by `config`, whose certificate resolver and client verifier may change their minds while it runs.
    ///
    /// rustls skips the client's verification when a session is resumed: a configuration that authenticates clients
    /// must have `send_tls13_tickets = 0` and no session storage.
    pub fn new(config: Arc<ServerConfig>, limits: &Limits) -> Self {
        Self {
            config,
            slots: Arc::new(Semaphore::new(limits.max_handshakes as usize)),
            shares: Arc::new(PeerShares::new(limits.max_handshakes.div_ceil(4) as usize)),
            turns: Arc::new(PeerShares::new(peer::turns())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Acceptor<S> for Tls {
    type Io = TlsStream<S>;

    async fn accept(&self, socket: S, peer: Peer) -> io::Result<Accepted<TlsStream<S>>> {
        // The ClientHello first: whoever sends none waits here, without a slot and without a computation.
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        // In this order, so that a peer without a share takes no slot: who says hello and then nothing waits for itself.
        let share = self.shares.one_of(&peer).await;
        let slot = self.slots.acquire().await.map_err(io::Error::other)?;
        // Signatures take their time: the handshakes of one peer take turns, so that others need not wait for all of them.
        let mut turns = PollSemaphore::new(self.turns.share(&peer));
        let mut handshake = pin!(hello.into_stream(Arc::clone(&self.config)));
        let computed = poll_fn(|cx| {
            let _turn = ready!(turns.poll_acquire(cx));
            handshake.as_mut().poll(cx)
        });
        let io = computed.await?;
        drop((share, slot));
        let certificates = io.get_ref().1.peer_certificates();
        let certificates = certificates.map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
        Ok(Accepted {
            io,
            info: ConnInfo::new(peer, certificates),
            extensions: http::Extensions::new(),
        })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
