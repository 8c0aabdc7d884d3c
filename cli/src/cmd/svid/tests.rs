//! Whole command lines against the fake server and the fake Workload API.

use std::os::unix::fs::PermissionsExt;

use tonic::Status;

use crate::testing::Fake;

#[tokio::test]
async fn who_this_process_is_is_told_in_plain_words() {
    let fake = Fake::start().await;
    fake.state().workload = vec![Ok(vec!["spiffe://example.org/web", "spiffe://example.org/web/admin"])];
    insta::assert_snapshot!("fetched", fake.mayfly(&["svid", "fetch"]).await.text());
    let json = fake.mayfly(&["svid", "fetch", "--output", "json"]).await;
    assert!(!json.out.contains("PRIVATE KEY"), "keys are written to files only");
    let json = json.json();
    assert_eq!(json["svids"][0]["spiffe_id"], "spiffe://example.org/web");
    assert_eq!(
        (
            json["svids"][0]["verified"].clone(),
            json["svids"][0]["problem"].clone()
        ),
        (true.into(), ().into())
    );
}

#[tokio::test]
async fn files_are_written_for_their_owner_only() {
    let fake = Fake::start().await;
    let dir = fake.dir().join("new/id");
    let ran = fake.mayfly(&["svid", "fetch", "--write", dir.to_str().unwrap()]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for (name, start) in [
        ("svid.0.pem", "-----BEGIN CERTIFICATE"),
        ("svid.0.key", "-----BEGIN PRIVATE KEY"),
        ("bundle.0.pem", "-----BEGIN CERTIFICATE"),
    ] {
        let path = dir.join(name);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(start), "{name}");
    }
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn no_identity_and_a_bad_one_are_told_apart() {
    let fake = Fake::start().await;
    fake.state().workload = vec![Err(Status::permission_denied("no identity issued"))];
    insta::assert_snapshot!(
        "no_identity",
        fake.mayfly(&["svid", "fetch"])
            .await
            .text()
            .replace(&format!("unix:uid:{}", nix::unistd::Uid::effective()), "unix:uid:<uid>")
    );
    fake.state().workload = vec![Ok(vec!["spiffe://example.org/web"])];
    fake.state().ca.age = 7200;
    let expired = fake.mayfly(&["svid", "fetch"]).await;
    assert_eq!(expired.code, 1);
    assert!(
        expired.out.contains("NOT verified: the SVID expired"),
        "{}",
        expired.out
    );
}

// IOP-22
#[tokio::test]
async fn watching_goes_on_after_every_code_but_the_final_ones() {
    let fake = Fake::start().await;
    let web = || Ok(vec!["spiffe://example.org/web"]);
    fake.state().workload = vec![
        web(),
        Err(Status::unavailable("restarting")),
        Err(Status::cancelled("")),
        web(),
        Err(Status::internal("")),
        Err(Status::permission_denied("no identity issued")),
        web(),
        Err(Status::invalid_argument("no")),
    ];
    let ran = fake.mayfly(&["svid", "watch", "--output", "json"]).await;
    let events: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    // Each answer of the fake is followed by the end of its stream, which is "lost" as well. The same again is no news.
    let expected = [
        "update",
        "lost", // and the unavailable agent
        "lost", // cancelled
        "update",
        "lost",
        "lost", // internal
        "no_identity",
        "update",
        "lost",
    ];
    assert_eq!(names, expected);
    assert_eq!(ran.code, 1);
}

#[tokio::test]
async fn watching_can_end_after_some_updates() {
    let fake = Fake::start().await;
    let ran = fake.mayfly(&["svid", "watch", "--updates", "1"]).await;
    insta::assert_snapshot!(ran.text());
}

#[tokio::test]
async fn a_minted_svid_is_for_the_key_that_was_made_here() {
    let fake = Fake::start().await;
    let dir = fake.dir().join("db");
    let dir = dir.to_str().unwrap();
    let id = "spiffe://example.org/legacy/db";
    let ran = fake
        .mayfly(&[
            "svid",
            "mint",
            "--spiffe-id",
            id,
            "--dns",
            "db.example.org",
            "--write",
            dir,
        ])
        .await;
    insta::assert_snapshot!(ran.text());
    let key = std::fs::read_to_string(format!("{dir}/key.pem")).unwrap();
    let pair = rcgen::KeyPair::from_pem(&key).unwrap();
    let chain = pem::parse(std::fs::read(format!("{dir}/svid.pem")).unwrap()).unwrap();
    let svid = mayfly_svid::X509Svid::from_concatenated_der(chain.contents()).unwrap();
    assert_eq!(
        svid.public_key_der(),
        rcgen::PublicKeyData::subject_public_key_info(&pair)
    );
    assert_eq!(svid.spiffe_id().as_str(), id);

    fake.state().refuse = Some(Status::invalid_argument("/task is minted from task windows only"));
    let refused = fake.mayfly(&["svid", "mint", "--spiffe-id", id, "--write", dir]).await;
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("the request is not valid (/task is minted"),
        "{}",
        refused.err
    );
}
