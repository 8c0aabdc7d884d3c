use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mayfly_proto::spiffe::workload::X509svid;
use mayfly_runtime::{Clock, SystemClock};
use mayfly_svid::{
    Bundle, Serial, TASK_EXTENSION_ARCS, TaskExtension, Timestamp, TrustDomain, WindowId, X509Authority,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// An authority of a trust domain, valid for an hour around now.
pub(crate) struct TestCa {
    pub(crate) trust_domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What to issue.
#[derive(Clone)]
pub(crate) struct Leaf {
    ids: Vec<String>,
    /// Window, and seconds until it closes.
    task: Option<(WindowId, i64)>,
    /// Seconds.
    expires_in: i64,
    extension: Option<Vec<u8>>,
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) id: String,
    pub(crate) cert_der: CertificateDer<'static>,
    pub(crate) key_der: Vec<u8>,
    pub(crate) serial: Serial,
    pub(crate) window: Option<WindowId>,
}

pub(crate) fn now() -> i64 {
    SystemClock.unix_now()
}

fn at(seconds: i64) -> ::time::OffsetDateTime {
    ::time::OffsetDateTime::from_unix_timestamp(now() + seconds).unwrap()
}

/// Never twice in a run.
pub(crate) fn new_window() -> WindowId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut id = [0xab; 16];
    id[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    WindowId(id)
}

impl Leaf {
    pub(crate) fn base(id: &str) -> Self {
        Self {
            ids: vec![id.into()],
            task: None,
            expires_in: 300,
            extension: None,
        }
    }

    /// A task SVID in a window of its own that is open for another five minutes.
    pub(crate) fn task(id: &str) -> Self {
        Self {
            task: Some((new_window(), 300)),
            ..Self::base(id)
        }
    }

    pub(crate) fn closes_in(mut self, seconds: i64) -> Self {
        self.task.as_mut().unwrap().1 = seconds;
        self
    }

    pub(crate) fn expires_in(mut self, seconds: i64) -> Self {
        self.expires_in = seconds;
        self
    }

    pub(crate) fn in_window(mut self, window: WindowId) -> Self {
        self.task.as_mut().unwrap().0 = window;
        self
    }

    pub(crate) fn and_id(mut self, id: &str) -> Self {
        self.ids.push(id.into());
        self
    }

    pub(crate) fn without_extension(mut self) -> Self {
        self.task = None;
        self
    }

    pub(crate) fn with_extension(mut self, value: &[u8]) -> Self {
        self.task = None;
        self.extension = Some(value.into());
        self
    }
}

impl TestCa {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at(-3600), at(3600));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self {
            trust_domain: trust_domain.parse().unwrap(),
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    pub(crate) fn authority(&self) -> X509Authority {
        X509Authority {
            cert_der: self.issuer.der().clone(),
            tainted: false,
        }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle {
            x509_authorities: vec![self.authority()],
            ..Bundle::empty(self.trust_domain.clone())
        }
    }

    pub(crate) fn crl(&self, number: u64, serials: &[u8]) -> Vec<u8> {
        let serials: Vec<_> = serials
            .iter()
            .map(|serial| Serial::from_be_bytes(&[*serial]).unwrap())
            .collect();
        self.crl_of(number, &serials)
    }

    pub(crate) fn crl_of(&self, number: u64, serials: &[Serial]) -> Vec<u8> {
        let revoked = |serial: &Serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_be_bytes()),
            revocation_time: at(0),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: at(-1),
            next_update: at(300),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at(-30), at(leaf.expires_in));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = leaf
            .ids
            .iter()
            .map(|id| SanType::URI(id.as_str().try_into().unwrap()))
            .collect();
        let extension = leaf.extension.clone().or_else(|| {
            let (window_id, closes) = leaf.task?;
            let extension = TaskExtension {
                window_id,
                definition_hash: [3; 16],
                closes: Timestamp::from_unix(now() + closes),
                log_index: 42,
            };
            Some(extension.to_der())
        });
        params
            .custom_extensions
            .extend(extension.map(|value| CustomExtension::from_oid_content(TASK_EXTENSION_ARCS, value)));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der()).unwrap();
        Issued {
            id: leaf.ids[0].clone(),
            serial: Serial::from_be_bytes(parsed.raw_serial()).unwrap(),
            cert_der: certificate.der().clone(),
            key_der: key.serialize_der(),
            window: leaf.task.map(|(window, _)| window),
        }
    }
}

impl Issued {
    /// As the Workload API carries it.
    pub(crate) fn to_wire(&self, bundle: &[&TestCa]) -> X509svid {
        X509svid {
            spiffe_id: self.id.clone(),
            x509_svid: self.cert_der.to_vec(),
            x509_svid_key: self.key_der.clone(),
            bundle: bundle.iter().flat_map(|ca| ca.issuer.der().to_vec()).collect(),
            hint: String::new(),
        }
    }

    /// What a TLS endpoint shows, whether or not it is an SVID.
    pub(crate) fn shown(&self) -> Arc<SingleCertAndKey> {
        let key = PrivatePkcs8KeyDer::from(self.key_der.clone()).into();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Arc::new(CertifiedKey::new(vec![self.cert_der.clone()], key).into())
    }
}
