//! Finds entries by their kind, by what stands in them, and by their time. The log is read in pages, each by a question
//! of its own, so that neither memory nor a reader is held for as long as a search takes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use mayfly_model::log::canonical;
use mayfly_model::log::private::{Commitment, Reveal};
use mayfly_store::{ArchiveReader, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::archive::ArchiveError;
use super::Evidence;

/// Entries that are read at a time.
const BATCH: usize = 256;
/// Entries that one question looks at.
const SCAN: u64 = 16_384;
/// Bytes of found entries with which a question ends.
const BYTES: usize = 256 << 10;

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// One of these, or beginning with one of these and a dot; none: any.
    pub kinds: Vec<String>,
    /// Texts that all stand in the entry, by themselves or as what a commitment stands for.
    pub values: Vec<String>,
    /// From this instant on, Unix seconds.
    pub since: Option<i64>,
    /// Before this instant.
    pub until: Option<i64>,
    /// With what is private, where it is still known.
    pub reveal: bool,
}

/// An entry that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is in the log.
    pub index: u64,
    /// Canonical JSON.
    pub entry: String,
}

/// What a question has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In their order.
    pub found: Vec<Found>,
    /// Where the next question begins.
    pub next: u64,
}

/// What stands for a wanted value in the text of an entry: itself, and the commitment to it. Asked anew for each page,
/// as a value may become one of the log's while somebody follows it.
struct Matcher<'a> {
    wanted: &'a Wanted,
    values: Vec<Vec<String>>,
}

/// What is read of each entry.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    time: i64,
}

impl Evidence {
    /// How many entries there are, under a checkpoint or not yet.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn size(&self) -> Result<u64, ArchiveError> {
        self.archive.read(ArchiveReader::size).await
    }

    /// Entries that are wanted, from index `from` on and below `end`: those of one page.
    ///
    /// # Errors
    /// They cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn search(&self, wanted: Arc<Wanted>, from: u64, end: u64) -> Result<Page, ArchiveError> {
        let question = move |reader: &mut ArchiveReader| page(reader, &wanted, from, end);
        self.archive.read(question).await
    }

    /// Indexes of the newest entries that are wanted, from index `from` on and below `end`, at most `most`: those of
    /// one page, newest first, and the end of the page before it.
    ///
    /// # Errors
    /// They cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn search_back(
        &self,
        wanted: Arc<Wanted>,
        from: u64,
        end: u64,
        most: usize,
    ) -> Result<(Vec<u64>, u64), ArchiveError> {
        let question = move |reader: &mut ArchiveReader| page_back(reader, &wanted, from, end, most);
        self.archive.read(question).await
    }

    /// One entry as a search answers it.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn found(&self, index: u64, reveal: bool) -> Result<Option<Found>, ArchiveError> {
        let question = move |reader: &mut ArchiveReader| {
            let entry = reader.entries(index, 1)?.pop();
            entry.map(|entry| shown(reader, index, entry, reveal)).transpose()
        };
        self.archive.read(question).await
    }
}

fn page(reader: &mut ArchiveReader, wanted: &Wanted, from: u64, end: u64) -> Result<Page, StoreError> {
    let matcher = Matcher::new(reader, wanted)?;
    let end = end.min(from.saturating_add(SCAN));
    let mut page = Page {
        found: vec![],
        next: from,
    };
    let mut bytes = 0;
    while page.next < end && bytes < BYTES {
        let batch = usize::try_from(end - page.next).unwrap_or(BATCH).min(BATCH);
        let entries = reader.entries(page.next, batch)?;
        if entries.is_empty() {
            page.next = end;
        }
        for entry in entries {
            if matcher.matches(&entry) {
                let found = shown(reader, page.next, entry, wanted.reveal)?;
                bytes += found.entry.len();
                page.found.push(found);
            }
            page.next += 1;
        }
    }
    Ok(page)
}

