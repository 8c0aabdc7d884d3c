//! Whole command lines against the fake server.

use mayfly_proto::mayfly::task::RevokeRequest;
use mayfly_proto::mayfly::task::revoke_request::Scope;
use tonic::Status;

use crate::testing::tasks::{EXPORT, EXPORTER, done, open, request};
use crate::testing::{AGENT, Fake};

const WHY: [&str; 2] = ["--reason", "CHG-81, as planned"];

async fn waiting() -> Fake {
    let fake = Fake::start().await;
    let hash = fake.define(EXPORT);
    fake.state().tasks = vec![request("r2", &hash), open("r1", &hash), done("r0", &hash)];
    fake
}

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(more).copied().collect()
}

#[tokio::test]
async fn definitions_are_checked_here_with_every_fault_and_its_line() {
    let fake = Fake::start().await;
    let long = fake.file(
        "long.toml",
        &EXPORT.replace("\"15m\"", "\"9h\"").replace("count = 2", "count = 0"),
    );
    let slip = fake.file("slip.toml", &EXPORT.replace("owner", "ownr"));
    let twice = fake.file("twice.toml", EXPORT);
    let good = fake.file("good.toml", EXPORT);
    let ran = fake.mayfly(&["task", "define", &long, &slip, &twice, &good]).await;
    insta::assert_snapshot!("faults", ran.text());
    assert!(fake.state().calls.is_empty());
}

