//! An HTTP service that answers only who is inside a window of a task: `protected SOCKET TEAM/TASK [ADDRESS]`.

use axum::{Extension, Router, routing::get};
use mayfly_verify::kit::{CancellationToken, Matcher, Peer, Settings, Source};
use tokio::net::TcpListener;

async fn hello(Extension(peer): Extension<Peer>) -> String {
    let closes = peer.closes().map(|closes| closes.to_string()).unwrap_or_default();
    format!("hello {}, until {closes}\n", peer.spiffe_id())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, task, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: protected SOCKET TEAM/TASK [ADDRESS]");
    };
    let address = rest.first().map_or("127.0.0.1:8443", String::as_str);

    let source = Source::connect(Settings::from_endpoint(socket, "protected")?).await?;
    let acceptor = source.acceptor(Matcher::task(task)?);
    let listener = TcpListener::bind(address).await?;
    println!("inside {task}: https://{}", listener.local_addr()?);

    let service = Router::new().route("/", get(hello));
    acceptor.serve(listener, service, CancellationToken::new()).await;
    Ok(())
}
