use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::log::private::{Commitment, FIELDS};

const AT: Timestamp = Timestamp::from_unix(1_800_000_000);

fn actor(who: &str) -> Actor {
    Actor {
        who: who.into(),
        origin: "192.0.2.7:4711".into(),
        reason: "why not".into(),
    }
}

/// The entry, and what was hidden.
fn sealed(record: Record, actor: &Actor) -> (String, Vec<String>) {
    let mut hidden = vec![];
    let mut keep = |value: &str| {
        hidden.push(value.to_owned());
        Ok::<_, Infallible>(Commitment::new(&[0; 16], value))
    };
    let mut hide = Hide::new(&mut keep);
    let envelope = Envelope::new(Revision(7), AT, actor, &mut hide).unwrap();
    let entry = envelope.seal(record, &mut hide).unwrap();
    (entry, hidden)
}

fn record(body: Value) -> Record {
    Record {
        kind: "test.kind",
        subject: "sub\"ject".into(),
        body: Body::Fields(body),
    }
}

#[test]
fn an_entry_is_canonical_and_says_who_when_and_what() {
    let body = json!({ "b": [1, "é\u{1}\n", null], "a": { "d": true, "c": "\u{2028}" } });
    let (entry, hidden) = sealed(record(body), &Actor::server());
    assert_eq!(
        entry,
        "{\"body\":{\"a\":{\"c\":\"\u{2028}\",\"d\":true},\"b\":[1,\"é\\u0001\\n\",null]},\"kind\":\"test.kind\",\
         \"origin\":\"\",\"reason\":\"\",\"revision\":7,\"subject\":\"sub\\\"ject\",\"time\":1800000000,\"v\":1,\
         \"who\":\"server\"}"
    );
    assert!(hidden.is_empty());
}

#[test]
fn people_are_private_and_machines_are_not_and_where_they_are_is_for_nobody() {
    for (who, is_private) in [
        ("server", false),
        ("spiffe://td/spire/agent/x509pop/1", false),
        ("spiffe://td/spire/server", false),
        ("spiffe://td/people/ada", true),
        ("spiffe://td/spire/serverx", true),
        ("uid:1000", true),
    ] {
        let (entry, hidden) = sealed(record(json!({})), &actor(who));
        assert_eq!(entry.contains(who), !is_private, "{entry}");
        assert!(!entry.contains("192.0.2.7") && !entry.contains("why not"), "{entry}");
        assert_eq!(hidden.len(), if is_private { 3 } else { 2 });
    }
}

#[test]
fn of_what_is_too_long_only_what_the_entry_names_is_kept() {
    let decision = json!({ "verdict": "deny", "message": "it is late" });
    let groups = |count: usize| vec!["a-group-of-people"; count];
    let body = |count| json!({ "facts": { "person": "ada", "groups": groups(count) }, "decision": decision });
    let commitments = |entry: &str| Commitment::all_of(&serde_json::from_str(entry).unwrap());
    for (count, kept) in [(10, 2), (10_000, 2)] {
        let (entry, hidden) = sealed(record(body(count)), &Actor::server());
        // A decision stays legible; what it was taken on is beside the log as a whole then, and `ada` not once more.
        assert!(
            entry.contains(r#""verdict":"deny""#) && entry.len() <= ENTRY_MAX,
            "{count}"
        );
        assert_eq!(
            (hidden.len(), commitments(&entry).len()),
            (kept, kept),
            "{count}: {hidden:?}"
        );
        assert_eq!(hidden.iter().any(|hidden| hidden == "\"ada\""), count == 10);
    }
    let other = json!({ "groups": groups(10_000), "person": "ada" });
    let (entry, hidden) = sealed(record(other.clone()), &Actor::server());
    assert_eq!(hidden, [canonical(&other)]);
    assert_eq!(commitments(&entry).len(), 1);
}

#[test]
fn an_entry_read_again_is_what_was_recorded_as_far_as_it_is_known() {
    let body = json!({
        "approval": { "person": "ada", "groups": ["dba"], "reason": "due" },
        "facts": { "person": { "id": "ada", "groups": ["dba"], "key": "k" }, "ticket": { "open": true, "owner": "bob" } },
        "parameters": { "id": "42" },
        "selectors": ["unix:uid:1"],
    });
    let (entry, hidden) = sealed(record(body.clone()), &actor("uid:1"));
    for name in ["ada", "bob", "42", "unix:uid:1", "due", "\"k\""] {
        assert!(!entry.contains(name), "{name} in {entry}");
    }
    assert!(entry.contains(r#""groups":["dba"]"#) && entry.contains(r#""open":true"#));
    let known = |commitment: &Commitment| {
        let found = hidden
            .iter()
            .find(|value| Commitment::new(&[0; 16], value) == *commitment)?;
        serde_json::from_str(found).ok()
    };
    let read = LogEntry::parse(3, &entry, &Reveal::new(&known)).unwrap();
    assert_eq!((read.index, &read.body, &read.actor), (3, &body, &actor("uid:1")));
    let read = LogEntry::parse(3, &entry, &Reveal::new(&|_| None)).unwrap();
    assert_eq!((read.actor.who.as_str(), read.kind.as_str()), ("?", "test.kind"));
    assert_eq!(Commitment::all_of(&read.body).len(), 7);
}

#[test]
fn what_is_no_entry_is_refused_by_its_index() {
    for text in ["", "{}", "[]", r#"{"v":2}"#, r#"{"v":1}"#, r#"{"v":"1"}"#] {
        let refused = LogEntry::parse(12, text, &Reveal::new(&|_| None)).unwrap_err();
        assert!(refused.to_string().contains("entry 12"), "{refused}");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "secret-[a-z]{0,4}".prop_map(Value::from),
    ];
    let name = prop_oneof!["[a-z]{1,3}", proptest::sample::select(FIELDS).prop_map(str::to_owned)];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn one_value_has_one_spelling_and_the_spelling_is_the_value(value in any_value()) {
        let text = canonical(&value);
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &value);
        prop_assert_eq!(canonical(&read), text);
    }

    #[test]
    fn text_in_private_fields_never_stands_in_an_entry(value in any_value()) {
        for name in FIELDS {
            if value.is_object() {
                continue; // described objects say some things; the test above has them
            }
            let (entry, _) = sealed(record(json!({ *name: value, "more": { *name: value } })), &Actor::server());
            prop_assert!(!entry.contains("secret-"), "{}", entry);
        }
    }
}
