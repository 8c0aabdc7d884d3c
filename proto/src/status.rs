//! Statuses that a machine can act on: details in `grpc-status-details-bin`, written and read.
//!
//! Two kinds of detail are in use. A refused agent learns why from `PermissionDeniedDetails`, and attests anew, gives
//! up or waits; whoever meets a busy server learns from `RetryInfo` when to come back. A reader takes what a peer sent,
//! so it looks at a bounded part of it and answers `None` to anything that does not parse.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

pub use crate::spire::types::permission_denied_details::Reason;

use crate::google::rpc;
use crate::spire::types::PermissionDeniedDetails;

const PERMISSION_DENIED_DETAILS: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// Details longer than this, in bytes, are not read. Ours are below 200.
const DETAILS_MAX: usize = 4096;

/// The longest delay that [`retry_after`] gives: a peer may slow us down, not put us to sleep.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// `PermissionDenied` for an agent, with the reason on which it acts.
///
/// `message` goes to the peer.
pub fn permission_denied(reason: Reason, message: impl Into<String>) -> Status {
    let details = PermissionDeniedDetails { reason: reason.into() };
    with_detail(
        Code::PermissionDenied,
        message.into(),
        PERMISSION_DENIED_DETAILS,
        &details,
    )
}

/// `Unavailable`, with advice to call again after `delay`.
///
/// A delay too long for the wire, some 292 billion years, becomes the longest possible. `message` goes to the peer.
pub fn unavailable_retry(message: impl Into<String>, delay: Duration) -> Status {
    let retry_delay = prost_types::Duration {
        seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(delay.subsec_nanos()).expect("below 10^9"),
    };
    let info = rpc::RetryInfo {
        retry_delay: Some(retry_delay),
    };
    with_detail(Code::Unavailable, message.into(), RETRY_INFO, &info)
}

/// Why an agent was refused, if `status` is a `PermissionDenied` that says so.
///
/// A number that we do not know reads as [`Reason::Unknown`].
pub fn permission_denied_reason(status: &Status) -> Option<Reason> {
    if status.code() != Code::PermissionDenied {
        return None;
    }
    find_detail::<PermissionDeniedDetails>(status, PERMISSION_DENIED_DETAILS).map(|details| details.reason())
}

/// How long to wait before the next call, if `status` is a failure that says so: at most [`RETRY_AFTER_MAX`].
pub fn retry_after(status: &Status) -> Option<Duration> {
    if status.code() == Code::Ok {
        return None;
    }
    let delay = find_detail::<rpc::RetryInfo>(status, RETRY_INFO)?.retry_delay?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos).min(RETRY_AFTER_MAX))
}

