//! Who watches this log: agents, by the stream that they have open, and witnesses elsewhere that the settings name.
//!
//! ```text
//!   Evidence ── published ──▶ heads.rs: what an agent is shown, with its proof ──▶ agents ─┐ cosignatures
//!                         └─▶ remote.rs: add-checkpoint (C2SP tlog-witness) ──▶ witnesses ─┤
//!                ▲                                                                         │
//!                └────────────── cosigned_by_agent(), take() ◀─────────────────────────────┘
//! ```
//!
//! It works both ways: whoever shows a checkpoint that this server's own key signed and that its log does not lead to
//! proves that the database is an old or another one. Then there are no task SVIDs until the server was started anew
//! with the right one; base SVIDs stay.
//!
//! Not here: what a witness does (`mayfly-tlog`), the stream (`api`).

mod heads;
mod post;
mod remote;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mayfly_model::{Actor, Change, Step};
use mayfly_runtime::{Chain, Lacking, Readiness};
use mayfly_svid::SpiffeId;
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::cosignature;
use mayfly_tlog::note::{Algorithm, Signature, VerifierKey};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tracing::{error, info, warn};

use super::{Evidence, EvidenceError};

pub use heads::{Head, Inclusion};
pub use post::{WitnessUrl, WitnessUrlError};
pub use remote::RemoteWitness;

/// The event of a key that cosigned for the first time: `{"name", "vkey"}`.
const REGISTERED: &str = "witness.registered";
/// Keys of one name that are entered in the log. An agent has one for as long as it has its data folder.
const KEYS_OF_ONE: usize = 8;
/// Cosignatures of agents that a checkpoint carries; the rest of the places are for witnesses elsewhere.
const FROM_AGENTS: usize = 16;
/// What a server in doubt does without, in the words of `/ready`, before the reason. It stays ready: agents are to get
/// base SVIDs from it, and whoever takes it out of service takes those from them.
const TASK_SVIDS: &str = "task SVIDs: the database is not the one that belongs to the log that was shown";

/// All who watch the log of this server.
pub struct Witnesses {
    evidence: Arc<Evidence>,
    heads: heads::Heads,
    registered: Mutex<Registered>,
    doubt: Mutex<Option<Doubt>>,
    readiness: Readiness,
    metrics: Metrics,
}

/// Enters a key in the log while it is awaited.
pub type Registering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// By name, the keys that were seen and where the log says so; not yet, while an entry is on its way.
#[derive(Default)]
struct Registered(HashMap<String, BTreeMap<String, Option<u64>>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    /// Its name has had so many that one more does not count.
    TooMany,
    Entering,
    Entered(u64),
}

/// A key whose entry is on its way. If that comes to nothing, it is as if the key had never been seen.
struct EnteringKey<'a> {
    of: &'a Mutex<Registered>,
    key: &'a VerifierKey,
    index: Option<u64>,
}

struct Doubt {
    why: Arc<str>,
    /// Until the process ends.
    _lacking: Lacking,
}

#[derive(Default)]
struct Metrics {
    cosigned: Family<Label, Gauge>,
    failures: Family<Label, Counter>,
    from_agents: Counter,
    refusals: Counter,
    doubted: Gauge,
}

/// A witness of the settings: there are few.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    witness: String,
}

// === impl Witnesses ===

