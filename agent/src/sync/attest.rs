//! Node attestation and renewal: how the agent gets its own X509-SVID.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::is_agent_id;
use mayfly_node_attest::AgentError;
use mayfly_proto::spire::server::agent::agent_client::AgentClient;
use mayfly_proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, RenewAgentRequest, attest_agent_request, attest_agent_response,
};
use mayfly_proto::spire::types;
use mayfly_proto::status::Reason;
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::call::{self, CALL_TIMEOUT, CallError};
use super::connection::Connector;
use super::evidence::Evidence;
use super::identity::{Identity, IdentityError, OwnKey};

const ATTEST: &str = "AttestAgent";
const RENEW: &str = "RenewAgent";
/// Questions that a server may ask; no method needs more than one.
const MAX_CHALLENGES: usize = 8;

/// Why the agent has no (new) SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// What would prove the node cannot be used.
    #[error("cannot prove this node by `{attestor}`")]
    Evidence {
        /// The node attestor.
        attestor: &'static str,
        /// Why.
        source: AgentError,
    },
    /// The server refused, or is away.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was issued cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Proves this node to the server and gets an SVID for a new key. Shows no certificate.
///
/// # Errors
/// See [`AttestError`].
///
/// # Cancel safety
/// Safe for us; the server may have used up one-time evidence.
pub(super) async fn attest(connector: &Connector, evidence: &Evidence) -> Result<Arc<Identity>, AttestError> {
    let refused = |source| AttestError::Evidence {
        attestor: evidence.name(),
        source,
    };
    let key = OwnKey::generate()?;
    let payload = evidence.payload().await.map_err(refused)?;
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: evidence.name().to_owned(),
            payload: payload.to_vec(),
        }),
        params: Some(AgentX509svidParams { csr: key.csr_der()? }),
    };
    // One: the server waits for the answer before it asks again.
    let (requests, outgoing) = mpsc::channel(1);
    let ended = || CallError::new(ATTEST, Status::unavailable("the server ended the attestation"));
    let send = async |step| {
        let request = AttestAgentRequest { step: Some(step) };
        requests.send(request).await.map_err(|_| ended())
    };
    send(attest_agent_request::Step::Params(params)).await?;
    let mut client = AgentClient::new(connector.anonymous());
    let mut responses = call::unary(ATTEST, client.attest_agent(ReceiverStream::new(outgoing))).await?;

    for _ in 0..=MAX_CHALLENGES {
        let response = tokio::time::timeout(CALL_TIMEOUT, responses.message())
            .await
            .map_err(|_| CallError::new(ATTEST, Status::deadline_exceeded("the server did not go on")))?
            .map_err(|status| CallError::new(ATTEST, status))?
            .ok_or_else(ended)?;
        match response.step {
            Some(attest_agent_response::Step::Challenge(challenge)) => {
                let answer = evidence.answer(challenge).await.map_err(refused)?;
                send(attest_agent_request::Step::ChallengeResponse(answer)).await?;
            }
            Some(attest_agent_response::Step::Result(result)) => {
                return joined(connector, ATTEST, key, result.svid, result.reattestable);
            }
            None => break,
        }
    }
    Err(CallError::malformed(ATTEST, "neither a result nor a question that makes sense").into())
}

/// Gets an SVID for a new key in exchange for the one that `channel` shows.
///
/// # Errors
/// See [`AttestError`].
///
/// # Cancel safety
/// Safe: the old SVID stays good until the new one is used.
pub(super) async fn renew(
    connector: &Connector,
    channel: Channel,
    current: &Identity,
) -> Result<Arc<Identity>, AttestError> {
    let key = OwnKey::generate()?;
    let request = RenewAgentRequest {
        params: Some(AgentX509svidParams { csr: key.csr_der()? }),
    };
    let response = call::unary(RENEW, AgentClient::new(channel).renew_agent(request)).await?;
    joined(connector, RENEW, key, response.svid, current.reattestable())
}

fn joined(
    connector: &Connector,
    call: &'static str,
    key: OwnKey,
    svid: Option<types::X509svid>,
    reattestable: bool,
) -> Result<Arc<Identity>, AttestError> {
    let chain = svid.map(|svid| svid.cert_chain).unwrap_or_default();
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let identity = Identity::new(key, chain, reattestable)?;
    let id = identity.svid().spiffe_id();
    if !is_agent_id(id) || !id.is_member_of(connector.trust_domain()) {
        return Err(CallError::malformed(call, format!("`{id}` is not the ID of an agent here")).into());
    }
    Ok(identity)
}

// === impl AttestError ===

impl AttestError {
    /// Why the server refused this agent, if it said so.
    pub fn refusal(&self) -> Option<Reason> {
        match self {
            Self::Call(error) => error.refusal(),
            _ => None,
        }
    }

    /// How long the server wants us to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether trying the same again cannot help until somebody changed something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Call(error) => error.is_permanent(),
            Self::Evidence { .. } => true,
            Self::Identity(_) => false,
        }
    }

    /// Whether we refused the server's certificate.
    pub fn server_not_believed(&self) -> bool {
        matches!(self, Self::Call(error) if error.server_not_believed())
    }
}
