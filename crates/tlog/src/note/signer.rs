//! Who signs notes: a key elsewhere, or one in this process.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use mayfly_runtime::files::{FileError, PRIVATE, read_private, write_atomic};
use zeroize::Zeroizing;

use super::{Algorithm, Signature, VerifierKey, VerifierKeyError};

/// An Ed25519 key in PKCS#8 has 48 or 83 bytes.
const MAX_KEY_FILE_BYTES: u64 = 1024;

/// An Ed25519 key with a name. A server's is in its key manager, an agent's or a CLI's is an [`Ed25519Key`].
pub trait NoteSigner: Send + Sync {
    /// Its public half.
    fn verifier_key(&self) -> &VerifierKey;

    /// Signs exactly these bytes (RFC 8032, not prehashed): 64 bytes. Blocks for as long as the key takes.
    ///
    /// What is put before a text that is cosigned, [`crate::cosignature::cosign`] puts there.
    ///
    /// # Errors
    /// The key did not sign.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A note was not signed.
#[derive(Debug, thiserror::Error)]
#[error("the key `{name}` did not sign")]
pub struct SignError {
    name: String,
    source: Box<dyn Error + Send + Sync>,
}

/// The file of a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("the file of a signing key")]
    File(#[from] FileError),
    /// It holds something else.
    #[error("`{path}` is not an Ed25519 key in PKCS#8, DER")]
    NotAKey {
        /// The file.
        path: std::path::PathBuf,
    },
    /// The key cannot have that name.
    #[error("a signing key cannot be named so")]
    Name(#[from] VerifierKeyError),
    /// No key could be made.
    #[error("no Ed25519 key could be made")]
    Generate,
}

/// An Ed25519 key in this process. aws-lc wipes it when it is dropped; `Debug` shows the public half.
pub struct Ed25519Key {
    verifier_key: VerifierKey,
    pair: Ed25519KeyPair,
}

/// Signs `text` with a key of [`Algorithm::Ed25519`].
pub(super) fn sign_text(signer: &dyn NoteSigner, text: &str) -> Result<Signature, SignError> {
    let key = signer.verifier_key();
    if key.algorithm() != Algorithm::Ed25519 {
        return Err(SignError::new(signer, "it is a key for cosignatures"));
    }
    let bytes = signer.sign(text.as_bytes())?;
    Ok(Signature::by(key, bytes))
}

// === impl SignError ===

impl SignError {
    /// `signer` did not sign, because of `source`.
    pub fn new(signer: &dyn NoteSigner, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            name: signer.verifier_key().name().to_owned(),
            source: source.into(),
        }
    }
}

// === impl Ed25519Key ===

impl Ed25519Key {
    /// Makes a key, and says how it is kept: PKCS#8, DER.
    ///
    /// # Errors
    /// The name is none, or there is no randomness.
    pub fn generate(name: &str, algorithm: Algorithm) -> Result<(Self, Zeroizing<Vec<u8>>), KeyFileError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyFileError::Generate)?;
        let document = pair.to_pkcs8v1().map_err(|_| KeyFileError::Generate)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::from_pair(name, algorithm, pair)?, pkcs8))
    }

    /// Reads PKCS#8, DER. `Ok(None)` if it is not an Ed25519 key.
    ///
    /// # Errors
    /// The name is none.
    pub fn from_pkcs8(name: &str, algorithm: Algorithm, pkcs8: &[u8]) -> Result<Option<Self>, VerifierKeyError> {
        match Ed25519KeyPair::from_pkcs8(pkcs8) {
            Ok(pair) => Self::from_pair(name, algorithm, pair).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Reads the key in file `path` (mode 0600), or makes one there if there is no file. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, is readable by others, holds something else, or cannot be made.
    pub fn open_or_create(path: &Path, name: &str, algorithm: Algorithm) -> Result<Self, KeyFileError> {
        match read_private(path, MAX_KEY_FILE_BYTES) {
            Ok(pkcs8) => Self::from_pkcs8(name, algorithm, &pkcs8)?.ok_or(KeyFileError::NotAKey { path: path.into() }),
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let (key, pkcs8) = Self::generate(name, algorithm)?;
                write_atomic(path, &pkcs8, PRIVATE)?;
                Ok(key)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn from_pair(name: &str, algorithm: Algorithm, pair: Ed25519KeyPair) -> Result<Self, VerifierKeyError> {
        let public_key = pair.public_key().as_ref().try_into();
        let public_key = public_key.expect("an Ed25519 public key has 32 bytes");
        Ok(Self {
            verifier_key: VerifierKey::new(name, algorithm, public_key)?,
            pair,
        })
    }
}

impl NoteSigner for Ed25519Key {
    fn verifier_key(&self) -> &VerifierKey {
        &self.verifier_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.pair.try_sign(message);
        let signature = signature.map_err(|_| SignError::new(self, "signing failed"))?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ed25519Key({})", self.verifier_key)
    }
}
