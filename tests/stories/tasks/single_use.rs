//! A grant for one window, opened from everywhere at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mayfly_proto::mayfly::agent::tasks_client::TasksClient;
use mayfly_proto::mayfly::agent::{Instance, OpenTaskRequest, RequestTaskRequest};
use mayfly_proto::mayfly::workload::TaskState;
use mayfly_tests::tasks::{JOB_UID, Job, TASK, TaskWorld, asked};
use mayfly_tests::{EntrySpec, Lane, attest, effort, eventually};
use tokio::sync::Barrier;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(60);

/// Many windows at a time for the workload, one for each grant.
const ONCE: &str = "name = \"pay/db-migrate\"\nowner = \"ann\"\n[allowed]\nworkloads = [\"/ns/pay/migrator\"]\n\
                    [limits]\nmax_window = \"5m\"\nmax_uses = 1\nconcurrency = 500\n";

/// Asks until the agent has room for the call: one user has so many at a time.
async fn again<F: Future<Output = Result<TaskState, Status>>>(call: impl Fn() -> F) -> Result<TaskState, Status> {
    eventually("room for the call", PATIENCE, async || {
        let answer = call().await;
        let has_room = !answer
            .as_ref()
            .is_err_and(|status| status.code() == Code::ResourceExhausted);
        has_room.then_some(answer)
    })
    .await
}

// S70, §4.11 row 34
#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_processes_that_open_one_grant_one_gets_a_window() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(ONCE).await;
    let count = effort(200, 240);
    // Each asks for the same and so has part in the one request. One after the other: a connection that says nothing for
    // seconds is closed.
    let (mut jobs, mut ids) = (vec![], BTreeSet::new());
    for _ in 0..count {
        let job = world.job(JOB_UID);
        ids.insert(job.ask().await.request_id);
        jobs.push(job);
    }
    assert_eq!(ids.len(), 1, "one request");
    let id = ids.pop_first().unwrap();
    let begun = Instant::now();
    let answers = join_all(jobs.iter().map(|job| again(|| job.open(&id)))).await;
    let took = begun.elapsed();
    let opened = answers.iter().filter(|answer| answer.is_ok()).count();
    let mut refusals: Vec<&str> = answers
        .iter()
        .filter_map(|a| a.as_ref().err())
        .map(|status| status.message())
        .collect();
    refusals.sort_unstable();
    refusals.dedup();
    println!("{opened} of {count} processes got a window in {took:.0?}; the others: {refusals:?}");
    assert_eq!(opened, 1, "{refusals:?}");
    let holders = join_all(jobs.iter().map(Job::task_svid)).await;
    assert_eq!(holders.iter().flatten().count(), 1, "one process has the task SVID");
    let tasks = world.tasks().await;
    assert_eq!(tasks[0]["windows"].as_array().unwrap().len(), 1, "{tasks:?}");
    let checked = world.check_log();
    assert_eq!((checked.windows, checked.svids), (1, 1));
}

// S70, §4.11 row 34: what an agent could do that has gone over to the thief
#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_calls_of_an_agent_that_open_one_grant_one_gets_a_certificate() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(ONCE).await;
    let admin = world.server.admin();
    let (bundle, token) = (admin.bundle().await, admin.token().await);
    let port = world.server.port();
    let joined = attest::join(attest::channel(port, &bundle, None), &token)
        .await
        .unwrap();
    let agent_id = joined.svid.spiffe_id().to_string();
    let entry = EntrySpec::new("/ns/pay/migrator", &agent_id, &["unix:uid:7"]);
    let entry_id = admin.create(&entry).await;
    let joined = Arc::new(joined);
    let instance = move |pid: u32| Instance {
        entry_id: entry_id.clone(),
        selectors: vec!["unix:uid:7".into()],
        pid,
        uid: 7,
        start_ticks: u64::from(pid),
        boot_id: "b6f1a2d0-0000-4000-8000-000000000001".into(),
        attested_ms_ago: 0,
    };
    let mut client = TasksClient::new(attest::channel(port, &bundle, Some(&joined)));
    let request = RequestTaskRequest {
        instance: Some(instance(1)),
        request: Some(asked()),
    };
    let state = client.request(request).await.unwrap().into_inner().state.unwrap();

    // Several connections, so that calls do not queue up behind each other.
    let count = 200;
    let clients: Vec<_> = (0..8)
        .map(|_| TasksClient::new(attest::channel(port, &bundle, Some(&joined))))
        .collect();
    let start = Arc::new(Barrier::new(count));
    let calls = (0..count).map(|n| {
        let (mut client, start) = (clients[n % clients.len()].clone(), start.clone());
        let request = OpenTaskRequest {
            instance: Some(instance(u32::try_from(n).unwrap() + 2)),
            request_id: state.request_id.clone(),
            csr: attest::csr().0,
            include_descendants: false,
        };
        tokio::spawn(async move {
            start.wait().await;
            client.open(request).await
        })
    });
    let calls: Vec<_> = calls.collect();
    let begun = Instant::now();
    let answers: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let took = begun.elapsed();
    let opened = answers.iter().filter(|answer| answer.is_ok()).count();
    let mut refusals: Vec<&str> = answers
        .iter()
        .filter_map(|a| a.as_ref().err())
        .map(|status| status.message())
        .collect();
    refusals.sort_unstable();
    refusals.dedup();
    println!("{opened} of {count} calls got a certificate for {TASK} in {took:.0?}; the others: {refusals:?}");
    assert_eq!(opened, 1, "{refusals:?}");
    let checked = world.check_log();
    assert_eq!((checked.windows, checked.svids), (1, 1));
}
