//! Who is on this socket, and is it still that process.
//!
//! A [`PeerProcess`] is made from an accepted Unix stream. It holds a pidfd, which stands for the process and never
//! for another one that gets its number, and an open folder of `/proc`, through which everything is read. The pidfd
//! comes from the kernel's record of the connection (`SO_PEERPIDFD`, Linux 6.5), so there is no moment between connect
//! and now in which the number could have changed hands. Older kernels have the number only ([`PidSource::Number`]).
//!
//! One rule: what is read of `/proc` counts only if the peer was the same before and after. [`PeerProcess::inspect`]
//! keeps it, and there is no other way to read. "The same" is strict: alive, and with the program, the user, the
//! groups it had when it was accepted. A process that executes another program while it holds the connection could
//! have left a copy of the socket with somebody else, who would then be given that program's identity. It has to
//! connect again instead; no client library keeps its connection over `exec`.
//!
//! What this cannot see: the socket handed to another process while the first one lives on unchanged. Such a helper
//! acts with what it was given, as if it had been given the SVID itself.

mod fingerprint;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use mayfly_model::ErrorKind;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::proc_text::{self, ProcTextError, Status};
use super::tracer::Looks;

pub use fingerprint::{ExeId, Fingerprint};

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

/// The longest `/proc/<pid>/status` that is read: enough for the 65,536 groups that Linux allows.
const MAX_STATUS: usize = 1 << 20;
/// The longest `/proc/<pid>/stat`.
const MAX_STAT: usize = 4096;

/// The process on the other side of an accepted Unix stream.
pub struct PeerProcess {
    pid: u32,
    uid: u32,
    gid: u32,
    pidfd: AsyncFd<OwnedFd>,
    proc_dir: OwnedFd,
    first: Fingerprint,
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
        let first = proc.fingerprint().map_err(|error| {
            if has_ended(&pidfd) {
                PeerError::Exited { pid }
            } else {
                error
            }
        })?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for fds that may change or close; an `OwnedFd` does not"
        )]
        let pidfd =
            AsyncFd::with_interest(pidfd, Interest::READABLE).map_err(|source| PeerError::Watch { pid, source })?;
        let peer = Self {
            pid,
            uid,
            gid,
            pidfd,
            proc_dir,
            first,
            looks: Looks::default(),
        };
        peer.ensure_unchanged()?;
        Ok(peer)
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
        self.first.start_time
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
    /// About ten system calls, none of which waits for the process.
    ///
    /// # Errors
    /// It is not, or that could not be found out.
    pub fn ensure_unchanged(&self) -> Result<(), PeerError> {
        let pid = self.pid;
        let changed = |what| PeerError::Changed { pid, what };
        if !self.is_alive() {
            return Err(PeerError::Exited { pid });
        }
        let now = self.proc().fingerprint();
        // Its last moments may look like anything; say what they are.
        if !self.is_alive() {
            return Err(PeerError::Exited { pid });
        }
        let now = now?;
        match self.first.difference(&now) {
            Some(what) => Err(changed(what)),
            None if now.uids[1] != self.uid => Err(changed("effective user")),
            None if now.gids[1] != self.gid => Err(changed("effective group")),
            None => Ok(()),
        }
    }

    /// Lets `look` read about the process, and keeps what it found only if the process is the same before and after.
    ///
    /// `look` runs on the calling thread and has to be quick. For slow work, open a file in `look`, work on it
    /// elsewhere, and call [`ensure_unchanged`](Self::ensure_unchanged) at the end.
    ///
    /// # Errors
    /// Those of [`ensure_unchanged`](Self::ensure_unchanged), and those of `look`.
    pub fn inspect<T, E: From<PeerError>>(&self, look: impl FnOnce(&Proc<'_>) -> Result<T, E>) -> Result<T, E> {
        self.ensure_unchanged()?;
        let found = look(&self.proc());
        self.ensure_unchanged()?;
        found
    }

    /// Its line of life, as it is now.
    pub(super) fn read_stat(&self) -> Result<proc_text::Stat, PeerError> {
        self.proc().stat()
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

/// The folder of a process in `/proc`, inside [`PeerProcess::inspect`].
#[derive(Debug)]
pub struct Proc<'a> {
    pid: u32,
    dir: BorrowedFd<'a>,
}

impl Proc<'_> {
    /// Reads a file of the folder, such as `cgroup`, of at most `limit` bytes.
    ///
    /// Not for files that show the process's memory (`cmdline`, `environ`): the process can make such a read wait.
    ///
    /// # Errors
    /// It cannot be read or is longer.
    pub fn read_file(&self, file: &'static str, limit: usize) -> Result<Vec<u8>, PeerError> {
        use std::io::Read;
        let mut text = Vec::new();
        let opened = std::fs::File::from(self.open(file)?);
        let count = opened
            .take(limit as u64 + 1)
            .read_to_end(&mut text)
            .map_err(|source| PeerError::Read {
                pid: self.pid,
                file,
                source,
            })?;
        if count > limit {
            return Err(PeerError::TooLong {
                pid: self.pid,
                file,
                limit,
            });
        }
        Ok(text)
    }

    /// Opens a file of the folder for reading. `exe` is the running program itself, wherever its name points by now.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&self, file: &'static str) -> Result<OwnedFd, PeerError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(self.dir, file, flags, Mode::empty()).map_err(|errno| self.unreadable(file, errno))
    }

    /// The target of a link in the folder, as the kernel prints it: for `exe` a path that may be of another mount
    /// namespace, or of a file that is not there any more.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_link(&self, file: &'static str) -> Result<Vec<u8>, PeerError> {
        let target =
            rustix::fs::readlinkat(self.dir, file, Vec::new()).map_err(|errno| self.unreadable(file, errno))?;
        Ok(target.into_bytes())
    }

    /// Users and groups of the main thread.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn status(&self) -> Result<Status, PeerError> {
        let text = self.read_file("status", MAX_STATUS)?;
        proc_text::status(&text).map_err(|source| PeerError::Text {
            pid: self.pid,
            file: "status",
            source,
        })
    }

    fn stat(&self) -> Result<proc_text::Stat, PeerError> {
        let text = self.read_file("stat", MAX_STAT)?;
        proc_text::stat(&text).map_err(|source| PeerError::Text {
            pid: self.pid,
            file: "stat",
            source,
        })
    }

    fn unreadable(&self, file: &'static str, errno: rustix::io::Errno) -> PeerError {
        PeerError::Read {
            pid: self.pid,
            file,
            source: errno.into(),
        }
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
