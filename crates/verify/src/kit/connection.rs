//! A TLS connection that ends with its peer's authority.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::peer::{Admitted, Live, Peer};
use super::socket::SharedTcp;
use super::state::Refusal;
use super::{Matcher, Source};

/// A stream to a verified peer. When the peer's authority ends, the socket is shut down, whatever the program does at
/// that moment, and everything that is read or written afterwards fails with [`io::ErrorKind::ConnectionAborted`] and
/// [`Ended`](super::Ended) as its source.
pub struct Connection {
    tls: TlsStream<SharedTcp>,
    peer: Peer,
}

impl Connection {
    /// Registers a connection whose handshake is done. `generation` was read before the handshake began.
    pub(crate) fn register(
        tls: TlsStream<SharedTcp>,
        generation: u64,
        source: &Source,
        wanted: &Matcher,
    ) -> Result<Self, Option<Refusal>> {
        let state = source.state();
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let (leaf, above) = chain.split_first().ok_or(None)?;
        // What rustls has verified is read here, and watched over from now on.
        let admitted = Admitted::read(&chain).map_err(Some)?;
        let socket = Arc::downgrade(&tls.get_ref().0.0);
        let live = Arc::new(Live::new(admitted, Arc::clone(state), socket));
        let registered = state.live.add(live, source);
        // Who changed something since the handshake began may have looked through the connections before this one was
        // among them.
        if state.generation() != generation {
            state.admit(leaf, above, wanted).map_err(Some)?;
        }
        Ok(Self {
            tls,
            peer: Peer {
                registered: Arc::new(registered),
            },
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The protocol that both sides agreed on, such as `h2`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.get_ref().1.alpn_protocol()
    }

    /// The TLS connection's state, to look at.
    pub fn tls(&self) -> &rustls::CommonState {
        self.tls.get_ref().1
    }

    /// The TCP connection below, to look at. Whatever is read from or written to it is not part of the TLS stream.
    pub fn tcp(&self) -> &TcpStream {
        &self.tls.get_ref().0.0
    }

    fn alive(&self) -> io::Result<()> {
        match self.peer.ended() {
            None => Ok(()),
            Some(ended) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, ended)),
        }
    }

    /// What the kernel says of a connection that was ended under way says nothing.
    fn explain<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.alive().err().unwrap_or(error))),
            other => other,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.alive()?;
        let had = buf.filled().len();
        let result = Pin::new(&mut self.tls).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) && buf.filled().len() == had {
            // The end of the stream: the peer's doing, or ours.
            self.alive()?;
        }
        self.explain(result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.alive()?;
        let result = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.explain(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.alive()?;
        let result = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.explain(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive()?;
        let result = Pin::new(&mut self.tls).poll_flush(cx);
        self.explain(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.peer.is_over() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
