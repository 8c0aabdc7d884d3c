//! Signals to this process, as a stream.

use std::fs;
use std::io;
use std::task::Poll;

use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as Source, SignalKind, signal};

/// Passed on to the command as they come.
const FORWARDED: &[Signal] = &[
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// What each of them asks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A child has ended or stopped.
    Child,
    /// A signal for the command. The ones that would end a program ([`is_end`]) end the waiting before there is one.
    Forward(Signal),
    /// The terminal wants us to stop.
    Stop,
    /// We go on.
    Continue,
}

/// All of them. Those that were ignored when we started stay so, for the command as well: `nohup` relies on it.
pub(super) struct Signals {
    sources: Vec<(Asked, Source)>,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// No handler can be installed.
    pub(super) fn listen() -> io::Result<Self> {
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let mut wanted: Vec<(Asked, Signal)> = vec![
            (Asked::Child, Signal::SIGCHLD),
            (Asked::Stop, Signal::SIGTSTP),
            (Asked::Continue, Signal::SIGCONT),
        ];
        wanted.extend(FORWARDED.iter().map(|signal| (Asked::Forward(*signal), *signal)));
        let heard = wanted
            .into_iter()
            .filter(|(asked, number)| *asked == Asked::Child || ignored & (1 << (*number as i32 - 1)) == 0);
        let sources = heard.map(|(asked, number)| Ok((asked, signal(SignalKind::from_raw(number as i32))?)));
        Ok(Self {
            sources: sources.collect::<io::Result<_>>()?,
        })
    }

    /// The next one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub(super) async fn next(&mut self) -> Asked {
        std::future::poll_fn(|cx| {
            for (asked, source) in &mut self.sources {
                if source.poll_recv(cx).is_ready() {
                    return Poll::Ready(*asked);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next one that would end a program.
    ///
    /// # Cancel safety
    /// None of these is lost; the others are.
    pub(super) async fn end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Asked::Forward(signal) if is_end(signal) => return signal,
                _ => {}
            }
        }
    }
}

/// Whether it means "stop what you do".
pub(super) fn is_end(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
    )
}

/// The signals that a process ignores, signal n as bit n-1, from its `/proc/<pid>/status`.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_kernel() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001003\n"), 0x1003);
        assert_eq!(ignored(""), 0);
    }
}
