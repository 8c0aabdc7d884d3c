//! The head of the log on one stream: first of all, later when the log has grown, and as soon as it covers entries that
//! the agent wants to see, which come with it.

use std::collections::BTreeSet;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::mayfly::agent as wire;
use mayfly_runtime::Chain;
use mayfly_svid::SpiffeId;
use mayfly_tlog::Hash;
use mayfly_tlog::note::VerifierKey;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use crate::app::evidence::EvidenceError;
use crate::app::evidence::witnesses::{Head, Inclusion, Registering, Witnesses};

/// A larger log is shown with every fourth beacon at most: what is said between beacons counts against an idle agent.
const BEACONS: u32 = 4;
/// So long what an agent may serve waits for the first head: a slow disk must not take base SVIDs away.
const FIRST: Duration = Duration::from_secs(5);
/// Entries that come with one head: each has up to 64 KiB.
const WITH_A_HEAD: usize = 32;
/// Entries that an agent may wait for.
const WANTED_MAX: usize = 256;
/// After entries could not be read.
const AGAIN: Duration = Duration::from_secs(1);
/// After a head could not be made.
const HEAD_AGAIN: Duration = Duration::from_secs(5);

/// What one agent is shown of the log.
pub(super) struct LogFeed {
    /// None if the agent is no witness, or nobody asks.
    watched: Option<Watched>,
}

struct Watched {
    witnesses: Arc<Witnesses>,
    agent: SpiffeId,
    /// None if what it says is not its key: then it is shown the log and vouches for nothing.
    key: Option<VerifierKey>,
    /// The checkpoint of its hello, from which the first head goes on; none once that was made.
    hello: Option<Vec<u8>>,
    /// How many entries it knows, and how many it was shown.
    known: u64,
    shown: u64,
    /// It has not answered the last one.
    is_looking: bool,
    /// It refuses the log, and that was told.
    is_refusing: bool,
    beacons: u32,
    first_until: Instant,
    making: Option<Making>,
    /// Entries that it wants to see.
    wanted: BTreeSet<u64>,
    /// They, or the head, could not be read, and are not tried before.
    again_at: Option<Instant>,
    /// Its key is new to the log.
    registering: Option<Registering>,
}

type Made = (Head, Result<Vec<Inclusion>, EvidenceError>);
type Making = Pin<Box<dyn Future<Output = Result<Made, EvidenceError>> + Send>>;

/// The agent waits for too many entries.
#[derive(Debug)]
pub(super) struct TooManyWanted;

// === impl LogFeed ===

impl LogFeed {
    /// For an agent that said this of itself; it is shown the head at once.
    pub(super) fn new(witnesses: Option<&Arc<Witnesses>>, agent: &SpiffeId, hello: Option<&wire::Witness>) -> Self {
        let watched = witnesses.zip(hello).map(|(witnesses, hello)| {
            if !hello.refused.is_empty() {
                witnesses.refused_by(agent, &hello.refused);
            }
            let mut watched = Watched {
                witnesses: witnesses.clone(),
                agent: agent.clone(),
                key: witnesses.key_of(agent, &hello.key),
                hello: Some(hello.checkpoint.clone()),
                known: 0,
                shown: 0,
                is_looking: false,
                is_refusing: !hello.refused.is_empty(),
                beacons: 0,
                first_until: Instant::now() + FIRST,
                making: None,
                wanted: BTreeSet::new(),
                again_at: None,
                registering: None,
            };
            watched.make();
            watched
        });
        Self { watched }
    }

    /// The next head, when there is one; none if it could not be made.
    ///
    /// # Cancel safety
    /// Safe: what is being made stays.
    pub(super) async fn head(&mut self) -> Option<wire::LogHead> {
        let Some(watched) = &mut self.watched else {
            return pending().await;
        };
        if let Some(registering) = &mut watched.registering {
            registering.await;
            watched.registering = None;
        }
        let making = match &mut watched.making {
            Some(making) => making,
            None => {
                watched.has_reason().await;
                watched.make()
            }
        };
        let made = making.await;
        watched.making = None;
        match made {
            Ok((head, inclusions)) => {
                watched.hello = None;
                (watched.shown, watched.is_looking) = (head.size, true);
                let inclusions = inclusions.unwrap_or_else(|failure| {
                    let error = Chain(&failure);
                    error!(agent_id = %watched.agent, %error, "entries of the log cannot be shown to an agent");
                    watched.again_at = Some(Instant::now() + AGAIN);
                    vec![]
                });
                for inclusion in &inclusions {
                    watched.wanted.remove(&inclusion.index);
                }
                Some(wire_head(&head, inclusions))
            }
            // Nothing was shown by it, so the next one begins where it did.
            Err(failure) => {
                watched.again_at = Some(Instant::now() + HEAD_AGAIN);
                error!(agent_id = %watched.agent, error = %Chain(&failure), "the log cannot be shown to an agent");
                None
            }
        }
    }

