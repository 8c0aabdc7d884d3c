//! A daemon under test: started, watched, stopped, killed, started again in place.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use tempfile::TempDir;

use crate::binaries::binary;
use crate::eventually;

/// How long a daemon may take to be ready or to stop before the story gives up: generous, as the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of its own for a story: short, since a socket's path has 107 octets at most, and open to all users.
pub fn story_dir() -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix("mf-")
        .tempdir_in("/tmp")
        .expect("/tmp is writable");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    dir
}

/// A TCP port of the loopback address where nobody listens. Taken from below the kernel's own range, so that no outgoing
/// connection takes it while a daemon restarts.
///
/// # Panics
/// There is none.
pub fn free_port() -> u16 {
    for _ in 0..1000 {
        let port = rand::rng().random_range(10_240..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free TCP port");
}

/// One daemon and how it is started.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    starts: u32,
    before: Vec<String>,
    env: Vec<(&'static str, PathBuf)>,
}

impl Daemon {
    /// The program `name` with the file `config`; not started yet. It logs beside the file.
    pub fn new(name: &'static str, config: &Path) -> Self {
        Self {
            name,
            config: config.to_owned(),
            log: config.with_extension("log"),
            child: None,
            starts: 0,
            before: vec![],
            env: vec![],
        }
    }

    /// Starts it by another program from now on: these words, then the daemon's own. That program has to become it.
    pub fn within(&mut self, words: &[&str]) {
        self.before = words.iter().map(|&word| word.to_owned()).collect();
    }

    /// Gives it a variable at its next start.
    pub fn env(&mut self, name: &'static str, value: &Path) {
        self.env.push((name, value.to_owned()));
    }

    /// Starts it.
    ///
    /// # Panics
    /// It runs already, or cannot be started.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log can be written");
        let program = binary(self.name);
        let mut command = match self.before.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        let child = command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        self.child = Some(child);
        self.starts += 1;
    }

    /// Its process ID.
    ///
    /// # Panics
    /// It does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Whether it was started and has not ended. One that ended by itself is shown.
    ///
    /// # Panics
    /// It ended by itself.
    pub fn check_alive(&mut self) {
        let child = self
            .child
            .as_mut()
            .unwrap_or_else(|| panic!("{} is not started", self.name));
        if let Some(status) = child.try_wait().expect("our child") {
            panic!("{} ended by itself: {status}\n{}", self.name, self.log_tail());
        }
    }

    /// Waits for an end that the story expects; gives how it ended.
    ///
    /// # Panics
    /// It goes on.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let child = self
            .child
            .as_mut()
            .unwrap_or_else(|| panic!("{} is not started", self.name));
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait().expect("our child") {
                self.child = None;
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} still runs after {patience:?}\n{}",
                self.name,
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).expect("a process ID")), signal).expect("it is ours");
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Panics
    /// It does not stop, or not in order.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait(PATIENCE);
        assert!(
            status.success(),
            "{} ended with {status}\n{}",
            self.name,
            self.log_tail()
        );
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
    }

    /// Whether it runs as far as we know.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has logged `text`.
    ///
    /// # Panics
    /// It does not within `patience`.
    pub async fn wait_log(&self, text: &str, patience: Duration) {
        eventually(&format!("`{text}` in the log of {}", self.name), patience, async || {
            self.log().contains(text).then_some(())
        })
        .await;
    }

    /// The end of what it has logged, with a title.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        format!(
            "--- the end of what {} logged (start {}) ---\n{tail}\n",
            self.name, self.starts
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        self.kill();
    }
}
