//! The page `docs/tasks.md`, as a newcomer follows it: on the `dev` setup of the README, as an ordinary user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use mayfly_tests::binaries::{binary, sources};
use mayfly_tests::daemon::story_dir;
use mayfly_tests::tasks::ledger;
use mayfly_tests::{Lane, eventually, needs_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const USER: u32 = 41_007;
const PATIENCE: Duration = Duration::from_secs(60);

struct Newcomer {
    _dir: tempfile::TempDir,
    programs: PathBuf,
    home: PathBuf,
}

/// A program that goes on until the end of the story.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Newcomer {
    fn new() -> Self {
        needs_root();
        let dir = story_dir();
        let (programs, home) = (dir.path().join("bin"), dir.path().join("home"));
        std::fs::create_dir(&programs).unwrap();
        std::fs::create_dir(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        for name in ["mayfly", "mayfly-server", "mayfly-agent", "guarded"] {
            std::fs::copy(binary(name), programs.join(name)).unwrap();
            std::fs::set_permissions(programs.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        Self {
            _dir: dir,
            programs,
            home,
        }
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .stdin(Stdio::null())
            .uid(USER)
            .gid(USER);
        command
    }

    /// A line as it is typed.
    fn types(&self, line: &str) -> Output {
        self.command(Path::new("/bin/sh"), &["-c", line]).output().unwrap()
    }
}

fn text(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{err}")
}

/// The first block of the page in `language`.
fn block(language: &str) -> String {
    let page = std::fs::read_to_string(sources().join("../docs/tasks.md")).unwrap();
    let begin = page.find(&format!("```{language}\n")).unwrap() + language.len() + 4;
    let end = page[begin..].find("```").unwrap();
    page[begin..begin + end].to_owned()
}

/// The block of the page that begins with `first`.
fn line(first: &str) -> String {
    let page = std::fs::read_to_string(sources().join("../docs/tasks.md")).unwrap();
    let begin = page.find(first).unwrap_or_else(|| panic!("the page has no `{first}`"));
    let end = page[begin..].find("```").unwrap();
    page[begin..begin + end].to_owned()
}

#[tokio::test]
async fn the_page_on_tasks_does_what_it_says_on_the_dev_setup() {
    let _lane = Lane::shared();
    let newcomer = Newcomer::new();
    let mayfly = newcomer.programs.join("mayfly");
    let _dev = Running(
        newcomer
            .command(&mayfly, &["dev"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let agent = newcomer.home.join(".mayfly/agent.sock");
    eventually("mayfly dev to be up", PATIENCE, async || {
        let shown = newcomer.types("mayfly svid fetch");
        shown.status.success().then_some(())
    })
    .await;

    // 1. The user has no name here, so the person is called after the number.
    let definition = block("toml").replace("\"alice\"", &format!("\"user{USER}\""));
    std::fs::write(newcomer.home.join("hello.toml"), definition).unwrap();
    let defined = newcomer.types(&line("mayfly task define hello.toml"));
    assert!(defined.status.success(), "{}", text(&defined));

    // 2. The service of the page needs cargo; the one of the stories is the same but for its port.
    let mut service = newcomer.command(
        &newcomer.programs.join("guarded"),
        &[agent.to_str().unwrap(), "demo/hello", "protected"],
    );
    let mut service = Running(service.stdout(Stdio::piped()).spawn().unwrap());
    let mut output = std::io::BufReader::new(service.0.stdout.take().unwrap());
    let mut address = String::new();
    std::io::BufRead::read_line(&mut output, &mut address).unwrap();
    let here = |line: String| line.replace("127.0.0.1:8443", address.trim());

    // 3.
    let refused = newcomer.types(&here(line("curl --insecure https://127.0.0.1:8443/")));
    assert!(!refused.status.success(), "{}", text(&refused));

    // 4.
    let inside = newcomer.types(&here(line("mayfly run --task demo/hello")));
    assert!(inside.status.success(), "{}", text(&inside));
    let id = format!("spiffe://dev.mayfly.local/task/demo/hello/user/{USER}");
    assert!(text(&inside).contains(&id), "{}", text(&inside));

    // 5.
    let copied = newcomer.types(&here(line("curl --insecure --cert cert.pem")));
    assert!(!copied.status.success(), "{}", text(&copied));
    let left = newcomer.types("openssl x509 -in cert.pem -noout -checkend 30");
    assert!(left.status.success(), "the copy has not expired: {}", text(&left));

    // 6.
    let listed = newcomer.types("mayfly task requests --state all --output json");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let request = listed["requests"][0]["request_id"].as_str().unwrap();
    for words in ["task request", "task ttl explain", "why"] {
        let shown = newcomer.types(&format!("mayfly {words} {request}"));
        assert!(shown.status.success(), "{words}: {}", text(&shown));
        println!("$ mayfly {words} {request}\n{}", text(&shown));
    }
    let checked = ledger::check(&newcomer.home.join(".mayfly"));
    println!("the log holds the invariants: {checked:?}");
    assert_eq!((checked.requests, checked.windows), (1, 1));
}
