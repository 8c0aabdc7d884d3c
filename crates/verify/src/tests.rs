use std::sync::Arc;
use std::time::Duration;

use mayfly_svid::{Bundle, SpiffeId, TrustDomain, X509Authority, X509Svid};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    ServerConnection,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};

use crate::dangerous::InsecureServerVerifier;
use crate::*;

const NOW: i64 = 1_750_000_000;

#[derive(Debug)]
struct At(i64);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.try_into().unwrap(),
        )))
    }
}

type Ca = CertifiedIssuer<'static, KeyPair>;

fn time(offset: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(NOW + offset).unwrap()
}

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (time(-3600), time(3600));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf_params(ids: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (time(-60), time(60));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = ids.iter().map(|id| SanType::URI((*id).try_into().unwrap())).collect();
    params
}

/// What an endpoint presents; the faulty ones do not go through [`SvidResolver`], which would refuse them.
fn present(ca: &Ca, params: &CertificateParams) -> Arc<rustls::sign::SingleCertAndKey> {
    Arc::new(certified(ca, params).into())
}

fn certified(ca: &Ca, params: &CertificateParams) -> rustls::sign::CertifiedKey {
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, ca).unwrap();
    let signing =
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into());
    rustls::sign::CertifiedKey::new(vec![cert.der().clone()], signing.unwrap())
}

fn resolver(ca: &Ca, id: &str) -> Arc<SvidResolver> {
    let resolver = SvidResolver::new();
    let key = KeyPair::generate().unwrap();
    let cert = leaf_params(&[id]).signed_by(&key, ca).unwrap();
    let svid = X509Svid::from_chain(vec![cert.der().clone()]).unwrap();
    resolver
        .publish(&svid, &PrivatePkcs8KeyDer::from(key.serialize_der()))
        .unwrap();
    Arc::new(resolver)
}

fn bundle(trust_domain: &str, cert_der: &CertificateDer<'static>) -> Bundle {
    let x509_authorities = vec![X509Authority {
        cert_der: cert_der.clone(),
        tainted: false,
    }];
    Bundle {
        x509_authorities,
        ..Bundle::empty(trust_domain.parse().unwrap())
    }
}

fn bundles(list: &[Bundle]) -> Arc<BundleSet> {
    let set = BundleSet::new();
    set.publish(list);
    Arc::new(set)
}

fn anyone() -> Authorize {
    Authorize::matching(|_| true)
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// What each side says went wrong: the server's error, the client's error.
type Failures = Box<(Option<rustls::Error>, Option<rustls::Error>)>;

/// Runs a handshake in memory until it is over on both sides.
fn handshake(server: ServerConfig, client: ClientConfig) -> Result<(ServerConnection, ClientConnection), Failures> {
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), "server.example".try_into().unwrap()).unwrap();
    let (mut server_error, mut client_error) = (None, None);
    for _ in 0..6 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &bytes[..]).unwrap();
        server_error = server_error.or(server.process_new_packets().err());
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut &bytes[..]).unwrap();
        client_error = client_error.or(client.process_new_packets().err());
    }
    if server_error.is_some() || client_error.is_some() {
        return Err(Box::new((server_error, client_error)));
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok((server, client))
}

fn clock() -> Arc<At> {
    Arc::new(At(NOW))
}

fn good_server(ca: &Ca, authorize: Authorize, client_auth: ClientAuth) -> ServerConfig {
    let verifier = SpiffeClientVerifier::new(bundles(&[bundle("td.example", ca.der())]), authorize, client_auth);
    server_config(resolver(ca, "spiffe://td.example/server"), Arc::new(verifier), clock())
}

fn good_client(ca: &Ca, authorize: Authorize) -> ClientConfig {
    let verifier = SpiffeServerVerifier::new(bundles(&[bundle("td.example", ca.der())]), authorize);
    client_config(
        Some(resolver(ca, "spiffe://td.example/client")),
        Arc::new(verifier),
        clock(),
    )
}

