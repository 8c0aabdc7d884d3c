//! The disk turns read-only: the kernel found the file system in disorder, or somebody mounted it so.

use std::time::{Duration, Instant};

use mayfly_tests::daemon::story_dir;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::faults::{Disk, seen};
use mayfly_tests::nodes::NodeCa;
use mayfly_tests::{Agent, AgentOptions, Caller, Join, Lane, Server, ServerOptions};
use tonic::Code;

use super::disk::{all_changes_are_refused, create_until_refused};
use super::{RECOVERY, assert_logged, register, serial, served_anew};

const HELD: u32 = 41_001;
const NEW: u32 = 41_002;

// Attack 25
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_disk_turns_read_only_refuses_changes_and_loses_none_that_it_acknowledged() {
    let _lane = Lane::shared();
    let mut disk = Disk::new(32);
    let mut server = Server::prepare(&ServerOptions::default());
    disk.hold(server.dir(), "server");
    server.daemon.start();
    server.wait_ready().await;
    let agent = Agent::join(&server).await;
    let entry = register(&server, &agent, "/held", HELD, 0).await;
    register(&server, &agent, "/new", NEW, 0).await;
    let (mut held, mut new) = (Caller::spawn(HELD), Caller::spawn(NEW));
    let (first, mut stream) = held.workload(&agent.socket()).first().await.unwrap();

    disk.fail();
    let admin = server.admin();
    let (acknowledged, status) = create_until_refused(&admin).await;
    println!("an operator is told: {status}");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("read-only"), "{status}");
    all_changes_are_refused(&server, &entry, agent.id(), "read-only").await;
    assert_eq!(admin.count().await as usize, 2 + acknowledged.len());
    let again = held.workload(&agent.socket()).fetch().await.unwrap();
    assert_eq!(serial(&again), serial(&first));
    assert!(stream.is_quiet_for(Duration::from_secs(1)).await);
    let refused = new.workload(&agent.socket()).fetch().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    server.daemon.check_alive();
    assert_logged(&server.daemon.log(), "read-only");

    // Mounted read-only, there is nothing that a server could start with.
    server.daemon.kill();
    disk.repair();
    disk.make_read_only();
    server.daemon.start();
    let ended = server.daemon.wait(RECOVERY);
    assert!(!ended.success());
    let log = server.daemon.log();
    let reason = log.lines().last().unwrap_or_default().to_owned();
    println!("its last words: {reason}");
    assert!(reason.to_lowercase().contains("read-only"), "{reason}");
    assert_eq!(
        serial(&held.workload(&agent.socket()).fetch().await.unwrap()),
        serial(&first)
    );

    disk.make_writable();
    server.daemon.start();
    let begun = Instant::now();
    let ready = server.wait_ready().await;
    served_anew(&mut new, &agent, "").await;
    let back = begun.elapsed();
    let now: Vec<String> = admin.list().await.into_iter().map(|entry| entry.id).collect();
    assert!(acknowledged.iter().all(|id| now.contains(id)) && now.contains(&entry));
    Evidence::of(server.dir()).check_order();
    seen(
        "server's disk turns read-only (ext4 error), then is mounted so",
        &format!(
            "each change is refused: \"{}\"; reads, streams and cached SVIDs go on; a start on it ends with \"{}\"; \
             repaired: ready after {ready:.0?}, all served after {back:.0?}",
            status.message(),
            reason.split_once("error=").map_or(reason.as_str(), |(_, error)| error)
        ),
    );
}

// Attack 25
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_disk_turns_read_only_goes_on_and_says_at_a_start_what_is_wrong() {
    let _lane = Lane::shared();
    let mut disk = Disk::new(16);
    let (dir, authority) = (story_dir(), NodeCa::new());
    let attestor = format!(
        "[attestor.x509pop]\nca_bundle_path = \"{}\"\n",
        authority.file(dir.path()).display()
    );
    let server = Server::start_with(ServerOptions {
        sections: format!("[svid]\nagent_ttl = \"16s\"\nx509_svid_ttl = \"12s\"\n{attestor}"),
        ..Default::default()
    })
    .await;
    // It can prove itself again. With a join token, an SVID that was renewed and not kept would be lost at the crash.
    let (certificate, key) = authority.node("node").files(dir.path());
    let join = Some(Join::X509Pop { certificate, key });
    let mut agent = Agent::prepare(
        &server,
        AgentOptions {
            join,
            ..Default::default()
        },
    )
    .await;
    disk.hold(agent.dir(), "agent");
    agent.start_joined(&server).await;
    register(&server, &agent, "/web", HELD, 0).await;
    let mut web = Caller::spawn(HELD);
    let first = web.workload(&agent.socket()).fetch().await.unwrap();

    disk.fail();
    agent
        .daemon
        .wait_log(
            "the agent's identity is used but cannot be kept for the next start",
            RECOVERY,
        )
        .await;
    let (second, _) = served_anew(&mut web, &agent, &serial(&first)).await;

    agent.daemon.kill();
    disk.repair();
    disk.make_read_only();
    agent.daemon.start();
    let ended = agent.daemon.wait(RECOVERY);
    assert!(!ended.success());
    let log = agent.daemon.log();
    let reason = log.lines().last().unwrap_or_default().to_owned();
    println!("its last words: {reason}");
    assert!(reason.contains("Read-only file system"), "{reason}");

    disk.make_writable();
    agent.daemon.start();
    agent.wait_ready().await;
    let (_, back) = served_anew(&mut web, &agent, &second).await;
    seen(
        "agent's disk turns read-only, then is mounted so",
        &format!(
            "renews and serves, says that it cannot keep its identity; a start on it ends and names the folder; \
             writable again: served after {back:.0?}"
        ),
    );
}
