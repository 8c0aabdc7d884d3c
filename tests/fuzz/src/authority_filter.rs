//! A client's octets through the authority filter: nothing panics or grows, splits do not matter, and what comes out
//! needs no further change.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use mayfly_agent::api::authority::{AuthorityFilter, MAX_FRAME, Rewriter, Step};
use tokio::io::{AsyncRead, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// All that comes out, and whether the connection was refused.
fn whole(octets: &[u8]) -> (Vec<u8>, bool) {
    let (mut rewriter, mut out, mut rest) = (Rewriter::new(), Vec::new(), octets);
    while !rest.is_empty() && rewriter.refusal().is_none() {
        let count = match rewriter.step(rest) {
            Step::Pass(count) => {
                out.extend_from_slice(&rest[..count]);
                count
            }
            Step::Take(count) => {
                let frame = rewriter.take_output();
                assert!(frame.len() <= 9 + MAX_FRAME);
                out.extend(frame);
                count
            }
        };
        assert!(count > 0);
        rest = &rest[count..];
    }
    (out, rewriter.refusal().is_some())
}

/// Hands out a few octets a read, as the pattern says; 0 is "not yet".
struct Pieces<'a> {
    octets: &'a [u8],
    pattern: [u8; 4],
    turn: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = usize::from(self.pattern[self.turn % 4]);
        self.turn += 1;
        if size == 0 && !self.turn.is_multiple_of(4) {
            return Poll::Pending;
        }
        let count = (size + 1).min(self.octets.len()).min(buf.remaining());
        let (piece, rest) = self.octets.split_at(count);
        buf.put_slice(piece);
        self.octets = rest;
        Poll::Ready(Ok(()))
    }
}

/// Six bytes that say how it is read, then what a client sends.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let Some((&[a, b, c, d, flags, room], octets)) = input.split_first_chunk() else {
        return;
    };
    let octets = if flags & 1 == 0 {
        [PREFACE, octets].concat()
    } else {
        octets.to_vec()
    };
    let (expected, refused) = whole(&octets);

    let mut filter = AuthorityFilter::new(Pieces {
        octets: &octets,
        pattern: [a, b, c, d],
        turn: 0,
    });
    let mut context = Context::from_waker(Waker::noop());
    let mut memory = vec![0; usize::from(room) * 8 + 1];
    let mut out = Vec::new();
    loop {
        let mut buf = ReadBuf::new(&mut memory);
        match Pin::new(&mut filter).poll_read(&mut context, &mut buf) {
            Poll::Pending => continue,
            Poll::Ready(result) => result.expect("the pieces do not fail"),
        }
        if buf.filled().is_empty() {
            break;
        }
        out.extend_from_slice(buf.filled());
    }
    assert_eq!(out, expected);

    if !refused {
        assert_eq!(
            whole(&expected),
            (expected, false),
            "filtering twice changes nothing more"
        );
    }
}
