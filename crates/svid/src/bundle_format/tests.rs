use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Timestamp;
use crate::test_certs::{bundle_of, ca, ca_of, ca_params, td};

fn read(document: &Value) -> Result<Bundle, BundleFormatError> {
    Bundle::from_spiffe_json(td(), document.to_string().as_bytes())
}

fn x5c(der: &[u8]) -> String {
    STANDARD.encode(der)
}

/// A bundle with every kind of key that the format knows.
fn full_bundle() -> Bundle {
    let rsa_key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let rsa_ca = rcgen::CertifiedIssuer::self_signed(ca_params("rsa"), rsa_key).unwrap();
    let ec_ca = rcgen::CertifiedIssuer::self_signed(ca_params("p384"), p384).unwrap();
    let mut bundle = bundle_of(&[ca("p256").der(), ec_ca.der(), rsa_ca.der()]);
    bundle.refresh_hint = 300;
    bundle.sequence_number = (1 << 53) + 1;
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        bundle
            .jwt_authorities
            .push(jwt(rcgen::PublicKeyData::subject_public_key_info(&key)));
    }
    bundle
        .jwt_authorities
        .push(jwt(rcgen::PublicKeyData::subject_public_key_info(rsa_ca.key())));
    bundle
}

fn jwt(public_key_der: Vec<u8>) -> JwtAuthority {
    let key_id = hex_of(&crate::public_key_id(&public_key_der));
    JwtAuthority {
        key_id,
        public_key_der,
        expires_at: None,
        tainted: false,
    }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// TDB-02 TDB-07 XSVID-47 JSVID-24
#[test]
fn a_bundle_survives_the_round_trip_through_json() {
    let bundle = full_bundle();
    let json = bundle.to_spiffe_json().unwrap();
    assert_eq!(Bundle::from_spiffe_json(td(), &json).unwrap(), bundle);
}

// XSVID-39 XSVID-40 XSVID-41 XSVID-42 XSVID-43 JSVID-25 JSVID-26 TDB-21 TDB-22 TDB-24 TDB-15
#[test]
fn what_is_written_has_the_published_parameters_and_no_others() {
    let bundle = full_bundle();
    let document: Value = serde_json::from_slice(&bundle.to_spiffe_json().unwrap()).unwrap();
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 7);
    for (index, key) in keys.iter().enumerate() {
        let names: Vec<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
        let parameters: &[&str] = if key["kty"] == "RSA" {
            &["e", "n"]
        } else {
            &["crv", "x", "y"]
        };
        let own = if index < 3 { "x5c" } else { "kid" };
        let mut expected = [parameters, &["kty", "use", own]].concat();
        expected.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(key["use"], if index < 3 { "x509-svid" } else { "jwt-svid" });
        if index < 3 {
            assert_eq!(key["x5c"], json!([x5c(&bundle.x509_authorities[index].cert_der)]));
        }
    }
    assert_eq!(document["spiffe_refresh_hint"], 300);
    assert_eq!(document["spiffe_sequence"], (1u64 << 53) + 1);
}

// TDB-13
#[test]
fn sequence_numbers_are_exact_to_64_bits() {
    for sequence_number in [(1 << 53) + 1, i64::MAX as u64, u64::MAX] {
        let bundle = Bundle {
            sequence_number,
            ..Bundle::empty(td())
        };
        let again = Bundle::from_spiffe_json(td(), &bundle.to_spiffe_json().unwrap()).unwrap();
        assert_eq!(again.sequence_number, sequence_number);
    }
}

// TDB-09 TDB-18 TDB-23 TDB-25 AMB-06
#[test]
fn unknown_keys_uses_and_parameters_are_ignored() {
    let root = ca("root");
    let good = json!({"use": "x509-svid", "kty": "EC", "x5c": [x5c(root.der())], "alg": "whatever"});
    let with = |name: &str, value: &str| {
        let mut key = good.clone();
        key[name] = value.into();
        key
    };
    let mut no_use = good.clone();
    no_use.as_object_mut().unwrap().remove("use");
    let document = json!({
        "keys": [
            with("kty", "OKP"), with("kty", "AKP"), with("kty", "ec"), with("use", "foo-svid"), with("use", "sig"),
            with("use", "X509-SVID"), with("use", ""), with("use", "wit-svid"), no_use, good, 7, null, "key", [],
        ],
        "more": {"a": [1]},
    });
    let bundle = read(&document).unwrap();
    assert_eq!(bundle, bundle_of(&[root.der()]));
}

// XSVID-45 XSVID-46
#[test]
fn only_the_first_certificate_of_an_entry_counts_and_bad_entries_are_ignored() {
    let (one, two) = (ca("one"), ca("two"));
    let entry = |value: Value| json!({"use": "x509-svid", "kty": "EC", "x5c": value});
    let document = json!({"keys": [
        {"use": "x509-svid", "kty": "EC"}, entry(json!([])), entry(json!("text")), entry(json!(["!"])),
        entry(json!(["AAAA"])),
        entry(json!([x5c(one.der()), x5c(two.der())])), entry(json!([x5c(one.der())])),
    ]});
    assert_eq!(read(&document).unwrap(), bundle_of(&[one.der()]));
}

