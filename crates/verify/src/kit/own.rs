//! The own SVIDs, and which of them is shown.

use std::fmt;
use std::sync::Arc;

use mayfly_svid::{SpiffeId, TaskPath, TrustDomain, X509Svid};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Source;
use super::time::after_second;

/// Which of its SVIDs a process shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Show {
    /// The first that the agent names: the task SVID, where the definition says that it is the default.
    First,
    /// The first that is not a task SVID. What a server shows, so that its clients always find the same one.
    Base,
    /// The first with this hint, such as `task/pay/db-migrate`.
    Hint(String),
    /// The one with this ID.
    Id(SpiffeId),
}

/// What the agent gave.
#[derive(Default)]
pub(crate) struct OwnSvids {
    /// Of the first SVID. Stays when the SVIDs are withdrawn.
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) svids: Vec<OwnSvid>,
}

pub(crate) struct OwnSvid {
    pub(crate) svid: X509Svid,
    pub(crate) hint: String,
    pub(crate) key: Arc<CertifiedKey>,
}

impl OwnSvids {
    pub(crate) fn find(&self, show: &Show) -> Option<&OwnSvid> {
        self.svids.iter().find(|own| match show {
            Show::First => true,
            Show::Base => TaskPath::of(own.svid.spiffe_id()).is_none(),
            Show::Hint(hint) => own.hint == *hint,
            Show::Id(id) => own.svid.spiffe_id() == id,
        })
    }
}

/// Shows the newest SVID of one kind, and none that has expired.
pub(crate) struct Shown {
    pub(crate) source: Source,
    pub(crate) show: Show,
}

impl Shown {
    fn key(&self) -> Option<Arc<CertifiedKey>> {
        let state = self.source.state();
        let own = state.own.load();
        let found = own.find(&self.show)?;
        (state.time.now() < after_second(found.svid.not_after())).then(|| Arc::clone(&found.key))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown")
            .field("show", &self.show)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        self.key().is_some()
    }
}
