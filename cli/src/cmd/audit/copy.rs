//! A copy of a log in a folder that goes on from what is there. What comes is checked while it comes, beside the copy;
//! only what is shown to go on from the copy takes its place in it, the checkpoint last.
//!
//! ```text
//!   bundle ─▶ entries ─▶ leaf hashes ─▶ Tree, resumed behind the last full bundle of the copy ─▶ root = checkpoint's?
//!                 └▶ those that the copy has already: the same?       └▶ tiles, below DIR/.incoming
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mayfly_runtime::Chain;
use mayfly_tlog::bundle;
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::files::{CHECKPOINT, LogDir};
use mayfly_tlog::note::VerifierKey;
use mayfly_tlog::tile::{TILE_WIDTH, TileKind, TilePath};
use mayfly_tlog::tree::Tree;
use mayfly_tlog::{Hash, leaf_hash};
use serde_json::Value;

use super::private::PRIVATE;
use crate::errors::{CliError, Exit};
use crate::files;

/// The file with the keys of the log.
pub(super) const KEYS: &str = "keys";
/// Where files wait until they are shown to go on from the copy.
const INCOMING: &str = ".incoming";
/// Where a checkpoint is kept that does not go on from the copy: the log has signed it, so it is evidence.
const REFUSED: &str = "refused";
/// Entries that fill a bundle.
const WIDTH: u64 = TILE_WIDTH as u64;

/// What a folder holds already.
struct Held {
    checkpoint: SignedCheckpoint,
    /// Leaf hashes behind its last full bundle.
    tail: Vec<Hash>,
}

/// A copy that is being made or continued.
pub(super) struct Copy {
    dir: PathBuf,
    incoming: PathBuf,
    held: Option<Held>,
    /// The keys that the entries name, oldest first.
    keys: Vec<VerifierKey>,
    /// Keys one of which has to have signed, if the caller knows better than the log's own entries.
    pinned: Vec<VerifierKey>,
    tree: Tree,
    /// The first entry that is another one than that of the copy.
    differs_at: Option<u64>,
    /// A bundle that does not follow the one before it.
    disorder: Option<TilePath>,
    /// A tile of hashes that is not that of the entries.
    wrong_tile: Option<TilePath>,
    checkpoint: Option<SignedCheckpoint>,
}

/// What became of the copy.
pub(super) struct Copied {
    pub(super) checkpoint: SignedCheckpoint,
    pub(super) keys: Vec<VerifierKey>,
    /// Entries that were there before.
    pub(super) before: u64,
}

