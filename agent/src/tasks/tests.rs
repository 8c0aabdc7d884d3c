//! The keeper with a server and processes that tests turn by hand, on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::ErrorKind;
use mayfly_proto::mayfly::workload::{Stage as TaskStage, TaskState};
use tokio::time::{Instant, sleep, timeout};

use super::testing::{FakeHolder, Stage, applicant, other_entry};
use super::*;
use crate::svids::testing::{bundle, ca};

const SECOND: Duration = Duration::from_secs(1);

fn stage_of(state: &TaskState) -> TaskStage {
    TaskStage::try_from(state.stage).unwrap()
}

async fn state(stage: &Stage, holder: &Arc<FakeHolder>, request_id: &str) -> TaskState {
    let states = stage.tasks.watch(holder.clone(), request_id.into()).await.unwrap();
    let state = states.borrow().clone();
    state
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
    assert_eq!(stage.news.held_windows(), [opened.window_id.clone()]);
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
async fn without_word_for_the_lease_a_strict_window_has_no_svid_until_the_server_is_back() {
    let stage = Stage::start();
    let heard = stage.beacons();
    let job = FakeHolder::new(7);
    let opened = stage.opened(&job, false).await;
    sleep(60 * SECOND).await;
    let first = stage.serials(&job);
    heard.cancel();
    stage.server.lock().away = true;
    let start = Instant::now();
    stage.gets(&job, 0).await;
    let lease = start.elapsed().as_millis();
    assert!((7_400..=10_000).contains(&lease), "{lease} ms");
    let suspended = state(&stage, &job, &opened.request_id).await;
    assert_eq!(
        (stage_of(&suspended), &suspended.reasons),
        (TaskStage::Suspended, &vec!["lease_lost".into()])
    );
    assert_eq!(stage.metrics.lease_lost.get(), 1);
    sleep(60 * SECOND).await;
    assert_eq!(
        stage.server.count("renew"),
        0,
        "the server is not asked while it is not heard"
    );

    stage.server.lock().away = false;
    let _heard = stage.beacons();
    stage.gets(&job, 1).await;
    assert_ne!(stage.serials(&job), first, "by a renewal");
    assert_eq!(
        stage_of(&state(&stage, &job, &opened.request_id).await),
        TaskStage::Open
    );
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_gone_when_the_server_is_back_is_wiped() {
    let stage = Stage::start();
    let heard = stage.beacons();
    let job = FakeHolder::new(7);
    let opened = stage.opened(&job, false).await;
    heard.cancel();
    stage.gets(&job, 0).await;
    stage
        .server
        .lock()
        .windows
        .values_mut()
        .for_each(|(_, _, open)| *open = false);
    let _heard = stage.beacons();
    let mut states = stage.tasks.watch(job.clone(), opened.request_id).await.unwrap();
    let ended = timeout(
        60 * SECOND,
        states.wait_for(|state| stage_of(state) == TaskStage::Closed),
    );
    assert!(ended.await.is_ok());
    assert!(stage.serials(&job).is_empty());
    assert_eq!(stage.metrics.windows.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_best_effort_window_keeps_its_svid_to_its_end_without_the_server() {
    let stage = Stage::start();
    let heard = stage.beacons();
    stage.server.lock().strict = false;
    let job = FakeHolder::new(7);
    stage.opened(&job, false).await;
    let start = Instant::now();
    heard.cancel();
    stage.server.lock().away = true;
    sleep(299 * SECOND).await;
    assert_eq!(stage.serials(&job).len(), 1);
    stage.gets(&job, 0).await;
    assert_eq!(start.elapsed().as_secs(), 300, "what expires is not served");
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_until_the_server_has_heard_it_and_counts_here_at_once() {
    let stage = Stage::start();
    let heard = stage.beacons();
    let job = FakeHolder::new(7);
    let opened = stage.opened(&job, false).await;
    heard.cancel();
    stage.server.lock().away = true;
    let start = Instant::now();
    let end = stage
        .tasks
        .end(job.clone(), opened.request_id.clone(), Ending::Completed, String::new());
    let (ended, gone) = tokio::join!(end, async {
        stage.gets(&job, 0).await;
        start.elapsed()
    });
    assert!(gone < Duration::from_millis(5), "{gone:?}");
    let ended = ended.unwrap();
    assert_eq!(
        start.elapsed().as_secs(),
        2,
        "nobody waits longer for a server that is away"
    );
    assert_eq!(stage_of(&ended), TaskStage::Closed);
    assert!(ended.message.contains("not reached"), "{}", ended.message);
    assert_eq!(stage.metrics.closes_pending.get(), 1);
    assert_eq!(
        stage.news.held_windows(),
        [opened.window_id],
        "a hello does not hide the cause"
    );
    sleep(300 * SECOND).await;
    stage.server.lock().away = false;
    let back = Instant::now();
    let _heard = stage.beacons();
    asked(&stage, "close completed", 1).await;
    assert!(
        back.elapsed() < SECOND,
        "at once when the server is heard: {:?}",
        back.elapsed()
    );
    sleep(SECOND).await;
    assert_eq!(stage.server.count("close"), 1, "and once");
    assert!(stage.news.held_windows().is_empty());
    assert_eq!(stage.metrics.closes_pending.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_svid_goes_at_once_and_a_new_one_comes_if_the_window_stands() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let opened = stage.opened(&job, false).await;
    let first = stage.serials(&job);
    stage.revoke(1, &opened.window_id, first.clone());
    let start = Instant::now();
    stage.gets(&job, 0).await;
    stage.gets(&job, 1).await;
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    assert_ne!(stage.serials(&job), first);
    // Of an earlier SVID, or of another window: nothing to do.
    stage.revoke(2, &opened.window_id, first.clone());
    stage.revoke(
        3,
        "00000000000000000000000000000000",
        stage.serials(&job).iter().map(|_| vec![9]).collect(),
    );
    sleep(SECOND).await;
    assert_eq!(stage.server.count("renew"), 1);
    // With the window the renewal is refused as well, and the server tells why.
    stage
        .server
        .lock()
        .windows
        .values_mut()
        .for_each(|(_, _, open)| *open = false);
    stage.revoke(4, &opened.window_id, stage.serials(&job));
    let mut told = stage
        .server
        .state(&opened.request_id, &opened.window_id, TaskStage::Closed);
    told.reasons = vec!["revoked".into()];
    stage.news.tasks().put(vec![told]);
    let mut states = stage.tasks.watch(job.clone(), opened.request_id).await.unwrap();
    let closed = states
        .wait_for(|state| stage_of(state) == TaskStage::Closed)
        .await
        .unwrap()
        .clone();
    assert_eq!(closed.reasons, ["revoked"]);
    sleep(60 * SECOND).await;
    assert!(stage.serials(&job).is_empty());
    assert_eq!(stage.server.count("close"), 0, "the server need not be told");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_policy_refuses_ends_the_window() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let opened = stage.opened(&job, false).await;
    stage.server.lock().refuse_renewal = Some(ErrorKind::PermissionDenied);
    sleep(SECOND).await;
    let refused = stage
        .tasks
        .renew(job.clone(), opened.request_id.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::PermissionDenied);
    assert!(stage.serials(&job).is_empty());
    assert_eq!(
        stage_of(&state(&stage, &job, &opened.request_id).await),
        TaskStage::Closed
    );
}

#[tokio::test(start_paused = true)]
async fn a_suspended_window_has_no_svid_and_gets_one_when_it_goes_on() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let opened = stage.opened(&job, false).await;
    let tell = |what| {
        let told = stage.server.state(&opened.request_id, &opened.window_id, what);
        stage.news.tasks().put(vec![told]);
    };
    tell(TaskStage::Suspended);
    stage.gets(&job, 0).await;
    sleep(100 * SECOND).await;
    assert_eq!(stage.server.count("renew"), 0);
    tell(TaskStage::Open);
    stage.gets(&job, 1).await;
    // An extension moves the end, once.
    stage
        .server
        .lock()
        .windows
        .values_mut()
        .for_each(|(_, closes_at, _)| *closes_at += 100);
    tell(TaskStage::Open);
    tell(TaskStage::Open);
    let start = Instant::now();
    asked(&stage, "close timed_out", 1).await;
    assert_eq!(start.elapsed().as_secs(), 900);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_asked_for_is_done_now() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let request_id = stage.opened(&job, false).await.request_id;
    let first = stage.serials(&job);
    stage.tasks.renew(job.clone(), request_id.clone()).await.unwrap();
    assert_eq!(stage.serials(&job), first, "it has just been issued");
    sleep(2 * SECOND).await;
    stage.tasks.renew(job.clone(), request_id).await.unwrap();
    assert_ne!(stage.serials(&job), first);
}

#[tokio::test(start_paused = true)]
async fn a_window_whose_opening_was_answered_into_the_void_is_found() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let asked_for = stage.ask(&job, "1").await.unwrap();
    stage.server.lock().lose_answers = true;
    let lost = stage
        .tasks
        .open(applicant(&job), asked_for.request_id.clone(), true)
        .await;
    assert_eq!(lost.unwrap_err().kind, ErrorKind::Unavailable);
    let window_id = stage.server.lock().windows.keys().next().unwrap().clone();
    let told = stage.server.state(&asked_for.request_id, &window_id, TaskStage::Open);
    stage.news.tasks().put(vec![told.clone()]);
    stage.gets(&job, 1).await;
    assert_eq!(stage.news.held_windows(), [window_id]);
    // A window that nobody here opened does not stay open.
    let stray = TaskState {
        window_id: "0f000000000000000000000000000000".into(),
        request_id: "r9".into(),
        ..told
    };
    stage
        .server
        .lock()
        .windows
        .insert(stray.window_id.clone(), ("r9".into(), 0, true));
    stage.news.tasks().put(vec![stray]);
    asked(&stage, "close attestation_lost", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_while_its_window_is_opened_leaves_none() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let request_id = stage.ask(&job, "1").await.unwrap().request_id;
    stage.server.lock().latency = SECOND;
    let open = stage.tasks.open(applicant(&job), request_id, false);
    let (opened, ()) = tokio::join!(open, async {
        sleep(SECOND / 2).await;
        job.emit(HolderEvent::Exited);
    });
    assert_eq!(opened.unwrap_err().kind, ErrorKind::PermissionDenied);
    asked(&stage, "close failed", 1).await;
    assert!(stage.serials(&job).is_empty());
}

// The hard cut: an authority leaves the bundle, windows go on under a new one.
#[tokio::test(start_paused = true)]
async fn when_an_authority_leaves_the_bundle_windows_get_svids_of_the_next() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    stage.opened(&job, false).await;
    let first = stage.serials(&job);
    let next = Arc::new(ca("next"));
    // Signed by an authority that was not heard of yet: of no use until it is.
    *stage.server.ca.lock().unwrap() = Arc::clone(&next);
    stage.svids.trust(bundle(&[(&next, false)]));
    stage.gets(&job, 0).await;
    stage.gets(&job, 1).await;
    assert_ne!(stage.serials(&job), first);
    let late = Arc::new(ca("late"));
    *stage.server.ca.lock().unwrap() = Arc::clone(&late);
    let other = FakeHolder::new(8);
    let asked = stage.ask(&other, "2").await.unwrap();
    let opened = stage
        .tasks
        .open(applicant(&other), asked.request_id, false)
        .await
        .unwrap();
    assert_eq!(stage_of(&opened), TaskStage::Open);
    assert!(
        stage.serials(&other).is_empty(),
        "what cannot be verified is not served"
    );
    stage.svids.trust(bundle(&[(&next, false), (&late, false)]));
    stage.gets(&other, 1).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_are_followed_and_the_last_state_ends_the_watch() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    stage.server.lock().stage = TaskStage::AwaitingApproval;
    let job = FakeHolder::new(7);
    let asked = stage.ask(&job, "1").await.unwrap();
    let mut states = stage.tasks.watch(job.clone(), asked.request_id.clone()).await.unwrap();
    assert_eq!(stage_of(&states.borrow_and_update()), TaskStage::AwaitingApproval);
    let tell = |what| stage.news.tasks().put(vec![stage.server.state("r1", "", what)]);
    tell(TaskStage::Armed);
    states.changed().await.unwrap();
    assert_eq!(stage_of(&states.borrow_and_update()), TaskStage::Armed);
    tell(TaskStage::AwaitingApproval);
    tell(TaskStage::Lapsed);
    states.changed().await.unwrap();
    assert_eq!(
        stage_of(&states.borrow_and_update()),
        TaskStage::Lapsed,
        "nothing leads back"
    );
    assert!(states.changed().await.is_err(), "and nothing comes after it");
}

#[tokio::test(start_paused = true)]
async fn processes_requests_and_calls_have_bounds() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    for i in 0..64 {
        stage.ask(&job, &i.to_string()).await.unwrap();
    }
    let full = stage.ask(&job, "more").await.unwrap_err();
    assert_eq!(full.kind, ErrorKind::ResourceExhausted);
    for pid in 100..100 + 255 {
        stage.ask(&FakeHolder::new(pid), "1").await.unwrap();
    }
    let full = stage.ask(&FakeHolder::new(99), "1").await.unwrap_err();
    assert_eq!(full.kind, ErrorKind::ResourceExhausted);

    let stage = Stage::start();
    stage.server.lock().latency = SECOND;
    let holders: Vec<_> = (0..70).map(FakeHolder::new).collect();
    let asks = holders.iter().map(|holder| stage.ask(holder, "1"));
    let answers = futures_util::future::join_all(asks).await;
    let refused = answers.iter().filter(|answer| answer.is_err()).count();
    assert_eq!(refused, 6, "64 calls of a user at a time");
}
