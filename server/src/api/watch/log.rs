//! The head of the log on one stream: first of all, and later when the log has grown.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use mayfly_proto::mayfly::agent as wire;
use mayfly_runtime::Chain;
use mayfly_svid::SpiffeId;
use mayfly_tlog::note::VerifierKey;
use tracing::error;

use crate::app::evidence::EvidenceError;
use crate::app::evidence::witnesses::{Head, Witnesses};

/// A larger log is shown with every fourth beacon at most: what is said between beacons counts against an idle agent.
const BEACONS: u32 = 4;

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
    /// How many entries it knows, and how many it was shown.
    known: u64,
    shown: u64,
    /// It has not answered the last one.
    is_looking: bool,
    /// It refuses the log, and that was told.
    is_refusing: bool,
    beacons: u32,
    making: Option<Making>,
}

type Making = Pin<Box<dyn Future<Output = Result<Head, EvidenceError>> + Send>>;

// === impl LogFeed ===

impl LogFeed {
    /// For an agent that said this of itself; it is shown the head at once.
    pub(super) fn new(witnesses: Option<&Arc<Witnesses>>, agent: &SpiffeId, hello: Option<&wire::Witness>) -> Self {
        let watched = witnesses.zip(hello).map(|(witnesses, hello)| {
            if !hello.refused.is_empty() {
                witnesses.refused_by(agent, &hello.refused);
            }
            let (asked, id, known) = (witnesses.clone(), agent.clone(), hello.checkpoint.clone());
            Watched {
                witnesses: witnesses.clone(),
                agent: agent.clone(),
                key: witnesses.key_of(agent, &hello.key),
                known: 0,
                shown: 0,
                is_looking: false,
                is_refusing: !hello.refused.is_empty(),
                beacons: 0,
                making: Some(Box::pin(async move { asked.head_for(&id, &known).await })),
            }
        });
        Self { watched }
    }

    /// The next head, when there is one; none if it could not be made.
    ///
    /// # Cancel safety
    /// Safe: what is being made stays.
    pub(super) async fn head(&mut self) -> Option<wire::LogHead> {
        let Some(watched) = &mut self.watched else { return pending().await };
        let Some(making) = &mut watched.making else { return pending().await };
        let made = making.await;
        watched.making = None;
        match made {
            Ok(head) => {
                (watched.shown, watched.is_looking) = (head.size, true);
                Some(wire_head(&head))
            }
            // It is made again with one of the next beacons.
            Err(failure) => {
                error!(agent_id = %watched.agent, error = %Chain(&failure), "the log cannot be shown to an agent");
                None
            }
        }
    }

    /// Whether the first head is still to come: nothing goes before it.
    pub(super) fn is_first(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.shown == 0 && watched.making.is_some())
    }

    /// A beacon was sent.
    pub(super) fn beacon(&mut self) {
        let Some(watched) = &mut self.watched else { return };
        watched.beacons += 1;
        let is_due = watched.beacons >= BEACONS && !watched.is_looking && watched.making.is_none();
        if is_due && watched.witnesses.size() > watched.shown {
            watched.beacons = 0;
            let (asked, known) = (watched.witnesses.clone(), watched.known);
            watched.making = Some(Box::pin(async move { asked.head(known).await }));
        }
    }

    /// The agent says what it made of the last head.
    pub(super) fn answered(&mut self, answer: &wire::Witnessed) {
        let Some(watched) = &mut self.watched else { return };
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
            witnesses.cosigned_by_agent(agent, key, answer.size, &answer.cosignature);
        }
        // Where it stands is not where it was taken to stand.
        if answer.size != watched.shown && answer.refused.is_empty() {
            watched.shown = answer.size;
        }
    }
}

fn wire_head(head: &Head) -> wire::LogHead {
    wire::LogHead {
        checkpoint: head.note.to_vec(),
        keys: head.keys.iter().map(ToString::to_string).collect(),
        from: head.from,
        proof: head.proof.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
    }
}
