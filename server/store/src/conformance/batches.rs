//! Commits of several steps, the log and the history.

use mayfly_model::{Change, Conflict, EntryPatch, Revision, SvidIntent};
use mayfly_svid::{Timestamp, WindowId};
use serde_json::json;

use super::{Fixture, World, agent, attest, create, entry, id, only_entry, serial};
use crate::Changed;

pub(crate) fn a_batch_takes_one_revision_and_none_if_nothing_happened(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    assert_eq!(world.memory.revision, Revision(0));
    assert_eq!(
        world
            .commit([create(entry("a", "/group")), create(entry("b", "/group"))])
            .revision,
        Revision(1)
    );
    let missing = || Change::EntryDelete("missing".parse().unwrap());
    assert_eq!(world.commit([missing(), missing()]).revision, Revision(1));
    assert_eq!(world.commit([]).revision, Revision(1));
    assert_eq!(
        world.commit([missing(), create(entry("c", "/group"))]).revision,
        Revision(2)
    );
    world.finish();
}

pub(crate) fn a_conflict_leaves_nothing_and_disturbs_nobody(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let hint = |name: &str, hint: &str| {
        let patch = EntryPatch {
            hint: Some(hint.into()),
            ..EntryPatch::default()
        };
        Change::EntryUpdate {
            id: name.parse().unwrap(),
            patch: Box::new(patch),
        }
    };
    let outcomes = world
        .commit([
            create(entry("a", "/group")),
            create(entry("a", "/group")),
            hint("a", "one"),
            hint("b", "too early"),
            create(entry("b", "/group")),
            Change::EntryDelete("a".parse().unwrap()),
            hint("a", "too late"),
            create(entry("a", "/elsewhere")),
        ])
        .outcomes;
    let happened: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(happened, [true, false, true, false, true, true, false, true]);
    assert!(matches!(&outcomes[1], Err(Conflict::EntryExists(_))));
    let renamed = only_entry(outcomes[2].as_ref().unwrap());
    assert_eq!(
        (renamed.spec.hint.as_str(), renamed.revision_number),
        ("one", 1),
        "later steps see earlier ones"
    );
    let kinds: Vec<String> = world.log().into_iter().map(|record| record.kind).collect();
    assert_eq!(
        kinds,
        [
            "entry.created",
            "entry.updated",
            "entry.created",
            "entry.deleted",
            "entry.created"
        ]
    );
    world.finish();
}

pub(crate) fn the_log_tells_who_did_what_without_gaps(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let note = |subject: &str| Change::Note {
        kind: "logger.level_set",
        subject: subject.into(),
        body: json!({"n": 1}),
    };
    for subject in ["a", "b", "c"] {
        world.commit([
            note(subject),
            Change::EntryDelete("missing".parse().unwrap()),
            note(subject),
        ]);
        world.restart();
        world.store.load().unwrap();
    }
    let log = world.log();
    assert_eq!(
        log.iter().map(|record| record.index).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!(
        log.iter().map(|record| record.revision.0).collect::<Vec<_>>(),
        [1, 1, 2, 2, 3, 3]
    );
    let record = &log[5];
    assert_eq!(
        (record.kind.as_str(), record.subject.as_str(), &record.body),
        ("logger.level_set", "c", &json!({"n": 1}))
    );
    assert_eq!(record.actor, world.step(note("c")).actor);
    assert_eq!(record.time.unix(), world.now);

    let mut archive = world.archive();
    let entries = archive.entries(0, 6).unwrap();
    assert_eq!(archive.entries(2, 3).unwrap(), entries[2..5]);
    assert!(archive.entries(6, 3).unwrap().is_empty());
    assert_eq!(archive.size().unwrap(), 6);
    let notes = archive.of_kind("logger.level_set", 1, 9).unwrap();
    assert!(notes.iter().all(|(index, entry)| *entry == entries[*index as usize]) && !notes.is_empty());
    world.finish();
}

pub(crate) fn intents_and_outcomes_are_in_the_log(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let intent = |number| SvidIntent {
        spiffe_id: id("/web"),
        entry_id: Some("a".parse().unwrap()),
        serial: serial(number),
        public_key_sha256: [7; 32],
        authority_id: "authority".into(),
        not_after: Timestamp::from_unix(world.now + 60),
        window_id: (number == 3).then_some(WindowId([3; 16])),
    };
    let intents = (1..=3).map(intent).collect();
    let deltas = world.does(Change::SvidIntents(intents));
    assert!(deltas.is_empty());
    world.does(Change::SvidOutcome {
        signed: vec![serial(1), serial(2)],
        failed: vec![serial(3)],
    });
    let log = world.log();
    assert_eq!(log.len(), 4);
    assert_eq!(
        (log[1].kind.as_str(), log[1].subject.as_str()),
        ("svid.intended", "spiffe://td/web")
    );
    assert_eq!(log[1].body["serial"], "2");
    assert_eq!(log[1].body.get("window_id"), None);
    assert_eq!(log[2].body["window_id"], WindowId([3; 16]).to_string());
    assert_eq!(log[3].body, json!({"signed": ["1", "2"], "failed": ["3"]}));
    world.finish();
}

pub(crate) fn renewals_and_reports_are_nothing_to_watch(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let path = "/spire/agent/x509pop/a";
    world.does(attest(agent(path, 1), None));
    let expires_at = Timestamp::from_unix(world.now + 60);
    world.does(Change::AgentRenew {
        id: id(path),
        by: serial(1),
        serial: serial(2),
        expires_at,
    });
    world.does(Change::AgentConfirm {
        id: id(path),
        serial: serial(2),
    });
    world.does(Change::AgentReport {
        id: id(path),
        version: "1".into(),
    });
    assert_eq!(world.changed_since(Revision(0)), [Changed::Agent(id(path))]);
    // Twice in one commit is one row.
    world.commit([Change::AgentBan(id(path)), Change::AgentBan(id(path))]);
    assert_eq!(world.changed_since(Revision(4)), [Changed::Agent(id(path))]);
    world.finish();
}

pub(crate) fn history_belongs_to_one_database(fixture: &dyn Fn() -> Fixture) {
    let (mut one, mut other) = (World::new(fixture), World::new(fixture));
    let history = one.store.load().unwrap().history;
    assert_ne!(history, other.store.load().unwrap().history);
    one.restart();
    assert_eq!(one.store.load().unwrap().history, history);
    one.finish();
}
