//! Clients that do nothing wrong, and how long they wait.

use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::spire::server::bundle::GetBundleRequest;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::server::entry::GetAuthorizedEntriesRequest;
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_svid::Bundle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::transport::Channel;

use crate::attest::{self, Credential};
use crate::{Agent, Caller, Millis, Server, Workload};

/// Between two calls.
const CALLS: Duration = Duration::from_millis(5);
/// Between two new connections, each with a call.
const CONNECTIONS: Duration = Duration::from_millis(25);

/// Who asks.
#[derive(Clone)]
pub enum Honest {
    /// A workload of the agent.
    Workload {
        /// Its process.
        caller: Arc<Mutex<Caller>>,
        /// The agent's socket.
        socket: std::path::PathBuf,
        /// The connection that it has.
        connection: Workload,
        /// What it is to be told that it is.
        id: String,
    },
    /// An agent of the server.
    Agent {
        /// The server's port.
        port: u16,
        /// Its trust bundle.
        bundle: Arc<Bundle>,
        /// What the agent proves itself by.
        credential: Arc<Credential>,
        /// The connection that it has.
        connection: Channel,
    },
}

/// How long honest clients waited.
#[derive(Debug, Default, Clone)]
pub struct Waits {
    /// For a call on a connection that was there.
    pub calls: Millis,
    /// For a call on a new connection, its handshake included.
    pub connections: Millis,
}

impl std::fmt::Debug for Honest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Workload { .. } => "Workload",
            Self::Agent { .. } => "Agent",
        })
    }
}

impl Honest {
    /// A process of `uid` that has an SVID by now, over a connection that it keeps.
    pub async fn workload(agent: &Agent, uid: u32) -> Self {
        let mut caller = Caller::spawn(uid);
        let connection = caller.workload(&agent.socket());
        let first = connection.fetch().await.expect("the workload has an entry");
        Self::Workload {
            socket: agent.socket(),
            id: first.svids[0].spiffe_id.clone(),
            caller: Arc::new(Mutex::new(caller)),
            connection,
        }
    }

    /// An agent that has joined, over a connection that it keeps.
    pub async fn agent(server: &Server) -> Self {
        let admin = server.admin();
        let (bundle, token) = (admin.bundle().await, admin.token().await);
        let credential = attest::join(attest::channel(server.port(), &bundle, None), &token)
            .await
            .expect("the token is good");
        let connection = attest::channel(server.port(), &bundle, Some(&credential));
        let honest = Self::Agent {
            port: server.port(),
            bundle: Arc::new(bundle),
            credential: Arc::new(credential),
            connection,
        };
        honest.call().await;
        honest
    }

    /// The processes of its own that it has: those that connect for it.
    pub async fn processes(&self) -> Vec<u32> {
        match self {
            Self::Workload { caller, .. } => vec![caller.lock().await.pid()],
            Self::Agent { .. } => vec![],
        }
    }

    /// Asks at a steady pace for `time`, whether answers come or not, and waits for all answers.
    ///
    /// # Panics
    /// An answer is an error, or another than it should be.
    pub async fn ask_for(&self, time: Duration, waits: &mut Waits) {
        let end = Instant::now() + time;
        let (mut calls, mut connections) = (interval(CALLS), interval(CONNECTIONS));
        // A tick that is missed is made up for: what waits is measured from when it was due.
        calls.set_missed_tick_behavior(MissedTickBehavior::Burst);
        connections.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut on_old, mut on_new) = (JoinSet::new(), JoinSet::new());
        while Instant::now() < end {
            tokio::select! {
                due = calls.tick() => {
                    let honest = self.clone();
                    on_old.spawn(async move {
                        honest.call().await;
                        due.elapsed()
                    });
                }
                due = connections.tick() => {
                    let honest = self.clone();
                    on_new.spawn(async move {
                        honest.connect_and_call().await;
                        due.elapsed()
                    });
                }
            }
        }
        while let Some(wait) = on_old.join_next().await {
            waits.calls.push(wait.expect("honest calls are answered"));
        }
        while let Some(wait) = on_new.join_next().await {
            waits.connections.push(wait.expect("honest connections are accepted"));
        }
    }

    /// Asks on the connection that it has.
    ///
    /// # Panics
    /// The answer is an error, or another than it should be.
    pub async fn call(&self) {
        match self {
            Self::Workload { connection, id, .. } => fetch(connection, id).await,
            Self::Agent { connection, .. } => {
                EntryClient::new(connection.clone())
                    .get_authorized_entries(GetAuthorizedEntriesRequest::default())
                    .await
                    .expect("an agent is told its entries");
            }
        }
    }

    /// Asks on a new connection.
    ///
    /// # Panics
    /// As [`Self::call`].
    pub async fn connect_and_call(&self) {
        match self {
            Self::Workload { caller, socket, id, .. } => {
                let (mut caller, socket) = (Arc::clone(caller).lock_owned().await, socket.clone());
                // The process is waited for: not by a thread that other clients need.
                let connected = tokio::task::spawn_blocking(move || caller.connect(&socket)).await;
                let connection = Workload::over(connected.expect("the process connects"));
                fetch(&connection, id).await;
            }
            Self::Agent {
                port,
                bundle,
                credential,
                ..
            } => {
                let channel = attest::channel(*port, bundle, Some(credential));
                BundleClient::new(channel)
                    .get_bundle(GetBundleRequest { output_mask: None })
                    .await
                    .expect("an agent is told the bundle");
            }
        }
    }
}

async fn fetch(connection: &Workload, id: &str) {
    let answer = connection.fetch().await.expect("a workload gets its SVID");
    assert_eq!(answer.svids[0].spiffe_id, id, "its own and no other");
}
