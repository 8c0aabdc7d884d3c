use std::time::Duration;

use super::super::moment::sleeping;
use super::*;

fn service() -> SpiffeId {
    "spiffe://td/svc/db".parse().unwrap()
}

fn told(all: &Enforcers) -> Vec<(String, u32, u64, u32, u32)> {
    let report = all.report().checkpoints.into_iter();
    report
        .map(|sum| {
            (
                sum.checkpoint,
                sum.consumers,
                sum.epoch,
                sum.connections_ended,
                sum.connections_left,
            )
        })
        .collect()
}

#[test]
fn a_checkpoint_has_enforced_what_all_of_its_consumers_have() {
    let all = Arc::new(Enforcers::default());
    let (one, two) = (
        all.join("db", &service(), Consumer::of_user(1)).unwrap(),
        all.join("db", &service(), Consumer::of_user(2)).unwrap(),
    );
    let other = all.join("web", &service(), Consumer::of_user(1)).unwrap();
    one.acknowledge(7, 3, 1);
    other.acknowledge(9, 0, 0);
    assert_eq!(told(&all), [("db".into(), 2, 0, 3, 1), ("web".into(), 1, 9, 0, 0)]);
    two.acknowledge(6, 1, 2);
    one.acknowledge(5, 0, 0);
    assert_eq!(
        told(&all),
        [("db".into(), 2, 6, 1, 2), ("web".into(), 1, 9, 0, 0)],
        "never backwards, and ended ones are told once"
    );
    two.acknowledge(6, 4, 0);
    drop(two);
    assert_eq!(
        told(&all)[0],
        ("db".into(), 1, 7, 4, 0),
        "who was told nothing holds nobody up"
    );
    drop(one);
    assert_eq!(
        told(&all),
        [("web".into(), 1, 9, 0, 0)],
        "who is not in a report is gone"
    );
    other.acknowledge(9, 2, 0);
    drop(other);
    assert_eq!(told(&all), [("web".into(), 0, 0, 2, 0)], "what it ended is told once");
    assert_eq!(told(&all), []);
}

// While no server listens.
#[test]
fn who_joins_under_ever_new_names_leaves_little_behind() {
    let all = Arc::new(Enforcers::default());
    let honest = all.join("zz", &service(), Consumer::of_user(2)).unwrap();
    honest.acknowledge(7, 0, 0);
    for i in 0..5_000 {
        let joined = all.join(&format!("c{i}"), &service(), Consumer::of_user(1)).unwrap();
        joined.acknowledge(1, u32::from(i % 2 == 0), 0);
    }
    let said = told(&all);
    assert_eq!(said.len(), GONE_MAX + 1);
    assert_eq!(said[GONE_MAX], ("zz".into(), 1, 7, 0, 0));
    assert!(
        said[..GONE_MAX]
            .iter()
            .all(|(_, consumers, _, ended, _)| (*consumers, *ended) == (0, 1))
    );
}

#[test]
fn who_takes_a_name_is_told_apart_by_who_it_is() {
    let all = Arc::new(Enforcers::default());
    let evil = "spiffe://td/ns/evil".parse().unwrap();
    let (right, wrong) = (
        all.join("db", &service(), Consumer::of_user(1)).unwrap(),
        all.join("db", &evil, Consumer::of_user(1)).unwrap(),
    );
    right.acknowledge(3, 0, 0);
    wrong.acknowledge(9, 0, 0);
    let report = all
        .report()
        .checkpoints
        .into_iter()
        .map(|sum| (sum.spiffe_id, sum.epoch));
    let report: Vec<_> = report.collect();
    assert_eq!(
        report,
        [("spiffe://td/ns/evil".into(), 9), ("spiffe://td/svc/db".into(), 3)]
    );
}

#[test]
fn one_user_has_so_many_names() {
    let all = Arc::new(Enforcers::default());
    let held: Vec<_> = (0..NAMES_PER_USER)
        .map(|i| all.join(&format!("c{i}"), &service(), Consumer::of_user(1)).unwrap())
        .collect();
    assert_eq!(
        all.join("more", &service(), Consumer::of_user(1)).unwrap_err(),
        TooManyConsumers::Names
    );
    assert!(
        all.join("c1", &service(), Consumer::of_user(1)).is_ok(),
        "more consumers of a name that it has"
    );
    assert!(all.join("more", &service(), Consumer::of_user(2)).is_ok());
    drop(held);
    assert!(all.join("more", &service(), Consumer::of_user(1)).is_ok());
}

fn strict(instance: u64) -> Consumer {
    Consumer {
        instance,
        ..Consumer::of_user(1)
    }
}

/// Of the only name: who is connected, who is away, and what both have enforced.
fn sum(all: &Enforcers) -> (u32, u32, u64) {
    let report = all.report().checkpoints;
    let of = |sum: &EnforcedBy| (sum.consumers, sum.away, sum.epoch);
    report.first().map(of).unwrap_or_default()
}

/// Lets whoever looks after those who are away do that.
async fn look_after(all: &Enforcers) {
    let looking = tokio::time::timeout(Duration::from_millis(1), all.look_after_away());
    assert!(looking.await.is_err(), "it never ends");
}

