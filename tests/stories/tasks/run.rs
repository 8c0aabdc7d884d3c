//! `mayfly run`: a real client has authority inside the window, and a copy of its key has none the second after.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mayfly_tests::tasks::{Guarded, TASK, TaskWorld, UNATTENDED};
use mayfly_tests::{Lane, TRUST_DOMAIN, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(60);
/// The second after a window ends, where everything is reachable; with what a busy machine adds.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The lease, and what is needed to find that it is over.
const AFTER_THE_LEASE: Duration = Duration::from_secs(20);

/// Copies the identity out, asks the service, then waits to be told how to end. It asks again as long as it is refused: after
/// a fault the service needs a moment to have fresh word on what is revoked.
const JOB: &str = "cp \"$MAYFLY_CERT_FILE\" stolen.pem && cp \"$MAYFLY_KEY_FILE\" stolen.key && \
                   until curl -sS --insecure --max-time 20 --cert \"$MAYFLY_CERT_FILE\" --key \"$MAYFLY_KEY_FILE\" \
                   https://ADDRESS/ > inside; do sleep 0.2; done; echo $$ > pid; \
                   while [ ! -e end ]; do sleep 0.05; done; exit $(cat end)";

/// A job inside a window, and a thief who copied its key and has a connection.
struct Inside {
    run: Child,
    thief: Child,
    command: Pid,
}

impl Inside {
    async fn enter(world: &TaskWorld, guarded: &Guarded, dir: &Path) -> Self {
        let script = JOB.replace("ADDRESS", &guarded.address);
        let run = world.run(dir, &[], &script).spawn().unwrap();
        let pid = eventually("the job to be inside", PATIENCE, async || {
            let text = std::fs::read_to_string(dir.join("pid")).ok()?;
            text.trim().parse::<i32>().ok()
        })
        .await;
        let inside = std::fs::read_to_string(dir.join("inside")).unwrap();
        let id = format!("spiffe://{TRUST_DOMAIN}/task/{TASK}/ns/pay/migrator");
        assert_eq!(inside.trim(), id, "curl inside the window");
        let mut thief = curl(guarded, dir, "/hold");
        let mut thief = thief.arg("--no-buffer").stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 5];
        let output = thief.stdout.as_mut().unwrap();
        tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_exact(output, &mut first))
            .await
            .expect("the thief is let in while the window is open")
            .unwrap();
        Self {
            run,
            thief,
            command: Pid::from_raw(pid),
        }
    }

    /// The thief's connection is cut within `limit` of now, and the copied key opens no other.
    async fn ends_within(mut self, guarded: &Guarded, dir: &Path, limit: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        let drained = tokio::time::timeout(limit, self.thief.wait_with_output()).await;
        drained.expect("the connection from inside the window is cut").unwrap();
        let cut = begun.elapsed();
        let outcome = curl(guarded, dir, "/").output().await.unwrap();
        assert!(
            !outcome.status.success(),
            "a copied key still opens the door: {outcome:?}"
        );
        println!("cut {cut:?} after the end");
        let ended = tokio::time::timeout(PATIENCE, self.run.wait()).await;
        ended.ok().map(|status| status.unwrap())
    }
}

fn curl(guarded: &Guarded, dir: &Path, path: &str) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--insecure", "--max-time", "120", "--cert"])
        .arg(dir.join("stolen.pem"))
        .arg("--key")
        .arg(dir.join("stolen.key"))
        .arg(format!("https://{}{path}", guarded.address))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The newest window of all, as an operator sees it.
async fn newest_window(world: &TaskWorld) -> Value {
    let tasks = world.tasks().await;
    let window = &tasks.first().expect("there was a request")["windows"][0];
    window.clone()
}

async fn window_ended(world: &TaskWorld, cause: &str) {
    let found = eventually("the window to be over at the server", PATIENCE, async || {
        let window = newest_window(world).await;
        (!matches!(window["stage"].as_str(), Some("open"))).then_some(window)
    })
    .await;
    assert_eq!(found["cause"].as_str(), Some(cause), "{found}");
}

