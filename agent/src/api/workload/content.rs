//! What a caller is told: chosen first, compared with what it was told last, and only then written.
//!
//! Order and hints: SVIDs are in the order of their entries, oldest first ([`View::matching`]), so the oldest entry is
//! the default identity (WAPI-23). If several entries have the same hint, the oldest keeps it and the others are sent
//! without (WAX-13, IOP-31); an entry whose SVID is not ready keeps its claim on the hint, so that hints do not wander.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use mayfly_model::Entry;
use mayfly_proto::spiffe::workload::{X509BundlesResponse, X509svid, X509svidResponse};
use mayfly_svid::Bundle;
use prost::Message;
use tracing::warn;

use crate::svids::{Failure, X509Material};
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
    /// Entries with an SVID, and the hints that they are sent with.
    fn ready(&self) -> impl Iterator<Item = (&X509Material, &str)> {
        let mut taken = HashSet::new();
        self.entries.iter().zip(self.items).filter_map(move |(entry, item)| {
            let hint = entry.spec.hint.as_str();
            let hint = if hint.is_empty() || taken.insert(hint) {
                hint
            } else {
                ""
            };
            match item {
                Item::Ready(material) => Some((&**material, hint)),
                _ => None,
            }
        })
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
        let mut count = 0_u32;
        for (material, hint) in choice.ready() {
            count += 1;
            hash.part(hint.as_bytes());
            for certificate in material.svid().chain() {
                hash.part(certificate);
            }
            hash.part(&[]);
        }
        if count == 0 {
            return Err(choice.nothing());
        }
        hash.bundle("", choice.view.own());
        for (key, bundle) in choice.federated() {
            hash.bundle(&key, bundle);
        }
        Ok(hash.finish())
    }

    fn write(choice: &Choice<'_>) -> X509svidResponse {
        let bundle = choice.view.own().x509_concatenated_der();
        let svids = choice.ready().map(|(material, hint)| X509svid {
            spiffe_id: material.svid().spiffe_id().to_string(),
            x509_svid: material
                .svid()
                .chain()
                .iter()
                .flat_map(|der| der.iter().copied())
                .collect(),
            x509_svid_key: material.expose_for_workload().to_vec(),
            bundle: bundle.clone(),
            hint: hint.to_owned(),
        });
        let federated = choice
            .federated()
            .into_iter()
            .map(|(key, bundle)| (key, bundle.x509_concatenated_der()));
        let mut response = X509svidResponse {
            svids: svids.collect(),
            crl: vec![],
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
        X509BundlesResponse { crl: vec![], bundles }
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
