//! What the server says, or does not say, to windows that are open.

use super::*;
use crate::svids::testing::{bundle, ca};

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
    assert_eq!(
        stage.server.count("close"),
        1,
        "the server is told that nothing is left of it"
    );
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
async fn who_shares_a_request_is_told_of_its_own_window_and_of_anothers_when_no_more_can_be_opened() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let (one, two) = (FakeHolder::new(7), FakeHolder::new(8));
    let opened = stage.opened(&one, false).await;
    let id = opened.request_id.clone();
    stage.ask(&two, "1").await.unwrap();
    let told = |window_id: &str, task_stage, opens_left| {
        let mut told = stage.server.state(&id, window_id, task_stage);
        told.opens_left = opens_left;
        stage.news.tasks().put(vec![told]);
    };
    let known = async |holder: &Arc<FakeHolder>| {
        sleep(SECOND).await;
        let known = state(&stage, holder, &id).await;
        (stage_of(&known), known.window_id)
    };

    told(&opened.window_id, TaskStage::Open, 1);
    assert_eq!(
        known(&two).await,
        (TaskStage::Armed, String::new()),
        "it can open one itself"
    );
    let own = stage.opened(&two, false).await.window_id;
    told(&opened.window_id, TaskStage::Closed, 0);
    assert_eq!(known(&one).await, (TaskStage::Closed, opened.window_id));
    assert_eq!(known(&two).await, (TaskStage::Open, own), "its own goes on");

    let three = FakeHolder::new(9);
    stage.ask(&three, "1").await.unwrap();
    told("0f000000000000000000000000000000", TaskStage::Closed, 0);
    assert_eq!(known(&three).await.0, TaskStage::Closed, "there is none left for it");
    // What is said of the request as a whole counts for whoever has no window: another use was granted.
    let mut again = stage.server.state(&id, "", TaskStage::Armed);
    again.opens_left = 1;
    stage.server.lock().opens_left = 1;
    assert_eq!(stage.ask(&three, "1").await.unwrap(), again);
}

#[tokio::test(start_paused = true)]
async fn a_window_is_taken_up_by_the_process_that_opened_it_and_by_no_other() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let (one, two) = (FakeHolder::new(7), FakeHolder::new(8));
    let id = stage.ask(&one, "1").await.unwrap().request_id;
    stage.ask(&two, "1").await.unwrap();
    stage.server.lock().lose_answers = true;
    for holder in [&one, &two] {
        let lost = stage.tasks.open(applicant(holder), id.clone(), false).await;
        assert_eq!(lost.unwrap_err().kind, ErrorKind::Unavailable);
    }
    stage.server.lock().lose_answers = false;
    let holders = stage.server.lock().holders.clone();
    let of = |pid| holders.iter().find(|(_, holder)| holder.pid == pid).unwrap().0.clone();
    // The second one's is told first.
    for window_id in [of(8), of(7)] {
        let told = stage.server.state(&id, &window_id, TaskStage::Open);
        stage.news.tasks().put(vec![told]);
    }
    for (holder, pid) in [(&one, 7), (&two, 8)] {
        stage.gets(holder, 1).await;
        assert_eq!(state(&stage, holder, &id).await.window_id, of(pid));
    }
    // The end of one, while it is held, is nothing to the other.
    let over = stage.server.state(&id, &of(7), TaskStage::Settled);
    stage.news.tasks().put(vec![over]);
    stage.gets(&one, 0).await;
    assert_eq!(stage.serials(&two).len(), 1);
    let known = state(&stage, &two, &id).await;
    assert_eq!((stage_of(&known), known.window_id), (TaskStage::Open, of(8)));
}

#[tokio::test(start_paused = true)]
async fn who_opens_a_request_that_ends_meanwhile_hears_what_the_server_says() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let id = stage.ask(&job, "1").await.unwrap().request_id;
    {
        let mut server = stage.server.lock();
        server.latency = SECOND;
        server.refuse_opening = Some(ErrorKind::FailedPrecondition);
    }
    let mut states = stage.tasks.watch(job.clone(), id.clone()).await.unwrap();
    let opening = stage.tasks.open(applicant(&job), id.clone(), false);
    let lapses = async {
        sleep(SECOND / 2).await;
        stage
            .news
            .tasks()
            .put(vec![stage.server.state(&id, "", TaskStage::Lapsed)]);
    };
    let (opened, ()) = tokio::join!(opening, lapses);
    assert_eq!(opened.unwrap_err().kind, ErrorKind::FailedPrecondition);
    let last = states.wait_for(|state| stage_of(state) == TaskStage::Lapsed).await;
    assert!(last.is_ok());
    assert!(stage.tasks.watch(job, id).await.is_err(), "and then it is forgotten");
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

// The server signs nothing that would be over in less than the floor.
#[tokio::test(start_paused = true)]
async fn a_renewal_refused_in_the_last_seconds_takes_nothing_away() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let request_id = stage.opened(&job, false).await.request_id;
    let start = Instant::now();
    sleep(885 * SECOND).await;
    stage.server.lock().refuse_renewal = Some(ErrorKind::FailedPrecondition);
    let refused = stage.tasks.renew(job.clone(), request_id).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition);
    // One that ends in the last two seconds is not renewed, whenever it was that it came.
    sleep(12 * SECOND).await;
    assert_eq!(stage.serials(&job).len(), 1);
    asked(&stage, "close timed_out", 1).await;
    assert_eq!(start.elapsed().as_secs(), 900);
}
