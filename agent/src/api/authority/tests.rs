//! The filter in front of a real HTTP/2 server, fed with raw frames.

#![allow(clippy::disallowed_methods, reason = "each test owns its tasks and ends with them")]

mod property;

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use super::{AuthorityFilter, HpackError, MAX_BLOCK, MAX_CONTINUATIONS, MAX_FIELDS, Refusal, Rewriter, Step, huffman};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

const PROTOCOL_ERROR: u32 = 1;
const FRAME_SIZE_ERROR: u32 = 6;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A short string, plain or Huffman-coded.
fn text(value: &[u8], coded: bool) -> Vec<u8> {
    let (flag, value) = if coded {
        (0x80, huffman::tests::encode(value))
    } else {
        (0, value.to_vec())
    };
    let mut out = vec![flag | u8::try_from(value.len()).unwrap()];
    assert!(value.len() < 127);
    out.extend(value);
    out
}

/// `:method POST`, `:scheme http`, `:path /`, and what is given for the authority.
fn request(authority: &[u8]) -> Vec<u8> {
    [&[0x83, 0x86, 0x84], authority].concat()
}

/// An authority as gRPC C-core sends it: a literal with incremental indexing, name and value plain.
fn c_core(value: &str) -> Vec<u8> {
    [vec![0x40], text(b":authority", false), text(value.as_bytes(), false)].concat()
}

/// As most others send it: the name by its static index.
fn indexed_name(value: &str, coded: bool) -> Vec<u8> {
    [vec![0x41], text(value.as_bytes(), coded)].concat()
}

fn simple(block: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(HEADERS, END_STREAM | END_HEADERS, 1, block)].concat()
}

/// Hands out at most `split` octets a read.
struct Slowly<IO> {
    io: IO,
    split: usize,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Slowly<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let mut part = vec![0; self.split.min(buf.remaining())];
        let mut part = ReadBuf::new(&mut part);
        let result = Pin::new(&mut self.io).poll_read(cx, &mut part);
        buf.put_slice(part.filled());
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Slowly<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// An HTTP/2 server behind the filter that answers with the authority it saw and the request's headers.
async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<(), hyper::Error> {
    let answer = service_fn(|request: Request<Incoming>| async move {
        let mut seen = request.uri().authority().map_or("none".to_owned(), ToString::to_string);
        for (name, value) in request.headers() {
            seen += &format!("|{name}={}", String::from_utf8_lossy(value.as_bytes()));
        }
        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(seen))))
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(io), answer)
        .await
}

/// What a client gets: the bodies of its answers in order, and how streams and the connection ended.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    answers: Vec<String>,
    resets: Vec<u32>,
    goaway: Option<u32>,
    settings: Vec<u8>,
}

