//! Tasks and checkpoints over a real socket.

use mayfly_proto::mayfly::workload as task;
use mayfly_proto::mayfly::workload::checkpoint_client::CheckpointClient;
use mayfly_proto::mayfly::workload::enforce_request::Body;
use mayfly_proto::mayfly::workload::tasks_client::TasksClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::socket::{Served, proper, with_header};
use super::*;
use crate::news::Offer;

/// A consumer on its stream.
struct Kit {
    say: mpsc::Sender<task::EnforceRequest>,
    hear: tonic::Streaming<task::EnforceResponse>,
}

impl Kit {
    async fn connect(channel: Channel, checkpoint: &str) -> Result<Self, Status> {
        Self::connect_as(channel, checkpoint, "").await
    }

    async fn connect_as(channel: Channel, checkpoint: &str, spiffe_id: &str) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(8);
        let hello = task::EnforceHello {
            checkpoint: checkpoint.into(),
            version: "test".into(),
            spiffe_id: spiffe_id.into(),
            ..task::EnforceHello::default()
        };
        let first = task::EnforceRequest {
            body: Some(Body::Hello(hello)),
        };
        say.send(first).await.unwrap();
        let mut client = CheckpointClient::new(channel);
        let hear = client.enforce(proper(ReceiverStream::new(said))).await?.into_inner();
        Ok(Self { say, hear })
    }

    async fn hears(&mut self) -> task::EnforceResponse {
        timeout(Duration::from_secs(20), self.hear.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    async fn acknowledges(&self, epoch: u64, connections_ended: u32, connections_left: u32) {
        let ack = task::EnforceAck {
            epoch,
            connections_ended,
            connections_left,
        };
        let body = Some(Body::Ack(ack));
        self.say.send(task::EnforceRequest { body }).await.unwrap();
    }
}

fn revoked(epoch: u64, window: &str) -> task::Revoked {
    task::Revoked {
        window_id: window.into(),
        serials: vec![epoch.to_be_bytes().to_vec()],
        not_after: 1_760_000_000,
        epoch,
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_consumer_gets_everything_then_what_is_new_and_signs_of_life() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    served.news.revoke(false, vec![revoked(1, "w1"), revoked(2, "w2")], 3);
    let mut kit = Kit::connect(served.channel().await, "db").await.unwrap();
    let first = kit.hears().await;
    assert!(first.snapshot);
    assert_eq!(
        (first.epoch, first.revoked.len(), first.lease_ms),
        (3, 2, 0),
        "no word of the server yet"
    );
    served.news.heard_beacon(1_750_000_000_000, 2_500, 0);
    let beacon = kit.hears().await;
    assert_eq!((beacon.snapshot, beacon.epoch, beacon.revoked.len()), (false, 3, 0));
    assert!((9_000..=10_000).contains(&beacon.lease_ms), "{}", beacon.lease_ms);
    served.news.revoke(false, vec![revoked(4, "w3")], 4);
    let news = kit.hears().await;
    assert_eq!((news.snapshot, news.epoch), (false, 4));
    assert_eq!(news.revoked, [revoked(4, "w3")]);
    assert!(news.lease_ms > 0);
    assert_eq!(served.task_metrics.consumers.get(), 1);
}

#[tokio::test]
async fn a_lease_that_runs_out_is_said_once_and_ends_when_the_server_is_heard() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    served.news.heard_beacon(1_750_000_000_000, 125, 0);
    let mut kit = Kit::connect(served.channel().await, "db").await.unwrap();
    let first = kit.hears().await;
    assert!(first.snapshot && (1..=500).contains(&first.lease_ms), "{first:?}");
    assert_eq!(kit.hears().await.lease_ms, 0);
    served.news.heard_beacon(1_750_000_000_000, 2_500, 0);
    assert!(kit.hears().await.lease_ms > 9_000);
}

#[tokio::test]
async fn acknowledgements_are_summed_up_by_name() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    served.news.revoke(false, vec![revoked(5, "w")], 5);
    let mut kits = vec![];
    for name in ["db", "db", "web"] {
        let mut kit = Kit::connect(served.channel().await, name).await.unwrap();
        assert!(kit.hears().await.snapshot);
        kits.push(kit);
    }
    let enforcers = Arc::clone(served.news.enforcers());
    let all = |enforcers: &crate::news::Enforcers| {
        let report = enforcers.report().checkpoints.into_iter();
        report
            .map(|sum| (sum.checkpoint, sum.consumers, sum.epoch))
            .collect::<Vec<_>>()
    };
    eventually("three consumers", || enforcers.len() == 3).await;
    assert_eq!(all(&enforcers), [("db".into(), 2, 0), ("web".into(), 1, 0)]);
    kits[0].acknowledges(5, 2, 0).await;
    // More than it was told: that does not count.
    kits[2].acknowledges(1_000, 0, 1).await;
    eventually("web at 5", || all(&enforcers)[1] == ("web".into(), 1, 5)).await;
    assert_eq!(all(&enforcers)[0], ("db".into(), 2, 0), "the slowest counts");
    kits[1].acknowledges(5, 0, 0).await;
    eventually("db at 5", || all(&enforcers)[0] == ("db".into(), 2, 5)).await;
    drop(kits.remove(0));
    eventually("one fewer", || all(&enforcers)[0].1 == 1).await;
    kits.clear();
    eventually("nobody", || enforcers.is_empty()).await;
    assert_eq!(served.task_metrics.consumers.get(), 0);
}

