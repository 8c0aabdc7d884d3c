//! At a terminal: who has it, ctrl-C and ctrl-Z, as a shell with job control sees it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use mayfly_proto::mayfly::workload::Stage;
use nix::pty::openpty;

use crate::agent::Agent;
use crate::{until, written};

/// A shell at a terminal of its own.
struct Shell {
    child: std::process::Child,
    typed: File,
    shown: Arc<Mutex<String>>,
}

impl Shell {
    fn start(agent: &Agent) -> Self {
        let pty = openpty(None, None).unwrap();
        let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let child = crate::heeding(std::path::Path::new("setsid"))
            .args(["--ctty", "--wait", "bash", "--norc", "--noprofile", "--noediting", "-i"])
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .env_remove("XDG_RUNTIME_DIR")
            .env("PS1", "$ ")
            .env("TERM", "xterm")
            .env("D", agent.dir())
            .env("SOCKET", agent.socket())
            .env("MAYFLY", env!("CARGO_BIN_EXE_mayfly"))
            .stdin(slave(&pty.slave))
            .stdout(slave(&pty.slave))
            .stderr(slave(&pty.slave))
            .spawn()
            .unwrap();
        drop(pty.slave);
        let shown = Arc::new(Mutex::new(String::new()));
        let mut master = File::from(pty.master);
        let typed = master.try_clone().unwrap();
        std::thread::spawn({
            let shown = Arc::clone(&shown);
            move || {
                let mut bytes = [0; 4096];
                // The terminal is gone when nobody has it open: an error, by Linux.
                while let Ok(count @ 1..) = master.read(&mut bytes) {
                    shown
                        .lock()
                        .unwrap()
                        .push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
            }
        });
        Self { child, typed, shown }
    }

    fn types(&mut self, text: &str) {
        self.typed.write_all(text.as_bytes()).unwrap();
    }

    async fn shows(&self, text: &str) {
        let what = || format!("`{text}` on the terminal: {}", self.shown.lock().unwrap());
        let began = std::time::Instant::now();
        while !self.shown.lock().unwrap().contains(text) {
            assert!(began.elapsed() < crate::LATEST, "still not: {}", what());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("on the terminal:\n{}", self.shown.lock().unwrap());
        }
        // Ends with its terminal; by hand if a test has failed.
        let _ = self.typed.write_all(b"\x03\x04");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const RUN: &str = "$MAYFLY run --task pay/db-migrate --reason x --socket $SOCKET --";

/// Process group of the process, and the group that has its terminal: fields 5 and 8 of its stat.
fn groups(pid: &str) -> (String, String) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[2].to_owned(), fields[5].to_owned())
}

#[tokio::test]
async fn the_command_has_the_terminal_stops_goes_on_and_is_interrupted_as_without_a_wrapper() {
    let agent = Agent::start(Stage::Armed).await;
    let mut shell = Shell::start(&agent);
    shell.types(&format!(
        "{RUN} sh -c 'echo $$ >$D/pid; read line; echo \"got $line\"; exec sleep 600'\n"
    ));
    let command = written(&agent, "pid").await;
    // It reads from the terminal, which only the foreground may.
    shell.types("a line\n");
    shell.shows("got a line").await;
    let (own, foreground) = groups(&command);
    assert_eq!(
        (own.as_str(), foreground.as_str()),
        (command.as_str(), command.as_str())
    );
    shell.types("\x1a");
    shell.shows("Stopped").await;
    let state = || std::fs::read_to_string(format!("/proc/{command}/stat")).unwrap();
    assert!(state().contains(") T "), "{}", state());
    shell.types("echo the shell $((40+2))\n");
    shell.shows("the shell 42").await;
    shell.types("fg\n");
    until("it goes on", || state().contains(") S ")).await;
    until("it has the terminal again", || groups(&command).1 == command).await;
    shell.types("\x03");
    until("it is interrupted", || !crate::is_alive(&command)).await;
    shell.types("echo code $?\n");
    shell.shows("code 130").await;
    assert!(
        agent.calls().contains(&"fail killed by SIGINT".to_owned()),
        "{:?}",
        agent.calls()
    );
}

#[tokio::test]
async fn in_a_pipeline_the_terminal_is_given_when_the_command_asks_for_it() {
    let agent = Agent::start(Stage::Armed).await;
    let mut shell = Shell::start(&agent);
    shell.types(&format!(
        "{RUN} sh -c 'echo $$ >$D/pid; read line </dev/tty; echo \"got $line\"' | cat; echo end $((1+1))\n"
    ));
    written(&agent, "pid").await;
    shell.types("a word\n");
    shell.shows("got a word").await;
    shell.shows("end 2").await;
    shell.types(&format!(
        "{RUN} sh -c 'echo $$ >$D/next; exec sleep 600' | cat; echo over $((2+2))\n"
    ));
    let command = written(&agent, "next").await;
    shell.types("\x03");
    until("it is interrupted", || !crate::is_alive(&command)).await;
}

#[tokio::test]
async fn a_live_line_tells_for_what_it_waits() {
    let agent = Agent::start(Stage::AwaitingApproval).await;
    let mut shell = Shell::start(&agent);
    shell.types(&format!("{RUN} echo did it\n"));
    shell.shows("mayfly task approve r1").await;
    shell.shows("\r\x1b[Kwaiting for 2 approvals of dba or sre").await;
    shell.types("\x03");
    shell.shows("request r1 stays parked").await;
    shell.types("echo code $?\n");
    shell.shows("code 124").await;
}
