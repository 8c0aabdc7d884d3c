//! Servers that show the log as they like, over an own connection and on a clock of the test.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use mayfly_proto::mayfly::agent::watch_server::{Watch, WatchServer};
use mayfly_proto::mayfly::agent::{Prove, Update};
use mayfly_svid::Bundle;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response};

use super::*;
use crate::news::News;
use crate::view::ViewPublisher;
use crate::witness::tests::{Node, sent};

/// What comes on the stream, and after how long.
type Script = Arc<dyn Fn(u64) -> Vec<watch_response::Body> + Send + Sync>;
/// What the agent wanted to see.
type Asked = Arc<Mutex<Vec<u64>>>;

struct Liar {
    script: Script,
    every: Duration,
    asked: Asked,
}

#[async_trait]
impl Watch for Liar {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, requests: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (mut requests, asked) = (requests.into_inner(), self.asked.clone());
        tokio::spawn(async move {
            while let Ok(Some(WatchRequest { body })) = requests.message().await {
                if let Some(watch_request::Body::Prove(Prove { indexes })) = body {
                    asked.lock().unwrap().extend(indexes);
                }
            }
        });
        let (answers, stream) = mpsc::channel(1);
        let (script, every) = (self.script.clone(), self.every);
        tokio::spawn(async move {
            for turn in 0.. {
                for body in script(turn) {
                    if answers.send(Ok(WatchResponse { body: Some(body) })).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(every).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn connected(liar: Liar) -> Channel {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let incoming = tokio_stream::once(Ok::<_, Infallible>(theirs));
    // Whoever serves an end of a connection goes on with it when there are no others to come.
    tokio::spawn(
        Server::builder()
            .add_service(WatchServer::new(liar))
            .serve_with_incoming(incoming),
    );
    let mut ours = Some(ours);
    let connector = tower::service_fn(move |_| {
        let ours = ours.take().map(TokioIo::new);
        async move { ours.ok_or_else(|| std::io::Error::other("there is one connection")) }
    });
    let endpoint = Endpoint::from_static("http://server");
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// For how long on a clock of streams `node` trusts the log of a server that says this `every` so often; at most two
/// minutes are looked at.
async fn trusts_for(node: &Node, every: Duration, script: Script) -> (Duration, Vec<u64>) {
    let asked = Asked::default();
    let channel = connected(Liar {
        script,
        every,
        asked: asked.clone(),
    })
    .await;
    let own = "td".parse().unwrap();
    let news = News::new();
    news.set_witness(node.witness.clone());
    let views = Arc::new(ViewPublisher::new(Bundle::empty("td".parse().unwrap())));
    let mut holdings = Holdings::new(own, views, news);
    let mut stream = WatchStream::open(channel, &holdings).await.unwrap();
    let begun = Instant::now();
    let refused = || !node.witness.hello().unwrap().refused.is_empty();
    while !refused() && begun.elapsed() < Duration::from_secs(120) {
        let look = tokio::time::timeout(Duration::from_millis(250), stream.next(&mut holdings));
        if let Ok(message) = look.await {
            message.unwrap();
        }
    }
    let asked = asked.lock().unwrap().clone();
    (begun.elapsed(), asked)
}

fn beacon(interval: Duration) -> watch_response::Body {
    watch_response::Body::Beacon(Beacon {
        interval_ms: interval.as_millis().try_into().unwrap(),
        ..Beacon::default()
    })
}

fn update(turn: u64) -> watch_response::Body {
    watch_response::Body::Update(Update {
        history: "h".into(),
        revision: turn + 1,
        snapshot: turn == 0,
        lease_ms: 300_000,
        ..Update::default()
    })
}

const MISSING: &str = "does not show in it the SVID 7, which names its entry 9";

#[tokio::test(start_paused = true)]
async fn whatever_comes_in_between_and_however_seldom_an_entry_that_is_not_shown_is_missed_after_half_a_minute() {
    let (short, long) = (Duration::from_millis(500), Duration::from_secs(300));
    // The log goes on, without what is owed. It is looked at whenever a sign of life comes.
    let (node, mut log, _) = sent();
    log.entries[9] = vec![1];
    node.sees(&log);
    let head = log.head(10);
    let same_head: Script = Arc::new(move |_| vec![watch_response::Body::LogHead(head.clone()), beacon(short)]);
    let (passed, asked) = trusts_for(&node, short, same_head).await;
    println!("a head with each beacon: refused after {passed:?}");
    node.is_refusing(MISSING);
    assert!(passed <= Duration::from_secs(32), "{passed:?}");
    assert_eq!(asked, [9], "once");
    // Updates alone.
    let (node, _, _) = sent();
    let (passed, _) = trusts_for(&node, short, Arc::new(|turn| vec![update(turn)])).await;
    println!("updates and no beacon: refused after {passed:?}");
    node.is_refusing(MISSING);
    assert!(passed <= Duration::from_secs(32), "{passed:?}");
    // A beacon now and then.
    let (node, _, _) = sent();
    let (passed, _) = trusts_for(&node, long, Arc::new(move |_| vec![beacon(long)])).await;
    println!("a beacon each 300 s: refused after {passed:?}");
    node.is_refusing(MISSING);
    assert!(passed <= Duration::from_secs(32), "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_stands_still_or_is_hidden_is_missed_whatever_comes_in_between() {
    let short = Duration::from_millis(500);
    let (node, mut log, _) = sent();
    log.entries.truncate(9);
    let head = log.head(9);
    // Of the SVID of a window another process knows nothing.
    let node = node.restart();
    node.witness.was_issued(node.witness.asks());
    let same_head: Script = Arc::new(move |_| vec![watch_response::Body::LogHead(head.clone()), beacon(short)]);
    let (passed, _) = trusts_for(&node, short, same_head).await;
    node.is_refusing("it stands at 9 entries");
    assert!(passed <= Duration::from_secs(62), "{passed:?}");
    let node = sent().0.restart();
    let (passed, _) = trusts_for(&node, short, Arc::new(|turn| vec![update(turn)])).await;
    node.is_refusing("the server does not show it any more");
    assert!(passed <= Duration::from_secs(62), "{passed:?}");
}
