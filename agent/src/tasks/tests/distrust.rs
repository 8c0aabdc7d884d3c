//! While the server's log is refused, nobody has a window.

use super::*;

const WHY: &str = "it is shorter than it was: 8 entries, and it had 9";

// S82
#[tokio::test(start_paused = true)]
async fn windows_end_when_the_log_is_refused_and_can_be_had_again_when_it_is_trusted() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let (job, other) = (FakeHolder::new(7), FakeHolder::new(8));
    let request_id = stage.opened(&job, false).await.request_id;
    stage.news.distrust().set(Some(WHY));
    stage.gets(&job, 0).await;
    let ended = state(&stage, &job, &request_id).await;
    assert_eq!(
        (stage_of(&ended), &*ended.reasons),
        (TaskStage::Closed, &["log_refused".to_owned()][..])
    );
    assert!(ended.message.contains(WHY), "{}", ended.message);
    asked(&stage, "close failed", 1).await;
    stage.news.distrust().set(None);
    stage.opened(&other, false).await;
    assert_eq!(stage.serials(&other).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_opens_while_the_log_is_refused_is_closed_and_not_shown() {
    let stage = Stage::start();
    let _heard = stage.beacons();
    let job = FakeHolder::new(7);
    let request_id = stage.ask(&job, "1").await.unwrap().request_id;
    stage.server.lock().latency = SECOND;
    let opening = stage.tasks.open(applicant(&job), request_id, false);
    let refused = async {
        // It is on its way.
        sleep(SECOND / 2).await;
        stage.news.distrust().set(Some(WHY));
    };
    let (opened, ()) = tokio::join!(opening, refused);
    let error = opened.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert!(error.message.contains(WHY), "{error}");
    asked(&stage, "close failed", 1).await;
    assert_eq!(stage.server.count("open r1"), 1, "it was opened");
    assert!(stage.serials(&job).is_empty());
}
