//! The disk is full.

use std::time::{Duration, Instant};

use mayfly_proto::spire::server::svid::MintX509svidRequest;
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_tests::caller::ids;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::faults::{Disk, seen};
use mayfly_tests::{Admin, Agent, Caller, EntrySpec, Lane, Server, ServerOptions, attest, eventually};
use tonic::{Code, Status};

use super::{RECOVERY, assert_logged, assert_refused_for_now, register, serial, served_anew};

const HELD: u32 = 41_001;
const NEW: u32 = 41_002;

/// Creates entries until one is refused; gives the IDs of those that were acknowledged, and the refusal.
pub(super) async fn create_until_refused(admin: &Admin) -> (Vec<String>, Status) {
    let mut acknowledged = vec![];
    for nth in 0..2_000 {
        let spec = EntrySpec::new(
            &format!("/late/{nth}"),
            "spiffe://example.org/node",
            &["unix:uid:41009"],
        );
        match admin.try_create(spec.to_wire()).await {
            Ok(entry) => acknowledged.push(entry.id),
            Err(status) => return (acknowledged, status),
        }
    }
    panic!("2,000 changes went through");
}

/// Asks for every kind of change, and fails unless each is refused because of `why`.
pub(super) async fn all_changes_are_refused(server: &Server, entry: &str, agent: &str, why: &str) {
    let admin = server.admin();
    assert_refused_for_now("deleting an entry", admin.try_delete(entry).await, why);
    assert_refused_for_now("making a token", admin.try_token().await.map(drop), why);
    assert_refused_for_now("banning an agent", admin.try_ban(agent).await, why);
    let (csr, _) = attest::csr_for("spiffe://example.org/minted");
    let mut minter = SvidClient::new(admin.channel());
    let minted = minter.mint_x509svid(MintX509svidRequest { csr, ttl: 600 }).await;
    assert_refused_for_now("minting an SVID", minted.map(drop), why);
}

// Attack 25
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_disk_is_full_refuses_changes_serves_what_it_has_and_recovers_by_itself() {
    let _lane = Lane::shared();
    let disk = Disk::new(32);
    let mut server = Server::prepare(&ServerOptions::default());
    disk.hold(server.dir(), "server");
    server.daemon.start();
    server.wait_ready().await;
    let agent = Agent::join(&server).await;
    let entry = register(&server, &agent, "/held", HELD, 0).await;
    register(&server, &agent, "/new", NEW, 0).await;
    let token = server.admin().token().await;
    let (mut held, mut new) = (Caller::spawn(HELD), Caller::spawn(NEW));
    let (first, mut stream) = held.workload(&agent.socket()).first().await.unwrap();

    disk.fill();
    let admin = server.admin();
    let (acknowledged, status) = create_until_refused(&admin).await;
    println!("an operator is told: {status}");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("disk") && status.message().contains("full"),
        "an operator would not know what to do: {status}"
    );
    all_changes_are_refused(&server, &entry, agent.id(), "full").await;
    // A token that could not be used up admits nobody.
    let joined = attest::join(attest::channel(server.port(), &admin.bundle().await, None), &token).await;
    assert_refused_for_now("joining", joined.map(drop), "full");
    // What there is goes on: reading, the stream of the workload, its SVID for a new caller.
    assert_eq!(admin.count().await as usize, 2 + acknowledged.len());
    assert!(admin.get(&entry).await.is_ok());
    let again = held.workload(&agent.socket()).fetch().await.unwrap();
    assert_eq!(serial(&again), serial(&first));
    assert!(stream.is_quiet_for(Duration::from_secs(1)).await);
    // Nothing is signed that cannot be recorded.
    let refused = new.workload(&agent.socket()).fetch().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    server.daemon.check_alive();
    assert_logged(&server.daemon.log(), "the disk of the database is full");

    disk.free();
    let begun = Instant::now();
    let ready = server.wait_ready().await;
    let (_, served) = served_anew(&mut new, &agent, "").await;
    let back = begun.elapsed();
    admin.token().await;
    attest::join(attest::channel(server.port(), &admin.bundle().await, None), &token)
        .await
        .expect("the token was not used up");
    let held_now: Vec<String> = admin.list().await.into_iter().map(|entry| entry.id).collect();
    assert!(acknowledged.iter().all(|id| held_now.contains(id)));
    assert_logged(&server.daemon.log(), "the database takes commits again");
    let evidence = Evidence::of(server.dir());
    evidence.check_order();
    let issued = serial(&new.workload(&agent.socket()).fetch().await.unwrap());
    assert!(evidence.intended_serials().contains(&issued));
    seen(
        "server's disk full",
        &format!(
            "{} more changes fitted, then each is refused: \"{}\"; reads, streams and cached SVIDs go on, nothing is \
             signed; space freed: ready after {ready:.0?}, all served after {back:.0?} (waiting workload {served:.0?})",
            acknowledged.len(),
            status.message()
        ),
    );
}