#[tokio::test]
async fn a_definition_comes_into_force_is_shown_and_stays_when_it_is_the_same() {
    let fake = Fake::start().await;
    let file = fake.file("export.toml", EXPORT);
    let checked = fake.mayfly(&["task", "define", "--check", &file]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(fake.state().calls.is_empty());
    let defined = fake.mayfly(&with(&["task", "define", &file], &WHY)).await;
    insta::assert_snapshot!("defined", defined.text());
    assert_eq!(fake.last_reason().as_deref(), Some("CHG-81, as planned"));
    let again = fake.mayfly(&["task", "define", &file, "--output", "json"]).await.json();
    assert_eq!(again["results"][0]["unchanged"], true);
    insta::assert_snapshot!("definitions", fake.mayfly(&["task", "list"]).await.text());
    insta::assert_snapshot!("definition", fake.mayfly(&["task", "show", "pay/export"]).await.text());

    // What is shown can be defined again, and is the same.
    let text = fake.mayfly(&["task", "show", "pay/export", "--toml"]).await.out;
    let shown = fake.file("shown.toml", &text);
    let same = fake.mayfly(&["task", "define", &shown]).await;
    assert!(same.out.starts_with("unchanged  pay/export"), "{same:?}");
}

#[tokio::test]
async fn of_many_definitions_each_is_answered() {
    let fake = Fake::start().await;
    let one = fake.file("one.toml", EXPORT);
    let two = fake.file("two.toml", &EXPORT.replace("pay/export", "pay/import"));
    fake.state().refuse = Some(Status::permission_denied("not an owner of pay"));
    let refused = fake.mayfly(&["task", "define", &one, &two]).await;
    assert_eq!(refused.code, 1);
    assert_eq!(refused.err.matches("not an owner of pay").count(), 2, "{refused:?}");
    let refused = fake.mayfly(&["task", "define", &one]).await;
    assert_eq!(refused.code, 4, "{refused:?}");
    fake.state().refuse = None;
    let defined = fake.mayfly(&["task", "define", &one, &two, "--output", "json"]).await;
    assert_eq!(defined.json()["succeeded"], 2);
}

#[tokio::test]
async fn a_difference_says_what_gets_wider() {
    let fake = Fake::start().await;
    let first = fake.define(EXPORT);
    let wider = EXPORT
        .replace("\"15m\"", "\"2h\"")
        .replace("count = 2", "count = 1")
        .replace("\"ledger:read\"", "\"ledger:write\"");
    let file = fake.file("export.toml", &wider);
    let before = fake.mayfly(&["task", "diff", &file]).await;
    insta::assert_snapshot!("diff_of_a_file", before.text());
    let second = fake.define(&wider);
    let versions = fake
        .mayfly(&["task", "diff", "pay/export", &first[..12], &second, "--output", "json"])
        .await
        .json();
    assert_eq!(versions["differences"].as_array().unwrap().len(), 4);
    assert_eq!(versions["differences"][0]["effect"], "wider");
    let same = fake.mayfly(&["task", "diff", &file]).await;
    assert!(same.out.ends_with("They say the same.\n"), "{same:?}");
    let new = fake.file("new.toml", &EXPORT.replace("pay/export", "pay/new"));
    let new = fake.mayfly(&["task", "diff", &new]).await;
    assert!(new.out.contains("pay/new is new"), "{new:?}");
    let unknown = fake.mayfly(&["task", "diff", "pay/other", &first[..12]]).await;
    assert_eq!(unknown.code, 5, "{unknown:?}");
}

#[tokio::test]
async fn a_change_waits_for_a_second_person_who_sees_it_first() {
    let fake = Fake::start().await;
    fake.define(EXPORT);
    fake.state().two_person = true;
    let file = fake.file("export.toml", &EXPORT.replace("\"15m\"", "\"2h\""));
    let proposed = fake.mayfly(&["task", "define", &file]).await;
    insta::assert_snapshot!("proposed", proposed.text());
    insta::assert_snapshot!("proposals", fake.mayfly(&["task", "proposals"]).await.text());

    let unseen = fake.mayfly(&["task", "proposal", "approve", "p1"]).await;
    insta::assert_snapshot!("proposal_in_a_script", unseen.text());
    let left = fake.typing(&["task", "proposal", "approve", "p1"], "no").await;
    assert_eq!(left.code, 1);
    assert_eq!(fake.state().proposals[0].state, "pending");
    let other = "0".repeat(12);
    let other = fake
        .mayfly(&["task", "proposal", "approve", "p1", "--yes", "--hash", &other])
        .await;
    assert!(other.err.contains("this is not what was looked at"), "{other:?}");
    assert_eq!(fake.state().proposals[0].state, "pending");

    let approved = fake.typing(&["task", "proposal", "approve", "p1"], "yes\n").await;
    insta::assert_snapshot!("proposal_approved", approved.text());
    assert_eq!(fake.state().definitions.len(), 2);
    let empty = fake.mayfly(&["task", "proposals"]).await;
    assert_eq!(empty.out, "Nothing waits for a second person.\n");
    let missing = fake.mayfly(&["task", "proposal", "show", "p9"]).await;
    assert_eq!(missing.code, 5, "{missing:?}");
    let again = fake
        .mayfly(&["task", "proposal", "reject", "p1", "--reason", "too long"])
        .await;
    assert!(again.err.contains("it is approved already"), "{again:?}");
}

#[tokio::test]
async fn a_task_is_retired_with_its_reason() {
    let fake = Fake::start().await;
    fake.define(EXPORT);
    let without = fake.mayfly(&["task", "retire", "pay/export"]).await;
    assert!(
        without.code == 2 && without.err.contains("--reason <TEXT>"),
        "{without:?}"
    );
    let retired = fake.mayfly(&with(&["task", "retire", "pay/export"], &WHY)).await;
    assert!(retired.out.starts_with("retired  pay/export"), "{retired:?}");
    assert_eq!(fake.last_reason().as_deref(), Some("CHG-81, as planned"));
    assert!(
        fake.mayfly(&["task", "list"])
            .await
            .out
            .starts_with("No task is defined")
    );
    assert!(
        fake.mayfly(&["task", "list", "--retired"])
            .await
            .out
            .contains("(retired)")
    );
}

#[tokio::test]
async fn requests_are_listed_by_what_they_wait_for_and_shown_in_full() {
    let fake = waiting().await;
    insta::assert_snapshot!("requests", fake.mayfly(&["task", "requests"]).await.text());
    insta::assert_snapshot!(
        "requests_all",
        fake.mayfly(&["task", "requests", "--state", "all"]).await.text()
    );
    insta::assert_snapshot!("request", fake.mayfly(&["task", "request", "w-r1"]).await.text());
    let json = fake.mayfly(&["task", "request", "r1", "--output", "json"]).await.text();
    insta::assert_snapshot!("request_json", json);
    let count = async |args: &[&str]| {
        let ran = fake.mayfly(&with(args, &["--state", "all", "--output", "json"])).await;
        ran.json()["requests"].as_array().unwrap().len()
    };
    assert_eq!(count(&["task", "requests"]).await, 3);
    assert_eq!(count(&["task", "requests", "--task", "pay/other"]).await, 0);
    assert_eq!(count(&["task", "requests", "--workload", "/ns/pay/export"]).await, 3);
    assert_eq!(count(&["task", "requests", "--workload", EXPORTER]).await, 3);
    assert_eq!(count(&["task", "requests", "--workload", "/ns/pay"]).await, 0);
    assert_eq!(count(&["task", "requests", "--person", "erin"]).await, 0);

    // Page by page, and not more than asked for.
    fake.state().page = 1;
    assert_eq!(count(&["task", "requests"]).await, 3);
    let some = fake
        .mayfly(&["task", "requests", "--state", "all", "--limit", "2"])
        .await;
    assert_eq!((some.out.lines().count(), some.code), (3, 0));
    assert!(some.err.contains("There are more than 2"), "{some:?}");

    fake.state().tasks[2].review_due = true;
    let due = fake.mayfly(&["task", "requests", "--state", "review-due"]).await;
    assert!(due.out.lines().count() == 2 && due.out.contains("r0"), "{due:?}");
    let unknown = fake.mayfly(&["task", "request", "r9"]).await;
    assert!(
        unknown.code == 5 && unknown.err.contains("mayfly task requests"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn what_is_open_is_shown_with_why_and_how_long() {
    let fake = waiting().await;
    {
        let mut state = fake.state();
        let hash = state.definitions[0].hash.clone();
        let mut stuck = done("r3", &hash);
        stuck.windows[0].stage = "revocation_incomplete".into();
        stuck.windows[0].settled_at = 0;
        stuck.windows[0].waiting_for = vec!["ledger-proxy".into()];
        state.tasks.push(stuck);
    }
    insta::assert_snapshot!("now", fake.mayfly(&["task", "now"]).await.text());
    let json = fake.mayfly(&["task", "now", "--output", "json"]).await.json();
    assert_eq!(json["windows"][1]["seconds_left"], 300);
    assert_eq!(json["windows"][1]["approved_by"][1], "erin");

    let watched = fake
        .mayfly(&[
            "task",
            "now",
            "--watch",
            "--every",
            "1s",
            "--updates",
            "2",
            "--output",
            "json",
        ])
        .await;
    assert_eq!((watched.code, watched.out.lines().count()), (0, 2), "{watched:?}");
    fake.state().tasks.clear();
    assert_eq!(fake.mayfly(&["task", "now"]).await.out, "No window is open.\n");
}

#[tokio::test]
async fn an_approver_sees_what_he_agrees_to() {
    let fake = waiting().await;
    // r1 and r0 were approved under the same definition.
    let same = fake.typing(&with(&["task", "approve", "r2"], &WHY), "yes").await;
    insta::assert_snapshot!("approving", same.text());
    {
        let mut state = fake.state();
        assert_eq!(state.tasks[0].approvals[0].reason, "CHG-81, as planned");
        state.tasks[0].approvals.clear();
    }
    // Now it is a wider one.
    let hash = fake.define(&EXPORT.replace("\"15m\"", "\"2h\""));
    fake.state().tasks[0].definition_hash = hash;
    let changed = fake.typing(&with(&["task", "approve", "r2"], &WHY), "yes").await;
    insta::assert_snapshot!("approving_a_changed_definition", changed.text());
    // And one that nobody has approved before.
    fake.state().tasks.truncate(1);
    fake.state().tasks[0].approvals.clear();
    let first = fake.typing(&with(&["task", "approve", "r2"], &WHY), "y").await;
    insta::assert_snapshot!("approving_for_the_first_time_and_leaving_it", first.text());
    assert!(fake.state().tasks[0].approvals.is_empty());
}

#[tokio::test]
async fn a_script_approves_only_the_digest_that_somebody_looked_at() {
    let fake = waiting().await;
    let approve = with(&["task", "approve", "r2"], &WHY);
    let blind = fake.mayfly(&approve).await;
    insta::assert_snapshot!("approving_blindly", blind.text());
    let blind = fake.mayfly(&with(&approve, &["--yes"])).await;
    assert!(blind.code == 2 && blind.err.contains("--digest <HEX>"), "{blind:?}");
    // Nobody is asked where the answer would be JSON.
    let json = fake.typing(&with(&approve, &["--output", "json"]), "yes").await;
    assert_eq!(json.code, 2, "{json:?}");
    let other = fake
        .mayfly(&with(&approve, &["--yes", "--digest", "9c0e51d2b7ab"]))
        .await;
    assert!(
        other.code == 1 && other.err.contains("this is not what was looked at"),
        "{other:?}"
    );
    assert!(!fake.state().calls.contains(&"approve"));
    let approved = fake
        .mayfly(&with(&approve, &["--yes", "--digest", "9C0E51D2B7AA"]))
        .await;
    assert_eq!(
        approved.out,
        "approved  r2  pay/export  1 of 2 approvals, awaiting_approval\n"
    );
    let approved = fake
        .mayfly(&with(
            &approve,
            &["--yes", "--digest", "9c0e51d2b7aa", "--output", "json"],
        ))
        .await;
    assert_eq!(approved.json()["stage"], "armed");
}

#[tokio::test]
async fn a_refusal_and_the_smaller_ends_carry_their_reason() {
    let fake = waiting().await;
    unsettled(&fake);
    for (args, said) in [
        (&["task", "deny", "r2"][..], "denied  r2  pay/export  denied\n"),
        (&["task", "cancel", "r2"], "cancelled  r2  pay/export  cancelled\n"),
        (&["task", "suspend", "w-r1"], "suspended  r1  pay/export  consumed\n"),
        // The window of a request is found, as long as it is the only one.
        (&["task", "resume", "r1"], "resumed  r1  pay/export  consumed\n"),
        (&["task", "review", "w-r0"], "reviewed  r0  pay/export  consumed\n"),
        (&["task", "accept-risk", "r0"], "proposed  r0  pay/export  consumed\n"),
        (&["task", "accept-risk", "r0"], "accepted  r0  pay/export  consumed\n"),
    ] {
        let without = fake.mayfly(args).await;
        assert!(
            without.code == 2 && without.err.contains("--reason <TEXT>"),
            "{without:?}"
        );
        let ran = fake.mayfly(&with(args, &WHY)).await;
        assert_eq!((ran.out.as_str(), ran.code), (said, 0), "{ran:?}");
        assert_eq!(fake.last_reason().as_deref(), Some("CHG-81, as planned"));
    }
    assert_eq!(fake.state().last_text, "CHG-81, as planned");
    let unknown = fake.mayfly(&with(&["task", "suspend", "r9"], &WHY)).await;
    assert_eq!(unknown.code, 5);
    let none = fake.mayfly(&with(&["task", "resume", "r1"], &WHY)).await;
    assert!(
        none.code == 1 && none.err.contains("r1 has no window that is suspended"),
        "{none:?}"
    );
    {
        let windows = &mut fake.state().tasks[1].windows;
        windows.push(windows[0].clone());
        windows[1].id = "w-2".into();
    }
    let several = fake.mayfly(&with(&["task", "suspend", "r1"], &WHY)).await;
    assert!(
        several.code == 2 && several.err.contains("name one of them: w-r1, w-2"),
        "{several:?}"
    );
}

/// The window of `r0` could not be settled.
fn unsettled(fake: &Fake) {
    let window = &mut fake.state().tasks[2].windows[0];
    window.stage = "revocation_incomplete".into();
    window.settled_at = 0;
    window.settled_by.clear();
    window.acknowledged.clear();
}

#[tokio::test]
async fn a_request_shows_what_settled_its_window_and_who_accepted_that_nothing_did() {
    let fake = waiting().await;
    let show = async |args: &[&str]| fake.mayfly(&[&["task", "request", "r0"], args].concat()).await;
    let shown = show(&[]).await.out;
    for line in [
        "settled 2 days ago by its checkpoints, 1s after the end, at epoch 812",
        "/svc/pay-db: 2 consumers at epoch 815, 2 days ago",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let window = show(&["--output", "json"]).await.json()["requests"][0]["windows"][0].clone();
    assert_eq!(window["settled_by"], "enforced");
    assert_eq!(
        (
            &window["acknowledged"][0]["checkpoint"],
            &window["acknowledged"][0]["consumers"]
        ),
        (&"/svc/pay-db".into(), &2.into())
    );
    unsettled(&fake);
    let first = fake.mayfly(&with(&["task", "accept-risk", "r0"], &WHY)).await;
    assert!(first.err.contains("Proposed; a second person"), "{first:?}");
    let shown = show(&[]).await.out;
    assert!(
        shown.contains("ann accepted the risk") && shown.contains("a second person with the admin role has to"),
        "{shown}"
    );
    fake.mayfly(&with(&["task", "accept-risk", "r0"], &WHY)).await;
    let shown = show(&[]).await.out;
    assert!(
        shown.contains("two people accepted that nothing shows it") && shown.contains("bob accepted the risk"),
        "{shown}"
    );
    let window = show(&["--output", "json"]).await.json()["requests"][0]["windows"][0].clone();
    assert_eq!(window["settled_by"], "accepted");
    assert_eq!(window["risk_accepted"][1]["person"], "bob");
}

#[tokio::test]
async fn authority_is_revoked_in_each_scope_and_everything_is_asked_for() {
    let fake = waiting().await;
    let windows = |ids: &[&str]| ids.iter().map(|id| format!("ended  {id}\n")).collect::<String>();
    for (args, scope) in [
        (["--window", "w-r1"], Scope::WindowId("w-r1".into())),
        (["--serial", "1234567890"], Scope::Serial("1234567890".into())),
        (["--task", "pay/export"], Scope::Task("pay/export".into())),
        (["--workload", EXPORTER], Scope::Workload(EXPORTER.into())),
        (["--node", AGENT], Scope::Node(AGENT.into())),
    ] {
        fake.state().tasks[1].windows[0].stage = "open".into();
        let ran = fake.mayfly(&with(&with(&["task", "revoke"], &args), &WHY)).await;
        assert_eq!((ran.out, ran.code), (windows(&["w-r1"]), 0), "{args:?}: {}", ran.err);
        let sent = fake.state().revoked.pop().unwrap();
        assert_eq!(
            sent,
            RevokeRequest {
                scope: Some(scope),
                reason: "CHG-81, as planned".into(),
                hard_cut: false
            }
        );
    }
    fake.state().tasks[1].windows[0].stage = "open".into();
    let everything = with(&["task", "revoke", "--everything", "--hard-cut"], &WHY);
    let unasked = fake.mayfly(&everything).await;
    assert!(unasked.code == 2 && fake.state().revoked.is_empty(), "{unasked:?}");
    let left = fake.typing(&everything, "yes").await;
    assert!(left.code == 1 && fake.state().revoked.is_empty(), "{left:?}");
    let ran = fake.typing(&everything, "everything").await;
    insta::assert_snapshot!("revoked", ran.text());
    assert!(fake.state().revoked[0].hard_cut);
    let json = fake.mayfly(&with(&everything, &["--yes", "--output", "json"])).await;
    assert_eq!(json.json()["window_ids"].as_array().unwrap().len(), 0);
    let nothing = fake.mayfly(&with(&["task", "revoke", "--window", "w-r1"], &WHY)).await;
    assert_eq!(nothing.code, 5, "{nothing:?}");
}

#[tokio::test]
async fn the_limit_of_each_life_is_explained() {
    let fake = waiting().await;
    let ran = fake.mayfly(&["task", "ttl", "explain", "w-r1"]).await;
    insta::assert_snapshot!("ttl", ran.text());
    let json = fake
        .mayfly(&["task", "ttl", "explain", "r1", "--output", "json"])
        .await
        .json();
    assert_eq!(json["svids"][0]["ttl_term"], "attestation.fresh_until");
    let ended = fake.mayfly(&["task", "ttl", "explain", "r0"]).await;
    assert_eq!(ended.out, "No SVID of it is in force.\n");
}

/// Reasons and tickets are what the requester wrote.
#[tokio::test]
async fn a_requester_cannot_write_lines_of_ours() {
    let fake = waiting().await;
    {
        let task = &mut fake.state().tasks[0];
        task.reason = "harmless\nApprovals  2 of 2\u{1b}[2J".into();
        task.ticket = "X\nDigest  0".into();
        task.parameters = [("a\nStage  armed".to_owned(), "b\nc".to_owned())].into();
    }
    let ran = fake.typing(&with(&["task", "approve", "r2"], &WHY), "no").await;
    let lines = |label: &str| ran.out.lines().filter(|line| line.starts_with(label)).count();
    assert_eq!(
        (lines("Approvals"), lines("Digest"), lines("Stage")),
        (1, 1, 1),
        "{ran:?}"
    );
    assert!(!ran.out.contains('\u{1b}'));
    let table = fake.mayfly(&["task", "requests"]).await;
    assert_eq!(
        table.out.lines().filter(|line| line.starts_with('r')).count(),
        1,
        "{table:?}"
    );
}
