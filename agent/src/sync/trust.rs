//! Which server is believed: the bundle of our own trust domain, how it came, and how it is kept.
//!
//! ```text
//!   data folder ──there?──▶ use it
//!        │ no
//!        ▼
//!   trust_bundle_path │ trust_bundle_url │ insecure_bootstrap ──▶ keep it in the data folder, use it
//! ```
//!
//! From then on the bundle follows the server ([`Trust::adopt`]) and applies to the next handshake.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mayfly_proto::spire::server::bundle::GetBundleRequest;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_runtime::Chain;
use mayfly_svid::verify::{VerifyError, verify_x509_svid};
use mayfly_svid::{Bundle, SpiffeId, Timestamp, TrustAnchors, TrustDomain};
use mayfly_verify::BundleSet;
use tonic::Code;
use tracing::{error, info, warn};

use super::bundle_file::{self, BundleFileError, BundleUrl};
use super::call::{self, CallError};
use super::connection::Connector;

/// Where the first bundle comes from when none is kept yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustSource {
    /// A file, PEM or SPIFFE JSON.
    Path(PathBuf),
    /// An https address, PEM or SPIFFE JSON, verified with the public roots.
    Url(BundleUrl),
    /// Whatever the server presents. Whoever stands between us and the server at the first start becomes the server.
    InsecureBootstrap,
}

/// Why no server can be believed yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Nothing is kept and nothing is configured.
    #[error(
        "no trust bundle is kept in `{path}` and none is configured: \
         set trust_bundle_path, trust_bundle_url or insecure_bootstrap = true"
    )]
    NoSource {
        /// Where it would be kept.
        path: PathBuf,
    },
    /// It cannot be read, fetched or kept.
    #[error(transparent)]
    Bundle(#[from] BundleFileError),
    /// The server did not give its bundle.
    #[error("cannot ask the server for its bundle")]
    Call(#[from] CallError),
    /// What the server presented is refused.
    #[error("the server's certificate does not fit the bundle that it gave")]
    Presented(#[from] VerifyError),
    /// Somebody else answers.
    #[error("the server is `{presented}`, expected `{expected}`")]
    OtherServer {
        /// What the certificate says.
        presented: SpiffeId,
        /// The server of our trust domain.
        expected: SpiffeId,
    },
}

/// The bundle of our own trust domain, for handshakes with the server.
#[derive(Debug)]
pub struct Trust {
    trust_domain: TrustDomain,
    data_dir: PathBuf,
    anchors: Arc<BundleSet>,
    current: Mutex<Option<Arc<Bundle>>>,
}

// === impl TrustError ===

impl TrustError {
    /// Whether it goes away by itself: nobody answered.
    pub(super) fn is_of_the_moment(&self) -> bool {
        matches!(self, Self::Call(error) if error.code() == Code::Unavailable && !error.server_not_believed())
    }
}

// === impl Trust ===

impl Trust {
    /// With the bundle that `data_dir` keeps, if any.
    ///
    /// # Errors
    /// It is there and cannot be read or used.
    pub fn load(data_dir: &Path, trust_domain: &TrustDomain) -> Result<Self, BundleFileError> {
        let trust = Self {
            trust_domain: trust_domain.clone(),
            data_dir: data_dir.to_owned(),
            anchors: Arc::new(BundleSet::new()),
            current: Mutex::new(None),
        };
        if let Some(bundle) = bundle_file::load_stored(data_dir, trust_domain)? {
            trust.set(bundle);
        }
        Ok(trust)
    }

    /// The trust domain whose server we talk to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether there is a bundle at all.
    pub fn is_established(&self) -> bool {
        self.lock().is_some()
    }

    /// The bundle that the server is believed by.
    pub fn current(&self) -> Option<Arc<Bundle>> {
        self.lock().clone()
    }

    /// What handshakes are verified against.
    pub fn anchors(&self) -> Arc<BundleSet> {
        Arc::clone(&self.anchors)
    }

    /// Gets the first bundle from `source`, unless there is one already, and keeps it.
    ///
    /// # Errors
    /// It cannot be had; asking again later can help, except for [`TrustError::NoSource`].
    ///
    /// # Cancel safety
    /// Safe: the bundle is taken over as the last step, at once.
    pub async fn establish(&self, source: Option<&TrustSource>, connector: &Connector) -> Result<(), TrustError> {
        if self.is_established() {
            return Ok(());
        }
        let bundle = match source {
            None => {
                return Err(TrustError::NoSource {
                    path: bundle_file::stored_path(&self.data_dir),
                });
            }
            Some(TrustSource::Path(path)) => bundle_file::load_file(path, &self.trust_domain)?,
            Some(TrustSource::Url(url)) => {
                bundle_file::fetch(url, &self.trust_domain, bundle_file::public_roots()).await?
            }
            Some(TrustSource::InsecureBootstrap) => {
                let bundle = self.first_contact(connector).await?;
                warn!("insecure_bootstrap: whoever answered first is trusted from now on");
                bundle
            }
        };
        info!(
            x509_authorities = bundle.x509_authorities.len(),
            "trust in the server established"
        );
        bundle_file::save(&self.data_dir, &bundle)?;
        self.set(bundle);
        Ok(())
    }

    /// Follows the server: `bundle` applies to the next handshake and to the next start. A bundle that no server could
    /// be verified against is not taken, as there would be no way back.
    pub fn adopt(&self, bundle: &Bundle) {
        let known = self.current();
        if known.is_some_and(|known| known.x509_authorities == bundle.x509_authorities) {
            return;
        }
        if TrustAnchors::from_bundle(bundle).is_empty() {
            error!("the server's bundle holds no usable X.509 authority, the agent goes on with the one before");
            return;
        }
        if let Err(error) = bundle_file::save(&self.data_dir, bundle) {
            error!(error = %Chain(&error), "the new trust bundle is used but cannot be kept for the next start");
        }
        self.set(bundle.clone());
        info!(x509_authorities = bundle.x509_authorities.len(), "trust bundle changed");
    }

    /// The bundle of a server that nobody vouches for, if what it presented and what it gave fit together.
    async fn first_contact(&self, connector: &Connector) -> Result<Bundle, TrustError> {
        let (channel, verifier) = connector.unverified();
        let mut client = BundleClient::new(channel);
        let wire = call::unary("GetBundle", client.get_bundle(GetBundleRequest::default())).await?;
        let bundle = call::read("GetBundle", Bundle::try_from(&wire))?;
        let expected = self.trust_domain.server_id();
        if bundle.trust_domain != self.trust_domain {
            return Err(TrustError::OtherServer {
                presented: bundle.trust_domain.server_id(),
                expected,
            });
        }
        let chain = verifier.presented().unwrap_or_default();
        let now = Timestamp::from(connector.clock().now());
        let svid = verify_x509_svid(chain, &TrustAnchors::from_bundle(&bundle), now)?;
        if *svid.spiffe_id() != expected {
            return Err(TrustError::OtherServer {
                presented: svid.spiffe_id().clone(),
                expected,
            });
        }
        Ok(bundle)
    }

    fn set(&self, bundle: Bundle) {
        self.anchors.publish([&bundle]);
        *self.lock() = Some(Arc::new(bundle));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Bundle>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
