//! The verifier that rustls asks, for both directions.

use std::fmt;
use std::sync::atomic::Ordering;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Matcher, Refusal, Source};

/// Who keeps the connections whose handshakes are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// We do, and end them.
    Tracked,
    /// Somebody else, who does not.
    Untracked,
}

/// Lets in whom the source's state and a matcher let in. The time is the source's own: the one that rustls passes on is
/// the same.
pub(crate) struct KitVerifier {
    source: Source,
    wanted: Matcher,
    tracking: Tracking,
    algorithms: WebPkiSupportedAlgorithms,
}

impl KitVerifier {
    pub(crate) fn new(source: Source, wanted: Matcher, tracking: Tracking) -> Self {
        Self {
            source,
            wanted,
            tracking,
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
        }
    }

    fn verify(&self, leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        self.admit(leaf, above).map_err(|refusal| {
            let counters = &self.source.state().counters;
            counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::info!(error = %mayfly_runtime::Chain(&refusal), "a peer is refused");
            refusal.into()
        })
    }

    fn admit(&self, leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>]) -> Result<(), Refusal> {
        let state = self.source.state();
        let generation = state.generation();
        let admitted = state.admit(leaf, above, &self.wanted)?;
        if self.tracking == Tracking::Untracked && admitted.is_task {
            state.add_untracked(&admitted.svid, admitted.task.as_ref(), false);
            // Whoever changed something since may have looked through those who are noted before this one was among them.
            if state.generation() != generation {
                state.admit(leaf, above, &self.wanted)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KitVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KitVerifier")
            .field("wanted", &self.wanted)
            .field("tracking", &self.tracking)
            .finish_non_exhaustive()
    }
}

/// The signatures of handshakes are the same in both directions.
macro_rules! signatures {
    () => {
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
    };
}

impl ClientCertVerifier for KitVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of authorities would be stale after a rotation, and tell a stranger whom we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

impl ServerCertVerifier for KitVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
