use super::*;

pub(in crate::sync) fn wire_entry(id: &str, path: &str, revision_number: i64) -> types::Entry {
    let spiffe_id = |path: &str| {
        Some(types::Spiffeid {
            trust_domain: "td".into(),
            path: path.into(),
        })
    };
    types::Entry {
        id: id.into(),
        spiffe_id: spiffe_id(path),
        parent_id: spiffe_id("/spire/agent/x"),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        revision_number,
        created_at: 1_700_000_000,
        ..Default::default()
    }
}

fn holdings() -> Holdings {
    let own = Bundle::empty("td".parse().unwrap());
    Holdings::new("td".parse().unwrap(), Arc::new(ViewPublisher::new(own)), News::new())
}

fn at(revision: u64) -> Position {
    Position {
        history: "h".into(),
        revision,
    }
}

fn delta(entries: Vec<types::Entry>) -> Update {
    Update {
        entries,
        ..Default::default()
    }
}

fn snapshot(entries: Vec<types::Entry>) -> Update {
    Update {
        snapshot: true,
        entries,
        ..Default::default()
    }
}

fn ids(holdings: &Holdings) -> Vec<String> {
    let mut ids: Vec<_> = holdings.view().entries().map(|entry| entry.id.to_string()).collect();
    ids.sort();
    ids
}

#[test]
fn a_delta_adds_and_a_snapshot_replaces() {
    let mut holdings = holdings();
    holdings.apply(delta(vec![wire_entry("a", "/a", 0), wire_entry("b", "/b", 0)]), at(1));
    holdings.apply(delta(vec![wire_entry("c", "/c", 0)]), at(2));
    assert_eq!(ids(&holdings), ["a", "b", "c"]);
    holdings.apply(snapshot(vec![wire_entry("b", "/b", 0)]), at(3));
    assert_eq!(ids(&holdings), ["b"]);
    assert_eq!(holdings.position(), Some(&at(3)));
    holdings.apply(snapshot(vec![]), at(4));
    assert!(ids(&holdings).is_empty(), "an empty answer means that there is nothing");
    assert!(holdings.view().synced());
}

#[test]
fn what_cannot_be_used_is_named_and_not_held_in_its_older_form_either() {
    let mut holdings = holdings();
    holdings.apply(delta(vec![wire_entry("a", "/a", 0), wire_entry("b", "/b", 0)]), at(1));
    let mut no_selectors = wire_entry("b", "/b", 1);
    no_selectors.selectors.clear();
    let mut foreign = wire_entry("c", "/c", 0);
    foreign.spiffe_id.as_mut().unwrap().trust_domain = "other".into();
    let applied = holdings.apply(delta(vec![no_selectors, foreign, wire_entry("d", "/task/x", 0)]), at(2));
    let refused: Vec<_> = applied.rejected.iter().map(|r| r.entry_id.as_str()).collect();
    assert_eq!(refused, ["b", "c", "d"]);
    assert!(
        applied.rejected[2].reason.contains("reserved"),
        "{:?}",
        applied.rejected
    );
    assert_eq!(ids(&holdings), ["a"]);
    assert!(
        holdings
            .apply(delta(vec![wire_entry("b", "/b", 2)]), at(3))
            .rejected
            .is_empty()
    );
    assert_eq!(ids(&holdings), ["a", "b"]);
}

#[test]
fn of_an_entry_that_is_named_twice_the_last_word_counts() {
    let mut holdings = holdings();
    holdings.apply(
        delta(vec![
            wire_entry("a", "/a", 0),
            wire_entry("a", "/task/a", 1),
            wire_entry("b", "/task/b", 0),
            wire_entry("b", "/b", 1),
        ]),
        at(1),
    );
    assert_eq!(ids(&holdings), ["b"]);
    assert!(holdings.is_rejected("a") && !holdings.is_rejected("b"));
    assert!(holdings.agrees_with(1, digest(&[("b", 1)])));
}

