//! How streams end, and what becomes of a process that is no longer what it was.

use super::*;
use crate::api::caller::CallerError;

// IOP-15 WAPI-30
#[tokio::test(start_paused = true)]
async fn a_stream_that_the_agent_ends_ends_with_unavailable() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    let (mut svids, mut bundles) = (scene.svids().await, scene.bundles().await);
    told(&mut svids).await;
    told(&mut bundles).await;
    scene.connection.close();
    assert_eq!(ended(&mut svids).await.0, Code::Unavailable);
    assert_eq!(ended(&mut bundles).await.0, Code::Unavailable);
    assert_eq!(
        ended(&mut scene.svids().await).await.0,
        Code::Unavailable,
        "a new call as well"
    );
    assert_eq!(scene.api.sources.metrics.streams_open.get(), 0);
}

// IOP-15
#[tokio::test(start_paused = true)]
async fn the_end_of_the_worker_is_unavailable_too() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    let mut stream = scene.svids().await;
    told(&mut stream).await;
    scene.stage.supervisor.shutdown(Duration::from_secs(1)).await.unwrap();
    assert_eq!(ended(&mut stream).await.0, Code::Unavailable);
}

// IOP-16
#[tokio::test(start_paused = true)]
async fn a_panic_in_the_update_path_is_a_status_and_not_a_dropped_stream() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    let mut stream = scene.svids().await;
    told(&mut stream).await;
    sleep(Duration::from_secs(1)).await;
    *scene.process.0.breaks.lock().unwrap() = true;
    scene.stage.put(entry("b", &["s:1"]));
    assert_eq!(ended(&mut stream).await, (Code::Unavailable, "internal error".into()));
    *scene.process.0.breaks.lock().unwrap() = false;
    assert_eq!(
        told(&mut scene.svids().await).await.svids.len(),
        2,
        "and the next call is as good as ever"
    );
}

// WAPI-06 WAPI-29 WEP-21
#[tokio::test(start_paused = true)]
async fn a_process_that_becomes_another_loses_its_identity_within_a_sweep() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    let mut stream = scene.svids().await;
    told(&mut stream).await;
    *scene.process.0.changed.lock().unwrap() = true;
    let start = Instant::now();
    assert_eq!(ended(&mut stream).await.0, Code::PermissionDenied);
    assert!(start.elapsed() <= Duration::from_millis(500));
    assert!(
        scene.connection.closing().is_cancelled(),
        "so that whoever is there connects anew"
    );
    *scene.process.0.changed.lock().unwrap() = false;
    assert!(ended(&mut scene.svids().await).await.0 != Code::Ok, "over is over");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_became_another_is_not_told_anything_between_two_sweeps() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    let mut stream = scene.svids().await;
    told(&mut stream).await;
    *scene.process.0.changed.lock().unwrap() = true;
    scene.stage.put(entry("b", &["s:1"]));
    assert_eq!(ended(&mut stream).await.0, Code::PermissionDenied);
}

// Attack 18
#[tokio::test(start_paused = true)]
async fn a_process_that_was_another_while_it_was_attested_is_over_for_good() {
    for fails in [false, true] {
        let scene = Scene::with(vec![entry("a", &["s:1"])]);
        *scene.process.0.attestation_takes.lock().unwrap() = Duration::from_secs(2);
        *scene.process.0.fails.lock().unwrap() = fails;
        let mut stream = scene.svids().await;
        let changed = |is| *scene.process.0.changed.lock().unwrap() = is;
        let pretends = async {
            sleep(Duration::from_millis(100)).await;
            changed(true);
            // A sweep comes by; the attestation ends later.
            sleep(Duration::from_secs(1)).await;
            changed(false);
        };
        let (end, ()) = tokio::join!(ended(&mut stream), pretends);
        assert_eq!(end.0, Code::PermissionDenied);
        *scene.process.0.fails.lock().unwrap() = false;
        let asked = scene.caller.attest(Duration::ZERO).await;
        assert!(matches!(asked, Err(CallerError::Over)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_death_of_the_process_ends_its_streams() {
    let scene = Scene::with(vec![entry("a", &["s:1"])]);
    let mut stream = scene.svids().await;
    told(&mut stream).await;
    scene.process.0.ended.cancel();
    let start = Instant::now();
    assert_eq!(ended(&mut stream).await.0, Code::PermissionDenied);
    assert!(start.elapsed() < Duration::from_millis(5));
}

// WAPI-06 WAPI-29
#[tokio::test(start_paused = true)]
async fn what_no_longer_holds_of_a_process_is_withdrawn_by_the_next_attestation() {
    let scene = Scene::with(vec![entry("a", &["s:1"]), entry("b", &["s:2"])]);
    let selectors = &scene.process.0.selectors;
    selectors.lock().unwrap().insert("s:2".parse().unwrap());
    let mut stream = scene.svids().await;
    assert_eq!(ids(&told(&mut stream).await), ["a", "b"]);
    selectors.lock().unwrap().remove(&"s:1".parse().unwrap());
    let start = Instant::now();
    assert_eq!(ids(&told(&mut stream).await), ["b"]);
    assert!(start.elapsed() <= Duration::from_secs(31));
    selectors.lock().unwrap().clear();
    assert_eq!(ended(&mut stream).await, no_identity());
}
