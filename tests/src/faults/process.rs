//! What can happen to a process: it is stopped for a while, or may open no more files.

use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::daemon::Daemon;

/// A daemon that is stopped until this is dropped, as by a debugger, a frozen cgroup, or a machine that was suspended.
#[derive(Debug)]
pub struct Paused<'a>(&'a Daemon);

impl<'a> Paused<'a> {
    /// Stops `daemon`.
    pub fn new(daemon: &'a Daemon) -> Self {
        daemon.signal(Signal::SIGSTOP);
        Self(daemon)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGCONT);
    }
}

/// How many file descriptors a process has open.
///
/// # Panics
/// There is no such process.
pub fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64
}

/// Lets a process have at most `limit` file descriptors, or as many as we may, if that is `None`.
pub fn lower_descriptors(pid: u32, limit: Option<u64>) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process ID");
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        // Only the soft limit: the hard one could not be raised again.
        current: limit.or(maximum),
        maximum,
    };
    prlimit(Some(pid), Resource::Nofile, limit).expect("the process is ours");
}

/// Octets of memory that a process holds.
///
/// # Panics
/// There is no such process.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("it has memory");
    let kilobytes = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse::<u64>().ok());
    kilobytes.expect("a number of kilobytes") << 10
}