// Attack 29: a consumer that nobody hears goes on accepting.
#[tokio::test(start_paused = true)]
async fn who_loses_its_connection_counts_as_behind_until_its_lease_has_ended() {
    let all = Arc::new(Enforcers::default());
    let (stays, lost) = (
        all.join("db", &service(), strict(1)).unwrap(),
        all.join("db", &service(), strict(2)).unwrap(),
    );
    lost.believes_until(Moment::now() + Duration::from_secs(10));
    lost.acknowledge(6, 0, 2);
    stays.acknowledge(7, 0, 0);
    drop(lost);
    assert_eq!(sum(&all), (1, 1, 6));
    assert_eq!(all.report().checkpoints[0].connections_left, 2);
    assert_eq!(all.len(), 1, "of those that are connected");
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(sum(&all), (1, 1, 6));
    // Its own clock went on while the machine slept.
    sleeping::sleep(Duration::from_secs(1));
    assert_eq!(sum(&all), (1, 0, 7));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_lease_and_of_a_process_are_told_by_themselves() {
    let all = Arc::new(Enforcers::default());
    let stays = all.join("db", &service(), strict(1)).unwrap();
    stays.acknowledge(7, 0, 0);
    let (exit, exited) = tokio::sync::oneshot::channel::<()>();
    let mortal = Consumer {
        exited: Box::pin(async move { drop(exited.await) }),
        ..strict(2)
    };
    let (by_time, by_exit) = (
        all.join("db", &service(), strict(3)).unwrap(),
        all.join("db", &service(), mortal).unwrap(),
    );
    let end = Moment::now() + Duration::from_secs(10);
    by_time.believes_until(end);
    by_exit.believes_until(end);
    drop((by_time, by_exit));
    assert_eq!(sum(&all), (1, 2, 0));
    let looking = async {
        // A permit of what was before.
        all.changed().await;
        drop(exit);
        all.changed().await;
        assert_eq!(sum(&all), (1, 1, 0), "its process has ended");
        all.changed().await;
        assert_eq!(sum(&all), (1, 0, 7), "its lease has");
        assert!(Moment::now() >= end);
    };
    tokio::select! {
        () = all.look_after_away() => unreachable!(),
        () = looking => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_is_not_away_and_one_that_does_not_say_who_it_is_is_waited_for() {
    let all = Arc::new(Enforcers::default());
    let told = |enforcer: &Enforcer| enforcer.believes_until(Moment::now() + Duration::from_secs(10));
    let join = |instance| all.join("db", &service(), strict(instance)).unwrap();
    let named = join(5);
    told(&named);
    named.acknowledge(3, 0, 0);
    drop(named);
    let back = join(5);
    assert_eq!(sum(&all), (1, 0, 0), "it has enforced nothing of what it hears now");
    back.acknowledge(4, 0, 0);
    assert_eq!(sum(&all), (1, 0, 4));
    let another = join(6);
    another.acknowledge(4, 0, 0);
    told(&another);
    drop(another);
    let nameless = join(0);
    nameless.acknowledge(2, 0, 0);
    told(&nameless);
    drop(nameless);
    for epoch in 5..100 {
        let again = join(0);
        again.acknowledge(epoch, 0, 0);
        told(&again);
        drop(again);
    }
    assert_eq!(
        sum(&all),
        (1, 2, 2),
        "one stands for all that a process does not tell apart"
    );
    drop(back);
    assert_eq!(
        sum(&all),
        (0, 3, 2),
        "it was told nothing since it came back, and believes what it was told before"
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(sum(&all), (0, 0, 0));
}

// Attack 29: its stream is reset before its first message, or its entry went while it said hello.
#[tokio::test(start_paused = true)]
async fn who_comes_back_and_is_lost_before_it_was_told_anything_is_waited_for() {
    let all = Arc::new(Enforcers::default());
    let stays = all.join("db", &service(), strict(1)).unwrap();
    stays.acknowledge(7, 0, 0);
    let lost = all.join("db", &service(), strict(2)).unwrap();
    lost.believes_until(Moment::now() + Duration::from_secs(10));
    lost.acknowledge(6, 0, 0);
    drop(lost);
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(3)).await;
        drop(all.join("db", &service(), strict(2)).unwrap());
        assert_eq!(sum(&all), (1, 1, 0));
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(sum(&all), (1, 0, 7), "nothing was added to what it believes");
}

#[tokio::test(start_paused = true)]
async fn one_of_best_effort_is_away_until_its_process_has_ended() {
    let all = Arc::new(Enforcers::default());
    let (exit, exited) = tokio::sync::oneshot::channel::<()>();
    let goes_on = all
        .join(
            "db",
            &service(),
            Consumer {
                exited: Box::pin(async move { drop(exited.await) }),
                best_effort: true,
                ..strict(1)
            },
        )
        .unwrap();
    assert_eq!(all.report().checkpoints[0].best_effort, 1);
    drop(goes_on);
    let looking = async {
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        let report = all.report().checkpoints;
        assert_eq!((report[0].away, report[0].best_effort), (1, 1));
        // A permit of what was before.
        all.changed().await;
        drop(exit);
        all.changed().await;
        assert_eq!(sum(&all), (0, 0, 0));
    };
    tokio::select! {
        () = all.look_after_away() => unreachable!(),
        () = looking => {}
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_forgotten_for_want_of_room() {
    let all = Arc::new(Enforcers::default());
    let leave = |instance| {
        let joined = all.join("db", &service(), strict(instance))?;
        joined.believes_until(Moment::now() + Duration::from_secs(10));
        Ok(())
    };
    for instance in 1..=AWAY_PER_USER as u64 {
        leave(instance).unwrap();
    }
    assert_eq!(leave(u64::MAX), Err(TooManyConsumers::Away));
    assert_eq!(leave(7), Ok(()), "that one was away");
    assert_eq!(sum(&all), (0, AWAY_PER_USER as u32, 0));
    assert!(
        all.join("db", &service(), Consumer::of_user(2)).is_ok(),
        "others do not suffer"
    );
    look_after(&all).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    look_after(&all).await;
    assert_eq!(leave(u64::MAX), Ok(()));
    let book = all.lock();
    assert_eq!(
        (book.waits.len(), book.leaving.len()),
        (1, 1),
        "nobody waits for the others' processes"
    );
}
