//! Whole command lines against the fake server.

use serde_json::json;
use tonic::Status;

use crate::testing::{AGENT, Fake, agent, entry, mayfly};

const WEB: &str = "spiffe://example.org/web";

fn create<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "entry",
        "create",
        "--spiffe-id",
        WEB,
        "--parent-id",
        AGENT,
        "--selector",
        "unix:user:www-data",
    ];
    args.extend(extra);
    args
}

#[tokio::test]
async fn an_entry_is_created_shown_and_found_again() {
    let fake = Fake::start().await;
    let extra = [
        "--x509-svid-ttl",
        "15m",
        "--dns",
        "web.example.org",
        "--expires",
        "8h",
        "--reason",
        "INC-7",
    ];
    let created = fake.mayfly(&create(&extra)).await;
    insta::assert_snapshot!("created", created.text());
    assert_eq!(fake.last_reason().as_deref(), Some("INC-7"));

    insta::assert_snapshot!("listed", fake.mayfly(&["entry", "list"]).await.text());
    insta::assert_snapshot!(
        "listed_json",
        fake.mayfly(&["entry", "list", "--output", "json"]).await.text()
    );
    insta::assert_snapshot!("shown", fake.mayfly(&["entry", "show", "entry-1"]).await.text());
    assert_eq!(fake.mayfly(&["entry", "count"]).await.out, "1\n");
    assert_eq!(
        fake.mayfly(&["entry", "count", "--spiffe-id", "spiffe://example.org/db"])
            .await
            .out,
        "0\n"
    );
}

#[tokio::test]
async fn spires_spelling_does_the_same() {
    let fake = Fake::start().await;
    let args = [
        "entry",
        "create",
        "-spiffeID",
        WEB,
        "-parentID",
        AGENT,
        "-selector",
        "unix:uid:33",
        "-x509SVIDTTL",
        "900",
        "-entryExpiry",
        "1800000000",
        "-federatesWith",
        "spiffe://partner.example",
        "-entryID",
        "web-1",
        "-downstream",
        "-admin",
        "-hint",
        "h",
        "-storeSVID",
        "-disableX509SVIDPrefetch",
        "-jwtSVIDTTL",
        "60",
    ];
    assert_eq!(fake.mayfly(&args).await.code, 0);
    let state = fake.state();
    let entry = &state.entries[0];
    assert_eq!(
        (entry.id.as_str(), entry.x509_svid_ttl, entry.expires_at),
        ("web-1", 900, 1_800_000_000)
    );
    assert_eq!(entry.federates_with, ["partner.example"]);
    assert!(entry.admin && entry.downstream && entry.store_svid && entry.jwt_svid_ttl == 60);
    assert!(entry.additional_attributes.unwrap().disable_x509_svid_prefetch);
}

#[tokio::test]
async fn an_entry_that_is_there_already_is_named() {
    let fake = Fake::start().await;
    fake.mayfly(&create(&[])).await;
    let again = fake.mayfly(&create(&[])).await;
    insta::assert_snapshot!(again.text());
    let json = fake.mayfly(&create(&["--output", "json"])).await;
    assert_eq!(
        (json.code, json.json()["results"][0]["existing"]["id"].clone()),
        (1, json!("entry-1"))
    );
}

#[tokio::test]
async fn an_unknown_parent_is_refused_here_with_those_that_resemble_it() {
    let fake = Fake::start().await;
    fake.state()
        .agents
        .push(agent("spiffe://example.org/spire/agent/x509pop/rack-8", "x509pop", &[]));
    fake.state().entries.push(entry(
        "alias",
        "spiffe://example.org/racks",
        "spiffe://example.org/spire/server",
        &["x509pop:a:b"],
    ));
    let args = |parent| {
        [
            "entry",
            "create",
            "--spiffe-id",
            WEB,
            "--selector",
            "unix:uid:1",
            "--parent-id",
            parent,
        ]
    };
    let refused = fake
        .mayfly(&args("spiffe://example.org/spire/agent/x509pop/rack-17"))
        .await;
    insta::assert_snapshot!(refused.text());
    assert!(!fake.state().calls.contains(&"batch_create_entry"));

    for known in ["spiffe://example.org/racks", "spiffe://example.org/spire/server", AGENT] {
        assert_eq!(fake.mayfly(&args(known)).await.code, 0, "{known}");
    }
    let insisted: Vec<&str> = args("spiffe://example.org/later")
        .into_iter()
        .chain(["--allow-unknown-parent"])
        .collect();
    assert_eq!(fake.mayfly(&insisted).await.code, 0);
}