#[test]
fn a_round_of_polling_keeps_what_it_names_and_drops_the_rest() {
    let mut holdings = holdings();
    let all = vec![
        wire_entry("a", "/a", 0),
        wire_entry("b", "/b", 0),
        wire_entry("c", "/task/c", 4),
    ];
    holdings.replace(Replacement {
        fetched: all,
        ..Default::default()
    });
    assert_eq!(ids(&holdings), ["a", "b"]);
    assert_eq!(
        holdings.version_of("c").unwrap().revision_number,
        4,
        "it need not be fetched again"
    );
    let kept = ["a".parse().unwrap()].into();
    holdings.replace(Replacement {
        kept,
        fetched: vec![wire_entry("d", "/d", 0)],
        ..Default::default()
    });
    assert_eq!(ids(&holdings), ["a", "d"]);
    assert!(holdings.version_of("c").is_none());
}

fn digest(all: &[(&str, i64)]) -> u64 {
    let entries: Vec<_> = all
        .iter()
        .map(|(id, n)| Entry::try_from(&wire_entry(id, &format!("/{id}"), *n)).unwrap())
        .collect();
    entries_digest(&entries)
}

#[test]
fn the_running_digest_is_that_of_what_is_held() {
    let mut holdings = holdings();
    holdings.apply(delta(vec![wire_entry("a", "/a", 0), wire_entry("z", "/z", 0)]), at(1));
    let gone = Update {
        removed_entry_ids: vec!["z".into(), "unknown".into()],
        ..Default::default()
    };
    holdings.apply(gone, at(2));
    holdings.apply(delta(vec![wire_entry("a", "/a", 1), wire_entry("b", "/b", 2)]), at(3));
    assert!(holdings.agrees_with(2, digest(&[("b", 2), ("a", 1)])));
    assert!(!holdings.agrees_with(3, digest(&[("b", 2), ("a", 1)])));
    assert!(!holdings.agrees_with(2, digest(&[("a", 1), ("b", 3)])));
    holdings.apply(
        snapshot(vec![wire_entry("b", "/b", 2), wire_entry("a", "/a", 1)]),
        at(4),
    );
    assert!(holdings.agrees_with(2, digest(&[("b", 2), ("a", 1)])));
    holdings.replace(Replacement {
        kept: ["a".parse().unwrap()].into(),
        ..Default::default()
    });
    assert!(holdings.agrees_with(1, digest(&[("a", 1)])));
}

#[test]
fn rejected_entries_may_be_counted_by_the_server_or_not() {
    let mut holdings = holdings();
    holdings.apply(
        delta(vec![wire_entry("a", "/a", 1), wire_entry("b", "/task/b", 2)]),
        at(1),
    );
    assert!(holdings.agrees_with(1, digest(&[("a", 1)])));
    assert!(holdings.agrees_with(2, digest(&[("a", 1), ("b", 2)])));
}

#[test]
fn a_position_moves_forward_only_and_not_out_of_nothing() {
    let mut holdings = holdings();
    holdings.advance(7);
    assert_eq!(holdings.position(), None);
    holdings.apply(snapshot(vec![]), at(3));
    holdings.advance(7);
    holdings.advance(5);
    assert_eq!(holdings.position(), Some(&at(7)));
}

#[test]
fn a_bundle_that_cannot_be_read_leaves_the_one_before() {
    let mut holdings = holdings();
    let bundle = |name: &str, sequence_number, refresh_hint| types::Bundle {
        trust_domain: name.into(),
        sequence_number,
        refresh_hint,
        ..Default::default()
    };
    let good = vec![bundle("td", 1, 0), bundle("other", 1, 0)];
    let bad = vec![bundle("td", 2, -1), bundle("other", 2, -1)];
    assert!(
        holdings
            .apply(
                Update {
                    bundles: good,
                    ..Default::default()
                },
                at(1)
            )
            .own_bundle
            .is_some()
    );
    let applied = holdings.apply(
        Update {
            snapshot: true,
            bundles: bad,
            ..Default::default()
        },
        at(2),
    );
    assert_eq!(applied.own_bundle, None);
    assert_eq!(holdings.view().own().sequence_number, 1);
    let other = "other".parse().unwrap();
    assert_eq!(holdings.view().federated(&other).unwrap().sequence_number, 1);
    let gone = Update {
        removed_trust_domains: vec!["other".into()],
        ..Default::default()
    };
    holdings.apply(gone, at(3));
    assert!(holdings.view().federated(&other).is_none());
}
