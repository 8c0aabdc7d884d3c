//! An authority whose certificates fit the clock of the tests.

use mayfly_svid::{Bundle, TrustDomain, X509Authority};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;

use super::NOW;

/// Signs for one trust domain: valid from an hour before the tests' now until a day after.
pub(crate) struct TestCa {
    pub(crate) bundle: Bundle,
    issuer: Issuer<'static, KeyPair>,
    /// Subtracted from both ends of what is signed, in seconds.
    pub(crate) age: i64,
}

impl TestCa {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let trust_domain: TrustDomain = trust_domain.parse().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.subject_alt_names = vec![uri(trust_domain.id().as_str())];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (at(-3600), at(86_400));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut bundle = Bundle::empty(trust_domain);
        bundle.x509_authorities = vec![X509Authority {
            cert_der: certificate.der().clone(),
            tainted: false,
        }];
        bundle.sequence_number = 1;
        Self {
            bundle,
            issuer: Issuer::new(params, key),
            age: 0,
        }
    }

    /// An SVID for an hour from now: certificate and key (PKCS#8), DER.
    pub(crate) fn svid(&self, id: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let certificate = self.leaf(vec![uri(id)]).signed_by(&key, &self.issuer).unwrap();
        (certificate.der().to_vec(), key.serialize_der())
    }

    /// Signs a request as it is: names and key.
    pub(crate) fn sign(&self, csr: &[u8]) -> Vec<u8> {
        let csr = CertificateSigningRequestDer::from(csr);
        let mut request = CertificateSigningRequestParams::from_der(&csr).unwrap();
        request.params = self.leaf(request.params.subject_alt_names);
        let certificate: CertificateDer<'_> = request.signed_by(&self.issuer).unwrap().der().clone();
        certificate.to_vec()
    }

    fn leaf(&self, names: Vec<SanType>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from(4711_u64));
        (params.not_before, params.not_after) = (at(-60 - self.age), at(3600 - self.age));
        params
    }
}

fn at(offset: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW + offset).unwrap()
}

fn uri(id: &str) -> SanType {
    SanType::URI(Ia5String::try_from(id).unwrap())
}
