//! Tasks and revocation against a server in this process, over the real wire.

use mayfly_proto::mayfly::workload::{RequestRequest, Stage};

use super::*;
use crate::news::{Consumer, Moment, Offer};
use crate::tasks::testing::{FakeHolder, applicant};
use crate::tasks::{self, Ending, TaskMetrics, TaskParts, TaskSettings, Tasks};

impl TestAgent {
    /// A keeper of windows for this agent; the test server's entries want `unix:uid:1`.
    fn keeps_windows(&self) -> Tasks {
        let parts = TaskParts {
            server: Arc::new(ServerTasks::new(Arc::clone(&self.link), Arc::clone(&self.news))),
            news: Arc::clone(&self.news),
            views: self.views.clone(),
            clock: Arc::new(SystemClock),
            boot_id: "boot".into(),
            metrics: TaskMetrics::default(),
        };
        let (tasks, keeper) = tasks::start(TaskSettings::default(), parts);
        #[allow(clippy::disallowed_methods, reason = "tests may spawn")]
        tokio::spawn(keeper.run(self.stop.clone()));
        tasks
    }
}

fn job() -> Arc<FakeHolder> {
    let job = FakeHolder::new(7);
    *job.selectors.lock().unwrap() = Arc::new(["unix:uid:1".parse().unwrap()].into());
    job
}

async fn request(tasks: &Tasks, job: &Arc<FakeHolder>) -> Result<String, tasks::TaskError> {
    let request = RequestRequest {
        task: "pay/migrate".into(),
        ..RequestRequest::default()
    };
    let asked = tasks.request(applicant(job), "a".parse().unwrap(), request).await?;
    Ok(asked.request_id)
}

/// Opens a window; returns its ID and the request's.
async fn open(tasks: &Tasks, job: &Arc<FakeHolder>) -> (String, String) {
    let request_id = request(tasks, job).await.unwrap();
    let opened = tasks.open(applicant(job), request_id.clone(), false).await.unwrap();
    (opened.window_id, request_id)
}

fn held_svids(tasks: &Tasks) -> usize {
    tasks.board().borrow().len()
}

#[tokio::test]
async fn what_is_revoked_is_pushed_and_a_gap_is_found_by_the_beacon() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.revoke("w1", vec![vec![1]]);
    eventually("the revocation", || agent.news.epoch() == 1).await;
    assert!(agent.news.denied().borrow().denies(&[1]));
    assert!(
        agent
            .news
            .word()
            .borrow()
            .is_some_and(|word| word.left(Moment::now()).is_some())
    );
    assert_eq!(*agent.news.offer().borrow(), Offer::Tasks);
    // The push of one is lost: it is of a revision that the agent is believed to have.
    server.set(|state| {
        state.tasks.epoch = 2;
        let lost = state.tasks.revoked[0].1.clone();
        let lost = mayfly_proto::mayfly::workload::Revoked {
            epoch: 2,
            serials: vec![vec![2]],
            ..lost
        };
        state.tasks.revoked.push((0, lost));
    });
    eventually("all of it", || agent.news.denied().borrow().denies(&[2])).await;
    assert_eq!(agent.news.epoch(), 2);
    assert_eq!(server.count("Snapshot"), 2, "{:?}", server.log());
}

