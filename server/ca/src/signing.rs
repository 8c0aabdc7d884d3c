//! A [`Signer`] as rcgen wants it.

use std::sync::{Arc, Mutex, PoisonError};

use mayfly_keys::{KeyError, KeyType, Signer};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo};

/// Signs by way of a [`Signer`], and keeps the reason when that fails: rcgen only says that it did.
pub(crate) struct AuthorityKey {
    signer: Arc<dyn Signer>,
    public_key: SubjectPublicKeyInfo,
    failure: Mutex<Option<KeyError>>,
}

impl AuthorityKey {
    /// `None` if the signer's public key is not one that rcgen knows.
    pub(crate) fn new(signer: Arc<dyn Signer>) -> Option<Self> {
        let public_key = SubjectPublicKeyInfo::from_der(signer.public_key_der()).ok()?;
        Some(Self {
            signer,
            public_key,
            failure: Mutex::new(None),
        })
    }

    /// Why signing failed last, once.
    pub(crate) fn take_failure(&self) -> KeyError {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or(KeyError::Sign)
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_key.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.signer.key_type() {
            KeyType::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyType::Rsa2048 | KeyType::Rsa4096 => &rcgen::PKCS_RSA_SHA256,
            KeyType::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(message).map_err(|error| {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            rcgen::Error::RemoteKeyError
        })
    }
}
