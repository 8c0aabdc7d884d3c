//! The first command of the README, as a newcomer runs it: in an empty folder, as an ordinary user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use mayfly_tests::binaries::binary;
use mayfly_tests::daemon::story_dir;
use mayfly_tests::{Lane, needs_root};

const USER: u32 = 41_001;

/// An empty folder of the user, and the programs where the user may read them.
struct Newcomer {
    dir: tempfile::TempDir,
    home: PathBuf,
}

impl Newcomer {
    fn new() -> Self {
        needs_root();
        let dir = story_dir();
        let (programs, home) = (dir.path().join("bin"), dir.path().join("home"));
        std::fs::create_dir(&programs).unwrap();
        std::fs::create_dir(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        for name in ["mayfly", "mayfly-server", "mayfly-agent"] {
            std::fs::copy(binary(name), programs.join(name)).unwrap();
            std::fs::set_permissions(programs.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        Self { dir, home }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("bin/mayfly"));
        command
            .args(args)
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .uid(USER)
            .gid(USER);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn entries(home: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(home)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

// Promise 1
#[test]
fn dev_once_shows_an_svid_without_root_and_without_configuration() {
    let _lane = Lane::shared();
    let newcomer = Newcomer::new();
    let begun = Instant::now();
    let first = newcomer.run(&["dev", "--once"]);
    let took = begun.elapsed();
    println!("{}\n(after {took:?})", text(&first));
    assert!(first.status.success(), "{}", text(&first));
    let id = format!("spiffe://dev.mayfly.local/user/{USER}");
    assert!(text(&first).contains(&id), "no {id} in:\n{}", text(&first));
    assert_eq!(entries(&newcomer.home), [".mayfly"], "everything is in one folder");

    // The second start finds what the first has left: the same trust domain, agent and entry.
    let second = newcomer.run(&["dev", "--once"]);
    assert!(second.status.success(), "{}", text(&second));
    assert!(text(&second).contains(&id), "{}", text(&second));
    let agent_of = |output: &Output| {
        let text = text(output);
        let line = text
            .lines()
            .find(|line| line.contains("/spire/agent/"))
            .map(ToOwned::to_owned);
        line.unwrap_or_else(|| panic!("no agent in:\n{text}"))
    };
    assert_eq!(agent_of(&first), agent_of(&second));
    assert!(took <= Duration::from_secs(30), "{took:?}");
}

// Promise 1
#[test]
fn dev_stays_up_answers_its_three_hints_and_stops_cleanly_on_ctrl_c() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let _lane = Lane::shared();
    let newcomer = Newcomer::new();
    let mut child = newcomer
        .command(&["dev"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    // The last hint ends what it prints.
    while !seen.contains("mayfly doctor") {
        let mut line = String::new();
        assert!(errors.read_line(&mut line).unwrap() > 0, "ended after:\n{seen}");
        seen.push_str(&line);
    }
    // A folder with a running `dev` is not taken twice.
    let twice = newcomer.run(&["dev", "--once"]);
    assert!(
        !twice.status.success() && text(&twice).contains("already"),
        "{}",
        text(&twice)
    );

    let fetched = newcomer.run(&["svid", "fetch"]);
    assert!(
        fetched.status.success() && text(&fetched).contains("spiffe://"),
        "{}",
        text(&fetched)
    );
    let doctor = newcomer.run(&["doctor"]);
    println!("{}", text(&doctor));
    assert!(doctor.status.success(), "{}", text(&doctor));

    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}\n{seen}");
    assert!(
        !newcomer.home.join(".mayfly/agent.sock").exists() || newcomer.run(&["svid", "fetch"]).status.code() == Some(3)
    );
}
