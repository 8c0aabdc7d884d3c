//! Agents after they attested: looked through, banned, evicted, renewed; and the tokens that let new ones in.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use mayfly_model::{
    Actor, Agent, Change, Entry, EntryError, ErrorKind, MatchBy, Selectors, Step, TokenHash, agent_path,
};
use mayfly_svid::{Serial, SpiffeId, Timestamp, TrustDomain, X509Svid};
use zeroize::Zeroizing;

use super::caller::{AgentRefusal, CallerError};
use super::issue::{Issuance, IssueError};
use crate::commit::{CommitError, Committer, Snapshot};

/// The longest version that an agent may report, in characters.
const VERSION_MAX: usize = 255;
/// The longest token that an operator may choose, in bytes.
const TOKEN_MAX: usize = 255;
/// Random octets of a token that we make.
const TOKEN_BYTES: usize = 20;

/// Why an agent was not looked up, changed or renewed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// There is none with this ID.
    #[error("agent not found")]
    NotFound,
    /// The version is too long.
    #[error("the agent version has {chars} characters, at most {VERSION_MAX} are allowed")]
    VersionTooLong {
        /// How many it has.
        chars: usize,
    },
    /// The version would do things to an operator's terminal.
    #[error("the agent version has control characters")]
    VersionText,
    /// It may not, now.
    #[error(transparent)]
    Refused(#[from] CallerError),
    /// No SVID for it.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The commit refused it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why a join token was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It would live for ever, or never.
    #[error("a join token lives 1 s to {max} s; this says {seconds} s")]
    Ttl {
        /// What was asked for.
        seconds: i64,
        /// The longest allowed.
        max: u64,
    },
    /// Not a text that can stand in a SPIFFE ID.
    #[error("a chosen token has 1 to 255 of the characters A-Z a-z 0-9 . _ -, and is not `.` or `..`")]
    Text,
    /// The name for the token's agent is not one that entries may give.
    #[error("agent_id is refused")]
    Alias(#[from] EntryError),
    /// The system has no random numbers.
    #[error("no random numbers")]
    Random,
    /// The commit refused it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Which agents a list or a count is about; all conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    /// Vouched for by this node attestor.
    pub attestation_type: Option<String>,
    /// Compares with these selectors.
    pub selectors: Option<(Selectors, MatchBy)>,
    /// Is banned, or is not.
    pub banned: Option<bool>,
    /// Can attest again, or cannot.
    pub can_reattest: Option<bool>,
    /// Its SVID ends before this instant.
    pub expires_before: Option<Timestamp>,
}

/// A token to be admitted.
#[derive(Debug)]
pub struct NewToken {
    /// Lifetime in seconds, as asked for.
    pub ttl_seconds: i64,
    /// Chosen by the operator; random if none.
    pub token: Option<Zeroizing<String>>,
    /// Another name for the token's agent.
    pub alias: Option<SpiffeId>,
}

/// A token that was admitted. It is nowhere else: the system keeps its hash.
#[derive(Debug)]
pub struct MadeToken {
    /// The token; it goes to the operator and nowhere else.
    pub token: Zeroizing<String>,
    /// Not usable from this instant on.
    pub expires_at: Timestamp,
}

/// The agent with this ID.
///
/// # Errors
/// There is none.
pub fn get<'s>(snapshot: &'s Snapshot, id: &SpiffeId) -> Result<&'s Arc<Agent>, AgentError> {
    snapshot.agent(id).ok_or(AgentError::NotFound)
}

/// Forgets an agent; it may attest anew.
///
/// # Errors
/// There is none, or it could not be stored.
///
/// # Cancel safety
/// Dropping the future does not undo what was handed to the committer; the same for all below.
pub async fn evict(committer: &Committer, actor: &Actor, now: Timestamp, id: SpiffeId) -> Result<(), AgentError> {
    commit(committer, actor, now, Change::AgentDelete(id)).await
}

/// Takes everything from an agent and keeps it out until it is evicted.
///
/// # Errors
/// There is none, or it could not be stored.
pub async fn ban(committer: &Committer, actor: &Actor, now: Timestamp, id: SpiffeId) -> Result<(), AgentError> {
    commit(committer, actor, now, Change::AgentBan(id)).await
}

/// Keeps the version that an agent reports; what is known already costs no commit.
///
/// # Errors
/// It is too long or has control characters, or could not be stored.
pub async fn report(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    agent: &Agent,
    version: String,
) -> Result<(), AgentError> {
    let chars = version.chars().count();
    if chars > VERSION_MAX {
        return Err(AgentError::VersionTooLong { chars });
    }
    if version.chars().any(char::is_control) {
        return Err(AgentError::VersionText);
    }
    if version.is_empty() || agent.version == version {
        return Ok(());
    }
    commit(
        committer,
        actor,
        now,
        Change::AgentReport {
            id: agent.id.clone(),
            version,
        },
    )
    .await
}

