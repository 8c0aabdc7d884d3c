//! Leaves of random requests, byte for byte against another writer, and read by others. The writer shares no code with
//! ours, and is a library that many use.

use mayfly_svid::{TASK_EXTENSION_ARCS, TaskExtension, TaskRoot, WindowId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rcgen::{CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyUsagePurpose, SanType};

use super::*;

/// What a request and its time may be.
#[derive(Clone, Debug)]
struct Asked {
    /// Bytes of the name of the trust domain, and of the path.
    lengths: (usize, usize),
    dns_names: Vec<String>,
    authority: usize,
    key: usize,
    /// From 1970 on; it all ends before the year 10000.
    now: i64,
    ttl: u64,
    /// A task SVID: window, hash, seconds that the window lasts longer, log index.
    task: Option<([u8; 16], [u8; 16], u64, u64)>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let label = "[a-z0-9_]([a-zA-Z0-9_-]{0,61}[a-z0-9])?";
    let name = proptest::collection::vec(label, 1..4).prop_map(|labels| labels.join("."));
    let path = prop_oneof![2usize..40, 100usize..140, 230usize..270, 2usize..2048];
    let now = prop_oneof![
        0i64..252_000_000_000,
        // About the turn of the year 2050, where dates begin to be written in another way.
        2_524_600_000i64..2_524_610_000,
    ];
    let ttl = prop_oneof![1u64..100_000, 1u64..1_000_000_000];
    let names = proptest::collection::vec(name, 0..100);
    let task = proptest::option::of(any::<([u8; 16], [u8; 16], u32, u64)>());
    let task = task.prop_map(|task| task.map(|(window, hash, more, index)| (window, hash, more.into(), index)));
    ((1usize..=255, path), names, 0..4usize, 0..6usize, now, ttl, task).prop_map(
        |(lengths, mut dns_names, authority, key, now, ttl, task)| {
            dns_names.retain(|name| name.len() <= 253);
            let mut seen = std::collections::BTreeSet::new();
            dns_names.retain(|name| seen.insert(name.clone()));
            Asked {
                lengths,
                dns_names,
                authority,
                key,
                now,
                ttl,
                task,
            }
        },
    )
}

/// The trust domain and the ID; an ID has at most 2048 bytes.
fn names((name, path): (usize, usize), root: &str) -> (TrustDomain, mayfly_svid::SpiffeId) {
    let trust_domain: TrustDomain = "t".repeat(name).parse().unwrap();
    let room = 2048 - trust_domain.id().as_str().len() - root.len();
    let path = format!("{root}/{}", "p".repeat(path.min(room) - 1));
    let id = trust_domain.with_path(&path).unwrap();
    (trust_domain, id)
}

fn public_keys() -> Vec<PublicKey> {
    let rsa = [
        rcgen::RsaKeySize::_2048,
        rcgen::RsaKeySize::_3072,
        rcgen::RsaKeySize::_4096,
    ];
    let rsa = rsa.map(|size| rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size));
    let others = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    let others = others.map(rcgen::KeyPair::generate_for);
    let keys = others.into_iter().chain(rsa).map(Result::unwrap);
    keys.map(|key| PublicKey::from_der(&key.subject_public_key_info()).unwrap())
        .collect()
}

