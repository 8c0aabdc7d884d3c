//! The watch stream: whatever a server sends, the agent's picture is what a plain reading of the messages gives, and
//! the running digest is that of the picture.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use arbitrary::Unstructured;
use mayfly_agent::news::News;
use mayfly_agent::sync::{Changes, Holdings, WatchEvent};
use mayfly_agent::view::ViewPublisher;
use mayfly_model::{Entry, entries_digest, reserved_path};
use mayfly_proto::mayfly::agent::{Beacon, Update, WatchResponse, watch_response::Body};
use mayfly_proto::spire::types;
use mayfly_svid::{Bundle, TrustDomain};
use prost::Message as _;

use crate::convert::genuine;
use crate::input::{byte, rest};
use crate::material::{self, trust_domain};

const IDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "", "not an id"];
const NAMES: [&str; 4] = ["td", "b.example", "c.example", "Not a name"];

static OWN: LazyLock<Bundle> = LazyLock::new(material::bundle);
static BUNDLE: LazyLock<types::Bundle> = LazyLock::new(|| types::Bundle::from(&*OWN));
static ENTRY: LazyLock<types::Entry> = LazyLock::new(genuine);

/// Messages one after another, each behind its length; or messages that the input makes up of a few names.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let mut stream = Stream::new();
    if byte(&mut input).is_multiple_of(4) {
        let mut bytes = rest(&mut input);
        while !bytes.is_empty() {
            let Ok(message) = WatchResponse::decode_length_delimited(&mut bytes) else {
                return;
            };
            if !stream.take(message) {
                return;
            }
        }
    } else {
        while !input.is_empty() && stream.take(message(&mut input)) {}
    }
}

/// The agent's side, and what it should be.
struct Stream {
    changes: Changes,
    holdings: Holdings,
    news: Arc<News>,
    entries: BTreeMap<String, Entry>,
    bundles: BTreeMap<TrustDomain, Bundle>,
    own: Bundle,
    /// The chunks so far of a revision that is not complete.
    open: Option<Update>,
}

impl Stream {
    fn new() -> Self {
        let own = OWN.clone();
        let views = Arc::new(ViewPublisher::new(own.clone()));
        let news = News::new();
        Self {
            changes: Changes::default(),
            holdings: Holdings::new(trust_domain(), views, news.clone()),
            news,
            entries: BTreeMap::new(),
            bundles: BTreeMap::new(),
            own,
            open: None,
        }
    }

    /// Whether the stream goes on.
    fn take(&mut self, message: WatchResponse) -> bool {
        let stood = self.holdings.position().cloned();
        let epoch = self.news.epoch();
        let Ok(event) = self.changes.take(message.clone(), &mut self.holdings) else {
            self.compare();
            return false;
        };
        match (message.body, event) {
            (Some(Body::Update(chunk)), WatchEvent::Alive) => {
                assert!(chunk.more, "a complete revision is not applied");
                self.gather(chunk);
            }
            (Some(Body::Update(chunk)), WatchEvent::Applied(applied)) => {
                assert!(!chunk.more, "half a revision is applied");
                let position = self.holdings.position().expect("an update leads to a position");
                assert_eq!((&position.history, position.revision), (&chunk.history, chunk.revision));
                if !chunk.snapshot {
                    assert_eq!(stood.expect("a delta leads on from something").history, chunk.history);
                }
                self.gather(chunk);
                let update = self.open.take().expect("just put there");
                let rejected = self.apply(&update);
                let named: BTreeSet<_> = applied.rejected.iter().map(|entry| entry.entry_id.clone()).collect();
                assert_eq!(named, rejected);
            }
            (Some(Body::Beacon(beacon)), event) => {
                let diverged = event == WatchEvent::Diverged;
                let (held, digest) = self.digest();
                let expected = beacon.digest.map(|digest| (beacon.entries, digest));
                if self.open.is_none() && beacon.epoch > epoch {
                    assert!(diverged, "a revocation was not heard of, and nobody asks for it");
                } else if self.open.is_some() || expected.is_none_or(|expected| expected == (held, digest)) {
                    assert!(!diverged, "diverged without a difference");
                }
                // What was rejected may be counted or not, so more than this cannot be said from outside.
                if diverged && beacon.epoch <= epoch {
                    assert_ne!(expected, Some((held, digest)));
                }
            }
            // For the witness, of which there is none here.
            (Some(Body::LogHead(_)) | None, event) => assert_eq!(event, WatchEvent::Alive),
            (body, event) => panic!("{body:?} leads to {event:?}"),
        }
        self.compare();
        true
    }

    fn gather(&mut self, chunk: Update) {
        match &mut self.open {
            None => self.open = Some(chunk),
            Some(open) => {
                open.entries.extend(chunk.entries);
                open.removed_entry_ids.extend(chunk.removed_entry_ids);
                open.bundles.extend(chunk.bundles);
                open.removed_trust_domains.extend(chunk.removed_trust_domains);
            }
        }
    }

