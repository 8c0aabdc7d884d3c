//! Forgets private values. What committed to them stays, and so do all proofs.

use mayfly_model::log::private::Commitment;
use mayfly_model::{Actor, Change, Conflict, Step};
use mayfly_store::{ArchiveReader, StoreError};
use serde_json::Value;

use super::{Evidence, EvidenceError};
use crate::commit::CommitError;

/// Commitments in one entry, which has room for some more.
const PIECE: usize = 512;

/// What to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// A text, wherever it stands: by itself, or in a larger value, which is forgotten as a whole then.
    Value(String),
    /// Everything that the entry with this index commits to.
    Entry(u64),
}

impl Evidence {
    /// Forgets, and answers how many values. The log says which commitments, who did it and why: in several entries if
    /// they are many, each in a commit of its own. If one of these fails, what was forgotten before stays so, and whoever
    /// asks once more goes on from there.
    ///
    /// # Errors
    /// There is nothing to forget, or the reason says it once more.
    ///
    /// # Cancel safety
    /// What was forgotten by then is in the log.
    pub async fn erase(&self, forgotten: Forgotten, actor: Actor) -> Result<usize, EvidenceError> {
        if let Forgotten::Value(text) = &forgotten
            && actor.reason.contains(text.as_str())
        {
            return Err(EvidenceError::SaidAgain);
        }
        let commitments = match forgotten {
            Forgotten::Value(text) => self.archive.read(move |reader| with_text(reader, &text)).await?,
            Forgotten::Entry(index) => {
                let found = self.archive.read(move |reader| of_entry(reader, index)).await?;
                let size = self.size().await?;
                found.ok_or(EvidenceError::NoSuchEntry { index, size })?
            }
        };
        if commitments.is_empty() {
            return Err(CommitError::Conflict(Conflict::NothingToErase).into());
        }
        let mut erased = 0;
        for piece in commitments.chunks(PIECE) {
            let step = Step {
                actor: actor.clone(),
                time: self.clock.now().into(),
                change: Change::PrivateErase(piece.to_vec()),
            };
            // One that finds nothing is refused there: the log has no entries about what did not happen.
            match self.committer.commit(step).await {
                Ok(_) => erased += piece.len(),
                // Somebody else has forgotten the same meanwhile.
                Err(CommitError::Conflict(Conflict::NothingToErase)) if erased > 0 => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(erased)
    }
}

fn with_text(reader: &mut ArchiveReader, text: &str) -> Result<Vec<Commitment>, StoreError> {
    let mut found = vec![];
    for private in reader.privates() {
        let private = private?;
        let value: Option<Value> = serde_json::from_str(&private.value).ok();
        if value.is_some_and(|value| has_text(&value, text)) {
            found.push(private.commitment);
        }
    }
    Ok(found)
}

/// Those that are still known.
fn of_entry(reader: &mut ArchiveReader, index: u64) -> Result<Option<Vec<Commitment>>, StoreError> {
    let Some(entry) = reader.entries(index, 1)?.pop() else {
        return Ok(None);
    };
    let entry: Value = serde_json::from_str(&entry).unwrap_or_default();
    let mut found = vec![];
    for commitment in Commitment::all_of(&entry) {
        if !found.contains(&commitment) && reader.private(commitment)?.is_some() {
            found.push(commitment);
        }
    }
    Ok(Some(found))
}

fn has_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(own) => own == text,
        Value::Array(items) => items.iter().any(|item| has_text(item, text)),
        Value::Object(fields) => fields.values().any(|field| has_text(field, text)),
        _ => false,
    }
}
