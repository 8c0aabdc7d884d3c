//! HTTP/2 by hand, for what no library would send (RFC 9113 §4, RFC 7541 §6.2).
//!
//! Enough to open a connection, send header blocks octet by octet, and read what comes back. Answers are not decoded
//! beyond frames; header blocks are read with another codec than that of the daemons.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What opens a connection (RFC 9113 §3.4), with an empty SETTINGS frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Frame types.
pub const DATA: u8 = 0;
/// A header block begins.
pub const HEADERS: u8 = 1;
/// A stream is reset.
pub const RST_STREAM: u8 = 3;
/// Settings.
pub const SETTINGS: u8 = 4;
/// The connection ends.
pub const GOAWAY: u8 = 7;
/// A sign of life.
pub const PING: u8 = 6;
/// Room for more data.
pub const WINDOW_UPDATE: u8 = 8;
/// A header block goes on.
pub const CONTINUATION: u8 = 9;

/// The answer to SETTINGS or PING.
pub const ACK: u8 = 1;

/// The stream ends with this frame.
pub const END_STREAM: u8 = 1;
/// The header block ends with this frame.
pub const END_HEADERS: u8 = 4;
/// The frame's first octet says how many of its last ones are padding.
pub const PADDED: u8 = 8;

/// The setting that says how much a peer may send on a stream before it is read.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// One frame as octets.
///
/// # Panics
/// The payload is longer than a frame can be.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|length| *length < 1 << 24)
        .expect("fits in a frame");
    let mut octets = length.to_be_bytes()[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend(payload);
    octets
}

/// An HPACK integer with a prefix of `bits` (RFC 7541 §5.1), below the marker `first`.
pub fn integer(first: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let limit = (1_usize << bits) - 1;
    if value < limit {
        return vec![first | u8::try_from(value).expect("below the limit")];
    }
    let mut octets = vec![first | u8::try_from(limit).expect("at most 255")];
    value -= limit;
    while value >= 128 {
        octets.push(u8::try_from(value % 128).expect("below 128") | 128);
        value /= 128;
    }
    octets.push(u8::try_from(value).expect("below 128"));
    octets
}

/// A string as it is (RFC 7541 §5.2).
pub fn string(text: &[u8]) -> Vec<u8> {
    let mut octets = integer(0, 7, text.len());
    octets.extend(text);
    octets
}

/// A literal field with a new name, not indexed (RFC 7541 §6.2.2).
pub fn field(name: &str, value: &[u8]) -> Vec<u8> {
    [vec![0], string(name.as_bytes()), string(value)].concat()
}

/// The header block of a gRPC call, with `authority` as an octet string already in HPACK's form; none leaves it out.
pub fn call(path: &str, authority: Option<&[u8]>, extra: &[u8]) -> Vec<u8> {
    // :method POST and :scheme http are 3 and 6 of the static table.
    let mut block = vec![0x83, 0x86];
    block.extend(field(":path", path.as_bytes()));
    if let Some(authority) = authority {
        block.extend(authority);
    }
    block.extend(field("te", b"trailers"));
    block.extend(field("content-type", b"application/grpc"));
    block.extend(extra);
    block
}

/// A SETTINGS frame with one value.
pub fn setting(name: u16, value: u32) -> Vec<u8> {
    frame(
        SETTINGS,
        0,
        0,
        &[&name.to_be_bytes()[..], &value.to_be_bytes()].concat(),
    )
}

/// `:authority` by its index in the static table, as text.
pub fn authority(value: &[u8]) -> Vec<u8> {
    [vec![0x01], string(value)].concat()
}

/// A gRPC message without content, uncompressed.
pub const EMPTY_MESSAGE: [u8; 5] = [0; 5];

/// A connection by hand, over a Unix socket or whatever else octets pass through.
#[allow(missing_debug_implementations, reason = "the codec has none")]
pub struct Connection<S = UnixStream> {
    socket: S,
    decoder: loona_hpack::Decoder<'static>,
}

impl Connection {
    /// Over a socket that is connected; nothing is sent yet.
    pub fn new(socket: UnixStream) -> Self {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a socket");
        socket
            .set_write_timeout(Some(Duration::from_secs(10)))
            .expect("a socket");
        Self::over(socket)
    }
}

impl<S: Read + Write> Connection<S> {
    /// Over a stream whose owner has seen to it that reading and writing end some time.
    pub fn over(socket: S) -> Self {
        Self {
            socket,
            decoder: loona_hpack::Decoder::new(),
        }
    }

    /// Sends octets; gives whether the peer still took them.
    pub fn send(&mut self, octets: &[u8]) -> bool {
        self.socket.write_all(octets).and_then(|()| self.socket.flush()).is_ok()
    }

    /// The next frame; none when the peer has closed.
    ///
    /// # Errors
    /// Nothing came for ten seconds.
    pub fn receive(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.socket.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // Closed, or reset because not all was read of what we sent.
            Err(_) => return Ok(None),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if self.socket.read_exact(&mut payload).is_err() {
            return Ok(None);
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Some(Frame {
            kind: head[3],
            flags: head[4],
            stream,
            payload,
        }))
    }

    /// How a call on `stream` went: its gRPC status, or what else became of it.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let frame = match self.receive() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Outcome::Closed,
                Err(_) => return Outcome::Silence,
            };
            match frame.kind {
                GOAWAY => return Outcome::GoAway(code(&frame.payload[4..])),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(code(&frame.payload)),
                DATA if frame.stream == stream => return Outcome::Message(frame.payload),
                HEADERS => {
                    // In order, whatever the stream: the codec keeps a table.
                    let fields = self.decoder.decode(&frame.payload).unwrap_or_default();
                    if frame.stream != stream {
                        continue;
                    }
                    let find = |wanted: &[u8]| {
                        let found = fields.iter().find(|(name, _)| name.as_slice() == wanted);
                        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
                    };
                    if let Some(status) = find(b"grpc-status") {
                        return Outcome::Status(
                            status.parse().unwrap_or(-1),
                            find(b"grpc-message").unwrap_or_default(),
                        );
                    }
                    if let Some(status) = find(b":status").filter(|status| status != "200") {
                        return Outcome::Http(status);
                    }
                }
                SETTINGS if frame.flags & 1 == 0 => {
                    self.send(&self::frame(SETTINGS, 1, 0, &[]));
                }
                _ => {}
            }
        }
    }
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A first message came.
    Message(Vec<u8>),
    /// It ended with this gRPC status and message.
    Status(i32, String),
    /// It was answered by HTTP, not by gRPC.
    Http(String),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was given up with this code.
    GoAway(u32),
    /// The connection was closed.
    Closed,
    /// Nothing came for ten seconds.
    Silence,
}

fn code(octets: &[u8]) -> u32 {
    octets.first_chunk().map_or(u32::MAX, |code| u32::from_be_bytes(*code))
}
