//! `mayfly run` as a process of its own, with real commands, against an agent that is moved by hand.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests start programs, look at the clock themselves, and fail by what is not as it should be"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

mod agent;
mod ends;
mod identity;
mod processes;
mod programs;
mod terminal;
mod waiting;

use agent::Agent;

/// A loaded machine is slow; one that never comes is an error.
const LATEST: Duration = Duration::from_secs(40);

/// A `mayfly run` that was started.
struct Run {
    child: Child,
    pid: Pid,
    out: PathBuf,
    err: PathBuf,
}

/// What it came to.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Starts `mayfly run` for the task of the tests with more `options`, and sh with `script` as the command.
fn start(agent: &Agent, options: &[&str], script: &str) -> Run {
    start_command(agent, options, &["sh", "-c", script], &[])
}

/// The same with any command and variables.
fn start_command(agent: &Agent, options: &[&str], command: &[&str], env: &[(&str, &Path)]) -> Run {
    start_program(
        agent,
        heeding(Path::new(env!("CARGO_BIN_EXE_mayfly"))).into(),
        options,
        command,
        env,
    )
}

/// `program`, with signals as at a terminal: what the tests were told to ignore, because they run in the background of a
/// script or under nohup, its children would ignore as well.
fn heeding(program: &Path) -> std::process::Command {
    let mut command = std::process::Command::new("env");
    command.arg("--default-signal=HUP,INT,QUIT,TERM").arg(program);
    command
}

/// The same with a program that `mayfly`'s arguments can be added to.
fn start_program(
    agent: &Agent,
    mut program: Command,
    options: &[&str],
    command: &[&str],
    env: &[(&str, &Path)],
) -> Run {
    static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = |name: &str| agent.dir().join(format!("{name}-{serial}"));
    let (out, err) = (path("out"), path("err"));
    let child = program
        .args(["run", "--task", "pay/db-migrate", "--reason", "release 41", "--socket"])
        .arg(agent.socket())
        .args(options)
        .arg("--")
        .args(command)
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .env_remove("XDG_RUNTIME_DIR")
        .env("D", agent.dir())
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    Run { child, pid, out, err }
}

impl Run {
    fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    /// Waits until stderr has `text`.
    async fn said(&self, text: &str) {
        until(&format!("`{text}` in: {}", self.err()), || self.err().contains(text)).await;
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits for its end.
    async fn end(mut self) -> Ran {
        let status = tokio::time::timeout(LATEST, self.child.wait()).await;
        let status = status
            .unwrap_or_else(|_| panic!("it does not end: {}", self.err()))
            .unwrap();
        Ran {
            code: status.code().unwrap_or(-1),
            out: fs::read_to_string(&self.out).unwrap(),
            err: self.err(),
        }
    }
}

/// Waits until it is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LATEST, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a file that the command writes, and reads it.
async fn written(agent: &Agent, name: &str) -> String {
    let path = agent.dir().join(name);
    until(name, || {
        fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap().trim_start().chars().next();
        !matches!(state, Some('Z' | 'X'))
    })
}
