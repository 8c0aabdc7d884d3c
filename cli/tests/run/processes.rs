//! The processes of the command: signals to them, what they leave behind, and that they do not outlive the wrapper.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mayfly_proto::mayfly::workload::Stage;
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::agent::Agent;
use crate::{Run, is_alive, start, start_program, until, written};

/// A daemon by the book: forks twice, a session of its own, none of our files.
const DAEMON: &str = "(setsid sh -c '(trap \"$T\" TERM; echo $$ >/dev/null; sh -c \"echo \\$PPID\" >$D/daemon; \
    while :; do sleep 0.05; done) </dev/null >/dev/null 2>&1 &')
    while ! test -s $D/daemon; do sleep 0.05; done";

/// With a cgroup where there is one; and as a user who may not make one.
fn ways() -> Vec<Option<u32>> {
    if nix::unistd::Uid::effective().is_root() {
        vec![None, Some(65_534)]
    } else {
        eprintln!("not root: only the one way that this user has");
        vec![None]
    }
}

/// `mayfly` as this user, in a folder that all can read.
fn program(agent: &Agent, uid: Option<u32>) -> Command {
    let Some(uid) = uid else {
        return crate::heeding(std::path::Path::new(env!("CARGO_BIN_EXE_mayfly"))).into();
    };
    fs::set_permissions(agent.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let copy = agent.dir().join("mayfly");
    fs::copy(env!("CARGO_BIN_EXE_mayfly"), &copy).unwrap();
    let mut program = crate::heeding(&copy);
    program.uid(uid).gid(uid).current_dir("/");
    program.into()
}

fn start_as(agent: &Agent, uid: Option<u32>, options: &[&str], script: &str, on_term: &str) -> Run {
    let options: Vec<&str> = options.iter().copied().chain(["-v"]).collect();
    let env = [("T", on_term.as_ref())];
    start_program(agent, program(agent, uid), &options, &["sh", "-c", script], &env)
}

// S47
#[tokio::test]
async fn a_daemon_that_the_command_leaves_is_ended_after_the_authority() {
    for uid in ways() {
        for (on_term, killed) in [("date +%s%N >$D/term; exit", "0 killed"), ("", "1 killed")] {
            let agent = Agent::start(Stage::Armed).await;
            let run = start_as(&agent, uid, &["--grace", "1s"], DAEMON, on_term);
            let ran = run.end().await;
            assert_eq!(ran.code, 0, "{ran:?}");
            let daemon = written(&agent, "daemon").await;
            assert!(!is_alive(&daemon), "{daemon} lives: {}", ran.err);
            assert!(agent.calls().contains(&"complete exit status 0".to_owned()));
            assert!(ran.err.contains("left by the command"), "{}", ran.err);
            if !on_term.is_empty() {
                written(&agent, "term").await;
            }
            // How many there are besides the daemon depends on where its loop is: a sleep, or none.
            if killed == "0 killed" {
                assert!(ran.err.contains(killed), "{}", ran.err);
            }
        }
    }
}

#[tokio::test]
async fn the_cgroup_holds_all_and_is_gone_afterwards() {
    for uid in ways() {
        let agent = Agent::start(Stage::Armed).await;
        let script = "cat /proc/self/cgroup >$D/c; (setsid cat /proc/self/cgroup >$D/d) & wait; echo >>$D/d; \
            ps -o pgid= -p $$ >$D/group; echo $$ >$D/pid";
        let ran = start_as(&agent, uid, &[], script, "").end().await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let of = |name: &str| -> String {
            let text = fs::read_to_string(agent.dir().join(name)).unwrap();
            text.lines()
                .find_map(|line| line.strip_prefix("0::"))
                .unwrap_or_default()
                .to_owned()
        };
        let (command, daemon) = (of("c"), of("d"));
        assert_eq!(
            written(&agent, "group").await,
            written(&agent, "pid").await,
            "a process group of its own"
        );
        match ran
            .err
            .lines()
            .find_map(|line| line.split("the command runs in the cgroup ").nth(1))
        {
            Some(path) => {
                assert!(
                    command.contains("/mayfly-run-") && path.ends_with(&command),
                    "{path} {command}"
                );
                assert_eq!(command, daemon);
                assert!(!PathBuf::from(path).exists(), "{path} is still there");
                println!("uid {uid:?}: cgroup {path}");
            }
            None => {
                assert!(ran.err.contains("no cgroup for the command"), "{}", ran.err);
                assert!(!command.contains("mayfly-run-"));
                println!("uid {uid:?}: process group");
            }
        }
        if uid.is_some() {
            assert!(
                ran.err.contains("no cgroup for the command"),
                "nobody delegated one: {}",
                ran.err
            );
        }
    }
}

#[tokio::test]
async fn signals_reach_the_command() {
    let agent = Agent::start(Stage::Armed).await;
    let names = ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH"];
    let traps: String = names
        .iter()
        .map(|name| format!("trap 'echo {name} >>$D/got' {name}; "))
        .collect();
    let script = format!("{traps} echo up >$D/up; while ! test -e $D/go; do sleep 0.05; done; exit 4");
    let run = start(&agent, &[], &script);
    written(&agent, "up").await;
    for name in names {
        run.signal(format!("SIG{name}").parse().unwrap());
        let got = agent.dir().join("got");
        until(name, || {
            fs::read_to_string(&got).is_ok_and(|text| text.ends_with(&format!("{name}\n")))
        })
        .await;
    }
    fs::write(agent.dir().join("go"), "").unwrap();
    assert_eq!(run.end().await.code, 4);
    assert_eq!(written(&agent, "got").await, names.join("\n"), "each once");
}

#[tokio::test]
async fn a_command_that_catches_the_signal_decides_itself_when_to_end() {
    let agent = Agent::start(Stage::Armed).await;
    let script = "trap 'echo cleaning >$D/cleaning; cat $MAYFLY_KEY_FILE >/dev/null && exit 9' TERM
        echo up >$D/up; while :; do sleep 0.05; done";
    let run = start(&agent, &[], script);
    written(&agent, "up").await;
    run.signal(Signal::SIGTERM);
    let ran = run.end().await;
    assert_eq!(ran.code, 9, "it had its key until it ended: {ran:?}");
    assert!(agent.calls().contains(&"fail exit status 9".to_owned()));
}

#[tokio::test]
async fn a_killed_wrapper_takes_the_command_with_it() {
    for uid in ways() {
        let agent = Agent::start(Stage::Armed).await;
        let run = start_as(&agent, uid, &[], "echo $$ >$D/pid; exec sleep 600", "");
        let command = written(&agent, "pid").await;
        assert!(is_alive(&command));
        run.signal(Signal::SIGKILL);
        until("the command is gone", || !is_alive(&command)).await;
        run.end().await;
    }
}

#[tokio::test]
async fn what_a_killed_wrapper_leaves_in_its_cgroup_is_ended_by_the_next_run() {
    let agent = Agent::start(Stage::Armed).await;
    let run = start_as(&agent, None, &[], &format!("{DAEMON}; exec sleep 600"), "");
    let daemon = written(&agent, "daemon").await;
    // One or the other, before the command is there.
    let grouped = run.err().contains("the command runs in the cgroup");
    run.signal(Signal::SIGKILL);
    run.end().await;
    let next = Agent::start(Stage::Armed).await;
    assert_eq!(start(&next, &[], "true").end().await.code, 0);
    if grouped {
        until("the daemon is gone", || !is_alive(&daemon)).await;
    } else {
        println!("no cgroup here: the daemon is without authority, but lives until it is ended by hand");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.parse().unwrap()), Signal::SIGKILL).unwrap();
    }
}

#[tokio::test]
async fn a_stopped_straggler_is_ended_too_and_a_second_signal_ends_the_grace() {
    let agent = Agent::start(Stage::Armed).await;
    let script = "sh -c 'echo $$ >$D/stopped; kill -STOP $$; exec sleep 600' & while ! test -s $D/stopped; do sleep 0.05; done
        sh -c 'trap \"\" TERM; echo $$ >$D/deaf; while :; do sleep 0.05; done' & while ! test -s $D/deaf; do sleep 0.05; done";
    let began = Instant::now();
    let run = start(&agent, &["--grace", "10m"], script);
    agent.called("complete").await;
    let (stopped, deaf) = (written(&agent, "stopped").await, written(&agent, "deaf").await);
    until("the stopped one is gone", || !is_alive(&stopped)).await;
    assert!(is_alive(&deaf), "it has ten minutes");
    run.signal(Signal::SIGINT);
    assert_eq!(run.end().await.code, 0);
    assert!(!is_alive(&deaf));
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
}
