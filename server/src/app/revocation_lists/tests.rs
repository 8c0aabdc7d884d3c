use std::sync::atomic::{AtomicUsize, Ordering};

use mayfly_model::task::TaskStep;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::*;
use crate::app::testing::tasks::step_of;
use crate::app::testing::{START, World};

const SECOND: Duration = Duration::from_secs(1);

struct Kept {
    lists: Arc<RevocationLists>,
    told: Arc<AtomicUsize>,
    published: PublishedLists,
}

fn kept(world: &World) -> Kept {
    let (told, published) = (Arc::<AtomicUsize>::default(), PublishedLists::default());
    let count = told.clone();
    let tell = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let (committer, keys, clock) = (world.committer.clone(), world.keys.clone(), world.clock.clone());
    let lists = Arc::new(RevocationLists::new(committer, keys, clock, published.clone(), tell));
    Kept { lists, told, published }
}

impl Kept {
    async fn pass(&self) -> usize {
        self.lists.pass().await.unwrap().signed
    }

    fn of(&self, world: &World, class: KeyClass) -> Arc<SignedList> {
        let id = world.committer.snapshot().active_authority(class).unwrap().id.clone();
        self.lists.current().of(&id).unwrap().clone()
    }

    fn numbers(&self) -> Vec<u128> {
        self.lists.current().lists.iter().map(|list| list.number).collect()
    }
}

fn listed(list: &SignedList) -> Vec<String> {
    let (_, read) = CertificateRevocationList::from_der(&list.der).unwrap();
    let number = read.crl_number().unwrap().to_bytes_be();
    let expected = list.number.to_be_bytes();
    assert_eq!(number[..], expected[expected.len() - number.len()..]);
    read.iter_revoked_certificates()
        .map(|revoked| revoked.serial().to_string())
        .collect()
}

#[tokio::test]
async fn each_authority_of_tasks_has_a_list_before_anything_is_revoked() {
    let world = World::new().await;
    let kept = kept(&world);
    assert_eq!(kept.pass().await, 2);
    assert_eq!(kept.told.load(Ordering::SeqCst), 1);
    for class in [KeyClass::Task, KeyClass::Breakglass] {
        let list = kept.of(&world, class);
        assert_eq!((list.class, listed(&list).len()), (class, 0));
        assert!(kept.published.load().ders.contains(&list.der));
    }
    assert_eq!(kept.published.load().ders.len(), 2);
    assert_eq!(kept.pass().await, 0);
    assert_eq!(kept.told.load(Ordering::SeqCst), 1, "nothing new, nobody is told");
    // A prepared authority has one before it signs, an old one as long as it is valid.
    world.clock.advance(13 * 3600 * SECOND);
    world.authorities.pass().await.unwrap();
    assert_eq!(kept.pass().await, 4);
    world.clock.advance(12 * 3600 * SECOND);
    world.authorities.pass().await.unwrap();
    kept.pass().await;
    assert_eq!(kept.lists.current().lists.len(), 2);
}

#[tokio::test]
async fn what_is_revoked_is_on_the_list_of_who_signed_it_until_it_is_over() {
    let world = World::new().await;
    let kept = kept(&world);
    let agent = world.agent("a").await;
    let (one, first) = world.opened(&agent).await;
    let (two, second) = world.opened(&agent).await;
    kept.pass().await;
    let before = kept.numbers();

    world.close(&one).await.unwrap();
    assert_eq!(kept.pass().await, 1, "that of the other class is as it was");
    let current = kept.lists.current();
    assert_eq!(current.epoch, world.committer.snapshot().epoch());
    let list = kept.of(&world, KeyClass::Task);
    assert_eq!(listed(&list), [first.svid.serial().to_string()]);
    assert_eq!(listed(&kept.of(&world, KeyClass::Breakglass)), [""; 0]);
    assert!(list.number > *before.iter().max().unwrap());
    assert_eq!(
        list.number >> 80,
        u128::from(current.epoch),
        "the number begins with the epoch"
    );

    // One SVID of a window that goes on.
    let (window, serial) = (two.window_id, second.svid.serial().clone());
    world
        .commit(step_of(&two.task_id, TaskStep::RevokeSvid { window, serial }))
        .await
        .unwrap();
    assert_eq!(kept.pass().await, 1);
    assert_eq!(listed(&kept.of(&world, KeyClass::Task)).len(), 2);

    // They are dropped with the next list after their end, and not for that alone.
    world.clock.advance(400 * SECOND);
    assert_eq!(kept.pass().await, 0);
    world.clock.advance(RENEW);
    assert_eq!(kept.pass().await, 2);
    assert_eq!(listed(&kept.of(&world, KeyClass::Task)), [""; 0]);
}

