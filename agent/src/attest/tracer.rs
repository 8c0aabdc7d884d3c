//! Who traces a process: an attached debugger sees and changes all that the process has.
//!
//! A look at a moment, and so no proof of anything: who attaches and lets go between two looks is not seen, and memory can
//! be read without attaching. What it catches is the debugger that is left on a process, which nobody does by accident.

use std::fs;

use super::peer::PeerProcess;
use super::proc_text;

/// Of a process and its descendants so many are looked at,
const PROCESSES: usize = 256;
/// and of all their threads so many.
const THREADS: usize = 2048;
/// Who is deeper below a process than this is not below it for us.
const DEEPEST: usize = 64;

/// A process that traces another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracer {
    /// Its number, or that of its thread that attached.
    pub pid: u32,
    /// The number of whom it traces.
    pub traced: u32,
}

impl PeerProcess {
    /// Who traces one of its threads, if somebody does. With `descendants`, the processes below it are looked at as well, as
    /// long as they are that, and what one of them traces is its own affair.
    #[must_use]
    pub fn tracer(&self, descendants: bool) -> Option<Tracer> {
        let found = look(self.pid(), descendants);
        // By its number, which is its own as long as it lives.
        found.filter(|_| self.is_alive())
    }
}

fn look(process: u32, descendants: bool) -> Option<Tracer> {
    let mut family = vec![(process, None)];
    let (mut next, mut threads) = (0, 0);
    while let Some(&(member, parent)) = family.get(next) {
        next += 1;
        let (mut tracers, mut children) = (vec![], vec![]);
        for thread in threads_of(member) {
            threads += 1;
            if threads > THREADS {
                return None;
            }
            let folder = format!("/proc/{member}/task/{thread}");
            tracers.extend(tracer_of(&folder));
            if descendants {
                children.extend(numbers_in(&format!("{folder}/children")));
            }
        }
        // Its number may have been given to somebody else meanwhile.
        if parent.is_some_and(|parent| parent_of(member) != Some(parent)) {
            continue;
        }
        let traced = |pid| Tracer { pid, traced: member };
        let strangers = tracers
            .into_iter()
            .filter(|tracer| !(descendants && is_below(*tracer, process)));
        if let Some(tracer) = strangers.map(traced).next() {
            return Some(tracer);
        }
        let room = PROCESSES.saturating_sub(family.len());
        family.extend(children.into_iter().take(room).map(|child| (child, Some(member))));
    }
    None
}

fn threads_of(process: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.take(THREADS + 1).collect()
}

fn tracer_of(folder: &str) -> Option<u32> {
    let text = fs::read(format!("{folder}/status")).ok()?;
    proc_text::tracer(&text).ok().filter(|tracer| *tracer != 0)
}

fn parent_of(process: u32) -> Option<u32> {
    let text = fs::read(format!("/proc/{process}/stat")).ok()?;
    proc_text::stat(&text).ok().map(|stat| stat.parent)
}

/// Kernels that do not tell have nobody below anybody.
fn numbers_in(file: &str) -> Vec<u32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Whether `thread` is one of `process` or of a process below it. Threads have the parent of their process.
fn is_below(thread: u32, process: u32) -> bool {
    let mut above = Some(thread);
    for _ in 0..DEEPEST {
        match above {
            Some(number) if number == process => return true,
            Some(number) if number > 1 => above = parent_of(number),
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::attest::testing::{Debugger, Stage, is_root};

    fn kill(process: u32) {
        let process = nix::unistd::Pid::from_raw(process.try_into().unwrap());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_debugger_is_seen_while_it_is_attached() {
        if !is_root() {
            return;
        }
        let stage = Stage::new();
        let child = stage.child("stay");
        let process = PeerProcess::of(&stage.accept().await).unwrap();
        assert_eq!((process.tracer(false), process.tracer(true)), (None, None));
        let debugger = Debugger::attach(child.child.id());
        let expected = Some(Tracer {
            pid: debugger.pid(),
            traced: process.pid(),
        });
        assert_eq!((process.tracer(false), process.tracer(true)), (expected, expected));
        drop(debugger);
        until("it let go", || process.tracer(true).is_none()).await;
    }

    #[tokio::test]
    async fn a_debugger_on_a_single_thread_is_seen_too() {
        if !is_root() {
            return;
        }
        let stage = Stage::new();
        let child = stage.child("threads");
        let process = PeerProcess::of(&stage.accept().await).unwrap();
        let threads = threads_of(child.child.id());
        let other = threads.into_iter().find(|thread| *thread != child.child.id()).unwrap();
        let debugger = Debugger::attach(other);
        assert_eq!(process.tracer(false).map(|tracer| tracer.pid), Some(debugger.pid()));
    }

    #[tokio::test]
    async fn descendants_count_only_where_they_have_part_and_may_trace_each_other() {
        if !is_root() {
            return;
        }
        let stage = Stage::new();
        let family = stage.parent_of("hold");
        let leaf = stage.accept().await;
        let leaf = PeerProcess::of(&leaf).unwrap();
        let above = family.child.id();
        assert_eq!(look(above, true), None);
        let debugger = Debugger::attach(leaf.pid());
        let found = look(above, true).unwrap();
        assert_eq!((found.pid, found.traced), (debugger.pid(), leaf.pid()));
        assert_eq!(
            look(above, false),
            None,
            "without part in it they are no affair of the window"
        );
        // We are above both, and the debugger is a child of ours.
        assert_eq!(look(std::process::id(), true), None, "a task may debug itself");
        assert!(is_below(debugger.pid(), std::process::id()) && !is_below(debugger.pid(), above));
        kill(leaf.pid());
    }
}
