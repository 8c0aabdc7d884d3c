//! Bundles: the own one, which only grows by operators' hands, and those of others.

use std::sync::Arc;

use mayfly_model::{Actor, BundleDeleteMode, BundlePatch, Change, Delta, ErrorKind, Step};
use mayfly_svid::{Bundle, JwtAuthority, Timestamp, TrustAnchors, TrustDomain, UnusableAuthority, X509Authority};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::register::commit_checked;
use crate::commit::{CommitError, Committer, Snapshot};

/// Why a bundle was not found or not changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// There is none of this trust domain.
    #[error("bundle not found")]
    NotFound,
    /// The own trust domain is no foreign one (SPID-13).
    #[error(
        "`{0}` is this server's own trust domain: the server keeps that bundle by itself, and only bundles of other \
         trust domains are set and deleted; `mayfly bundle show` shows it"
    )]
    Own(TrustDomain),
    /// Nothing was given to append.
    #[error("no authorities to append")]
    Nothing,
    /// A certificate that cannot sign (XSVID-08).
    #[error("an X.509 authority is refused")]
    Authority(#[from] UnusableAuthority),
    /// Not a public key.
    #[error("the JWT authority `{key_id}` is not a PKIX public key")]
    JwtKey {
        /// Its key ID.
        key_id: String,
    },
    /// The commit refused it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The bundle of a foreign trust domain.
///
/// # Errors
/// It is the own trust domain, or there is no bundle of it.
pub fn federated<'s>(snapshot: &'s Snapshot, trust_domain: &TrustDomain) -> Result<&'s Arc<Bundle>, BundleError> {
    check_foreign(snapshot, trust_domain)?;
    snapshot.bundle(trust_domain).ok_or(BundleError::NotFound)
}

/// Adds authorities of others to the own bundle; what it has already stays as it is. Answers with the bundle.
///
/// # Errors
/// There is nothing to add, an authority is unusable, or it could not be stored; nothing is added then.
///
/// # Cancel safety
/// Dropping the future does not undo what was handed to the committer; the same for all below.
pub async fn append(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    x509_authorities: Vec<X509Authority>,
    jwt_authorities: Vec<JwtAuthority>,
) -> Result<Arc<Bundle>, BundleError> {
    if x509_authorities.is_empty() && jwt_authorities.is_empty() {
        return Err(BundleError::Nothing);
    }
    let trust_domain = committer.snapshot().trust_domain().clone();
    let added = Bundle {
        x509_authorities,
        jwt_authorities,
        ..Bundle::empty(trust_domain.clone())
    };
    check_authorities(&added)?;
    let Bundle {
        x509_authorities,
        jwt_authorities,
        ..
    } = added;
    let change = Change::BundleAppend {
        x509_authorities,
        jwt_authorities,
    };
    committer
        .commit(Step {
            actor: actor.clone(),
            time: now,
            change,
        })
        .await?;
    // With nothing new in it the commit has no delta; the bundle is there all the same.
    committer.snapshot().own_bundle().cloned().ok_or(BundleError::NotFound)
}

/// What happens to a foreign bundle that an operator brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is added; one that is there stops it.
    Create,
    /// It is added, or replaces the one that is there.
    Set,
}

/// Puts foreign bundles in place; the answers are in the order of `bundles`. Each stands or falls alone.
pub async fn put(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    bundles: Vec<Bundle>,
    how: Put,
) -> Vec<Result<Arc<Bundle>, BundleError>> {
    let snapshot = committer.snapshot();
    let changes = bundles.into_iter().map(|bundle| {
        check_bundle(&snapshot, &bundle)?;
        let (trust_domain, bundle) = (bundle.trust_domain.clone(), Box::new(bundle));
        let change = match how {
            Put::Create => Change::BundleCreate(bundle),
            Put::Set => Change::BundleSet(bundle),
        };
        Ok((trust_domain, change))
    });
    put_bundles(committer, actor, now, changes.collect()).await
}

