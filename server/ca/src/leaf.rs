//! What is signed of a leaf (RFC 5280 §4.1, X509-SVID §4), byte by byte: little of it differs from one SVID to the next,
//! and the issuer is the authority's subject as it stands there, since verifiers compare the bytes.

use mayfly_keys::KeyType;
use mayfly_svid::{Serial, SpiffeId, TaskExtension, Timestamp, TrustDomain};
use rustls_pki_types::alg_id;

use crate::PublicKey;
use crate::der::{INTEGER, OCTET_STRING, SEQUENCE, SET, UTF8_STRING, bit_string, date, element};

/// Upper bound of names in a subject (RFC 5280, appendix A.1).
pub(crate) const MAX_SUBJECT_NAME: usize = 64;

const VERSION_3: &[u8] = b"\xa0\x03\x02\x01\x02";
const ORGANIZATION: &[u8] = b"\x06\x03\x55\x04\x0a";
const COMMON_NAME: &[u8] = b"\x06\x03\x55\x04\x03";
const AUTHORITY_KEY_ID: &[u8] = b"\x06\x03\x55\x1d\x23";
const SUBJECT_ALT_NAME: &[u8] = b"\x06\x03\x55\x1d\x11";
const SUBJECT_KEY_ID: &[u8] = b"\x06\x03\x55\x1d\x0e";
/// Critical, digitalSignature.
const KEY_USAGE: &[u8] = b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80";
/// serverAuth and clientAuth.
const EXTENDED_KEY_USAGE: &[u8] = b"\x30\x1d\x06\x03\x55\x1d\x25\x04\x16\x30\x14\
    \x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
/// Critical, no CA.
const BASIC_CONSTRAINTS: &[u8] = b"\x30\x0c\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x02\x30\x00";
/// [`mayfly_svid::TASK_EXTENSION_OID`]: two octets and its content.
const TASK: &[u8] = b"\x06\x21\
    \x2a\x86\x48\x86\xf7\x14\x01\xbe\x40\x93\x7a\x82\x96\x55\x83\x84\x11\x86\x47\
    \x81\x8a\x1b\x82\xe8\x10\x87\x9b\xa1\x49\x85\xdb\xee\x10";

/// What every leaf of one authority has in common.
pub(crate) struct Template {
    algorithm: Vec<u8>,
    issuer: Vec<u8>,
    organization: Vec<u8>,
    authority_key_id: Vec<u8>,
}

/// What a leaf has of its own.
pub(crate) struct Leaf<'a> {
    pub(crate) spiffe_id: &'a SpiffeId,
    pub(crate) serial: &'a Serial,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) public_key: &'a PublicKey,
    /// Checked, without duplicates.
    pub(crate) dns_names: &'a [String],
}

/// All of a leaf but what only its record can tell.
pub(crate) struct Draft {
    /// The fields before the extensions.
    fields: Vec<u8>,
    extensions: Vec<u8>,
}

impl Draft {
    /// What is to be signed. The extension of tasks comes last, where other writers put what they do not know.
    pub(crate) fn to_be_signed(&self, task: Option<&TaskExtension>) -> Vec<u8> {
        let task = task.map_or_else(Vec::new, |task| extension(TASK, &task.to_der()));
        let extensions = element(0xa3, &[&element(SEQUENCE, &[&self.extensions, &task])]);
        element(SEQUENCE, &[&self.fields, &extensions])
    }
}

impl Template {
    /// `issuer` is the authority's subject, DER, and `key_id` its subject key identifier.
    pub(crate) fn new(trust_domain: &TrustDomain, key_type: KeyType, issuer: &[u8], key_id: &[u8]) -> Self {
        let algorithm = match key_type {
            KeyType::EcP256 => alg_id::ECDSA_SHA256,
            KeyType::EcP384 => alg_id::ECDSA_SHA384,
            KeyType::Rsa2048 | KeyType::Rsa4096 => alg_id::RSA_PKCS1_SHA256,
            KeyType::Ed25519 => alg_id::ED25519,
        };
        let authority_key_id = element(SEQUENCE, &[&element(0x80, &[key_id])]);
        Self {
            algorithm: element(SEQUENCE, &[algorithm.as_ref()]),
            issuer: issuer.to_vec(),
            organization: name(ORGANIZATION, organization(trust_domain)),
            authority_key_id: extension(AUTHORITY_KEY_ID, &authority_key_id),
        }
    }

    /// The draft of `leaf`; `None` if a certificate cannot say its dates.
    pub(crate) fn fill(&self, leaf: &Leaf<'_>) -> Option<Draft> {
        // Serials are positive and written without a sign octet, see `random_serial`.
        let serial = element(INTEGER, &[leaf.serial.as_be_bytes()]);
        let validity = element(SEQUENCE, &[&date(leaf.not_before)?, &date(leaf.not_after)?]);
        let first = leaf.dns_names.first().filter(|name| name.len() <= MAX_SUBJECT_NAME);
        let common_name = first.map_or_else(Vec::new, |first| name(COMMON_NAME, first));
        let uri = element(0x86, &[leaf.spiffe_id.as_str().as_bytes()]);
        let dns_names = leaf.dns_names.iter().flat_map(|name| element(0x82, &[name.as_bytes()]));
        let names = element(SEQUENCE, &[&uri, &dns_names.collect::<Vec<u8>>()]);
        let extensions = [
            &self.authority_key_id[..],
            &extension(SUBJECT_ALT_NAME, &names),
            KEY_USAGE,
            EXTENDED_KEY_USAGE,
            &extension(SUBJECT_KEY_ID, &element(OCTET_STRING, &[leaf.public_key.id()])),
            BASIC_CONSTRAINTS,
        ];
        let fields = [
            VERSION_3,
            &serial,
            &self.algorithm,
            &self.issuer,
            &validity,
            &element(SEQUENCE, &[&self.organization, &common_name]),
            leaf.public_key.der(),
        ];
        Some(Draft {
            fields: fields.concat(),
            extensions: extensions.concat(),
        })
    }

    /// The certificate.
    pub(crate) fn seal(&self, to_be_signed: &[u8], signature: &[u8]) -> Vec<u8> {
        element(SEQUENCE, &[to_be_signed, &self.algorithm, &bit_string(signature)])
    }
}

/// The name of everything of a trust domain (IOP-30): short, never empty.
pub(crate) fn organization(trust_domain: &TrustDomain) -> &str {
    let name = trust_domain.as_str();
    &name[..name.len().min(MAX_SUBJECT_NAME)]
}

fn name(kind: &[u8], text: &str) -> Vec<u8> {
    let value = element(UTF8_STRING, &[text.as_bytes()]);
    element(SET, &[&element(SEQUENCE, &[kind, &value])])
}

/// Not critical.
fn extension(id: &[u8], value: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[id, &element(OCTET_STRING, &[value])])
}
