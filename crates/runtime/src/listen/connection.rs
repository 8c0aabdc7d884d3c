//! One connection: what is counted while it runs, and when it is told to go.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, PollSemaphore};
use tower::{Service, ServiceExt};

use super::peer::{PeerPace, PeerRequests};
use super::{BoxError, ConnInfo, Limits};

/// Length of the client's HTTP/2 preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// After so many octets a connection lets others have their turn. Frames may be as short as nine octets, so that a
/// socket's worth of them can be work for many milliseconds.
const TURN: usize = 8 * 1024;
/// How long a connection without requests may take to leave after GOAWAY.
const IDLE_GRACE: Duration = Duration::from_secs(5);

/// A connection of hyper, HTTP/1 or HTTP/2.
pub(super) trait Drive: Future<Output = hyper::Result<()>> {
    /// Takes no more requests and ends when those that run have ended.
    fn leave(self: Pin<&mut Self>);
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// By the peer, or after GOAWAY in order.
    Closed,
    /// By an error of the peer or of the network.
    Failed(hyper::Error),
    /// By the acceptor.
    NotAccepted(io::Error),
    /// The peer did not speak in time.
    Silent,
    /// The time after GOAWAY was over.
    Cut,
}

/// What happens on a connection, seen from beside it.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    of_peer: PeerRequests,
    received: AtomicUsize,
    asked: AtomicBool,
    open: AtomicUsize,
    /// When the last request ended, in ms after `start`.
    last_end: AtomicU64,
}

/// Counts a request as open until dropped.
#[derive(Debug)]
struct OpenRequest(Arc<Activity>);

/// A response body that keeps its request open, also while what it gave waits to be sent: a peer that does not read has
/// not less open than one that does.
pub(super) struct CountedBody<B> {
    body: B,
    open: Arc<OpenRequest>,
}

/// A part of a body that keeps its request open.
struct CountedBytes {
    bytes: Bytes,
    _open: Arc<OpenRequest>,
}

/// The caller's service, with what is known of the connection put into each request.
#[derive(Debug, Clone)]
pub(super) struct PerConnection<S> {
    service: S,
    info: ConnInfo,
    extensions: http::Extensions,
    activity: Arc<Activity>,
    /// None for a peer that has shown who it is.
    pace: Option<Arc<PeerPace>>,
}

/// A stream that tells whether the preface has come, and that takes turns with the other connections of its peer.
///
/// A turn begins with a read and ends when there is nothing more to read, when an answer cannot be written, or after
/// [`TURN`]. Only so many connections of a peer have their turn at a time: however many have something to say, others
/// wait for these and not for all of them.
#[derive(Debug)]
pub(super) struct WatchedIo<Io> {
    io: Io,
    activity: Arc<Activity>,
    /// None for a peer that has shown who it is.
    turns: Option<PollSemaphore>,
    turn: Option<OwnedSemaphorePermit>,
    /// Octets read in this turn.
    read: usize,
    /// The last turn was full: others go first, whoever they are.
    gives_way: bool,
}

enum Due {
    At(Instant),
    Leave { grace: Duration },
    Drop,
}

/// Runs a connection to its end, which it has in any case.
pub(super) async fn drive<C: Drive>(
    mut connection: Pin<Box<C>>,
    activity: &Activity,
    limits: &Limits,
    closing: CancellationToken,
    stop: CancellationToken,
) -> End {
    let age = limits
        .max_connection_age
        .map(|age| age.mul_f64(rand::rng().random_range(0.9..=1.0)));
    let timer = sleep_until(activity.start + limits.preface_timeout);
    tokio::pin!(timer);
    let (mut leaving, mut stopping) = (false, false);
    loop {
        let grace = tokio::select! {
            result = connection.as_mut() => return result.map_or_else(End::Failed, |()| End::Closed),
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                limits.drain_timeout
            }
            () = closing.cancelled(), if !leaving => limits.max_connection_age_grace,
            () = timer.as_mut() => {
                if leaving {
                    return End::Cut;
                }
                match activity.due(limits, age) {
                    Due::At(next) => {
                        timer.as_mut().reset(next);
                        continue;
                    }
                    Due::Leave { grace } => grace,
                    Due::Drop => return End::Silent,
                }
            }
        };
        if !activity.preface_received() {
            // hyper would wait for the preface before it closes (hyper#4170).
            return End::Silent;
        }
        let deadline = Instant::now() + grace;
        // A stop may shorten the time that is left, never prolong it.
        let deadline = if leaving {
            deadline.min(timer.deadline())
        } else {
            deadline
        };
        timer.as_mut().reset(deadline);
        leaving = true;
        closing.cancel();
        connection.as_mut().leave();
    }
}

// === impl Drive ===

impl<I, S, E, B> Drive for hyper::server::conn::http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<super::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + 'static,
    B::Error: Into<super::BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B> Drive for hyper::server::conn::http1::Connection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<super::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + 'static,
    B::Error: Into<super::BoxError>,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

// === impl Activity ===

impl Activity {
    pub(super) fn new(of_peer: PeerRequests) -> Self {
        Self {
            start: Instant::now(),
            of_peer,
            received: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            last_end: AtomicU64::new(0),
        }
    }

