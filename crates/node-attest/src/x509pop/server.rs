//! The server's half.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P521_SHA256_ASN1, RSA_PSS_2048_8192_SHA256, RsaPssSaltLength,
    UnparsedPublicKey, VerificationAlgorithm,
};
use mayfly_model::Selector;
use mayfly_runtime::files::read_capped;
use mayfly_svid::{Bundle, Timestamp, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::prelude::{FromDer, GeneralName};
use x509_parser::public_key::PublicKey;

use super::{Answer, Bytes, Challenge, NAME, NONCE_LEN, Nonce, Payload};
use crate::{
    AttestError, Attested, BuildError, Challenger, Deps, MAX_ANSWER_BYTES, ServerHalf, agent_id, check_payload_size,
};

const MAX_CHAIN_BYTES: usize = 64 * 1024;
const MAX_CHAIN_LEN: usize = 8;
const MAX_CA_BUNDLE_BYTES: u64 = 1024 * 1024;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    ca_bundle_path: PathBuf,
    max_intermediates: Option<usize>,
    max_rsa_key_size: Option<usize>,
}

pub(super) fn build(section: toml::Table, deps: &Deps) -> Result<Box<dyn ServerHalf>, BuildError> {
    let section: Section = section
        .try_into()
        .map_err(|source| BuildError::Config { name: NAME, source })?;
    let value = |key, problem: String| BuildError::Value {
        name: NAME,
        key,
        problem,
    };

    let max_intermediates = section.max_intermediates.unwrap_or(4);
    if !(1..MAX_CHAIN_LEN).contains(&max_intermediates) {
        return Err(value(
            "max_intermediates",
            format!("{max_intermediates} is not between 1 and 7"),
        ));
    }
    let max_rsa_bits = section.max_rsa_key_size.unwrap_or(8192);
    if !(2048..=8192).contains(&max_rsa_bits) {
        return Err(value(
            "max_rsa_key_size",
            format!("{max_rsa_bits} is not between 2048 and 8192"),
        ));
    }
    let path = deps.base_dir.join(section.ca_bundle_path);
    let pem = read_capped(&path, MAX_CA_BUNDLE_BYTES).map_err(|source| BuildError::File {
        name: NAME,
        key: "ca_bundle_path",
        source,
    })?;
    let bundle = Bundle::from_pem(deps.trust_domain.clone(), &pem)
        .map_err(|error| value("ca_bundle_path", format!("`{}`: {error}", path.display())))?;
    let roots = bundle
        .x509_authorities
        .into_iter()
        .map(|authority| Root::read(authority.cert_der))
        .collect();
    let unusable = || {
        value(
            "ca_bundle_path",
            format!("`{}` holds what is no CA certificate", path.display()),
        )
    };
    let roots: Option<Vec<Root>> = roots;
    let roots = roots.ok_or_else(unusable)?;
    Ok(Box::new(Server {
        trust_domain: deps.trust_domain.clone(),
        roots,
        max_intermediates,
        max_rsa_bits,
    }))
}

#[derive(Debug)]
struct Server {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    max_intermediates: usize,
    max_rsa_bits: usize,
}

/// A CA certificate of the operator's, and when it is valid: webpki does not look at that.
#[derive(Debug)]
struct Root {
    cert_der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_before: i64,
    not_after: i64,
}

impl Root {
    fn read(cert_der: CertificateDer<'static>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(&cert_der).ok()?;
        if !certificate.is_ca() {
            return None;
        }
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let anchor = webpki::anchor_from_trusted_cert(&cert_der).ok()?.to_owned();
        Some(Self {
            cert_der,
            anchor,
            not_before,
            not_after,
        })
    }
}

#[async_trait]
impl ServerHalf for Server {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
        now: Timestamp,
    ) -> Result<Attested, AttestError> {
        let chain = self.read_chain(payload)?;
        let (leaf_der, above) = chain.split_first().ok_or(malformed("no certificate"))?;
        let leaf = parse(leaf_der)?;
        let leaf_key = LeafKey::of(&leaf)?;
        let cas = self.verify_chain(leaf_der, above, now)?;

        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| AttestError::Random)?;
        let challenge = serde_json::to_vec(&leaf_key.challenge(nonce)).expect("byte strings are always JSON");
        let answer = challenger.challenge(challenge).await?;
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(AttestError::AnswerSize { bytes: answer.len() });
        }
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|_| malformed("the answer is not JSON of x509pop"))?;
        leaf_key.verify(&nonce, answer)?;

        Ok(Attested {
            agent_id: agent_id(&self.trust_domain, NAME, &fingerprint(leaf_der))?,
            selectors: self.selectors(&leaf, &cas),
            reattestable: true,
            one_time: None,
        })
    }
}

