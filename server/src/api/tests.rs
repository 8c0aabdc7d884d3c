//! The services as callers meet them: through the gate, over a real store, without sockets.

mod agents;
mod audit;
mod bundles;
mod callers;
mod definitions;
mod entries;
mod exceptions;
mod listing;
mod operate;
mod policies;
mod registrars;
mod svids;
mod syncing;
mod tokens;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use http::{Request, Response};
use mayfly_model::TokenHash;
use mayfly_node_attest::{AttestError, Attested, Challenger, ServerHalf};
use mayfly_proto::spire::server::agent::agent_client::AgentClient;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_proto::spire::types;
use mayfly_runtime::listen::{ConnInfo, Peer, UnixPeer};
use mayfly_runtime::telemetry::{LogHandle, LogSettings, init};
use mayfly_runtime::{CancellationToken, Readiness};
use mayfly_svid::{SpiffeId, Timestamp, X509Svid};
use rcgen::{CertificateParams, KeyPair, SanType};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::watch::{TaskFeeds, WatchService, WatchSettings};
use super::{Api, AttestLimits, Deps, Face, Gate, routes};
use crate::app::attest_agent::Attestors;
use crate::app::caller::RoleMap;
use crate::app::people::People;
use crate::app::policy::PolicyHolder;
use crate::app::standing::Operators;
use crate::app::tasks::{TaskParts, TaskSettings, Tasks};
use crate::app::testing::{World, csr, id};
use crate::app::tickets::NoTracker;
use crate::watch::{History, Hub};

const ADMIN: u32 = 0;
const VIEWER: u32 = 1001;
const NOBODY: u32 = 65534;

/// A server, its API, and the callers that there are.
struct Server {
    world: World,
    api: Arc<Api>,
    readiness: Readiness,
}

/// How a server differs from one that was just installed.
struct Setup {
    attest_limits: AttestLimits,
    people: People,
    operators: Vec<Operators>,
    two_person: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            attest_limits: AttestLimits::default(),
            people: People::nobody("td".parse().unwrap()),
            operators: vec![],
            two_person: false,
        }
    }
}

/// Somebody at the other end of a connection: a channel for generated clients.
#[derive(Clone)]
struct Connected {
    gate: Gate<Routes>,
    info: ConnInfo,
}

impl Service<Request<Body>> for Connected {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Gate<Routes> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.info.clone());
        self.gate.call(request)
    }
}

impl Connected {
    fn agent(&self) -> AgentClient<Self> {
        AgentClient::new(self.clone())
    }

    fn bundle(&self) -> BundleClient<Self> {
        BundleClient::new(self.clone())
    }

    fn entry(&self) -> EntryClient<Self> {
        EntryClient::new(self.clone())
    }

    fn svid(&self) -> SvidClient<Self> {
        SvidClient::new(self.clone())
    }
}

impl Server {
    async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with_limits(attest_limits: AttestLimits) -> Self {
        Self::with(Setup {
            attest_limits,
            ..Setup::default()
        })
        .await
    }

    async fn with(setup: Setup) -> Self {
        let Setup {
            attest_limits,
            people,
            operators,
            two_person,
        } = setup;
        let world = World::new().await;
        let readiness = Readiness::new();
        let hub = Arc::new(Hub::new(History::new(vec![]), world.committer.snapshot().revision()));
        let stop = CancellationToken::new();
        let watch = WatchService::new(
            world.committer.clone(),
            hub.clone(),
            world.clock.clone(),
            WatchSettings::default(),
            TaskFeeds::default(),
            stop,
        );
        let own_svid = ArcSwapOption::<X509Svid>::empty();
        let server_id = world.committer.snapshot().trust_domain().server_id();
        let actor = mayfly_model::Actor::server();
        own_svid.store(Some(Arc::new(
            world
                .issuance
                .minted(&actor, &server_id, &csr(), vec![], None)
                .await
                .unwrap(),
        )));
        let attest = mayfly_node_attest::Deps {
            trust_domain: "td".parse().unwrap(),
            base_dir: "/".into(),
        };
        let join_token = mayfly_node_attest::Builtin::find("join_token").unwrap();
        let join_token = (join_token.server)(toml::Table::new(), &attest).unwrap();
        let people = Arc::new(people);
        let policy = Arc::new(PolicyHolder::new(world.committer.clone(), world.archive()));
        let feeds = TaskFeeds::default();
        let tasks = Tasks::new(TaskParts {
            committer: world.committer.clone(),
            clock: world.clock.clone(),
            policy: policy.clone(),
            people: people.clone(),
            tickets: Arc::new(NoTracker),
            issuance: world.issuance.clone(),
            checkpoints: feeds.checkpoints.clone(),
            hub: hub.clone(),
            settings: TaskSettings::default(),
        });
        let api = Api::new(Deps {
            committer: world.committer.clone(),
            evidence: world.evidence().await,
            issuance: world.issuance.clone(),
            attestors: Attestors::new([join_token, Box::new(Echo) as Box<dyn ServerHalf>]),
            clock: world.clock.clone(),
            readiness: readiness.clone(),
            log: log(),
            own_svid: Arc::new(move || own_svid.load_full().map(|svid| (*svid).clone())),
            roles: RoleMap {
                admin_uids: [ADMIN].into(),
                viewer_uids: [VIEWER].into(),
                admin_ids: [id("/ops")].into(),
                viewer_ids: [id("/auditor"), "spiffe://other/auditor".parse().unwrap()].into(),
                operators,
                ..RoleMap::default()
            },
            people,
            policy,
            two_person,
            tasks,
            authorities: world.authorities.clone(),
            feeds,
            attest_limits,
            join_token_max_ttl: Duration::from_secs(86_400),
            watch: Arc::new(watch),
        });
        Self { world, api, readiness }
    }

