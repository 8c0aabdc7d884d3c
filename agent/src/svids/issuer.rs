//! The port towards the server.

use async_trait::async_trait;
use mayfly_model::{EntryId, ErrorKind};
use rustls_pki_types::CertificateDer;

/// Gets certificates signed.
#[async_trait]
pub trait Issuer: Send + Sync + 'static {
    /// Asks for one certificate per request; the answers are in the order of the requests. Each is the chain, leaf
    /// first, without the authority itself, or why there is none.
    ///
    /// # Errors
    /// There is no answer for any of them.
    ///
    /// # Cancel safety
    /// May be dropped at any time; what was signed is then lost and does no harm.
    async fn issue(&self, requests: Vec<IssueRequest>) -> Result<Vec<IssueAnswer>, IssueError>;
}

/// The certificates for one request, leaf first, or why there are none.
pub type IssueAnswer = Result<Vec<CertificateDer<'static>>, IssueRefusal>;

/// One certificate to be signed.
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// For which entry. The server takes all but the key from it.
    pub entry_id: EntryId,
    /// PKCS#10, DER, signed with the new key.
    pub csr_der: Vec<u8>,
}

/// The server will not sign this one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the server refused: {message}")]
pub struct IssueRefusal {
    /// What it means.
    pub kind: ErrorKind,
    /// The server's words.
    pub message: String,
}

/// No certificate could be asked for.
#[derive(Debug, thiserror::Error)]
#[error("the server gave no answer")]
pub struct IssueError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
