//! The processes of the command: the first one, and all that it started and that are still there.
//!
//! They are found in two ways, and both are used: the cgroup where there is one, and descent. As this process adopts
//! whatever its descendants leave orphaned (a "subreaper"), a daemon that forked twice is still below it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, pidfd_send_signal, wait};
use tokio::time::Instant;

use super::cgroup::Cgroup;
use super::signals::{Asked, Signals, is_end};

/// How long the killed may take to be gone: the kernel's time, not theirs.
const KILLED: Duration = Duration::from_secs(5);
/// How often the table of processes is read while something ends. A child of ours is told of at once.
const LOOK: Duration = Duration::from_millis(50);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With an exit code.
    Exit(i32),
    /// By a signal.
    Killed(i32),
}

/// What a child of ours did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The command ended.
    Ended(Ended),
    /// The command was stopped by a signal.
    Stopped(i32),
}

/// What was left when the command was over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stragglers {
    /// How many there were at first.
    pub(super) found: usize,
    /// How many had to be killed.
    pub(super) killed: usize,
    /// How many are still there.
    pub(super) left: usize,
}

/// All processes of the command.
#[derive(Debug)]
pub(super) struct Job {
    /// The first one, and its process group.
    main: Pid,
    running: bool,
    cgroup: Option<Cgroup>,
}

struct Process {
    parent: i32,
    started: u64,
    dead: bool,
}

// === impl Job ===

impl Job {
    /// The job of the child `main`, which leads a process group.
    pub(super) fn of(main: u32, cgroup: Option<Cgroup>) -> Self {
        let main = Pid::from_raw(i32::try_from(main).expect("the kernel's process numbers fit an i32"));
        Self {
            main,
            running: true,
            cgroup,
        }
    }

    /// The process group of the command.
    pub(super) fn group(&self) -> Pid {
        self.main
    }

    /// Takes the word of children that ended or stopped. Orphans that we adopted are buried without a word.
    pub(super) fn reap(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            if pid.as_raw_nonzero().get() != self.main.as_raw() {
                continue;
            }
            if let Some(signal) = status.stopping_signal().filter(|_| status.stopped()) {
                news.push(News::Stopped(signal));
            } else if let Some(ended) = Ended::of(status) {
                self.running = false;
                news.push(News::Ended(ended));
            }
        }
        news
    }

    /// Sends `signal` to the first process, as if it had been sent there.
    pub(super) fn signal_main(&self, signal: Signal) {
        // Until we have taken its word its number is not used again.
        if self.running {
            let _ = kill(self.main, signal);
        }
    }

    /// Sends `signal` to the process group, as a terminal does.
    pub(super) fn signal_group(&self, signal: Signal) {
        if self.running {
            let _ = killpg(self.main, signal);
        }
    }

    /// Ends what is there: SIGTERM, SIGKILL after `grace`, then the cgroup. A signal that would end us ends the grace.
    pub(super) async fn end(mut self, grace: Duration, signals: &mut Signals) -> Stragglers {
        let mut all = Stragglers {
            found: self.members().len(),
            ..Stragglers::default()
        };
        if all.found > 0 {
            if !grace.is_zero() {
                self.signal_all(Signal::SIGTERM);
                // Who is stopped hears nothing until it goes on.
                self.signal_all(Signal::SIGCONT);
                self.gone(grace, Some(signals), None).await;
            }
            all.killed = self.members().len();
            if all.killed > 0 {
                self.gone(KILLED, None, Some(Signal::SIGKILL)).await;
            }
            all.left = self.members().len();
        }
        if let Some(cgroup) = self.cgroup.take() {
            cgroup.remove().await;
        }
        all
    }

    /// Waits until none is there, or `most`; sends `again` at each look.
    async fn gone(&mut self, most: Duration, mut signals: Option<&mut Signals>, again: Option<Signal>) {
        let deadline = Instant::now() + most;
        loop {
            if let (Some(Signal::SIGKILL), Some(cgroup)) = (again, &self.cgroup) {
                cgroup.kill();
            }
            if let Some(signal) = again {
                self.signal_all(signal);
            }
            self.reap();
            if self.members().is_empty() || Instant::now() >= deadline {
                return;
            }
            let look = tokio::time::sleep(LOOK.min(deadline.saturating_duration_since(Instant::now())));
            let Some(signals) = signals.as_deref_mut() else {
                look.await;
                continue;
            };
            tokio::select! {
                () = look => {}
                asked = signals.next() => if matches!(asked, Asked::Forward(signal) if is_end(signal)) {
                    return;
                }
            }
        }
    }

    fn signal_all(&self, signal: Signal) {
        let table = table();
        for pid in self.members_in(&table) {
            signal_as_seen(pid, &table, signal);
        }
    }

    fn members(&self) -> Vec<i32> {
        self.members_in(&table())
    }

    fn members_in(&self, table: &BTreeMap<i32, Process>) -> Vec<i32> {
        let own = i32::try_from(std::process::id()).expect("the kernel's process numbers fit an i32");
        let mut all = descendants(own, table);
        let grouped = self.cgroup.as_ref().map(Cgroup::members).unwrap_or_default();
        all.extend(
            grouped
                .into_iter()
                .filter(|pid| *pid != own && table.get(pid).is_some_and(|it| !it.dead)),
        );
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Signals the process that was seen under this number, and no later one.
fn signal_as_seen(pid: i32, table: &BTreeMap<i32, Process>, signal: Signal) {
    let Some(pidfd) = rustix::process::Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        return;
    };
    let seen = table.get(&pid).map(|seen| seen.started);
    let now = process(pid).map(|now| now.started);
    if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32).filter(|_| seen == now) {
        let _ = pidfd_send_signal(&pidfd, signal);
    }
}

