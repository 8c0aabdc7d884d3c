//! A server in this process that behaves, and misbehaves, as a test says: the real wire, over the real TLS listener.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

mod ca;
mod services;
mod tasks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mayfly_proto::spire::types;
use mayfly_proto::status::Reason;
use mayfly_runtime::CancellationToken;
use mayfly_runtime::listen::{self, Limits, Server, Tls};
use mayfly_verify::{Authorize, BundleSet, ClientAuth, SpiffeClientVerifier, server_config};
use rustls::time_provider::DefaultTimeProvider;
use tokio::sync::watch;

pub(super) use ca::TestCa;

/// What the server knows and how it behaves.
pub(super) struct State {
    /// What was asked of it, in order: `Hello h 3`, `AttestAgent join_token`, …
    pub(super) log: Vec<String>,
    /// The one token that is good; taken by the first that brings it.
    pub(super) token: Option<String>,
    pub(super) reattestable: bool,
    /// Of agent SVIDs, and how much of it is over at once; one for each, the last one stays.
    pub(super) lifetimes: Vec<(Duration, f64)>,
    /// Agents are refused for this reason.
    pub(super) refusal: Option<Reason>,
    /// Renewal is refused for this reason.
    pub(super) renew_refusal: Option<Reason>,
    /// Whether there is a watch stream at all.
    pub(super) watch: bool,
    /// Watch is refused so often, with this advice.
    pub(super) busy: Option<(u32, Duration)>,
    pub(super) beacon: Duration,
    pub(super) silent: bool,
    pub(super) history: String,
    pub(super) revision: u64,
    /// By ID: at which revision it changed, and what it is now.
    pub(super) entries: BTreeMap<String, (u64, Option<types::Entry>)>,
    /// Entry lists that are longer than this are sent sparse, in pages of two.
    pub(super) sparse_above: usize,
    pub(super) federated: BTreeMap<String, types::Bundle>,
    /// The largest batch that is signed.
    pub(super) max_batch: usize,
    pub(super) serials: Vec<String>,
    /// Streams older than this are cut.
    pub(super) cut: u64,
    pub(super) tasks: tasks::TaskBook,
}

/// Handle of a server that can be changed while it runs.
#[derive(Clone)]
pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    pub(super) ca: Arc<TestCa>,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    stop: CancellationToken,
}

impl TestServer {
    /// `td`, token `t0`, one entry `a`.
    pub(super) async fn start() -> Self {
        Self::start_as(
            Arc::new(TestCa::new("td")),
            "spiffe://td/spire/server",
            "127.0.0.1:0".parse().unwrap(),
        )
        .await
    }

    pub(super) async fn start_as(ca: Arc<TestCa>, id: &str, address: SocketAddr) -> Self {
        mayfly_runtime::install_crypto_provider();
        let state = State {
            log: vec![],
            token: Some("t0".into()),
            reattestable: false,
            lifetimes: vec![(Duration::from_secs(3600), 0.0)],
            refusal: None,
            renew_refusal: None,
            watch: true,
            busy: None,
            beacon: Duration::from_millis(100),
            silent: false,
            history: "h1".into(),
            revision: 1,
            entries: BTreeMap::new(),
            sparse_above: 500,
            federated: BTreeMap::new(),
            max_batch: 500,
            serials: vec![],
            cut: 0,
            tasks: tasks::TaskBook::default(),
        };
        let (state, changed) = (Arc::new(Mutex::new(state)), watch::Sender::new(()));
        let mut server = Self {
            address,
            ca,
            state,
            changed,
            stop: CancellationToken::new(),
        };
        server.put("a", "/a");
        server.listen(id);
        server
    }

    fn listen(&mut self, id: &str) {
        let anchors = Arc::new(BundleSet::new());
        anchors.publish([&self.ca.bundle()]);
        let authorize = Authorize::MemberOf(self.ca.trust_domain.clone());
        let verifier = SpiffeClientVerifier::new(anchors, authorize, ClientAuth::Optional);
        let resolver = Arc::new(self.ca.server_resolver(id));
        let config = server_config(resolver, Arc::new(verifier), Arc::new(DefaultTimeProvider));
        let limits = Limits {
            drain_timeout: Duration::from_millis(20),
            ..Limits::default()
        };
        let listener = listen::bind_tcp(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        let tls = Tls::new(Arc::new(config), &limits);
        let serve = Server::new("test", listener, limits).acceptor(tls);
        let routes = services::routes(self.clone());
        tokio::spawn(serve.serve(routes, self.stop.clone()));
    }

    /// Gone, with all connections.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// There again at the same address, with the same state.
    pub(super) fn restart(&mut self) {
        self.stop = CancellationToken::new();
        self.listen("spiffe://td/spire/server");
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the state and wakes the streams.
    pub(super) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }

    /// Adds or changes an entry.
    pub(super) fn put(&self, id: &str, path: &str) {
        self.set(|state| {
            state.revision += 1;
            let old = state.entries.get(id).and_then(|(_, entry)| entry.as_ref());
            let number = old.map_or(0, |entry| entry.revision_number + 1);
            let entry = super::holdings::tests::wire_entry(id, path, number);
            state.entries.insert(id.into(), (state.revision, Some(entry)));
        });
    }

    pub(super) fn delete(&self, id: &str) {
        self.set(|state| {
            state.revision += 1;
            state.entries.insert(id.into(), (state.revision, None));
        });
    }

    /// Ends all streams; the connection stays.
    pub(super) fn cut_streams(&self) {
        self.set(|state| state.cut += 1);
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// How many calls begin with `what`.
    pub(super) fn count(&self, what: &str) -> usize {
        self.state().log.iter().filter(|line| line.starts_with(what)).count()
    }
}
