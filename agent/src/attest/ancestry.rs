//! The processes above a process.

use std::fs;

use super::peer::PeerProcess;
use super::proc_text;

/// Deeper trees than this have no ancestors for us.
const DEEPEST: usize = 64;

/// A process above another: its number, and its start in clock ticks since boot.
pub type Ancestor = (u32, u64);

impl PeerProcess {
    /// The processes above it, nearest first: its parent, that one's parent, and so on.
    ///
    /// Empty if that cannot be said for sure: it has ended, or the tree changed while it was read. A number that is given
    /// away in between cannot slip in: the child of a process that ends has another parent from then on, and the second
    /// reading shows that.
    #[must_use]
    pub fn ancestors(&self) -> Vec<Ancestor> {
        if self.look().is_err() {
            return vec![];
        }
        let (Some(first), Some(second)) = (self.walk(), self.walk()) else {
            return vec![];
        };
        if first != second || !self.is_alive() {
            return vec![];
        }
        first
    }

    fn walk(&self) -> Option<Vec<Ancestor>> {
        let own = self.read_stat().ok()?;
        let (mut above, mut parent, mut youngest) = (vec![], own.parent, own.start_time);
        while parent != 0 {
            if above.len() == DEEPEST {
                return None;
            }
            let text = fs::read(format!("/proc/{parent}/stat")).ok()?;
            let stat = proc_text::stat(&text).ok()?;
            // Nobody is older than its parent.
            if stat.start_time > youngest {
                return None;
            }
            above.push((parent, stat.start_time));
            (parent, youngest) = (stat.parent, stat.start_time);
        }
        Some(above)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::attest::testing::Stage;

    fn own() -> Ancestor {
        let stat = proc_text::stat(&fs::read("/proc/self/stat").unwrap()).unwrap();
        (std::process::id(), stat.start_time)
    }

    #[tokio::test]
    async fn a_child_has_us_above_it_and_we_do_not_have_it() {
        let stage = Stage::new();
        let mut child = stage.child("stay");
        let process = PeerProcess::of(&stage.accept().await).unwrap();
        assert_eq!(process.ancestors().first(), Some(&own()));
        let (_client, server) = stage.own().await;
        let us = PeerProcess::of(&server).unwrap();
        assert_eq!((us.pid(), us.start_time()), own());
        let child_key = (process.pid(), process.start_time());
        assert!(!us.ancestors().contains(&child_key) && !us.ancestors().contains(&own()));
        child.child.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(10), process.exited())
            .await
            .unwrap();
        assert_eq!(process.ancestors(), [], "who has ended is nobody's descendant");
    }

    #[tokio::test]
    async fn a_grandchild_is_a_descendant_until_the_one_between_ends() {
        let stage = Stage::new();
        let mut between = stage.parent_of("hold");
        let process = PeerProcess::of(&stage.accept().await).unwrap();
        let above = process.ancestors();
        assert_eq!(above[0].0, between.child.id());
        assert_eq!(above[1], own());
        between.child.kill().unwrap();
        between.child.wait().unwrap();
        assert!(!process.ancestors().contains(&own()), "a daemon is on its own");
        assert!(process.is_alive());
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(process.pid().try_into().unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
    }
}
