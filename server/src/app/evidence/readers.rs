//! Who reads private values is on record before they get any. A reading that cannot be recorded does not happen.
//!
//! One entry for a call, however much it reads, and for the same question of the same caller none for a minute. Who asks
//! other questions all the time has one entry for all that they read until their minute is over. So nobody fills the log by
//! reading it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::Actor;
use mayfly_model::log::canonical;
use mayfly_store::{ArchiveReader, StoreError};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::search::Wanted;
use super::{Evidence, EvidenceError, note};

/// The kind of the record: `{"what", …, "until"}`.
const READ: &str = "private.read";
/// What a record covers, from its own time on.
const COVERED: Duration = Duration::from_secs(60);
/// Questions of a caller in that time that are recorded one by one.
const QUESTIONS: usize = 32;
/// Callers that are remembered; of more, each call is recorded.
const CALLERS: usize = 1_024;

/// What somebody is about to read.
#[derive(Clone, Debug)]
pub enum Reading {
    /// Everything that is still known.
    Export,
    /// What stands in entries that are looked for.
    Search {
        /// Which ones.
        wanted: Arc<Wanted>,
        /// From this index on.
        from: u64,
        /// The most entries, from the first or from the last one; 0: all.
        limit: u32,
        /// With those that come.
        follow: bool,
    },
    /// Names, in figures about standing power.
    Debt,
}

/// What the newest records cover.
#[derive(Debug, Default)]
pub(super) struct Readers(HashMap<String, Reader>);

#[derive(Debug)]
struct Reader {
    since: Instant,
    questions: HashSet<String>,
    /// Everything is covered.
    all: bool,
}

/// What is to be recorded before a question is answered.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Question,
    /// The caller asks so much that one record stands for the rest of the time.
    All,
}

impl Evidence {
    /// Says in the log that `actor` reads private values, unless it says so already. To be called before the first of them
    /// is handed out.
    ///
    /// # Errors
    /// It is not on record; then nothing may be handed out.
    ///
    /// # Cancel safety
    /// It may be on record that somebody reads who did not get anything.
    pub async fn record_reading(&self, actor: Actor, reading: &Reading) -> Result<(), EvidenceError> {
        let mut question = self.question(reading).await?;
        let key = canonical(&question);
        // Two calls with one question: the second one waits for the record of the first.
        let mut readers = self.readers.lock().await;
        let due = readers.due(&actor.who, &key, Instant::now());
        if due == Due::Nothing {
            return Ok(());
        }
        if due == Due::All {
            question = json!({ "what": "all" });
        } else if matches!(reading, Reading::Export) {
            // There are more each time: the same question all the same.
            question["values"] = json!(self.archive.read(ArchiveReader::private_count).await?);
        }
        let until = self.clock.unix_now() + COVERED.as_secs() as i64;
        question["until"] = json!(until);
        let who = actor.who.clone();
        note(
            &self.committer,
            self.clock.as_ref(),
            actor,
            READ,
            self.origin.clone(),
            question,
        )
        .await?;
        readers.recorded(who, key, due, Instant::now());
        Ok(())
    }

    /// The reading as the log says it.
    async fn question(&self, reading: &Reading) -> Result<Value, EvidenceError> {
        match reading {
            Reading::Export => Ok(json!({ "what": "export" })),
            Reading::Debt => Ok(json!({ "what": "debt" })),
            Reading::Search {
                wanted,
                from,
                limit,
                follow,
            } => {
                let asked = wanted.clone();
                let known = self.archive.read(move |reader| known(reader, &asked.values)).await?;
                // What nobody knows, or not any more, does not come into the log because somebody looked for it.
                let others = wanted.values.len() - known.len();
                let about: Vec<Value> = known.into_iter().map(|value| json!({ "wanted": value })).collect();
                Ok(json!({
                    "what": "search", "kinds": wanted.kinds, "about": about, "other_terms": others, "follow": follow,
                    "since": wanted.since, "before": wanted.until, "from_index": from, "limit": limit,
                }))
            }
        }
    }

    /// Whether what a search answers tells of private values: it shows them, or finds entries by them.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn reads_private(&self, wanted: &Arc<Wanted>) -> Result<bool, EvidenceError> {
        let asked = wanted.clone();
        Ok(wanted.reveal
            || !self
                .archive
                .read(move |reader| known(reader, &asked.values))
                .await?
                .is_empty())
    }
}

/// Those of `values` that the log commits to.
fn known(reader: &mut ArchiveReader, values: &[String]) -> Result<Vec<String>, StoreError> {
    let mut known = vec![];
    for value in values {
        if reader.commitment_to(&canonical(&json!(value)))?.is_some() {
            known.push(value.clone());
        }
    }
    Ok(known)
}

// === impl Readers ===

impl Readers {
    fn due(&mut self, who: &str, question: &str, now: Instant) -> Due {
        self.0.retain(|_, reader| now.duration_since(reader.since) < COVERED);
        match self.0.get(who) {
            Some(reader) if reader.all || reader.questions.contains(question) => Due::Nothing,
            Some(reader) if reader.questions.len() >= QUESTIONS => Due::All,
            _ => Due::Question,
        }
    }

    fn recorded(&mut self, who: String, question: String, due: Due, now: Instant) {
        if !self.0.contains_key(&who) && self.0.len() >= CALLERS {
            return;
        }
        let begun = || Reader {
            since: now,
            questions: HashSet::new(),
            all: false,
        };
        let reader = self.0.entry(who).or_insert_with(begun);
        if due == Due::All {
            // From here on for as long as the record says.
            *reader = Reader { all: true, ..begun() };
        } else {
            reader.questions.insert(question);
        }
    }
}

#[cfg(test)]
mod tests;
