use std::fs;

use mayfly_runtime::ManualClock;
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::note::{NoteSigner, Signature, VerifierKey};
use mayfly_tlog::tile::TilePath;
use mayfly_tlog::tree::{TileSource, Tree};
use mayfly_tlog::{Hash, leaf_hash};

use super::*;

pub(crate) use super::debts::tests::sent;

const ORIGIN: &str = "td/log/h";

/// A log of its own making. Fewer than 256 entries, so that no tile is needed.
pub(crate) struct Log {
    keys: Vec<Ed25519Key>,
    pub(crate) entries: Vec<Vec<u8>>,
}

impl Log {
    pub(crate) fn new(entries: usize) -> Self {
        Self {
            keys: vec![log_key(ORIGIN)],
            entries: (0..entries).map(|number| vec![number as u8]).collect(),
        }
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let leaves: Vec<Hash> = self.entries.iter().map(|entry| leaf_hash(entry)).collect();
        tree.append(&leaves).unwrap();
        tree
    }

    /// What a server shows to an agent that knows `from` entries.
    pub(crate) fn head(&self, from: u64) -> LogHead {
        let tree = self.tree();
        let checkpoint = Checkpoint::new(self.keys[0].verifier_key().name(), tree.size(), tree.root()).unwrap();
        let mut signed = SignedCheckpoint::sign(checkpoint, &self.keys[0]).unwrap();
        for key in &self.keys[1..] {
            signed.sign_also(key).unwrap();
        }
        let from = if from > tree.size() { 0 } else { from };
        let proof = tree.prove_consistency(from, tree.size(), &NoTiles).unwrap();
        LogHead {
            checkpoint: signed.to_bytes(),
            keys: self.keys.iter().map(|key| key.verifier_key().to_string()).collect(),
            from,
            proof: proof.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            inclusions: vec![],
        }
    }

    /// The same with entries that the agent wants to see.
    pub(crate) fn head_with(&self, from: u64, indexes: &[u64]) -> LogHead {
        let tree = self.tree();
        let inclusion = |index: &u64| {
            let proof = tree.prove_inclusion(*index, tree.size(), &NoTiles).unwrap();
            Inclusion {
                index: *index,
                entry: self.entries[*index as usize].clone(),
                proof: proof.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            }
        };
        LogHead {
            inclusions: indexes.iter().map(inclusion).collect(),
            ..self.head(from)
        }
    }
}

/// A tree of fewer than 256 entries has no full tiles.
struct NoTiles;

impl TileSource for NoTiles {
    fn tile(&self, _: TilePath) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

fn log_key(name: &str) -> Ed25519Key {
    Ed25519Key::generate(name, Algorithm::Ed25519).unwrap().0
}

/// An agent's data folder, and the agent's witness in it.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    distrust: Distrust,
    readiness: Readiness,
    pub(crate) witness: Arc<Witness>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::start(tempfile::tempdir().unwrap())
    }

    fn start(dir: tempfile::TempDir) -> Self {
        let (distrust, readiness) = (Distrust::default(), Readiness::new());
        let witness = Witness::open(WitnessParts {
            data_dir: dir.path(),
            clock: Arc::new(ManualClock::at_unix(1_800_000_000)),
            distrust: distrust.clone(),
            readiness: readiness.clone(),
            metrics: WitnessMetrics::default(),
        })
        .unwrap();
        witness.becomes(&"spiffe://td/spire/agent/a".parse().unwrap());
        Self {
            dir,
            distrust,
            readiness,
            witness,
        }
    }

    pub(crate) fn restart(self) -> Self {
        Self::start(self.dir)
    }

    fn key(&self) -> VerifierKey {
        self.witness.hello().unwrap().key.parse().unwrap()
    }

    /// The log that it knows, from the server's side.
    pub(crate) fn known(&self) -> u64 {
        let checkpoint = self.witness.hello().unwrap().checkpoint;
        if checkpoint.is_empty() {
            return 0;
        }
        let note = String::from_utf8(checkpoint).unwrap();
        note.lines().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn sees(&self, log: &Log) -> Witnessed {
        self.witness.consider(&log.head(self.known()))
    }

    /// It was refused, everybody on the node knows, and for this reason.
    fn refuses(&self, log: &Log, why: &str) {
        let before = self.known();
        let said = self.sees(log);
        assert!(said.refused.contains(why), "{said:?}");
        assert!(said.cosignature.is_empty());
        assert_eq!(self.known(), before, "what it knew, it knows");
        self.is_refusing(why);
    }

    pub(crate) fn is_refusing(&self, why: &str) {
        assert!(self.distrust.refusal().unwrap().contains(why));
        let missing = self.readiness.missing().join(" ");
        assert!(missing.contains(TRUSTED_LOG) && missing.contains(why), "{missing}");
        assert!(self.witness.hello().unwrap().refused.contains(why));
    }

    pub(crate) fn trusts(&self) {
        assert_eq!(self.distrust.refusal(), None);
        assert!(self.readiness.is_ready());
        assert_eq!(self.witness.hello().unwrap().refused, "");
    }
}

