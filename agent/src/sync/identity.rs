//! The agent's own key and X509-SVID, and the file that keeps them across restarts.
//!
//! Key and certificate lie in one file, so that a crash between two writes cannot part them. The key is made here, is
//! used for TLS and for certificate requests, and leaves only into that file (mode 0600).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mayfly_runtime::files::{self, FileError};
use mayfly_svid::{Timestamp, X509Svid, X509SvidError};
use mayfly_verify::{PublishError, SvidResolver};
use rand::Rng;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::spare;

const FILE: &str = "identity.json";
/// Far above a key and a chain of eight certificates.
const FILE_MAX: u64 = 1 << 20;

/// Why the agent's own identity cannot be made, read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what we wrote.
    #[error("`{path}` is damaged ({reason}); delete it to have the agent attest anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, without any of the content.
        reason: &'static str,
    },
    /// The chain is not an X509-SVID.
    #[error("the agent's own certificate is not an X.509-SVID")]
    Svid(#[from] X509SvidError),
    /// The certificate is for another key.
    #[error("the agent's own certificate does not belong to its key")]
    OtherKey,
    /// The key cannot be made or used.
    #[error("cannot make or use the agent's own key")]
    Key(#[source] rcgen::Error),
    /// The TLS library does not take the key.
    #[error("cannot use the agent's own key for TLS")]
    Tls(#[source] PublishError),
}

/// A private key of the agent itself: ECDSA P-256. Its `Debug` shows nothing.
pub struct OwnKey {
    pair: KeyPair,
}

/// Who the agent is towards the server.
#[derive(Debug)]
pub struct Identity {
    svid: X509Svid,
    key: OwnKey,
    reattestable: bool,
    renew_at: Timestamp,
}

/// The file as it lies on the disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Always 1.
    version: u32,
    reattestable: bool,
    /// Base64 of DER, leaf first.
    svid_chain: Vec<String>,
    /// Base64 of PKCS#8 DER.
    private_key: String,
}

// === impl OwnKey ===

impl OwnKey {
    /// A fresh key.
    ///
    /// # Errors
    /// The cryptographic library refused.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Key)?;
        Ok(Self { pair })
    }

    /// A certificate request for the key, PKCS#10 DER. It asks for no name: the server knows who attested.
    ///
    /// # Errors
    /// Signing failed.
    pub fn csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&self.pair).map_err(IdentityError::Key)?;
        Ok(csr.der().to_vec())
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, rcgen::Error> {
        let der = PrivatePkcs8KeyDer::from(der);
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { pair })
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnKey(..)")
    }
}

impl Drop for OwnKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

// === impl Identity ===

impl Identity {
    /// Joins a key with what the server issued for it. The moment of renewal is drawn here, once: half of the lifetime,
    /// 10 % more or less.
    ///
    /// # Errors
    /// The chain is not an X509-SVID, or belongs to another key.
    pub fn new(
        key: OwnKey,
        chain: Vec<CertificateDer<'static>>,
        reattestable: bool,
    ) -> Result<Arc<Self>, IdentityError> {
        let svid = X509Svid::from_chain(chain)?;
        if svid.public_key_der() != key.pair.subject_public_key_info() {
            return Err(IdentityError::OtherKey);
        }
        let part = rand::rng().random_range(0.45..=0.55);
        let renew_at = svid.not_before().plus(lifetime(&svid).mul_f64(part));
        Ok(Arc::new(Self {
            svid,
            key,
            reattestable,
            renew_at,
        }))
    }

    /// The agent's X509-SVID.
    pub fn svid(&self) -> &X509Svid {
        &self.svid
    }

    /// Whether the server lets the agent prove itself again; if not, it renews what it holds.
    pub fn reattestable(&self) -> bool {
        self.reattestable
    }

    /// When to renew it.
    pub fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    /// Whether its last valid second has passed.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now > self.svid.not_after()
    }

    /// What a TLS client presents to be this agent.
    ///
    /// # Errors
    /// The TLS library does not take the key, which it does for all of ours.
    pub fn tls_resolver(&self) -> Result<Arc<SvidResolver>, IdentityError> {
        let resolver = SvidResolver::new();
        let key = PrivatePkcs8KeyDer::from(self.key.pair.serialized_der());
        resolver.publish(&self.svid, &key).map_err(IdentityError::Tls)?;
        Ok(Arc::new(resolver))
    }
}

fn lifetime(svid: &X509Svid) -> Duration {
    svid.not_after().since(svid.not_before())
}

// === the file ===

