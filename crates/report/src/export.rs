//! Reports from a log that is there as entries: the server's own, or a copy of it that somebody has checked.

use mayfly_audit::meter::View;
use mayfly_audit::{Details, Entry, EntryError, LogFacts, Report, TreeHead};
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::files::{Damage, VerifiedLog};
use mayfly_tlog::note::VerifierKey;
use mayfly_tlog::tree::{Tree, TreeError};
use mayfly_tlog::{Hash, leaf_hash};

/// A log of which no report can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The files changed since they were checked.
    #[error("the copy of the log changed while it was read: {0}")]
    Damage(Damage),
    /// A proof.
    #[error("the tree of the log")]
    Tree(#[from] TreeError),
    /// The report is about more than there is.
    #[error("the copy has {have} entries, and {want} are wanted")]
    Short {
        /// Entries in the copy.
        have: u64,
        /// Entries that are wanted.
        want: u64,
    },
    /// The entries are others than those that the report is about.
    #[error("the first {size} entries of the copy have the root {found}, and the report is about {expected}")]
    Other {
        /// How many.
        size: u64,
        /// The root over them, in hex.
        found: String,
        /// The root that is wanted.
        expected: String,
    },
}

/// Makes a report of `entries`, the first `log.end.size` of a log, and says how many of them are from before its period:
/// the log as it was then goes into the report by [`set_begin`].
pub fn build(
    entries: impl IntoIterator<Item = Result<Entry, EntryError>>,
    details: Details,
    view: &View,
    log: LogFacts,
) -> (Report, u64) {
    let (mut before, mut has_begun) = (0, false);
    let counted = entries.into_iter().inspect(|entry| {
        has_begun |= entry.as_ref().is_ok_and(|entry| entry.time >= view.from);
        before += u64::from(!has_begun);
    });
    let report = Report::build(counted, details, view, log);
    (report, before)
}

/// Says what the log was before the period: its size and root, and the hashes that show that it only grew since.
pub fn set_begin(report: &mut Report, size: u64, root: Hash, consistency: &[Hash]) {
    let log = &mut report.claim.log;
    log.begin = Some(TreeHead {
        size,
        root: hex::encode(root.as_bytes()),
    });
    log.consistency = consistency.iter().map(|hash| hex::encode(hash.as_bytes())).collect();
}

/// The facts about a log under a checkpoint.
pub fn facts(checkpoint: &SignedCheckpoint, keys: &[VerifierKey], cosigned_by: Vec<String>) -> LogFacts {
    LogFacts {
        origin: checkpoint.origin().to_owned(),
        end: TreeHead {
            size: checkpoint.size(),
            root: hex::encode(checkpoint.root().as_bytes()),
        },
        cosigned_by,
        checkpoint: checkpoint.note().to_string(),
        keys: keys.iter().map(VerifierKey::to_string).collect(),
        ..LogFacts::default()
    }
}

/// Makes a report of the first `log.end.size` entries of a copy.
///
/// # Errors
/// The copy has less or others, or cannot be read any more.
pub fn of_copy(copy: &VerifiedLog, details: Details, view: &View, log: LogFacts) -> Result<Report, ExportError> {
    let (have, want) = (copy.checkpoint().size(), log.end.size);
    if want > have {
        return Err(ExportError::Short { have, want });
    }
    let expected = log.end.root.clone();
    let (mut tree, mut damaged) = (Tree::new(), None);
    let entries = copy.entries().take(usize::try_from(want).unwrap_or(usize::MAX));
    let entries = entries.map_while(|read| {
        let (index, bytes) = read.map_err(|damage| damaged = Some(damage)).ok()?;
        // Full tiles are in the folder, and were checked.
        let appended = tree.append(&[leaf_hash(&bytes)]);
        appended.expect("the tree is not larger than its checkpoint");
        Some(Entry::parse(index, &bytes))
    });
    let (mut report, before) = build(entries, details, view, log);
    if let Some(damage) = damaged {
        return Err(ExportError::Damage(damage));
    }
    let found = hex::encode(tree.root().as_bytes());
    if found != expected {
        return Err(ExportError::Other {
            size: want,
            found,
            expected,
        });
    }
    if before > 0 {
        let root = tree.root_at(before, copy.dir())?;
        set_begin(
            &mut report,
            before,
            root,
            &tree.prove_consistency(before, want, copy.dir())?,
        );
    }
    Ok(report)
}
