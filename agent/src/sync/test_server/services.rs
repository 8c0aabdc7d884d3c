//! The services of the test server.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::Stream;
use mayfly_proto::mayfly::agent::tasks_server::TasksServer;
use mayfly_proto::mayfly::agent::watch_server::{Watch, WatchServer};
use mayfly_proto::mayfly::agent::{Beacon, Update, WatchRequest, WatchResponse, watch_request, watch_response};
use mayfly_proto::spire::server::agent::agent_server::{Agent, AgentServer};
use mayfly_proto::spire::server::bundle::bundle_server::{Bundle, BundleServer};
use mayfly_proto::spire::server::entry::entry_server::{Entry, EntryServer};
use mayfly_proto::spire::server::svid::svid_server::{Svid, SvidServer};
use mayfly_proto::spire::server::{agent, bundle, entry, svid};
use mayfly_proto::spire::types;
use mayfly_proto::status::{Reason, permission_denied, unavailable_retry};
use mayfly_runtime::listen::ConnInfo;
use mayfly_runtime::{Clock, SystemClock};
use mayfly_svid::X509Svid;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::{State, TestServer};
use mayfly_model::entries_digest;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) fn routes(server: TestServer) -> Routes {
    let shared = Arc::new(server);
    Routes::new(WatchServer::from_arc(Arc::clone(&shared)))
        .add_service(AgentServer::from_arc(Arc::clone(&shared)))
        .add_service(BundleServer::from_arc(Arc::clone(&shared)))
        .add_service(EntryServer::from_arc(Arc::clone(&shared)))
        .add_service(TasksServer::from_arc(Arc::clone(&shared)))
        .add_service(SvidServer::from_arc(shared))
}

/// Methods that an agent never calls, in the form that `async_trait` gives them.
macro_rules! absent {
    ($($name:ident: $request:ty => $response:ty;)*) => {$(
        fn $name<'s, 'f>(
            &'s self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'f>>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    )*};
}

impl TestServer {
    pub(super) fn note(&self, line: String) {
        self.state().log.push(line);
    }

    /// The serial of the agent that calls.
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let info = request.extensions().get::<ConnInfo>().expect("set by the listener");
        let chain = info
            .peer_certificates
            .as_ref()
            .ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let caller = X509Svid::from_chain(chain.to_vec()).unwrap();
        if let Some(reason) = self.state().refusal {
            return Err(permission_denied(reason, "refused"));
        }
        Ok(caller.serial().to_string())
    }

    fn issue(&self, csr: &[u8]) -> types::X509svid {
        let (lifetime, spent) = {
            let mut state = self.state();
            if state.lifetimes.len() > 1 {
                state.lifetimes.remove(0)
            } else {
                state.lifetimes[0]
            }
        };
        let chain = self
            .ca
            .sign_csr(csr, "spiffe://td/spire/agent/join_token/x", lifetime, spent);
        let serial = X509Svid::from_chain(chain.clone()).unwrap().serial().to_string();
        self.state().serials.push(serial);
        wire_svid(chain)
    }
}

fn wire_svid(chain: Vec<rustls_pki_types::CertificateDer<'static>>) -> types::X509svid {
    types::X509svid {
        cert_chain: chain.iter().map(|der| der.to_vec()).collect(),
        ..Default::default()
    }
}

#[async_trait]
impl Agent for TestServer {
    type AttestAgentStream = Answers<agent::AttestAgentResponse>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<agent::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let mut requests = request.into_inner();
        let Some(agent::attest_agent_request::Step::Params(params)) = requests.message().await?.unwrap().step else {
            return Err(Status::invalid_argument("no params"));
        };
        let data = params.data.unwrap();
        self.note(format!("AttestAgent {}", data.r#type));
        if self.state().refusal == Some(Reason::AgentBanned) {
            return Err(permission_denied(Reason::AgentBanned, "banned"));
        }
        let (server, csr) = (self.clone(), params.params.unwrap().csr);
        let answers = async_stream(move |answers| async move {
            if data.r#type == "test_pop" {
                let challenge = agent::attest_agent_response::Step::Challenge(data.payload.clone());
                answers
                    .send(Ok(agent::AttestAgentResponse { step: Some(challenge) }))
                    .await
                    .unwrap();
                let answer = requests.message().await.unwrap().unwrap().step;
                let Some(agent::attest_agent_request::Step::ChallengeResponse(answer)) = answer else {
                    panic!()
                };
                assert_eq!(answer.iter().rev().copied().collect::<Vec<_>>(), data.payload);
            } else if server
                .state()
                .token
                .take_if(|token| token.as_bytes() == data.payload)
                .is_none()
            {
                let refused = Status::permission_denied("join token is unknown or was used");
                answers.send(Err(refused)).await.unwrap();
                return;
            }
            let reattestable = server.state().reattestable;
            let result = agent::attest_agent_response::Result {
                svid: Some(server.issue(&csr)),
                reattestable,
            };
            let step = Some(agent::attest_agent_response::Step::Result(result));
            let _ = answers.send(Ok(agent::AttestAgentResponse { step })).await;
        });
        Ok(Response::new(answers))
    }

