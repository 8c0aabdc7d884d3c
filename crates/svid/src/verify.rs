//! Path validation of X.509-SVIDs (X509-SVID §5).
//!
//! Sizes are checked before anything is parsed, the leaf's own rules before any signature, and the chain only against
//! the bundle of the trust domain that the leaf names. What comes back was read from the bytes that were verified.

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, Error as PathError, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath,
};

use crate::x509::check_bounds;
use crate::{Timestamp, TrustAnchors, TrustDomain, X509Svid, X509SvidError};

/// Why an X.509-SVID was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Not an X.509-SVID at all.
    #[error("not an X.509-SVID")]
    NotAnSvid(#[from] X509SvidError),
    /// It belongs to another trust domain than the bundle it was offered to (SPIFFE-ID §3).
    #[error("the SVID is of trust domain `{presented}`, the bundle is of `{expected}`")]
    OtherTrustDomain {
        /// The trust domain that the leaf names.
        presented: TrustDomain,
        /// The trust domain of the bundle.
        expected: TrustDomain,
    },
    /// The leaf is not valid yet.
    #[error("the SVID is not valid before {not_before}")]
    NotYetValid {
        /// Its first valid second.
        not_before: Timestamp,
    },
    /// The leaf is not valid any more.
    #[error("the SVID expired, it was valid until {not_after}")]
    Expired {
        /// Its last valid second.
        not_after: Timestamp,
    },
    /// A certificate above the leaf, or the authority itself, is outside its validity.
    #[error("a signing certificate of the chain is expired or not valid yet")]
    AuthorityNotValid,
    /// No authority of the bundle leads to the leaf.
    #[error("no authority in the bundle of `{trust_domain}` signed the SVID")]
    UnknownAuthority {
        /// The trust domain whose bundle was searched.
        trust_domain: TrustDomain,
    },
    /// An authority of the right name is there, but a signature does not hold.
    #[error("a signature in the chain does not verify")]
    BadSignature,
    /// Validating the chain would cost more than any honest chain does.
    #[error("the chain is too costly to validate")]
    TooCostly,
    /// Another rule of RFC 5280 is broken.
    #[error("the certificate path is not valid")]
    Path(#[source] PathError),
}

/// Verifies a chain, leaf first, against the bundle of its trust domain at the instant `now`. Both ends of a validity
/// are inclusive; no leeway is given. Extended key usage, where present, must allow both TLS roles (X509-SVID §4.4).
///
/// # Errors
/// See [`VerifyError`]. The order of the checks is: sizes, leaf rules, trust domain, path.
pub fn verify_x509_svid(
    chain: &[CertificateDer<'_>],
    anchors: &TrustAnchors,
    now: Timestamp,
) -> Result<X509Svid, VerifyError> {
    check_bounds(chain)?;
    let svid = X509Svid::from_chain(chain.iter().map(|der| der.clone().into_owned()).collect())?;
    if !svid.spiffe_id().is_member_of(&anchors.trust_domain) {
        return Err(VerifyError::OtherTrustDomain {
            presented: svid.spiffe_id().trust_domain(),
            expected: anchors.trust_domain.clone(),
        });
    }
    verify_path(&svid, anchors, now)?;
    Ok(svid)
}

fn verify_path(svid: &X509Svid, anchors: &TrustAnchors, now: Timestamp) -> Result<(), VerifyError> {
    // RFC 5280 leaves an anchor's own validity and path length to the verifier; webpki does not know them.
    let valid: Vec<TrustAnchor<'_>> = anchors
        .anchors
        .iter()
        .filter(|anchor| anchor.not_before <= now && now <= anchor.not_after)
        .map(|anchor| anchor.anchor.clone())
        .collect();
    let leaf = EndEntityCert::try_from(&svid.chain()[0]).map_err(VerifyError::Path)?;
    let seconds = u64::try_from(now.unix()).unwrap_or(0);
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let path = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS, // no MD5, no SHA-1, no RSA below 2048 bits
        &valid,
        &svid.chain()[1..],
        time,
        BothTlsRoles,
        None,
        Some(&|path| check_path_len(path, anchors)),
    );
    match path {
        Ok(_) => Ok(()),
        Err(error) => Err(name_failure(error, svid, anchors, valid.len(), now)),
    }
}

fn check_path_len(path: &VerifiedPath<'_>, anchors: &TrustAnchors) -> Result<(), PathError> {
    let used = path.anchor();
    let same = |anchor: &TrustAnchor<'_>| {
        anchor.subject == used.subject && anchor.subject_public_key_info == used.subject_public_key_info
    };
    let limit = anchors
        .anchors
        .iter()
        .filter(|anchor| same(&anchor.anchor))
        .filter_map(|anchor| anchor.path_len)
        .min();
    let intermediates = path
        .intermediate_certificates()
        .filter(|cert| cert.issuer() != cert.subject())
        .count();
    match limit {
        Some(limit) if intermediates > limit as usize => Err(PathError::PathLenConstraintViolated),
        _ => Ok(()),
    }
}

/// The variant that tells an operator what to do about `error`.
fn name_failure(
    error: PathError,
    svid: &X509Svid,
    anchors: &TrustAnchors,
    valid_anchors: usize,
    now: Timestamp,
) -> VerifyError {
    match error {
        PathError::CertExpired { .. } if now > svid.not_after() => VerifyError::Expired {
            not_after: svid.not_after(),
        },
        PathError::CertNotValidYet { .. } if now < svid.not_before() => VerifyError::NotYetValid {
            not_before: svid.not_before(),
        },
        PathError::CertExpired { .. } | PathError::CertNotValidYet { .. } => VerifyError::AuthorityNotValid,
        PathError::UnknownIssuer if valid_anchors < anchors.anchors.len() => VerifyError::AuthorityNotValid,
        PathError::UnknownIssuer => VerifyError::UnknownAuthority {
            trust_domain: anchors.trust_domain.clone(),
        },
        PathError::InvalidSignatureForPublicKey => VerifyError::BadSignature,
        PathError::MaximumSignatureChecksExceeded
        | PathError::MaximumPathBuildCallsExceeded
        | PathError::MaximumPathDepthExceeded
        | PathError::MaximumNameConstraintComparisonsExceeded => VerifyError::TooCostly,
        other => VerifyError::Path(other),
    }
}

/// Extended key usage absent, or with both TLS roles: an SVID serves as either.
struct BothTlsRoles;

/// `anyExtendedKeyUsage` (RFC 5280 §4.2.1.12), found on some corporate intermediates.
const ANY_PURPOSE: &[usize] = &[2, 5, 29, 37, 0];

impl ExtendedKeyUsageValidator for BothTlsRoles {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), PathError> {
        let present = purposes
            .map(|purpose| Ok(purpose?.to_decoded_oid()))
            .collect::<Result<Vec<_>, PathError>>()?;
        if present.is_empty() || present.iter().any(|purpose| purpose == ANY_PURPOSE) {
            return Ok(());
        }
        for required in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            if !present
                .iter()
                .any(|purpose| required.oid_values().eq(purpose.iter().copied()))
            {
                return Err(PathError::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
                    required,
                    present,
                }));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
