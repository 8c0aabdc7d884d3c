//! The head of the log for those who know a part of it. A proof is made once for all who know the same part.

use std::collections::HashMap;
use std::sync::Arc;

use mayfly_store::{ArchiveReader, StoreError};
use mayfly_svid::SpiffeId;
use mayfly_tlog::Hash;
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::note::{Note, VerifierKey};
use tokio::sync::Mutex;
use tracing::warn;

use super::Witnesses;
use crate::app::evidence::{Evidence, EvidenceError, Published, blocking};

/// Sizes that are kept of one checkpoint. Agents that follow know the one or two before it; those that come back, any.
const KEPT: usize = 1_024;

/// The newest checkpoint, for who knows the first `from` entries.
#[derive(Clone, Debug)]
pub struct Head {
    /// The note, with the signatures of the log alone: a fleet's cosignatures are nothing for the fleet.
    pub note: Arc<[u8]>,
    /// The keys of the log, the newest first.
    pub keys: Arc<[VerifierKey]>,
    /// How many entries it has.
    pub size: u64,
    /// Where the proof begins.
    pub from: u64,
    /// That it goes on from there.
    pub proof: Arc<[Hash]>,
    /// What it is the head of.
    pub(super) published: Arc<Published>,
}

/// An entry, and that it is under a head.
#[derive(Clone, Debug)]
pub struct Inclusion {
    /// Where it is.
    pub index: u64,
    /// As it is hashed.
    pub entry: String,
    /// The way to the root.
    pub proof: Vec<Hash>,
}

/// The newest heads.
#[derive(Default)]
pub(super) struct Heads {
    pub(super) newest: Mutex<Option<Newest>>,
}

pub(super) struct Newest {
    published: Arc<Published>,
    note: Arc<[u8]>,
    keys: Arc<[VerifierKey]>,
    known: HashMap<u64, Part>,
}

/// The log's own first `n` entries.
#[derive(Clone)]
struct Part {
    root: Hash,
    proof: Arc<[Hash]>,
}

// === impl Witnesses ===

impl Witnesses {
    /// What an agent is shown first, which shows the note of the last checkpoint that it accepted; an empty one if it
    /// knows none.
    ///
    /// # Errors
    /// The log cannot be read.
    ///
    /// # Cancel safety
    /// Safe: what is not finished is made anew for the next one.
    pub async fn head_for(&self, agent: &SpiffeId, known: &[u8]) -> Result<Head, EvidenceError> {
        if known.is_empty() {
            return self.head(0).await;
        }
        let claimed = Note::parse(known)
            .ok()
            .and_then(|note| Checkpoint::parse(note.text()).ok());
        let Some(claimed) = claimed.filter(|claimed| claimed.origin() == self.evidence.origin()) else {
            warn!(agent_id = %agent, "the agent knows another log than this server's");
            return self.head(0).await;
        };
        // Thousands may come back at once, and nearly all know what this log leads to. Only of the others it matters
        // who signed what they show.
        let (_, part) = self.part(claimed.size()).await?;
        if part.is_none_or(|part| part.root != claimed.root()) {
            match SignedCheckpoint::open(known, &self.evidence.verifier_keys()) {
                Ok(shown) => self.compare(&agent.to_string(), &shown).await?,
                // Nothing is proved by it; the agent will say what it makes of us.
                Err(_) => {
                    let size = claimed.size();
                    warn!(agent_id = %agent, size, "the agent knows a checkpoint that no key here signed");
                }
            }
        }
        self.head(claimed.size()).await
    }

