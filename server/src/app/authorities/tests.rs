use super::*;
use crate::app::testing::{START, World, csr, id};

const HOUR: Duration = Duration::from_secs(3_600);

fn of_class(world: &World, class: KeyClass) -> Vec<Arc<Authority>> {
    let state = world.committer.snapshot();
    let mut all: Vec<_> = state
        .authorities()
        .filter(|found| found.class == class)
        .cloned()
        .collect();
    all.sort_by_key(|authority| (authority.not_before, authority.id.clone()));
    all
}

/// The same of every class, as that is how they live.
fn states(world: &World) -> Vec<AuthorityState> {
    let of = |class| -> Vec<_> { of_class(world, class).iter().map(|found| found.state).collect() };
    let base = of(KeyClass::Base);
    assert_eq!(
        (of(KeyClass::Task), of(KeyClass::Breakglass)),
        (base.clone(), base.clone())
    );
    base
}

fn signing(world: &World, class: KeyClass) -> String {
    let active = world.authorities.active();
    let signing = active.of(class).load_full().unwrap();
    signing.authority_id.clone()
}

fn bundle_len(world: &World) -> usize {
    world
        .committer
        .snapshot()
        .own_bundle()
        .map_or(0, |bundle| bundle.x509_authorities.len())
}

async fn at(world: &World, hours: u64) {
    world
        .clock
        .set(std::time::UNIX_EPOCH + Duration::from_secs(START) + HOUR * u32::try_from(hours).unwrap());
    world.authorities.pass().await.unwrap();
}

// SVID-02
#[tokio::test]
async fn a_new_server_has_an_authority_before_it_serves() {
    let world = World::new().await;
    assert_eq!(states(&world), [AuthorityState::Active]);
    let state = world.committer.snapshot();
    for class in KeyClass::ALL {
        let active = state.active_authority(class).unwrap();
        assert_eq!(signing(&world, class), active.id);
        assert!(
            active.key_id.starts_with(&format!("{}-", class.word())),
            "{}",
            active.key_id
        );
    }
    assert_eq!(bundle_len(&world), 3);
    assert_eq!(state.revision().0, 1, "one commit, and so one bundle for everybody");
}

#[tokio::test]
async fn the_next_authority_is_in_the_bundle_at_half_and_signs_at_two_thirds() {
    use AuthorityState::{Active, Old, Prepared};
    let world = World::new().await;
    let first = KeyClass::ALL.map(|class| signing(&world, class));
    at(&world, 11).await;
    assert_eq!(states(&world), [Active]);
    at(&world, 12).await;
    assert_eq!((states(&world), bundle_len(&world)), (vec![Active, Prepared], 6));
    at(&world, 15).await;
    assert_eq!(KeyClass::ALL.map(|class| signing(&world, class)), first);
    at(&world, 16).await;
    assert_eq!(states(&world), [Old, Active]);
    for (class, first) in KeyClass::ALL.into_iter().zip(first) {
        assert_ne!(signing(&world, class), first);
    }
    at(&world, 24).await;
    assert_eq!(
        bundle_len(&world),
        9,
        "the first is valid through its last second; the third is prepared"
    );
    at(&world, 25).await;
    assert_eq!(bundle_len(&world), 6, "what has expired is pruned");
    assert_eq!(world.keys.list().await.unwrap().len(), 6, "and its key destroyed");
}

#[tokio::test]
async fn a_restarted_server_signs_with_the_same_authority() {
    let world = World::new().await;
    let first = KeyClass::ALL.map(|class| signing(&world, class));
    let again = world.restarted(START + 60);
    again.authorities.pass().await.unwrap();
    assert_eq!(KeyClass::ALL.map(|class| signing(&again, class)), first);
}

#[tokio::test]
async fn a_server_that_was_stopped_past_its_authoritys_end_starts_with_a_new_one() {
    let world = World::new().await;
    let again = world.restarted(START + 48 * 3_600);
    again.authorities.pass().await.unwrap();
    assert_eq!(states(&again), [AuthorityState::Active]);
    assert_eq!(bundle_len(&again), 3);
}

