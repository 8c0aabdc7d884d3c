//! Which public keys get an SVID: those that every verifier in the field can use, in one encoding only.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// A public key that gets no SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// Not SubjectPublicKeyInfo in its one DER encoding.
    #[error("the public key is not a well-formed SubjectPublicKeyInfo")]
    Malformed,
    /// Another algorithm or curve.
    #[error("the kind of the public key is not allowed: use ECDSA P-256 or P-384, RSA 2048 to 4096 or Ed25519")]
    Kind,
    /// An RSA key too short to be safe or too long to be cheap.
    #[error("an RSA key of {bits} bits is not allowed, use 2048 to 4096")]
    RsaSize {
        /// Bits of the modulus.
        bits: usize,
    },
    /// Even, below 65537, or above what verifiers accept (2^31 - 1).
    #[error("the RSA key has an unusual public exponent, use 65537")]
    RsaExponent,
}

/// Reads and checks a public key: SubjectPublicKeyInfo, DER.
pub(crate) fn check_public_key(spki_der: &[u8]) -> Result<SubjectPublicKeyInfo, PublicKeyError> {
    let (rest, parsed) =
        x509_parser::x509::SubjectPublicKeyInfo::from_der(spki_der).map_err(|_| PublicKeyError::Malformed)?;
    if !rest.is_empty() {
        return Err(PublicKeyError::Malformed);
    }
    let key = SubjectPublicKeyInfo::from_der(spki_der).map_err(|_| PublicKeyError::Kind)?;
    let algorithm: &'static dyn VerificationAlgorithm = match key.algorithm() {
        kind if *kind == rcgen::PKCS_ECDSA_P256_SHA256 => &ECDSA_P256_SHA256_ASN1,
        kind if *kind == rcgen::PKCS_ECDSA_P384_SHA384 => &ECDSA_P384_SHA384_ASN1,
        kind if *kind == rcgen::PKCS_ED25519 => &ED25519,
        _ => {
            let PublicKey::RSA(rsa) = parsed.parsed().map_err(|_| PublicKeyError::Kind)? else {
                return Err(PublicKeyError::Kind);
            };
            check_rsa(rsa.modulus, rsa.exponent)?;
            &RSA_PKCS1_2048_8192_SHA256
        }
    };
    // What the certificate will hold is written anew from the parts, so it must come out as it came in; and aws-lc
    // refuses points that are not on the curve.
    if key.subject_public_key_info() != spki_der || ParsedPublicKey::new(algorithm, key.der_bytes()).is_err() {
        return Err(PublicKeyError::Malformed);
    }
    Ok(key)
}

fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Result<(), PublicKeyError> {
    let modulus = trim(modulus);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=4096).contains(&bits) {
        return Err(PublicKeyError::RsaSize { bits });
    }
    let exponent = trim(exponent);
    let value = exponent
        .iter()
        .fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
    if exponent.len() > 4 || value % 2 == 0 || !(65_537..1 << 31).contains(&value) {
        return Err(PublicKeyError::RsaExponent);
    }
    Ok(())
}

fn trim(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[start..]
}
