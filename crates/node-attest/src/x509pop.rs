//! `x509pop`: the node has a certificate of a known CA, and shows that it has the private key.
//!
//! Payload, challenge and answer are JSON with byte strings in standard base64. Both sides contribute a nonce of 32
//! bytes; what is signed is SHA-256 over the server's nonce and then the agent's: by RSA-PSS, or by ECDSA as the
//! numbers r and s.

mod agent;
mod server;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Builtin;

const NAME: &str = "x509pop";
const NONCE_LEN: usize = 32;

pub(crate) const BUILTIN: Builtin = Builtin {
    name: NAME,
    server: server::build,
    agent: agent::build,
};

/// Bytes that are standard base64 in JSON.
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("not base64"))
    }
}

/// What the agent begins with.
#[derive(Serialize, Deserialize)]
struct Payload {
    /// DER, the leaf first, then what leads towards the CA.
    certificates: Vec<Bytes>,
}

/// What the server asks; exactly one of the two, by the kind of the leaf's key.
#[derive(Serialize, Deserialize, Default)]
struct Challenge {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rsa_signature: Option<Nonce>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ecdsa_signature: Option<Nonce>,
}

#[derive(Serialize, Deserialize)]
struct Nonce {
    nonce: Bytes,
}

/// What the agent answers, in kind.
#[derive(Serialize, Deserialize, Default)]
struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rsa_signature: Option<RsaAnswer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ecdsa_signature: Option<EcdsaAnswer>,
}

#[derive(Serialize, Deserialize)]
struct RsaAnswer {
    nonce: Bytes,
    signature: Bytes,
}

#[derive(Serialize, Deserialize)]
struct EcdsaAnswer {
    nonce: Bytes,
    /// Big-endian, without leading zeros.
    r: Bytes,
    /// As `r`.
    s: Bytes,
}

#[cfg(test)]
mod tests;
