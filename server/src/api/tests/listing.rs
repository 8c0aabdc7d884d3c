//! Entries, looked through: filters and pages.

use mayfly_proto::spire::server::entry::*;
use mayfly_proto::spire::types::{EntryMask, FederatesWithMatch, SelectorMatch};
use tonic::Code;

use super::entries::{create, foreign_bundle, item_code, parent};
use super::*;

async fn list(server: &Server, filter: list_entries_request::Filter) -> Vec<String> {
    let request = ListEntriesRequest {
        filter: Some(filter.clone()),
        ..ListEntriesRequest::default()
    };
    let listed = server
        .admin()
        .entry()
        .list_entries(request)
        .await
        .unwrap()
        .into_inner()
        .entries;
    let count = count_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    };
    let request = CountEntriesRequest { filter: Some(count) };
    let count = server
        .admin()
        .entry()
        .count_entries(request)
        .await
        .unwrap()
        .into_inner()
        .count;
    assert_eq!(count as usize, listed.len(), "count and list agree");
    listed.into_iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn lists_and_counts_are_filtered_by_what_entries_say() {
    let server = Server::new().await;
    server.world.commit(foreign_bundle("x")).await.unwrap();
    server.world.commit(foreign_bundle("y")).await.unwrap();
    let other = id("/spire/agent/echo/b");
    let entries = vec![
        types::Entry {
            id: "1".into(),
            hint: "h".into(),
            ..wire_entry("/a", &parent())
        },
        types::Entry {
            id: "2".into(),
            downstream: true,
            ..wire_entry("/a", &other)
        },
        types::Entry {
            id: "3".into(),
            selectors: vec![selector("unix:uid:1"), selector("unix:gid:1")],
            federates_with: vec!["x".into()],
            ..wire_entry("/b", &parent())
        },
        types::Entry {
            id: "4".into(),
            selectors: vec![selector("unix:gid:2")],
            federates_with: vec!["x".into(), "y".into()],
            ..wire_entry("/c", &other)
        },
    ];
    assert!(
        create(&server, entries)
            .await
            .iter()
            .all(|result| item_code(&result.status) == Code::Ok)
    );
    type Filter = list_entries_request::Filter;
    let none = Filter::default;
    let selectors = |by: i32| SelectorMatch {
        selectors: vec![selector("unix:uid:1"), selector("unix:gid:9")],
        r#match: by,
    };
    let federates = |names: &[&str], by: i32| {
        let trust_domains = names.iter().map(|name| (*name).to_owned()).collect();
        Some(FederatesWithMatch {
            trust_domains,
            r#match: by,
        })
    };
    let exact = SelectorMatch {
        selectors: vec![selector("unix:uid:1")],
        r#match: 0,
    };
    let cases: [(&[&str], Filter); 13] = [
        (&["1", "2", "3", "4"], none()),
        (
            &["1", "2"],
            Filter {
                by_spiffe_id: wire_id("/a"),
                ..none()
            },
        ),
        (
            &["1", "3"],
            Filter {
                by_parent_id: Some((&parent()).into()),
                ..none()
            },
        ),
        (
            &["2"],
            Filter {
                by_spiffe_id: wire_id("/a"),
                by_parent_id: Some((&other).into()),
                ..none()
            },
        ),
        (
            &["1"],
            Filter {
                by_hint: Some("h".into()),
                ..none()
            },
        ),
        (
            &["2"],
            Filter {
                by_downstream: Some(true),
                ..none()
            },
        ),
        (
            &["1", "2"],
            Filter {
                by_selectors: Some(exact),
                ..none()
            },
        ),
        (
            &["1", "2"],
            Filter {
                by_selectors: Some(selectors(1)),
                ..none()
            },
        ),
        (
            &[],
            Filter {
                by_selectors: Some(selectors(2)),
                ..none()
            },
        ),
        (
            &["1", "2", "3"],
            Filter {
                by_selectors: Some(selectors(3)),
                ..none()
            },
        ),
        (
            &["3"],
            Filter {
                by_federates_with: federates(&["x"], 0),
                ..none()
            },
        ),
        (
            &["3", "4"],
            Filter {
                by_federates_with: federates(&["x", "y"], 1),
                ..none()
            },
        ),
        (
            &["4"],
            Filter {
                by_federates_with: federates(&["y"], 3),
                ..none()
            },
        ),
    ];
    for (expected, filter) in cases {
        assert_eq!(list(&server, filter.clone()).await, expected, "{filter:?}");
    }
    for bad in [
        Filter {
            by_selectors: Some(SelectorMatch::default()),
            ..none()
        },
        Filter {
            by_federates_with: federates(&["a b"], 0),
            ..none()
        },
        Filter {
            by_spiffe_id: Some(types::Spiffeid::default()),
            ..none()
        },
    ] {
        let request = ListEntriesRequest {
            filter: Some(bad),
            ..ListEntriesRequest::default()
        };
        assert_eq!(
            code(server.admin().entry().list_entries(request).await),
            Code::InvalidArgument
        );
    }
}

#[tokio::test]
async fn pages_follow_the_order_of_ids_and_survive_changes_between_them() {
    let server = Server::new().await;
    let entries = (0..7).map(|n| types::Entry {
        id: format!("e{n}"),
        ..wire_entry(&format!("/w{n}"), &parent())
    });
    create(&server, entries.collect()).await;
    let page = |page_token: String, by_parent: bool| {
        let mut client = server.admin().entry();
        let filter = by_parent.then(|| list_entries_request::Filter {
            by_parent_id: Some((&parent()).into()),
            ..list_entries_request::Filter::default()
        });
        let request = ListEntriesRequest {
            filter,
            page_size: 3,
            page_token,
            output_mask: Some(EntryMask::default()),
        };
        async move {
            let page = client.list_entries(request).await.unwrap().into_inner();
            (
                page.entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>(),
                page.next_page_token,
            )
        }
    };
    for by_parent in [false, true] {
        let (first, token) = page(String::new(), by_parent).await;
        assert_eq!(first, ["e0", "e1", "e2"]);
        let (second, token) = page(token, by_parent).await;
        assert_eq!(second, ["e3", "e4", "e5"]);
        let (last, token) = page(token, by_parent).await;
        assert_eq!((last, token.as_str()), (vec!["e6".to_owned()], ""));
    }
    let (_, token) = page(String::new(), false).await;
    server
        .admin()
        .entry()
        .batch_delete_entry(BatchDeleteEntryRequest {
            ids: vec!["e2".into(), "e3".into()],
        })
        .await
        .unwrap();
    assert_eq!(page(token, false).await.0, ["e4", "e5", "e6"]);
    for (page_size, page_token) in [(-1, ""), (1, "x"), (1, "AAAAAAAAAAAAAAAA")] {
        let request = ListEntriesRequest {
            page_size,
            page_token: page_token.into(),
            ..ListEntriesRequest::default()
        };
        assert_eq!(
            code(server.admin().entry().list_entries(request).await),
            Code::InvalidArgument
        );
    }
}
