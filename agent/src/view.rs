//! The agent's picture of what the server allows: entries and bundles.
//!
//! `sync` is the only writer: it hands each update to [`ViewPublisher::apply`], which publishes the next [`View`].
//! Everybody else follows a `watch` receiver and reads without locks. A view never changes; the next one shares all
//! that did not change, so that one entry more among a hundred thousand costs the path to it and no copy.
//!
//! Entries are found by the selectors of a process ([`View::matching`]): each entry hangs under one of its selectors,
//! the one with the fewest entries when it came, so that "all of Kubernetes" does not collect everything.
//!
//! Not here: SVIDs (`svids`), where the picture comes from (`sync`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_model::{Entry, EntryId, Selector};
use mayfly_svid::{Bundle, TrustDomain};
use rpds::{HashTrieMapSync, HashTrieSetSync};
use tokio::sync::watch;

use crls::Crls;

mod crls;
#[cfg(test)]
pub(crate) use crls::tests as crls_for_tests;

/// One state of the picture.
#[derive(Clone, Debug)]
pub struct View {
    revision: u64,
    synced: bool,
    shut_out: bool,
    entries: HashTrieMapSync<EntryId, Placed>,
    by_selector: HashTrieMapSync<Selector, HashTrieMapSync<EntryId, Arc<Entry>>>,
    prefetch: HashTrieSetSync<EntryId>,
    own: Arc<Bundle>,
    federated: Arc<BTreeMap<TrustDomain, Arc<Bundle>>>,
    crls: Crls,
}

/// An entry, and the selector that it hangs under.
#[derive(Clone, Debug)]
struct Placed {
    entry: Arc<Entry>,
    /// `None` if it matches no process: it has no selectors, or its SVIDs go to a store.
    under: Option<Selector>,
}

/// What is new since the last update. Everything not named stays, unless [`snapshot`](Self::snapshot) is set.
#[derive(Clone, Debug, Default)]
pub struct ViewUpdate {
    /// The server's revision that the picture has after this update.
    pub revision: u64,
    /// This is the whole: entries and foreign bundles that are not named are gone.
    pub snapshot: bool,
    /// From here on the picture is what the server says. Once true it stays true for the life of the process.
    pub synced: bool,
    /// The server does not want this agent any more. Holds until the next update.
    pub shut_out: bool,
    /// New and changed entries.
    pub puts: Vec<Entry>,
    /// Entries that are gone. Removed before `puts` are added.
    pub removes: Vec<EntryId>,
    /// The own trust domain's bundle, if it changed.
    pub own: Option<Bundle>,
    /// New and changed foreign bundles. One of the own trust domain is ignored (AMB-16).
    pub federated_puts: Vec<Bundle>,
    /// Trust domains whose bundles are gone.
    pub federated_removes: Vec<TrustDomain>,
    /// Revocation lists of the own trust domain's authorities that are new, DER.
    pub crls: Vec<Vec<u8>>,
}

/// The writing end.
#[derive(Debug)]
pub struct ViewPublisher {
    views: watch::Sender<Arc<View>>,
}

// === impl View ===

impl View {
    /// A view without entries, not yet in step with the server.
    pub fn new(own: Bundle) -> Self {
        Self {
            revision: 0,
            synced: false,
            shut_out: false,
            entries: HashTrieMapSync::default(),
            by_selector: HashTrieMapSync::default(),
            prefetch: HashTrieSetSync::default(),
            own: Arc::new(own),
            federated: Arc::default(),
            crls: Crls::default(),
        }
    }

    /// The server's revision that this is the picture of.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether the server was heard in full since the process started. Until then "no entry" means nothing.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Whether processes can be served: the server was heard, and has not shut this agent out since.
    pub fn is_serving(&self) -> bool {
        self.synced && !self.shut_out
    }

    /// The own trust domain's bundle.
    pub fn own(&self) -> &Arc<Bundle> {
        &self.own
    }

    /// The bundle of a foreign trust domain.
    pub fn federated(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.federated.get(trust_domain)
    }

    /// All foreign bundles.
    pub fn all_federated(&self) -> &BTreeMap<TrustDomain, Arc<Bundle>> {
        &self.federated
    }

    /// The revocation lists of the own trust domain's authorities, DER, one of each authority.
    pub fn crls(&self) -> impl Iterator<Item = &[u8]> {
        self.crls.all()
    }

