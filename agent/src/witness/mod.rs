//! This agent as a witness of its server's log: it remembers the last checkpoint, and the next one has to go on from
//! there.
//!
//! ```text
//!   sync ── LogHead ──▶ Witness ──▶ Memory: witness.json, saved before anything is answered
//!        ◀─ Witnessed ──┘     └───▶ Distrust ──▶ tasks, api: no task SVIDs, for this reason
//! ```
//!
//! A log that is shorter, has another past, is another one, is signed by no key that is known here, or is not shown any
//! more is refused, and while it is, nobody on this node gets a task SVID; base SVIDs stay. That outlives restarts, and
//! ends when the log that is known here is shown again, or when an operator has the agent forget it
//! (`docs/witness.md`). The same follows when the log does not say of an SVID what the SVID says of the log, or stands
//! still while SVIDs are issued (`debts.rs`). The keys of the log are taken on trust at the first contact, from the
//! server that the agent authenticated; a later one needs the signature of one that is known.
//!
//! Not here: trees and notes (`mayfly-tlog`), the stream (`sync`). Start at [`Witness::consider`].

mod debts;
mod distrust;
mod judge;
mod memory;
mod metrics;
mod shown;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mayfly_proto::mayfly::agent::{Inclusion, LogHead, Witness as Hello, Witnessed};
use mayfly_runtime::files::{FileError, read_private};
use mayfly_runtime::{BlockReady, Chain, Clock, Readiness};
use mayfly_svid::SpiffeId;
use mayfly_tlog::note::{Algorithm, Ed25519Key, KeyFileError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use zeroize::Zeroizing;

pub use distrust::Distrust;
pub use metrics::WitnessMetrics;

use debts::{Debts, Issued, Unfit};
use judge::{Refusal, Verdict, judge};
use memory::{Known, Memory, Refused};
pub(crate) use shown::Watching;

/// The key in the data folder: PKCS#8, mode 0600.
const KEY_FILE: &str = "witness.key";
/// What is remembered.
const MEMORY_FILE: &str = "witness.json";
/// An Ed25519 key has less.
const KEY_BYTES: u64 = 1024;

/// What readiness waits for, in the words of `/ready`, before the reason.
const TRUSTED_LOG: &str = "a log of the server that can be trusted";

/// What a witness is made of.
pub struct WitnessParts<'a> {
    /// Where key and memory are kept. Locked by the caller.
    pub data_dir: &'a Path,
    /// For cosignatures.
    pub clock: Arc<dyn Clock>,
    /// Who has to know when the log is refused.
    pub distrust: Distrust,
    /// Blocked while the log is refused.
    pub readiness: Readiness,
    /// Counters.
    pub metrics: WitnessMetrics,
}

