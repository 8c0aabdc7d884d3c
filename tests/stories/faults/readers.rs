//! Those who stop reading: an agent its watch stream, a workload its stream of SVIDs.

use std::time::{Duration, Instant};

use mayfly_proto::mayfly::agent::watch_client::WatchClient;
use mayfly_proto::mayfly::agent::{Hello, WatchRequest, WatchResponse, watch_request};
use mayfly_proto::spire::server::entry::BatchCreateEntryRequest;
use mayfly_tests::caller::ids;
use mayfly_tests::faults::{resident, seen};
use mayfly_tests::{Admin, Agent, Caller, EntrySpec, Lane, Millis, Server, ServerOptions, attest, effort};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::{RECOVERY, assert_logged, register};

const USER: u32 = 41_001;
const IDLE: u32 = 41_002;
/// What a daemon may grow by while nobody reads: far below what it was told to send.
const BOUND: u64 = 48 << 20;

/// A watch stream without an agent, and the way to answer on it.
pub(super) async fn watch(
    channel: Channel,
) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), tonic::Status> {
    let (answers, outgoing) = mpsc::channel(2);
    let hello = watch_request::Body::Hello(Hello::default());
    // There is room for two, and this is the first.
    let _ = answers.try_send(WatchRequest { body: Some(hello) });
    let stream = WatchClient::new(channel).watch(ReceiverStream::new(outgoing)).await?;
    Ok((answers, stream.into_inner()))
}

/// How long a change takes to the workload, some times over.
async fn change_times(server: &Server, agent: &Agent, caller: &mut Caller, path: &str) -> Millis {
    let (admin, selector) = (server.admin(), format!("unix:uid:{USER}"));
    let (_, mut stream) = caller.workload(&agent.socket()).first().await.unwrap();
    let mut times = Millis::default();
    for nth in 0..effort(20, 100) {
        let begun = Instant::now();
        let spec = EntrySpec::new(&format!("/{path}/{nth}"), agent.id(), &[&selector]);
        let entry = admin.create(&spec).await;
        let id = format!("spiffe://example.org/{path}/{nth}");
        while !ids(&stream.next().await.expect("the stream stays")).contains(&id) {}
        times.push(begun.elapsed());
        admin.delete(&entry).await;
        while ids(&stream.next().await.expect("the stream stays")).contains(&id) {}
    }
    times
}

