//! `SyncAuthorizedEntries`: how SPIRE's agents, and ours where there is no Watch, learn what they may serve.
//!
//! The caller says once what fields it wants. Up to 500 entries that fit one message come back at once, and that is the
//! end. More come as pages of revisions (ID, revision number, creation time, `more`); the caller then asks for those
//! that it does not hold, by ID, as often as it likes, and gets them in pages. IDs that it may not serve are left out
//! without a word. No message is larger than 1 MiB.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::{Entry, EntryId};
use mayfly_proto::spire::server::entry::{EntryRevision, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse};
use mayfly_proto::spire::types;
use prost::Message;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::driven::Out;
use super::entry::masked;
use super::status::invalid;
use super::{Api, BATCH_MAX, Call};
use crate::app::register;

/// Entries, or revisions, in one message.
const PAGE: usize = 500;
/// Encoded bytes of the entries in one message.
const PAGE_BYTES: usize = (1 << 20) - 64 * 1024;
/// The caller has this long for each of its messages; SPIRE's agents give a whole round 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

type Answer = SyncAuthorizedEntriesResponse;

pub(super) async fn run(
    api: &Api,
    call: &Call,
    mut inbound: Streaming<SyncAuthorizedEntriesRequest>,
    out: Out<Answer>,
) -> Result<(), Status> {
    let Some(first) = next(&mut inbound).await? else {
        return Ok(());
    };
    if !first.ids.is_empty() {
        return Err(invalid("ids: must be empty in the first message"));
    }
    let mask = first.output_mask;
    let entries = authorized(api, call)?;
    if let Some(all) = all_in_one(&entries, mask.as_ref()) {
        return out.send(all).await;
    }
    let revisions: Vec<EntryRevision> = entries.iter().map(|entry| revision(entry)).collect();
    drop(entries);
    let mut pages = revisions.chunks(PAGE).peekable();
    while let Some(page) = pages.next() {
        let more = pages.peek().is_some();
        out.send(Answer {
            entry_revisions: page.to_vec(),
            more,
            ..Answer::default()
        })
        .await?;
    }
    drop(revisions);
    while let Some(request) = next(&mut inbound).await? {
        if request.ids.len() > BATCH_MAX {
            let len = request.ids.len();
            return Err(invalid(format!(
                "ids: has {len} items, at most {BATCH_MAX} are taken at a time"
            )));
        }
        send_wanted(api, call, &request.ids, mask.as_ref(), &out).await?;
    }
    Ok(())
}

async fn next(
    inbound: &mut Streaming<SyncAuthorizedEntriesRequest>,
) -> Result<Option<SyncAuthorizedEntriesRequest>, Status> {
    timeout(PATIENCE, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no message came"))?
}

/// What the agent may serve at this moment, asked anew each time: a ban ends the stream, and so does the end of the
/// SVID that it was opened with.
fn authorized(api: &Api, call: &Call) -> Result<Vec<Arc<Entry>>, Status> {
    let (snapshot, now) = (api.committer.snapshot(), api.now());
    let agent = call.agent_now(&snapshot, now)?;
    Ok(register::authorized(&snapshot, &agent, now))
}

fn all_in_one(entries: &[Arc<Entry>], mask: Option<&types::EntryMask>) -> Option<Answer> {
    if entries.len() > PAGE {
        return None;
    }
    let mut answer = Answer::default();
    let mut bytes = 0;
    for entry in entries {
        let entry = whole(entry, mask);
        bytes += entry.encoded_len() + 8;
        if bytes > PAGE_BYTES {
            return None;
        }
        answer.entries.push(entry);
    }
    Some(answer)
}

async fn send_wanted(
    api: &Api,
    call: &Call,
    ids: &[String],
    mask: Option<&types::EntryMask>,
    out: &Out<Answer>,
) -> Result<(), Status> {
    let (snapshot, now) = (api.committer.snapshot(), api.now());
    let agent = call.agent_now(&snapshot, now)?;
    let mut answer = Answer::default();
    let mut bytes = 0;
    for id in ids {
        // One by one: an agent of many entries asks for them in many messages.
        let Some(entry) = id
            .parse::<EntryId>()
            .ok()
            .and_then(|id| register::find_authorized(&snapshot, &agent, &id, now))
        else {
            continue;
        };
        let entry = whole(entry, mask);
        let len = entry.encoded_len() + 8;
        if answer.entries.len() == PAGE || (bytes + len > PAGE_BYTES && !answer.entries.is_empty()) {
            answer.more = true;
            out.send(std::mem::take(&mut answer)).await?;
            bytes = 0;
        }
        bytes += len;
        answer.entries.push(entry);
    }
    // Also when it is empty: the caller waits for an answer.
    out.send(answer).await
}

/// Revision number and creation time are how an agent knows what it holds, so they are there whatever the mask says.
fn whole(entry: &Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    types::Entry {
        revision_number: entry.revision_number,
        created_at: entry.created_at.unix(),
        ..masked(entry, mask)
    }
}

fn revision(entry: &Entry) -> EntryRevision {
    EntryRevision {
        id: entry.id.to_string(),
        revision_number: entry.revision_number,
        created_at: entry.created_at.unix(),
    }
}
