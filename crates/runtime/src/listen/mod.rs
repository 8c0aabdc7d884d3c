//! Accept loops with limits: gRPC (HTTP/2) and plain HTTP/1.1, over TCP, TLS or a Unix socket.
//!
//! Everything that a peer can make us do before it is known has a bound in [`Limits`]: connections in all and per peer,
//! TLS handshakes and requests at a time, time to speak, streams, sizes, resets. A connection that has much to say takes
//! turns with the others. No error of one connection, and none of `accept`
//! itself, ends the loop.
//!
//! ```text
//!   Listener ──accept──▶ per-peer and overall limit ──▶ task: Acceptor (TLS, filters) ──▶ HTTP ──▶ service
//!                          over: closed at once            timeout, slots                  each request carries
//!                                                                                          a ConnInfo extension
//! ```
//!
//! [`Server::serve`] takes any `tower` service, such as `tonic::service::Routes`. What is known of a connection comes
//! with each request as [`ConnInfo`]; an [`Acceptor`] of the caller's own can wrap the stream and add extensions.

mod acceptor;
mod connection;
mod limits;
mod metrics;
mod peer;
mod unix;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, info, warn};

pub use acceptor::{Accepted, Acceptor, Plain, Tls};
pub use limits::Limits;
pub use metrics::ListenMetrics;
pub use peer::{ConnInfo, Peer, UnixPeer};
pub use unix::{UnixBindError, UnixSocket};

use crate::open_files::is_near_limit;
use crate::supervisor::TaskSet;
use crate::telemetry::Chain;
use connection::{Activity, Drive, End, PerConnection, WatchedIo};
use peer::{PeerCounts, PeerPace};

/// Any error that a service or a body may end in.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long the loop waits after an error of `accept`, such as "too many open files", before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(75);

/// How long a request may have to wait for its turn.
const REQUEST_PATIENCE: Duration = Duration::from_secs(2);

/// Where connections come from: [`TcpListener`] or [`UnixSocket`].
pub trait Listener: Send + 'static {
    /// A raw connection.
    type Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection and who is at its other end.
    ///
    /// # Cancel safety
    /// Safe: a connection is either returned or left in the queue.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Socket, Peer)>> + Send;

    /// Whether `socket` took one of the last file descriptors, which are kept for the work on connections that are there.
    fn is_one_too_many(&self, socket: &Self::Socket) -> bool {
        let _ = socket;
        false
    }

    /// Where it listens, for logs.
    fn address(&self) -> String;
}

/// An accept loop that has not started yet.
#[derive(Debug)]
pub struct Server<L, A = Plain> {
    name: &'static str,
    listener: L,
    acceptor: A,
    limits: Limits,
    metrics: ListenMetrics,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct TcpBindError {
    /// The address that was asked for.
    pub address: SocketAddr,
    source: io::Error,
}

/// Listens on `address`; port 0 takes a free one ([`TcpListener::local_addr`]).
///
/// # Errors
/// The address is in use, not of this machine, or not allowed to this user.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, TcpBindError> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // So that a restart does not wait for connections of the last run to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    };
    bind().map_err(|source| TcpBindError { address, source })
}

// === impl Server ===

impl<L: Listener> Server<L> {
    /// A loop over `listener`. `name` goes into logs and metrics.
    pub fn new(name: &'static str, listener: L, limits: Limits) -> Self {
        Self {
            name,
            listener,
            acceptor: Plain,
            limits,
            metrics: ListenMetrics::default(),
        }
    }
}

impl<L: Listener, A: Acceptor<L::Socket>> Server<L, A> {
    /// Puts `acceptor` between the socket and HTTP: [`Tls`], or one of the caller's own.
    pub fn acceptor<B: Acceptor<L::Socket>>(self, acceptor: B) -> Server<L, B> {
        let Self {
            name,
            listener,
            acceptor: _,
            limits,
            metrics,
        } = self;
        Server {
            name,
            listener,
            acceptor,
            limits,
            metrics,
        }
    }

    /// Counters of this loop; register them under a prefix ([`ListenMetrics::register`]).
    pub fn metrics(&self) -> &ListenMetrics {
        &self.metrics
    }

    /// The listener, to ask for its address.
    pub fn listener(&self) -> &L {
        &self.listener
    }