    fn preface_received(&self) -> bool {
        self.received.load(Ordering::Relaxed) >= PREFACE
    }

    /// Counts one more request; `None` if the peer has as many as it may.
    fn begin(self: &Arc<Self>) -> Option<OpenRequest> {
        self.asked.store(true, Ordering::Relaxed);
        if !self.of_peer.begin() {
            return None;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(OpenRequest(Arc::clone(self)))
    }

    /// What is to be done now, or when to ask again.
    fn due(&self, limits: &Limits, age: Option<Duration>) -> Due {
        let now = Instant::now();
        if !self.preface_received() {
            let until = self.start + limits.preface_timeout;
            return if now >= until { Due::Drop } else { Due::At(until) };
        }
        let age_end = age.map(|age| self.start + age);
        if age_end.is_some_and(|end| now >= end) {
            return Due::Leave {
                grace: limits.max_connection_age_grace,
            };
        }
        let idle_end = if !self.asked.load(Ordering::Relaxed) {
            Some(self.start + limits.first_request_timeout)
        } else if self.open.load(Ordering::Relaxed) > 0 {
            limits.idle_timeout.map(|idle| now + idle)
        } else {
            let last_end = self.start + Duration::from_millis(self.last_end.load(Ordering::Relaxed));
            limits.idle_timeout.map(|idle| last_end + idle)
        };
        if idle_end.is_some_and(|end| now >= end) {
            return Due::Leave { grace: IDLE_GRACE };
        }
        // Without any bound there is nothing to ask again for; once a day costs nothing.
        Due::At(
            age_end
                .into_iter()
                .chain(idle_end)
                .min()
                .unwrap_or(now + Duration::from_secs(86_400)),
        )
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let now = self.0.start.elapsed().as_millis();
        self.0
            .last_end
            .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.of_peer.end();
    }
}

// === impl PerConnection ===

impl<S> PerConnection<S> {
    pub(super) fn new(
        service: S,
        info: ConnInfo,
        extensions: http::Extensions,
        activity: Arc<Activity>,
        pace: Option<Arc<PeerPace>>,
    ) -> Self {
        Self {
            service,
            info,
            extensions,
            activity,
            pace,
        }
    }

    /// Counts one more request, and says how long it has to wait; `None` if the peer has as many as it may.
    fn begin(&self) -> Option<(OpenRequest, Duration)> {
        let open = self.activity.begin()?;
        let wait = match &self.pace {
            Some(pace) => pace.wait_of(&self.info.peer)?,
            None => Duration::ZERO,
        };
        Some((open, wait))
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for PerConnection<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    type Response = Response<CountedBody<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let Some((open, wait)) = self.begin() else {
            // hyper looks for this one to know how to reset the stream.
            let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
            return Box::pin(async move { Err(refused.into()) });
        };
        request.extensions_mut().extend(self.extensions.clone());
        request.extensions_mut().insert(self.info.clone());
        let service = self.service.clone();
        Box::pin(async move {
            if !wait.is_zero() {
                sleep(wait).await;
            }
            let answer = service.oneshot(request).await.map_err(Into::into)?;
            let open = Arc::new(open);
            Ok(answer.map(|body| CountedBody { body, open }))
        })
    }
}

// === impl CountedBody ===

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CountedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let open = &self.open;
        let count = |bytes| {
            Bytes::from_owner(CountedBytes {
                bytes,
                _open: Arc::clone(open),
            })
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(count))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl WatchedIo ===

impl<Io> WatchedIo<Io> {
    /// `takes_turns`: with the other connections of its peer.
    pub(super) fn new(io: Io, activity: Arc<Activity>, takes_turns: bool) -> Self {
        Self {
            io,
            turns: takes_turns.then(|| PollSemaphore::new(activity.of_peer.turns())),
            activity,
            turn: None,
            read: 0,
            gives_way: false,
        }
    }

    fn end_turn(&mut self) {
        self.turn = None;
        self.read = 0;
    }

    /// An answer that waits for the peer must not keep its other connections waiting.
    fn written<T>(&mut self, result: Poll<T>) -> Poll<T> {
        if result.is_pending() {
            self.end_turn();
            // Nor must a turn come to it that it cannot use: HTTP/2 does not read while it cannot write.
            if let Some(turns) = &mut self.turns {
                *turns = PollSemaphore::new(self.activity.of_peer.turns());
            }
        }
        result
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for WatchedIo<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.gives_way) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let this = &mut *self;
        if this.turn.is_none()
            && let Some(turns) = &mut this.turns
        {
            // Never closed, so always granted.
            this.turn = std::task::ready!(turns.poll_acquire(cx));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.read += buf.filled().len() - before;
        self.gives_way = self.read >= TURN;
        if result.is_pending() || self.gives_way {
            self.end_turn();
        }
        if !self.activity.preface_received() {
            self.activity
                .received
                .fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        }
        result
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for WatchedIo<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.written(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_turn();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === impl End ===

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Failed(error) => write!(f, "failed: {}", crate::telemetry::Chain(error)),
            Self::NotAccepted(error) => write!(f, "not accepted: {}", crate::telemetry::Chain(error)),
            Self::Silent => f.write_str("peer did not speak in time"),
            Self::Cut => f.write_str("cut, the time to end was over"),
        }
    }
}
