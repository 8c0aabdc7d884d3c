//! The agent's own SVID: how it comes by it, keeps it, and what becomes of it when the server takes it back.

use super::*;

#[tokio::test]
async fn attests_with_a_token_once_and_comes_back_with_what_it_kept() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    timeout(PATIENCE, agent.readiness.wait()).await.unwrap();
    let mut agent = agent.restarted(&server);
    agent.holds(&["a"]).await;
    assert_eq!(server.count("AttestAgent"), 1, "{:?}", server.log());
    assert_eq!(
        agent.views.borrow().own().x509_authorities,
        server.ca.bundle().x509_authorities
    );
}

#[tokio::test]
async fn renews_at_half_life_and_moves_over_without_a_gap() {
    let server = TestServer::start().await;
    // Due in one to four seconds.
    let lifetimes = vec![(Duration::from_secs(20), 0.35), (Duration::from_secs(3600), 0.0)];
    server.set(|state| state.lifetimes = lifetimes);
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    eventually("the renewal", || server.count("RenewAgent") == 1).await;
    eventually("a stream as the renewed identity", || {
        server.log().iter().any(|line| line.ends_with("svid 1"))
    })
    .await;
    assert_eq!(server.count("Hello h1 2 svid 1"), 1, "it goes on: {:?}", server.log());
    server.put("b", "/b");
    agent.holds(&["a", "b"]).await;
    let kept = identity::load(agent.dir.path()).unwrap().unwrap();
    assert_eq!(kept.svid().serial().to_string(), server.state().serials[1]);
    assert_eq!(server.count("AttestAgent"), 1);
    assert_eq!(server.count("Snapshot"), 1, "{:?}", server.log());
}

#[tokio::test]
async fn an_agent_that_can_prove_itself_again_does_so_instead_of_renewing() {
    let server = TestServer::start().await;
    let hour = Duration::from_secs(3600);
    server.set(|state| {
        state.lifetimes = vec![(hour, 0.6), (hour, 0.0)];
        state.reattestable = true;
    });
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut agent = TestAgent::start_with(&server, dir, pop(), Some(server.ca.bundle()));
    agent.holds(&["a"]).await;
    eventually("the second attestation", || server.count("AttestAgent test_pop") == 2).await;
    assert_eq!(server.count("RenewAgent"), 0);
}

#[tokio::test]
async fn an_agent_that_must_attest_anew_does() {
    let server = TestServer::start().await;
    let hour = Duration::from_secs(3600);
    server.set(|state| {
        state.lifetimes = vec![(hour, 0.6), (hour, 0.0)];
        state.renew_refusal = Some(Reason::AgentMustReattest);
    });
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut agent = TestAgent::start_with(&server, dir, pop(), Some(server.ca.bundle()));
    agent.holds(&["a"]).await;
    eventually("the second attestation", || server.count("AttestAgent test_pop") == 2).await;
    agent.holds(&["a"]).await;
}

#[tokio::test]
async fn an_expired_identity_is_replaced_at_the_start() {
    let server = TestServer::start().await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let key = identity::OwnKey::generate().unwrap();
    let chain = server.ca.sign_csr(
        &key.csr_der().unwrap(),
        "spiffe://td/spire/agent/join_token/x",
        Duration::from_secs(100),
        1.5,
    );
    let old = identity::Identity::new(key, chain, false).unwrap();
    identity::save(dir.path(), &old).unwrap();
    let evidence = token_in(dir.path(), "t0");
    let mut agent = TestAgent::start_with(&server, dir, evidence, Some(server.ca.bundle()));
    agent.holds(&["a"]).await;
    assert_eq!(server.count("AttestAgent"), 1);
}

#[tokio::test]
async fn a_ban_withdraws_everything_and_new_evidence_is_taken_up_after_it() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.set(|state| state.refusal = Some(Reason::AgentBanned));
    agent.holds(&[]).await;
    assert!(!agent.views.borrow().is_serving());
    assert_eq!(agent.readiness.missing(), [ATTESTATION, FIRST_SYNC]);
    eventually("the identity is gone", || {
        !identity::stored_path(agent.dir.path()).exists()
    })
    .await;
    assert!(agent.link.channel().is_none());
    eventually("an attempt", || server.count("AttestAgent") == 2).await;
    server.set(|state| {
        state.refusal = None;
        state.token = Some("t1".into());
    });
    token_in(agent.dir.path(), "t1");
    agent.holds(&["a"]).await;
    assert!(agent.views.borrow().is_serving());
    timeout(PATIENCE, agent.readiness.wait()).await.unwrap();
}

#[tokio::test]
async fn an_evicted_agent_serves_nothing_until_it_has_a_new_token() {
    let server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.set(|state| state.refusal = Some(Reason::AgentNotAttested));
    agent.holds(&[]).await;
    eventually("an attempt with the used token", || server.count("AttestAgent") == 2).await;
    server.set(|state| {
        state.refusal = None;
        state.token = Some("t1".into());
    });
    token_in(agent.dir.path(), "t1");
    agent.holds(&["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_found_the_disk_full_is_kept_as_soon_as_there_is_room() {
    mayfly_runtime::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("full");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let trust = Arc::new(Trust::load(&data_dir, &"td".parse().unwrap()).unwrap());
    let server = "127.0.0.1:1".parse().unwrap();
    let joining = Arc::new(Joining {
        connector: Connector::new(server, trust, clock, channel_settings()),
        evidence: pop(),
        data_dir: data_dir.clone(),
        metrics: SyncMetrics::default(),
    });
    let key = OwnKey::generate().unwrap();
    let chain = TestCa::new("td").agent_chain(&key, "spiffe://td/spire/agent/x", Duration::from_secs(86_400));
    let identity = Identity::new(key, chain, true).unwrap();
    assert!(!joining.keep(&identity));
    let channel = joining.connector.anonymous();
    let mut waiting = Box::pin(renewed(joining, identity, false, tokio::time::Instant::now(), channel));
    assert!(timeout(Duration::from_secs(60), &mut waiting).await.is_err());
    std::fs::create_dir(&data_dir).unwrap();
    assert!(timeout(Duration::from_secs(31), &mut waiting).await.is_err());
    assert!(identity::load(&data_dir).unwrap().is_some());
}

#[tokio::test]
async fn a_ban_is_noticed_by_whoever_calls_first() {
    let server = TestServer::start().await;
    server.set(|state| state.watch = false);
    let mut agent = TestAgent::start(&server);
    agent.holds(&["a"]).await;
    server.set(|state| state.refusal = Some(Reason::AgentBanned));
    let refused = ServerIssuer::new(Arc::clone(&agent.link), Arc::clone(&agent.news))
        .issue(vec![csr("a")])
        .await;
    assert!(refused.is_err());
    let started = Instant::now();
    agent.holds(&[]).await;
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "not only at the next round of polling"
    );
}
