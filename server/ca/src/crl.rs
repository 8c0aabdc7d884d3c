//! Revocation lists (RFC 5280 §5): what an authority says of its own certificates that count for nothing any more.
//!
//! Always whole ones: a list of what is revoked within the life of SVIDs is short, and few verifiers know deltas.

use std::time::Duration;

use mayfly_keys::KeyError;
use mayfly_svid::{Serial, Timestamp};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::CertificateRevocationListDer;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::Issuer;
use crate::der::offset;
use crate::issuer::BACKDATE;
use crate::signing::AuthorityKey;

/// What a revocation list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// Larger than that of every list that the authority signed before (RFC 5280 §5.2.3). Not zero.
    pub number: u128,
    /// Ends this long after it was made, whatever comes.
    pub life: Duration,
    /// Of certificates of this authority, each once. None is as good a statement as some.
    pub revoked: Vec<Revoked>,
}

/// A certificate that counts for nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number.
    pub serial: Serial,
    /// Since when.
    pub at: Timestamp,
}

/// A revocation list that was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// The authority's key usage lacks cRLSign (RFC 5280 §4.2.1.3): nobody would take a list of it.
    #[error("the authority's key usage lacks cRLSign")]
    NoCrlSign,
    /// Its dates or its number are none that a list can say.
    #[error("a date or the number of the revocation list cannot be written")]
    OutOfRange,
    /// It cannot be written.
    #[error("the revocation list cannot be written")]
    Encode(#[source] rcgen::Error),
    /// The key did not sign.
    #[error("the authority's key did not sign")]
    Key(#[source] KeyError),
    /// What was written would not be found to be the authority's.
    #[error("the revocation list does not name its authority as the certificates do")]
    Name,
}

impl Issuer {
    /// Signs `list`, valid from ten seconds before `now` for whoever is behind. Blocks as the key does.
    ///
    /// # Errors
    /// See [`CrlError`].
    pub fn sign_crl(
        &self,
        list: &RevocationList,
        now: Timestamp,
    ) -> Result<CertificateRevocationListDer<'static>, CrlError> {
        let date = |at: Timestamp| offset(at).ok_or(CrlError::OutOfRange);
        if list.number == 0 {
            return Err(CrlError::OutOfRange);
        }
        let revoked = |revoked: &Revoked| {
            Ok(RevokedCertParams {
                serial_number: revoked.serial.as_be_bytes().to_vec().into(),
                revocation_time: date(revoked.at)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let params = CertificateRevocationListParams {
            this_update: date(now.minus(BACKDATE))?,
            next_update: date(now.plus(list.life))?,
            crl_number: SerialNumber::from_slice(&list.number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: list.revoked.iter().map(revoked).collect::<Result<_, CrlError>>()?,
            key_identifier_method: KeyIdMethod::PreSpecified(self.key_id().to_vec()),
        };
        let key = AuthorityKey::new(self.signer().clone()).ok_or(CrlError::Name)?;
        let issuer = rcgen::Issuer::from_ca_cert_der(self.cert_der(), &key).map_err(CrlError::Encode)?;
        let signed = match params.signed_by(&issuer) {
            Ok(signed) => CertificateRevocationListDer::from(signed),
            Err(rcgen::Error::IssuerNotCrlSigner) => return Err(CrlError::NoCrlSign),
            Err(rcgen::Error::RemoteKeyError) => return Err(CrlError::Key(key.take_failure())),
            Err(error) => return Err(CrlError::Encode(error)),
        };
        // Verifiers compare the bytes, and the library wrote the name anew.
        let (_, authority) = X509Certificate::from_der(self.cert_der()).map_err(|_| CrlError::Name)?;
        match CertificateRevocationList::from_der(&signed) {
            Ok(([], read)) if read.issuer().as_raw() == authority.subject().as_raw() => Ok(signed),
            _ => Err(CrlError::Name),
        }
    }
}