async fn window_settled(world: &TaskWorld) {
    eventually("the window to be settled", PATIENCE, async || {
        let window = newest_window(world).await;
        (window["stage"].as_str() == Some("settled")).then_some(())
    })
    .await;
}

// S44, S47, S53, S68
#[tokio::test]
async fn a_copied_key_and_an_open_connection_die_with_the_command_however_it_ends() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(UNATTENDED).await;
    let guarded = world.guarded().await;

    for (name, end, code, cause) in [("well", "0", 0, "completed"), ("badly", "3", 3, "failed")] {
        let dir = world.job_dir(name);
        let inside = Inside::enter(&world, &guarded, &dir).await;
        std::fs::write(dir.join("end"), end).unwrap();
        let status = inside.ends_within(&guarded, &dir, AT_ONCE).await.unwrap();
        assert_eq!(status.code(), Some(code), "{name}");
        window_ended(&world, cause).await;
        window_settled(&world).await;
    }

    let dir = world.job_dir("command-killed");
    let inside = Inside::enter(&world, &guarded, &dir).await;
    kill(inside.command, Signal::SIGKILL).unwrap();
    let status = inside.ends_within(&guarded, &dir, AT_ONCE).await.unwrap();
    assert_eq!(status.code(), Some(128 + 9));
    window_ended(&world, "failed").await;

    let dir = world.job_dir("run-killed");
    let inside = Inside::enter(&world, &guarded, &dir).await;
    kill(Pid::from_raw(inside.run.id().unwrap() as i32), Signal::SIGKILL).unwrap();
    let command = inside.command;
    inside.ends_within(&guarded, &dir, AT_ONCE).await;
    eventually("the command to end with mayfly run", PATIENCE, async || {
        kill(command, None).is_err().then_some(())
    })
    .await;
    window_ended(&world, "failed").await;
    world.check_log();
}

// S47
#[tokio::test]
async fn a_daemonised_child_keeps_nothing() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(UNATTENDED).await;
    let guarded = world.guarded().await;
    let dir = world.job_dir("daemon");
    let script = "cp \"$MAYFLY_CERT_FILE\" stolen.pem && cp \"$MAYFLY_KEY_FILE\" stolen.key && \
                  setsid sh -c 'echo $$ > daemon; while :; do sleep 0.1; done' & \
                  while [ ! -s daemon ]; do sleep 0.05; done; exit 0";
    let status = world
        .run(&dir, &["--grace", "1s"], script)
        .spawn()
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert!(status.success(), "{status:?}");
    let daemon: i32 = std::fs::read_to_string(dir.join("daemon"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    eventually("the daemon to be ended", PATIENCE, async || {
        kill(Pid::from_raw(daemon), None).is_err().then_some(())
    })
    .await;
    let outcome = curl(&guarded, &dir, "/").output().await.unwrap();
    assert!(!outcome.status.success(), "{outcome:?}");
    window_ended(&world, "completed").await;
    world.check_log();
}

// S45, S46
#[tokio::test]
async fn the_death_of_the_agent_or_of_the_server_ends_the_authority_within_the_lease() {
    let _lane = Lane::shared();
    let mut world = TaskWorld::start(UNATTENDED).await;
    let guarded = world.guarded().await;

    let dir = world.job_dir("agent-killed");
    let inside = Inside::enter(&world, &guarded, &dir).await;
    world.agent.daemon.kill();
    std::fs::write(dir.join("end"), "0").unwrap();
    inside.ends_within(&guarded, &dir, AFTER_THE_LEASE).await;
    world.agent.daemon.start();
    world.agent.wait_ready().await;
    eventually("the window to be over at the server", PATIENCE, async || {
        let window = newest_window(&world).await;
        (window["stage"].as_str() != Some("open")).then_some(())
    })
    .await;

    let dir = world.job_dir("server-killed");
    let inside = Inside::enter(&world, &guarded, &dir).await;
    world.server.daemon.kill();
    std::fs::write(dir.join("end"), "0").unwrap();
    inside.ends_within(&guarded, &dir, AFTER_THE_LEASE).await;
    world.server.daemon.start();
    world.server.wait_ready().await;
    window_ended(&world, "completed").await;
    window_settled(&world).await;
    world.check_log();
}