/// Gives an agent a new SVID beside the one that it showed, whose serial is `by`; the old one ends when the new one is
/// first seen.
///
/// # Errors
/// The agent has to attest instead, or its request is refused, or nothing can be signed.
pub async fn renew(
    issuance: &Issuance,
    actor: &Actor,
    agent: &Agent,
    by: Serial,
    csr_der: &[u8],
) -> Result<X509Svid, AgentError> {
    if agent.can_reattest {
        return Err(CallerError::Agent {
            id: agent.id.clone(),
            refusal: AgentRefusal::MustReattest,
        }
        .into());
    }
    let id = agent.id.clone();
    let record = |serial: &Serial, expires_at| Change::AgentRenew {
        id,
        by,
        serial: serial.clone(),
        expires_at,
    };
    Ok(issuance.for_agent(actor, &agent.id, csr_der, record).await?)
}

/// Admits a join token of at most `max_ttl`, and another name for the agent that will use it if one is wanted.
///
/// # Errors
/// The token is unfit or there already, the alias is refused, or it could not be stored; nothing is kept then.
pub async fn create_token(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    max_ttl: Duration,
    wanted: NewToken,
) -> Result<MadeToken, TokenError> {
    let NewToken {
        ttl_seconds,
        token,
        alias,
    } = wanted;
    let bad_ttl = || TokenError::Ttl {
        seconds: ttl_seconds,
        max: max_ttl.as_secs(),
    };
    let ttl = u64::try_from(ttl_seconds)
        .ok()
        .filter(|ttl| (1..=max_ttl.as_secs()).contains(ttl))
        .ok_or_else(bad_ttl)?;
    let expires_at = now.plus(Duration::from_secs(ttl));
    let token = match token {
        Some(token) if is_token_text(&token) => token,
        Some(_) => return Err(TokenError::Text),
        None => random_token()?,
    };
    if let Some(name) = &alias {
        check_alias(committer.snapshot().trust_domain(), &token, name)?;
    }
    let change = Change::TokenCreate {
        hash: TokenHash::of(&token),
        expires_at,
        alias,
    };
    committer
        .commit(Step {
            actor: actor.clone(),
            time: now,
            change,
        })
        .await?;
    Ok(MadeToken { token, expires_at })
}

/// Whether the entry that the token's agent will bring with it can be one.
fn check_alias(trust_domain: &TrustDomain, token: &str, name: &SpiffeId) -> Result<(), TokenError> {
    let agent_id = trust_domain
        .with_path(&agent_path("join_token", token))
        .map_err(|_| TokenError::Text)?;
    let alias = Entry::alias_by_token(&TokenHash::of(token), name.clone(), &agent_id, Timestamp::default());
    Ok(alias.map_err(|_| TokenError::Text)?.spec.check(trust_domain)?)
}

fn is_token_text(token: &str) -> bool {
    (1..=TOKEN_MAX).contains(&token.len())
        && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && token != "."
        && token != ".."
}

fn random_token() -> Result<Zeroizing<String>, TokenError> {
    let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
    SystemRandom::new()
        .fill(bytes.as_mut_slice())
        .map_err(|_| TokenError::Random)?;
    Ok(Zeroizing::new(hex::encode(bytes.as_slice())))
}

async fn commit(committer: &Committer, actor: &Actor, now: Timestamp, change: Change) -> Result<(), AgentError> {
    committer
        .commit(Step {
            actor: actor.clone(),
            time: now,
            change,
        })
        .await?;
    Ok(())
}

impl AgentFilter {
    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        let Self {
            attestation_type,
            selectors,
            banned,
            can_reattest,
            expires_before,
        } = self;
        attestation_type.is_none()
            && selectors.is_none()
            && banned.is_none()
            && can_reattest.is_none()
            && expires_before.is_none()
    }

    /// Whether `agent` passes.
    pub fn matches(&self, agent: &Agent) -> bool {
        self.attestation_type
            .as_ref()
            .is_none_or(|name| agent.attestation_type == *name)
            && self
                .selectors
                .as_ref()
                .is_none_or(|(wanted, by)| agent.selectors.matches(wanted, *by))
            && self.banned.is_none_or(|banned| agent.banned == banned)
            && self.can_reattest.is_none_or(|can| agent.can_reattest == can)
            && self.expires_before.is_none_or(|end| agent.expires_at < end)
    }
}

impl AgentError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::VersionTooLong { .. } | Self::VersionText => ErrorKind::InvalidArgument,
            Self::Refused(error) => error.kind(),
            Self::Issue(error) => error.kind(),
            Self::Commit(error) => error.kind(),
        }
    }
}

impl TokenError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Ttl { .. } | Self::Text | Self::Alias(_) => ErrorKind::InvalidArgument,
            Self::Random => ErrorKind::Internal,
            Self::Commit(error) => error.kind(),
        }
    }
}
