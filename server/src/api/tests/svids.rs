//! SVIDs, for agents and by operators' word.

use mayfly_proto::spire::server::svid::*;
use mayfly_svid::TrustAnchors;
use mayfly_svid::verify::verify_x509_svid;
use tonic::Code;

use super::*;

async fn mint(server: &Server, csr: Vec<u8>, ttl: i32) -> Result<types::X509svid, Status> {
    let answer = server
        .admin()
        .svid()
        .mint_x509svid(MintX509svidRequest { csr, ttl })
        .await;
    answer.map(|answer| answer.into_inner().svid.unwrap())
}

// SPIRE's agents rely on it: results in request order, every one with a status.
#[tokio::test]
async fn a_batch_is_answered_in_order_with_a_status_for_each() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    let own = server.world.entry("web", &id("/spire/agent/echo/a"), |_| {}).await;
    let other = server.world.entry("else", &id("/spire/agent/echo/b"), |_| {}).await;
    let over = server.world.now();
    let expired = server
        .world
        .entry("over", &id("/spire/agent/echo/a"), |spec| spec.expires_at = Some(over))
        .await;
    let ask = |entry_id: &str, csr: Vec<u8>| NewX509svidParams {
        entry_id: entry_id.into(),
        csr,
    };
    let params = vec![
        ask("", csr()),
        ask(own.as_str(), csr()),
        ask(other.as_str(), csr()),
        ask("unknown", csr()),
        ask("a/b", csr()),
        ask(own.as_str(), vec![]),
        ask(own.as_str(), vec![1, 2, 3]),
        ask(expired.as_str(), csr()),
        ask(own.as_str(), csr()),
    ];
    let answer = agent
        .svid()
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await
        .unwrap()
        .into_inner();
    let codes: Vec<_> = answer
        .results
        .iter()
        .map(|result| Code::from(result.status.as_ref().unwrap().code))
        .collect();
    use Code::{FailedPrecondition, InvalidArgument, NotFound, Ok};
    let expected = [
        InvalidArgument,
        Ok,
        NotFound,
        NotFound,
        NotFound,
        InvalidArgument,
        InvalidArgument,
        FailedPrecondition,
        Ok,
    ];
    assert_eq!(codes, expected);
    // Not found and not allowed read the same.
    assert_eq!(answer.results[2].status, answer.results[3].status);
    let svid = answer.results[1].svid.as_ref().unwrap();
    assert_eq!(svid.id, wire_id("/web"));
    assert_eq!(to_svid(svid).not_after().unix(), svid.expires_at);
    assert_ne!(answer.results[8].svid.as_ref().unwrap().cert_chain, svid.cert_chain);
}

#[tokio::test]
async fn more_than_500_at_a_time_are_too_many() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    let params = vec![
        NewX509svidParams {
            entry_id: "x".into(),
            csr: vec![1]
        };
        501
    ];
    let answer = agent
        .svid()
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await;
    assert_eq!(code(answer), Code::ResourceExhausted);
}

#[tokio::test]
async fn an_operator_mints_what_a_request_names_and_it_is_logged() {
    let server = Server::new().await;
    let csr = csr_for(&["spiffe://td/webhook"], &["hook.example", "*.hook.example"]);
    let svid = mint(&server, csr, 600).await.unwrap();
    assert_eq!(svid.id, wire_id("/webhook"));
    assert_eq!(svid.expires_at, server.world.now().unix() + 600);
    let snapshot = server.world.committer.snapshot();
    let anchors = TrustAnchors::from_bundle(snapshot.own_bundle().unwrap());
    let verified = verify_x509_svid(to_svid(&svid).chain(), &anchors, server.world.now()).unwrap();
    let leaf = String::from_utf8_lossy(&verified.chain()[0]).into_owned();
    assert!(leaf.contains("hook.example"));
    let intended = server.world.logged("svid.intended");
    let record = intended.last().unwrap();
    assert_eq!(
        (record.subject.as_str(), record.actor.who.as_str()),
        ("spiffe://td/webhook", "uid:0")
    );
}

// S2 SVID-14
#[tokio::test]
async fn unfit_requests_mint_nothing() {
    let server = Server::new().await;
    let before = server.done().await;
    let good = || csr_for(&["spiffe://td/x"], &[]);
    for (csr, ttl) in [
        (csr(), 0),
        (vec![], 0),
        (b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(), 0),
        (vec![0x30; 5000], 0),
        ([good(), vec![0]].concat(), 0),
        (csr_for(&["spiffe://td/x", "spiffe://td/y"], &[]), 0),
        (csr_for(&["spiffe://other/x"], &[]), 0),
        (csr_for(&["spiffe://td"], &[]), 0),
        (csr_for(&["https://td/x"], &[]), 0),
        (csr_for(&["spiffe://td/spire/server"], &[]), 0),
        (csr_for(&["spiffe://td/spire/agent/join_token/x"], &[]), 0),
        (csr_for(&["spiffe://td/task/pay/migrate"], &[]), 0),
        (csr_for(&["spiffe://td/breakglass/x"], &[]), 0),
        (csr_for(&["spiffe://td/x"], &["not a name"]), 0),
        (good(), -1),
        (good(), 19),
        (good(), i32::MAX),
    ] {
        let refused = mint(&server, csr.clone(), ttl).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused} {}", hex::encode(csr));
    }
    assert_eq!(server.done().await, before);
}

#[tokio::test]
async fn what_has_its_own_issue_is_unimplemented() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    assert_eq!(
        code(agent.svid().new_jwtsvid(NewJwtsvidRequest::default()).await),
        Code::Unimplemented
    );
    assert_eq!(
        code(server.admin().svid().mint_jwtsvid(MintJwtsvidRequest::default()).await),
        Code::Unimplemented
    );
}
