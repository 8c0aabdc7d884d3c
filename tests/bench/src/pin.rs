//! Which processor does what: the system under test on the first, the generator on the second.

use std::fs;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Where the system under test runs.
const SYSTEM: usize = 0;
/// Where load is made, and everything else that this program does.
const GENERATOR: usize = 1;

/// How the machine is divided, as a reader of the figures has to know it.
pub fn arrangement() -> String {
    let count = cpus();
    if count < 2 {
        return "one processor for system and generator".into();
    }
    let siblings = fs::read_to_string("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").unwrap_or_default();
    let siblings = siblings.trim();
    let shared = if siblings == "0" || siblings.is_empty() {
        "which the kernel does not report as threads of one core"
    } else {
        "SMT threads of a core: "
    };
    format!(
        "system on processor {SYSTEM}, generator on {GENERATOR}, {shared}{}",
        if siblings == "0" { "" } else { siblings }
    )
}

/// Puts this thread, and those that it will start, where load is made.
///
/// # Errors
/// The kernel refuses.
pub fn generator() -> Result<()> {
    to(None, GENERATOR)
}

/// Runs `start` so that a process or thread that it starts belongs to the system under test.
///
/// # Errors
/// The kernel refuses.
pub fn as_system<T>(start: impl FnOnce() -> T) -> Result<T> {
    let before = sched_getaffinity(None).context("cannot read the affinity")?;
    to(None, SYSTEM)?;
    let started = start();
    sched_setaffinity(None, &before).context("cannot set the affinity back")?;
    Ok(started)
}

/// Moves a process that runs already, all of its threads.
///
/// # Errors
/// It is not there, or not ours to move.
pub fn move_to_system(pid: u32) -> Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid: i32 = task?.file_name().to_string_lossy().parse()?;
        to(Pid::from_raw(tid), SYSTEM)?;
    }
    Ok(())
}

fn to(thread: Option<Pid>, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu % cpus());
    sched_setaffinity(thread, &set).with_context(|| format!("cannot pin to processor {cpu}"))
}

fn cpus() -> usize {
    // Of the machine, not of this process, which is pinned.
    let listed = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    listed
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count()
        .max(1)
}