#[tokio::test]
async fn whatever_is_asked_for_the_leaf_is_what_another_writer_makes_and_other_readers_take() {
    let mut signers = vec![];
    for key_type in KeyType::ALL {
        signers.push(signer(key_type).await);
    }
    let keys = public_keys();
    let mut runner = TestRunner::new(Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&asked(), |asked| {
        let root = if asked.task.is_some() { "/task/pay/migrate" } else { "" };
        let (trust_domain, spiffe_id) = names(asked.lengths, root);
        let signer = &signers[asked.authority];
        let now = Timestamp::from_unix(asked.now);
        let cert = create_authority(
            &trust_domain,
            signer.clone(),
            Duration::from_secs(asked.ttl + 1),
            now,
            &random_serial(),
        )
        .unwrap();
        let public_key = keys[asked.key].clone();
        let request = X509SvidRequest {
            spiffe_id: spiffe_id.clone(),
            public_key: public_key.clone(),
            dns_names: asked.dns_names.clone(),
            validity: Validity::For(Duration::from_secs(asked.ttl)),
        };
        let extension = asked
            .task
            .map(|(window, definition_hash, more, log_index)| TaskExtension {
                window_id: WindowId(window),
                definition_hash,
                closes: now.plus(Duration::from_secs(asked.ttl + more)),
                log_index,
            });
        let svid = match extension {
            None => {
                let issuer = Issuer::new(trust_domain.clone(), cert.clone(), signer.clone()).unwrap();
                issuer.sign(issuer.prepare(request, now).unwrap()).unwrap()
            }
            Some(extension) => {
                let (own, root) = (trust_domain.clone(), TaskRoot::Task);
                let issuer = Issuer::of_tasks(own, root, cert.clone(), signer.clone()).unwrap();
                let unrecorded = TaskExtension {
                    log_index: 0,
                    ..extension
                };
                let ticket = issuer.prepare_task(request, unrecorded, now).unwrap();
                issuer.sign(ticket.recorded_at(extension.log_index)).unwrap()
            }
        };
        prop_assert_eq!(TaskExtension::from_certificate_der(&svid.chain()[0]), Ok(extension));
        prop_assert_eq!(svid.not_after(), now.plus(Duration::from_secs(asked.ttl)));
        prop_assert_eq!(svid.spiffe_id(), &spiffe_id);

        let authority = (&cert, signer);
        let theirs = written_by_another(
            &svid,
            &trust_domain,
            &public_key,
            &asked.dns_names,
            extension,
            authority,
        );
        prop_assert_eq!(signed_part(&svid.chain()[0]), signed_part(&theirs));

        // A process each time, so not always.
        if asked.now % 8 == 0 {
            let verified = openssl_verify(&cert, &svid.chain()[0], now);
            prop_assert!(verified.is_ok(), "{:?}", verified.err());
        }
        let bundle = Bundle {
            x509_authorities: vec![X509Authority {
                cert_der: cert,
                tainted: false,
            }],
            ..Bundle::empty(trust_domain)
        };
        let verified = verify_x509_svid(svid.chain(), &TrustAnchors::from_bundle(&bundle), now);
        prop_assert!(verified.is_ok(), "{:?}", verified.err());
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// All of a certificate but the signature, and the algorithm that is named beside it.
fn signed_part(certificate: &[u8]) -> (Vec<u8>, String) {
    use x509_parser::prelude::FromDer;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).unwrap();
    let algorithm = format!("{:?}", certificate.signature_algorithm);
    (certificate.tbs_certificate.as_ref().to_vec(), algorithm)
}

fn written_by_another(
    svid: &X509Svid,
    trust_domain: &TrustDomain,
    public_key: &PublicKey,
    dns_names: &[String],
    task: Option<TaskExtension>,
    (authority, signer): (&CertificateDer<'static>, &Arc<dyn Signer>),
) -> CertificateDer<'static> {
    let mut params = rcgen::CertificateParams::default();
    params.serial_number = Some(svid.serial().as_be_bytes().to_vec().into());
    params.not_before = crate::der::offset(svid.not_before()).unwrap();
    params.not_after = crate::der::offset(svid.not_after()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = trust_domain.as_str();
    let organization = &name[..name.len().min(64)];
    params.distinguished_name.push(DnType::OrganizationName, organization);
    if let Some(name) = dns_names.first().filter(|name| name.len() <= 64) {
        params.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    let uri = SanType::URI(svid.spiffe_id().as_str().try_into().unwrap());
    let dns_names = dns_names.iter();
    let dns_names = dns_names.map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
    params.subject_alt_names = std::iter::once(uri).chain(dns_names).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key_id = mayfly_svid::public_key_id(public_key.der());
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.to_vec());
    params.use_authority_key_identifier_extension = true;
    let task = task.map(|task| CustomExtension::from_oid_content(TASK_EXTENSION_ARCS, task.to_der()));
    params.custom_extensions.extend(task);
    let key = crate::signing::AuthorityKey::new(signer.clone()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(authority, key).unwrap();
    let subject_key = rcgen::SubjectPublicKeyInfo::from_der(public_key.der()).unwrap();
    params.signed_by(&subject_key, &issuer).unwrap().der().clone()
}