impl Server {
    /// The certificates of a payload. All limits are checked before anything costs more than reading it.
    fn read_chain(&self, payload: &[u8]) -> Result<Vec<CertificateDer<'static>>, AttestError> {
        check_payload_size(payload)?;
        let payload: Payload =
            serde_json::from_slice(payload).map_err(|_| malformed("the payload is not JSON of x509pop"))?;
        if payload.certificates.is_empty() {
            return Err(malformed("no certificate"));
        }
        if payload.certificates.len() > 1 + self.max_intermediates {
            return Err(malformed("too many intermediate certificates"));
        }
        if payload.certificates.iter().map(|der| der.0.len()).sum::<usize>() > MAX_CHAIN_BYTES {
            return Err(malformed("the chain is larger than 64 KiB"));
        }
        let chain: Vec<_> = payload
            .certificates
            .into_iter()
            .map(|der| CertificateDer::from(der.0))
            .collect();
        for der in &chain {
            let certificate = parse(der)?;
            if let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed()
                && key.key_size() > self.max_rsa_bits
            {
                return Err(malformed("an RSA key is too large"));
            }
        }
        Ok(chain)
    }

    /// Every CA certificate on the verified path, root included.
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Vec<CertificateDer<'static>>, AttestError> {
        let refused = |error: webpki::Error| AttestError::Refused {
            reason: format!("certificate chain: {error}"),
        };
        let valid = |root: &&Root| (root.not_before..=root.not_after).contains(&now.unix());
        let anchors: Vec<_> = self
            .roots
            .iter()
            .filter(valid)
            .map(|root| root.anchor.clone())
            .collect();
        let end_entity = EndEntityCert::try_from(leaf).map_err(refused)?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.unix()).unwrap_or(0)));
        let path = end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                above,
                time,
                AnyPurpose,
                None,
                None,
            )
            .map_err(refused)?;
        let used = path.anchor();
        // A renewed root has the name and key of the one before: both vouch for the leaf.
        let same = |root: &&Root| {
            root.anchor.subject == used.subject && root.anchor.subject_public_key_info == used.subject_public_key_info
        };
        let roots = self
            .roots
            .iter()
            .filter(valid)
            .filter(same)
            .map(|root| root.cert_der.clone());
        Ok(path
            .intermediate_certificates()
            .map(|cert| cert.der().into_owned())
            .chain(roots)
            .collect())
    }

    fn selectors(&self, leaf: &X509Certificate<'_>, cas: &[CertificateDer<'_>]) -> BTreeSet<Selector> {
        let mut values: Vec<String> = cas
            .iter()
            .map(|der| format!("ca:fingerprint:{}", fingerprint(der)))
            .collect();
        if let Some(name) = leaf
            .subject()
            .iter_common_name()
            .last()
            .and_then(|name| name.as_str().ok())
            && !name.is_empty()
        {
            values.push(format!("subject:cn:{name}"));
        }
        values.push(format!(
            "serialnumber:{}",
            serial_hex(leaf.tbs_certificate.raw_serial())
        ));
        values.extend(
            san_selectors(leaf, &self.trust_domain)
                .into_iter()
                .map(|(key, value)| format!("san:{key}:{value}")),
        );
        // A value too long for a selector is left out: that narrows what matches the node.
        values
            .iter()
            .filter_map(|value| Selector::new(NAME, value).ok())
            .collect()
    }
}

/// How the leaf's key answers.
enum LeafKey {
    Rsa(Vec<u8>),
    Ecdsa(&'static dyn VerificationAlgorithm, Vec<u8>),
}

impl LeafKey {
    fn of(leaf: &X509Certificate<'_>) -> Result<Self, AttestError> {
        let usage = leaf
            .key_usage()
            .map_err(|_| malformed("a broken key usage extension"))?;
        if !usage.is_some_and(|usage| usage.value.digital_signature()) {
            return Err(AttestError::Refused {
                reason: "the certificate's key usage lacks digitalSignature".into(),
            });
        }
        let spki = leaf.public_key();
        let curve = || {
            spki.algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok())
        };
        let ecdsa = |algorithm| Ok(Self::Ecdsa(algorithm, spki.raw.to_vec()));
        match spki.parsed() {
            Ok(PublicKey::RSA(_)) => Ok(Self::Rsa(spki.raw.to_vec())),
            Ok(PublicKey::EC(_)) if curve() == Some(OID_EC_P256) => ecdsa(&ECDSA_P256_SHA256_ASN1),
            Ok(PublicKey::EC(_)) if curve() == Some(OID_NIST_EC_P384) => ecdsa(&ECDSA_P384_SHA256_ASN1),
            Ok(PublicKey::EC(_)) if curve() == Some(OID_NIST_EC_P521) => ecdsa(&ECDSA_P521_SHA256_ASN1),
            _ => Err(malformed(
                "the kind of the certificate's key is not RSA or ECDSA P-256, P-384 or P-521",
            )),
        }
    }

