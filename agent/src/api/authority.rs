//! Lets every gRPC client through to `h2`, whatever it sends as `:authority` (IOP-01).
//!
//! On a Unix socket there is no host to name. C-core clients (Python, C++, Ruby, PHP) send the percent-encoded path of
//! the socket, grpc-java the raw path, some send nothing at all; `h2` resets the streams of all of these before any
//! handler runs, because the value is not an authority. [`AuthorityFilter`] sits between the accepted socket and the
//! HTTP/2 server and puts `localhost` in the place of such values. Nothing in the agent looks at the value.
//!
//! ```text
//! client ──▶ UnixStream ──▶ AuthorityFilter ──▶ h2      HEADERS + CONTINUATION: decoded, one field changed,
//!        ◀────────────────────────────────────            re-encoded as one HEADERS frame; the rest as it is
//! ```
//!
//! A value may be Huffman-coded, stored in the client's dynamic table and only referenced later, or cut into pieces at
//! any octet. So header blocks are decoded in full ([`hpack`]) and sent on as literals that need no table.
//!
//! All this runs before anyone is authenticated. Sizes are limited ([`MAX_BLOCK`], [`MAX_LIST_SIZE`], [`MAX_FIELDS`],
//! [`MAX_FRAME`], [`MAX_CONTINUATIONS`]); a client that breaks them or the protocol is given to `h2` as a client that
//! broke the protocol, which is answered with GOAWAY, and reads as closed from then on. Only a client that begins like
//! HTTP/2 is looked at: others pass, for `h2` to refuse.
//!
//! Not here: limits on connections and streams (`mayfly_runtime::listen`), and who the client is (`attest::peer`).

mod frames;
mod hpack;
mod huffman;
#[cfg(test)]
mod tests;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use frames::{MAX_BLOCK, MAX_CONTINUATIONS, MAX_FRAME, Refusal, Rewriter, Step};
pub use hpack::{HpackError, MAX_FIELDS, MAX_LIST_SIZE, TABLE_SIZE};

/// A server's side of a client connection in which every `:authority` is acceptable.
///
/// Reads are filtered, writes go straight through. At rest it holds no buffer, only the client's header table, which
/// is empty until the first request and never above [`TABLE_SIZE`] octets.
///
/// The server behind it must leave `SETTINGS_HEADER_TABLE_SIZE` and `SETTINGS_MAX_FRAME_SIZE` at their defaults.
#[derive(Debug)]
pub struct AuthorityFilter<IO> {
    io: IO,
    rewriter: Rewriter,
    /// Read from `io` and not yet looked at: at most what one read brought.
    unread: Remainder,
    /// Ready to be read: at most one header frame.
    output: Remainder,
}

impl<IO> AuthorityFilter<IO> {
    /// Wraps a connection of which nothing has been read.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            rewriter: Rewriter::new(),
            unread: Remainder::default(),
            output: Remainder::default(),
        }
    }

    /// The connection itself, for its peer's credentials.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// What is left of `unread` goes through the filter, into `buf` as far as it has room.
    fn digest_unread(&mut self, buf: &mut ReadBuf<'_>) {
        while !self.unread.is_empty() && self.output.is_empty() && buf.remaining() > 0 {
            let rest = self.unread.rest();
            let window = &rest[..rest.len().min(buf.remaining())];
            match self.rewriter.step(window) {
                Step::Pass(count) => {
                    buf.put_slice(&window[..count]);
                    self.unread.advance(count);
                }
                Step::Take(count) => {
                    self.unread.advance(count);
                    self.collect_output();
                }
            }
        }
    }

    fn collect_output(&mut self) {
        self.output = Remainder {
            octets: self.rewriter.take_output(),
            at: 0,
        };
        if let Some(refusal) = self.rewriter.refusal() {
            tracing::debug!(%refusal, "client refused before its request was read");
            self.unread = Remainder::default();
        }
    }

    /// Lets what lies in `buf` from `start` on through, up to where something has to be rewritten.
    fn pass_in_place(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let mut at = start;
        while at < buf.filled().len() {
            match self.rewriter.step(&buf.filled()[at..]) {
                Step::Pass(count) => at += count,
                Step::Take(count) => {
                    self.unread = Remainder {
                        octets: buf.filled()[at + count..].to_vec(),
                        at: 0,
                    };
                    buf.set_filled(at);
                    self.collect_output();
                    return;
                }
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for AuthorityFilter<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buf.filled().len();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            this.output.read_into(buf);
            this.digest_unread(buf);
            if buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
            if !this.output.is_empty() {
                continue;
            }
            if this.rewriter.refusal().is_some() {
                // The end of the stream, as far as the server is concerned.
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            if buf.filled().len() == start {
                return Poll::Ready(Ok(()));
            }
            this.pass_in_place(buf, start);
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for AuthorityFilter<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Octets of which a part has been used. Used up, it holds no memory.
#[derive(Debug, Default)]
struct Remainder {
    octets: Vec<u8>,
    at: usize,
}

impl Remainder {
    fn rest(&self) -> &[u8] {
        &self.octets[self.at..]
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn advance(&mut self, count: usize) {
        self.at += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }

    fn read_into(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.rest().len().min(buf.remaining());
        if count > 0 {
            buf.put_slice(&self.rest()[..count]);
            self.advance(count);
        }
    }
}
