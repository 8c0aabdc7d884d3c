//! Consumers are tried from outside, and what came of it is in the log and in the report.

use std::process::Stdio;
use std::time::Duration;

use mayfly_tests::daemon::free_port;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::tasks::{CHECKPOINT, TASK, TaskWorld, UNATTENDED};
use mayfly_tests::{EntrySpec, Lane, eventually};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

const OTHER: &str = "pay/other";

/// The operator's own process may run the tasks too, under a name of its own.
async fn world() -> TaskWorld {
    let for_prover = |definition: &str| definition.replace("/ns/pay/migrator", "/ns/pay/*");
    let world = TaskWorld::start(&for_prover(UNATTENDED)).await;
    world.define(&for_prover(UNATTENDED).replace(TASK, OTHER)).await;
    let prover = EntrySpec::new("/ns/pay/prover", world.agent.id(), &["unix:uid:0"]);
    world.server.admin().create(&prover).await;
    world
}

async fn prove(world: &TaskWorld, words: &[&str]) -> (Option<i32>, Value) {
    let socket = world.agent.socket();
    let (trust_domain, _) = world.agent.id().split_once("/spire/agent/").unwrap();
    let own = format!("{trust_domain}/ns/pay/prover");
    let mut all = vec!["--output", "json", "--agent-socket", socket.to_str().unwrap(), "prove"];
    all.extend(words);
    all.extend(["--as", &own]);
    let outcome = world.cli.run(&all).await;
    let answer = serde_json::from_str(&outcome.stdout);
    (
        outcome.code,
        answer.unwrap_or_else(|_| panic!("{}{}", outcome.stdout, outcome.stderr)),
    )
}

fn outcomes(answer: &Value) -> Vec<(String, String)> {
    let word = |probe: &Value, name: &str| probe[name].as_str().unwrap().to_owned();
    let probes = answer["probes"].as_array().unwrap().iter();
    probes
        .map(|probe| (word(probe, "kind"), word(probe, "outcome")))
        .collect()
}

// S82
#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_service_refuses_whatever_is_left_of_a_window_and_the_log_has_each_attempt() {
    let _lane = Lane::shared();
    let world = world().await;
    let guarded = world.guarded().await;
    let words = [
        "window",
        "--task",
        TASK,
        "--other",
        OTHER,
        "--connect",
        &guarded.address,
    ];
    let (code, answer) = prove(
        &world,
        &[&words[..], &["--checkpoint", CHECKPOINT, "--reason", "check"]].concat(),
    )
    .await;
    println!("{answer:#}");
    let expected = [
        ("none", "refused"),
        ("base", "refused"),
        ("other_window", "refused"),
        ("inside", "accepted"),
        ("connection", "cut"),
        ("canary", "refused"),
        ("resumption", "refused"),
    ];
    assert_eq!(
        outcomes(&answer),
        expected.map(|(kind, outcome)| (kind.to_owned(), outcome.to_owned()))
    );
    assert_eq!((code, &answer["failed"]), (Some(0), &0.into()));
    assert_eq!(Evidence::of(world.server.dir()).count("probe.finished"), expected.len());
    // The windows that were opened for it are closed like all others.
    world.check_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_asks_for_nothing_fails_the_attempts_and_that_is_on_record() {
    let _lane = Lane::shared();
    let world = world().await;
    let (folder, socket) = (world.server.dir().join("open"), world.agent.socket());
    let (folder, socket) = (folder.to_str().unwrap(), socket.to_str().unwrap());
    let outcome = world
        .cli
        .run(&["--agent-socket", socket, "svid", "fetch", "--write", folder])
        .await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let (cert, key) = (format!("{folder}/svid.0.pem"), format!("{folder}/svid.0.key"));
    let address = format!("127.0.0.1:{}", free_port());
    let _open = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &address, "-cert", &cert, "-key", &key])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("openssl to listen", Duration::from_secs(10), async || {
        TcpStream::connect(&address).await.ok()
    })
    .await;
    let (code, answer) = prove(&world, &["base", "--connect", &address, "--checkpoint", "open-door"]).await;
    let accepted = ["none", "base"].map(|kind| (kind.to_owned(), "accepted".to_owned()));
    assert_eq!(outcomes(&answer), accepted);
    assert_eq!((code, &answer["failed"]), (Some(1), &2.into()));
    assert_eq!(Evidence::of(world.server.dir()).count("probe.finished"), 2);
}
