//! The agent's half.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P521_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256,
};
use mayfly_runtime::files::{read_capped, read_private};
use zeroize::Zeroizing;

use super::{Answer, Bytes, Challenge, EcdsaAnswer, NAME, NONCE_LEN, Nonce, Payload, RsaAnswer};
use crate::{AgentError, AgentHalf, BuildError, Deps};

const MAX_FILE_BYTES: u64 = 64 * 1024;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    private_key_path: PathBuf,
    certificate_path: PathBuf,
    intermediates_path: Option<PathBuf>,
}

pub(super) fn build(section: toml::Table, deps: &Deps) -> Result<Box<dyn AgentHalf>, BuildError> {
    let section: Section = section
        .try_into()
        .map_err(|source| BuildError::Config { name: NAME, source })?;
    Ok(Box::new(Agent {
        private_key_path: deps.base_dir.join(section.private_key_path),
        certificate_path: deps.base_dir.join(section.certificate_path),
        intermediates_path: section.intermediates_path.map(|path| deps.base_dir.join(path)),
    }))
}

/// Keeps paths only: certificate and key may be renewed beneath it.
#[derive(Debug)]
struct Agent {
    private_key_path: PathBuf,
    certificate_path: PathBuf,
    intermediates_path: Option<PathBuf>,
}

enum Key {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl AgentHalf for Agent {
    fn name(&self) -> &'static str {
        NAME
    }

    fn payload(&self) -> Result<Zeroizing<Vec<u8>>, AgentError> {
        let mut certificates = read_certificates(&self.certificate_path)?;
        if let Some(path) = &self.intermediates_path {
            certificates.extend(read_certificates(path)?);
        }
        let payload = Payload { certificates };
        Ok(Zeroizing::new(
            serde_json::to_vec(&payload).expect("byte strings are always JSON"),
        ))
    }

    fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, AgentError> {
        let unknown = || AgentError::Challenge { name: NAME };
        let challenge: Challenge = serde_json::from_slice(challenge).map_err(|_| unknown())?;
        let key = self.read_key()?;
        let mut own_nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut own_nonce).map_err(|_| AgentError::Sign { name: NAME })?;
        let message = |server: Nonce| match server.nonce.0.len() {
            // Without this an attacker could have any text signed that begins with bytes of its choice.
            NONCE_LEN => Ok([&server.nonce.0[..], &own_nonce].concat()),
            _ => Err(unknown()),
        };
        let answer = match (key, challenge.rsa_signature, challenge.ecdsa_signature) {
            (Key::Rsa(key), Some(server), None) => {
                let signature = Bytes(sign_rsa(&key, &message(server)?)?);
                Answer {
                    rsa_signature: Some(RsaAnswer {
                        nonce: Bytes(own_nonce.to_vec()),
                        signature,
                    }),
                    ..Answer::default()
                }
            }
            (Key::Ecdsa(key), None, Some(server)) => {
                let signature = key.sign(&SystemRandom::new(), &message(server)?);
                let signature = signature.map_err(|_| AgentError::Sign { name: NAME })?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let (r, s) = (Bytes(trimmed(r)), Bytes(trimmed(s)));
                let nonce = Bytes(own_nonce.to_vec());
                Answer {
                    ecdsa_signature: Some(EcdsaAnswer { nonce, r, s }),
                    ..Answer::default()
                }
            }
            _ => return Err(unknown()),
        };
        Ok(serde_json::to_vec(&answer).expect("byte strings are always JSON"))
    }
}

impl Agent {
    fn read_key(&self) -> Result<Key, AgentError> {
        let wrong = |problem| AgentError::Content {
            name: NAME,
            path: self.private_key_path.clone(),
            problem,
        };
        let text = read_private(&self.private_key_path, MAX_FILE_BYTES)
            .map_err(|source| AgentError::File { name: NAME, source })?;
        let blocks = pem::parse_many(&text[..]).map_err(|_| wrong("not PEM"))?;
        let block = blocks.into_iter().find(|block| block.tag().ends_with("PRIVATE KEY"));
        let der = Zeroizing::new(block.ok_or_else(|| wrong("no private key in it"))?.into_contents());
        if let Ok(key) = RsaKeyPair::from_pkcs8(&der).or_else(|_| RsaKeyPair::from_der(&der)) {
            return Ok(Key::Rsa(key));
        }
        for algorithm in [&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P521_SHA256_FIXED_SIGNING] {
            let key = EcdsaKeyPair::from_pkcs8(algorithm, &der)
                .or_else(|_| EcdsaKeyPair::from_private_key_der(algorithm, &der));
            if let Ok(key) = key {
                return Ok(Key::Ecdsa(key));
            }
        }
        // aws-lc-rs signs with P-384 by SHA-384 only, and the method asks for SHA-256.
        Err(wrong(
            "not a private key that can be used here: RSA of at least 2048 bits, ECDSA P-256 or P-521",
        ))
    }
}

fn sign_rsa(key: &RsaKeyPair, message: &[u8]) -> Result<Vec<u8>, AgentError> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message, &mut signature)
        .map_err(|_| AgentError::Sign { name: NAME })?;
    Ok(signature)
}

fn trimmed(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number[start..].to_vec()
}

/// The certificates of a PEM file, in order; other blocks are skipped, since a key may lie beside its certificate.
fn read_certificates(path: &Path) -> Result<Vec<Bytes>, AgentError> {
    let wrong = |problem| AgentError::Content {
        name: NAME,
        path: path.to_owned(),
        problem,
    };
    let text = read_capped(path, MAX_FILE_BYTES).map_err(|source| AgentError::File { name: NAME, source })?;
    let blocks = pem::parse_many(text).map_err(|_| wrong("not PEM"))?;
    let found: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .collect();
    if found.is_empty() {
        return Err(wrong("no certificate in it"));
    }
    Ok(found.into_iter().map(|block| Bytes(block.into_contents())).collect())
}
