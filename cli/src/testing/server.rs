//! The server's services of the fake: enough behavior for whole command lines, and every call noted.

use std::pin::Pin;

use mayfly_proto::grpc::health::health_check_response::ServingStatus;
use mayfly_proto::grpc::health::{HealthCheckRequest, HealthCheckResponse, health_server::Health};
use mayfly_proto::spire::server::agent::{agent_server::Agent as AgentService, *};
use mayfly_proto::spire::server::bundle::{bundle_server::Bundle as BundleService, *};
use mayfly_proto::spire::server::debug::{GetInfoRequest, GetInfoResponse, debug_server::Debug};
use mayfly_proto::spire::server::entry::{entry_server::Entry as EntryService, *};
use mayfly_proto::spire::server::svid::{svid_server::Svid as SvidService, *};
use mayfly_proto::spire::types::selector_match::MatchBehavior;
use mayfly_proto::spire::types::{Agent, Bundle, Entry, JoinToken, SelectorMatch, Status as ItemStatus, X509svid};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{NOW, Shared, State, unimplemented};
use crate::certs::{bundle_from_wire, bundle_to_wire};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn ok() -> Option<ItemStatus> {
    Some(ItemStatus {
        code: 0,
        message: "OK".into(),
    })
}

fn item(code: Code, message: &str) -> Option<ItemStatus> {
    Some(ItemStatus {
        code: code as i32,
        message: message.into(),
    })
}

fn page<T: Clone>(all: &[T], state: &State, token: &str) -> (Vec<T>, String) {
    let start: usize = token.parse().unwrap_or(0);
    let end = all.len().min(start + state.page);
    (
        all[start..end].to_vec(),
        if end < all.len() {
            end.to_string()
        } else {
            String::new()
        },
    )
}

