//! What nodes send to attest.

use super::*;

// Promise 7
#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_nodes_is_refused_and_leaves_no_trace() {
    let _lane = Lane::shared();
    let (ca, other_ca, dir) = (NodeCa::new(), NodeCa::new(), story_dir());
    let sections = format!(
        "[attestor.x509pop]\nca_bundle_path = \"{}\"\n",
        ca.file(dir.path()).display()
    );
    let server = Server::start_with(ServerOptions {
        sections,
        ..Default::default()
    })
    .await;
    let bundle = server.admin().bundle().await;
    let token = server.admin().token().await;
    let payload =
        |certificate: &[u8]| format!("{{\"certificates\":[\"{}\"]}}", STANDARD.encode(certificate)).into_bytes();
    let (node, foreign) = (ca.node("node"), other_ca.node("node"));
    let mut verdicts = Verdicts::default();
    let before = fingerprint(&server).await;
    let cases: Vec<(&str, &str, Vec<u8>, Code, &str)> = vec![
        ("empty token", "join_token", vec![], Code::InvalidArgument, "payload"),
        (
            "unknown token",
            "join_token",
            b"deadbeef".to_vec(),
            Code::InvalidArgument,
            "does not exist or has already been used",
        ),
        (
            "almost the token",
            "join_token",
            format!("{token}x").into_bytes(),
            Code::InvalidArgument,
            "does not exist",
        ),
        (
            "token with a slash",
            "join_token",
            b"a/b".to_vec(),
            Code::InvalidArgument,
            "not a join token",
        ),
        ("token of dots", "join_token", b"..".to_vec(), Code::InvalidArgument, ""),
        (
            "token that is not text",
            "join_token",
            vec![0xff; 36],
            Code::InvalidArgument,
            "not a join token",
        ),
        (
            "long token",
            "join_token",
            vec![b'a'; 300],
            Code::InvalidArgument,
            "not a join token",
        ),
        (
            "huge token",
            "join_token",
            vec![b'a'; 200 << 10],
            Code::InvalidArgument,
            "131072",
        ),
        ("no method", "", b"x".to_vec(), Code::InvalidArgument, ""),
        (
            "unknown method",
            "aws_iid",
            b"x".to_vec(),
            Code::FailedPrecondition,
            "join_token, x509pop",
        ),
        (
            "x509pop: not JSON",
            "x509pop",
            b"hello".to_vec(),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            "x509pop: no certificate",
            "x509pop",
            b"{\"certificates\":[]}".to_vec(),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            "x509pop: not base64",
            "x509pop",
            b"{\"certificates\":[\"%%%\"]}".to_vec(),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            "x509pop: noise",
            "x509pop",
            payload(&[0x30; 100]),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            "x509pop: another authority",
            "x509pop",
            payload(foreign.certificate.der()),
            Code::PermissionDenied,
            "refused",
        ),
    ];
    for (case, method, payload, code, says) in cases {
        let channel = attest::channel(server.port(), &bundle, None);
        let (csr, _) = attest::csr();
        let outcome = attest::attest(channel, attest::params(method, &payload, csr)).await;
        verdicts.status(case, outcome.map(drop), code, says);
    }
    // The certificate is right, and then the answer to the challenge is not.
    use mayfly_proto::spire::server::agent::{AttestAgentRequest, attest_agent_request::Step};
    for (case, answer) in [
        ("no JSON", b"hello".to_vec()),
        ("no signature", b"{}".to_vec()),
        ("huge", vec![b' '; 20 << 10]),
    ] {
        let (csr, _) = attest::csr();
        let messages = vec![
            attest::params("x509pop", &payload(node.certificate.der()), csr),
            AttestAgentRequest {
                step: Some(Step::ChallengeResponse(answer)),
            },
        ];
        let outcome = attest::attest_all(attest::channel(server.port(), &bundle, None), messages).await;
        verdicts.status(
            &format!("x509pop: answer with {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            "",
        );
    }
    // Messages in the wrong order.
    let messages = vec![AttestAgentRequest {
        step: Some(Step::ChallengeResponse(vec![1])),
    }];
    let outcome = attest::attest_all(attest::channel(server.port(), &bundle, None), messages).await;
    verdicts.status(
        "an answer before the question",
        outcome.map(drop),
        Code::InvalidArgument,
        "",
    );
    let messages = vec![AttestAgentRequest { step: None }];
    let outcome = attest::attest_all(attest::channel(server.port(), &bundle, None), messages).await;
    verdicts.status("an empty message", outcome.map(drop), Code::InvalidArgument, "");
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    verdicts.end();
    attest::join(attest::channel(server.port(), &bundle, None), &token)
        .await
        .unwrap();
}
