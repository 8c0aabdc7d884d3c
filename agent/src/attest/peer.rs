//! Who is on this socket, and is it still that process.
//!
//! A [`PeerProcess`] is made from an accepted Unix stream. It holds a pidfd, which stands for the process and never
//! for another one that gets its number, and an open folder of `/proc`, through which everything is read. The pidfd
//! comes from the kernel's record of the connection (`SO_PEERPIDFD`, Linux 6.5), so there is no moment between connect
//! and now in which the number could have changed hands. Older kernels have the number only ([`PidSource::Number`]).
//!
//! One rule: what is read of `/proc` counts only if the peer was the same before and after. [`PeerProcess::inspect`]
//! keeps it, and there is no other way to read. "The same" is strict: alive, and with the program, the user, the
//! groups it had when it was accepted. Between two looks it could have been another and be itself again (`sudo` to
//! itself, say), so users and groups are taken from the look before, and an opened program is held against the one
//! that was seen first; one that was seen to be another is another for good. A process that executes another program
//! while it holds the connection could have left a copy of the socket with somebody else, who would then be given that
//! program's identity. It has to connect again instead; no client library keeps its connection over `exec`.
//!
//! What this cannot see: the socket handed to another process while the first one lives on unchanged. Such a helper
//! acts with what it was given, as if it had been given the SVID itself.

mod fingerprint;
mod proc;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use mayfly_model::ErrorKind;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::proc_text::{ProcTextError, Stat, Status};
use super::tracer::Looks;

pub use fingerprint::{ExeId, Fingerprint};
pub use proc::Proc;

/// Why a peer could not be identified, or is not any more who it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The kernel does not tell who is on the socket.
    #[error("the kernel does not tell who is on the socket")]
    Credentials {
        /// What the kernel said.
        source: io::Error,
    },
    /// The peer is not in our PID namespace.
    #[error(
        "the peer's process is not visible in the agent's PID namespace: run the agent in that of the host \
         (`hostPID: true` in Kubernetes, `--pid=host` in Docker)"
    )]
    OtherPidNamespace,
    /// The process has ended.
    #[error("process {pid} has ended")]
    Exited {
        /// Its number.
        pid: u32,
    },
    /// The process lives, but `/proc` does not show it.
    #[error(
        "process {pid} is not shown in /proc: mount it without `hidepid`, or give the agent CAP_SYS_PTRACE or the \
         group of the `gid=` option"
    )]
    Hidden {
        /// Its number.
        pid: u32,
    },
    /// The process is not who it was when it connected.
    #[error("the {what} of process {pid} changed after it connected; it has to connect again")]
    Changed {
        /// Its number.
        pid: u32,
        /// What is different.
        what: &'static str,
    },
    /// The pidfd cannot be watched.
    #[error("cannot watch process {pid}")]
    Watch {
        /// Its number.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// A file of `/proc/<pid>` cannot be read.
    #[error("cannot read /proc/{pid}/{file}")]
    Read {
        /// The process's number.
        pid: u32,
        /// The file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file of `/proc/<pid>` is longer than it may be.
    #[error("/proc/{pid}/{file} is longer than {limit} bytes")]
    TooLong {
        /// The process's number.
        pid: u32,
        /// The file.
        file: &'static str,
        /// What was allowed.
        limit: usize,
    },
    /// A file of `/proc/<pid>` is not understood.
    #[error("cannot make sense of /proc/{pid}/{file}")]
    Text {
        /// The process's number.
        pid: u32,
        /// The file.
        file: &'static str,
        /// Why.
        source: ProcTextError,
    },
}

impl PeerError {
    /// What it means for the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Changed { .. } => ErrorKind::PermissionDenied,
            Self::OtherPidNamespace | Self::Hidden { .. } => ErrorKind::FailedPrecondition,
            Self::TooLong { .. } => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Unavailable,
        }
    }
}

/// How the peer's process is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidSource {
    /// By the connection's own record of the process (`SO_PEERPIDFD`).
    Connection,
    /// By the number in `SO_PEERCRED`, for kernels before 6.5. Between connect and here the process may have ended
    /// and its number have been given away: it is then refused if it is of another user or group, or if nobody holds
    /// the other end of the connection any more. A process of the same user whose partner kept the socket open is not
    /// told apart.
    Number,
}

/// How long a look at whether a process is the same counts.
const SEEN: Duration = Duration::from_millis(10);

/// The process on the other side of an accepted Unix stream.
pub struct PeerProcess {
    pid: u32,
    uid: u32,
    gid: u32,
    pidfd: AsyncFd<OwnedFd>,
    proc_dir: OwnedFd,
    start_time: u64,
    first: Fingerprint,
    /// When it was last seen to be the same.
    seen_at: Mutex<Instant>,
    /// What of it was seen to be another, for good: it may be itself again a moment later.
    changed: OnceLock<&'static str>,
    looks: Looks,
}

