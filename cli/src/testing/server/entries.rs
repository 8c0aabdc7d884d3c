//! `spire.api.server.entry.v1.Entry`.

use mayfly_proto::spire::server::entry::{entry_server::Entry as EntryService, *};
use mayfly_proto::spire::types::selector_match::MatchBehavior;
use mayfly_proto::spire::types::{Entry, Selector, SelectorMatch};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Answers, NOW, Shared, item, ok, page, unimplemented};

fn selectors_match(own: &[Selector], wanted: &SelectorMatch) -> bool {
    let in_own = |selector| own.contains(selector);
    let in_wanted = |selector| wanted.selectors.contains(selector);
    match wanted.r#match() {
        MatchBehavior::MatchExact => own.iter().all(in_wanted) && wanted.selectors.iter().all(in_own),
        MatchBehavior::MatchSubset => own.iter().all(in_wanted),
        MatchBehavior::MatchSuperset => wanted.selectors.iter().all(in_own),
        MatchBehavior::MatchAny => wanted.selectors.iter().any(in_own),
    }
}

fn entry_passes(entry: &Entry, filter: &list_entries_request::Filter) -> bool {
    filter
        .by_spiffe_id
        .as_ref()
        .is_none_or(|id| entry.spiffe_id.as_ref() == Some(id))
        && filter
            .by_parent_id
            .as_ref()
            .is_none_or(|id| entry.parent_id.as_ref() == Some(id))
        && filter
            .by_selectors
            .as_ref()
            .is_none_or(|wanted| selectors_match(&entry.selectors, wanted))
        && filter.by_hint.as_ref().is_none_or(|hint| entry.hint == *hint)
        && filter
            .by_downstream
            .is_none_or(|downstream| entry.downstream == downstream)
}

#[tonic::async_trait]
impl EntryService for Shared {
    type SyncAuthorizedEntriesStream = Answers<SyncAuthorizedEntriesResponse>;

    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let state = self.enter("count_entries", &request)?;
        let wanted = request.get_ref().filter.clone().unwrap_or_default();
        let filter = list_entries_request::Filter {
            by_spiffe_id: wanted.by_spiffe_id,
            by_parent_id: wanted.by_parent_id,
            by_selectors: wanted.by_selectors,
            by_federates_with: wanted.by_federates_with,
            by_hint: wanted.by_hint,
            by_downstream: wanted.by_downstream,
        };
        let count = state
            .entries
            .iter()
            .filter(|entry| entry_passes(entry, &filter))
            .count();
        Ok(Response::new(CountEntriesResponse {
            count: i32::try_from(count).unwrap(),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let state = self.enter("list_entries", &request)?;
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let all: Vec<Entry> = state
            .entries
            .iter()
            .filter(|entry| entry_passes(entry, &filter))
            .cloned()
            .collect();
        let (entries, next_page_token) = page(&all, &state, &request.page_token);
        Ok(Response::new(ListEntriesResponse {
            entries,
            next_page_token,
        }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<Entry>, Status> {
        let state = self.enter("get_entry", &request)?;
        let found = state
            .entries
            .iter()
            .find(|entry| entry.id == request.get_ref().id)
            .cloned();
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found("entry not found"))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let mut state = self.enter("batch_create_entry", &request)?;
        let mut results = Vec::new();
        for mut entry in request.into_inner().entries {
            let similar = |other: &&Entry| {
                (&other.spiffe_id, &other.parent_id, &other.selectors)
                    == (&entry.spiffe_id, &entry.parent_id, &entry.selectors)
            };
            if let Some(existing) = state.entries.iter().find(similar).cloned() {
                let status = item(Code::AlreadyExists, "similar entry already exists");
                results.push(batch_create_entry_response::Result {
                    status,
                    entry: Some(existing),
                });
                continue;
            }
            if entry.spiffe_id.as_ref().is_some_and(|id| id.path.starts_with("/task")) {
                let status = item(Code::InvalidArgument, "/task is minted from task windows only");
                results.push(batch_create_entry_response::Result { status, entry: None });
                continue;
            }
            if entry.id.is_empty() {
                entry.id = format!("entry-{}", state.entries.len() + 1);
            }
            entry.created_at = NOW;
            state.entries.push(entry.clone());
            results.push(batch_create_entry_response::Result {
                status: ok(),
                entry: Some(entry),
            });
        }
        Ok(Response::new(BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let mut state = self.enter("batch_update_entry", &request)?;
        let request = request.into_inner();
        let mask = request.input_mask.expect("updates come with a mask");
        let mut results = Vec::new();
        for change in request.entries {
            let Some(entry) = state.entries.iter_mut().find(|entry| entry.id == change.id) else {
                let status = item(Code::NotFound, "entry not found");
                results.push(batch_update_entry_response::Result { status, entry: None });
                continue;
            };
            macro_rules! take {
                ($($field:ident)*) => { $(if mask.$field { entry.$field = change.$field; })* };
            }
            take!(spiffe_id parent_id selectors x509_svid_ttl jwt_svid_ttl federates_with admin downstream);
            take!(expires_at dns_names store_svid hint additional_attributes);
            entry.revision_number += 1;
            results.push(batch_update_entry_response::Result {
                status: ok(),
                entry: Some(entry.clone()),
            });
        }
        Ok(Response::new(BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let mut state = self.enter("batch_delete_entry", &request)?;
        let mut results = Vec::new();
        for id in request.into_inner().ids {
            let before = state.entries.len();
            state.entries.retain(|entry| entry.id != id);
            let status = if state.entries.len() < before {
                ok()
            } else {
                item(Code::NotFound, "entry not found")
            };
            results.push(batch_delete_entry_response::Result { status, id });
        }
        Ok(Response::new(BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        _: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        Err(unimplemented())
    }

    async fn sync_authorized_entries(
        &self,
        _: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        Err(unimplemented())
    }
}