    async fn renew_agent(
        &self,
        request: Request<agent::RenewAgentRequest>,
    ) -> Result<Response<agent::RenewAgentResponse>, Status> {
        self.note("RenewAgent".into());
        self.caller(&request)?;
        if let Some(reason) = self.state().renew_refusal {
            return Err(permission_denied(reason, "no renewal"));
        }
        let csr = request.into_inner().params.unwrap().csr;
        Ok(Response::new(agent::RenewAgentResponse {
            svid: Some(self.issue(&csr)),
        }))
    }

    async fn post_status(
        &self,
        request: Request<agent::PostStatusRequest>,
    ) -> Result<Response<agent::PostStatusResponse>, Status> {
        self.note(format!("PostStatus {}", request.get_ref().agent_version));
        Err(Status::unimplemented("not here"))
    }

    absent! {
        count_agents: agent::CountAgentsRequest => agent::CountAgentsResponse;
        list_agents: agent::ListAgentsRequest => agent::ListAgentsResponse;
        get_agent: agent::GetAgentRequest => types::Agent;
        delete_agent: agent::DeleteAgentRequest => ();
        ban_agent: agent::BanAgentRequest => ();
        create_join_token: agent::CreateJoinTokenRequest => types::JoinToken;
    }
}

#[async_trait]
impl Bundle for TestServer {
    async fn get_bundle(&self, _: Request<bundle::GetBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        self.note("GetBundle".into());
        Ok(Response::new(self.ca.wire_bundle()))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<bundle::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        self.caller(&request)?;
        let bundle = self.state().federated.get(&request.get_ref().trust_domain).cloned();
        bundle
            .map(Response::new)
            .ok_or_else(|| Status::not_found("no such bundle"))
    }

    absent! {
        count_bundles: bundle::CountBundlesRequest => bundle::CountBundlesResponse;
        append_bundle: bundle::AppendBundleRequest => types::Bundle;
        publish_jwt_authority: bundle::PublishJwtAuthorityRequest => bundle::PublishJwtAuthorityResponse;
        publish_wit_authority: bundle::PublishWitAuthorityRequest => bundle::PublishWitAuthorityResponse;
        list_federated_bundles: bundle::ListFederatedBundlesRequest => bundle::ListFederatedBundlesResponse;
        batch_create_federated_bundle:
            bundle::BatchCreateFederatedBundleRequest => bundle::BatchCreateFederatedBundleResponse;
        batch_update_federated_bundle:
            bundle::BatchUpdateFederatedBundleRequest => bundle::BatchUpdateFederatedBundleResponse;
        batch_set_federated_bundle: bundle::BatchSetFederatedBundleRequest => bundle::BatchSetFederatedBundleResponse;
        batch_delete_federated_bundle:
            bundle::BatchDeleteFederatedBundleRequest => bundle::BatchDeleteFederatedBundleResponse;
    }
}

