//! How many files this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_all_that_is_allowed() {
        raise_open_files_limit();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