// XSVID-48 JSVID-27 JSVID-28 TDB-19
#[test]
fn a_bundle_of_one_kind_or_of_none_is_a_bundle() {
    let full = full_bundle();
    let only_jwt = Bundle {
        x509_authorities: vec![],
        ..full.clone()
    };
    assert_eq!(
        Bundle::from_spiffe_json(td(), &only_jwt.to_spiffe_json().unwrap()).unwrap(),
        only_jwt
    );
    let only_x509 = Bundle {
        jwt_authorities: vec![],
        ..full
    };
    assert_eq!(
        Bundle::from_spiffe_json(td(), &only_x509.to_spiffe_json().unwrap()).unwrap(),
        only_x509
    );
    assert_eq!(read(&json!({"keys": []})).unwrap(), Bundle::empty(td()));
}

// JSVID-26
#[test]
fn jwt_keys_without_id_or_with_bad_parameters_are_ignored() {
    let x = URL_SAFE_NO_PAD.encode([1; 32]);
    let key = |kid: Value, crv: &str, x: &str| json!({"use": "jwt-svid", "kty": "EC", "kid": kid, "crv": crv, "x": x, "y": x});
    let document = json!({"keys": [
        key(Value::Null, "P-256", &x), key("".into(), "P-256", &x), key("a".into(), "P-384", &x),
        key("a".into(), "P-256", "AA"),
        key("a".into(), "secp256k1", &x), key("a".into(), "P-256", "="),
        {"use": "jwt-svid", "kty": "RSA", "kid": "a", "n": "AQ", "e": "AQAB"},
        {"use": "jwt-svid", "kty": "RSA", "kid": "a"},
        key("good".into(), "P-256", &x), key("good".into(), "P-256", &URL_SAFE_NO_PAD.encode([2; 32])),
    ]});
    let bundle = read(&document).unwrap();
    assert_eq!(bundle.jwt_authorities.len(), 1);
    assert_eq!(bundle.jwt_authorities[0].key_id, "good");
    assert!(bundle.jwt_authorities[0].public_key_der.ends_with(&[1; 64]));
}

// TDB-17
#[test]
fn documents_that_are_no_bundle_are_refused() {
    for text in [
        "",
        "{}",
        "[]",
        "null",
        "{\"keys\": null}",
        "{\"keys\": {}}",
        "{\"keys\": [], \"spiffe_sequence\": 1.5}",
        "{\"keys\": [], \"spiffe_sequence\": \"1\"}",
        "{\"keys\": [], \"spiffe_refresh_hint\": \"300\"}",
        "{\"keys\": []} x",
        "{\"keys\": [], \"keys\": []}",
        "\u{feff}{\"keys\": []}",
    ] {
        assert!(Bundle::from_spiffe_json(td(), text.as_bytes()).is_err(), "{text}");
    }
    let deep = format!("{{\"keys\": [{}", "[".repeat(100_000));
    assert!(Bundle::from_spiffe_json(td(), deep.as_bytes()).is_err());
    let large = vec![b' '; MAX_DOCUMENT_BYTES + 1];
    assert!(matches!(
        Bundle::from_spiffe_json(td(), &large),
        Err(BundleFormatError::TooLarge { .. })
    ));
    assert!(matches!(
        Bundle::from_pem(td(), &large),
        Err(BundleFormatError::TooLarge { .. })
    ));
}

#[test]
fn a_key_without_a_jwk_form_is_an_error_that_names_it() {
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let odd = rcgen::CertifiedIssuer::self_signed(ca_params("odd"), ed25519).unwrap();
    let error = bundle_of(&[ca("good").der(), odd.der()]).to_spiffe_json().unwrap_err();
    assert!(matches!(
        error,
        BundleFormatError::UnsupportedKey { kind: "x509", index: 1 }
    ));
}

#[test]
fn pem_holds_certificates_and_nothing_else() {
    let bundle = bundle_of(&[ca("one").der(), ca_of(ca_params("two")).der()]);
    let text = format!("# a comment\n{}", bundle.x509_to_pem());
    assert_eq!(Bundle::from_pem(td(), text.as_bytes()).unwrap(), bundle);
    assert_eq!(
        Bundle::from_pem(td(), text.replace('\n', "\r\n").as_bytes()).unwrap(),
        bundle
    );

    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let error = Bundle::from_pem(td(), format!("{text}{key}").as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "PEM block 2 is `PRIVATE KEY`, a bundle holds only CERTIFICATE blocks"
    );
    assert!(matches!(Bundle::from_pem(td(), b""), Err(BundleFormatError::PemEmpty)));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        Bundle::from_pem(td(), broken.as_bytes()),
        Err(BundleFormatError::PemCertificate { index: 0 })
    ));
    assert_eq!(Bundle::empty(td()).x509_to_pem(), "");
}

#[test]
fn equality_is_by_content_so_a_taint_is_a_change() {
    let bundle = full_bundle();
    let mut changed = bundle.clone();
    changed.jwt_authorities[0].expires_at = Some(Timestamp::from_unix(1));
    assert_ne!(bundle, changed);
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Bundle::from_spiffe_json(td(), &bytes);
        let _ = Bundle::from_pem(td(), &bytes);
    }
}
