//! Certificate requests, from agents and from operators who mint.

use super::*;

// Promise 7
#[tokio::test(flavor = "multi_thread")]
async fn certificate_requests_are_refused_and_leave_no_trace() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin = server.admin();
    let bundle = admin.bundle().await;
    let tokens = [admin.token().await, admin.token().await];
    let agent = attest::join(attest::channel(server.port(), &bundle, None), &tokens[0])
        .await
        .unwrap();
    let entry = admin
        .create(&EntrySpec::new("/w", agent.svid.spiffe_id().as_str(), &["unix:uid:1"]))
        .await;
    let (good, _) = attest::csr();
    let mut bad_signature = good.clone();
    *bad_signature.last_mut().unwrap() ^= 1;
    let mut trailing = good.clone();
    trailing.push(0);
    let oversized = [good.clone(), vec![0; 5000]].concat();
    let truncated = good[..good.len() - 10].to_vec();
    let shapes: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], ""),
        ("noise", vec![0x30; 64], "well-formed"),
        ("truncated", truncated, "well-formed"),
        ("trailing octet", trailing, "well-formed"),
        ("oversized", oversized, "4096"),
        (
            "PEM instead of DER",
            b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(),
            "well-formed",
        ),
        ("signature does not verify", bad_signature, "signature"),
    ];
    let mut verdicts = Verdicts::default();
    let before = fingerprint(&server).await;
    let as_agent = attest::channel(server.port(), &bundle, Some(&agent));
    // The first call of an agent with a new SVID confirms that one: a change by design.
    let mut svids = SvidClient::new(as_agent.clone());
    let _ = svids
        .batch_new_x509svid(BatchNewX509svidRequest { params: vec![] })
        .await;
    let before = (Evidence::of(server.dir()).revision(), before.1, before.2, before.3);
    for (case, csr, says) in &shapes {
        let channel = attest::channel(server.port(), &bundle, None);
        let outcome = attest::attest(channel, attest::params("join_token", tokens[1].as_bytes(), csr.clone())).await;
        verdicts.status(
            &format!("AttestAgent, {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            says,
        );

        let params = vec![NewX509svidParams {
            entry_id: entry.clone(),
            csr: csr.clone(),
        }];
        let answer = svids
            .batch_new_x509svid(BatchNewX509svidRequest { params })
            .await
            .unwrap()
            .into_inner();
        let status = answer.results[0].status.clone().unwrap();
        let outcome = Err(Status::new(Code::from_i32(status.code), status.message));
        verdicts.status(
            &format!("BatchNewX509SVID, {case}"),
            outcome,
            Code::InvalidArgument,
            says,
        );

        let outcome = SvidClient::new(admin.channel())
            .mint_x509svid(MintX509svidRequest {
                csr: csr.clone(),
                ttl: 0,
            })
            .await;
        // It looks for the name first.
        let says = if *says == "signature" { "URI" } else { says };
        verdicts.status(
            &format!("MintX509SVID, {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            says,
        );
    }
    let mint = [
        ("another trust domain", "spiffe://other.org/x", 0, "example.org"),
        ("no path", "spiffe://example.org", 0, "example.org"),
        ("not SPIFFE", "https://example.org/x", 0, "SPIFFE ID"),
        ("the server's path", "spiffe://example.org/spire/server", 0, "reserved"),
        ("an agent's path", "spiffe://example.org/spire/agent/x", 0, "reserved"),
        (
            "a task's path",
            "spiffe://example.org/task/pay/migrate/x",
            0,
            "reserved",
        ),
        (
            "an emergency's path",
            "spiffe://example.org/breakglass/x",
            0,
            "reserved",
        ),
        ("two slashes", "spiffe://example.org//x", 0, "SPIFFE ID"),
        ("negative lifetime", "spiffe://example.org/x", -1, "lifetime"),
        ("lifetime of 5 s", "spiffe://example.org/x", 5, "lifetime"),
    ];
    for (case, uri, ttl, says) in mint {
        let (csr, _) = attest::csr_for(uri);
        let outcome = SvidClient::new(admin.channel())
            .mint_x509svid(MintX509svidRequest { csr, ttl })
            .await;
        verdicts.status(
            &format!("MintX509SVID, {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            says,
        );
    }
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    verdicts.end();
    // The token of the refused requests is as good as ever.
    attest::join(attest::channel(server.port(), &bundle, None), &tokens[1])
        .await
        .unwrap();
}