// Attack 25
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_on_a_full_disk_says_so_when_it_starts_there_and_loses_nothing() {
    let _lane = Lane::shared();
    let disk = Disk::new(32);
    let mut server = Server::prepare(&ServerOptions::default());
    disk.hold(server.dir(), "server");
    server.daemon.start();
    server.wait_ready().await;
    let agent = Agent::join(&server).await;
    register(&server, &agent, "/held", HELD, 0).await;
    let mut held = Caller::spawn(HELD);
    let first = held.workload(&agent.socket()).fetch().await.unwrap();
    disk.fill();
    let (acknowledged, _) = create_until_refused(&server.admin()).await;

    server.daemon.kill();
    server.daemon.start();
    // It needs an SVID of its own, and signs none that it cannot record.
    let ended = server.daemon.wait(RECOVERY);
    assert!(!ended.success());
    let log = server.daemon.log();
    let reason = log.lines().last().unwrap_or_default().to_owned();
    println!("its last words: {reason}");
    let names_the_disk = ["is full", "No space left"].iter().any(|words| reason.contains(words));
    assert!(names_the_disk, "{reason}");
    // The workload does not notice.
    assert_eq!(
        serial(&held.workload(&agent.socket()).fetch().await.unwrap()),
        serial(&first)
    );

    disk.free();
    server.daemon.start();
    let ready = server.wait_ready().await;
    let held_now: Vec<String> = server.admin().list().await.into_iter().map(|entry| entry.id).collect();
    assert!(acknowledged.iter().all(|id| held_now.contains(id)));
    Evidence::of(server.dir()).check_order();
    seen(
        "kill -9 of the server while its disk is full, started again",
        &format!(
            "it ends and says that the disk is full; workloads keep their SVIDs; space freed: ready after {ready:.0?}, \
             nothing acknowledged is lost"
        ),
    );
}

// Attack 25
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_disk_is_full_renews_serves_and_starts_again() {
    let _lane = Lane::shared();
    let disk = Disk::new(16);
    let server = Server::start_with(ServerOptions {
        sections: "[svid]\nagent_ttl = \"12s\"\nx509_svid_ttl = \"12s\"\n".into(),
        ..Default::default()
    })
    .await;
    // With a join token, as it cannot attest again: what it holds must not be lost.
    let mut agent = Agent::prepare(&server, Default::default()).await;
    disk.hold(agent.dir(), "agent");
    agent.start_joined(&server).await;
    register(&server, &agent, "/web", HELD, 0).await;
    let mut web = Caller::spawn(HELD);
    let first = web.workload(&agent.socket()).fetch().await.unwrap();

    disk.fill();
    let renewals = |agent: &Agent| agent.daemon.log().matches("agent SVID renewed").count();
    let before = renewals(&agent);
    eventually("two renewals of the agent", RECOVERY, async || {
        (renewals(&agent) >= before + 2).then_some(())
    })
    .await;
    let (second, _) = served_anew(&mut web, &agent, &serial(&first)).await;
    // What it holds is on the disk, and it starts there.
    agent.daemon.kill();
    agent.daemon.start();
    agent.wait_ready().await;
    let (third, restarted) = served_anew(&mut web, &agent, &second).await;

    disk.free();
    let (fourth, _) = served_anew(&mut web, &agent, &third).await;
    agent.restart().await;
    let answer = web.workload(&agent.socket()).fetch().await.unwrap();
    assert_eq!(ids(&answer), ["spiffe://example.org/web"]);
    assert_ne!(serial(&answer), fourth);
    assert_eq!(server.admin().list_agents().await.len(), 1, "it is the same agent");
    let log = agent.daemon.log();
    assert!(!log.contains("attesting anew"), "it never lost its identity");
    seen(
        "agent's disk full",
        &format!(
            "its own and the workloads' SVIDs are renewed and its own kept, as a spare file lies ready; kill -9 and \
             start on the full disk: the same agent, served after {restarted:.0?}"
        ),
    );
}
