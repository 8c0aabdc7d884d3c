//! The command: found before anything is asked for, started with the identity in its environment.
//!
//! Between `mayfly run` and the command lies a short stage: this program again, as the child that is to become the
//! command. It sets what only a process itself can set (its end with its parent's, its cgroup, its turn at the terminal)
//! and then is replaced by the command, with the same process number.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use mayfly_proto::mayfly::workload::TaskState;
use mayfly_runtime::env;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, eaccess};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::codes::{CANNOT_START, NO_COMMAND, OWN_FAILURE};
use super::files::Files;
use super::voice::Voice;
use super::{cgroup, terminal};
use crate::errors::{CliError, Exit};
use crate::workload::{Address, ENDPOINT_ENV};

/// The option that makes this program the stage. Not for people.
pub(super) const STAGE_OPTION: &str = "in-child";

/// Names of variables that name files; those of a run around this one must not shine through.
const FILE_VARIABLES: [&str; 4] = [
    "MAYFLY_CERT_FILE",
    "MAYFLY_KEY_FILE",
    "MAYFLY_BUNDLE_FILE",
    "MAYFLY_IDENTITY_FILE",
];

/// What the stage is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stage {
    /// The process to end with.
    pub(super) parent: u32,
    /// The cgroup to enter.
    pub(super) cgroup: Option<PathBuf>,
    /// Whether to take the terminal.
    pub(super) terminal: bool,
    /// Whether to say what was done.
    pub(super) verbose: bool,
    /// In the form of programs.
    pub(super) json: bool,
}

