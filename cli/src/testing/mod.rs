//! A server and an agent in memory, behind real sockets, to run whole command lines against.
//!
//! The clock stands at 2026-01-01T00:00:00Z. What is random (keys, signatures) never reaches a snapshot: [`Ran::text`]
//! takes PEM blocks and the folder of the test out.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use mayfly_proto::grpc::health::health_server::HealthServer;
use mayfly_proto::mayfly::task::debt_server::DebtServer;
use mayfly_proto::mayfly::task::definitions_server::DefinitionsServer;
use mayfly_proto::mayfly::task::exceptions_server::ExceptionsServer;
use mayfly_proto::mayfly::task::policy_server::PolicyServer;
use mayfly_proto::mayfly::task::proposals_server::ProposalsServer;
use mayfly_proto::mayfly::task::tasks_server::TasksServer;
use mayfly_proto::mayfly::task::{
    Definition, Exception, Lint, PolicyFiles, Proposal, RevokeRequest, Task, WhatIfResponse,
};
use mayfly_proto::spiffe::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use mayfly_proto::spire::server::agent::agent_server::AgentServer;
use mayfly_proto::spire::server::bundle::bundle_server::BundleServer;
use mayfly_proto::spire::server::debug::debug_server::DebugServer;
use mayfly_proto::spire::server::entry::entry_server::EntryServer;
use mayfly_proto::spire::server::svid::svid_server::SvidServer;
use mayfly_proto::spire::types::{Agent, Entry, Selector, Spiffeid};
use mayfly_runtime::ManualClock;
use mayfly_svid::Bundle;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Status};

use crate::ask::Asker;
use crate::output::Output;

mod ca;
mod server;
pub(crate) mod tasks;
mod workload;

pub(crate) use ca::TestCa;

/// 2026-01-01T00:00:00Z, where the clock of the tests stands.
pub(crate) const NOW: i64 = 1_767_225_600;
/// The agent that the fake knows.
pub(crate) const AGENT: &str = "spiffe://example.org/spire/agent/x509pop/rack-7";

/// What a command wrote.
#[derive(Debug, Clone, Default)]
pub(crate) struct Captured {
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
}

struct Sink(Arc<Mutex<Vec<u8>>>);

/// A command line that ran.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
    dir: String,
}

/// What the fakes know and were told.
pub(crate) struct State {
    pub(crate) entries: Vec<Entry>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) foreign: Vec<Bundle>,
    pub(crate) ca: TestCa,
    /// Versions of definitions, oldest first.
    pub(crate) definitions: Vec<Definition>,
    /// Changes wait for a second person.
    pub(crate) two_person: bool,
    pub(crate) proposals: Vec<Proposal>,
    pub(crate) exceptions: Vec<Exception>,
    pub(crate) lints: Vec<Lint>,
    pub(crate) policy: PolicyFiles,
    pub(crate) what_if: WhatIfResponse,
    /// What would turn a decision.
    pub(crate) flips: Vec<String>,
    /// Requests, newest first.
    pub(crate) tasks: Vec<Task>,
    pub(crate) crls: Vec<Vec<u8>>,
    pub(crate) epoch: u64,
    pub(crate) revoked: Vec<RevokeRequest>,
    /// The reason that the last message had in itself.
    pub(crate) last_text: String,
    /// Every call to the server fails with this.
    pub(crate) refuse: Option<Status>,
    /// What the Workload API answers, one item after the other; the last one again and again.
    pub(crate) workload: Vec<Result<Vec<&'static str>, Status>>,
    pub(crate) last_reason: Option<String>,
    /// Calls by name, in order.
    pub(crate) calls: Vec<&'static str>,
    /// Items of a page at most.
    pub(crate) page: usize,
    pub(crate) serving: bool,
}

/// The shared state of the fakes.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

/// A running fake.
pub(crate) struct Fake {
    dir: tempfile::TempDir,
    state: Shared,
    clock: Arc<ManualClock>,
    _servers: tokio::task::JoinSet<()>,
}

impl Fake {
    /// Both sockets are listening when this returns.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = Shared(Arc::new(Mutex::new(State {
            entries: vec![],
            agents: vec![agent(AGENT, "x509pop", &["x509pop:subject:cn:rack-7"])],
            foreign: vec![],
            ca: TestCa::new("example.org"),
            definitions: vec![],
            two_person: false,
            proposals: vec![],
            exceptions: vec![],
            lints: vec![],
            policy: PolicyFiles::default(),
            what_if: WhatIfResponse::default(),
            flips: vec![],
            tasks: vec![],
            crls: vec![],
            epoch: 7,
            revoked: vec![],
            last_text: String::new(),
            refuse: None,
            workload: vec![Ok(vec!["spiffe://example.org/web"])],
            last_reason: None,
            calls: vec![],
            page: 100,
            serving: true,
        })));
        let mut servers = tokio::task::JoinSet::new();
        let incoming = |name: &str| UnixListenerStream::new(UnixListener::bind(dir.path().join(name)).unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(EntryServer::new(state.clone()))
            .add_service(AgentServer::new(state.clone()))
            .add_service(BundleServer::new(state.clone()))
            .add_service(SvidServer::new(state.clone()))
            .add_service(DebugServer::new(state.clone()))
            .add_service(DefinitionsServer::new(state.clone()))
            .add_service(PolicyServer::new(state.clone()))
            .add_service(ProposalsServer::new(state.clone()))
            .add_service(ExceptionsServer::new(state.clone()))
            .add_service(DebtServer::new(state.clone()))
            .add_service(TasksServer::new(state.clone()))
            .add_service(HealthServer::new(state.clone()))
            .serve_with_incoming(incoming("server.sock"));
        servers.spawn(async move { server.await.unwrap() });
        let agent = tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(state.clone()))
            .add_service(HealthServer::new(state.clone()))
            .serve_with_incoming(incoming("agent.sock"));
        servers.spawn(async move { agent.await.unwrap() });
        Self {
            dir,
            state,
            clock: Arc::new(ManualClock::default()),
            _servers: servers,
        }
    }

    /// Runs `mayfly <args>` against this fake, as in a terminal of 120 columns.
    pub(crate) async fn mayfly(&self, args: &[&str]) -> Ran {
        let sockets = [
            "--server-socket".into(),
            self.dir.path().join("server.sock").into_os_string(),
            "--agent-socket".into(),
            self.dir.path().join("agent.sock").into_os_string(),
        ];
        let args = args.iter().map(OsString::from).chain(sockets);
        mayfly(args, Arc::clone(&self.clock), self.dir.path()).await
    }

    /// The same with somebody at the terminal who types `answer`.
    pub(crate) async fn typing(&self, args: &[&str], answer: &'static str) -> Ran {
        let socket = self.dir.path().join("server.sock").into_os_string();
        let args = args.iter().map(OsString::from);
        let args = args.chain(["--server-socket".into(), socket]);
        let asker = Asker::of_test(answer);
        run(args, Arc::clone(&self.clock), asker, self.dir.path()).await
    }

    /// The folder of this test.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into it; its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Puts a definition in force; its hash.
    pub(crate) fn define(&self, text: &str) -> String {
        server::put_definition(&mut self.state(), text, "bob")
    }

    /// What the fakes know.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The reason that came with the last call.
    pub(crate) fn last_reason(&self) -> Option<String> {
        self.state().last_reason.clone()
    }
}

