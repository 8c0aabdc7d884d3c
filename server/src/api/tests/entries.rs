//! Entries, as operators and their tools handle them.

use mayfly_proto::spire::server::entry::*;
use mayfly_proto::spire::types::EntryMask;
use tonic::Code;

use super::*;

pub(super) type CreateResult = batch_create_entry_response::Result;

pub(super) fn parent() -> SpiffeId {
    id("/spire/agent/echo/a")
}

pub(super) async fn create(server: &Server, entries: Vec<types::Entry>) -> Vec<CreateResult> {
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    server
        .admin()
        .entry()
        .batch_create_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results
}

async fn create_one(server: &Server, entry: types::Entry) -> types::Entry {
    let result = create(server, vec![entry]).await.remove(0);
    assert_eq!(result.status.unwrap().code, 0);
    result.entry.unwrap()
}

pub(super) fn item_code(status: &Option<types::Status>) -> Code {
    Code::from(status.as_ref().expect("every result has a status").code)
}

// The controller manager's probe entry has to come back as it was sent.
#[tokio::test]
async fn an_entry_comes_back_as_it_was_stated_with_id_time_and_revision() {
    let server = Server::new().await;
    server.world.commit(foreign_bundle("other")).await.unwrap();
    let wanted = types::Entry {
        x509_svid_ttl: 60,
        jwt_svid_ttl: 61,
        federates_with: vec!["other".into()],
        hint: "internal".into(),
        store_svid: true,
        admin: true,
        downstream: true,
        expires_at: 2_000_000_000,
        dns_names: vec!["web.example".into()],
        ..wire_entry("/web", &parent())
    };
    let made = create_one(&server, wanted.clone()).await;
    assert!(!made.id.is_empty());
    assert_eq!(made.created_at, server.world.now().unix());
    assert_eq!(
        made,
        types::Entry {
            id: made.id.clone(),
            created_at: made.created_at,
            ..wanted
        }
    );
    let got = GetEntryRequest {
        id: made.id.clone(),
        output_mask: None,
    };
    assert_eq!(server.admin().entry().get_entry(got).await.unwrap().into_inner(), made);
    let masked = GetEntryRequest {
        id: made.id.clone(),
        output_mask: Some(EntryMask {
            hint: true,
            ..EntryMask::default()
        }),
    };
    let got = server.admin().entry().get_entry(masked).await.unwrap().into_inner();
    assert_eq!(
        got,
        types::Entry {
            id: made.id,
            hint: "internal".into(),
            ..types::Entry::default()
        }
    );
}

pub(super) fn foreign_bundle(name: &str) -> mayfly_model::Change {
    mayfly_model::Change::BundleCreate(Box::new(mayfly_svid::Bundle::empty(name.parse().unwrap())))
}

#[tokio::test]
async fn what_is_there_already_is_returned_and_nothing_changes() {
    let server = Server::new().await;
    let first = create_one(
        &server,
        types::Entry {
            id: "mine".into(),
            ..wire_entry("/web", &parent())
        },
    )
    .await;
    assert_eq!(first.id, "mine");
    let before = server.done().await;
    let similar = types::Entry {
        hint: "else".into(),
        ..wire_entry("/web", &parent())
    };
    let taken = types::Entry {
        id: "mine".into(),
        ..wire_entry("/other", &parent())
    };
    for result in create(&server, vec![similar, taken]).await {
        assert_eq!(item_code(&result.status), Code::AlreadyExists);
        assert_eq!(result.entry.as_ref(), Some(&first));
    }
    assert_eq!(server.done().await, before);
}

