//! Which public keys get an SVID: those that every verifier in the field can use, in one encoding only.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    VerificationAlgorithm,
};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as X509PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::der::{SEQUENCE, bit_string, content, element, short_sequence};

/// The first octet of a point with both coordinates (SEC 1 §2.3.3), the only form that RFC 5480 §2.2 makes everyone read.
const UNCOMPRESSED: u8 = 4;

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

/// A public key that may get an SVID.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    der: Box<[u8]>,
    sha256: [u8; 32],
}

impl PublicKey {
    /// Reads and checks a public key: SubjectPublicKeyInfo, DER.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn from_der(spki_der: &[u8]) -> Result<Self, PublicKeyError> {
        let key = Unproven::from_der(spki_der)?;
        let (_, algorithm) = key.kind.algorithms()[0];
        key.parse(algorithm)?;
        Ok(key.accept())
    }

    /// SubjectPublicKeyInfo.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// [`Self::der`], of its own.
    pub(crate) fn into_der(self) -> Box<[u8]> {
        self.der
    }

    /// SHA-256 of [`Self::der`].
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The key identifier, as [`mayfly_svid::public_key_id`] has it.
    pub(crate) fn id(&self) -> &[u8] {
        &self.sha256[..20]
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} bytes)", self.der.len())
    }
}

/// A public key of a kind and in an encoding that are allowed. Whether it is a key at all shows when it is used.
pub(crate) struct Unproven<'a> {
    kind: Kind,
    der: &'a [u8],
    bits: &'a [u8],
}

impl<'a> Unproven<'a> {
    pub(crate) fn from_der(spki_der: &'a [u8]) -> Result<Self, PublicKeyError> {
        let (rest, parsed) = SubjectPublicKeyInfo::from_der(spki_der).map_err(|_| PublicKeyError::Malformed)?;
        if !rest.is_empty() {
            return Err(PublicKeyError::Malformed);
        }
        let algorithm = content(spki_der)
            .and_then(short_sequence)
            .map(|(algorithm, _)| algorithm);
        let kind = algorithm.and_then(Kind::of).ok_or(PublicKeyError::Kind)?;
        if let Kind::Rsa = kind {
            let Ok(X509PublicKey::RSA(rsa)) = parsed.parsed() else {
                return Err(PublicKeyError::Kind);
            };
            check_rsa(rsa.modulus, rsa.exponent)?;
        }
        if !kind.is_encoding(&parsed.subject_public_key.data) {
            return Err(PublicKeyError::Malformed);
        }
        // Certificates hold it as it is here, so it must be as it would be written from its parts.
        let bits = &parsed.subject_public_key.data;
        let algorithm = element(SEQUENCE, &[kind.id().as_ref()]);
        if element(SEQUENCE, &[&algorithm, &bit_string(bits)]) != spki_der {
            return Err(PublicKeyError::Malformed);
        }
        Ok(Self {
            kind,
            der: spki_der,
            bits: &spki_der[spki_der.len() - bits.len()..],
        })
    }

    /// The key, if it has made `signature` of `message` by `algorithm` (the content of an AlgorithmIdentifier).
    pub(crate) fn prove(
        &self,
        algorithm: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<Option<PublicKey>, PublicKeyError> {
        let mut algorithms = self.kind.algorithms().iter();
        let Some((_, algorithm)) = algorithms.find(|(id, _)| id.as_ref() == algorithm) else {
            return Ok(None);
        };
        let proven = self.parse(*algorithm)?.verify_sig(message, signature).is_ok();
        Ok(proven.then(|| self.accept()))
    }

    /// aws-lc refuses points that are not on the curve.
    fn parse(&self, algorithm: &'static dyn VerificationAlgorithm) -> Result<ParsedPublicKey, PublicKeyError> {
        ParsedPublicKey::new(algorithm, self.bits).map_err(|_| PublicKeyError::Malformed)
    }

    fn accept(&self) -> PublicKey {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, self.der).as_ref());
        PublicKey {
            der: self.der.into(),
            sha256,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Kind {
    const ALL: [Self; 4] = [Self::P256, Self::P384, Self::Ed25519, Self::Rsa];

    fn of(algorithm: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id().as_ref() == algorithm)
    }

    fn id(self) -> AlgorithmIdentifier {
        match self {
            Self::P256 => alg_id::ECDSA_P256,
            Self::P384 => alg_id::ECDSA_P384,
            Self::Ed25519 => alg_id::ED25519,
            Self::Rsa => alg_id::RSA_ENCRYPTION,
        }
    }

    /// Whether such keys begin like this and have this length: aws-lc takes points in other encodings too, and even whole
    /// SubjectPublicKeyInfos in their place. Of RSA keys it takes one encoding.
    fn is_encoding(self, bits: &[u8]) -> bool {
        match self {
            Self::P256 => bits.len() == 65 && bits[0] == UNCOMPRESSED,
            Self::P384 => bits.len() == 97 && bits[0] == UNCOMPRESSED,
            Self::Ed25519 => bits.len() == 32,
            Self::Rsa => true,
        }
    }

    /// How such keys sign.
    fn algorithms(self) -> &'static [(AlgorithmIdentifier, &'static dyn VerificationAlgorithm)] {
        match self {
            Self::P256 => &[
                (alg_id::ECDSA_SHA256, &ECDSA_P256_SHA256_ASN1),
                (alg_id::ECDSA_SHA384, &ECDSA_P256_SHA384_ASN1),
            ],
            Self::P384 => &[
                (alg_id::ECDSA_SHA256, &ECDSA_P384_SHA256_ASN1),
                (alg_id::ECDSA_SHA384, &ECDSA_P384_SHA384_ASN1),
            ],
            Self::Ed25519 => &[(alg_id::ED25519, &ED25519)],
            Self::Rsa => &[
                (alg_id::RSA_PKCS1_SHA256, &RSA_PKCS1_2048_8192_SHA256),
                (alg_id::RSA_PKCS1_SHA384, &RSA_PKCS1_2048_8192_SHA384),
                (alg_id::RSA_PKCS1_SHA512, &RSA_PKCS1_2048_8192_SHA512),
            ],
        }
    }
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