impl Witnesses {
    /// Those of `evidence`, whose entries name the keys that are known already. `readiness` is told of a doubt.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn open(evidence: Arc<Evidence>, readiness: Readiness) -> Result<Arc<Self>, EvidenceError> {
        let entries = evidence
            .archive()
            .read(|reader| reader.of_kind(REGISTERED, 0, usize::MAX))
            .await?;
        let mut registered = Registered::default();
        for (index, entry) in entries {
            let entry: Value = serde_json::from_str(&entry).unwrap_or_default();
            let (name, vkey) = (entry["body"]["name"].as_str(), entry["body"]["vkey"].as_str());
            if let (Some(name), Some(vkey)) = (name, vkey) {
                let keys = registered.0.entry(name.to_owned()).or_default();
                keys.entry(vkey.to_owned()).or_insert(Some(index));
            }
        }
        Ok(Arc::new(Self {
            evidence,
            heads: heads::Heads::default(),
            registered: Mutex::new(registered),
            doubt: Mutex::new(None),
            readiness,
            metrics: Metrics::default(),
        }))
    }

    /// Its metrics; register them once.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("log");
        let Metrics {
            cosigned,
            failures,
            from_agents,
            refusals,
            doubted,
        } = &self.metrics;
        let text = "When a witness of the settings cosigned last, Unix seconds; 0 before it did";
        registry.register("witness_cosigned_timestamp_seconds", text, cosigned.clone());
        let text = "Checkpoints that a witness of the settings did not cosign";
        registry.register("witness_failures", text, failures.clone());
        registry.register("agent_cosignatures", "Cosignatures of agents", from_agents.clone());
        registry.register(
            "witness_refusals",
            "Times that somebody refused this log",
            refusals.clone(),
        );
        let text = "1 if the database does not lead to a checkpoint that was shown to others";
        registry.register("doubted", text, doubted.clone());
    }

    /// Why there are no task SVIDs, if there are none: the database does not lead to what was shown to others.
    pub fn doubt(&self) -> Option<Arc<str>> {
        lock(&self.doubt).as_ref().map(|doubt| doubt.why.clone())
    }

    /// The key that `agent` cosigns by, from what it says. None if it is not one in its own name.
    pub fn key_of(&self, agent: &SpiffeId, key: &str) -> Option<VerifierKey> {
        let found = key.parse::<VerifierKey>().ok();
        let id = agent.to_string();
        let is_its_own = |key: &VerifierKey| {
            key.algorithm() == Algorithm::CosignatureV1 && Some(key.name()) == id.strip_prefix("spiffe://")
        };
        let found = found.filter(is_its_own);
        if found.is_none() {
            warn!(agent_id = %agent, "the agent's key for cosignatures is not one in its own name");
        }
        found
    }

    /// An agent says that it refuses this log.
    pub fn refused_by(&self, agent: &SpiffeId, why: &str) {
        self.metrics.refusals.inc();
        let why: String = why.chars().filter(|c| !c.is_control()).take(512).collect();
        error!(agent_id = %agent, why, "an agent refuses this server's log, and serves no task SVIDs");
    }

    /// Takes an agent's cosignature of the checkpoint over `size` entries. What it answers enters the agent's key in the
    /// log, if it is a new one: whoever has a copy of the log can tell only signatures by keys that stand in it, so the
    /// key cosigns what comes after that entry.
    #[must_use = "a key that is not entered cosigns nothing"]
    pub fn cosigned_by_agent(
        self: &Arc<Self>,
        agent: &SpiffeId,
        key: &VerifierKey,
        size: u64,
        lines: &[u8],
    ) -> Option<Registering> {
        let published = self.evidence.published();
        let checkpoint = &published.checkpoint;
        // While it looked, the log went on: another time.
        if checkpoint.size() != size {
            return None;
        }
        let standing = lock(&self.registered).standing(key);
        let can_be_added = match standing {
            Standing::Unknown => false,
            Standing::Entered(index) if index < size => !has_room_taken(checkpoint, key),
            Standing::Entered(_) | Standing::Entering | Standing::TooMany => return None,
        };
        if standing != Standing::Unknown && !can_be_added {
            return None;
        }
        let parsed = Signature::parse_all(lines);
        let signature = parsed.into_iter().flatten().find(|signature| signature.is_by(key));
        let signature =
            signature.filter(|signature| cosignature::verify(key, checkpoint.note().text(), signature).is_ok());
        let Some(signature) = signature else {
            self.metrics.refusals.inc();
            warn!(agent_id = %agent, size, "what the agent sent is not its cosignature of this log's checkpoint");
            return None;
        };
        self.metrics.from_agents.inc();
        if !can_be_added {
            let (this, key, who) = (self.clone(), key.clone(), agent.to_string());
            return Some(Box::pin(async move {
                this.register_key(&key, who, KEYS_OF_ONE).await;
            }));
        }
        // Held, so that two streams in one name do not both see the place free.
        let _registered = lock(&self.registered);
        if !has_room_taken(&self.evidence.published().checkpoint, key) {
            // It was verified over this text; if another one is shown by now, it goes with the old one.
            let _ = self.evidence.add_cosignature(size, key, signature);
        }
        None
    }

    /// Enters a key in the log, once. The index of its entry, if it is durable.
    ///
    /// # Cancel safety
    /// It may be entered nevertheless, and once more when it comes again.
    async fn register_key(&self, key: &VerifierKey, who: String, at_most: usize) -> Option<u64> {
        let vkey = key.to_string();
        {
            let mut registered = lock(&self.registered);
            match registered.standing(key) {
                Standing::Entered(index) => return Some(index),
                Standing::Entering => return None,
                Standing::Unknown | Standing::TooMany => {}
            }
            let keys = registered.0.entry(key.name().to_owned()).or_default();
            if keys.len() >= at_most {
                warn!(
                    name = key.name(),
                    vkey, "this witness has had very many keys: one more is not entered in the log, and does not count"
                );
                return None;
            }
            keys.insert(vkey.clone(), None);
        }
        let mut entering = EnteringKey {
            of: &self.registered,
            key,
            index: None,
        };
        info!(name = key.name(), vkey, "a new witness cosigns this log");
        let body = json!({ "name": key.name(), "vkey": vkey });
        let actor = Actor {
            who,
            origin: String::new(),
            reason: String::new(),
        };
        let change = Change::Note {
            kind: REGISTERED,
            subject: key.name().to_owned(),
            body,
        };
        let time = self.evidence.clock.now().into();
        match self
            .evidence
            .committer
            .commit_logged(Step { actor, time, change })
            .await
        {
            Ok(done) => entering.index = done.log_index,
            Err(failure) => {
                warn!(name = key.name(), error = %Chain(&failure), "the key of a witness is not entered in the log yet");
            }
        }
        entering.index
    }

    /// Somebody has shown a checkpoint that this log signed and does not lead to.
    fn doubted(&self, who: &str, shown: &SignedCheckpoint, why: String) {
        let mut doubt = lock(&self.doubt);
        if doubt.is_some() {
            return;
        }
        self.metrics.doubted.set(1);
        let hint = "restore the newest backup of the database; if there is none, move the folder away, begin a new \
                    log, and have agents and witnesses take it (docs/witness.md)";
        error!(who, why, shown = %shown.note().text().escape_debug(), hint,
               "this server's database is not the one that belongs to its log: no task SVIDs any more");
        let lacking = self.readiness.lack(format!("{TASK_SVIDS} ({why})"));
        *doubt = Some(Doubt {
            why: why.into(),
            _lacking: lacking,
        });
    }
}

