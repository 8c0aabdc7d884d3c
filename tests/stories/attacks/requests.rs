//! Requests that would be given more than their sender may have, or cost more than they are worth.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mayfly_proto::spire::server::agent::{AgentX509svidParams, RenewAgentRequest};
use mayfly_proto::spire::server::entry::{GetAuthorizedEntriesRequest, ListEntriesRequest};
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_proto::spire::server::svid::{
    BatchNewX509svidRequest, MintX509svidRequest, NewX509svidParams, batch_new_x509svid_response,
};
use mayfly_proto::spire::types::X509svid;
use mayfly_tests::attack::{Trial, withstands};
use mayfly_tests::attest::Credential;
use mayfly_tests::daemon::story_dir;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::nodes::NodeCa;
use mayfly_tests::{Admin, AgentOptions, EntrySpec, Lane, Server, ServerOptions, attest};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SigningKey,
};
use tonic::Code;
use tonic::transport::Channel;

use super::Scene;

/// Certificates that all have one name and different keys, below no known authority: each may be the issuer of each.
fn maze() -> Vec<u8> {
    let ca = |key: &KeyPair| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "node authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.self_signed(key).unwrap(), params)
    };
    let keys: Vec<KeyPair> = (0..4).map(|_| KeyPair::generate().unwrap()).collect();
    let intermediates: Vec<_> = keys.iter().map(ca).collect();
    let (last_key, (_, params)) = (&keys[3], &intermediates[3]);
    let mut leaf = CertificateParams::default();
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::from_params(params, last_key)).unwrap();
    let chain = std::iter::once(leaf.der()).chain(intermediates.iter().map(|(certificate, _)| certificate.der()));
    let chain: Vec<String> = chain.map(|der| format!("\"{}\"", STANDARD.encode(der))).collect();
    format!("{{\"certificates\":[{}]}}", chain.join(",")).into_bytes()
}

// Attack 8
#[tokio::test(flavor = "multi_thread")]
async fn chains_that_are_mazes_cost_little_and_nothing_is_looked_up_for_them() {
    let _lane = Lane::alone();
    let (ca, dir) = (NodeCa::new(), story_dir());
    let sections = format!(
        "[attestor.x509pop]\nca_bundle_path = \"{}\"\n",
        ca.file(dir.path()).display()
    );
    let options = ServerOptions {
        sections,
        ..Default::default()
    };
    let mut scene = Scene::set_with(options, AgentOptions::default()).await;
    let bundle = scene.server.admin().bundle().await;
    let long = {
        let one = STANDARD.encode(ca.node("node").certificate.der());
        format!("{{\"certificates\":[{}]}}", vec![format!("\"{one}\""); 200].join(",")).into_bytes()
    };
    let huge = format!("{{\"certificates\":[\"{}\"]}}", STANDARD.encode(vec![0x30; 80 << 10])).into_bytes();
    let attested = || Evidence::of(scene.server.dir()).count("agent.attested");
    let before = attested();
    for (case, payload, code) in [
        ("a maze", maze(), Code::PermissionDenied),
        ("200 certificates", long, Code::InvalidArgument),
        ("80 KiB", huge, Code::InvalidArgument),
    ] {
        let channel = attest::channel(scene.server.port(), &bundle, None);
        let (csr, _) = attest::csr();
        let begun = Instant::now();
        let refused = attest::attest(channel, attest::params("x509pop", &payload, csr))
            .await
            .unwrap_err();
        println!(
            "8 {case}: {:?} after {:?}: {}",
            refused.code(),
            begun.elapsed(),
            refused.message()
        );
        assert_eq!(refused.code(), code, "{case}");
    }
    assert_eq!(attested(), before);

    let (runtime, port, pid) = (
        tokio::runtime::Handle::current(),
        scene.server.port(),
        scene.server.daemon.pid(),
    );
    let payload = maze();
    withstands(async || {
        let (runtime, bundle, payload) = (runtime.clone(), bundle.clone(), payload.clone());
        Trial::new("8 mazes, from 1,000 addresses", pid, &scene.other_agent)
            .attackers(4)
            .by(move || {
                let (runtime, bundle, payload) = (runtime.clone(), bundle.clone(), payload.clone());
                move |_: &dyn Fn() -> bool| {
                    // Each address has a bucket of its own.
                    let from = Ipv4Addr::new(127, 0, rand::random_range(8..12), rand::random_range(1..250));
                    let channel = {
                        let _inside = runtime.enter();
                        attest::channel_from(from, port, &bundle)
                    };
                    let (csr, _) = attest::csr();
                    let refused = runtime.block_on(attest::attest(channel, attest::params("x509pop", &payload, csr)));
                    assert!(refused.is_err());
                    1
                }
            })
            .await
    })
    .await;
    assert_eq!(attested(), before, "nothing was written for any of them");
    scene.check_alive();
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut octets = vec![tag];
    match length {
        0..0x80 => octets.push(length as u8),
        0x80..0x100 => octets.extend([0x81, length as u8]),
        0x100..0x1_0000 => octets.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => octets.extend([0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
    }
    octets.extend(content);
    octets
}

const SEQUENCE: u8 = 0x30;
const EXTENSION_REQUEST: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const ECDSA_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13];
const UNKNOWN: &[u8] = &[0x06, 0x03, 0x2a, 0x03, 0x04];
const CRITICAL: &[u8] = &[0x01, 0x01, 0xff];

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { CRITICAL } else { &[] };
    tlv(SEQUENCE, &[id, critical, &tlv(4, value)].concat())
}

