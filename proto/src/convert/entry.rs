//! Entries.

use mayfly_model::{AdditionalAttributes, Entry, EntryId, EntryPatch, EntrySpec};
use mayfly_svid::{Timestamp, TrustDomain};

use super::{ConvertError, selectors, spiffe_id, trust_domain, ttl, ttl_to_wire};
use crate::spire::types;

impl TryFrom<&types::Entry> for EntrySpec {
    type Error = ConvertError;

    /// Reads what an operator states of an entry; `id`, `revision_number` and `created_at` are not part of it.
    fn try_from(wire: &types::Entry) -> Result<Self, ConvertError> {
        Ok(Self {
            spiffe_id: spiffe_id("entry.spiffe_id", wire.spiffe_id.as_ref())?,
            parent_id: spiffe_id("entry.parent_id", wire.parent_id.as_ref())?,
            selectors: selectors("entry.selectors", &wire.selectors)?,
            x509_svid_ttl: ttl("entry.x509_svid_ttl", wire.x509_svid_ttl)?,
            jwt_svid_ttl: ttl("entry.jwt_svid_ttl", wire.jwt_svid_ttl)?,
            federates_with: federates_with(&wire.federates_with)?,
            admin: wire.admin,
            downstream: wire.downstream,
            expires_at: expires_at(wire.expires_at)?,
            dns_names: wire.dns_names.clone(),
            store_svid: wire.store_svid,
            hint: wire.hint.clone(),
            additional_attributes: wire.additional_attributes.as_ref().map(AdditionalAttributes::from),
        })
    }
}

impl TryFrom<&types::Entry> for Entry {
    type Error = ConvertError;

    /// Reads an entry as a server sends it.
    fn try_from(wire: &types::Entry) -> Result<Self, ConvertError> {
        Ok(Self {
            id: wire
                .id
                .parse::<EntryId>()
                .map_err(|error| ConvertError::new("entry.id", error))?,
            spec: wire.try_into()?,
            created_at: Timestamp::from_unix(wire.created_at),
            revision_number: wire.revision_number,
        })
    }
}

impl From<&Entry> for types::Entry {
    fn from(entry: &Entry) -> Self {
        // Destructured, so that a new field cannot be forgotten on the wire.
        let EntrySpec {
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl,
            jwt_svid_ttl,
            federates_with,
            admin,
            downstream,
            expires_at,
            dns_names,
            store_svid,
            hint,
            additional_attributes,
        } = &entry.spec;
        Self {
            id: entry.id.to_string(),
            spiffe_id: Some(spiffe_id.into()),
            parent_id: Some(parent_id.into()),
            selectors: selectors.iter().map(Into::into).collect(),
            x509_svid_ttl: ttl_to_wire(*x509_svid_ttl),
            federates_with: federates_with.iter().map(ToString::to_string).collect(),
            admin: *admin,
            downstream: *downstream,
            expires_at: expires_at.map_or(0, Timestamp::unix),
            dns_names: dns_names.clone(),
            revision_number: entry.revision_number,
            store_svid: *store_svid,
            jwt_svid_ttl: ttl_to_wire(*jwt_svid_ttl),
            hint: hint.clone(),
            created_at: entry.created_at.unix(),
            additional_attributes: additional_attributes.as_ref().map(Into::into),
        }
    }
}

impl From<&types::entry::AdditionalAttributes> for AdditionalAttributes {
    fn from(wire: &types::entry::AdditionalAttributes) -> Self {
        Self {
            disable_x509_svid_prefetch: wire.disable_x509_svid_prefetch,
            jwt_svid_include_jti: wire.jwt_svid_include_jti,
        }
    }
}

impl From<&AdditionalAttributes> for types::entry::AdditionalAttributes {
    fn from(attributes: &AdditionalAttributes) -> Self {
        Self {
            disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
            jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        }
    }
}

/// Reads the fields of `wire` that `mask` names as an update; without a mask, all of them.
///
/// # Errors
/// A named field is not acceptable; fields that the mask leaves out are not looked at.
pub fn entry_patch(wire: &types::Entry, mask: Option<&types::EntryMask>) -> Result<EntryPatch, ConvertError> {
    let all = types::EntryMask {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        revision_number: false,
        store_svid: true,
        jwt_svid_ttl: true,
        hint: true,
        created_at: false,
        additional_attributes: true,
    };
    let mask = mask.unwrap_or(&all);
    Ok(EntryPatch {
        spiffe_id: given(mask.spiffe_id, || spiffe_id("entry.spiffe_id", wire.spiffe_id.as_ref()))?,
        parent_id: given(mask.parent_id, || spiffe_id("entry.parent_id", wire.parent_id.as_ref()))?,
        selectors: given(mask.selectors, || selectors("entry.selectors", &wire.selectors))?,
        x509_svid_ttl: given(mask.x509_svid_ttl, || ttl("entry.x509_svid_ttl", wire.x509_svid_ttl))?,
        jwt_svid_ttl: given(mask.jwt_svid_ttl, || ttl("entry.jwt_svid_ttl", wire.jwt_svid_ttl))?,
        federates_with: given(mask.federates_with, || federates_with(&wire.federates_with))?,
        admin: mask.admin.then_some(wire.admin),
        downstream: mask.downstream.then_some(wire.downstream),
        expires_at: given(mask.expires_at, || expires_at(wire.expires_at))?,
        dns_names: mask.dns_names.then(|| wire.dns_names.clone()),
        store_svid: mask.store_svid.then_some(wire.store_svid),
        hint: mask.hint.then(|| wire.hint.clone()),
        additional_attributes: mask
            .additional_attributes
            .then(|| wire.additional_attributes.as_ref().map(AdditionalAttributes::from)),
    })
}

