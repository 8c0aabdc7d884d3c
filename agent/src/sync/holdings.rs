//! Where we stand with the server: which revision was applied, what was rejected, what the picture should look like.
//!
//! The picture itself is the published [`View`](crate::view::View). Changes arrive whole ([`Update`], [`Replacement`])
//! and are published at once; what cannot be used is rejected item by item and is then not held, in an older form
//! neither. A lost connection changes nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_model::{Entry, EntryId, entries_digest, reserved_path};
use mayfly_proto::mayfly::agent::RejectedEntry;
use mayfly_proto::mayfly::workload::{Revoked, TaskState};
use mayfly_proto::spire::types;
use mayfly_svid::{Bundle, TrustDomain};
use tracing::{debug, warn};

use crate::news::News;
use crate::view::{View, ViewPublisher, ViewUpdate};

/// The writing side of the picture, and where in the server's history it stands.
#[derive(Debug)]
pub struct Holdings {
    trust_domain: TrustDomain,
    views: Arc<ViewPublisher>,
    news: Arc<News>,
    /// The history whose epochs we count by.
    epochs_of: Option<String>,
    position: Option<Position>,
    /// What the server says we should hold and we cannot use, with its part of the digest where it is an entry at all.
    rejected: BTreeMap<String, (Version, u64)>,
    /// [`entries_digest`] of the entries in the picture.
    digest: u64,
}

/// A point in one history of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Names the history; a restored or replaced server has another.
    pub history: String,
    /// The last revision applied.
    pub revision: u64,
}

/// Tells one state of an entry from another: a deleted and created anew entry starts again with revision 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// The entry's revision number.
    pub revision_number: i64,
    /// When it was created, Unix seconds.
    pub created_at: i64,
}

/// A change from the watch stream, all chunks together.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// Forget everything before applying it.
    pub snapshot: bool,
    /// New and changed entries.
    pub entries: Vec<types::Entry>,
    /// IDs of entries that are gone.
    pub removed_entry_ids: Vec<String>,
    /// New and changed bundles.
    pub bundles: Vec<types::Bundle>,
    /// Trust domains whose bundle is gone.
    pub removed_trust_domains: Vec<String>,
    /// States of tasks of this agent's processes.
    pub tasks: Vec<TaskState>,
    /// What is revoked, new or all of it.
    pub revoked: Vec<Revoked>,
    /// All up to here is in what was sent.
    pub epoch: u64,
    /// Revocation lists, DER, new or all of them.
    pub crls: Vec<Vec<u8>>,
}

/// The outcome of a polling round: everything there is.
#[derive(Debug, Default)]
pub(super) struct Replacement {
    /// Entries that are new or changed.
    pub fetched: Vec<types::Entry>,
    /// IDs of entries that stay as they are held.
    pub kept: BTreeSet<EntryId>,
    /// Rejected before, and unchanged since.
    pub still_rejected: BTreeSet<String>,
    /// All bundles.
    pub bundles: Vec<types::Bundle>,
}

/// What applying a change did.
#[derive(Debug, Default, PartialEq)]
pub struct Applied {
    /// The bundle of our own trust domain, if the change had one.
    pub own_bundle: Option<Arc<Bundle>>,
    /// The entries that could not be taken, with the reason.
    pub rejected: Vec<RejectedEntry>,
}

// === impl Holdings ===

impl Holdings {
    /// Nothing, in no history. Publishes through `views` and `news`, whose only writer it is.
    pub fn new(trust_domain: TrustDomain, views: Arc<ViewPublisher>, news: Arc<News>) -> Self {
        Self {
            trust_domain,
            views,
            news,
            epochs_of: None,
            position: None,
            rejected: BTreeMap::new(),
            digest: 0,
        }
    }

    /// Where these stand; `None` if they came by polling, or are nothing yet.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The picture.
    pub fn view(&self) -> Arc<View> {
        self.views.current()
    }

    /// The exchange with those who act on tasks.
    pub(super) fn news(&self) -> &Arc<News> {
        &self.news
    }

    /// The version of an entry, held or rejected.
    pub(super) fn version_of(&self, id: &str) -> Option<Version> {
        let held = id
            .parse::<EntryId>()
            .ok()
            .and_then(|id| self.view().entry(&id).map(|entry| Version::of(entry)));
        held.or_else(|| self.rejected.get(id).map(|(version, _)| *version))
    }