/// Registers workloads with long names below `parent`.
async fn create_large(admin: &Admin, parent: &str, path: &str, count: usize) {
    let wire = |nth: usize| {
        let mut spec = EntrySpec::new(&format!("/{path}/{nth}"), parent, &["unix:uid:41009"]);
        spec.dns_names = (0..8)
            .map(|name| format!("{name}.{}.example.org", "x".repeat(50)))
            .collect();
        spec.to_wire()
    };
    let all: Vec<_> = (0..count).map(wire).collect();
    for batch in all.chunks(500) {
        let request = BatchCreateEntryRequest {
            entries: batch.to_vec(),
            output_mask: None,
        };
        admin.entries().batch_create_entry(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_stop_reading_cost_the_server_little_and_others_nothing() {
    let _lane = Lane::alone();
    let stalled: usize = effort(20, 50);
    let entries: usize = effort(1_000, 2_000);
    let server = Server::start_with(ServerOptions {
        sections: "[watch]\nack_timeout = \"5s\"\n[limits]\nattestation_burst = 100\n".into(),
        ..Default::default()
    })
    .await;
    let agent = Agent::join(&server).await;
    register(&server, &agent, "/user", USER, 3_600).await;
    let mut user = Caller::spawn(USER);
    let admin = server.admin();
    let bundle = admin.bundle().await;
    let mut parents = vec![];
    for _ in 0..stalled {
        let channel = attest::channel(server.port(), &bundle, None);
        let joined = attest::join(channel, &admin.token().await).await.unwrap();
        create_large(&admin, joined.svid.spiffe_id().as_str(), "first", entries).await;
        parents.push(joined);
    }
    let before = change_times(&server, &agent, &mut user, "before").await;
    let state = resident(server.daemon.pid());

    // Each has far more to be told than fits into a connection's window, and nobody takes it; then there is more.
    let mut readers = vec![];
    for joined in &parents {
        let channel = attest::channel(server.port(), &bundle, Some(joined));
        readers.push(watch(channel).await.unwrap());
        create_large(&admin, joined.svid.spiffe_id().as_str(), "second", 10).await;
    }
    let during = change_times(&server, &agent, &mut user, "during").await;
    let (mut reasons, begun) = (vec![], Instant::now());
    for (_answers, stream) in &mut readers {
        // It reads again, when it is too late.
        let end = loop {
            match tokio::time::timeout(RECOVERY, stream.message())
                .await
                .expect("the stream ends")
            {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => break status,
            }
        };
        assert_ne!(end.code(), Code::PermissionDenied, "{end}");
        reasons.push(end.message().to_owned());
    }
    let ended = begun.elapsed();
    reasons.dedup();
    assert_logged(&server.daemon.log(), "agent's watch ends");
    let after = resident(server.daemon.pid());
    let grown = after.saturating_sub(state);
    println!("ended {ended:?} later: {reasons:?}");
    println!("change → SVID before: {before}; with {stalled} who do not read: {during}");
    assert!(grown < BOUND, "grew by {} MiB", grown >> 20);
    assert!(
        during.quantile(0.5) < before.quantile(0.5) * 3 + Duration::from_millis(20),
        "{before}; {during}"
    );
    seen(
        &format!("{stalled} agents stop reading their watch stream, {entries} entries each"),
        &format!(
            "server of {} entries holds {} MiB before, {} MiB more for those who do not read; ended with {reasons:?}; \
             change → SVID of others p50 {:.1?} before, {:.1?} meanwhile",
            stalled * entries,
            state >> 20,
            grown >> 20,
            before.quantile(0.5),
            during.quantile(0.5)
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_stops_reading_costs_the_agent_little_and_others_nothing() {
    let _lane = Lane::alone();
    let changes: usize = effort(100, 1_000);
    let server = Server::start().await;
    let agent = Agent::join(&server).await;
    register(&server, &agent, "/user", USER, 3_600).await;
    let idle_selector = format!("unix:uid:{IDLE}");
    for nth in 0..30 {
        register(&server, &agent, &format!("/idle/{nth}"), IDLE, 3_600).await;
    }
    let (mut user, mut idle) = (Caller::spawn(USER), Caller::spawn(IDLE));
    let before = change_times(&server, &agent, &mut user, "before").await;
    let mut streams = vec![];
    for _ in 0..10 {
        streams.push(idle.workload(&agent.socket()).first().await.unwrap());
    }
    let base = resident(agent.daemon.pid());
    // Each changes what the ten streams have to be told, some 40 KiB a time.
    for nth in 0..changes / 2 {
        let spec = EntrySpec::new(&format!("/change/{nth}"), agent.id(), &[&idle_selector]);
        let entry = server.admin().create(&spec).await;
        server.admin().delete(&entry).await;
    }
    let during = change_times(&server, &agent, &mut user, "during").await;
    let grown = resident(agent.daemon.pid()).saturating_sub(base);
    println!("change → SVID before: {before}; with 10 streams that nobody reads: {during}");
    assert!(grown < BOUND, "grew by {} MiB", grown >> 20);
    assert!(
        during.quantile(0.5) < before.quantile(0.5) * 3 + Duration::from_millis(20),
        "{before}; {during}"
    );
    // Whoever reads again is told how things stand, not all that was between.
    let last = "spiffe://example.org/last";
    register(&server, &agent, "/last", IDLE, 3_600).await;
    let (mut messages, (_, stream)) = (0, &mut streams[0]);
    while !ids(&stream.next().await.expect("the stream stays")).contains(&last.to_owned()) {
        messages += 1;
    }
    assert!(messages < changes / 2, "{messages} messages for {changes} changes");
    seen(
        &format!("a workload stops reading 10 streams, {changes} changes"),
        &format!(
            "agent holds {} MiB more; when it reads again {messages} old messages come, then the present state; change → \
             SVID of others p50 {:.1?} before, {:.1?} meanwhile",
            grown >> 20,
            before.quantile(0.5),
            during.quantile(0.5)
        ),
    );
}
