//! Entries: created, changed, removed, looked through.
//!
//! Rules that hold for an entry by itself are checked before anything is committed; those that depend on other entries
//! or on bundles are guards inside the commit.

use std::sync::Arc;

use mayfly_model::{
    Actor, Agent, Change, Conflict, Delta, Entry, EntryError, EntryId, EntryPatch, EntrySpec, ErrorKind, MatchBy,
    Selectors, Step,
};
use mayfly_svid::{SpiffeId, Timestamp, TrustDomain};

use crate::commit::{CommitError, Committer, Snapshot};

/// An entry to be created.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Chosen by the creator; random if none.
    pub id: Option<EntryId>,
    /// What the operator states.
    pub spec: EntrySpec,
}

/// Why an entry was not created, changed or removed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// It breaks a rule of all entries.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The commit refused it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Which entries a list or a count is about; all conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct EntryFilter {
    /// Gives this ID.
    pub spiffe_id: Option<SpiffeId>,
    /// Has this parent.
    pub parent_id: Option<SpiffeId>,
    /// Compares with these selectors.
    pub selectors: Option<(Selectors, MatchBy)>,
    /// Compares with these trust domains.
    pub federates_with: Option<(Vec<TrustDomain>, MatchBy)>,
    /// Has this hint.
    pub hint: Option<String>,
    /// Has this downstream flag.
    pub downstream: Option<bool>,
}

/// Creates entries; the answers are in the order of what was wanted. Each stands or falls alone.
///
/// # Cancel safety
/// Dropping the future does not undo what was handed to the committer.
pub async fn create(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    wanted: Vec<NewEntry>,
) -> Vec<Result<Arc<Entry>, RegisterError>> {
    let snapshot = committer.snapshot();
    let changes = wanted.into_iter().map(|NewEntry { id, spec }| {
        spec.check(snapshot.trust_domain())?;
        let id = id.unwrap_or_else(EntryId::random);
        let entry = Entry {
            id,
            spec,
            created_at: now,
            revision_number: 0,
        };
        Ok(Change::EntryCreate(Box::new(entry)))
    });
    put_entries(committer, actor, now, changes.collect()).await
}

/// Changes entries, as [`create`] creates them.
///
/// # Cancel safety
/// As for [`create`].
pub async fn update(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    wanted: Vec<(EntryId, EntryPatch)>,
) -> Vec<Result<Arc<Entry>, RegisterError>> {
    let changes = wanted.into_iter().map(|(id, patch)| {
        Ok(Change::EntryUpdate {
            id,
            patch: Box::new(patch),
        })
    });
    put_entries(committer, actor, now, changes.collect()).await
}

/// Removes entries; the answers are in the order of `ids`.
///
/// # Cancel safety
/// As for [`create`].
pub async fn delete(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    ids: Vec<EntryId>,
) -> Vec<Result<(), RegisterError>> {
    let changes = ids.into_iter().map(|id| Ok(Change::EntryDelete(id))).collect();
    let results = commit_checked(committer, actor, now, changes).await;
    results.into_iter().map(|result| result.map(drop)).collect()
}

/// What `agent` may serve now, in the order of the IDs. Expired entries are not among it.
pub fn authorized(snapshot: &Snapshot, agent: &Agent, now: Timestamp) -> Vec<Arc<Entry>> {
    let mut entries = snapshot.authorized_entries(agent);
    entries.retain(|entry| !entry.is_expired(now));
    entries.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    // An entry below two aliases of one agent is reached twice.
    entries.dedup_by(|a, b| a.id == b.id);
    entries
}

/// The entry `id`, if `agent` may serve it now: one of [`authorized`].
pub fn find_authorized<'s>(
    snapshot: &'s Snapshot,
    agent: &Agent,
    id: &EntryId,
    now: Timestamp,
) -> Option<&'s Arc<Entry>> {
    snapshot
        .entry(id)
        .filter(|entry| !entry.is_expired(now) && snapshot.is_authorized(agent, entry))
}

