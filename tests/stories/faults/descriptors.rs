//! No file descriptors are left.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use mayfly_tests::caller::ids;
use mayfly_tests::faults::{descriptors, lower_descriptors, seen};
use mayfly_tests::{Agent, Caller, EntrySpec, Lane, Server, attest, eventually};

use super::{RECOVERY, register, serial};

const USER: u32 = 41_001;
const OTHER: u32 = 41_002;
/// Descriptors that are left over when the limit is lowered.
const LEFT: u64 = 12;
const CONNECTIONS: usize = 60;

/// What a daemon says that keeps its last descriptors for the work on connections that are there.
const KEPT: &str = "almost no file descriptors left, refused";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_descriptors_keeps_its_agents_and_takes_new_ones_when_there_are_some() {
    let _lane = Lane::shared();
    let mut server = Server::start().await;
    let agent = Agent::join(&server).await;
    register(&server, &agent, "/user", USER, 3_600).await;
    let mut user = Caller::spawn(USER);
    let (_, mut stream) = user.workload(&agent.socket()).first().await.unwrap();
    let admin = server.admin();
    let (bundle, token) = (admin.bundle().await, admin.token().await);
    let pid = server.daemon.pid();

    let limit = descriptors(pid) + LEFT;
    lower_descriptors(pid, Some(limit));
    let hoard: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(("127.0.0.1", server.port())).unwrap())
        .collect();
    server.daemon.wait_log(KEPT, RECOVERY).await;
    // Now there is none at all, also none to refuse a connection with.
    lower_descriptors(pid, Some(3));
    let one_more = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    server.daemon.wait_log("Too many open files", RECOVERY).await;
    // Over the connections that are there: commits, and pushes of what they changed.
    let begun = Instant::now();
    for nth in 0..20 {
        let spec = EntrySpec::new(&format!("/more/{nth}"), agent.id(), &[&format!("unix:uid:{USER}")]);
        admin.create(&spec).await;
    }
    while ids(&stream.next().await.expect("the stream stays")).len() < 21 {}
    let changed = begun.elapsed();
    server.daemon.check_alive();

    let begun = Instant::now();
    drop((hoard, one_more));
    lower_descriptors(pid, Some(limit));
    // The queue of the kernel is worked off.
    eventually("a new agent to join", RECOVERY, async || {
        let channel = attest::channel(server.port(), &bundle, None);
        attest::join(channel, &token).await.ok()
    })
    .await;
    let joined = begun.elapsed();
    lower_descriptors(pid, None);
    seen(
        "server almost, then wholly without file descriptors (60 connections that say nothing)",
        &format!(
            "new connections are refused while some are left, and the log says so, or \"Too many open files\"; 20 changes are \
             with the workload after {changed:.1?} over the connections that are there; the others gone: a new agent \
             joins after {joined:.1?}"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_few_descriptors_withdraws_nothing_and_serves_new_callers_when_there_are_some() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let mut agent = Agent::join(&server).await;
    let selector = format!("unix:uid:{USER}");
    register(&server, &agent, "/user", USER, 3_600).await;
    register(&server, &agent, "/other", OTHER, 3_600).await;
    let (mut user, mut other) = (Caller::spawn(USER), Caller::spawn(OTHER));
    let (first, mut stream) = user.workload(&agent.socket()).first().await.unwrap();
    let pid = agent.daemon.pid();

    let limit = descriptors(pid) + LEFT;
    lower_descriptors(pid, Some(limit));
    let hoard: Vec<UnixStream> = (0..CONNECTIONS)
        .map(|_| UnixStream::connect(agent.socket()).unwrap())
        .collect();
    agent.daemon.wait_log(KEPT, RECOVERY).await;
    // To find out whether a caller is still who it was takes a descriptor, and there is one.
    let spec = EntrySpec::new("/more", agent.id(), &[&selector]);
    server.admin().create(&spec).await;
    let begun = Instant::now();
    while ids(&stream.next().await.expect("the stream stays")).len() < 2 {}
    let told = begun.elapsed();
    agent.daemon.check_alive();

    drop(hoard);
    let begun = Instant::now();
    let answer = eventually("the workload to be served", RECOVERY, async || {
        user.workload(&agent.socket()).fetch().await.ok()
    })
    .await;
    assert_eq!(ids(&answer), ["spiffe://example.org/more", "spiffe://example.org/user"]);
    let kept = answer
        .svids
        .iter()
        .find(|svid| svid.spiffe_id.ends_with("/user"))
        .unwrap();
    assert_eq!(mayfly_tests::caller::svid(kept).serial().to_string(), serial(&first));
    eventually("a new workload to be served", RECOVERY, async || {
        other.workload(&agent.socket()).fetch().await.ok()
    })
    .await;
    let back = begun.elapsed();
    lower_descriptors(pid, None);
    seen(
        "agent almost without file descriptors (60 connections that say nothing)",
        &format!(
            "new connections are refused and the log says so; an open stream is told of a change after {told:.1?}; the others \
             gone: all served after {back:.1?}"
        ),
    );
}
