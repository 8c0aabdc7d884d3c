//! Whole command lines against the fake server.

use mayfly_proto::mayfly::task::{Difference, PolicyFiles, WhatIfResponse};

use crate::testing::Fake;

const EXPORT: &str = "permit (principal, action, resource);\n// for exports\n";

/// A server with one policy file, and a folder with another form of it.
async fn with_policy() -> (Fake, String) {
    let fake = Fake::start().await;
    fake.state().policy = PolicyFiles {
        files: [("export.cedar".to_owned(), EXPORT.to_owned())].into(),
        digest: "ab".repeat(32),
        author: "carol".into(),
        set_at: crate::testing::NOW - 86_400 * 3,
    };
    let dir = fake.dir().join("policy");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("export.cedar"), EXPORT.replace("permit", "forbid")).unwrap();
    std::fs::write(dir.join("import.cedar"), EXPORT).unwrap();
    let dir = dir.to_str().unwrap().to_owned();
    (fake, dir)
}

#[tokio::test]
async fn the_policy_is_shown_and_can_be_written_to_be_set_again() {
    let (fake, _) = with_policy().await;
    insta::assert_snapshot!("shown", fake.mayfly(&["policy", "show"]).await.text());
    let out = fake.dir().join("out");
    let written = fake.mayfly(&["policy", "show", "--out", out.to_str().unwrap()]).await;
    assert_eq!(written.code, 0, "{written:?}");
    assert_eq!(std::fs::read_to_string(out.join("export.cedar")).unwrap(), EXPORT);
    let set = fake.mayfly(&["policy", "set", out.to_str().unwrap()]).await;
    assert!(set.out.contains("every file is as it was"), "{set:?}");
    fake.state().policy.files = [("../x".to_owned(), String::new())].into();
    let evil = fake.mayfly(&["policy", "show", "--out", out.to_str().unwrap()]).await;
    assert!(evil.code == 1 && evil.err.contains("cannot be written"), "{evil:?}");
}

#[tokio::test]
async fn setting_says_what_changed_and_never_overwrites_what_somebody_else_set() {
    let (fake, dir) = with_policy().await;
    let digest = "cd".repeat(32);
    let stale = fake.mayfly(&["policy", "set", &dir, "--replaces", &digest]).await;
    assert!(
        stale.code == 1 && stale.err.contains("another policy is in force"),
        "{stale:?}"
    );
    let set = fake.mayfly(&["policy", "set", &dir, "--reason", "CHG-90"]).await;
    insta::assert_snapshot!("set", set.text());
    assert_eq!(fake.last_reason().as_deref(), Some("CHG-90"));
    fake.state().two_person = true;
    let file = fake.file("one.cedar", EXPORT);
    let proposed = fake.mayfly(&["policy", "set", &file]).await;
    insta::assert_snapshot!("set_as_a_proposal", proposed.text());
    // The second person sees what would change, and a script has to name it.
    let shown = fake.mayfly(&["task", "proposal", "show", "p1"]).await;
    insta::assert_snapshot!("proposal", shown.text());
    let json = fake.mayfly(&["task", "proposals", "--output", "json"]).await.json();
    let hash = json["proposals"][0]["hash"].as_str().unwrap().to_owned();
    let approved = fake
        .mayfly(&["task", "proposal", "approve", "p1", "--yes", "--hash", &hash[..12]])
        .await;
    assert_eq!(approved.out, "approved  p1  policy\n", "{approved:?}");
}

#[tokio::test]
async fn a_difference_is_shown_line_by_line() {
    let (fake, dir) = with_policy().await;
    insta::assert_snapshot!("diff", fake.mayfly(&["policy", "diff", &dir]).await.text());
    let same = fake.file("export.cedar", EXPORT);
    assert_eq!(
        fake.mayfly(&["policy", "diff", &same]).await.out,
        "They say the same.\n"
    );
}

