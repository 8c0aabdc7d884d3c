//! The Workload API to the letter, seen by other implementations and by hand-made frames.

use std::time::{Duration, Instant};

use mayfly_tests::caller::ids;
use mayfly_tests::frames::{
    self, CONTINUATION, Connection, END_HEADERS, END_STREAM, Outcome, PREFACE, authority, call, field, frame, integer,
};
use mayfly_tests::program::endpoint;
use mayfly_tests::{Agent, Caller, EntrySpec, Lane, Program, Server};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinSet;
use tonic::Code;

use crate::conformance::passed;

const USER: u32 = 41_001;

/// A server, and an agent with an entry for the user.
async fn scene() -> (Server, Agent) {
    let server = Server::start().await;
    let agent = Agent::join(&server).await;
    server
        .admin()
        .create(&EntrySpec::new("/web", agent.id(), &[&format!("unix:uid:{USER}")]))
        .await;
    (server, agent)
}

// Promise 2; sections SVID, XSVID, XINH, WEP, WAPI, WAX and IOP: each line that is printed names its rows
#[tokio::test(flavor = "multi_thread")]
async fn grpc_core_and_openssl_agree_with_every_row() {
    let _lane = Lane::shared();
    let (_server, agent) = scene().await;
    let socket = agent.socket().display().to_string();
    let mut checks = Program::python(
        "workload_api.py",
        &[&socket, &USER.to_string(), "spiffe://example.org/web"],
    );
    checks.expect("done", Duration::from_secs(120)).await;
    let all = checks.seen("check");
    passed("workload_api.py", &all);
    assert!(all.len() > 80);
}

/// A second HPACK string: Huffman, as Go and Netty may send (`www.example.com`, RFC 7541 §C.4.1).
const HUFFMAN: [u8; 13] = [
    0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
];

