//! Whom the agent takes for its server.

use super::*;

#[tokio::test]
async fn anybody_but_the_server_of_the_trust_domain_is_refused() {
    // Right authority, wrong name; then right name, wrong authority.
    let ca = Arc::new(TestCa::new("td"));
    let impostor = TestServer::start_as(Arc::clone(&ca), "spiffe://td/web", "127.0.0.1:0".parse().unwrap()).await;
    let agent = TestAgent::start(&impostor);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(impostor.log(), [""; 0]);
    drop(agent);

    let stranger = TestServer::start().await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let evidence = token_in(dir.path(), "t0");
    let agent = TestAgent::start_with(&stranger, dir, evidence, Some(ca.bundle()));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(stranger.log(), [""; 0], "the token is not shown to a stranger");
    assert!(!agent.views.borrow().synced());
}

#[tokio::test]
async fn insecure_bootstrap_pins_the_bundle_of_the_first_server() {
    let mut server = TestServer::start().await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let evidence = token_in(dir.path(), "t0");
    let source = Some(TrustSource::InsecureBootstrap);
    let mut agent = TestAgent::try_start(&server, dir, evidence, source.clone()).unwrap();
    agent.holds(&["a"]).await;
    let pinned = bundle_file::load_stored(agent.dir.path(), &"td".parse().unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(pinned.x509_authorities, server.ca.bundle().x509_authorities);

    // Another server at the same address is not believed any more.
    agent.stop.cancel();
    server.stop().await;
    server.ca = Arc::new(TestCa::new("td"));
    server.restart();
    server.set(|state| state.log.clear());
    let evidence = token_in(agent.dir.path(), "t0");
    let agent = TestAgent::try_start(&server, Arc::clone(&agent.dir), evidence, source).unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!agent.views.borrow().synced());
    assert_eq!(server.log(), [""; 0]);
}

#[tokio::test]
async fn insecure_bootstrap_still_refuses_who_is_not_the_server_of_the_trust_domain() {
    for (trust_domain, id) in [("td", "spiffe://td/web"), ("other", "spiffe://other/spire/server")] {
        let ca = Arc::new(TestCa::new(trust_domain));
        let server = TestServer::start_as(ca, id, "127.0.0.1:0".parse().unwrap()).await;
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let evidence = token_in(dir.path(), "t0");
        let agent = TestAgent::try_start(&server, dir, evidence, Some(TrustSource::InsecureBootstrap)).unwrap();
        eventually("the question for the bundle", || server.count("GetBundle") > 0).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(server.count("AttestAgent"), 0, "{id}");
        assert!(!bundle_file::stored_path(agent.dir.path()).exists());
    }
}

#[tokio::test]
async fn without_any_trust_the_agent_does_not_start_and_says_what_to_set() {
    let server = TestServer::start().await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let evidence = token_in(dir.path(), "t0");
    let error = TestAgent::try_start(&server, dir, evidence, None)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("trust_bundle_path"), "{error}");
}
