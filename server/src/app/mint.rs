//! SVIDs that an operator has signed without an entry: for what cannot be attested, such as a webhook's certificate.

use std::time::Duration;

use mayfly_model::{Actor, ErrorKind, ReservedPath, reserved_path};
use mayfly_svid::{IdError, SpiffeId, TrustDomain, X509Svid};
use tracing::info;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension};

use super::issue::{Issuance, IssueError};

/// Lifetimes that may be asked for, in seconds; the authority may allow less.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 20..=366 * 86400;
/// Requests larger than this are not read; it is also what the authority accepts.
const CSR_MAX: usize = 4096;

/// Why nothing was minted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    /// Not a request that can be read, or more than 4096 bytes.
    #[error("the CSR is not a well-formed DER certification request of at most {CSR_MAX} bytes")]
    Csr,
    /// It names none, or several.
    #[error("the CSR has {count} URI names, it must have exactly one: the SPIFFE ID")]
    UriNameCount {
        /// How many it has.
        count: usize,
    },
    /// Its URI is no SPIFFE ID.
    #[error("the CSR's URI name is not a SPIFFE ID")]
    SpiffeId(#[source] IdError),
    /// Its ID is of another trust domain, or has no path.
    #[error("`{id}` does not name a workload of the trust domain `{trust_domain}`")]
    NotOurs {
        /// What was asked for.
        id: SpiffeId,
        /// The server's own.
        trust_domain: TrustDomain,
    },
    /// Its ID lies in a reserved space.
    #[error("`{id}` is reserved: {}", .space.purpose())]
    Reserved {
        /// What was asked for.
        id: SpiffeId,
        /// Which space.
        space: ReservedPath,
    },
    /// A lifetime that nothing is issued for.
    #[error("a lifetime of {seconds} s is outside 20 s to 366 days")]
    Ttl {
        /// What was asked for.
        seconds: i32,
    },
    /// It was not issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Issues what `csr_der` names: one SPIFFE ID and any DNS names. `ttl_seconds` of 0 means the server's default.
///
/// # Errors
/// See [`MintError`]; nothing was signed.
pub async fn mint(
    issuance: &Issuance,
    actor: &Actor,
    trust_domain: &TrustDomain,
    csr_der: &[u8],
    ttl_seconds: i32,
) -> Result<X509Svid, MintError> {
    let ttl = match u64::try_from(ttl_seconds) {
        Ok(0) => None,
        Ok(ttl) if TTL_SECONDS.contains(&ttl) => Some(Duration::from_secs(ttl)),
        _ => return Err(MintError::Ttl { seconds: ttl_seconds }),
    };
    let (id, dns_names) = names(csr_der)?;
    if !id.is_member_of(trust_domain) || id.path().is_empty() {
        return Err(MintError::NotOurs {
            id,
            trust_domain: trust_domain.clone(),
        });
    }
    if let Some(space) = reserved_path(&id) {
        return Err(MintError::Reserved { id, space });
    }
    let svid = issuance.minted(actor, &id, csr_der, dns_names, ttl).await?;
    info!(spiffe_id = %id, serial = %svid.serial(), actor = actor.who, reason = actor.reason, "SVID minted");
    Ok(svid)
}

/// The SPIFFE ID and the DNS names that a request asks for. Its key and proof are the authority's to check.
fn names(csr_der: &[u8]) -> Result<(SpiffeId, Vec<String>), MintError> {
    if csr_der.len() > CSR_MAX {
        return Err(MintError::Csr);
    }
    let Ok((rest, csr)) = X509CertificationRequest::from_der(csr_der) else {
        return Err(MintError::Csr);
    };
    if !rest.is_empty() {
        return Err(MintError::Csr);
    }
    let (mut uris, mut dns_names) = (vec![], vec![]);
    for extension in csr.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => uris.push(*uri),
                        GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                        _ => {}
                    }
                }
            }
            ParsedExtension::ParseError { .. } => return Err(MintError::Csr),
            _ => {}
        }
    }
    let [uri] = uris[..] else {
        return Err(MintError::UriNameCount { count: uris.len() });
    };
    Ok((uri.parse().map_err(MintError::SpiffeId)?, dns_names))
}

impl MintError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Issue(error) => error.kind(),
            _ => ErrorKind::InvalidArgument,
        }
    }
}