/// Reads frames until there are `answers`, a reset, GOAWAY or the end of the connection.
async fn watch(client: &mut DuplexStream, answers: usize) -> Seen {
    let mut seen = Seen::default();
    let mut head = [0; 9];
    while seen.answers.len() < answers && seen.resets.is_empty() && seen.goaway.is_none() {
        if client.read_exact(&mut head).await.is_err() {
            break;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        client.read_exact(&mut payload).await.unwrap();
        match head[3] {
            0 => seen.answers.push(String::from_utf8(payload).unwrap()),
            3 => seen.resets.push(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            4 if head[4] == 0 => seen.settings = payload,
            7 => seen.goaway = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            _ => {}
        }
    }
    seen
}

/// Sends `octets` to the filtered server, `split` a read, and watches.
async fn exchange(octets: &[u8], split: usize, answers: usize) -> Seen {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(serve(AuthorityFilter::new(Slowly { io: server, split })));
    client.write_all(octets).await.unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(20), watch(&mut client, answers))
        .await
        .unwrap();
    if seen.goaway.is_some() {
        // The connection ends by itself.
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        assert!(server.await.unwrap().is_err());
    }
    seen
}

/// Each way to send an authority, and what the handler is to see. IOP-01
fn cases() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let path = "tmp%2Fa.sock";
    let block = request(&c_core(path));
    let whole = |flags, payload: &[u8]| simple_with(flags, payload);
    vec![
        ("a good one", simple(&request(&c_core("localhost"))), "localhost"),
        (
            "a good one with a port",
            simple(&request(&indexed_name("example.org:443", true))),
            "example.org:443",
        ),
        ("percent-encoded path, as C-core sends it", simple(&block), "localhost"),
        (
            "raw path, as grpc-java sends it",
            simple(&request(&c_core("/tmp/a.sock"))),
            "localhost",
        ),
        (
            "raw path, name by index",
            simple(&request(&indexed_name("/tmp/a.sock", false))),
            "localhost",
        ),
        ("empty", simple(&request(&c_core(""))), "localhost"),
        ("empty, by static index", simple(&request(&[0x81])), "localhost"),
        ("empty, Huffman-coded", simple(&request(&[0x41, 0x80])), "localhost"),
        ("absent", simple(&request(b"")), "none"),
        (
            "Huffman-coded",
            simple(&request(&indexed_name("/tmp/a.sock", true))),
            "localhost",
        ),
        (
            "Huffman-coded name and value",
            simple(&request(
                &[vec![0], text(b":authority", true), text(path.as_bytes(), true)].concat(),
            )),
            "localhost",
        ),
        (
            "never indexed",
            simple(&request(&[vec![0x11], text(path.as_bytes(), false)].concat())),
            "localhost",
        ),
        ("not text", simple(&request(&[0x41, 3, 0xff, 0x00, 0x80])), "localhost"),
        (
            "padded",
            whole(PADDED, &[&[5][..], &block, &[0; 5]].concat()),
            "localhost",
        ),
        (
            "with priority",
            whole(PRIORITY, &[&[0, 0, 0, 0, 16][..], &block].concat()),
            "localhost",
        ),
        (
            "padded with priority",
            whole(PADDED | PRIORITY, &[&[2, 0, 0, 0, 0, 16][..], &block, &[0; 2]].concat()),
            "localhost",
        ),
    ]
}

fn simple_with(flags: u8, payload: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(HEADERS, END_STREAM | END_HEADERS | flags, 1, payload)].concat()
}

#[tokio::test]
async fn every_form_of_authority_is_answered_at_every_split() {
    for (name, octets, expected) in cases() {
        for split in 1..=octets.len() {
            let seen = exchange(&octets, split, 1).await;
            assert_eq!(seen.answers, [expected], "{name}, {split} octets a read: {seen:?}");
        }
    }
}