    /// Whether this log leads to a checkpoint that it signed, which `who` has shown.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) async fn compare(&self, who: &str, shown: &SignedCheckpoint) -> Result<(), EvidenceError> {
        let (size, root) = (shown.size(), shown.root());
        let (published, part) = self.part(size).await?;
        let has = published.checkpoint.size();
        match part {
            None => {
                let why =
                    format!("{who} has shown a checkpoint over {size} entries, signed by this log, which has {has}");
                self.doubted(who, shown, why);
            }
            Some(part) if part.root != root => {
                let why =
                    format!("{who} has shown a checkpoint over {size} entries, signed by this log, which had others");
                self.doubted(who, shown, why);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The newest head for who knows the first `from` entries; the proof is none, and begins at 0, if there are not so
    /// many.
    ///
    /// # Errors
    /// The log cannot be read.
    ///
    /// # Cancel safety
    /// As [`Self::head_for`].
    pub async fn head(&self, from: u64) -> Result<Head, EvidenceError> {
        let newest = &mut *self.heads.newest.lock().await;
        let newest = Newest::of(newest, &self.evidence);
        let part = newest.part(from, &self.evidence).await?;
        Ok(Head {
            note: newest.note.clone(),
            keys: newest.keys.clone(),
            size: newest.published.checkpoint.size(),
            from: if part.is_some() { from } else { 0 },
            proof: part.map_or_else(Arc::default, |part| part.proof),
            published: newest.published.clone(),
        })
    }

    /// Waits until entry `index` is under a checkpoint that is shown.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn covers(&self, index: u64) {
        let mut shown = self.evidence.subscribe();
        let covers = shown.wait_for(|published| published.checkpoint.size() > index);
        if covers.await.is_err() {
            // The server is stopping.
            std::future::pending::<()>().await;
        }
    }

    /// Those of the entries at `wanted` that are under `head`.
    ///
    /// # Errors
    /// The log cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn inclusions(&self, head: &Head, wanted: Vec<u64>) -> Result<Vec<Inclusion>, EvidenceError> {
        let size = head.size;
        let wanted: Vec<u64> = wanted.into_iter().filter(|index| *index < size).collect();
        if wanted.is_empty() {
            return Ok(vec![]);
        }
        let read = move |reader: &mut ArchiveReader| {
            let entry = |index: u64| Ok((index, reader.entries(index, 1)?.pop()));
            wanted.into_iter().map(entry).collect::<Result<Vec<_>, StoreError>>()
        };
        let entries = self.evidence.archive().read(read).await?;
        let (published, files) = (head.published.clone(), self.evidence.files.clone());
        let prove = move |(index, entry): (u64, Option<String>)| {
            let proof = files.mending(|| published.tree.prove_inclusion(index, size, &files))?;
            let entry = entry.ok_or(EvidenceError::NoSuchEntry { index, size })?;
            Ok(Inclusion { index, entry, proof })
        };
        blocking(move || entries.into_iter().map(prove).collect()).await?
    }

    async fn part(&self, size: u64) -> Result<(Arc<Published>, Option<Part>), EvidenceError> {
        let newest = &mut *self.heads.newest.lock().await;
        let newest = Newest::of(newest, &self.evidence);
        let part = newest.part(size, &self.evidence).await?;
        Ok((newest.published.clone(), part))
    }

    /// How many entries are shown now.
    pub fn size(&self) -> u64 {
        self.evidence.published().checkpoint.size()
    }
}

// === impl Newest ===

impl Newest {
    /// The present one; what was kept of an older one is forgotten. A checkpoint of the same size may be signed anew.
    fn of<'a>(kept: &'a mut Option<Self>, evidence: &Evidence) -> &'a mut Self {
        let published = evidence.published();
        let text = |published: &Published| published.checkpoint.note().text().to_owned();
        let keys = evidence.verifier_keys();
        let is_present = |kept: &Self| text(&kept.published) == text(&published) && *kept.keys == *keys;
        if kept.as_ref().is_none_or(|kept| !is_present(kept)) {
            *kept = Some(Self {
                note: own_signatures(&published.checkpoint, &keys),
                keys: keys.into(),
                published,
                known: HashMap::new(),
            });
        }
        kept.as_mut().expect("put there above")
    }

    async fn part(&mut self, size: u64, evidence: &Evidence) -> Result<Option<Part>, EvidenceError> {
        if size > self.published.checkpoint.size() {
            return Ok(None);
        }
        if let Some(part) = self.known.get(&size) {
            return Ok(Some(part.clone()));
        }
        let (published, files) = (self.published.clone(), evidence.files.clone());
        let part = blocking(move || {
            let tree = &published.tree;
            Ok::<_, EvidenceError>(Part {
                root: files.mending(|| tree.root_at(size, &files))?,
                proof: files
                    .mending(|| tree.prove_consistency(size, tree.size(), &files))?
                    .into(),
            })
        })
        .await??;
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.insert(size, part.clone());
        Ok(Some(part))
    }
}

#[cfg(test)]
impl Newest {
    pub(super) fn kept(&self) -> usize {
        self.known.len()
    }
}

fn own_signatures(checkpoint: &SignedCheckpoint, keys: &[VerifierKey]) -> Arc<[u8]> {
    let mut note = Note::new(checkpoint.note().text()).expect("it is the text of a note");
    let own = checkpoint.note().signatures().iter();
    for signature in own.filter(|signature| keys.iter().any(|key| signature.is_by(key))) {
        note.push(signature.clone())
            .expect("the note that it is of has as many");
    }
    note.to_bytes().into()
}
