//! Whole command lines against fakes in good and in bad health.

use tonic::Status;

use crate::testing::tasks::{EXPORT, done, open};
use crate::testing::{AGENT, Fake, NOW, agent, entry, mayfly};

const SERVER: &str = "spiffe://example.org/spire/server";

/// Codes and severities of all findings.
async fn findings(fake: &Fake) -> Vec<(String, String)> {
    let data_dir = fake.dir().to_str().unwrap().to_owned();
    let ran = fake
        .mayfly(&["doctor", "--output", "json", "--data-dir", &data_dir])
        .await;
    let json = ran.json();
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let all: Vec<_> = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (text(f, "severity"), text(f, "code")))
        .collect();
    let broken = all.iter().any(|(severity, _)| severity == "error");
    assert_eq!(ran.code, u8::from(broken));
    all
}

fn problems(findings: Vec<(String, String)>) -> Vec<String> {
    let disk = |code: &str| code.starts_with("DISK");
    findings
        .into_iter()
        .filter(|(severity, code)| severity != "ok" && !disk(code))
        .map(|(_, code)| code)
        .collect()
}

/// What a run wrote, without the disk: the machine that runs the tests may have a data folder of its own.
fn text(ran: &crate::testing::Ran) -> String {
    let text = ran.text();
    text.lines()
        .filter(|line| !line.contains("MiB free"))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[tokio::test]
async fn a_sound_installation_has_nothing_to_say() {
    let fake = Fake::start().await;
    fake.state()
        .entries
        .push(entry("e1", "spiffe://example.org/web", AGENT, &["unix:uid:1"]));
    assert_eq!(problems(findings(&fake).await), [""; 0]);
    insta::assert_snapshot!(text(&fake.mayfly(&["doctor"]).await));
}

#[tokio::test]
async fn each_fault_has_its_code() {
    let fake = Fake::start().await;
    {
        let mut state = fake.state();
        let mut gone = agent("spiffe://example.org/spire/agent/x509pop/gone", "x509pop", &[]);
        gone.x509svid_expires_at = NOW - 60;
        let mut banned = agent("spiffe://example.org/spire/agent/x509pop/bad", "x509pop", &[]);
        banned.banned = true;
        state.agents.extend([gone, banned]);
        let mut old = entry("old", "spiffe://example.org/old", AGENT, &["unix:uid:1"]);
        old.expires_at = NOW - 1;
        state.entries = vec![
            old,
            entry(
                "alias",
                "spiffe://example.org/racks",
                SERVER,
                &["x509pop:subject:cn:rack-7"],
            ),
            entry(
                "served",
                "spiffe://example.org/a",
                "spiffe://example.org/racks",
                &["unix:uid:1"],
            ),
            entry(
                "nested",
                "spiffe://example.org/b",
                "spiffe://example.org/a",
                &["unix:uid:1"],
            ),
            entry(
                "lonely-alias",
                "spiffe://example.org/none",
                SERVER,
                &["x509pop:subject:cn:nobody"],
            ),
            entry(
                "rests",
                "spiffe://example.org/c",
                "spiffe://example.org/spire/agent/x509pop/gone",
                &["unix:uid:1"],
            ),
            entry(
                "lost",
                "spiffe://example.org/d",
                "spiffe://example.org/nowhere",
                &["unix:uid:1"],
            ),
        ];
        state.ca.age = 7200;
    }
    let expected = [
        "AGENT_EXPIRED",
        "AGENT_BANNED",
        "ENTRY_PARENT_UNKNOWN",
        "ENTRY_UNSERVED",
        "ENTRY_UNSERVED",
        "ENTRY_EXPIRED",
        "SVID_EXPIRED",
    ];
    assert_eq!(problems(findings(&fake).await), expected);
    insta::assert_snapshot!(text(&fake.mayfly(&["doctor", "--server-only"]).await));
}

#[tokio::test]
async fn a_clock_that_is_behind_is_suspected() {
    let fake = Fake::start().await;
    fake.state().ca.age = -7200;
    assert_eq!(problems(findings(&fake).await), ["CLOCK_SKEW"]);
}

#[tokio::test]
async fn a_server_that_is_not_ready_or_refuses_is_told_apart() {
    let fake = Fake::start().await;
    fake.state().serving = false;
    assert_eq!(
        problems(findings(&fake).await),
        ["SERVER_NOT_READY", "AGENT_NOT_SYNCED"]
    );
    fake.state().serving = true;
    fake.state().refuse = Some(Status::permission_denied("no role"));
    assert_eq!(problems(findings(&fake).await), ["CALLER_WITHOUT_ROLE"]);
}

#[tokio::test]
async fn no_identity_for_the_caller_is_no_fault() {
    let fake = Fake::start().await;
    fake.state().workload = vec![Err(Status::permission_denied("no identity issued"))];
    assert_eq!(problems(findings(&fake).await), ["NO_IDENTITY"]);
}

#[tokio::test]
async fn nothing_there_is_two_errors_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut args: Vec<std::ffi::OsString> = vec!["doctor".into()];
    for name in ["--server-socket", "--agent-socket"] {
        args.extend([name.into(), dir.path().join("none.sock").into_os_string()]);
    }
    let ran = mayfly(args, Default::default(), dir.path()).await;
    insta::assert_snapshot!(text(&ran));
}

#[tokio::test]
async fn windows_that_could_not_be_settled_and_reviews_that_are_due_are_told() {
    let fake = Fake::start().await;
    let hash = fake.define(EXPORT);
    let mut reviewed_late = done("r1", &hash);
    reviewed_late.review_due = true;
    let mut stuck = done("r2", &hash);
    stuck.windows[0].stage = "revocation_incomplete".into();
    stuck.windows[0].waiting_for = vec!["ledger-proxy".into()];
    let mut ended = done("r3", &hash);
    ended.windows[0].stage = "closed".into();
    fake.state().tasks = vec![open("r0", &hash), reviewed_late, stuck, ended];
    assert_eq!(
        problems(findings(&fake).await),
        ["REVOCATION_INCOMPLETE", "WINDOW_UNSETTLED", "REVIEW_DUE"]
    );
    insta::assert_snapshot!(text(&fake.mayfly(&["doctor", "--server-only"]).await));
}
