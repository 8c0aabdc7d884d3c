//! Signing keys: made, kept and used behind two traits that never hand a private key out.
//!
//! A [`KeyManager`] holds keys by name, a [`Signer`] is one of them. `memory` forgets them with the process, `disk`
//! keeps them as files; an HSM or a cloud KMS is one more file and one more row in [`BUILTINS`].
//!
//! Not here: certificates (`mayfly-ca`), keys of workloads (the agent makes those and hands them out).
//! Start at [`KeyManager`]; what every one of them must do is [`conformance`].

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use mayfly_runtime::files::FileError;

pub mod conformance;
mod disk;
mod local;
mod memory;

pub use disk::DiskKeys;
pub use memory::MemoryKeys;

/// The key managers that can be configured, by name.
pub const BUILTINS: &[Builtin] = &[disk::BUILTIN, memory::BUILTIN];

/// What a key manager needs besides its section of the configuration.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Where the process keeps its files; nobody else uses it.
    pub data_dir: PathBuf,
}

/// Builds a key manager from its section of the configuration.
pub type Build = fn(toml::Table, &Deps) -> Result<Arc<dyn KeyManager>, BuildError>;

/// One key manager that can be configured.
pub struct Builtin {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Builds it from its section. Blocks: it may read files.
    pub build: Build,
}

impl Builtin {
    /// The key manager of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        BUILTINS.iter().find(|builtin| builtin.name == name)
    }
}

/// A key manager cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Its section of the configuration is wrong.
    #[error("the section of key manager `{name}` is wrong")]
    Config {
        /// Which one.
        name: &'static str,
        /// Which key, and what about it.
        source: toml::de::Error,
    },
    /// Its keys cannot be read.
    #[error("key manager `{name}` cannot start")]
    Open {
        /// Which one.
        name: &'static str,
        /// Why.
        source: KeyError,
    },
}

/// What can be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// ECDSA on P-256, signs with SHA-256.
    #[default]
    EcP256,
    /// ECDSA on P-384, signs with SHA-384.
    EcP384,
    /// RSA of 2048 bits, signs with PKCS#1 v1.5 and SHA-256.
    Rsa2048,
    /// RSA of 4096 bits, signs with PKCS#1 v1.5 and SHA-256.
    Rsa4096,
    /// Ed25519, signs the message itself (RFC 8032). For notes of a log: verifiers of X.509-SVIDs need not read it.
    Ed25519,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::EcP256, Self::EcP384, Self::Rsa2048, Self::Rsa4096, Self::Ed25519];
    /// Those of authorities: the kinds that every verifier of X.509-SVIDs in the field reads.
    pub const OF_AUTHORITIES: [Self; 4] = [Self::EcP256, Self::EcP384, Self::Rsa2048, Self::Rsa4096];
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
            Self::Ed25519 => "ed25519",
        })
    }
}

/// Text that names no kind of key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a key type: write ec-p256, ec-p384, rsa-2048, rsa-4096 or ed25519")]
pub struct KeyTypeError {
    /// What was given.
    pub text: String,
}

impl FromStr for KeyType {
    type Err = KeyTypeError;

    fn from_str(text: &str) -> Result<Self, KeyTypeError> {
        let found = Self::ALL.into_iter().find(|key_type| key_type.to_string() == text);
        found.ok_or_else(|| KeyTypeError { text: text.into() })
    }
}

/// What went wrong with a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Names are 1 to 64 of `[A-Za-z0-9._-]`, and do not begin with a dot.
    #[error("`{key_id}` is not a key name")]
    KeyId {
        /// What was given.
        key_id: String,
    },
    /// No key could be made.
    #[error("cannot make a key of type {key_type}")]
    Generate {
        /// Of this kind.
        key_type: KeyType,
    },
    /// The key did not sign.
    #[error("signing failed")]
    Sign,
    /// A file cannot be read or written.
    #[error("the file of a key")]
    File(#[from] FileError),
    /// A file is there that holds no key of ours.
    #[error("`{path}` is not a PKCS#8 private key of type ec-p256, ec-p384, rsa-2048, rsa-4096 or ed25519")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// Others can put files into the folder of the keys.
    #[error("folder `{path}` has mode {mode:03o}, expected 700: others could use it (chmod 700 `{path}`)")]
    FolderMode {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder of the keys cannot be used.
    #[error("cannot use folder `{path}`")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The work was cut off: the process is stopping.
    #[error("the key manager was stopped")]
    Stopped,
}

/// One private key, to sign with. `Debug` shows the kind only.
pub trait Signer: fmt::Debug + Send + Sync {
    /// Its kind, which fixes the signature algorithm.
    fn key_type(&self) -> KeyType;

    /// The public half: SubjectPublicKeyInfo, DER.
    fn public_key_der(&self) -> &[u8];

    /// Whether [`Self::sign`] is so quick, some 0.1 ms, that an async caller may do it where it is.
    fn is_quick(&self) -> bool {
        false
    }

    /// Signs `message` (not its hash); ECDSA signatures are DER (RFC 3279 §2.2.3), those of Ed25519 64 bytes (RFC 8032).
    ///
    /// Blocks: microseconds to milliseconds for a key in this process, a round trip for one that is elsewhere. Async
    /// callers use a blocking thread, unless it [is quick](Self::is_quick).
    ///
    /// # Errors
    /// The key did not sign.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// Keeps private keys by name. Names are 1 to 64 of `[A-Za-z0-9._-]`, and do not begin with a dot.
#[async_trait]
pub trait KeyManager: fmt::Debug + Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &'static str;

    /// Makes a key and keeps it as `key_id`; one of that name is replaced, at once and as a whole. Signers of the old
    /// key that are already out keep signing with it.
    ///
    /// # Errors
    /// The name is bad, or the key cannot be made or kept; the old one stays.
    ///
    /// # Cancel safety
    /// The key is either there or not; work that has begun is finished.
    async fn generate(&self, key_id: &str, key_type: KeyType) -> Result<Arc<dyn Signer>, KeyError>;

    /// The key of that name, `None` if there is none.
    ///
    /// # Errors
    /// The key manager cannot be reached.
    async fn find(&self, key_id: &str) -> Result<Option<Arc<dyn Signer>>, KeyError>;

    /// The names of all keys, sorted.
    ///
    /// # Errors
    /// The key manager cannot be reached.
    async fn list(&self) -> Result<Vec<String>, KeyError>;

    /// Destroys the key of that name; it is no error if there is none.
    ///
    /// # Errors
    /// The key could not be destroyed and may still be there.
    async fn delete(&self, key_id: &str) -> Result<(), KeyError>;
}

fn check_key_id(key_id: &str) -> Result<(), KeyError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if key_id.is_empty() || key_id.len() > 64 || key_id.starts_with('.') || !key_id.bytes().all(plain) {
        return Err(KeyError::KeyId {
            key_id: key_id.chars().take(64).collect(),
        });
    }
    Ok(())
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeyError> + Send + 'static,
) -> Result<T, KeyError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| KeyError::Stopped)?
}