    /// A process of user `uid` on the local socket.
    fn local(&self, uid: u32) -> Connected {
        let peer = Peer::Unix(UnixPeer {
            pid: Some(42),
            uid,
            gid: uid,
        });
        Connected {
            gate: routes(&self.api, Face::Local),
            info: ConnInfo::new(peer, None),
        }
    }

    fn admin(&self) -> Connected {
        self.local(ADMIN)
    }

    /// Somebody on the network, with or without an SVID.
    fn remote(&self, svid: Option<&X509Svid>) -> Connected {
        let peer = Peer::Tcp("192.0.2.7:4711".parse().unwrap());
        let chain = svid.map(|svid| svid.chain().to_vec().into());
        Connected {
            gate: routes(&self.api, Face::Remote),
            info: ConnInfo::new(peer, chain),
        }
    }

    /// Somebody on the network with an SVID for `path`.
    async fn workload(&self, path: &str) -> Connected {
        let actor = mayfly_model::Actor::server();
        let svid = self
            .world
            .issuance
            .minted(&actor, &id(path), &csr(), vec![], None)
            .await
            .unwrap();
        self.remote(Some(&svid))
    }

    /// An agent that attested as `name` with the method `echo`.
    async fn agent(&self, name: &str) -> Connected {
        let svid = agents::attest(&self.remote(None), "echo", name.as_bytes(), &csr())
            .await
            .unwrap();
        self.remote(Some(&to_svid(&svid)))
    }

    /// How many things were done so far: the same number before and after means that nothing was.
    async fn done(&self) -> usize {
        // Outcomes are written later; whatever waits is written before this note.
        let note = mayfly_model::Change::Note {
            kind: "test",
            subject: String::new(),
            body: serde_json::Value::Null,
        };
        self.world.commit(note).await.unwrap();
        self.world
            .log()
            .iter()
            .filter(|record| !["test", "svid.outcome"].contains(&record.kind.as_str()))
            .count()
    }
}

/// A method that believes a name, if the node repeats each challenge; `slow` never comes to an end.
#[derive(Debug)]
struct Echo;

#[async_trait]
impl ServerHalf for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
        _: Timestamp,
    ) -> Result<Attested, AttestError> {
        let name = std::str::from_utf8(payload).unwrap();
        for round in 0..if name == "slow" { 100u8 } else { 2 } {
            if challenger.challenge(vec![round]).await? != [round] {
                return Err(AttestError::Refused {
                    reason: "that was no echo".into(),
                });
            }
        }
        Ok(Attested {
            agent_id: id(&format!("/spire/agent/echo/{name}")),
            selectors: [format!("echo:name:{name}").parse().unwrap()].into(),
            reattestable: name != "once",
            one_time: name.strip_prefix("token-").map(TokenHash::of),
        })
    }
}

fn log() -> LogHandle {
    static LOG: OnceLock<LogHandle> = OnceLock::new();
    let settings = LogSettings {
        level: "error".into(),
        ..LogSettings::default()
    };
    LOG.get_or_init(|| init(&settings).unwrap()).clone()
}

fn wire_id(path: &str) -> Option<types::Spiffeid> {
    Some((&id(path)).into())
}

fn selector(text: &str) -> types::Selector {
    (&text.parse::<mayfly_model::Selector>().unwrap()).into()
}

fn wire_entry(path: &str, parent: &SpiffeId) -> types::Entry {
    types::Entry {
        spiffe_id: wire_id(path),
        parent_id: Some(parent.into()),
        selectors: vec![selector("unix:uid:1")],
        ..types::Entry::default()
    }
}

fn to_svid(wire: &types::X509svid) -> X509Svid {
    X509Svid::from_chain(wire.cert_chain.iter().map(|der| der.clone().into()).collect()).unwrap()
}

/// A request that names things, as operators send them.
fn csr_for(uris: &[&str], dns_names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    let dns_names = dns_names
        .iter()
        .map(|name| SanType::DnsName((*name).try_into().unwrap()));
    params.subject_alt_names = uris.chain(dns_names).collect();
    params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}
