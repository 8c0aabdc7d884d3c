use std::path::Path;
use std::process::{Command, Stdio};

use async_trait::async_trait;
use mayfly_model::ErrorKind;
use mayfly_runtime::files::{PRIVATE, write_atomic};
use mayfly_svid::{Timestamp, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::json;

use super::*;
use crate::conformance::{Direct, attest, check};
use crate::{AgentHalf, AttestError, Attested, BuildError, Challenger, Deps, ExchangeError, ServerHalf};

const NOW: Timestamp = Timestamp::from_unix(1_750_000_000);

type Ca = CertifiedIssuer<'static, KeyPair>;

fn at(offset: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(NOW.unix() + offset).unwrap()
}

fn td() -> TrustDomain {
    "td.example".parse().unwrap()
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (at(-60), at(60));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf_params() -> CertificateParams {
    let mut params = params("node-1.example");
    params.serial_number = Some(vec![0x0a, 0xbc].into());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![
        SanType::URI("x509pop://td.example/datacenter/eu/1".try_into().unwrap()),
        SanType::URI("x509pop://td.example/nothing".try_into().unwrap()),
        SanType::URI("x509pop://other.example/rack/7".try_into().unwrap()),
    ];
    params
}

/// Two root and one intermediate CA, and a node whose leaf is of the intermediate.
struct World {
    dir: tempfile::TempDir,
    root: Ca,
    middle: Ca,
}

impl World {
    fn new() -> Self {
        let root = CertifiedIssuer::self_signed(ca_params("root"), KeyPair::generate().unwrap()).unwrap();
        let middle = CertifiedIssuer::signed_by(ca_params("middle"), KeyPair::generate().unwrap(), &root).unwrap();
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            root,
            middle,
        };
        std::fs::write(world.path("ca.pem"), world.root.pem()).unwrap();
        std::fs::write(world.path("middle.pem"), world.middle.pem()).unwrap();
        world.enrol(&leaf_params(), &KeyPair::generate().unwrap());
        world
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the node another certificate and key.
    fn enrol(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer {
        let leaf = params.signed_by(key, &self.middle).unwrap();
        std::fs::write(self.path("node.pem"), leaf.pem()).unwrap();
        write_atomic(&self.path("node.key"), key.serialize_pem().as_bytes(), PRIVATE).unwrap();
        leaf.der().clone()
    }

    fn deps(&self) -> Deps {
        Deps {
            trust_domain: td(),
            base_dir: self.dir.path().to_owned(),
        }
    }

    fn agent(&self) -> Box<dyn AgentHalf> {
        let section =
            "private_key_path = \"node.key\"\ncertificate_path = \"node.pem\"\nintermediates_path = \"middle.pem\"";
        (BUILTIN.agent)(toml::from_str(section).unwrap(), &self.deps()).unwrap()
    }

    fn server_with(&self, more: &str) -> Result<Box<dyn ServerHalf>, BuildError> {
        let section = format!("ca_bundle_path = \"ca.pem\"\n{more}");
        (BUILTIN.server)(toml::from_str(&section).unwrap(), &self.deps())
    }

    fn server(&self) -> Box<dyn ServerHalf> {
        self.server_with("").unwrap()
    }

    async fn attest(&self) -> Result<Attested, AttestError> {
        attest(&*self.agent(), &*self.server(), NOW).await
    }
}

type CertificateDer = rustls_pki_types::CertificateDer<'static>;

fn sha1(der: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        der,
    ))
}

#[tokio::test]
async fn conforms_and_states_what_spire_states() {
    let world = World::new();
    let leaf = world.enrol(&leaf_params(), &KeyPair::generate().unwrap());
    check(&*world.agent(), &*world.server(), &td(), NOW).await;

    let attested = world.attest().await.unwrap();
    assert_eq!(
        attested.agent_id.path(),
        format!("/spire/agent/x509pop/{}", sha1(&leaf))
    );
    assert!(attested.reattestable && attested.one_time.is_none());
    let mut expected = vec![
        format!("x509pop:ca:fingerprint:{}", sha1(world.root.der())),
        format!("x509pop:ca:fingerprint:{}", sha1(world.middle.der())),
        "x509pop:san:datacenter:eu/1".to_owned(),
        "x509pop:serialnumber:0abc".to_owned(),
        "x509pop:subject:cn:node-1.example".to_owned(),
    ];
    expected.sort();
    let selectors: Vec<_> = attested.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, expected);
}

