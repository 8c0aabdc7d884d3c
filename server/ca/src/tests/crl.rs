//! Revocation lists as other programs read them.

use mayfly_svid::Serial;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::*;

fn list(number: u128, serials: &[&Serial]) -> RevocationList {
    let revoked = |serial: &&Serial| Revoked {
        serial: (*serial).clone(),
        at: NOW,
    };
    RevocationList {
        number,
        life: 3 * HOUR,
        revoked: serials.iter().map(revoked).collect(),
    }
}

/// What `openssl` says of a list, once it found the signature good.
fn openssl_crl(authority: &CertificateDer<'_>, crl: &[u8]) -> String {
    let files = Files::new();
    let authority = files.write("ca.der", authority);
    let crl = files.write("crl.der", crl);
    let (authority, crl) = (authority.to_str().unwrap(), crl.to_str().unwrap());
    let pem = openssl(&["x509", "-inform", "DER", "-in", authority]).unwrap();
    let authority = files.write("ca.pem", pem.as_bytes());
    let authority = authority.to_str().unwrap();
    let arguments = [
        "crl", "-inform", "DER", "-in", crl, "-CAfile", authority, "-verify", "-noout", "-text",
    ];
    openssl(&arguments).unwrap()
}

/// `openssl verify` of a leaf with a list.
fn openssl_with_crl(issuer: &Issuer, leaf: &CertificateDer<'_>, crl: &[u8], at: Timestamp) -> Result<String, String> {
    let files = Files::new();
    let convert = |kind: &str, der: &[u8]| {
        let path = files.write("in.der", der);
        let pem = openssl(&[kind, "-inform", "DER", "-in", path.to_str().unwrap()]).unwrap();
        files.write(&format!("{}.pem", rand_name(der)), pem.as_bytes())
    };
    let (root, leaf) = (convert("x509", issuer.cert_der()), convert("x509", leaf));
    let (crl, at) = (convert("crl", crl), at.unix().to_string());
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (root, leaf, crl) = (path(&root), path(&leaf), path(&crl));
    openssl(&[
        "verify",
        "-x509_strict",
        "-crl_check",
        "-attime",
        &at,
        "-CAfile",
        &root,
        "-CRLfile",
        &crl,
        &leaf,
    ])
}

fn rand_name(der: &[u8]) -> String {
    mayfly_svid::public_key_id(der)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn webpki_with_crl(issuer: &Issuer, leaf: &CertificateDer<'_>, crl: &[u8], at: Timestamp) -> Result<(), webpki::Error> {
    let crl: CertRevocationList<'_> = BorrowedCertRevocationList::from_der(crl).unwrap().into();
    let crls = [&crl];
    let revocation = RevocationOptionsBuilder::new(&crls)
        .unwrap()
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(UnknownStatusPolicy::Deny)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    let anchor = webpki::anchor_from_trusted_cert(issuer.cert_der()).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.unix().try_into().unwrap()));
    EndEntityCert::try_from(leaf)
        .unwrap()
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            at,
            KeyUsage::client_auth(),
            Some(revocation),
            None,
        )
        .map(drop)
}

#[tokio::test]
async fn a_list_is_good_to_openssl_and_webpki_and_refuses_what_it_names() {
    for key_type in KeyType::ALL {
        let issuer = issuer_of(key_type).await;
        let (gone, stays) = (
            issue(&issuer, request("spiffe://td.example/gone")),
            issue(&issuer, request("spiffe://td.example/stays")),
        );
        let empty = issuer.sign_crl(&list(1, &[]), NOW).unwrap();
        let full = issuer.sign_crl(&list(u128::MAX >> 1, &[gone.serial()]), NOW).unwrap();

        let text = openssl_crl(issuer.cert_der(), &empty);
        assert!(text.contains("No Revoked Certificates"), "{text}");
        let text = openssl_crl(issuer.cert_der(), &full);
        let hex: String = gone
            .serial()
            .as_be_bytes()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        assert!(text.contains(&format!("Serial Number: {hex}")), "{text}");

        for svid in [&gone, &stays] {
            openssl_with_crl(&issuer, &svid.chain()[0], &empty, NOW).unwrap();
            webpki_with_crl(&issuer, &svid.chain()[0], &empty, NOW).unwrap();
        }
        openssl_with_crl(&issuer, &stays.chain()[0], &full, NOW).unwrap();
        webpki_with_crl(&issuer, &stays.chain()[0], &full, NOW).unwrap();
        let refused = openssl_with_crl(&issuer, &gone.chain()[0], &full, NOW).unwrap_err();
        assert!(refused.contains("certificate revoked"), "{refused}");
        let refused = webpki_with_crl(&issuer, &gone.chain()[0], &full, NOW);
        assert_eq!(refused, Err(webpki::Error::CertRevoked));
    }
}

