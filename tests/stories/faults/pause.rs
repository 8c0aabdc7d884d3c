//! A daemon is stopped for a while and goes on: SIGSTOP, as a debugger, a frozen cgroup or a suspended machine would.

use std::time::{Duration, Instant};

use mayfly_tests::caller::ids;
use mayfly_tests::faults::{Paused, seen};
use mayfly_tests::{Agent, Caller, Lane, Server, ServerOptions, effort};
use tonic::Code;

use super::{RECOVERY, register, serial, served_anew};

const USER: u32 = 41_001;
const SHORT: u32 = 41_002;
/// Four of them that do not come are noticed.
const BEACONS: &str = "[watch]\nbeacon_interval = \"1s\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_for_a_while_is_noticed_and_nothing_is_lost() {
    let _lane = Lane::shared();
    let time = Duration::from_secs(effort(8, 60));
    let mut server = Server::start_with(ServerOptions {
        sections: BEACONS.into(),
        ..Default::default()
    })
    .await;
    let agent = Agent::join(&server).await;
    let old = register(&server, &agent, "/old", USER, 3_600).await;
    let mut user = Caller::spawn(USER);
    let (first, mut stream) = user.workload(&agent.socket()).first().await.unwrap();

    // The first beacon says how often the next ones come; without it the agent would wait for half a minute.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let paused = Paused::new(&server.daemon);
    let begun = Instant::now();
    agent.daemon.wait_log("no sign of life", RECOVERY).await;
    let noticed = begun.elapsed();
    assert_eq!(
        serial(&user.workload(&agent.socket()).fetch().await.unwrap()),
        serial(&first)
    );
    assert!(stream.is_quiet_for(time.saturating_sub(noticed)).await);
    drop(paused);
    let ready = server.wait_ready().await;
    let begun = Instant::now();
    register(&server, &agent, "/new", USER, 3_600).await;
    server.admin().delete(&old).await;
    while ids(&stream.next().await.expect("the stream stays")) != ["spiffe://example.org/new"] {}
    let back = begun.elapsed();
    seen(
        &format!("server stopped for {} s (SIGSTOP)", time.as_secs()),
        &format!(
            "noticed by the agent after {noticed:.1?}; cached SVIDs served; goes on: answers after {ready:.0?}, the next \
             change is with the workload after {back:.1?}"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_stopped_for_a_while_withdraws_at_once_what_was_taken_from_it_meanwhile() {
    let _lane = Lane::shared();
    let time = Duration::from_secs(effort(13, 60));
    let server = Server::start_with(ServerOptions {
        sections: "[svid]\nx509_svid_ttl = \"10s\"\n".into(),
        ..Default::default()
    })
    .await;
    let agent = Agent::join(&server).await;
    let old = register(&server, &agent, "/old", USER, 3_600).await;
    register(&server, &agent, "/short", SHORT, 0).await;
    let (mut user, mut short) = (Caller::spawn(USER), Caller::spawn(SHORT));
    let (_, mut stream) = user.workload(&agent.socket()).first().await.unwrap();
    let first = short.workload(&agent.socket()).fetch().await.unwrap();

    let paused = Paused::new(&agent.daemon);
    server.admin().delete(&old).await;
    tokio::time::sleep(time).await;
    drop(paused);
    let begun = Instant::now();
    let refused = loop {
        if let Err(status) = stream.next().await {
            break status;
        }
    };
    let withdrawn = begun.elapsed();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(withdrawn < Duration::from_secs(5), "{withdrawn:?}");
    // What ran out while it was stopped is not handed out, but a new one.
    let (_, served) = served_anew(&mut short, &agent, &serial(&first)).await;
    seen(
        &format!(
            "agent stopped for {} s (SIGSTOP), an entry deleted meanwhile",
            time.as_secs()
        ),
        &format!(
            "goes on: deleted identity taken back after {withdrawn:.1?}, one that had run out replaced after {served:.1?}"
        ),
    );
}
