//! The one place where a call is admitted: before any service sees it, whatever it is.
//!
//! It finds the method's row in [`SERVICES`](super::SERVICES), says who calls and whether they may, and leaves a
//! [`Call`] (and the bare `Caller`) in the request's extensions. It also opens the span that all log lines of the call
//! are in, answers with the request's ID in `mayfly-request-id`, and counts how the call ended.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use mayfly_model::{Change, Step};
use mayfly_proto::status::code_name;
use mayfly_runtime::listen::ConnInfo;
use mayfly_svid::{Serial, Timestamp};
use rand::Rng;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument, Span, debug, info_span, warn};

use super::metrics::{ApiMetrics, MethodLabels};
use super::status::{invalid, to_status};
use super::{Api, Call, Face, SERVICES};
use crate::app::caller::{Access, Caller, Identified, identify};

/// Metadata with what a caller says about why; percent-encoded where it is not printable ASCII.
const REASON: &str = "mayfly-reason";
/// Its longest value, in bytes as sent.
pub(super) const REASON_MAX: usize = 1024;
const REQUEST_ID: &str = "mayfly-request-id";
const UNKNOWN: MethodLabels = MethodLabels {
    service: "unknown",
    method: "unknown",
};

/// The gate in front of `S`.
#[derive(Clone)]
pub struct Gate<S> {
    api: Arc<Api>,
    face: Face,
    inner: S,
    strangers: S,
}

impl<S> Gate<S> {
    /// Methods that anybody may call go to `strangers`, which reads smaller messages.
    pub(super) fn new(api: Arc<Api>, face: Face, inner: S, strangers: S) -> Self {
        Self {
            api,
            face,
            inner,
            strangers,
        }
    }
}

impl<S, B> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        std::task::ready!(self.inner.poll_ready(cx))?;
        self.strangers.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let request_id = format!("{:016x}", rand::rng().random::<u64>());
        let row = find(request.uri().path(), self.face);
        let labels = row.as_ref().map_or(UNKNOWN, |(labels, _)| labels.clone());
        let span = info_span!(
            "rpc",
            method = labels.method,
            request_id,
            caller = tracing::field::Empty
        );
        let end = End::begin(self.api.metrics.clone(), labels, span.clone());
        let anyone = matches!(row, Some((_, Access::Anyone)));
        let admitted = span.in_scope(|| match row {
            Some((labels, access)) => admit(&self.api, &request, &labels, access),
            None => Err(Status::unimplemented("there is no such method here")),
        });
        match admitted {
            Ok(call) => {
                span.record("caller", &call.actor.who);
                request.extensions_mut().insert(call.caller.clone());
                request.extensions_mut().insert(call);
                let inner = if anyone { &mut self.strangers } else { &mut self.inner };
                let answer = inner.call(request).instrument(span);
                Box::pin(async move { Ok(finish(answer.await?, end, &request_id)) })
            }
            Err(status) => Box::pin(std::future::ready(Ok(finish(status.into_http(), end, &request_id)))),
        }
    }
}

/// The row of a method, if it exists on this listener.
fn find(path: &str, face: Face) -> Option<(MethodLabels, Access)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let service = SERVICES.iter().find(|row| row.name == service)?;
    let (method, access) = *service.methods.iter().find(|(name, _)| *name == method)?;
    if !face.has(access) {
        return None;
    }
    Some((
        MethodLabels {
            service: service.name,
            method,
        },
        access,
    ))
}

fn admit<B>(api: &Arc<Api>, request: &Request<B>, labels: &MethodLabels, access: Access) -> Result<Call, Status> {
    let Some(info) = request.extensions().get::<ConnInfo>() else {
        tracing::error!("a request came without what is known of its connection");
        return Err(Status::internal("internal error"));
    };
    let snapshot = api.committer.snapshot();
    let now = api.now();
    let caller = match (identify(info, &snapshot, now), access) {
        (Ok(Identified { caller, confirm }), _) => {
            if let Some(serial) = confirm {
                confirm_renewed(api, &caller, info, serial, now);
            }
            caller
        }
        // An evicted agent attests anew over the connection that it has.
        (Err(_), Access::Anyone) => Caller::Anonymous,
        (Err(refused), _) => return Err(to_status(&refused)),
    };
    let rpc = (labels.service, labels.method);
    let authorized = api.authorizer.authorize(&caller, access, rpc, &snapshot, now);
    let standing = authorized.map_err(|refused| to_status(&refused))?;
    let actor = caller.actor(&info.peer, reason(request.headers())?);
    Ok(Call {
        caller,
        actor,
        now,
        snapshot,
        connection: info.clone(),
        standing,
    })
}

