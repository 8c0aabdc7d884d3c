//! What the server shows to everyone by HTTP, beside the pages for probes: revocation lists.
//!
//! `/crl/<authority ID>.crl` is one list, DER; the ID is the authority key identifier of the SVIDs that it is about, in
//! lower-case hex. `/crl` names them all. Lists are signed and public, so nobody is asked who they are.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::app::revocation_lists::RevocationLists;

/// How long a cache may answer by itself: a list is there for those who poll, and this is little beside that.
const CACHE: &str = "public, max-age=5";

/// The routes.
pub fn revocation_lists(lists: Arc<RevocationLists>) -> Router {
    Router::new()
        .route("/crl", get(names))
        .route("/crl/{file}", get(list))
        .with_state(lists)
}

async fn names(State(lists): State<Arc<RevocationLists>>) -> Response {
    let lists = lists.current();
    let lines = lists
        .lists
        .iter()
        .map(|list| format!("{}.crl {}\n", list.authority_id, list.class.word()));
    let text: String = lines.collect();
    ([(header::CACHE_CONTROL, CACHE)], text).into_response()
}

async fn list(State(lists): State<Arc<RevocationLists>>, Path(file): Path<String>, headers: HeaderMap) -> Response {
    let lists = lists.current();
    let Some(list) = file.strip_suffix(".crl").and_then(|id| lists.of(id)) else {
        return (StatusCode::NOT_FOUND, "no such list; /crl has the names\n").into_response();
    };
    let tag = format!("\"{:x}\"", list.number);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    let common = [(header::CACHE_CONTROL, CACHE.to_owned()), (header::ETAG, tag.clone())];
    if known.is_some_and(|known| known.split(',').any(|known| known.trim() == tag)) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let kind = [(header::CONTENT_TYPE, "application/pkix-crl")];
    (common, kind, list.der.clone()).into_response()
}

mod log;

pub use log::log;

#[cfg(test)]
mod tests;