    /// Serves HTTP/2 (gRPC) until `stop`; then says GOAWAY on each connection, lets open calls end for at most
    /// [`Limits::drain_timeout`], and drops what is left.
    ///
    /// # Cancel safety
    /// If dropped, no more connections are accepted and those that are open are dropped.
    pub async fn serve<S, B>(self, service: S, stop: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let builder = self.limits.http2();
        let serve = move |io, service| Box::pin(builder.serve_connection(TokioIo::new(io), service));
        self.accept_all(service, stop, serve).await;
    }

    /// As [`Server::serve`], for HTTP/1.1: pages for people, scrapers and probes.
    ///
    /// # Cancel safety
    /// As [`Server::serve`].
    pub async fn serve_http1<S, B>(self, service: S, stop: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let builder = self.limits.http1();
        let serve = move |io, service| Box::pin(builder.serve_connection(TokioIo::new(io), service));
        self.accept_all(service, stop, serve).await;
    }

    async fn accept_all<S, B, C>(
        self,
        service: S,
        stop: CancellationToken,
        serve: impl Fn(WatchedIo<A::Io>, PerConnection<S>) -> std::pin::Pin<Box<C>> + Clone + Send + 'static,
    ) where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        C: Drive + Send + 'static,
    {
        let Self {
            name,
            listener,
            acceptor,
            limits,
            metrics,
        } = self;
        let (acceptor, limits) = (Arc::new(acceptor), Arc::new(limits));
        let counts = PeerCounts::new(&limits);
        let opens = |per_second| PeerPace::new(per_second, limits.handshake_timeout);
        let opens = limits.max_opens_per_second.map(opens);
        let asks = |per_second| Arc::new(PeerPace::new(per_second, REQUEST_PATIENCE));
        let asks = limits.max_requests_per_second.map(asks);
        let tasks = TaskSet::new(name, limits.max_connections);
        // When this future is dropped, the connections go with it.
        let _abort = tasks.abort_on_drop();
        let (accepted_total, refused) = (metrics.accepted.clone(), metrics.refused_limit.clone());
        // Each its own, so that one does not keep another silent.
        let [mut no_accept, mut no_descriptors, mut peer_limit, mut full] = [const { QuietWarnings::NEW }; 4];
        info!(listener = name, address = listener.address(), "listening");
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    metrics.accept_errors.inc();
                    if is_of_one_connection(&error) {
                        debug!(listener = name, error = %Chain(&error), "connection was gone before it was accepted");
                    } else {
                        no_accept.warn(|missed| {
                            warn!(listener = name, error = %Chain(&error), missed, "cannot accept connections");
                        });
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            if listener.is_one_too_many(&socket) {
                refused.inc();
                no_descriptors
                    .warn(|missed| warn!(listener = name, missed, "almost no file descriptors left, refused"));
                continue;
            }
            let admitted = counts.admit(&peer).and_then(|counted| {
                let wait = opens.as_ref().map_or(Some(Duration::ZERO), |pace| pace.wait_of(&peer));
                Some((counted, wait?))
            });
            let Some((counted, wait)) = admitted else {
                metrics.refused_peer_limit.inc();
                peer_limit.warn(|missed| warn!(listener = name, %peer, missed, "too much open of one peer, refused"));
                continue;
            };
            let (requests, held) = (counted.requests().clone(), (counted, metrics.opened()));
            let (acceptor, limits, metrics) = (Arc::clone(&acceptor), Arc::clone(&limits), metrics.clone());
            let (service, serve, stop, asks) = (service.clone(), serve.clone(), stop.clone(), asks.clone());
            let max = limits.max_connections;
            // A handshake in progress is large. In a box of its own it is gone when the handshake is over; inside the
            // task it would be reserved for the life of the connection.
            let opening = Box::pin(open(
                acceptor,
                socket,
                peer.clone(),
                wait,
                Arc::clone(&limits),
                stop.clone(),
                {
                    move |Accepted { io, info, extensions }| {
                        let (activity, closing) = (Arc::new(Activity::new(requests)), info.closing());
                        // A fleet behind one address is not one peer, and its agents can be banned one by one.
                        let is_stranger = info.peer_certificates.is_none();
                        let io = WatchedIo::new(io, Arc::clone(&activity), is_stranger);
                        let asks = asks.filter(|_| is_stranger);
                        let service = PerConnection::new(service, info, extensions, Arc::clone(&activity), asks);
                        (serve(io, service), activity, closing)
                    }
                },
            ));
            let connection = async move {
                let _held = held;
                let end = match opening.await {
                    Ok((connection, activity, closing)) => {
                        connection::drive(connection, &activity, &limits, closing, stop).await
                    }
                    Err(end) => {
                        if !stop.is_cancelled() {
                            metrics.handshake_failures.inc();
                        }
                        end
                    }
                };
                debug!(%peer, %end, "connection ended");
            };
            if tasks.spawn(connection).is_ok() {
                accepted_total.inc();
            } else {
                refused.inc();
                full.warn(|missed| warn!(listener = name, limit = max, missed, "too many connections, refused"));
            }
        }
        // Closes the socket: from here on peers are refused by the kernel.
        drop(listener);
        // Each connection watches the drain time itself; the second is for those that do not come to it.
        let cut = tasks.shutdown(limits.drain_timeout + Duration::from_secs(1)).await;
        info!(listener = name, cut, "listener stopped");
    }
}

