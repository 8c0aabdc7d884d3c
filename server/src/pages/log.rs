//! The log as static files (C2SP tlog-tiles), below `/log`: `checkpoint`, `tile/…`, and `keys`, the verifier keys.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mayfly_runtime::Chain;
use mayfly_tlog::tile::TilePath;
use tracing::error;

use crate::app::evidence::Evidence;

/// A tile never changes: it is either full, or named by how much of it there is.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// The checkpoint does, all the time.
const NEVER: &str = "no-cache";

/// The routes.
pub fn log(evidence: Arc<Evidence>) -> Router {
    Router::new()
        .route("/log/checkpoint", get(checkpoint))
        .route("/log/keys", get(keys))
        .route("/log/tile/{*path}", get(tile))
        .with_state(evidence)
}

async fn checkpoint(State(evidence): State<Arc<Evidence>>) -> Response {
    let note = evidence.published().checkpoint.to_bytes();
    let common = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, NEVER),
    ];
    (common, note).into_response()
}

async fn keys(State(evidence): State<Arc<Evidence>>) -> Response {
    let keys: String = evidence.verifier_keys().iter().map(|key| format!("{key}\n")).collect();
    ([(header::CACHE_CONTROL, NEVER)], keys).into_response()
}

async fn tile(State(evidence): State<Arc<Evidence>>, Path(path): Path<String>) -> Response {
    let none = || (StatusCode::NOT_FOUND, "the log has no such tile\n").into_response();
    let Ok(path) = format!("tile/{path}").parse::<TilePath>() else {
        return none();
    };
    match evidence.tile(path).await {
        Ok(Some(bytes)) => {
            let kind = "application/octet-stream";
            ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, FOR_EVER)], bytes).into_response()
        }
        Ok(None) => none(),
        Err(failure) => {
            error!(error = %Chain(&failure), %path, "a tile of the log cannot be read");
            (StatusCode::INTERNAL_SERVER_ERROR, "the log cannot be read now\n").into_response()
        }
    }
}
