//! A new agent, or a known one again: the node shows what it is, and gets an SVID in the same commit that records it.
//!
//! ```text
//!   payload, CSR ─▶ CSR is good? ─▶ attestor (challenges) ─▶ banned? ─▶ one commit: token used, agent, intent ─▶ sign
//! ```
//!
//! A token is used up by the commit that admits its agent and by nothing before it, so that a bad request burns none.
//! Not here: how often one may try (`api/limits`), the stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mayfly_ca::{CsrError, parse_csr};
use mayfly_model::{Actor, Agent, Change, Conflict, ErrorKind, TokenHash};
use mayfly_node_attest::{Attested, Challenger, ServerHalf};
use mayfly_svid::{Timestamp, X509Svid};
use tracing::info;

use super::caller::AgentRefusal;
use super::issue::{Issuance, IssueError};
use crate::commit::{CommitError, Committer};

/// The node attestors that are configured, by name. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Attestors(Arc<BTreeMap<&'static str, Box<dyn ServerHalf>>>);

impl Attestors {
    /// These; of two with one name the last one.
    pub fn new(halves: impl IntoIterator<Item = Box<dyn ServerHalf>>) -> Self {
        Self(Arc::new(halves.into_iter().map(|half| (half.name(), half)).collect()))
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

/// What a node sends to begin with.
#[derive(Debug)]
pub struct AttestRequest {
    /// Name of the method.
    pub method: String,
    /// What the method sends first.
    pub payload: zeroize::Zeroizing<Vec<u8>>,
    /// PKCS#10, DER.
    pub csr_der: Vec<u8>,
}

/// Why a node got no SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// Something is missing or out of order.
    #[error("malformed request: {0}")]
    Request(&'static str),
    /// The first message is too large, or is none.
    #[error("the first message cannot be read: {0}")]
    Unreadable(String),
    /// The method is not configured here.
    #[error("this server has no node attestor `{method}`; it has: {configured}")]
    UnknownMethod {
        /// What was asked for, cut to 64 characters.
        method: String,
        /// What there is.
        configured: String,
    },
    /// The certification request is not acceptable.
    #[error("the CSR is not acceptable")]
    Csr(#[from] CsrError),
    /// The method does not vouch for the node.
    #[error(transparent)]
    Attest(#[from] mayfly_node_attest::AttestError),
    /// The agent is banned.
    #[error("agent is banned")]
    Banned,
    /// Nothing was signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// It took too long.
    #[error("attestation took longer than {} s", .0.as_secs())]
    TooSlow(Duration),
    /// Too many at a time, or too many from this address.
    #[error("too many attestations; come back later")]
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
}

/// What an attested node gets.
#[derive(Debug)]
pub struct Admitted {
    /// Its SVID.
    pub svid: X509Svid,
    /// Whether it attests again when that ends, or renews.
    pub reattestable: bool,
}

/// Attests the node at the other end of `challenger` and issues its SVID.
///
/// # Errors
/// See [`AttestError`]; nothing was changed, and a token can be used again.
///
/// # Cancel safety
/// Dropping the future may lose an SVID that was issued; the agent is recorded then, and its token is used.
pub async fn attest(
    committer: &Committer,
    issuance: &Issuance,
    attestors: &Attestors,
    actor: &Actor,
    now: Timestamp,
    request: AttestRequest,
    challenger: &mut dyn Challenger,
) -> Result<Admitted, AttestError> {
    let AttestRequest {
        method,
        payload,
        csr_der,
    } = request;
    let attestor = attestors
        .0
        .get(method.as_str())
        .ok_or_else(|| AttestError::UnknownMethod {
            method: method.chars().filter(|c| !c.is_control()).take(64).collect(),
            configured: attestors.names().collect::<Vec<_>>().join(", "),
        })?;
    parse_csr(&csr_der)?;
    let attested = attestor.attest(&payload, challenger, now).await?;
    let id = attested.agent_id.clone();
    // The guard of the commit decides; this spares the rest of the work.
    if committer.snapshot().agent(&id).is_some_and(|agent| agent.banned) {
        return Err(AttestError::Banned);
    }
    let reattestable = attested.reattestable;
    let record = |serial: &mayfly_svid::Serial, expires_at| {
        let (agent, token) = agent_record(attested, attestor.name(), serial.clone(), expires_at, now);
        Change::AgentAttest {
            agent: Box::new(agent),
            token,
        }
    };
    let svid = issuance
        .for_agent(actor, &id, &csr_der, record)
        .await
        .map_err(|error| match error {
            IssueError::Commit(CommitError::Conflict(Conflict::AgentBanned)) => AttestError::Banned,
            error => AttestError::Issue(error),
        })?;
    info!(agent_id = %id, attestor = attestor.name(), origin = actor.origin, reattestable, "agent attested");
    Ok(Admitted { svid, reattestable })
}

fn agent_record(
    attested: Attested,
    method: &str,
    serial: mayfly_svid::Serial,
    expires_at: Timestamp,
    now: Timestamp,
) -> (Agent, Option<TokenHash>) {
    let Attested {
        agent_id,
        selectors,
        reattestable,
        one_time,
    } = attested;
    let agent = Agent {
        id: agent_id,
        attestation_type: method.into(),
        serial: Some(serial),
        expires_at,
        renewed: None,
        selectors: selectors.into_iter().collect(),
        banned: false,
        can_reattest: reattestable,
        version: String::new(),
        attested_at: now,
    };
    (agent, one_time)
}

impl AttestError {
    /// What it means for the node.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Request(_) | Self::Unreadable(_) | Self::Csr(_) => ErrorKind::InvalidArgument,
            Self::UnknownMethod { .. } => ErrorKind::FailedPrecondition,
            Self::Attest(error) => error.kind(),
            Self::Banned => ErrorKind::PermissionDenied,
            Self::Issue(error) => error.kind(),
            Self::TooSlow(_) => ErrorKind::DeadlineExceeded,
            Self::Busy { .. } => ErrorKind::Unavailable,
        }
    }

    /// What the node may read.
    pub fn public_message(&self) -> String {
        match self {
            Self::Csr(source) => format!("{self}: {source}"),
            Self::Issue(error) => error.public_message(),
            _ => self.to_string(),
        }
    }

    /// On what it acts.
    pub fn refusal(&self) -> Option<AgentRefusal> {
        matches!(self, Self::Banned).then_some(AgentRefusal::Banned)
    }

    /// When to come back.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}
