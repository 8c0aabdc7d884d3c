//! How it ends, and with which exit code.

use std::time::Duration;

use mayfly_proto::mayfly::workload::Stage;
use nix::sys::signal::Signal;
use tonic::Status;

use crate::agent::Agent;
use crate::{start, start_command, start_program, written};

#[tokio::test]
async fn the_exit_code_is_that_of_the_command_and_the_agent_is_told_how_it_ended() {
    for (script, code, told) in [
        ("echo done", 0, "complete exit status 0"),
        ("exit 7", 7, "fail exit status 7"),
        ("kill -TERM $$", 143, "fail killed by SIGTERM"),
        ("kill -KILL $$", 137, "fail killed by SIGKILL"),
        ("kill -35 $$", 163, "fail killed by signal 35"),
        ("exit 255", 255, "fail exit status 255"),
    ] {
        let agent = Agent::start(Stage::Armed).await;
        let ran = start(&agent, &[], script).end().await;
        assert_eq!(ran.code, code, "{script}: {ran:?}");
        assert_eq!(
            agent.calls().iter().filter(|call| *call == told).count(),
            1,
            "{:?}",
            agent.calls()
        );
        assert!(
            agent.calls().contains(&"open r1 true".to_owned()),
            "{:?}",
            agent.calls()
        );
        assert_eq!(ran.err, "", "nobody has to know more");
    }
}

#[tokio::test]
async fn stdin_stdout_and_arguments_are_the_commands() {
    let agent = Agent::start(Stage::Armed).await;
    let args = ["printf", "%s|", "-jar", "--task", "a b", "", "--", "-v"];
    let ran = start_command(&agent, &[], &args, &[]).end().await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "-jar|--task|a b||--|-v|"));
}

#[tokio::test]
async fn what_is_asked_for_is_what_was_typed() {
    let agent = Agent::start(Stage::Armed).await;
    let options = "--ticket OPS-7 --for 10m --param order=4711 --param dry=yes --scope read --scope write --key k";
    let options: Vec<&str> = options.split(' ').collect();
    let ran = start(&agent, &options, "true").end().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let asked = r#"request pay/db-migrate release 41 OPS-7 600 ["read", "write"] {"dry": "yes", "order": "4711"} k"#;
    assert_eq!(agent.calls()[0], asked);
}

#[tokio::test]
async fn a_refusal_has_its_own_code_and_says_why() {
    let agent = Agent::start(Stage::Denied).await;
    let ran = start(&agent, &[], "touch $D/ran").end().await;
    assert_eq!(ran.code, 120, "{ran:?}");
    assert!(
        ran.err
            .contains("pay/db-migrate is refused: not from this node (environment-mismatch)"),
        "{}",
        ran.err
    );
    assert!(!agent.dir().join("ran").exists());
}

#[tokio::test]
async fn a_missing_agent_has_its_own_code() {
    let mut agent = Agent::start(Stage::Armed).await;
    agent.stop();
    let ran = start(&agent, &[], "touch $D/ran").end().await;
    assert_eq!(ran.code, 121, "{ran:?}");
    assert!(ran.err.contains("cannot reach the agent"), "{}", ran.err);
    assert!(!agent.dir().join("ran").exists());
}

#[tokio::test]
async fn a_window_that_does_not_open_has_its_own_code() {
    let agent = Agent::start(Stage::Armed).await;
    agent.refuse_open(Status::failed_precondition("its ticket is closed"));
    let ran = start(&agent, &[], "touch $D/ran").end().await;
    assert_eq!(ran.code, 122, "{ran:?}");
    assert!(ran.err.contains("its ticket is closed"), "{}", ran.err);
    for stage in [Stage::Lapsed, Stage::Closed, Stage::Open] {
        let agent = Agent::start(stage).await;
        let ran = start(&agent, &[], "touch $D/ran").end().await;
        assert_eq!(ran.code, 122, "{stage:?}: {ran:?}");
        assert!(ran.err.contains("--key"), "{}", ran.err);
    }
    // Policy has changed its mind between request and opening.
    let agent = Agent::start(Stage::Armed).await;
    agent.refuse_open(Status::permission_denied("policy-changed"));
    assert_eq!(start(&agent, &[], "touch $D/ran").end().await.code, 120);
    assert!(!agent.dir().join("ran").exists());
}