#[tokio::test]
async fn who_may_not_look_up_parents_leaves_them_to_the_server() {
    let fake = Fake::start().await;
    fake.state().refuse = Some(Status::permission_denied("uid 33 has no role on this server"));
    let refused = fake.mayfly(&create(&[])).await;
    insta::assert_snapshot!(refused.text());
    assert!(fake.state().calls.contains(&"batch_create_entry"));
}

#[tokio::test]
async fn a_misspelt_selector_is_refused_before_anything_is_sent() {
    let fake = Fake::start().await;
    let args = |selector| {
        [
            "entry",
            "create",
            "--spiffe-id",
            WEB,
            "--parent-id",
            AGENT,
            "--selector",
            selector,
        ]
    };
    insta::assert_snapshot!(fake.mayfly(&args("unix:uid:www-data")).await.text());
    assert!(fake.state().calls.is_empty());
    let insisted: Vec<&str> = args("vault:role:x")
        .into_iter()
        .chain(["--allow-unknown-selector"])
        .collect();
    assert_eq!(fake.mayfly(&insisted).await.code, 0);
}

#[tokio::test]
async fn an_update_changes_what_is_given_and_nothing_else() {
    let fake = Fake::start().await;
    fake.mayfly(&create(&[
        "--hint",
        "old",
        "--dns",
        "a.example",
        "--jwt-svid-include-jti",
    ]))
    .await;
    let before = fake.state().entries[0].clone();

    let args = [
        "entry",
        "update",
        "entry-1",
        "--x509-svid-ttl",
        "5m",
        "--dns",
        "",
        "--prefetch",
    ];
    let updated = fake.mayfly(&args).await;
    assert_eq!(updated.code, 0, "{updated:?}");
    let after = fake.state().entries[0].clone();
    assert_eq!(
        (after.x509_svid_ttl, after.dns_names.len(), after.hint.as_str()),
        (300, 0, "old")
    );
    assert_eq!(after.selectors, before.selectors);
    let attributes = after.additional_attributes.unwrap();
    assert!(attributes.jwt_svid_include_jti && !attributes.disable_x509_svid_prefetch);

    let nothing = fake.mayfly(&["entry", "update", "entry-1"]).await;
    assert_eq!(nothing.code, 2);
    let missing = fake.mayfly(&["entry", "update", "nobody", "--hint", "x"]).await;
    insta::assert_snapshot!(missing.text());
}

#[tokio::test]
async fn a_file_creates_many_and_says_what_became_of_each() {
    let fake = Fake::start().await;
    let item = |n: usize, path: &str| {
        json!({"id": format!("e{n}"), "spiffe_id": format!("spiffe://example.org{path}"), "parent_id": AGENT,
               "selectors": [format!("unix:uid:{n}")]})
    };
    let file = fake.file(
        "three.json",
        &json!([item(1, "/a"), item(2, "/task/x"), item(3, "/c")]).to_string(),
    );
    let text = fake.mayfly(&["entry", "create", "--file", &file]).await;
    insta::assert_snapshot!(text.text());

    let file = fake.file(
        "many.json",
        &json!({"entries": (10..260).map(|n| item(n, "/m")).collect::<Vec<_>>()}).to_string(),
    );
    let many = fake
        .mayfly(&["entry", "create", "--file", &file, "--output", "json"])
        .await;
    assert_eq!((many.code, many.json()["succeeded"].as_u64()), (0, Some(250)));
    assert_eq!(many.json()["results"][249]["index"], 249);
    let calls = fake
        .state()
        .calls
        .iter()
        .filter(|name| **name == "batch_create_entry")
        .count();
    assert_eq!(calls, 4, "one of three items, three of at most a hundred");
}

