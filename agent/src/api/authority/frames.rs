//! The filter without its socket: bytes of a client in, bytes that `h2` accepts out.
//!
//! [`Rewriter`] walks the frames (RFC 9113 §4.1). It keeps the octets of a frame head that is not complete, and the
//! header block that is being collected; all other octets it only counts.

use std::ops::Range;

use http::uri::Authority;

use super::hpack::{self, Decoder, HpackError};

/// The client's connection preface (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;

/// The largest frame that carries header blocks: the protocol's default, which our servers do not raise.
pub const MAX_FRAME: usize = 16_384;
/// The largest encoded header block, its padding and priority included, over HEADERS and CONTINUATION together.
pub const MAX_BLOCK: usize = 16 * 1024;
/// The most CONTINUATION frames for one block. Whoever keeps to the limits above needs one.
pub const MAX_CONTINUATIONS: usize = 16;

/// What stands in for an authority that is not one.
const LOCALHOST: &[u8] = b"localhost";

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// Why the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The header block itself.
    #[error(transparent)]
    Hpack(#[from] HpackError),
    /// A HEADERS or CONTINUATION frame above [`MAX_FRAME`].
    #[error("a header frame is longer than {MAX_FRAME} octets")]
    FrameTooLong,
    /// A block above [`MAX_BLOCK`] or in more than [`MAX_CONTINUATIONS`] pieces.
    #[error("a header block is longer than {MAX_BLOCK} octets or in more than {MAX_CONTINUATIONS} pieces")]
    BlockTooLong,
    /// A CONTINUATION where none is due, or another frame where one is (RFC 9113 §6.10).
    #[error("a CONTINUATION frame is missing or out of place")]
    Continuation,
    /// Clients may not push (RFC 9113 §8.4).
    #[error("a client sent PUSH_PROMISE")]
    Push,
    /// Padding or priority do not fit into the frame (RFC 9113 §6.2).
    #[error("the padding or priority of a HEADERS frame is longer than the frame")]
    Padding,
}

impl Refusal {
    /// A frame on which an HTTP/2 server answers GOAWAY with the fitting code and ends the connection.
    fn poison(self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            // More than any limit of a server: FRAME_SIZE_ERROR.
            Self::FrameTooLong => write_head(&mut out, 0xff_ffff, HEADERS, END_HEADERS, 1),
            // DATA on the connection itself (RFC 9113 §6.1): PROTOCOL_ERROR, which is also what `h2` says of a
            // malformed header block.
            _ => write_head(&mut out, 0, 0, 0, 0),
        }
        out
    }
}

/// What becomes of the first octets of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This many octets go on as they are.
    Pass(usize),
    /// This many were taken in. [`Rewriter::take_output`] may have something that goes on in their stead.
    Take(usize),
}

/// Where in the byte stream we are.
#[derive(Debug, Clone, Copy)]
enum State {
    /// So many octets of the preface were seen.
    Preface(usize),
    /// At, or in, the head of a frame.
    Head,
    /// So many octets of a frame that is none of our business are left.
    Pass(usize),
    /// So many octets of a HEADERS or CONTINUATION payload are left; the block ends with this frame, or does not.
    Block { left: usize, last: bool },
    /// Not HTTP/2: everything goes on as it is, to be refused there.
    Foreign,
    /// Refused. What still comes is swallowed.
    Refused,
}

/// The HEADERS frame whose block is being collected.
#[derive(Debug, Clone, Copy)]
struct Opened {
    flags: u8,
    stream: u32,
    continuations: usize,
}

/// Rewrites the client's side of an HTTP/2 connection so that no `:authority` in it is malformed.
///
/// Its memory: the client's dynamic table ([`hpack::TABLE_SIZE`]), one encoded block ([`MAX_BLOCK`]) while it
/// arrives, and one re-encoded block until it is taken. Between header blocks only the table remains.
#[derive(Debug)]
pub struct Rewriter {
    state: State,
    head: [u8; HEAD],
    head_length: usize,
    opened: Option<Opened>,
    block: Vec<u8>,
    decoder: Decoder,
    output: Vec<u8>,
    refusal: Option<Refusal>,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self::new()
    }
}