fn descendants(own: i32, table: &BTreeMap<i32, Process>) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, process) in table {
        children.entry(process.parent).or_default().push(*pid);
    }
    let mut all = Vec::new();
    let mut open = vec![own];
    while let Some(pid) = open.pop() {
        // Taken out, so that a table that changed while it was read cannot lead in a circle.
        let below = children.remove(&pid).unwrap_or_default();
        all.extend(below.iter().filter(|pid| table.get(pid).is_some_and(|it| !it.dead)));
        open.extend(below);
    }
    all
}

fn table() -> BTreeMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, process(pid)?))).collect()
}

fn process(pid: i32) -> Option<Process> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `proc_pid_stat(5)`: the name is in brackets and may hold anything, so what counts is behind the last one.
fn parse_stat(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let threads: u64 = fields.get(17)?.parse().ok()?;
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        // Its first thread may have ended before the others.
        dead: matches!(*fields.first()?, "Z" | "X") && threads <= 1,
    })
}

// === impl Ended ===

impl Ended {
    fn of(status: rustix::process::WaitStatus) -> Option<Self> {
        let exit = status.exit_status().map(Self::Exit);
        exit.or_else(|| status.terminating_signal().map(Self::Killed))
    }

    /// As a shell reports it.
    pub(super) fn code(self) -> u8 {
        let code = match self {
            Self::Exit(code) => code,
            Self::Killed(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit status {code}"),
            Self::Killed(signal) => match Signal::try_from(*signal) {
                Ok(name) => write!(f, "killed by {name}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1 1";
        let process = parse_stat(stat).unwrap();
        assert_eq!((process.parent, process.started, process.dead), (3, 4711, false));
        assert!(parse_stat(&stat.replace(" S 3", " Z 3")).unwrap().dead);
        let threads_left = stat.replace(" S 3", " Z 3").replace("20 0 1 0 4711", "20 0 2 0 4711");
        assert!(!parse_stat(&threads_left).unwrap().dead);
        assert!(parse_stat("7 (a").is_none());
    }

    #[test]
    fn descent_goes_through_the_dead_and_never_in_circles() {
        let process = |parent, dead| Process {
            parent,
            started: 0,
            dead,
        };
        let table = BTreeMap::from([
            (2, process(1, false)),
            (3, process(2, true)),
            (4, process(3, false)),
            (5, process(1, false)),
            (6, process(7, false)),
            (7, process(6, false)),
        ]);
        assert_eq!(descendants(2, &table), [4]);
        assert_eq!(descendants(6, &table), [7, 6]);
    }

    #[test]
    fn a_process_is_found_by_its_own_stat() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!table().get(&own).unwrap().dead);
    }
}
