//! The network between agent and server: slow and lossy, then cut.

use std::time::{Duration, Instant};

use mayfly_tests::caller::ids;
use mayfly_tests::faults::{Network, seen};
use mayfly_tests::{Agent, Caller, EntrySpec, Lane, Millis, Server, ServerOptions, effort, eventually};

use super::{RECOVERY, assert_logged, register, serial, served_anew};

const USER: u32 = 41_001;
const SHORT: u32 = 41_002;

/// A server and an agent on a network that is good so far.
async fn on(network: &Network, sections: &str) -> (Server, Agent) {
    let mut server = Server::prepare(&ServerOptions {
        sections: sections.into(),
        ..Default::default()
    });
    network.hold(&mut server.daemon);
    server.daemon.start();
    server.wait_ready().await;
    let mut agent = Agent::prepare(&server, Default::default()).await;
    network.hold(&mut agent.daemon);
    (server, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_percent_loss_and_200_ms_delay_agents_join_changes_arrive_and_renewal_works() {
    let _lane = Lane::shared();
    let changes: usize = effort(15, 150);
    let mut network = Network::new();
    let (server, mut agent) = on(&network, "[svid]\nagent_ttl = \"20s\"\nx509_svid_ttl = \"16s\"\n").await;
    network.delay(Duration::from_millis(200));
    network.lose(0.01);
    let admin = server.admin();

    let begun = Instant::now();
    agent.start_joined(&server).await;
    let joined = begun.elapsed();
    register(&server, &agent, "/user", USER, 3_600).await;
    register(&server, &agent, "/short", SHORT, 0).await;
    let (mut user, mut short) = (Caller::spawn(USER), Caller::spawn(SHORT));
    let (_, mut stream) = eventually("the first SVID", RECOVERY, async || {
        user.workload(&agent.socket()).first().await.ok()
    })
    .await;
    let first = eventually("the short SVID", RECOVERY, async || {
        short.workload(&agent.socket()).fetch().await.ok()
    })
    .await;

    let selector = format!("unix:uid:{USER}");
    let (mut creates, mut deletes) = (Millis::default(), Millis::default());
    for nth in 0..changes {
        let spec = EntrySpec::new(&format!("/more/{nth}"), agent.id(), &[&selector]);
        let path = format!("spiffe://example.org/more/{nth}");
        let entry = admin.create(&spec).await;
        let begun = Instant::now();
        while !ids(&stream.next().await.expect("the stream stays")).contains(&path) {}
        creates.push(begun.elapsed());
        admin.delete(&entry).await;
        let begun = Instant::now();
        while ids(&stream.next().await.expect("the stream stays")).contains(&path) {}
        deletes.push(begun.elapsed());
    }
    // The agent's own SVID and the short one were renewed meanwhile, or are now.
    let (_, _) = served_anew(&mut short, &agent, &serial(&first)).await;
    agent.daemon.wait_log("agent SVID renewed", RECOVERY).await;
    let begun = Instant::now();
    agent.restart().await;
    let (_, _) = served_anew(&mut short, &agent, "").await;
    let restarted = begun.elapsed();
    let (dropped, all) = network.dropped();
    println!("{changes} changes; {dropped} of {all} packets lost");
    assert!(dropped > 0, "nothing was lost, so nothing was shown");
    // One way out and back for each step, and now and then a packet again.
    assert!(
        deletes.quantile(0.5) >= Duration::from_millis(200),
        "the delay is not there: {deletes}"
    );
    assert!(joined < Duration::from_secs(30), "{joined:?}");
    seen(
        "1 % of packets lost and each 200 ms late, both ways",
        &format!(
            "{dropped} of {all} packets lost; joined after {joined:.1?}; create → SVID {creates}; delete → withdrawn \
             {deletes}; own and workload's SVIDs renewed; restart → served {restarted:.1?}"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_loses_everything_is_noticed_and_taken_up_again() {
    let _lane = Lane::shared();
    let network = Network::new();
    let (server, mut agent) = on(&network, "[watch]\nbeacon_interval = \"1s\"\n").await;
    agent.start_joined(&server).await;
    let old = register(&server, &agent, "/old", USER, 3_600).await;
    let mut user = Caller::spawn(USER);
    let (first, mut stream) = user.workload(&agent.socket()).first().await.unwrap();

    // The first beacon says how often the next ones come; without it the agent would wait for half a minute.
    tokio::time::sleep(Duration::from_secs(2)).await;
    network.cut();
    let begun = Instant::now();
    register(&server, &agent, "/new", USER, 3_600).await;
    server.admin().delete(&old).await;
    agent.daemon.wait_log("no sign of life", RECOVERY).await;
    let noticed = begun.elapsed();
    assert_eq!(
        serial(&user.workload(&agent.socket()).fetch().await.unwrap()),
        serial(&first)
    );
    // Long enough that connections are given up, not only slow.
    assert!(stream.is_quiet_for(Duration::from_secs(effort(3, 45))).await);

    network.mend();
    let begun = Instant::now();
    while ids(&stream.next().await.expect("the stream stays")) != ["spiffe://example.org/new"] {}
    let back = begun.elapsed();
    assert_logged(&agent.daemon.log(), "connected to the server");
    seen(
        "link cut without a word, then mended",
        &format!("noticed after {noticed:.1?}; cached SVIDs served; in step again {back:.1?} after it was mended"),
    );
}