#[tokio::test]
async fn of_what_a_full_batch_wants_several_times_the_first_is_made() {
    let server = Server::new().await;
    let entries = |count: usize| (0..count).map(|n| wire_entry(&format!("/w{}", n % 10), &parent()));
    let before = server.done().await;
    let too_many = BatchCreateEntryRequest {
        entries: entries(1001).collect(),
        output_mask: None,
    };
    let refused = server.admin().entry().batch_create_entry(too_many).await;
    assert_eq!(code(refused), Code::InvalidArgument);
    assert_eq!(server.done().await, before);
    let results = create(&server, entries(1000).collect()).await;
    let id = |result: &CreateResult| result.entry.as_ref().unwrap().id.clone();
    for (n, result) in results.iter().enumerate() {
        let expected = if n < 10 { Code::Ok } else { Code::AlreadyExists };
        assert_eq!(item_code(&result.status), expected, "{n}");
        assert_eq!(id(result), id(&results[n % 10]), "{n}");
    }
    assert_eq!(results.len(), 1000);
    // The same of two callers at once.
    let both = tokio::join!(
        create(&server, vec![wire_entry("/both", &parent())]),
        create(&server, vec![wire_entry("/both", &parent())])
    );
    assert_eq!(id(&both.0[0]), id(&both.1[0]));
    assert_eq!(server.world.committer.snapshot().entry_count(), 11);
}

#[tokio::test]
async fn each_item_of_a_batch_stands_alone_and_is_answered_where_it_stood() {
    let server = Server::new().await;
    let bad = types::Entry {
        selectors: vec![],
        ..wire_entry("/bad", &parent())
    };
    let results = create(
        &server,
        vec![
            bad,
            wire_entry("/a", &parent()),
            types::Entry::default(),
            wire_entry("/b", &parent()),
        ],
    )
    .await;
    let codes: Vec<_> = results.iter().map(|result| item_code(&result.status)).collect();
    assert_eq!(
        codes,
        [Code::InvalidArgument, Code::Ok, Code::InvalidArgument, Code::Ok]
    );
    let ids = [&results[1], &results[3]].map(|result| result.entry.as_ref().unwrap().id.clone());
    let ids = vec![ids[0].clone(), "unknown".into(), String::new(), ids[1].clone()];
    let results = server
        .admin()
        .entry()
        .batch_delete_entry(BatchDeleteEntryRequest { ids: ids.clone() })
        .await;
    let results = results.unwrap().into_inner().results;
    let codes: Vec<_> = results.iter().map(|result| item_code(&result.status)).collect();
    assert_eq!(codes, [Code::Ok, Code::NotFound, Code::InvalidArgument, Code::Ok]);
    assert_eq!(results.into_iter().map(|result| result.id).collect::<Vec<_>>(), ids);
    assert_eq!(server.world.committer.snapshot().entry_count(), 0);
}

