use rcgen::{CertificateParams, IsCa, KeyUsagePurpose, SanType};

use super::*;
use crate::test_certs::{NOW, ca, ca_params, issue, leaf_params, uri};

fn read(params: &CertificateParams) -> Result<X509Svid, X509SvidError> {
    X509Svid::from_chain(vec![issue(&ca("root"), params)])
}

fn with_usage(usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut params = leaf_params("spiffe://td.example/a");
    params.key_usages = usages.to_vec();
    params
}

#[test]
fn shows_what_the_leaf_says() {
    let mut params = leaf_params("spiffe://td.example/a");
    params.serial_number = Some(vec![0x01, 0x02].into());
    let svid = read(&params).unwrap();
    assert_eq!(svid.spiffe_id().as_str(), "spiffe://td.example/a");
    assert_eq!(svid.serial().to_string(), "258");
    assert_eq!(svid.not_before().unix(), NOW.unix() - 3600);
    assert_eq!(svid.not_after().unix(), NOW.unix() + 3600);
    assert_eq!(svid.public_key_der()[..2], [0x30, 0x59]);
    assert_eq!(svid.chain().len(), 1);
}

#[test]
fn what_an_issuer_says_that_it_made_is_a_certificate() {
    let made = read(&leaf_params("spiffe://td.example/a")).unwrap();
    assert_eq!(
        X509Svid::issued(made.leaf.clone(), made.chain.clone()),
        Ok(made.clone())
    );
    assert_eq!(X509Svid::issued(made.leaf.clone(), vec![]), Err(X509SvidError::Empty));
    let cut = made.chain[0][..made.chain[0].len() - 1].to_vec();
    let malformed = Err(X509SvidError::Malformed { index: 0 });
    assert_eq!(X509Svid::issued(made.leaf, vec![cut.into()]), malformed);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "left == right")]
fn in_debug_builds_a_certificate_says_what_its_issuer_says() {
    let made = read(&leaf_params("spiffe://td.example/a")).unwrap();
    let other = LeafFields {
        spiffe_id: "spiffe://td.example/b".parse().unwrap(),
        ..made.leaf
    };
    let _ = X509Svid::issued(other, made.chain);
}

// XSVID-02
#[test]
fn a_leaf_has_exactly_one_uri_name() {
    let mut params = leaf_params("spiffe://td.example/a");
    params.subject_alt_names.push(uri("https://td.example/a"));
    assert_eq!(read(&params), Err(X509SvidError::UriNameCount { count: 2 }));
    params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())];
    assert_eq!(read(&params), Err(X509SvidError::UriNameCount { count: 0 }));
    params.subject_alt_names = vec![];
    assert_eq!(read(&params), Err(X509SvidError::UriNameCount { count: 0 }));
}

// XSVID-03 XSVID-06
#[test]
fn other_names_and_an_empty_subject_are_accepted() {
    let mut params = leaf_params("spiffe://td.example/a");
    params.distinguished_name = rcgen::DistinguishedName::new();
    for name in ["a.example", "b.example", "c.example"] {
        params
            .subject_alt_names
            .push(SanType::DnsName(name.try_into().unwrap()));
    }
    params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
    assert!(read(&params).is_ok());
}

// XSVID-35 XSVID-36
#[test]
fn the_uri_is_a_spiffe_id_with_a_path() {
    assert!(matches!(
        read(&leaf_params("https://td.example/a")),
        Err(X509SvidError::SpiffeId(_))
    ));
    assert!(matches!(
        read(&leaf_params("spiffe://td.example/a?x")),
        Err(X509SvidError::SpiffeId(_))
    ));
    assert!(matches!(
        read(&leaf_params("spiffe://td.example")),
        Err(X509SvidError::RootPath { .. })
    ));
}

// XSVID-33
#[test]
fn a_ca_certificate_is_no_leaf_and_absent_basic_constraints_are() {
    let mut params = leaf_params("spiffe://td.example/a");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    assert_eq!(read(&params), Err(X509SvidError::LeafIsCa));
    params.is_ca = IsCa::NoCa; // AMB-05
    assert!(read(&params).is_ok());
}

