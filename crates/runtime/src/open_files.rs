//! How many files this process may have open.

use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Descriptors that connections leave for the work that is done for them: to look at a process takes a file or two, and
/// so does a database.
const KEPT: u64 = 128;

/// Raises the limit of open files to the most that this process may have.
///
/// The soft limit is 1024 almost everywhere, for the sake of programs that use `select`. A connection of a workload takes
/// three files: with 1024 of them two users could leave none for anybody else.
pub fn raise_open_files_limit() {
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

    #[test]
    fn the_limit_is_all_that_is_allowed() {
        raise_open_files_limit();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
