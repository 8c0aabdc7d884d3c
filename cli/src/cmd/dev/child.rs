//! The daemons as child processes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use mayfly_runtime::env;
use mayfly_runtime::files::{self, FileError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use super::layout::Layout;
use crate::errors::CliError;
use crate::output::Output;
use crate::values;

/// How long a daemon may take to stop. Its own limit for draining is shorter.
const STOP: Duration = Duration::from_secs(20);
/// Lines of a log that are shown when its writer died.
const LAST_LINES: usize = 12;

/// Where the daemons are.
#[derive(Debug)]
pub(super) struct Binaries {
    pub(super) server: PathBuf,
    pub(super) agent: PathBuf,
}

/// A running daemon. Killed when dropped, so that none is left behind.
pub(super) struct Child {
    name: &'static str,
    process: tokio::process::Child,
    log: PathBuf,
}

/// Stops the daemon `name` that an earlier `mayfly dev` could not stop because it was killed itself. It still holds its
/// folder, and would answer in the place of the new one.
///
/// # Errors
/// Somebody else holds the folder, or the daemon does not stop.
pub(super) async fn stop_left_behind(name: &'static str, data_dir: &Path, out: &mut Output) -> Result<(), CliError> {
    let held = |error| match error {
        FileError::Locked { pid, .. } => Ok(pid),
        error => Err(CliError::from(error)),
    };
    let Some(holder) = files::lock_dir(data_dir)
        .map(drop)
        .map_or_else(|error| held(error).map(Some), |()| Ok(None))?
    else {
        return Ok(());
    };
    let ours = |pid: &i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        // A binary that was built anew is "(deleted)".
        exe.file_name()
            .is_some_and(|file| file.to_string_lossy().starts_with(&format!("mayfly-{name}")))
    };
    let in_the_way = || {
        let who = holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let what = format!("another process{who} uses {}", data_dir.display());
        CliError::failed(what, "stop it, or choose another folder with --dir")
    };
    let pid = holder
        .and_then(|pid| i32::try_from(pid).ok())
        .filter(ours)
        .ok_or_else(in_the_way)?;
    out.note(format!(
        "stopping the {name} that an earlier `mayfly dev` left behind (pid {pid})"
    ));
    kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|_| in_the_way())?;
    let deadline = tokio::time::Instant::now() + STOP;
    while files::lock_dir(data_dir).is_err() {
        if tokio::time::Instant::now() >= deadline {
            return Err(in_the_way());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// What to type to run this program again: its name if the shell finds it by that, else as it was typed this time.
pub(super) fn own_command() -> String {
    let typed = std::env::args_os().next().unwrap_or_else(|| "mayfly".into());
    let path = env::path("PATH").unwrap_or_default();
    command_for(Path::new(&typed), &std::env::current_exe().unwrap_or_default(), &path)
}

fn command_for(typed: &Path, own: &Path, path: &Path) -> String {
    let found = std::env::split_paths(path)
        .map(|dir| dir.join("mayfly"))
        .find(|file| file.is_file());
    let same = found.is_some_and(|found| fs::canonicalize(found).ok() == fs::canonicalize(own).ok());
    if same {
        "mayfly".to_owned()
    } else {
        values::shell_word(typed)
    }
}

/// Completes with an error when the first of them has ended.
pub(super) async fn first_death(children: &mut [Child]) -> CliError {
    loop {
        if let Some(died) = children.iter_mut().find_map(Child::death) {
            return died;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

// === impl Binaries ===

impl Binaries {
    /// Beside this executable, where cargo and the packages put them.
    ///
    /// # Errors
    /// One is missing.
    pub(super) fn find() -> Result<Self, CliError> {
        let own = std::env::current_exe().map_err(|source| CliError::System {
            doing: "find",
            path: "/proc/self/exe".into(),
            source,
        })?;
        Self::find_beside(&own)
    }

    pub(super) fn find_beside(own: &Path) -> Result<Self, CliError> {
        let dir = own.parent().unwrap_or(Path::new("/"));
        let find = |name: &str| {
            let path = dir.join(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(CliError::failed(
                format!("{name} is not beside mayfly in {}", dir.display()),
                "in a clone of the repository: cargo build -p mayfly-server -p mayfly-agent -p mayfly",
            ))
        };
        Ok(Self {
            server: find("mayfly-server")?,
            agent: find("mayfly-agent")?,
        })
    }
}

// === impl Child ===

impl Child {
    /// Starts `binary run --config <config>` with its output in the log, in a process group of its own: ctrl-C is for us,
    /// and we stop the agent before the server.
    ///
    /// # Errors
    /// The log cannot be written or the binary not be started.
    pub(super) fn start(name: &'static str, binary: &Path, config: &Path, layout: &Layout) -> Result<Self, CliError> {
        let log = layout.log(name);
        let system = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| CliError::System { doing, path, source }
        };
        let open = || -> std::io::Result<(File, File)> {
            let file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&log)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) = open().map_err(system("write", &log))?;
        let process = Command::new(binary)
            .arg("run")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(err))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(system("start", binary))?;
        Ok(Self { name, process, log })
    }

    /// The error that says so, if it has ended.
    pub(super) fn death(&mut self) -> Option<CliError> {
        let status = self.process.try_wait().ok()??;
        Some(CliError::failed(
            format!("the {} ended: {}", self.name, ending(status)),
            self.last_words(),
        ))
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() {
            return format!("the {} wrote nothing into {}", self.name, self.log.display());
        }
        let last: String = last.iter().map(|line| format!("\n    {line}")).collect();
        format!("the {} last wrote into {}:{last}", self.name, self.log.display())
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// It had to be killed, or ended badly; in words.
    pub(super) async fn stop(mut self) -> Result<(), String> {
        if let Ok(Some(_)) = self.process.try_wait() {
            return Ok(()); // `death` has told
        }
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            // If it is gone already, waiting says how.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        match tokio::time::timeout(STOP, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!(
                "the {} ended: {}; see {}",
                self.name,
                ending(status),
                self.log.display()
            )),
            Ok(Err(error)) => Err(format!("cannot wait for the {}: {error}", self.name)),
            Err(_) => {
                let _ = self.process.kill().await;
                Err(format!(
                    "the {} did not stop within {} s and was killed",
                    self.name,
                    STOP.as_secs()
                ))
            }
        }
    }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
            format!("killed by {name}")
        }
        (None, None) => "for an unknown reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_commands_can_be_typed_as_they_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (here, other) = (dir.path().join("here"), dir.path().join("other"));
        for dir in [&here, &other] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("mayfly"), "").unwrap();
        }
        let typed = Path::new("target/debug/mayfly");
        let own = here.join("mayfly");
        assert_eq!(command_for(typed, &own, &here), "mayfly");
        assert_eq!(
            command_for(typed, &own, &other),
            "target/debug/mayfly",
            "another one is found"
        );
        assert_eq!(command_for(typed, &own, Path::new("")), "target/debug/mayfly");
    }
}