#[tokio::test]
async fn what_consumers_enforce_is_reported_summed_up_and_seldom() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.revoke("w1", vec![vec![1]]);
    eventually("the revocation", || agent.news.epoch() == 1).await;
    let service = "spiffe://td/svc/db".parse().unwrap();
    let join = || {
        agent
            .news
            .enforcers()
            .join("db", &service, Consumer::of_user(1))
            .unwrap()
    };
    let (one, two) = (join(), join());
    let began = Instant::now();
    for ended in 0..1_000 {
        one.acknowledge(1, ended % 2, 0);
        tokio::task::yield_now().await;
    }
    two.acknowledge(1, 1, 3);
    let last = || server.state().tasks.enforced.last().cloned().unwrap_or_default();
    eventually("the sum", || {
        last().first().is_some_and(|sum| sum.epoch == 1 && sum.consumers == 2)
    })
    .await;
    let count = server.state().tasks.enforced.len();
    let most = 2 + began.elapsed().as_millis() / 100;
    assert!(count as u128 <= most, "{count} reports, at most {most}");
    let ended = |server: &TestServer| {
        let state = server.state();
        let sums = state.tasks.enforced.iter().flatten();
        sums.map(|sum| sum.connections_ended).sum::<u32>()
    };
    assert_eq!(
        (ended(&server), last()[0].connections_left),
        (501, 3),
        "each is told once"
    );
    // Another stream knows nothing of what was reported on this one.
    server.cut_streams();
    eventually("the report on the next stream", || {
        server.state().tasks.enforced.len() > count
    })
    .await;
    assert_eq!((last()[0].consumers, last()[0].epoch), (2, 1));
    drop((one, two));
    eventually("nobody left", || last().first().is_none_or(|sum| sum.consumers == 0)).await;
}

#[tokio::test]
async fn a_hello_names_the_windows_and_an_end_reaches_a_server_that_was_away() {
    let mut server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    let (tasks, job) = (agent.keeps_windows(), job());
    let (window_id, request_id) = open(&tasks, &job).await;
    eventually("the SVID", || held_svids(&tasks) == 1).await;
    server.cut_streams();
    let hello = |server: &TestServer| {
        server
            .log()
            .iter()
            .any(|line| line.starts_with("Hello") && line.ends_with(&window_id))
    };
    eventually("a hello with the window", || hello(&server)).await;
    server.stop().await;
    let end = tasks.end(job.clone(), request_id, Ending::Failed, "exit status 3".into());
    let ended = end.await.unwrap();
    assert_eq!((ended.stage(), held_svids(&tasks)), (Stage::Closed, 0));
    assert!(ended.message.contains("not reached"), "{}", ended.message);
    server.restart();
    eventually("the close", || server.count("Task close CLOSE_CAUSE_FAILED") == 1).await;
    eventually("nothing left", || agent.news.held_windows().is_empty()).await;
    assert!(!server.state().tasks.windows[&window_id].1);
}

#[tokio::test]
async fn a_server_that_falls_silent_costs_the_svid_and_gives_another_when_it_speaks() {
    let server = TestServer::start().await;
    server.state().beacon = Duration::from_millis(200);
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    let (tasks, job) = (agent.keeps_windows(), job());
    open(&tasks, &job).await;
    eventually("the SVID", || held_svids(&tasks) == 1).await;
    server.set(|state| state.silent = true);
    eventually("no SVID", || held_svids(&tasks) == 0).await;
    server.set(|state| state.silent = false);
    eventually("another", || held_svids(&tasks) == 1).await;
    assert!(server.count("Task renew") >= 1);
    assert_eq!(server.count("Task close"), 0);
}

#[tokio::test]
async fn a_window_that_the_server_closes_is_wiped_by_the_push() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    let (tasks, job) = (agent.keeps_windows(), job());
    let (window_id, request_id) = open(&tasks, &job).await;
    let mut states = tasks.watch(job.clone(), request_id).await.unwrap();
    server.set(|state| state.tasks.windows.values_mut().for_each(|(_, open)| *open = false));
    server.tell(&window_id, Stage::Closed);
    let closed = timeout(PATIENCE, states.wait_for(|state| state.stage() == Stage::Closed)).await;
    assert!(closed.is_ok_and(|state| state.is_ok()));
    assert_eq!(held_svids(&tasks), 0);
    assert_eq!(server.count("Task close"), 0, "the server knows");
}

// What a server of SPIRE's answers.
#[tokio::test]
async fn a_server_without_tasks_is_named_as_what_is_missing() {
    let server = TestServer::start().await;
    server.set(|state| {
        state.watch = false;
        state.tasks.absent = true;
    });
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    assert_eq!(*agent.news.offer().borrow(), Offer::Nothing);
    let (tasks, job) = (agent.keeps_windows(), job());
    let refused = request(&tasks, &job).await.unwrap_err();
    assert_eq!(
        (refused.kind, refused.message.as_str()),
        (ErrorKind::Unimplemented, NO_TASKS)
    );
}
