//! The log as far as a monitor has verified it. Nothing of it is believed because the server says so: the entries that
//! were read lead to the root that a known key has signed, each of them in its place and none left out.

use std::collections::BTreeMap;
use std::path::Path;

use mayfly_runtime::Chain;
use mayfly_runtime::files::{PRIVATE, write_atomic};
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::leaf_hash;
use mayfly_tlog::note::{Note, VerifierKey};
use mayfly_tlog::tile::TilePath;
use mayfly_tlog::tree::Tree;
use serde::{Deserialize, Serialize};

use super::super::copy::named_key;
use crate::errors::CliError;
use crate::files;

/// A checkpoint with its signatures, and at most 8 KiB a level of the tree, in hexadecimal.
const STATE_MAX: u64 = 4 << 20;

/// A log, as far as it was verified.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    /// Who speaks for it: those that signed the last checkpoint, and the newest that its entries name.
    keys: Vec<VerifierKey>,
    /// Keys by which it was shown to be the log that is meant. They may have ceased to speak for it.
    meant: Vec<VerifierKey>,
    /// The last checkpoint; none before the first entry was read.
    checkpoint: Option<SignedCheckpoint>,
    tree: Tree,
    origin: String,
    /// The first entry of which nothing was told yet.
    pub(super) next_index: u64,
}

/// A checkpoint that is shown now, beside what is known.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// It is the one that is known.
    Same,
    /// A known key has signed that there is more. Whether it goes on from what is known is still to be seen.
    Larger(Box<SignedCheckpoint>),
}

/// The log is not what it was, or not what it says: something for people, and the end of the monitor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("what the server shows is no checkpoint of a log: {0}")]
    NoCheckpoint(String),
    #[error("this is ANOTHER log: `{shown}`, and `{known}` was watched")]
    OtherLog { known: String, shown: String },
    #[error("no key that is known has signed the log's checkpoint over {size} entries: {why}")]
    Unsigned { size: u64, why: String },
    #[error("the log has become SHORTER: it has {size} entries, and had {known}")]
    Shorter { known: u64, size: u64 },
    #[error("the log was FORKED: its key has signed another root over the same {size} entries")]
    Forked { size: u64 },
    #[error(
        "the log was FORKED, or entries are hidden: behind the first {known}, the entries up to {size} do not lead to the \
         root that was signed"
    )]
    NotContinued { known: u64, size: u64 },
    #[error("entry {index} is HIDDEN: it is under the log's checkpoint, and the server leaves it out")]
    LeftOut { index: u64 },
    #[error("the server tells of entry {index} something else than the log has")]
    OtherEntry { index: u64 },
}

/// Entries on their way to a checkpoint.
pub(super) struct Advance {
    checkpoint: SignedCheckpoint,
    tree: Tree,
    keys: Vec<VerifierKey>,
    known: u64,
}

/// Its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    next_index: u64,
    keys: Vec<String>,
    /// Files of before have only `keys`.
    meant: Option<Vec<String>>,
    checkpoint: String,
    /// The partial tiles of its tree, in hexadecimal.
    tiles: BTreeMap<String, String>,
}

const VERSION: u32 = 1;

// === impl Followed ===

impl Followed {
    /// Begins with the first entry of the log that is shown, by keys that are trusted; tells from `next_index` on.
    pub(super) fn from_start(bytes: &[u8], trusted: &[VerifierKey], next_index: u64) -> Result<Self, Fault> {
        let signed = signed(bytes, trusted)?;
        let origin = signed.origin().to_owned();
        let keys = signed.note().verified_by(trusted).map_err(|error| Fault::Unsigned {
            size: signed.size(),
            why: error.to_string(),
        })?;
        let keys: Vec<_> = keys.into_iter().filter(|key| key.name() == origin).cloned().collect();
        Ok(Self {
            meant: keys.clone(),
            keys,
            checkpoint: None,
            tree: Tree::new(),
            origin,
            next_index,
        })
    }