/// Commits what passed its check, in one batch, and puts the answers where the items were.
pub(super) async fn commit_checked<E: From<CommitError>>(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    changes: Vec<Result<Change, E>>,
) -> Vec<Result<Vec<Delta>, E>> {
    let mut steps = Vec::with_capacity(changes.len());
    let mut places = Vec::with_capacity(changes.len());
    for change in changes {
        places.push(change.map(|change| {
            steps.push(Step {
                actor: actor.clone(),
                time: now,
                change,
            })
        }));
    }
    if steps.is_empty() {
        return places.into_iter().map(|place| place.map(|()| vec![])).collect();
    }
    let mut answers = committer.commit_all(steps).await.into_iter();
    let mut answer = || answers.next().unwrap_or(Err(CommitError::Stopped)).map_err(E::from);
    places.into_iter().map(|place| place.and_then(|()| answer())).collect()
}

async fn put_entries(
    committer: &Committer,
    actor: &Actor,
    now: Timestamp,
    changes: Vec<Result<Change, RegisterError>>,
) -> Vec<Result<Arc<Entry>, RegisterError>> {
    let results = commit_checked(committer, actor, now, changes).await;
    let entry = |deltas: Vec<Delta>| {
        let put = deltas.into_iter().rev().find_map(|delta| match delta {
            Delta::EntryPut(entry) => Some(entry),
            _ => None,
        });
        put.ok_or(CommitError::Stopped.into())
    };
    results.into_iter().map(|result| result.and_then(entry)).collect()
}

impl EntryFilter {
    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        let Self {
            spiffe_id,
            parent_id,
            selectors,
            federates_with,
            hint,
            downstream,
        } = self;
        spiffe_id.is_none()
            && parent_id.is_none()
            && selectors.is_none()
            && federates_with.is_none()
            && hint.is_none()
            && downstream.is_none()
    }

    /// Entries that may match, in the order of their IDs, from after `after` on: by the narrowest index there is.
    pub fn candidates<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        after: Option<&'a EntryId>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + Send + 'a> {
        match (&self.spiffe_id, &self.parent_id) {
            (Some(id), _) => Box::new(snapshot.entries_of_spiffe_id_after(id, after)),
            (None, Some(parent)) => Box::new(snapshot.entries_of_parent_after(parent, after)),
            (None, None) => Box::new(snapshot.entries_after(after)),
        }
    }

    /// Whether `entry` passes.
    pub fn matches(&self, entry: &Entry) -> bool {
        let spec = &entry.spec;
        self.spiffe_id.as_ref().is_none_or(|id| spec.spiffe_id == *id)
            && self.parent_id.as_ref().is_none_or(|id| spec.parent_id == *id)
            && self
                .selectors
                .as_ref()
                .is_none_or(|(wanted, by)| spec.selectors.matches(wanted, *by))
            && self
                .federates_with
                .as_ref()
                .is_none_or(|(wanted, by)| names_match(&spec.federates_with, wanted, *by))
            && self.hint.as_ref().is_none_or(|hint| spec.hint == *hint)
            && self.downstream.is_none_or(|downstream| spec.downstream == downstream)
    }
}

/// The four modes of `FederatesWithMatch`, which are those of selectors.
fn names_match(names: &[TrustDomain], wanted: &[TrustDomain], by: MatchBy) -> bool {
    let within = |some: &[TrustDomain], all: &[TrustDomain]| some.iter().all(|name| all.contains(name));
    match by {
        MatchBy::Exact => within(names, wanted) && within(wanted, names),
        MatchBy::Subset => !names.is_empty() && within(names, wanted),
        MatchBy::Superset => within(wanted, names),
        MatchBy::Any => wanted.iter().any(|name| names.contains(name)),
    }
}

impl RegisterError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Entry(_) => ErrorKind::InvalidArgument,
            Self::Commit(error) => error.kind(),
        }
    }

    /// The entry that is there already, if that is why.
    pub fn existing(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Commit(CommitError::Conflict(Conflict::EntryExists(entry))) => Some(entry),
            _ => None,
        }
    }
}
