//! Which entries show something, and the checkpoint that covers them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::log::canonical;
use mayfly_store::{ArchiveReader, StoreError};
use mayfly_svid::{Serial, WindowId};
use serde_json::{Value, json};

use super::search::stands;
use super::{Evidence, EvidenceError, Published};

/// Entries that are read at a time.
const BATCH: usize = 256;
/// Entries that one question looks at.
const SCAN: u64 = 16_384;
/// A checkpoint follows an entry within a second, unless something is wrong.
const COVERED_WITHIN: Duration = Duration::from_secs(2);

/// What is to be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An entry.
    Index(u64),
    /// An SVID: that it was to be issued, what came of it, and if it is one of a task, everything about its window.
    Serial(Serial),
    /// A window: every entry about it, about its request and about its SVIDs.
    Window(WindowId),
}

/// What is known of the window that is to be proved, while the log is read.
#[derive(Default)]
struct Traced {
    /// The serial number that was asked for, as it stands in entries.
    asked: Option<String>,
    /// The window's ID, as it stands in entries.
    window: Option<String>,
    /// The request's ID, as it stands in entries.
    request: Option<String>,
    /// Serial numbers of the window's SVIDs.
    serials: BTreeSet<String>,
    indexes: Vec<u64>,
}

impl Evidence {
    /// The newest checkpoint, once it covers the first `size` entries; `None` if none does within two seconds.
    pub async fn covering(&self, size: u64) -> Option<Arc<Published>> {
        let mut shown = self.subscribe();
        let covers = shown.wait_for(|published| published.checkpoint.size() >= size);
        let published = tokio::time::timeout(COVERED_WITHIN, covers).await.ok()?.ok()?;
        drop(published);
        // Cosignatures since then are worth having.
        Some(self.published())
    }

    /// The indexes of the entries that show `subject`, in order, and a checkpoint that covers them.
    ///
    /// # Errors
    /// There are none; no checkpoint covers them yet; or the log cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn entries_about(&self, subject: &Subject) -> Result<(Vec<u64>, Arc<Published>), EvidenceError> {
        let indexes = match subject {
            Subject::Index(index) => {
                let size = self.size().await?;
                match *index < size {
                    true => vec![*index],
                    false => return Err(EvidenceError::NoSuchEntry { index: *index, size }),
                }
            }
            Subject::Serial(serial) => self.trace(Some(serial), None).await?,
            Subject::Window(window) => self.trace(None, Some(window)).await?,
        };
        let Some(last) = indexes.last() else {
            return Err(EvidenceError::NothingAbout);
        };
        let published = self.covering(last + 1).await;
        let published = published.ok_or(EvidenceError::NotCovered { index: *last })?;
        Ok((indexes, published))
    }

    /// Reads the log twice: an SVID is recorded before the entry that says which window it belongs to.
    async fn trace(&self, serial: Option<&Serial>, window: Option<&WindowId>) -> Result<Vec<u64>, EvidenceError> {
        let quoted = |text: String| canonical(&json!(text));
        let mut traced = Traced {
            asked: serial.map(|serial| quoted(serial.to_string())),
            window: window.map(|window| quoted(window.to_string())),
            ..Traced::default()
        };
        let size = self.size().await?;
        for pass in [Traced::learn, Traced::collect] {
            let mut from = 0;
            while from < size {
                let end = size.min(from + SCAN);
                let read = move |reader: &mut ArchiveReader| read_page(reader, from, end, traced, pass);
                traced = self.archive.read(read).await?;
                from = end;
            }
        }
        Ok(traced.indexes)
    }
}

fn read_page(
    reader: &mut ArchiveReader,
    mut from: u64,
    end: u64,
    mut traced: Traced,
    pass: fn(&mut Traced, u64, &str),
) -> Result<Traced, StoreError> {
    while from < end {
        let batch = usize::try_from(end - from).unwrap_or(BATCH).min(BATCH);
        let entries = reader.entries(from, batch)?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            pass(&mut traced, from, &entry);
            from += 1;
        }
    }
    Ok(traced)
}

// === impl Traced ===

impl Traced {
    /// The first reading: which window, which request, which SVIDs.
    fn learn(&mut self, _: u64, entry: &str) {
        let stands = |text: &Option<String>| text.as_ref().is_some_and(|text| stands(entry, text));
        if !entry.contains(r#""kind":"window."#) || !(stands(&self.window) || stands(&self.asked)) {
            return;
        }
        let Ok(json) = serde_json::from_str::<Value>(entry) else {
            return;
        };
        // Opened windows are described, others are named.
        let named = &json["body"]["window"];
        let Some(id) = named.as_str().or_else(|| named["id"].as_str()) else {
            return;
        };
        let id = canonical(&json!(id));
        if *self.window.get_or_insert_with(|| id.clone()) != id {
            return;
        }
        self.request = Some(canonical(&json["subject"]));
        self.serials.extend(serials_of(&json["body"]));
    }

    /// The second: every entry about them.
    fn collect(&mut self, index: u64, entry: &str) {
        let stands = |text: &Option<String>| text.as_ref().is_some_and(|text| stands(entry, text));
        let is_about = stands(&self.window)
            || stands(&self.asked)
            || entry.contains(r#""kind":"svid."#) && self.names_a_serial(entry)
            || stands(&self.request) && self.is_about_the_request(entry);
        if is_about {
            self.indexes.push(index);
        }
    }

    fn names_a_serial(&self, entry: &str) -> bool {
        let of = |json: Value| !self.serials.is_disjoint(&texts_of(&json["body"]));
        !self.serials.is_empty() && serde_json::from_str(entry).is_ok_and(of)
    }

    /// Other windows of the same request are not what was asked for.
    fn is_about_the_request(&self, entry: &str) -> bool {
        serde_json::from_str::<Value>(entry).is_ok_and(|json| {
            let kind = json["kind"].as_str().unwrap_or_default();
            let is_of_a_window = ["window.", "svid."].iter().any(|family| kind.starts_with(family));
            Some(canonical(&json["subject"])) == self.request && !is_of_a_window
        })
    }
}

/// All values of fields `serial`, at any depth.
fn serials_of(body: &Value) -> Vec<String> {
    match body {
        Value::Object(fields) => {
            let own = fields.get("serial").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(serials_of)).collect()
        }
        Value::Array(items) => items.iter().flat_map(serials_of).collect(),
        _ => vec![],
    }
}

/// All texts, at any depth.
fn texts_of(body: &Value) -> BTreeSet<String> {
    match body {
        Value::String(text) => [text.clone()].into(),
        Value::Object(fields) => fields.values().flat_map(texts_of).collect(),
        Value::Array(items) => items.iter().flat_map(texts_of).collect(),
        _ => BTreeSet::new(),
    }
}