#[test]
fn both_sides_learn_whom_they_talk_to() {
    let ca = ca();
    let server = good_server(
        &ca,
        Authorize::Id(id("spiffe://td.example/client")),
        ClientAuth::Required,
    );
    let client = good_client(&ca, Authorize::MemberOf("td.example".parse().unwrap()));
    let (server, client) = handshake(server, client).unwrap();
    assert_eq!(
        peer_svid(&server).unwrap().spiffe_id().as_str(),
        "spiffe://td.example/client"
    );
    assert_eq!(
        peer_svid(&client).unwrap().spiffe_id().as_str(),
        "spiffe://td.example/server"
    );
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    let group = server.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[test]
fn a_client_may_stay_anonymous_only_where_that_is_allowed() {
    let ca = ca();
    let anonymous = || {
        let verifier = SpiffeServerVerifier::new(bundles(&[bundle("td.example", ca.der())]), anyone());
        client_config(None, Arc::new(verifier), clock())
    };
    let (server, _) = handshake(good_server(&ca, anyone(), ClientAuth::Optional), anonymous()).unwrap();
    assert_eq!(peer_svid(&server), None);
    assert!(handshake(good_server(&ca, anyone(), ClientAuth::Required), anonymous()).is_err());
}

/// The errors of server and client for a client that presents `params` under `ca`; a bad one must not be let in even
/// where certificates are optional.
fn refused_client(ca: &Ca, params: &CertificateParams, trusted: &[Bundle], authorize: Authorize) -> rustls::Error {
    let server_ca = super::tests::ca();
    let verifier = SpiffeClientVerifier::new(bundles(trusted), authorize, ClientAuth::Optional);
    let server = server_config(
        resolver(&server_ca, "spiffe://td.example/server"),
        Arc::new(verifier),
        clock(),
    );
    let servers = SpiffeServerVerifier::new(bundles(&[bundle("td.example", server_ca.der())]), anyone());
    let client = client_config(Some(present(ca, params)), Arc::new(servers), clock());
    handshake(server, client).unwrap_err().0.unwrap()
}

fn refused_server(ca: &Ca, params: &CertificateParams, trusted: &[Bundle], authorize: Authorize) -> rustls::Error {
    let clients = SpiffeClientVerifier::new(bundles(trusted), anyone(), ClientAuth::Optional);
    let server = server_config(present(ca, params), Arc::new(clients), clock());
    let servers = SpiffeServerVerifier::new(bundles(trusted), authorize);
    handshake(server, client_config(None, Arc::new(servers), clock()))
        .unwrap_err()
        .1
        .unwrap()
}

// XSVID-02 XSVID-04 XSVID-13 XSVID-31 XSVID-33 SVID-01 WAPI-21 WAPI-22
#[test]
fn neither_side_lets_a_bad_peer_in() {
    let (ca, other) = (ca(), super::tests::ca());
    let td: TrustDomain = "td.example".parse().unwrap();
    let trusted = [bundle("td.example", ca.der()), bundle("b.example", other.der())];
    let good = leaf_params(&["spiffe://td.example/a"]);
    let mut expired = good.clone();
    expired.not_after = time(-1);
    let mut early = good.clone();
    early.not_before = time(1);
    let mut as_ca = good.clone();
    as_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    as_ca.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign);
    let two = leaf_params(&["spiffe://td.example/a", "spiffe://td.example/b"]);
    let none = leaf_params(&[]);
    let member = || Authorize::MemberOf(td.clone());
    let cases: [(&str, &Ca, CertificateParams, Authorize, &str); 9] = [
        ("expired", &ca, expired, anyone(), "Expired"),
        ("not valid yet", &ca, early, anyone(), "NotValidYet"),
        ("a CA certificate", &ca, as_ca, anyone(), "LeafIsCa"),
        ("two URI names", &ca, two, anyone(), "UriNameCount { count: 2 }"),
        ("no name", &ca, none, anyone(), "UriNameCount { count: 0 }"),
        (
            "another domain's authority",
            &other,
            good.clone(),
            anyone(),
            "UnknownIssuer",
        ),
        (
            "unknown trust domain",
            &ca,
            leaf_params(&["spiffe://c.example/a"]),
            anyone(),
            "UnknownTrustDomain",
        ),
        (
            "not a member",
            &other,
            leaf_params(&["spiffe://b.example/a"]),
            member(),
            "NotAuthorized",
        ),
        (
            "another ID",
            &ca,
            good,
            Authorize::Id(id("spiffe://td.example/b")),
            "NotAuthorized",
        ),
    ];
    for (name, issuer, params, authorize, expected) in cases {
        for error in [
            refused_client(issuer, &params, &trusted, authorize.clone()),
            refused_server(issuer, &params, &trusted, authorize.clone()),
        ] {
            let text = format!("{error:?}");
            // rustls compares names of issuers only; which of the two it is depends on whether they collide.
            let expected = if text.contains("BadSignature") {
                "BadSignature"
            } else {
                expected
            };
            assert!(text.contains(expected), "{name}: {text}");
        }
    }
}

// SVID-09
#[test]
fn a_certificate_without_its_key_lets_nobody_in() {
    let ca = ca();
    let trusted = || bundles(&[bundle("td.example", ca.der())]);
    // The chain of one, the key of another: what somebody has who copied a certificate.
    let stolen = |id: &str| {
        let [own, other] = [(); 2].map(|()| certified(&ca, &leaf_params(&[id])));
        let pair = rustls::sign::CertifiedKey::new(own.cert, other.key);
        Arc::new(rustls::sign::SingleCertAndKey::from(pair))
    };
    let servers = SpiffeServerVerifier::new(trusted(), anyone());
    let client = client_config(Some(stolen("spiffe://td.example/client")), Arc::new(servers), clock());
    let server = good_server(&ca, anyone(), ClientAuth::Optional);
    let (error, _) = *handshake(server, client).unwrap_err();
    assert!(format!("{error:?}").contains("BadSignature"), "{error:?}");

    let clients = SpiffeClientVerifier::new(trusted(), anyone(), ClientAuth::Optional);
    let server = server_config(stolen("spiffe://td.example/server"), Arc::new(clients), clock());
    let (_, error) = *handshake(server, good_client(&ca, anyone())).unwrap_err();
    assert!(format!("{error:?}").contains("BadSignature"), "{error:?}");
}

