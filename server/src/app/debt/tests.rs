use super::*;
use crate::app::testing::{START, World};

// S7 S85
#[tokio::test]
async fn a_period_of_the_log_is_measured_and_a_loop_is_found() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    world.entry("root", &agent.id, |spec| spec.admin = true).await;
    // Each begins as the last one ends: standing access in pieces.
    for _ in 0..12 {
        let (opened, _) = world.opened(&agent).await;
        world.clock.advance(Duration::from_secs(880));
        world.close(&opened).await.unwrap();
        world.clock.advance(Duration::from_secs(20));
    }
    world.committer.flush().await;
    let measuring = Measuring::new(world.archive());
    let view = period(0, 0, "", world.now()).unwrap();
    let Measured {
        findings,
        meter,
        entries,
        ..
    } = measuring.measure(view).await.unwrap();
    assert_eq!(entries, world.log().len() as u64);
    assert_eq!(meter.total.windows, 12);
    assert_eq!(meter.total.privileged_seconds, 12 * 880);
    let owner = &meter.by_owner.rows[0];
    assert_eq!((owner.name.as_str(), owner.privileged_seconds), ("alice", 12 * 880));
    let codes: Vec<&str> = findings.iter().map(|finding| finding.code.as_str()).collect();
    assert!(codes.contains(&"disguised-standing-access"), "{codes:?}");
    assert!(codes.contains(&"privileged-base-identity"), "{codes:?}");
    // Of another team nothing is said.
    let view = period(START as i64, 0, "team:web", world.now()).unwrap();
    let measured = measuring.measure(view).await.unwrap();
    assert_eq!(measured.meter.total.windows, 0);
}

#[tokio::test]
async fn what_stands_now_is_listed_with_the_worst_first() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let (opened, _) = world.opened(&agent).await;
    world.entry("root", &agent.id, |spec| spec.downstream = true).await;
    let standing = || Standing::of(&world.committer.snapshot(), &Checkpoints::default(), world.now());
    assert!(standing().unsettled.is_empty(), "it is open");
    world.close(&opened).await.unwrap();
    let now = standing();
    assert_eq!(now.unsettled.len(), 1);
    assert_eq!(now.unsettled[0].1.id, opened.window_id);
    assert_eq!(rights_of(&now.privileged[0].0), ["mayfly:downstream"]);
    assert!(now.privileged[0].1.is_none() && now.exceptions.is_empty() && now.checkpoints.is_empty());
    // The definition is due in June 2030.
    assert!(now.reviews.is_empty());
    world
        .clock
        .set(std::time::UNIX_EPOCH + Duration::from_secs(1_909_000_000));
    let due = standing().reviews;
    assert_eq!(
        (due[0].kind, due[0].subject.as_str(), due[0].owner.as_str()),
        ("definition", "pay/migrate", "alice")
    );
}

#[test]
fn what_is_no_period_is_refused() {
    let now = Timestamp::from_unix(START as i64);
    let view = period(0, 0, "", now).unwrap();
    assert_eq!((view.from, view.to), (START as i64 - PERIOD, START as i64));
    for (since, until, scope) in [
        (10, 10, ""),
        (20, 10, ""),
        (-5, 10, ""),
        (1, i64::MAX, ""),
        (i64::MIN, 1, ""),
        (0, i64::MIN, ""),
        (0, 0, "pay"),
    ] {
        assert!(period(since, until, scope, now).is_err(), "{since} {until} {scope}");
    }
}
