//! X.509-SVIDs: the certificate chain that names a workload, and the rules it keeps (X509-SVID §2–§5).

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, Error as PathError};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Extension};

use crate::{IdError, Serial, SpiffeId, Timestamp};

/// The most certificates a chain may have, leaf included.
pub(crate) const MAX_CHAIN_LEN: usize = 8;
/// The most bytes a chain may have, all certificates together.
pub(crate) const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// Bytes that are not an X.509-SVID: one variant per rule that they break.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum X509SvidError {
    /// There is no certificate.
    #[error("the chain holds no certificate")]
    Empty,
    /// More certificates than are ever needed.
    #[error("the chain has {count} certificates, at most 8 are accepted")]
    TooManyCertificates {
        /// How many there are.
        count: usize,
    },
    /// More bytes than are ever needed.
    #[error("the chain has {bytes} bytes, at most 65536 are accepted")]
    TooLarge {
        /// How many there are, over all certificates.
        bytes: usize,
    },
    /// Not DER of one certificate, or something follows it (RFC 5280 §4.1).
    #[error("certificate {index} of the chain is not a well-formed X.509 certificate")]
    Malformed {
        /// Position in the chain, 0 is the leaf.
        index: usize,
    },
    /// Nobody may use it who does not know what the extension says (RFC 5280 §4.2).
    #[error("certificate {index} of the chain has a critical extension that is not known here")]
    UnknownCriticalExtension {
        /// Position in the chain, 0 is the leaf.
        index: usize,
    },
    /// Zero, negative or longer than 20 octets (RFC 5280 §4.1.2.2).
    #[error("the leaf's serial number is not a positive number of at most 20 octets")]
    Serial,
    /// X509-SVID §2 and §5.2.
    #[error("the leaf has {count} URI names, an X.509-SVID has exactly one")]
    UriNameCount {
        /// How many there are.
        count: usize,
    },
    /// The URI name is not a SPIFFE ID (X509-SVID §5.2).
    #[error("the leaf's URI name is not a SPIFFE ID")]
    SpiffeId(#[source] IdError),
    /// The ID of a trust domain itself names signing certificates only (X509-SVID §3.1, §5.2).
    #[error("the leaf's SPIFFE ID `{id}` has no path")]
    RootPath {
        /// The ID that it carries.
        id: SpiffeId,
    },
    /// `cA` is true (X509-SVID §4.1, §5.2).
    #[error("the leaf is a CA certificate")]
    LeafIsCa,
    /// X509-SVID §4.3.
    #[error("the leaf has no key usage extension")]
    KeyUsageMissing,
    /// X509-SVID §4.3.
    #[error("the leaf's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// `keyCertSign` is set (X509-SVID §4.3, §5.2).
    #[error("the leaf's key usage has keyCertSign")]
    LeafSignsCertificates,
    /// `cRLSign` is set (X509-SVID §4.3, §5.2).
    #[error("the leaf's key usage has cRLSign")]
    LeafSignsCrls,
    /// `cA` is not true on a certificate above the leaf (X509-SVID §4.1).
    #[error("certificate {index} of the chain is above the leaf and no CA certificate")]
    IntermediateNotCa {
        /// Position in the chain.
        index: usize,
    },
    /// `keyCertSign` is absent on a certificate above the leaf (X509-SVID §4.3).
    #[error("certificate {index} of the chain is above the leaf and lacks keyCertSign")]
    IntermediateLacksKeyCertSign {
        /// Position in the chain.
        index: usize,
    },
}

/// An X.509-SVID: a leaf that names a workload, and the certificates between it and its trust bundle.
///
/// The shape was checked, the signatures were **not**: a value that came from elsewhere than one's own issuer or
/// [`crate::verify::verify_x509_svid`] proves nothing about anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Svid {
    leaf: LeafFields,
    chain: Vec<CertificateDer<'static>>,
}

/// What the leaf of an X.509-SVID says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFields {
    /// Who this is.
    pub spiffe_id: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// The first second in which it is valid.
    pub not_before: Timestamp,
    /// The last second in which it is valid.
    pub not_after: Timestamp,
    /// Its public key: SubjectPublicKeyInfo, DER.
    pub public_key_der: Box<[u8]>,
}