#[tokio::test]
async fn a_block_may_be_cut_into_continuations_anywhere() {
    let block = request(&c_core("tmp%2Fa.sock"));
    for cut in 0..=block.len() {
        for second in [cut, (cut + block.len()) / 2] {
            let octets = [
                PREFACE.to_vec(),
                frame(
                    HEADERS,
                    END_STREAM | PADDED | PRIORITY,
                    1,
                    &[&[3, 0, 0, 0, 0, 9], &block[..cut], &[0; 3]].concat(),
                ),
                frame(CONTINUATION, 0, 1, &block[cut..second]),
                frame(CONTINUATION, END_HEADERS, 1, &block[second..]),
            ]
            .concat();
            for split in [1, 2, 3, 7, 9, 10, octets.len()] {
                let seen = exchange(&octets, split, 1).await;
                assert_eq!(
                    seen.answers,
                    ["localhost"],
                    "cut at {cut} and {second}, {split} octets a read: {seen:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_value_in_the_dynamic_table_is_replaced_each_time_it_is_referenced() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(serve(AuthorityFilter::new(Slowly { io: server, split: 17 })));
    client.write_all(PREFACE).await.unwrap();
    for i in 0..600_u32 {
        // The first request stores the path as entry 62. Each request adds an entry of its own behind it; before the
        // table is full (4096 octets) the path is stored again.
        let (age, own) = (i % 50, format!("{i:04}"));
        let authority = match age {
            0 => c_core("tmp%2Fa.sock"),
            // An index of 127 and more needs a second octet; 61 + 50 does not.
            _ => vec![0x80 | (61 + age + 1 - u32::from(age == 0)) as u8],
        };
        let own = [vec![0x40], text(b"x-n", false), text(own.as_bytes(), i % 2 == 0)].concat();
        let block = [request(&authority), own].concat();
        client
            .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * i + 1, &block))
            .await
            .unwrap();
        let seen = watch(&mut client, 1).await;
        assert_eq!(seen.answers, [format!("localhost|x-n={i:04}")], "request {i}: {seen:?}");
    }
    drop(client);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn table_size_updates_are_followed() {
    let path = c_core("tmp%2Fa.sock");
    let octets = [
        simple(&request(&path)),
        // Size 0 and 4096 again: the table is empty, then holds a new value.
        frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            3,
            &[&[0x20, 0x3f, 0xe1, 0x1f][..], &request(&c_core("b c"))].concat(),
        ),
        frame(HEADERS, END_STREAM | END_HEADERS, 5, &request(&[0x80 | 62])),
    ]
    .concat();
    assert_eq!(exchange(&octets, 5, 3).await.answers, ["localhost"; 3]);
    // With size 0 nothing is stored, so a reference is an error.
    let octets = [
        simple(&[&[0x20][..], &request(&path)].concat()),
        frame(HEADERS, END_STREAM | END_HEADERS, 3, &request(&[0x80 | 62])),
    ]
    .concat();
    assert_eq!(exchange(&octets, 1000, 2).await.goaway, Some(PROTOCOL_ERROR));
}

#[tokio::test]
async fn other_clients_of_the_same_stack_are_not_disturbed() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(serve(AuthorityFilter::new(Slowly { io: server, split: 100 })));
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    for i in 0..300 {
        let request = Request::post("http://localhost/SpiffeWorkloadAPI/FetchX509SVID")
            .header("workload.spiffe.io", "true")
            .header(format!("x-{}", i % 70), format!("{i} {}", "long ".repeat(i % 90)))
            .body(Full::new(Bytes::from(vec![b'x'; i * 100])))
            .unwrap();
        send.ready().await.unwrap();
        let answer = send.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200, "request {i}");
    }
    drop(send);
    connection.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_server_announces_neither_a_table_nor_a_larger_frame() {
    // The filter relies on both defaults: SETTINGS_HEADER_TABLE_SIZE is 1, SETTINGS_MAX_FRAME_SIZE 5.
    let seen = exchange(&simple(&request(b"")), 1000, 1).await;
    for setting in seen.settings.chunks(6) {
        assert!(
            setting[1] != 1 && (setting[1] != 5 || setting[2..] == [0, 0, 0x40, 0]),
            "{setting:?}"
        );
    }
}

#[tokio::test]
async fn what_breaks_the_rules_ends_in_goaway() {
    let headers = |block: &[u8]| simple(block);
    let big = |count: usize| {
        [
            vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e],
            vec![b'b'; 4000],
            vec![0x80 | 62; count],
        ]
        .concat()
    };
    let open = [PREFACE, &frame(HEADERS, END_STREAM, 1, &request(b""))].concat();
    let pieces = |count| frame(CONTINUATION, 0, 1, b"").repeat(count);
    let after = |rest: &[u8]| [&open, rest].concat();
    for (name, octets, code) in [
        ("index 0", headers(&[0x80]), PROTOCOL_ERROR),
        ("an index beyond the table", headers(&[0x80 | 62]), PROTOCOL_ERROR),
        ("a value that is cut off", headers(&[0x41, 9, b'x']), PROTOCOL_ERROR),
        ("an integer without end", headers(&[0xff; 40]), PROTOCOL_ERROR),
        ("a table of 4097 octets", headers(&[0x3f, 0xe2, 0x1f]), PROTOCOL_ERROR),
        (
            "a table size update behind a field",
            headers(&[0x82, 0x20]),
            PROTOCOL_ERROR,
        ),
        (
            "the end symbol",
            headers(&[0x41, 0x84, 0xff, 0xff, 0xff, 0xff]),
            PROTOCOL_ERROR,
        ),
        ("129 fields", headers(&[0x82; MAX_FIELDS + 1]), PROTOCOL_ERROR),
        ("a list of more than 16 KiB", headers(&big(4)), PROTOCOL_ERROR),
        (
            "a frame of more than 16384 octets",
            headers(&vec![0x82; 16_385]),
            FRAME_SIZE_ERROR,
        ),
        (
            "a block of more than 16 KiB",
            after(&frame(CONTINUATION, 4, 1, &[0; MAX_BLOCK])),
            PROTOCOL_ERROR,
        ),
        (
            "a flood of CONTINUATION",
            after(&pieces(MAX_CONTINUATIONS + 1)),
            PROTOCOL_ERROR,
        ),
        (
            "CONTINUATION for another stream",
            after(&frame(CONTINUATION, END_HEADERS, 3, b"")),
            PROTOCOL_ERROR,
        ),
        ("DATA inside a block", after(&frame(0, 0, 1, b"x")), PROTOCOL_ERROR),
        (
            "HEADERS inside a block",
            after(&frame(HEADERS, END_HEADERS, 3, &request(b""))),
            PROTOCOL_ERROR,
        ),
        (
            "CONTINUATION first",
            [PREFACE, &frame(CONTINUATION, 4, 1, &request(b""))].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "PUSH_PROMISE",
            [PREFACE, &frame(5, 4, 1, &[0, 0, 0, 2, 0x82])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "more padding than payload",
            simple_with(PADDED, &[9, 0x82]),
            PROTOCOL_ERROR,
        ),
        ("no padding length", simple_with(PADDED, &[]), PROTOCOL_ERROR),
        ("half a priority", simple_with(PRIORITY, &[0, 0, 0]), PROTOCOL_ERROR),
        (
            "HEADERS on stream 0",
            [PREFACE, &frame(HEADERS, 5, 0, &request(b""))].concat(),
            PROTOCOL_ERROR,
        ),
    ] {
        for split in [1, 8, 10, octets.len()] {
            assert_eq!(
                exchange(&octets, split, 1).await.goaway,
                Some(code),
                "{name}, {split} octets a read"
            );
        }
    }
    // Just below the limits is answered.
    let fields = [
        request(b""),
        [vec![0], text(b"a", false), text(b"b", false)]
            .concat()
            .repeat(MAX_FIELDS - 3),
    ]
    .concat();
    assert_eq!(exchange(&simple(&fields), 100, 1).await.answers.len(), 1);
    let list = [request(b""), big(2)].concat();
    assert_eq!(exchange(&simple(&list), 100, 1).await.answers.len(), 1);
    assert_eq!(
        exchange(&after(&frame(CONTINUATION, END_HEADERS, 1, b"")), 100, 1)
            .await
            .answers,
        ["none"]
    );
}

#[tokio::test]
async fn what_is_not_http2_is_left_to_the_server() {
    for octets in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"\x16\x03\x01",
        &[0xff; 5000],
    ] {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(serve(AuthorityFilter::new(server)));
        client.write_all(octets).await.unwrap();
        client.shutdown().await.unwrap();
        server.await.unwrap().unwrap_err();
    }
}

