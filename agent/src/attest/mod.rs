//! Who a local process is: its peer credentials ([`peer`]) and what attestors say of it, as selectors.
//!
//! An attestor owns one selector type and states only what it has seen of the process while that lived. What it cannot
//! see it leaves out: an entry matches only if all its selectors are there, so a missing one narrows what a process
//! may get and never widens it.
//!
//! ```text
//! UnixStream ──▶ PeerProcess ──▶ Attestors ─┬─▶ unix ─┐
//!                    ▲                      └─▶ …     ├─▶ BTreeSet<Selector>
//!                    └── the same before, and after ──┘
//! ```
//!
//! To add one: a file `<name>.rs` here, its `mod` line, its row in [`BUILTINS`], and `docs/attestor-<name>.md`.
//!
//! Not here: which entries match (`view`), when attestation is repeated (`api`).

mod ancestry;
pub mod peer;
pub mod proc_text;
mod tracer;
pub mod unix;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use mayfly_model::{ErrorKind, Selector, SelectorError};
use mayfly_runtime::{Chain, config::Section};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::quiet::Quiet;

pub use ancestry::Ancestor;
pub use peer::{PeerError, PeerProcess};
pub use tracer::Tracer;

/// How long one attestor may take before its selectors are done without.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Describes processes by selectors of one type.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync {
    /// The selector type it owns, e.g. `unix`; also its config key and metric label.
    fn name(&self) -> &'static str;

    /// Describes the process behind `peer`; an empty set means "not one of mine".
    ///
    /// # Errors
    /// The process could not be inspected. Its selectors are then absent, which narrows what it may get and never
    /// widens it: an entry matches only if all its selectors are present.
    ///
    /// # Cancel safety
    /// Cancel safe: it may be dropped when it takes too long.
    async fn attest(&self, peer: &PeerProcess) -> Result<BTreeSet<Selector>, AttestError>;
}

/// Why a process could not be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The process could not be inspected, or is not the same any more.
    #[error("cannot inspect the process")]
    Peer {
        /// Why.
        source: PeerError,
    },
    /// It is in more groups than are looked at.
    #[error("the process has {count} supplementary groups, more than {limit}")]
    TooManyGroups {
        /// How many.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// What was found does not make a selector.
    #[error("cannot make a selector")]
    Selector {
        /// Why.
        source: SelectorError,
    },
    /// The machine is too busy, or the program too large.
    #[error("the program could not be hashed within {limit:?}: lower `workload_size_limit` if it is too large")]
    TooSlow {
        /// What was allowed.
        limit: Duration,
    },
    /// A thread that did the work is gone.
    #[error("the attestor's thread failed")]
    Thread,
    /// There are attestors, and each failed.
    #[error("none of the {count} workload attestors could describe the process")]
    AllFailed {
        /// How many there are.
        count: usize,
    },
}

impl AttestError {
    /// What it means for the caller: mostly to come again.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Peer { source } => source.kind(),
            Self::TooManyGroups { .. } => ErrorKind::ResourceExhausted,
            Self::Selector { .. } | Self::Thread => ErrorKind::Internal,
            Self::AllFailed { .. } | Self::TooSlow { .. } => ErrorKind::Unavailable,
        }
    }
}

impl From<PeerError> for AttestError {
    fn from(source: PeerError) -> Self {
        Self::Peer { source }
    }
}

impl From<SelectorError> for AttestError {
    fn from(source: SelectorError) -> Self {
        Self::Selector { source }
    }
}

/// An attestor that comes with the agent.
#[derive(Debug)]
pub struct Builtin {
    /// Its name, which is that of its section too.
    pub name: &'static str,
    /// Whether it runs if its section is absent.
    pub by_default: bool,
    /// Makes it from its section, which notes what is wrong with its settings.
    pub build: fn(&Section<'_>) -> Box<dyn WorkloadAttestor>,
}

/// All attestors there are.
pub const BUILTINS: &[Builtin] = &[Builtin {
    name: unix::NAME,
    by_default: true,
    build: unix::build,
}];

/// The attestors in use.
pub struct Attestors {
    attestors: Vec<Box<dyn WorkloadAttestor>>,
    quiet: Quiet,
}

impl Attestors {
    /// Those whose sections are written below `section` and those that run by default, but for the ones with
    /// `enabled = false`.
    #[must_use]
    pub fn from_config(section: &Section<'_>) -> Self {
        let in_use = |builtin: &&Builtin| {
            let section = section.section(builtin.name);
            section.bool("enabled").or(builtin.by_default || section.exists())
        };
        let attestors = BUILTINS
            .iter()
            .filter(in_use)
            .map(|builtin| (builtin.build)(&section.section(builtin.name)));
        Self::new(attestors.collect())
    }

    /// These.
    #[must_use]
    pub fn new(attestors: Vec<Box<dyn WorkloadAttestor>>) -> Self {
        Self {
            attestors,
            quiet: Quiet::default(),
        }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.attestors.iter().map(|attestor| attestor.name())
    }

    /// What all attestors together say of the process. One that fails is left out, with a line in the log.
    ///
    /// # Errors
    /// The process is not the same any more, or every attestor failed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn attest(&self, peer: &PeerProcess) -> Result<BTreeSet<Selector>, AttestError> {
        let attest = async |attestor: &dyn WorkloadAttestor| {
            let (name, pid) = (attestor.name(), peer.pid());
            match timeout(TIME_LIMIT, attestor.attest(peer)).await {
                Ok(Ok(mut selectors)) => {
                    let count = selectors.len();
                    selectors.retain(|selector| selector.kind() == name);
                    if selectors.len() < count {
                        warn!(
                            attestor = name,
                            "selectors of a type that the attestor does not own are left out"
                        );
                    }
                    return Some(selectors);
                }
                // That a process goes away is no trouble of ours.
                Ok(Err(AttestError::Peer {
                    source: error @ (PeerError::Exited { .. } | PeerError::Changed { .. }),
                })) => {
                    debug!(attestor = name, peer_pid = pid, error = %Chain(&error), "process left attestation");
                }
                Ok(Err(error)) => self.quiet.about(pid, peer.uid(), |left_out| {
                    let error = Chain(&error);
                    warn!(attestor = name, peer_pid = pid, %error, left_out, "workload attestor failed");
                }),
                Err(_) => self.quiet.about(pid, peer.uid(), |left_out| {
                    warn!(attestor = name, peer_pid = pid, limit = ?TIME_LIMIT, left_out, "workload attestor timed out");
                }),
            }
            None
        };
        let results = join_all(self.attestors.iter().map(|attestor| attest(attestor.as_ref()))).await;
        // Each attestor checked its own reading; together they describe one process only if it is still that one.
        peer.ensure_unchanged()?;
        if !results.is_empty() && results.iter().all(Option::is_none) {
            return Err(AttestError::AllFailed { count: results.len() });
        }
        Ok(results.into_iter().flatten().flatten().collect())
    }
}

impl std::fmt::Debug for Attestors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
