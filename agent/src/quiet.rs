//! Lines of log about processes, few enough that no process can flood the log.
//!
//! A process that asks in a loop causes the same line each time. It is written once a minute for each process, for so
//! many processes of one user; what was left out is counted and told with the user's next line.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(60);
/// Processes of one user that have a line in one window.
const PROCESSES: usize = 8;
/// Users that are counted at a time; lines about more are left out.
const USERS: usize = 1024;

/// One kind of line.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    users: Mutex<HashMap<u32, Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    told: BTreeSet<u32>,
    left_out: u64,
}

impl Quiet {
    /// Has `write` write its line about the process `pid` of the user `uid`, unless there were enough of them. It is
    /// given the number of lines that were left out before it.
    pub(crate) fn about(&self, pid: u32, uid: u32, write: impl FnOnce(u64)) {
        if let Some(left_out) = self.admit(pid, uid) {
            write(left_out);
        }
    }

    fn admit(&self, pid: u32, uid: u32) -> Option<u64> {
        let now = Instant::now();
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS {
            users.retain(|_, window| now.duration_since(window.since) < WINDOW);
        }
        if users.len() >= USERS && !users.contains_key(&uid) {
            return None;
        }
        let window = users.entry(uid).or_insert_with(|| Window::from(now));
        let mut left_out = 0;
        if now.duration_since(window.since) >= WINDOW {
            left_out = std::mem::replace(window, Window::from(now)).left_out;
        }
        if window.told.len() < PROCESSES && window.told.insert(pid) {
            return Some(left_out);
        }
        window.left_out += 1;
        None
    }
}

impl From<Instant> for Window {
    fn from(since: Instant) -> Self {
        Self {
            since,
            told: BTreeSet::new(),
            left_out: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_has_a_line_a_minute_and_a_user_a_few() {
        let quiet = Quiet::default();
        let lines = |pids: std::ops::Range<u32>, uid| pids.filter_map(|pid| quiet.admit(pid, uid)).collect::<Vec<_>>();
        assert_eq!(lines(1..2, 10), [0]);
        assert_eq!(lines(1..2, 10), [0; 0]);
        assert_eq!(lines(1..100, 10), [0; PROCESSES - 1]);
        assert_eq!(lines(1..2, 11), [0], "another user is heard");
        tokio::time::advance(WINDOW).await;
        assert_eq!(
            lines(7..9, 10),
            [1 + 99 - (PROCESSES as u64 - 1), 0],
            "with what was left out"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn users_that_come_and_go_do_not_pile_up() {
        let quiet = Quiet::default();
        for uid in 0..3 * USERS as u32 {
            quiet.about(1, uid, |_| {});
        }
        assert_eq!(quiet.users.lock().unwrap().len(), USERS);
        tokio::time::advance(WINDOW).await;
        assert_eq!(quiet.admit(1, 1_000_000), Some(0));
        assert_eq!(quiet.users.lock().unwrap().len(), 1);
    }
}
