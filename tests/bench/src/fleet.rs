//! Simulated agents: to the server they are agents, here they are a connection and a task each.
//!
//! They follow the server as our agents do (`agent/src/sync`): one stream, an acknowledgement for each update, the same
//! pauses between attempts, and they go on from the revision that they hold. As witnesses they cosign what they are shown of
//! the log, with keys of their own that the server checks and enters in the log; what they are shown they believe. Or they
//! poll, as SPIRE's agents do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mayfly_proto::mayfly::agent::watch_client::WatchClient;
use mayfly_proto::mayfly::agent::watch_request::Body as Outbound;
use mayfly_proto::mayfly::agent::watch_response::Body as Inbound;
use mayfly_proto::mayfly::agent::{Ack, Hello, LogHead, WatchRequest, Witness, Witnessed};
use mayfly_proto::spire::server::bundle::GetBundleRequest;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::server::entry::SyncAuthorizedEntriesRequest;
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_proto::status::retry_after;
use mayfly_runtime::{BackoffPolicy, Clock as _, SystemClock};
use mayfly_tlog::checkpoint::Checkpoint;
use mayfly_tlog::cosignature::cosign;
use mayfly_tlog::note::{Algorithm, Ed25519Key, Note, NoteSigner as _};
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::target::{Identity, Target, Traffic};

/// As an agent's own.
const RECONNECT: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(250), Duration::from_secs(30));
/// Handshakes that this process has under way at a time. Each agent has a processor of its own; these share one, and
/// one that waits for it would be taken for slow.
const HANDSHAKES: usize = 256;
/// Between two polls of an agent of SPIRE.
const POLL: Duration = Duration::from_secs(5);

/// How agents follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// Our stream.
    Watch,
    /// Two calls every five seconds.
    Poll,
}

/// Agents that are connected, or try to be. They end when dropped.
#[derive(Debug)]
pub struct Fleet {
    /// What they have seen.
    pub state: Rc<State>,
    target: Target,
    following: Following,
    agents: JoinSet<()>,
}

/// What the agents of a fleet have seen together.
#[derive(Debug)]
pub struct State {
    in_step: Cell<usize>,
    updates: Cell<u64>,
    heads: Cell<u64>,
    longest: Cell<usize>,
    failures: RefCell<BTreeMap<String, u64>>,
    arrivals: RefCell<Vec<Arrival>>,
    recording: Cell<bool>,
    handshakes: Semaphore,
    traffic: Arc<Traffic>,
}

/// A whole update at an agent.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// IDs of the entries that it brought.
    pub entries: Vec<String>,
    /// IDs of those that it took.
    pub removed: Vec<String>,
}

/// What an agent holds.
struct Held {
    history: String,
    revision: u64,
    cosigner: Cosigner,
}

/// An agent as a witness that believes what it is shown.
struct Cosigner {
    key: Ed25519Key,
    /// The last checkpoint, a note.
    checkpoint: Vec<u8>,
}

impl Fleet {
    /// Without agents.
    pub fn new(target: &Target, following: Following) -> Self {
        Self {
            state: Rc::new(State {
                in_step: Cell::new(0),
                updates: Cell::new(0),
                heads: Cell::new(0),
                longest: Cell::new(0),
                failures: RefCell::default(),
                arrivals: RefCell::default(),
                recording: Cell::new(false),
                handshakes: Semaphore::new(HANDSHAKES),
                traffic: Arc::default(),
            }),
            target: target.clone(),
            following,
            agents: JoinSet::new(),
        }
    }

    /// Lets these agents connect, and waits until they are in step.
    ///
    /// # Errors
    /// They are not within `patience`.
    pub async fn connect(&mut self, identities: &[Identity], patience: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let wanted = self.agents.len() + identities.len();
        for identity in identities {
            let (target, identity) = (self.target.clone(), identity.clone());
            let agent = live(target, identity, Rc::clone(&self.state), self.following);
            self.agents.spawn_local(agent);
        }
        self.wait_in_step(wanted, patience).await?;
        Ok(begun.elapsed())
    }

