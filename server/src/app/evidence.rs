//! The server's log as others check it: a C2SP tile log over the entries that commits leave, under checkpoints that the
//! log's own key signs.
//!
//! ```text
//!   commit ─▶ table `log` (the truth) ─▶ Writer: leaf hashes ─▶ full tiles, files below `log/`
//!                                          │                  └▶ checkpoint, signed, `log/checkpoint`
//!                                          └▶ Published: pages, witnesses, proofs
//! ```
//!
//! Everything here is derived from the database, except for one thing: the last checkpoint, which says what was shown to
//! others. A database that does not lead to it is an old backup or was changed, and the server does not start with it.
//!
//! Not here: what entries say (`mayfly-model`, `mayfly-audit`), trees and notes (`mayfly-tlog`).

pub mod erase;
mod error;
mod export;
mod key;
pub mod probe;
pub mod prove;
pub mod readers;
pub mod report;
pub mod search;
mod tiles;
pub mod witnesses;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mayfly_keys::KeyManager;
use mayfly_model::{Actor, Change, Step};
use mayfly_runtime::{CancellationToken, Chain, Clock};
use mayfly_tlog::Hash;
use mayfly_tlog::checkpoint::{CheckpointError, SignedCheckpoint};
use mayfly_tlog::note::{Signature, VerifierKey};
use mayfly_tlog::tile::TilePath;
use mayfly_tlog::tree::Tree;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::archive::Archive;
use crate::commit::Committer;
pub use error::EvidenceError;
use key::LogKeys;
use readers::Readers;
use tiles::TileFiles;
use writer::Writer;

/// Between two checkpoints, however much is appended: a reader waits for a quarter of a second on average less than that.
const PAUSE: Duration = Duration::from_millis(250);
/// After something failed.
const RETRY: Duration = Duration::from_secs(1);
/// Tiles and bundles that are read at a time: each holds up to 16 MiB and a connection to the database.
const SERVED: usize = 4;
/// Cosignatures that a checkpoint carries. A large fleet has more witnesses than anybody wants to read.
const COSIGNATURES_MAX: usize = 32;

/// What the log is made of.
pub struct EvidenceParts {
    /// Where entries are read.
    pub archive: Archive,
    /// Where the log's own events go.
    pub committer: Committer,
    /// Where the log's key is.
    pub keys: Arc<dyn KeyManager>,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Where tiles and the checkpoint are kept: a folder of this server's own, which may be missing.
    pub dir: PathBuf,
}

/// The log of this server.
pub struct Evidence {
    archive: Archive,
    committer: Committer,
    keys: Arc<dyn KeyManager>,
    clock: Arc<dyn Clock>,
    origin: String,
    files: TileFiles,
    writer: Arc<Mutex<Writer>>,
    signing: Mutex<LogKeys>,
    /// One rotation at a time.
    rotating: tokio::sync::Mutex<()>,
    published: watch::Sender<Arc<Published>>,
    /// Tiles and bundles are for everybody: so many are read at a time, others wait.
    serving: Semaphore,
    /// One report at a time: each reads the whole log.
    reporting: Semaphore,
    /// Who is on record as a reader of private values.
    readers: tokio::sync::Mutex<Readers>,
    metrics: Metrics,
}

/// The log as it was shown last.
#[derive(Clone, Debug)]
pub struct Published {
    /// Signed by the log and cosigned by witnesses that have seen it.
    pub checkpoint: SignedCheckpoint,
    /// The tree at that size.
    pub tree: Tree,
}

struct Metrics {
    entries: Gauge,
    shown: Gauge,
    lag: Histogram,
}

// === impl Evidence ===