    /// Returns the entries that cannot be used.
    fn apply(&mut self, update: &Update) -> BTreeSet<String> {
        let before = self.bundles.clone();
        if update.snapshot {
            self.entries.clear();
            self.bundles.clear();
        }
        for id in &update.removed_entry_ids {
            self.entries.remove(id);
        }
        for name in &update.removed_trust_domains {
            self.bundles.retain(|known, _| known.as_str() != name);
        }
        let mut rejected = BTreeSet::new();
        for wire in &update.entries {
            self.entries.remove(&wire.id);
            if let Some(entry) = usable(wire) {
                self.entries.insert(wire.id.clone(), entry);
            } else {
                rejected.insert(wire.id.clone());
            }
        }
        for wire in &update.bundles {
            match Bundle::try_from(wire) {
                Ok(bundle) if bundle.trust_domain == self.own.trust_domain => self.own = bundle,
                Ok(bundle) => drop(self.bundles.insert(bundle.trust_domain.clone(), bundle)),
                // What cannot be read changes nothing of what peers are verified with.
                Err(_) => {
                    let old = wire.trust_domain.parse::<TrustDomain>().ok();
                    let old = old.and_then(|name| before.get_key_value(&name));
                    self.bundles
                        .extend(old.map(|(name, bundle)| (name.clone(), bundle.clone())));
                }
            }
        }
        rejected
    }

    fn digest(&self) -> (u64, u64) {
        (self.entries.len() as u64, entries_digest(self.entries.values()))
    }

    fn compare(&self) {
        let view = self.holdings.view();
        let held: BTreeMap<_, _> = view
            .entries()
            .map(|entry| (entry.id.to_string(), (**entry).clone()))
            .collect();
        assert_eq!(held, self.entries);
        let bundles: BTreeMap<_, _> = view
            .all_federated()
            .iter()
            .map(|(name, bundle)| (name.clone(), (**bundle).clone()))
            .collect();
        assert_eq!(bundles, self.bundles);
        assert_eq!(**view.own(), self.own);
        let (count, digest) = self.digest();
        assert!(
            self.holdings.agrees_with(count, digest),
            "the running digest is another one"
        );
        assert!(!self.holdings.agrees_with(count + 1000, digest));
        for entry in view.entries() {
            let matching = view.matching(&entry.spec.selectors.iter().cloned().collect());
            assert_eq!(
                matching.iter().any(|other| other.id == entry.id),
                !entry.spec.store_svid
            );
        }
    }
}

/// The rules of what workloads can be served by.
fn usable(wire: &types::Entry) -> Option<Entry> {
    let entry = Entry::try_from(wire).ok()?;
    let id = &entry.spec.spiffe_id;
    let serves = id.trust_domain_name() == "td"
        && !id.path().is_empty()
        && reserved_path(id).is_none()
        && !entry.spec.selectors.is_empty();
    serves.then_some(entry)
}

/// A message of a few names, so that most of them meet again.
fn message(input: &mut Unstructured<'_>) -> WatchResponse {
    let flags = byte(input);
    if flags & 0b111 == 0 {
        let (entries, digest) = (u64::from(byte(input)), byte(input));
        return WatchResponse {
            body: Some(Body::Beacon(Beacon {
                revision: u64::from(flags >> 3),
                interval_ms: 1000,
                entries,
                digest: digest.checked_sub(1).map(u64::from),
                epoch: entries >> 6,
                ..Beacon::default()
            })),
        };
    }
    let counts = byte(input);
    let mut update = Update {
        history: if flags & 0b1111_1000 == 0b1111_1000 {
            "other"
        } else {
            "h"
        }
        .to_owned(),
        revision: u64::from(flags >> 6),
        snapshot: flags & 0b1000 != 0,
        more: flags & 0b1_0000 != 0,
        epoch: u64::from(counts >> 6),
        ..Update::default()
    };
    for _ in 0..counts & 3 {
        update.entries.push(entry(input));
    }
    for _ in 0..counts >> 2 & 3 {
        update
            .removed_entry_ids
            .push(IDS[usize::from(byte(input) % 8)].to_owned());
    }
    for _ in 0..counts >> 4 & 3 {
        update.bundles.push(bundle(input));
    }
    for _ in 0..counts >> 6 {
        update
            .removed_trust_domains
            .push(NAMES[usize::from(byte(input) % 4)].to_owned());
    }
    WatchResponse {
        body: Some(Body::Update(update)),
    }
}

fn entry(input: &mut Unstructured<'_>) -> types::Entry {
    let (id, how) = (byte(input), byte(input));
    let mut entry = types::Entry {
        id: IDS[usize::from(id % 8)].to_owned(),
        revision_number: i64::from(id >> 3),
        store_svid: how & 0x80 != 0,
        ..ENTRY.clone()
    };
    match how % 16 {
        0 => entry.selectors.clear(),
        1 => entry.spiffe_id = None,
        2 => entry.created_at = i64::from(how),
        3 => entry.spiffe_id.iter_mut().for_each(|id| id.path = "/task/a".to_owned()),
        4 => entry.spiffe_id.iter_mut().for_each(|id| id.path.clear()),
        5 => entry
            .spiffe_id
            .iter_mut()
            .for_each(|id| id.trust_domain = "other".to_owned()),
        6 => entry.additional_attributes = None,
        7 => entry.selectors.extend(entry.selectors.clone()),
        8 => entry.selectors[0].value = format!("uid:{}", how >> 4),
        _ => {}
    }
    entry
}

fn bundle(input: &mut Unstructured<'_>) -> types::Bundle {
    let how = byte(input);
    let mut bundle = BUNDLE.clone();
    bundle.trust_domain = NAMES[usize::from(how % 4)].to_owned();
    bundle.sequence_number = u64::from(how >> 4);
    if how & 4 != 0 {
        bundle.refresh_hint = -1;
    }
    if how & 8 != 0 {
        bundle.x509_authorities.clear();
    }
    bundle
}
