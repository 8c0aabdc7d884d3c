//! The keeper with a server and processes that tests turn by hand, on a paused clock.

mod distrust;
mod server;

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::ErrorKind;
use mayfly_proto::mayfly::workload::{Stage as TaskStage, TaskState};
use tokio::time::{Instant, sleep, timeout};

use super::testing::{FakeHolder, Stage, applicant, other_entry};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn stage_of(state: &TaskState) -> TaskStage {
    TaskStage::try_from(state.stage).unwrap()
}

async fn state(stage: &Stage, holder: &Arc<FakeHolder>, request_id: &str) -> TaskState {
    let states = stage.tasks.watch(holder.clone(), request_id.into()).await.unwrap();
    states.borrow().clone()
}

/// Waits until the server was asked for `what` so often.
async fn asked(stage: &Stage, what: &str, times: usize) {
    let seen = timeout(Duration::from_secs(3600), async {
        while stage.server.count(what) < times {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(
        seen.await.is_ok(),
        "never {times} times `{what}`: {:?}",
        stage.server.log()
    );
}

#[tokio::test(start_paused = true)]
async fn a_window_gives_its_holder_an_svid_and_ends_with_its_word() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let (job, other) = (FakeHolder::new(7), FakeHolder::new(8));
    let asked = stage.ask(&job, "1").await.unwrap();
    assert_eq!(stage_of(&asked), TaskStage::Armed);
    assert!(stage.serials(&job).is_empty(), "a grant is no authority");
    let opened = stage.opened(&job, false).await;
    assert_eq!(stage_of(&opened), TaskStage::Open);
    assert_eq!(stage.serials(&job).len(), 1, "as soon as the call is answered");
    assert!(stage.serials(&other).is_empty());
    assert_eq!(stage.news.held_windows(), std::slice::from_ref(&opened.window_id));
    let again = stage
        .tasks
        .open(applicant(&job), asked.request_id.clone(), false)
        .await
        .unwrap();
    assert_eq!(again.window_id, opened.window_id, "to open twice opens nothing more");

    let mut states = stage.tasks.watch(job.clone(), asked.request_id.clone()).await.unwrap();
    states.borrow_and_update();
    let ended = stage
        .tasks
        .end(job.clone(), asked.request_id.clone(), Ending::Completed, "done".into())
        .await
        .unwrap();
    assert_eq!(
        (stage_of(&ended), &ended.reasons),
        (TaskStage::Closed, &vec!["completed".into()])
    );
    assert!(stage.serials(&job).is_empty() && stage.news.held_windows().is_empty());
    assert_eq!(
        stage.server.log(),
        ["request a 7", "request a 7", "open r1", "close completed"]
    );
    let told = states.wait_for(|state| stage_of(state) == TaskStage::Closed).await;
    assert!(told.is_ok());
    let twice = stage
        .tasks
        .end(job.clone(), asked.request_id, Ending::Failed, String::new())
        .await
        .unwrap();
    assert_eq!(twice.reasons, ["completed"], "the first end counts");
}

// Another process of the same user has no part in it: not by the request's name either.
#[tokio::test(start_paused = true)]
async fn a_request_does_not_exist_for_another_process() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let (job, other) = (FakeHolder::new(7), FakeHolder::new(8));
    let request_id = stage.opened(&job, true).await.request_id;
    let kind = |result: Result<TaskState, TaskError>| result.unwrap_err().kind;
    assert_eq!(
        kind(stage.tasks.open(applicant(&other), request_id.clone(), false).await),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(stage.tasks.renew(other.clone(), request_id.clone()).await),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(stage.tasks.heartbeat(other.clone(), request_id.clone()).await),
        ErrorKind::NotFound
    );
    let end = stage
        .tasks
        .end(other.clone(), request_id.clone(), Ending::Completed, String::new());
    assert_eq!(kind(end.await), ErrorKind::NotFound);
    assert!(stage.tasks.watch(other.clone(), request_id.clone()).await.is_err());
    // Nor for the same number with another start, which is another process.
    let missing = stage.tasks.renew(other.clone(), "no-such".into()).await.unwrap_err();
    let others = stage.tasks.renew(other, request_id.clone()).await.unwrap_err();
    assert_eq!(
        missing.message.replace("no-such", &request_id),
        others.message,
        "the words are the same"
    );
    assert_eq!(stage.serials(&job).len(), 1);
}

// I13: who dies without a word has failed. Attack 26
#[tokio::test(start_paused = true)]
async fn the_death_of_the_process_ends_its_window() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    stage.opened(&job, true).await;
    job.emit(HolderEvent::Exited);
    stage.gets(&job, 0).await;
    asked(&stage, "close failed", 1).await;
    assert!(
        stage.ask(&job, "1").await.is_ok(),
        "the request is there for whoever comes back"
    );
}

