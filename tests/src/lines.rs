//! The near end of [`Program`](crate::Program): what a client program in Rust reads and writes.

use std::io::{BufRead, Write};

use serde_json::Value;
use tokio::sync::mpsc;

/// Lines of JSON from standard input; ends with it.
///
/// # Panics
/// A line is not JSON.
pub fn commands() -> mpsc::Receiver<Value> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let command = serde_json::from_str(&line).unwrap_or_else(|_| panic!("told `{line}`"));
            if sender.blocking_send(command).is_err() {
                return;
            }
        }
    });
    receiver
}

/// One line of JSON to standard output.
pub fn say(event: &Value) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: the end of input follows.
    let _ = writeln!(out, "{event}").and_then(|()| out.flush());
}
