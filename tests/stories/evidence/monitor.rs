//! `mayfly audit monitor`: what happens is told, a log that is not the same is found out, and who reads names is on record.

use std::fs;
use std::process::Stdio;

use mayfly_tests::binaries::binary;
use mayfly_tests::cli::Cli;
use mayfly_tests::{Server, eventually};
use serde_json::Value;
use tokio::process::Command;

use super::cli::{PATIENCE, copy_all, text, verify};

#[tokio::test]
async fn alerts_are_told_as_they_happen_and_go_on_where_they_stopped() {
    let mut server = Server::start().await;
    let cli = Cli::new(&server.socket());
    let (told, state) = (server.dir().join("told"), server.dir().join("state"));
    let exec = format!("cat >> {}", told.display());
    let socket = server.socket();
    let monitor = |alerts: &str| {
        let mut command = Command::new(binary("mayfly"));
        command
            .arg("--server-socket")
            .arg(&socket)
            .args([
                "audit",
                "monitor",
                "--state",
                text(&state),
                "--exec",
                &exec,
                "--alerts",
                alerts,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().unwrap()
    };
    let alerts = || {
        let text = fs::read_to_string(&told).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|line| line["alert"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = monitor("2");
    eventually("the monitor to begin", PATIENCE, async || state.exists().then_some(())).await;
    let rotated = cli.json(&["audit", "rotate-key", "--reason", "a story"]).await;
    eventually("the first alert", PATIENCE, async || {
        (alerts().len() == 1).then_some(())
    })
    .await;
    // The server goes away and comes back.
    server.restart().await;
    cli.json(&["audit", "rotate-key", "--reason", "once more"]).await;
    let output = tokio::time::timeout(PATIENCE, first.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("ALERT key"),
        "{output:?}"
    );
    // Nobody watches, and something happens.
    cli.json(&["audit", "erase", "--value", "once more", "--reason", "a third time"])
        .await;
    let second = monitor("1");
    tokio::time::timeout(PATIENCE, second.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(alerts(), ["key", "key", "erasure"]);

    // Who knows only the first key still gets a log that they can check: the log names the others.
    let copy = server.dir().join("copy");
    cli.json(&["audit", "export", text(&copy)]).await;
    let keys = server.dir().join("keys");
    fs::write(&keys, rotated["key"].as_str().unwrap()).unwrap();
    let (code, found) = verify(&copy, &keys).await;
    assert_eq!(code, Some(0), "{found:#}");
}

/// `mayfly audit monitor` with its output kept.
fn monitor(server: &Server, words: &[&str]) -> Command {
    let mut command = Command::new(binary("mayfly"));
    command
        .arg("--server-socket")
        .arg(server.socket())
        .args(["audit", "monitor"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn ended(monitor: tokio::process::Child) -> (Option<i32>, String) {
    let output = tokio::time::timeout(PATIENCE, monitor.wait_with_output())
        .await
        .expect("the monitor ends")
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_monitor_finds_out_a_log_that_was_taken_back_changed_or_signed_by_another_key() {
    let mut server = Server::start().await;
    let cli = Cli::new(&server.socket());
    let (data, backup, state) = (
        server.dir().join("server"),
        server.dir().join("backup"),
        server.dir().join("state"),
    );
    let told = server.dir().join("told");
    let exec = format!("cat >> {}", told.display());
    let keys = cli.json(&["audit", "keys"]).await;
    let key = keys["keys"][0].as_str().unwrap().to_owned();
    // The key of another log.
    let other = Server::start().await;
    let others = Cli::new(&other.socket()).json(&["audit", "keys"]).await;
    let foreign = monitor(&server, &["--key", others["keys"][0].as_str().unwrap()]);
    let (code, said) = ended({ foreign }.spawn().unwrap()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no key that is known has signed"), "{said}");
    drop(other);

    server.daemon.stop();
    copy_all(&data, &backup);
    server.daemon.start();
    server.wait_ready().await;
    for _ in 0..20 {
        server.admin().token().await;
    }
    let words = ["--state", text(&state), "--key", &key, "--exec", &exec];
    let first = monitor(&server, &[&words[..], &["--alerts", "1"]].concat())
        .spawn()
        .unwrap();
    eventually("the monitor to begin", PATIENCE, async || state.exists().then_some(())).await;
    cli.json(&["audit", "rotate-key", "--reason", "a story"]).await;
    let (code, said) = ended(first).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("TRUSTING"), "{said}");

    // Taken back with all that belongs to it: the server cannot know.
    let kept = fs::read(&state).unwrap();
    server.daemon.stop();
    fs::remove_dir_all(&data).unwrap();
    copy_all(&backup, &data);
    server.daemon.start();
    server.wait_ready().await;
    let (code, said) = ended(monitor(&server, &words).spawn().unwrap()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("ALERT log_not_the_same") && said.contains("SHORTER"),
        "{said}"
    );
    for _ in 0..60 {
        server.admin().token().await;
    }
    eventually("a checkpoint over all of them", PATIENCE, async || {
        let note = fs::read_to_string(data.join("log/checkpoint")).ok()?;
        let size = note.lines().nth(1)?.parse::<u64>().ok()?;
        (size > 60).then_some(())
    })
    .await;
    let (code, said) = ended(monitor(&server, &words).spawn().unwrap()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FORKED"), "{said}");
    println!("{said}");
    assert_eq!(fs::read(&state).unwrap(), kept, "what was known stays known");
    assert!(state.with_extension("refused").exists(), "what was shown is kept");
    let alerts = fs::read_to_string(&told).unwrap();
    assert_eq!(alerts.matches("log_not_the_same").count(), 2, "{alerts}");
    // Who begins anew takes it, and says by which key.
    let fresh = server.dir().join("fresh");
    let anew = monitor(&server, &["--alerts", "1", "--state", text(&fresh)]);
    let anew = { anew }.spawn().unwrap();
    eventually("the monitor to begin", PATIENCE, async || fresh.exists().then_some(())).await;
    cli.json(&["audit", "rotate-key", "--reason", "a story"]).await;
    let (code, said) = ended(anew).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("TRUSTING the key"), "{said}");
}

#[tokio::test]
async fn who_reads_names_is_on_record_or_reads_nothing() {
    let server = Server::start().await;
    let cli = Cli::new(&server.socket());
    let copy = |name: &str| server.dir().join(name);
    server.admin().token().await;
    let from = ["--from", "0", "--kind", "private-read", "--alerts", "2", "--names"];
    let watching = monitor(&server, &from).spawn().unwrap();
    cli.json(&["audit", "export", text(&copy("sealed"))]).await;
    cli.json_lines(&["audit", "tail", "--sealed"]).await;
    let read = ["audit", "search", "--kind", "private.read", "--sealed"];
    assert_eq!(cli.json_lines(&read).await, Vec::<Value>::new());
    for _ in 0..3 {
        cli.json(&["audit", "export", text(&copy("private")), "--private"])
            .await;
    }
    cli.json_lines(&["audit", "search", "--kind", "token"]).await;
    let said = cli.json_lines(&read).await;
    let what: Vec<_> = said
        .iter()
        .map(|entry| entry["body"]["what"].as_str().unwrap())
        .collect();
    assert_eq!(
        what,
        ["export", "search"],
        "one for each question in a minute: {said:?}"
    );
    assert!(said[0]["who"]["commitment"].is_string() && said[0]["body"]["values"].as_u64() > Some(0));
    let (code, told) = ended(watching).await;
    assert_eq!(
        (code, told.matches("ALERT private_read").count()),
        (Some(0), 2),
        "{told}"
    );
    // The copy has the entry about itself.
    let (code, found) = verify(&copy("private"), &copy("private").join("keys")).await;
    assert_eq!(code, Some(0), "{found:#}");

    // What cannot be recorded is not read.
    let server = Server::start().await;
    let cli = Cli::new(&server.socket());
    let copy = |name: &str| server.dir().join(name);
    let database = rusqlite::Connection::open(server.dir().join("server/server.db")).unwrap();
    database
        .execute_batch(
            "CREATE TRIGGER refuses BEFORE INSERT ON log WHEN NEW.kind = 'private.read'
             BEGIN SELECT RAISE(ABORT, 'it cannot be written'); END",
        )
        .unwrap();
    let refused = cli.run(&["audit", "export", text(&copy("refused")), "--private"]).await;
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(!copy("refused").join("private.jsonl").exists());
    let refused = cli.run(&["audit", "search", "--kind", "agent"]).await;
    assert!(refused.code != Some(0) && refused.stdout.is_empty(), "{refused:?}");
    cli.json(&["audit", "export", text(&copy("refused"))]).await;
    cli.json_lines(&["audit", "search", "--kind", "token", "--sealed"])
        .await;
}
