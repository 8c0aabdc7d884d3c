//! What the kit knows, and the one place where it decides.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use mayfly_svid::{Bundle, SpiffeId, TaskExtension, TaskExtensionError, Timestamp, TrustDomain, WindowId, X509Svid};
use rustls::{CertificateError, OtherError};
use rustls_pki_types::CertificateDer;

use super::Matcher;
use super::deny::{Denied, Lease, Revocation};
use super::own::OwnSvids;
use super::peer::{Admitted, Cut, Ended};
use super::registry::Registry;
use super::settings::{Lifetime, Staleness};
use super::time::{Steady, after_second, moment};
use crate::verifier::verify_chain;
use crate::{BundleSet, PeerError};

/// Why a peer was refused by the kit. It is the source of the [`rustls::Error`] where rustls has no name of its own.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It did not prove who it is.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It is who it says, and not who is wanted. A base SVID ends here where a task is wanted.
    #[error("the peer is `{presented}`, expected {expected}")]
    NotWanted {
        /// Its verified ID.
        presented: SpiffeId,
        /// What was wanted.
        expected: String,
    },
    /// What its certificate says about its window cannot be read.
    #[error("the certificate of `{presented}` does not say which window it belongs to")]
    Extension {
        /// Its verified ID.
        presented: SpiffeId,
        /// What is wrong.
        source: TaskExtensionError,
    },
    /// It has the name of a task SVID and says nothing about a window.
    #[error("the certificate of `{presented}` has the name of a task SVID and no window")]
    NoWindow {
        /// Its verified ID.
        presented: SpiffeId,
    },
    /// Its window or its certificate is revoked.
    #[error("the authority of `{presented}` is revoked")]
    Revoked {
        /// Its verified ID.
        presented: SpiffeId,
    },
    /// Its window is over, although its certificate may still be valid.
    #[error("the window of `{presented}` closed at {closes}")]
    WindowOver {
        /// Its verified ID.
        presented: SpiffeId,
        /// When the window ended.
        closes: Timestamp,
    },
    /// It has a task SVID, the service is strict, and there is no fresh word on what is revoked.
    #[error("there is no fresh word on what is revoked, `{presented}` is refused until there is")]
    NoFreshWord {
        /// Its verified ID.
        presented: SpiffeId,
    },
    /// There is no own identity yet, so nobody can be compared with it.
    #[error("there is no own identity yet")]
    NotReady,
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        let certificate = match refusal {
            Refusal::Peer(error) => return error.into(),
            Refusal::Revoked { .. } => CertificateError::Revoked,
            Refusal::WindowOver { .. } => CertificateError::Expired,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        Self::InvalidCertificate(certificate)
    }
}

/// See the module.
pub(crate) struct State {
    pub(crate) time: Steady,
    pub(crate) own: ArcSwap<OwnSvids>,
    pub(crate) live: Registry,
    pub(crate) lease: Lease,
    pub(crate) counters: Counters,
    staleness: Staleness,
    lifetime: Lifetime,
    bundles: BundleSet,
    denied: RwLock<Denied>,
    /// Grows with each change that could end a connection, before the connections are looked through. Whoever registers
    /// a connection and finds it as it was before the handshake has missed nothing.
    generation: AtomicU64,
}

/// What has happened, for [`Status`](super::Status) and acknowledgements.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) epoch: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) ended: [AtomicU64; 5],
    /// Since the last acknowledgement.
    revoked: AtomicU32,
}