    /// Begins behind the last entry of the checkpoint that is shown; `tiles` are the partial ones of its tree.
    pub(super) fn from_here(
        bytes: &[u8],
        trusted: &[VerifierKey],
        tiles: &BTreeMap<TilePath, Vec<u8>>,
    ) -> Result<Self, Fault> {
        let begun = Self::from_start(bytes, trusted, 0)?;
        let signed = signed(bytes, trusted)?;
        let size = signed.size();
        let tree = Tree::of_partial_tiles(size, |path| tiles.get(&path).cloned());
        let tree = tree.filter(|tree| tree.root() == signed.root());
        Ok(Self {
            tree: tree.ok_or(Fault::NotContinued { known: 0, size })?,
            checkpoint: Some(signed),
            next_index: size,
            ..begun
        })
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn keys(&self) -> &[VerifierKey] {
        &self.keys
    }

    /// Entries that were verified.
    pub(super) fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Takes on keys that the operator hands over, by the checkpoint that is shown. If this was not known to be the log
    /// of one of them, one has to have signed that, and nobody else speaks for it from there on.
    pub(super) fn pin(&mut self, bytes: &[u8], pinned: &[VerifierKey]) -> Result<(), Fault> {
        let is_meant = pinned.iter().any(|key| self.meant.contains(key));
        if is_meant && pinned.iter().all(|key| self.meant.contains(key)) {
            return Ok(());
        }
        let of_the_log = pinned.iter().filter(|key| key.name() == self.origin);
        let of_the_log: Vec<_> = of_the_log.cloned().collect();
        match Self::from_start(bytes, pinned, 0) {
            Ok(begun) if is_meant => {
                let new = begun.keys.into_iter().filter(|key| !self.meant.contains(key));
                add(&mut self.keys, new.collect());
                add(&mut self.meant, of_the_log);
            }
            Ok(begun) => (self.keys, self.meant) = (begun.keys, of_the_log),
            Err(fault) if !is_meant => return Err(fault),
            // What is known decides.
            Err(_) => {}
        }
        Ok(())
    }

    /// What to make of a checkpoint.
    pub(super) fn judge(&self, bytes: &[u8]) -> Result<Shown, Fault> {
        let shown = claimed(bytes)?;
        if shown.origin() != self.origin {
            return Err(Fault::OtherLog {
                known: self.origin.clone(),
                shown: shown.origin().to_owned(),
            });
        }
        let signed = signed(bytes, &self.keys)?;
        let (known, size) = (self.size(), signed.size());
        if size < known {
            return Err(Fault::Shorter { known, size });
        }
        if size > known {
            return Ok(Shown::Larger(Box::new(signed)));
        }
        match signed.root() == self.tree.root() {
            true => Ok(Shown::Same),
            false => Err(Fault::Forked { size }),
        }
    }

    /// Sets out for a larger checkpoint.
    pub(super) fn advance(&self, checkpoint: SignedCheckpoint) -> Advance {
        Advance {
            checkpoint,
            tree: self.tree.clone(),
            keys: vec![],
            known: self.size(),
        }
    }

    /// The log there: what was read on the way is what was signed, so keys that it names are the log's. Those that have
    /// signed speak for it on, and the newest, which may sign from the next checkpoint on; one that does not sign any more
    /// may be in anybody's hands.
    pub(super) fn arrived(&self, advance: Advance) -> Result<Self, Fault> {
        let Advance {
            checkpoint,
            tree,
            keys,
            known,
        } = advance;
        let size = checkpoint.size();
        if tree.size() < size {
            return Err(Fault::LeftOut { index: tree.size() });
        }
        if (tree.size(), tree.root()) != (size, checkpoint.root()) {
            return Err(Fault::NotContinued { known, size });
        }
        let newest = keys.last().cloned();
        let mut speaking = self.keys.clone();
        add(&mut speaking, keys);
        speaking.retain(|key| {
            Some(key) == newest.as_ref() || checkpoint.note().verified_by(std::slice::from_ref(key)).is_ok()
        });
        Ok(Self {
            keys: speaking,
            checkpoint: Some(checkpoint),
            tree,
            ..self.clone()
        })
    }

    /// Reads the file of a monitor; `None` if there is none yet.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, CliError> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read(&path.to_string_lossy(), STATE_MAX)?;
        parse(&bytes).map(Some).map_err(|problem| {
            CliError::input(
                format!("`{}` is not the state of a monitor: {problem}", path.display()),
                "find out who changed it; a monitor that begins anew takes the log as it is now",
            )
        })
    }