#[tokio::test]
async fn a_window_without_an_identity_is_given_back() {
    let agent = Agent::start(Stage::Armed).await;
    agent.without_identity();
    let ran = start(&agent, &["--timeout", "1"], "touch $D/ran").end().await;
    assert_eq!(ran.code, 122, "{ran:?}");
    assert!(agent.calls().contains(&"fail the command was not started".to_owned()));
    assert!(!agent.dir().join("ran").exists());
}

#[tokio::test]
async fn a_command_that_is_not_there_is_found_before_anything_is_asked() {
    let agent = Agent::start(Stage::Armed).await;
    for (command, code) in [("surely-no-such-command", 127), ("/etc/passwd", 126)] {
        let ran = start_command(&agent, &[], &[command], &[]).end().await;
        assert_eq!(ran.code, code, "{ran:?}");
    }
    assert!(agent.calls().is_empty());
    // What only the kernel can tell is told by the same code.
    let script = agent.dir().join("script");
    std::fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ran = start_command(&agent, &[], &[script.to_str().unwrap()], &[]).end().await;
    assert_eq!(ran.code, 127, "{ran:?}");
    assert!(agent.calls().contains(&"fail exit status 127".to_owned()));
}

#[tokio::test]
async fn a_window_that_ends_early_ends_the_command_and_takes_the_files_first() {
    // (script, seconds that it may take at most)
    let polite = "trap 'ls -A ${MAYFLY_KEY_FILE%/*} >$D/files; test -e $MAYFLY_KEY_FILE; echo $? >$D/key; exit 5' TERM
        echo up >$D/up; while :; do sleep 0.05; done";
    let stubborn = "trap '' TERM; echo up >$D/up; while :; do sleep 0.05; done";
    for (script, is_polite) in [(polite, true), (stubborn, false)] {
        let agent = Agent::start(Stage::Armed).await;
        let run = start(&agent, &["--grace", "1s"], script);
        written(&agent, "up").await;
        agent.set(Stage::Closed, &["revoked"]);
        let ran = run.end().await;
        assert_eq!(ran.code, 123, "{ran:?}");
        let said = "the window of pay/db-migrate ended before the command: revoked";
        assert!(ran.err.contains(said), "{}", ran.err);
        if is_polite {
            assert_eq!(
                written(&agent, "key").await,
                "1",
                "the key was there when the command was told to end"
            );
        }
        assert!(!agent.calls().iter().any(|call| call.starts_with("complete")));
    }
}

#[tokio::test]
async fn a_window_ends_at_its_time_also_without_an_agent() {
    let mut agent = Agent::start(Stage::Armed).await;
    agent.window(Duration::from_secs(3));
    let run = start(&agent, &[], "echo up >$D/up; exec sleep 600");
    written(&agent, "up").await;
    agent.stop();
    let ran = run.end().await;
    assert_eq!(ran.code, 123, "{ran:?}");
    assert!(ran.err.contains("its time is over"), "{}", ran.err);
    assert!(ran.err.contains("the agent is away"), "{}", ran.err);
}

#[tokio::test]
async fn an_agent_that_was_started_anew_is_found_again() {
    let mut agent = Agent::start(Stage::Armed).await;
    let run = start(
        &agent,
        &[],
        "echo up >$D/up; while ! test -e $D/go; do sleep 0.05; done; cat $MAYFLY_CERT_FILE",
    );
    written(&agent, "up").await;
    let watches = |agent: &Agent| agent.calls().iter().filter(|call| *call == "watch").count();
    let before = watches(&agent);
    agent.stop();
    run.said("the agent is away").await;
    agent.serve();
    crate::until("it follows again", || watches(&agent) > before).await;
    std::fs::write(agent.dir().join("go"), "").unwrap();
    let ran = run.end().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("BEGIN CERTIFICATE"));
    assert!(agent.calls().contains(&"complete exit status 0".to_owned()));
}

#[tokio::test]
async fn an_agent_that_lost_the_window_ends_the_command() {
    let mut agent = Agent::start(Stage::Armed).await;
    let run = start(&agent, &[], "echo up >$D/up; exec sleep 600");
    written(&agent, "up").await;
    agent.stop();
    agent.forget();
    agent.serve();
    let ran = run.end().await;
    assert_eq!(ran.code, 123, "{ran:?}");
    assert!(ran.err.contains("does not know it any more"), "{}", ran.err);
}

#[tokio::test]
async fn an_agent_that_is_away_at_the_end_holds_nobody_up() {
    let mut agent = Agent::start(Stage::Armed).await;
    let run = start(
        &agent,
        &[],
        "echo up >$D/up; while ! test -e $D/go; do sleep 0.05; done; exit 3",
    );
    written(&agent, "up").await;
    agent.stop();
    std::fs::write(agent.dir().join("go"), "").unwrap();
    let ran = run.end().await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("the agent was not told of the end"), "{}", ran.err);
}

