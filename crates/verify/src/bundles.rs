//! The bundles that handshakes are verified against, swapped whole.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mayfly_svid::{Bundle, TrustAnchors, TrustDomain};

/// Where a verifier finds the anchors of a trust domain. Called in every handshake: answers from memory.
pub trait AnchorSource: Debug + Send + Sync {
    /// The anchors of `trust_domain`; `None` if it is not known here, which refuses its members.
    fn anchors(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustAnchors>>;
}

/// The bundles of every trust domain that is known here. Readers never wait; handshakes that run keep what they loaded.
#[derive(Debug, Default)]
pub struct BundleSet {
    known: ArcSwap<HashMap<TrustDomain, Arc<TrustAnchors>>>,
}

impl BundleSet {
    /// A set that knows nobody yet: every handshake is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all bundles: an authority that is not listed any more is not trusted any more (TDB-05). Later ones of
    /// the same trust domain win.
    pub fn publish<'a>(&self, bundles: impl IntoIterator<Item = &'a Bundle>) {
        let known = bundles
            .into_iter()
            .map(|bundle| (bundle.trust_domain.clone(), Arc::new(TrustAnchors::from_bundle(bundle))))
            .collect();
        self.known.store(Arc::new(known));
    }
}

impl AnchorSource for BundleSet {
    fn anchors(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustAnchors>> {
        self.known.load().get(trust_domain).cloned()
    }
}