// === impl Registered ===

impl Registered {
    fn standing(&self, key: &VerifierKey) -> Standing {
        let keys = self.0.get(key.name());
        match keys.and_then(|keys| keys.get(&key.to_string())) {
            Some(Some(index)) => Standing::Entered(*index),
            Some(None) => Standing::Entering,
            None if keys.is_some_and(|keys| keys.len() >= KEYS_OF_ONE) => Standing::TooMany,
            None => Standing::Unknown,
        }
    }
}

// === impl EnteringKey ===

impl Drop for EnteringKey<'_> {
    fn drop(&mut self) {
        let mut registered = lock(self.of);
        let Some(keys) = registered.0.get_mut(self.key.name()) else {
            return;
        };
        let vkey = self.key.to_string();
        match self.index {
            Some(index) => drop(keys.insert(vkey, Some(index))),
            None => drop(keys.remove(&vkey)),
        }
    }
}

/// Whether there is no place for a cosignature by an agent's key: one in its name is there, or those of many others.
fn has_room_taken(checkpoint: &SignedCheckpoint, key: &VerifierKey) -> bool {
    let signatures = checkpoint.note().signatures();
    signatures.len() >= FROM_AGENTS || signatures.iter().any(|signature| signature.name() == key.name())
}

/// What is locked here is whole between any two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