/// `extensionRequest` with these extensions.
fn wishes(extensions: &[Vec<u8>]) -> Vec<u8> {
    let set = tlv(0x31, &tlv(SEQUENCE, &extensions.concat()));
    tlv(SEQUENCE, &[EXTENSION_REQUEST, &set].concat())
}

/// A request over this key with these attributes, signed by `signer`.
fn request(public_key: &[u8], attributes: &[u8], signer: &KeyPair) -> Vec<u8> {
    let info = [&[2, 1, 0][..], &tlv(SEQUENCE, &[]), public_key, &tlv(0xa0, attributes)].concat();
    let info = tlv(SEQUENCE, &info);
    let signature = [vec![0], signer.sign(&info).unwrap()].concat();
    tlv(
        SEQUENCE,
        &[info, tlv(SEQUENCE, ECDSA_SHA256), tlv(3, &signature)].concat(),
    )
}

fn rsa(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0xc5; bits / 8];
    modulus.insert(0, 0);
    let key = tlv(SEQUENCE, &[tlv(2, &modulus), tlv(2, exponent)].concat());
    let algorithm = [
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    tlv(
        SEQUENCE,
        &[tlv(SEQUENCE, &algorithm), tlv(3, &[vec![0], key].concat())].concat(),
    )
}

/// secp256k1, with a point that may or may not be on it.
fn other_curve() -> Vec<u8> {
    let algorithm = [
        0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a,
    ];
    let point = [&[0, 4][..], &[0x55; 64]].concat();
    tlv(SEQUENCE, &[tlv(SEQUENCE, &algorithm), tlv(3, &point)].concat())
}

/// The same octets with the outer length as `length`.
fn with_length(der: &[u8], length: &[u8], end: &[u8]) -> Vec<u8> {
    // All requests here have 0x82 and two octets, or 0x81 and one.
    let header = 2 + usize::from(der[1] & 0x7f);
    [&[SEQUENCE], length, &der[header..], end].concat()
}