impl Copy {
    /// Looks at the folder, which may be missing or empty.
    ///
    /// # Errors
    /// It holds something else, or a copy that is damaged.
    pub(super) fn open(dir: &Path, pinned: Vec<VerifierKey>) -> Result<Self, CliError> {
        let incoming = dir.join(INCOMING);
        let mut copy = Self {
            dir: dir.into(),
            incoming: incoming.clone(),
            held: None,
            keys: vec![],
            pinned,
            tree: Tree::new(),
            differs_at: None,
            disorder: None,
            wrong_tile: None,
            checkpoint: None,
        };
        if dir.join(CHECKPOINT).exists() {
            copy.keys = read_keys(dir)?;
            copy.hold()?;
        } else if has_something_else(dir) {
            return Err(CliError::input(
                format!("`{}` is not empty and is no copy of a log", dir.display()),
                "name a new folder",
            ));
        }
        // What an earlier run left.
        match fs::remove_dir_all(&incoming) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &incoming, source)),
            _ => Ok(copy),
        }
    }

    /// How many entries are there already.
    pub(super) fn size(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.checkpoint.size())
    }

    fn hold(&mut self) -> Result<(), CliError> {
        let log = LogDir::open(&self.dir);
        let damaged = |what: String| CliError::Failed {
            what: format!("the copy in `{}` is damaged: {what}", self.dir.display()),
            hints: vec!["`mayfly audit verify` names each place; move the folder away to begin a new copy".into()],
        };
        let bytes = log.read_checkpoint()?;
        let checkpoint =
            SignedCheckpoint::open(&bytes, &self.keys).map_err(|error| damaged(Chain(&error).to_string()))?;
        let width = u16::try_from(checkpoint.size() % WIDTH).expect("a remainder is smaller than its divisor");
        let mut tail = vec![];
        if width > 0 {
            let path =
                TilePath::new(TileKind::Entries, checkpoint.size() / WIDTH, width).expect("a log has such bundles");
            let bytes = log.read(path).map_err(|error| damaged(Chain(&error).to_string()))?;
            let entries = bundle::entries(&bytes, width).map_err(|error| damaged(format!("`{path}`: {error}")))?;
            tail = entries.into_iter().map(leaf_hash).collect();
        }
        let tree =
            |size, tail: &[Hash]| Tree::resume(size, tail, &log).map_err(|error| damaged(Chain(&error).to_string()));
        if tree(checkpoint.size(), &tail)?.root() != checkpoint.root() {
            return Err(damaged("its tiles do not lead to its checkpoint".into()));
        }
        self.tree = tree(checkpoint.size() - u64::from(width), &[])?;
        self.held = Some(Held { checkpoint, tail });
        Ok(())
    }

    /// Takes a file of the export.
    ///
    /// # Errors
    /// It is not what it has to be.
    pub(super) fn take(&mut self, path: &str, bytes: &[u8]) -> Result<(), CliError> {
        match path {
            // What the entries name counts, and not what the server says here.
            KEYS => Ok(()),
            CHECKPOINT => self.take_checkpoint(bytes),
            path => {
                let path: TilePath = path.parse().map_err(|_| bad(format!("a file `{path}`")))?;
                match path.kind() {
                    TileKind::Entries => self.take_bundle(path, bytes),
                    TileKind::Hashes(_) => self.take_hashes(path, bytes),
                }
            }
        }
    }

    fn take_bundle(&mut self, path: TilePath, bytes: &[u8]) -> Result<(), CliError> {
        let first = self.tree.size();
        if path.index().saturating_mul(WIDTH) != first || self.disorder.is_some() {
            // The checkpoint says what it means: a log that has become shorter, or an answer that makes no sense.
            self.disorder.get_or_insert(path);
            return Ok(());
        }
        let entries = bundle::entries(bytes, path.width()).map_err(|error| bad(format!("`{path}`: {error}")))?;
        let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        if let Some(held) = &self.held
            && first == held.checkpoint.size() - held.tail.len() as u64
        {
            let mut pairs = (first..).zip(held.tail.iter().zip(&leaves));
            let differs = pairs.find(|(_, (own, theirs))| own != theirs);
            self.differs_at = self.differs_at.or(differs.map(|(index, _)| index));
        }
        for entry in &entries {
            self.keys
                .extend(named_key(entry).filter(|key| !self.keys.contains(key)));
        }
        let incoming = LogDir::open(&self.incoming);
        incoming.write(path, bytes)?;
        for (path, bytes) in self.tree.append(&leaves).map_err(|error| bad(error.to_string()))? {
            incoming.write(path, &bytes)?;
        }
        Ok(())
    }

    /// Tiles of hashes are computed here; what is sent has to be the same.
    fn take_hashes(&mut self, path: TilePath, bytes: &[u8]) -> Result<(), CliError> {
        if self.disorder.is_some() {
            return Ok(());
        }
        let incoming = LogDir::open(&self.incoming);
        let own = match path.is_full() {
            true => incoming.read(path).ok(),
            false => self.tree.partial_tile(path),
        };
        if own.as_deref() != Some(bytes) {
            // Here, too, the checkpoint says what it means: a log with another past has other hashes.
            self.wrong_tile.get_or_insert(path);
        } else if !path.is_full() {
            incoming.write(path, bytes)?;
        }
        Ok(())
    }

    fn take_checkpoint(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let opened = SignedCheckpoint::open(bytes, &self.keys);
        let checkpoint = opened.map_err(|error| bad(format!("a checkpoint: {}", Chain(&error))))?;
        let (size, root) = (checkpoint.size(), checkpoint.root());
        if let Some(Held { checkpoint: own, .. }) = &self.held {
            let (origin, held, held_root) = (own.origin().to_owned(), own.size(), own.root());
            let refused = |name, what: String| self.refuse(name, bytes, size, what);
            if checkpoint.origin() != origin {
                let what = format!(
                    "this is another log: `{}`, and the copy is of `{origin}`",
                    checkpoint.origin()
                );
                return Err(refused("OTHER_LOG", what));
            }
            if size < held {
                let what = format!("the log has become SHORTER: it has {size} entries, and the copy has {held}");
                return Err(refused("LOG_SHORTER", what));
            }
            if let Some(index) = self.differs_at {
                let what = format!("the log was FORKED: its entry {index} is not the one that the copy has");
                return Err(refused("LOG_FORKED", what));
            }
            let is_same = size == held && root != held_root;
            if self.disorder.is_none() && (is_same || self.tree.root() != root || self.tree.size() != size) {
                let tail = held - held % WIDTH;
                let what = format!(
                    "the log was FORKED before entry {tail}: its {size} entries do not go on from those of the copy"
                );
                return Err(refused("LOG_FORKED", what));
            }
        }
        if let Some(path) = self.disorder {
            return Err(bad(format!("`{path}` out of order")));
        }
        if let Some(path) = self.wrong_tile {
            return Err(bad(format!("`{path}`, which is not that of the entries")));
        }
        if (self.tree.size(), self.tree.root()) != (size, root) {
            return Err(bad("entries that are not those of its checkpoint".into()));
        }
        let is_pinned = |checkpoint: &SignedCheckpoint| checkpoint.note().verified_by(&self.pinned).is_ok();
        let held = self.held.as_ref().map(|held| &held.checkpoint);
        if !self.pinned.is_empty() && !is_pinned(&checkpoint) && !held.is_some_and(is_pinned) {
            return Err(CliError::Failed {
                what: "none of the keys that were given has signed the checkpoint".into(),
                hints: vec!["`mayfly audit keys` shows the keys that the server says are its own".into()],
            });
        }
        self.checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Keeps what the log has signed, and says what is wrong.
    fn refuse(&self, name: &'static str, checkpoint: &[u8], size: u64, what: String) -> CliError {
        let kept = self.dir.join(REFUSED).join(format!("checkpoint-{size}"));
        let written = fs::create_dir_all(self.dir.join(REFUSED)).and_then(|()| fs::write(&kept, checkpoint));
        let mut hints =
            vec!["the copy is as it was; somebody has changed the log behind it, or restored an old one".into()];
        if written.is_ok() {
            hints.push(format!(
                "what the log has signed is kept in `{}`: with the copy's own checkpoint it shows this to anybody",
                kept.display()
            ));
        }
        let error = Box::new(CliError::Failed { what, hints });
        let exit = Exit::Failed;
        CliError::Coded { error, name, exit }
    }

    /// Brings everything into its place. `private` is the folder's new file of private values, if one was asked for.
    ///
    /// # Errors
    /// The export has ended early, or files cannot be written.
    pub(super) fn finish(self, private: Option<&Path>) -> Result<Copied, CliError> {
        let Some(checkpoint) = self.checkpoint else {
            return Err(bad("an export that ends before its checkpoint".into()));
        };
        let before = self.held.as_ref().map_or(0, |held| held.checkpoint.size());
        let log = LogDir::open(&self.dir);
        fs::create_dir_all(&self.dir).map_err(|source| failed("create folder", &self.dir, source))?;
        for path in TilePath::all(checkpoint.size()) {
            let (from, to) = (self.incoming.join(path.to_string()), self.dir.join(path.to_string()));
            if !from.exists() {
                continue;
            }
            let folder = to.parent().unwrap_or(&self.dir);
            let moved = fs::create_dir_all(folder).and_then(|()| fs::rename(&from, &to));
            moved.map_err(|source| failed("write", &to, source))?;
        }
        let keys: String = self.keys.iter().rev().map(|key| format!("{key}\n")).collect();
        mayfly_runtime::files::write_atomic(&self.dir.join(KEYS), keys.as_bytes(), mayfly_runtime::files::PUBLIC)?;
        if let Some(private) = private {
            let to = self.dir.join(PRIVATE);
            fs::rename(private, &to).map_err(|source| failed("write", &to, source))?;
        }
        log.write_checkpoint(&checkpoint)?;
        // Tiles that were partial and have grown; nobody asks for them any more.
        let now: Vec<TilePath> = TilePath::all(checkpoint.size())
            .filter(|path| !path.is_full())
            .collect();
        for path in TilePath::all(before).filter(|path| !path.is_full() && !now.contains(path)) {
            let old = self.dir.join(path.to_string());
            let _ = fs::remove_file(&old);
            let _ = old.parent().map(fs::remove_dir);
        }
        let _ = fs::remove_dir_all(&self.incoming);
        Ok(Copied {
            checkpoint,
            keys: self.keys,
            before,
        })
    }

    /// Where private values wait.
    pub(super) fn private_file(&self) -> PathBuf {
        self.incoming.join(PRIVATE)
    }
}

