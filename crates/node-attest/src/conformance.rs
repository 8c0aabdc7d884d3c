//! What every method must do. For tests: a broken promise panics.

use mayfly_svid::{Timestamp, TrustDomain};

use crate::{AgentHalf, AttestError, Attested, Challenger, ExchangeError, ServerHalf};

/// Runs one attestation in memory: the agent's half against the server's.
///
/// # Errors
/// As [`ServerHalf::attest`].
///
/// # Panics
/// If the agent has no payload.
pub async fn attest(agent: &dyn AgentHalf, server: &dyn ServerHalf, now: Timestamp) -> Result<Attested, AttestError> {
    let payload = agent.payload().expect("the agent has a payload");
    server.attest(&payload, &mut Direct(agent), now).await
}

/// Answers challenges with the agent's half, without a network.
#[derive(Debug)]
pub struct Direct<'a>(
    /// Who answers.
    pub &'a dyn AgentHalf,
);

#[async_trait::async_trait]
impl Challenger for Direct<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, ExchangeError> {
        self.0
            .answer(&challenge)
            .map_err(|error| ExchangeError(error.to_string()))
    }
}

/// The two halves understand each other, the same node gets the same ID, and foreign bytes are refused.
///
/// # Panics
/// If a half breaks its promise.
pub async fn check(agent: &dyn AgentHalf, server: &dyn ServerHalf, trust_domain: &TrustDomain, now: Timestamp) {
    assert_eq!(agent.name(), server.name());
    let first = attest(agent, server, now)
        .await
        .expect("the halves understand each other");
    let again = attest(agent, server, now)
        .await
        .expect("attesting changes nothing by itself");
    assert_eq!(first, again, "the same node is the same agent");

    assert!(first.agent_id.is_member_of(trust_domain));
    let path = first.agent_id.path();
    let prefix = format!("/spire/agent/{}/", server.name());
    assert!(
        path.len() > prefix.len() && path.starts_with(&prefix),
        "{path} is not below {prefix}"
    );
    assert!(
        first.selectors.iter().all(|selector| selector.kind() == server.name()),
        "{:?}",
        first.selectors
    );
    assert_eq!(
        first.one_time.is_some(),
        !first.reattestable,
        "what can be done once only cannot be done again"
    );

    for payload in [
        &b""[..],
        b"\0",
        b"{",
        b"{}",
        b"[]",
        "é".as_bytes(),
        &vec![b'a'; 1 << 20],
    ] {
        let result = server.attest(payload, &mut Direct(agent), now).await;
        assert!(
            result.is_err(),
            "{} bytes of something else were accepted",
            payload.len()
        );
    }
    assert!(!format!("{agent:?}").contains("PRIVATE"), "Debug shows a key");
}
