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
    /// Entries that it wants to see.
    wanted: BTreeSet<u64>,
    /// They could not be read, and are not tried before.
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
                making: Some(Box::pin(
                    async move { Ok((asked.head_for(&id, &known).await?, Ok(vec![]))) },
                )),
                wanted: BTreeSet::new(),
                again_at: None,
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
        let making = match &mut watched.making {
            Some(making) => making,
            None => {
                watched.wanted_are_covered().await;
                watched.make()
            }
        };
        let made = making.await;
        watched.making = None;
        match made {
            Ok((head, inclusions)) => {
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
        if watched.wanted.len() + wanted.indexes.len() > WANTED_MAX {
            return Err(TooManyWanted);
        }
        watched.wanted.extend(&wanted.indexes);
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
    /// Waits until there is a reason to show the log for the sake of what is wanted.
    ///
    /// # Cancel safety
    /// Safe.
    async fn wanted_are_covered(&mut self) {
        let Some(first) = self.wanted.first().filter(|_| !self.is_looking) else {
            return pending().await;
        };
        if let Some(again_at) = self.again_at {
            sleep_until(again_at).await;
        }
        self.witnesses.covers(*first).await;
    }

    /// Begins to make the next head, with what is wanted.
    fn make(&mut self) -> &mut Making {
        (self.beacons, self.again_at) = (0, None);
        let (asked, known) = (self.witnesses.clone(), self.known);
        let wanted = self.wanted.iter().take(WITH_A_HEAD).copied().collect();
        self.making.insert(Box::pin(async move {
            let head = asked.head(known).await?;
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
mod tests {
    use futures_util::FutureExt as _;
    use mayfly_model::{Actor, Change, Step};
    use mayfly_runtime::Readiness;
    use mayfly_tlog::checkpoint::SignedCheckpoint;
    use mayfly_tlog::cosignature::cosign;
    use mayfly_tlog::leaf_hash;
    use mayfly_tlog::merkle::verify_inclusion;
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

    fn wanted(indexes: impl IntoIterator<Item = u64>) -> wire::Prove {
        wire::Prove {
            indexes: indexes.into_iter().collect(),
        }
    }

    /// The head shows entries, each at its place.
    fn shown(head: &wire::LogHead) -> Vec<u64> {
        let keys: Vec<VerifierKey> = head.keys.iter().map(|key| key.parse().unwrap()).collect();
        let checkpoint = SignedCheckpoint::open(&head.checkpoint, &keys).unwrap();
        let (size, root) = (checkpoint.size(), checkpoint.root());
        let shown = head.inclusions.iter().map(|inclusion| {
            let hash = |bytes: &Vec<u8>| Hash::new(bytes.as_slice().try_into().unwrap());
            let proof: Vec<Hash> = inclusion.proof.iter().map(hash).collect();
            verify_inclusion(leaf_hash(&inclusion.entry), inclusion.index, size, root, &proof).unwrap();
            inclusion.index
        });
        shown.collect()
    }

    #[tokio::test]
    async fn what_an_agent_wants_to_see_comes_as_soon_as_a_checkpoint_covers_it_and_the_agent_has_looked() {
        let fixture = Fixture::new().await;
        let mut feed = fixture.feed(vec![]);
        let first = feed.head().await.unwrap();
        let answer = fixture.cosigned(&first);
        let next = answer.size;
        feed.prove(&wanted([0, next, next + 1])).unwrap();
        // It has not answered.
        assert!(feed.head().now_or_never().is_none());
        feed.answered(&answer);
        feed.registered().await;
        // What is there already comes at once, without a beacon.
        let second = feed.head().await.unwrap();
        assert_eq!(shown(&second), [0]);
        feed.answered(&fixture.cosigned(&second));
        feed.registered().await;
        // The key of this witness is an entry by now, which no checkpoint covers yet.
        assert!(feed.head().now_or_never().is_none());
        let (head, ()) = tokio::join!(feed.head(), async {
            fixture.evidence.pass().await.unwrap();
        });
        let third = head.unwrap();
        assert_eq!(shown(&third), [next]);
        feed.answered(&fixture.cosigned(&third));
        fixture.grows().await;
        let fourth = feed.head().await.unwrap();
        assert_eq!((shown(&fourth), fourth.from), (vec![next + 1], next + 1));
        feed.answered(&fixture.cosigned(&fourth));
        assert!(feed.head().now_or_never().is_none(), "nothing is left");
    }

    #[tokio::test]
    async fn what_will_never_be_there_keeps_nobody_from_the_log_and_one_agent_waits_for_so_much() {
        let fixture = Fixture::new().await;
        for _ in 0..2 * WITH_A_HEAD {
            fixture.grows().await;
        }
        let mut feed = fixture.feed(vec![]);
        let first = feed.head().await.unwrap();
        feed.answered(&fixture.cosigned(&first));
        feed.registered().await;
        let known = fixture.evidence.published().checkpoint.size();
        let all = WANTED_MAX as u64;
        feed.prove(&wanted((0..known).chain(u64::MAX - all + known + 1..=u64::MAX)))
            .unwrap();
        assert!(feed.prove(&wanted([u64::MAX / 2])).is_err());
        let mut seen = 0;
        while seen < known {
            let head = feed.head().await.unwrap();
            assert!(shown(&head).len() <= WITH_A_HEAD);
            seen += shown(&head).len() as u64;
            feed.answered(&fixture.cosigned(&head));
            feed.registered().await;
        }
        assert!(feed.head().now_or_never().is_none());
        fixture.grows().await;
        beacons(&mut feed, BEACONS);
        assert_eq!(shown(&feed.head().await.unwrap()), [0; 0]);
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
