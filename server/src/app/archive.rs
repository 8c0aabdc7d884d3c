//! What is durable and not in memory: the log, what it commits to, old versions of definitions. Read on connections of
//! their own, beside commits.

use std::path::PathBuf;
use std::sync::Arc;

use mayfly_model::ErrorKind;
use mayfly_store::{ArchiveReader, StoreError};
use tokio::sync::Semaphore;

/// Questions at a time; further ones wait.
const READERS: usize = 4;

/// Asks the archive. Clones share the bound on questions.
#[derive(Clone, Debug)]
pub struct Archive {
    path: PathBuf,
    readers: Arc<Semaphore>,
}

/// The archive did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The database cannot be read.
    #[error("the log cannot be read: {}", .0.remedy())]
    Store(#[from] StoreError),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopped,
}

impl ArchiveError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}

impl Archive {
    /// Of the database at `path`.
    pub fn new(path: PathBuf) -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        Self { path, readers }
    }

    /// A reader for somebody who keeps it.
    ///
    /// # Errors
    /// The database cannot be opened.
    pub fn reader(&self) -> Result<ArchiveReader, StoreError> {
        ArchiveReader::open(&self.path)
    }

    /// Where the database is.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Asks a question, on a thread that may block. It sees what was committed before.
    ///
    /// # Errors
    /// As `question` says, or the server is stopping.
    ///
    /// # Cancel safety
    /// Safe: it only reads; the question may go on for nobody.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut ArchiveReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let permit = self
            .readers
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ArchiveError::Stopped)?;
        let path = self.path.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            ArchiveReader::open(&path).and_then(|mut reader| question(&mut reader))
        });
        Ok(answer.await.map_err(|_| ArchiveError::Stopped)??)
    }
}
