//! How many files this process may have open.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Descriptors that connections leave for the work that is done for them: to look at a process takes a file or two, and
/// so does a database.
const KEPT: u64 = 128;

/// Files that the kernel's table has room for from the start: those of 8,192 workloads, or of 10,000 agents. The table
/// costs eight octets for each.
const ROOM: u64 = 32 * 1024;

/// Raises the limit of open files to the most that this process may have, and makes room for them. To be called before
/// there are threads.
///
/// The soft limit is 1024 almost everywhere, for the sake of programs that use `select`. A connection of a workload takes
/// three files: with 1024 of them two users could leave none for anybody else.
///
/// When a process with threads opens one file more than its table has room for, the kernel makes the table twice as
/// large, and every thread that opens a file meanwhile waits until all processors have seen it: 20 to 130 ms, in which
/// nobody is served.
pub fn raise_open_files_limit() {
    raise();
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(ROOM, |(soft, _)| soft);
    if let Err(error) = make_room(ROOM.min(limit)) {
        debug!(%error, "the table of open files grows as it is needed");
    }
}

/// The table never shrinks, so one file with a high number is enough.
fn make_room(files: u64) -> io::Result<()> {
    let last = RawFd::try_from(files.saturating_sub(1)).unwrap_or(RawFd::MAX);
    rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null")?, last)?;
    Ok(())
}

fn raise() {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => debug!(from = soft, to = hard, "limit of open files raised"),
            Err(error) => warn!(limit = soft, %error, "limit of open files stays as it is"),
        },
        Ok(_) => {}
        Err(error) => warn!(%error, "limit of open files is not known"),
    }
}

/// Whether `fd` is one of the last that there are: the kernel gives the lowest that is free. At most a quarter of a low
/// limit is kept.
pub(crate) fn is_near_limit(fd: RawFd) -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    u64::try_from(fd).is_ok_and(|fd| fd >= limit - KEPT.min(limit / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_kept_for_work() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(!is_near_limit(3));
        assert!(is_near_limit(RawFd::try_from(soft - 1).unwrap_or(RawFd::MAX)));
    }

    // Attack 20
    #[test]
    fn the_table_has_room_before_it_is_needed() {
        raise_open_files_limit();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        assert!(size.trim().parse::<u64>().unwrap() >= ROOM.min(soft), "{size}");
    }

    #[test]
    fn the_limit_is_all_that_is_allowed() {
        raise_open_files_limit();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
