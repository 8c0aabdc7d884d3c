//! What a caller is told: chosen first, compared with what it was told last, and only then written.
//!
//! Order and hints: SVIDs are in the order of their entries, oldest first ([`View::matching`]), so the oldest entry is
//! the default identity (WAPI-23). If several entries have the same hint, the oldest keeps it and the others are sent
//! without (WAX-13, IOP-31); an entry whose SVID is not ready keeps its claim on the hint, so that hints do not wander.
//! Task SVIDs come after them, or before them where their definition says so, and a hint that an entry claims is not
//! theirs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use mayfly_model::Entry;
use mayfly_proto::spiffe::workload::{X509BundlesResponse, X509svid, X509svidResponse};
use mayfly_svid::{Bundle, X509Svid};
use prost::Message;
use tracing::warn;

use crate::svids::{Failure, X509Material};
use crate::tasks::Shown;
use crate::view::View;

/// gRPC clients receive 4 MiB by default (IOP-33); some room is left for framing.
const MAX_MESSAGE: usize = 4 * 1024 * 1024 - 64 * 1024;

/// A fingerprint of what a message says, without the keys.
pub(super) type Fingerprint = [u8; 32];

/// The SVID of one entry, as far as it goes.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Ready(Arc<X509Material>),
    Pending,
    Failed(Failure),
}

/// What there is to tell a caller whose entries these are. Both RPCs choose from it.
pub(super) struct Choice<'a> {
    pub(super) view: &'a View,
    /// Never empty; oldest first.
    pub(super) entries: &'a [Arc<Entry>],
    /// One per entry; not looked at for bundles.
    pub(super) items: &'a [Item],
    /// Task SVIDs that the caller has part in, oldest first.
    pub(super) tasks: &'a [Shown],
}

/// One SVID as it is sent.
struct Told<'a> {
    svid: &'a X509Svid,
    key_der: &'a [u8],
    hint: &'a str,
}

/// Why there is nothing to tell, although there are entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// At least one SVID is being made.
    Pending,
    /// None can be had now.
    Unavailable,
    /// The server will not have any of them issued.
    Denied,
    /// There is no authority in the own bundle.
    NoBundle,
}

/// One of the two RPCs.
pub(super) trait Content: Send + Sync + 'static {
    type Response: Send + 'static;
    /// For logs.
    const RPC: &'static str;
    /// Whether SVIDs have to be made for it.
    const WITH_SVIDS: bool;
    /// What would be said, as a fingerprint.
    fn fingerprint(choice: &Choice<'_>) -> Result<Fingerprint, Nothing>;
    /// Says it. Called only if there is a fingerprint.
    fn write(choice: &Choice<'_>) -> Self::Response;
}

/// `FetchX509SVID`.
pub(super) struct Svids;
/// `FetchX509Bundles`.
pub(super) struct Bundles;

impl Choice<'_> {
    /// Base SVIDs, and the hints that they are sent with.
    fn base(&self) -> impl Iterator<Item = Told<'_>> {
        let mut taken = HashSet::new();
        self.entries.iter().zip(self.items).filter_map(move |(entry, item)| {
            let hint = entry.spec.hint.as_str();
            let hint = if hint.is_empty() || taken.insert(hint) {
                hint
            } else {
                ""
            };
            match item {
                Item::Ready(material) => Some(Told {
                    svid: material.svid(),
                    key_der: material.expose_for_workload(),
                    hint,
                }),
                _ => None,
            }
        })
    }

    /// All SVIDs in their order: base SVIDs, and after them those of tasks, or before them where the definition says so.
    /// Empty without a base SVID: it is what stays when the others go.
    fn ready(&self) -> Vec<Told<'_>> {
        let base: Vec<_> = self.base().collect();
        if base.is_empty() {
            return base;
        }
        let mut taken: HashSet<&str> = self.entries.iter().map(|entry| entry.spec.hint.as_str()).collect();
        let (mut first, mut last) = (vec![], vec![]);
        for shown in self.tasks {
            let told = Told {
                svid: shown.svid.svid(),
                key_der: shown.svid.expose_for_workload(),
                hint: if taken.insert(&shown.hint) { &shown.hint } else { "" },
            };
            if shown.promote_default {
                first.push(told);
            } else {
                last.push(told);
            }
        }
        first.into_iter().chain(base).chain(last).collect()
    }

    /// Whether no SVID is still being made.
    pub(super) fn is_complete(&self) -> bool {
        !self.items.iter().any(|item| matches!(item, Item::Pending))
    }

    /// Foreign bundles that the entries ask for, without those that are empty or not known (IOP-10, AMB-17).
    fn federated(&self) -> BTreeMap<String, &Bundle> {
        let names: BTreeSet<_> = self
            .entries
            .iter()
            .flat_map(|entry| &entry.spec.federates_with)
            .collect();
        let own = &self.view.own().trust_domain;
        names
            .into_iter()
            .filter(|name| *name != own)
            .filter_map(|name| self.view.federated(name))
            .filter(|bundle| !bundle.x509_authorities.is_empty())
            .map(|bundle| (key_of(bundle), &**bundle))
            .collect()
    }

    fn nothing(&self) -> Nothing {
        let any = |wanted: fn(&Item) -> bool| self.items.iter().any(wanted);
        if any(|item| matches!(item, Item::Pending)) {
            Nothing::Pending
        } else if any(|item| !matches!(item, Item::Failed(Failure::Denied))) {
            Nothing::Unavailable
        } else {
            Nothing::Denied
        }
    }
}