// SVID-11
#[test]
fn nothing_but_the_spiffe_id_says_who_a_peer_is() {
    let ca = ca();
    let trusted = [bundle("td.example", ca.der())];
    let admin = "spiffe://td.example/admin";
    let mut boastful = leaf_params(&["spiffe://td.example/a"]);
    boastful.distinguished_name.push(rcgen::DnType::CommonName, admin);
    for name in ["admin.td.example", "server.example"] {
        boastful
            .subject_alt_names
            .push(SanType::DnsName(name.try_into().unwrap()));
    }
    boastful
        .subject_alt_names
        .push(SanType::Rfc822Name("admin@td.example".try_into().unwrap()));
    let wanted = || Authorize::Id(id(admin));
    for error in [
        refused_client(&ca, &boastful, &trusted, wanted()),
        refused_server(&ca, &boastful, &trusted, wanted()),
    ] {
        assert!(format!("{error:?}").contains("NotAuthorized"), "{error:?}");
    }
}

#[test]
fn the_expired_peer_is_told_that_it_is_expired() {
    let ca = ca();
    let mut expired = leaf_params(&["spiffe://td.example/client"]);
    expired.not_after = time(-1);
    let servers = SpiffeServerVerifier::new(bundles(&[bundle("td.example", ca.der())]), anyone());
    let client = client_config(Some(present(&ca, &expired)), Arc::new(servers), clock());
    let (_, client_error) = *handshake(good_server(&ca, anyone(), ClientAuth::Required), client).unwrap_err();
    assert_eq!(
        client_error,
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateExpired))
    );
}

#[test]
fn sessions_are_never_resumed() {
    let ca = ca();
    let server = good_server(&ca, anyone(), ClientAuth::Required);
    let client = good_client(&ca, anyone());
    for _ in 0..3 {
        let (mut server, client) = handshake(server.clone(), client.clone()).unwrap();
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert!(server.process_new_packets().is_ok());
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

#[test]
fn before_the_first_svid_a_server_refuses_every_handshake() {
    let ca = ca();
    let verifier = SpiffeClientVerifier::new(
        bundles(&[bundle("td.example", ca.der())]),
        anyone(),
        ClientAuth::Optional,
    );
    let own = Arc::new(SvidResolver::new());
    let server = server_config(own.clone(), Arc::new(verifier), clock());
    assert!(handshake(server.clone(), good_client(&ca, anyone())).is_err());

    let key = KeyPair::generate().unwrap();
    let cert = leaf_params(&["spiffe://td.example/server"])
        .signed_by(&key, &ca)
        .unwrap();
    let svid = X509Svid::from_chain(vec![cert.der().clone()]).unwrap();
    own.publish(&svid, &PrivatePkcs8KeyDer::from(key.serialize_der()))
        .unwrap();
    assert!(handshake(server.clone(), good_client(&ca, anyone())).is_ok());

    let other = PrivatePkcs8KeyDer::from(KeyPair::generate().unwrap().serialize_der());
    assert!(matches!(own.publish(&svid, &other), Err(PublishError::Mismatch { .. })));
    let junk = PrivatePkcs8KeyDer::from(vec![0x30, 0]);
    assert!(matches!(own.publish(&svid, &junk), Err(PublishError::Key { .. })));
    assert!(handshake(server.clone(), good_client(&ca, anyone())).is_ok());
    own.clear();
    assert!(handshake(server, good_client(&ca, anyone())).is_err());
}

// TDB-05
#[test]
fn a_published_bundle_counts_from_the_next_handshake_on() {
    let (old, new) = (ca(), ca());
    let trusted = bundles(&[bundle("td.example", old.der())]);
    let verifier = Arc::new(SpiffeServerVerifier::new(trusted.clone(), anyone()));
    let client = || {
        client_config(
            Some(resolver(&old, "spiffe://td.example/client")),
            verifier.clone(),
            clock(),
        )
    };
    let server = || good_server(&old, anyone(), ClientAuth::Optional);
    assert!(handshake(server(), client()).is_ok());
    trusted.publish(&[bundle("td.example", new.der())]);
    assert!(handshake(server(), client()).is_err());
}

#[test]
fn the_insecure_verifier_records_what_was_presented() {
    let ca = ca();
    let verifier = Arc::new(InsecureServerVerifier::new());
    assert!(verifier.presented().is_none());
    let client = client_config(None, verifier.clone(), clock());
    handshake(good_server(&ca, anyone(), ClientAuth::Optional), client.clone()).unwrap();
    let chain = verifier.presented().unwrap().to_vec();
    assert_eq!(
        X509Svid::from_chain(chain).unwrap().spiffe_id().as_str(),
        "spiffe://td.example/server"
    );
    let another = good_server(&ca, anyone(), ClientAuth::Optional);
    assert!(handshake(another, client).is_err());
}

#[test]
fn debug_shows_no_key() {
    let shown = format!("{:?}", resolver(&ca(), "spiffe://td.example/a"));
    assert_eq!(shown, "SvidResolver { published: true }");
}
