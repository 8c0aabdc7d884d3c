//! Bundles, and the SVIDs that go with them.

use mayfly_model::BundlePatch;
use mayfly_svid::{Bundle, JwtAuthority, Timestamp, X509Authority, X509Svid};

use super::entry::keep;
use super::{ConvertError, trust_domain};
use crate::spire::types;

/// More authorities than this in one bundle are refused.
const MAX_AUTHORITIES: usize = 1000;

impl TryFrom<&types::Bundle> for Bundle {
    type Error = ConvertError;

    /// Reads a bundle. That each X.509 authority is a usable certificate is checked where trust is decided
    /// (`mayfly_svid::TrustAnchors`), not here.
    fn try_from(wire: &types::Bundle) -> Result<Self, ConvertError> {
        Ok(Self {
            trust_domain: trust_domain("bundle.trust_domain", &wire.trust_domain)?,
            x509_authorities: x509_authorities(&wire.x509_authorities)?,
            jwt_authorities: jwt_authorities(&wire.jwt_authorities)?,
            refresh_hint: refresh_hint(wire.refresh_hint)?,
            sequence_number: wire.sequence_number,
        })
    }
}

impl From<&Bundle> for types::Bundle {
    fn from(bundle: &Bundle) -> Self {
        let x509 = |authority: &X509Authority| types::X509Certificate {
            asn1: authority.cert_der.to_vec(),
            tainted: authority.tainted,
        };
        let jwt = |key: &JwtAuthority| types::JwtKey {
            public_key: key.public_key_der.clone(),
            key_id: key.key_id.clone(),
            expires_at: key.expires_at.map_or(0, Timestamp::unix),
            tainted: key.tainted,
        };
        Self {
            trust_domain: bundle.trust_domain.to_string(),
            x509_authorities: bundle.x509_authorities.iter().map(x509).collect(),
            jwt_authorities: bundle.jwt_authorities.iter().map(jwt).collect(),
            refresh_hint: bundle.refresh_hint,
            sequence_number: bundle.sequence_number,
            wit_authorities: vec![],
        }
    }
}

/// Reads the parts of `wire` that `mask` names as an update; without a mask, all of them.
///
/// # Errors
/// A named part is not acceptable.
pub fn bundle_patch(wire: &types::Bundle, mask: Option<&types::BundleMask>) -> Result<BundlePatch, ConvertError> {
    let all = types::BundleMask {
        x509_authorities: true,
        jwt_authorities: true,
        refresh_hint: true,
        sequence_number: true,
        wit_authorities: true,
    };
    let mask = mask.unwrap_or(&all);
    let x509 = mask
        .x509_authorities
        .then(|| x509_authorities(&wire.x509_authorities))
        .transpose()?;
    let jwt = mask
        .jwt_authorities
        .then(|| jwt_authorities(&wire.jwt_authorities))
        .transpose()?;
    Ok(BundlePatch {
        x509_authorities: x509,
        jwt_authorities: jwt,
        refresh_hint: mask.refresh_hint.then(|| refresh_hint(wire.refresh_hint)).transpose()?,
        sequence_number: mask.sequence_number.then_some(wire.sequence_number),
    })
}

/// Reads signing certificates; duplicates collapse to the first.
///
/// # Errors
/// One is empty, or there are more than 1000.
pub fn x509_authorities(wire: &[types::X509Certificate]) -> Result<Vec<X509Authority>, ConvertError> {
    const FIELD: &str = "bundle.x509_authorities";
    if wire.len() > MAX_AUTHORITIES {
        return Err(ConvertError::new(
            FIELD,
            format!("holds {} certificates, at most 1000 are allowed", wire.len()),
        ));
    }
    let mut authorities: Vec<X509Authority> = Vec::with_capacity(wire.len());
    for certificate in wire {
        if certificate.asn1.is_empty() {
            return Err(ConvertError::new(FIELD, "holds an empty certificate"));
        }
        let cert_der = certificate.asn1.clone().into();
        if !authorities.iter().any(|known| known.cert_der == cert_der) {
            authorities.push(X509Authority {
                cert_der,
                tainted: certificate.tainted,
            });
        }
    }
    Ok(authorities)
}