#[test]
fn a_log_that_grows_is_remembered_and_cosigned_in_the_agents_name() {
    let node = Node::new();
    let mut log = Log::new(3);
    for size in [3, 4, 9, 200] {
        log.entries.resize(size, vec![7]);
        let said = node.sees(&log);
        assert_eq!((said.size, said.refused.as_str()), (size as u64, ""));
        let head = log.head(0);
        let log_keys = [log.keys[0].verifier_key().clone()];
        let mut shown = SignedCheckpoint::open(&head.checkpoint, &log_keys).unwrap();
        let signature = Signature::parse_all(&said.cosignature).unwrap().remove(0);
        assert_eq!(node.key().name(), "td/spire/agent/a");
        assert_eq!(shown.add_cosignature(&node.key(), signature).unwrap(), 1_800_000_000);
    }
    node.trusts();
}

#[test]
fn a_restart_forgets_nothing() {
    let node = Node::new();
    let mut log = Log::new(9);
    node.sees(&log);
    let key = node.key();
    let node = node.restart();
    assert_eq!((node.key(), node.known()), (key, 9));
    // Dropping the last entry.
    log.entries.pop();
    node.refuses(&log, "it is shorter than it was: 8 entries, and it had 9");
    let node = node.restart();
    node.is_refusing("it is shorter than it was: 8 entries, and it had 9");
    assert_eq!(node.known(), 9);
}

#[test]
fn an_entry_dropped_or_changed_or_two_swapped_is_another_past_at_any_size() {
    let grown = |change: fn(&mut Vec<Vec<u8>>), size: usize| {
        let mut log = Log::new(9);
        let node = Node::new();
        node.sees(&log);
        change(&mut log.entries);
        log.entries.resize(size, vec![0xff]);
        node.refuses(&log, "it has another past");
    };
    for size in [9, 10, 16, 17, 100] {
        grown(|entries| drop(entries.remove(4)), size);
        grown(|entries| entries.swap(0, 1), size);
        grown(|entries| entries[8] = b"another".to_vec(), size);
        grown(|entries| entries.insert(0, b"one more".to_vec()), size);
    }
}

#[test]
fn a_proof_that_is_missing_cut_or_of_something_else_shows_nothing() {
    let (node, mut log) = (Node::new(), Log::new(9));
    node.sees(&log);
    log.entries.resize(20, vec![7]);
    let good = log.head(9);
    let cut = |change: fn(&mut LogHead)| {
        let mut head = good.clone();
        change(&mut head);
        let said = node.witness.consider(&head);
        assert!(said.refused.contains("another past"), "{said:?}");
        assert_eq!(node.known(), 9);
    };
    cut(|head| head.proof.clear());
    cut(|head| drop(head.proof.pop()));
    cut(|head| head.proof.push(vec![0; 32]));
    cut(|head| head.proof[0].truncate(31));
    // A proof that begins elsewhere says nothing, good or bad: the server is told where this one stands.
    let (node, log) = (Node::new(), Log::new(20));
    node.sees(&log);
    let said = node.witness.consider(&log.head(3));
    assert_eq!((said.size, said.refused.as_str(), said.cosignature.len()), (20, "", 0));
}