/// Takes a socket through the acceptor when its turn has come, within its time, and makes of it what `then` makes.
async fn open<S, A: Acceptor<S>, T>(
    acceptor: Arc<A>,
    socket: S,
    peer: Peer,
    wait: Duration,
    limits: Arc<Limits>,
    stop: CancellationToken,
    then: impl FnOnce(Accepted<A::Io>) -> T,
) -> Result<T, End> {
    let accept = async {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        acceptor.accept(socket, peer).await
    };
    tokio::select! {
        () = stop.cancelled() => Err(End::Silent),
        done = tokio::time::timeout(limits.handshake_timeout, accept) => match done {
            Ok(accepted) => accepted.map(then).map_err(End::NotAccepted),
            Err(_) => Err(End::Silent),
        },
    }
}

// === impl Listener ===

impl Listener for TcpListener {
    type Socket = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (socket, address) = TcpListener::accept(self).await?;
        // Small messages must not wait for the acknowledgement of the last one.
        socket
            .set_nodelay(true)
            .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
        Ok((socket, Peer::Tcp(address)))
    }

    fn is_one_too_many(&self, socket: &TcpStream) -> bool {
        is_near_limit(socket.as_raw_fd())
    }

    fn address(&self) -> String {
        self.local_addr()
            .map_or_else(|_| "tcp".to_owned(), |address| address.to_string())
    }
}

impl Listener for UnixSocket {
    type Socket = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (socket, _) = self.listener().accept().await?;
        let credentials = socket
            .peer_cred()
            .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
        Ok((socket, Peer::Unix(UnixPeer::from(credentials))))
    }

    fn is_one_too_many(&self, socket: &UnixStream) -> bool {
        is_near_limit(socket.as_raw_fd())
    }

    fn address(&self) -> String {
        self.path().display().to_string()
    }
}

// === helpers ===

impl Limits {
    fn http2(&self) -> hyper::server::conn::http2::Builder<TokioExecutor> {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.max_streams)
            .max_header_list_size(self.max_header_list_bytes)
            .max_frame_size(self.max_frame_bytes)
            .initial_stream_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes)
            .max_send_buf_size(self.send_buffer_bytes as usize)
            .max_pending_accept_reset_streams(self.max_pending_resets)
            .max_local_error_reset_streams(self.max_error_resets)
            .keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout);
        builder
    }

    fn http1(&self) -> hyper::server::conn::http1::Builder {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.first_request_timeout)
            // hyper wants at least 8 KiB.
            .max_buf_size((self.max_header_list_bytes as usize).max(8192));
        builder
    }
}

/// Errors of `accept` that concern the one connection that would have been returned (accept(2)); all others are about
/// this process or machine and will be the same a moment later.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted
    )
}

/// Lets a warning through once in ten seconds, so that a flood of refused peers does not become a flood of log lines.
#[derive(Debug)]
struct QuietWarnings {
    last: Option<tokio::time::Instant>,
    missed: u64,
}

impl QuietWarnings {
    const NEW: Self = Self { last: None, missed: 0 };

    fn warn(&mut self, log: impl FnOnce(u64)) {
        let now = tokio::time::Instant::now();
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < Duration::from_secs(10))
        {
            self.missed += 1;
            return;
        }
        log(std::mem::take(&mut self.missed));
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests;