/// Refuses a command that could not be started.
///
/// # Errors
/// It is not there, or not to be executed.
pub(super) fn check(program: &OsStr) -> Result<(), CliError> {
    let shown = program.display();
    let usable = |path: &Path| {
        let is_file = path.metadata().map(|meta| meta.is_file());
        is_file.map(|is_file| is_file && eaccess(path, AccessFlags::X_OK).is_ok())
    };
    let cannot = |why: &str| {
        let error = CliError::failed(format!("`{shown}` cannot be executed"), why.to_owned());
        CANNOT_START.of(error)
    };
    if program.as_bytes().contains(&b'/') {
        return match usable(Path::new(program)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(cannot("it is no file that you may execute")),
            Err(error) => {
                let error = CliError::failed(format!("there is no command `{shown}`"), error.to_string());
                Err(NO_COMMAND.of(error))
            }
        };
    }
    let path = env::path("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut seen = false;
    for dir in std::env::split_paths(&path) {
        match usable(&dir.join(program)) {
            Ok(true) => return Ok(()),
            Ok(false) => seen = true,
            Err(_) => {}
        }
    }
    if seen {
        return Err(cannot("it is in PATH, but is no file that you may execute"));
    }
    let error = CliError::failed(format!("there is no command `{shown}`"), "it is in no folder of PATH");
    Err(NO_COMMAND.of(error))
}

/// The environment of the command, beside what it inherits. Names of files and of the window, never what is in them.
pub(super) fn environment(
    address: &Address,
    state: &TaskState,
    files: Option<&Files>,
) -> Vec<(&'static str, Option<OsString>)> {
    let mut all: Vec<(&'static str, Option<OsString>)> = vec![
        (ENDPOINT_ENV, Some(uri(address).into())),
        ("MAYFLY_TASK", Some(state.task.clone().into())),
        ("MAYFLY_WINDOW_ID", Some(state.window_id.clone().into())),
        ("MAYFLY_SPIFFE_ID", Some(state.spiffe_id.clone().into())),
    ];
    match files {
        None => all.extend(FILE_VARIABLES.map(|name| (name, None))),
        Some(files) => {
            let paths = [files.cert(), files.key(), files.bundle(), files.identity()];
            all.extend(
                FILE_VARIABLES
                    .into_iter()
                    .zip(paths)
                    .map(|(name, path)| (name, Some(path.into()))),
            );
            // What libpq reads: psql, pg_dump, and drivers that stand on it.
            let libpq = [
                ("PGSSLCERT", files.cert()),
                ("PGSSLKEY", files.key()),
                ("PGSSLROOTCERT", files.bundle()),
            ];
            all.extend(libpq.map(|(name, path)| (name, Some(path.into()))));
        }
    }
    all
}

/// Starts the command as a child that leads a process group.
///
/// # Errors
/// It cannot be started.
pub(super) fn start(
    stage: &Stage,
    command: &[OsString],
    environment: Vec<(&'static str, Option<OsString>)>,
) -> Result<Child, CliError> {
    let told = serde_json::to_string(stage).expect("a stage has string keys only");
    let form = if stage.json { "json" } else { "text" };
    // By this name it is found even if the file was replaced meanwhile.
    let mut child = Command::new("/proc/self/exe");
    child
        .arg0("mayfly")
        .args(["run", "--output", form, &format!("--{STAGE_OPTION}"), &told, "--"])
        .args(command)
        .process_group(0);
    for (name, value) in environment {
        match value {
            Some(value) => child.env(name, value),
            None => child.env_remove(name),
        };
    }
    child.spawn().map_err(|source| {
        OWN_FAILURE.of(CliError::System {
            doing: "start",
            path: "/proc/self/exe".into(),
            source,
        })
    })
}

/// In the child: becomes the command. Returns only if that is not possible.
///
/// # Errors
/// Why not, with the exit code that shells use.
pub(super) fn become_command(told: &str, command: &[OsString], voice: &mut Voice<'_>) -> Result<Exit, CliError> {
    let stage: Stage = serde_json::from_str(told)
        .map_err(|_| CliError::input("this option is for `mayfly run` itself", "leave it out"))?;
    // The kernel's order would come too late if the parent is gone already.
    let bound = set_pdeathsig(Signal::SIGKILL);
    if bound.is_err() || parent_id() != stage.parent {
        let error = CliError::failed("whoever started this is gone", "start it again");
        return Err(OWN_FAILURE.of(error));
    }
    match stage.cgroup.as_deref().map(|path| (path, cgroup::enter(path))) {
        None => {}
        Some((path, Ok(()))) if stage.verbose => {
            let text = format!("the command runs in the cgroup {}", path.display());
            voice.say("cgroup", &text, json!({"cgroup": path}));
        }
        Some((_, Ok(()))) => {}
        Some((path, Err(error))) if stage.verbose => {
            let text = format!(
                "no cgroup for the command ({}: {error}): it has a process group",
                path.display()
            );
            voice.say("no_cgroup", &text, json!({}));
        }
        Some((_, Err(_))) => {}
    }
    terminal::enter(stage.terminal);
    let program = command
        .first()
        .ok_or_else(|| CliError::input("there is no command", "give one behind `--`"))?;
    let error = Command::new(program).args(&command[1..]).exec();
    let code = match error.kind() {
        io::ErrorKind::NotFound => NO_COMMAND,
        _ => CANNOT_START,
    };
    Err(code.of(CliError::failed(
        format!("cannot start `{}`: {error}", program.display()),
        "is it a program, or a script whose first line names one?",
    )))
}

/// The address as the environment has to have it (SPIFFE Workload Endpoint §4).
fn uri(address: &Address) -> String {
    match address {
        Address::Tcp(socket) => format!("tcp://{socket}"),
        Address::Unix(path) => {
            // The command may change its folder.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let mut text = "unix://".to_owned();
            for byte in path.as_os_str().as_bytes() {
                match byte {
                    b'/' | b'.' | b'_' | b'-' | b'~' => text.push(char::from(*byte)),
                    byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
                    byte => text.push_str(&format!("%{byte:02X}")),
                }
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_socket_is_read_back_as_it_was() {
        for path in ["/run/mayfly/agent.sock", "/tmp/a b%#?ü/x.sock"] {
            let address = Address::Unix(path.into());
            assert_eq!(uri(&address).parse(), Ok(address));
        }
        assert_eq!(uri(&Address::Tcp("127.0.0.1:1".parse().unwrap())), "tcp://127.0.0.1:1");
        assert!(uri(&Address::Unix("a.sock".into())).starts_with("unix:///"));
    }

    #[test]
    fn what_cannot_be_started_is_found_before_anything_is_asked() {
        for (program, code) in [
            ("surely-no-such-command", 127),
            ("/nowhere/x", 127),
            ("/etc/passwd", 126),
            ("/", 126),
        ] {
            assert_eq!(check(program.as_ref()).unwrap_err().exit(), Exit::Of(code), "{program}");
        }
        for program in ["sh", "/bin/sh"] {
            check(program.as_ref()).unwrap();
        }
    }
}
