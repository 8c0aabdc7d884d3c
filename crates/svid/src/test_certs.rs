//! Certificates for this crate's tests: good ones, and ones with a single fault.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::{Bundle, Timestamp, TrustAnchors, TrustDomain, X509Authority};

/// 2025-06-15T15:06:40Z; everything is valid an hour before and after, unless a test changes it.
pub(crate) const NOW: Timestamp = Timestamp::from_unix(1_750_000_000);

pub(crate) fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW.unix() + seconds).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = at(-3600);
    params.not_after = at(3600);
    params
}

pub(crate) fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn leaf_params(id: &str) -> CertificateParams {
    let mut params = params("workload");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri(id)];
    params
}

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca_of(params: CertificateParams) -> Ca {
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn ca(common_name: &str) -> Ca {
    ca_of(ca_params(common_name))
}

pub(crate) fn issue(ca: &Ca, params: &CertificateParams) -> CertificateDer<'static> {
    params
        .signed_by(&KeyPair::generate().unwrap(), ca)
        .unwrap()
        .der()
        .clone()
}

pub(crate) fn td() -> TrustDomain {
    "td.example".parse().unwrap()
}

pub(crate) fn bundle_of(certs: &[&CertificateDer<'static>]) -> Bundle {
    let x509_authorities = certs
        .iter()
        .map(|der| X509Authority {
            cert_der: (*der).clone(),
            tainted: false,
        })
        .collect();
    Bundle {
        x509_authorities,
        ..Bundle::empty(td())
    }
}

pub(crate) fn anchors_of(certs: &[&CertificateDer<'static>]) -> TrustAnchors {
    TrustAnchors::from_bundle(&bundle_of(certs))
}
