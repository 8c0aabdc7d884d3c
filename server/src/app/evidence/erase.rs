//! Forgets private values. What committed to them stays, and so do all proofs.

use mayfly_model::log::private::Commitment;
use mayfly_model::{Actor, Change, Step};
use mayfly_store::{ArchiveReader, StoreError};
use serde_json::Value;

use super::{Evidence, EvidenceError};

/// Private values that are read at a time.
const BATCH: usize = 512;

/// What to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// A text, wherever it stands: by itself, or in a larger value, which is forgotten as a whole then.
    Value(String),
    /// Everything that the entry with this index commits to.
    Entry(u64),
}

impl Evidence {
    /// Forgets, and answers how many values. The log says which commitments, who did it and why.
    ///
    /// # Errors
    /// There is nothing to forget, or the reason says it once more.
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
        let erased = commitments.len();
        let change = Change::PrivateErase(commitments);
        let time = self.clock.now().into();
        // One that finds nothing is refused there: the log has no entries about what did not happen.
        self.committer.commit(Step { actor, time, change }).await?;
        Ok(erased)
    }
}

fn with_text(reader: &mut ArchiveReader, text: &str) -> Result<Vec<Commitment>, StoreError> {
    let (mut found, mut after) = (vec![], None);
    loop {
        let values = reader.privates(after, BATCH)?;
        for private in &values {
            let value: Option<Value> = serde_json::from_str(&private.value).ok();
            if value.is_some_and(|value| has_text(&value, text)) {
                found.push(private.commitment);
            }
        }
        match values.last() {
            Some(last) => after = Some(last.commitment),
            None => return Ok(found),
        }
    }
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