#[tokio::test]
async fn both_halves_agree_for_each_kind_of_key() {
    let world = World::new();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P521_SHA512] {
        world.enrol(&leaf_params(), &KeyPair::generate_for(algorithm).unwrap());
        world.attest().await.unwrap();
    }
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    world.enrol(&leaf_params(), &rsa);
    world.attest().await.unwrap();

    world.enrol(
        &leaf_params(),
        &KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
    );
    assert!(
        matches!(world.attest().await, Err(AttestError::Exchange(_))),
        "our agent cannot, see below for others"
    );
}

/// An agent that is not ours: it signs with `openssl`, RSA with the longest salt as Go does.
struct Foreign<'a>(&'a Path);

#[async_trait]
impl Challenger for Foreign<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, ExchangeError> {
        let challenge: serde_json::Value = serde_json::from_slice(&challenge).unwrap();
        let rsa = challenge.get("rsa_signature");
        let asked = rsa.or(challenge.get("ecdsa_signature")).unwrap()["nonce"]
            .as_str()
            .unwrap()
            .to_owned();
        let own = [7u8; NONCE_LEN];
        let message = self.0.join("message");
        std::fs::write(&message, [&STANDARD.decode(asked).unwrap()[..], &own].concat()).unwrap();
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-sign"]).arg(self.0.join("node.key"));
        if rsa.is_some() {
            command.args(["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:max"]);
        }
        let output = command.arg(&message).stderr(Stdio::null()).output().unwrap();
        assert!(output.status.success());
        let (signature, nonce) = (output.stdout, STANDARD.encode(own));
        let answer = if rsa.is_some() {
            json!({"rsa_signature": {"nonce": nonce, "signature": STANDARD.encode(signature)}, "ecdsa_signature": null})
        } else {
            let (r, s) = integers(&signature);
            let (r, s) = (STANDARD.encode(r), STANDARD.encode(s));
            json!({"rsa_signature": null, "ecdsa_signature": {"nonce": nonce, "r": r, "s": s}})
        };
        Ok(answer.to_string().into_bytes())
    }
}

/// The two numbers of a DER signature.
fn integers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let body = if der[1] == 0x81 { &der[3..] } else { &der[2..] };
    let r_len = usize::from(body[1]);
    let trim = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
    (trim(&body[2..2 + r_len]), trim(&body[4 + r_len..]))
}

#[tokio::test]
async fn an_agent_that_signs_with_openssl_is_understood() {
    let world = World::new();
    let rsa = || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072).unwrap();
    let ecdsa = |algorithm| KeyPair::generate_for(algorithm).unwrap();
    for key in [
        rsa(),
        ecdsa(&rcgen::PKCS_ECDSA_P256_SHA256),
        ecdsa(&rcgen::PKCS_ECDSA_P384_SHA384),
        ecdsa(&rcgen::PKCS_ECDSA_P521_SHA512),
    ] {
        world.enrol(&leaf_params(), &key);
        let payload = world.agent().payload().unwrap();
        world
            .server()
            .attest(&payload, &mut Foreign(world.dir.path()), NOW)
            .await
            .unwrap();
    }
}

/// Answers with something prepared, whatever is asked.
struct Fixed(Vec<u8>);

#[async_trait]
impl Challenger for Fixed {
    async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, ExchangeError> {
        Ok(self.0.clone())
    }
}