/// What OpenSSL says of a certificate.
fn openssl_text(der: &[u8]) -> String {
    let mut openssl = Command::new("openssl")
        .args(["x509", "-inform", "DER", "-noout", "-text"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(der).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// A server, and two agents that are nothing but their credentials.
struct TwoAgents {
    server: Server,
    admin: Admin,
    bundle: mayfly_svid::Bundle,
    one: Credential,
    other: Credential,
}

impl TwoAgents {
    async fn join() -> Self {
        let server = Server::start().await;
        let admin = server.admin();
        let bundle = admin.bundle().await;
        let join = async || {
            let token = admin.token().await;
            attest::join(attest::channel(server.port(), &bundle, None), &token)
                .await
                .unwrap()
        };
        let (one, other) = (join().await, join().await);
        Self {
            server,
            admin,
            bundle,
            one,
            other,
        }
    }

    fn as_one(&self) -> Channel {
        attest::channel(self.server.port(), &self.bundle, Some(&self.one))
    }
}

async fn ask(channel: Channel, wanted: Vec<(String, Vec<u8>)>) -> Vec<batch_new_x509svid_response::Result> {
    let params = wanted
        .into_iter()
        .map(|(entry_id, csr)| NewX509svidParams { entry_id, csr });
    SvidClient::new(channel)
        .max_decoding_message_size(16 << 20)
        .batch_new_x509svid(BatchNewX509svidRequest {
            params: params.collect(),
        })
        .await
        .unwrap()
        .into_inner()
        .results
}

// Attack 11
#[tokio::test(flavor = "multi_thread")]
async fn of_a_certificate_request_the_key_is_taken_and_nothing_else_and_only_with_proof() {
    let _lane = Lane::shared();
    let scene = TwoAgents::join().await;
    let entry = scene
        .admin
        .create(&EntrySpec::new(
            "/w",
            scene.one.svid.spiffe_id().as_str(),
            &["unix:uid:1"],
        ))
        .await;
    let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let spki = key.subject_public_key_info();
    let plain = request(&spki, &[], &key);
    let uri = |uri: &str| tlv(SEQUENCE, &tlv(0x86, uri.as_bytes()));
    let admin_uri = extension(SUBJECT_ALT_NAME, false, &uri("spiffe://example.org/smuggled"));
    let dns = tlv(SEQUENCE, &tlv(0x82, b"smuggled.example.org"));
    let ca = extension(BASIC_CONSTRAINTS, true, &tlv(SEQUENCE, &[0x01, 0x01, 0xff]));
    let long = u16::try_from(plain.len() - 2 - usize::from(plain[1] & 0x7f))
        .unwrap()
        .to_be_bytes();
    let refused: Vec<(&str, Vec<u8>)> = vec![
        ("signed by another key", request(&spki, &[], &stranger)),
        ("another curve", request(&other_curve(), &[], &key)),
        ("RSA of 1,024 bits", request(&rsa(1024, &[1, 0, 1]), &[], &key)),
        ("RSA of 16,384 bits", request(&rsa(16_384, &[1, 0, 1]), &[], &key)),
        (
            "RSA with an exponent of 2,048 bits",
            request(&rsa(2048, &[0x7f; 256]), &[], &key),
        ),
        ("RSA with the exponent 1", request(&rsa(2048, &[1]), &[], &key)),
        ("BER: indefinite length", with_length(&plain, &[0x80], &[0, 0])),
        (
            "BER: length in too many octets",
            with_length(&plain, &[0x83, 0, long[0], long[1]], &[]),
        ),
        ("an octet behind it", [&plain[..], &[0]].concat()),
        ("a second request behind it", plain.repeat(2)),
        (
            "1 MB of attributes",
            request(&spki, &wishes(&[extension(UNKNOWN, false, &vec![7; 1 << 20])]), &key),
        ),
        ("cut off", plain[..plain.len() - 1].to_vec()),
    ];
    let ignored: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", plain.clone()),
        (
            "another SPIFFE ID",
            request(&spki, &wishes(std::slice::from_ref(&admin_uri)), &key),
        ),
        (
            "a DNS name",
            request(&spki, &wishes(&[extension(SUBJECT_ALT_NAME, false, &dns)]), &key),
        ),
        (
            "names twice",
            request(&spki, &wishes(&[admin_uri.clone(), admin_uri.clone()]), &key),
        ),
        (
            "two lists of wishes",
            request(
                &spki,
                &[
                    wishes(std::slice::from_ref(&admin_uri)),
                    wishes(std::slice::from_ref(&ca)),
                ]
                .concat(),
                &key,
            ),
        ),
        ("to be an authority", request(&spki, &wishes(&[ca]), &key)),
        (
            "a critical extension that nobody knows",
            request(&spki, &wishes(&[extension(UNKNOWN, true, &[5, 0])]), &key),
        ),
    ];
    let wanted = refused
        .iter()
        .chain(&ignored)
        .map(|(_, csr)| (entry.clone(), csr.clone()));
    let answers = ask(scene.as_one(), wanted.collect()).await;
    assert_eq!(answers.len(), refused.len() + ignored.len());
    for ((case, _), answer) in refused.iter().zip(&answers) {
        let status = answer.status.clone().unwrap();
        println!("11 {case}: {} {}", status.code, status.message);
        assert_eq!(
            (status.code, answer.svid.is_none()),
            (Code::InvalidArgument as i32, true),
            "{case}"
        );
    }
    for ((case, _), answer) in ignored.iter().zip(&answers[refused.len()..]) {
        let status = answer.status.clone().unwrap();
        // Refused would be as good; what is issued is what the entry says.
        println!("11 asks for {case}: {} {}", status.code, status.message);
        let Some(X509svid { cert_chain, .. }) = &answer.svid else {
            assert_eq!(status.code, Code::InvalidArgument as i32, "{case}");
            continue;
        };
        let text = openssl_text(&cert_chain[0]);
        assert!(
            !text.contains("smuggled") && !text.contains("CA:TRUE") && !text.contains("1.2.3.4"),
            "{case}: {text}"
        );
        let names = text
            .lines()
            .skip_while(|line| !line.contains("Subject Alternative Name"))
            .nth(1);
        assert_eq!(names.map(str::trim), Some("URI:spiffe://example.org/w"), "{case}");
    }
    assert!(
        answers[refused.len()].svid.is_some(),
        "a request that asks for nothing gets its SVID"
    );
}

// Attack 23; the same over random forests of entries: server/src/app/issue/tests/descent.rs
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_for_what_is_anothers_hears_what_it_would_hear_of_what_does_not_exist() {
    let _lane = Lane::shared();
    let scene = TwoAgents::join().await;
    let (one, other) = (
        scene.one.svid.spiffe_id().to_string(),
        scene.other.svid.spiffe_id().to_string(),
    );
    let mut entries = vec![];
    for (path, parent) in [
        ("/own", one.clone()),
        ("/own/below", "spiffe://example.org/own".into()),
        ("/others", other.clone()),
        ("/others/below", "spiffe://example.org/others".into()),
        ("/nobodys", "spiffe://example.org/nobody".into()),
        // Names prove nothing, only the parent does.
        (
            &format!(
                "{}/x",
                one.strip_prefix("spiffe://example.org")
                    .unwrap()
                    .replace("/spire/", "/")
            ),
            other.clone(),
        ),
    ] {
        entries.push(
            scene
                .admin
                .create(&EntrySpec::new(path, &parent, &["unix:uid:1"]))
                .await,
        );
    }
    entries.push("00000000-0000-0000-0000-000000000000".into());
    let (csr, _) = attest::csr();
    let wanted = entries.iter().map(|id| (id.clone(), csr.clone())).collect();
    let answers = ask(scene.as_one(), wanted).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.clone().unwrap()).collect();
    for (status, answer) in statuses.iter().zip(&answers).take(2) {
        assert_eq!((status.code, answer.svid.is_some()), (0, true), "{status:?}");
    }
    for (status, answer) in statuses.iter().zip(&answers).skip(2) {
        assert_eq!(
            (status.code, answer.svid.is_none()),
            (Code::NotFound as i32, true),
            "{status:?}"
        );
        assert_eq!(
            status.message,
            statuses.last().unwrap().message,
            "it cannot be told apart"
        );
    }
    let as_one = Admin::over(scene.as_one());
    let listed = as_one
        .entries()
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .entries;
    let mut listed: Vec<_> = listed.into_iter().map(|entry| entry.id).collect();
    listed.sort();
    let mut own = entries[..2].to_vec();
    own.sort();
    assert_eq!(listed, own);

    // It is no operator either, and renews as itself whatever it asks for.
    let (csr, _) = attest::csr_for(&other);
    let refusals = [
        as_one
            .entries()
            .list_entries(ListEntriesRequest::default())
            .await
            .map(drop),
        as_one.try_token().await.map(drop),
        as_one.try_ban(&other).await,
        as_one.try_delete(&entries[2]).await,
        SvidClient::new(scene.as_one())
            .mint_x509svid(MintX509svidRequest {
                csr: csr.clone(),
                ttl: 0,
            })
            .await
            .map(drop),
    ];
    for refusal in refusals {
        assert_eq!(refusal.unwrap_err().code(), Code::PermissionDenied);
    }
    let renewed = as_one
        .agents()
        .renew_agent(RenewAgentRequest {
            params: Some(AgentX509svidParams { csr }),
        })
        .await
        .unwrap()
        .into_inner();
    let text = openssl_text(&renewed.svid.unwrap().cert_chain[0]);
    assert!(text.contains(&format!("URI:{one}")) && !text.contains(&other), "{text}");
}
