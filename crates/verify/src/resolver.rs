//! The own SVID that a TLS endpoint presents, swapped when it is renewed.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mayfly_svid::X509Svid;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The key and the SVID cannot be presented together. Nothing was published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Not a PKCS#8 private key of a supported kind.
    #[error("the private key of `{spiffe_id}` is not usable for TLS")]
    Key {
        /// Whose key it is.
        spiffe_id: mayfly_svid::SpiffeId,
        /// What rustls says about it.
        source: rustls::Error,
    },
    /// The key is not the one that the SVID names.
    #[error("the private key does not belong to the SVID of `{spiffe_id}`")]
    Mismatch {
        /// Whose SVID it is.
        spiffe_id: mayfly_svid::SpiffeId,
    },
}

/// Presents the latest published SVID, as server and as client.
///
/// Before the first one a server refuses every handshake, and a client comes without a certificate.
#[derive(Default)]
pub struct SvidResolver {
    current: ArcSwapOption<CertifiedKey>,
}

impl SvidResolver {
    /// A resolver that has nothing to present yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Presents `svid` in handshakes from now on. `private_key` is PKCS#8; the copy that rustls needs lives until the
    /// next SVID is published and the last handshake with this one is over.
    ///
    /// # Errors
    /// The key is unusable or not the SVID's; what was published before stays.
    pub fn publish(&self, svid: &X509Svid, private_key: &PrivatePkcs8KeyDer<'_>) -> Result<(), PublishError> {
        self.current.store(Some(certified(svid, private_key)?));
        Ok(())
    }

    /// Presents nothing any more.
    pub fn clear(&self) {
        self.current.store(None);
    }
}

/// What rustls presents: the SVID's chain and its key.
pub(crate) fn certified(
    svid: &X509Svid,
    private_key: &PrivatePkcs8KeyDer<'_>,
) -> Result<Arc<CertifiedKey>, PublishError> {
    let spiffe_id = || svid.spiffe_id().clone();
    // Borrowed, so that no copy is left behind that nobody wipes.
    let borrowed = PrivateKeyDer::Pkcs8(private_key.secret_pkcs8_der().into());
    let key = aws_lc_rs::sign::any_supported_type(&borrowed).map_err(|source| PublishError::Key {
        spiffe_id: spiffe_id(),
        source,
    })?;
    let certified = CertifiedKey::new(svid.chain().to_vec(), key);
    certified
        .keys_match()
        .map_err(|_| PublishError::Mismatch { spiffe_id: spiffe_id() })?;
    Ok(Arc::new(certified))
}

impl fmt::Debug for SvidResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidResolver")
            .field("published", &self.current.load().is_some())
            .finish()
    }
}

impl ResolvesServerCert for SvidResolver {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl ResolvesClientCert for SvidResolver {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}
