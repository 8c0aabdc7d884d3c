//! Authorities and the own bundle.

use mayfly_model::{AuthorityState, Change, Conflict, Delta};
use mayfly_svid::{JwtAuthority, X509Authority};

use super::{Fixture, World, authority, own, x509};
use crate::Changed;

fn prepare(name: &str, not_after: i64) -> Change {
    Change::AuthorityPrepare(Box::new(authority(name, not_after)))
}

/// The certificates and the sequence number of the own bundle.
fn own_bundle(world: &World) -> (Vec<String>, u64) {
    let (certificates, _, _, sequence_number) = &world.memory.bundles["td"];
    let name = |(text, _): &(String, bool)| String::from_utf8(hex::decode(text).unwrap()).unwrap();
    (certificates.iter().map(name).collect(), *sequence_number)
}

fn state(world: &World, name: &str) -> AuthorityState {
    world.memory.authorities[name].state
}

pub(crate) fn an_authority_enters_the_bundle_before_it_signs(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    assert_eq!(own_bundle(&world), (vec![], 0), "a new server has an empty bundle");
    let deltas = world.does(prepare("a", 5_000_000));
    assert!(matches!(&deltas[..], [Delta::BundlePut(_), Delta::AuthorityPut(_)]));
    assert_eq!(own_bundle(&world), (vec!["a".into()], 1));
    assert_eq!(world.changed_since(Default::default()), [Changed::Bundle(own())]);
    assert!(matches!(world.refuses(prepare("a", 6_000_000)), Conflict::AuthorityState(name) if name == "a"));
    world.finish();
}

pub(crate) fn one_authority_is_active_and_the_last_one_becomes_old(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let activate = |name: &str| Change::AuthorityActivate(name.into());
    assert!(matches!(world.refuses(activate("a")), Conflict::AuthorityState(_)));
    world.does(prepare("a", 5_000_000));
    world.does(prepare("b", 5_000_000));
    world.does(activate("a"));
    assert!(matches!(world.refuses(activate("a")), Conflict::AuthorityState(_)));
    let deltas = world.does(activate("b"));
    assert!(
        matches!(&deltas[..], [Delta::AuthorityPut(old), Delta::AuthorityPut(new)] if old.id == "a" && new.id == "b")
    );
    assert_eq!(
        (state(&world, "a"), state(&world, "b")),
        (AuthorityState::Old, AuthorityState::Active)
    );
    assert!(
        matches!(world.refuses(activate("a")), Conflict::AuthorityState(_)),
        "an old one does not return"
    );
    assert_eq!(own_bundle(&world).1, 2, "activation changes no bundle");
    world.finish();
}

pub(crate) fn an_authority_is_pruned_after_its_last_second(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let prune = |name: &str| Change::AuthorityPrune(name.into());
    world.does(prepare("a", world.now));
    world.does(prepare("b", world.now + 100));
    assert!(matches!(world.refuses(prune("a")), Conflict::AuthorityState(_)));
    assert!(matches!(world.refuses(prune("c")), Conflict::AuthorityState(_)));
    world.now += 1;
    let deltas = world.does(prune("a"));
    assert!(matches!(&deltas[..], [Delta::AuthorityGone(_), Delta::BundlePut(_)]));
    assert_eq!(own_bundle(&world), (vec!["b".into()], 3));
    world.finish();
}

pub(crate) fn appended_authorities_keep_what_is_there(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let key = |key_id: &str, byte| JwtAuthority {
        key_id: key_id.into(),
        public_key_der: vec![byte],
        expires_at: None,
        tainted: false,
    };
    let append = |x509_authorities: Vec<X509Authority>, jwt_authorities: Vec<JwtAuthority>| Change::BundleAppend {
        x509_authorities,
        jwt_authorities,
    };
    let tainted = X509Authority {
        tainted: true,
        ..x509("a")
    };
    world.does(append(vec![tainted, x509("b"), x509("b")], vec![key("k", 1)]));
    assert_eq!(own_bundle(&world), (vec!["a".into(), "b".into()], 1));

    let revision = world.memory.revision;
    let deltas = world.does(append(vec![x509("a")], vec![key("k", 2)]));
    assert!(matches!(&deltas[..], [Delta::BundlePut(bundle)] if bundle.x509_authorities[0].tainted));
    assert_eq!(own_bundle(&world).1, 1, "nothing new, no new number");
    assert_eq!(world.changed_since(revision), []);

    // An authority whose certificate is there already is not in the bundle twice, and takes it along when it ends.
    world.does(prepare("b", 1));
    assert_eq!(own_bundle(&world), (vec!["a".into(), "b".into()], 1));
    world.does(Change::AuthorityPrune("b".into()));
    assert_eq!(own_bundle(&world), (vec!["a".into()], 2));
    world.finish();
}
