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
    for _ in 0..10_000 {
        let mut place = rand::Rng::random_range(&mut random, 0..total * 8);
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