    /// Until when nothing goes before the first head, if that is still to come.
    pub(super) fn comes_first_until(&self) -> Option<Instant> {
        let watched = self.watched.as_ref()?;
        let is_first = watched.shown == 0 && watched.making.is_some();
        (is_first && Instant::now() < watched.first_until).then_some(watched.first_until)
    }

    /// A beacon was sent.
    pub(super) fn beacon(&mut self) {
        let Some(watched) = &mut self.watched else { return };
        watched.beacons += 1;
        let is_due = watched.beacons >= BEACONS && !watched.is_looking && watched.making.is_none();
        if is_due && watched.witnesses.size() > watched.shown {
            watched.make();
        }
    }

    /// The agent wants to see these entries.
    ///
    /// # Errors
    /// It waits for too many.
    pub(super) fn prove(&mut self, wanted: &wire::Prove) -> Result<(), TooManyWanted> {
        let Some(watched) = &mut self.watched else {
            return Ok(());
        };
        // Asked for twice, it is waited for once.
        watched.wanted.extend(&wanted.indexes);
        if watched.wanted.len() > WANTED_MAX {
            return Err(TooManyWanted);
        }
        Ok(())
    }

    /// The agent says what it made of the last head.
    pub(super) fn answered(&mut self, answer: &wire::Witnessed) {
        let Some(watched) = &mut self.watched else { return };
        // What answers nothing is not worth a look at its signature.
        if !watched.is_looking {
            return;
        }
        (watched.known, watched.is_looking) = (answer.size, false);
        let was_refusing = std::mem::replace(&mut watched.is_refusing, !answer.refused.is_empty());
        if watched.is_refusing {
            if !was_refusing {
                watched.witnesses.refused_by(&watched.agent, &answer.refused);
            }
        } else if let Some(key) = &watched.key
            && !answer.cosignature.is_empty()
        {
            let Watched { witnesses, agent, .. } = watched;
            watched.registering = witnesses.cosigned_by_agent(agent, key, answer.size, &answer.cosignature);
        }
        // Where it stands is not where it was taken to stand.
        if answer.size != watched.shown && answer.refused.is_empty() {
            watched.shown = answer.size;
        }
    }
}

// === impl Watched ===

impl Watched {
    /// Waits until there is a reason to show the log: it was not shown at all, or what is wanted can be.
    ///
    /// # Cancel safety
    /// Safe.
    async fn has_reason(&mut self) {
        let first = self.wanted.first().filter(|_| !self.is_looking).copied();
        if first.is_none() && self.hello.is_none() {
            return pending().await;
        }
        if let Some(again_at) = self.again_at {
            sleep_until(again_at).await;
        }
        if let Some(first) = first.filter(|_| self.hello.is_none()) {
            self.witnesses.covers(first).await;
        }
    }

    /// Begins to make the next head, with what is wanted.
    fn make(&mut self) -> &mut Making {
        (self.beacons, self.again_at) = (0, None);
        let (asked, known) = (self.witnesses.clone(), self.known);
        let (agent, hello) = (self.agent.clone(), self.hello.clone());
        let wanted = self.wanted.iter().take(WITH_A_HEAD).copied().collect();
        self.making.insert(Box::pin(async move {
            let head = match hello {
                Some(checkpoint) => asked.head_for(&agent, &checkpoint).await?,
                None => asked.head(known).await?,
            };
            let inclusions = asked.inclusions(&head, wanted).await;
            Ok((head, inclusions))
        }))
    }
}

fn hashes(proof: &[Hash]) -> Vec<Vec<u8>> {
    proof.iter().map(|hash| hash.as_bytes().to_vec()).collect()
}

fn wire_head(head: &Head, inclusions: Vec<Inclusion>) -> wire::LogHead {
    wire::LogHead {
        checkpoint: head.note.to_vec(),
        keys: head.keys.iter().map(ToString::to_string).collect(),
        from: head.from,
        proof: hashes(&head.proof),
        inclusions: inclusions
            .into_iter()
            .map(|inclusion| wire::Inclusion {
                index: inclusion.index,
                entry: inclusion.entry.into_bytes(),
                proof: hashes(&inclusion.proof),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
