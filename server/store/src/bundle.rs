//! Bundles in the database, the own one among them.
//!
//! The sequence number of the own bundle grows with each change of its content (SPIFFE Trust Domain and Bundle §4.1.1);
//! that of a foreign one is its publisher's and kept as it came. Changes of foreign bundles leave the own one alone.

use mayfly_model::{BundleDeleteMode, BundlePatch, Conflict, Delta};
use mayfly_svid::{Bundle, JwtAuthority, Timestamp, TrustDomain, X509Authority};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::dialect::{Database, Row};
use crate::entry::{entry_dissociate, entry_list_federated, entry_remove};
use crate::step::{Effect, Refusal};
use crate::{Changed, StoreError};

pub(crate) fn bundle_list(database: &mut impl Database) -> Result<Vec<Bundle>, StoreError> {
    let rows = database.query(
        "bundles",
        "SELECT trust_domain, data FROM bundles ORDER BY trust_domain",
        &[],
    )?;
    rows.iter().map(read).collect()
}

/// Makes sure that there is an own bundle; a new one is empty.
pub(crate) fn own_bundle_ensure(database: &mut impl Database, own: &TrustDomain) -> Result<(), StoreError> {
    if bundle_find(database, own)?.is_none() {
        bundle_write(database, &Bundle::empty(own.clone()))?;
    }
    Ok(())
}

/// Adds one certificate, unless it is there.
pub(crate) fn own_bundle_add(
    database: &mut impl Database,
    own: &TrustDomain,
    cert_der: &CertificateDer<'static>,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let authority = X509Authority {
        cert_der: cert_der.clone(),
        tainted: false,
    };
    bundle_append(database, own, std::slice::from_ref(&authority), &[], effect)
}

/// Removes one certificate, if it is there.
pub(crate) fn own_bundle_remove(
    database: &mut impl Database,
    own: &TrustDomain,
    cert_der: &CertificateDer<'static>,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    own_bundle_change(database, own, effect, |bundle| {
        bundle
            .x509_authorities
            .retain(|authority| authority.cert_der != *cert_der);
    })
}

/// Authorities that are in the own bundle stay as they are, taints included.
pub(crate) fn bundle_append(
    database: &mut impl Database,
    own: &TrustDomain,
    x509_authorities: &[X509Authority],
    jwt_authorities: &[JwtAuthority],
    effect: &mut Effect,
) -> Result<(), Refusal> {
    own_bundle_change(database, own, effect, |bundle| {
        for authority in x509_authorities {
            if bundle
                .x509_authorities
                .iter()
                .all(|present| present.cert_der != authority.cert_der)
            {
                bundle.x509_authorities.push(authority.clone());
            }
        }
        for authority in jwt_authorities {
            if bundle
                .jwt_authorities
                .iter()
                .all(|present| present.key_id != authority.key_id)
            {
                bundle.jwt_authorities.push(authority.clone());
            }
        }
    })
}

pub(crate) fn bundle_create(
    database: &mut impl Database,
    own: &TrustDomain,
    bundle: &Bundle,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    // The own bundle is always there, so this guards it too.
    if bundle.trust_domain == *own || bundle_find(database, &bundle.trust_domain)?.is_some() {
        return Err(Conflict::BundleExists.into());
    }
    bundle_put(database, None, bundle.clone(), effect)
}

pub(crate) fn bundle_update(
    database: &mut impl Database,
    own: &TrustDomain,
    trust_domain: &TrustDomain,
    patch: &BundlePatch,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let present = foreign_bundle(database, own, trust_domain)?;
    let BundlePatch {
        x509_authorities,
        jwt_authorities,
        refresh_hint,
        sequence_number,
    } = patch.clone();
    let bundle = Bundle {
        trust_domain: trust_domain.clone(),
        x509_authorities: x509_authorities.unwrap_or_else(|| present.x509_authorities.clone()),
        jwt_authorities: jwt_authorities.unwrap_or_else(|| present.jwt_authorities.clone()),
        refresh_hint: refresh_hint.unwrap_or(present.refresh_hint),
        sequence_number: sequence_number.unwrap_or(present.sequence_number),
    };
    bundle_put(database, Some(&present), bundle, effect)
}

/// The own bundle cannot be set: that would drop authorities whose SVIDs are in use.
pub(crate) fn bundle_set(
    database: &mut impl Database,
    own: &TrustDomain,
    bundle: &Bundle,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    if bundle.trust_domain == *own {
        return Err(Conflict::BundleExists.into());
    }
    let present = bundle_find(database, &bundle.trust_domain)?;
    bundle_put(database, present.as_ref(), bundle.clone(), effect)
}

/// Entries go, or lose the federation, before the bundle goes.
pub(crate) fn bundle_delete(
    database: &mut impl Database,
    own: &TrustDomain,
    trust_domain: &TrustDomain,
    mode: BundleDeleteMode,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    foreign_bundle(database, own, trust_domain)?;
    let entries = entry_list_federated(database, trust_domain)?;
    match mode {
        BundleDeleteMode::Restrict if !entries.is_empty() => return Err(Conflict::BundleInUse(entries.len()).into()),
        BundleDeleteMode::Restrict => {}
        BundleDeleteMode::Delete => {
            entries
                .into_iter()
                .try_for_each(|entry| entry_remove(database, entry, time, effect))?;
        }
        BundleDeleteMode::Dissociate => {
            entries
                .iter()
                .try_for_each(|entry| entry_dissociate(database, entry, trust_domain, effect))?;
        }
    }
    database.execute(
        "DELETE FROM bundles WHERE trust_domain = ?1",
        &[trust_domain.as_str().into()],
    )?;
    effect.changed.push(Changed::Bundle(trust_domain.clone()));
    effect.deltas.push(Delta::BundleGone(trust_domain.clone()));
    Ok(())
}

