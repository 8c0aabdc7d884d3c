//! Lets each packet that the kernel queues for it (NFQUEUE 0) go on after some time: `delayer MILLISECONDS`.
//!
//! For [`mayfly_tests::faults::Network`], in whose namespace it runs. The order stays as it was.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use nfq::{Message, Queue, Verdict};

/// How exact the delay is.
const TICK: Duration = Duration::from_micros(500);

fn main() -> anyhow::Result<()> {
    let millis = std::env::args().nth(1).unwrap_or_default();
    let delay = Duration::from_millis(millis.parse()?);
    let mut queue = Queue::open()?;
    queue.bind(0)?;
    queue.set_queue_max_len(0, 100_000)?;
    queue.set_nonblocking(true);
    std::io::stdout().write_all(b"+")?;
    std::io::stdout().flush()?;
    let mut waiting: VecDeque<(Instant, Message)> = VecDeque::new();
    loop {
        match queue.recv() {
            Ok(message) => {
                waiting.push_back((Instant::now() + delay, message));
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        while waiting.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            if let Some((_, mut message)) = waiting.pop_front() {
                message.set_verdict(Verdict::Accept);
                queue.verdict(message)?;
            }
        }
        std::thread::sleep(TICK);
    }
}