fn with_detail(code: Code, message: String, type_url: &str, detail: &impl Message) -> Status {
    let any = prost_types::Any {
        type_url: type_url.into(),
        value: detail.encode_to_vec(),
    };
    let details = rpc::Status {
        code: code.into(),
        message: message.clone(),
        details: vec![any],
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// The first detail of a type. Later ones of the same type are not looked at.
fn find_detail<M: Message + Default>(status: &Status, type_url: &str) -> Option<M> {
    let bytes = status.details();
    if bytes.is_empty() || bytes.len() > DETAILS_MAX {
        return None;
    }
    let details = rpc::Status::decode(bytes).ok()?.details;
    let detail = details.into_iter().find(|detail| detail.type_url == type_url)?;
    M::decode(detail.value.as_slice()).ok()
}

/// The name of a gRPC code as the gRPC specification writes it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the other side gets: through the headers and back.
    fn over_the_wire(status: &Status) -> Status {
        let mut headers = tonic::codegen::http::HeaderMap::new();
        status
            .add_header(&mut headers)
            .expect("a status of ours fits into headers");
        Status::from_header_map(&headers).expect("headers with a status")
    }

    fn with_details(code: Code, details: rpc::Status) -> Status {
        Status::with_details(code, "", details.encode_to_vec().into())
    }

    fn retry_info(seconds: i64, nanos: i32) -> Status {
        let info = rpc::RetryInfo {
            retry_delay: Some(prost_types::Duration { seconds, nanos }),
        };
        with_detail(Code::Unavailable, String::new(), RETRY_INFO, &info)
    }

    #[test]
    fn a_refused_agent_reads_the_reason_that_the_server_gave() {
        for reason in [
            Reason::Unknown,
            Reason::AgentExpired,
            Reason::AgentNotAttested,
            Reason::AgentNotActive,
            Reason::AgentBanned,
            Reason::AgentMustReattest,
        ] {
            let status = over_the_wire(&permission_denied(reason, "agent is banned"));
            assert_eq!(status.code(), Code::PermissionDenied);
            assert_eq!(status.message(), "agent is banned");
            assert_eq!(permission_denied_reason(&status), Some(reason));
            assert_eq!(retry_after(&status), None);
        }
    }

    #[test]
    fn the_details_are_the_bytes_that_spire_agents_look_for() {
        let mut expected = vec![0x08, 7, 0x12, 2, b'n', b'o', 0x1a, 65, 0x0a, 59];
        expected.extend_from_slice(b"type.googleapis.com/spire.api.types.PermissionDeniedDetails");
        expected.extend_from_slice(&[0x12, 2, 0x08, 4]);
        assert_eq!(permission_denied(Reason::AgentBanned, "no").details(), expected);
    }

    #[test]
    fn a_busy_server_says_when_to_come_back() {
        for delay in [Duration::ZERO, Duration::from_millis(1500), RETRY_AFTER_MAX] {
            let status = over_the_wire(&unavailable_retry("starting", delay));
            assert_eq!(status.code(), Code::Unavailable);
            assert_eq!(retry_after(&status), Some(delay));
            assert_eq!(permission_denied_reason(&status), None);
        }
    }

    #[test]
    fn no_peer_can_ask_for_a_longer_pause_than_the_limit() {
        assert_eq!(
            retry_after(&unavailable_retry("", Duration::MAX)),
            Some(RETRY_AFTER_MAX)
        );
        assert_eq!(retry_after(&retry_info(i64::MAX, 999_999_999)), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn a_delay_that_is_negative_or_out_of_form_is_no_delay() {
        for (seconds, nanos) in [
            (-1, 0),
            (0, -1),
            (i64::MIN, i32::MIN),
            (1, 1_000_000_000),
            (1, i32::MAX),
        ] {
            assert_eq!(retry_after(&retry_info(seconds, nanos)), None, "{seconds} s {nanos} ns");
        }
        let none = rpc::RetryInfo { retry_delay: None };
        assert_eq!(
            retry_after(&with_detail(Code::Unavailable, String::new(), RETRY_INFO, &none)),
            None
        );
    }

    #[test]
    fn details_count_only_under_the_code_they_belong_to() {
        let details = PermissionDeniedDetails {
            reason: Reason::AgentBanned.into(),
        };
        let status = with_detail(Code::Unavailable, String::new(), PERMISSION_DENIED_DETAILS, &details);
        assert_eq!(permission_denied_reason(&status), None);
    }

    #[test]
    fn a_reason_from_the_future_reads_as_unknown() {
        let details = PermissionDeniedDetails { reason: 4711 };
        let status = with_detail(
            Code::PermissionDenied,
            String::new(),
            PERMISSION_DENIED_DETAILS,
            &details,
        );
        assert_eq!(permission_denied_reason(&status), Some(Reason::Unknown));
    }

    #[test]
    fn details_of_other_types_are_passed_over() {
        let other = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.Help".into(),
            value: vec![0xff; 9],
        };
        let ours = prost_types::Any {
            type_url: PERMISSION_DENIED_DETAILS.into(),
            value: PermissionDeniedDetails {
                reason: Reason::AgentExpired.into(),
            }
            .encode_to_vec(),
        };
        let details = rpc::Status {
            code: 7,
            message: String::new(),
            details: vec![other, ours],
        };
        let status = with_details(Code::PermissionDenied, details);
        assert_eq!(permission_denied_reason(&status), Some(Reason::AgentExpired));
    }

    #[test]
    fn details_that_do_not_parse_or_are_too_long_are_no_details() {
        let broken = prost_types::Any {
            type_url: PERMISSION_DENIED_DETAILS.into(),
            value: vec![0x08],
        };
        let inner = rpc::Status {
            details: vec![broken],
            ..Default::default()
        }
        .encode_to_vec();
        let long = rpc::Status {
            message: "x".repeat(DETAILS_MAX),
            ..Default::default()
        }
        .encode_to_vec();
        for bytes in [
            vec![],
            vec![0xff; 64],
            vec![0x1a, 0xff, 0xff, 0xff, 0xff, 0x0f],
            inner,
            long,
        ] {
            let status = Status::with_details(Code::PermissionDenied, "", bytes.into());
            assert_eq!(permission_denied_reason(&status), None);
            assert_eq!(retry_after(&status), None);
        }
    }
}
