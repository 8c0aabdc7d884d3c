//! Why something is not signed.

use mayfly_keys::KeyError;
use mayfly_svid::{SpiffeId, Timestamp, TrustDomain, X509SvidError};

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
    /// The authority signs what is below another root, or below none that is reserved.
    #[error("`{spiffe_id}` is not for an authority of {root}")]
    OtherRoot {
        /// The ID that was asked for.
        spiffe_id: SpiffeId,
        /// What the authority signs.
        root: &'static str,
    },
    /// The SVID would last longer than its window.
    #[error("the SVID would be valid until {not_after}, its window only until {closes}")]
    BeyondWindow {
        /// The end that was asked for.
        not_after: Timestamp,
        /// The last second of the window.
        closes: Timestamp,
    },
    /// The validity ends before it begins, or has not begun.
    #[error("the SVID would be expired from the beginning, or not valid yet")]
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
    /// Where the record of a task SVID stands is not known, so it may not be durable.
    #[error("the ticket of a task SVID was not recorded")]
    NotRecorded,
    /// The key did not sign.
    #[error("the authority's key did not sign")]
    Key(#[source] KeyError),
    /// What was signed is not what was prepared: a fault in this program. It does not leave it.
    #[error("the signed certificate breaks the profile")]
    Profile(#[source] X509SvidError),
}
