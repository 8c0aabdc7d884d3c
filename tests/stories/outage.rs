//! The server is away: what goes on, what waits, what is said, and how it all comes back by itself.

use std::time::{Duration, Instant};

use mayfly_tests::caller::{ids, svid};
use mayfly_tests::{Agent, AgentOptions, Caller, EntrySpec, Lane, Proxy, Server, ServerOptions, eventually};
use tonic::Code;

const USER: u32 = 41_001;
const ANOTHER: u32 = 41_002;

// Promise 6: workloads unaffected, joins resume ≤ 2 s after start
#[tokio::test(flavor = "multi_thread")]
async fn cached_svids_are_served_without_the_server_and_renewal_resumes_by_itself() {
    let _lane = Lane::shared();
    let sections = "[svid]\nx509_svid_ttl = \"16s\"\n".into();
    let mut server = Server::start_with(ServerOptions {
        sections,
        ..Default::default()
    })
    .await;
    let agent = Agent::join(&server).await;
    server
        .admin()
        .create(&EntrySpec::new("/web", agent.id(), &[&format!("unix:uid:{USER}")]))
        .await;
    server
        .admin()
        .create(&EntrySpec::new("/db", agent.id(), &[&format!("unix:uid:{ANOTHER}")]).ttl(3600))
        .await;
    let (mut web, mut db) = (Caller::spawn(USER), Caller::spawn(ANOTHER));
    let (first, mut stream) = web.workload(&agent.socket()).first().await.unwrap();
    let _db_stream = db.workload(&agent.socket()).first().await.unwrap();
    let serial = svid(&first.svids[0]).serial().to_string();

    server.daemon.kill();
    // Callers of before and new ones, of both users.
    assert_eq!(
        ids(&web.workload(&agent.socket()).fetch().await.unwrap()),
        ["spiffe://example.org/web"]
    );
    for _ in 0..3 {
        let mut newcomer = Caller::spawn(ANOTHER);
        let answer = newcomer.workload(&agent.socket()).fetch().await.unwrap();
        assert_eq!(ids(&answer), ["spiffe://example.org/db"]);
    }
    // Past the renewal point, half of 16 s with some jitter: there is nobody to renew, and nothing is taken away.
    assert!(
        stream.is_quiet_for(Duration::from_secs(11)).await,
        "the server is away, so nothing can be new"
    );

    server.daemon.start();
    let ready = server.wait_ready().await;
    let begun = Instant::now();
    let renewed = loop {
        let message = stream.next().await.unwrap();
        let svid = svid(&message.svids[0]);
        if svid.serial().to_string() != serial {
            break svid;
        }
    };
    println!("server ready after {ready:?}, renewed {:?} later", begun.elapsed());
    assert_eq!(renewed.spiffe_id().as_str(), "spiffe://example.org/web");
    assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
}

// Promise 6; WEP-25, WAPI-30
#[tokio::test(flavor = "multi_thread")]
async fn an_svid_that_runs_out_while_the_server_is_away_ends_with_unavailable_and_comes_back() {
    let _lane = Lane::shared();
    let sections = "[svid]\nx509_svid_ttl = \"8s\"\n".into();
    let mut server = Server::start_with(ServerOptions {
        sections,
        ..Default::default()
    })
    .await;
    let agent = Agent::join(&server).await;
    server
        .admin()
        .create(&EntrySpec::new("/web", agent.id(), &[&format!("unix:uid:{USER}")]))
        .await;
    let mut web = Caller::spawn(USER);
    let (_, mut stream) = web.workload(&agent.socket()).first().await.unwrap();

    server.daemon.kill();
    let ended = loop {
        if let Err(status) = stream.next().await {
            break status;
        }
    };
    println!("an open stream is told: {ended}");
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    let refused = web.workload(&agent.socket()).fetch().await.unwrap_err();
    println!("a new caller is told: {refused}");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    server.daemon.start();
    server.wait_ready().await;
    eventually("the identity to be back", Duration::from_secs(20), async || {
        web.workload(&agent.socket()).fetch().await.ok()
    })
    .await;
}

// Promise 6; WEP-25
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_without_its_server_says_so_and_recovers_without_help() {
    let _lane = Lane::shared();
    let mut server = Server::start().await;
    let mut agent = Agent::join(&server).await;
    server
        .admin()
        .create(&EntrySpec::new("/web", agent.id(), &[&format!("unix:uid:{USER}")]))
        .await;
    let mut web = Caller::spawn(USER);
    web.workload(&agent.socket()).fetch().await.unwrap();

    agent.daemon.stop();
    server.daemon.stop();
    agent.daemon.start();
    let refused = eventually("an answer of the agent", Duration::from_secs(20), async || {
        agent.daemon.check_alive();
        if std::os::unix::net::UnixStream::connect(agent.socket()).is_err() {
            return None;
        }
        Some(web.workload(&agent.socket()).fetch().await.unwrap_err())
    })
    .await;
    println!("a caller is told: {refused}");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let says_why = refused.message().contains("server");
    assert!(
        says_why,
        "the message does not say what is missing: {}",
        refused.message()
    );

    server.daemon.start();
    server.wait_ready().await;
    let begun = Instant::now();
    let answer = eventually("the identity to be back", Duration::from_secs(30), async || {
        web.workload(&agent.socket()).fetch().await.ok()
    })
    .await;
    println!("back {:?} after the server was ready", begun.elapsed());
    assert_eq!(ids(&answer), ["spiffe://example.org/web"]);
    // The same agent: it has kept its key and SVID.
    let agents = server.admin().list_agents().await;
    assert_eq!(agents.len(), 1, "{agents:?}");
}

// Promise 6: the network is away, not the server; and what has changed meanwhile arrives.
#[tokio::test(flavor = "multi_thread")]
async fn changes_made_while_the_line_was_cut_arrive_when_it_is_mended() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let agent = Agent::join_with(
        &server,
        AgentOptions {
            port: Some(proxy.port()),
            ..Default::default()
        },
    )
    .await;
    let admin = server.admin();
    let selector = format!("unix:uid:{USER}");
    let old = admin.create(&EntrySpec::new("/old", agent.id(), &[&selector])).await;
    let mut web = Caller::spawn(USER);
    let (first, mut stream) = web.workload(&agent.socket()).first().await.unwrap();
    assert_eq!(ids(&first), ["spiffe://example.org/old"]);

    proxy.cut();
    admin.delete(&old).await;
    admin.create(&EntrySpec::new("/new", agent.id(), &[&selector])).await;
    assert!(stream.is_quiet_for(Duration::from_secs(2)).await);
    proxy.mend();
    let begun = Instant::now();
    loop {
        if ids(&stream.next().await.unwrap()) == ["spiffe://example.org/new"] {
            break;
        }
    }
    println!("in step again {:?} after the line was mended", begun.elapsed());
    assert!(begun.elapsed() <= Duration::from_secs(15));
}