/// The key that an entry gives the log, if it does.
pub(super) fn named_key(entry: &[u8]) -> Option<VerifierKey> {
    // Few entries do, and most are not read for this.
    if !entry.windows(12).any(|window| window == br#""kind":"log."#) {
        return None;
    }
    let entry: Value = serde_json::from_slice(entry).ok()?;
    let is_key = matches!(entry["kind"].as_str(), Some("log.started" | "log.key_rotated"));
    entry["body"]["vkey"].as_str().filter(|_| is_key)?.parse().ok()
}

fn read_keys(dir: &Path) -> Result<Vec<VerifierKey>, CliError> {
    let path = dir.join(KEYS);
    let mut keys = super::keys::read(&[path.to_string_lossy().into_owned()], super::keys::Of::Log)?;
    // The file has the newest first.
    keys.reverse();
    Ok(keys)
}

fn has_something_else(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let ours = ["tile", KEYS, PRIVATE, INCOMING];
    entries
        .into_iter()
        .any(|entry| !ours.iter().any(|name| entry.file_name() == *name))
}

fn bad(what: String) -> CliError {
    CliError::BadAnswer {
        who: "the server",
        what,
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> CliError {
    CliError::System {
        doing,
        path: path.into(),
        source,
    }
}

/// Refuses a folder that cannot be written, before anything is asked of a server.
///
/// # Errors
/// Why not.
pub(super) fn check_dir(dir: &Path) -> Result<(), CliError> {
    files::check_dir(dir)
}