    fn challenge(&self, nonce: [u8; NONCE_LEN]) -> Challenge {
        let nonce = Some(Nonce {
            nonce: Bytes(nonce.to_vec()),
        });
        match self {
            Self::Rsa(_) => Challenge {
                rsa_signature: nonce,
                ecdsa_signature: None,
            },
            Self::Ecdsa(..) => Challenge {
                rsa_signature: None,
                ecdsa_signature: nonce,
            },
        }
    }

    fn verify(&self, own_nonce: &[u8; NONCE_LEN], answer: Answer) -> Result<(), AttestError> {
        let message = |nonce: &Bytes| match nonce.0.len() {
            NONCE_LEN => Ok([own_nonce, &nonce.0[..]].concat()),
            _ => Err(malformed("the answer's nonce has not 32 bytes")),
        };
        let verified = match (self, answer) {
            (
                Self::Rsa(key),
                Answer {
                    rsa_signature: Some(answer),
                    ecdsa_signature: None,
                },
            ) => {
                let message = message(&answer.nonce)?;
                let verify = |algorithm| {
                    UnparsedPublicKey::new(algorithm, key)
                        .verify(&message, &answer.signature.0)
                        .is_ok()
                };
                // We sign with a salt as long as the hash; Go, and with it SPIRE's agent, with the longest that fits.
                verify(&RSA_PSS_2048_8192_SHA256)
                    || verify(&const { RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max) })
            }
            (
                Self::Ecdsa(algorithm, key),
                Answer {
                    ecdsa_signature: Some(answer),
                    rsa_signature: None,
                },
            ) => {
                let message = message(&answer.nonce)?;
                let signature = ecdsa_der(&answer.r.0, &answer.s.0).ok_or(malformed("r or s of the answer"))?;
                UnparsedPublicKey::new(*algorithm, key)
                    .verify(&message, &signature)
                    .is_ok()
            }
            _ => return Err(malformed("the answer is not of the kind that was asked for")),
        };
        if verified {
            Ok(())
        } else {
            Err(AttestError::Refused {
                reason: "the answer does not prove possession of the private key".into(),
            })
        }
    }
}

/// `SEQUENCE { INTEGER r, INTEGER s }` (RFC 3279 §2.2.3); at most 66 bytes each, as P-521 has.
fn ecdsa_der(r: &[u8], s: &[u8]) -> Option<Vec<u8>> {
    let integer = |number: &[u8]| {
        let start = number.iter().position(|byte| *byte != 0)?;
        let digits = &number[start..];
        let sign = if digits[0] & 0x80 == 0 { &[][..] } else { &[0] };
        let len = u8::try_from(sign.len() + digits.len()).ok().filter(|len| *len <= 67)?;
        Some([&[0x02, len], sign, digits].concat())
    };
    let body = [integer(r)?, integer(s)?].concat();
    let len = u8::try_from(body.len()).ok()?;
    let header = if len < 0x80 {
        vec![0x30, len]
    } else {
        vec![0x30, 0x81, len]
    };
    Some([header, body].concat())
}

/// Certificates of machines carry all kinds of purposes; the method asks for none.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, mut purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        purposes.try_for_each(|purpose| purpose.map(drop))
    }
}

fn malformed(problem: &'static str) -> AttestError {
    AttestError::Malformed { problem }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, AttestError> {
    match X509Certificate::from_der(der) {
        Ok((&[], certificate)) if certificate.extensions_map().is_ok() => Ok(certificate),
        _ => Err(malformed("not a well-formed X.509 certificate")),
    }
}

/// SHA-1 of the certificate, lower-case hexadecimal: SPIRE's name for it. Nothing relies on its collision resistance,
/// the chain was verified.
fn fingerprint(cert_der: &CertificateDer<'_>) -> String {
    hex::encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, cert_der))
}

fn serial_hex(raw: &[u8]) -> String {
    match raw.iter().position(|byte| *byte != 0) {
        Some(start) => hex::encode(&raw[start..]),
        None => "00".into(),
    }
}

/// From URI names `x509pop://<trust domain>/<key>/<value>`. Escapes and queries are not read, such a name is skipped.
fn san_selectors(leaf: &X509Certificate<'_>, trust_domain: &TrustDomain) -> BTreeMap<String, String> {
    let prefix = format!("x509pop://{trust_domain}/");
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| {
            let GeneralName::URI(uri) = name else { return None };
            let (key, value) = uri.strip_prefix(&prefix)?.trim_matches('/').split_once('/')?;
            let plain = !key.is_empty() && !uri.contains(['%', '?', '#']);
            plain.then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}
