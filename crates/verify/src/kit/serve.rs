//! An HTTP server on top of the acceptor, for services that want no more than that.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mayfly_runtime::{CancellationToken, Chain, TaskSet};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service};
use tracing::{debug, warn};

use super::{Acceptor, PeerLayer};

/// At most so many connections at a time; further ones are closed at once.
const CONNECTIONS_MAX: u32 = 10_000;
/// A client has this long to send the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// When a connection cannot be accepted, such as for want of open files, the next one is tried after this.
const PAUSE: Duration = Duration::from_millis(50);
/// How long requests may go on after the stop.
const DRAIN: Duration = Duration::from_secs(5);

impl Acceptor {
    /// Serves HTTP/1.1 and HTTP/2 until `stop`: requests reach `service`, such as an axum router, with the
    /// [`Peer`](super::Peer) among their extensions, as [`PeerLayer`] puts it there.
    pub async fn serve<S, B>(self, listener: TcpListener, service: S, stop: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
        B: Body + Default + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let acceptor = self.alpn(["h2", "http/1.1"]);
        let connections = TaskSet::new("protected connection", CONNECTIONS_MAX);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let tcp = match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    pause_unless_gone(&error).await;
                    continue;
                }
            };
            let task = serve_one(acceptor.clone(), tcp, service.clone(), stop.clone());
            if connections.spawn(task).is_err() {
                warn!(limit = CONNECTIONS_MAX, "too many connections, one is closed");
            }
        }
        connections.shutdown(DRAIN).await;
    }
}

async fn serve_one<S, B>(acceptor: Acceptor, tcp: TcpStream, service: S, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body + Default + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if let Err(error) = tcp.set_nodelay(true) {
        debug!(error = %Chain(&error), "a connection is gone already");
        return;
    }
    let connection = match acceptor.accept(tcp).await {
        Ok(connection) => connection,
        Err(error) => {
            debug!(error = %Chain(&error), "a connection is refused");
            return;
        }
    };
    let service = TowerToHyperService::new(PeerLayer::of(&connection).layer(service));
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    http.http2().timer(TokioTimer::new());
    let mut served = pin!(http.serve_connection(TokioIo::new(connection), service));
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
            ended = served.as_mut() => break ended,
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended");
    }
}

async fn pause_unless_gone(error: &io::Error) {
    if !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    ) {
        warn!(%error, "cannot accept connections");
        tokio::time::sleep(PAUSE).await;
    }
}
