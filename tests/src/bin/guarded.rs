//! An HTTP service behind the verifier kit: `/` says who asks, `/hold` answers a line every 100 ms and never ends.
//!
//! `guarded SOCKET TEAM/TASK CHECKPOINT`; the first line of its output is its address.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::{Extension, Router, routing::get};
use futures_util::stream;
use mayfly_verify::kit::{CancellationToken, Matcher, Peer, Settings, Source};
use tokio::net::TcpListener;

async fn hello(Extension(peer): Extension<Peer>) -> String {
    format!("{}\n", peer.spiffe_id())
}

async fn hold() -> Body {
    Body::from_stream(stream::unfold((), async |()| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((Ok::<_, Infallible>(Bytes::from_static(b"tick\n")), ()))
    }))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, task, checkpoint] = &arguments[..] else {
        anyhow::bail!("usage: guarded SOCKET TEAM/TASK CHECKPOINT");
    };
    let source = Source::connect(Settings::new(socket, checkpoint)).await?;
    let acceptor = source.acceptor(Matcher::task(task)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let service = Router::new().route("/", get(hello)).route("/hold", get(hold));
    acceptor.serve(listener, service, CancellationToken::new()).await;
    Ok(())
}
