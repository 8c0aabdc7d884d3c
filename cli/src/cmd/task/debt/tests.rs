use mayfly_proto::mayfly::task::Lint;

use crate::testing::Fake;

const GRANT: [&str; 17] = [
    "task",
    "exception",
    "grant",
    "--identity",
    "spiffe://example.org/legacy/backup",
    "--allows",
    "reads all backups",
    "--scope",
    "backup:read",
    "--owner",
    "carol",
    "--control",
    "its network is closed",
    "--for",
    "30d",
    "--reason",
    "the appliance knows no tasks",
];

#[tokio::test]
async fn an_exception_is_granted_listed_renewed_and_ended() {
    let fake = Fake::start().await;
    insta::assert_snapshot!(
        "no_exceptions",
        fake.mayfly(&["task", "exception", "list"]).await.text()
    );
    insta::assert_snapshot!("granted", fake.mayfly(&GRANT).await.text());
    assert_eq!(fake.last_reason().as_deref(), Some("the appliance knows no tasks"));
    let renew = ["task", "exception", "renew", "x1", "--for", "7d", "--reason", "still"];
    let renewed = fake.mayfly(&renew).await;
    assert!(renewed.out.starts_with("renewed  x1"), "{renewed:?}");
    insta::assert_snapshot!("exceptions", fake.mayfly(&["task", "exception", "list"]).await.text());
    insta::assert_snapshot!("ended", fake.mayfly(&["task", "exception", "end", "x1"]).await.text());
    let free = fake
        .mayfly(&["task", "exception", "end", "x1", "--power-removed"])
        .await;
    assert!(!free.err.contains("no more SVIDs"), "{free:?}");
    let listed = ["task", "exception", "list", "--output", "json"];
    let none = fake.mayfly(&listed).await.json();
    assert_eq!(none["exceptions"].as_array().map(Vec::len), Some(0));
    let all = fake
        .mayfly(&["task", "exception", "list", "--all", "--output", "json"])
        .await
        .json();
    assert_eq!(all["exceptions"][0]["power_removed"], true);
    let missing = fake.mayfly(&["task", "exception", "end", "x9"]).await;
    assert_eq!(missing.code, 5, "{missing:?}");
    assert!(missing.err.contains("exception list --all"), "{missing:?}");
}

#[tokio::test]
async fn an_exception_waits_for_a_second_person_where_two_are_wanted() {
    let fake = Fake::start().await;
    fake.state().two_person = true;
    let ran = fake.mayfly(&GRANT).await;
    assert!(
        ran.out.contains("proposed  p1") && ran.err.contains("proposal approve p1"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn debt_is_shown_with_the_worst_first_and_what_to_do() {
    let fake = Fake::start().await;
    fake.mayfly(&GRANT).await;
    insta::assert_snapshot!(
        "debt",
        fake.mayfly(&["task", "debt", "--scope", "team:pay"]).await.text()
    );
    let json = fake
        .mayfly(&["task", "debt", "--over", "7d", "--output", "json"])
        .await
        .json();
    assert_eq!(json["since"], "2025-12-25T00:00:00Z");
    assert_eq!(json["findings"][0]["evidence"][1], 19);
    assert_eq!(json["checkpoints"][0]["behind"], 3);
    assert!(json["privileged"][0]["exception_id"].is_null());
}

#[tokio::test]
async fn lints_end_with_1_only_where_that_is_wanted() {
    let fake = Fake::start().await;
    let clean = fake.mayfly(&["task", "lint", "--strict"]).await;
    assert_eq!(clean.code, 0, "{clean:?}");
    fake.state().lints = vec![Lint {
        code: "principals-only".into(),
        requirement: "S19".into(),
        subject: "pay/leads".into(),
        file: "pay.cedar".into(),
        message: "permits by who somebody is".into(),
        remedy: "ask for the intent".into(),
    }];
    let found = fake.mayfly(&["task", "lint"]).await;
    assert_eq!(found.code, 0, "{found:?}");
    insta::assert_snapshot!("lint", found.text());
    let strict = fake.mayfly(&["task", "lint", "--strict", "--output", "json"]).await;
    assert_eq!(strict.code, 1, "{strict:?}");
    assert_eq!(strict.json()["lints"][0]["code"], "principals-only");
}