#[tokio::test]
async fn each_remark_is_a_document_where_json_is_wanted() {
    let agent = Agent::start(Stage::Armed).await;
    let ran = start(&agent, &["--output", "json", "-v"], "true").end().await;
    let lines: Vec<serde_json::Value> = ran
        .err
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let open = lines.iter().find(|line| line["event"] == "open").unwrap();
    assert_eq!(
        (open["window_id"].as_str(), open["stage"].as_str()),
        (Some("w-1"), Some("open"))
    );
    let ran = start(&Agent::start(Stage::Denied).await, &["--output", "json"], "true")
        .end()
        .await;
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(
        (error["error"]["code"].as_str(), error["error"]["exit_code"].as_i64()),
        (Some("REFUSED"), Some(120))
    );
}

#[tokio::test]
async fn a_signal_before_the_command_gives_the_window_back() {
    let agent = Agent::start(Stage::Armed).await;
    agent.without_identity();
    let run = start(&agent, &[], "touch $D/ran");
    agent.called("fetch").await;
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end().await.code, 143);
    assert!(agent.calls().contains(&"fail the command was not started".to_owned()));
    assert!(!agent.dir().join("ran").exists());
}

#[tokio::test]
async fn signs_of_life_are_given() {
    let agent = Agent::start(Stage::Armed).await;
    let run = start(&agent, &[], "exec sleep 600");
    agent.called("heartbeat").await;
    run.signal(Signal::SIGTERM);
    assert_eq!(run.end().await.code, 143);
}

#[tokio::test]
async fn who_was_told_to_ignore_hangups_does_so_with_its_command() {
    let agent = Agent::start(Stage::Armed).await;
    let mut nohup = tokio::process::Command::new("nohup");
    nohup.arg(env!("CARGO_BIN_EXE_mayfly"));
    let script = "echo up >$D/up; while ! test -e $D/go; do sleep 0.05; done";
    let run = start_program(&agent, nohup, &[], &["sh", "-c", script], &[]);
    written(&agent, "up").await;
    run.signal(Signal::SIGHUP);
    std::fs::write(agent.dir().join("go"), "").unwrap();
    assert_eq!(run.end().await.code, 0);
}

#[tokio::test]
async fn a_command_line_that_cannot_be_meant_is_refused_and_nothing_is_asked() {
    let agent = Agent::start(Stage::Armed).await;
    for (options, said) in [
        (&["--param", "order"][..], "write it as key=value"),
        (&["--param", "Order=1"], "a key consists of"),
        (&["--param", "a=1", "--param", "a=2"], "--param a is given twice"),
        (&["--rotate-signal", "NOPE"], "write it as HUP or USR1"),
        (&["--for", "0"], "1 s or longer"),
        (&["--no-files", "--files-on-disk"], "cannot be used with"),
        (&["--as", "batch"], "write it as spiffe://example.org/web"),
        (&["--in-child", "{}"], "this option is for `mayfly run` itself"),
    ] {
        let ran = start(&agent, options, "touch $D/ran").end().await;
        assert_eq!(ran.code, 2, "{options:?}: {ran:?}");
        assert!(ran.err.contains(said), "{options:?}: {}", ran.err);
    }
    assert!(agent.calls().is_empty() && !agent.dir().join("ran").exists());
    // A program that pretends to be its own parent is none.
    let stage = r#"{"parent":1,"cgroup":null,"terminal":false,"verbose":false,"json":false}"#;
    let ran = start(&agent, &["--in-child", stage], "touch $D/ran").end().await;
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(!agent.dir().join("ran").exists());
}

#[tokio::test]
async fn a_second_run_of_the_same_command_line_is_another_request() {
    let agent = Agent::start(Stage::Armed).await;
    for id in ["open r1 true", "open r2 true"] {
        assert_eq!(start(&agent, &[], "true").end().await.code, 0);
        assert!(agent.calls().contains(&id.to_owned()), "{:?}", agent.calls());
    }
    // With a key it is the same, whatever became of it.
    assert_eq!(start(&agent, &["--key", "k"], "true").end().await.code, 0);
    let ran = start(&agent, &["--key", "k"], "touch $D/ran").end().await;
    assert_eq!(ran.code, 122, "{ran:?}");
    assert!(ran.err.contains("request r3 is over: completed"), "{}", ran.err);
    assert!(!agent.dir().join("ran").exists());
}
