//! A trust domain's bundle: what its SVIDs are verified against (SPIFFE Trust Domain and Bundle §4).

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::x509::{is_ca, parse_certificate};
use crate::{Timestamp, TrustDomain, X509SvidError};

/// The public keys of one trust domain. Equality is by content, so "did it change" is `!=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle this is.
    pub trust_domain: TrustDomain,
    /// Signing certificates of X.509-SVIDs, without duplicates, oldest first.
    pub x509_authorities: Vec<X509Authority>,
    /// Public keys of JWT-SVIDs. Kept and passed on whole even where this process does not use them.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// How often a consumer should look for a newer one, in seconds; 0 where the publisher does not say.
    pub refresh_hint: i64,
    /// Grows with each change of the content (SPIFFE Trust Domain and Bundle §4.1.1).
    pub sequence_number: u64,
}

/// A signing certificate of X.509-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Authority {
    /// One certificate, DER.
    pub cert_der: CertificateDer<'static>,
    /// Its key is no longer trusted to sign: holders of SVIDs under it must renew before it leaves the bundle.
    pub tainted: bool,
}

/// A public key of JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuthority {
    /// The key ID that token headers carry.
    pub key_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key_der: Vec<u8>,
    /// After this instant nothing signed by it is valid.
    pub expires_at: Option<Timestamp>,
    /// As in [`X509Authority::tainted`].
    pub tainted: bool,
}

impl Bundle {
    /// A bundle of `trust_domain` that holds nothing yet: every SVID is refused against it.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: vec![],
            jwt_authorities: vec![],
            refresh_hint: 0,
            sequence_number: 0,
        }
    }

    /// Reads X.509 authorities as the Workload API carries them: certificates, DER, one after another (WAX-07). No bytes
    /// are a bundle that trusts nobody. What a certificate allows is looked at when it is used ([`TrustAnchors`]).
    ///
    /// # Errors
    /// Something else is between or after them.
    pub fn from_concatenated_der(trust_domain: TrustDomain, mut der: &[u8]) -> Result<Self, X509SvidError> {
        let mut bundle = Self::empty(trust_domain);
        while !der.is_empty() {
            let index = bundle.x509_authorities.len();
            let (after, _) = X509Certificate::from_der(der).map_err(|_| X509SvidError::Malformed { index })?;
            bundle.x509_authorities.push(X509Authority {
                cert_der: CertificateDer::from(der[..der.len() - after.len()].to_vec()),
                tainted: false,
            });
            der = after;
        }
        Ok(bundle)
    }

    /// The X.509 authorities as the Workload API carries them: concatenated DER (WAX-07).
    pub fn x509_concatenated_der(&self) -> Vec<u8> {
        self.x509_authorities
            .iter()
            .flat_map(|authority| authority.cert_der.iter().copied())
            .collect()
    }
}

/// The X.509 part of a bundle, read once for path validation.
#[derive(Clone, Debug)]
pub struct TrustAnchors {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) anchors: Vec<Anchor>,
    unusable: Vec<UnusableAuthority>,
}

/// One trusted signing certificate and when it is valid, both ends inclusive.
#[derive(Clone, Debug)]
pub(crate) struct Anchor {
    pub(crate) anchor: TrustAnchor<'static>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// How many intermediates may follow, where it says so (RFC 5280 §4.2.1.9).
    pub(crate) path_len: Option<u32>,
}

/// An authority of a bundle that can sign nothing, because of what its certificate is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("authority {index} of the bundle is unusable: {reason}")]
pub struct UnusableAuthority {
    /// Its position in [`Bundle::x509_authorities`].
    pub index: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl TrustAnchors {
    /// Reads the signing certificates of `bundle`. Those that cannot sign are left out, which narrows trust and never
    /// widens it; [`unusable`](Self::unusable) says which they are. Expired ones stay and are refused when used.
    pub fn from_bundle(bundle: &Bundle) -> Self {
        let mut anchors = Vec::with_capacity(bundle.x509_authorities.len());
        let mut unusable = Vec::new();
        for (index, authority) in bundle.x509_authorities.iter().enumerate() {
            match read_anchor(&authority.cert_der) {
                Ok(anchor) => anchors.push(anchor),
                Err(reason) => unusable.push(UnusableAuthority { index, reason }),
            }
        }
        Self {
            trust_domain: bundle.trust_domain.clone(),
            anchors,
            unusable,
        }
    }

    /// Whose SVIDs these anchors verify.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// How many authorities can be used; with none, every SVID of the trust domain is refused (TDB-20).
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Whether no authority can be used.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// The authorities that were left out, in the bundle's order.
    pub fn unusable(&self) -> &[UnusableAuthority] {
        &self.unusable
    }
}

fn read_anchor(cert_der: &CertificateDer<'_>) -> Result<Anchor, &'static str> {
    let certificate = parse_certificate(0, cert_der).map_err(|_| "not a well-formed X.509 certificate")?;
    if !is_ca(&certificate) {
        return Err("not a CA certificate");
    }
    if certificate
        .key_usage()
        .ok()
        .flatten()
        .is_some_and(|usage| !usage.value.key_cert_sign())
    {
        return Err("its key usage lacks keyCertSign");
    }
    let anchor =
        webpki::anchor_from_trusted_cert(cert_der).map_err(|_| "not a certificate that can be a trust anchor")?;
    let constraints = certificate.basic_constraints().ok().flatten();
    Ok(Anchor {
        path_len: constraints.and_then(|constraints| constraints.value.path_len_constraint),
        anchor: anchor.to_owned(),
        not_before: Timestamp::from_unix(certificate.validity().not_before.timestamp()),
        not_after: Timestamp::from_unix(certificate.validity().not_after.timestamp()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_certs::ca;

    // WAX-07
    #[test]
    fn concatenated_der_is_read_as_it_is_written_and_nothing_else_is() {
        let der = [ca("one").der().as_ref(), ca("two").der()].concat();
        let read = |der: &[u8]| Bundle::from_concatenated_der("td".parse().unwrap(), der);
        let bundle = read(&der).unwrap();
        assert_eq!(bundle.x509_authorities.len(), 2);
        assert_eq!(bundle.x509_concatenated_der(), der);
        assert!(read(&[]).unwrap().x509_authorities.is_empty());
        assert_eq!(read(&der[..der.len() - 1]), Err(X509SvidError::Malformed { index: 1 }));
        assert_eq!(
            read(&[&der[..], b"\0"].concat()),
            Err(X509SvidError::Malformed { index: 2 })
        );
    }
}
