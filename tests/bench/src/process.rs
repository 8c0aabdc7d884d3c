//! What a process has used, as the kernel counts it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// A process under test.
#[derive(Debug, Clone, Copy)]
pub struct Process(u32);

/// What it holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Proportional set size: its share of what it shares.
    pub pss: u64,
    /// Resident set size.
    pub rss: u64,
}

/// What it has read.
#[derive(Debug, Clone, Copy)]
pub struct Reads {
    /// Octets by `read` and its kin: files and event counters, not sockets, which are read by `recv`.
    pub octets: u64,
    /// Such calls.
    pub calls: u64,
}

impl Process {
    /// By its process ID.
    pub fn new(pid: u32) -> Self {
        Self(pid)
    }

    /// The one that listens on a Unix socket.
    ///
    /// # Errors
    /// Nobody does.
    pub fn behind(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("nobody listens on {}", socket.display()))?;
        let peer = getsockopt(&stream, PeerCredentials)?;
        Ok(Self(u32::try_from(peer.pid())?))
    }

    /// Its process ID.
    pub fn pid(self) -> u32 {
        self.0
    }

    /// CPU time of all of its threads, those that have ended too; in steps of a tick.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu(self) -> Result<Duration> {
        let stat = self.file("stat")?;
        // The name in parentheses may hold anything; utime and stime are the 12th and 13th field after it.
        let (_, rest) = stat.rsplit_once(')').context("stat without a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        #[allow(clippy::cast_precision_loss, reason = "ticks since the start")]
        let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok(Duration::from_secs_f64(seconds))
    }

    /// What it holds now.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory(self) -> Result<Memory> {
        let text = self.file("smaps_rollup")?;
        let octets = |name| field(&text, name).map(|kilobytes| kilobytes * 1024);
        Ok(Memory {
            pss: octets("Pss:")?,
            rss: octets("Rss:")?,
        })
    }

    /// What it has read so far.
    ///
    /// # Errors
    /// It is gone, or not ours to look at.
    pub fn reads(self) -> Result<Reads> {
        let text = self.file("io")?;
        Ok(Reads {
            octets: field(&text, "rchar:")?,
            calls: field(&text, "syscr:")?,
        })
    }

    /// Whether it has ended, collected or not.
    pub fn is_gone(self) -> bool {
        self.file("stat").map_or(true, |stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
        })
    }

    fn file(self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.0);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    Ok(value.with_context(|| format!("no {name}"))?.parse()?)
}
