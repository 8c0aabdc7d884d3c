//! Signing certificates: self-signed ones, and those by which one authority vouches for another (X509-SVID §3.2, §4;
//! SPIFFE-ID §3.1).

use std::sync::Arc;
use std::time::Duration;

use mayfly_keys::{KeyError, Signer};
use mayfly_svid::{Serial, Timestamp, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyIdMethod, KeyUsagePurpose,
    SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der::offset;
use crate::issuer::BACKDATE;
use crate::leaf::organization;
use crate::signing::AuthorityKey;

/// `id-at-serialNumber` (X.520 §6.2.9): what makes the subjects of two authorities of one trust domain differ.
const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// An authority could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateAuthorityError {
    /// The signer's public key cannot be put into a certificate.
    #[error("the signer's public key is not of a known kind")]
    PublicKey,
    /// A date beyond what certificates can say.
    #[error("a lifetime of {seconds} s does not fit into a certificate")]
    Lifetime {
        /// What was asked for.
        seconds: u64,
    },
    /// The certificate cannot be written.
    #[error("the certificate of the authority cannot be written")]
    Encode(#[source] rcgen::Error),
    /// The key did not sign.
    #[error("the certificate of the authority cannot be signed")]
    Sign(#[source] KeyError),
}

/// Makes the self-signed certificate of an authority that signs SVIDs of `trust_domain` until `now + lifetime`,
/// inclusive: cA and keyCertSign, cRLSign, the trust domain's own ID, a subject that no other authority has, no
/// extended key usage and no name constraints. Blocks as [`Signer::sign`] does.
///
/// # Errors
/// See [`CreateAuthorityError`].
pub fn create_authority(
    trust_domain: &TrustDomain,
    signer: Arc<dyn Signer>,
    lifetime: Duration,
    now: Timestamp,
    serial: &Serial,
) -> Result<CertificateDer<'static>, CreateAuthorityError> {
    let too_long = || CreateAuthorityError::Lifetime {
        seconds: lifetime.as_secs(),
    };
    let key_id = mayfly_svid::public_key_id(signer.public_key_der());
    let key = AuthorityKey::new(signer).ok_or(CreateAuthorityError::PublicKey)?;
    let mut params = params(trust_domain, serial, &key_id)?;
    params.serial_number = Some(serial.as_be_bytes().to_vec().into());
    params.not_before = offset(now.minus(BACKDATE)).ok_or_else(too_long)?;
    params.not_after = offset(now.plus(lifetime)).ok_or_else(too_long)?;
    match params.self_signed(&key) {
        Ok(certificate) => Ok(certificate.der().clone()),
        Err(rcgen::Error::RemoteKeyError) => Err(CreateAuthorityError::Sign(key.take_failure())),
        Err(error) => Err(CreateAuthorityError::Encode(error)),
    }
}

/// An authority that vouches for others.
pub struct Voucher<'a> {
    /// Its certificate.
    pub cert_der: &'a CertificateDer<'static>,
    /// Its key.
    pub signer: Arc<dyn Signer>,
}

/// Makes the certificate by which an older authority vouches for `authority`, one that [`create_authority`] made, until
/// `until`: who knows the older one only, believes by it what the newer one signs. Blocks as [`Signer::sign`] does.
///
/// # Errors
/// See [`CreateAuthorityError`]; one that was made otherwise is a [`CreateAuthorityError::Encode`].
pub fn vouch(
    trust_domain: &TrustDomain,
    authority: &CertificateDer<'_>,
    by: Voucher<'_>,
    until: Timestamp,
    serial: &Serial,
) -> Result<CertificateDer<'static>, CreateAuthorityError> {
    let foreign = || CreateAuthorityError::Encode(rcgen::Error::CouldNotParseCertificate);
    let (_, parsed) = X509Certificate::from_der(authority).map_err(|_| foreign())?;
    let own = Serial::from_be_bytes(parsed.raw_serial()).map_err(|_| foreign())?;
    let public_key = parsed.public_key().raw;
    let mut params = params(trust_domain, &own, &mayfly_svid::public_key_id(public_key))?;
    params.serial_number = Some(serial.as_be_bytes().to_vec().into());
    // For leaves, and for nobody further down.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.not_before = parsed.validity().not_before.to_datetime();
    let end = Timestamp::from_unix(parsed.validity().not_after.timestamp()).min(until);
    params.not_after = offset(end).ok_or_else(foreign)?;
    let public_key = SubjectPublicKeyInfo::from_der(public_key).map_err(CreateAuthorityError::Encode)?;
    let key = AuthorityKey::new(by.signer).ok_or(CreateAuthorityError::PublicKey)?;
    let issuer = rcgen::Issuer::from_ca_cert_der(by.cert_der, &key).map_err(CreateAuthorityError::Encode)?;
    match params.signed_by(&public_key, &issuer) {
        Ok(certificate) => Ok(certificate.der().clone()),
        Err(rcgen::Error::RemoteKeyError) => Err(CreateAuthorityError::Sign(key.take_failure())),
        Err(error) => Err(CreateAuthorityError::Encode(error)),
    }
}

/// What the certificates of an authority have in common, whoever signs them. `distinct` is in its subject.
fn params(
    trust_domain: &TrustDomain,
    distinct: &Serial,
    key_id: &[u8],
) -> Result<CertificateParams, CreateAuthorityError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, organization(trust_domain));
    let distinct = distinct
        .to_string()
        .as_str()
        .try_into()
        .map_err(CreateAuthorityError::Encode)?;
    subject.push(
        DnType::CustomDnType(SERIAL_NUMBER.to_vec()),
        DnValue::PrintableString(distinct),
    );

    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let own_id = trust_domain.id();
    params.subject_alt_names = vec![SanType::URI(
        own_id.as_str().try_into().map_err(CreateAuthorityError::Encode)?,
    )];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.to_vec());
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
