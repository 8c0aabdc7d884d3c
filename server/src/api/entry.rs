//! `spire.api.server.entry.v1`: registration entries, for operators and, what concerns them, for agents.

use std::sync::Arc;

use mayfly_model::{Entry, EntryId, EntrySpec, ErrorKind};
use mayfly_proto::convert::{self, ConvertError};
use mayfly_proto::spire::server::entry::entry_server::Entry as EntryApi;
use mayfly_proto::spire::server::entry::{self as wire, *};
use mayfly_proto::spire::types;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::batch::{ANSWER_MAX, NoRoom, Room, Unread, batch, check_batch, check_echo, fit};
use super::driven::{Driven, driven};
use super::page::{self, Wanted};
use super::status::{Failure, invalid, to_status};
use super::{Api, Call, sync};
use crate::app::register::{self, EntryFilter, NewEntry, RegisterError};
use crate::app::registrar::{self, WriteError};

pub(super) struct EntryService(pub(super) Arc<Api>);

/// Why an item was not acted on.
#[derive(Debug, thiserror::Error)]
enum ItemError {
    /// It could not be read.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The caller may not.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Failure for ItemError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Convert(error) => error.kind(),
            Self::Write(error) => error.kind(),
        }
    }
}

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
        let (mut room, standing) = (Room::of(entries.len()), call.standing()?);
        let read = |entry: &types::Entry| -> Result<_, Unread<ItemError>> {
            let new = new_entry(entry).map_err(ItemError::from).map_err(Unread::Refused)?;
            registrar::may_create(standing, &new.spec)
                .map_err(ItemError::from)
                .map_err(Unread::Refused)?;
            // What is made is what is stated, with an ID and times, which a result has room for.
            reserve(&mut room, entry, output_mask.as_ref())?;
            Ok(new)
        };
        let create = |wanted| register::create(&self.0.committer, &call.actor, call.now, wanted);
        let results = batch(entries.iter().map(read), create).await;
        let show = |(status, entry)| (status, there(entry).map(|entry| masked(&entry, output_mask.as_ref())));
        let mut results: Vec<_> = results.into_iter().map(show).collect();
        fit(&mut results);
        let results = results
            .into_iter()
            .map(|(status, entry)| batch_create_entry_response::Result {
                status: Some(status),
                entry,
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
        let (mut room, standing) = (Room::of(entries.len()), call.standing()?);
        let read = |entry: &types::Entry| -> Result<_, Unread<ItemError>> {
            let read = || -> Result<_, ItemError> {
                let (id, patch) = (entry_id(&entry.id)?, convert::entry_patch(entry, input_mask.as_ref())?);
                registrar::may_update(standing, &call.snapshot, &id, &patch)?;
                Ok((id, patch))
            };
            let (id, patch) = read().map_err(Unread::Refused)?;
            // Some fields of the one and the others of the other: no larger than both.
            if let Some(present) = call.snapshot.entry(&id) {
                reserve(&mut room, &present.as_ref().into(), output_mask.as_ref())?;
            }
            reserve(&mut room, entry, output_mask.as_ref())?;
            Ok((id, patch))
        };
        let update = |wanted| register::update(&self.0.committer, &call.actor, call.now, wanted);
        let results = batch(entries.iter().map(read), update).await;
        let show = |(status, entry): (_, Option<Result<Arc<Entry>, _>>)| {
            let entry = entry.and_then(Result::ok);
            (status, entry.map(|entry| masked(&entry, output_mask.as_ref())))
        };
        let mut results: Vec<_> = results.into_iter().map(show).collect();
        fit(&mut results);
        let results = results
            .into_iter()
            .map(|(status, entry)| batch_update_entry_response::Result {
                status: Some(status),
                entry,
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
        check_echo("ids", &ids)?;
        let standing = call.standing()?;
        let read = |id: &String| -> Result<_, ItemError> {
            let id = entry_id(id)?;
            registrar::may_delete(standing, &call.snapshot, &id)?;
            Ok(id)
        };
        let delete = |wanted| register::delete(&self.0.committer, &call.actor, call.now, wanted);
        let results = batch(ids.iter().map(read), delete).await;
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

fn new_entry(wire: &types::Entry) -> Result<NewEntry, ConvertError> {
    let id = if wire.id.is_empty() {
        None
    } else {
        Some(entry_id(&wire.id)?)
    };
    let spec = EntrySpec::try_from(wire)?;
    Ok(NewEntry { id, spec })
}

/// Takes the room of `entry` as it will be shown.
fn reserve(room: &mut Room, entry: &types::Entry, mask: Option<&types::EntryMask>) -> Result<(), NoRoom> {
    match mask {
        Some(mask) => room.reserve(&mask.project(entry.clone())),
        None => room.reserve(entry),
    }
}

fn entry_id(text: &str) -> Result<EntryId, ConvertError> {
    if text.is_empty() {
        return Err(ConvertError::new("entry.id", "is missing"));
    }
    text.parse().map_err(|error| ConvertError::new("entry.id", error))
}

/// The entry that an item of a batch led to; the one that is there already is part of the answer to its twin.
fn there(put: Option<Result<Arc<Entry>, RegisterError>>) -> Option<Arc<Entry>> {
    put?.map_or_else(|refused| refused.existing().cloned(), Some)
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