/// Runs `mayfly <args>` with nothing behind it.
pub(crate) async fn mayfly(args: impl IntoIterator<Item = OsString>, clock: Arc<ManualClock>, dir: &Path) -> Ran {
    run(args, clock, Asker::nobody(), dir).await
}

async fn run(args: impl IntoIterator<Item = OsString>, clock: Arc<ManualClock>, asker: Asker, dir: &Path) -> Ran {
    let captured = Captured::default();
    let args = std::iter::once(OsString::from("mayfly")).chain(args);
    let exit = crate::run(args, clock, asker, |format| {
        Output::into_writers(format, Some(120), captured.out(), captured.err())
    })
    .await;
    Ran {
        code: exit.code(),
        out: captured.stdout(),
        // clap's colours, which a pipe would not get.
        err: anstream::adapter::strip_str(&captured.stderr()).to_string(),
        dir: dir.display().to_string(),
    }
}

/// An agent that is in force for an hour.
pub(crate) fn agent(id: &str, attestation_type: &str, selectors: &[&str]) -> Agent {
    Agent {
        id: Some(wire_id(id)),
        attestation_type: attestation_type.into(),
        x509svid_serial_number: "4711".into(),
        x509svid_expires_at: NOW + 3600,
        selectors: selectors.iter().map(|text| wire_selector(text)).collect(),
        banned: false,
        can_reattest: attestation_type != "join_token",
        agent_version: "0.1.0".into(),
    }
}

/// An entry with a fixed ID.
pub(crate) fn entry(id: &str, spiffe_id: &str, parent_id: &str, selectors: &[&str]) -> Entry {
    Entry {
        id: id.into(),
        spiffe_id: Some(wire_id(spiffe_id)),
        parent_id: Some(wire_id(parent_id)),
        selectors: selectors.iter().map(|text| wire_selector(text)).collect(),
        created_at: NOW - 86_400,
        ..Entry::default()
    }
}

pub(crate) fn wire_id(id: &str) -> Spiffeid {
    crate::cmd::entry::id_to_wire(&id.parse().unwrap())
}

fn wire_selector(text: &str) -> Selector {
    crate::cmd::entry::selector_text_to_wire(text).unwrap()
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Notes the call; its state, unless every call is to fail.
    fn enter<T>(&self, name: &'static str, request: &tonic::Request<T>) -> Result<MutexGuard<'_, State>, Status> {
        let mut state = self.lock();
        state.calls.push(name);
        let reason = request.metadata().get("mayfly-reason");
        state.last_reason = reason.map(|value| value.to_str().unwrap().to_owned());
        match &state.refuse {
            Some(status) => Err(status.clone()),
            None => Ok(state),
        }
    }
}

fn unimplemented() -> Status {
    Status::new(Code::Unimplemented, "not in this fake")
}

// === impl Captured ===

impl Captured {
    pub(crate) fn out(&self) -> Box<dyn Write + Send> {
        Box::new(Sink(Arc::clone(&self.out)))
    }

    pub(crate) fn err(&self) -> Box<dyn Write + Send> {
        Box::new(Sink(Arc::clone(&self.err)))
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.out.lock().unwrap().clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.err.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Ran ===

impl Ran {
    /// stdout, stderr and exit code, without what differs from run to run.
    pub(crate) fn text(&self) -> String {
        let err = if self.err.is_empty() {
            String::new()
        } else {
            format!("--- stderr\n{}", self.err)
        };
        let all = format!("{}{err}--- exit code {}\n", self.out, self.code).replace(&self.dir, "<dir>");
        without_pem(&all).replace(&me_text(), "uid <uid>")
    }

    /// stdout as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

fn me_text() -> String {
    crate::errors::me()
}

fn without_pem(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some(start) = rest.find("-----BEGIN ") {
        kept.push_str(&rest[..start]);
        kept.push_str("<PEM>");
        let end = rest[start..]
            .find("-----END ")
            .map_or(rest.len(), |end| start + end + "-----END ".len());
        let line = rest[end..].find("-----").map_or(rest.len(), |dashes| end + dashes + 5);
        rest = &rest[line..];
    }
    kept + rest
}
