//! kill -9 of the server, of agents, and of both, at random moments, under load.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mayfly_tests::caller::WorkloadStream;
use mayfly_tests::daemon::PATIENCE;
use mayfly_tests::faults::seen;
use mayfly_tests::shown::Shown;
use mayfly_tests::{Agent, Caller, Lane, Millis, effort, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::ledger::{self, Shared};
use super::{RECOVERY, register, serial};
use crate::durability::open_server;

const USERS: [u32; 2] = [41_001, 41_002];

/// An agent and the workloads on its node, each with an open stream.
struct Node {
    agent: Agent,
    workloads: Vec<(Caller, Option<WorkloadStream>)>,
}

impl Node {
    /// Has every workload ask until it is served; notes the serials. A stream that its agent did not outlive is opened
    /// anew.
    async fn serve_all(&mut self, ledger: &Shared) {
        let socket = self.agent.socket();
        for (caller, stream) in &mut self.workloads {
            let (answer, opened) = eventually("every workload to be served again", RECOVERY, async || {
                caller.workload(&socket).first().await.ok()
            })
            .await;
            ledger.lock().unwrap().serials.insert(serial(&answer));
            stream.get_or_insert(opened);
        }
    }

    /// Fails if a stream has ended: its agent was not touched, so that the identity must not have been.
    fn check_streams(&mut self) {
        for (_, stream) in &mut self.workloads {
            while let Some(message) = stream.as_mut().and_then(|stream| stream.next().now_or_never()) {
                message.expect("a workload's stream outlives the server");
            }
        }
    }

    fn kill(&mut self) {
        self.agent.daemon.kill();
        for (_, stream) in &mut self.workloads {
            *stream = None;
        }
    }
}

// Promise 5: ready ≤ 2 s after the start
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_they_keep_all_that_was_acknowledged_and_serve_again() {
    let _lane = Lane::alone();
    let kills: usize = effort(30, 300);
    let seed: u64 = 0x6d61_7966_6c79_0005;
    println!("{kills} kills, seed {seed:#x}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = open_server().await;
    let ledger = Shared::new(Mutex::default());
    let mut shown = Shown::of(server.dir());
    let bundle = server.admin().bundle().await;
    let issuee = ledger::issuee(&server, &ledger).await;
    let mut nodes = vec![];
    for _ in 0..2 {
        let agent = Agent::join(&server).await;
        for uid in USERS {
            register(&server, &agent, &format!("/user/{uid}"), uid, 0).await;
        }
        let workloads = USERS.map(|uid| (Caller::spawn(uid), None)).into();
        nodes.push(Node { agent, workloads });
    }
    for node in &mut nodes {
        node.serve_all(&ledger).await;
    }
    let (mut ready, mut served) = (Millis::default(), Millis::default());
    let (mut killed, mut servers, mut agents) = (0, 0, 0);
    while killed < kills {
        let mut load = ledger::start(&server, &ledger, &bundle, &issuee, &mut rng);
        tokio::time::sleep(Duration::from_micros(rng.random_range(5_000..200_000))).await;
        // The server alone, an agent alone, or the server with one or both.
        let (with_server, victims) = match rng.random_range(0..4) {
            0 => (true, 0..0),
            1 => (false, 0..1),
            2 => (true, 1..2),
            _ => (true, 0..2),
        };
        if with_server {
            server.daemon.kill();
            servers += 1;
        }
        for node in &mut nodes[victims.clone()] {
            node.kill();
        }
        shown.look();
        agents += victims.len();
        killed += usize::from(with_server) + victims.len();
        ledger::end(&ledger);
        while let Some(end) = tokio::time::timeout(PATIENCE, load.join_next())
            .await
            .expect("every call ends")
        {
            let status = end.unwrap().unwrap_err();
            assert!(ledger::is_loss(&status), "kill {killed}: {status}");
        }

        let begun = Instant::now();
        for node in &mut nodes[victims.clone()] {
            node.agent.daemon.start();
        }
        if with_server {
            server.daemon.start();
            server.wait_ready().await;
            ready.push(begun.elapsed());
        }
        for node in &mut nodes[victims] {
            node.agent.wait_ready().await;
        }
        for node in &mut nodes {
            node.check_streams();
            node.serve_all(&ledger).await;
        }
        served.push(begun.elapsed());
        ledger::check(&server, &ledger, &issuee, &mut rng).await;
    }
    ledger::check_records(&server, &ledger);
    shown.look();
    let checkpoints = shown.check();
    let ledger = ledger.lock().unwrap();
    println!("acknowledged and found after each kill: {}", ledger.size());
    println!("from start to ready: {ready}");
    println!(
        "from start to the last of {} workloads served: {served}",
        nodes.len() * USERS.len()
    );
    assert!(ledger.is_rich(kills), "{}", ledger.size());
    assert!(ready.quantile(1.0) <= Duration::from_secs(2), "{ready}");
    seen(
        &format!("{killed} kill -9 at random moments under load: server {servers}, agents {agents}"),
        &format!(
            "0 of {} lost; no SVID without its record; the log leads to each of {checkpoints} checkpoints that it had \
             shown; ready p50 {:.0?} max {:.0?}; all workloads served p50 {:.0?} max {:.0?}",
            ledger.size(),
            ready.quantile(0.5),
            ready.quantile(1.0),
            served.quantile(0.5),
            served.quantile(1.0)
        ),
    );
}
