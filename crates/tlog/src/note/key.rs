//! Verifier keys: `name+key ID+base64(kind, public key)`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Signature;
use crate::cosignature;

/// The longest name of a key; a SPIFFE ID can be that long.
pub const MAX_NAME_BYTES: usize = 2048;

/// SubjectPublicKeyInfo of an Ed25519 key, up to the key itself (RFC 8410 §4).
const SPKI_START: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What a key's signatures are made of and over (signed-note, Signature types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// Ed25519 over the text.
    Ed25519 = 0x01,
    /// Ed25519 over a time and the text of a checkpoint: what a witness makes (tlog-cosignature).
    CosignatureV1 = 0x04,
}

/// A public key with the name of its owner. `Display` and [`FromStr`] are the text in which such keys are handed out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifierKey {
    name: String,
    id: u32,
    algorithm: Algorithm,
    public_key: [u8; 32],
}

/// Text that is no verifier key of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a verifier key: {why}")]
pub struct VerifierKeyError {
    why: &'static str,
}

// === impl VerifierKey ===

impl VerifierKey {
    /// The key of `name`; its ID follows from the rest.
    ///
    /// # Errors
    /// A name is 1 to [`MAX_NAME_BYTES`] long and has no blanks, control characters or `+`.
    pub fn new(name: &str, algorithm: Algorithm, public_key: [u8; 32]) -> Result<Self, VerifierKeyError> {
        check_name(name).map_err(|why| VerifierKeyError { why })?;
        Ok(Self {
            name: name.to_owned(),
            id: key_id(name, algorithm, &public_key),
            algorithm,
            public_key,
        })
    }

    /// The same for a public key as certificates have it: SubjectPublicKeyInfo, DER.
    ///
    /// # Errors
    /// As [`Self::new`], or it is no Ed25519 key.
    pub fn from_spki(name: &str, algorithm: Algorithm, spki_der: &[u8]) -> Result<Self, VerifierKeyError> {
        let key = spki_der.strip_prefix(&SPKI_START).and_then(|key| key.try_into().ok());
        let key = key.ok_or(VerifierKeyError {
            why: "the public key is not one of Ed25519",
        })?;
        Self::new(name, algorithm, key)
    }

    /// Whose key it is: the origin of a log, the name of a witness.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Four bytes of a hash, which tell keys of one name apart.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What its signatures are made of and over.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key (RFC 8032).
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// Whether this key made that signature over that text.
    pub(crate) fn verifies(&self, text: &str, signature: &Signature) -> bool {
        match self.algorithm {
            Algorithm::Ed25519 => self.verifies_raw(text.as_bytes(), signature.bytes()),
            Algorithm::CosignatureV1 => cosignature::verify(self, text, signature).is_ok(),
        }
    }

    /// Whether this key made that Ed25519 signature over those bytes.
    pub(crate) fn verifies_raw(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public_key)
            .verify(message, signature)
            .is_ok()
    }
}

impl FromStr for VerifierKey {
    type Err = VerifierKeyError;

    fn from_str(text: &str) -> Result<Self, VerifierKeyError> {
        let failed = |why| VerifierKeyError { why };
        // 1 for the kind and 32 for the key are 44 characters of base64.
        if text.len() > MAX_NAME_BYTES + 1 + 8 + 1 + 44 {
            return Err(failed("it is too long"));
        }
        // Base64 may contain a plus, names may not.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(failed("it is not `name+key ID+key`"));
        };
        let lower_hex = id.len() == 8 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let id = u32::from_str_radix(id, 16).ok().filter(|_| lower_hex);
        let id = id.ok_or(failed("its ID is not 8 lower-case hexadecimal digits"))?;
        let bytes = STANDARD.decode(key).map_err(|_| failed("its key is not base64"))?;
        let (kind, public_key) = bytes.split_first().ok_or(failed("its key is empty"))?;
        let algorithm = match kind {
            0x01 => Algorithm::Ed25519,
            0x04 => Algorithm::CosignatureV1,
            _ => return Err(failed("its kind is neither Ed25519 (1) nor Ed25519 cosignature (4)")),
        };
        let public_key = public_key
            .try_into()
            .map_err(|_| failed("an Ed25519 key has 32 bytes"))?;
        let found = Self::new(name, algorithm, public_key)?;
        if found.id != id {
            return Err(failed("its ID does not belong to its name and key"));
        }
        Ok(found)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.algorithm as u8][..], &self.public_key].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id, STANDARD.encode(key))
    }
}

/// What a key may be called (signed-note, Format), in our bounds.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the name is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("the name is too long");
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
        return Err("the name has blanks, control characters or a plus");
    }
    Ok(())
}

fn key_id(name: &str, algorithm: Algorithm, public_key: &[u8; 32]) -> u32 {
    let hashed = [name.as_bytes(), b"\n", &[algorithm as u8], public_key].concat();
    let hash = digest(&SHA256, &hashed);
    let (id, _) = hash.as_ref().split_first_chunk().expect("SHA-256 has 32 bytes");
    u32::from_be_bytes(*id)
}