#[tokio::test]
async fn a_list_can_be_edited_and_given_back() {
    let fake = Fake::start().await;
    fake.mayfly(&create(&["--expires", "8h"])).await;
    let mut document = fake.mayfly(&["entry", "list", "--output", "json"]).await.json();
    document["entries"][0]["hint"] = json!("edited");
    let file = fake.file("e.json", &document.to_string());
    let updated = fake.mayfly(&["entry", "update", "--file", &file]).await;
    assert_eq!(updated.code, 0, "{updated:?}");
    let state = fake.state();
    assert_eq!(state.entries[0].hint, "edited");
    assert_eq!(state.entries[0].expires_at, crate::testing::NOW + 8 * 3600);
}

#[tokio::test]
async fn a_file_with_slips_sends_nothing_and_names_them() {
    let fake = Fake::start().await;
    let file = fake.file("bad.json", r#"[{"spiffe_id": "/web"}, {"hint": "x", "tll": 5}]"#);
    insta::assert_snapshot!(fake.mayfly(&["entry", "create", "--file", &file]).await.text());
    let file = fake.file("broken.json", "[{");
    assert_eq!(fake.mayfly(&["entry", "create", "--file", &file]).await.code, 2);
    let both = create(&["--file", &file])
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    assert_eq!(fake.mayfly(&both).await.code, 2);
    assert!(fake.state().calls.is_empty());
}

#[tokio::test]
async fn lists_are_read_to_the_last_page() {
    let fake = Fake::start().await;
    fake.state().page = 2;
    for n in 0..5 {
        let new = entry(&format!("e{n}"), WEB, AGENT, &[&format!("unix:uid:{n}")]);
        fake.state().entries.push(new);
    }
    let listed = fake.mayfly(&["entry", "list", "--output", "json"]).await;
    assert_eq!(listed.json()["entries"].as_array().unwrap().len(), 5);
    let one = fake
        .mayfly(&["entry", "list", "--selector", "unix:uid:3", "--output", "json"])
        .await;
    assert_eq!(one.json()["entries"][0]["id"], "e3");
    let any = [
        "entry",
        "count",
        "--selector",
        "unix:uid:3",
        "--selector",
        "unix:uid:1",
        "--match-selectors-on",
        "any",
    ];
    assert_eq!(fake.mayfly(&any).await.out, "2\n");
}

#[tokio::test]
async fn deleting_answers_per_entry() {
    let fake = Fake::start().await;
    fake.mayfly(&create(&[])).await;
    let deleted = fake.mayfly(&["entry", "delete", "entry-1", "nobody"]).await;
    insta::assert_snapshot!(deleted.text());
    assert_eq!(fake.mayfly(&["entry", "delete", "nobody"]).await.code, 5);
    assert_eq!(fake.mayfly(&["entry", "delete"]).await.code, 2);
    let file = fake.file("ids.json", r#"{"ids": ["x", "y"]}"#);
    assert_eq!(fake.mayfly(&["entry", "delete", "--file", &file]).await.code, 1);
}

#[tokio::test]
async fn what_a_server_answers_with_is_told_in_sentences() {
    let fake = Fake::start().await;
    for (status, code) in [
        (Status::unavailable("database is away"), 3),
        (Status::internal("internal error"), 1),
        (Status::not_found("entry not found"), 5),
    ] {
        fake.state().refuse = Some(status);
        let ran = fake.mayfly(&["entry", "show", "e1", "--output", "json"]).await;
        assert_eq!(ran.code, code);
        assert!(ran.out.is_empty());
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!(error["error"]["exit_code"], code);
    }
    let dir = tempfile::tempdir().unwrap();
    let nobody = [
        "entry".into(),
        "list".into(),
        "--server-socket".into(),
        dir.path().join("s").into_os_string(),
    ];
    let ran = mayfly(nobody, Default::default(), dir.path()).await;
    insta::assert_snapshot!(ran.text());
}
