use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::*;
use crate::test_certs::{NOW, anchors_of, at, bundle_of, ca, ca_of, ca_params, issue, leaf_params, td, uri};

const ID: &str = "spiffe://td.example/a";

fn unknown() -> VerifyError {
    VerifyError::UnknownAuthority { trust_domain: td() }
}

/// The verdict on a leaf with `params` under a good root.
fn verdict(params: &CertificateParams) -> Result<X509Svid, VerifyError> {
    let root = ca("root");
    verify_x509_svid(&[issue(&root, params)], &anchors_of(&[root.der()]), NOW)
}

#[test]
fn returns_the_svid_that_it_verified() {
    let svid = verdict(&leaf_params(ID)).unwrap();
    assert_eq!(svid.spiffe_id().as_str(), ID);
}

// SVID-01 SPID-13 WAPI-21 TDB-04 XSVID-32
#[test]
fn an_svid_counts_only_against_the_bundle_of_its_own_trust_domain() {
    let root = ca("root");
    let foreign = issue(&root, &leaf_params("spiffe://other.example/a"));
    let error = verify_x509_svid(&[foreign], &anchors_of(&[root.der()]), NOW).unwrap_err();
    assert_eq!(
        error,
        VerifyError::OtherTrustDomain {
            presented: "other.example".parse().unwrap(),
            expected: td()
        }
    );
    let leaf = issue(&ca("someone else"), &leaf_params(ID));
    assert_eq!(
        verify_x509_svid(&[leaf], &anchors_of(&[root.der()]), NOW),
        Err(unknown())
    );
}

// TDB-20 XSVID-48 WAPI-22
#[test]
fn an_empty_bundle_refuses_everything() {
    let leaf = issue(&ca("root"), &leaf_params(ID));
    assert_eq!(verify_x509_svid(&[leaf], &anchors_of(&[]), NOW), Err(unknown()));
}

// XSVID-31
#[test]
fn validity_includes_both_ends() {
    let mut params = leaf_params(ID);
    (params.not_before, params.not_after) = (at(-60), at(60));
    let root = ca("root");
    let (leaf, anchors) = (issue(&root, &params), anchors_of(&[root.der()]));
    let at = |offset: i64| verify_x509_svid(std::slice::from_ref(&leaf), &anchors, moved(offset));
    assert!(at(-60).is_ok());
    assert!(at(60).is_ok());
    assert_eq!(at(-61), Err(VerifyError::NotYetValid { not_before: moved(-60) }));
    assert_eq!(at(61), Err(VerifyError::Expired { not_after: moved(60) }));
}

fn moved(offset: i64) -> Timestamp {
    Timestamp::from_unix(NOW.unix() + offset)
}

// XSVID-31
#[test]
fn an_authority_outside_its_validity_signs_nothing() {
    let mut params = ca_params("root");
    params.not_after = at(-1);
    let expired = ca_of(params);
    let leaf = issue(&expired, &leaf_params(ID));
    let verdict = verify_x509_svid(&[leaf], &anchors_of(&[expired.der()]), NOW);
    assert_eq!(verdict, Err(VerifyError::AuthorityNotValid));
}

// XSVID-31 XSVID-12 XSVID-14
#[test]
fn intermediates_lead_to_the_bundle_within_their_path_length() {
    let mut root_params = ca_params("root");
    root_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let root = ca_of(root_params);
    let anchors = anchors_of(&[root.der()]);
    let under = |issuer: &crate::test_certs::Ca, name: &str| {
        rcgen::CertifiedIssuer::signed_by(ca_params(name), KeyPair::generate().unwrap(), issuer).unwrap()
    };
    let middle = under(&root, "middle");
    let leaf = issue(&middle, &leaf_params(ID));
    assert!(verify_x509_svid(&[leaf.clone(), middle.der().clone()], &anchors, NOW).is_ok());
    assert_eq!(verify_x509_svid(&[leaf], &anchors, NOW), Err(unknown()));

    let low = under(&middle, "low");
    let deep = issue(&low, &leaf_params(ID));
    let chain = [deep, low.der().clone(), middle.der().clone()];
    assert!(matches!(
        verify_x509_svid(&chain, &anchors, NOW),
        Err(VerifyError::Path(_))
    ));
}

// XSVID-02 XSVID-33 XSVID-34 XSVID-36
#[test]
fn leaf_rules_come_before_the_path() {
    let mut two = leaf_params(ID);
    two.subject_alt_names.push(uri("https://td.example/a"));
    let mut authority = ca_params("root");
    authority.subject_alt_names = vec![uri(ID)];
    for params in [two, authority, leaf_params("spiffe://td.example")] {
        assert!(matches!(verdict(&params), Err(VerifyError::NotAnSvid(_))));
    }
}

// XINH-06
#[test]
fn unknown_critical_extensions_are_refused_and_uncritical_ones_are_not() {
    for (critical, accepted) in [(true, false), (false, true)] {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        extension.set_criticality(critical);
        let mut params = leaf_params(ID);
        params.custom_extensions.push(extension);
        assert_eq!(verdict(&params).is_ok(), accepted);
    }
}

/// Name constraints that permit URIs of one host, which `rcgen` does not write: RFC 5280 §4.2.1.10.
fn permitting_uris_of(host: &str) -> CustomExtension {
    let wrap = |tag: u8, inner: &[u8]| [&[tag, u8::try_from(inner.len()).unwrap()], inner].concat();
    let subtree = wrap(0x30, &wrap(0x86, host.as_bytes()));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], wrap(0x30, &wrap(0xa0, &subtree)));
    extension.set_criticality(true);
    extension
}

