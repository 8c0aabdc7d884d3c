//! Whether an operator may write this entry: by the path that it gives, and by what it gives besides.
//!
//! A registrar of `/ns/payments/*` makes workloads of payments and nothing else. What reaches beyond a path takes the role
//! admin: the flags `admin` and `downstream`, with which a registrar would make an operator or a server, and DNS names, which
//! are bound to no path.
//!
//! Asked of the state that the call was admitted by. An administrator who moves an entry to another path at the same moment
//! as its registrar changes it may see that change still happen.

use mayfly_model::{EntryId, EntryPatch, EntrySpec, ErrorKind};

use super::caller::CallerError;
use super::standing::Standing;
use crate::commit::Snapshot;

/// Why an entry may not be written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Not by this caller.
    #[error(transparent)]
    Caller(#[from] CallerError),
    /// More than a path.
    #[error("entries with {what} take the role admin")]
    BeyondPath {
        /// What it has.
        what: &'static str,
        /// What the policy says.
        source: CallerError,
    },
    /// There is none, as far as this caller is concerned.
    #[error("entry not found")]
    NotFound,
}

/// Whether an entry may be made.
///
/// # Errors
/// It may not.
pub fn may_create(standing: &Standing, spec: &EntrySpec) -> Result<(), WriteError> {
    if standing.is_unbounded() {
        return Ok(());
    }
    let path = spec.spiffe_id.path();
    standing.may(path)?;
    let beyond = [
        (spec.admin, "the flag `admin`"),
        (spec.downstream, "the flag `downstream`"),
        (!spec.dns_names.is_empty(), "DNS names"),
    ];
    for (_, what) in beyond.into_iter().filter(|(has, _)| *has) {
        standing
            .may_as_admin(path)
            .map_err(|source| WriteError::BeyondPath { what, source })?;
    }
    Ok(())
}

/// Whether an entry may be changed: what it is and what it would be.
///
/// # Errors
/// It may not, or there is none.
pub fn may_update(
    standing: &Standing,
    snapshot: &Snapshot,
    id: &EntryId,
    patch: &EntryPatch,
) -> Result<(), WriteError> {
    if standing.is_unbounded() {
        return Ok(());
    }
    let present = snapshot.entry(id).ok_or(WriteError::NotFound)?;
    may_create(standing, &present.spec)?;
    may_create(standing, &patch.clone().apply(&present.spec))
}

/// Whether an entry may be removed.
///
/// # Errors
/// It may not, or there is none.
pub fn may_delete(standing: &Standing, snapshot: &Snapshot, id: &EntryId) -> Result<(), WriteError> {
    if standing.is_unbounded() {
        return Ok(());
    }
    let present = snapshot.entry(id).ok_or(WriteError::NotFound)?;
    may_create(standing, &present.spec)
}

impl WriteError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Caller(error) => error.kind(),
            Self::BeyondPath { .. } => ErrorKind::PermissionDenied,
            Self::NotFound => ErrorKind::NotFound,
        }
    }
}
