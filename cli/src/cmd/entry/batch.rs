//! Many entries at once: calls of bounded size, progress, and an answer for each item.

use mayfly_proto::spire::server::entry::{BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest};
use mayfly_proto::spire::types::{Entry, EntryMask, Status as ItemStatus};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::fields::id_text;
use super::view::EntryView;
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit, code_name, sentence};

/// Items of a call: far below the message limit, few enough to show progress.
const CHUNK: usize = 100;

/// What became of one item.
struct Item {
    /// Its position in what was given.
    index: usize,
    /// What to call it in messages: a SPIFFE ID or an entry ID.
    label: String,
    result: Result<Option<Entry>, Failure>,
}

struct Failure {
    status: Status,
    /// For `AlreadyExists`: the entry that is there.
    existing: Option<Entry>,
}

/// What was answered, and why it stopped if it did.
#[derive(Default)]
struct Done {
    items: Vec<Item>,
    stopped: Option<CliError>,
}

/// Words of a verb.
struct Words {
    infinitive: &'static str,
    past: &'static str,
}

/// Creates `entries`.
///
/// # Errors
/// The only item failed, or a call as a whole did.
pub(super) async fn create(server: &Server, entries: Vec<Entry>, context: &mut Context) -> Result<Exit, CliError> {
    let total = entries.len();
    let mut done = Done::default();
    for chunk in entries.chunks(CHUNK) {
        context.out.progress(done.items.len(), total);
        let request = BatchCreateEntryRequest {
            entries: chunk.to_vec(),
            output_mask: None,
        };
        match server.entries().batch_create_entry(server.request(request)).await {
            Ok(answer) => {
                let results = answer
                    .into_inner()
                    .results
                    .into_iter()
                    .map(|result| (result.status, result.entry));
                let labels = chunk.iter().map(|entry| id_text(entry.spiffe_id.as_ref()));
                done.take(labels, results);
            }
            Err(status) => done.stopped = Some(server.failed("create entries", status)),
        }
        if done.stopped.is_some() {
            break;
        }
    }
    report(
        &Words {
            infinitive: "create",
            past: "created",
        },
        done,
        total,
        server,
        context,
    )
}

/// Changes entries, each in the fields of its mask.
///
/// # Errors
/// As [`create`].
pub(super) async fn update(
    server: &Server,
    changes: Vec<(Entry, EntryMask)>,
    context: &mut Context,
) -> Result<Exit, CliError> {
    let total = changes.len();
    let mut done = Done::default();
    // A call has one mask for all its entries.
    let mut rest = changes.as_slice();
    while let Some((_, mask)) = rest.first() {
        let same = rest.iter().take(CHUNK).take_while(|(_, other)| other == mask).count();
        let (chunk, after) = rest.split_at(same);
        rest = after;
        context.out.progress(done.items.len(), total);
        let request = BatchUpdateEntryRequest {
            entries: chunk.iter().map(|(entry, _)| entry.clone()).collect(),
            input_mask: Some(*mask),
            output_mask: None,
        };
        match server.entries().batch_update_entry(server.request(request)).await {
            Ok(answer) => {
                let results = answer
                    .into_inner()
                    .results
                    .into_iter()
                    .map(|result| (result.status, result.entry));
                done.take(chunk.iter().map(|(entry, _)| entry.id.clone()), results);
            }
            Err(status) => done.stopped = Some(server.failed("update entries", status)),
        }
        if done.stopped.is_some() {
            break;
        }
    }
    report(
        &Words {
            infinitive: "update",
            past: "updated",
        },
        done,
        total,
        server,
        context,
    )
}

/// Deletes entries by ID.
///
/// # Errors
/// As [`create`].
pub(super) async fn delete(server: &Server, ids: Vec<String>, context: &mut Context) -> Result<Exit, CliError> {
    let total = ids.len();
    let mut done = Done::default();
    for chunk in ids.chunks(CHUNK) {
        context.out.progress(done.items.len(), total);
        let request = BatchDeleteEntryRequest { ids: chunk.to_vec() };
        match server.entries().batch_delete_entry(server.request(request)).await {
            Ok(answer) => {
                let results = answer
                    .into_inner()
                    .results
                    .into_iter()
                    .map(|result| (result.status, None));
                done.take(chunk.iter().cloned(), results);
            }
            Err(status) => done.stopped = Some(server.failed("delete entries", status)),
        }
        if done.stopped.is_some() {
            break;
        }
    }
    report(
        &Words {
            infinitive: "delete",
            past: "deleted",
        },
        done,
        total,
        server,
        context,
    )
}

