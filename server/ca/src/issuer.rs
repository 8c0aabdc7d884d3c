//! Leaf profile, ticket, signature.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mayfly_keys::{KeyError, Signer};
use mayfly_svid::{Serial, SpiffeId, Timestamp, TrustDomain, X509Svid, X509SvidError};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, GeneralSubtree, X509Certificate};

use crate::PublicKey;
use crate::leaf::{Leaf, Template};

/// How far back validity begins, for verifiers whose clock is behind.
pub const BACKDATE: Duration = Duration::from_secs(10);

/// The most DNS names that an SVID has.
const MAX_DNS_NAMES: usize = 100;

/// How long an SVID shall be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// So long from now.
    For(Duration),
    /// Up to and including this instant.
    Until(Timestamp),
}

/// An X.509-SVID that somebody is entitled to.
#[derive(Clone, Debug)]
pub struct X509SvidRequest {
    /// For whom: an ID of the issuer's trust domain with a path.
    pub spiffe_id: SpiffeId,
    /// The public key; whoever asks has shown possession of the private half.
    pub public_key: PublicKey,
    /// DNS names, in order; the first one becomes the common name as well (IOP-29). Duplicates count once.
    pub dns_names: Vec<String>,
    /// How long; cut to the life of the authority.
    pub validity: Validity,
}

/// A certificate and a key that cannot issue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// Not an X.509 certificate whose subject can be an issuer.
    #[error("the authority is not a well-formed X.509 certificate")]
    Malformed,
    /// `cA` is not true (X509-SVID §4.1).
    #[error("the authority is no CA certificate")]
    NotCa,
    /// `keyCertSign` is absent (X509-SVID §4.3).
    #[error("the authority's key usage lacks keyCertSign")]
    NoKeyCertSign,
    /// URI name constraints, which most verifiers refuse and nothing here would keep to (X509-SVID §4.2).
    #[error("the authority has name constraints for URIs")]
    NameConstraints,
    /// No subject, or no subject key identifier (RFC 5280 §4.1.2.6, §4.2.1.2).
    #[error("the authority has no subject or no subject key identifier")]
    Unnamed,
    /// It carries a SPIFFE ID that is not the trust domain's own (X509-SVID §3.2).
    #[error("the authority carries the name `{name}`, expected `{expected}`")]
    SpiffeId {
        /// The URI name that it carries.
        name: String,
        /// The trust domain's own ID.
        expected: SpiffeId,
    },
    /// The signer is not the certificate's.
    #[error("the key does not belong to the authority's certificate")]
    KeyMismatch,
}

/// A request that breaks the profile. Nothing was signed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The ID is of another trust domain (SVID-14).
    #[error("`{spiffe_id}` is not in trust domain `{trust_domain}`")]
    OtherTrustDomain {
        /// The ID that was asked for.
        spiffe_id: SpiffeId,
        /// The one that is issued for here.
        trust_domain: TrustDomain,
    },
    /// The ID of the trust domain itself is no workload (X509-SVID §3.1).
    #[error("`{spiffe_id}` has no path, it cannot name a workload")]
    RootPath {
        /// The ID that was asked for.
        spiffe_id: SpiffeId,
    },
    /// Not a DNS name (RFC 1035 §2.3.1, with `_` and a leading `*.`).
    #[error("`{name}` is not a DNS name")]
    DnsName {
        /// What was given.
        name: String,
    },
    /// More than anybody needs.
    #[error("{count} DNS names, at most 100 are allowed")]
    TooManyDnsNames {
        /// How many were given.
        count: usize,
    },
    /// The validity ends before it begins.
    #[error("the SVID would be expired from the beginning")]
    NoValidity,
    /// The authority is not valid at this instant, so nothing that it signs would be.
    #[error("the authority is valid from {not_before} to {not_after} only")]
    AuthorityNotValid {
        /// Its first valid second.
        not_before: Timestamp,
        /// Its last valid second.
        not_after: Timestamp,
    },
}

