//! A task SVID with its key, and the checks before it is used.

use std::fmt;
use std::sync::Arc;

use mayfly_proto::mayfly::workload::TaskState;
use mayfly_svid::{IdError, SpiffeId, TaskExtension, TaskExtensionError, TaskPath, Timestamp, TrustDomain, X509Svid};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::svids::check::{Authorities, FaultySvid, NewKey};

/// A lease on a window: an X.509-SVID with its private key.
pub struct TaskSvid {
    svid: X509Svid,
    key_der: Zeroizing<Vec<u8>>,
    authority: CertificateDer<'static>,
    /// When it came.
    pub(super) given_at: Instant,
    /// The first instant at which it is over.
    pub(super) deadline: Instant,
}

/// Why what the server sent is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FaultyTaskSvid {
    #[error("the answer has no state")]
    NoState,
    #[error("the SPIFFE ID of the state cannot be one")]
    Id(#[from] IdError),
    #[error("`{0}` is not the name of that task in this trust domain")]
    OtherTask(SpiffeId),
    #[error(transparent)]
    Svid(#[from] FaultySvid),
    #[error("the task extension cannot be used")]
    Extension(#[from] TaskExtensionError),
    #[error("the certificate is not of that window")]
    OtherWindow,
}

impl TaskSvid {
    /// Checks what the server sent for the window that `state` is of. `server_now`: the server's clock, at least that.
    pub(super) fn check(
        authorities: &Authorities,
        trust_domain: &TrustDomain,
        state: &TaskState,
        chain: Vec<Vec<u8>>,
        key: NewKey,
        server_now: Timestamp,
    ) -> Result<Arc<Self>, FaultyTaskSvid> {
        let id: SpiffeId = state.spiffe_id.parse()?;
        let named = TaskPath::of(&id).is_some_and(|path| format!("{}/{}", path.team, path.task) == state.task);
        if !named || !id.is_member_of(trust_domain) {
            return Err(FaultyTaskSvid::OtherTask(id));
        }
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let (svid, authority) = authorities.check(&chain, &id, &key, server_now)?;
        let extension = TaskExtension::from_certificate_der(&svid.chain()[0])?.ok_or(FaultyTaskSvid::OtherWindow)?;
        if extension.window_id.to_string() != state.window_id || extension.closes.unix() > state.closes_at {
            return Err(FaultyTaskSvid::OtherWindow);
        }
        // Whatever a clock says, the server's was not before the certificate's begin.
        let server_now = server_now.max(svid.not_before());
        let given_at = Instant::now();
        let deadline = given_at
            + svid
                .not_after()
                .plus(std::time::Duration::from_secs(1))
                .since(server_now);
        Ok(Arc::new(Self {
            svid,
            key_der: key.private_key_der,
            authority,
            given_at,
            deadline,
        }))
    }

    /// The certificates.
    pub fn svid(&self) -> &X509Svid {
        &self.svid
    }

    /// The authority of the own bundle that the chain leads to: one certificate, DER.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// Whether it may still be served.
    pub fn is_valid(&self, now: Instant) -> bool {
        now < self.deadline
    }

    /// The private key, PKCS#8, DER: to be handed to the processes that have part in the window, and to nobody else.
    pub fn expose_for_workload(&self) -> &[u8] {
        &self.key_der
    }
}

impl fmt::Debug for TaskSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSvid")
            .field("spiffe_id", self.svid.spiffe_id())
            .field("serial", self.svid.serial())
            .finish_non_exhaustive()
    }
}
