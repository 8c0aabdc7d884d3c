//! Certification requests (PKCS#10, RFC 2986): a public key, and proof that the asker has its private half.

use rustls_pki_types::alg_id::{
    ECDSA_SHA256, ECDSA_SHA384, ED25519, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use crate::PublicKeyError;
use crate::public_key::check_public_key;

/// The largest request that is read: an RSA-4096 key with some names has half of it.
const MAX_CSR_BYTES: usize = 4096;

/// A certification request that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// More than 4096 bytes.
    #[error("the CSR has {bytes} bytes, at most 4096 are accepted")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// Not DER of one request, or something follows it. A PEM request is one of these.
    #[error("the CSR is not a well-formed DER certification request")]
    Malformed,
    /// Its key gets no SVID.
    #[error("the CSR's public key is refused")]
    PublicKey(#[from] PublicKeyError),
    /// Signed with an algorithm that is weak or unknown here.
    #[error("the CSR is signed with an algorithm that is not allowed")]
    Algorithm,
    /// The asker does not have the private key.
    #[error("the CSR's signature does not verify with its public key")]
    Signature,
}

/// What is taken from a request: the key and nothing else. Names and extensions that it asks for are ignored, the
/// authority alone says what it signs (SVID-14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCsr {
    /// SubjectPublicKeyInfo, DER; the asker has the private half.
    pub public_key_der: Vec<u8>,
}

/// Reads a certification request, DER of at most 4096 bytes, and verifies that its sender has the private key.
///
/// # Errors
/// The first rule that is broken; sizes come first, the signature last.
pub fn parse_csr(csr_der: &[u8]) -> Result<VerifiedCsr, CsrError> {
    if csr_der.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLarge { bytes: csr_der.len() });
    }
    let Ok((rest, csr)) = X509CertificationRequest::from_der(csr_der) else {
        return Err(CsrError::Malformed);
    };
    let info = &csr.certification_request_info;
    if !rest.is_empty() || info.version != X509Version::V1 || csr.signature_value.unused_bits != 0 {
        return Err(CsrError::Malformed);
    }
    let public_key_der = info.subject_pki.raw.to_vec();
    check_public_key(&public_key_der)?;
    // The parser is lenient about tags in here, so the bytes are compared: one encoding per algorithm (RFC 5280
    // §4.1.1.2).
    if !info_is_followed_by_known_algorithm(&csr) {
        return Err(CsrError::Algorithm);
    }
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(VerifiedCsr { public_key_der })
}

fn info_is_followed_by_known_algorithm(csr: &X509CertificationRequest<'_>) -> bool {
    let known = [
        ECDSA_SHA256,
        ECDSA_SHA384,
        ED25519,
        RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA384,
        RSA_PKCS1_SHA512,
    ]
    .into_iter();
    let (whole, info) = (csr.as_raw(), csr.certification_request_info.raw);
    // SEQUENCE { info, algorithm, signature }: the header of the whole has 2 to 4 bytes.
    let after_info = (2..=4).find_map(|header| whole.get(header..)?.strip_prefix(info));
    let Some([0x30, len, content @ ..]) = after_info else {
        return false;
    };
    known
        .into_iter()
        .any(|algorithm| usize::from(*len) == algorithm.len() && content.starts_with(&algorithm))
}