#[tokio::test]
async fn a_list_counts_for_its_life_and_also_for_who_is_a_little_behind() {
    let issuer = issuer().await;
    let later = |seconds: i64| Timestamp::from_unix(NOW.unix() + seconds);
    let mut wanted = request("spiffe://td.example/a");
    wanted.validity = Validity::For(10 * HOUR);
    let leaf = issue(&issuer, wanted).chain()[0].clone();
    let crl = issuer.sign_crl(&list(7, &[]), NOW).unwrap();
    for at in [later(-9), NOW, later(3 * 3600 - 1)] {
        openssl_with_crl(&issuer, &leaf, &crl, at).unwrap();
        webpki_with_crl(&issuer, &leaf, &crl, at).unwrap();
    }
    let refused = openssl_with_crl(&issuer, &leaf, &crl, later(3 * 3600 + 1)).unwrap_err();
    assert!(refused.contains("CRL has expired"), "{refused}");
    let refused = webpki_with_crl(&issuer, &leaf, &crl, later(3 * 3600 + 1));
    assert!(matches!(refused, Err(webpki::Error::CrlExpired { .. })), "{refused:?}");
}

// RFC 5280 §5.2.1, §5.2.3
#[tokio::test]
async fn a_list_names_its_key_and_number_and_is_what_another_writer_makes() {
    let issuer = issuer().await;
    let serial = random_serial();
    let wanted = list(0x0102_0304_0506_0708_090a, &[&serial]);
    let crl = issuer.sign_crl(&wanted, NOW).unwrap();
    let (rest, read) = CertificateRevocationList::from_der(&crl).unwrap();
    assert!(rest.is_empty());
    let number = read.crl_number().unwrap().to_bytes_be();
    assert_eq!(number, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let key_ids: Vec<_> = read
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        })
        .collect();
    let mut authority = decode(issuer.cert_der());
    let (_, key_id) = authority.extensions.remove("X509v3 Subject Key Identifier").unwrap();
    let hex: Vec<_> = key_ids[0].iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!((key_ids.len(), hex.join(":")), (1, key_id));

    let params = CertificateRevocationListParams {
        this_update: crate::der::offset(NOW.minus(BACKDATE)).unwrap(),
        next_update: crate::der::offset(NOW.plus(3 * HOUR)).unwrap(),
        crl_number: SerialNumber::from(vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: serial.as_be_bytes().to_vec().into(),
            revocation_time: crate::der::offset(NOW).unwrap(),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::PreSpecified(key_ids[0].clone()),
    };
    let another = rcgen::Issuer::from_ca_cert_der(issuer.cert_der(), rcgen::KeyPair::generate().unwrap()).unwrap();
    let theirs = CertificateRevocationListDer::from(params.signed_by(&another).unwrap());
    let (_, theirs) = CertificateRevocationList::from_der(&theirs).unwrap();
    assert_eq!(read.tbs_cert_list.as_ref(), theirs.tbs_cert_list.as_ref());
}

#[tokio::test]
async fn an_authority_that_may_not_sign_lists_signs_none() {
    let root = rcgen::CertifiedIssuer::self_signed(authority_params(), rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = signer(KeyType::EcP256).await;
    let spki = rcgen::SubjectPublicKeyInfo::from_der(key.public_key_der()).unwrap();
    let cert = authority_params().signed_by(&spki, &root).unwrap().der().clone();
    let issuer = Issuer::new(td(), cert, key.clone()).unwrap();
    let refused = issuer.sign_crl(&list(1, &[]), NOW);
    assert!(matches!(refused, Err(CrlError::NoCrlSign)));

    let cert = create_authority(&td(), key.clone(), HOUR, NOW, &random_serial()).unwrap();
    let issuer = Issuer::new(td(), cert, Arc::new(Refusing(key))).unwrap();
    let refused = issuer.sign_crl(&list(1, &[]), NOW);
    assert!(matches!(refused, Err(CrlError::Key(KeyError::Stopped))));
    let refused = issuer.sign_crl(&list(0, &[]), NOW);
    assert!(matches!(refused, Err(CrlError::OutOfRange)));
}

// The library writes the name of the authority anew; a list under another name would be nobody's.
#[tokio::test]
async fn the_name_of_an_authority_that_others_made_stays_as_it_is() {
    let root = rcgen::CertifiedIssuer::self_signed(authority_params(), rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = signer(KeyType::EcP256).await;
    let spki = rcgen::SubjectPublicKeyInfo::from_der(key.public_key_der()).unwrap();
    let mut params = authority_params();
    params.key_usages.push(rcgen::KeyUsagePurpose::CrlSign);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(
        rcgen::DnType::OrganizationName,
        rcgen::DnValue::PrintableString("Example Org".try_into().unwrap()),
    );
    params.distinguished_name.push(rcgen::DnType::CountryName, "CH");
    let cert = params.signed_by(&spki, &root).unwrap().der().clone();
    let issuer = Issuer::new(td(), cert, key).unwrap();
    let crl = issuer.sign_crl(&list(1, &[]), NOW).unwrap();
    openssl_crl(issuer.cert_der(), &crl);
}