    /// Waits until `wanted` agents are in step.
    ///
    /// # Errors
    /// They are not within `patience`.
    pub async fn wait_in_step(&self, wanted: usize, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.state.in_step.get() < wanted {
            ensure!(
                Instant::now() < deadline,
                "{} of {wanted} agents are in step after {patience:?}; what failed: {:?}",
                self.state.in_step.get(),
                self.state.failures.borrow()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }
}

impl State {
    /// Agents that hold what the server has told them last, over a connection that stands.
    pub fn in_step(&self) -> usize {
        self.in_step.get()
    }

    /// Updates so far, of all agents.
    pub fn updates(&self) -> u64 {
        self.updates.get()
    }

    /// Checkpoints of the log that were cosigned so far, by all agents.
    pub fn heads(&self) -> u64 {
        self.heads.get()
    }

    /// The longest message so far, in octets.
    pub fn longest(&self) -> usize {
        self.longest.get()
    }

    /// Octets below TLS so far, to the server and from it.
    pub fn octets(&self) -> (u64, u64) {
        (
            self.traffic.up.load(Ordering::Relaxed),
            self.traffic.down.load(Ordering::Relaxed),
        )
    }

    /// Attempts that failed so far.
    pub fn failures(&self) -> u64 {
        self.failures.borrow().values().sum()
    }

    /// What those attempts failed by.
    pub fn reasons(&self) -> String {
        format!("{:?}", self.failures.borrow())
    }

    /// Begins to take down arrivals.
    pub fn record(&self) {
        self.recording.set(true);
        self.arrivals.borrow_mut().clear();
    }

    /// The arrivals since then; stops taking them down.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.recording.set(false);
        std::mem::take(&mut *self.arrivals.borrow_mut())
    }

    /// How many arrivals were taken down that fit.
    pub fn count(&self, fits: impl Fn(&Arrival) -> bool) -> usize {
        self.arrivals.borrow().iter().filter(|arrival| fits(arrival)).count()
    }
}

impl Cosigner {
    fn new(identity: &Identity) -> Result<Self> {
        let id = identity.id.to_string();
        let name = id.strip_prefix("spiffe://").unwrap_or(&id);
        let (key, _) = Ed25519Key::generate(name, Algorithm::CosignatureV1)?;
        Ok(Self {
            key,
            checkpoint: vec![],
        })
    }

    fn hello(&self) -> Witness {
        Witness {
            key: self.key.verifier_key().to_string(),
            checkpoint: self.checkpoint.clone(),
            refused: String::new(),
        }
    }

    fn sees(&mut self, head: LogHead) -> Result<Witnessed> {
        let note = Note::parse(&head.checkpoint)?;
        let now = u64::try_from(SystemClock.unix_now())?;
        let cosignature = cosign(&self.key, note.text(), now)?;
        let size = Checkpoint::parse(note.text())?.size();
        self.checkpoint = head.checkpoint;
        Ok(Witnessed {
            size,
            cosignature: cosignature.to_string().into_bytes(),
            refused: String::new(),
        })
    }
}

/// Counts an agent as in step until dropped.
struct InStep<'s>(&'s State);

impl<'s> InStep<'s> {
    fn new(state: &'s State) -> Self {
        state.in_step.set(state.in_step.get() + 1);
        Self(state)
    }
}

impl Drop for InStep<'_> {
    fn drop(&mut self) {
        self.0.in_step.set(self.0.in_step.get() - 1);
    }
}

/// An agent's life: follows, and comes back when that ends.
async fn live(target: Target, identity: Identity, state: Rc<State>, following: Following) {
    let cosigner = Cosigner::new(&identity).expect("the system has randomness, and an ID is the name of a key");
    let mut held = Held {
        history: String::new(),
        revision: 0,
        cosigner,
    };
    let mut backoff = RECONNECT.start();
    let mut connection = None;
    loop {
        let begun = Instant::now();
        let error = match follow(&target, &identity, &state, following, &mut held, &mut connection).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if begun.elapsed() > Duration::from_secs(1) {
            backoff.reset();
        }
        let status = error.downcast_ref::<Status>();
        let pause = match status.and_then(retry_after) {
            // Asked to come back: the connection is good, and is used again.
            Some(hint) => backoff.next_delay_with_hint(hint),
            None => {
                connection = None;
                backoff.next_delay()
            }
        };
        let what = status.map_or_else(
            || error.to_string(),
            |status| format!("{}: {}", status.code(), status.message()),
        );
        *state.failures.borrow_mut().entry(what).or_default() += 1;
        tokio::time::sleep(pause).await;
    }
}