#[tokio::test]
async fn a_lost_key_is_replaced_at_once() {
    let world = World::new().await;
    for class in KeyClass::ALL {
        let before = KeyClass::ALL.map(|class| signing(&world, class));
        let lost = world.committer.snapshot().active_authority(class).unwrap().clone();
        world.keys.delete(&lost.key_id).await.unwrap();
        world.authorities.pass().await.unwrap();
        for (other, before) in KeyClass::ALL.into_iter().zip(before) {
            assert_eq!(signing(&world, other) == before, other != class, "only its own class");
        }
    }
}

// Attack 24
#[tokio::test]
async fn one_that_had_to_begin_at_once_is_vouched_for_until_it_is_known() {
    let world = World::new().await;
    let until = world.now().plus(HOUR);
    let vouchers = async || world.authorities.vouchers(until).await.unwrap().len();
    assert_eq!(vouchers().await, 0, "there is no other");
    world
        .clock
        .set(std::time::UNIX_EPOCH + Duration::from_secs(START - 600));
    world.authorities.pass().await.unwrap();
    assert_eq!(vouchers().await, 1);
    at(&world, 1).await;
    assert_eq!(vouchers().await, 1);
    at(&world, 2).await;
    assert_eq!(vouchers().await, 0, "whoever is there knows it by now");
    // One that was prepared is known before it signs.
    for hours in [12, 16] {
        at(&world, hours).await;
        assert_eq!(vouchers().await, 0);
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stop_the_signing() {
    for (back, authorities) in [(9, 3), (600, 6), (48 * 3_600, 6)] {
        let world = World::new().await;
        world
            .clock
            .set(std::time::UNIX_EPOCH + Duration::from_secs(START - back));
        world.authorities.pass().await.unwrap();
        assert_eq!(bundle_len(&world), authorities, "{back} s back");
        let actor = Actor::server();
        let svid = world
            .issuance
            .minted(&actor, &id("/web"), &csr(), vec![], None)
            .await
            .unwrap();
        assert!(svid.not_before() <= world.now());
        // And forward again, to where it came from.
        world.clock.set(std::time::UNIX_EPOCH + Duration::from_secs(START));
        world.authorities.pass().await.unwrap();
        world
            .issuance
            .minted(&actor, &id("/web"), &csr(), vec![], None)
            .await
            .unwrap();
    }
}

// The server of a version that knew base authorities only.
#[tokio::test]
async fn a_class_that_is_missing_is_brought_up_beside_the_others() {
    let world = World::unborn(|_| {});
    let base = world.authorities.due(KeyClass::Base, world.now()).await.unwrap();
    world.authorities.commit(Actor::server(), base).await.unwrap();
    assert_eq!(bundle_len(&world), 1);
    let base = of_class(&world, KeyClass::Base)[0].id.clone();
    world.authorities.pass().await.unwrap();
    assert_eq!(states(&world), [AuthorityState::Active]);
    assert_eq!(signing(&world, KeyClass::Base), base);
}

#[tokio::test]
async fn a_hard_cut_takes_what_signed_out_of_the_bundle_and_puts_another_in_its_place_in_one_commit() {
    let world = World::new().await;
    let others = [KeyClass::Base, KeyClass::Breakglass].map(|class| signing(&world, class));
    at(&world, 16).await; // one old, one active
    let before: Vec<_> = of_class(&world, KeyClass::Task);
    assert_eq!(before.len(), 2);
    let revision = world.committer.snapshot().revision();
    let actor = Actor {
        who: "uid:0".into(),
        reason: "leaked".into(),
        origin: String::new(),
    };
    let cut = world.authorities.cut(&actor, KeyClass::Task, vec![]).await.unwrap();
    let state = world.committer.snapshot();
    assert_eq!(state.revision().0, revision.0 + 1);
    let mut expected: Vec<_> = before.iter().map(|authority| authority.id.clone()).collect();
    let mut revoked = cut.revoked.clone();
    expected.sort();
    revoked.sort();
    assert_eq!(revoked, expected);
    assert_eq!(signing(&world, KeyClass::Task), cut.authority_id);
    let bundle = state.own_bundle().unwrap();
    let certs: Vec<_> = bundle
        .x509_authorities
        .iter()
        .map(|found| found.cert_der.clone())
        .collect();
    for authority in of_class(&world, KeyClass::Task) {
        let signs = authority.id == cut.authority_id;
        let expected = if signs {
            AuthorityState::Active
        } else {
            AuthorityState::Revoked
        };
        assert_eq!(
            (authority.state, certs.contains(&authority.cert_der)),
            (expected, signs)
        );
        let key = world.keys.find(&authority.key_id).await.unwrap();
        assert_eq!(key.is_some(), signs, "what was cut can sign no more");
    }
    assert!(others[1] != signing(&world, KeyClass::Task));
    let logged = world.logged("authority.revoked");
    assert_eq!(logged.len(), 2);
    assert_eq!(
        (logged[0].actor.who.as_str(), logged[0].actor.reason.as_str()),
        ("uid:0", "leaked")
    );
    // Gone for good after the end of their lives.
    at(&world, 48).await;
    assert!(
        of_class(&world, KeyClass::Task)
            .iter()
            .all(|found| found.state == AuthorityState::Active)
    );
}

#[tokio::test]
async fn a_hard_cut_takes_the_prepared_authority_that_verifiers_know_already() {
    let world = World::new().await;
    at(&world, 12).await;
    let [signed, prepared] = &of_class(&world, KeyClass::Breakglass)[..] else {
        panic!("one active, one prepared");
    };
    let cut = world
        .authorities
        .cut(&Actor::server(), KeyClass::Breakglass, vec![])
        .await
        .unwrap();
    assert_eq!(
        (&cut.authority_id, &cut.revoked),
        (&prepared.id, &vec![signed.id.clone()])
    );
    assert_eq!(bundle_len(&world), 5);
}

#[tokio::test]
async fn the_base_authority_is_never_cut_and_a_refused_companion_stops_the_cut() {
    let world = World::new().await;
    let refused = world.authorities.cut(&Actor::server(), KeyClass::Base, vec![]).await;
    assert!(matches!(refused, Err(RotateError::BaseCut)));
    let keys = world.keys.list().await.unwrap().len();
    let never = Change::AuthorityActivate("nobody".into());
    let before = signing(&world, KeyClass::Task);
    let refused = world
        .authorities
        .cut(&Actor::server(), KeyClass::Task, vec![never])
        .await;
    assert!(matches!(refused, Err(RotateError::Commit(CommitError::Conflict(_)))));
    assert_eq!((signing(&world, KeyClass::Task), bundle_len(&world)), (before, 3));
    assert_eq!(world.keys.list().await.unwrap().len(), keys, "no key is left behind");
}

#[tokio::test]
async fn cuts_and_passes_at_the_same_time_leave_one_authority_that_signs() {
    let world = World::new().await;
    world
        .clock
        .set(std::time::UNIX_EPOCH + Duration::from_secs(START) + 16 * HOUR);
    let actor = Actor::server();
    let cut = || world.authorities.cut(&actor, KeyClass::Task, vec![]);
    let (pass, one, two) = tokio::join!(world.authorities.pass(), cut(), cut());
    one.unwrap();
    two.unwrap();
    // It may have met a cut.
    if pass.is_err() {
        world.authorities.pass().await.unwrap();
    }
    let state = world.committer.snapshot();
    let active: Vec<_> = of_class(&world, KeyClass::Task);
    let active: Vec<_> = active
        .iter()
        .filter(|found| found.state == AuthorityState::Active)
        .collect();
    assert_eq!(active.len(), 1);
    world.authorities.pass().await.unwrap();
    assert_eq!(
        signing(&world, KeyClass::Task),
        state.active_authority(KeyClass::Task).unwrap().id
    );
}
