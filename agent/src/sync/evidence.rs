//! What proves the node: the agent half of a node attestor, and what can be said about the files that it reads.
//!
//! Files are read at each attestation, so that a new token or certificate is used without a restart. Secrets have no
//! other way in: no value in the config, no command line, no environment.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use mayfly_node_attest::{AgentError, AgentHalf};
use zeroize::Zeroizing;

/// The agent half of a node attestor, with its files.
#[derive(Clone, Debug)]
pub struct Evidence {
    half: Arc<dyn AgentHalf>,
    files: Vec<PathBuf>,
    remedy: String,
}

/// One state of the files, as far as their metadata tell; `None` where there is no such file.
pub(super) type Stamp = Vec<Option<(u64, i64, i64, u64)>>;

// === impl Evidence ===

impl Evidence {
    /// What `half` proves with `files`. `remedy` tells an operator what to do when the server does not accept it.
    pub fn new(half: Box<dyn AgentHalf>, files: Vec<PathBuf>, remedy: String) -> Self {
        Self {
            half: half.into(),
            files,
            remedy,
        }
    }

    /// The attestor's name, as the server knows it.
    pub fn name(&self) -> &'static str {
        self.half.name()
    }

    /// What an operator can do when the server does not accept the evidence.
    pub(super) fn remedy(&self) -> &str {
        &self.remedy
    }

    /// Another value when the evidence on disk was replaced: reason enough to try again at once.
    pub(super) fn stamp(&self) -> Stamp {
        let stamp = |meta: fs::Metadata| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len());
        self.files
            .iter()
            .map(|path| fs::metadata(path).ok().map(stamp))
            .collect()
    }

    /// What opens the attestation.
    ///
    /// # Errors
    /// The agent does not have what it needs.
    pub(super) async fn payload(&self) -> Result<Zeroizing<Vec<u8>>, AgentError> {
        let half = Arc::clone(&self.half);
        self.blocking(move || half.payload()).await
    }

    /// The answer to a question of the server.
    ///
    /// # Errors
    /// The method does not know the question, or the agent does not have what it needs.
    pub(super) async fn answer(&self, challenge: Vec<u8>) -> Result<Vec<u8>, AgentError> {
        let half = Arc::clone(&self.half);
        self.blocking(move || half.answer(&challenge)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down; nobody will look at this.
                Err(_) => Err(AgentError::Sign { name: self.half.name() }),
            },
        }
    }
}
