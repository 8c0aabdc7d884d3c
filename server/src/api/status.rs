//! From our errors to what callers read: the one place.
//!
//! A caller of a call reads a `tonic::Status`, of an item in a batch a `types.Status`. What went wrong inside reads
//! "internal error" outside; the whole chain goes to the log once, here, in the span that has the request's ID.

use std::error::Error;
use std::time::Duration;

use mayfly_model::{Conflict, ErrorKind};
use mayfly_proto::convert::ConvertError;
use mayfly_proto::spire::types;
use mayfly_proto::status::{Reason, permission_denied, unavailable_retry};
use mayfly_runtime::Chain;
use tonic::{Code, Status};
use tracing::{debug, error, warn};

use crate::app::agents::{AgentError, TokenError};
use crate::app::attest_agent::AttestError;
use crate::app::bundles::BundleError;
use crate::app::caller::{AgentRefusal, CallerError};
use crate::app::changes::ChangeError;
use crate::app::debt::DebtError;
use crate::app::definitions::FindError;
use crate::app::issue::IssueError;
use crate::app::mint::MintError;
use crate::app::policy::PolicyRefusal;
use crate::app::register::RegisterError;
use crate::app::tasks::TaskError;
use crate::commit::CommitError;

const INTERNAL: &str = "internal error";
/// The longest text of ours, in bytes. What is wrong is often repeated in it, and may be as long as a request.
const TEXT_MAX: usize = 960;
/// What the status of an item takes in an answer.
pub(super) const STATUS_BYTES: usize = 1024 + 128;

/// An error that a caller gets to know of.
pub(super) trait Failure: Error + Sized + 'static {
    /// What it means for the caller.
    fn kind(&self) -> ErrorKind;

    /// What the caller reads, unless the kind is `Internal`. With the causes where those are the caller's own doing.
    fn public_message(&self) -> String {
        match self.kind() {
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => self.to_string(),
            _ => Chain(self).to_string(),
        }
    }

    /// Why an agent is refused.
    fn refusal(&self) -> Option<AgentRefusal> {
        None
    }

    /// When to come back.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// Whether a stranger can make it happen at will: then it is no warning.
    fn is_by_strangers(&self) -> bool {
        false
    }
}

/// The status of a call that failed.
pub(super) fn to_status(failure: &impl Failure) -> Status {
    let (code, message) = outside(failure);
    match (failure.refusal(), failure.retry_after()) {
        (Some(refusal), _) => permission_denied(reason(refusal), message),
        (None, Some(delay)) => unavailable_retry(message, delay),
        (None, None) => Status::new(code, message),
    }
}

/// The status of an item of a batch.
pub(super) fn to_item<T>(result: &Result<T, impl Failure>) -> types::Status {
    match result {
        Ok(_) => ok_item(),
        Err(failure) => {
            let (code, message) = outside(failure);
            types::Status {
                code: code.into(),
                message,
            }
        }
    }
}

/// The status of an item that went well.
pub(super) fn ok_item() -> types::Status {
    types::Status {
        code: Code::Ok.into(),
        message: "OK".into(),
    }
}

/// The status of a request that says something that cannot be.
pub(super) fn invalid(what: impl Into<String>) -> Status {
    Status::invalid_argument(what)
}

fn outside(failure: &impl Failure) -> (Code, String) {
    let kind = failure.kind();
    match kind {
        ErrorKind::Internal => {
            error!(error = %Chain(failure), "request failed");
            return (Code::Internal, INTERNAL.into());
        }
        ErrorKind::Unavailable if !failure.is_by_strangers() => {
            warn!(error = %Chain(failure), "request failed for now")
        }
        _ => debug!(error = %Chain(failure), "request refused"),
    }
    (code(kind), shortened(failure.public_message()))
}

/// At most [`TEXT_MAX`] bytes: the beginning says what is wrong, and where.
fn shortened(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX - "…".len()));
        text.push('…');
    }
    text
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Aborted => Code::Aborted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
    }
}

fn reason(refusal: AgentRefusal) -> Reason {
    match refusal {
        AgentRefusal::NotAttested => Reason::AgentNotAttested,
        AgentRefusal::Banned => Reason::AgentBanned,
        AgentRefusal::Expired => Reason::AgentExpired,
        AgentRefusal::NotActive => Reason::AgentNotActive,
        AgentRefusal::MustReattest => Reason::AgentMustReattest,
    }
}

impl Failure for ConvertError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

impl Failure for CallerError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn refusal(&self) -> Option<AgentRefusal> {
        self.refusal()
    }
}

impl Failure for CommitError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Failure for TaskError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn public_message(&self) -> String {
        match self {
            Self::Issue(source) => source.public_message(),
            _ => self.to_string(),
        }
    }
}

impl Failure for ChangeError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Failure for DebtError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Failure for FindError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Failure for PolicyRefusal {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Failure for RegisterError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Failure for BundleError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Failure for TokenError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Failure for IssueError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn public_message(&self) -> String {
        self.public_message()
    }

    fn refusal(&self) -> Option<AgentRefusal> {
        issue_refusal(self)
    }
}

impl Failure for MintError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn public_message(&self) -> String {
        match self {
            Self::Issue(error) => error.public_message(),
            _ => Chain(self).to_string(),
        }
    }
}

impl Failure for AgentError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn public_message(&self) -> String {
        match self {
            Self::Issue(error) => error.public_message(),
            Self::Commit(error) => error.to_string(),
            _ => Chain(self).to_string(),
        }
    }

    fn refusal(&self) -> Option<AgentRefusal> {
        match self {
            Self::Refused(error) => error.refusal(),
            Self::Issue(error) => issue_refusal(error),
            _ => None,
        }
    }
}

impl Failure for AttestError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn public_message(&self) -> String {
        self.public_message()
    }

    fn refusal(&self) -> Option<AgentRefusal> {
        self.refusal()
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after()
    }

    fn is_by_strangers(&self) -> bool {
        !matches!(self, Self::Issue(_))
    }
}

fn issue_refusal(error: &IssueError) -> Option<AgentRefusal> {
    match error {
        IssueError::AgentNotActive => Some(AgentRefusal::NotActive),
        IssueError::Commit(CommitError::Conflict(conflict)) => match conflict {
            Conflict::AgentBanned => Some(AgentRefusal::Banned),
            Conflict::AgentNotFound => Some(AgentRefusal::NotAttested),
            Conflict::SerialNotInUse => Some(AgentRefusal::NotActive),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A status travels in a header, or a thousand times in an answer.
    #[test]
    fn what_repeats_a_long_request_is_cut() {
        let refused = ConvertError::new("entry.spiffe_id", "ü".repeat(100_000));
        let text = to_item::<()>(&Err(refused)).message;
        assert!(text.len() <= TEXT_MAX && text.ends_with("ü…"), "{} bytes", text.len());
        assert!(text.starts_with("entry.spiffe_id"));
        assert_eq!(shortened("short".into()), "short");
    }
}
