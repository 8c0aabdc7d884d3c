use mayfly_tlog::Hash;
use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner as _};

use super::*;

const ORIGIN: &str = "td/log/1";

/// A log, and the keys that sign it.
#[derive(Clone)]
struct Log {
    keys: Vec<std::sync::Arc<Ed25519Key>>,
    entries: Vec<Vec<u8>>,
}

impl Log {
    fn new(size: usize) -> Self {
        let mut log = Self {
            keys: vec![],
            entries: vec![],
        };
        log.rotate("log.started");
        log.grow(size - 1, "n");
        log
    }

    fn grow(&mut self, by: usize, word: &str) {
        let from = self.entries.len();
        self.entries
            .extend((from..from + by).map(|number| format!(r#"{{"{word}":{number}}}"#).into_bytes()));
    }

    /// The log names a new key, which signs beside the last one.
    fn rotate(&mut self, kind: &str) {
        let (key, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
        let entry = format!(r#"{{"body":{{"vkey":"{}"}},"kind":"{kind}"}}"#, key.verifier_key());
        self.entries.push(entry.into_bytes());
        self.keys.insert(0, key.into());
        self.keys.truncate(2);
    }

    fn key(&self) -> VerifierKey {
        self.keys[0].verifier_key().clone()
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let leaves: Vec<Hash> = self.entries.iter().map(|entry| leaf_hash(entry)).collect();
        tree.append(&leaves).unwrap();
        tree
    }

    fn checkpoint(&self) -> Vec<u8> {
        let tree = self.tree();
        let checkpoint = Checkpoint::new(ORIGIN, tree.size(), tree.root()).unwrap();
        let mut signed = SignedCheckpoint::sign(checkpoint, &*self.keys[0]).unwrap();
        for key in &self.keys[1..] {
            signed.sign_also(&**key).unwrap();
        }
        signed.to_bytes()
    }

    fn tiles(&self) -> BTreeMap<TilePath, Vec<u8>> {
        let tree = self.tree();
        let tiles = tree
            .partial_tiles()
            .map(|path| (path, tree.partial_tile(path).unwrap()));
        tiles.collect()
    }

    fn seen(&self) -> Followed {
        Followed::from_here(&self.checkpoint(), &[self.key()], &self.tiles()).unwrap()
    }

    /// What a monitor that knows `known` makes of this log, when the server tells of `entries`.
    fn told(&self, known: &Followed, entries: &[Vec<u8>]) -> Result<Followed, Fault> {
        let checkpoint = match known.judge(&self.checkpoint())? {
            Shown::Same => return Ok(known.clone()),
            Shown::Larger(checkpoint) => *checkpoint,
        };
        let mut advance = known.advance(checkpoint);
        while let Some(index) = advance.wants() {
            let Some(entry) = entries.get(usize::try_from(index).unwrap()) else {
                break;
            };
            advance.take(index, entry)?;
        }
        known.arrived(advance)
    }

    fn shown(&self, known: &Followed) -> Result<Followed, Fault> {
        self.told(known, &self.entries)
    }
}

#[test]
fn a_log_that_grows_is_followed_through_every_edge_of_a_tile_and_every_restart() {
    let mut log = Log::new(1);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state");
    assert!(Followed::load(&file).unwrap().is_none());
    let mut known = log.seen();
    for by in [1, 253, 1, 1, 0, 255, 1, 300] {
        log.grow(by, "n");
        known = log.shown(&known).unwrap();
        known.next_index = known.size() - 1;
        assert_eq!(known.size(), log.entries.len() as u64);
        known.save(&file).unwrap();
        let again = Followed::load(&file).unwrap().unwrap();
        assert_eq!(again.next_index, known.next_index);
        assert_eq!(
            (again.tree, again.keys, again.checkpoint),
            (known.tree.clone(), known.keys.clone(), known.checkpoint.clone())
        );
        known = Followed::load(&file).unwrap().unwrap();
    }
    // From its first entry on it is the same log.
    let from_start = Followed::from_start(&log.checkpoint(), &[log.key()], 3).unwrap();
    assert_eq!(log.shown(&from_start).unwrap().tree, known.tree);
}

#[test]
fn a_log_that_is_not_what_it_was_is_refused_for_what_it_is() {
    for size in [5, 256, 300] {
        let log = Log::new(size);
        let known = log.seen();
        let changed = |change: &dyn Fn(&mut Log)| {
            let mut other = log.clone();
            change(&mut other);
            other.shown(&known).unwrap_err()
        };
        let count = size as u64;
        let shorter = changed(&|log| log.entries.truncate(size - 1));
        assert_eq!(
            shorter,
            Fault::Shorter {
                known: count,
                size: count - 1
            }
        );
        assert_eq!(
            changed(&|log| log.entries[3] = b"{}".to_vec()),
            Fault::Forked { size: count }
        );
        let grown = Fault::NotContinued {
            known: count,
            size: count + 7,
        };
        let dropped = changed(&|log| {
            log.entries.remove(2);
            log.grow(8, "other");
        });
        assert_eq!(dropped, grown);
        let swapped = changed(&|log| {
            log.entries.swap(2, 3);
            log.grow(7, "n");
        });
        assert_eq!(swapped, grown);
        // Another key, another log, and none.
        let thief = Log::new(size + 1).checkpoint();
        assert!(matches!(known.judge(&thief), Err(Fault::Unsigned { .. })));
        let other = String::from_utf8(thief).unwrap().replace(ORIGIN, "td/log/2");
        assert!(matches!(known.judge(other.as_bytes()), Err(Fault::OtherLog { .. })));
        assert!(matches!(known.judge(b"hello"), Err(Fault::NoCheckpoint(_))));
        // And the one that it was goes on.
        let mut on = log.clone();
        on.grow(9, "n");
        assert_eq!(on.shown(&known).unwrap().size(), count + 9);
    }
}

#[test]
fn a_server_that_leaves_out_or_changes_what_it_tells_is_found_out() {
    let mut log = Log::new(10);
    let known = log.seen();
    log.grow(10, "n");
    let whole = log.entries.clone();
    let mut changed = whole.clone();
    changed[15] = b"{}".to_vec();
    let not_continued = Fault::NotContinued { known: 10, size: 20 };
    assert_eq!(log.told(&known, &changed).unwrap_err(), not_continued);
    let mut swapped = whole.clone();
    swapped.swap(12, 13);
    assert_eq!(log.told(&known, &swapped).unwrap_err(), not_continued);
    assert_eq!(
        log.told(&known, &whole[..17]).unwrap_err(),
        Fault::LeftOut { index: 17 }
    );
    let Shown::Larger(checkpoint) = known.judge(&log.checkpoint()).unwrap() else {
        panic!("it is larger")
    };
    let mut advance = known.advance(*checkpoint);
    advance.take(10, &whole[10]).unwrap();
    assert_eq!(advance.take(12, &whole[12]), Err(Fault::LeftOut { index: 11 }));
    // More than was signed is not believed either.
    let mut more = whole;
    more.push(b"{}".to_vec());
    assert_eq!(log.told(&known, &more).unwrap().size(), 20);
    // Nor tiles that are not those of the checkpoint.
    let mut tiles = log.tiles();
    tiles.values_mut().next().unwrap()[7] ^= 1;
    assert!(Followed::from_here(&log.checkpoint(), &[log.key()], &tiles).is_err());
}

#[test]
fn keys_are_followed_as_the_log_names_them_and_no_others() {
    let mut log = Log::new(3);
    let mut known = log.seen();
    for _ in 0..5 {
        log.rotate("log.key_rotated");
        known = log.shown(&known).unwrap();
    }
    // Who was away for longer than keys sign beside the newest has to be told.
    let mut away = log.seen();
    for _ in 0..3 {
        log.rotate("log.key_rotated");
    }
    assert!(matches!(log.shown(&away), Err(Fault::Unsigned { .. })));
    away.pin(&log.checkpoint(), &[log.key()]).unwrap();
    away = log.shown(&away).unwrap();
    assert!(away.keys().contains(&log.key()));
    // A key that entries name counts only if those lead to what a known key has signed.
    let mut forged = log.clone();
    forged.keys.clear();
    forged.rotate("log.key_rotated");
    assert!(matches!(forged.shown(&away), Err(Fault::Unsigned { .. })));
}

#[test]
fn a_key_that_does_not_sign_any_more_does_not_speak_for_the_log() {
    let mut log = Log::new(3);
    let mut known = log.seen();
    let old = log.clone();
    let pinned = [log.key()];
    known.pin(&log.checkpoint(), &pinned).unwrap();
    for _ in 0..2 {
        log.rotate("log.key_rotated");
        known = log.shown(&known).unwrap();
    }
    assert!(!known.keys().contains(&old.key()) && known.keys().contains(&log.key()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state");
    known.save(&file).unwrap();
    let mut known = Followed::load(&file).unwrap().unwrap();
    // Whoever has found it goes on with what the log has, and signs it.
    let mut thief = log.clone();
    thief.keys = old.keys;
    thief.grow(1, "stolen");
    assert!(matches!(thief.shown(&known), Err(Fault::Unsigned { .. })));
    // The operator's key file still has it: it is the log that was meant, and the key speaks no more for that.
    known.pin(&thief.checkpoint(), &pinned).unwrap();
    assert!(matches!(thief.shown(&known), Err(Fault::Unsigned { .. })));
    known.pin(&log.checkpoint(), &pinned).unwrap();
    log.grow(1, "n");
    assert_eq!(log.shown(&known).unwrap().size(), 6);
}

#[test]
fn a_key_that_was_seen_first_does_not_speak_beside_the_operator_s() {
    let mut log = Log::new(3);
    let mut false_log = log.clone();
    false_log.keys.clear();
    let (false_key, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    false_log.keys.push(false_key.into());
    // The false one offers the true key, too, and that has signed nothing.
    let offered = [false_log.key(), log.key()];
    let mut known = Followed::from_here(&false_log.checkpoint(), &offered, &false_log.tiles()).unwrap();
    assert!(matches!(
        known.pin(&false_log.checkpoint(), &[log.key()]),
        Err(Fault::Unsigned { .. })
    ));
    known.pin(&log.checkpoint(), &[log.key()]).unwrap();
    assert_eq!(known.keys(), [log.key()]);
    false_log.grow(1, "n");
    assert!(matches!(false_log.shown(&known), Err(Fault::Unsigned { .. })));
    log.grow(1, "n");
    assert_eq!(log.shown(&known).unwrap().size(), 4);
}

#[test]
fn a_state_that_was_changed_is_no_state() {
    let log = Log::new(300);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state");
    log.seen().save(&file).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tile = json["tiles"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned();
    let changes = [
        text.replace(&tile[..8], "00000000"),
        text.replace("\"version\": 1", "\"version\": 2"),
        text.replace("td/log/1\\n300", "td/log/1\\n301"),
        text.replace("next_index", "next"),
        "{".to_owned(),
    ];
    for changed in changes {
        assert_ne!(changed, text);
        std::fs::write(&file, &changed).unwrap();
        let error = Followed::load(&file).unwrap_err().to_string();
        assert!(error.contains("not the state of a monitor"), "{error}");
    }
    std::fs::write(&file, text).unwrap();
    assert!(Followed::load(&file).unwrap().is_some());
}
