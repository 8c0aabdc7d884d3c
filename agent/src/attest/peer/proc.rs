//! The folder of a process in `/proc`.

use std::{
    fs::File,
    io::Read,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

use super::PeerError;
use crate::attest::proc_text::{self, Stat, Status};

/// The longest `/proc/<pid>/status` that is read: enough for the 65,536 groups that Linux allows.
const MAX_STATUS: usize = 1 << 20;
/// The longest `/proc/<pid>/stat`.
const MAX_STAT: usize = 4096;
/// Most files of `/proc/<pid>` are shorter.
pub(super) const USUAL: usize = 4096;

/// The folder of a process in `/proc`, inside [`PeerProcess::inspect`](super::PeerProcess::inspect).
#[derive(Debug)]
pub struct Proc<'a> {
    pub(super) pid: u32,
    pub(super) dir: BorrowedFd<'a>,
}

impl Proc<'_> {
    /// Reads a file of the folder, such as `cgroup`, of at most `limit` bytes.
    ///
    /// Not for files that show the process's memory (`cmdline`, `environ`): the process can make such a read wait.
    ///
    /// # Errors
    /// It cannot be read or is longer.
    pub fn read_file(&self, file: &'static str, limit: usize) -> Result<Vec<u8>, PeerError> {
        // The kernel writes the whole text at the first read: with room for it there is one more, which says that it ends.
        let mut text = Vec::with_capacity(limit.min(USUAL) + 1);
        let opened = File::from(self.open(file)?);
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
    pub(super) fn status(&self) -> Result<Status, PeerError> {
        let text = self.read_file("status", MAX_STATUS)?;
        proc_text::status(&text).map_err(|source| PeerError::Text {
            pid: self.pid,
            file: "status",
            source,
        })
    }

    /// The line of its life. Of it the start is the same each time: the folder shows one process and never another.
    pub(super) fn stat(&self) -> Result<Stat, PeerError> {
        let text = self.read_file("stat", MAX_STAT)?;
        proc_text::stat(&text).map_err(|source| PeerError::Text {
            pid: self.pid,
            file: "stat",
            source,
        })
    }

    pub(super) fn unreadable(&self, file: &'static str, errno: rustix::io::Errno) -> PeerError {
        PeerError::Read {
            pid: self.pid,
            file,
            source: errno.into(),
        }
    }
}