/// A ticket that was not turned into an SVID. It is gone: prepare another one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The ticket was prepared by another authority, whose life it was cut to.
    #[error("the ticket belongs to another authority")]
    OtherAuthority,
    /// The key did not sign.
    #[error("the authority's key did not sign")]
    Key(#[source] KeyError),
    /// What was signed is not what was prepared: a fault in this program. It does not leave it.
    #[error("the signed certificate breaks the profile")]
    Profile(#[source] X509SvidError),
}

/// One authority that signs.
pub struct Issuer {
    trust_domain: TrustDomain,
    signer: Arc<dyn Signer>,
    template: Template,
    cert_der: CertificateDer<'static>,
    key_id: Vec<u8>,
    self_signed: bool,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// A checked request, ready to be recorded and signed once.
pub struct Ticket {
    spiffe_id: SpiffeId,
    serial: Serial,
    not_before: Timestamp,
    not_after: Timestamp,
    public_key_hash: [u8; 32],
    authority_key_id: Vec<u8>,
    to_be_signed: Vec<u8>,
}

impl Issuer {
    /// Issues for `trust_domain` with an authority: its certificate, and the signer of its key.
    ///
    /// # Errors
    /// The two cannot issue, see [`AuthorityError`]. Its validity is looked at when it is used.
    pub fn new(
        trust_domain: TrustDomain,
        cert_der: CertificateDer<'static>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, AuthorityError> {
        let Ok((rest, certificate)) = X509Certificate::from_der(&cert_der) else {
            return Err(AuthorityError::Malformed);
        };
        if !rest.is_empty() || certificate.subject().iter().any(|names| names.iter().next().is_none()) {
            return Err(AuthorityError::Malformed);
        }
        let malformed = |_| AuthorityError::Malformed;
        let constraints = certificate.basic_constraints().map_err(malformed)?;
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(AuthorityError::NotCa);
        }
        let usage = certificate.key_usage().map_err(malformed)?;
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(AuthorityError::NoKeyCertSign);
        }
        if constrains_uris(&certificate)? {
            return Err(AuthorityError::NameConstraints);
        }
        check_authority_name(&trust_domain, &certificate)?;
        let key_id = subject_key_id(&certificate).ok_or(AuthorityError::Unnamed)?;
        if certificate.subject().iter().next().is_none() {
            return Err(AuthorityError::Unnamed);
        }
        if certificate.public_key().raw != signer.public_key_der() {
            return Err(AuthorityError::KeyMismatch);
        }
        let template = Template::new(
            &trust_domain,
            signer.key_type(),
            certificate.subject().as_raw(),
            &key_id,
        );
        Ok(Self {
            trust_domain,
            signer,
            template,
            key_id,
            self_signed: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            not_before: Timestamp::from_unix(certificate.validity().not_before.timestamp()),
            not_after: Timestamp::from_unix(certificate.validity().not_after.timestamp()),
            cert_der,
        })
    }

    /// Whose SVIDs this issues.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authority's certificate.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.cert_der
    }

    /// The last second in which the authority, and whatever it signs, is valid.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether [`Self::sign`] is so quick that it needs no thread that may block ([`Signer::is_quick`]).
    pub fn is_quick(&self) -> bool {
        self.signer.is_quick()
    }

    /// Checks `request` against the leaf profile and fixes everything that will be signed, without touching the key.
    ///
    /// Validity begins ten seconds before `now` and ends as asked, but both within the authority's own (XINH-07).
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn prepare(&self, request: X509SvidRequest, now: Timestamp) -> Result<Ticket, ProfileError> {
        let X509SvidRequest {
            spiffe_id,
            public_key,
            dns_names,
            validity,
        } = request;
        if !spiffe_id.is_member_of(&self.trust_domain) {
            return Err(ProfileError::OtherTrustDomain {
                spiffe_id,
                trust_domain: self.trust_domain.clone(),
            });
        }
        if spiffe_id.path().is_empty() {
            return Err(ProfileError::RootPath { spiffe_id });
        }
        let dns_names = check_dns_names(dns_names)?;
        let (not_before, not_after) = self.bounds(validity, now)?;
        let serial = random_serial();
        let leaf = Leaf {
            spiffe_id: &spiffe_id,
            serial: &serial,
            not_before,
            not_after,
            public_key: &public_key,
            dns_names: &dns_names,
        };
        let to_be_signed = self.template.fill(&leaf).ok_or(ProfileError::NoValidity)?;
        Ok(Ticket {
            spiffe_id,
            serial,
            not_before,
            not_after,
            public_key_hash: *public_key.sha256(),
            authority_key_id: self.key_id.clone(),
            to_be_signed,
        })
    }

    fn bounds(&self, validity: Validity, now: Timestamp) -> Result<(Timestamp, Timestamp), ProfileError> {
        if now < self.not_before || now > self.not_after {
            return Err(ProfileError::AuthorityNotValid {
                not_before: self.not_before,
                not_after: self.not_after,
            });
        }
        let wanted = match validity {
            Validity::For(ttl) => now.plus(ttl),
            Validity::Until(not_after) => not_after,
        };
        if wanted <= now {
            return Err(ProfileError::NoValidity);
        }
        Ok((now.minus(BACKDATE).max(self.not_before), wanted.min(self.not_after)))
    }

    /// Signs what the ticket says, once. Whoever calls has recorded it durably before. Blocks as [`Signer::sign`] does.
    ///
    /// The chain holds the leaf, and the authority's certificate where that is not self-signed.
    ///
    /// # Errors
    /// See [`SignError`]; whatever was signed by then is dropped.
    pub fn sign(&self, ticket: Ticket) -> Result<X509Svid, SignError> {
        if ticket.authority_key_id != self.key_id {
            return Err(SignError::OtherAuthority);
        }
        let signature = self.signer.sign(&ticket.to_be_signed).map_err(SignError::Key)?;
        let leaf = CertificateDer::from(self.template.seal(&ticket.to_be_signed, &signature));
        let mut chain = vec![leaf];
        if !self.self_signed {
            chain.push(self.cert_der.clone());
        }
        X509Svid::from_chain(chain).map_err(SignError::Profile)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({}, until {})", self.trust_domain, self.not_after)
    }
}

