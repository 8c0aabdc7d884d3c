use super::*;

// XSVID-01 XSVID-16 XSVID-18 XSVID-20 XSVID-21 XSVID-24 XSVID-25 XSVID-26 XSVID-27 XSVID-29 XINH-05 IOP-06 IOP-30
// SVID-13: what an entry may change in the meantime is not in it, but for names, and those are signed anew at once.
#[tokio::test]
async fn a_leaf_has_these_fields_and_no_others() {
    let issuer = issuer().await;
    let svid = issue(&issuer, request("spiffe://td.example/a/b"));
    let leaf = decode(&svid.chain()[0]);
    let authority = decode(issuer.cert_der());
    assert_eq!(
        leaf.names(),
        [
            "X509v3 Authority Key Identifier",
            "X509v3 Basic Constraints",
            "X509v3 Extended Key Usage",
            "X509v3 Key Usage",
            "X509v3 Subject Alternative Name",
            "X509v3 Subject Key Identifier",
        ]
    );
    assert_eq!(
        leaf.uncritical("X509v3 Subject Alternative Name"),
        "URI:spiffe://td.example/a/b"
    );
    assert_eq!(leaf.extensions["X509v3 Basic Constraints"].1, "CA:FALSE");
    assert_eq!(leaf.critical("X509v3 Key Usage"), "Digital Signature");
    assert_eq!(
        leaf.uncritical("X509v3 Extended Key Usage"),
        "TLS Web Server Authentication, TLS Web Client Authentication"
    );
    let authority_key_id = authority.uncritical("X509v3 Subject Key Identifier");
    assert_eq!(
        leaf.uncritical("X509v3 Authority Key Identifier")
            .trim_start_matches("keyid:"),
        authority_key_id
    );
    assert_ne!(leaf.uncritical("X509v3 Subject Key Identifier"), authority_key_id);
    assert_eq!(leaf.line("Subject:"), "O=td.example");
    assert_eq!(leaf.line("Issuer:"), authority.line("Subject:"));
    assert_eq!(leaf.line("Version:"), "3 (0x2)");
}

// XSVID-09 XSVID-15 XSVID-17 XSVID-22 XSVID-23 XSVID-30 XSVID-37 XSVID-38 XINH-03 XINH-04 XINH-05 SVID-03 SVID-04 SVID-05
#[tokio::test]
async fn an_authority_has_these_fields_and_no_others() {
    let (one, two) = (issuer().await, issuer().await);
    let authority = decode(one.cert_der());
    assert_eq!(
        authority.names(),
        [
            "X509v3 Authority Key Identifier",
            "X509v3 Basic Constraints",
            "X509v3 Key Usage",
            "X509v3 Subject Alternative Name",
            "X509v3 Subject Key Identifier",
        ]
    );
    assert_eq!(authority.critical("X509v3 Basic Constraints"), "CA:TRUE");
    assert_eq!(authority.critical("X509v3 Key Usage"), "Certificate Sign, CRL Sign");
    assert_eq!(
        authority.uncritical("X509v3 Subject Alternative Name"),
        "URI:spiffe://td.example"
    );
    assert_eq!(authority.line("Subject:"), authority.line("Issuer:"));
    assert!(authority.line("Subject:").contains("O=td.example"));
    let other = decode(two.cert_der());
    assert_ne!(authority.line("Subject:"), other.line("Subject:"));
    let name = "X509v3 Subject Key Identifier";
    assert_ne!(authority.uncritical(name), other.uncritical(name));
    let expected = mayfly_svid::public_key_id(&signer_key(&one));
    let expected: Vec<_> = expected.iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(authority.uncritical(name), expected.join(":"));
}

fn signer_key(issuer: &Issuer) -> Vec<u8> {
    use x509_parser::prelude::FromDer;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(issuer.cert_der()).unwrap();
    certificate.public_key().raw.to_vec()
}

// XSVID-03 SVID-10 IOP-29
#[tokio::test]
async fn dns_names_are_added_and_the_first_is_the_common_name() {
    let issuer = issuer().await;
    let mut names = request("spiffe://td.example/a");
    names.dns_names = ["db.example", "*.pods.example", "db.example", "_srv.x"]
        .map(String::from)
        .to_vec();
    let svid = issue(&issuer, names.clone());
    let leaf = decode(&svid.chain()[0]);
    assert_eq!(
        leaf.uncritical("X509v3 Subject Alternative Name"),
        "URI:spiffe://td.example/a, DNS:db.example, DNS:*.pods.example, DNS:_srv.x"
    );
    assert!(
        leaf.line("Subject:").contains("CN=db.example"),
        "{}",
        leaf.line("Subject:")
    );
    openssl_verify(issuer.cert_der(), &svid.chain()[0], NOW).unwrap();

    let long = format!("{}.example", "a".repeat(63));
    names.dns_names = vec![long.clone()];
    let leaf = decode(&issue(&issuer, names.clone()).chain()[0]);
    assert_eq!(
        leaf.line("Subject:"),
        "O=td.example",
        "a common name has at most 64 characters"
    );

    let too_long = "a.".repeat(127);
    for bad in [
        "",
        ".",
        "a..b",
        "-a",
        "a-",
        "a b",
        "é.example",
        "a.*",
        "*",
        "*.",
        "a/b",
        "a\0",
        &too_long,
        &"a".repeat(64),
    ] {
        names.dns_names = vec!["good.example".into(), bad.into()];
        let error = issuer.prepare(names.clone(), NOW).unwrap_err();
        assert_eq!(error, ProfileError::DnsName { name: bad.into() }, "{bad}");
    }
    names.dns_names = (0..101).map(|n| format!("a{n}.example")).collect();
    assert_eq!(
        issuer.prepare(names, NOW).unwrap_err(),
        ProfileError::TooManyDnsNames { count: 101 }
    );
}

