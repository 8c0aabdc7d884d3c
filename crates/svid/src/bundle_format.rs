//! Bundles as documents: SPIFFE bundle JSON (SPIFFE Trust Domain and Bundle §4, X509-SVID §6, JWT-SVID §6) and PEM.
//!
//! The trust domain is never read from a document, it comes from the caller (TDB-03). A reader keeps what it
//! understands: an entry that it does not understand only narrows what is trusted.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

use crate::x509::parse_certificate;
use crate::{Bundle, JwtAuthority, TrustDomain, X509Authority};

/// The largest document that is read.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

const USE_X509_SVID: &str = "x509-svid";
const USE_JWT_SVID: &str = "jwt-svid";

/// A document that is not a bundle, or a bundle that the document format cannot carry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleFormatError {
    /// Larger than any bundle needs to be.
    #[error("the bundle document has {bytes} bytes, at most 1048576 are accepted")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a JSON object of the right shape, or without `keys`.
    #[error("not a SPIFFE bundle")]
    Json(#[source] serde_json::Error),
    /// Not PEM.
    #[error("not a PEM document")]
    Pem(#[source] pem::PemError),
    /// PEM of something else, such as a private key.
    #[error("PEM block {index} is `{label}`, a bundle holds only CERTIFICATE blocks")]
    PemLabel {
        /// Which block, from 0.
        index: usize,
        /// What it says that it is.
        label: String,
    },
    /// A PEM block without an X.509 certificate in it, or with something after it.
    #[error("PEM block {index} is not a well-formed X.509 certificate")]
    PemCertificate {
        /// Which block, from 0.
        index: usize,
    },
    /// PEM without any block: an empty file never means "trust nobody".
    #[error("the PEM document holds no certificate")]
    PemEmpty,
    /// A key that has no form in a SPIFFE bundle: its key types are RSA and EC (P-256, P-384, P-521).
    #[error("authority {index} ({kind}) has a key that a SPIFFE bundle cannot carry")]
    UnsupportedKey {
        /// `x509` or `jwt`.
        kind: &'static str,
        /// Its position among the authorities of that kind.
        index: usize,
    },
}

#[derive(Deserialize)]
struct DocumentIn {
    keys: Vec<Value>,
    #[serde(default)]
    spiffe_sequence: u64,
    #[serde(default)]
    spiffe_refresh_hint: i64,
}

#[derive(Serialize)]
struct DocumentOut {
    keys: Vec<Jwk>,
    spiffe_sequence: u64,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_refresh_hint: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(hint: &i64) -> bool {
    *hint == 0
}

/// A JSON Web Key with the parameters that the SPIFFE specifications define, and no others (TDB-21).
#[derive(Serialize, Deserialize, Default)]
struct Jwk {
    #[serde(rename = "use")]
    usage: String,
    kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
}

impl Bundle {
    /// Reads a SPIFFE bundle, UTF-8 JSON of at most 1 MiB. Entries that cannot be used (unknown `use` or `kty`, no or
    /// bad `x5c`, no `kid`, a bad key) are left out, unknown parameters ignored; duplicates count once. An empty
    /// `keys` is valid and trusts nobody (TDB-19).
    ///
    /// # Errors
    /// Too large, not JSON, or without an array `keys`: such a document replaces nothing.
    pub fn from_spiffe_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleFormatError> {
        check_size(json)?;
        let document: DocumentIn = serde_json::from_slice(json).map_err(BundleFormatError::Json)?;
        let mut bundle = Self::empty(trust_domain);
        bundle.sequence_number = document.spiffe_sequence;
        bundle.refresh_hint = document.spiffe_refresh_hint;
        for value in document.keys {
            let Ok(key) = serde_json::from_value::<Jwk>(value) else {
                continue;
            };
            if !matches!(key.kty.as_str(), "RSA" | "EC") {
                continue;
            }
            match key.usage.as_str() {
                USE_X509_SVID => bundle.push_x509(x509_authority(&key)),
                USE_JWT_SVID => bundle.push_jwt(jwt_authority(key)),
                _ => {}
            }
        }
        Ok(bundle)
    }

    /// Writes the bundle as a SPIFFE bundle, UTF-8 JSON. Times of expiry and taints have no place in the format.
    ///
    /// # Errors
    /// [`BundleFormatError::UnsupportedKey`]; leaving an authority out in silence would revoke it.
    pub fn to_spiffe_json(&self) -> Result<Vec<u8>, BundleFormatError> {
        let mut keys = Vec::with_capacity(self.x509_authorities.len() + self.jwt_authorities.len());
        for (index, authority) in self.x509_authorities.iter().enumerate() {
            let certificate = parse_certificate(0, &authority.cert_der).ok();
            let key = certificate.and_then(|certificate| jwk_of(certificate.public_key().raw));
            let key = key.ok_or(BundleFormatError::UnsupportedKey { kind: "x509", index })?;
            let x5c = Some(vec![STANDARD.encode(&authority.cert_der)]);
            keys.push(Jwk {
                usage: USE_X509_SVID.into(),
                x5c,
                ..key
            });
        }
        for (index, authority) in self.jwt_authorities.iter().enumerate() {
            let key = jwk_of(&authority.public_key_der);
            let key = key.ok_or(BundleFormatError::UnsupportedKey { kind: "jwt", index })?;
            keys.push(Jwk {
                usage: USE_JWT_SVID.into(),
                kid: Some(authority.key_id.clone()),
                ..key
            });
        }
        let document = DocumentOut {
            keys,
            spiffe_sequence: self.sequence_number,
            spiffe_refresh_hint: self.refresh_hint,
        };
        serde_json::to_vec_pretty(&document).map_err(BundleFormatError::Json)
    }

    /// Reads X.509 authorities from PEM of at most 1 MiB: one or more CERTIFICATE blocks; text between blocks is
    /// ignored.
    ///
    /// # Errors
    /// Any other block, any block that is not one certificate, or none at all.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BundleFormatError> {
        check_size(text)?;
        let blocks = pem::parse_many(text).map_err(BundleFormatError::Pem)?;
        if blocks.is_empty() {
            return Err(BundleFormatError::PemEmpty);
        }
        let mut bundle = Self::empty(trust_domain);
        for (index, block) in blocks.into_iter().enumerate() {
            if block.tag() != "CERTIFICATE" {
                return Err(BundleFormatError::PemLabel {
                    index,
                    label: block.tag().to_owned(),
                });
            }
            if parse_certificate(0, block.contents()).is_err() {
                return Err(BundleFormatError::PemCertificate { index });
            }
            bundle.push_x509(Some(CertificateDer::from(block.into_contents())));
        }
        Ok(bundle)
    }

    /// The X.509 authorities as PEM CERTIFICATE blocks, in the bundle's order; empty if there are none.
    pub fn x509_to_pem(&self) -> String {
        let blocks: Vec<_> = self
            .x509_authorities
            .iter()
            .map(|authority| pem::Pem::new("CERTIFICATE", authority.cert_der.to_vec()))
            .collect();
        pem::encode_many_config(&blocks, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
    }

    fn push_x509(&mut self, cert_der: Option<CertificateDer<'static>>) {
        let Some(cert_der) = cert_der else { return };
        if self.x509_authorities.iter().all(|known| known.cert_der != cert_der) {
            self.x509_authorities.push(X509Authority {
                cert_der,
                tainted: false,
            });
        }
    }

    fn push_jwt(&mut self, authority: Option<JwtAuthority>) {
        let Some(authority) = authority else { return };
        // Two keys under one ID would make verification depend on their order: the first one stands.
        if self
            .jwt_authorities
            .iter()
            .all(|known| known.key_id != authority.key_id)
        {
            self.jwt_authorities.push(authority);
        }
    }
}

fn check_size(document: &[u8]) -> Result<(), BundleFormatError> {
    if document.len() > MAX_DOCUMENT_BYTES {
        return Err(BundleFormatError::TooLarge { bytes: document.len() });
    }
    Ok(())
}

/// The first certificate of `x5c` (XSVID-46).
fn x509_authority(key: &Jwk) -> Option<CertificateDer<'static>> {
    let der = STANDARD.decode(key.x5c.as_ref()?.first()?).ok()?;
    parse_certificate(0, &der).ok()?;
    Some(CertificateDer::from(der))
}

fn jwt_authority(key: Jwk) -> Option<JwtAuthority> {
    let public_key_der = match key.kty.as_str() {
        "RSA" => rsa_spki(&decode(key.n.as_ref())?, &decode(key.e.as_ref())?)?,
        _ => ec_spki(key.crv.as_ref()?, &decode(key.x.as_ref())?, &decode(key.y.as_ref())?)?,
    };
    let key_id = key.kid.filter(|id| !id.is_empty())?;
    Some(JwtAuthority {
        key_id,
        public_key_der,
        expires_at: None,
        tainted: false,
    })
}

fn decode(text: Option<&String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}

fn rsa_spki(n: &[u8], e: &[u8]) -> Option<Vec<u8>> {
    if !(256..=1024).contains(&n.len()) || n[0] == 0 || e.is_empty() || e.len() > 8 || e[0] == 0 {
        return None;
    }
    let spki: PublicKeyX509Der<'static> = RsaPublicKeyComponents { n, e }.as_der().ok()?;
    Some(spki.as_ref().to_vec())
}

/// A curve of RFC 7518 §6.2.1.1.
struct Curve {
    name: &'static str,
    coordinate_len: usize,
    /// Everything of the SubjectPublicKeyInfo before the two coordinates (RFC 5480 §2).
    spki_prefix: &'static [u8],
}

const CURVES: [Curve; 3] = [
    Curve {
        name: "P-256",
        coordinate_len: 32,
        spki_prefix: b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\
                       \x03\x42\x00\x04",
    },
    Curve {
        name: "P-384",
        coordinate_len: 48,
        spki_prefix: b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\
                       \x03\x62\x00\x04",
    },
    Curve {
        name: "P-521",
        coordinate_len: 66,
        spki_prefix: b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\
                       \x03\x81\x86\x00\x04",
    },
];

fn ec_spki(curve: &str, x: &[u8], y: &[u8]) -> Option<Vec<u8>> {
    let curve = CURVES.iter().find(|known| known.name == curve)?;
    if x.len() != curve.coordinate_len || y.len() != curve.coordinate_len {
        return None;
    }
    Some([curve.spki_prefix, x, y].concat())
}

/// Key type and key parameters of a public key; `use`, `kid` and `x5c` are the caller's.
fn jwk_of(spki_der: &[u8]) -> Option<Jwk> {
    for curve in &CURVES {
        let Some(point) = spki_der.strip_prefix(curve.spki_prefix) else {
            continue;
        };
        if point.len() != 2 * curve.coordinate_len {
            return None;
        }
        let (x, y) = point.split_at(curve.coordinate_len);
        return Some(Jwk {
            kty: "EC".into(),
            crv: Some(curve.name.into()),
            x: Some(URL_SAFE_NO_PAD.encode(x)),
            y: Some(URL_SAFE_NO_PAD.encode(y)),
            ..Jwk::default()
        });
    }
    let (_, spki) = SubjectPublicKeyInfo::from_der(spki_der).ok()?;
    let PublicKey::RSA(key) = spki.parsed().ok()? else {
        return None;
    };
    let trimmed = |number: &[u8]| {
        let start = number.iter().position(|byte| *byte != 0)?;
        Some(URL_SAFE_NO_PAD.encode(&number[start..]))
    };
    Some(Jwk {
        kty: "RSA".into(),
        n: Some(trimmed(key.modulus)?),
        e: Some(trimmed(key.exponent)?),
        ..Jwk::default()
    })
}

#[cfg(test)]
mod tests;