#[tokio::test]
async fn a_check_fails_with_the_servers_words() {
    let (fake, dir) = with_policy().await;
    let sound = fake.mayfly(&["policy", "check", &dir]).await;
    assert!(sound.code == 0 && sound.out.starts_with("sound  2 files"), "{sound:?}");
    let bad = fake.file("bad.cedar", "oops");
    let refused = fake.mayfly(&["policy", "check", &bad]).await;
    assert_eq!(
        (refused.out.as_str(), refused.code),
        ("bad.cedar:1: unknown word `oops`\n", 1)
    );
    let json = fake.mayfly(&["policy", "check", &bad, "--output", "json"]).await;
    assert_eq!((json.json()["problems"].as_array().unwrap().len(), json.code), (1, 1));
    for nothing in ["/nowhere", fake.dir().to_str().unwrap()] {
        let calls = fake.state().calls.len();
        let ran = fake.mayfly(&["policy", "check", nothing, &dir, &dir]).await;
        assert_eq!((ran.code, fake.state().calls.len()), (2, calls), "{ran:?}");
    }
}

#[tokio::test]
async fn what_if_names_the_decisions_that_would_differ() {
    let (fake, dir) = with_policy().await;
    assert!(fake.mayfly(&["what-if", &dir]).await.out.contains("no past decisions"));
    fake.state().what_if = WhatIfResponse {
        decisions: 214,
        differences: vec![Difference {
            request_id: "r1".into(),
            task: "pay/export".into(),
            spiffe_id: "spiffe://example.org/ns/pay/export".into(),
            phase: "open".into(),
            was: "allowed".into(),
            would_be: "refused".into(),
        }],
    };
    insta::assert_snapshot!("what_if", fake.mayfly(&["what-if", &dir]).await.text());
    let json = fake.mayfly(&["what-if", &dir, "--output", "json"]).await.json();
    assert_eq!(
        (&json["decisions"], &json["differences"][0]["would_be"]),
        (&214.into(), &"refused".into())
    );
}

/// The examples of the policy crate, with a case that fails and with what cannot be run.
#[tokio::test]
async fn tables_are_run_here_and_say_what_is_decided_otherwise() {
    let fake = Fake::start().await;
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../server/policy/examples/policies");
    let good = fake.mayfly(&["policy", "test", examples]).await;
    assert!(good.code == 0 && good.out.starts_with("All "), "{good:?}");

    let at = |name: &str| format!("{examples}/{name}");
    let table = std::fs::read_to_string(at("1-schema-migration.test.toml")).unwrap();
    let wrong = fake.file(
        "wrong.test.toml",
        &table.replacen("expect = \"allow\"", "expect = \"deny\"", 1),
    );
    let args = [
        "policy",
        "test",
        &at("1-schema-migration.cedar"),
        &at("db-migrate.toml"),
        &wrong,
    ];
    let failed = fake.mayfly(&args).await;
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed.out.starts_with("FAILED  wrong.test.toml: in the working hours"),
        "{failed:?}"
    );
    assert!(failed.out.contains("verdict: expected Deny, got Allow"), "{failed:?}");
    let json = fake.mayfly(&[&args[..], &["--output", "json"]].concat()).await.json();
    assert_eq!(json["failed"], 1);

    let alone = fake.mayfly(&["policy", "test", &at("1-schema-migration.cedar")]).await;
    assert!(alone.code == 2 && alone.err.contains("there is no table"), "{alone:?}");
    let lost = fake
        .mayfly(&["policy", "test", &at("1-schema-migration.cedar"), &wrong])
        .await;
    assert!(
        lost.code == 2 && lost.err.contains("there is no file `db-migrate.toml`"),
        "{lost:?}"
    );
    let bad = fake.file("bad.cedar", "permit (principal, action, resource) when { oops };");
    let bad = fake.mayfly(&["policy", "test", &bad]).await;
    assert!(bad.code == 2 && bad.err.contains("bad.cedar:1"), "{bad:?}");
    assert!(fake.state().calls.is_empty());
}
