//! `spire.api.server.entry.v1`: registration entries, for operators and, what concerns them, for agents.

use std::sync::Arc;

use mayfly_model::{Entry, EntryId, EntrySpec};
use mayfly_proto::convert::{self, ConvertError};
use mayfly_proto::spire::server::entry::entry_server::Entry as EntryApi;
use mayfly_proto::spire::server::entry::{self as wire, *};
use mayfly_proto::spire::types;
use prost::Message;
use tonic::{Code, Request, Response, Status, Streaming};

use super::driven::{Driven, driven};
use super::page::{self, Wanted};
use super::status::{invalid, to_item, to_status};
use super::{Api, BATCH_MAX, Call, sync};
use crate::app::register::{self, EntryFilter, NewEntry, RegisterError};

/// One answer of `GetAuthorizedEntries` is at most what SPIRE's agents read.
const ANSWER_MAX: usize = 4 << 20;

pub(super) struct EntryService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl EntryApi for EntryService {
    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let call = Call::of(&request)?;
        let filter = request.into_inner().filter.map(|filter| list_entries_request::Filter {
            by_spiffe_id: filter.by_spiffe_id,
            by_parent_id: filter.by_parent_id,
            by_selectors: filter.by_selectors,
            by_federates_with: filter.by_federates_with,
            by_hint: filter.by_hint,
            by_downstream: filter.by_downstream,
        });
        let filter = read_filter(filter.as_ref()).map_err(|refused| to_status(&refused))?;
        let count = if filter.is_empty() {
            i32::try_from(call.snapshot.entry_count()).unwrap_or(i32::MAX)
        } else {
            page::count(filter.candidates(&call.snapshot, None), |entry| filter.matches(entry)).await
        };
        Ok(Response::new(CountEntriesResponse { count }))
    }

    /// Pages in the order of entry IDs.
    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let call = Call::of(&request)?;
        let ListEntriesRequest {
            filter,
            output_mask,
            page_size,
            page_token,
        } = request.into_inner();
        let encoded = filter.as_ref().map(Message::encode_to_vec).unwrap_or_default();
        let wanted = Wanted::parse("entries", &encoded, page_size, &page_token)?;
        let filter = read_filter(filter.as_ref()).map_err(|refused| to_status(&refused))?;
        let after = wanted.after::<EntryId>()?;
        let page = wanted
            .collect(
                filter.candidates(&call.snapshot, after.as_ref()),
                |entry| filter.matches(entry),
                |entry| entry.id.to_string(),
                |entry| masked(entry, output_mask.as_ref()),
            )
            .await;
        Ok(Response::new(ListEntriesResponse {
            entries: page.items,
            next_page_token: page.next_token,
        }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<types::Entry>, Status> {
        let call = Call::of(&request)?;
        let GetEntryRequest { id, output_mask } = request.into_inner();
        if id.is_empty() {
            return Err(invalid("id: is missing"));
        }
        // A text that is no ID is the ID of nothing.
        let found = id
            .parse::<EntryId>()
            .ok()
            .and_then(|id| call.snapshot.entry(&id).cloned());
        let entry = found.ok_or_else(|| Status::not_found("entry not found"))?;
        Ok(Response::new(masked(&entry, output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let BatchCreateEntryRequest { entries, output_mask } = request.into_inner();
        check_batch("entries", entries.len())?;
        let read = |entry: &types::Entry| {
            let id = if entry.id.is_empty() {
                None
            } else {
                Some(entry_id(&entry.id)?)
            };
            Ok(NewEntry {
                id,
                spec: EntrySpec::try_from(entry)?,
            })
        };
        let create = |wanted| register::create(&self.0.committer, &call.actor, call.now, wanted);
        let results = batch(entries.iter().map(read), create).await;
        let results = results
            .into_iter()
            .map(|(status, entry)| batch_create_entry_response::Result {
                status: Some(status),
                entry: entry.map(|entry| masked(&entry, output_mask.as_ref())),
            });
        Ok(Response::new(BatchCreateEntryResponse {
            results: results.collect(),
        }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let BatchUpdateEntryRequest {
            entries,
            input_mask,
            output_mask,
        } = request.into_inner();
        check_batch("entries", entries.len())?;
        let read = |entry: &types::Entry| Ok((entry_id(&entry.id)?, convert::entry_patch(entry, input_mask.as_ref())?));
        let update = |wanted| register::update(&self.0.committer, &call.actor, call.now, wanted);
        let results = batch(entries.iter().map(read), update).await;
        let results = results
            .into_iter()
            .map(|(status, entry)| batch_update_entry_response::Result {
                entry: entry
                    .filter(|_| status.code == i32::from(Code::Ok))
                    .map(|entry| masked(&entry, output_mask.as_ref())),
                status: Some(status),
            });
        Ok(Response::new(BatchUpdateEntryResponse {
            results: results.collect(),
        }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let call = Call::of(&request)?;
        let ids = request.into_inner().ids;
        check_batch("ids", ids.len())?;
        let delete = async |wanted| {
            let results = register::delete(&self.0.committer, &call.actor, call.now, wanted).await;
            results
                .into_iter()
                .map(|result| result.map(|()| None))
                .collect::<Vec<_>>()
        };
        let results = batch_optional(ids.iter().map(|id| entry_id(id)), delete).await;
        let results = results.into_iter().zip(ids);
        let results = results.map(|((status, _), id)| batch_delete_entry_response::Result {
            status: Some(status),
            id,
        });
        Ok(Response::new(BatchDeleteEntryResponse {
            results: results.collect(),
        }))
    }

    /// All that the agent may serve, in one answer.
    async fn get_authorized_entries(
        &self,
        request: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        let call = Call::of(&request)?;
        let mask = request.into_inner().output_mask;
        let (entries, mut bytes) = (register::authorized(&call.snapshot, call.agent()?, call.now), 0);
        let mut answer = GetAuthorizedEntriesResponse::default();
        for entry in entries {
            let entry = masked(&entry, mask.as_ref());
            bytes += entry.encoded_len() + 8;
            if bytes > ANSWER_MAX {
                return Err(Status::resource_exhausted(
                    "too many entries for one answer; use SyncAuthorizedEntries",
                ));
            }
            answer.entries.push(entry);
        }
        Ok(Response::new(answer))
    }

    type SyncAuthorizedEntriesStream = Driven<SyncAuthorizedEntriesResponse>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let call = Call::of(&request)?;
        let (api, inbound) = (self.0.clone(), request.into_inner());
        Ok(Response::new(driven(|out| async move {
            sync::run(&api, &call, inbound, out).await
        })))
    }
}

/// The wire form with what `mask` names; all of it without a mask.
pub(super) fn masked(entry: &Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    let wire = types::Entry::from(entry);
    match mask {
        Some(mask) => mask.project(wire),
        None => wire,
    }
}

/// Refuses batches that are too long.
pub(super) fn check_batch(field: &str, len: usize) -> Result<(), Status> {
    if len > BATCH_MAX {
        return Err(invalid(format!(
            "{field}: has {len} items, at most {BATCH_MAX} are taken at a time"
        )));
    }
    Ok(())
}

fn entry_id(text: &str) -> Result<EntryId, ConvertError> {
    if text.is_empty() {
        return Err(ConvertError::new("entry.id", "is missing"));
    }
    text.parse().map_err(|error| ConvertError::new("entry.id", error))
}

type Answer = (types::Status, Option<Arc<Entry>>);

async fn batch<T, F>(items: impl Iterator<Item = Result<T, ConvertError>>, act: impl FnOnce(Vec<T>) -> F) -> Vec<Answer>
where
    F: Future<Output = Vec<Result<Arc<Entry>, RegisterError>>>,
{
    batch_optional(items, async |wanted| {
        act(wanted)
            .await
            .into_iter()
            .map(|result| result.map(Some))
            .collect::<Vec<_>>()
    })
    .await
}

/// Acts on the items that can be read, all at once, and answers for each where it stood. An entry that is there already is
/// part of the answer.
async fn batch_optional<T>(
    items: impl Iterator<Item = Result<T, ConvertError>>,
    act: impl AsyncFnOnce(Vec<T>) -> Vec<Result<Option<Arc<Entry>>, RegisterError>>,
) -> Vec<Answer> {
    let mut wanted = vec![];
    let places: Vec<_> = items.map(|item| item.map(|item| wanted.push(item))).collect();
    let mut results = act(wanted).await.into_iter();
    let places = places.into_iter().map(|place| match place {
        Err(_) => (to_item(&place), None),
        Ok(()) => {
            let result = results.next().expect("there is an answer for each item");
            let status = to_item(&result);
            (status, result.unwrap_or_else(|refused| refused.existing().cloned()))
        }
    });
    places.collect()
}

fn read_filter(filter: Option<&list_entries_request::Filter>) -> Result<EntryFilter, ConvertError> {
    let Some(wire::list_entries_request::Filter {
        by_spiffe_id,
        by_parent_id,
        by_selectors,
        by_federates_with,
        by_hint,
        by_downstream,
    }) = filter
    else {
        return Ok(EntryFilter::default());
    };
    let id =
        |field, id: &Option<types::Spiffeid>| id.as_ref().map(|id| convert::spiffe_id(field, Some(id))).transpose();
    Ok(EntryFilter {
        spiffe_id: id("filter.by_spiffe_id", by_spiffe_id)?,
        parent_id: id("filter.by_parent_id", by_parent_id)?,
        selectors: by_selectors
            .as_ref()
            .map(|wanted| convert::selector_match("filter.by_selectors", wanted))
            .transpose()?,
        federates_with: by_federates_with
            .as_ref()
            .map(|wanted| convert::federates_with_match("filter.by_federates_with", wanted))
            .transpose()?,
        hint: by_hint.clone(),
        downstream: *by_downstream,
    })
}
