//! Whole command lines against the fake server.

use crate::testing::{AGENT, Fake, TestCa, entry};

#[tokio::test]
async fn the_bundle_is_printed_in_each_form() {
    let fake = Fake::start().await;
    let pem = fake.mayfly(&["bundle", "show"]).await;
    assert_eq!(pem.out, fake.state().ca.bundle.x509_to_pem());
    let spiffe = fake.mayfly(&["bundle", "show", "--format", "spiffe"]).await;
    assert_eq!(spiffe.json()["keys"][0]["use"], "x509-svid");
    let summary = fake.mayfly(&["bundle", "show", "--format", "summary"]).await;
    assert!(
        summary
            .out
            .starts_with("Bundle of example.org, sequence number 1, 1 X.509 and 0 JWT authorities\n")
    );
    assert!(summary.out.contains("CN=test authority"), "{}", summary.out);
    let json = fake.mayfly(&["bundle", "show", "--output", "json"]).await.json();
    assert_eq!(json["x509_authorities"][0]["not_after"], "2026-01-02T00:00:00Z");
    assert_eq!(json["x509_authorities"][0]["authority_id"].as_str().unwrap().len(), 40);
}

#[tokio::test]
async fn a_foreign_bundle_is_set_listed_and_deleted() {
    let fake = Fake::start().await;
    let foreign = TestCa::new("partner.example").bundle;
    let file = fake.file("partner.pem", &foreign.x509_to_pem());
    let set = fake
        .mayfly(&["bundle", "set", "--id", "spiffe://partner.example", "--path", &file])
        .await;
    assert_eq!(set.code, 0, "{set:?}");
    let listed = fake.mayfly(&["bundle", "list"]).await;
    assert!(listed.out.starts_with("Bundle of partner.example"), "{}", listed.out);

    let mut user = entry("e1", "spiffe://example.org/a", AGENT, &["unix:uid:1"]);
    user.federates_with = vec!["partner.example".into()];
    fake.state().entries.push(user);
    let refused = fake.mayfly(&["bundle", "delete", "--id", "partner.example"]).await;
    insta::assert_snapshot!(refused.text());
    let dissociated = fake
        .mayfly(&["bundle", "delete", "--id", "partner.example", "--mode", "dissociate"])
        .await;
    assert_eq!(dissociated.out, "deleted  bundle of partner.example\n");
    assert_eq!(
        fake.mayfly(&["bundle", "list"]).await.out,
        "No bundle of a foreign trust domain.\n"
    );
    assert_eq!(
        fake.mayfly(&["bundle", "list", "--id", "partner.example"]).await.code,
        5
    );
}

#[tokio::test]
async fn a_file_in_the_wrong_form_or_without_authorities_is_not_sent() {
    let fake = Fake::start().await;
    for (text, form) in [
        ("{\"keys\": []}", "pem"),
        ("{\"keys\": []}", "spiffe"),
        ("", "pem"),
        ("nonsense", "spiffe"),
    ] {
        let file = fake.file("b", text);
        let ran = fake
            .mayfly(&[
                "bundle",
                "set",
                "--id",
                "partner.example",
                "--path",
                &file,
                "--format",
                form,
            ])
            .await;
        assert_eq!(ran.code, 2, "{text} as {form}: {ran:?}");
    }
    assert!(fake.state().calls.is_empty());
}