// === impl Done ===

impl Done {
    /// Takes the answer of one call; fewer or more results than items mean that nothing is known of any.
    fn take(
        &mut self,
        labels: impl ExactSizeIterator<Item = String>,
        results: impl ExactSizeIterator<Item = (Option<ItemStatus>, Option<Entry>)>,
    ) {
        if labels.len() != results.len() {
            self.stopped = Some(CliError::BadAnswer {
                who: "the server",
                what: format!("{} results for {} items", results.len(), labels.len()),
            });
            return;
        }
        for (label, (status, entry)) in labels.zip(results) {
            let status = status.unwrap_or_default();
            let result = match Code::from_i32(status.code) {
                Code::Ok => Ok(entry),
                code => Err(Failure {
                    status: Status::new(code, status.message),
                    existing: entry,
                }),
            };
            self.items.push(Item {
                index: self.items.len(),
                label,
                result,
            });
        }
    }
}

fn report(words: &Words, done: Done, total: usize, server: &Server, context: &mut Context) -> Result<Exit, CliError> {
    let failed = done.items.iter().filter(|item| item.result.is_err()).count();
    let succeeded = done.items.len() - failed;
    let now = context.now();
    let mut only_failure = None;
    if context.out.is_json() {
        let results: Vec<Value> = done.items.iter().map(Item::to_json).collect();
        if !(results.is_empty() && done.stopped.is_some()) {
            let count = json!({"results": results, "succeeded": succeeded, "failed": failed});
            context.out.json(&count)?;
        }
        if let [
            Item {
                label,
                result: Err(failure),
                ..
            },
        ] = done.items.as_slice()
        {
            return Ok(failure.error(words, label, server).exit());
        }
    } else {
        for item in &done.items {
            match &item.result {
                Ok(Some(entry)) if total == 1 => {
                    context.out.line(format!("Entry {}.", words.past))?;
                    let fields = EntryView::of(entry).fields(&context.out, now);
                    context.out.block(&fields)?;
                }
                Ok(Some(entry)) => context
                    .out
                    .line(format!("{}  {}  {}", words.past, entry.id, item.label))?,
                Ok(None) => context.out.line(format!("{}  {}", words.past, item.label))?,
                Err(failure) if total == 1 => only_failure = Some(failure.error(words, &item.label, server)),
                Err(failure) => {
                    let which = item.index + 1;
                    context.out.note(format!(
                        "failed  {which}  {}: {}",
                        item.label,
                        sentence(&failure.status)
                    ));
                }
            }
        }
        if total > 1 {
            context
                .out
                .note(format!("{succeeded} of {total} {}, {failed} failed", words.past));
        }
    }
    match (done.stopped, only_failure) {
        (Some(error), _) if done.items.is_empty() => Err(error),
        (Some(error), _) => Err(error.hint(format!("it stopped after {} of {total}", done.items.len()))),
        (None, Some(error)) => Err(error),
        (None, None) if failed > 0 => Ok(Exit::Failed),
        (None, None) => Ok(Exit::Ok),
    }
}

// === impl Item ===

impl Item {
    fn to_json(&self) -> Value {
        match &self.result {
            Ok(entry) => json!({
                "index": self.index,
                "ok": true,
                "id": entry.as_ref().map_or(&self.label, |entry| &entry.id),
                "entry": entry.as_ref().map(EntryView::of),
            }),
            Err(failure) => json!({
                "index": self.index,
                "ok": false,
                "error": {"code": code_name(failure.status.code()), "message": failure.status.message()},
                "existing": failure.existing.as_ref().map(EntryView::of),
            }),
        }
    }
}

// === impl Failure ===

impl Failure {
    fn error(&self, words: &Words, label: &str, server: &Server) -> CliError {
        let error = server.failed(format!("{} entry {label}", words.infinitive), self.status.clone());
        match (self.status.code(), &self.existing) {
            (Code::AlreadyExists, Some(existing)) => error
                .hint(format!(
                    "it is entry {}: mayfly entry show {}",
                    existing.id, existing.id
                ))
                .hint(format!("`mayfly entry update {} …` changes it", existing.id)),
            (Code::NotFound, _) => error.hint("`mayfly entry list` shows the IDs"),
            _ => error,
        }
    }
}
