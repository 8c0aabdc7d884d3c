//! Registration entries, field by field.

use super::*;

// Promise 7; WAPI-25, XSVID-05
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_refused_field_by_field() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin = server.admin();
    let first = admin.create(&EntrySpec::new("/first", NODE, &["unix:uid:1"])).await;
    let mut verdicts = Verdicts::default();
    let before = fingerprint(&server).await;
    let bad = Code::InvalidArgument;
    let cases: Vec<(&str, Entry, Code, &str)> = vec![
        ("no spiffe_id", wrong(|e| e.spiffe_id = None), bad, "spiffe_id"),
        (
            "foreign spiffe_id",
            wrong(|e| e.spiffe_id = id("other.org", "/w")),
            bad,
            "other.org",
        ),
        ("no path", wrong(|e| e.spiffe_id = id("example.org", "")), bad, "path"),
        (
            "trailing slash",
            wrong(|e| e.spiffe_id = id("example.org", "/w/")),
            bad,
            "spiffe_id",
        ),
        (
            "dots",
            wrong(|e| e.spiffe_id = id("example.org", "/w/../x")),
            bad,
            "spiffe_id",
        ),
        (
            "escape",
            wrong(|e| e.spiffe_id = id("example.org", "/w%2fx")),
            bad,
            "spiffe_id",
        ),
        (
            "very long",
            wrong(|e| e.spiffe_id = id("example.org", &format!("/{}", "a".repeat(2100)))),
            bad,
            "spiffe_id",
        ),
        (
            "an agent's path",
            wrong(|e| e.spiffe_id = id("example.org", "/spire/agent/x")),
            bad,
            "reserved",
        ),
        (
            "a task's path",
            wrong(|e| e.spiffe_id = id("example.org", "/task/pay/x/y")),
            bad,
            "reserved",
        ),
        ("no parent", wrong(|e| e.parent_id = None), bad, "parent_id"),
        (
            "foreign parent",
            wrong(|e| e.parent_id = id("other.org", "/n")),
            bad,
            "other.org",
        ),
        ("no selectors", wrong(|e| e.selectors.clear()), bad, "selectors"),
        (
            "selector without type",
            wrong(|e| e.selectors[0].r#type.clear()),
            bad,
            "selector",
        ),
        (
            "selector without value",
            wrong(|e| e.selectors[0].value.clear()),
            bad,
            "value",
        ),
        (
            "101 selectors",
            wrong(|e| e.selectors = (0..101).map(|n| selector(&format!("unix:uid:{n}"))).collect()),
            bad,
            "100",
        ),
        (
            "huge selector",
            wrong(|e| e.selectors[0].value = "a".repeat(100_000)),
            bad,
            "selector",
        ),
        (
            "negative lifetime",
            wrong(|e| e.x509_svid_ttl = -1),
            bad,
            "x509_svid_ttl",
        ),
        (
            "lifetime of 10 years",
            wrong(|e| e.x509_svid_ttl = 315_360_000),
            bad,
            "x509_svid_ttl",
        ),
        ("negative expiry", wrong(|e| e.expires_at = -5), bad, "expires_at"),
        (
            "not a DNS name",
            wrong(|e| e.dns_names = vec!["not a name".into()]),
            bad,
            "not a name",
        ),
        ("hint of 1025 octets", wrong(|e| e.hint = "h".repeat(1025)), bad, "1025"),
        ("entry ID with a slash", wrong(|e| e.id = "a/b".into()), bad, "entry ID"),
        ("entry ID of 256", wrong(|e| e.id = "a".repeat(256)), bad, "255"),
        (
            "unknown federation",
            wrong(|e| e.federates_with = vec!["other.org".into()]),
            bad,
            "other.org",
        ),
        (
            "federation with itself",
            wrong(|e| e.federates_with = vec!["example.org".into()]),
            bad,
            "example.org",
        ),
        (
            "the ID of another",
            wrong(|e| e.id = first.clone()),
            Code::AlreadyExists,
            "",
        ),
    ];
    for (case, entry, code, says) in cases {
        verdicts.status(case, admin.try_create(entry).await.map(drop), code, says);
    }
    let update = Entry {
        id: first.clone(),
        hint: "h".repeat(2000),
        ..Default::default()
    };
    let mask = types::EntryMask {
        hint: true,
        ..Default::default()
    };
    verdicts.status(
        "update with a long hint",
        admin.try_update(update, mask).await.map(drop),
        bad,
        "hint",
    );
    let mask = types::EntryMask {
        selectors: true,
        ..Default::default()
    };
    let update = Entry {
        id: first.clone(),
        ..Default::default()
    };
    verdicts.status(
        "update without selectors",
        admin.try_update(update, mask).await.map(drop),
        bad,
        "selectors",
    );
    let update = Entry {
        id: "no-such-entry".into(),
        ..Default::default()
    };
    verdicts.status(
        "update of nothing",
        admin.try_update(update, mask).await.map(drop),
        Code::NotFound,
        "not found",
    );
    verdicts.status(
        "delete of nothing",
        admin.try_delete("no-such-entry").await,
        Code::NotFound,
        "not found",
    );
    verdicts.status("delete without ID", admin.try_delete("").await, bad, "entry.id");
    for (case, entries, code, says) in [
        (
            "1001 entries at once",
            vec![EntrySpec::new("/b", NODE, &["unix:uid:1"]).to_wire(); 1001],
            bad,
            "1000",
        ),
        (
            "5 MiB at once",
            vec![wrong(|e| e.hint = "h".repeat(50_000)); 100],
            Code::OutOfRange,
            "limit",
        ),
    ] {
        let batch = BatchCreateEntryRequest {
            entries,
            output_mask: None,
        };
        let outcome = admin.entries().batch_create_entry(batch).await;
        verdicts.status(case, outcome.map(drop), code, says);
    }
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    assert_eq!(admin.get(&first).await.unwrap().revision_number, 0);
    verdicts.end();
}
