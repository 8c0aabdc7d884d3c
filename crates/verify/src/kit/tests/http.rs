use std::convert::Infallible;

use axum::Extension;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mayfly_runtime::CancellationToken;
use tokio::net::TcpStream;
use tower::{Layer, ServiceExt, service_fn};

use super::certs::Leaf;
use super::house::{House, JOB, connector, soon};
use crate::kit::{Peer, PeerLayer};

#[tokio::test]
async fn requests_know_their_peer_and_are_refused_once_it_is_over() {
    let house = House::open().await;
    let (job, visit) = house.visit_of_job().await;
    let service = PeerLayer::of(&visit.server).layer(service_fn(async |request: Request<()>| {
        let peer = request.extensions().get::<Peer>().unwrap();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(peer.spiffe_id().to_string())))
    }));
    let answer = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), JOB);
    let epoch = house.agent.revoke(&job.window.unwrap().to_string(), vec![]);
    house.agent.acknowledged(epoch).await;
    let answer = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
#[allow(clippy::disallowed_methods)]
async fn an_http_service_is_protected_and_its_connections_end() {
    let house = House::open().await;
    let stop = CancellationToken::new();
    let app = axum::Router::new().route(
        "/",
        get(async |Extension(peer): Extension<Peer>| peer.spiffe_id().to_string()),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(house.acceptor.clone().serve(listener, app, stop.clone()));
    let job = house.ca.issue(&Leaf::task(JOB));

    let tcp = TcpStream::connect(address).await.unwrap();
    let tls = connector(job.shown())
        .connect("td.invalid".try_into().unwrap(), tcp)
        .await
        .unwrap();
    let (mut requests, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(tls)).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::get("/").header("host", "x").body(Empty::new()).unwrap();
        let answer = requests.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), JOB);
    }
    // Idle: nobody reads or writes, and it ends.
    house.agent.revoke(&job.window.unwrap().to_string(), vec![]);
    let _ = soon("the end of the connection", connection).await.unwrap();
    let request = Request::get("/").header("host", "x").body(Empty::new()).unwrap();
    assert!(requests.send_request(request).await.is_err());
    stop.cancel();
    soon("the stop", served).await.unwrap();
}