    /// Whether the entry is known and cannot be used.
    pub(super) fn is_rejected(&self, id: &str) -> bool {
        self.rejected.contains_key(id)
    }

    /// The bundle that the server is believed by, before the server was heard.
    pub(super) fn start_with(&self, own: Bundle) {
        self.views.apply(ViewUpdate {
            own: Some(own),
            ..ViewUpdate::default()
        });
    }

    /// Drops all entries and foreign bundles: the server said that this agent may serve nothing any more.
    pub(super) fn withdraw(&mut self) {
        self.position = None;
        self.rejected.clear();
        self.digest = 0;
        self.views.apply(ViewUpdate {
            snapshot: true,
            synced: true,
            shut_out: true,
            ..ViewUpdate::default()
        });
    }

    /// The next stream asks for everything, as if nothing were held; what is held stays until the snapshot comes.
    pub(super) fn forget_position(&mut self) {
        self.position = None;
    }

    /// Applies a change, which leads to `position`.
    pub(super) fn apply(&mut self, update: Update, position: Position) -> Applied {
        let before = self.view();
        if update.snapshot {
            self.rejected.clear();
        }
        let mut next = ViewUpdate {
            revision: position.revision,
            snapshot: update.snapshot,
            synced: true,
            crls: update.crls,
            ..ViewUpdate::default()
        };
        // First, so that nobody serves by the new picture what it refuses.
        let other_history = self.epochs_of.as_ref() != Some(&position.history);
        let fresh_start = update.snapshot && (other_history || update.epoch < self.news.epoch());
        self.epochs_of = Some(position.history.clone());
        self.news.revoke(fresh_start, update.revoked, update.epoch);
        for id in update.removed_entry_ids {
            self.rejected.remove(&id);
            next.removes.extend(id.parse::<EntryId>());
        }
        let names = update.removed_trust_domains.iter();
        next.federated_removes
            .extend(names.filter_map(|name| name.parse::<TrustDomain>().ok()));
        let rejected = self.take_entries(&update.entries, &mut next);
        let own_bundle = self.take_bundles(&update.bundles, &mut next, &before);
        self.position = Some(position);
        self.publish(next, &before);
        self.news.tasks().put(update.tasks);
        Applied { own_bundle, rejected }
    }

    /// Takes over the outcome of a polling round.
    pub(super) fn replace(&mut self, with: Replacement) -> Applied {
        let before = self.view();
        self.position = None;
        self.rejected.retain(|id, _| with.still_rejected.contains(id));
        let mut next = ViewUpdate {
            synced: true,
            ..ViewUpdate::default()
        };
        next.removes.extend(
            before
                .entries()
                .map(|entry| &entry.id)
                .filter(|id| !with.kept.contains(id))
                .cloned(),
        );
        let rejected = self.take_entries(&with.fetched, &mut next);
        // What is put is not removed first, so that an unchanged entry wakes nobody.
        let put: BTreeSet<&EntryId> = next.puts.iter().map(|entry| &entry.id).collect();
        next.removes.retain(|id| !put.contains(id));
        let own_bundle = self.take_bundles(&with.bundles, &mut next, &before);
        let named: BTreeSet<&TrustDomain> = next.federated_puts.iter().map(|bundle| &bundle.trust_domain).collect();
        let gone = before
            .all_federated()
            .keys()
            .filter(|name| !named.contains(name))
            .cloned();
        next.federated_removes.extend(gone);
        self.publish(next, &before);
        Applied { own_bundle, rejected }
    }

    /// The server moved on without a change for us: the next stream goes on from there.
    pub(super) fn advance(&mut self, revision: u64) {
        if let Some(position) = &mut self.position {
            position.revision = position.revision.max(revision);
        }
    }

    /// Whether we hold what the server believes that we hold.
    pub fn agrees_with(&self, entries: u64, digest: u64) -> bool {
        let held = self.view().len() as u64;
        // A server that was told on an earlier stream what we cannot use counts it again.
        let rejected = self.rejected.values().fold(0, |sum, (_, part)| sum ^ part);
        [
            (held, self.digest),
            (held + self.rejected.len() as u64, self.digest ^ rejected),
        ]
        .contains(&(entries, digest))
    }