// Row 28 of the adversarial review: attested once, changed later.
#[tokio::test(start_paused = true)]
async fn a_process_that_is_not_any_more_who_it_was_loses_its_window() {
    for event in [HolderEvent::Changed, HolderEvent::Unclear] {
        let stage = Stage::start();
        let _heard = stage.beacons();
        let job = FakeHolder::new(7);
        stage.opened(&job, false).await;
        job.emit(event);
        asked(&stage, "close attestation_lost", 1).await;
        assert!(stage.serials(&job).is_empty());
    }
    // Before anybody noticed: the board asks the process itself.
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let request_id = stage.opened(&job, false).await.request_id;
    *job.changed.lock().unwrap() = true;
    assert!(stage.serials(&job).is_empty());
    // What calls now under the same number is another program: the request is not its own.
    let next = FakeHolder::new(7);
    let refused = stage.tasks.renew(next, request_id).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
    asked(&stage, "close attestation_lost", 1).await;
}

#[tokio::test(start_paused = true)]
async fn selectors_and_entries_are_looked_at_for_as_long_as_the_window_is_open() {
    let lose = async |how: &dyn Fn(&Stage, &Arc<FakeHolder>)| {
        let stage = Stage::start();
        let _heard = stage.beacons();
        let job = FakeHolder::new(7);
        stage.opened(&job, false).await;
        how(&stage, &job);
        asked(&stage, "close attestation_lost", 1).await;
        assert!(stage.serials(&job).is_empty());
        stage.server.count("renew")
    };
    let others: SelectorSet = Arc::new(["s:2".parse().unwrap()].into());
    assert_eq!(
        lose(&|_, job| job.emit(HolderEvent::Selectors(Arc::clone(&others)))).await,
        0
    );
    assert_eq!(lose(&|stage, _| stage.svids.remove("a")).await, 0);
    assert_eq!(
        lose(&|stage, _| stage.svids.put(crate::svids::testing::entry("a", &["s:3"]))).await,
        0
    );
    // Found out by the renewal, before the server is asked.
    assert_eq!(
        lose(&|_, job| *job.selectors.lock().unwrap() = Arc::clone(&others)).await,
        0
    );
    let unclear = HolderError::Unclear("no".into());
    assert_eq!(
        lose(&|_, job| *job.attestation.lock().unwrap() = Some(unclear.clone())).await,
        0
    );
    // What does not concern it leaves it alone.
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    stage.opened(&job, false).await;
    stage.svids.put(other_entry());
    sleep(SECOND).await;
    assert_eq!(stage.serials(&job).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn descendants_have_part_if_the_process_says_so_and_only_as_long_as_they_are_that() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let (job, child, alone) = (FakeHolder::new(7), FakeHolder::new(8), FakeHolder::new(9));
    child
        .above
        .lock()
        .unwrap()
        .extend([FakeHolder::new(70).key(), job.key()]);
    let request_id = stage.opened(&job, true).await.request_id;
    assert_eq!(stage.serials(&child), stage.serials(&job));
    assert!(stage.serials(&alone).is_empty());
    // It cannot do anything else with it.
    let refused = stage
        .tasks
        .end(child.clone(), request_id.clone(), Ending::Completed, String::new());
    assert_eq!(refused.await.unwrap_err().kind, ErrorKind::NotFound);
    let above = std::mem::take(&mut *child.above.lock().unwrap());
    assert!(stage.serials(&child).is_empty(), "a daemon is on its own");
    *child.above.lock().unwrap() = above;
    stage
        .tasks
        .end(job.clone(), request_id, Ending::Failed, String::new())
        .await
        .unwrap();
    assert!(stage.serials(&child).is_empty());
    stage.opened(&job, false).await;
    assert_eq!((stage.serials(&job).len(), stage.serials(&child).len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_svid_is_renewed_at_half_its_life_with_a_new_key_and_never_beyond_the_window() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let opened = stage.opened(&job, false).await;
    let start = Instant::now();
    let key = || {
        let board = stage.tasks.board().borrow().clone();
        board
            .of(job.key())
            .first()
            .map(|shown| shown.svid.expose_for_workload().to_vec())
    };
    let first = key();
    asked(&stage, "renew", 1).await;
    assert!(
        (135..=165).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    sleep(SECOND).await;
    assert_ne!(key(), first);
    let mut states = stage.tasks.watch(job.clone(), opened.request_id).await.unwrap();
    let closed = states
        .wait_for(|state| stage_of(state) == TaskStage::Closed)
        .await
        .unwrap()
        .clone();
    assert_eq!(start.elapsed().as_secs(), 900, "by our own clock");
    assert_eq!(closed.reasons, ["timed_out"]);
    assert_eq!(key(), None);
    asked(&stage, "close timed_out", 1).await;
    let renewals = stage.server.count("renew");
    assert!((4..=7).contains(&renewals), "{renewals}: the last one lasts to the end");
}

// Clock jumps on either side extend nothing.
#[tokio::test(start_paused = true)]
async fn no_clock_that_is_set_moves_the_end_of_a_window() {
    for (before, after) in [(-600, 0), (600, 0), (0, -600), (0, 600)] {
        let stage = Stage::start();
        let _heard = stage.beacons();
        let job = FakeHolder::new(7);
        // The agent's own clock is wrong from the beginning; the server's is what it was.
        stage.svids.clock.jump(before);
        stage.server.lock().ahead = -before;
        let opened = stage.opened(&job, false).await;
        let start = Instant::now();
        sleep(100 * SECOND).await;
        stage.svids.clock.jump(after);
        stage.server.lock().ahead = -before - after;
        let mut states = stage.tasks.watch(job.clone(), opened.request_id).await.unwrap();
        let closed = states
            .wait_for(|state| stage_of(state) == TaskStage::Closed)
            .await
            .unwrap()
            .clone();
        assert_eq!(closed.reasons, ["timed_out"], "{before} {after}");
        assert_eq!(start.elapsed().as_secs(), 900, "{before} {after}");
    }
    // A server that is set back names a later end only in a new decision; a renewal moves nothing.
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    stage.opened(&job, false).await;
    stage
        .server
        .lock()
        .windows
        .values_mut()
        .for_each(|(_, closes_at, _)| *closes_at += 600);
    let start = Instant::now();
    asked(&stage, "close timed_out", 1).await;
    assert_eq!(start.elapsed().as_secs(), 900);
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_keep_a_window_and_their_absence_ends_it() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    stage.server.lock().heartbeat = (10, 3);
    let job = FakeHolder::new(7);
    let request_id = stage.opened(&job, false).await.request_id;
    for _ in 0..20 {
        sleep(29 * SECOND).await;
        stage.tasks.heartbeat(job.clone(), request_id.clone()).await.unwrap();
        // One more costs the server nothing.
        stage.tasks.heartbeat(job.clone(), request_id.clone()).await.unwrap();
    }
    assert_eq!(stage.server.count("heartbeat"), 20);
    let start = Instant::now();
    asked(&stage, "close heartbeat_lost", 1).await;
    assert_eq!(start.elapsed().as_secs(), 30);
    assert!(stage.serials(&job).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_counts_here_also_while_the_server_is_away() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    stage.server.lock().heartbeat = (10, 1);
    let job = FakeHolder::new(7);
    let request_id = stage.opened(&job, false).await.request_id;
    stage.server.lock().away = true;
    for _ in 0..5 {
        sleep(9 * SECOND).await;
        let state = stage.tasks.heartbeat(job.clone(), request_id.clone()).await.unwrap();
        assert!(
            state.message.contains("the server has not heard of it"),
            "{}",
            state.message
        );
    }
    assert_eq!(stage.serials(&job).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_extension_moves_the_end_by_the_servers_word() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let opened = stage.opened(&job, false).await;
    let state = stage
        .tasks
        .extend(job.clone(), opened.request_id.clone(), 300)
        .await
        .unwrap();
    assert_eq!(state.closes_at, opened.closes_at + 300);
    // Nobody else's window.
    let other = FakeHolder::new(8);
    let refused = stage
        .tasks
        .extend(other, opened.request_id.clone(), 300)
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_debugger_on_its_holder_ends_a_window_and_leaves_all_others() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let (job, other) = (FakeHolder::new(7), FakeHolder::new(8));
    let opened = stage.opened(&job, true).await;
    stage.opened(&other, true).await;
    sleep(60 * SECOND).await;
    assert_eq!(stage.serials(&job).len(), 1, "nobody did anything");
    *job.tracer.lock().unwrap() = Some(Tracer { pid: 66, traced: 7 });
    let start = Instant::now();
    stage.gets(&job, 0).await;
    assert!(start.elapsed() <= SECOND, "{:?}", start.elapsed());
    asked(&stage, "close deviated", 1).await;
    let told = state(&stage, &job, &opened.request_id).await;
    assert_eq!(
        (stage_of(&told), &told.reasons[..]),
        (TaskStage::Closed, &["deviated".to_owned()][..])
    );
    assert_eq!(stage.serials(&other).len(), 1);
    // It is still who it was: when it is left alone, it may have another one.
    *job.tracer.lock().unwrap() = None;
    stage.server.lock().stage = TaskStage::Armed;
    let again = stage.ask(&job, "2").await.unwrap();
    stage
        .tasks
        .open(applicant(&job), again.request_id, false)
        .await
        .unwrap();
    sleep(60 * SECOND).await;
    assert_eq!(stage.serials(&job).len(), 1);
}
