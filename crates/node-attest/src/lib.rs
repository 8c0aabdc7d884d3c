//! How a node shows what it is: one file per method, with the agent's half and the server's half over one payload type.
//!
//! The agent sends a payload, answers challenges, and gets an ID below `/spire/agent/<method>/`. Names, payloads and
//! IDs are SPIRE's, so that either side may be SPIRE's own. Everything that a server reads here comes from a
//! stranger: sizes are checked before anything is parsed, and nothing is believed that was not verified.
//!
//! Not here: single use of tokens (a guard in the server's commit; [`Attested::one_time`] says what to consume), the
//! CSR, the stream. Start at [`ServerHalf`] and [`AgentHalf`]; the methods are in [`BUILTINS`].

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use mayfly_model::{ErrorKind, Selector, TokenHash, agent_path};
use mayfly_runtime::files::FileError;
use mayfly_svid::{IdError, SpiffeId, Timestamp, TrustDomain};
use zeroize::Zeroizing;

pub mod conformance;
mod join_token;
mod x509pop;

/// The methods, by name.
pub const BUILTINS: &[Builtin] = &[join_token::BUILTIN, x509pop::BUILTIN];

/// The largest payload that a server reads: a chain of 64 KiB in base64, and some room.
pub const MAX_PAYLOAD_BYTES: usize = 128 * 1024;
/// The largest answer to a challenge that a server reads.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// One way to attest a node.
pub struct Builtin {
    /// Its name: in the configuration, on the wire, in the agent's ID, as the type of its selectors.
    pub name: &'static str,
    /// Builds the server's half from its section of the configuration. Blocks: it may read files.
    pub server: BuildServer,
    /// Builds the agent's half from its section of the configuration. Blocks: it may read files.
    pub agent: BuildAgent,
}

/// Builds the server's half of a method.
pub type BuildServer = fn(toml::Table, &Deps) -> Result<Box<dyn ServerHalf>, BuildError>;
/// Builds the agent's half of a method.
pub type BuildAgent = fn(toml::Table, &Deps) -> Result<Box<dyn AgentHalf>, BuildError>;

impl Builtin {
    /// The method of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        BUILTINS.iter().find(|builtin| builtin.name == name)
    }
}

/// What a method needs besides its section of the configuration.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The trust domain of the agents.
    pub trust_domain: TrustDomain,
    /// The folder that relative paths in the section begin at.
    pub base_dir: PathBuf,
}

/// A method cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Its section of the configuration is wrong.
    #[error("the section of node attestor `{name}` is wrong")]
    Config {
        /// Which method.
        name: &'static str,
        /// Which key, and what about it.
        source: toml::de::Error,
    },
    /// A key of its section has a value that makes no sense.
    #[error("`{key}` of node attestor `{name}`: {problem}")]
    Value {
        /// Which method.
        name: &'static str,
        /// Which key of the section.
        key: &'static str,
        /// What about it.
        problem: String,
    },
    /// A file that it names cannot be used.
    #[error("`{key}` of node attestor `{name}`")]
    File {
        /// Which method.
        name: &'static str,
        /// Which key of the section.
        key: &'static str,
        /// What about the file.
        source: FileError,
    },
}

/// What a server knows of a node after attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The agent's ID: `spiffe://<td>/spire/agent/<method>/…`.
    pub agent_id: SpiffeId,
    /// What the method found out about the node. Their type is the method's name.
    pub selectors: BTreeSet<Selector>,
    /// Whether the node can do this again when its SVID ends; otherwise it renews with the SVID that it has.
    pub reattestable: bool,
    /// What must be consumed in the same commit that admits the agent; if that fails, the attestation never happened.
    pub one_time: Option<TokenHash>,
}