#[async_trait]
impl Entry for TestServer {
    type SyncAuthorizedEntriesStream = Answers<entry::SyncAuthorizedEntriesResponse>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<entry::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        self.caller(&request)?;
        let mut requests = request.into_inner();
        let server = self.clone();
        let answers = async_stream(move |answers| async move {
            let first = requests.message().await.unwrap().unwrap();
            assert!(first.output_mask.unwrap().revision_number && first.ids.is_empty());
            let (entries, sparse) = {
                let state = server.state();
                let entries = present(&state);
                let sparse = entries.len() > state.sparse_above;
                (entries, sparse)
            };
            server.note(format!("Sync {}", if sparse { "sparse" } else { "full" }));
            if !sparse {
                let answer = entry::SyncAuthorizedEntriesResponse {
                    entries,
                    ..Default::default()
                };
                let _ = answers.send(Ok(answer)).await;
                return;
            }
            let revisions: Vec<_> = entries
                .iter()
                .map(|e| entry::EntryRevision {
                    id: e.id.clone(),
                    revision_number: e.revision_number,
                    created_at: e.created_at,
                })
                .collect();
            for page in revisions.chunks(2) {
                let more = page.last() != revisions.last();
                let answer = entry::SyncAuthorizedEntriesResponse {
                    entry_revisions: page.to_vec(),
                    more,
                    ..Default::default()
                };
                let _ = answers.send(Ok(answer)).await;
            }
            while let Ok(Some(wanted)) = requests.message().await {
                server.note(format!("Sync ids {}", wanted.ids.join(" ")));
                let wanted: Vec<_> = entries.iter().filter(|e| wanted.ids.contains(&e.id)).cloned().collect();
                for page in wanted.chunks(2) {
                    let more = page.last() != wanted.last();
                    let answer = entry::SyncAuthorizedEntriesResponse {
                        entries: page.to_vec(),
                        more,
                        ..Default::default()
                    };
                    let _ = answers.send(Ok(answer)).await;
                }
            }
        });
        Ok(Response::new(answers))
    }

    absent! {
        count_entries: entry::CountEntriesRequest => entry::CountEntriesResponse;
        list_entries: entry::ListEntriesRequest => entry::ListEntriesResponse;
        get_entry: entry::GetEntryRequest => types::Entry;
        batch_create_entry: entry::BatchCreateEntryRequest => entry::BatchCreateEntryResponse;
        batch_update_entry: entry::BatchUpdateEntryRequest => entry::BatchUpdateEntryResponse;
        batch_delete_entry: entry::BatchDeleteEntryRequest => entry::BatchDeleteEntryResponse;
        get_authorized_entries: entry::GetAuthorizedEntriesRequest => entry::GetAuthorizedEntriesResponse;
    }
}

#[async_trait]
impl Svid for TestServer {
    async fn batch_new_x509svid(
        &self,
        request: Request<svid::BatchNewX509svidRequest>,
    ) -> Result<Response<svid::BatchNewX509svidResponse>, Status> {
        self.caller(&request)?;
        let params = request.into_inner().params;
        self.note(format!("BatchNewX509SVID {}", params.len()));
        if params.len() > self.state().max_batch {
            return Err(Status::resource_exhausted("too many at a time"));
        }
        let sign = |params: svid::NewX509svidParams| {
            let known = self
                .state()
                .entries
                .get(&params.entry_id)
                .is_some_and(|(_, entry)| entry.is_some());
            if !known {
                let status = types::Status {
                    code: 5,
                    message: "no such entry".into(),
                };
                return svid::batch_new_x509svid_response::Result {
                    status: Some(status),
                    svid: None,
                };
            }
            let id = format!("spiffe://td/{}", params.entry_id);
            let chain = self
                .ca
                .sign_csr(&params.csr, &id, std::time::Duration::from_secs(3600), 0.0);
            let status = Some(types::Status::default());
            svid::batch_new_x509svid_response::Result {
                status,
                svid: Some(wire_svid(chain)),
            }
        };
        Ok(Response::new(svid::BatchNewX509svidResponse {
            results: params.into_iter().map(sign).collect(),
        }))
    }

    absent! {
        mint_x509svid: svid::MintX509svidRequest => svid::MintX509svidResponse;
        mint_jwtsvid: svid::MintJwtsvidRequest => svid::MintJwtsvidResponse;
        mint_witsvid: svid::MintWitsvidRequest => svid::MintWitsvidResponse;
        new_jwtsvid: svid::NewJwtsvidRequest => svid::NewJwtsvidResponse;
        batch_new_witsvid: svid::BatchNewWitsvidRequest => svid::BatchNewWitsvidResponse;
        new_downstream_x509ca: svid::NewDownstreamX509caRequest => svid::NewDownstreamX509caResponse;
    }
}