impl X509Svid {
    /// Reads a chain, leaf first, and checks the rules of X509-SVID §2, §4 and §5.2 that a certificate shows by itself.
    /// Signatures, validity and who issued it are not looked at.
    ///
    /// # Errors
    /// The first rule that is broken; sizes come first, then the leaf, then what is above it.
    pub fn from_chain(chain: Vec<CertificateDer<'static>>) -> Result<Self, X509SvidError> {
        check_bounds(&chain)?;
        let leaf = read_leaf(&chain[0])?;
        for (index, der) in chain.iter().enumerate().skip(1) {
            check_intermediate(index, der)?;
        }
        Ok(Self { leaf, chain })
    }

    /// What an issuer has just signed: `leaf` is what the first certificate of `chain` says, and the others were checked
    /// when the issuer was made. That it is a certificate at all is looked at once more; what it says is not read, as that
    /// would be a twentieth of the work of issuing.
    ///
    /// # Errors
    /// As [`from_chain`](Self::from_chain), for a fault of the issuer.
    ///
    /// # Panics
    /// In debug builds when it says something else: whatever issues in a test tests this.
    pub fn issued(leaf: LeafFields, chain: Vec<CertificateDer<'static>>) -> Result<Self, X509SvidError> {
        check_bounds(&chain)?;
        check_readable(0, &chain[0])?;
        let svid = Self { leaf, chain };
        debug_assert_eq!(Ok(&svid), Self::from_chain(svid.chain.clone()).as_ref());
        Ok(svid)
    }

    /// [`from_chain`](Self::from_chain) over DER certificates one after another without separators, as the Workload API
    /// carries them (WAX-07).
    ///
    /// # Errors
    /// As [`from_chain`](Self::from_chain); bytes that are left over are [`X509SvidError::Malformed`].
    pub fn from_concatenated_der(bytes: &[u8]) -> Result<Self, X509SvidError> {
        if bytes.len() > MAX_CHAIN_BYTES {
            return Err(X509SvidError::TooLarge { bytes: bytes.len() });
        }
        let mut chain = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if chain.len() == MAX_CHAIN_LEN {
                return Err(X509SvidError::TooManyCertificates {
                    count: MAX_CHAIN_LEN + 1,
                });
            }
            let (after, _) =
                X509Certificate::from_der(rest).map_err(|_| X509SvidError::Malformed { index: chain.len() })?;
            chain.push(CertificateDer::from(rest[..rest.len() - after.len()].to_vec()));
            rest = after;
        }
        Self::from_chain(chain)
    }

    /// Who this is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.leaf.spiffe_id
    }

    /// The leaf's serial number.
    pub fn serial(&self) -> &Serial {
        &self.leaf.serial
    }

    /// The first second in which the leaf is valid.
    pub fn not_before(&self) -> Timestamp {
        self.leaf.not_before
    }

    /// The last second in which the leaf is valid: inclusive (RFC 5280 §4.1.2.5).
    pub fn not_after(&self) -> Timestamp {
        self.leaf.not_after
    }

    /// The certificates, leaf first, then those that lead towards the bundle. Never empty.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's public key: SubjectPublicKeyInfo, DER.
    pub fn public_key_der(&self) -> &[u8] {
        &self.leaf.public_key_der
    }
}

/// The key identifier of a public key (SubjectPublicKeyInfo, DER): the leftmost 160 bits of its SHA-256
/// (RFC 7093 §2, method 4, shortened). It is the subject key identifier of what we issue and the ID of an authority.
pub fn public_key_id(spki_der: &[u8]) -> [u8; 20] {
    let hash = digest::digest(&digest::SHA256, spki_der);
    let mut id = [0; 20];
    id.copy_from_slice(&hash.as_ref()[..20]);
    id
}

