//! The head of the log on one stream: first of all, and later when the log has grown.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::mayfly::agent as wire;
use mayfly_runtime::Chain;
use mayfly_svid::SpiffeId;
use mayfly_tlog::note::VerifierKey;
use tokio::time::Instant;
use tracing::error;

use crate::app::evidence::EvidenceError;
use crate::app::evidence::witnesses::{Head, Registering, Witnesses};

/// A larger log is shown with every fourth beacon at most: what is said between beacons counts against an idle agent.
const BEACONS: u32 = 4;
/// So long what an agent may serve waits for the first head: a slow disk must not take base SVIDs away.
const FIRST: Duration = Duration::from_secs(5);

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
    first_until: Instant,
    making: Option<Making>,
    /// Its key is new to the log.
    registering: Option<Registering>,
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
                first_until: Instant::now() + FIRST,
                making: Some(Box::pin(async move { asked.head_for(&id, &known).await })),
                registering: None,
            }
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
        let Some(making) = &mut watched.making else {
            return pending().await;
        };
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
            watched.beacons = 0;
            let (asked, known) = (watched.witnesses.clone(), watched.known);
            watched.making = Some(Box::pin(async move { asked.head(known).await }));
        }
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

fn wire_head(head: &Head) -> wire::LogHead {
    wire::LogHead {
        checkpoint: head.note.to_vec(),
        keys: head.keys.iter().map(ToString::to_string).collect(),
        from: head.from,
        proof: head.proof.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
        inclusions: vec![],
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use mayfly_model::{Actor, Change, Step};
    use mayfly_runtime::Readiness;
    use mayfly_tlog::checkpoint::SignedCheckpoint;
    use mayfly_tlog::cosignature::cosign;
    use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner as _};

    use super::*;
    use crate::app::evidence::Evidence;
    use crate::app::testing::World;

    struct Fixture {
        world: World,
        evidence: Arc<Evidence>,
        witnesses: Arc<Witnesses>,
        key: Ed25519Key,
    }

    impl Fixture {
        async fn new() -> Self {
            let world = World::unborn(|_| {});
            let evidence = Evidence::open(world.evidence_parts()).await.unwrap();
            let witnesses = Witnesses::open(evidence.clone(), Readiness::new()).await.unwrap();
            let key = Ed25519Key::generate("example.org/spire/agent/a", Algorithm::CosignatureV1);
            Self {
                world,
                evidence,
                witnesses,
                key: key.unwrap().0,
            }
        }

        fn feed(&self, checkpoint: Vec<u8>) -> LogFeed {
            let hello = wire::Witness {
                key: self.key.verifier_key().to_string(),
                checkpoint,
                refused: String::new(),
            };
            let agent = "spiffe://example.org/spire/agent/a".parse().unwrap();
            LogFeed::new(Some(&self.witnesses), &agent, Some(&hello))
        }

        async fn grows(&self) {
            let step = Step {
                actor: Actor::server(),
                time: self.world.now(),
                change: Change::Note {
                    kind: "test.note",
                    subject: String::new(),
                    body: serde_json::json!({}),
                },
            };
            self.world.committer.commit(step).await.unwrap();
            self.evidence.pass().await.unwrap();
        }

        /// The log's own signature is the first.
        fn cosignatures(&self) -> usize {
            self.evidence.published().checkpoint.note().signatures().len() - 1
        }

        fn cosigned(&self, head: &wire::LogHead) -> wire::Witnessed {
            let keys: Vec<VerifierKey> = head.keys.iter().map(|key| key.parse().unwrap()).collect();
            let shown = SignedCheckpoint::open(&head.checkpoint, &keys).unwrap();
            let line = cosign(&self.key, shown.note().text(), 1).unwrap();
            wire::Witnessed {
                size: shown.size(),
                cosignature: line.to_string().into_bytes(),
                refused: String::new(),
            }
        }
    }

    impl LogFeed {
        async fn registered(&mut self) {
            if let Some(registering) = self.watched.as_mut().and_then(|watched| watched.registering.take()) {
                registering.await;
            }
        }
    }

    fn beacons(feed: &mut LogFeed, count: u32) {
        (0..count).for_each(|_| feed.beacon());
    }

    #[tokio::test]
    async fn an_agent_is_shown_the_log_at_once_and_then_when_it_grew_and_it_has_answered_with_the_fourth_beacon() {
        let fixture = Fixture::new().await;
        let mut feed = fixture.feed(vec![]);
        assert!(feed.comes_first_until().is_some());
        let first = feed.head().await.unwrap();
        assert_eq!((first.from, first.proof.len()), (0, 0));
        assert!(feed.comes_first_until().is_none());
        fixture.grows().await;
        // It has not answered.
        beacons(&mut feed, 3 * BEACONS);
        assert!(feed.head().now_or_never().is_none());
        let answer = fixture.cosigned(&first);
        feed.answered(&answer);
        feed.beacon();
        let second = feed.head().await.unwrap();
        assert_eq!(second.from, answer.size);
        feed.answered(&fixture.cosigned(&second));
        // The log did not name its key; it does now.
        assert!(feed.head().now_or_never().is_none());
        assert_eq!(fixture.cosignatures(), 0);
        feed.registered().await;
        // No beacon before the fourth shows it.
        fixture.grows().await;
        beacons(&mut feed, BEACONS - 1);
        assert!(feed.head().now_or_never().is_none());
        feed.beacon();
        let third = feed.head().await.unwrap();
        // What answers nothing counts for nothing.
        let third = fixture.cosigned(&third);
        feed.answered(&third);
        assert_eq!(fixture.cosignatures(), 1);
        fixture.evidence.pass().await.unwrap();
        let refused = "I am not asked".to_owned();
        feed.answered(&wire::Witnessed { refused, ..third });
        let watched = feed.watched.as_ref().unwrap();
        assert!(!watched.is_refusing && watched.registering.is_none());
        // What does not grow is not shown, however long it takes.
        beacons(&mut feed, 100 * BEACONS);
        assert!(feed.head().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_agent_that_comes_back_is_shown_how_the_log_goes_on_from_what_it_knows() {
        let fixture = Fixture::new().await;
        let known = fixture.evidence.published();
        fixture.grows().await;
        let mut feed = fixture.feed(known.checkpoint.to_bytes());
        assert_eq!(feed.head().await.unwrap().from, known.checkpoint.size());
        // It could not save that, and says where it stands.
        feed.answered(&wire::Witnessed {
            size: known.checkpoint.size(),
            ..wire::Witnessed::default()
        });
        beacons(&mut feed, BEACONS);
        let again = feed.head().await.unwrap();
        assert_eq!(again.from, known.checkpoint.size());
    }

    #[tokio::test]
    async fn who_is_no_witness_is_shown_nothing() {
        let fixture = Fixture::new().await;
        let agent = "spiffe://example.org/spire/agent/a".parse().unwrap();
        for (witnesses, hello) in [(Some(&fixture.witnesses), None), (None, Some(wire::Witness::default()))] {
            let mut feed = LogFeed::new(witnesses, &agent, hello.as_ref());
            beacons(&mut feed, 2 * BEACONS);
            feed.answered(&wire::Witnessed::default());
            assert!(feed.comes_first_until().is_none() && feed.head().now_or_never().is_none());
        }
    }
}