impl Evidence {
    /// Brings the log up: checks that the database leads to the last checkpoint, and publishes a new one.
    ///
    /// # Errors
    /// The database is older than what was shown, or another one; or something cannot be read or written.
    pub async fn open(parts: EvidenceParts) -> Result<Arc<Self>, EvidenceError> {
        let EvidenceParts {
            archive,
            committer,
            keys,
            clock,
            dir,
        } = parts;
        let snapshot = committer.snapshot();
        let origin = format!("{}/log/{}", snapshot.trust_domain(), snapshot.history());
        let files = TileFiles::new(dir, archive.clone());
        let known = archive.read(key::known).await?;
        let last = {
            let (files, archive, known) = (files.clone(), archive.clone(), known.clone());
            blocking(move || Writer::resume(files, &mut archive.reader()?, &known)).await??
        };
        let signing = LogKeys::bring_up(&origin, known, keys.as_ref(), |kind, body| {
            let (committer, clock, origin) = (committer.clone(), clock.clone(), origin.clone());
            async move { note(&committer, clock.as_ref(), Actor::server(), kind, origin, body).await }
        })
        .await?;
        let mut writer = last;
        let reading = archive.clone();
        let keys_now = signing.clone();
        let at = origin.clone();
        let (writer, published) = blocking(move || {
            let mut reader = reading.reader()?;
            let published = writer.catch_up(&mut reader, &at, &keys_now)?;
            Ok::<_, EvidenceError>((writer, published))
        })
        .await??;
        let size = published.checkpoint.size();
        info!(origin, size, key = %signing.current(), "log");
        let metrics = Metrics {
            entries: Gauge::default(),
            shown: Gauge::default(),
            lag: Histogram::new([0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0]),
        };
        // What was shown last time counts before anything is added.
        metrics.has(size, size);
        Ok(Arc::new(Self {
            archive,
            committer,
            keys,
            clock,
            origin,
            files,
            writer: Arc::new(Mutex::new(writer)),
            signing: Mutex::new(signing),
            rotating: tokio::sync::Mutex::default(),
            published: watch::Sender::new(Arc::new(published)),
            serving: Semaphore::new(SERVED),
            reporting: Semaphore::new(1),
            readers: tokio::sync::Mutex::default(),
            metrics,
        }))
    }