impl Content for Svids {
    type Response = X509svidResponse;
    const RPC: &'static str = "FetchX509SVID";
    const WITH_SVIDS: bool = true;

    fn fingerprint(choice: &Choice<'_>) -> Result<Fingerprint, Nothing> {
        if choice.view.own().x509_authorities.is_empty() {
            return Err(Nothing::NoBundle);
        }
        let mut hash = Hash::new();
        let ready = choice.ready();
        if ready.is_empty() {
            return Err(choice.nothing());
        }
        for told in ready {
            hash.part(told.hint.as_bytes());
            for certificate in told.svid.chain() {
                hash.part(certificate);
            }
            hash.part(&[]);
        }
        hash.crls(choice.view);
        hash.bundle("", choice.view.own());
        for (key, bundle) in choice.federated() {
            hash.bundle(&key, bundle);
        }
        Ok(hash.finish())
    }

    fn write(choice: &Choice<'_>) -> X509svidResponse {
        let bundle = choice.view.own().x509_concatenated_der();
        let svids = choice.ready().into_iter().map(|told| X509svid {
            spiffe_id: told.svid.spiffe_id().to_string(),
            x509_svid: told.svid.chain().iter().flat_map(|der| der.iter().copied()).collect(),
            x509_svid_key: told.key_der.to_vec(),
            bundle: bundle.clone(),
            hint: told.hint.to_owned(),
        });
        let federated = choice
            .federated()
            .into_iter()
            .map(|(key, bundle)| (key, bundle.x509_concatenated_der()));
        let mut response = X509svidResponse {
            svids: svids.collect(),
            crl: choice.view.crls().map(<[u8]>::to_vec).collect(),
            federated_bundles: federated.collect(),
        };
        let all = response.svids.len();
        while response.encoded_len() > MAX_MESSAGE && response.svids.len() > 1 {
            response.svids.pop();
        }
        if response.svids.len() < all {
            warn!(
                all,
                sent = response.svids.len(),
                "message too large for gRPC clients: newest SVIDs left out"
            );
        }
        response
    }
}

impl Content for Bundles {
    type Response = X509BundlesResponse;
    const RPC: &'static str = "FetchX509Bundles";
    const WITH_SVIDS: bool = false;

    fn fingerprint(choice: &Choice<'_>) -> Result<Fingerprint, Nothing> {
        if choice.view.own().x509_authorities.is_empty() {
            return Err(Nothing::NoBundle);
        }
        let mut hash = Hash::new();
        hash.crls(choice.view);
        hash.bundle("", choice.view.own());
        for (key, bundle) in choice.federated() {
            hash.bundle(&key, bundle);
        }
        Ok(hash.finish())
    }

    fn write(choice: &Choice<'_>) -> X509BundlesResponse {
        let own = choice.view.own();
        let mut bundles: BTreeMap<String, Vec<u8>> = choice
            .federated()
            .into_iter()
            .map(|(key, bundle)| (key, bundle.x509_concatenated_der()))
            .collect();
        bundles.insert(key_of(own), own.x509_concatenated_der());
        X509BundlesResponse {
            crl: choice.view.crls().map(<[u8]>::to_vec).collect(),
            bundles,
        }
    }
}

/// `spiffe://<td>`, without a slash at the end (IOP-09).
fn key_of(bundle: &Bundle) -> String {
    bundle.trust_domain.id().to_string()
}

struct Hash(Context);

impl Hash {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// With its length, so that parts cannot run into each other.
    fn part(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn crls(&mut self, view: &View) {
        for crl in view.crls() {
            self.part(crl);
        }
        self.part(&[]);
    }

    fn bundle(&mut self, key: &str, bundle: &Bundle) {
        self.part(key.as_bytes());
        for authority in &bundle.x509_authorities {
            self.part(&authority.cert_der);
        }
        self.part(&[]);
    }

    fn finish(self) -> Fingerprint {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}