    /// Keeps it, once something was verified.
    pub(super) fn save(&self, path: &Path) -> Result<(), CliError> {
        let Some(checkpoint) = &self.checkpoint else {
            return Ok(());
        };
        let tiles = self.tree.partial_tiles().map(|tile| {
            let bytes = self
                .tree
                .partial_tile(tile)
                .expect("the tree has the tiles that it names");
            (tile.to_string(), hex::encode(bytes))
        });
        let written = Written {
            version: VERSION,
            next_index: self.next_index,
            keys: self.keys.iter().map(ToString::to_string).collect(),
            meant: Some(self.meant.iter().map(ToString::to_string).collect()),
            checkpoint: checkpoint.to_string(),
            tiles: tiles.collect(),
        };
        let mut text = serde_json::to_vec_pretty(&written).expect("texts and numbers are JSON");
        text.push(b'\n');
        Ok(write_atomic(path, &text, PRIVATE)?)
    }
}

// === impl Advance ===

impl Advance {
    /// The next entry that is wanted; none if there are enough.
    pub(super) fn wants(&self) -> Option<u64> {
        let next = self.tree.size();
        (next < self.checkpoint.size()).then_some(next)
    }

    /// How many are wanted still.
    pub(super) fn left(&self) -> u64 {
        self.checkpoint.size().saturating_sub(self.tree.size())
    }

    /// Takes the next one.
    pub(super) fn take(&mut self, index: u64, entry: &[u8]) -> Result<(), Fault> {
        let next = self.tree.size();
        if index != next {
            return Err(Fault::LeftOut { index: next });
        }
        self.tree.append(&[leaf_hash(entry)]).map_err(|_| Fault::NotContinued {
            known: self.known,
            size: self.checkpoint.size(),
        })?;
        if let Some(key) = named_key(entry).filter(|key| key.name() == self.checkpoint.origin()) {
            self.keys.retain(|known| *known != key);
            self.keys.push(key);
        }
        Ok(())
    }
}

fn claimed(bytes: &[u8]) -> Result<Checkpoint, Fault> {
    let none = |error: &dyn std::error::Error| Fault::NoCheckpoint(Chain(error).to_string());
    let note = Note::parse(bytes).map_err(|error| none(&error))?;
    Checkpoint::parse(note.text()).map_err(|error| none(&error))
}

fn add(keys: &mut Vec<VerifierKey>, more: Vec<VerifierKey>) {
    for key in more {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
}

fn signed(bytes: &[u8], keys: &[VerifierKey]) -> Result<SignedCheckpoint, Fault> {
    let size = claimed(bytes)?.size();
    SignedCheckpoint::open(bytes, keys).map_err(|error| Fault::Unsigned {
        size,
        why: Chain(&error).to_string(),
    })
}

fn parse(bytes: &[u8]) -> Result<Followed, String> {
    let Written {
        version,
        next_index,
        keys,
        meant,
        checkpoint,
        tiles,
    } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it is of version {version}"));
    }
    let parsed = |keys: &[String]| {
        let keys = keys.iter().map(|key| key.parse::<VerifierKey>());
        keys.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
    };
    let meant = parsed(meant.as_ref().unwrap_or(&keys))?;
    let keys = parsed(&keys)?;
    let tiles = tiles.iter().map(|(path, bytes)| {
        let path: TilePath = path.parse().map_err(|_| format!("a tile `{path}`"))?;
        Ok((path, hex::decode(bytes).map_err(|error| error.to_string())?))
    });
    let tiles: BTreeMap<_, _> = tiles.collect::<Result<_, String>>()?;
    let followed = Followed::from_here(checkpoint.as_bytes(), &keys, &tiles);
    let mut followed = followed.map_err(|fault| fault.to_string())?;
    followed.next_index = next_index;
    (followed.keys, followed.meant) = (keys, meant);
    Ok(followed)
}

#[cfg(test)]
mod tests;