#[test]
fn another_log_and_a_checkpoint_that_cannot_be_read_are_refused() {
    let (node, log) = (Node::new(), Log::new(9));
    node.sees(&log);
    let mut other = Log::new(30);
    other.keys = vec![log_key("td/log/other")];
    node.refuses(&other, "it is another log: `td/log/other`, and not `td/log/h`");
    let head = LogHead {
        checkpoint: b"not a note".to_vec(),
        ..log.head(9)
    };
    assert!(node.witness.consider(&head).refused.contains("cannot be read"));
}

#[test]
fn the_log_that_is_known_may_come_back_and_is_trusted_again() {
    let (node, mut log) = (Node::new(), Log::new(9));
    node.sees(&log);
    let later = log.entries.split_off(5);
    node.refuses(&log, "shorter");
    log.entries.extend(later);
    log.entries.push(vec![9]);
    assert_eq!(node.sees(&log).refused, "");
    node.trusts();
    node.restart().trusts();
}

#[test]
fn a_new_key_is_followed_when_a_known_one_signs_beside_it_and_not_by_itself() {
    let (node, mut log) = (Node::new(), Log::new(9));
    node.sees(&log);
    // Announced, and signed with by nobody known.
    let first = log.keys.pop().unwrap();
    log.keys.push(log_key(ORIGIN));
    log.entries.push(vec![1]);
    node.refuses(&log, "no key that is known here signed its checkpoint");
    // The same beside the known one.
    log.keys.push(first);
    assert_eq!(node.sees(&log).refused, "");
    node.trusts();
    // Then alone: it is known by now, also after a restart, and the old one is not any more.
    let node = node.restart();
    let first = log.keys.pop().unwrap();
    log.entries.push(vec![2]);
    assert_eq!(node.sees(&log).refused, "");
    let second = std::mem::replace(&mut log.keys, vec![first]);
    log.entries.push(vec![3]);
    node.refuses(&log, "no key that is known here signed its checkpoint");
    log.keys = second;
    assert_eq!(node.sees(&log).size, 12);
}

#[test]
fn a_key_that_is_only_offered_and_signs_nothing_is_not_pinned() {
    let (node, mut log) = (Node::new(), Log::new(9));
    let planted = log_key(ORIGIN);
    let mut head = log.head(0);
    head.keys.push(planted.verifier_key().to_string());
    assert_eq!(node.witness.consider(&head).refused, "");
    log.keys = vec![planted];
    log.entries.push(vec![1]);
    node.refuses(&log, "no key that is known here");
}

#[test]
fn what_cannot_be_saved_does_not_count() {
    let (node, mut log) = (Node::new(), Log::new(9));
    node.sees(&log);
    let file = node.dir.path().join(MEMORY_FILE);
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    log.entries.push(vec![1]);
    let said = node.sees(&log);
    assert_eq!((said.size, said.cosignature.len(), said.refused.as_str()), (9, 0, ""));
    fs::remove_dir(&file).unwrap();
    fs::write(&file, kept).unwrap();
    assert_eq!(node.sees(&log).size, 10);
    assert_eq!(node.restart().known(), 10);
}

#[test]
fn a_memory_that_cannot_be_read_trusts_no_log_and_stays_as_it_is() {
    let (node, log) = (Node::new(), Log::new(9));
    node.sees(&log);
    let file = node.dir.path().join(MEMORY_FILE);
    let good = fs::read_to_string(&file).unwrap();
    let (head, tail) = good.split_at(good.find("\\n9\\n").unwrap());
    let forged = format!("{head}{}", tail.replacen("\\n9\\n", "\\n8\\n", 1));
    let mut node = node;
    for damaged in [&good[..good.len() / 2], "", "{}", "{\"version\": 2}", &forged] {
        fs::write(&file, damaged).unwrap();
        node = node.restart();
        node.is_refusing("what this agent knew of it cannot be read");
        assert_ne!(node.sees(&log).refused, "");
        assert_eq!(fs::read_to_string(&file).unwrap(), damaged);
    }
    // An operator has it forgotten: then it is a first contact.
    fs::remove_file(&file).unwrap();
    let node = node.restart();
    assert_eq!(node.sees(&log).refused, "");
    node.trusts();
}