    /// The entry with this ID.
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.entries.get(id).map(|placed| &placed.entry)
    }

    /// All entries, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values().map(|placed| &placed.entry)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.size()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries whose SVIDs are to be made before a workload asks.
    pub fn prefetch(&self) -> impl Iterator<Item = &EntryId> {
        self.prefetch.iter()
    }

    /// Whether the SVID of this entry is to be made before a workload asks.
    pub fn is_prefetched(&self, id: &EntryId) -> bool {
        self.prefetch.contains(id)
    }

    /// The entries whose selectors all hold of a process, oldest first (by creation, then ID): the order of `svids` on
    /// the Workload API, where the first is the default identity (WAPI-23). Expired ones are among them; whether an
    /// entry still gives something is a matter of the caller's clock.
    pub fn matching(&self, selectors: &BTreeSet<Selector>) -> Vec<Arc<Entry>> {
        let mut found: Vec<Arc<Entry>> = selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(selector))
            .flat_map(|bucket| bucket.values())
            .filter(|entry| entry.spec.selectors.iter().all(|selector| selectors.contains(selector)))
            .cloned()
            .collect();
        found.sort_unstable_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        found
    }

    fn remove(&mut self, id: &EntryId) -> bool {
        let Some(placed) = self.entries.get(id).cloned() else {
            return false;
        };
        self.entries.remove_mut(id);
        self.prefetch.remove_mut(id);
        if let Some(selector) = placed.under
            && let Some(bucket) = self.by_selector.get(&selector)
        {
            let bucket = bucket.remove(id);
            if bucket.is_empty() {
                self.by_selector.remove_mut(&selector);
            } else {
                self.by_selector.insert_mut(selector, bucket);
            }
        }
        true
    }

    fn put(&mut self, entry: Entry) -> bool {
        if self.entry(&entry.id).is_some_and(|old| **old == entry) {
            return false;
        }
        self.remove(&entry.id);
        let entry = Arc::new(entry);
        // SVIDs of a store are written elsewhere and never handed to a process.
        let candidates = if entry.spec.store_svid {
            None
        } else {
            Some(entry.spec.selectors.iter())
        };
        let size = |selector: &&Selector| self.by_selector.get(*selector).map_or(0, HashTrieMapSync::size);
        let under = candidates.and_then(|selectors| selectors.min_by_key(size)).cloned();
        if let Some(selector) = &under {
            let bucket = self.by_selector.get(selector).cloned().unwrap_or_default();
            self.by_selector
                .insert_mut(selector.clone(), bucket.insert(entry.id.clone(), Arc::clone(&entry)));
            if entry.prefetch() {
                self.prefetch.insert_mut(entry.id.clone());
            }
        }
        self.entries.insert_mut(entry.id.clone(), Placed { entry, under });
        true
    }

    /// Makes `update` part of this view; says whether anything but the revision is different.
    fn apply(&mut self, update: ViewUpdate) -> bool {
        let ViewUpdate {
            revision,
            snapshot,
            synced,
            shut_out,
            puts,
            mut removes,
            own,
            federated_puts,
            mut federated_removes,
            crls,
        } = update;
        let mut changed = synced && !self.synced || shut_out != self.shut_out;
        changed |= self.crls.apply(snapshot, crls);
        self.revision = revision;
        self.synced |= synced;
        self.shut_out = shut_out;
        if snapshot {
            // Compared with what is there, so that unchanged entries stay the same values and wake nobody.
            let named: std::collections::HashSet<&EntryId> = puts.iter().map(|entry| &entry.id).collect();
            removes = self.entries.keys().filter(|id| !named.contains(id)).cloned().collect();
            let named: BTreeSet<&TrustDomain> = federated_puts.iter().map(|bundle| &bundle.trust_domain).collect();
            federated_removes = self
                .federated
                .keys()
                .filter(|name| !named.contains(name))
                .cloned()
                .collect();
        }
        for id in &removes {
            changed |= self.remove(id);
        }
        for entry in puts {
            changed |= self.put(entry);
        }
        if let Some(own) = own
            && own != *self.own
        {
            self.own = Arc::new(own);
            changed = true;
        }
        for name in &federated_removes {
            if self.federated.contains_key(name) {
                Arc::make_mut(&mut self.federated).remove(name);
                changed = true;
            }
        }
        for bundle in federated_puts {
            let same = self
                .federated
                .get(&bundle.trust_domain)
                .is_some_and(|old| **old == bundle);
            if !same && bundle.trust_domain != self.own.trust_domain {
                Arc::make_mut(&mut self.federated).insert(bundle.trust_domain.clone(), Arc::new(bundle));
                changed = true;
            }
        }
        changed
    }
}