#[tokio::test]
async fn a_consumer_has_an_identity_a_name_and_the_header() {
    let served = Served::start(vec![entry("other", &["s:2"])]);
    let refused = Kit::connect(served.channel().await, "db").await.err().unwrap();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    served.stage.put(entry("a", &["s:1"]));
    for name in ["", "Db", "a b", &"x".repeat(129)] {
        let refused = Kit::connect(served.channel().await, name).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}");
    }
    let mut client = CheckpointClient::new(served.channel().await);
    let nothing = tokio_stream::empty::<task::EnforceRequest>();
    let refused = client.enforce(with_header(nothing, &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = client.enforce(proper(tokio_stream::empty())).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "the first message is the hello")
    );
}

#[tokio::test]
async fn a_consumer_registers_as_who_it_is_and_only_while_it_is() {
    let served = Served::start(vec![
        entry("a", &["s:1"]),
        entry("b", &["s:1"]),
        entry("other", &["s:2"]),
    ]);
    let as_id = async |id: &str| Kit::connect_as(served.channel().await, "db", id).await;
    for not_its_own in ["spiffe://td/other", "spiffe://td/none", "b"] {
        let refused = as_id(not_its_own).await.err().unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied, "{not_its_own}");
    }
    let (mut first, mut second) = (as_id("").await.unwrap(), as_id("spiffe://td/b").await.unwrap());
    assert!(first.hears().await.snapshot && second.hears().await.snapshot);
    let registered = || {
        let report = served.news.enforcers().report().checkpoints.into_iter();
        report
            .filter(|sum| sum.consumers > 0)
            .map(|sum| sum.spiffe_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(registered(), ["spiffe://td/a", "spiffe://td/b"]);
    served.stage.remove("b");
    let ended = timeout(Duration::from_secs(20), second.hear.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::PermissionDenied);
    eventually("one of them", || registered() == ["spiffe://td/a"]).await;
    // Another entry of the same number is another identity.
    served.stage.put(Entry {
        id: "a".parse().unwrap(),
        ..entry("z", &["s:1"])
    });
    let ended = timeout(Duration::from_secs(20), first.hear.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::PermissionDenied);
    eventually("none", || registered().is_empty()).await;
}

#[tokio::test]
async fn a_revocation_reaches_a_thousand_consumers() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    served.news.heard_beacon(1_750_000_000_000, 60_000, 0);
    let mut kits = vec![];
    for _ in 0..10 {
        let channel = served.channel().await;
        for _ in 0..100 {
            let mut kit = Kit::connect(channel.clone(), "db").await.unwrap();
            kit.hears().await;
            kits.push(kit);
        }
    }
    let mut times = vec![];
    for epoch in 1..=10 {
        let start = Instant::now();
        served.news.revoke(false, vec![revoked(epoch, "w")], epoch);
        for kit in &mut kits {
            while kit.hears().await.epoch < epoch {}
        }
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!(
        "a revocation at 1,000 consumers of one process: median {:?}, longest {:?}",
        times[5], times[9]
    );
    assert!(times[5] < Duration::from_secs(5), "{times:?}");
}

#[tokio::test]
async fn a_process_runs_a_task_over_the_socket() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    served.news.heard_beacon(1_750_000_000_000, 60_000, 0);
    let mut client = TasksClient::new(served.channel().await);
    let ask = |reason: &str| task::RequestRequest {
        task: "pay/migrate".into(),
        reason: reason.into(),
        ..task::RequestRequest::default()
    };
    let refused = client.request(with_header(ask("x"), &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "without the header");
    let refused = client.request(proper(ask(""))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = client.request(proper(task::RequestRequest {
        spiffe_id: "spiffe://td/b".into(),
        ..ask("x")
    }));
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("it is spiffe://td/a"),
        "{}",
        refused.message()
    );

    let asked = client.request(proper(ask("x"))).await.unwrap().into_inner();
    let request_id = asked.request_id;
    let watch = task::WatchRequest {
        request_id: request_id.clone(),
    };
    let mut states = client.watch(proper(watch)).await.unwrap().into_inner();
    assert_eq!(states.message().await.unwrap().unwrap().stage(), task::Stage::Armed);
    let open = task::OpenRequest {
        request_id: request_id.clone(),
        include_descendants: false,
    };
    let opened = client.open(proper(open)).await.unwrap().into_inner();
    assert_eq!(opened.stage(), task::Stage::Open);
    assert_eq!(states.message().await.unwrap().unwrap().window_id, opened.window_id);
    // On the ordinary stream of the same process, over another connection.
    let mut stream = served
        .client()
        .await
        .fetch_x509svid(proper(pb::X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        ids(&stream.message().await.unwrap().unwrap()),
        ["a", "task/pay/migrate/a"]
    );
    let end = task::EndRequest {
        request_id: request_id.clone(),
        detail: "exit status 3".into(),
    };
    let ended = client.fail(proper(end)).await.unwrap().into_inner();
    assert_eq!(
        (ended.stage(), ended.reasons),
        (task::Stage::Closed, vec!["failed".to_owned()])
    );
    assert_eq!(ids(&stream.message().await.unwrap().unwrap()), ["a"]);
    assert_eq!(states.message().await.unwrap().unwrap().stage(), task::Stage::Closed);
    let missing = task::RenewRequest {
        request_id: "no-such".into(),
    };
    assert_eq!(client.renew(proper(missing)).await.unwrap_err().code(), Code::NotFound);
    let seen = served.task_server.log();
    assert_eq!(seen[0], format!("request a {}", std::process::id()), "{seen:?}");
}

#[tokio::test]
async fn where_the_server_has_no_tasks_the_service_says_so() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    served.news.set_offer(Offer::Nothing);
    let mut client = TasksClient::new(served.channel().await);
    let ask = task::RequestRequest {
        task: "pay/migrate".into(),
        reason: "x".into(),
        ..task::RequestRequest::default()
    };
    let refused = client.request(proper(ask)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("has no tasks"), "{}", refused.message());
}
