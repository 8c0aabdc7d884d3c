use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::cosignature::cosign;
use crate::note::{Algorithm, Ed25519Key, NoteSigner};

const ORIGIN: &str = "log.example/tiles";

struct Fixture {
    folder: tempfile::TempDir,
    keys: LogKeys,
    log_key: Ed25519Key,
    size: u64,
}

fn entry(index: u64) -> Vec<u8> {
    // Of different lengths, the empty one among them.
    let text = format!("{{\"index\":{index},\"kind\":\"test\"}}");
    text.repeat(usize::try_from(index % 4).unwrap()).into_bytes()
}

fn checkpoint_of(tree: &Tree, key: &Ed25519Key) -> SignedCheckpoint {
    SignedCheckpoint::sign(Checkpoint::new(ORIGIN, tree.size(), tree.root()).unwrap(), key).unwrap()
}

fn write(folder: &Path, entries: impl IntoIterator<Item = Vec<u8>>, key: &Ed25519Key) -> SignedCheckpoint {
    let mut writer = LogWriter::create(folder).unwrap();
    for entry in entries {
        writer.append(&entry).unwrap();
    }
    let checkpoint = checkpoint_of(writer.tree(), key);
    writer.finish(&checkpoint).unwrap();
    checkpoint
}

/// A log of `size` entries with a cosigned checkpoint.
fn log(size: u64) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let (log_key, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    let (witness, _) = Ed25519Key::generate("witness.example", Algorithm::CosignatureV1).unwrap();
    let mut checkpoint = write(folder.path(), (0..size).map(entry), &log_key);
    let cosignature = cosign(&witness, checkpoint.note().text(), 1_700_000_000).unwrap();
    checkpoint.add_cosignature(witness.verifier_key(), cosignature).unwrap();
    LogDir::open(folder.path()).write_checkpoint(&checkpoint).unwrap();
    Fixture {
        folder,
        keys: LogKeys::new([log_key.verifier_key().clone()]).with_witnesses([witness.verifier_key().clone()]),
        log_key,
        size,
    }
}

impl Fixture {
    fn dir(&self) -> LogDir {
        LogDir::open(self.folder.path())
    }

    fn damages(&self) -> Vec<Damage> {
        match self.dir().verify_all(&self.keys) {
            Ok(_) => Vec::new(),
            Err(damages) => damages.found,
        }
    }

