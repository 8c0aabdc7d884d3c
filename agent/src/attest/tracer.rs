//! Who traces a process: an attached debugger sees and changes all that the process has.
//!
//! A look at a moment, and so no proof of anything: who attaches and lets go between two looks is not seen, and memory can
//! be read without attaching. What it catches is the debugger that is left on a process, which nobody does by accident.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, PoisonError};

use super::peer::PeerProcess;
use super::proc_text;

/// Of a process and its descendants so many threads are looked at at a time. The next look goes on from there, so that each
/// has its turn: who has a hundred thousand of them holds up nobody else, and hides nothing but for longer.
const THREADS: usize = 2048;
/// Who is deeper below a process than this is not below it for us.
const DEEPEST: usize = 64;

/// A process that traces another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracer {
    /// Its number.
    pub pid: u32,
    /// The number of whom it traces.
    pub traced: u32,
}

/// How far looks at a process have come: by itself, and with its descendants.
#[derive(Debug, Default)]
pub(super) struct Looks {
    alone: Mutex<Round>,
    with_descendants: Mutex<Round>,
}

/// What of the present round is left.
#[derive(Debug, Default)]
struct Round {
    processes: VecDeque<u32>,
    /// The one that is being looked at, and its threads.
    present: Option<(u32, Vec<u32>)>,
}

impl PeerProcess {
    /// Who traces one of its threads, if somebody does. With `descendants`, the processes below it are looked at as well, as
    /// long as they are that, and what one of them traces is its own affair.
    ///
    /// Its first thread is looked at each time; all of them, if there are more than [`THREADS`], by several calls.
    #[must_use]
    pub fn tracer(&self, descendants: bool) -> Option<Tracer> {
        let looks = self.looks();
        let round = if descendants {
            &looks.with_descendants
        } else {
            &looks.alone
        };
        let mut round = round.lock().unwrap_or_else(PoisonError::into_inner);
        let found = round.look(self.pid(), descendants, THREADS);
        // By its number, which is its own as long as it lives.
        found.filter(|_| self.is_alive())
    }
}

impl Round {
    /// Looks at the first thread of `process`, and at `most` of what this round has not seen yet.
    fn look(&mut self, process: u32, descendants: bool, most: usize) -> Option<Tracer> {
        let stranger = |member, thread| tracer_of(member, thread).filter(|found| !is_own(*found, process, descendants));
        // Who debugs a process and not one of its threads has this one too.
        if let Some(pid) = stranger(process, process) {
            return Some(Tracer { pid, traced: process });
        }
        if self.present.is_none() && self.processes.is_empty() {
            self.processes.push_back(process);
        }
        let mut left = most;
        loop {
            let (member, mut threads) = match self.present.take() {
                Some(present) => present,
                None => {
                    let member = self.processes.pop_front()?;
                    (member, threads_of(member))
                }
            };
            // Its number may have been given to somebody else meanwhile.
            let is_ours = || member == process || is_below(member, process);
            if !is_ours() {
                continue;
            }
            while let Some(thread) = threads.pop() {
                let found = stranger(member, thread).filter(|_| is_ours());
                if found.is_some() || left == 0 {
                    // It is where the next look begins.
                    threads.push(thread);
                    self.present = Some((member, threads));
                    return found.map(|pid| Tracer { pid, traced: member });
                }
                left -= 1;
                if descendants {
                    let children = numbers_in(&format!("/proc/{member}/task/{thread}/children"));
                    self.processes.extend(children);
                }
            }
            // Those that have ended cost something as well.
            left = left.saturating_sub(1);
        }
    }
}

/// The threads of a process, the last ones first.
fn threads_of(process: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut threads: Vec<u32> = numbers.collect();
    threads.sort_unstable_by(|one, other| other.cmp(one));
    threads
}

/// The process that traces a thread. The kernel names the thread that attached, which need not be its process's first.
fn tracer_of(process: u32, thread: u32) -> Option<u32> {
    let text = fs::read(format!("/proc/{process}/task/{thread}/status")).ok()?;
    let tracer = proc_text::tracer(&text).ok().filter(|tracer| *tracer != 0)?;
    Some(process_of(tracer).unwrap_or(tracer))
}

fn process_of(thread: u32) -> Option<u32> {
    let text = fs::read(format!("/proc/{thread}/status")).ok()?;
    proc_text::thread_group(&text).ok()
}

/// Whether a tracer is the process itself or, where its descendants have part, one of them.
fn is_own(tracer: u32, process: u32, descendants: bool) -> bool {
    tracer == process || (descendants && is_below(tracer, process))
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

/// Whether `member` is `process` or below it.
fn is_below(member: u32, process: u32) -> bool {
    let mut above = Some(member);
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

    fn look(process: u32, descendants: bool) -> Option<Tracer> {
        Round::default().look(process, descendants, THREADS)
    }

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
    async fn a_debugger_on_one_of_more_threads_than_are_looked_at_at_a_time_is_seen_by_one_of_the_next_looks() {
        if !is_root() {
            return;
        }
        let stage = Stage::new();
        let child = stage.child("threads");
        let process = PeerProcess::of(&stage.accept().await).unwrap();
        let threads = threads_of(process.pid());
        let (all, most) = (threads.len(), 2);
        assert!(all > 2 * most, "{threads:?}");
        let mut round = Round::default();
        for traced in [threads[0], threads[all / 2], process.pid()] {
            // Wherever the looks are in their round.
            assert_eq!(round.look(process.pid(), false, most), None);
            let debugger = Debugger::attach(traced);
            let looks = (1..=all).find(|_| round.look(process.pid(), false, most).is_some());
            let looks = looks.unwrap_or_else(|| panic!("{traced} of {threads:?} is never looked at"));
            assert!(looks <= 2 * all.div_ceil(most + 1), "{looks} looks");
            if traced == process.pid() {
                assert_eq!(looks, 1, "the first thread is looked at each time");
            }
            // Who asks for another window of the same process hears of it as well.
            assert!(round.look(process.pid(), false, most).is_some());
            drop(debugger);
            until("it let go", || {
                (0..all).all(|_| round.look(process.pid(), false, most).is_none())
            })
            .await;
        }
        drop(child);
    }

    #[tokio::test]
    async fn who_traces_its_descendants_from_any_of_its_threads_is_no_stranger() {
        if !is_root() {
            return;
        }
        let stage = Stage::new();
        let child = stage.child("stay");
        let traced = PeerProcess::of(&stage.accept().await).unwrap();
        let (attached, is_attached) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let number = child.child.id().try_into().unwrap();
        let debugger = std::thread::spawn(move || {
            nix::sys::ptrace::seize(nix::unistd::Pid::from_raw(number), nix::sys::ptrace::Options::empty()).unwrap();
            attached.send(nix::unistd::gettid()).unwrap();
            let _ = ended.recv();
        });
        let thread = is_attached.recv().unwrap().as_raw().unsigned_abs();
        let own = std::process::id();
        assert_ne!(thread, own, "it is not the first thread");
        assert_eq!(look(own, true), None);
        // For the child it is a stranger, and named by its process.
        let expected = Tracer {
            pid: own,
            traced: traced.pid(),
        };
        assert_eq!(traced.tracer(true), Some(expected));
        drop(end);
        debugger.join().unwrap();
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
