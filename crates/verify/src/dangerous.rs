//! What trusts nobody and accepts everybody. Only for `insecure_bootstrap`.

use std::sync::OnceLock;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Accepts any server, whoever it is, and remembers what it presented. An attacker on the path is accepted as well:
/// for the very first contact of an agent whose operator asked for it, and for nothing else.
#[derive(Debug)]
pub struct InsecureServerVerifier {
    presented: OnceLock<Vec<CertificateDer<'static>>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl InsecureServerVerifier {
    /// A verifier for one connection: it remembers the first chain only, and refuses any other.
    #[expect(clippy::new_without_default, reason = "what is dangerous is asked for by name")]
    pub fn new() -> Self {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self {
            presented: OnceLock::new(),
            algorithms,
        }
    }

    /// The chain that the server presented, leaf first; it showed that it has the leaf's key, no more.
    pub fn presented(&self) -> Option<&[CertificateDer<'static>]> {
        self.presented.get().map(Vec::as_slice)
    }
}

impl ServerCertVerifier for InsecureServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|der| der.clone().into_owned())
            .collect();
        if *self.presented.get_or_init(|| chain.clone()) != chain {
            return Err(rustls::Error::General(
                "the server changed its certificate during the first contact".into(),
            ));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
