//! The log's key: Ed25519, of its own, named by an event of the log. The key manager has them as `log-<random>`: which
//! is which is told by the public key, so that no rotation, however it was cut off, takes the place of an earlier key.

use std::collections::VecDeque;
use std::sync::Arc;

use mayfly_keys::{KeyError, KeyManager, KeyType, Signer};
use mayfly_store::{ArchiveReader, StoreError};
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::note::{Algorithm, Note, NoteSigner, SignError, VerifierKey};
use serde_json::{Value, json};
use tracing::{error, info, warn};

use super::EvidenceError;

/// The event of a log's first key: `{"vkey"}`.
pub(super) const STARTED: &str = "log.started";
/// The event of a further key: `{"vkey", "previous"}`, and `"lost": true` if the previous one was not there any more.
pub(super) const ROTATED: &str = "log.key_rotated";

/// Keys that sign beside the newest: who was away while the key changed, also more than once, finds one that is known.
const BESIDE: usize = 3;

/// How the names of its keys in the key manager begin.
const KEY_PREFIX: &str = "log-";

/// The keys of the log.
#[derive(Clone)]
pub(super) struct LogKeys {
    /// The newest first. Those that this process has sign.
    keys: VecDeque<LogKey>,
}

#[derive(Clone)]
struct LogKey {
    verifier_key: VerifierKey,
    signer: Option<Arc<dyn Signer>>,
}

/// A key that the log does not name yet.
pub(super) struct NextKey(LogKey);

/// A key as signer of notes.
struct NoteKey<'a>(&'a VerifierKey, &'a dyn Signer);

/// The keys that the log names, the oldest first.
pub(super) fn known(reader: &mut ArchiveReader) -> Result<Vec<VerifierKey>, StoreError> {
    let mut found = vec![];
    for kind in [STARTED, ROTATED] {
        found.extend(reader.of_kind(kind, 0, usize::MAX)?);
    }
    found.sort_by_key(|(index, _)| *index);
    let vkey = |(index, entry): &(u64, String)| {
        let entry: Value = serde_json::from_str(entry).ok()?;
        let vkey = entry["body"]["vkey"].as_str()?.parse().ok();
        vkey.or_else(|| {
            warn!(index, "an event names a key of the log that cannot be read");
            None
        })
    };
    Ok(found.iter().filter_map(vkey).collect())
}

impl LogKeys {
    /// The keys that the log names, with a new one if it names none or if the newest is lost. `record` commits an event.
    pub(super) async fn bring_up<F>(
        origin: &str,
        known: Vec<VerifierKey>,
        manager: &dyn KeyManager,
        record: impl FnOnce(&'static str, Value) -> F,
    ) -> Result<Self, EvidenceError>
    where
        F: Future<Output = Result<(), EvidenceError>>,
    {
        let mut signers = vec![];
        for key_id in manager.list().await? {
            if key_id.starts_with(KEY_PREFIX)
                && let Some(signer) = manager.find(&key_id).await?
                && let Ok(verifier_key) = named(origin, signer.as_ref())
            {
                signers.push((verifier_key, signer));
            }
        }
        let with_signer = |verifier_key: VerifierKey| {
            let found = signers.iter().find(|(own, _)| *own == verifier_key);
            let signer = found.map(|(_, signer)| signer.clone());
            LogKey { verifier_key, signer }
        };
        let keys: VecDeque<LogKey> = known.into_iter().rev().map(with_signer).collect();
        let mut keys = Self { keys };
        let has_one = keys.keys.front().is_some_and(|key| key.signer.is_some());
        if !has_one {
            let next = Self::generate(origin, manager).await?;
            let vkey = next.verifier_key().to_string();
            match keys.keys.front() {
                None => {
                    info!(vkey, "a new log begins");
                    record(STARTED, json!({ "vkey": vkey })).await?;
                }
                Some(lost) => {
                    let previous = lost.verifier_key.to_string();
                    let hint = "agents and witnesses refuse the log from now on, until they were told to take the new \
                                key (docs/witness.md); bring the key back from a backup if there is one. Keys that are \
                                kept in memory are gone at each restart";
                    error!(
                        vkey,
                        previous, hint, "the key of the log is lost: it goes on with a new one"
                    );
                    record(ROTATED, json!({ "vkey": vkey, "previous": previous, "lost": true })).await?;
                }
            }
            keys.follow(next);
        }
        Ok(keys)
    }

    /// Makes a key, which the log shall name before it signs.
    pub(super) async fn generate(origin: &str, manager: &dyn KeyManager) -> Result<NextKey, EvidenceError> {
        let key_id = format!("{KEY_PREFIX}{:032x}", rand::random::<u128>());
        let signer = manager.generate(&key_id, KeyType::Ed25519).await?;
        Ok(NextKey(LogKey {
            verifier_key: named(origin, signer.as_ref())?,
            signer: Some(signer),
        }))
    }

    /// The key is named by the log now.
    pub(super) fn follow(&mut self, NextKey(key): NextKey) {
        self.keys.push_front(key);
    }

    pub(super) fn current(&self) -> VerifierKey {
        self.keys.front().expect("brought up with one").verifier_key.clone()
    }

    pub(super) fn verifier_keys(&self) -> Vec<VerifierKey> {
        self.keys.iter().map(|key| key.verifier_key.clone()).collect()
    }

    /// Whether the newest key is among those that signed it.
    pub(super) fn has_signed(&self, checkpoint: &SignedCheckpoint) -> bool {
        let current = self.current();
        checkpoint
            .note()
            .signatures()
            .iter()
            .any(|signature| signature.is_by(&current))
    }

    /// Signs with the newest key and, as far as they are there, with some before.
    pub(super) fn sign(&self, checkpoint: Checkpoint) -> Result<SignedCheckpoint, SignError> {
        let mut signers = self.keys.iter().take(1 + BESIDE).filter_map(|key| {
            let signer = key.signer.as_ref()?;
            Some(NoteKey(&key.verifier_key, signer.as_ref()))
        });
        let first = signers.next().expect("brought up with one that signs");
        let mut signed = SignedCheckpoint::sign(checkpoint, &first)?;
        for signer in signers {
            signed.sign_also(&signer)?;
        }
        Ok(signed)
    }

    /// Signs a text that is no checkpoint, with the same keys.
    pub(super) fn sign_text(&self, text: &str) -> Result<Note, EvidenceError> {
        let mut note = Note::new(text).map_err(|error| EvidenceError::Format(error.to_string()))?;
        for key in self.keys.iter().take(1 + BESIDE) {
            if let Some(signer) = &key.signer {
                note.sign(&NoteKey(&key.verifier_key, signer.as_ref()))?;
            }
        }
        Ok(note)
    }
}

impl NextKey {
    pub(super) fn verifier_key(&self) -> VerifierKey {
        self.0.verifier_key.clone()
    }
}

fn named(origin: &str, signer: &dyn Signer) -> Result<VerifierKey, EvidenceError> {
    VerifierKey::from_spki(origin, Algorithm::Ed25519, signer.public_key_der())
        .map_err(|error| EvidenceError::Format(error.to_string()))
}

impl NoteSigner for NoteKey<'_> {
    fn verifier_key(&self) -> &VerifierKey {
        self.0
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.1
            .sign(message)
            .map_err(|error: KeyError| SignError::new(self, error))
    }
}