    fn take_entries(&mut self, entries: &[types::Entry], next: &mut ViewUpdate) -> Vec<RejectedEntry> {
        let mut rejected = Vec::new();
        // If an entry is named twice, the last word counts.
        let mut puts: BTreeMap<EntryId, Entry> = BTreeMap::new();
        for wire in entries {
            match usable(wire, &self.trust_domain) {
                Ok(entry) => {
                    self.rejected.remove(&wire.id);
                    puts.insert(entry.id.clone(), entry);
                }
                Err(reason) => {
                    warn!(entry_id = wire.id, reason, "entry cannot be used and is rejected");
                    if let Ok(id) = wire.id.parse::<EntryId>() {
                        puts.remove(&id);
                        next.removes.push(id);
                    }
                    let version = Version {
                        revision_number: wire.revision_number,
                        created_at: wire.created_at,
                    };
                    let part = Entry::try_from(wire).map_or(0, |entry| entries_digest([&entry]));
                    self.rejected.insert(wire.id.clone(), (version, part));
                    rejected.push(RejectedEntry {
                        entry_id: wire.id.clone(),
                        reason,
                    });
                }
            }
        }
        next.puts.extend(puts.into_values());
        rejected
    }

    fn take_bundles(&self, bundles: &[types::Bundle], next: &mut ViewUpdate, before: &View) -> Option<Arc<Bundle>> {
        for wire in bundles {
            debug!(
                trust_domain = wire.trust_domain,
                sequence_number = wire.sequence_number,
                "bundle received"
            );
            match Bundle::try_from(wire) {
                Ok(bundle) if bundle.trust_domain == self.trust_domain => next.own = Some(bundle),
                Ok(bundle) => next.federated_puts.push(bundle),
                // The old one stays: a bundle that cannot be read must not take away what peers are verified with.
                Err(error) => {
                    warn!(trust_domain = wire.trust_domain, %error, "bundle cannot be used, the one before stays");
                    let name = wire.trust_domain.parse::<TrustDomain>().ok();
                    let old = name.and_then(|name| before.federated(&name).cloned());
                    next.federated_puts.extend(old.map(Arc::unwrap_or_clone));
                }
            }
        }
        next.own.clone().map(Arc::new)
    }

    fn publish(&mut self, next: ViewUpdate, before: &View) {
        // The digest follows the same steps as the picture, so that a check costs nothing.
        let put: BTreeMap<&EntryId, &Entry> = next.puts.iter().map(|entry| (&entry.id, entry)).collect();
        if next.snapshot {
            self.digest = 0;
        } else {
            let touched: BTreeSet<&EntryId> = next.removes.iter().chain(put.keys().copied()).collect();
            let gone = touched.into_iter().filter_map(|id| before.entry(id));
            self.digest ^= entries_digest(gone.map(AsRef::as_ref));
        }
        self.digest ^= entries_digest(put.into_values());
        self.views.apply(next);
    }
}

impl Version {
    /// Of an entry that is held.
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            revision_number: entry.revision_number,
            created_at: entry.created_at.unix(),
        }
    }
}

/// The entry, if workloads can be served by it. Other servers than ours may have rules of their own, so only what
/// would do harm here is refused.
fn usable(wire: &types::Entry, trust_domain: &TrustDomain) -> Result<Entry, String> {
    let entry = Entry::try_from(wire).map_err(|error| error.to_string())?;
    let id = &entry.spec.spiffe_id;
    if !id.is_member_of(trust_domain) {
        return Err(format!("spiffe_id `{id}` is not in the trust domain `{trust_domain}`"));
    }
    if id.path().is_empty() {
        return Err(format!("spiffe_id `{id}` has no path"));
    }
    if let Some(space) = reserved_path(id) {
        return Err(format!("spiffe_id `{id}` is reserved: {}", space.purpose()));
    }
    if entry.spec.selectors.is_empty() {
        // It would match every process.
        return Err("it has no selectors".to_owned());
    }
    Ok(entry)
}

#[cfg(test)]
pub(super) mod tests;