#[tokio::test]
async fn a_pass_looks_only_at_what_was_revoked_since_the_last_one() {
    let world = World::new().await;
    let kept = kept(&world);
    let agent = world.agent("a").await;
    for _ in 0..5 {
        let (opened, _) = world.opened(&agent).await;
        world.close(&opened).await.unwrap();
    }
    kept.pass().await;
    let looked_at = || {
        let found = revoked(&world.committer.snapshot(), kept.lists.current().epoch, world.now());
        found.values().map(BTreeMap::len).sum::<usize>()
    };
    assert_eq!(looked_at(), 0);
    let (opened, _) = world.opened(&agent).await;
    world.close(&opened).await.unwrap();
    assert_eq!(looked_at(), 1);
    assert_eq!(kept.pass().await, 1);
    assert_eq!(
        listed(&kept.of(&world, KeyClass::Task)).len(),
        6,
        "those from before stay on it"
    );
    // A commit that revokes nothing publishes nothing.
    let published = kept.published.load_full();
    world.agent("b").await;
    kept.pass().await;
    assert!(Arc::ptr_eq(&published, &kept.published.load_full()));
}

#[tokio::test]
async fn lists_are_renewed_at_half_of_their_life_and_when_the_clock_goes_back() {
    let world = World::new().await;
    let kept = kept(&world);
    let due = kept.lists.pass().await.unwrap().due.unwrap();
    assert_eq!(due, world.now().plus(RENEW));
    world.clock.advance(RENEW - SECOND);
    assert_eq!(kept.pass().await, 0);
    world.clock.advance(SECOND);
    assert_eq!(kept.pass().await, 2);
    let before = kept.numbers();
    world.clock.set(std::time::UNIX_EPOCH + Duration::from_secs(START));
    assert_eq!(kept.pass().await, 2, "nobody takes a list of tomorrow");
    assert!(
        kept.numbers().iter().min() > before.iter().max(),
        "numbers do not go back with the clock"
    );
}

// RFC 5280 §5.2.3
#[tokio::test]
async fn numbers_grow_over_restarts_and_clocks_that_are_set_back() {
    let mut world = World::new().await;
    let agent = world.agent("a").await;
    let (window, _) = world.opened(&agent).await;
    world.close(&window).await.unwrap();
    let mut last = 0;
    for start in [START, START, START - 7200, START - 7200, START + 60] {
        world = world.restarted(start);
        let kept = kept(&world);
        for _ in 0..3 {
            kept.pass().await;
            world.clock.advance(RENEW);
            let numbers = kept.numbers();
            assert!(numbers.iter().all(|number| *number > last), "{numbers:?} after {last}");
            last = *numbers.iter().max().unwrap();
        }
    }
    assert_eq!(last >> 80, 1, "one revocation");
}

#[tokio::test]
async fn an_authority_that_was_cut_has_no_list_any_more() {
    let world = World::new().await;
    let kept = kept(&world);
    kept.pass().await;
    let cut = world
        .authorities
        .cut(&Actor::server(), KeyClass::Task, vec![])
        .await
        .unwrap();
    assert_eq!(kept.pass().await, 1);
    let current = kept.lists.current();
    assert_eq!(current.lists.len(), 2);
    assert!(current.of(&cut.authority_id).is_some() && current.of(&cut.revoked[0]).is_none());
}

#[tokio::test]
async fn a_lost_key_holds_up_no_other_list_and_the_epoch_waits_for_it() {
    let world = World::new().await;
    let kept = kept(&world);
    let agent = world.agent("a").await;
    let (window, _) = world.opened(&agent).await;
    kept.pass().await;
    let before = kept.lists.current().epoch;
    let task = world
        .committer
        .snapshot()
        .active_authority(KeyClass::Task)
        .unwrap()
        .clone();
    world.keys.delete(&task.key_id).await.unwrap();
    world.close(&window).await.unwrap();
    assert!(matches!(kept.lists.pass().await, Err(ListsError::KeyGone(id)) if id == task.id));
    let current = kept.lists.current();
    assert_eq!((current.epoch, current.lists.len()), (before, 2));
    assert!(world.committer.snapshot().epoch() > before);
}

#[tokio::test]
async fn a_burst_of_revocations_is_signed_in_a_few_steps() {
    let world = World::new().await;
    let kept = kept(&world);
    let agent = world.agent("a").await;
    let mut windows = vec![];
    for _ in 0..40 {
        windows.push(world.opened(&agent).await.0);
    }
    kept.pass().await;
    let stop = CancellationToken::new();
    let began = std::time::Instant::now();
    let burst = async {
        for window in &windows {
            world.close(window).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let wanted = world.committer.snapshot().epoch();
        while kept.lists.current().epoch < wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
    };
    tokio::join!(kept.lists.clone().run(stop.clone()), burst);
    assert_eq!(kept.of(&world, KeyClass::Task).serials().count(), 40);
    let (told, took) = (kept.told.load(Ordering::SeqCst) - 1, began.elapsed());
    // The first soon, and then one after each pause.
    let most = usize::try_from(2 + took.as_millis() / PAUSE.as_millis()).unwrap();
    assert!((2..=most).contains(&told), "{told} lists in {took:?}");
}