/// Reads JWT keys.
///
/// # Errors
/// One has no key or no key ID, a key ID repeats, or there are more than 1000.
pub fn jwt_authorities(wire: &[types::JwtKey]) -> Result<Vec<JwtAuthority>, ConvertError> {
    const FIELD: &str = "bundle.jwt_authorities";
    if wire.len() > MAX_AUTHORITIES {
        return Err(ConvertError::new(
            FIELD,
            format!("holds {} keys, at most 1000 are allowed", wire.len()),
        ));
    }
    let mut authorities: Vec<JwtAuthority> = Vec::with_capacity(wire.len());
    for key in wire {
        if key.key_id.is_empty() || key.public_key.is_empty() {
            return Err(ConvertError::new(FIELD, "holds a key without key_id or public_key"));
        }
        if authorities.iter().any(|known| known.key_id == key.key_id) {
            return Err(ConvertError::new(
                FIELD,
                format!("holds two keys with the key_id `{}`", key.key_id),
            ));
        }
        authorities.push(JwtAuthority {
            key_id: key.key_id.clone(),
            public_key_der: key.public_key.clone(),
            expires_at: (key.expires_at > 0).then(|| Timestamp::from_unix(key.expires_at)),
            tainted: key.tainted,
        });
    }
    Ok(authorities)
}

fn refresh_hint(seconds: i64) -> Result<i64, ConvertError> {
    if seconds < 0 {
        return Err(ConvertError::new("bundle.refresh_hint", "is negative"));
    }
    Ok(seconds)
}

impl types::BundleMask {
    /// `wire` with only `trust_domain` and the parts that this mask names.
    pub fn project(&self, wire: types::Bundle) -> types::Bundle {
        types::Bundle {
            trust_domain: wire.trust_domain,
            x509_authorities: keep(self.x509_authorities, wire.x509_authorities),
            jwt_authorities: keep(self.jwt_authorities, wire.jwt_authorities),
            refresh_hint: keep(self.refresh_hint, wire.refresh_hint),
            sequence_number: keep(self.sequence_number, wire.sequence_number),
            wit_authorities: keep(self.wit_authorities, wire.wit_authorities),
        }
    }
}

impl From<&X509Svid> for types::X509svid {
    fn from(svid: &X509Svid) -> Self {
        Self {
            cert_chain: svid.chain().iter().map(|cert| cert.to_vec()).collect(),
            id: Some(svid.spiffe_id().into()),
            expires_at: svid.not_after().unix(),
            hint: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> types::Bundle {
        types::Bundle {
            trust_domain: "td".into(),
            x509_authorities: vec![types::X509Certificate {
                asn1: vec![1, 2],
                tainted: true,
            }],
            jwt_authorities: vec![types::JwtKey {
                public_key: vec![3],
                key_id: "k".into(),
                expires_at: 9,
                tainted: false,
            }],
            refresh_hint: 300,
            sequence_number: 4,
            wit_authorities: vec![],
        }
    }

    #[test]
    fn every_part_survives_the_round_trip() {
        assert_eq!(types::Bundle::from(&Bundle::try_from(&wire()).unwrap()), wire());
    }

    #[test]
    fn hostile_bundles_are_refused_with_the_field() {
        type Spoil = fn(&mut types::Bundle);
        let cases: [(&str, Spoil); 5] = [
            ("bundle.trust_domain", |b| b.trust_domain = "a b".into()),
            ("bundle.x509_authorities", |b| b.x509_authorities[0].asn1.clear()),
            ("bundle.x509_authorities", |b| {
                b.x509_authorities = vec![b.x509_authorities[0].clone(); 1001]
            }),
            ("bundle.jwt_authorities", |b| {
                b.jwt_authorities = vec![b.jwt_authorities[0].clone(); 2]
            }),
            ("bundle.refresh_hint", |b| b.refresh_hint = -1),
        ];
        for (field, break_it) in cases {
            let mut bundle = wire();
            break_it(&mut bundle);
            assert_eq!(Bundle::try_from(&bundle).unwrap_err().field(), field);
        }
    }

    #[test]
    fn masks_select_parts_for_reading_and_for_writing() {
        let mask = types::BundleMask {
            refresh_hint: true,
            ..Default::default()
        };
        let patch = bundle_patch(&wire(), Some(&mask)).unwrap();
        assert!(patch.x509_authorities.is_none() && patch.refresh_hint == Some(300));
        let projected = mask.project(wire());
        assert!(projected.x509_authorities.is_empty() && projected.refresh_hint == 300);
    }
}