// IOP-01, WEP-08
#[tokio::test(flavor = "multi_thread")]
async fn any_authority_reaches_the_service_and_hostile_blocks_harm_nobody() {
    let _lane = Lane::shared();
    let (_server, agent) = scene().await;
    let mut caller = Caller::spawn(USER);
    let path = "/SpiffeWorkloadAPI/FetchX509SVID";
    let header = field("workload.spiffe.io", b"true");
    let huffman = [vec![0x01], HUFFMAN.to_vec()].concat();
    let long = authority(&[b'%'; 4000]);
    let harmless: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("localhost", Some(authority(b"localhost"))),
        (
            "a path, percent-encoded, as C-core",
            Some(authority(b"%2Ftmp%2Fa.sock")),
        ),
        ("a path, as grpc-java", Some(authority(b"/tmp/a.sock"))),
        ("absent", None),
        ("empty", Some(authority(b""))),
        ("Huffman", Some(huffman)),
        ("with a new name", Some(field(":authority", b"/tmp/a b.sock"))),
        (
            "indexed incrementally",
            Some([vec![0x41], frames::string(b"/tmp/a.sock")].concat()),
        ),
        (
            "never indexed",
            Some([vec![0x11], frames::string(b"/tmp/a.sock")].concat()),
        ),
        ("not text", Some(authority(&[0xff, 0xfe, 0x80]))),
        ("user and port", Some(authority(b"user@host:99999"))),
        ("4000 octets", Some(long)),
    ];
    for (case, value) in harmless {
        let block = call(path, value.as_deref(), &header);
        let body = frame(frames::DATA, END_STREAM, 1, &frames::EMPTY_MESSAGE);
        let whole = [
            PREFACE.to_vec(),
            frame(frames::HEADERS, END_HEADERS, 1, &block),
            body.clone(),
        ]
        .concat();
        let outcome = send(&mut caller, &agent, whole).await;
        assert!(matches!(outcome, Outcome::Message(_)), "{case}: {outcome:?}");

        // The same block in pieces of one octet, and one connection for all that is left over.
        let mut pieces = PREFACE.to_vec();
        for (n, octet) in block.iter().enumerate().take(40) {
            let kind = if n == 0 { frames::HEADERS } else { CONTINUATION };
            pieces.extend(frame(kind, 0, 1, &[*octet]));
        }
        pieces.extend(frame(CONTINUATION, END_HEADERS, 1, &block[40.min(block.len())..]));
        pieces.extend(body);
        let outcome = send(&mut caller, &agent, pieces).await;
        // h2 may find that many frames too much; then it must say so and not hang.
        let fair = matches!(outcome, Outcome::Message(_) | Outcome::GoAway(_) | Outcome::Closed);
        assert!(fair, "{case}, in pieces: {outcome:?}");
    }

    let hostile: Vec<(&str, Vec<u8>)> = vec![
        (
            "a string longer than its block",
            [vec![0x83, 0x86, 0x01], integer(0, 7, 1 << 20), vec![b'a'; 10]].concat(),
        ),
        ("an integer without end", [vec![0x83, 0x01], vec![0xff; 60]].concat()),
        ("an index that is not there", vec![0xff, 0x80, 0x80, 0x80, 0x01]),
        ("index 0", vec![0x80]),
        ("Huffman padding that is none", vec![0x83, 0x86, 0x01, 0x81, 0x00]),
        (
            "a table of 4 GiB",
            [vec![0x83], integer(0x20, 5, u32::MAX as usize)].concat(),
        ),
        (
            "two authorities",
            [call(path, Some(&authority(b"/a")), &[]), authority(b"/b")].concat(),
        ),
        ("no path", [vec![0x83, 0x86], authority(b"/a"), header.clone()].concat()),
        (
            "upper-case name",
            call(path, None, &field("Workload.SPIFFE.io", b"true")),
        ),
        (
            "64 KiB of header",
            call(path, None, &field("x", &vec![b'a'; 65_000])[..16_000]),
        ),
    ];
    for (case, block) in hostile {
        let whole = [
            PREFACE.to_vec(),
            frame(frames::HEADERS, END_HEADERS | END_STREAM, 1, &block),
            frame(frames::DATA, END_STREAM, 1, &frames::EMPTY_MESSAGE),
        ]
        .concat();
        let outcome = send(&mut caller, &agent, whole).await;
        println!("{case}: {outcome:?}");
        assert!(
            !matches!(outcome, Outcome::Message(_) | Outcome::Silence),
            "{case}: {outcome:?}"
        );
    }
    let raw: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("TLS", [vec![22, 3, 1, 2, 0, 1], vec![0; 600]].concat()),
        ("noise", (0..=255).cycle().take(100_000).collect()),
        (
            "a frame of 16 MiB",
            [
                PREFACE.to_vec(),
                vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
                vec![0; 100_000],
            ]
            .concat(),
        ),
        (
            "CONTINUATION without end",
            [
                PREFACE.to_vec(),
                frame(frames::HEADERS, 0, 1, &[0x83]),
                frame(CONTINUATION, 0, 1, &vec![0x83; 16_000]).repeat(200),
            ]
            .concat(),
        ),
        (
            "a header block within another",
            [
                PREFACE.to_vec(),
                frame(frames::HEADERS, 0, 1, &[0x83]),
                frame(frames::HEADERS, 4, 3, &[0x83]),
            ]
            .concat(),
        ),
    ];
    for (case, octets) in raw {
        let outcome = send(&mut caller, &agent, octets).await;
        println!("{case}: {outcome:?}");
        assert!(
            matches!(
                outcome,
                Outcome::GoAway(_) | Outcome::Closed | Outcome::Reset(_) | Outcome::Http(_)
            ),
            "{case}: {outcome:?}"
        );
    }
    // A request of more than the largest message, and one that is cut short.
    let head = frame(frames::HEADERS, END_HEADERS, 1, &call(path, None, &header));
    let oversized = [vec![0], u32::to_be_bytes(100 << 20).to_vec(), vec![0; 1000]].concat();
    let whole = [PREFACE.to_vec(), head, frame(frames::DATA, END_STREAM, 1, &oversized)].concat();
    let outcome = send(&mut caller, &agent, whole).await;
    println!("a message of 100 MiB: {outcome:?}");
    assert!(matches!(outcome, Outcome::Status(code, _) if code != 0), "{outcome:?}");

    // After all this the agent serves as if nothing had been.
    assert_eq!(
        ids(&caller.workload(&agent.socket()).fetch().await.unwrap()),
        ["spiffe://example.org/web"]
    );
}

