//! The profile as another program reads it: `openssl` shares no code with us.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mayfly_keys::{KeyError, KeyManager, KeyType, MemoryKeys, Signer};
use mayfly_svid::verify::verify_x509_svid;
use mayfly_svid::{Bundle, Timestamp, TrustAnchors, TrustDomain, X509Authority, X509Svid};
use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;

use crate::*;

mod crl;
mod csr;
mod keys;
mod profile;
mod random;
mod task;
mod vouch;

const NOW: Timestamp = Timestamp::from_unix(1_750_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn td() -> TrustDomain {
    "td.example".parse().unwrap()
}

async fn signer(key_type: KeyType) -> Arc<dyn Signer> {
    MemoryKeys::new().generate("a", key_type).await.unwrap()
}

/// An authority of 24 hours, valid from `NOW`.
async fn issuer() -> Issuer {
    issuer_of(KeyType::EcP256).await
}

async fn issuer_of(key_type: KeyType) -> Issuer {
    let signer = signer(key_type).await;
    let cert = create_authority(&td(), signer.clone(), 24 * HOUR, NOW, &random_serial()).unwrap();
    Issuer::new(td(), cert, signer).unwrap()
}

fn workload_key() -> Vec<u8> {
    rcgen::KeyPair::generate().unwrap().subject_public_key_info()
}

fn request(id: &str) -> X509SvidRequest {
    X509SvidRequest {
        spiffe_id: id.parse().unwrap(),
        public_key: PublicKey::from_der(&workload_key()).unwrap(),
        dns_names: vec![],
        validity: Validity::For(HOUR),
    }
}

fn issue(issuer: &Issuer, request: X509SvidRequest) -> X509Svid {
    issuer.sign(issuer.prepare(request, NOW).unwrap()).unwrap()
}

fn anchors(issuer: &Issuer) -> TrustAnchors {
    let x509_authorities = vec![X509Authority {
        cert_der: issuer.cert_der().clone(),
        tainted: false,
    }];
    TrustAnchors::from_bundle(&Bundle {
        x509_authorities,
        ..Bundle::empty(td())
    })
}

/// What `openssl` says of a certificate.
struct Decoded {
    text: String,
    /// By the name that openssl gives it: whether it is critical, and its value.
    extensions: BTreeMap<String, (bool, String)>,
}

impl Decoded {
    fn line(&self, label: &str) -> &str {
        let line = self.text.lines().find_map(|line| line.trim().strip_prefix(label));
        line.unwrap_or_else(|| panic!("no {label} in {}", self.text)).trim()
    }

    fn critical(&self, name: &str) -> &str {
        let (critical, value) = &self.extensions[name];
        assert!(*critical, "{name} is not critical");
        value
    }

    fn uncritical(&self, name: &str) -> &str {
        let (critical, value) = &self.extensions[name];
        assert!(!*critical, "{name} is critical");
        value
    }

    fn names(&self) -> Vec<&str> {
        self.extensions.keys().map(String::as_str).collect()
    }
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn openssl(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .expect("the tests need the openssl program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

fn decode(cert_der: &CertificateDer<'_>) -> Decoded {
    let files = Files::new();
    let path = files.write("cert.der", cert_der);
    let path = path.to_str().unwrap();
    let text = openssl(&[
        "x509", "-inform", "DER", "-in", path, "-noout", "-text", "-nameopt", "RFC2253",
    ])
    .unwrap();
    let mut extensions = BTreeMap::new();
    let lines: Vec<&str> = text.lines().collect();
    let start = lines
        .iter()
        .position(|line| line.trim() == "X509v3 extensions:")
        .expect("there are extensions");
    let mut current = None;
    for line in &lines[start + 1..] {
        let depth = line.len() - line.trim_start().len();
        match depth {
            12 => {
                let (name, rest) = line.trim().split_once(':').unwrap();
                extensions.insert(name.to_owned(), (rest.trim() == "critical", String::new()));
                current = Some(name.to_owned());
            }
            16.. => {
                let name = current.as_ref().expect("a value follows a name");
                extensions.get_mut(name).unwrap().1.push_str(line.trim());
            }
            _ => break,
        }
    }
    Decoded { text, extensions }
}

/// `openssl verify` with RFC 5280's rules to the letter, at `at`.
fn openssl_verify(root: &CertificateDer<'_>, leaf: &CertificateDer<'_>, at: Timestamp) -> Result<String, String> {
    let files = Files::new();
    let pem = |der: &CertificateDer<'_>| {
        let bundle = Bundle {
            x509_authorities: vec![X509Authority {
                cert_der: der.clone().into_owned(),
                tainted: false,
            }],
            ..Bundle::empty(td())
        };
        bundle.x509_to_pem()
    };
    let root = files.write("root.pem", pem(root).as_bytes());
    let leaf = files.write("leaf.pem", pem(leaf).as_bytes());
    let at = at.unix().to_string();
    for purpose in ["sslclient", "sslserver"] {
        openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-attime",
            &at,
            "-CAfile",
            root.to_str().unwrap(),
            leaf.to_str().unwrap(),
        ])?;
    }
    Ok(String::new())
}

// SVID-06 XINH-04
#[tokio::test]
async fn leaves_of_every_kind_of_authority_verify_with_openssl_and_with_us() {
    for key_type in KeyType::ALL {
        let issuer = issuer_of(key_type).await;
        let svid = issue(&issuer, request("spiffe://td.example/a"));
        openssl_verify(issuer.cert_der(), &svid.chain()[0], NOW).unwrap();
        openssl_verify(issuer.cert_der(), issuer.cert_der(), NOW).unwrap_err(); // a CA is nobody's TLS certificate
        assert_eq!(verify_x509_svid(svid.chain(), &anchors(&issuer), NOW).unwrap(), svid);
    }
}

// XSVID-08 XSVID-10 XSVID-11
#[tokio::test]
async fn only_a_certificate_and_key_that_can_issue_become_an_issuer() {
    let key = signer(KeyType::EcP256).await;
    let cert = create_authority(&td(), key.clone(), HOUR, NOW, &random_serial()).unwrap();
    let other = signer(KeyType::EcP256).await;
    assert!(matches!(
        Issuer::new(td(), cert.clone(), other),
        Err(AuthorityError::KeyMismatch)
    ));
    let elsewhere = "b.example".parse().unwrap();
    assert!(matches!(
        Issuer::new(elsewhere, cert.clone(), key.clone()),
        Err(AuthorityError::SpiffeId { .. })
    ));
    let leaf = issue(&issuer().await, request("spiffe://td.example/a")).chain()[0].clone();
    assert!(matches!(
        Issuer::new(td(), leaf, key.clone()),
        Err(AuthorityError::NotCa)
    ));
    let trailing = [cert.as_ref(), b"x"].concat().into();
    assert!(matches!(
        Issuer::new(td(), trailing, key),
        Err(AuthorityError::Malformed)
    ));
}

// XSVID-19: an authority that may name only some URIs does not become an issuer, whatever it permits.
#[tokio::test]
async fn an_authority_with_name_constraints_for_uris_is_refused() {
    let root = rcgen::CertifiedIssuer::self_signed(authority_params(), rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = signer(KeyType::EcP256).await;
    let spki = rcgen::SubjectPublicKeyInfo::from_der(key.public_key_der()).unwrap();
    let made = |constraints: Option<Vec<u8>>| {
        let mut params = authority_params();
        let extension = constraints.map(|der| rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], der));
        params.custom_extensions.extend(extension);
        let cert = params.signed_by(&spki, &root).unwrap().der().clone();
        Issuer::new(td(), cert, key.clone())
    };
    // SEQUENCE { [0] permitted or [1] excluded { SEQUENCE { [6] URI or [2] DNS name } } }
    let constraints = |side: u8, kind: u8| {
        let name = b"td.example";
        let head = [0x30, 16, side, 14, 0x30, 12, kind, 10];
        Some([&head[..], name].concat())
    };
    assert!(made(None).is_ok());
    assert!(
        made(constraints(0xa0, 0x82)).is_ok(),
        "others say nothing of SPIFFE IDs"
    );
    for side in [0xa0, 0xa1] {
        assert!(matches!(
            made(constraints(side, 0x86)),
            Err(AuthorityError::NameConstraints)
        ));
    }
}