async fn follow(
    target: &Target,
    identity: &Identity,
    state: &State,
    following: Following,
    held: &mut Held,
    connection: &mut Option<Channel>,
) -> Result<std::convert::Infallible> {
    let channel = match connection {
        Some(channel) => channel.clone(),
        None => {
            let _place = state.handshakes.acquire().await?;
            let connected = target.connect(identity, &state.traffic).await;
            connection.insert(connected.context("no connection")?).clone()
        }
    };
    match following {
        Following::Watch => watch(channel, state, held).await,
        Following::Poll => poll(channel, state).await,
    }
}

async fn watch(channel: Channel, state: &State, held: &mut Held) -> Result<std::convert::Infallible> {
    let (requests, outgoing) = mpsc::channel(3);
    let hello = Hello {
        agent_version: "bench".into(),
        history: held.history.clone(),
        revision: held.revision,
        window_ids: vec![],
        witness: Some(held.cosigner.hello()),
    };
    let request = |body| WatchRequest { body: Some(body) };
    requests.send(request(Outbound::Hello(hello))).await?;
    let mut client = WatchClient::new(channel).max_decoding_message_size(64 << 20);
    let mut responses = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut in_step = None;
    let (mut entries, mut removed) = (vec![], vec![]);
    while let Some(message) = responses.message().await? {
        state.longest.set(state.longest.get().max(message.encoded_len()));
        match message.body {
            Some(Inbound::Update(update)) => {
                if state.recording.get() {
                    entries.extend(update.entries.into_iter().map(|entry| entry.id));
                    removed.extend(update.removed_entry_ids);
                }
                if update.more {
                    continue;
                }
                (held.history, held.revision) = (update.history, update.revision);
                state.updates.set(state.updates.get() + 1);
                in_step.get_or_insert_with(|| InStep::new(state));
                if state.recording.get() {
                    state.arrivals.borrow_mut().push(Arrival {
                        at: Instant::now(),
                        entries: std::mem::take(&mut entries),
                        removed: std::mem::take(&mut removed),
                    });
                }
                let ack = Ack {
                    revision: held.revision,
                    rejected: vec![],
                };
                requests.send(request(Outbound::Ack(ack))).await?;
            }
            Some(Inbound::Beacon(beacon)) => held.revision = held.revision.max(beacon.revision),
            Some(Inbound::LogHead(head)) => {
                let answer = held.cosigner.sees(head)?;
                state.heads.set(state.heads.get() + 1);
                requests.send(request(Outbound::Witnessed(answer))).await?;
            }
            None => bail!("a message without content"),
        }
    }
    bail!("the server ended the stream without a status")
}

async fn poll(channel: Channel, state: &State) -> Result<std::convert::Infallible> {
    let mut entries = EntryClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let mut bundles = BundleClient::new(channel);
    let mut in_step = None;
    loop {
        let first = SyncAuthorizedEntriesRequest::default();
        let mut answers = entries
            .sync_authorized_entries(tokio_stream::iter([first]))
            .await?
            .into_inner();
        while let Some(answer) = answers.message().await? {
            state.longest.set(state.longest.get().max(answer.encoded_len()));
        }
        bundles.get_bundle(GetBundleRequest::default()).await?;
        state.updates.set(state.updates.get() + 1);
        in_step.get_or_insert_with(|| InStep::new(state));
        // Agents start at different moments, so their polls are spread as those of a grown fleet are.
        tokio::time::sleep(POLL).await;
    }
}