impl State {
    pub(crate) fn new(time: Steady, staleness: Staleness, lifetime: Lifetime) -> Self {
        Self {
            time,
            own: ArcSwap::default(),
            live: Registry::default(),
            lease: Lease::default(),
            counters: Counters::default(),
            staleness,
            lifetime,
            bundles: BundleSet::new(),
            denied: RwLock::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// Whether a peer with this chain may come in now.
    pub(crate) fn admit(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        matcher: &Matcher,
    ) -> Result<Admitted, Refusal> {
        let now = self.time.timestamp();
        let admitted = Admitted::of(verify_chain(leaf, above, &self.bundles, now)?)?;
        let Admitted { svid, task, .. } = &admitted;
        let id = svid.spiffe_id();
        let presented = || id.clone();
        let window = task.map(|task| task.window_id);
        let own = self.own.load();
        let own = own.trust_domain.as_ref().ok_or(Refusal::NotReady)?;
        if !matcher.allows(id, own, window) {
            return Err(Refusal::NotWanted {
                presented: presented(),
                expected: matcher.to_string(),
            });
        }
        let has_task_name = matches!(id.segments().next(), Some("task" | "breakglass"));
        if has_task_name && task.is_none() {
            return Err(Refusal::NoWindow { presented: presented() });
        }
        let denied = self.denied.read().unwrap_or_else(PoisonError::into_inner);
        if denied.contains(id.trust_domain_name(), svid.serial(), window) {
            return Err(Refusal::Revoked { presented: presented() });
        }
        drop(denied);
        if let Some(task) = task {
            if self.time.now() >= moment(task.closes) {
                return Err(Refusal::WindowOver {
                    presented: presented(),
                    closes: task.closes,
                });
            }
            if !self.is_word_fresh() {
                return Err(Refusal::NoFreshWord { presented: presented() });
            }
        }
        Ok(admitted)
    }

    /// Whether what is known of revocations counts, as far as this service asks for that.
    pub(crate) fn is_word_fresh(&self) -> bool {
        self.staleness == Staleness::BestEffort || self.lease.left(self.time.uptime()).is_some()
    }

    /// When a connection ends without any message, and what that is called.
    pub(crate) fn end_of(&self, admitted: &Admitted) -> (Duration, Ended) {
        let expires = (after_second(admitted.svid.not_after()), Ended::Expired);
        let Some(task) = &admitted.task else {
            return expires;
        };
        let closes = (moment(task.closes), Ended::WindowOver);
        match self.lifetime {
            Lifetime::Window => closes,
            Lifetime::Svid if expires.0 < closes.0 => expires,
            Lifetime::Svid => closes,
        }
    }

    /// Notes a connection with a task SVID that nobody here can end. Whoever keeps it ends it neither with its certificate
    /// nor with its window, so it counts until both are over.
    pub(crate) fn add_untracked(&self, svid: &X509Svid, task: Option<&TaskExtension>, is_revoked: bool) {
        let closes = task.map_or(Duration::ZERO, |task| moment(task.closes));
        let end = after_second(svid.not_after()).max(closes);
        self.live
            .add_untracked(svid, task.map(|task| task.window_id), end, is_revoked);
    }

    /// How many connections of revoked task SVIDs could not be ended and may go on: all of them, however often it was said.
    pub(crate) fn left(&self) -> u32 {
        self.live.left(self.time.now())
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes over what is revoked, and ends what it concerns. When this returns, new handshakes refuse it.
    pub(crate) fn revoke(&self, revocations: &[Revocation]) {
        if revocations.is_empty() {
            return;
        }
        self.write_denied(|denied| denied.add(revocations));
        self.generation.fetch_add(1, Ordering::AcqRel);
        let windows = revocations.iter().filter_map(|revocation| revocation.window.as_ref());
        let serials = revocations.iter().flat_map(|revocation| &revocation.serials);
        for live in self.live.of(windows, serials) {
            live.end(Ended::Revoked);
        }
        self.revoke_untracked();
    }

    /// Takes over revocation lists, DER each.
    pub(crate) fn publish_crls(&self, lists: &[Vec<u8>], bundles: &[Bundle], bundles_changed: bool) {
        let changed = self.write_denied(|denied| denied.crls.update(lists, bundles, bundles_changed));
        if !changed {
            return;
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        for live in self.live.all() {
            let id = live.svid.spiffe_id();
            if self.is_denied(id.trust_domain_name(), live.svid.serial(), None) {
                live.end(Ended::Revoked);
            }
        }
        self.revoke_untracked();
    }

    /// Takes over the bundles of all trust domains. `had` are those before.
    pub(crate) fn publish_bundles(&self, bundles: &[Bundle], had: &[Bundle]) {
        self.bundles.publish(bundles);
        self.generation.fetch_add(1, Ordering::AcqRel);
        let certificates = |of: &[Bundle]| -> HashSet<(TrustDomain, Vec<u8>)> {
            let each = |bundle: &Bundle| {
                let trust_domain = bundle.trust_domain.clone();
                let der = bundle
                    .x509_authorities
                    .iter()
                    .map(|authority| authority.cert_der.to_vec());
                der.map(|der| (trust_domain.clone(), der)).collect::<Vec<_>>()
            };
            of.iter().flat_map(each).collect()
        };
        if certificates(had).is_subset(&certificates(bundles)) {
            return;
        }
        // An authority that has done its time leaves the bundle after all it signed has expired. One that leaves before
        // was taken away, and what it signed with it.
        let now = self.time.timestamp();
        for live in self.live.all() {
            if live.svid.not_after() < now {
                continue;
            }
            let (leaf, above) = live.svid.chain().split_first().expect("a chain is not empty");
            // As it was when the connection was made: that certificates expire since then ends nothing here.
            if verify_chain(leaf, above, &self.bundles, live.established).is_err() {
                live.end(Ended::AuthorityGone);
            }
        }
    }

    /// Ends what has reached its end, and without fresh word all that has task SVIDs.
    pub(crate) fn end_due(&self) {
        for live in self.live.due(self.time.now()) {
            live.end(live.ends_as);
        }
        if !self.is_word_fresh() {
            for live in self.live.tasks() {
                live.end(Ended::NoFreshWord);
            }
        }
    }

    pub(crate) fn prune(&self) {
        let now = self.time.timestamp();
        self.write_denied(|denied| denied.prune(now));
    }

    pub(crate) fn revoked_len(&self) -> usize {
        self.denied.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn is_denied(&self, trust_domain: &str, serial: &mayfly_svid::Serial, window: Option<WindowId>) -> bool {
        let denied = self.denied.read().unwrap_or_else(PoisonError::into_inner);
        denied.contains(trust_domain, serial, window)
    }

    fn write_denied<T>(&self, change: impl FnOnce(&mut Denied) -> T) -> T {
        change(&mut self.denied.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn revoke_untracked(&self) {
        self.live
            .revoke_untracked(|trust_domain, serial, window| self.is_denied(trust_domain, serial, window));
    }
}

impl Counters {
    pub(crate) fn ended(&self, reason: Ended, cut: Cut) {
        if matches!(cut, Cut::Already | Cut::Gone) {
            return;
        }
        if cut == Cut::Done && reason == Ended::Revoked {
            self.revoked.fetch_add(1, Ordering::Relaxed);
        }
        self.ended[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were ended by revocation since this was asked last.
    pub(crate) fn take_for_ack(&self) -> u32 {
        self.revoked.swap(0, Ordering::Relaxed)
    }

    /// What was taken was not told.
    pub(crate) fn put_back(&self, ended: u32) {
        self.revoked.fetch_add(ended, Ordering::Relaxed);
    }
}