/// Refuses chains whose size alone shows that they are not worth reading.
pub(crate) fn check_bounds(chain: &[CertificateDer<'_>]) -> Result<(), X509SvidError> {
    if chain.is_empty() {
        return Err(X509SvidError::Empty);
    }
    if chain.len() > MAX_CHAIN_LEN {
        return Err(X509SvidError::TooManyCertificates { count: chain.len() });
    }
    let bytes = chain.iter().map(|der| der.len()).sum();
    if bytes > MAX_CHAIN_BYTES {
        return Err(X509SvidError::TooLarge { bytes });
    }
    Ok(())
}

/// One certificate and nothing after it. Extensions that occur twice or do not parse make it malformed.
///
/// The parser that its fields are read with overlooks what is not DER, such as another class of the tag around the
/// extensions. So whoever verifies paths has to be able to read it too: there must not be two opinions on what it says.
pub(crate) fn parse_certificate(index: usize, der: &[u8]) -> Result<X509Certificate<'_>, X509SvidError> {
    let malformed = X509SvidError::Malformed { index };
    check_readable(index, der)?;
    let Ok((rest, certificate)) = X509Certificate::from_der(der) else {
        return Err(malformed);
    };
    let broken = |extension: &X509Extension<'_>| {
        matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. }) || !tags::are_proper(extension)
    };
    let mut kinds: Vec<&[u8]> = certificate
        .extensions()
        .iter()
        .map(|extension| extension.oid.as_bytes())
        .collect();
    kinds.sort_unstable();
    if !rest.is_empty()
        || kinds.windows(2).any(|pair| pair[0] == pair[1])
        || certificate.extensions().iter().any(broken)
    {
        return Err(malformed);
    }
    Ok(certificate)
}

/// Whether those who verify paths can read it.
fn check_readable(index: usize, der: &[u8]) -> Result<(), X509SvidError> {
    match EndEntityCert::try_from(&CertificateDer::from(der)) {
        Ok(_) => Ok(()),
        Err(PathError::UnsupportedCriticalExtension) => Err(X509SvidError::UnknownCriticalExtension { index }),
        Err(_) => Err(X509SvidError::Malformed { index }),
    }
}

fn read_leaf(der: &[u8]) -> Result<LeafFields, X509SvidError> {
    let leaf = parse_certificate(0, der)?;
    let malformed = |_| X509SvidError::Malformed { index: 0 };

    let uris: Vec<&str> = match leaf.subject_alternative_name().map_err(malformed)? {
        Some(names) => names
            .value
            .general_names
            .iter()
            .filter_map(|name| {
                if let GeneralName::URI(uri) = name {
                    Some(*uri)
                } else {
                    None
                }
            })
            .collect(),
        None => vec![],
    };
    let [uri] = uris[..] else {
        return Err(X509SvidError::UriNameCount { count: uris.len() });
    };
    let spiffe_id: SpiffeId = uri.parse().map_err(X509SvidError::SpiffeId)?;
    if spiffe_id.path().is_empty() {
        return Err(X509SvidError::RootPath { id: spiffe_id });
    }

    if leaf
        .basic_constraints()
        .map_err(malformed)?
        .is_some_and(|constraints| constraints.value.ca)
    {
        return Err(X509SvidError::LeafIsCa);
    }
    let usage = leaf
        .key_usage()
        .map_err(malformed)?
        .ok_or(X509SvidError::KeyUsageMissing)?
        .value;
    if usage.key_cert_sign() {
        return Err(X509SvidError::LeafSignsCertificates);
    }
    if usage.crl_sign() {
        return Err(X509SvidError::LeafSignsCrls);
    }
    if !usage.digital_signature() {
        return Err(X509SvidError::NoDigitalSignature);
    }

    let raw_serial = leaf.tbs_certificate.raw_serial();
    if raw_serial.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(X509SvidError::Serial); // negative
    }
    Ok(LeafFields {
        spiffe_id,
        serial: Serial::from_be_bytes(raw_serial).map_err(|_| X509SvidError::Serial)?,
        not_before: Timestamp::from_unix(leaf.validity().not_before.timestamp()),
        not_after: Timestamp::from_unix(leaf.validity().not_after.timestamp()),
        public_key_der: leaf.public_key().raw.into(),
    })
}

fn check_intermediate(index: usize, der: &[u8]) -> Result<(), X509SvidError> {
    let certificate = parse_certificate(index, der)?;
    if !is_ca(&certificate) {
        return Err(X509SvidError::IntermediateNotCa { index });
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        _ => Err(X509SvidError::IntermediateLacksKeyCertSign { index }),
    }
}

pub(crate) fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca)
}

mod tags;
#[cfg(test)]
mod tests;
