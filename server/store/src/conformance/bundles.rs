//! Foreign bundles.

use mayfly_model::{BundleDeleteMode, BundlePatch, Change, Conflict, Delta, EntryPatch};

use super::{Fixture, World, bundle, create, entry, id, x509};
use crate::Changed;

fn delete(trust_domain: &str, mode: BundleDeleteMode) -> Change {
    Change::BundleDelete {
        trust_domain: trust_domain.parse().unwrap(),
        mode,
    }
}

fn update(trust_domain: &str, patch: BundlePatch) -> Change {
    Change::BundleUpdate {
        trust_domain: trust_domain.parse().unwrap(),
        patch: Box::new(patch),
    }
}

pub(crate) fn foreign_bundles_are_created_updated_and_set(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let a = || Box::new(bundle("other", &["a"]));
    assert!(matches!(
        world.refuses(update("other", BundlePatch::default())),
        Conflict::BundleNotFound
    ));
    world.does(Change::BundleCreate(a()));
    assert!(matches!(
        world.refuses(Change::BundleCreate(a())),
        Conflict::BundleExists
    ));

    let patch = BundlePatch {
        refresh_hint: Some(60),
        sequence_number: Some(7),
        ..BundlePatch::default()
    };
    world.does(update("other", patch));
    let (certificates, _, refresh_hint, sequence_number) = &world.memory.bundles["other"];
    assert_eq!((certificates.len(), *refresh_hint, *sequence_number), (1, 60, 7));
    let patch = BundlePatch {
        x509_authorities: Some(vec![x509("b"), x509("c")]),
        ..BundlePatch::default()
    };
    world.does(update("other", patch));
    assert_eq!(world.memory.bundles["other"].0.len(), 2);

    world.does(Change::BundleSet(a()));
    let revision = world.memory.revision;
    let deltas = world.does(Change::BundleSet(a()));
    assert!(matches!(&deltas[..], [Delta::BundlePut(_)]));
    assert_eq!(
        world.changed_since(revision),
        [],
        "the same again is nothing to look at"
    );
    world.does(Change::BundleSet(Box::new(bundle("third", &[]))));
    world.finish();
}

pub(crate) fn the_own_bundle_cannot_be_touched_as_a_foreign_one(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let own = || Box::new(bundle("td", &["evil"]));
    assert!(matches!(
        world.refuses(Change::BundleCreate(own())),
        Conflict::BundleExists
    ));
    assert!(matches!(
        world.refuses(Change::BundleSet(own())),
        Conflict::BundleExists
    ));
    assert!(matches!(
        world.refuses(update("td", BundlePatch::default())),
        Conflict::BundleNotFound
    ));
    assert!(matches!(
        world.refuses(delete("td", BundleDeleteMode::Delete)),
        Conflict::BundleNotFound
    ));
    world.finish();
}

pub(crate) fn an_entry_federates_with_bundles_that_are_there(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
    let federated = |name: &str, with: &[&str]| {
        let mut entry = entry(name, "/group");
        entry.spec.federates_with = names(with);
        create(entry)
    };
    let federate = |with: &[&str]| Change::EntryUpdate {
        id: "1".parse().unwrap(),
        patch: Box::new(EntryPatch {
            federates_with: Some(names(with)),
            ..EntryPatch::default()
        }),
    };
    let missing = |conflict| matches!(conflict, Conflict::FederatedBundleNotFound(name) if name.as_str() == "y");
    let put = |name| Change::BundleCreate(Box::new(bundle(name, &["a"])));
    world.does(put("x"));
    assert!(missing(world.refuses(federated("1", &["x", "y"]))));
    world.does(federated("1", &["x"]));
    assert!(missing(world.refuses(federate(&["x", "y"]))));

    // Whether it is there is asked at the moment of the step.
    let outcomes = world.commit([put("y"), federate(&["y"]), delete("y", BundleDeleteMode::Restrict)]);
    assert!(matches!(
        &outcomes.outcomes[..],
        [Ok(_), Ok(_), Err(Conflict::BundleInUse(1))]
    ));
    let outcomes = world.commit([delete("y", BundleDeleteMode::Dissociate), federate(&["y"])]);
    assert!(
        outcomes.outcomes[1]
            .as_ref()
            .is_err_and(|conflict| missing(conflict.clone()))
    );
    world.does(federate(&[]));
    world.finish();
}

pub(crate) fn a_bundle_in_use_is_deleted_by_the_mode_that_was_chosen(fixture: &dyn Fn() -> Fixture) {
    use BundleDeleteMode::{Delete, Dissociate, Restrict};
    let mut world = World::new(fixture);
    let federated = |name: &str, with: &[&str]| {
        let mut entry = entry(name, "/group");
        entry.spec.federates_with = with.iter().map(|name| name.parse().unwrap()).collect();
        create(entry)
    };
    let changed = |name: &str| Changed::Entry {
        id: name.parse().unwrap(),
        parent_id: id("/group"),
        spiffe_id: id(&format!("/{name}")),
    };
    for trust_domain in ["x", "y"] {
        world.does(Change::BundleCreate(Box::new(bundle(trust_domain, &["a"]))));
    }
    world.does(federated("1", &["x", "y", "x"]));
    world.does(federated("2", &["x"]));
    world.does(create(entry("3", "/group")));
    assert!(matches!(world.refuses(delete("z", Restrict)), Conflict::BundleNotFound));
    assert!(matches!(world.refuses(delete("x", Restrict)), Conflict::BundleInUse(2)));

    let revision = world.memory.revision;
    let deltas = world.does(delete("x", Dissociate));
    assert!(matches!(
        &deltas[..],
        [Delta::EntryPut(_), Delta::EntryPut(_), Delta::BundleGone(_)]
    ));
    assert_eq!(
        world.changed_since(revision),
        [changed("1"), changed("2"), Changed::Bundle("x".parse().unwrap())]
    );
    let first = world.memory.entries["1"].clone();
    assert_eq!((first.revision_number, first.spec.federates_with.len()), (1, 1));

    let deltas = world.does(delete("y", Delete));
    assert!(matches!(&deltas[..], [Delta::EntryGone(gone), Delta::BundleGone(_)] if gone.id.as_str() == "1"));
    assert_eq!(world.memory.entries.keys().collect::<Vec<_>>(), ["2", "3"]);

    // What no longer federates does not count any more.
    world.does(Change::BundleCreate(Box::new(bundle("x", &["a"]))));
    world.does(delete("x", Restrict));
    world.finish();
}
