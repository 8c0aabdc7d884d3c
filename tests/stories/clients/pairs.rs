//! Mutual TLS between all languages, in both roles, while everything below them is renewed and restarted.

use std::time::{Duration, Instant};

use mayfly_tests::{Agent, EntrySpec, Lane, Library, Program, Server, ServerOptions, TRUST_DOMAIN, effort, eventually};
use serde_json::{Value, json};

use super::page;

const FIRST_UID: u32 = 44_000;
/// For an SVID: renewed at half of its life, and a client may wait before it comes back to an agent that was away.
const PATIENCE: Duration = Duration::from_secs(120);

/// A language's program.
struct Peer {
    library: Library,
    program: Program,
    port: u64,
}

// Promise 2; WEP-03, WEP-05, WEP-09, WAPI-09, WAPI-12, IOP-01, IOP-06, IOP-15, IOP-20
#[tokio::test(flavor = "multi_thread")]
async fn every_language_talks_to_every_other_through_rotations_and_restarts() {
    let _lane = Lane::shared();
    let (rotations, restarts) = effort((4, 1), (50, 10));
    // Several authorities and many SVIDs within the story, and half a life that outlasts a restart and a client's wait.
    let sections = "[authority]\nttl = \"75s\"\n[svid]\nx509_svid_ttl = \"24s\"\nagent_ttl = \"24s\"\n".into();
    let mut server = Server::start_with(ServerOptions {
        sections,
        ..Default::default()
    })
    .await;
    let mut agent = Agent::join(&server).await;
    let mut peers = start(&server, &agent).await;
    let ports: Vec<u64> = peers.iter().map(|peer| peer.port).collect();
    for peer in &mut peers {
        for port in &ports {
            peer.program.tell(json!({ "dial": port })).await;
        }
    }

    let begun = Instant::now();
    let (mut agent_restarts, mut server_restarts) = (0, 0);
    for rotation in 1..=rotations {
        // Each waits for its own; who was ahead has it already.
        for peer in &mut peers {
            peer.program.expect("svid", PATIENCE).await;
        }
        println!("{:?}: everybody has had {rotation} SVIDs", begun.elapsed());
        for peer in &peers {
            let failed = peer.program.seen("failed");
            assert!(failed.is_empty(), "{}: {failed:?}", peer.library.language());
        }
        // In turn, so that neither is restarted while clients still come back from the other.
        if rotation * 2 * restarts / rotations > agent_restarts + server_restarts {
            if server_restarts == agent_restarts {
                server.restart().await;
                server_restarts += 1;
            } else {
                agent.restart().await;
                agent_restarts += 1;
            }
        }
    }
    assert_eq!((agent_restarts, server_restarts), (restarts, restarts));
    let authorities = eventually("the next authority to sign", PATIENCE, async || {
        let authorities = server.daemon.log().matches("authority active").count();
        // One of each class signs from the beginning.
        (authorities > 3).then_some(authorities)
    })
    .await;
    // What that and the last restart led to; what was under way comes first.
    for peer in &mut peers {
        for _ in 0..2 {
            peer.program.expect("svid", PATIENCE).await;
        }
    }

    let reports = settle(&mut peers).await;
    let mut seen = vec![];
    for (peer, report) in peers.iter().zip(&reports) {
        let svids = peer.program.seen("svid").len();
        println!("{}: {svids} SVIDs, {report}", peer.library.language());
        for failed in peer.program.seen("failed") {
            println!("{}: {failed}", peer.library.language());
        }
    }
    for (peer, report) in peers.iter().zip(&reports) {
        let svids = peer.program.seen("svid").len();
        assert_eq!(
            (&report["dial_failed"], &report["serve_failed"]),
            (&json!(0), &json!(0)),
            "{}",
            peer.library.language()
        );
        assert!(svids > rotations, "{}", peer.library.language());
        for other in &peers {
            let talks = talks(report, other.port);
            assert!(
                talks >= 10,
                "{} dialed {} {talks} times",
                peer.library.language(),
                other.library.language()
            );
        }
        seen.push(json!({"language": peer.library.language(), "svids": svids, "report": report}));
    }
    // Both ends count the same conversations.
    for (other, its) in peers.iter().zip(&reports) {
        let dialed: u64 = reports.iter().map(|report| talks(report, other.port)).sum();
        assert_eq!(its["served"].as_u64(), Some(dialed), "{}", other.library.language());
    }
    let handshakes: u64 = reports.iter().filter_map(|report| report["dialed"].as_u64()).sum();
    println!(
        "{rotations} rotations, {agent_restarts} restarts of the agent, {server_restarts} of the server, \
         {authorities} authorities: {handshakes} handshakes in {:?}, none failed",
        begun.elapsed()
    );
    page::keep("pairs", &json!(seen));
    page::compare("pairs", &page::pairs(&Library::PEERS));
}

async fn start(server: &Server, agent: &Agent) -> Vec<Peer> {
    let id = |library: Library| format!("spiffe://{TRUST_DOMAIN}/{}", library.language());
    let ids = Library::PEERS.map(id).join(",");
    let mut peers = vec![];
    for (uid, library) in (FIRST_UID..).zip(Library::PEERS) {
        let path = format!("/{}", library.language());
        server
            .admin()
            .create(&EntrySpec::new(&path, agent.id(), &[&format!("unix:uid:{uid}")]))
            .await;
        let (socket, ids) = (agent.socket(), ids.clone());
        // Building a program may take its time, and nothing else can be done meanwhile.
        let program = tokio::task::spawn_blocking(move || library.peer(&socket, uid, &ids))
            .await
            .unwrap();
        peers.push(Peer {
            library,
            program,
            port: 0,
        });
    }
    for peer in &mut peers {
        let listening = peer.program.expect("listening", PATIENCE).await;
        peer.port = listening["port"].as_u64().expect("a port");
    }
    peers
}

/// Lets what is under way end; gives each peer's last report.
async fn settle(peers: &mut [Peer]) -> Vec<Value> {
    for peer in peers.iter_mut() {
        peer.program.tell(json!({"pause": true})).await;
    }
    let mut last = vec![];
    loop {
        let mut reports = vec![];
        for peer in peers.iter_mut() {
            reports.push(peer.program.ask(json!({"report": true}), &["report"], PATIENCE).await);
        }
        if reports == last {
            return reports;
        }
        last = reports;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// How often the one with this report has talked to who serves at `port`.
fn talks(report: &Value, port: u64) -> u64 {
    report["ports"][port.to_string()].as_u64().unwrap_or_default()
}
