//! The port towards processes: who holds a window, and whether it is still that one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use mayfly_model::Selector;

/// The selectors of a process.
pub type SelectorSet = Arc<BTreeSet<Selector>>;

/// Names one process of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// A process above another.
pub type Ancestor = ProcessKey;

/// A process that traces another: a debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracer {
    /// Its number.
    pub pid: u32,
    /// Whom it traces.
    pub traced: u32,
}

/// What became of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderEvent {
    /// It has ended. The last event.
    Exited,
    /// It is not any more who it was: another program, other users or groups. The last event.
    Changed,
    /// It could not be attested.
    Unclear,
    /// It was attested, and this holds of it.
    Selectors(SelectorSet),
}

/// Why a process is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// It has ended or is another.
    #[error("the process ended or changed")]
    Over,
    /// Too many are being looked at.
    #[error("too many processes are being attested")]
    Busy,
    /// Its attestation failed.
    #[error("the process could not be attested: {0}")]
    Unclear(String),
}

/// A process, as it was when it called.
#[async_trait]
pub trait Holder: Send + Sync + 'static {
    /// Which one.
    fn key(&self) -> ProcessKey;

    /// Its user.
    fn uid(&self) -> u32;

    /// Whether it lives and is still what it was; some system calls.
    fn is_unchanged(&self) -> bool;

    /// Who traces it, if somebody does; with `descendants`, or one of those. Some system calls for each process and thread.
    fn tracer(&self, descendants: bool) -> Option<Tracer>;

    /// The processes above it, nearest first. Empty if that cannot be said for sure.
    fn ancestors(&self) -> Vec<Ancestor>;

    /// Attests it, unless that was done no longer than `max_age` ago.
    ///
    /// # Errors
    /// It is over, or cannot be attested.
    async fn attest(&self, max_age: Duration) -> Result<SelectorSet, HolderError>;

    /// What becomes of it. As long as the stream is held, it is looked after.
    fn events(self: Arc<Self>) -> BoxStream<'static, HolderEvent>;
}
