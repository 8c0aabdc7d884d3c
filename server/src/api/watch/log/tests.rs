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
async fn asked_twice_is_wanted_once() {
    let fixture = Fixture::new().await;
    let mut feed = fixture.feed(vec![]);
    let all = WANTED_MAX as u64;
    feed.prove(&wanted(0..all)).unwrap();
    feed.prove(&wanted((0..all).chain(0..all))).unwrap();
    assert!(feed.prove(&wanted([all])).is_err());
}

#[tokio::test]
async fn after_a_first_head_that_failed_the_next_goes_on_from_where_the_agent_stands_with_what_it_wants() {
    let fixture = Fixture::new().await;
    let known = fixture.evidence.published();
    fixture.grows().await;
    let mut feed = fixture.feed(known.checkpoint.to_bytes());
    let failed = EvidenceError::Shorter {
        found: 0,
        shown: 1,
        file: "checkpoint".into(),
    };
    feed.watched.as_mut().unwrap().making = Some(Box::pin(async move { Err(failed) }));
    feed.prove(&wanted([0])).unwrap();
    assert!(feed.head().await.is_none());
    // Not at once, and without a beacon.
    assert!(feed.head().now_or_never().is_none());
    feed.watched.as_mut().unwrap().again_at = Some(Instant::now());
    let next = feed.head().await.unwrap();
    assert_eq!((next.from, shown(&next)), (known.checkpoint.size(), vec![0]));
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