/// Where key and certificate are kept.
pub(super) fn stored_path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// The identity that was kept; `None` if there is none. It may have expired.
///
/// # Errors
/// The file is there and cannot be read, is open to others, or is damaged.
pub(super) fn load(data_dir: &Path) -> Result<Option<Arc<Identity>>, IdentityError> {
    let path = stored_path(data_dir);
    let bytes = match files::read_private(&path, FILE_MAX) {
        Ok(bytes) => bytes,
        Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = |reason| IdentityError::Damaged {
        path: path.clone(),
        reason,
    };
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| damaged("not the JSON that the agent writes"))?;
    if stored.version != 1 {
        return Err(damaged("written by another version"));
    }
    let key = Zeroizing::new(
        STANDARD
            .decode(&stored.private_key)
            .map_err(|_| damaged("the key is not base64"))?,
    );
    let key = OwnKey::from_pkcs8(&key).map_err(|_| damaged("the key is not an ECDSA P-256 key"))?;
    let chain = stored
        .svid_chain
        .iter()
        .map(|der| STANDARD.decode(der).map(CertificateDer::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| damaged("a certificate is not base64"))?;
    Identity::new(key, chain, stored.reattestable).map(Some)
}

/// Keeps `identity` for the next start.
///
/// # Errors
/// The file cannot be written; the old one is as it was.
pub(super) fn save(data_dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let key = Zeroizing::new(identity.key.pair.serialize_der());
    let stored = Stored {
        version: 1,
        reattestable: identity.reattestable,
        svid_chain: identity.svid.chain().iter().map(|der| STANDARD.encode(der)).collect(),
        private_key: STANDARD.encode(&*key),
    };
    // Room for all of it at once: a vector that grows would leave copies of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    serde_json::to_writer_pretty(&mut *bytes, &stored).expect("strings and numbers become JSON");
    Ok(spare::replace(&stored_path(data_dir), &bytes)?)
}

/// Deletes what was kept: the server shut this agent out.
///
/// # Errors
/// The file is there and cannot be deleted.
pub(super) fn forget(data_dir: &Path) -> Result<(), IdentityError> {
    let path = stored_path(data_dir);
    for path in [spare::spare_path(&path), path] {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::Write { path, source }.into());
            }
            _ => {}
        }
    }
    Ok(())
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn issued(key: &OwnKey, lifetime: Duration) -> Vec<CertificateDer<'static>> {
        super::super::test_server::TestCa::new("td").agent_chain(key, "spiffe://td/spire/agent/x", lifetime)
    }

    #[test]
    fn key_and_certificate_survive_a_restart_in_a_file_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).unwrap().is_none());
        let key = OwnKey::generate().unwrap();
        let chain = issued(&key, Duration::from_secs(3600));
        let identity = Identity::new(key, chain, true).unwrap();
        save(dir.path(), &identity).unwrap();
        let mode = std::fs::metadata(stored_path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = load(dir.path()).unwrap().unwrap();
        assert_eq!(again.svid(), identity.svid());
        assert!(again.reattestable());
        again.tls_resolver().unwrap();
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert!(load(dir.path()).unwrap().is_none());
    }

    #[test]
    fn renewal_lies_around_half_of_the_lifetime() {
        for _ in 0..50 {
            let key = OwnKey::generate().unwrap();
            let chain = issued(&key, Duration::from_secs(3600));
            let identity = Identity::new(key, chain, false).unwrap();
            let after = identity.renew_at().since(identity.svid().not_before()).as_secs();
            let life = lifetime(identity.svid()).as_secs();
            assert!(
                (life * 44 / 100..=life * 56 / 100).contains(&after),
                "{after} of {life}"
            );
        }
    }

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let chain = issued(&OwnKey::generate().unwrap(), Duration::from_secs(60));
        let other = OwnKey::generate().unwrap();
        assert!(matches!(
            Identity::new(other, chain, false),
            Err(IdentityError::OtherKey)
        ));
    }

    #[test]
    fn a_damaged_file_says_what_to_do_and_shows_no_key() {
        let dir = tempfile::tempdir().unwrap();
        for content in [
            "",
            "{}",
            r#"{"version":1,"reattestable":false,"svid_chain":[],"private_key":"c2VjcmV0"}"#,
        ] {
            files::write_atomic(&stored_path(dir.path()), content.as_bytes(), files::PRIVATE).unwrap();
            let error = load(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains("identity.json") && error.contains("delete it"),
                "{error}"
            );
            assert!(!error.contains("c2VjcmV0"));
        }
        std::fs::set_permissions(stored_path(dir.path()), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("chmod 600"));
    }
}
