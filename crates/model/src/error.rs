//! The closed set of kinds that an error can have towards a caller.

/// What an error means for the caller; named after the gRPC codes that answer with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong; asking again cannot help.
    InvalidArgument,
    /// The thing does not exist, or the caller may not know that it does.
    NotFound,
    /// A thing with this identity is there already.
    AlreadyExists,
    /// The caller is not known.
    Unauthenticated,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// The state of the system does not allow it now.
    FailedPrecondition,
    /// A limit was reached.
    ResourceExhausted,
    /// A concurrent change won.
    Aborted,
    /// Not reachable or not ready; asking again later can help.
    Unavailable,
    /// It took too long.
    DeadlineExceeded,
    /// Not offered.
    Unimplemented,
    /// Our fault. Callers read "internal error", the log has the chain.
    Internal,
}