/// Runs `octets` through a rewriter, in the given pieces.
pub(super) fn rewrite<'a>(
    rewriter: &mut Rewriter,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            match rewriter.step(piece) {
                Step::Pass(count) => {
                    out.extend_from_slice(&piece[..count]);
                    piece = &piece[count..];
                }
                Step::Take(count) => {
                    out.extend(rewriter.take_output());
                    piece = &piece[count..];
                }
            }
            if let Some(refusal) = rewriter.refusal() {
                return Err(refusal);
            }
        }
    }
    Ok(out)
}

#[test]
fn data_of_any_length_passes_without_being_kept() {
    let data = [PREFACE, &frame(0, 0, 1, &vec![7; 1 << 20])].concat();
    let mut rewriter = Rewriter::new();
    assert_eq!(rewrite(&mut rewriter, data.chunks(4097)).unwrap(), data);
    assert!(rewriter.take_output().is_empty());
}

#[tokio::test]
async fn at_rest_no_buffer_is_held() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let mut filter = AuthorityFilter::new(server);
    client
        .write_all(&simple(&request(&c_core("tmp%2Fa.sock"))))
        .await
        .unwrap();
    let mut buf = vec![0; 1 << 14];
    let mut count = 0;
    while count < 60 {
        count += filter.read(&mut buf).await.unwrap();
    }
    assert_eq!(
        (filter.unread.octets.capacity(), filter.output.octets.capacity()),
        (0, 0)
    );
    assert!(
        size_of::<AuthorityFilter<()>>() <= 256,
        "{}",
        size_of::<AuthorityFilter<()>>()
    );
}

#[test]
fn errors_say_what_is_wrong() {
    assert_eq!(
        Refusal::from(HpackError::ListTooLarge).to_string(),
        "the header list is larger than 16384 octets"
    );
}
