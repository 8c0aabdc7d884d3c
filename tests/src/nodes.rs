//! Nodes with certificates, for the attestor `x509pop`.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Who vouches for nodes.
#[derive(Debug)]
pub struct NodeCa {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's certificate and key.
#[derive(Debug)]
pub struct Node {
    /// The certificate.
    pub certificate: Certificate,
    /// Its key.
    pub key: KeyPair,
}

impl NodeCa {
    /// A new one.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "node authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Its certificate as PEM, in a file.
    pub fn file(&self, dir: &Path) -> PathBuf {
        let path = dir.join("node-ca.pem");
        std::fs::write(&path, self.certificate.pem()).expect("the story's folder is writable");
        path
    }

    /// A node that it vouches for.
    pub fn node(&self, name: &str) -> Node {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Node {
            certificate: params.signed_by(&key, &self.issuer).expect("a certificate"),
            key,
        }
    }
}

impl Default for NodeCa {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// Certificate and key as PEM, in files.
    pub fn files(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (dir.join("node.pem"), dir.join("node.key"));
        std::fs::write(&certificate, self.certificate.pem()).expect("the story's folder is writable");
        std::fs::write(&key, self.key.serialize_pem()).expect("the story's folder is writable");
        crate::agent::private(&key);
        (certificate, key)
    }
}
