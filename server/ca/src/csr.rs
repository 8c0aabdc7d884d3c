//! Certification requests (PKCS#10, RFC 2986): a public key, and proof that the asker has its private half.

use rustls_pki_types::alg_id::{
    ECDSA_SHA256, ECDSA_SHA384, ED25519, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
};
use x509_parser::asn1_rs::Any;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::der::{BIT_STRING, SEQUENCE, content, short_sequence};
use crate::public_key::Unproven;
use crate::{PublicKey, PublicKeyError};

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
    /// The asker has the private half.
    pub public_key: PublicKey,
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
    if !rest.is_empty() || csr.signature_value.unused_bits != 0 {
        return Err(CsrError::Malformed);
    }
    let info = &csr.certification_request_info;
    let key = Unproven::from_der(info.subject_pki.raw)?;
    let algorithm = check_encoding(&csr)?;
    let proven = key.prove(algorithm, info.raw, &csr.signature_value.data)?;
    let public_key = proven.ok_or(CsrError::Signature)?;
    Ok(VerifiedCsr { public_key })
}

/// Refuses other tags than those of RFC 2986 §4.2, and another version than the only one. The parser takes them, so the
/// bytes are compared. Gives the algorithm of the signature, one that is known here; of each there is one encoding
/// (RFC 5280 §4.1.1.2).
fn check_encoding<'a>(csr: &X509CertificationRequest<'a>) -> Result<&'a [u8], CsrError> {
    let (whole, info) = (csr.as_raw(), csr.certification_request_info.raw);
    let key = csr.certification_request_info.subject_pki.raw;
    if !content(info).is_some_and(|content| has_parts_of_info(content, key)) {
        return Err(CsrError::Malformed);
    }
    let after_info = content(whole).and_then(|content| content.strip_prefix(info));
    let Some(after_info @ [SEQUENCE, ..]) = after_info else {
        return Err(CsrError::Malformed);
    };
    let (algorithm, signature) = short_sequence(after_info).ok_or(CsrError::Algorithm)?;
    let known = [
        ECDSA_SHA256,
        ECDSA_SHA384,
        ED25519,
        RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA384,
        RSA_PKCS1_SHA512,
    ];
    if !known.iter().any(|known| known.as_ref() == algorithm) {
        return Err(CsrError::Algorithm);
    }
    match signature.first() {
        Some(&BIT_STRING) => Ok(algorithm),
        _ => Err(CsrError::Malformed),
    }
}

/// Whether this is version 0, a name, `key` where the parser found it, and attributes. The parser does not mind what is
/// left over within the name, and goes on there instead of behind it.
fn has_parts_of_info(content: &[u8], key: &[u8]) -> bool {
    let name = content.strip_prefix(b"\x02\x01\x00").map(Any::from_der);
    let Some(Ok((after_name, name))) = name else {
        return false;
    };
    let attributes = after_name.strip_prefix(key).map(Any::from_der);
    let Some(Ok((rest, attributes))) = attributes else {
        return false;
    };
    // As bytes: a tag has more than one form, and of a form the number alone would be compared.
    name.header.raw_tag() == Some(&[SEQUENCE]) && attributes.header.raw_tag() == Some(&[0xa0]) && rest.is_empty()
}
