//! Genuine keys and certificates, the same in every run: a finding has to be found again from its bytes alone.
//!
//! Ed25519 signatures hold nothing random, so what an authority signs here is always the same.

use std::sync::LazyLock;

use aws_lc_rs::signature::Ed25519KeyPair;
use mayfly_svid::{Bundle, Timestamp, TrustAnchors, TrustDomain, X509Authority};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;

/// When everything here is valid: the summer of 2027.
pub(crate) const NOW: Timestamp = Timestamp::from_unix(1_815_000_000);
/// The ID of the leaf.
pub(crate) const LEAF_ID: &str = "spiffe://td/web";

const CA_SEED: [u8; 32] = [7; 32];
const LEAF_SEED: [u8; 32] = [8; 32];

/// What signs.
pub(crate) static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = params("authority", 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri("spiffe://td")];
    CertifiedIssuer::self_signed(params, ed25519(CA_SEED)).expect("the parameters are complete")
});

/// An X.509-SVID of it, DER.
pub(crate) static LEAF: LazyLock<CertificateDer<'static>> = LazyLock::new(|| {
    let mut params = params("web", 2);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![uri(LEAF_ID)];
    let leaf = params.signed_by(&leaf_key(), &*AUTHORITY);
    leaf.expect("the parameters are complete").der().clone()
});

/// The certificate of a node, whose key is [`node_key`], DER.
pub(crate) static NODE: LazyLock<CertificateDer<'static>> = LazyLock::new(|| {
    let mut params = params("node-1.example", 3);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![uri("x509pop://td/datacenter/eu")];
    let key = KeyPair::try_from(node_key().as_slice()).expect("a P-256 key");
    let node = params.signed_by(&key, &*AUTHORITY);
    node.expect("the parameters are complete").der().clone()
});

/// The trust domain.
pub(crate) fn trust_domain() -> TrustDomain {
    "td".parse().expect("a trust domain name")
}

/// The bundle that the authority is in.
pub(crate) fn bundle() -> Bundle {
    Bundle {
        x509_authorities: vec![X509Authority {
            cert_der: AUTHORITY.der().clone(),
            tainted: false,
        }],
        ..Bundle::empty(trust_domain())
    }
}

/// The bundle, ready to verify with.
pub(crate) static ANCHORS: LazyLock<TrustAnchors> = LazyLock::new(|| TrustAnchors::from_bundle(&bundle()));

/// The key of the leaf.
pub(crate) fn leaf_key() -> KeyPair {
    ed25519(LEAF_SEED)
}

/// The authority's signature.
pub(crate) fn sign_as_authority(message: &[u8]) -> Vec<u8> {
    static KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(|| raw_ed25519(CA_SEED));
    KEY.sign(message).as_ref().to_vec()
}

/// The signature of the leaf's key.
pub(crate) fn sign_as_leaf(message: &[u8]) -> Vec<u8> {
    static KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(|| raw_ed25519(LEAF_SEED));
    KEY.sign(message).as_ref().to_vec()
}

/// PKCS#8 of the P-256 key whose secret is the number 1, so that its public half is the generator of the curve.
pub(crate) fn node_key() -> Vec<u8> {
    const HEAD: &[u8] = b"\x30\x81\x87\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\
        \x3d\x03\x01\x07\x04\x6d\x30\x6b\x02\x01\x01\x04\x20";
    const GENERATOR: &[u8] = b"\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\
        \xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\
        \x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5";
    let mut secret = [0; 32];
    secret[31] = 1;
    [HEAD, &secret, b"\xa1\x44\x03\x42\x00\x04", GENERATOR].concat()
}

fn params(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2046, 1, 1);
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// PKCS#8 around the seed (RFC 8410 §7).
fn ed25519(seed: [u8; 32]) -> KeyPair {
    let head = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    KeyPair::try_from([head.as_slice(), &seed].concat().as_slice()).expect("an Ed25519 key")
}

fn raw_ed25519(seed: [u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes")
}