/// Replaces the stated parts of foreign bundles.
pub async fn update(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    patches: Vec<(TrustDomain, BundlePatch)>,
) -> Vec<Result<Arc<Bundle>, BundleError>> {
    let snapshot = committer.snapshot();
    let changes = patches.into_iter().map(|(trust_domain, patch)| {
        check_foreign(&snapshot, &trust_domain)?;
        check_authorities(&Bundle {
            x509_authorities: patch.x509_authorities.clone().unwrap_or_default(),
            jwt_authorities: patch.jwt_authorities.clone().unwrap_or_default(),
            ..Bundle::empty(trust_domain.clone())
        })?;
        Ok((
            trust_domain.clone(),
            Change::BundleUpdate {
                trust_domain,
                patch: Box::new(patch),
            },
        ))
    });
    put_bundles(committer, actor, now, changes.collect()).await
}

/// Removes foreign bundles.
pub async fn delete(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    trust_domains: Vec<TrustDomain>,
    mode: BundleDeleteMode,
) -> Vec<Result<(), BundleError>> {
    let snapshot = committer.snapshot();
    let changes = trust_domains.into_iter().map(|trust_domain| {
        check_foreign(&snapshot, &trust_domain)?;
        Ok(Change::BundleDelete { trust_domain, mode })
    });
    let results = commit_checked(committer, actor, now, changes.collect()).await;
    results.into_iter().map(|result| result.map(drop)).collect()
}

type Checked = Result<(TrustDomain, Change), BundleError>;

async fn put_bundles(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    changes: Vec<Checked>,
) -> Vec<Result<Arc<Bundle>, BundleError>> {
    let (names, changes): (Vec<_>, Vec<_>) = changes
        .into_iter()
        .map(|checked| match checked {
            Ok((name, change)) => (Some(name), Ok(change)),
            Err(error) => (None, Err(error)),
        })
        .unzip();
    let results = commit_checked(committer, actor, now, changes).await;
    let after = committer.snapshot();
    let answer = |name: Option<TrustDomain>, deltas: Vec<Delta>| {
        let put = deltas.into_iter().rev().find_map(|delta| match delta {
            Delta::BundlePut(bundle) => Some(bundle),
            _ => None,
        });
        // A bundle that was set to what it was has no delta.
        put.or_else(|| after.bundle(&name?).cloned())
            .ok_or(BundleError::NotFound)
    };
    results
        .into_iter()
        .zip(names)
        .map(|(result, name)| result.and_then(|deltas| answer(name, deltas)))
        .collect()
}

fn check_bundle(snapshot: &Snapshot, bundle: &Bundle) -> Result<(), BundleError> {
    check_foreign(snapshot, &bundle.trust_domain)?;
    check_authorities(bundle)
}

fn check_foreign(snapshot: &Snapshot, trust_domain: &TrustDomain) -> Result<(), BundleError> {
    if trust_domain == snapshot.trust_domain() {
        return Err(BundleError::Own(trust_domain.clone()));
    }
    Ok(())
}

fn check_authorities(bundle: &Bundle) -> Result<(), BundleError> {
    if let Some(unusable) = TrustAnchors::from_bundle(bundle).unusable().first() {
        return Err(unusable.clone().into());
    }
    let is_key = |der: &[u8]| matches!(SubjectPublicKeyInfo::from_der(der), Ok((rest, _)) if rest.is_empty());
    match bundle.jwt_authorities.iter().find(|key| !is_key(&key.public_key_der)) {
        Some(key) => Err(BundleError::JwtKey {
            key_id: key.key_id.clone(),
        }),
        None => Ok(()),
    }
}

impl BundleError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::Own(_) | Self::Nothing | Self::Authority(_) | Self::JwtKey { .. } => ErrorKind::InvalidArgument,
            Self::Commit(error) => error.kind(),
        }
    }
}