impl PeerProcess {
    /// The process that connected `stream`.
    ///
    /// To be called in a Tokio runtime, right after the accept.
    ///
    /// # Errors
    /// The process has ended, is in another PID namespace, or is not any more who connected.
    pub fn of(stream: &impl AsFd) -> Result<Self, PeerError> {
        match Self::found_by(PidSource::Connection, stream) {
            Err(PeerError::Credentials { source })
                if source.raw_os_error() == Some(nix::errno::Errno::ENOPROTOOPT as i32) =>
            {
                Self::found_by(PidSource::Number, stream)
            }
            result => result,
        }
    }

    /// As [`of`](Self::of), by this source and no other.
    ///
    /// # Errors
    /// As [`of`](Self::of); the kernel does not have the source.
    pub fn found_by(pid_source: PidSource, stream: &impl AsFd) -> Result<Self, PeerError> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials).map_err(no_credentials)?;
        let (pid, uid, gid) = (credentials.pid(), credentials.uid(), credentials.gid());
        // The kernel says 0 of a process that has no number in our namespace.
        let Some(raw_pid) = Pid::from_raw(pid) else {
            return Err(PeerError::OtherPidNamespace);
        };
        let pid = pid.unsigned_abs();

        let (pidfd, proc_dir) = match pid_source {
            PidSource::Connection => {
                let pidfd = getsockopt(stream, sockopt::PeerPidfd).map_err(|errno| match errno {
                    // Some kernels refuse what others answer with a pidfd of a process that has ended.
                    nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL => PeerError::Exited { pid },
                    errno => no_credentials(errno),
                })?;
                let proc_dir = open_proc(pid, &pidfd)?;
                // Alive after the folder was opened by number, so the number was still its own then.
                if has_ended(&pidfd) {
                    return Err(PeerError::Exited { pid });
                }
                (pidfd, proc_dir)
            }
            PidSource::Number => {
                let pidfd = pidfd_open(raw_pid, PidfdFlags::empty()).map_err(|errno| match errno {
                    rustix::io::Errno::SRCH => PeerError::Exited { pid },
                    errno => PeerError::Watch {
                        pid,
                        source: errno.into(),
                    },
                })?;
                let proc_dir = open_proc(pid, &pidfd)?;
                if has_ended(&pidfd) || is_hung_up(stream.as_fd()) {
                    return Err(PeerError::Exited { pid });
                }
                (pidfd, proc_dir)
            }
        };

        let proc = Proc {
            pid,
            dir: proc_dir.as_fd(),
        };
        let seen_at = Instant::now();
        let seen = proc.stat().and_then(|stat| Ok((stat.start_time, proc.look()?.1)));
        // Its last moments may look like anything; say what they are.
        if has_ended(&pidfd) {
            return Err(PeerError::Exited { pid });
        }
        let (start_time, first) = seen?;
        let changed = |what| PeerError::Changed { pid, what };
        if first.uids[1] != uid {
            return Err(changed("effective user"));
        }
        if first.gids[1] != gid {
            return Err(changed("effective group"));
        }
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for fds that may change or close; an `OwnedFd` does not"
        )]
        let pidfd =
            AsyncFd::with_interest(pidfd, Interest::READABLE).map_err(|source| PeerError::Watch { pid, source })?;
        Ok(Self {
            pid,
            uid,
            gid,
            pidfd,
            proc_dir,
            start_time,
            first,
            seen_at: Mutex::new(seen_at),
            changed: OnceLock::new(),
            looks: Looks::default(),
        })
    }

    /// Its number, which means something only while [`is_alive`](Self::is_alive).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How far looks at who traces it have come.
    pub(super) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// Its effective user when it connected, and now: [`inspect`](Self::inspect) fails if they differ.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its effective group when it connected, and now.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Clock ticks between the start of the system and the start of the process.
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// What it was when it was accepted.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.first
    }

    /// Whether any of its threads lives. One `poll`, no reading.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !has_ended(self.pidfd.get_ref())
    }

    /// Returns when the process has ended.
    ///
    /// # Cancel safety
    /// Cancel safe; any number of tasks may wait.
    pub async fn exited(&self) {
        while self.is_alive() {
            match self.pidfd.readable().await {
                Ok(mut ready) if self.is_alive() => ready.clear_ready(),
                // An error means that the runtime is shutting down: nobody is going to be told anything else.
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Whether it is alive and still what it was when it was accepted: same program, same users and groups.
    ///
    /// A look counts for ten milliseconds. Nobody gains by that: a process can as well change right after an answer was
    /// written and before it is read. That it is alive is asked each time, and one that was seen to be another stays so.
    ///
    /// # Errors
    /// It is not, or that could not be found out.
    pub fn ensure_unchanged(&self) -> Result<(), PeerError> {
        if self.seen_at().elapsed() >= SEEN {
            return self.look().map(drop);
        }
        if self.is_alive() {
            self.was_never_another()
        } else {
            Err(PeerError::Exited { pid: self.pid })
        }
    }

    /// Users and groups of a process that is the same as when it was accepted.
    ///
    /// Seven system calls, none of which waits for the process.
    pub(super) fn look(&self) -> Result<Status, PeerError> {
        let (pid, now) = (self.pid, Instant::now());
        if !self.is_alive() {
            return Err(PeerError::Exited { pid });
        }
        let seen = self.proc().look();
        // Its last moments may look like anything; say what they are.
        if !self.is_alive() {
            return Err(PeerError::Exited { pid });
        }
        let (status, seen) = seen?;
        if let Some(what) = self.first.difference(&seen) {
            return Err(self.is_another(what));
        }
        self.was_never_another()?;
        *self.seen_at() = now;
        Ok(status)
    }

    fn was_never_another(&self) -> Result<(), PeerError> {
        match self.changed.get() {
            Some(what) => Err(PeerError::Changed { pid: self.pid, what }),
            None => Ok(()),
        }
    }

    fn is_another(&self, what: &'static str) -> PeerError {
        let what = self.changed.get_or_init(|| what);
        PeerError::Changed { pid: self.pid, what }
    }

    /// Lets `look` read about the process, and keeps what it found only if the process is the same before and after.
    ///
    /// `look` gets the users and groups as well. They are those of the look before and so, whatever the process does
    /// meanwhile, those that it had when it was accepted.
    ///
    /// `look` runs on the calling thread and has to be quick. For slow work, open a file in `look`, and work on it
    /// elsewhere; [`Attestors`](super::Attestors) asks again when that is done.
    ///
    /// # Errors
    /// The process has ended, is not the same, or that could not be found out; those of `look`.
    pub fn inspect<T, E: From<PeerError>>(&self, look: impl FnOnce(&Proc<'_>, Status) -> Result<T, E>) -> Result<T, E> {
        let status = self.look()?;
        let found = look(&self.proc(), status);
        self.look()?;
        found
    }

    /// Whether this open file is the program that it was running when it was accepted.
    ///
    /// # Errors
    /// It is another, or that could not be found out.
    pub fn ensure_runs(&self, program: &impl AsFd) -> Result<(), PeerError> {
        let pid = self.pid;
        let id = ExeId::of_file(program.as_fd()).map_err(|errno| PeerError::Read {
            pid,
            file: "exe",
            source: errno.into(),
        })?;
        if self.first.exe == Some(id) {
            Ok(())
        } else {
            Err(self.is_another("program"))
        }
    }

    /// Its line of life, as it is now.
    pub(super) fn read_stat(&self) -> Result<Stat, PeerError> {
        self.proc().stat()
    }

    fn seen_at(&self) -> MutexGuard<'_, Instant> {
        self.seen_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proc(&self) -> Proc<'_> {
        Proc {
            pid: self.pid,
            dir: self.proc_dir.as_fd(),
        }
    }
}

/// Number and user only: the rest may be of interest to whoever reads the log.
impl fmt::Debug for PeerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerProcess")
            .field("pid", &self.pid)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

fn no_credentials(errno: nix::errno::Errno) -> PeerError {
    PeerError::Credentials { source: errno.into() }
}

/// Opens the folder of the process with that number, whoever it is by now.
fn open_proc(pid: u32, pidfd: &OwnedFd) -> Result<OwnedFd, PeerError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).map_err(|errno| match errno {
        rustix::io::Errno::NOENT if has_ended(pidfd) => PeerError::Exited { pid },
        rustix::io::Errno::NOENT => PeerError::Hidden { pid },
        errno => PeerError::Read {
            pid,
            file: "",
            source: errno.into(),
        },
    })
}

/// A pidfd is readable from the end of the process on, also when nobody has waited for it yet.
fn has_ended(pidfd: &OwnedFd) -> bool {
    poll_now(pidfd.as_fd(), PollFlags::IN).contains(PollFlags::IN)
}

/// Whether nobody holds the other end.
fn is_hung_up(stream: BorrowedFd<'_>) -> bool {
    poll_now(stream, PollFlags::empty()).contains(PollFlags::HUP)
}

fn poll_now(fd: BorrowedFd<'_>, flags: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now))) {
        Ok(_) => fds[0].revents(),
        // Out of memory, say. Whatever was asked for counts as seen, which is to end the connection.
        Err(_) => flags | PollFlags::HUP,
    }
}
