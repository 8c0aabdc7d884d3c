//! What makes a process the same as before.

use std::os::fd::BorrowedFd;

use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{AtFlags, StatxFlags, makedev, statx};

use super::{PeerError, Proc};
use crate::attest::proc_text::{Ids, Status};

/// Identity of a program file.
///
/// Without the time of its last status change: that moves when a package upgrade unlinks the file, which changes
/// nothing about the running program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExeId {
    /// The file system.
    pub dev: u64,
    /// The file in it.
    pub inode: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, in seconds and nanoseconds.
    pub mtime: (i64, u32),
}

/// A process at one moment, as far as its identity can change. Equal fingerprints of one process, one behind the other,
/// mean that it neither executed another program nor changed its users or groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// User IDs.
    pub uids: Ids,
    /// Group IDs.
    pub gids: Ids,
    /// SHA-256 over the supplementary groups.
    groups: [u8; 32],
    /// The program; `None` if the agent may not look (it lacks `CAP_SYS_PTRACE`). Then `exec` goes unseen.
    pub exe: Option<ExeId>,
}

impl Fingerprint {
    /// The first thing in which `other` differs.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let Self {
            uids,
            gids,
            groups,
            exe,
        } = self;
        [
            (*uids != other.uids, "user"),
            (*gids != other.gids, "group"),
            (*groups != other.groups, "list of supplementary groups"),
            (*exe != other.exe, "program"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }
}

impl Proc<'_> {
    /// The process as it is now: its users and groups, and the fingerprint that they are part of.
    pub(super) fn look(&self) -> Result<(Status, Fingerprint), PeerError> {
        let status = self.status()?;
        let groups: Vec<u8> = status.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
        let mut hashed = [0; 32];
        hashed.copy_from_slice(digest(&SHA256, &groups).as_ref());
        let fingerprint = Fingerprint {
            uids: status.uids,
            gids: status.gids,
            groups: hashed,
            exe: self.exe_id()?,
        };
        Ok((status, fingerprint))
    }

    /// The running program's file. `None` if we may not look.
    fn exe_id(&self) -> Result<Option<ExeId>, PeerError> {
        match ExeId::of(self.dir, "exe", AtFlags::empty()) {
            Ok(id) => Ok(Some(id)),
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Ok(None),
            Err(errno) => Err(self.unreadable("exe", errno)),
        }
    }
}

impl ExeId {
    /// That of an open file.
    pub(super) fn of_file(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        Self::of(file, "", AtFlags::EMPTY_PATH)
    }

    fn of(dir: BorrowedFd<'_>, path: &str, flags: AtFlags) -> rustix::io::Result<Self> {
        // What the kernel knows has to do: a file system of the process's own, or one over the network, could have the
        // agent wait for its answer.
        let stat = statx(dir, path, flags | AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)?;
        Ok(Self {
            dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        })
    }
}