fn given<T>(masked: bool, read: impl FnOnce() -> Result<T, ConvertError>) -> Result<Option<T>, ConvertError> {
    if masked { read().map(Some) } else { Ok(None) }
}

fn federates_with(wire: &[String]) -> Result<Vec<TrustDomain>, ConvertError> {
    let mut names = wire
        .iter()
        .map(|name| trust_domain("entry.federates_with", name))
        .collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn expires_at(seconds: i64) -> Result<Option<Timestamp>, ConvertError> {
    match seconds {
        0 => Ok(None),
        1.. => Ok(Some(Timestamp::from_unix(seconds))),
        _ => Err(ConvertError::new("entry.expires_at", "lies before 1970")),
    }
}

impl types::EntryMask {
    /// `wire` with only `id` and the fields that this mask names.
    pub fn project(&self, wire: types::Entry) -> types::Entry {
        types::Entry {
            id: wire.id,
            spiffe_id: wire.spiffe_id.filter(|_| self.spiffe_id),
            parent_id: wire.parent_id.filter(|_| self.parent_id),
            selectors: keep(self.selectors, wire.selectors),
            x509_svid_ttl: keep(self.x509_svid_ttl, wire.x509_svid_ttl),
            federates_with: keep(self.federates_with, wire.federates_with),
            admin: keep(self.admin, wire.admin),
            downstream: keep(self.downstream, wire.downstream),
            expires_at: keep(self.expires_at, wire.expires_at),
            dns_names: keep(self.dns_names, wire.dns_names),
            revision_number: keep(self.revision_number, wire.revision_number),
            store_svid: keep(self.store_svid, wire.store_svid),
            jwt_svid_ttl: keep(self.jwt_svid_ttl, wire.jwt_svid_ttl),
            hint: keep(self.hint, wire.hint),
            created_at: keep(self.created_at, wire.created_at),
            additional_attributes: wire.additional_attributes.filter(|_| self.additional_attributes),
        }
    }
}

pub(super) fn keep<T: Default>(masked: bool, value: T) -> T {
    if masked { value } else { T::default() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn wire() -> types::Entry {
        let id = |path: &str| {
            Some(types::Spiffeid {
                trust_domain: "td".into(),
                path: path.into(),
            })
        };
        types::Entry {
            id: "e1".into(),
            spiffe_id: id("/web"),
            parent_id: id("/spire/agent/x509pop/a"),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: "uid:1".into(),
            }],
            x509_svid_ttl: 60,
            federates_with: vec!["b.example".into(), "c.example".into()],
            admin: true,
            downstream: true,
            expires_at: 2_000_000_000,
            dns_names: vec!["a.example".into()],
            revision_number: 7,
            store_svid: true,
            jwt_svid_ttl: 90,
            hint: "internal".into(),
            created_at: 1_900_000_000,
            additional_attributes: Some(types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: false,
                jwt_svid_include_jti: true,
            }),
        }
    }

    #[test]
    fn every_field_survives_the_round_trip() {
        let entry = Entry::try_from(&wire()).unwrap();
        assert_eq!(types::Entry::from(&entry), wire());
        assert!(entry.prefetch());
    }

    #[test]
    fn a_patch_holds_only_what_the_mask_names_and_does_not_read_the_rest() {
        let mut odd = wire();
        odd.spiffe_id = None;
        odd.selectors = vec![types::Selector::default()];
        let mask = types::EntryMask {
            x509_svid_ttl: true,
            hint: true,
            ..Default::default()
        };
        let patch = entry_patch(&odd, Some(&mask)).unwrap();
        assert_eq!(patch.x509_svid_ttl, Some(Some(Duration::from_secs(60))));
        assert_eq!(patch.hint.as_deref(), Some("internal"));
        assert!(patch.spiffe_id.is_none() && patch.selectors.is_none() && patch.admin.is_none());
        assert!(entry_patch(&odd, None).is_err());
    }

    #[test]
    fn an_output_mask_leaves_the_id_and_what_it_names() {
        let mask = types::EntryMask {
            hint: true,
            ..Default::default()
        };
        let projected = mask.project(wire());
        assert_eq!(
            projected,
            types::Entry {
                id: "e1".into(),
                hint: "internal".into(),
                ..Default::default()
            }
        );
    }

    #[test]
    fn bad_fields_are_named() {
        type Spoil = fn(&mut types::Entry);
        let cases: [(&str, Spoil); 5] = [
            ("entry.spiffe_id", |e| e.spiffe_id = None),
            ("entry.parent_id", |e| e.parent_id = None),
            ("entry.selectors", |e| e.selectors[0].value.clear()),
            ("entry.x509_svid_ttl", |e| e.x509_svid_ttl = -1),
            ("entry.expires_at", |e| e.expires_at = -1),
        ];
        for (field, break_it) in cases {
            let mut entry = wire();
            break_it(&mut entry);
            assert_eq!(EntrySpec::try_from(&entry).unwrap_err().field(), field);
        }
    }
}
