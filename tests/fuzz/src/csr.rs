//! Certification requests: whoever is accepted has shown, by a signature over what was read, that it has the key that
//! was read.

use std::sync::LazyLock;

use arbitrary::Unstructured;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use mayfly_ca::parse_csr;
use rcgen::{CertificateParams, PublicKeyData};

use crate::der::{Der, Value, bit_string, write};
use crate::input::{byte, edited, raw_or_edited, rest};
use crate::material;

static GENUINE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut params = CertificateParams::new(vec!["web.example".to_owned()]).expect("a DNS name");
    params.distinguished_name.push(rcgen::DnType::CommonName, "web");
    let csr = params.serialize_request(&material::leaf_key());
    csr.expect("the parameters are complete").der().to_vec()
});

/// AlgorithmIdentifier of Ed25519 (RFC 8410 §3).
const ED25519_ID: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";

/// A request; edits to a genuine one; or the content of one, which is signed here.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let genuine = GENUINE.as_slice();
    let (csr, signed_here) = match byte(&mut input) % 4 {
        0 => (rest(&mut input).to_vec(), false),
        1 => (edited(genuine.to_vec(), &mut input), false),
        2 => (signed(&raw_or_edited(&[info(genuine)], &mut input)), true),
        _ => {
            // Edits to the parts, with the lengths around them as they have to be.
            let parts = Value::inside(Der(info(genuine)).next().expect("a SEQUENCE"));
            let parts: Vec<Vec<u8>> = parts.map(|part| edited_by_turns(part.whole, &mut input)).collect();
            (signed(&write(0x30, &[&parts.concat()])), true)
        }
    };
    let Ok(accepted) = parse_csr(&csr) else {
        assert_ne!(csr, genuine, "a genuine request is refused");
        return;
    };

    let key = accepted.public_key.der();
    if signed_here {
        assert_eq!(
            key,
            material::leaf_key().subject_public_key_info(),
            "only that key signed"
        );
    }
    let [whole] = all(Der(&csr));
    let [info, algorithm, signature] = all(whole.inside());
    assert_eq!(
        [whole.tag, info.tag, algorithm.tag, signature.tag],
        [0x30, 0x30, 0x30, 0x03]
    );
    let mut parts = info.inside();
    assert_eq!(
        parts.next().map(|version| version.whole),
        Some(b"\x02\x01\x00".as_slice())
    );
    assert_eq!(parts.nth(1).map(|spki| spki.whole), Some(key));

    let signature = signature.content.strip_prefix(&[0]).expect("no unused bits");
    let [key_algorithm, bits] = all(Der(key).next().expect("the key is DER").inside());
    let bits = bits.content.strip_prefix(&[0]).expect("no unused bits");
    let verifies = verification(algorithm.content, key_algorithm.content)
        .iter()
        .any(|kind| {
            UnparsedPublicKey::new(*kind, bits)
                .verify(info.whole, signature)
                .is_ok()
        });
    assert!(verifies, "accepted without a signature of the key");
}

fn info(csr: &[u8]) -> &[u8] {
    let whole = Der(csr).next().expect("a SEQUENCE");
    whole.inside().next().expect("what is signed").whole
}

fn signed(info: &[u8]) -> Vec<u8> {
    write(0x30, &[info, ED25519_ID, &bit_string(&material::sign_as_leaf(info))])
}

fn edited_by_turns(part: &[u8], input: &mut Unstructured<'_>) -> Vec<u8> {
    let count = usize::from(byte(input) % 12);
    let edits = input.bytes(count.min(input.len())).unwrap_or(&[]);
    edited(part.to_vec(), &mut Unstructured::new(edits))
}

/// Exactly that many values.
fn all<const N: usize>(values: Der<'_>) -> [Value<'_>; N] {
    let values: Vec<_> = values.collect();
    values
        .try_into()
        .unwrap_or_else(|_| panic!("accepted with other than {N} values"))
}

/// The ways to verify that the two algorithms allow, by the object identifiers in them.
fn verification(signature: &[u8], key: &[u8]) -> Vec<&'static dyn VerificationAlgorithm> {
    let rsa = |last: u8| [b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01".as_slice(), &[last]].concat();
    let ecdsa = |last: u8| [b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03".as_slice(), &[last]].concat();
    let is = |oid: Vec<u8>| signature.starts_with(&oid);
    let is_rsa_key = key.starts_with(&rsa(1));
    match () {
        () if is(rsa(11)) && is_rsa_key => vec![&RSA_PKCS1_2048_8192_SHA256],
        () if is(rsa(12)) && is_rsa_key => vec![&RSA_PKCS1_2048_8192_SHA384],
        () if is(rsa(13)) && is_rsa_key => vec![&RSA_PKCS1_2048_8192_SHA512],
        () if is(ecdsa(2)) => vec![&ECDSA_P256_SHA256_ASN1, &ECDSA_P384_SHA256_ASN1],
        () if is(ecdsa(3)) => vec![&ECDSA_P256_SHA384_ASN1, &ECDSA_P384_SHA384_ASN1],
        () if signature == &ED25519_ID[2..] => vec![&ED25519],
        () => panic!("accepted with an algorithm that is not allowed"),
    }
}
