//! A key has one encoding here: what a certificate repeats is what every verifier reads.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use rustls_pki_types::alg_id;

use super::*;
use crate::der::{SEQUENCE, bit_string, element};

fn spki(algorithm: alg_id::AlgorithmIdentifier, bits: &[u8]) -> Vec<u8> {
    element(
        SEQUENCE,
        &[&element(SEQUENCE, &[algorithm.as_ref()]), &bit_string(bits)],
    )
}

fn csr(spki: &[u8], algorithm: alg_id::AlgorithmIdentifier, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let info = element(SEQUENCE, &[b"\x02\x01\x00\x30\x00", spki, b"\xa0\x00"]);
    let algorithm = element(SEQUENCE, &[algorithm.as_ref()]);
    element(SEQUENCE, &[&info, &algorithm, &bit_string(&sign(&info))])
}

// The library that reads points also takes them compressed, and whole keys in place of a point.
#[test]
fn a_key_in_another_encoding_is_refused_even_if_it_signed_its_request() {
    let rng = aws_lc_rs::rand::SystemRandom::new();
    for (algorithm, id, signed_by) in [
        (
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            alg_id::ECDSA_P256,
            alg_id::ECDSA_SHA256,
        ),
        (
            &ECDSA_P384_SHA384_ASN1_SIGNING,
            alg_id::ECDSA_P384,
            alg_id::ECDSA_SHA384,
        ),
    ] {
        let key = EcdsaKeyPair::generate(algorithm).unwrap();
        let point = key.public_key().as_ref();
        let (x, y) = point[1..].split_at(point.len() / 2);
        let odd = y[y.len() - 1] & 1;
        let good = spki(id, point);
        let sign = |message: &[u8]| key.sign(&rng, message).unwrap().as_ref().to_vec();
        assert_eq!(parse_csr(&csr(&good, signed_by, sign)).unwrap().public_key.der(), good);
        for (what, bits) in [
            ("a compressed point", [&[2 + odd], x].concat()),
            ("a hybrid point", [&[6 + odd], x, y].concat()),
            ("a key in the place of its point", good.clone()),
            ("a point and more", [point, b"\0"].concat()),
            ("no point", vec![]),
            ("the point at infinity", vec![0]),
        ] {
            let bad = spki(id, &bits);
            assert_eq!(PublicKey::from_der(&bad), Err(PublicKeyError::Malformed), "{what}");
            let malformed = Err(CsrError::PublicKey(PublicKeyError::Malformed));
            assert_eq!(parse_csr(&csr(&bad, signed_by, sign)), malformed, "{what}");
        }
    }
    let key = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let good = spki(alg_id::ED25519, key.public_key().as_ref());
    assert!(PublicKey::from_der(&good).is_ok());
    let nested = PublicKey::from_der(&spki(alg_id::ED25519, &good));
    assert_eq!(nested, Err(PublicKeyError::Malformed));
}
