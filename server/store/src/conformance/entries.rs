//! Entries.

use mayfly_model::{Change, Conflict, Delta, EntryPatch, Selector};
use mayfly_svid::Timestamp;

use super::{Fixture, World, bundle, create, entry, id, only_entry};
use crate::Changed;

pub(crate) fn update(name: &str, patch: EntryPatch) -> Change {
    Change::EntryUpdate {
        id: name.parse().unwrap(),
        patch: Box::new(patch),
    }
}

pub(crate) fn an_entry_id_and_a_similar_entry_are_taken_once(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let first = only_entry(&world.does(create(entry("a", "/group"))));

    let mut same_id = entry("b", "/elsewhere");
    same_id.id = first.id.clone();
    assert!(matches!(world.refuses(create(same_id)), Conflict::EntryExists(there) if there == first));

    let mut similar = entry("a", "/group");
    similar.id = "other".parse().unwrap();
    similar.spec.hint = "a hint does not make it another one".into();
    assert!(matches!(world.refuses(create(similar)), Conflict::EntryExists(there) if there == first));

    world.does(create(entry("b", "/group")));
    world.does(Change::EntryDelete(first.id.clone()));
    assert!(matches!(
        world.refuses(Change::EntryDelete(first.id.clone())),
        Conflict::EntryNotFound
    ));
    world.does(create(entry("a", "/group")));
    world.finish();
}

pub(crate) fn similar_is_told_by_the_set_of_selectors(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let with = |name: &str, selectors: &[&str]| {
        let mut entry = entry("a", "/group");
        entry.id = name.parse().unwrap();
        entry.spec.selectors = selectors.iter().map(|text| text.parse::<Selector>().unwrap()).collect();
        create(entry)
    };
    world.does(with("1", &["a:1", "b:2"]));
    assert!(matches!(
        world.refuses(with("2", &["b:2", "a:1", "a:1"])),
        Conflict::EntryExists(_)
    ));
    world.does(with("3", &["a:1"]));
    // One selector that reads like two.
    world.does(with("4", &["a:1\nb:2"]));
    world.does(with("5", &["a:1b:2"]));
    world.finish();
}

pub(crate) fn an_entry_update_changes_what_it_states_and_counts_up(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let mut before = entry("a", "/group");
    before.spec.hint = "old".into();
    before.spec.federates_with = vec!["other".parse().unwrap()];
    world.does(Change::BundleCreate(Box::new(bundle("other", &[]))));
    world.does(create(before.clone()));
    world.now += 5;

    let patch = EntryPatch {
        hint: Some("new".into()),
        admin: Some(true),
        ..EntryPatch::default()
    };
    let after = only_entry(&world.does(update("a", patch)));
    before.spec.hint = "new".into();
    before.spec.admin = true;
    before.revision_number = 1;
    assert_eq!(*after, before);

    let again = only_entry(&world.does(update("a", EntryPatch::default())));
    assert_eq!(again.revision_number, 2);
    world.finish();
}

pub(crate) fn an_entry_update_is_checked_and_refused_whole(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(create(entry("a", "/group")));
    world.does(create(entry("b", "/group")));
    assert!(matches!(
        world.refuses(update("c", EntryPatch::default())),
        Conflict::EntryNotFound
    ));

    let reserved = EntryPatch {
        spiffe_id: Some(id("/task/x")),
        ..EntryPatch::default()
    };
    assert!(matches!(
        world.refuses(update("a", reserved)),
        Conflict::EntryInvalid(_)
    ));
    let foreign = EntryPatch {
        parent_id: Some("spiffe://other/x".parse().unwrap()),
        ..EntryPatch::default()
    };
    assert!(matches!(world.refuses(update("a", foreign)), Conflict::EntryInvalid(_)));

    let like_a = EntryPatch {
        spiffe_id: Some(id("/a")),
        ..EntryPatch::default()
    };
    assert!(matches!(world.refuses(update("b", like_a)), Conflict::EntryExists(there) if there.id.as_str() == "a"));
    world.finish();
}

pub(crate) fn an_entry_that_moves_is_seen_at_both_places(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(create(entry("a", "/old")));
    let revision = world.memory.revision;
    world.does(update(
        "a",
        EntryPatch {
            parent_id: Some(id("/new")),
            ..EntryPatch::default()
        },
    ));
    let at = |parent, gives| Changed::Entry {
        id: "a".parse().unwrap(),
        parent_id: id(parent),
        spiffe_id: id(gives),
    };
    assert_eq!(world.changed_since(revision), [at("/old", "/a"), at("/new", "/a")]);

    let revision = world.memory.revision;
    let spiffe_id = Some(id("/b"));
    world.does(update(
        "a",
        EntryPatch {
            spiffe_id,
            ..EntryPatch::default()
        },
    ));
    assert_eq!(world.changed_since(revision), [at("/new", "/a"), at("/new", "/b")]);

    let revision = world.memory.revision;
    world.does(Change::EntryDelete("a".parse().unwrap()));
    assert_eq!(world.changed_since(revision), [at("/new", "/b")]);
    world.finish();
}

pub(crate) fn an_entry_is_not_expired_by_who_has_not_seen_it_move(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let mut short = entry("a", "/group");
    short.spec.expires_at = Some(Timestamp::from_unix(world.now));
    world.does(create(short));
    let later = EntryPatch {
        expires_at: Some(Some(Timestamp::from_unix(world.now + 1))),
        ..EntryPatch::default()
    };
    world.does(update("a", later));
    let expire = || Change::EntryExpire("a".parse().unwrap());
    assert!(matches!(world.refuses(expire()), Conflict::EntryNotFound));
    world.now += 1;
    assert!(matches!(&world.does(expire())[..], [Delta::EntryGone(_)]));
    assert!(matches!(world.refuses(expire()), Conflict::EntryNotFound));
    world.finish();
}

// SPIRE's agents know an entry by ID, revision number and creation time.
pub(crate) fn an_entry_that_is_created_again_has_another_creation_time(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(only_entry(&world.does(create(entry("a", "/group")))).created_at.unix());
        world.does(Change::EntryDelete("a".parse().unwrap()));
        world.restart();
    }
    assert_eq!(seen, [1_000_000, 1_000_001, 1_000_002]);
    let logged: Vec<_> = world
        .log()
        .into_iter()
        .filter(|record| record.kind == "entry.created")
        .collect();
    assert_eq!(logged[2].body["created_at"], 1_000_002, "the log has what was stored");

    world.now += 3;
    let mut later = entry("a", "/group");
    later.created_at = Timestamp::from_unix(world.now);
    let later = only_entry(&world.does(create(later)));
    assert_eq!(later.created_at.unix(), world.now);
    world.finish();
}
