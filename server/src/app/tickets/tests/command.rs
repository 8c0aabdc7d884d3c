//! Real programs.

use std::path::Path;

use super::*;

/// Long enough for a program to begin, on a machine that is busy.
const SOON: Duration = Duration::from_secs(2);

/// A shell that runs `script`; the reference is its `$0`.
fn shell(script: &str, timeout: Duration) -> Arc<dyn TicketChecker> {
    let argv = ["/bin/sh", "-c", script].map(String::from);
    made(TicketSource::Command(argv.into()), timeout)
}

async fn check(script: &str) -> TicketState {
    shell(script, TIMEOUT).check("CHG-1").await
}

/// Whether the process is there and no mere entry that nobody collected.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some(Some('Z' | 'X')))
}

async fn written(path: &Path) -> String {
    let look = async {
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(TIMEOUT, look).await.expect("it began")
}

async fn dies(pid: &str) {
    let gone = async {
        while lives(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, gone).await.expect("it was killed");
}

#[tokio::test]
async fn a_program_gets_the_reference_as_its_last_argument_and_no_shell_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let trap = dir.path().join("trap");
    let reference = format!("CHG-1;touch${{IFS}}{0};$(>{0})", trap.display());
    let answer = r#"printf '{"open": true, "kind": "%s", "owner": "alice", "expires": 1800000060}' "$0""#;
    let state = shell(answer, TIMEOUT).check(&reference).await;
    assert_eq!(state.kind, reference);
    assert!(state.present && state.open && state.problem.is_empty());
    assert_eq!(state.owner.as_deref(), Some("alice"));
    assert_eq!(state.expires, Some(Timestamp::from_unix(1_800_000_060)));
    assert!(!trap.exists());
}

#[tokio::test]
async fn a_program_sees_nothing_of_the_servers_environment_and_reads_no_input() {
    let script = r#"test -z "$(tr '\0' x </proc/$$/environ)" && test "$(pwd)" = / && test -z "$(cat)" &&
                    echo '{"open": true}'"#;
    assert_eq!(check(script).await.problem, "");
}

#[tokio::test]
async fn what_a_program_does_not_say_is_not_open() {
    for (script, why) in [
        ("echo '{\"open\": false}'", "not open"),
        ("echo '{\"present\": false, \"open\": false}'", "no such ticket"),
        ("echo '{\"open\": true}'; exit 3", "exit status: 3"),
        ("echo '{\"open\": true}'; kill -9 $$", "signal: 9"),
        ("exit 0", "cannot be read"),
        ("echo yes", "cannot be read"),
        ("echo '{\"open\": true}'; echo '{\"open\": true}'", "cannot be read"),
        ("echo '{\"open\": true}' >&2", "cannot be read"),
        ("head -c 70000 /dev/zero", "longer than"),
    ] {
        let state = check(script).await;
        assert!(!state.open && state.problem.contains(why), "{script}: {state:?}");
    }
    let none = made(TicketSource::Command(vec!["/nowhere/tickets".into()]), TIMEOUT);
    let state = none.check("CHG-1").await;
    assert!(
        !state.open && state.problem.contains("could not be started"),
        "{state:?}"
    );
}

#[tokio::test]
async fn a_program_that_complains_at_length_is_heard_to_its_end() {
    let state = check("head -c 1000000 /dev/zero >&2; echo '{\"open\": true}'").await;
    assert!(state.open, "{state:?}");
}

// S40: a tracker that hangs opens nothing, and leaves nothing behind.
#[tokio::test]
async fn a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $$ $! > {}; sleep 1000", pids.display());
    let state = shell(&script, SOON).check("CHG-1").await;
    assert!(!state.open && state.problem.contains("2000 ms"), "{state:?}");
    for pid in written(&pids).await.split(' ') {
        dies(pid).await;
    }
}

#[tokio::test]
async fn a_child_that_outlives_the_program_and_holds_its_output_is_killed_too() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $! > {}; echo '{{\"open\": true}}'", pids.display());
    let state = shell(&script, SOON).check("CHG-1").await;
    assert!(!state.open && state.problem.contains("did not answer"), "{state:?}");
    dies(&written(&pids).await).await;
}

#[tokio::test]
async fn a_question_that_is_given_up_kills_its_program() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $$ $! > {}; sleep 1000", pids.display());
    let checker = shell(&script, TIMEOUT);
    let begun = async {
        tokio::select! {
            _ = checker.check("CHG-1") => panic!("it answers nothing"),
            pids = written(&pids) => pids,
        }
    };
    for pid in begun.await.split(' ') {
        dies(pid).await;
    }
}