// XSVID-05 SVID-14
#[tokio::test]
async fn only_workloads_of_the_own_trust_domain_get_a_leaf() {
    let issuer = issuer().await;
    let refused = |id| issuer.prepare(request(id), NOW).unwrap_err();
    assert!(matches!(refused("spiffe://td.example"), ProfileError::RootPath { .. }));
    assert!(matches!(
        refused("spiffe://b.example/a"),
        ProfileError::OtherTrustDomain { .. }
    ));
    assert!(matches!(
        refused("spiffe://td.example.org/a"),
        ProfileError::OtherTrustDomain { .. }
    ));
}

// XINH-07
#[tokio::test]
async fn an_svid_lives_within_its_authority() {
    let issuer = issuer().await; // valid from NOW - 10 s to NOW + 24 h
    let bounds = |validity, now: Timestamp| {
        let ticket = issuer.prepare(
            X509SvidRequest {
                validity,
                ..request("spiffe://td.example/a")
            },
            now,
        )?;
        let svid = issuer.sign(ticket).unwrap();
        Ok((
            svid.not_before().unix() - NOW.unix(),
            svid.not_after().unix() - NOW.unix(),
        ))
    };
    let day = 24 * 3600;
    let later = |seconds| Timestamp::from_unix(NOW.unix() + seconds);
    assert_eq!(bounds(Validity::For(HOUR), NOW), Ok((-10, 3600)));
    assert_eq!(bounds(Validity::For(HOUR), later(100)), Ok((90, 3700)));
    assert_eq!(bounds(Validity::Until(later(50)), NOW), Ok((-10, 50)));
    assert_eq!(bounds(Validity::For(1000 * HOUR), NOW), Ok((-10, day)));
    assert_eq!(bounds(Validity::For(Duration::MAX), NOW), Ok((-10, day)));
    assert_eq!(bounds(Validity::For(HOUR), later(day - 1)), Ok((day - 11, day)));
    assert_eq!(bounds(Validity::For(HOUR), later(-5)), Ok((-10, 3595)));
    assert_eq!(
        bounds(Validity::For(Duration::ZERO), NOW),
        Err(ProfileError::NoValidity)
    );
    assert_eq!(bounds(Validity::Until(NOW), NOW), Err(ProfileError::NoValidity));
    for outside in [day + 1, -11] {
        let error = bounds(Validity::For(HOUR), later(outside)).unwrap_err();
        assert!(matches!(error, ProfileError::AuthorityNotValid { .. }));
    }
}

// XINH-02
#[tokio::test]
async fn dates_after_2049_are_generalized_time() {
    let key = signer(KeyType::EcP256).await;
    let years = |n: u64| Duration::from_secs(n * 365 * 86_400);
    let created = |lifetime| create_authority(&td(), key.clone(), lifetime, NOW, &random_serial());
    let (until_2045, until_2055) = (created(years(20)).unwrap(), created(years(30)).unwrap());
    let tags = |der: &[u8]| {
        let at = der.windows(2).position(|window| window == [0x17, 13]).unwrap(); // UTCTime of notBefore
        (der[at], der[at + 15], der[at + 16])
    };
    assert_eq!(tags(&until_2045), (0x17, 0x17, 13));
    assert_eq!(tags(&until_2055), (0x17, 0x18, 15));
    assert!(decode(&until_2055).line("Not After :").contains("2055"));
    assert!(matches!(
        created(years(9000)),
        Err(CreateAuthorityError::Lifetime { .. })
    ));
}

// XINH-01
#[tokio::test]
async fn serials_are_positive_short_and_never_repeat() {
    let issuer = issuer().await;
    let request = request("spiffe://td.example/a");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10_000 {
        let serial = issuer.prepare(request.clone(), NOW).unwrap().serial().clone();
        let bytes = serial.as_be_bytes();
        assert!(bytes.len() == 16 && bytes[0] & 0x80 == 0 && bytes[0] != 0);
        assert!(seen.insert(serial));
    }
}

#[tokio::test]
async fn the_ticket_tells_what_will_be_signed() {
    let issuer = issuer().await;
    let request = request("spiffe://td.example/a");
    let ticket = issuer.prepare(request.clone(), NOW).unwrap();
    let told = (
        ticket.spiffe_id().clone(),
        ticket.serial().clone(),
        ticket.not_before(),
        ticket.not_after(),
    );
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, request.public_key.der());
    assert_eq!(ticket.public_key_hash(), digest.as_ref());
    let svid = issuer.sign(ticket).unwrap();
    assert_eq!(svid.public_key_der(), request.public_key.der());
    assert_eq!(
        (
            svid.spiffe_id().clone(),
            svid.serial().clone(),
            svid.not_before(),
            svid.not_after()
        ),
        told
    );
    assert_eq!(decode(&svid.chain()[0]).text.matches("URI:").count(), 1);
}