    /// Its metrics; register them once.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("log");
        let Metrics { entries, shown, lag } = &self.metrics;
        registry.register("entries", "Entries in the log", entries.clone());
        registry.register(
            "checkpoint_entries",
            "Entries under the newest checkpoint",
            shown.clone(),
        );
        registry.register(
            "checkpoint_lag_seconds",
            "From the first entry that no checkpoint covered to the checkpoint that does",
            lag.clone(),
        );
    }

    /// The name of this log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The keys that verify checkpoints of this log, the newest first.
    pub fn verifier_keys(&self) -> Vec<VerifierKey> {
        self.lock_keys().verifier_keys()
    }

    /// What was shown last.
    pub fn published(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }

    /// Follows what is shown.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// The entries behind the log.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Appends and shows what commits leave, until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut revision = self.committer.revision();
        // When the first entry came that is not shown, at the earliest.
        let mut behind = Instant::now();
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let passed = self.pass().await;
            if let Ok(true) = passed {
                self.metrics.lag.observe(behind.elapsed().as_secs_f64());
            }
            let pause = match &passed {
                Ok(_) => PAUSE,
                Err(failure) => {
                    error!(error = %Chain(failure), "the log is not shown up to its end; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            if passed.is_err() {
                // Tried again, whether anything is added to it or not.
                continue;
            }
            behind = begun;
            if !revision.has_changed().unwrap_or(true) {
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = revision.changed() => if changed.is_err() { break },
                }
                behind = Instant::now();
            }
            revision.mark_unchanged();
        }
        // What was committed last shall not wait for the next start.
        if let Err(failure) = self.pass().await {
            warn!(error = %Chain(&failure), "the last entries have no checkpoint yet");
        }
    }

    /// Shows what was committed by now; whether there was anything new.
    ///
    /// # Errors
    /// It is not shown; the next pass tries again.
    pub async fn pass(self: &Arc<Self>) -> Result<bool, EvidenceError> {
        let this = self.clone();
        let published = blocking(move || {
            let keys = this.lock_keys().clone();
            let mut reader = this.archive.reader()?;
            let mut writer = this.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let (size, before) = (reader.size()?, this.published());
            this.metrics.has(size, before.checkpoint.size());
            if size == before.checkpoint.size() && keys.has_signed(&before.checkpoint) {
                return Ok(None);
            }
            writer.catch_up(&mut reader, &this.origin, &keys).map(Some)
        })
        .await??;
        let Some(published) = published else {
            return Ok(false);
        };
        let size = published.checkpoint.size();
        self.published.send_replace(Arc::new(published));
        self.metrics.has(size, size);
        Ok(true)
    }

    /// A tile or a bundle of entries of the log as it was shown; `None` if it has none of that name.
    ///
    /// # Errors
    /// It cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn tile(self: &Arc<Self>, path: TilePath) -> Result<Option<Vec<u8>>, EvidenceError> {
        let _turn = self.serving.acquire().await.map_err(|_| EvidenceError::Stopped)?;
        let published = self.published();
        let this = self.clone();
        blocking(move || this.files.of(&published.tree, path)).await?
    }

    /// All names of tiles and bundles at the newest checkpoint, for an export.
    pub fn paths(published: &Published) -> impl Iterator<Item = TilePath> + use<> {
        TilePath::all(published.checkpoint.size())
    }

    /// Entry `index` and the hashes that show that it is in the log at `published`.
    ///
    /// # Errors
    /// It is not in there, or something cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn prove(
        self: &Arc<Self>,
        index: u64,
        published: Arc<Published>,
    ) -> Result<(String, Vec<Hash>), EvidenceError> {
        let this = self.clone();
        blocking(move || {
            let size = published.checkpoint.size();
            let none = || EvidenceError::NoSuchEntry { index, size };
            if index >= size {
                return Err(none());
            }
            let entry = this.archive.reader()?.entries(index, 1)?.pop().ok_or_else(none)?;
            let tree = &published.tree;
            let hashes = this.files.mending(|| tree.prove_inclusion(index, size, &this.files))?;
            Ok((entry, hashes))
        })
        .await?
    }

    /// Adds the cosignature of a witness to the newest checkpoint. `false` if it is about another one, or there are
    /// enough.
    ///
    /// # Errors
    /// It is not by that key over the checkpoint.
    pub fn add_cosignature(&self, size: u64, key: &VerifierKey, signature: Signature) -> Result<bool, CheckpointError> {
        let mut outcome = Ok(false);
        self.published.send_if_modified(|published| {
            let checkpoint = &published.checkpoint;
            if checkpoint.size() != size || checkpoint.note().signatures().len() > COSIGNATURES_MAX {
                return false;
            }
            let mut cosigned = checkpoint.clone();
            outcome = cosigned.add_cosignature(key, signature.clone()).map(|_| true);
            if outcome.is_ok() {
                let tree = published.tree.clone();
                *published = Arc::new(Published {
                    checkpoint: cosigned,
                    tree,
                });
            }
            // Who follows waits for larger ones.
            false
        });
        outcome
    }

    /// Gives the log a new key. Checkpoints carry the signatures of the last ones as well, so that who knows only one of
    /// those learns of the new.
    ///
    /// # Errors
    /// There is no new key, and the old one is in use still; or there is one and no checkpoint by it yet, which follows.
    ///
    /// # Cancel safety
    /// The log may name a key that this process does not use; the next start does.
    pub async fn rotate_key(self: &Arc<Self>, actor: Actor) -> Result<VerifierKey, EvidenceError> {
        let _turn = self.rotating.lock().await;
        let next = LogKeys::generate(&self.origin, self.keys.as_ref()).await?;
        let vkey = next.verifier_key();
        let previous = self.lock_keys().current();
        let body = json!({ "vkey": vkey.to_string(), "previous": previous.to_string() });
        let origin = self.origin.clone();
        note(&self.committer, self.clock.as_ref(), actor, key::ROTATED, origin, body).await?;
        self.lock_keys().follow(next);
        self.pass().await?;
        Ok(vkey)
    }

    fn lock_keys(&self) -> MutexGuard<'_, LogKeys> {
        self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Metrics ===

impl Metrics {
    /// So many entries, and so many of them under the newest checkpoint.
    fn has(&self, entries: u64, shown: u64) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.shown.set(i64::try_from(shown).unwrap_or(i64::MAX));
    }
}

/// Commits an event of the log itself.
async fn note(
    committer: &Committer,
    clock: &dyn Clock,
    actor: Actor,
    kind: &'static str,
    subject: String,
    body: serde_json::Value,
) -> Result<(), EvidenceError> {
    let change = Change::Note { kind, subject, body };
    let time = clock.now().into();
    committer.commit(Step { actor, time, change }).await?;
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EvidenceError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| EvidenceError::Stopped)
}

#[cfg(test)]
mod tests;