#[async_trait]
impl Watch for TestServer {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        if !self.state().watch {
            return Err(Status::unimplemented("no such service"));
        }
        let serial = self.caller(&request)?;
        if let Some((times, delay)) = self.state().busy.as_mut().filter(|(times, _)| *times > 0) {
            *times -= 1;
            let delay = *delay;
            return Err(unavailable_retry("busy", delay));
        }
        let mut requests = request.into_inner();
        let Some(watch_request::Body::Hello(hello)) = requests.message().await?.and_then(|m| m.body) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let generation = self.state().serials.iter().position(|s| *s == serial).unwrap();
        let holds: String = hello.window_ids.iter().map(|window| format!(" {window}")).collect();
        let line = format!("Hello {} {} svid {generation}{holds}", hello.history, hello.revision);
        self.note(line);
        let (server, mut changed) = (self.clone(), self.changed.subscribe());
        let cut = self.state().cut;
        let (known, mut held) = (hello.history == self.state().history, hello.revision);
        let answers = async_stream(move |answers| async move {
            let mut first = !known;
            loop {
                let (update, refusal, beacon, interval, silent) = {
                    let state = server.state();
                    (
                        update(&state, held, first, &server),
                        state.refusal,
                        beacon(&state),
                        state.beacon,
                        state.silent,
                    )
                };
                if let Some(reason) = refusal {
                    let _ = answers.send(Err(permission_denied(reason, "refused"))).await;
                    return;
                }
                if server.state().cut != cut {
                    return;
                }
                if let Some(update) = update.filter(|_| !silent) {
                    (held, first) = (update.revision, false);
                    let sent = update
                        .entries
                        .iter()
                        .map(|e| e.id.as_str())
                        .collect::<Vec<_>>()
                        .join(" ");
                    let kind = if update.snapshot { "Snapshot" } else { "Delta" };
                    server.note(format!("{kind} {} [{sent}]", update.revision));
                    for chunk in chunks(update) {
                        let body = Some(watch_response::Body::Update(chunk));
                        if answers.send(Ok(WatchResponse { body })).await.is_err() {
                            return;
                        }
                    }
                    let ack = loop {
                        let Ok(Some(said)) = requests.message().await else {
                            return;
                        };
                        match said.body {
                            Some(watch_request::Body::Ack(ack)) => break ack,
                            Some(watch_request::Body::Enforced(enforced)) => server.enforced(enforced),
                            other => panic!("expected an ack, not {other:?}"),
                        }
                    };
                    let rejected = ack
                        .rejected
                        .iter()
                        .map(|r| format!(" -{}", r.entry_id))
                        .collect::<String>();
                    server.note(format!("Ack {}{rejected}", ack.revision));
                    continue;
                }
                if !silent {
                    let body = Some(watch_response::Body::Beacon(beacon));
                    if answers.send(Ok(WatchResponse { body })).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    _ = tokio::time::timeout(interval, changed.changed()) => {}
                    said = requests.message() => match said.ok().flatten().and_then(|said| said.body) {
                        Some(watch_request::Body::Enforced(enforced)) => server.enforced(enforced),
                        None => return,
                        other => panic!("not expected: {other:?}"),
                    },
                }
            }
        });
        Ok(Response::new(answers))
    }
}

fn present(state: &State) -> Vec<types::Entry> {
    state.entries.values().filter_map(|(_, entry)| entry.clone()).collect()
}

fn update(state: &State, held: u64, snapshot: bool, server: &TestServer) -> Option<Update> {
    if !snapshot && held >= state.revision {
        return None;
    }
    let mut update = Update {
        history: state.history.clone(),
        revision: state.revision,
        snapshot,
        ..Default::default()
    };
    state.tasks.fill(&mut update, held);
    if snapshot {
        update.entries = present(state);
        update.bundles = vec![server.ca.wire_bundle()];
        update.crls.clone_from(&state.tasks.crls);
    } else {
        for (id, (_, entry)) in state.entries.iter().filter(|(_, (at, _))| *at > held) {
            match entry {
                Some(entry) => update.entries.push(entry.clone()),
                None => update.removed_entry_ids.push(id.clone()),
            }
        }
    }
    Some(update)
}

/// One entry in each.
fn chunks(update: Update) -> Vec<Update> {
    let Update {
        history,
        revision,
        snapshot,
        ..
    } = update.clone();
    let mut chunks: Vec<_> = update
        .entries
        .iter()
        .map(|entry| Update {
            history: history.clone(),
            revision,
            snapshot,
            more: true,
            entries: vec![entry.clone()],
            ..Default::default()
        })
        .collect();
    chunks.push(Update {
        entries: vec![],
        ..update
    });
    chunks
}

fn beacon(state: &State) -> Beacon {
    let entries = present(state);
    let held: Vec<_> = entries
        .iter()
        .map(|entry| mayfly_model::Entry::try_from(entry).unwrap())
        .collect();
    let digest = entries_digest(&held);
    Beacon {
        time_unix_ms: i64::try_from(
            SystemClock
                .now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_millis(),
        )
        .unwrap(),
        revision: state.revision,
        interval_ms: u32::try_from(state.beacon.as_millis()).unwrap(),
        entries: entries.len() as u64,
        digest: Some(digest),
        epoch: state.tasks.epoch,
        lease_ms: state.tasks.lease_ms,
    }
}

fn async_stream<T, F>(produce: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(produce(sender));
    Box::pin(ReceiverStream::new(receiver))
}