fn own_bundle_change(
    database: &mut impl Database,
    own: &TrustDomain,
    effect: &mut Effect,
    change: impl FnOnce(&mut Bundle),
) -> Result<(), Refusal> {
    let present = bundle_find(database, own)?;
    let mut bundle = present.clone().unwrap_or_else(|| Bundle::empty(own.clone()));
    change(&mut bundle);
    if present.as_ref() != Some(&bundle) {
        bundle.sequence_number = bundle.sequence_number.saturating_add(1);
    }
    bundle_put(database, present.as_ref(), bundle, effect)
}

fn foreign_bundle(
    database: &mut impl Database,
    own: &TrustDomain,
    trust_domain: &TrustDomain,
) -> Result<Bundle, Refusal> {
    let found = if trust_domain == own {
        None
    } else {
        bundle_find(database, trust_domain)?
    };
    found.ok_or_else(|| Conflict::BundleNotFound.into())
}

fn bundle_find(database: &mut impl Database, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
    let rows = database.query(
        "bundles",
        "SELECT trust_domain, data FROM bundles WHERE trust_domain = ?1",
        &[trust_domain.as_str().into()],
    )?;
    rows.first().map(read).transpose()
}

/// The delta is there even if nothing changed, since callers answer with it; watchers are told of real changes only.
fn bundle_put(
    database: &mut impl Database,
    present: Option<&Bundle>,
    bundle: Bundle,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    if present != Some(&bundle) {
        bundle_write(database, &bundle)?;
        effect.changed.push(Changed::Bundle(bundle.trust_domain.clone()));
    }
    effect.deltas.push(Delta::BundlePut(bundle.into()));
    Ok(())
}

fn bundle_write(database: &mut impl Database, bundle: &Bundle) -> Result<(), StoreError> {
    let data = serde_json::to_string(&Stored::from(bundle)).expect("a bundle has string keys and finite numbers only");
    database.execute(
        "INSERT INTO bundles (trust_domain, data) VALUES (?1, ?2)
         ON CONFLICT (trust_domain) DO UPDATE SET data = excluded.data",
        &[bundle.trust_domain.as_str().into(), data.into()],
    )?;
    Ok(())
}

/// A bundle as JSON. The SPIFFE format would lose taints and times of expiry.
#[derive(Serialize, Deserialize)]
struct Stored {
    x509_authorities: Vec<StoredX509>,
    jwt_authorities: Vec<StoredJwt>,
    refresh_hint: i64,
    sequence_number: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredX509 {
    cert_der_hex: String,
    tainted: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredJwt {
    key_id: String,
    public_key_der_hex: String,
    expires_at: Option<Timestamp>,
    tainted: bool,
}

impl From<&Bundle> for Stored {
    fn from(bundle: &Bundle) -> Self {
        let Bundle {
            trust_domain: _,
            x509_authorities,
            jwt_authorities,
            refresh_hint,
            sequence_number,
        } = bundle;
        let x509 = |X509Authority { cert_der, tainted }: &_| StoredX509 {
            cert_der_hex: hex::encode(cert_der),
            tainted: *tainted,
        };
        let jwt = |JwtAuthority {
                       key_id,
                       public_key_der,
                       expires_at,
                       tainted,
                   }: &_| StoredJwt {
            key_id: String::clone(key_id),
            public_key_der_hex: hex::encode(public_key_der),
            expires_at: *expires_at,
            tainted: *tainted,
        };
        Self {
            x509_authorities: x509_authorities.iter().map(x509).collect(),
            jwt_authorities: jwt_authorities.iter().map(jwt).collect(),
            refresh_hint: *refresh_hint,
            sequence_number: *sequence_number,
        }
    }
}

fn read(row: &Row) -> Result<Bundle, StoreError> {
    let stored: Stored = row.json(1)?;
    let bytes = |text: &str| hex::decode(text).map_err(|error| row.corrupt(error.to_string()));
    let x509 = |authority: StoredX509| {
        let cert_der = CertificateDer::from(bytes(&authority.cert_der_hex)?);
        Ok(X509Authority {
            cert_der,
            tainted: authority.tainted,
        })
    };
    let jwt = |authority: StoredJwt| {
        let public_key_der = bytes(&authority.public_key_der_hex)?;
        let StoredJwt {
            key_id,
            expires_at,
            tainted,
            ..
        } = authority;
        Ok(JwtAuthority {
            key_id,
            public_key_der,
            expires_at,
            tainted,
        })
    };
    Ok(Bundle {
        trust_domain: row.parse(0)?,
        x509_authorities: stored
            .x509_authorities
            .into_iter()
            .map(x509)
            .collect::<Result<_, StoreError>>()?,
        jwt_authorities: stored
            .jwt_authorities
            .into_iter()
            .map(jwt)
            .collect::<Result<_, StoreError>>()?,
        refresh_hint: stored.refresh_hint,
        sequence_number: stored.sequence_number,
    })
}
