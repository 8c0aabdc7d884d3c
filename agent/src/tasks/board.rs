//! Who gets which task SVID: what the keeper publishes, and streams read.

use std::fmt;
use std::sync::Arc;

use mayfly_model::EntryId;
use rpds::HashTrieMapSync;

use super::{Holder, ProcessKey, TaskSvid};

/// A task SVID that is in force now.
#[derive(Clone)]
pub struct Shown {
    /// Of this window.
    pub window_id: Arc<str>,
    /// Bound to this process; to be asked again whether it is still that one, before anybody gets the SVID.
    pub holder: Arc<dyn Holder>,
    /// The entry that gives the process its base identity.
    pub entry_id: EntryId,
    /// The process's descendants have part in it.
    pub include_descendants: bool,
    /// The `hint` on the Workload API.
    pub hint: Arc<str>,
    /// It stands before base SVIDs.
    pub promote_default: bool,
    /// The SVID.
    pub svid: Arc<TaskSvid>,
    /// Later windows have higher numbers.
    pub order: u64,
}

/// All of them. It never changes; the next one shares all that did not.
#[derive(Clone, Debug, Default)]
pub struct Board {
    by_process: HashTrieMapSync<ProcessKey, Arc<Vec<Shown>>>,
    with_descendants: usize,
}

impl Board {
    /// Those of this very process, oldest first.
    pub fn of(&self, process: ProcessKey) -> &[Shown] {
        self.by_process.get(&process).map_or(&[], |shown| shown.as_slice())
    }

    /// Whether any process shares one with its descendants. If none does, nobody need be asked for its ancestors.
    pub fn has_shared(&self) -> bool {
        self.with_descendants > 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_process.values().map(|shown| shown.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_process.is_empty()
    }

    /// What `holder` gets, oldest first: its own, and those that a process above it shares.
    pub fn entitled(&self, holder: &dyn Holder) -> Vec<Shown> {
        let mut found = self.of(holder.key()).to_vec();
        if self.has_shared() {
            let above = holder.ancestors();
            let shared = above.iter().flat_map(|process| self.of(*process));
            found.extend(shared.filter(|shown| shown.include_descendants).cloned());
        }
        found.sort_by_key(|shown| shown.order);
        found.retain(|shown| shown.holder.is_unchanged());
        found
    }

    /// Whose there are.
    pub(super) fn processes(&self) -> Vec<ProcessKey> {
        self.by_process.keys().copied().collect()
    }

    /// Replaces what `process` has; says whether that is a change.
    pub(super) fn set(&mut self, process: ProcessKey, shown: Vec<Shown>) -> bool {
        let old = self.of(process);
        if old.len() == shown.len() && old.iter().zip(&shown).all(|(old, new)| old.is_same(new)) {
            return false;
        }
        let shared = |shown: &[Shown]| shown.iter().filter(|shown| shown.include_descendants).count();
        self.with_descendants = self.with_descendants + shared(&shown) - shared(old);
        if shown.is_empty() {
            self.by_process.remove_mut(&process);
        } else {
            self.by_process.insert_mut(process, Arc::new(shown));
        }
        true
    }
}

impl Shown {
    fn is_same(&self, other: &Self) -> bool {
        self.window_id == other.window_id
            && Arc::ptr_eq(&self.svid, &other.svid)
            && self.promote_default == other.promote_default
            && self.hint == other.hint
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown")
            .field("window_id", &self.window_id)
            .field("holder", &self.holder.key())
            .field("svid", &self.svid)
            .finish_non_exhaustive()
    }
}