fn selectors_match(own: &[mayfly_proto::spire::types::Selector], wanted: &SelectorMatch) -> bool {
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

#[tonic::async_trait]
impl AgentService for Shared {
    type AttestAgentStream = Answers<AttestAgentResponse>;

    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let state = self.enter("count_agents", &request)?;
        let banned = request.get_ref().filter.as_ref().and_then(|filter| filter.by_banned);
        let count = state
            .agents
            .iter()
            .filter(|agent| banned.is_none_or(|banned| agent.banned == banned))
            .count();
        Ok(Response::new(CountAgentsResponse {
            count: i32::try_from(count).unwrap(),
        }))
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let state = self.enter("list_agents", &request)?;
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let passes = |agent: &&Agent| {
            (filter.by_attestation_type.is_empty() || agent.attestation_type == filter.by_attestation_type)
                && filter.by_banned.is_none_or(|banned| agent.banned == banned)
                && filter.by_can_reattest.is_none_or(|can| agent.can_reattest == can)
        };
        let all: Vec<Agent> = state.agents.iter().filter(passes).cloned().collect();
        let (agents, next_page_token) = page(&all, &state, &request.page_token);
        Ok(Response::new(ListAgentsResponse {
            agents,
            next_page_token,
        }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<Agent>, Status> {
        let state = self.enter("get_agent", &request)?;
        let found = state
            .agents
            .iter()
            .find(|agent| agent.id == request.get_ref().id)
            .cloned();
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found("agent not found"))
    }

    async fn delete_agent(&self, request: Request<DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let mut state = self.enter("delete_agent", &request)?;
        let before = state.agents.len();
        state.agents.retain(|agent| agent.id != request.get_ref().id);
        if state.agents.len() < before {
            Ok(Response::new(()))
        } else {
            Err(Status::not_found("agent not found"))
        }
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let mut state = self.enter("ban_agent", &request)?;
        let found = state.agents.iter_mut().find(|agent| agent.id == request.get_ref().id);
        found.ok_or_else(|| Status::not_found("agent not found"))?.banned = true;
        Ok(Response::new(()))
    }

    async fn create_join_token(&self, request: Request<CreateJoinTokenRequest>) -> Result<Response<JoinToken>, Status> {
        let _state = self.enter("create_join_token", &request)?;
        let expires_at = NOW + i64::from(request.get_ref().ttl);
        Ok(Response::new(JoinToken {
            value: "secret-token".into(),
            expires_at,
        }))
    }

    async fn attest_agent(
        &self,
        _: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        Err(unimplemented())
    }

    async fn renew_agent(&self, _: Request<RenewAgentRequest>) -> Result<Response<RenewAgentResponse>, Status> {
        Err(unimplemented())
    }

    async fn post_status(&self, _: Request<PostStatusRequest>) -> Result<Response<PostStatusResponse>, Status> {
        Err(unimplemented())
    }
}

#[tonic::async_trait]
impl BundleService for Shared {
    async fn count_bundles(&self, _: Request<CountBundlesRequest>) -> Result<Response<CountBundlesResponse>, Status> {
        Err(unimplemented())
    }

    async fn get_bundle(&self, request: Request<GetBundleRequest>) -> Result<Response<Bundle>, Status> {
        let state = self.enter("get_bundle", &request)?;
        Ok(Response::new(bundle_to_wire(&state.ca.bundle)))
    }

    async fn append_bundle(&self, _: Request<AppendBundleRequest>) -> Result<Response<Bundle>, Status> {
        Err(unimplemented())
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        Err(unimplemented())
    }

    async fn publish_wit_authority(
        &self,
        _: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        Err(unimplemented())
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        let state = self.enter("list_federated_bundles", &request)?;
        let all: Vec<Bundle> = state.foreign.iter().map(bundle_to_wire).collect();
        let (bundles, next_page_token) = page(&all, &state, &request.get_ref().page_token);
        Ok(Response::new(ListFederatedBundlesResponse {
            bundles,
            next_page_token,
        }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<Bundle>, Status> {
        let state = self.enter("get_federated_bundle", &request)?;
        let wanted = &request.get_ref().trust_domain;
        let found = state
            .foreign
            .iter()
            .find(|bundle| bundle.trust_domain.as_str() == wanted);
        found
            .map(|bundle| Response::new(bundle_to_wire(bundle)))
            .ok_or_else(|| Status::not_found("bundle not found"))
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        Err(unimplemented())
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        Err(unimplemented())
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let mut state = self.enter("batch_set_federated_bundle", &request)?;
        let bundle = bundle_from_wire(&request.into_inner().bundle[0]).unwrap();
        state.foreign.retain(|other| other.trust_domain != bundle.trust_domain);
        state.foreign.push(bundle);
        let results = vec![batch_set_federated_bundle_response::Result {
            status: ok(),
            bundle: None,
        }];
        Ok(Response::new(BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        let mut state = self.enter("batch_delete_federated_bundle", &request)?;
        let request = request.into_inner();
        let trust_domain = request.trust_domains[0].clone();
        let in_use = state
            .entries
            .iter()
            .any(|entry| entry.federates_with.contains(&trust_domain));
        let status = if in_use && request.mode == 0 {
            item(Code::FailedPrecondition, "1 entry federates with it")
        } else {
            state
                .foreign
                .retain(|bundle| bundle.trust_domain.as_str() != trust_domain);
            ok()
        };
        let results = vec![batch_delete_federated_bundle_response::Result { status, trust_domain }];
        Ok(Response::new(BatchDeleteFederatedBundleResponse { results }))
    }
}

#[tonic::async_trait]
impl SvidService for Shared {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let state = self.enter("mint_x509svid", &request)?;
        let certificate = state.ca.sign(&request.get_ref().csr);
        let svid = X509svid {
            cert_chain: vec![certificate],
            expires_at: NOW + 3600,
            ..Default::default()
        };
        Ok(Response::new(MintX509svidResponse { svid: Some(svid) }))
    }

    async fn mint_jwtsvid(&self, _: Request<MintJwtsvidRequest>) -> Result<Response<MintJwtsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn mint_witsvid(&self, _: Request<MintWitsvidRequest>) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn batch_new_x509svid(
        &self,
        _: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        Err(unimplemented())
    }

    async fn new_jwtsvid(&self, _: Request<NewJwtsvidRequest>) -> Result<Response<NewJwtsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        Err(unimplemented())
    }
}

#[tonic::async_trait]
impl Debug for Shared {
    async fn get_info(&self, request: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let _state = self.enter("get_info", &request)?;
        Ok(Response::new(GetInfoResponse::default()))
    }
}

#[tonic::async_trait]
impl Health for Shared {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let status = if self.lock().serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(unimplemented())
    }
}
