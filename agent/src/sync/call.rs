//! One call to the server: its time limit, and its failure in words.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use mayfly_proto::convert::ConvertError;
use mayfly_proto::status::{self, Reason};
use tonic::{Code, Response, Status};

/// A call that takes longer has failed.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A call to the server failed.
#[derive(Debug)]
pub struct CallError {
    call: &'static str,
    status: Box<Status>,
}

/// Awaits a unary call, at most [`CALL_TIMEOUT`].
///
/// # Errors
/// The server refused, is away, or took too long.
pub(super) async fn unary<T>(
    call: &'static str,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::new(call, status)),
        Err(_) => {
            let text = format!("no answer within {} s", CALL_TIMEOUT.as_secs());
            Err(CallError::new(call, Status::deadline_exceeded(text)))
        }
    }
}

/// What the server sent, as our noun.
///
/// # Errors
/// It cannot be one; the code is then `DataLoss`, as the fault is the server's.
pub(super) fn read<T>(call: &'static str, result: Result<T, ConvertError>) -> Result<T, CallError> {
    result.map_err(|error| CallError::malformed(call, error))
}

// === impl CallError ===

impl CallError {
    /// `call` failed with `status`.
    pub fn new(call: &'static str, status: Status) -> Self {
        Self {
            call,
            status: Box::new(status),
        }
    }

    /// The answer to `call` makes no sense.
    pub fn malformed(call: &'static str, what: impl fmt::Display) -> Self {
        Self::new(call, Status::data_loss(format!("the answer cannot be used: {what}")))
    }

    /// The status's code.
    pub fn code(&self) -> Code {
        self.status.code()
    }

    /// What the server said, for a person.
    pub fn message(&self) -> &str {
        self.status.message()
    }

    /// Why the server refused this agent, if it said so.
    pub fn refusal(&self) -> Option<Reason> {
        status::permission_denied_reason(&self.status)
    }

    /// How long the server wants us to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        status::retry_after(&self.status)
    }

    /// Whether asking the same again cannot help until somebody changed something.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self.code(),
            Code::PermissionDenied | Code::InvalidArgument | Code::Unauthenticated | Code::FailedPrecondition
        ) && self.retry_after().is_none()
    }

    /// The certificate check that ended the connection, if that is what happened: either side did not believe the
    /// other.
    pub fn tls_failure(&self) -> Option<&rustls::Error> {
        let mut next: Option<&(dyn Error + 'static)> = self.status.source();
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(tls);
            }
            // The source of an `io::Error` is the source of what it wraps, so the wrapped error has to be asked for.
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(tls) = wrapped.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return Some(tls);
            }
            next = error.source();
        }
        None
    }

    /// Whether the server's certificate was refused by us.
    pub fn server_not_believed(&self) -> bool {
        matches!(self.tls_failure(), Some(rustls::Error::InvalidCertificate(_)))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} failed ({:?}): {}",
            self.call,
            self.status.code(),
            self.status.message()
        )
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.status.source()
    }
}
