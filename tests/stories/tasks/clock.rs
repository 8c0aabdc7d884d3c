//! Clocks are set by ten minutes while windows are open: nothing lasts longer for it, and nothing comes back.

use std::time::{Duration, Instant, SystemTime};

use mayfly_svid::{Timestamp, X509Svid};
use mayfly_tests::caller::svid;
use mayfly_tests::faults::SteppedClock;
use mayfly_tests::tasks::{JOB_UID, PEOPLE, TaskWorld, UNATTENDED};
use mayfly_tests::{Lane, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const STEP: i64 = 600;
/// The shortest window that there can be, and a little.
const WINDOW: Duration = Duration::from_secs(22);
/// What a busy machine adds.
const SLACK: Duration = Duration::from_secs(6);

fn short() -> String {
    UNATTENDED.replace("10m", &format!("{}s", WINDOW.as_secs()))
}

/// A world where the clock of `server` or of the agent can be set.
async fn world(of_server: bool, definition: &str) -> (TaskWorld, SteppedClock) {
    let clock = SteppedClock::new();
    let mut server = TaskWorld::prepare(PEOPLE);
    if of_server {
        clock.give_to(&mut server.daemon);
    }
    let agent = (!of_server).then_some(&clock);
    let world = TaskWorld::start_prepared(server, definition, agent).await;
    (world, clock)
}

/// A window during which a clock is set: its holder and the service are done with it when its time is over.
async fn a_step_moves_no_end(of_server: bool, before: i64, during: i64) {
    let _lane = Lane::shared();
    let (world, clock) = world(of_server, &short()).await;
    let guarded = world.guarded().await;
    clock.set(before);
    let job = world.job(JOB_UID);
    let begun = Instant::now();
    let opened = eventually("a window", PATIENCE, async || {
        let asked = job.ask().await;
        job.open(&asked.request_id).await.ok()
    })
    .await;
    let since = Instant::now();
    let dir = world.job_dir("copy");
    let mut copied = if before == 0 {
        let copied = job.copy_out(&guarded, &dir).await;
        clock.set(during);
        copied
    } else {
        // What a wrong clock dates is not let in; what follows is.
        clock.set(during);
        let right = |found: &X509Svid| found.not_before() <= Timestamp::from(SystemTime::now());
        eventually("an SVID of the right time", PATIENCE, async || {
            let _ = job.renew(&opened.request_id).await;
            right(&svid(&job.task_svid().await?)).then_some(())
        })
        .await;
        job.copy_out(&guarded, &dir).await
    };
    // Asked again and again, it gets nothing that would last longer.
    let mut renewals = (0, 0);
    let end = eventually("the task SVID to leave the stream", WINDOW + PATIENCE, async || {
        match job.renew(&opened.request_id).await {
            Ok(_) => renewals.0 += 1,
            Err(_) => renewals.1 += 1,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        job.task_svid().await.is_none().then(|| since.elapsed())
    })
    .await;
    let cut = copied.is_dead(since, WINDOW + PATIENCE).await;
    println!(
        "{} {before:+} s before the window, {during:+} s during it: {WINDOW:?} of it were over for the holder after \
         {end:.1?}, for the service after {cut:.1?}; {} renewals, {} refused",
        if of_server { "server" } else { "agent" },
        renewals.0,
        renewals.1
    );
    let late = since.duration_since(begun) + SLACK;
    assert!(
        end <= WINDOW + late && cut <= WINDOW + late,
        "longer than it was opened for"
    );
    eventually("the window to be over at the server", PATIENCE, async || {
        let stage = world.tasks().await[0]["windows"][0]["stage"].clone();
        (stage.as_str() != Some("open")).then_some(())
    })
    .await;
    clock.set(0);
    assert!(
        job.task_svid().await.is_none() && !copied.is_let_in().await,
        "it came back"
    );
    world.check_log();
}

// S72, §4.11 row 14
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_goes_forward_in_a_window_extends_nothing() {
    a_step_moves_no_end(true, 0, STEP).await;
}

// §4.11 row 14
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_goes_back_in_a_window_extends_nothing() {
    a_step_moves_no_end(true, 0, -STEP).await;
}

// §4.11 row 14
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_opened_by_a_fast_clock_is_no_longer_when_the_clock_is_right() {
    a_step_moves_no_end(true, STEP, 0).await;
}

// §4.11 row 14
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_clock_goes_forward_in_a_window_extends_nothing() {
    a_step_moves_no_end(false, 0, STEP).await;
}

// §4.11 row 14
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_clock_goes_back_in_a_window_extends_nothing() {
    a_step_moves_no_end(false, 0, -STEP).await;
}

// §4.11 rows 8 and 14
#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_stays_so_whatever_the_servers_clock_says() {
    let _lane = Lane::shared();
    let (mut world, clock) = world(true, UNATTENDED).await;
    let guarded = world.guarded().await;
    let job = world.job(JOB_UID);
    let opened = job.enter().await;
    let mut copied = job.copy_out(&guarded, &world.job_dir("copy")).await;
    let revoke = ["task", "revoke", "--window", &opened.window_id, "--reason", "a story"];
    let outcome = world.cli.run(&revoke).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    copied.is_dead(Instant::now(), PATIENCE).await;

    for (step, restarted) in [(STEP, true), (0, true), (-STEP, false), (0, true)] {
        clock.set(step);
        if restarted {
            world.server.restart().await;
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            assert!(
                !copied.is_let_in().await,
                "{step:+} s: what was revoked is let in again"
            );
        }
        let open = world.tasks().await[0]["windows"][0]["stage"].clone();
        assert_ne!(open.as_str(), Some("open"), "{step:+} s");
        println!("{step:+} s, server started anew: {restarted}: still refused");
    }
    // Agent and service as well: they have heard nothing before, and let in what is not revoked.
    world.agent.restart().await;
    let fresh = world.guarded().await;
    let mut job = job;
    job.reconnect();
    let next = eventually("the next window", PATIENCE, async || {
        let asked = job.ask().await;
        job.open(&asked.request_id).await.ok()
    })
    .await;
    job.copy_out(&fresh, &world.job_dir("next")).await;
    assert!(
        !copied.at(&fresh).is_let_in().await,
        "what was revoked is let in by a new service"
    );
    job.complete(&next.request_id).await.unwrap();
    world.check_log();
}