fn page_back(
    reader: &mut ArchiveReader,
    wanted: &Wanted,
    from: u64,
    end: u64,
    most: usize,
) -> Result<(Vec<u64>, u64), StoreError> {
    let matcher = Matcher::new(reader, wanted)?;
    let stop = from.max(end.saturating_sub(SCAN));
    let (mut found, mut end) = (vec![], end);
    while end > stop && found.len() < most {
        let begin = stop.max(end.saturating_sub(BATCH as u64));
        let entries = reader.entries(begin, usize::try_from(end - begin).unwrap_or(BATCH))?;
        let matching = (begin..).zip(&entries).filter(|(_, entry)| matcher.matches(entry));
        let newest: Vec<u64> = matching.map(|(index, _)| index).collect();
        found.extend(newest.into_iter().rev());
        end = begin;
    }
    found.truncate(most);
    Ok((found, end))
}

fn shown(reader: &mut ArchiveReader, index: u64, entry: String, reveal: bool) -> Result<Found, StoreError> {
    if !reveal {
        return Ok(Found { index, entry });
    }
    let corrupt = |error: serde_json::Error| StoreError::Corrupt {
        table: "log",
        problem: error.to_string(),
    };
    let json: Value = serde_json::from_str(&entry).map_err(corrupt)?;
    let mut known = HashMap::new();
    for commitment in Commitment::all_of(&json) {
        if let Some(private) = reader.private(commitment)? {
            known.insert(commitment, serde_json::from_str(&private.value).map_err(corrupt)?);
        }
    }
    if known.is_empty() {
        return Ok(Found { index, entry });
    }
    let known = |commitment: &Commitment| known.get(commitment).cloned();
    let entry = canonical(&Reveal::new(&known).all(json));
    Ok(Found { index, entry })
}

// === impl Matcher ===

impl<'a> Matcher<'a> {
    fn new(reader: &mut ArchiveReader, wanted: &'a Wanted) -> Result<Self, StoreError> {
        let values = wanted.values.iter().map(|value| {
            let text = canonical(&json!(value));
            let commitment = reader.commitment_to(&text)?;
            let commitment = commitment.map(|commitment| canonical(&json!(commitment.to_string())));
            Ok(std::iter::once(text).chain(commitment).collect())
        });
        let values = values.collect::<Result<_, StoreError>>()?;
        Ok(Self { wanted, values })
    }

    fn matches(&self, entry: &str) -> bool {
        let all_stand = || {
            self.values
                .iter()
                .all(|texts| texts.iter().any(|text| stands(entry, text)))
        };
        if !all_stand() {
            return false;
        }
        let Wanted {
            kinds, since, until, ..
        } = self.wanted;
        if kinds.is_empty() && since.is_none() && until.is_none() {
            return true;
        }
        let Ok(head) = serde_json::from_str::<Head<'_>>(entry) else {
            return false;
        };
        (kinds.is_empty() || kinds.iter().any(|kind| is_of(&head.kind, kind)))
            && since.is_none_or(|since| head.time >= since)
            && until.is_none_or(|until| head.time < until)
    }
}

/// Whether an entry's `kind` is `wanted` or of the family `wanted`.
fn is_of(kind: &str, wanted: &str) -> bool {
    let rest = kind.strip_prefix(wanted);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether `quoted`, a string with its quotes, stands in canonical JSON as a value: a name of a field has a colon behind
/// it, and a quote within a text has a backslash before it.
pub(super) fn stands(entry: &str, quoted: &str) -> bool {
    let mut places = entry.match_indices(quoted);
    places.any(|(at, _)| entry.as_bytes().get(at + quoted.len()) != Some(&b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stands_where_it_is_a_value_as_a_whole() {
        let entry = canonical(&json!({ "body": { "person": "joe", "said": "\"ann\" said", "x": ["a\\"] }, "joe2": 1 }));
        for there in ["joe", "\"ann\" said", "a\\"] {
            assert!(stands(&entry, &canonical(&json!(there))), "{there} in {entry}");
        }
        for not_there in ["jo", "person", "ann", "joe2", "a"] {
            assert!(!stands(&entry, &canonical(&json!(not_there))), "{not_there} in {entry}");
        }
    }

    #[test]
    fn a_kind_is_wanted_by_itself_or_by_its_family() {
        assert!(is_of("window.opened", "window") && is_of("window.opened", "window.opened"));
        assert!(
            !is_of("window.opened", "window.open") && !is_of("window.opened", "win") && !is_of("window", "window.x")
        );
    }
}
