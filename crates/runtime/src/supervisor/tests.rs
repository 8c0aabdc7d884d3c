use std::future::pending;
use std::sync::atomic::AtomicU32;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A supervised process without signals.
async fn run(supervisor: &Supervisor, drain: Duration) -> Result<(), SupervisorError> {
    supervisor
        .run_until(async || pending().await, drain, |_| unreachable!("no signal was sent"))
        .await
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_is_restarted_with_growing_pauses_until_it_succeeds() {
    let supervisor = Supervisor::new();
    let starts = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&starts);
    let begun = Instant::now();
    supervisor.spawn("flaky", OnExit::Restart, move |_stop| {
        let counter = Arc::clone(&counter);
        async move {
            match counter.fetch_add(1, Ordering::Relaxed) {
                0 => anyhow::bail!("first try"),
                1 => panic!("second try"),
                _ => Ok(()),
            }
        }
    });
    while !supervisor.running().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(starts.load(Ordering::Relaxed), 3);
    assert!(
        begun.elapsed() >= Duration::from_millis(300),
        "100 to 200 ms, then 200 to 400 ms"
    );
    supervisor.shutdown(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_that_must_run_stops_the_process_and_is_its_error() {
    let supervisor = Supervisor::new();
    supervisor.spawn("steady", OnExit::Restart, async move |stop: CancellationToken| {
        stop.cancelled().await;
        Ok(())
    });
    supervisor.spawn_once("vital", async move |_stop| panic!("index {} is out of bounds", 7));
    let error = run(&supervisor, SECOND).await.unwrap_err();
    assert_eq!(
        Chain(&error).to_string(),
        "task `vital` failed: panicked: index 7 is out of bounds"
    );
    assert!(supervisor.running().is_empty(), "the others were stopped in order");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_must_run_and_returns_is_an_error_as_well() {
    let supervisor = Supervisor::new();
    supervisor.spawn("listener", OnExit::StopProcess, |_stop| async { Ok(()) });
    assert!(matches!(
        run(&supervisor, SECOND).await,
        Err(SupervisorError::TaskEnded { name: "listener" })
    ));
}

#[tokio::test(start_paused = true)]
async fn the_first_signal_drains_and_ends_well() {
    let supervisor = Supervisor::new();
    supervisor.spawn_once("drains", async move |stop: CancellationToken| {
        stop.cancelled().await;
        tokio::time::sleep(SECOND).await;
        Ok(())
    });
    let mut signals = vec![15];
    let next = async || match signals.pop() {
        Some(signal) => signal,
        None => pending().await,
    };
    supervisor
        .run_until(next, 5 * SECOND, |_| unreachable!("one signal only"))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_leaves_at_once() {
    let supervisor = Supervisor::new();
    supervisor.spawn_once("stubborn", async move |_stop| pending().await);
    let left_with = AtomicU32::new(0);
    let begun = Instant::now();
    let next = async || 2;
    let _ = supervisor
        .run_until(next, 5 * SECOND, |signal| {
            left_with.store(signal as u32, Ordering::Relaxed)
        })
        .await;
    assert_eq!(left_with.load(Ordering::Relaxed), 2);
    // In the test the exit does nothing, so the drain went on; the call itself came before any time had passed.
    assert_eq!(begun.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_stop_in_time_is_aborted_and_named() {
    let supervisor = Supervisor::new();
    supervisor.spawn_once("stubborn", async move |_stop| pending().await);
    supervisor.spawn_detached("request", pending()).unwrap();
    let begun = Instant::now();
    let error = supervisor.shutdown(3 * SECOND).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "still running when the time to stop was over: stubborn"
    );
    assert_eq!(begun.elapsed(), 3 * SECOND);
    tokio::task::yield_now().await;
    assert!(supervisor.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_task_set_refuses_what_is_over_its_bound_and_survives_panics() {
    let set = TaskSet::new("requests", 2);
    let finish = CancellationToken::new();
    let wait = finish.clone();
    set.spawn(async move { wait.cancelled().await }).unwrap();
    set.spawn(async { panic!("one request went wrong") }).unwrap();
    assert_eq!(
        set.spawn(async {}),
        Err(TaskSetFull {
            name: "requests",
            limit: 2
        })
    );
    tokio::time::sleep(SECOND).await;
    assert_eq!(set.len(), 1, "the panicking one gave its slot back");
    finish.cancel();
    assert_eq!(set.shutdown(SECOND).await, 0);
    assert!(set.spawn(async {}).is_err(), "closed");
}

#[tokio::test(start_paused = true)]
async fn a_task_set_drops_what_does_not_end_in_time() {
    let set = TaskSet::new("requests", 10);
    let held = Arc::new(());
    let task_holds = Arc::clone(&held);
    set.spawn(async move {
        let _held = task_holds;
        pending().await
    })
    .unwrap();
    assert_eq!(set.shutdown(SECOND).await, 1);
    tokio::time::sleep(SECOND).await;
    assert_eq!(Arc::strong_count(&held), 1, "the task is gone");
}