/// Why a node was not attested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The payload has no or too many bytes.
    #[error("the attestation payload has {bytes} bytes, 1 to {MAX_PAYLOAD_BYTES} are accepted")]
    PayloadSize {
        /// How many it has.
        bytes: usize,
    },
    /// The answer has too many bytes.
    #[error("the answer to the challenge has {bytes} bytes, at most {MAX_ANSWER_BYTES} are accepted")]
    AnswerSize {
        /// How many it has.
        bytes: usize,
    },
    /// The payload or the answer is not what the method sends.
    #[error("the attestation data is malformed: {problem}")]
    Malformed {
        /// What is wrong with it. Never holds any of the data.
        problem: &'static str,
    },
    /// The node is not one that may attest, or did not show that it is.
    #[error("attestation is refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// No agent ID can be made of what the node presented.
    #[error("no agent ID can be made of what the node presented")]
    AgentId(#[source] IdError),
    /// The exchange ended before it was over.
    #[error("the exchange with the agent broke off")]
    Exchange(#[from] ExchangeError),
    /// No randomness for a challenge.
    #[error("no challenge could be made")]
    Random,
}

impl AttestError {
    /// What it means for the agent.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PayloadSize { .. } | Self::AnswerSize { .. } | Self::Malformed { .. } | Self::AgentId(_) => {
                ErrorKind::InvalidArgument
            }
            Self::Refused { .. } => ErrorKind::PermissionDenied,
            Self::Exchange(_) => ErrorKind::Unavailable,
            Self::Random => ErrorKind::Internal,
        }
    }
}

/// The agent did not answer a challenge.
#[derive(Debug, thiserror::Error)]
#[error("the agent did not answer the challenge: {0}")]
pub struct ExchangeError(
    /// What happened to the stream.
    pub String,
);

/// The way back to the agent during attestation.
#[async_trait]
pub trait Challenger: Send {
    /// Sends `challenge` and waits for the answer.
    ///
    /// # Errors
    /// The stream ended, or nothing came in time.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, ExchangeError>;
}

/// The server's half of a method.
#[async_trait]
pub trait ServerHalf: fmt::Debug + Send + Sync {
    /// The method's name.
    fn name(&self) -> &'static str;

    /// Finds out who sent `payload`, at the instant `now`. Changes nothing: what is good for one use is only named in
    /// [`Attested::one_time`].
    ///
    /// # Errors
    /// The node is not attested, see [`AttestError`].
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
        now: Timestamp,
    ) -> Result<Attested, AttestError>;
}

/// The agent's half of a method.
pub trait AgentHalf: fmt::Debug + Send + Sync {
    /// The method's name.
    fn name(&self) -> &'static str;

    /// What begins the exchange. Blocks: it may read files, and reads them anew each time.
    ///
    /// # Errors
    /// The agent does not have what it needs.
    fn payload(&self) -> Result<Zeroizing<Vec<u8>>, AgentError>;

    /// The answer to a challenge of the server. Blocks as [`payload`](Self::payload) does.
    ///
    /// # Errors
    /// The challenge is not one of this method, or the agent does not have what it needs.
    fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, AgentError>;
}

/// Why an agent cannot attest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A file cannot be used.
    #[error("a file of node attestor `{name}`")]
    File {
        /// Which method.
        name: &'static str,
        /// What about the file.
        source: FileError,
    },
    /// A file holds something else.
    #[error("`{path}` of node attestor `{name}`: {problem}")]
    Content {
        /// Which method.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it. Never holds any of it.
        problem: &'static str,
    },
    /// The server asks for something that this method has no answer to.
    #[error("the server's challenge is not one of node attestor `{name}`")]
    Challenge {
        /// Which method.
        name: &'static str,
    },
    /// The key did not sign.
    #[error("the key of node attestor `{name}` did not sign")]
    Sign {
        /// Which method.
        name: &'static str,
    },
}

fn check_payload_size(payload: &[u8]) -> Result<(), AttestError> {
    if payload.is_empty() || payload.len() > MAX_PAYLOAD_BYTES {
        return Err(AttestError::PayloadSize { bytes: payload.len() });
    }
    Ok(())
}

fn agent_id(trust_domain: &TrustDomain, method: &str, suffix: &str) -> Result<SpiffeId, AttestError> {
    trust_domain
        .with_path(&agent_path(method, suffix))
        .map_err(AttestError::AgentId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_page() {
        for builtin in BUILTINS {
            let page = format!("../../docs/attestor-{}.md", builtin.name.replace('_', "-"));
            let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page}: {error}"));
            assert!(
                text.contains(&format!("/spire/agent/{}/", builtin.name)),
                "{page} does not show the agent's ID"
            );
            assert!(
                text.contains("## Selectors") && text.contains("## Security"),
                "{page} lacks a section"
            );
        }
    }

    #[test]
    fn methods_are_found_by_name() {
        assert_eq!(Builtin::find("x509pop").unwrap().name, "x509pop");
        assert!(Builtin::find("sshpop").is_none());
    }
}
