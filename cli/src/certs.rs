//! Certificates for display: whose, from when, until when.

use mayfly_proto::spire::types;
use mayfly_svid::{Bundle, JwtAuthority, Timestamp, TrustDomain, X509Authority, public_key_id};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::errors::CliError;

/// A signing certificate of a bundle. The field names are keys of the JSON form; times are RFC 3339 in UTC.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AuthorityView {
    /// The authority's ID: the key identifier of its public key, lower-case hex.
    pub(crate) authority_id: String,
    subject: String,
    #[serde(serialize_with = "as_text")]
    pub(crate) not_before: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub(crate) not_after: Timestamp,
    pub(crate) tainted: bool,
    pem: String,
}

impl AuthorityView {
    /// The view of one authority; `None` if its bytes are no certificate.
    pub(crate) fn of(authority: &X509Authority) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(&authority.cert_der).ok()?;
        Some(Self {
            authority_id: hex::encode(public_key_id(certificate.public_key().raw)),
            subject: certificate.subject().to_string(),
            not_before: Timestamp::from_unix(certificate.validity().not_before.timestamp()),
            not_after: Timestamp::from_unix(certificate.validity().not_after.timestamp()),
            tainted: authority.tainted,
            pem: pem("CERTIFICATE", &authority.cert_der),
        })
    }

    /// The subject as RFC 4514 writes it; the SPIFFE ID's trust domain where it is empty.
    pub(crate) fn name(&self) -> &str {
        if self.subject.is_empty() {
            "(no subject)"
        } else {
            &self.subject
        }
    }
}

/// A PEM block.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new(label, der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

/// A chain as PEM blocks, leaf first.
pub(crate) fn chain_pem(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// A bundle as the server sent it.
///
/// # Errors
/// It names no trust domain.
pub(crate) fn bundle_from_wire(wire: &types::Bundle) -> Result<Bundle, CliError> {
    let bad = |error: mayfly_svid::IdError| CliError::BadAnswer {
        who: "the server",
        what: format!("a bundle without a usable trust domain: {error}"),
    };
    let mut bundle = Bundle::empty(TrustDomain::parse_folded(&wire.trust_domain).map_err(bad)?);
    bundle.x509_authorities = (wire.x509_authorities.iter())
        .map(|authority| X509Authority {
            cert_der: CertificateDer::from(authority.asn1.clone()),
            tainted: authority.tainted,
        })
        .collect();
    bundle.jwt_authorities = (wire.jwt_authorities.iter())
        .map(|authority| JwtAuthority {
            key_id: authority.key_id.clone(),
            public_key_der: authority.public_key.clone(),
            expires_at: (authority.expires_at != 0).then(|| Timestamp::from_unix(authority.expires_at)),
            tainted: authority.tainted,
        })
        .collect();
    bundle.refresh_hint = wire.refresh_hint;
    bundle.sequence_number = wire.sequence_number;
    Ok(bundle)
}

/// A bundle for the wire.
pub(crate) fn bundle_to_wire(bundle: &Bundle) -> types::Bundle {
    types::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        x509_authorities: (bundle.x509_authorities.iter())
            .map(|authority| types::X509Certificate {
                asn1: authority.cert_der.to_vec(),
                tainted: authority.tainted,
            })
            .collect(),
        jwt_authorities: (bundle.jwt_authorities.iter())
            .map(|authority| types::JwtKey {
                public_key: authority.public_key_der.clone(),
                key_id: authority.key_id.clone(),
                expires_at: authority.expires_at.map_or(0, Timestamp::unix),
                tainted: authority.tainted,
            })
            .collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
        wit_authorities: vec![],
    }
}

fn as_text<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}
