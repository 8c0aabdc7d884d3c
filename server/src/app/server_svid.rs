//! The server's own SVID, by which agents and remote operators know it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mayfly_model::Actor;
use mayfly_runtime::{Chain, Clock};
use mayfly_svid::{Timestamp, X509Svid, X509SvidError};
use mayfly_verify::{PublishError, SvidResolver};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::authorities::{Authorities, RotateError};
use super::issue::{Issuance, IssueError};

/// Why the server has no new SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerSvidError {
    /// The key or the request could not be made.
    #[error("the server's own key could not be made")]
    Key(#[source] rcgen::Error),
    /// It was not issued.
    #[error("the server's own SVID was not issued")]
    Issue(#[source] IssueError),
    /// The authorities do not vouch for each other.
    #[error("older authorities cannot vouch for the one that signs")]
    Vouch(#[source] RotateError),
    /// What came of it is no chain.
    #[error("the server's own chain is none")]
    Chain(#[source] X509SvidError),
    /// TLS would not take it.
    #[error("the server's own SVID cannot be presented")]
    Publish(#[source] PublishError),
}

/// Renews `/spire/server` at half of its life, with a new key each time that never leaves memory.
pub struct ServerSvid {
    issuance: Issuance,
    resolver: Arc<SvidResolver>,
    clock: Arc<dyn Clock>,
    ttl: Duration,
    current: Arc<ArcSwapOption<X509Svid>>,
}

impl ServerSvid {
    /// Publishes to `resolver`; until the first [`Self::pass`] every handshake is refused.
    pub fn new(issuance: Issuance, resolver: Arc<SvidResolver>, clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        Self {
            issuance,
            resolver,
            clock,
            ttl,
            current: Arc::default(),
        }
    }

    /// Where the SVID in use is found.
    pub fn current(&self) -> Arc<ArcSwapOption<X509Svid>> {
        self.current.clone()
    }

    /// Renews if half of the life is over, or if there is none yet. `server_id` is `spiffe://<td>/spire/server`. Where the
    /// authority had to begin at once, the older `authorities` vouch for it.
    ///
    /// # Errors
    /// See [`ServerSvidError`]; the old one stays in use.
    pub async fn pass(
        &mut self,
        server_id: &mayfly_svid::SpiffeId,
        authorities: &Authorities,
    ) -> Result<(), ServerSvidError> {
        let now: Timestamp = self.clock.now().into();
        if let Some(current) = self.current.load().as_deref() {
            let life = current.not_after().since(current.not_before());
            if now < current.not_before().plus(life / 2) && now >= current.not_before() {
                return Ok(());
            }
        }
        let key = KeyPair::generate().map_err(ServerSvidError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(ServerSvidError::Key)?;
        let svid = self
            .issuance
            .minted(&Actor::server(), server_id, csr.der(), vec![], Some(self.ttl))
            .await
            .map_err(ServerSvidError::Issue)?;
        let svid = match vouched(&svid, authorities).await {
            Ok(vouched) => vouched,
            Err(failure) => {
                // It is good for all who know the authority, which is nearly everybody.
                warn!(error = %Chain(&failure), "no older authority vouches for the one that signs now");
                svid
            }
        };
        let key_der = Zeroizing::new(key.serialize_der());
        self.resolver
            .publish(&svid, &PrivatePkcs8KeyDer::from(key_der.as_slice()))
            .map_err(ServerSvidError::Publish)?;
        info!(serial = %svid.serial(), not_after = %svid.not_after(), "the server's own SVID is in use");
        self.current.store(Some(Arc::new(svid)));
        Ok(())
    }
}

/// The SVID, followed by the certificates by which older authorities vouch for its own.
async fn vouched(svid: &X509Svid, authorities: &Authorities) -> Result<X509Svid, ServerSvidError> {
    let vouchers = authorities.vouchers(svid.not_after()).await;
    let vouchers = vouchers.map_err(ServerSvidError::Vouch)?;
    let chain = svid.chain().iter().cloned().chain(vouchers).collect();
    X509Svid::from_chain(chain).map_err(ServerSvidError::Chain)
}