    /// The one place that is damaged.
    fn damage(&self) -> Damage {
        let damages = self.damages();
        assert_eq!(damages.len(), 1, "{damages:?}");
        damages.into_iter().next().unwrap()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn change<T>(&self, file: &str, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut bytes = fs::read(self.path(file)).unwrap();
        let changed = change(&mut bytes);
        fs::write(self.path(file), bytes).unwrap();
        changed
    }

    /// Flips a bit where it is: a file that is written anew would be flushed to the disk, twenty thousand times.
    fn flip(&self, file: &str, at: u64, bit: u64) {
        let open = fs::OpenOptions::new().read(true).write(true).open(self.path(file));
        let file = open.unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let tiles = TilePath::all(self.size).map(|path| path.to_string());
        std::iter::once(CHECKPOINT.to_owned()).chain(tiles).collect()
    }
}

#[test]
fn what_was_written_verifies_and_reads_back() {
    for size in [0, 1, 255, 256, 257, 512, 700] {
        let log = log(size);
        let verified = log.dir().verify_all(&log.keys).unwrap();
        assert_eq!(verified.checkpoint().size(), size);
        assert_eq!(verified.cosigned().len(), 1);
        assert!(verified.unknown_signatures().is_empty());
        let entries: Vec<(u64, Vec<u8>)> = verified.entries().map(Result::unwrap).collect();
        assert_eq!(
            entries,
            (0..size).map(|index| (index, entry(index))).collect::<Vec<_>>()
        );
        for file in log.files() {
            assert!(log.path(&file).is_file(), "{size}: {file}");
        }
    }
}

#[test]
fn every_flipped_bit_is_named_with_its_place() {
    // Two levels, with full and partial tiles at the lower one.
    let log = log(600);
    let files = log.files();
    let bytes: Vec<u64> = files
        .iter()
        .map(|file| fs::metadata(log.path(file)).unwrap().len())
        .collect();
    let total: u64 = bytes.iter().sum();
    let seed: u64 = rand::random();
    println!("{} files, {total} bytes, seed {seed}", files.len());
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let mut tried = BTreeSet::new();
    // Each bit of the checkpoint, as there are many kinds of places in few bytes.
    let before = files.iter().position(|file| file == CHECKPOINT).expect("it has one");
    let before: u64 = bytes[..before].iter().sum();
    let length = fs::metadata(log.path(CHECKPOINT)).unwrap().len();
    let anywhere = (0..10_000).map(|_| rand::Rng::random_range(&mut random, 0..total * 8));
    for mut place in (before * 8..(before + length) * 8).chain(anywhere) {
        tried.insert(place);
        let bit = place % 8;
        place /= 8;
        let file = bytes.iter().position(|length| {
            let here = place < *length;
            place -= if here { 0 } else { *length };
            here
        });
        let file = &files[file.unwrap()];
        log.flip(file, place, bit);
        let damage = log.damage();
        let context = format!("{file}, byte {place}, bit {bit}: {damage}");
        assert_eq!(damage.file, *file, "{context}");
        let offset = damage.offset.expect(&context);
        match &damage.kind {
            DamageKind::Hash => assert_eq!(offset, place, "{context}"),
            DamageKind::Entry { .. } => {
                let index = damage.entry.expect(&context);
                let end = offset + 2 + entry(index).len() as u64;
                assert!((offset..end).contains(&place), "{context}");
            }
            // The beginning of a line, or the byte itself.
            DamageKind::Checkpoint(_) | DamageKind::UnknownSignature { .. } => {
                assert!(file == CHECKPOINT && offset <= total, "{context}");
            }
            _ => panic!("{context}"),
        }
        log.flip(file, place, bit);
    }
    println!("{} different bits", tried.len());
    assert!(log.damages().is_empty());
}

#[test]
fn a_place_in_a_log_of_three_levels_is_named_in_each() {
    let log = log(66_000);
    let place = |damage: &Damage| (damage.file.clone(), damage.entry, damage.offset);
    // The length of entry 51,402, which is the one at 202 of bundle 200; it takes the lengths behind it along.
    let before = (51_200..51_402).map(|index| 2 + entry(index).len() as u64).sum();
    log.flip("tile/entries/200", before, 0);
    let damage = log.damage();
    assert_eq!(place(&damage), ("tile/entries/200".into(), Some(51_402), Some(before)));
    let text = damage.to_string();
    assert!(
        text.starts_with(&format!("tile/entries/200, entry 51402, byte {before}: ")),
        "{text}"
    );
    log.flip("tile/entries/200", before, 0);

    for (file, at) in [
        ("tile/0/137", 8191),
        ("tile/1/000", 4000),
        ("tile/1/001.p/1", 5),
        ("tile/2/000.p/1", 31),
    ] {
        log.flip(file, at, 7);
        assert_eq!(place(&log.damage()), (file.into(), None, Some(at)), "{file}");
        log.flip(file, at, 7);
    }

    // In all of them at once; 66,000 are 257 full bundles and one of 208.
    let all = [
        "tile/2/000.p/1",
        "tile/1/000",
        "tile/0/137",
        "tile/entries/200",
        "tile/1/001.p/1",
        "tile/0/257.p/208",
    ];
    for file in all {
        log.flip(file, 2, 0);
    }
    let found: BTreeSet<String> = log.damages().into_iter().map(|damage| damage.file).collect();
    assert_eq!(found, all.map(str::to_owned).into());
    for file in all {
        log.flip(file, 2, 0);
    }
    assert!(log.damages().is_empty());
}

#[test]
fn an_entry_that_is_dropped_added_or_swapped_is_named() {
    let log = log(600);
    let rewrite = |file: &str, entries: Vec<Vec<u8>>| {
        let mut bytes = Vec::new();
        for entry in &entries {
            push_entry(&mut bytes, entry).unwrap();
        }
        let damage = {
            let old = log.change(file, |all| std::mem::replace(all, bytes));
            let damage = log.damage();
            log.change(file, |all| *all = old);
            damage
        };
        assert_eq!(damage.file, file);
        damage
    };
    let second: Vec<Vec<u8>> = (256..512).map(entry).collect();

    let mut swapped = second.clone();
    swapped.swap(2, 101);
    let damage = rewrite("tile/entries/001", swapped);
    assert_eq!(
        (damage.entry, damage.kind),
        (Some(258), DamageKind::Entry { others: 1 })
    );

    let mut dropped = second.clone();
    dropped.remove(9);
    let damage = rewrite("tile/entries/001", dropped);
    assert_eq!(
        (damage.entry, damage.kind),
        (Some(265), DamageKind::Entry { others: 246 })
    );

    let mut added = second;
    added.push(b"one more".to_vec());
    let damage = rewrite("tile/entries/001", added);
    assert_eq!((damage.entry, damage.kind), (None, DamageKind::TooMany));
    assert!(damage.offset.is_some());

    let damage = rewrite("tile/entries/002.p/88", (512..599).map(entry).collect());
    assert_eq!(
        (damage.entry, damage.kind),
        (Some(599), DamageKind::Entry { others: 0 })
    );
}

#[test]
fn a_missing_or_cut_file_is_named() {
    let log = log(600);
    for file in log.files() {
        let old = fs::read(log.path(&file)).unwrap();
        fs::remove_file(log.path(&file)).unwrap();
        let damage = log.damage();
        assert_eq!(
            (damage.file.as_str(), &damage.kind),
            (file.as_str(), &DamageKind::Missing)
        );
        fs::create_dir(log.path(&file)).unwrap();
        let damage = log.damage();
        assert!(
            matches!(damage.kind, DamageKind::Unreadable { .. }) && damage.file == file,
            "{damage}"
        );
        fs::remove_dir(log.path(&file)).unwrap();
        for cut in [&old[..0], &old[..1], &old[..old.len() - 1]] {
            fs::write(log.path(&file), cut).unwrap();
            assert_eq!(log.damage().file, file);
        }
        fs::write(log.path(&file), [&old[..], b"x"].concat()).unwrap();
        assert_eq!(log.damage().file, file);
        fs::write(log.path(&file), old).unwrap();
    }
    assert!(log.damages().is_empty());
}

#[test]
fn a_log_that_was_rewritten_is_not_the_one_that_was_signed() {
    let log = log(600);
    let old = log.dir().read_checkpoint().unwrap();
    // The same entries but one, with all their hashes; a key of the same log, so that only the root tells.
    fs::remove_file(log.path(CHECKPOINT)).unwrap();
    let forged = (0..600).map(|index| if index == 77 { b"forged".to_vec() } else { entry(index) });
    write(log.folder.path(), forged, &log.log_key);
    assert!(log.damages().is_empty(), "consistent in itself");
    fs::write(log.path(CHECKPOINT), &old).unwrap();
    let damage = log.damage();
    assert_eq!(
        (damage.file.as_str(), damage.kind),
        (CHECKPOINT, DamageKind::Replaced { entries: 600 })
    );

    // Only one bundle and its tile were exchanged: the tile above tells which.
    write_again(&log);
    let other = tempfile::tempdir().unwrap();
    write(other.path(), (0..600).map(|index| entry(index + 1)), &log.log_key);
    for file in ["tile/0/000", "tile/entries/000"] {
        fs::copy(other.path().join(file), log.path(file)).unwrap();
    }
    let damage = log.damage();
    assert_eq!((damage.file.as_str(), damage.entry), ("tile/0/000", Some(0)));
    assert_eq!(damage.kind, DamageKind::Replaced { entries: 256 });
}

/// The log as it was, over whatever is there; its checkpoint stays.
fn write_again(log: &Fixture) {
    let old = log.dir().read_checkpoint().unwrap();
    fs::remove_file(log.path(CHECKPOINT)).unwrap();
    write(log.folder.path(), (0..log.size).map(entry), &log.log_key);
    fs::write(log.path(CHECKPOINT), old).unwrap();
}

#[test]
fn a_signature_that_cannot_be_verified_is_named_or_allowed() {
    let log = log(10);
    let known = LogKeys::new([log.log_key.verifier_key().clone()]);
    let damages = log.dir().verify_all(&known).unwrap_err();
    let [damage] = &damages.found[..] else {
        panic!("{damages}");
    };
    let name = "witness.example".to_owned();
    assert_eq!(damage.kind, DamageKind::UnknownSignature { name: name.clone() });
    let text = String::from_utf8(log.dir().read_checkpoint().unwrap()).unwrap();
    let line = text.find("\u{2014} witness").unwrap();
    assert_eq!(damage.offset, Some(line as u64));
    let verified = log.dir().verify_all(&known.allow_unknown_signatures()).unwrap();
    assert_eq!(verified.unknown_signatures(), [name]);
    assert!(verified.cosigned().is_empty());

    let nobody = LogKeys::new([]).allow_unknown_signatures();
    let damages = log.dir().verify_all(&nobody).unwrap_err();
    assert!(
        matches!(damages.found[0].kind, DamageKind::UnknownSignature { .. }),
        "{damages}"
    );
}

#[test]
fn entries_that_change_after_the_log_was_verified_are_not_all_read() {
    let log = log(600);
    let verified = log.dir().verify_all(&log.keys).unwrap();
    log.flip("tile/entries/001", 700, 3);
    let read: Vec<Result<(u64, Vec<u8>), Damage>> = verified.entries().collect();
    assert!(
        read.iter().rev().take(1).all(Result::is_err),
        "the last one is the error"
    );
    assert_eq!(read.iter().filter(|entry| entry.is_err()).count(), 1);
}

#[test]
fn a_claim_of_many_entries_that_are_not_there_does_not_take_long() {
    let folder = tempfile::tempdir().unwrap();
    let (key, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    let dir = LogDir::open(folder.path());
    for size in [1 << 20, 1 << 40, (1 << 62) + 12_345, crate::checkpoint::MAX_TREE_SIZE] {
        let checkpoint = Checkpoint::new(ORIGIN, size, leaf_hash(b"")).unwrap();
        dir.write_checkpoint(&SignedCheckpoint::sign(checkpoint, &key).unwrap())
            .unwrap();
        let keys = LogKeys::new([key.verifier_key().clone()]);
        let damages = dir.verify_all(&keys).unwrap_err();
        assert!(
            damages.found.len() <= MAX_DAMAGES && !damages.found.is_empty(),
            "{size}"
        );
    }
}

#[test]
fn a_folder_holds_one_log_and_that_of_its_checkpoint() {
    let log = log(10);
    assert!(matches!(
        LogWriter::create(log.folder.path()),
        Err(WriteError::Taken { .. })
    ));
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::create(folder.path()).unwrap();
    writer.append(b"one").unwrap();
    let early = checkpoint_of(writer.tree(), &log.log_key);
    let long = writer.append(&vec![0; 65_536]);
    assert!(matches!(long, Err(WriteError::Entry { index: 1, .. })));
    writer.append(b"two").unwrap();
    assert!(matches!(
        writer.finish(&early),
        Err(WriteError::OtherLog { written: 2, .. })
    ));
    assert!(!folder.path().join(CHECKPOINT).exists());
}

#[test]
fn a_tree_goes_on_from_a_folder() {
    let log = log(600);
    let tail: Vec<Hash> = (512..600).map(|index| leaf_hash(&entry(index))).collect();
    let tree = Tree::resume(600, &tail, &log.dir()).unwrap();
    let verified = log.dir().verify_all(&log.keys).unwrap();
    assert_eq!(tree.root(), verified.checkpoint().root());
    assert!(tree.prove_inclusion(300, 600, &log.dir()).is_ok());
    fs::remove_file(log.path("tile/0/001")).unwrap();
    assert!(matches!(
        tree.prove_inclusion(300, 600, &log.dir()),
        Err(TreeError::Missing { .. })
    ));
}

#[test]
fn a_key_of_the_wrong_kind_is_no_key_of_a_witness() {
    let log = log(3);
    let log_key = log.log_key.verifier_key().clone();
    // The log's key given as one of a witness: nobody is known to be the log.
    let swapped = LogKeys::new([]).with_witnesses([log_key.clone()]);
    assert!(log.dir().verify_all(&swapped).is_err());
    // A second signature of the log, by a key that is given as a witness's only: it is not passed over.
    let (second, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    let mut checkpoint = log.dir().verify_all(&log.keys).unwrap().checkpoint().clone();
    checkpoint.sign_also(&second).unwrap();
    log.dir().write_checkpoint(&checkpoint).unwrap();
    let keys = log.keys.clone().with_witnesses([second.verifier_key().clone()]);
    let damages = log.dir().verify_all(&keys).unwrap_err();
    assert!(
        matches!(damages.found[0].kind, DamageKind::UnknownSignature { .. }),
        "{damages}"
    );
    let both = LogKeys::new([log_key, second.verifier_key().clone()]).allow_unknown_signatures();
    assert_eq!(
        log.dir().verify_all(&both).unwrap().unknown_signatures(),
        ["witness.example"]
    );
}

#[test]
fn a_damaged_cosignature_is_named_with_its_line() {
    let log = log(3);
    let text = String::from_utf8(log.dir().read_checkpoint().unwrap()).unwrap();
    let line = text.find("\u{2014} witness.example").unwrap() as u64;
    // In the signature, behind key ID and time.
    log.change(CHECKPOINT, |bytes| {
        let at = bytes.len() - 20;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    });
    let damage = log.damage();
    assert_eq!(
        (damage.file.as_str(), damage.offset),
        (CHECKPOINT, Some(line)),
        "{damage}"
    );
    assert!(damage.to_string().contains("witness.example"), "{damage}");
}