// XSVID-34 XSVID-25
#[test]
fn key_usage_of_a_leaf_signs_data_and_nothing_else() {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
    assert!(read(&with_usage(&[DigitalSignature, KeyEncipherment, KeyAgreement])).is_ok());
    assert_eq!(read(&with_usage(&[])), Err(X509SvidError::KeyUsageMissing));
    assert_eq!(
        read(&with_usage(&[KeyEncipherment])),
        Err(X509SvidError::NoDigitalSignature)
    );
    assert_eq!(
        read(&with_usage(&[DigitalSignature, KeyCertSign])),
        Err(X509SvidError::LeafSignsCertificates)
    );
    assert_eq!(
        read(&with_usage(&[DigitalSignature, CrlSign])),
        Err(X509SvidError::LeafSignsCrls)
    );
}

// IOP-07
#[test]
fn what_is_above_the_leaf_must_be_a_ca_that_signs_certificates() {
    let root = ca("root");
    let leaf = issue(&root, &leaf_params("spiffe://td.example/a"));
    let chain = |above: &CertificateDer<'static>| X509Svid::from_chain(vec![leaf.clone(), above.clone()]);

    assert_eq!(chain(&leaf), Err(X509SvidError::IntermediateNotCa { index: 1 }));
    let mut params = ca_params("crl only");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(
        chain(&issue(&root, &params)),
        Err(X509SvidError::IntermediateLacksKeyCertSign { index: 1 })
    );
    params.key_usages = vec![];
    assert_eq!(
        chain(&issue(&root, &params)),
        Err(X509SvidError::IntermediateLacksKeyCertSign { index: 1 })
    );
    assert!(chain(&issue(&root, &ca_params("intermediate"))).is_ok());
}

#[test]
fn sizes_are_checked_before_anything_is_parsed() {
    let junk = |len| CertificateDer::from(vec![0u8; len]);
    assert_eq!(X509Svid::from_chain(vec![]), Err(X509SvidError::Empty));
    assert_eq!(
        X509Svid::from_chain(vec![junk(1); 9]),
        Err(X509SvidError::TooManyCertificates { count: 9 })
    );
    assert_eq!(
        X509Svid::from_chain(vec![junk(32_769); 2]),
        Err(X509SvidError::TooLarge { bytes: 65_538 })
    );
    assert_eq!(
        X509Svid::from_chain(vec![junk(9)]),
        Err(X509SvidError::Malformed { index: 0 })
    );
    let big = vec![0u8; 65_537];
    assert_eq!(
        X509Svid::from_concatenated_der(&big),
        Err(X509SvidError::TooLarge { bytes: 65_537 })
    );
    assert_eq!(X509Svid::from_concatenated_der(&[]), Err(X509SvidError::Empty));
}

