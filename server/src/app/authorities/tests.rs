use super::*;
use crate::app::testing::{START, World, csr, id};

const HOUR: Duration = Duration::from_secs(3_600);

fn states(world: &World) -> Vec<AuthorityState> {
    let mut all: Vec<_> = world.committer.snapshot().authorities().cloned().collect();
    all.sort_by_key(|authority| (authority.not_before, authority.id.clone()));
    all.iter().map(|authority| authority.state).collect()
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
    assert!(world.authorities.active().load().is_some());
    assert_eq!(bundle_len(&world), 1);
}

#[tokio::test]
async fn the_next_authority_is_in_the_bundle_at_half_and_signs_at_two_thirds() {
    use AuthorityState::{Active, Old, Prepared};
    let world = World::new().await;
    let first = world.authorities.active().load_full().unwrap().authority_id.clone();
    at(&world, 11).await;
    assert_eq!(states(&world), [Active]);
    at(&world, 12).await;
    assert_eq!((states(&world), bundle_len(&world)), (vec![Active, Prepared], 2));
    at(&world, 15).await;
    assert_eq!(world.authorities.active().load_full().unwrap().authority_id, first);
    at(&world, 16).await;
    assert_eq!(states(&world), [Old, Active]);
    assert_ne!(world.authorities.active().load_full().unwrap().authority_id, first);
    at(&world, 24).await;
    assert_eq!(
        bundle_len(&world),
        3,
        "the first is valid through its last second; the third is prepared"
    );
    at(&world, 25).await;
    assert_eq!(bundle_len(&world), 2, "what has expired is pruned");
    assert_eq!(world.keys.list().await.unwrap().len(), 2, "and its key destroyed");
}

#[tokio::test]
async fn a_restarted_server_signs_with_the_same_authority() {
    let world = World::new().await;
    let first = world.authorities.active().load_full().unwrap().authority_id.clone();
    let again = world.restarted(START + 60);
    again.authorities.pass().await.unwrap();
    assert_eq!(again.authorities.active().load_full().unwrap().authority_id, first);
}

#[tokio::test]
async fn a_server_that_was_stopped_past_its_authoritys_end_starts_with_a_new_one() {
    let world = World::new().await;
    let again = world.restarted(START + 48 * 3_600);
    again.authorities.pass().await.unwrap();
    assert!(again.authorities.active().load().is_some());
    assert_eq!(bundle_len(&again), 1);
}

#[tokio::test]
async fn a_lost_key_is_replaced_at_once() {
    let world = World::new().await;
    let lost = world
        .committer
        .snapshot()
        .active_authority(KeyClass::Base)
        .unwrap()
        .clone();
    world.keys.delete(&lost.key_id).await.unwrap();
    world.authorities.pass().await.unwrap();
    assert_ne!(world.authorities.active().load_full().unwrap().authority_id, lost.id);
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stop_the_signing() {
    for (back, authorities) in [(9, 1), (600, 2), (48 * 3_600, 2)] {
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
