//! Why nothing was signed.

use std::time::Duration;

use mayfly_ca::{CsrError, ProfileError, SignError};
use mayfly_model::ErrorKind;
use mayfly_model::task::{TTL_FLOOR, TtlTerm};
use mayfly_svid::Timestamp;

use crate::commit::CommitError;

/// Why an SVID was not issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// No such entry, or not one that this agent may serve: the two read the same.
    #[error("entry not found or not authorized")]
    EntryNotFound,
    /// The entry has expired.
    #[error("the entry expired at {0}")]
    EntryExpired(Timestamp),
    /// What excepted this identity is over.
    #[error(
        "EXCEPTION_OVER: exception `{0}` of this identity is over; renew it, or end it once the power is taken away"
    )]
    ExceptionOver(String),
    /// Power over the server needs an exception here.
    #[error("EXCEPTION_NEEDED: the entry has power over the server, and no exception in force says why")]
    ExceptionNeeded,
    /// The entry is another one than when it was asked for: what was prepared says what it said then.
    #[error("the entry changed meanwhile; ask again")]
    EntryChanged,
    /// The agent lost its standing while the request was on its way.
    #[error("the agent is no longer active")]
    AgentNotActive,
    /// What is left of the window, or of whatever else ends first, is too short.
    #[error(
        "WINDOW_TOO_SHORT: the SVID would be valid for {} s by {}, the least is {} s",
        .left.as_secs(), .term.word(), TTL_FLOOR.as_secs()
    )]
    WindowTooShort {
        /// How long it would be valid.
        left: Duration,
        /// What makes it so short.
        term: TtlTerm,
    },
    /// The window is not open, not this agent's, or not for this identity. The three read the same.
    #[error("the window is not open")]
    WindowNotOpen,
    /// The authority was taken out of the bundle while the request was on its way.
    #[error("the authority was revoked meanwhile; ask again")]
    AuthorityRevoked,
    /// The certification request is not acceptable.
    #[error("the CSR is not acceptable")]
    Csr(#[source] CsrError),
    /// The certificate would break the profile.
    #[error("the certificate would not be a valid X.509-SVID")]
    Profile(#[source] ProfileError),
    /// The intent could not be made durable, or the change that goes with it was refused.
    #[error("the issuance could not be recorded")]
    Commit(#[source] CommitError),
    /// The key did not sign.
    #[error("the certificate could not be signed")]
    Sign(#[source] SignError),
    /// There is no active authority yet.
    #[error("no authority is active yet")]
    NoAuthority,
    /// The work was cut off.
    #[error("the server is stopping")]
    Stopped,
}

impl IssueError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::EntryNotFound => ErrorKind::NotFound,
            Self::EntryExpired(_)
            | Self::ExceptionOver(_)
            | Self::ExceptionNeeded
            | Self::WindowTooShort { .. }
            | Self::WindowNotOpen => ErrorKind::FailedPrecondition,
            Self::EntryChanged | Self::AuthorityRevoked => ErrorKind::Aborted,
            Self::AgentNotActive => ErrorKind::PermissionDenied,
            Self::Csr(_) => ErrorKind::InvalidArgument,
            Self::Profile(ProfileError::AuthorityNotValid { .. }) | Self::NoAuthority | Self::Stopped => {
                ErrorKind::Unavailable
            }
            Self::Profile(_) => ErrorKind::InvalidArgument,
            Self::Commit(source) => source.kind(),
            Self::Sign(_) => ErrorKind::Internal,
        }
    }

    /// What the caller may read.
    pub fn public_message(&self) -> String {
        match self {
            Self::Csr(source) => format!("{self}: {source}"),
            Self::Profile(source) => format!("{self}: {source}"),
            Self::Commit(source) => source.to_string(),
            _ if self.kind() == ErrorKind::Internal => "internal error".into(),
            _ => self.to_string(),
        }
    }
}
