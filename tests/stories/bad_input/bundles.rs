//! Bundles that operators upload.

use super::*;

// Promise 7
#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_refused_whole() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin = server.admin();
    let mut bundles = BundleClient::new(admin.channel());
    let mut verdicts = Verdicts::default();
    let before = fingerprint(&server).await;
    let leaf = NodeCa::new().node("x");
    let certificate = |der: &[u8]| types::X509Certificate {
        asn1: der.to_vec(),
        tainted: false,
    };
    for (case, x509_authorities, says) in [
        ("noise", vec![certificate(&[0x30; 50])], "X.509"),
        ("nothing", vec![], "no authorities"),
        (
            "a leaf instead of an authority",
            vec![certificate(leaf.certificate.der())],
            "X.509",
        ),
        (
            "one good, one bad",
            vec![
                certificate(&server.admin().bundle().await.x509_authorities[0].cert_der),
                certificate(&[1]),
            ],
            "X.509",
        ),
    ] {
        let request = AppendBundleRequest {
            x509_authorities,
            ..Default::default()
        };
        let outcome = bundles.append_bundle(request).await;
        verdicts.status(
            &format!("AppendBundle, {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            says,
        );
    }
    let own = types::Bundle {
        trust_domain: "example.org".into(),
        ..Default::default()
    };
    let misnamed = types::Bundle {
        trust_domain: "spiffe://not a domain".into(),
        ..Default::default()
    };
    let noise = types::Bundle {
        trust_domain: "other.org".into(),
        x509_authorities: vec![certificate(&[1])],
        ..Default::default()
    };
    for (case, bundle, says) in [
        ("the own domain", own, "own trust domain"),
        ("no name", misnamed, ""),
        ("noise", noise, "X.509"),
    ] {
        let request = BatchSetFederatedBundleRequest {
            bundle: vec![bundle],
            output_mask: None,
        };
        let answer = bundles
            .batch_set_federated_bundle(request)
            .await
            .map(tonic::Response::into_inner);
        let outcome = answer.and_then(|answer| {
            let status = answer.results[0].status.clone().unwrap();
            if status.code == 0 {
                Ok(())
            } else {
                Err(Status::new(Code::from_i32(status.code), status.message))
            }
        });
        verdicts.status(
            &format!("BatchSetFederatedBundle, {case}"),
            outcome,
            Code::InvalidArgument,
            says,
        );
    }
    // By the CLI, from files.
    let (cli, dir) = (Cli::new(&server.socket()), story_dir());
    for (case, content, says) in [
        ("an empty file", "", "bundle"),
        ("not a bundle", "hello", "bundle"),
        ("PEM that is cut", "-----BEGIN CERTIFICATE-----\nMIIB\n", "bundle"),
        (
            "PEM of something else",
            "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
            "bundle",
        ),
        ("JSON of something else", "{\"keys\": 5}", "bundle"),
    ] {
        let path = dir.path().join("bundle");
        std::fs::write(&path, content).unwrap();
        let outcome = cli
            .run(&["bundle", "set", "--id", "other.org", "--path", path.to_str().unwrap()])
            .await;
        println!("bundle set, {case}: exit {:?}: {}", outcome.code, outcome.stderr);
        assert_ne!(outcome.code, Some(0), "{case}: accepted");
        assert!(
            outcome.stderr.contains("error:") && outcome.stderr.contains(says),
            "{case}: {}",
            outcome.stderr
        );
    }
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    verdicts.end();
}
