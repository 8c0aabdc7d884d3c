//! The pages for probes and scrapers: `/live`, `/ready`, `/metrics`.
//!
//! *Live* means: restarting would not help. *Ready* means: send work here. A store that is away makes a process not
//! ready, never not live.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::listen::{self, Limits, TcpBindError};
use crate::readiness::Readiness;

/// Says whether the process is sound; the text says what is broken.
pub type Liveness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the pages show.
#[derive(Clone)]
pub struct AdminPages {
    /// For `/ready`.
    pub readiness: Readiness,
    /// For `/live`.
    pub liveness: Liveness,
    /// For `/metrics`.
    pub registry: Arc<Registry>,
}

/// The pages, bound to an address and not yet served.
#[derive(Debug)]
pub struct AdminHttp {
    server: listen::Server<tokio::net::TcpListener>,
    address: SocketAddr,
    router: Router,
}

// === impl AdminPages ===

impl AdminPages {
    /// The routes, to be merged with others.
    pub fn router(self) -> Router {
        Router::new()
            .route("/live", get(live))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

// === impl AdminHttp ===

impl AdminHttp {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn bind(address: SocketAddr, router: Router) -> Result<Self, TcpBindError> {
        let listener = listen::bind_tcp(address)?;
        let address = listener.local_addr().unwrap_or(address);
        Ok(Self {
            server: listen::Server::new("admin_http", listener, Limits::pages()),
            address,
            router,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    ///
    /// # Cancel safety
    /// If dropped, open connections are dropped as well.
    pub async fn serve(self, stop: CancellationToken) {
        self.server.serve_http1(self.router, stop).await;
    }
}

async fn live(State(pages): State<AdminPages>) -> Response {
    match (pages.liveness)() {
        Ok(()) => (StatusCode::OK, "live\n").into_response(),
        Err(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("not live: {what}\n")).into_response(),
    }
}

async fn ready(State(pages): State<AdminPages>) -> Response {
    let (missing, lacking) = (pages.readiness.missing(), pages.readiness.lacking());
    let (status, mut text) = match missing.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready, waiting for: {}\n", missing.join(", ")),
        ),
    };
    for what in lacking {
        text.push_str(&format!("without {what}\n"));
    }
    (status, text).into_response()
}

async fn metrics(State(pages): State<AdminPages>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &pages.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn tells_what_is_missing_and_that_being_unready_is_not_being_dead() {
        let readiness = Readiness::new();
        let (guard, lacks) = (readiness.block("first bundle"), readiness.clone());
        let mut registry = Registry::default();
        let issued = Counter::<u64>::default();
        registry.register("things_made", "Things made", issued.clone());
        issued.inc();
        let liveness: Liveness = Arc::new(|| Ok(()));
        let pages = AdminPages {
            readiness,
            liveness,
            registry: Arc::new(registry),
        };
        let router = pages.router().route("/more", get(|| async { "more" }));
        let server = AdminHttp::bind("127.0.0.1:0".parse().unwrap(), router).unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        let serving = crate::supervisor::spawn(server.serve(stop.clone()));

        let answer = fetch(address, "/ready").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("waiting for: first bundle\n"),
            "{answer}"
        );
        assert!(fetch(address, "/live").await.starts_with("HTTP/1.1 200"));
        drop(guard);
        assert!(fetch(address, "/ready").await.starts_with("HTTP/1.1 200"));
        let _lacking = lacks.lack("hot water");
        let answer = fetch(address, "/ready").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\nwithout hot water\n"),
            "{answer}"
        );
        let answer = fetch(address, "/metrics").await;
        assert!(
            answer.contains("application/openmetrics-text") && answer.contains("things_made_total 1"),
            "{answer}"
        );
        assert!(fetch(address, "/more").await.ends_with("more"));
        assert!(fetch(address, "/none").await.starts_with("HTTP/1.1 404"));
        stop.cancel();
        serving.await.unwrap();
    }
}
