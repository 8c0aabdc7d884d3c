//! Policy is asked again at each renewal, and of everything that is open when it changes.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mayfly_proto::mayfly::workload::Stage;
use mayfly_tests::tasks::{JOB_UID, Job, TASK, TaskWorld, asked};
use mayfly_tests::{Lane, effort, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// What is promised of a change of policy.
const SWEEP: Duration = Duration::from_secs(2);

const MANY: &str = "name = \"pay/db-migrate\"\nowner = \"ann\"\n[allowed]\nworkloads = [\"/ns/pay/migrator\"]\n\
                    [limits]\nmax_window = \"5m\"\nmax_uses = 100\nconcurrency = 500\n";

/// `mayfly policy set` of one file.
async fn set(world: &TaskWorld, text: &str) {
    let path = world.server.dir().join("story.cedar");
    std::fs::write(&path, text).unwrap();
    let outcome = world
        .cli
        .run(&["policy", "set", path.to_str().unwrap(), "--reason", "a story"])
        .await;
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
}

async fn windows(world: &TaskWorld) -> Vec<Value> {
    let tasks = world.tasks().await;
    let each = tasks
        .iter()
        .flat_map(|task| task["windows"].as_array().cloned().unwrap_or_default());
    each.collect()
}

// S13, §4.11 row 22
#[tokio::test]
async fn a_policy_that_turns_between_two_renewals_refuses_the_second_and_ends_the_window() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(MANY).await;
    let job = world.job(JOB_UID);
    let id = job.enter().await.request_id;
    // One that is quite new already is not renewed.
    eventually("the first renewal", PATIENCE, async || {
        let renewed = job.renew(&id).await.unwrap();
        assert_eq!(renewed.stage(), Stage::Open);
        (windows(&world).await[0]["svids"].as_u64() == Some(2)).then_some(())
    })
    .await;

    // Only about renewals, so that it is the renewal and not the look at what is open that meets it.
    set(
        &world,
        "@id(\"story/no-renewal\")\n@reason(\"no longer than it was\")\n\
         forbid (principal, action == Mayfly::Action::\"renew\", resource) unless { context.sweep };",
    )
    .await;
    assert!(
        job.task_svid().await.is_some(),
        "a window that is not asked about stays"
    );
    let refused = eventually("the second renewal", PATIENCE, async || {
        let answer = job.renew(&id).await;
        (!answer.as_ref().is_ok_and(|state| state.stage() == Stage::Open)).then_some(answer)
    })
    .await;
    println!("the second renewal: {refused:?}");
    job.is_withdrawn(PATIENCE).await;
    let found = windows(&world).await;
    assert_eq!(found[0]["cause"].as_str(), Some("policy_withdrawn"), "{found:?}");
    assert!(
        found[0]["detail"].as_str().unwrap().contains("no longer than it was"),
        "{found:?}"
    );
    assert_eq!(found[0]["svids"].as_u64(), Some(2), "nothing more was issued");
    world.check_log();
}

// S54, §4.11 row 22
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_policy_ends_what_is_open_within_two_seconds() {
    let _lane = Lane::alone();
    let world = TaskWorld::start(MANY).await;
    let count = effort(20, 100);
    let jobs: Vec<Job> = (0..count).map(|_| world.job(JOB_UID)).collect();
    // They are one workload that asks for the same: one request, and a window for each.
    let first = jobs[0].enter().await;
    let asked = jobs[1].ask().await;
    assert_eq!(asked.request_id, first.request_id);
    assert_eq!((asked.stage(), asked.window_id.as_str()), (Stage::Armed, ""));
    for opened in join_all(jobs[1..].iter().map(Job::enter)).await {
        assert_eq!(opened.stage(), Stage::Open);
    }
    let again = jobs[0].ask().await;
    assert_eq!((again.stage(), again.window_id), (Stage::Open, first.window_id));
    let held = join_all(jobs.iter().map(Job::task_svid)).await;
    assert_eq!(held.iter().flatten().count(), count);

    let guarded = world.guarded().await;
    let dir = world.job_dir("copy");
    let mut copied = jobs[0].copy_out(&guarded, &dir).await;

    // One that says nothing of them ends none.
    set(
        &world,
        "@id(\"story/other\")\nforbid (principal, action in Mayfly::Action::\"use\",\
         resource == Mayfly::TaskDefinition::\"web/deploy\");",
    )
    .await;
    assert!(copied.is_connected());

    set(
        &world,
        "@id(\"story/stop\")\n@reason(\"all stop\")\n\
         forbid (principal, action in Mayfly::Action::\"use\", resource);",
    )
    .await;
    let since = Instant::now();
    let cut = copied.is_dead(since, PATIENCE).await;
    join_all(jobs.iter().map(|job| job.is_withdrawn(PATIENCE))).await;
    let withdrawn = since.elapsed();
    let over = eventually("all windows to be over", PATIENCE, async || {
        let found = windows(&world).await;
        let ended = found
            .iter()
            .all(|window| window["cause"].as_str() == Some("policy_withdrawn"));
        ended.then_some(since.elapsed())
    })
    .await;
    println!(
        "{TASK}: {count} windows open when the policy changed: a connection cut after {cut:.0?}, all holders without SVID \
         after {withdrawn:.0?}, all over at the server after {over:.0?}"
    );
    assert!(cut <= SWEEP && withdrawn <= SWEEP, "slower than promised");
    let checked = world.check_log();
    assert_eq!(checked.windows, count);
}

// T27, §4.11 rows 17 and 22
#[tokio::test]
async fn a_definition_that_is_changed_ends_what_it_would_not_allow_and_policy_still_reaches_the_rest() {
    const OTHER: u32 = 41_401;
    let _lane = Lane::shared();
    let both = MANY.replace("[\"/ns/pay/migrator\"]", "[\"/ns/pay/migrator\", \"/ns/pay/other\"]");
    let world = TaskWorld::start(&both).await;
    world.entry("/ns/pay/other", OTHER).await;
    let (stays, goes) = (world.job(JOB_UID), world.job(OTHER));
    let opened = stays.enter().await;
    eventually("the other workload's window", PATIENCE, async || {
        let asked = goes.request(asked()).await.ok()?;
        goes.open(&asked.request_id).await.ok()
    })
    .await;

    world.define(MANY).await;
    let since = Instant::now();
    goes.is_withdrawn(PATIENCE).await;
    println!(
        "the window of who is not named any more was over after {:.0?}",
        since.elapsed()
    );
    assert!(stays.task_svid().await.is_some(), "the other one goes on");
    eventually("a renewal under the newer definition", PATIENCE, async || {
        let renewed = stays.renew(&opened.request_id).await.unwrap();
        assert_eq!((renewed.stage(), renewed.closes_at), (Stage::Open, opened.closes_at));
        let found = windows(&world).await;
        found
            .iter()
            .any(|window| window["svids"].as_u64() > Some(1))
            .then_some(())
    })
    .await;

    set(
        &world,
        "@id(\"story/stop\")\nforbid (principal, action in Mayfly::Action::\"use\", resource);",
    )
    .await;
    stays.is_withdrawn(PATIENCE).await;
    let found = windows(&world).await;
    assert!(
        found
            .iter()
            .all(|window| window["cause"].as_str() == Some("policy_withdrawn")),
        "{found:?}"
    );
    world.check_log();
}
