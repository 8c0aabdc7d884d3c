//! What waits in buffers: messages of the server, and what it does not take.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use mayfly_proto::mayfly::agent::Update;
use mayfly_svid::Bundle;
use prost::Message;
use tonic::codec::{DecodeBuf, Decoder};

use super::*;
use crate::news::{Consumer, News, sleeping};
use crate::view::ViewPublisher;

struct Responses;

impl Decoder for Responses {
    type Item = WatchResponse;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<WatchResponse>, Status> {
        Ok(Some(WatchResponse::decode(source).unwrap()))
    }
}

/// A stream on which these messages are there already, and what is sent on it.
fn stream_of(messages: Vec<watch_response::Body>) -> (WatchStream, mpsc::Receiver<WatchRequest>) {
    let frames: VecDeque<_> = messages
        .into_iter()
        .map(|body| {
            let message = WatchResponse { body: Some(body) }.encode_to_vec();
            let length = u32::try_from(message.len()).unwrap();
            let framed = [&[0], &length.to_be_bytes()[..], &message].concat();
            Ok::<_, Infallible>(Frame::data(Bytes::from(framed)))
        })
        .collect();
    let body = StreamBody::new(tokio_stream::iter(frames));
    let responses = Streaming::new_response(Responses, body, http::StatusCode::OK, None, None);
    let (requests, outgoing) = mpsc::channel(4 + OWED);
    let stream = WatchStream {
        requests,
        responses,
        changes: Changes::default(),
        silence: FIRST_SILENCE,
        deadline: Moment::now() + FIRST_SILENCE,
        reported_at: Instant::now(),
        report_at: None,
        looking: None,
        watching: None,
        check_at: Instant::now(),
        missing: None,
    };
    (stream, outgoing)
}

fn holdings() -> Holdings {
    let own = Bundle::empty("td".parse().unwrap());
    Holdings::new("td".parse().unwrap(), Arc::new(ViewPublisher::new(own)), News::new())
}

fn update(revision: u64) -> watch_response::Body {
    watch_response::Body::Update(Update {
        history: "h".into(),
        revision,
        snapshot: true,
        ..Update::default()
    })
}

#[tokio::test(start_paused = true)]
async fn what_lay_in_a_buffer_while_the_agent_was_stopped_is_no_fresh_word() {
    let beacon = Beacon {
        interval_ms: 2_500,
        revision: 1,
        ..Beacon::default()
    };
    let beacon = || watch_response::Body::Beacon(beacon);
    let (mut stream, _outgoing) = stream_of(vec![update(1), beacon(), beacon(), beacon()]);
    let mut holdings = holdings();
    let left = |holdings: &Holdings| holdings.news().word().borrow().unwrap().left(Moment::now());
    stream.next(&mut holdings).await.unwrap();
    stream.next(&mut holdings).await.unwrap();
    sleeping::sleep(Duration::from_millis(9_999));
    stream.next(&mut holdings).await.unwrap();
    assert_eq!(left(&holdings), Some(Duration::from_secs(10)));
    sleeping::sleep(Duration::from_secs(10));
    let error = stream.next(&mut holdings).await.unwrap_err();
    assert!(error.to_string().contains("no sign of life"), "{error}");
    assert_eq!(left(&holdings), None);
}

#[tokio::test(start_paused = true)]
async fn the_report_goes_before_the_acknowledgement_also_when_little_is_taken() {
    let (mut stream, mut outgoing) = stream_of(vec![update(1)]);
    let mut holdings = holdings();
    let enforcers = Arc::clone(holdings.news().enforcers());
    // The server takes nothing.
    for _ in 0..10 {
        stream.report_if_room(&holdings);
    }
    let said = stream.requests.max_capacity() - stream.requests.capacity();
    assert_eq!(said, 4);
    let _joined = enforcers.join("db", &"spiffe://td/svc/db".parse().unwrap(), Consumer::of_user(1));
    stream.next(&mut holdings).await.unwrap();
    // An answer about the log finds its place as well.
    send(&stream.requests, watch_request::Body::Witnessed(Witnessed::default())).unwrap();
    drop(stream);
    let mut last = vec![];
    while let Some(request) = outgoing.recv().await {
        last.push(request.body.unwrap());
    }
    let [.., report, ack, answer] = &last[..] else {
        panic!("{last:?}")
    };
    assert!(
        matches!(report, watch_request::Body::Enforced(said) if said.checkpoints[0].consumers == 1),
        "{last:?}"
    );
    assert!(
        matches!(ack, watch_request::Body::Ack(ack) if ack.revision == 1),
        "{last:?}"
    );
    assert!(matches!(answer, watch_request::Body::Witnessed(_)), "{last:?}");
    assert_eq!(last.len(), said + OWED);
}