// === impl ViewPublisher ===

impl ViewPublisher {
    /// Publishes an empty view with the bundle that the agent trusts from the start.
    pub fn new(own: Bundle) -> Self {
        Self {
            views: watch::Sender::new(Arc::new(View::new(own))),
        }
    }

    /// Follows the views, beginning with the present one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.views.subscribe()
    }

    /// The present view.
    pub fn current(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// Publishes the view after `update`, in one step: nobody sees a part of it. An update that says nothing new but the
    /// revision wakes nobody.
    pub fn apply(&self, update: ViewUpdate) {
        // Built outside the lock: readers are never kept waiting. There is one writer, so nothing gets lost.
        let mut next = (*self.current()).clone();
        let changed = next.apply(update);
        self.views.send_if_modified(|view| {
            *view = Arc::new(next);
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use mayfly_model::{AdditionalAttributes, EntrySpec};
    use mayfly_svid::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn td() -> TrustDomain {
        "td".parse().unwrap()
    }

    fn selectors(texts: &[&str]) -> BTreeSet<Selector> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn entry(id: &str, created: i64, texts: &[&str]) -> Entry {
        let spec = EntrySpec::new(
            format!("spiffe://td/{id}").parse().unwrap(),
            "spiffe://td/spire/agent/x509pop/a".parse().unwrap(),
            selectors(texts).into_iter().collect(),
        );
        Entry {
            id: id.parse().unwrap(),
            spec,
            created_at: Timestamp::from_unix(created),
            revision_number: 0,
        }
    }

    fn publisher() -> ViewPublisher {
        ViewPublisher::new(Bundle::empty(td()))
    }

    fn ids(found: &[Arc<Entry>]) -> Vec<&str> {
        found.iter().map(|entry| entry.id.as_str()).collect()
    }

    // WAPI-23
    #[test]
    fn the_oldest_matching_entry_comes_first_and_ties_are_broken_by_id() {
        let publisher = publisher();
        let puts = vec![
            entry("c", 5, &["unix:uid:1"]),
            entry("b", 5, &["unix:uid:1", "unix:gid:2"]),
            entry("z", 1, &["unix:gid:2"]),
            entry("other", 0, &["unix:uid:9"]),
            entry("too-much", 0, &["unix:uid:1", "unix:path:/x"]),
        ];
        publisher.apply(ViewUpdate {
            puts,
            ..ViewUpdate::default()
        });
        let found = publisher
            .current()
            .matching(&selectors(&["unix:uid:1", "unix:gid:2", "unix:user:a"]));
        assert_eq!(ids(&found), ["z", "b", "c"]);
    }

    #[test]
    fn an_entry_without_selectors_or_for_a_store_matches_nobody() {
        let publisher = publisher();
        let mut stored = entry("stored", 0, &["unix:uid:1"]);
        stored.spec.store_svid = true;
        publisher.apply(ViewUpdate {
            puts: vec![entry("bare", 0, &[]), stored],
            ..ViewUpdate::default()
        });
        assert!(publisher.current().matching(&selectors(&["unix:uid:1"])).is_empty());
        assert_eq!(publisher.current().len(), 2);
    }

    #[test]
    fn an_update_without_news_wakes_nobody() {
        let publisher = publisher();
        let update = ViewUpdate {
            revision: 1,
            synced: true,
            puts: vec![entry("a", 0, &["unix:uid:1"])],
            own: Some(Bundle::empty(td())),
            ..ViewUpdate::default()
        };
        publisher.apply(update.clone());
        let mut views = publisher.subscribe();
        publisher.apply(update.clone());
        publisher.apply(ViewUpdate {
            snapshot: true,
            ..update
        });
        assert!(!views.has_changed().unwrap());
        publisher.apply(ViewUpdate {
            revision: 1,
            removes: vec!["a".parse().unwrap()],
            ..ViewUpdate::default()
        });
        assert!(views.has_changed().unwrap());
        assert!(views.borrow_and_update().synced(), "once in step is enough");
    }

    #[test]
    fn a_snapshot_leaves_nothing_of_what_it_does_not_name() {
        let publisher = publisher();
        let foreign = |name: &str| Bundle::empty(name.parse().unwrap());
        publisher.apply(ViewUpdate {
            puts: vec![entry("a", 0, &["unix:uid:1"]), entry("b", 0, &["unix:uid:1"])],
            federated_puts: vec![foreign("x"), foreign("y"), foreign("td")],
            ..ViewUpdate::default()
        });
        let before = publisher.current();
        assert_eq!(before.all_federated().len(), 2, "the own trust domain is never foreign");
        publisher.apply(ViewUpdate {
            snapshot: true,
            puts: vec![entry("b", 0, &["unix:uid:1"])],
            federated_puts: vec![foreign("y")],
            ..ViewUpdate::default()
        });
        let after = publisher.current();
        assert_eq!(ids(&after.matching(&selectors(&["unix:uid:1"]))), ["b"]);
        assert!(after.federated(&"x".parse().unwrap()).is_none());
        let b = "b".parse().unwrap();
        assert!(Arc::ptr_eq(before.entry(&b).unwrap(), after.entry(&b).unwrap()));
    }

    #[test]
    fn prefetch_follows_the_entry() {
        let publisher = publisher();
        let mut wanted = entry("a", 0, &["unix:uid:1"]);
        wanted.spec.additional_attributes = Some(AdditionalAttributes::default());
        publisher.apply(ViewUpdate {
            puts: vec![wanted],
            ..ViewUpdate::default()
        });
        assert_eq!(publisher.current().prefetch().count(), 1);
        publisher.apply(ViewUpdate {
            puts: vec![entry("a", 0, &["unix:uid:1"])],
            ..ViewUpdate::default()
        });
        assert_eq!(publisher.current().prefetch().count(), 0);
    }

    #[test]
    fn a_small_delta_among_many_entries_is_cheap() {
        let publisher = publisher();
        let puts = (0..20_000).map(|i| entry(&format!("e{i}"), i, &["k8s:cluster:c", &format!("k8s:sa:{i}")]));
        publisher.apply(ViewUpdate {
            snapshot: true,
            puts: puts.collect(),
            ..ViewUpdate::default()
        });
        let start = tokio::time::Instant::now();
        for i in 0..200 {
            let puts = vec![entry(
                &format!("e{i}"),
                i + 1,
                &["k8s:cluster:c", &format!("k8s:sa:{i}")],
            )];
            publisher.apply(ViewUpdate {
                puts,
                ..ViewUpdate::default()
            });
            let found = publisher
                .current()
                .matching(&selectors(&["k8s:cluster:c", &format!("k8s:sa:{i}")]));
            assert!(found.len() <= 2);
        }
        // A copy of the map each time would take many times as long; the bound leaves room for a busy machine.
        assert!(
            start.elapsed() < std::time::Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }

    proptest! {
        // The index and a search through everything agree, whatever came and went.
        #[test]
        fn the_index_finds_what_a_full_search_finds(
            steps in proptest::collection::vec(
                (0u8..12, any::<bool>(), proptest::collection::btree_set(0u8..6, 0..4)),
                1..60,
            ),
            process in proptest::collection::btree_set(0u8..6, 0..6),
        ) {
            let publisher = publisher();
            let text = |set: &BTreeSet<u8>| set.iter().map(|n| format!("s:{n}")).collect::<Vec<_>>();
            for (id, put, set) in steps {
                let texts = text(&set);
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let mut update = ViewUpdate::default();
                if put {
                    update.puts = vec![entry(&format!("e{id}"), 0, &texts)];
                } else {
                    update.removes = vec![format!("e{id}").parse().unwrap()];
                }
                publisher.apply(update);
            }
            let process: BTreeSet<Selector> = text(&process).iter().map(|t| t.parse().unwrap()).collect();
            let view = publisher.current();
            let mut expected: Vec<Arc<Entry>> = view
                .entries()
                .filter(|e| !e.spec.selectors.is_empty() && e.spec.selectors.iter().all(|s| process.contains(s)))
                .cloned()
                .collect();
            expected.sort_by(|a, b| a.id.cmp(&b.id));
            prop_assert_eq!(view.matching(&process), expected);
        }
    }
}
