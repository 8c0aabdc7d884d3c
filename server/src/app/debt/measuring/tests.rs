use std::time::{Duration, Instant};

use mayfly_audit::{Scope, Thresholds};
use mayfly_model::Change;
use serde_json::json;

use super::*;
use crate::app::testing::{START, World};

fn view(world: &World, to: i64) -> View {
    View {
        from: START as i64,
        to: world.now().unix() + to,
        scope: Scope::All,
        thresholds: Thresholds::default(),
    }
}

async fn work(world: &World, agent: &mayfly_model::Agent, times: u64) {
    for _ in 0..times {
        let (opened, _) = world.opened(agent).await;
        world.clock.advance(Duration::from_secs(100));
        world.close(&opened).await.unwrap();
        world.clock.advance(Duration::from_secs(10));
    }
    world.committer.flush().await;
}

/// The same by what is kept and by somebody who knows nothing yet.
async fn both(world: &World, measuring: &Measuring, to: i64) -> Measured {
    let kept = measuring.measure(view(world, to)).await.unwrap();
    let anew = Measuring::new(world.archive()).measure(view(world, to)).await.unwrap();
    assert_eq!((anew.read, anew.entries), (kept.entries, kept.entries));
    assert_eq!((&kept.findings, &kept.meter), (&anew.findings, &anew.meter));
    kept
}

#[tokio::test]
async fn a_question_reads_what_came_since_the_last_one() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let measuring = Measuring::new(world.archive());
    work(&world, &agent, 3).await;
    let first = both(&world, &measuring, 1).await;
    assert_eq!((first.read, first.meter.total.windows), (first.entries, 3));
    assert_eq!(both(&world, &measuring, 1).await.read, 0);
    work(&world, &agent, 5).await;
    let second = both(&world, &measuring, 1).await;
    assert_eq!(second.read, second.entries - first.entries);
    assert_eq!(
        second.meter.by_owner.rows[0].name, "alice",
        "names of new entries are looked up"
    );
    // Another part of the log, and another beginning, are asked of the same copy.
    let team = View {
        from: START as i64 + 200,
        scope: "team:web".parse().unwrap(),
        ..view(&world, 1)
    };
    let measured = measuring.measure(team).await.unwrap();
    assert_eq!((measured.read, measured.meter.total.windows), (0, 0));
}

#[tokio::test]
async fn an_earlier_time_is_read_anew_and_costs_nobody_what_is_kept() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let measuring = Measuring::new(world.archive());
    work(&world, &agent, 4).await;
    both(&world, &measuring, 1).await;
    let earlier = both(&world, &measuring, -230).await;
    assert_eq!((earlier.read, earlier.meter.total.windows), (earlier.entries, 2));
    assert_eq!(both(&world, &measuring, 1).await.read, 0);
    // Nor does a time that is to come.
    both(&world, &measuring, 1_000_000).await;
    assert_eq!(both(&world, &measuring, 1).await.read, 0);
}

#[tokio::test]
async fn what_was_erased_is_known_to_nobody_any_more() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let measuring = Measuring::new(world.archive());
    work(&world, &agent, 2).await;
    let owner = |measured: &Measured| measured.meter.by_owner.rows[0].name.clone();
    assert_eq!(owner(&both(&world, &measuring, 1).await), "alice");
    let name = world.archive().reader().unwrap().commitment_to("\"alice\"").unwrap();
    world.commit(Change::PrivateErase(vec![name.unwrap()])).await.unwrap();
    let after = both(&world, &measuring, 1).await;
    assert_eq!(after.read, after.entries, "all of it is read anew");
    assert!(owner(&after).starts_with("commitment:"), "{}", owner(&after));
    // Whoever erases also says so here, and what is being read meanwhile is not kept.
    measuring.forget();
    let before = measuring.kept.forgotten.load(Ordering::SeqCst);
    let (_, read) = measure(&mut world.archive().reader().unwrap(), None, view(&world, 1)).unwrap();
    measuring.forget();
    measuring.kept.put(read, before);
    assert!(measuring.kept.take().is_none());
}

#[tokio::test]
async fn another_log_is_read_anew() {
    let (one, two) = (World::new().await, World::new().await);
    for (world, times) in [(&one, 2), (&two, 6)] {
        let agent = world.agent("a").await;
        work(world, &agent, times).await;
    }
    let (_, kept) = measure(&mut one.archive().reader().unwrap(), None, view(&one, 1)).unwrap();
    let (measured, _) = measure(&mut two.archive().reader().unwrap(), kept, view(&two, 1)).unwrap();
    assert_eq!((measured.read, measured.meter.total.windows), (measured.entries, 6));
}

/// Makes the log so long by entries about base SVIDs, which are most of what a server writes: an intent, and what came of it.
/// Without their commits, which would take minutes.
fn write_svids(world: &World, entries: u64) {
    let mut reader = world.archive().reader().unwrap();
    let size = reader.size().unwrap();
    let last = reader.entries(size - 1, 1).unwrap().remove(0);
    let last = Entry::parse(size - 1, last.as_bytes()).unwrap();
    let mut database = rusqlite::Connection::open(world.archive().path()).unwrap();
    let transaction = database.transaction().unwrap();
    for index in size..entries {
        let serial = |index: u64| format!("{index:020}");
        let is_outcome = (index - size) % 2 == 1;
        let intent = json!({
            "serial": serial(index), "public_key_sha256": "ab".repeat(32), "authority_id": "a", "entry_id": "web",
            "not_after": last.time + 3_600,
        });
        let outcome = json!({ "signed": [serial(index - 1)], "failed": [] });
        let (kind, subject, body) = match is_outcome {
            true => ("svid.outcome", String::new(), outcome),
            false => ("svid.intended", format!("spiffe://td/web/{}", index % 500), intent),
        };
        let entry = Entry {
            index,
            kind: kind.into(),
            revision: last.revision + 1 + index - size,
            time: last.time,
            who: "server".into(),
            origin: json!(""),
            reason: json!(""),
            subject,
            body,
        };
        let text = String::from_utf8(entry.to_bytes()).unwrap();
        let row = rusqlite::params![index as i64, entry.kind, text];
        let sql = "INSERT INTO log (log_index, kind, entry) VALUES (?1, ?2, ?3)";
        transaction.prepare_cached(sql).unwrap().execute(row).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_long_log_is_read_once() {
    const ENTRIES: u64 = 100_000;
    let world = World::new().await;
    let agent = world.agent("a").await;
    let measuring = Measuring::new(world.archive());
    work(&world, &agent, 300).await;
    write_svids(&world, ENTRIES);
    world.clock.advance(Duration::from_secs(1));
    let timed = async || {
        let begun = Instant::now();
        let measured = measuring.measure(view(&world, 1)).await.unwrap();
        (begun.elapsed(), measured.read, measured.entries)
    };
    let (whole, read, entries) = timed().await;
    assert_eq!((read, entries), (ENTRIES, ENTRIES));
    write_svids(&world, ENTRIES + 20);
    let (again, more, _) = timed().await;
    assert_eq!(more, 20);
    println!("{entries} entries: {whole:.1?} for the first question, {again:.1?} for one after {more} more entries");
    assert!(again < whole / 5, "{again:?} after {whole:?}");
}