/// Listens in on an honest exchange.
struct Tapped<'a>(&'a dyn AgentHalf, Vec<u8>);

#[async_trait]
impl Challenger for Tapped<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, ExchangeError> {
        self.1 = self.0.answer(&challenge).unwrap();
        Ok(self.1.clone())
    }
}

#[tokio::test]
async fn a_recorded_answer_is_worth_nothing() {
    let world = World::new();
    let (agent, server) = (world.agent(), world.server());
    let payload = agent.payload().unwrap();
    let mut tap = Tapped(&*agent, vec![]);
    server.attest(&payload, &mut tap, NOW).await.unwrap();
    let error = server.attest(&payload, &mut Fixed(tap.1), NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing() {
    let world = World::new();
    let payload = world.agent().payload().unwrap();
    world.enrol(&leaf_params(), &KeyPair::generate().unwrap());
    let error = world
        .server()
        .attest(&payload, &mut Direct(&*world.agent()), NOW)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn bad_answers_are_refused() {
    let world = World::new();
    let payload = world.agent().payload().unwrap();
    let nonce = STANDARD.encode([0; 32]);
    let numbers = |r: &[u8], s: &[u8]| {
        json!({"ecdsa_signature": {"nonce": nonce, "r": STANDARD.encode(r), "s": STANDARD.encode(s)}}).to_string()
    };
    let table = [
        (String::new(), ErrorKind::InvalidArgument),
        ("{}".into(), ErrorKind::InvalidArgument),
        ("{".into(), ErrorKind::InvalidArgument),
        (
            json!({"rsa_signature": {"nonce": nonce, "signature": nonce}}).to_string(),
            ErrorKind::InvalidArgument,
        ),
        (
            json!({"ecdsa_signature": {"nonce": "AA==", "r": "AA==", "s": "AA=="}}).to_string(),
            ErrorKind::InvalidArgument,
        ),
        (
            json!({"ecdsa_signature": {"nonce": "!", "r": "AQ==", "s": "AQ=="}}).to_string(),
            ErrorKind::InvalidArgument,
        ),
        (numbers(&[], &[1]), ErrorKind::InvalidArgument),
        (numbers(&[0; 32], &[0; 32]), ErrorKind::InvalidArgument),
        (numbers(&[1; 100], &[1; 32]), ErrorKind::InvalidArgument),
        (numbers(&[1; 66], &[1; 66]), ErrorKind::PermissionDenied),
        (numbers(&[1], &[1]), ErrorKind::PermissionDenied),
        (" ".repeat(crate::MAX_ANSWER_BYTES + 1), ErrorKind::InvalidArgument),
    ];
    for (answer, kind) in table {
        let result = world
            .server()
            .attest(&payload, &mut Fixed(answer.clone().into_bytes()), NOW)
            .await;
        assert_eq!(result.unwrap_err().kind(), kind, "{:.80}", answer);
    }
}

#[tokio::test]
async fn nodes_that_no_known_ca_vouches_for_are_refused() {
    let world = World::new();
    let key = KeyPair::generate().unwrap();
    let refused = async |params: &CertificateParams, what: &str| {
        world.enrol(params, &key);
        let error = world.attest().await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}: {error}");
    };
    let mut expired = leaf_params();
    expired.not_after = at(-1);
    refused(&expired, "expired").await;
    let mut early = leaf_params();
    early.not_before = at(1);
    refused(&early, "not valid yet").await;
    let mut no_signature = leaf_params();
    no_signature.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    refused(&no_signature, "no digitalSignature").await;
    no_signature.key_usages = vec![];
    refused(&no_signature, "no key usage").await;
    let mut authority = ca_params("a CA");
    authority.key_usages.push(KeyUsagePurpose::DigitalSignature);
    refused(&authority, "a CA certificate").await;

    world.enrol(&leaf_params(), &key);
    std::fs::write(world.path("ca.pem"), World::new().root.pem()).unwrap();
    assert_eq!(world.attest().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn an_expired_root_vouches_for_nobody() {
    let world = World::new();
    let mut root = ca_params("old root");
    root.not_after = at(-1);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(world.path("ca.pem"), root.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    std::fs::write(
        world.path("node.pem"),
        leaf_params().signed_by(&key, &root).unwrap().pem(),
    )
    .unwrap();
    write_atomic(&world.path("node.key"), key.serialize_pem().as_bytes(), PRIVATE).unwrap();
    assert_eq!(world.attest().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn limits_come_before_any_work() {
    let world = World::new();
    let server = world.server();
    let leaf = world.enrol(&leaf_params(), &KeyPair::generate().unwrap());
    let refused = async |certificates: Vec<Vec<u8>>, expected: &str| {
        let certificates = certificates.into_iter().map(Bytes).collect();
        let payload = serde_json::to_vec(&Payload { certificates }).unwrap();
        let error = server.attest(&payload, &mut Fixed(vec![]), NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(vec![], "no certificate").await;
    refused(vec![leaf.to_vec(); 6], "too many intermediate").await;
    refused(vec![vec![0; 70_000]], "64 KiB").await;
    refused(vec![vec![0; 100_000]], "131072").await;
    refused(vec![vec![0; 100]], "not a well-formed").await;
    refused(vec![[&leaf[..], b"x"].concat()], "not a well-formed").await;
    refused(vec![leaf.to_vec(), vec![0x30]], "not a well-formed").await;

    let ed25519 = world.enrol(&leaf_params(), &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    refused(vec![ed25519.to_vec()], "not RSA or ECDSA").await;

    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072).unwrap();
    world.enrol(&leaf_params(), &rsa);
    let strict = world.server_with("max_rsa_key_size = 2048").unwrap();
    let error = attest(&*world.agent(), &*strict, NOW).await.unwrap_err();
    assert!(error.to_string().contains("RSA key is too large"), "{error}");
}

#[test]
fn settings_are_checked() {
    let world = World::new();
    for bad in [
        "max_intermediates = 0",
        "max_intermediates = 8",
        "max_rsa_key_size = 1024",
        "mode = \"spiffe\"",
    ] {
        assert!(world.server_with(bad).is_err(), "{bad}");
    }
    let node = std::fs::read(world.path("node.pem")).unwrap();
    for (content, expected) in [(&b""[..], "ca.pem"), (&node, "no CA certificate")] {
        std::fs::write(world.path("ca.pem"), content).unwrap();
        let error = world.server_with("").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    std::fs::remove_file(world.path("ca.pem")).unwrap();
    assert!(matches!(
        world.server_with("").unwrap_err(),
        BuildError::File {
            key: "ca_bundle_path",
            ..
        }
    ));
}

#[test]
fn the_agent_names_the_file_that_is_wrong_and_answers_only_what_it_should() {
    let world = World::new();
    let agent = world.agent();
    for challenge in [
        "",
        "{}",
        "{\"rsa_signature\": {\"nonce\": \"AA==\"}}",
        "{\"ecdsa_signature\": {\"nonce\": \"AA==\"}}",
        "{\"ecdsa_signature\": {}}",
    ] {
        assert!(agent.answer(challenge.as_bytes()).is_err(), "{challenge}");
    }
    std::fs::write(world.path("middle.pem"), "").unwrap();
    assert!(agent.payload().unwrap_err().to_string().contains("middle.pem"));
    let key = KeyPair::generate().unwrap().serialize_pem();
    write_atomic(&world.path("node.key"), key.as_bytes(), 0o644).unwrap();
    let nonce = STANDARD.encode([0; 32]);
    let challenge = json!({"ecdsa_signature": {"nonce": nonce}}).to_string();
    assert!(matches!(
        agent.answer(challenge.as_bytes()),
        Err(crate::AgentError::File { .. })
    ));
}
