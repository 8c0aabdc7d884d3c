//! What a server has shown of its log, as somebody remembers it who takes nothing back.

use std::path::{Path, PathBuf};

use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::note::VerifierKey;
use mayfly_tlog::tree::Tree;
use mayfly_tlog::{Hash, leaf_hash};
use serde_json::Value;

use crate::evidence::Evidence;

/// Checkpoints of one server, from when this began to look.
#[derive(Debug)]
pub struct Shown {
    dir: PathBuf,
    seen: Vec<(u64, Hash)>,
}

impl Shown {
    /// Of the server whose folder is `dir`.
    pub fn of(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            seen: vec![],
        }
    }

    /// Remembers the newest checkpoint, also when nobody runs the server.
    ///
    /// # Panics
    /// It is not signed by a key that the log names, or it is smaller than one before.
    pub fn look(&mut self) {
        let path = self.dir.join("server/log/checkpoint");
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let checkpoint = SignedCheckpoint::open(&bytes, &self.keys()).expect("the log signs its checkpoints");
        let (size, root) = (checkpoint.size(), checkpoint.root());
        match self.seen.last() {
            Some((known, known_root)) if *known == size => assert_eq!(*known_root, root, "two logs of one size"),
            Some((known, _)) => assert!(size > *known, "the log had {known} entries and has {size}"),
            None => {}
        }
        if self.seen.last().is_none_or(|(known, _)| *known < size) {
            self.seen.push((size, root));
        }
    }

    /// Fails unless the entries in the database are those that each remembered checkpoint was signed over; tells how many
    /// that were.
    ///
    /// # Panics
    /// They are not.
    pub fn check(&self) -> usize {
        let leaves: Vec<Hash> = self.entries().iter().map(|entry| leaf_hash(entry.as_bytes())).collect();
        let mut tree = Tree::new();
        for (size, root) in &self.seen {
            let (have, want) = (tree.size() as usize, *size as usize);
            let missing = leaves.get(have..want);
            let missing = missing.unwrap_or_else(|| panic!("{want} entries were shown, {} are there", leaves.len()));
            tree.append(missing).expect("no tree is that large");
            assert_eq!(
                tree.root(),
                *root,
                "other entries than those that were shown, among the first {want}"
            );
        }
        self.seen.len()
    }

    fn keys(&self) -> Vec<VerifierKey> {
        let entries = self.entries();
        let events = entries.iter().filter(|entry| entry.contains(r#""vkey""#));
        let keys = events.filter_map(|entry| {
            let entry: Value = serde_json::from_str(entry).expect("entries are JSON");
            entry["body"]["vkey"].as_str()?.parse().ok()
        });
        keys.collect()
    }

    fn entries(&self) -> Vec<String> {
        Evidence::of(&self.dir).entries()
    }
}