impl Rewriter {
    /// At the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Preface(0),
            head: [0; HEAD],
            head_length: 0,
            opened: None,
            block: Vec::new(),
            decoder: Decoder::new(),
            output: Vec::new(),
            refusal: None,
        }
    }

    /// Deals with the first octets of `input`: at least one, perhaps not all. After [`Step::Take`] the output has to
    /// be taken before the next step.
    pub fn step(&mut self, input: &[u8]) -> Step {
        match self.state {
            State::Preface(seen) => {
                let count = input.len().min(PREFACE.len() - seen);
                self.state = if input[..count] != PREFACE[seen..seen + count] {
                    State::Foreign
                } else if seen + count == PREFACE.len() {
                    State::Head
                } else {
                    State::Preface(seen + count)
                };
                Step::Pass(count)
            }
            State::Head => self.head(input),
            State::Pass(left) => {
                let count = left.min(input.len());
                self.state = if count == left {
                    State::Head
                } else {
                    State::Pass(left - count)
                };
                Step::Pass(count)
            }
            State::Block { left, last } => self.block(input, left, last),
            State::Foreign => Step::Pass(input.len()),
            State::Refused => Step::Take(input.len()),
        }
    }

    /// What goes on after a [`Step::Take`]; empty if nothing does yet. At most one header frame.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Why the connection ends, once it does: when the output is taken there will be no more.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    fn head(&mut self, input: &[u8]) -> Step {
        // The ordinary case: the head is there in one piece and can go on where it is.
        if self.head_length == 0
            && let Some(head) = input.first_chunk::<HEAD>()
        {
            return if self.enter(head) {
                Step::Pass(HEAD)
            } else {
                Step::Take(HEAD)
            };
        }
        let count = (HEAD - self.head_length).min(input.len());
        self.head[self.head_length..self.head_length + count].copy_from_slice(&input[..count]);
        self.head_length += count;
        if self.head_length == HEAD {
            self.head_length = 0;
            let head = self.head;
            if self.enter(&head) {
                self.output.extend_from_slice(&head);
            }
        }
        Step::Take(count)
    }

    /// Enters the frame that begins with `head`; whether the head goes on as it is.
    fn enter(&mut self, head: &[u8; HEAD]) -> bool {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *head;
        let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
        let stream = u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]);
        match self.enter_frame(length, kind, flags, stream) {
            Ok(passes) => passes,
            Err(refusal) => {
                self.refuse(refusal);
                false
            }
        }
    }

    fn enter_frame(&mut self, length: usize, kind: u8, flags: u8, stream: u32) -> Result<bool, Refusal> {
        match (kind, &mut self.opened) {
            (HEADERS, opened @ None) => {
                *opened = Some(Opened {
                    flags,
                    stream,
                    continuations: 0,
                })
            }
            (CONTINUATION, Some(opened)) if opened.stream == stream => {
                opened.continuations += 1;
                if opened.continuations > MAX_CONTINUATIONS {
                    return Err(Refusal::BlockTooLong);
                }
            }
            (CONTINUATION, _) | (_, Some(_)) => return Err(Refusal::Continuation),
            (PUSH_PROMISE, None) => return Err(Refusal::Push),
            (_, None) => {
                self.state = if length == 0 { State::Head } else { State::Pass(length) };
                return Ok(true);
            }
        }
        if length > MAX_FRAME {
            return Err(Refusal::FrameTooLong);
        }
        if self.block.len() + length > MAX_BLOCK {
            return Err(Refusal::BlockTooLong);
        }
        let last = flags & END_HEADERS != 0;
        if length == 0 {
            self.payload_done(&[], last);
        } else {
            self.state = State::Block { left: length, last };
        }
        Ok(false)
    }

    fn block(&mut self, input: &[u8], left: usize, last: bool) -> Step {
        let count = left.min(input.len());
        if count == left {
            self.payload_done(&input[..count], last);
        } else {
            self.block.extend_from_slice(&input[..count]);
            self.state = State::Block {
                left: left - count,
                last,
            };
        }
        Step::Take(count)
    }

    /// The payload of a HEADERS or CONTINUATION frame ends with `rest`.
    fn payload_done(&mut self, rest: &[u8], last: bool) {
        self.state = State::Head;
        let result = if last && self.block.is_empty() {
            // One frame, one piece: decoded where it lies.
            self.block = Vec::new();
            self.rewrite(rest)
        } else {
            self.block.extend_from_slice(rest);
            if last {
                let block = std::mem::take(&mut self.block);
                self.rewrite(&block)
            } else {
                self.unpad_block()
            }
        };
        if let Err(refusal) = result {
            self.refuse(refusal);
        }
    }

    /// Cuts the padding off a HEADERS payload that CONTINUATION frames will follow: they have none (RFC 9113 §6.10).
    fn unpad_block(&mut self) -> Result<(), Refusal> {
        if let Some(opened) = &mut self.opened {
            let content = content(&self.block, opened.flags)?;
            opened.flags &= !PADDED;
            self.block.truncate(content.end);
            self.block.drain(..content.start);
        }
        Ok(())
    }

    /// Puts one HEADERS frame with the whole block into the output. `payload` begins with the padding length and the
    /// priority, where the flags of the opened block say so.
    fn rewrite(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        let opened = self
            .opened
            .take()
            .expect("a payload is collected only for an opened block");
        let payload = &payload[content(payload, opened.flags)?];
        let (priority, block) = payload.split_at(priority_length(opened.flags));

        // The length is filled in at the end. It fits: see `hpack::encode`.
        let mut output = Vec::with_capacity(HEAD + payload.len() * 2);
        write_head(
            &mut output,
            0,
            HEADERS,
            opened.flags & !PADDED | END_HEADERS,
            opened.stream,
        );
        output.extend_from_slice(priority);
        self.decoder.decode(block, |name, value| {
            let value = if name == b":authority" { authority(value) } else { value };
            hpack::encode(&mut output, name, value);
        })?;
        let length = (output.len() - HEAD) as u32;
        output[..3].copy_from_slice(&length.to_be_bytes()[1..]);
        self.output = output;
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.state = State::Refused;
        self.refusal = Some(refusal);
        self.opened = None;
        self.block = Vec::new();
        self.decoder = Decoder::new();
        self.output = refusal.poison();
    }
}

/// The value to send on: the very check that `h2` makes decides.
fn authority(value: &[u8]) -> &[u8] {
    if Authority::try_from(value).is_ok() {
        value
    } else {
        LOCALHOST
    }
}

/// Where in a HEADERS payload priority and block lie, between padding length and padding.
fn content(payload: &[u8], flags: u8) -> Result<Range<usize>, Refusal> {
    let mut content = 0..payload.len();
    if flags & PADDED != 0 {
        let padding = usize::from(*payload.first().ok_or(Refusal::Padding)?);
        content.start = 1;
        content.end = content.end.checked_sub(padding).ok_or(Refusal::Padding)?;
    }
    if content.end < content.start + priority_length(flags) {
        return Err(Refusal::Padding);
    }
    Ok(content)
}

/// How long the stream dependency and weight are (RFC 9113 §6.2).
fn priority_length(flags: u8) -> usize {
    if flags & PRIORITY != 0 { 5 } else { 0 }
}

fn write_head(out: &mut Vec<u8>, length: u32, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}