#[test]
fn a_log_that_is_known_and_not_shown_any_more_is_refused_until_it_is() {
    let (node, log) = (Node::new(), Log::new(9));
    // Whoever knows none misses none.
    let hidden = || Missing {
        is_hidden: true,
        silence: Duration::from_secs(10),
    };
    node.witness.misses(&hidden());
    node.trusts();
    node.sees(&log);
    node.witness.misses(&hidden());
    node.is_refusing("the server does not show it any more");
    let node = node.restart();
    node.is_refusing("the server does not show it any more");
    assert_eq!(node.sees(&log).refused, "");
    node.trusts();
}

#[test]
fn two_roots_over_as_many_entries_are_a_fork_wherever_the_proof_begins() {
    for from in [0, 3, 9, 10] {
        let (node, mut log) = (Node::new(), Log::new(9));
        node.sees(&log);
        log.entries[4] = b"another".to_vec();
        let head = LogHead { from, ..log.head(0) };
        let said = node.witness.consider(&head);
        assert!(said.refused.contains("another past"), "from {from}: {said:?}");
        node.is_refusing("another past");
    }
}

#[test]
fn a_server_that_was_told_where_the_agent_stands_begins_there_the_next_time() {
    let (node, mut log) = (Node::new(), Log::new(9));
    node.sees(&log);
    log.entries.resize(20, vec![7]);
    let elsewhere = |log: &Log| node.witness.consider(&log.head(0));
    assert_eq!((elsewhere(&log).size, node.distrust.refusal()), (9, None));
    // It does: all is well, and the next one may begin elsewhere once more.
    assert_eq!(node.sees(&log).size, 20);
    log.entries.resize(30, vec![7]);
    elsewhere(&log);
    node.trusts();
    // On another stream it was told otherwise, in the hello.
    let _stream = Watching::new(node.witness.clone());
    elsewhere(&log);
    node.trusts();
    elsewhere(&log);
    node.is_refusing("does not show how it goes on from the 20 entries");
    assert_eq!(node.sees(&log).refused, "");
    node.trusts();
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_hidden_is_missed_after_a_minute_of_streams_however_often_they_are_cut() {
    let (node, mut log) = (Node::new(), Log::new(9));
    let is_overdue = |stream: &mut Watching| stream.overdue(Duration::from_secs(10), false).is_some();
    node.sees(&log);
    log.entries.resize(20, vec![7]);
    let mut stream = Watching::new(node.witness.clone());
    for _ in 0..54 {
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!is_overdue(&mut stream));
    }
    // What shows nothing is not the log, and a new stream is no new minute.
    node.witness.consider(&log.head(0));
    drop(stream);
    // Of the time without one, five seconds count.
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let mut stream = Watching::new(node.witness.clone());
    assert!(!is_overdue(&mut stream));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(
        stream.overdue(Duration::from_secs(10), true).is_none(),
        "it is being looked at"
    );
    assert!(is_overdue(&mut stream));
    assert!(!is_overdue(&mut stream), "said once");
    drop(stream);
    // A stream that was cut before anybody asked counts as well.
    for _ in 0..59 {
        let _cut = Watching::new(node.witness.clone());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let mut stream = Watching::new(node.witness.clone());
    assert!(!is_overdue(&mut stream));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(is_overdue(&mut stream));
    // Shown and accepted, it is not missed on this stream, and from the start on the next.
    assert_eq!(node.sees(&log).size, 20);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(!is_overdue(&mut stream));
    drop(stream);
    let mut stream = Watching::new(node.witness.clone());
    for _ in 0..59 {
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!is_overdue(&mut stream));
    }
}