// Promise 7
#[tokio::test]
async fn bad_entries_are_refused_with_the_field_and_nothing_changes() {
    let server = Server::new().await;
    let before = server.done().await;
    type Break = fn(&mut types::Entry);
    let cases: [(&str, Break); 16] = [
        ("entry.spiffe_id", |e| e.spiffe_id = None),
        ("has no path", |e| {
            e.spiffe_id = Some(types::Spiffeid {
                trust_domain: "td".into(),
                path: String::new(),
            })
        }),
        ("not in the trust domain", |e| {
            e.spiffe_id.as_mut().unwrap().trust_domain = "other".into()
        }),
        ("entry.parent_id", |e| e.parent_id = None),
        ("reserved", |e| e.spiffe_id = wire_id("/spire/server")),
        ("reserved", |e| e.spiffe_id = wire_id("/task/pay/migrate")),
        ("reserved", |e| e.spiffe_id = wire_id("/breakglass/x")),
        ("entry.selectors", |e| e.selectors[0].r#type = "a:b".into()),
        ("1 to 100 selectors", |e| e.selectors.clear()),
        ("x509_svid_ttl", |e| e.x509_svid_ttl = 19),
        ("entry.x509_svid_ttl", |e| e.x509_svid_ttl = -1),
        ("at most 1024", |e| e.hint = "h".repeat(1025)),
        ("not a DNS name", |e| e.dns_names = vec!["a b".into()]),
        ("own trust domain", |e| e.federates_with = vec!["td".into()]),
        ("unable to find federated bundle `elsewhere`", |e| {
            e.federates_with = vec!["elsewhere".into()]
        }),
        ("entry.id", |e| e.id = "a/b".into()),
    ];
    for (said, break_it) in cases {
        let mut entry = wire_entry("/web", &parent());
        break_it(&mut entry);
        let status = create(&server, vec![entry]).await.remove(0).status.unwrap();
        assert_eq!(Code::from(status.code), Code::InvalidArgument, "{said}");
        assert!(status.message.contains(said), "{said}: {}", status.message);
    }
    let many = BatchCreateEntryRequest {
        entries: vec![wire_entry("/web", &parent()); 1001],
        output_mask: None,
    };
    assert_eq!(
        code(server.admin().entry().batch_create_entry(many).await),
        Code::InvalidArgument
    );
    assert_eq!(server.done().await, before);
}

#[tokio::test]
async fn an_update_changes_what_the_mask_names_and_counts_the_revision_up() {
    let server = Server::new().await;
    let made = create_one(
        &server,
        types::Entry {
            hint: "a".into(),
            x509_svid_ttl: 60,
            ..wire_entry("/web", &parent())
        },
    )
    .await;
    let update = |entry: types::Entry, mask: Option<EntryMask>| {
        let mut client = server.admin().entry();
        async move {
            let request = BatchUpdateEntryRequest {
                entries: vec![entry],
                input_mask: mask,
                output_mask: None,
            };
            client
                .batch_update_entry(request)
                .await
                .unwrap()
                .into_inner()
                .results
                .remove(0)
        }
    };
    let mask = EntryMask {
        hint: true,
        ..EntryMask::default()
    };
    let only_hint = types::Entry {
        id: made.id.clone(),
        hint: "b".into(),
        ..types::Entry::default()
    };
    let result = update(only_hint.clone(), Some(mask)).await;
    assert_eq!(item_code(&result.status), Code::Ok);
    let expected = types::Entry {
        hint: "b".into(),
        revision_number: 1,
        ..made.clone()
    };
    assert_eq!(result.entry, Some(expected));

    let before = server.done().await;
    let result = update(only_hint, None).await;
    assert_eq!(
        (item_code(&result.status), result.entry),
        (Code::InvalidArgument, None),
        "all fields, and some missing"
    );
    let unknown = types::Entry {
        id: "unknown".into(),
        ..wire_entry("/web", &parent())
    };
    assert_eq!(item_code(&update(unknown, None).await.status), Code::NotFound);
    let no_id = wire_entry("/web", &parent());
    assert_eq!(item_code(&update(no_id, None).await.status), Code::InvalidArgument);
    let reserved = types::Entry {
        id: made.id.clone(),
        ..wire_entry("/task/x", &parent())
    };
    let mask = EntryMask {
        spiffe_id: true,
        ..EntryMask::default()
    };
    assert_eq!(
        item_code(&update(reserved, Some(mask)).await.status),
        Code::InvalidArgument
    );
    assert_eq!(server.done().await, before);
    let all = types::Entry {
        id: made.id.clone(),
        ..wire_entry("/new", &parent())
    };
    let result = update(all, None).await.entry.unwrap();
    assert_eq!(
        (result.spiffe_id, result.x509_svid_ttl, result.revision_number),
        (wire_id("/new"), 0, 2)
    );
}

#[tokio::test]
async fn an_id_of_nothing_is_not_found() {
    let server = Server::new().await;
    for (id, expected) in [
        ("", Code::InvalidArgument),
        ("unknown", Code::NotFound),
        ("a/b", Code::NotFound),
    ] {
        let request = GetEntryRequest {
            id: id.into(),
            output_mask: None,
        };
        assert_eq!(code(server.admin().entry().get_entry(request).await), expected, "{id}");
    }
}
