//! Copies that go on, and logs that do not; proofs in a file.

use std::path::Path;

use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::files::{LogDir, LogKeys, LogWriter};
use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner, VerifierKey};
use mayfly_tlog::proof::Proof;
use mayfly_tlog::tile::TilePath;

use super::copy::{Copy, named_key};
use super::proof_file;
use crate::errors::{CliError, Exit};

const ORIGIN: &str = "td/log/1";

/// A log in a folder, with the files that an export of it streams.
struct Log {
    dir: tempfile::TempDir,
    key: Ed25519Key,
    entries: Vec<Vec<u8>>,
}

impl Log {
    fn new() -> Self {
        let (key, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
        let first = format!(r#"{{"body":{{"vkey":"{}"}},"kind":"log.started"}}"#, key.verifier_key());
        let dir = tempfile::tempdir().unwrap();
        let entries = vec![first.into_bytes()];
        Self { dir, key, entries }
    }

    fn grow(&mut self, by: usize, word: &str) {
        let from = self.entries.len();
        self.entries
            .extend((from..from + by).map(|number| format!(r#"{{"{word}":{number}}}"#).into_bytes()));
    }

    fn key(&self) -> VerifierKey {
        self.key.verifier_key().clone()
    }

    /// Its files, as large as it is now.
    fn written(&self) -> (LogDir, SignedCheckpoint) {
        let dir = self.dir.path().join(self.entries.len().to_string());
        let mut writer = LogWriter::create(&dir).unwrap();
        for entry in &self.entries {
            writer.append(entry).unwrap();
        }
        let tree = writer.tree();
        let checkpoint = Checkpoint::new(ORIGIN, tree.size(), tree.root()).unwrap();
        let checkpoint = SignedCheckpoint::sign(checkpoint, &self.key).unwrap();
        (writer.finish(&checkpoint).unwrap(), checkpoint)
    }

    /// Brings the copy in `to` up to date, as `mayfly audit export` does with what a server streams.
    fn export(&self, to: &Path, pinned: Vec<VerifierKey>) -> Result<u64, CliError> {
        let (log, checkpoint) = self.written();
        let result = (|| {
            let mut copy = Copy::open(to, pinned)?;
            let is_there = |path: &TilePath| path.is_full() && (path.index() + 1) * 256 <= copy.size();
            for path in TilePath::all(checkpoint.size())
                .filter(|path| !is_there(path))
                .collect::<Vec<_>>()
            {
                copy.take(&path.to_string(), &log.read(path).unwrap())?;
            }
            copy.take("keys", b"")?;
            copy.take("checkpoint", &checkpoint.to_bytes())?;
            let copied = copy.finish(None)?;
            assert_eq!(copied.checkpoint, checkpoint);
            Ok(checkpoint.size() - copied.before)
        })();
        std::fs::remove_dir_all(log.path()).unwrap();
        result
    }
}

fn refusal(result: Result<u64, CliError>) -> (Exit, String) {
    let error = result.unwrap_err();
    (error.exit(), error.to_json().to_string())
}

#[test]
fn a_copy_grows_with_its_log_through_every_edge_of_a_tile() {
    let mut log = Log::new();
    let to = tempfile::tempdir().unwrap();
    let copy = to.path().join("copy");
    for by in [0, 1, 253, 1, 1, 0, 255, 1, 300, 200] {
        log.grow(by, "n");
        assert!(
            log.export(&copy, vec![log.key()]).is_ok(),
            "{} entries",
            log.entries.len()
        );
        let verified = LogDir::open(&copy).verify_all(&LogKeys::new([log.key()])).unwrap();
        assert_eq!(verified.checkpoint().size(), log.entries.len() as u64);
        let keys = std::fs::read_to_string(copy.join("keys")).unwrap();
        assert_eq!(keys, format!("{}\n", log.key()));
    }
    assert_eq!(log.export(&copy, vec![]).unwrap(), 0, "nothing is new");
}

#[test]
fn a_log_that_does_not_go_on_from_the_copy_is_refused_and_the_copy_stays() {
    for (size, keep, grown) in [
        (300, 280, 40),
        (300, 100, 400),
        (300, 100, 156),
        (256, 255, 45),
        (512, 300, 212),
    ] {
        let mut log = Log::new();
        log.grow(size - 1, "n");
        let to = tempfile::tempdir().unwrap();
        let copy = to.path().join("copy");
        log.export(&copy, vec![]).unwrap();
        let held = std::fs::read(copy.join("checkpoint")).unwrap();
        log.entries.truncate(keep);
        log.grow(grown, "other");
        let (exit, error) = refusal(log.export(&copy, vec![]));
        let word = if keep + grown < size {
            "LOG_SHORTER"
        } else {
            "LOG_FORKED"
        };
        assert!(
            exit == Exit::Failed && error.contains(word),
            "{size} to {keep} and {grown} others: {error}"
        );
        if keep >= size - size % 256 && word == "LOG_FORKED" {
            assert!(error.contains(&format!("its entry {keep} is not the one")), "{error}");
        }
        assert_eq!(std::fs::read(copy.join("checkpoint")).unwrap(), held);
        assert!(
            copy.join("refused")
                .join(format!("checkpoint-{}", keep + grown))
                .exists()
        );
        LogDir::open(&copy).verify_all(&LogKeys::new([log.key()])).unwrap();
    }
}

#[test]
fn another_log_other_keys_and_foreign_folders_are_refused() {
    let mut log = Log::new();
    log.grow(10, "n");
    let to = tempfile::tempdir().unwrap();
    let copy = to.path().join("copy");
    let other = Log::new();
    let (exit, error) = refusal(log.export(&copy, vec![other.key()]));
    assert!(exit == Exit::Failed && error.contains("none of the keys"), "{error}");
    assert!(!copy.join("checkpoint").exists());
    log.export(&copy, vec![log.key()]).unwrap();
    // A log of the same name that somebody else signs.
    let (_, error) = refusal(other.export(&copy, vec![]));
    assert!(
        error.contains("SHORTER") || error.contains("FORKED") || error.contains("checkpoint"),
        "{error}"
    );
    std::fs::write(copy.join("tile/entries/000.p/11"), b"\0\x01x").unwrap();
    let (_, error) = refusal(log.export(&copy, vec![]));
    assert!(error.contains("is damaged"), "{error}");
    let folder = to.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("letter"), "dear").unwrap();
    assert_eq!(refusal(log.export(&folder, vec![])).0, Exit::Usage);
}

#[test]
fn a_key_is_named_by_events_of_the_log_alone() {
    let key = Log::new().key();
    let entry = |kind: &str| format!(r#"{{"body":{{"vkey":"{key}"}},"kind":"{kind}"}}"#).into_bytes();
    assert_eq!(named_key(&entry("log.key_rotated")), Some(key.clone()));
    assert_eq!(named_key(&entry("log.other")), None);
    assert_eq!(named_key(&entry("entry.created")), None);
}

#[test]
fn proofs_stand_one_behind_the_other_and_each_has_to_hold() {
    let mut log = Log::new();
    log.grow(300, "n");
    let (dir, checkpoint) = log.written();
    let tail: Vec<_> = log.entries[256..]
        .iter()
        .map(|entry| mayfly_tlog::leaf_hash(entry))
        .collect();
    let tree = mayfly_tlog::tree::Tree::resume(301, &tail, &dir).unwrap();
    let proof = |index: u64| {
        let hashes = tree.prove_inclusion(index, 301, &dir).unwrap();
        Proof::new(&log.entries[index as usize], index, hashes, &checkpoint).unwrap()
    };
    let text = proof_file::write(&[proof(3), proof(299)]);
    let proven = proof_file::verify(&text, &[log.key()]).unwrap();
    assert_eq!(proven.iter().map(|proven| proven.index()).collect::<Vec<_>>(), [3, 299]);
    assert_eq!(proven[1].entry(), log.entries[299]);
    let failed = |text: &str| proof_file::verify(text, &[log.key()]).unwrap_err().to_string();
    assert!(failed(&text.replace("index 299", "index 298")).contains("proof 2 does not hold"));
    assert!(failed("").contains("proof 1") && failed(&format!("x\n{text}")).contains("proof 1"));
    assert!(failed(&format!("{text}more\n")).contains("proof 2"));
    assert!(proof_file::verify(&text, &[Log::new().key()]).is_err());
}
