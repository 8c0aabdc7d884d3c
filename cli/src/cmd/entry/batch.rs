//! Many entries at once: calls of bounded size, progress, and an answer for each item.

use mayfly_proto::spire::server::entry::{BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest};
use mayfly_proto::spire::types::{Entry, EntryMask, Status as ItemStatus};
use mayfly_proto::status::code_name;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::fields::id_text;
use super::view::EntryView;
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit, sentence};

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

/// The answer for one item, as each of the three calls gives it.
type Answer = (Option<ItemStatus>, Option<Entry>);

const CREATE: Words = Words {
    infinitive: "create",
    past: "created",
};
const UPDATE: Words = Words {
    infinitive: "update",
    past: "updated",
};
const DELETE: Words = Words {
    infinitive: "delete",
    past: "deleted",
};

/// Creates `entries`.
///
/// # Errors
/// The only item failed, or a call as a whole did.
pub(super) async fn create(server: &Server, entries: Vec<Entry>, context: &mut Context) -> Result<Exit, CliError> {
    let send = async |chunk: &[Entry]| {
        let request = BatchCreateEntryRequest {
            entries: chunk.to_vec(),
            output_mask: None,
        };
        let answer = server.entries().batch_create_entry(server.request(request)).await?;
        let results = answer.into_inner().results.into_iter();
        Ok(results.map(|result| (result.status, result.entry)).collect())
    };
    let label = |entry: &Entry| id_text(entry.spiffe_id.as_ref());
    in_chunks(&CREATE, &entries, |rest| rest.len(), label, send, server, context).await
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
    // A call has one mask for all its entries.
    let same_mask = |rest: &[(Entry, EntryMask)]| rest.iter().take_while(|(_, mask)| *mask == rest[0].1).count();
    let send = async |chunk: &[(Entry, EntryMask)]| {
        let request = BatchUpdateEntryRequest {
            entries: chunk.iter().map(|(entry, _)| entry.clone()).collect(),
            input_mask: chunk.first().map(|(_, mask)| *mask),
            output_mask: None,
        };
        let answer = server.entries().batch_update_entry(server.request(request)).await?;
        let results = answer.into_inner().results.into_iter();
        Ok(results.map(|result| (result.status, result.entry)).collect())
    };
    let label = |(entry, _): &(Entry, EntryMask)| entry.id.clone();
    in_chunks(&UPDATE, &changes, same_mask, label, send, server, context).await
}

/// Deletes entries by ID.
///
/// # Errors
/// As [`create`].
pub(super) async fn delete(server: &Server, ids: Vec<String>, context: &mut Context) -> Result<Exit, CliError> {
    let send = async |chunk: &[String]| {
        let request = BatchDeleteEntryRequest { ids: chunk.to_vec() };
        let answer = server.entries().batch_delete_entry(server.request(request)).await?;
        let results = answer.into_inner().results.into_iter();
        Ok(results.map(|result| (result.status, None)).collect())
    };
    in_chunks(&DELETE, &ids, |rest| rest.len(), String::clone, send, server, context).await
}

/// Sends `items` in calls of at most [`CHUNK`] and of no more than `together` says of the rest (which is not empty), up
/// to the first call that fails as a whole; reports what became of each.
async fn in_chunks<T>(
    words: &Words,
    items: &[T],
    together: impl Fn(&[T]) -> usize,
    label: impl Fn(&T) -> String,
    send: impl AsyncFn(&[T]) -> Result<Vec<Answer>, Status>,
    server: &Server,
    context: &mut Context,
) -> Result<Exit, CliError> {
    let mut done = Done::default();
    let mut rest = items;
    while !rest.is_empty() && done.stopped.is_none() {
        let (chunk, after) = rest.split_at(together(rest).min(CHUNK));
        rest = after;
        context.out.progress(done.items.len(), items.len());
        match send(chunk).await {
            Ok(answers) => done.take(chunk.iter().map(&label), answers),
            Err(status) => done.stopped = Some(server.failed(format!("{} entries", words.infinitive), status)),
        }
    }
    report(words, done, items.len(), server, context)
}

// === impl Done ===

impl Done {
    /// Takes the answer of one call; fewer or more results than items mean that nothing is known of any.
    fn take(&mut self, labels: impl ExactSizeIterator<Item = String>, results: Vec<Answer>) {
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