async fn send(caller: &mut Caller, agent: &Agent, octets: Vec<u8>) -> Outcome {
    let mut connection = Connection::new(caller.connect(&agent.socket()));
    tokio::task::spawn_blocking(move || {
        // The peer may have closed before all was sent; what it said is there all the same.
        connection.send(&octets);
        connection.outcome(1)
    })
    .await
    .unwrap()
}

// IOP-15, IOP-17, WAPI-30, WEP-25
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_open_streams_end_with_unavailable_when_the_agent_stops() {
    let _lane = Lane::shared();
    let (_server, mut agent) = scene().await;
    let mut caller = Caller::spawn(USER);
    let mut streams = JoinSet::new();
    for _ in 0..10 {
        let workload = caller.workload(&agent.socket());
        for _ in 0..10 {
            let (_, mut stream) = workload.first().await.unwrap();
            streams.spawn(async move {
                loop {
                    if let Err(status) = stream.next().await {
                        return status;
                    }
                }
            });
        }
    }
    let begun = Instant::now();
    agent.daemon.signal(Signal::SIGTERM);
    let mut codes = vec![];
    while let Some(status) = streams.join_next().await {
        codes.push(status.unwrap().code());
    }
    let ended = begun.elapsed();
    let status = agent.daemon.wait(Duration::from_secs(15));
    println!(
        "100 streams ended after {ended:?}, the agent after {:?}",
        begun.elapsed()
    );
    assert_eq!(codes, vec![Code::Unavailable; 100]);
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() <= Duration::from_secs(10), "the drain's deadline");
}

// IOP-15, IOP-20, WAPI-09: Unavailable is what every client comes back from
#[tokio::test(flavor = "multi_thread")]
async fn py_spiffe_is_back_after_a_stop_and_after_a_crash_of_the_agent() {
    let _lane = Lane::shared();
    let (_server, mut agent) = scene().await;
    let mut watcher = Program::python("reconnect.py", &[&endpoint(&agent.socket()), &USER.to_string()]);
    let patience = Duration::from_secs(60);
    let first = watcher.expect("svid", patience).await["serial"].clone();
    agent.restart().await;
    // The new agent has a new key, so a new SVID.
    let second = watcher.expect("svid", patience).await["serial"].clone();
    assert_ne!(first, second);
    agent.daemon.kill();
    agent.daemon.start();
    agent.wait_ready().await;
    let third = watcher.expect("svid", patience).await["serial"].clone();
    assert_ne!(second, third);
    assert_eq!(watcher.seen("final"), Vec::<&Value>::new());
}

// WAX-02, WAX-13, WAPI-10, WAPI-23, WAPI-26, IOP-31
#[tokio::test(flavor = "multi_thread")]
async fn several_identities_come_whole_in_a_stable_order_with_unique_hints() {
    let _lane = Lane::shared();
    let (server, agent) = scene().await;
    let admin = server.admin();
    let selector = format!("unix:uid:{USER}");
    for (path, hint) in [("/a", "internal"), ("/b", "exterior – öffentlich"), ("/c", "internal")] {
        let spec = EntrySpec {
            hint: hint.into(),
            ..EntrySpec::new(path, agent.id(), &[&selector])
        };
        admin.create(&spec).await;
    }
    let mut caller = Caller::spawn(USER);
    let workload = caller.workload(&agent.socket());
    let first = workload.fetch().await.unwrap();
    let told: Vec<(&str, &str)> = first
        .svids
        .iter()
        .map(|svid| (svid.spiffe_id.as_str(), svid.hint.as_str()))
        .collect();
    // The oldest entry is the default, and of one hint the oldest keeps it; within one second too.
    let wanted = [
        ("spiffe://example.org/web", ""),
        ("spiffe://example.org/a", "internal"),
        ("spiffe://example.org/b", "exterior – öffentlich"),
        ("spiffe://example.org/c", ""),
    ];
    assert_eq!(told, wanted);
    let order = |answer: &mayfly_proto::spiffe::workload::X509svidResponse| {
        answer
            .svids
            .iter()
            .map(|svid| svid.spiffe_id.clone())
            .collect::<Vec<_>>()
    };
    for _ in 0..5 {
        assert_eq!(
            order(&caller.workload(&agent.socket()).fetch().await.unwrap()),
            order(&first)
        );
    }
}