/// Why the agent cannot be a witness, and does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// Its key cannot be read or made.
    #[error("the key that cosigns the server's log")]
    Key(#[from] KeyFileError),
    /// Its key cannot be read.
    #[error("the key that cosigns the server's log")]
    File(#[from] FileError),
}

/// The witness; one of each agent.
pub struct Witness {
    file: PathBuf,
    pkcs8: Zeroizing<Vec<u8>>,
    clock: Arc<dyn Clock>,
    distrust: Distrust,
    readiness: Readiness,
    metrics: WitnessMetrics,
    /// One head after the other, however long the disk takes; nobody else waits for that.
    turn: Mutex<()>,
    state: Mutex<State>,
    /// Tells streams that more is owed.
    owing: watch::Sender<()>,
}

/// The server has not shown in time what is owed, or the log at all.
#[derive(Debug)]
pub(crate) struct Missing {
    is_hidden: bool,
    /// How long the server may be silent.
    silence: Duration,
}

/// How many entries of the log were known when the server was asked to issue; none if none were.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(Option<u64>);

/// Locked for a look or a change, never over a write to the disk.
struct State {
    memory: Memory,
    /// In the name that the agent has now; none before it has one.
    key: Option<Ed25519Key>,
    blocked: Option<BlockReady>,
    /// The clock of streams: for how long there was one, all together, and when it was looked at.
    streamed: Duration,
    looked_at: Option<Instant>,
    /// Since when streams were open without the log that is known; none once it was shown.
    unshown: Option<Duration>,
    /// What has to be shown as well.
    debts: Debts,
    /// The last head on this stream began elsewhere, and the server was told where this agent stands.
    has_said_where: bool,
}

// === impl Witness ===

impl Witness {
    /// Goes on with what the data folder keeps. A memory that cannot be read is no reason to trust any log: it counts
    /// as a refusal until somebody looks after it. Blocks.
    ///
    /// # Errors
    /// There is no key, and none can be made.
    pub fn open(parts: WitnessParts<'_>) -> Result<Arc<Self>, WitnessError> {
        let WitnessParts {
            data_dir,
            clock,
            distrust,
            readiness,
            metrics,
        } = parts;
        let key_file = data_dir.join(KEY_FILE);
        Ed25519Key::open_or_create(&key_file, "agent", Algorithm::CosignatureV1)?;
        let pkcs8 = read_private(&key_file, KEY_BYTES)?;
        let file = data_dir.join(MEMORY_FILE);
        let memory = Memory::load(&file).unwrap_or_else(|failure| {
            let why = format!("what this agent knew of it cannot be read: {}", Chain(&failure));
            Memory::unreadable(why, clock.unix_now())
        });
        let witness = Self {
            file,
            pkcs8,
            clock,
            distrust,
            readiness,
            metrics,
            turn: Mutex::default(),
            state: Mutex::new(State {
                memory: Memory::default(),
                key: None,
                blocked: None,
                streamed: Duration::ZERO,
                looked_at: None,
                unshown: None,
                debts: Debts::default(),
                has_said_where: false,
            }),
            owing: watch::Sender::default(),
        };
        witness.show(memory);
        Ok(Arc::new(witness))
    }

    /// The agent has this ID from now on: its cosignatures are in this name.
    pub fn becomes(&self, agent: &SpiffeId) {
        let id = agent.to_string();
        let name = id.strip_prefix("spiffe://").unwrap_or(&id);
        let key = Ed25519Key::from_pkcs8(name, Algorithm::CosignatureV1, &self.pkcs8);
        if !matches!(key, Ok(Some(_))) {
            error!(name, "the key that cosigns the server's log cannot have this name");
        }
        self.lock().key = key.ok().flatten();
    }

    /// What a stream begins with; none while the agent has no ID.
    pub fn hello(&self) -> Option<Hello> {
        use mayfly_tlog::note::NoteSigner as _;
        let state = self.lock();
        let key = state.key.as_ref()?.verifier_key().to_string();
        let known = state.memory.known.as_ref();
        Some(Hello {
            key,
            checkpoint: known.map_or_else(Vec::new, |known| known.checkpoint.to_bytes()),
            refused: state.memory.why().unwrap_or_default().to_owned(),
        })
    }

    /// Looks at the head of the log: accepts, remembers and cosigns it, or refuses the log. Blocks on the disk.
    pub fn consider(&self, head: &LogHead) -> Witnessed {
        let _turn = lock(&self.turn);
        let before = self.lock().memory.clone();
        if before.is_unreadable {
            return self.answer(vec![]);
        }
        let verdict = judge(before.known.as_ref(), head);
        let is_other_start = matches!(verdict, Verdict::OtherStart);
        let had_said_where = std::mem::replace(&mut self.lock().has_said_where, is_other_start);
        match verdict {
            Verdict::Accepted { accepted, known } => {
                self.lock().unshown = None;
                let head_size = known.checkpoint.size();
                let (memory, settled) = self.settle(&before, *known, &head.inclusions);
                // What was shown was shown, remembered or not.
                self.lock().debts.settle(&settled, head_size);
                let is_refused = memory.refused.is_some();
                if let Err(failure) = self.save(&before, &memory) {
                    error!(error = %Chain(&failure), "a checkpoint of the log is not remembered, so it does not count");
                    self.show(Memory {
                        known: before.known.clone(),
                        refused: memory.refused.or(before.refused),
                        ..memory
                    });
                    return self.answer(vec![]);
                }
                self.note_progress(&before, &memory);
                self.show(memory);
                if is_refused {
                    return self.answer(vec![]);
                }
                let now = u64::try_from(self.clock.unix_now()).unwrap_or(0);
                let cosigned = self.lock().key.as_ref().map(|key| accepted.cosign(key, now));
                let cosignature = match cosigned {
                    Some(Ok(signature)) => signature.to_string().into_bytes(),
                    Some(Err(failure)) => {
                        error!(error = %Chain(&failure), "a checkpoint of the log is not cosigned");
                        vec![]
                    }
                    None => vec![],
                };
                self.metrics.cosigned.inc_by(u64::from(!cosignature.is_empty()));
                self.answer(cosignature)
            }
            // It was told, and can prove nothing from there.
            Verdict::OtherStart if had_said_where => {
                let known = before.known.as_ref().map_or(0, |known| known.checkpoint.size());
                self.refuse(&before, &Refusal::NotContinued { known }, head);
                self.answer(vec![])
            }
            // Where we stand goes with the answer; the next proof begins there.
            Verdict::OtherStart => {
                debug!(from = head.from, "the proof does not begin where this agent stands");
                self.answer(vec![])
            }
            Verdict::Refused(refusal) => {
                self.refuse(&before, &refusal, head);
                self.answer(vec![])
            }
        }
    }

    /// What there is to remember of a head that was accepted, with what it shows of what is owed, and which debts it
    /// settles.
    fn settle(&self, before: &Memory, known: Known, shown: &[Inclusion]) -> (Memory, Vec<Issued>) {
        let (mut overdue, mut settled) = (before.overdue.clone(), vec![]);
        overdue.has_grown(known.checkpoint.size());
        for inclusion in shown {
            let owed: Vec<Issued> = {
                let debts = &self.lock().debts;
                let index = inclusion.index;
                debts.at(index).chain(overdue.at(index)).cloned().collect()
            };
            for issued in owed {
                match issued.is_shown_by(inclusion, &known.checkpoint) {
                    // That proves nothing, and what is owed stays owed.
                    Err(Unfit::Proof) => continue,
                    Err(why) => overdue.add_fault(issued.clone(), &why),
                    Ok(()) => {
                        self.metrics.proven.inc();
                        info!(index = issued.index, serial = %issued.serial, "task SVID is in the log");
                    }
                }
                settled.push(issued);
            }
        }
        overdue.settle(&settled);
        let same = |refusal: &Refusal| {
            before
                .refused
                .clone()
                .filter(|before| before.why == refusal.to_string())
        };
        let refused = overdue.refusal().map(|refusal| {
            let anew = || self.begins_to_refuse(&refusal, known.checkpoint.to_string());
            same(&refusal).unwrap_or_else(anew)
        });
        let memory = Memory {
            known: Some(known),
            refused,
            overdue,
            is_unreadable: false,
        };
        (memory, settled)
    }

    /// The server has not shown what it has to for as long as that may take. One whose log is hidden, stands still or
    /// leaves out what was issued cannot be vouched for. One that is refused already is refused for the reason that it
    /// was, and with the evidence of that; the next head that is accepted tells what is left of it. Blocks on the disk.
    pub(crate) fn misses(&self, missing: &Missing) {
        let _turn = lock(&self.turn);
        // What a head has shown in the meantime is not late.
        let (before, late) = {
            let state = self.lock();
            let late = state.debts.overdue(state.streamed, missing.silence);
            (state.memory.clone(), late)
        };
        let mut overdue = before.overdue.clone();
        overdue.add(&late);
        let refusal = match overdue.refusal() {
            _ if before.is_unreadable => return,
            Some(refusal) if !late.is_empty() => refusal,
            // Nobody misses what was never there.
            _ if missing.is_hidden && before.known.is_some() && before.refused.is_none() => Refusal::NotShown,
            _ => return,
        };
        let anew = || self.begins_to_refuse(&refusal, String::new());
        let refused = Some(before.refused.clone().unwrap_or_else(anew));
        self.remember(
            &before,
            Memory {
                refused,
                overdue,
                ..before.clone()
            },
        );
        // Only now, so that it is owed all the time.
        self.lock().debts.forget(&late);
    }

    /// The server is about to be asked to issue.
    pub(crate) fn asks(&self) -> Asked {
        let state = self.lock();
        Asked(state.memory.known.as_ref().map(|known| known.checkpoint.size()))
    }

    /// It did, after `asked`: the log had as many entries by then, and has one more since.
    pub(crate) fn was_issued(&self, asked: Asked) {
        let state = &mut *self.lock();
        if let Some(size) = asked.0 {
            state.debts.owe_growth(size, state.streamed);
            // It may have been shown while the answer was on its way.
            let known = state.memory.known.as_ref();
            let size = known.map_or(0, |known| known.checkpoint.size());
            state.debts.settle(&[], size);
        }
    }

    /// The server sent this certificate. If it is that of a window, it says where the log has it, and the log has to.
    pub(crate) fn was_sent(&self, leaf_der: &[u8]) {
        let Some(issued) = Issued::of(leaf_der) else { return };
        {
            let state = &mut *self.lock();
            state.debts.owe(issued, state.streamed);
        }
        self.owing.send_replace(());
    }

    /// The entries that the server has to show.
    fn owed(&self) -> BTreeSet<u64> {
        let state = self.lock();
        state.memory.overdue.indexes().chain(state.debts.indexes()).collect()
    }

    /// On a new stream the server knows of this agent what the hello says, and has yet to show the log.
    fn stream_begins(&self) {
        let mut state = self.lock();
        state.has_said_where = false;
        let now = state.streamed;
        state.unshown.get_or_insert(now);
    }

    fn refuse(&self, before: &Memory, refusal: &Refusal, head: &LogHead) {
        let shown = String::from_utf8_lossy(&head.checkpoint).into_owned();
        let refused = Some(self.begins_to_refuse(refusal, shown));
        self.remember(
            before,
            Memory {
                refused,
                ..before.clone()
            },
        );
    }

    /// A refusal counts, remembered or not.
    fn remember(&self, before: &Memory, memory: Memory) {
        if let Err(failure) = self.save(before, &memory) {
            error!(error = %Chain(&failure), "that the log is refused is forgotten when this process ends");
        }
        self.show(memory);
    }

    /// Says it, loudly.
    fn begins_to_refuse(&self, refusal: &Refusal, checkpoint: String) -> Refused {
        let why = refusal.to_string();
        let hint = "no task SVIDs on this node until the log that is known here is shown again, with what is missing in \
                    it; if there is a new log on purpose, stop the agent, delete the file, and start the agent";
        error!(why, file = %self.file.display(), hint, "the server's log is refused: task SVIDs withdrawn");
        self.metrics.refusals.inc();
        let at = self.clock.unix_now();
        Refused { why, at, checkpoint }
    }

    fn save(&self, before: &Memory, memory: &Memory) -> Result<(), FileError> {
        if memory.says_the_same(before) {
            return Ok(());
        }
        memory.save(&self.file)
    }

    fn note_progress(&self, before: &Memory, now: &Memory) {
        let Some(known) = &now.known else { return };
        let origin = known.checkpoint.origin();
        match &before.known {
            None => {
                info!(origin, size = known.checkpoint.size(), keys = ?known.key_texts(), "the log is known from now on")
            }
            Some(old) if old.keys != known.keys => {
                info!(origin, keys = ?known.key_texts(), "the log has another key, which a known one vouches for");
            }
            Some(_) => {}
        }
        if before.refused.is_some() && now.refused.is_none() {
            warn!(
                origin,
                size = known.checkpoint.size(),
                "the log that is known here is shown again: task SVIDs can be had"
            );
        }
    }

    /// Everybody sees it.
    fn show(&self, memory: Memory) {
        let mut state = self.lock();
        let why = memory.why();
        state.blocked = match (why, state.blocked.take()) {
            (None, _) => None,
            (Some(_), Some(blocked)) if state.memory.why() == why => Some(blocked),
            (Some(why), _) => Some(self.readiness.block(format!("{TRUSTED_LOG} ({why})"))),
        };
        self.distrust.set(why);
        self.metrics.refused.set(i64::from(why.is_some()));
        let size = memory.known.as_ref().map_or(0, |known| known.checkpoint.size());
        self.metrics.size.set(i64::try_from(size).unwrap_or(i64::MAX));
        state.memory = memory;
    }

    fn answer(&self, cosignature: Vec<u8>) -> Witnessed {
        let state = self.lock();
        Witnessed {
            size: state.memory.known.as_ref().map_or(0, |known| known.checkpoint.size()),
            cosignature,
            refused: state.memory.why().unwrap_or_default().to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What is locked here is whole between any two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
