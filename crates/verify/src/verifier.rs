//! The two rustls verifiers.

use std::fmt;
use std::sync::Arc;

use mayfly_svid::verify::{VerifyError, verify_x509_svid};
use mayfly_svid::{SpiffeId, Timestamp, TrustDomain, X509Svid};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::AnchorSource;

/// Which verified identities are let in. There is no default: who connects to anybody says so with
/// [`Authorize::matching`].
#[derive(Clone)]
#[non_exhaustive]
pub enum Authorize {
    /// Exactly this ID.
    Id(SpiffeId),
    /// Every workload of this trust domain.
    MemberOf(TrustDomain),
    /// What the closure says yes to.
    Matching(Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>),
}

impl Authorize {
    /// The identities for which `predicate` holds. It runs inside the handshake: it must not block.
    pub fn matching(predicate: impl Fn(&SpiffeId) -> bool + Send + Sync + 'static) -> Self {
        Self::Matching(Arc::new(predicate))
    }

    /// Whether `id` is let in.
    pub fn allows(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Id(expected) => id == expected,
            Self::MemberOf(trust_domain) => id.is_member_of(trust_domain),
            Self::Matching(predicate) => predicate(id),
        }
    }
}

impl fmt::Display for Authorize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "`{id}`"),
            Self::MemberOf(trust_domain) => write!(f, "a member of `{trust_domain}`"),
            Self::Matching(_) => f.write_str("an ID that the configured rule allows"),
        }
    }
}

impl fmt::Debug for Authorize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorize({self})")
    }
}

/// Why a peer was refused. It is the source of the [`rustls::Error`] where rustls has no certificate error for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer's SVID does not verify.
    #[error("the peer's SVID is refused")]
    Verify(#[from] VerifyError),
    /// No bundle of the peer's trust domain is known here.
    #[error("no bundle of the peer's trust domain `{trust_domain}` is known")]
    UnknownTrustDomain {
        /// The trust domain that the peer names.
        trust_domain: TrustDomain,
    },
    /// The peer is who it says, and not who is wanted.
    #[error("the peer is `{presented}`, expected {expected}")]
    NotAuthorized {
        /// The peer's verified ID.
        presented: SpiffeId,
        /// What was wanted.
        expected: String,
    },
}

impl From<PeerError> for rustls::Error {
    /// Validity, issuer and signature keep rustls' own names, so that the peer receives the alert that tells it what
    /// to do.
    fn from(error: PeerError) -> Self {
        let certificate = match &error {
            PeerError::Verify(VerifyError::Expired { .. }) => CertificateError::Expired,
            PeerError::Verify(VerifyError::NotYetValid { .. }) => CertificateError::NotValidYet,
            PeerError::Verify(VerifyError::UnknownAuthority { .. }) => CertificateError::UnknownIssuer,
            PeerError::Verify(VerifyError::BadSignature) => CertificateError::BadSignature,
            _ => CertificateError::Other(OtherError(Arc::new(error))),
        };
        Self::InvalidCertificate(certificate)
    }
}

/// What both directions share.
#[derive(Debug)]
struct Core {
    anchors: Arc<dyn AnchorSource>,
    authorize: Authorize,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Core {
    fn new(anchors: Arc<dyn AnchorSource>, authorize: Authorize) -> Self {
        Self {
            anchors,
            authorize,
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<X509Svid, PeerError> {
        let now = Timestamp::from_unix(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let svid = verify_chain(leaf, above, self.anchors.as_ref(), now)?;
        if !self.authorize.allows(svid.spiffe_id()) {
            return Err(PeerError::NotAuthorized {
                presented: svid.spiffe_id().clone(),
                expected: self.authorize.to_string(),
            });
        }
        Ok(svid)
    }
}

/// Verifies a chain against the bundle of the trust domain that its leaf names. Whether it may come in is another
/// question.
pub(crate) fn verify_chain(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    anchors: &dyn AnchorSource,
    now: Timestamp,
) -> Result<X509Svid, PeerError> {
    let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(above).cloned().collect();
    // The leaf is read twice: here only to learn which bundle to ask for, then by the verification that counts.
    let claimed = X509Svid::from_chain(chain[..1].iter().map(|der| der.clone().into_owned()).collect())
        .map_err(VerifyError::from)?;
    let trust_domain = claimed.spiffe_id().trust_domain();
    let Some(anchors) = anchors.anchors(&trust_domain) else {
        return Err(PeerError::UnknownTrustDomain { trust_domain });
    };
    Ok(verify_x509_svid(&chain, &anchors, now)?)
}

/// Whether a server insists on a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without one there is no connection.
    Required,
    /// A client may come without; [`peer_svid`](crate::peer_svid) is then `None`. One that is presented must verify.
    Optional,
}

/// For servers: verifies the X.509-SVIDs of clients.
#[derive(Debug)]
pub struct SpiffeClientVerifier {
    core: Core,
    client_auth: ClientAuth,
}

impl SpiffeClientVerifier {
    /// Lets in the clients that `authorize` names and `anchors` verify.
    pub fn new(anchors: Arc<dyn AnchorSource>, authorize: Authorize, client_auth: ClientAuth) -> Self {
        Self {
            core: Core::new(anchors, authorize),
            client_auth,
        }
    }
}

impl ClientCertVerifier for SpiffeClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of authorities would be stale after a rotation, and tell a stranger whom we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.core.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.core.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.core.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.core.algorithms.supported_schemes()
    }
}

/// For clients: verifies the X.509-SVID of the server. The server's DNS name is not looked at, its SPIFFE ID is.
#[derive(Debug)]
pub struct SpiffeServerVerifier {
    core: Core,
}

impl SpiffeServerVerifier {
    /// Talks to the servers that `authorize` names and `anchors` verify.
    pub fn new(anchors: Arc<dyn AnchorSource>, authorize: Authorize) -> Self {
        Self {
            core: Core::new(anchors, authorize),
        }
    }
}

impl ServerCertVerifier for SpiffeServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.core.verify(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.core.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.core.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.core.algorithms.supported_schemes()
    }
}
