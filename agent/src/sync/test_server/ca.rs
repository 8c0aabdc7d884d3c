//! A trust domain's authority, for tests.

use std::time::Duration;

use mayfly_proto::spire::types;
use mayfly_runtime::{Clock, SystemClock};
use mayfly_svid::{Bundle, TASK_EXTENSION_ARCS, TaskExtension, TrustDomain, X509Authority, X509Svid};
use mayfly_verify::SvidResolver;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::super::identity::OwnKey;

/// Signs whatever it is asked to.
pub(in crate::sync) struct TestCa {
    pub(in crate::sync) trust_domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    pub(in crate::sync) fn new(trust_domain: &str) -> Self {
        let mut params = params(Duration::from_secs(86_400), 0.1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, rand::random::<u64>().to_string());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self {
            trust_domain: trust_domain.parse().unwrap(),
            issuer,
        }
    }

    pub(in crate::sync) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(self.trust_domain.clone());
        bundle.x509_authorities.push(X509Authority {
            cert_der: self.issuer.der().clone(),
            tainted: false,
        });
        bundle.sequence_number = 1;
        bundle
    }

    pub(in crate::sync) fn wire_bundle(&self) -> types::Bundle {
        (&self.bundle()).into()
    }

    /// `spent`: how much of the lifetime lies in the past already.
    pub(in crate::sync) fn sign_csr(
        &self,
        csr_der: &[u8],
        id: &str,
        lifetime: Duration,
        spent: f64,
    ) -> Vec<CertificateDer<'static>> {
        let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der)).unwrap();
        self.sign(&csr.public_key, id, lifetime, spent)
    }

    /// A task SVID, DER.
    pub(in crate::sync) fn sign_task(
        &self,
        csr_der: &[u8],
        id: &str,
        lifetime: Duration,
        extension: &TaskExtension,
    ) -> Vec<u8> {
        let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der)).unwrap();
        let mut params = leaf_params(id, lifetime, 0.0);
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            TASK_EXTENSION_ARCS,
            extension.to_der(),
        )];
        params.signed_by(&csr.public_key, &self.issuer).unwrap().der().to_vec()
    }

    pub(in crate::sync) fn agent_chain(&self, key: &OwnKey, id: &str, life: Duration) -> Vec<CertificateDer<'static>> {
        self.sign_csr(&key.csr_der().unwrap(), id, life, 0.0)
    }

    /// What a server that calls itself `id` presents.
    pub(in crate::sync) fn server_resolver(&self, id: &str) -> SvidResolver {
        let key = KeyPair::generate().unwrap();
        let chain = self.sign(&key, id, Duration::from_secs(3600), 0.1);
        let resolver = SvidResolver::new();
        let svid = X509Svid::from_chain(chain).unwrap();
        resolver
            .publish(&svid, &PrivatePkcs8KeyDer::from(key.serialized_der()))
            .unwrap();
        resolver
    }

    fn sign(&self, key: &impl PublicKeyData, id: &str, lifetime: Duration, spent: f64) -> Vec<CertificateDer<'static>> {
        let params = leaf_params(id, lifetime, spent);
        vec![params.signed_by(key, &self.issuer).unwrap().der().clone()]
    }
}

fn leaf_params(id: &str, lifetime: Duration, spent: f64) -> CertificateParams {
    let mut params = params(lifetime, spent);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some((rand::random::<u64>() >> 1 | 1).to_be_bytes().to_vec().into());
    params
}

fn params(lifetime: Duration, spent: f64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let now = OffsetDateTime::from(SystemClock.now());
    params.not_before = now - lifetime.mul_f64(spent);
    params.not_after = params.not_before + lifetime;
    params
}