/// Ends the agent's old SVID now that the new one works. In the background: the call does not wait for the disk, and
/// the next one tries again if this could not be done.
fn confirm_renewed(api: &Arc<Api>, caller: &Caller, info: &ConnInfo, serial: Serial, time: Timestamp) {
    let Caller::Agent(agent) = caller else { return };
    let change = Change::AgentConfirm {
        id: agent.id.clone(),
        serial,
    };
    let step = Step {
        actor: caller.actor(&info.peer, String::new()),
        time,
        change,
    };
    let (committer, id) = (api.committer.clone(), agent.id.clone());
    let confirm = async move {
        match committer.commit(step).await {
            Ok(_) => debug!(agent_id = %id, "agent uses its renewed SVID"),
            // Calls that came at the same time confirm the same; the first one wins.
            Err(error) => debug!(agent_id = %id, error = %error, "renewed SVID was not confirmed"),
        }
    };
    if api.confirming.spawn(confirm).is_err() {
        warn!(agent_id = %agent.id, "renewed SVID was not confirmed: too many at a time");
    }
}

fn reason(headers: &HeaderMap) -> Result<String, Status> {
    let Some(value) = headers.get(REASON) else {
        return Ok(String::new());
    };
    if value.len() > REASON_MAX {
        return Err(invalid(format!(
            "{REASON}: has {} bytes, at most {REASON_MAX} are allowed",
            value.len()
        )));
    }
    let text = percent_decode(value.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok());
    match text {
        Some(text) if !text.chars().any(char::is_control) => Ok(text),
        _ => Err(invalid(format!(
            "{REASON}: is not percent-encoded UTF-8 without control characters"
        ))),
    }
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits)
                .ok()
                .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

/// Counts the call when its headers say how it ended; else the body does, when its trailers pass or it is dropped.
fn finish(mut response: Response<Body>, mut end: End, request_id: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    end.code = code_of(response.headers());
    if end.code.is_some() {
        return response;
    }
    response.map(|body| Body::new(Watched { body, end }))
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers
        .get(Status::GRPC_STATUS)
        .map(|value| Code::from_bytes(value.as_bytes()))
}

/// A call until it ends, however it ends.
struct End {
    metrics: ApiMetrics,
    labels: MethodLabels,
    span: Span,
    began: Instant,
    code: Option<Code>,
}

impl End {
    fn begin(metrics: ApiMetrics, labels: MethodLabels, span: Span) -> Self {
        metrics.began(&labels);
        Self {
            metrics,
            labels,
            span,
            began: Instant::now(),
            code: None,
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // A call that ends without a code was given up by its caller.
        let code = self.code.unwrap_or(Code::Cancelled);
        let elapsed = self.began.elapsed();
        self.metrics.ended(&self.labels, code, elapsed.as_secs_f64());
        self.span
            .in_scope(|| debug!(code = code_name(code), elapsed_ms = elapsed.as_millis(), "call ended"));
    }
}

/// A response body that tells how the call ended; what it runs, runs in the call's span.
struct Watched {
    body: Body,
    end: End,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let span = self.end.span.clone();
        let frame = span.in_scope(|| Pin::new(&mut self.body).poll_frame(cx));
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.end.code = code_of(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason_of(value: &[u8]) -> Result<String, Code> {
        let mut headers = HeaderMap::new();
        headers.insert(REASON, HeaderValue::from_bytes(value).unwrap());
        reason(&headers).map_err(|status| status.code())
    }

    #[test]
    fn a_reason_is_percent_encoded_text_of_at_most_a_kibibyte() {
        assert_eq!(reason_of(b"ticket 7"), Ok("ticket 7".into()));
        assert_eq!(reason_of(b"%C3%BCber 100%25"), Ok("über 100%".into()));
        assert_eq!(reason_of(&[b'x'; 1024]).map(|text| text.len()), Ok(1024));
        for bad in [
            &[b'x'; 1025][..],
            b"%",
            b"%4",
            b"%zz",
            b"%+1",
            b"%ff",
            b"%0a",
            b"%1b[31m",
        ] {
            assert_eq!(reason_of(bad), Err(Code::InvalidArgument), "{bad:?}");
        }
        assert_eq!(reason(&HeaderMap::new()).unwrap(), "");
    }

    #[test]
    fn paths_that_are_no_method_have_no_row() {
        for path in [
            "",
            "/",
            "x",
            "/spire.api.server.entry.v1.Entry",
            "/spire.api.server.entry.v1.Entry/",
            "/a/b/c",
        ] {
            assert!(find(path, Face::Local).is_none(), "{path}");
        }
        assert!(find("/spire.api.server.logger.v1.Logger/GetLogger", Face::Remote).is_none());
        assert!(find("/spire.api.server.logger.v1.Logger/GetLogger", Face::Local).is_some());
    }
}
