//! What the log only commits to.

use mayfly_model::log::private::Commitment;
use mayfly_model::{Change, Conflict};
use serde_json::json;

use super::{Fixture, World};

fn proposal(person: &str) -> Change {
    Change::Note {
        kind: "test.approved",
        subject: "request".into(),
        body: json!({ "by": person, "reason": "it is due", "groups": ["dba"] }),
    }
}

pub(crate) fn what_is_private_is_beside_the_log_and_the_same_value_has_the_same_commitment(
    fixture: &dyn Fn() -> Fixture,
) {
    let mut world = World::new(fixture);
    world.commit([proposal("joan"), proposal("bob")]);
    world.commit([proposal("joan")]);
    let mut archive = world.archive();
    let entries = archive.entries(0, 10).unwrap();
    for hidden in ["joan", "bob", "it is due", "because", "uid:1000", "pid:7"] {
        assert!(
            entries.iter().all(|entry| !entry.contains(hidden)),
            "{hidden}: {entries:?}"
        );
    }
    assert!(entries.iter().all(|entry| entry.contains(r#""groups":["dba"]"#)));
    let by = |index: usize| {
        let entry: serde_json::Value = serde_json::from_str(&entries[index]).unwrap();
        Commitment::of(&entry["body"]["by"]).unwrap()
    };
    assert_eq!(by(0), by(2));
    assert_ne!(by(0), by(1));
    let joan = archive.private(by(0)).unwrap().unwrap();
    let salt = hex::decode(&joan.salt).unwrap().try_into().unwrap();
    assert_eq!(Commitment::new(&salt, r#""joan""#), by(0));
    assert_eq!(archive.commitment_to(r#""joan""#).unwrap(), Some(by(0)));
    // Read with what is known, it is as it was.
    let record = archive.read(2, &entries[2]).unwrap();
    assert_eq!(
        record.body,
        json!({ "by": "joan", "reason": "it is due", "groups": ["dba"] })
    );
    assert_eq!(
        (record.actor.who.as_str(), record.actor.reason.as_str()),
        ("uid:1000", "because")
    );
    world.finish();
}

pub(crate) fn what_was_erased_is_not_known_again_by_its_old_commitment(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.commit([proposal("joan")]);
    let joan = world.archive().commitment_to(r#""joan""#).unwrap().unwrap();
    world.does(Change::PrivateErase(vec![joan]));
    assert!(matches!(
        world.refuses(Change::PrivateErase(vec![joan])),
        Conflict::NothingToErase
    ));
    let log = world.log();
    assert_eq!(log[0].body["by"], joan.to_value());
    assert_eq!(log[0].body["reason"], "it is due");
    assert_eq!(log[1].kind, "private.erased");
    assert_eq!(log[1].body["commitments"], json!([joan.to_string()]));
    // A person who comes back is nobody that the log knows.
    world.commit([proposal("joan")]);
    let again = world.archive().commitment_to(r#""joan""#).unwrap().unwrap();
    assert_ne!(again, joan);
    world.finish();
}

pub(crate) fn what_is_too_large_for_an_entry_is_beside_it(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let body = json!({ "text": "x".repeat(70_000) });
    world.does(Change::Note {
        kind: "test.large",
        subject: String::new(),
        body: body.clone(),
    });
    let mut archive = world.archive();
    let entry = archive.entries(0, 1).unwrap().remove(0);
    assert!(entry.len() < 1_000, "{}", entry.len());
    assert_eq!(archive.read(0, &entry).unwrap().body, body);
    world.finish();
}
