//! Cosignatures (C2SP tlog-cosignature, Ed25519): a witness says that at a time this was the largest consistent tree it
//! had seen of that log.

use crate::note::{Algorithm, NoteSigner, SignError, Signature, VerifierKey};

/// The last second that a cosignature can say.
pub const MAX_TIMESTAMP: u64 = i64::MAX as u64;

/// A signature that is no cosignature of that key over that text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cosignature of `{name}` is not one of that key over this checkpoint")]
pub struct CosignatureError {
    pub(crate) name: String,
    pub(crate) key_id: u32,
}

/// Cosigns the text of a checkpoint. `timestamp` is now, in seconds since 1970; it is part of what is signed.
///
/// # Errors
/// The key did not sign, is not one for [`Algorithm::CosignatureV1`], or the time is zero or out of range.
pub fn cosign(signer: &dyn NoteSigner, text: &str, timestamp: u64) -> Result<Signature, SignError> {
    let key = signer.verifier_key();
    if key.algorithm() != Algorithm::CosignatureV1 {
        return Err(SignError::new(signer, "it is not a key for cosignatures"));
    }
    // A witness has to say when (tlog-witness, add-checkpoint).
    if timestamp == 0 || timestamp > MAX_TIMESTAMP {
        return Err(SignError::new(signer, "the time is out of range"));
    }
    let signature = signer.sign(&message(text, timestamp))?;
    Ok(Signature::by(key, [&timestamp.to_be_bytes()[..], &signature].concat()))
}

/// Verifies a cosignature of `key` over the text of a checkpoint, and tells when it was made: seconds since 1970.
///
/// # Errors
/// It is by another key, over another text, or of another form.
pub fn verify(key: &VerifierKey, text: &str, signature: &Signature) -> Result<u64, CosignatureError> {
    let verified = || {
        let (timestamp, raw) = signature.bytes().split_first_chunk::<8>()?;
        let timestamp = u64::from_be_bytes(*timestamp);
        let good = key.algorithm() == Algorithm::CosignatureV1
            && signature.is_by(key)
            && timestamp <= MAX_TIMESTAMP
            && key.verifies_raw(&message(text, timestamp), raw);
        good.then_some(timestamp)
    };
    verified().ok_or_else(|| CosignatureError {
        name: key.name().to_owned(),
        key_id: key.id(),
    })
}

fn message(text: &str, timestamp: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {timestamp}\n{text}").into_bytes()
}
