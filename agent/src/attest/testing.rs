//! Child processes for tests: the test binary itself, started again to play a part.
#![allow(
    clippy::disallowed_methods,
    reason = "children get their part by environment variables"
)]

use std::{
    io::{BufRead, BufReader, Write},
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use tokio::net::{UnixListener, UnixStream};

const PART: &str = "MAYFLY_TEST_PART";
const SOCKET: &str = "MAYFLY_TEST_SOCKET";
const TARGET: &str = "MAYFLY_TEST_TARGET";

/// A socket, its folder, and who connects to it.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        for path in [folder.path().to_owned(), folder.path().join("agent.sock")] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        Self { folder, listener }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn accept(&self) -> UnixStream {
        self.listener.accept().await.unwrap().0
    }

    /// Both ends in this process.
    pub(crate) async fn own(&self) -> (UnixStream, UnixStream) {
        let client = UnixStream::connect(self.folder().join("agent.sock")).await.unwrap();
        (client, self.accept().await)
    }

    /// A child that connects, waits for a line on its standard input, and then plays `part`: see [`play`].
    pub(crate) fn child(&self, part: &str) -> Actor {
        self.child_of(&std::env::current_exe().unwrap(), part)
    }

    /// A shell with a child as [`child`](Self::child) makes it. To be killed by its own number.
    pub(crate) fn parent_of(&self, part: &str) -> Actor {
        let (_, module) = module_path!().split_once("::").unwrap();
        let program = std::env::current_exe().unwrap();
        let script = format!(
            "'{}' --exact --nocapture --test-threads=1 '{module}::play' & wait",
            program.display()
        );
        let child = Command::new("/bin/sh")
            .args(["-c", &script])
            .env(PART, part)
            .env(SOCKET, self.folder().join("agent.sock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Actor { child }
    }

    /// As [`child`](Self::child), by a copy of this program.
    pub(crate) fn child_of(&self, program: &Path, part: &str) -> Actor {
        // The name of `play` as the test harness knows it: its path without the crate.
        let (_, module) = module_path!().split_once("::").unwrap();
        let spawn = || {
            Command::new(program)
                .args(["--exact", "--nocapture", "--test-threads=1", &format!("{module}::play")])
                .env(PART, part)
                .env(SOCKET, self.folder().join("agent.sock"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        };
        loop {
            match spawn() {
                Ok(child) => return Actor { child },
                // A child that another test forks holds a copy's writing end until it executes.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                Err(error) => panic!("{}: {error}", program.display()),
            }
        }
    }
}

/// A child of [`Stage::child`]; killed at the end.
pub(crate) struct Actor {
    pub(crate) child: Child,
}

impl Actor {
    /// Lets it play its part and waits until it says that it has.
    pub(crate) fn act(&mut self) {
        self.go();
        let output = BufReader::new(self.child.stdout.as_mut().unwrap());
        assert!(
            output.lines().any(|line| line.unwrap().contains("done")),
            "the child ended without having acted"
        );
    }

    pub(crate) fn go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that traces a thread, and lets go of it when this is dropped.
pub(crate) struct Debugger(Actor);

impl Debugger {
    pub(crate) fn attach(thread: u32) -> Self {
        let (_, module) = module_path!().split_once("::").unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1", &format!("{module}::play")])
            .env(PART, "debug")
            .env(TARGET, thread.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut actor = Actor { child };
        let mut lines = BufReader::new(actor.child.stdout.as_mut().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().contains("attached")),
            "the debugger attaches"
        );
        Self(actor)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.child.id()
    }
}

pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("not proved here: this test needs root");
    }
    root
}

/// The children's side. As a test it does nothing.
#[test]
#[allow(clippy::zombie_processes, reason = "it outlives this process on purpose")]
fn play() {
    let Ok(part) = std::env::var(PART) else { return };
    if part == "debug" {
        let target = std::env::var(TARGET).unwrap().parse().unwrap();
        nix::sys::ptrace::seize(nix::unistd::Pid::from_raw(target), nix::sys::ptrace::Options::empty()).unwrap();
        println!("attached");
        return drop(std::io::stdin().lock().read_line(&mut String::new()));
    }
    if part == "threads" {
        for _ in 0..8 {
            #[allow(clippy::disallowed_methods, reason = "it ends with the process")]
            std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)));
        }
    }
    if part == "other user connects" {
        nix::unistd::setgroups(&[0.into(), 4321.into()]).unwrap();
        nix::unistd::setresgid(4_000_000_002.into(), 4_000_000_002.into(), 4_000_000_002.into()).unwrap();
        nix::unistd::setresuid(4_000_000_001.into(), 4_000_000_001.into(), 4_000_000_001.into()).unwrap();
    }
    let stream = std::os::unix::net::UnixStream::connect(std::env::var(SOCKET).unwrap()).unwrap();
    let wait = || drop(std::io::stdin().lock().read_line(&mut String::new()));
    let keep_over_exec = || rustix::io::fcntl_setfd(stream.as_fd(), rustix::io::FdFlags::empty()).unwrap();
    if part == "hold" {
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    if part != "leave" && part != "leave with the socket open" {
        wait();
    }
    match part.as_str() {
        "exec" => {
            keep_over_exec();
            // Says so itself, as another program.
            let error = Command::new("/bin/sh")
                .args(["-c", "echo done; read x; sleep 60"])
                .exec();
            panic!("{error}");
        }
        "setuid" => nix::unistd::setuid(65_534.into()).unwrap(),
        "setgid" => nix::unistd::setgid(65_534.into()).unwrap(),
        "setgroups" => nix::unistd::setgroups(&[4321.into()]).unwrap(),
        "another user for a while" => {
            nix::unistd::seteuid(65_534.into()).unwrap();
            println!("done");
            wait();
            nix::unistd::seteuid(0.into()).unwrap();
        }
        "saved uid" => nix::unistd::setresuid(0.into(), 0.into(), 65_534.into()).unwrap(),
        "leave" => return,
        "leave with the socket open" => {
            // Another process holds the connection from now on.
            keep_over_exec();
            Command::new("/bin/sleep")
                .arg("1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            return;
        }
        _ => {}
    }
    println!("done");
    wait();
}
