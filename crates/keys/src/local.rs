//! Keys in the memory of this process, by aws-lc.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256,
};
use zeroize::Zeroizing;

use crate::{KeyError, KeyType, Signer};

/// A private key. aws-lc wipes it when it is dropped.
pub(crate) struct LocalKey {
    key_type: KeyType,
    public_key_der: Vec<u8>,
    pair: Pair,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Makes a private key: PKCS#8, DER. RSA takes up to seconds.
pub(crate) fn generate_pkcs8(key_type: KeyType) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |_| KeyError::Generate { key_type };
    let ecdsa = |algorithm| {
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(failed)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    };
    let rsa = |size| {
        let pair = RsaKeyPair::generate(size).map_err(failed)?;
        let document: Pkcs8V1Der<'static> = pair.as_der().map_err(failed)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    };
    match key_type {
        KeyType::EcP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyType::EcP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyType::Rsa2048 => rsa(KeySize::Rsa2048),
        KeyType::Rsa4096 => rsa(KeySize::Rsa4096),
        KeyType::Ed25519 => {
            let pair = Ed25519KeyPair::generate().map_err(failed)?;
            // Version 1 without the public half: what every tool reads.
            let document = pair.to_pkcs8v1().map_err(failed)?;
            Ok(Zeroizing::new(document.as_ref().to_vec()))
        }
    }
}

impl LocalKey {
    /// Reads PKCS#8, DER. `None` if it is not a key of one of our kinds.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let curves = [
            (KeyType::EcP256, &ECDSA_P256_SHA256_ASN1_SIGNING),
            (KeyType::EcP384, &ECDSA_P384_SHA384_ASN1_SIGNING),
        ];
        for (key_type, algorithm) in curves {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8) {
                let spki: PublicKeyX509Der<'static> = pair.public_key().as_der().ok()?;
                let public_key_der = spki.as_ref().to_vec();
                return Some(Self {
                    key_type,
                    public_key_der,
                    pair: Pair::Ecdsa(pair),
                });
            }
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(pkcs8) {
            let spki: PublicKeyX509Der<'static> = pair.public_key().as_der().ok()?;
            return Some(Self {
                key_type: KeyType::Ed25519,
                public_key_der: spki.as_ref().to_vec(),
                pair: Pair::Ed25519(pair),
            });
        }
        let pair = RsaKeyPair::from_pkcs8(pkcs8).ok()?;
        let key_type = match pair.public_modulus_len() {
            256 => KeyType::Rsa2048,
            512 => KeyType::Rsa4096,
            _ => return None,
        };
        let spki: PublicKeyX509Der<'static> = pair.public_key().as_der().ok()?;
        Some(Self {
            key_type,
            public_key_der: spki.as_ref().to_vec(),
            pair: Pair::Rsa(pair),
        })
    }
}

impl Signer for LocalKey {
    fn key_type(&self) -> KeyType {
        self.key_type
    }

    fn public_key_der(&self) -> &[u8] {
        &self.public_key_der
    }

    fn is_quick(&self) -> bool {
        matches!(self.pair, Pair::Ecdsa(_) | Pair::Ed25519(_))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&random, message).map_err(|_| KeyError::Sign)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| KeyError::Sign)?;
                Ok(signature)
            }
            Pair::Ed25519(pair) => {
                let signature = pair.try_sign(message).map_err(|_| KeyError::Sign)?;
                Ok(signature.as_ref().to_vec())
            }
        }
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalKey({})", self.key_type)
    }
}