// SVID-12
#[test]
fn documents_of_other_kinds_are_no_svid() {
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = issue(&ca("root"), &leaf_params("spiffe://td.example/a"));
    let request = leaf_params("spiffe://td.example/a").serialize_request(&key).unwrap();
    let signed_part = &leaf[4..]; // without the signature around it
    let base64_of_jwt = b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly90ZC5leGFtcGxlL2EifQ.c2ln".to_vec();
    for (kind, document) in [
        ("a token", base64_of_jwt),
        ("a name", b"spiffe://td.example/a".to_vec()),
        ("JSON", br#"{"spiffe_id": "spiffe://td.example/a"}"#.to_vec()),
        (
            "PEM",
            b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec(),
        ),
        ("a raw public key", rcgen::PublicKeyData::subject_public_key_info(&key)),
        ("a private key", key.serialize_der()),
        ("a certificate request", request.der().to_vec()),
        ("a certificate that nobody signed", signed_part.to_vec()),
    ] {
        let read = X509Svid::from_chain(vec![document.clone().into()]);
        assert_eq!(read, Err(X509SvidError::Malformed { index: 0 }), "{kind}");
        assert!(X509Svid::from_concatenated_der(&document).is_err(), "{kind}");
    }
}

// WAX-07
#[test]
fn concatenated_der_is_read_to_the_last_byte() {
    let root = ca("root");
    let leaf = issue(&root, &leaf_params("spiffe://td.example/a"));
    let mut bytes = [leaf.as_ref(), root.der().as_ref()].concat();
    let svid = X509Svid::from_concatenated_der(&bytes).unwrap();
    assert_eq!(svid.chain(), [leaf.clone(), root.der().clone()]);
    bytes.push(0);
    assert_eq!(
        X509Svid::from_concatenated_der(&bytes),
        Err(X509SvidError::Malformed { index: 2 })
    );
    let trailing = CertificateDer::from([leaf.as_ref(), b"x"].concat());
    assert_eq!(
        X509Svid::from_chain(vec![trailing]),
        Err(X509SvidError::Malformed { index: 0 })
    );
}

// Found by fuzzing: the tag of another class was taken for the one of the extensions.
#[test]
fn extensions_stand_where_der_has_them_and_nowhere_else() {
    let leaf = issue(&ca("root"), &leaf_params("spiffe://td.example/a"));
    // [3] EXPLICIT, two octets of length or one, SEQUENCE.
    let at = (0..leaf.len() - 4)
        .rfind(|at| leaf[*at] == 0xa3 && leaf[*at + 1] & 0x80 != 0 && leaf[*at + 3..*at + 5].contains(&0x30))
        .unwrap();
    for (what, octet, value) in [
        ("private", at, 0xe3),
        ("application", at, 0x63),
        ("universal", at, 0x23),
        ("primitive", at, 0x83),
        ("another length", at + 2, leaf[at + 2] ^ 1),
    ] {
        let mut bytes = leaf.to_vec();
        bytes[octet] = value;
        let read = X509Svid::from_chain(vec![bytes.into()]);
        assert_eq!(read, Err(X509SvidError::Malformed { index: 0 }), "{what}");
    }
}

// Found by fuzzing: the parser does not look at classes, and others would not find what it finds.
#[test]
fn what_is_read_has_its_proper_tags() {
    let leaf = issue(&ca("root"), &leaf_params("spiffe://td.example/a"));
    let uri = leaf.windows(9).position(|octets| octets == b"spiffe://").unwrap() - 2;
    let usage = leaf
        .windows(5)
        .position(|octets| octets == b"\x06\x03\x55\x1d\x0f")
        .unwrap();
    let usage = usage + leaf[usage..].iter().position(|octet| *octet == 0x04).unwrap() + 2;
    assert_eq!((leaf[uri], leaf[usage]), (0x86, 0x03));
    for (at, tag) in [
        (uri, 0x06),
        (uri, 0x46),
        (uri, 0xc6),
        (uri, 0xa6),
        (usage, 0x43),
        (usage, 0x83),
        (usage, 0xc3),
    ] {
        let mut bytes = leaf.to_vec();
        bytes[at] = tag;
        let read = X509Svid::from_chain(vec![bytes.into()]);
        assert_eq!(read, Err(X509SvidError::Malformed { index: 0 }), "{tag:#x}");
    }
}

#[test]
fn a_critical_extension_that_is_not_known_makes_a_certificate_useless() {
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    extension.set_criticality(true);
    let mut params = leaf_params("spiffe://td.example/a");
    params.custom_extensions.push(extension);
    assert_eq!(read(&params), Err(X509SvidError::UnknownCriticalExtension { index: 0 }));
}

#[test]
fn truncated_and_flipped_bytes_never_panic() {
    let leaf = issue(&ca("root"), &leaf_params("spiffe://td.example/a"));
    for at in 0..leaf.len() {
        let _ = X509Svid::from_concatenated_der(&leaf[..at]);
        for bit in 0..8 {
            let mut bytes = leaf.to_vec();
            bytes[at] ^= 1 << bit;
            let _ = X509Svid::from_chain(vec![bytes.into()]);
        }
    }
}
