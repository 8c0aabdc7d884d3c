//! Peers in requests, as a tower layer.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};

use super::{Connection, Peer};

/// Puts the [`Peer`] of a connection into the extensions of its requests, and answers 403 once the peer's authority has
/// ended. One layer for each connection.
#[derive(Debug, Clone)]
pub struct PeerLayer {
    peer: Peer,
}

/// The service that [`PeerLayer`] makes.
#[derive(Debug, Clone)]
pub struct WithPeer<S> {
    inner: S,
    peer: Peer,
}

impl PeerLayer {
    /// For the requests of `connection`.
    pub fn of(connection: &Connection) -> Self {
        Self {
            peer: connection.peer().clone(),
        }
    }
}

impl<S> Layer<S> for PeerLayer {
    type Service = WithPeer<S>;

    fn layer(&self, inner: S) -> WithPeer<S> {
        WithPeer {
            inner,
            peer: self.peer.clone(),
        }
    }
}

impl<S, B, R> Service<Request<B>> for WithPeer<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if self.peer.is_over() {
            let mut refused = Response::new(R::default());
            *refused.status_mut() = StatusCode::FORBIDDEN;
            return Either::Right(ready(Ok(refused)));
        }
        request.extensions_mut().insert(self.peer.clone());
        Either::Left(self.inner.call(request))
    }
}
