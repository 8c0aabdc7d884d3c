//! Join tokens, from their making to their one use.

use mayfly_proto::spire::server::agent::*;
use tonic::Code;

use super::agents::attest;
use super::*;

async fn token(server: &Server, wanted: CreateJoinTokenRequest) -> Result<types::JoinToken, Status> {
    server
        .admin()
        .agent()
        .create_join_token(wanted)
        .await
        .map(tonic::Response::into_inner)
}

fn wanted(ttl: i32) -> CreateJoinTokenRequest {
    CreateJoinTokenRequest {
        ttl,
        ..CreateJoinTokenRequest::default()
    }
}

// Promise 5, attack 13
#[tokio::test]
async fn a_token_offered_many_times_at_once_makes_one_agent() {
    let limits = AttestLimits {
        burst: 1000,
        per_second: 1000,
        ..AttestLimits::default()
    };
    let server = Server::with_limits(limits).await;
    let made = token(&server, wanted(600)).await.unwrap();
    assert!(made.value.len() >= 32);
    assert_eq!(made.expires_at, server.world.now().unix() + 600);
    let caller = server.remote(None);
    let tries = (0..100).map(|_| {
        let (caller, value) = (caller.clone(), made.value.clone());
        async move { attest(&caller, "join_token", value.as_bytes(), &csr()).await }
    });
    let results = futures_util::future::join_all(tries).await;
    let (made_it, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((made_it.len(), refused.len()), (1, 99));
    for status in refused.into_iter().map(Result::unwrap_err) {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "join token does not exist or has already been used");
    }
    assert_eq!(server.world.committer.snapshot().agent_count(), 1);
    assert_eq!(server.world.logged("agent.attested").len(), 1);
}

#[tokio::test]
async fn a_token_can_be_chosen_and_names_its_agent_with_an_alias() {
    let server = Server::new().await;
    let chosen = CreateJoinTokenRequest {
        ttl: 60,
        token: "my-token.1".into(),
        agent_id: wire_id("/node/one"),
    };
    assert_eq!(token(&server, chosen.clone()).await.unwrap().value, "my-token.1");
    assert_eq!(code(token(&server, chosen).await), Code::AlreadyExists);
    attest(&server.remote(None), "join_token", b"my-token.1", &csr())
        .await
        .unwrap();
    let agent_id = id("/spire/agent/join_token/my-token.1");
    let snapshot = server.world.committer.snapshot();
    let alias = snapshot.entries_of_parent(&agent_id).next().unwrap().clone();
    assert_eq!(alias.spec.spiffe_id, id("/node/one"));
    let selectors: Vec<_> = alias.spec.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, ["spiffe_id:spiffe://td/spire/agent/join_token/my-token.1"]);
    // Evicting the agent takes the alias along (SPIRE 1.15.2).
    server
        .admin()
        .agent()
        .delete_agent(DeleteAgentRequest {
            id: Some((&agent_id).into()),
        })
        .await
        .unwrap();
    assert_eq!(server.world.committer.snapshot().entry_count(), 0);
}

#[tokio::test]
async fn unfit_tokens_are_refused_and_nothing_changes() {
    let server = Server::new().await;
    let before = server.done().await;
    let with = |change: fn(&mut CreateJoinTokenRequest)| {
        let mut request = wanted(60);
        change(&mut request);
        request
    };
    for request in [
        wanted(0),
        wanted(-1),
        wanted(86_401),
        with(|request| request.token = "a/b".into()),
        with(|request| request.token = "..".into()),
        with(|request| request.token = "t".repeat(256)),
        with(|request| request.agent_id = wire_id("/spire/agent/x/y")),
        with(|request| {
            request.agent_id = Some(types::Spiffeid {
                trust_domain: "other".into(),
                path: "/x".into(),
            })
        }),
        with(|request| request.agent_id = Some(types::Spiffeid::default())),
    ] {
        assert_eq!(
            code(token(&server, request.clone()).await),
            Code::InvalidArgument,
            "{request:?}"
        );
    }
    assert_eq!(server.done().await, before);
}

// The system knows the hash only.
#[tokio::test]
async fn a_token_is_in_no_record_before_it_is_used() {
    let server = Server::new().await;
    let with_alias = CreateJoinTokenRequest {
        agent_id: wire_id("/node/one"),
        ..wanted(600)
    };
    for request in [wanted(600), with_alias] {
        let value = token(&server, request).await.unwrap().value;
        let records = format!("{:?}", server.world.log());
        assert!(records.contains("token.created") && !records.contains(&value));
    }
    let entries = mayfly_proto::spire::server::entry::ListEntriesRequest::default();
    let listed = server.local(VIEWER).entry().list_entries(entries).await.unwrap();
    assert!(
        listed.into_inner().entries.is_empty(),
        "its agent's ID would tell the token"
    );
}

#[tokio::test]
async fn a_bad_request_burns_no_token() {
    let server = Server::new().await;
    let value = token(&server, wanted(600)).await.unwrap().value;
    let before = server.done().await;
    let caller = server.remote(None);
    let long = vec![0x30; 4097];
    for bad in [&b"no csr"[..], &long] {
        assert_eq!(
            code(attest(&caller, "join_token", value.as_bytes(), bad).await),
            Code::InvalidArgument
        );
    }
    assert_eq!(server.done().await, before);
    attest(&caller, "join_token", value.as_bytes(), &csr()).await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_over_or_never_was_makes_no_agent() {
    let server = Server::new().await;
    let expired = token(&server, wanted(10)).await.unwrap().value;
    server.world.clock.advance(Duration::from_secs(10));
    for value in [expired.as_str(), "never-there"] {
        let refused = attest(&server.remote(None), "join_token", value.as_bytes(), &csr())
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), "join token does not exist or has already been used");
    }
    assert_eq!(server.world.committer.snapshot().agent_count(), 0);
    assert!(server.world.logged("agent.attested").is_empty());
}