// XSVID-19; that chains are refused whose ID lies inside, as webpki has no opinion of URIs, is on the safe side
#[test]
fn an_id_outside_the_uri_name_constraints_above_it_is_refused() {
    let constrained = |name: &str| {
        let mut params = ca_params(name);
        params.custom_extensions.push(permitting_uris_of("elsewhere.example"));
        params
    };
    let root = ca_of(constrained("constrained root"));
    let leaf = issue(&root, &leaf_params(ID));
    let verdict = verify_x509_svid(&[leaf], &anchors_of(&[root.der()]), NOW);
    assert_eq!(verdict, Err(VerifyError::Path(PathError::NameConstraintViolation)));

    let root = ca("root");
    for (params, accepted) in [(constrained("between"), false), (ca_params("between"), true)] {
        let between = rcgen::CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
        let chain = [issue(&between, &leaf_params(ID)), between.der().clone()];
        assert_eq!(
            verify_x509_svid(&chain, &anchors_of(&[root.der()]), NOW).is_ok(),
            accepted
        );
    }
}

// XSVID-29
#[test]
fn extended_key_usage_allows_both_roles_or_is_absent() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    let table: [(&[ExtendedKeyUsagePurpose], bool); 6] = [
        (&[], true),
        (&[ServerAuth, ClientAuth], true),
        (&[ClientAuth, CodeSigning, ServerAuth], true),
        (&[Any], true),
        (&[ServerAuth], false),
        (&[ClientAuth], false),
    ];
    for (purposes, accepted) in table {
        let mut params = leaf_params(ID);
        params.extended_key_usages = purposes.to_vec();
        assert_eq!(verdict(&params).is_ok(), accepted, "{purposes:?}");
    }
    // XSVID-28: the same two roles in an extension that is critical.
    let role = |last: u8| [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, last];
    let both = [&[0x30, 20][..], &role(1), &role(2)].concat();
    for (content, accepted) in [(both, true), ([&[0x30, 10][..], &role(1)].concat(), false)] {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 37], content);
        extension.set_criticality(true);
        let mut params = leaf_params(ID);
        params.extended_key_usages = vec![];
        params.custom_extensions.push(extension);
        assert_eq!(verdict(&params).is_ok(), accepted);
    }
}

// SVID-07 SVID-08 XINH-08
#[test]
fn no_bit_of_the_leaf_can_be_flipped() {
    let root = ca("root");
    let (leaf, anchors) = (issue(&root, &leaf_params(ID)), anchors_of(&[root.der()]));
    for at in 0..leaf.len() {
        let mut bytes = leaf.to_vec();
        bytes[at] ^= 1;
        assert!(verify_x509_svid(&[bytes.into()], &anchors, NOW).is_err(), "byte {at}");
    }
}

// XINH-08
#[test]
fn inner_and_outer_signature_algorithm_must_agree() {
    let root = ca("root");
    let leaf = issue(&root, &leaf_params(ID)).to_vec();
    let ecdsa_sha256 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let places: Vec<_> = (0..leaf.len())
        .filter(|at| leaf[*at..].starts_with(&ecdsa_sha256))
        .collect();
    assert_eq!(places.len(), 2);
    let mut outer_sha384 = leaf;
    outer_sha384[places[1] + 9] = 3;
    let verdict = verify_x509_svid(&[outer_sha384.into()], &anchors_of(&[root.der()]), NOW);
    assert!(
        matches!(verdict, Err(VerifyError::Path(_) | VerifyError::NotAnSvid(_))),
        "{verdict:?}"
    );
}

#[test]
fn two_authorities_of_one_name_are_both_tried() {
    let (old, new) = (ca("same"), ca("same"));
    let anchors = anchors_of(&[old.der(), new.der()]);
    for root in [&old, &new] {
        assert!(verify_x509_svid(&[issue(root, &leaf_params(ID))], &anchors, NOW).is_ok());
    }
    let third = issue(&ca("same"), &leaf_params(ID));
    assert_eq!(
        verify_x509_svid(&[third], &anchors, NOW),
        Err(VerifyError::BadSignature)
    );
}

// XSVID-08
#[test]
fn unusable_authorities_are_left_out_and_named() {
    let root = ca("root");
    let leaf = issue(&root, &leaf_params(ID));
    let mut bundle = bundle_of(&[&leaf, root.der()]);
    bundle.x509_authorities[0].tainted = true;
    let anchors = TrustAnchors::from_bundle(&bundle);
    assert_eq!(
        (anchors.len(), anchors.unusable().len(), anchors.unusable()[0].index),
        (1, 1, 0)
    );
    assert!(verify_x509_svid(&[leaf], &anchors, NOW).is_ok());
}

// XINH-08
#[test]
fn signatures_over_sha1_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        let output = command
            .args(arguments.split(' '))
            .current_dir(&dir)
            .output()
            .expect("the tests need openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let extensions = "subjectAltName=URI:spiffe://td.example/a\nkeyUsage=critical,digitalSignature\n";
    std::fs::write(dir.path().join("leaf.cnf"), extensions).unwrap();
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=root -sha256 -days 2 \
         -addext keyUsage=critical,keyCertSign",
    );
    openssl("req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=leaf");
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let anchors = TrustAnchors::from_bundle(&crate::Bundle::from_pem(td(), &read("ca.pem")).unwrap());
    for (digest, accepted) in [("-sha1", false), ("-md5", false), ("-sha256", true)] {
        openssl(&format!(
            "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile leaf.cnf {digest} -outform DER \
             -out leaf.der"
        ));
        let leaf = CertificateDer::from(read("leaf.der"));
        let now = X509Svid::from_chain(vec![leaf.clone()]).unwrap().not_before();
        assert_eq!(verify_x509_svid(&[leaf], &anchors, now).is_ok(), accepted, "{digest}");
    }
}