impl Ticket {
    /// For whom.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The serial number that the SVID will have: random, 126 bits.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The first second in which the SVID will be valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last second in which the SVID will be valid.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    pub fn public_key_hash(&self) -> &[u8; 32] {
        &self.public_key_hash
    }

    /// The key identifier of the authority that prepared this and alone can sign it.
    pub fn authority_key_id(&self) -> &[u8] {
        &self.authority_key_id
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Ticket({}, serial {}, until {})",
            self.spiffe_id, self.serial, self.not_after
        )
    }
}

/// A new serial number: 126 random bits in 16 octets, positive and without leading zeros (XINH-01).
///
/// # Panics
/// If the system gives no randomness; nothing can be signed then.
pub fn random_serial() -> Serial {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives randomness");
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Serial::from_be_bytes(&bytes).expect("16 octets that begin with 0x40 to 0x7f are a serial number")
}

fn constrains_uris(certificate: &X509Certificate<'_>) -> Result<bool, AuthorityError> {
    let constraints = certificate.name_constraints().map_err(|_| AuthorityError::Malformed)?;
    let is_of_uris = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| {
        let mut bases = subtrees.iter().flatten().map(|subtree| &subtree.base);
        bases.any(|base| matches!(base, GeneralName::URI(_)))
    };
    Ok(constraints
        .is_some_and(|found| is_of_uris(&found.value.permitted_subtrees) || is_of_uris(&found.value.excluded_subtrees)))
}

fn check_authority_name(trust_domain: &TrustDomain, certificate: &X509Certificate<'_>) -> Result<(), AuthorityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| AuthorityError::Malformed)?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        // AMB-04: a corporate root without any SPIFFE ID is accepted.
        if let GeneralName::URI(name) = name
            && name.starts_with("spiffe:")
            && *name != trust_domain.id().as_str()
        {
            return Err(AuthorityError::SpiffeId {
                name: (*name).into(),
                expected: trust_domain.id(),
            });
        }
    }
    Ok(())
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier;
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            SubjectKeyIdentifier(id) if !id.0.is_empty() => Some(id.0.to_vec()),
            _ => None,
        })
}

fn check_dns_names(names: Vec<String>) -> Result<Vec<String>, ProfileError> {
    if names.len() > MAX_DNS_NAMES {
        return Err(ProfileError::TooManyDnsNames { count: names.len() });
    }
    let mut kept: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        if !is_dns_name(&name) {
            return Err(ProfileError::DnsName {
                name: name.chars().take(255).collect(),
            });
        }
        if !kept.contains(&name) {
            kept.push(name);
        }
    }
    Ok(kept)
}

fn is_dns_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    let below_wildcard = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253 && below_wildcard.split('.').all(label)
}