fn authority_params() -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params
}

#[derive(Debug)]
struct Refusing(Arc<dyn Signer>);

impl Signer for Refusing {
    fn key_type(&self) -> KeyType {
        self.0.key_type()
    }
    fn public_key_der(&self) -> &[u8] {
        self.0.public_key_der()
    }
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::Stopped)
    }
}

#[tokio::test]
async fn a_key_that_does_not_sign_says_why() {
    let key = signer(KeyType::EcP256).await;
    let cert = create_authority(&td(), key.clone(), HOUR, NOW, &random_serial()).unwrap();
    let issuer = Issuer::new(td(), cert, Arc::new(Refusing(key.clone()))).unwrap();
    let ticket = issuer.prepare(request("spiffe://td.example/a"), NOW).unwrap();
    assert!(matches!(issuer.sign(ticket), Err(SignError::Key(KeyError::Stopped))));
    let created = create_authority(&td(), Arc::new(Refusing(key)), HOUR, NOW, &random_serial());
    assert!(matches!(created, Err(CreateAuthorityError::Sign(KeyError::Stopped))));
}

#[tokio::test]
async fn a_ticket_is_signed_by_the_authority_that_prepared_it_only() {
    let (one, two) = (issuer().await, issuer().await);
    let ticket = one.prepare(request("spiffe://td.example/a"), NOW).unwrap();
    assert!(matches!(two.sign(ticket), Err(SignError::OtherAuthority)));
}

// SVID-06 XSVID-12
#[tokio::test]
async fn an_intermediate_authority_is_part_of_the_chain() {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = rcgen::CertifiedIssuer::self_signed(params.clone(), root_key).unwrap();
    let key = signer(KeyType::EcP256).await;
    let spki = rcgen::SubjectPublicKeyInfo::from_der(key.public_key_der()).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "intermediate");
    params.distinguished_name.push(rcgen::DnType::CountryName, "CH");
    let cert = params.signed_by(&spki, &root).unwrap().der().clone();
    let issuer = Issuer::new(td(), cert.clone(), key).unwrap();
    let svid = issue(&issuer, request("spiffe://td.example/a"));
    assert_eq!(svid.chain()[1..], [cert]);
    let x509_authorities = vec![X509Authority {
        cert_der: root.der().clone(),
        tainted: false,
    }];
    let anchors = TrustAnchors::from_bundle(&Bundle {
        x509_authorities,
        ..Bundle::empty(td())
    });
    verify_x509_svid(svid.chain(), &anchors, NOW).unwrap();
}
