//! Revocation lists, the newest of each authority.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::warn;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// More authorities than a trust domain has at a time.
const MOST: usize = 64;

/// Who issued a list: its name, and its key's ID if the list says so.
type Issuer = (Vec<u8>, Vec<u8>);

/// The lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Crls {
    lists: Arc<BTreeMap<Issuer, List>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    /// When it was issued, Unix seconds, and its number.
    age: (i64, Vec<u8>),
    der: Vec<u8>,
}

impl Crls {
    /// Each as it was received.
    pub(super) fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.lists.values().map(|list| list.der.as_slice())
    }

    /// Takes over `new` lists; with `snapshot` they are all. Says whether anything is different.
    pub(super) fn apply(&mut self, snapshot: bool, new: Vec<Vec<u8>>) -> bool {
        if new.is_empty() && (!snapshot || self.lists.is_empty()) {
            return false;
        }
        let mut next = if snapshot {
            BTreeMap::new()
        } else {
            BTreeMap::clone(&self.lists)
        };
        for der in new {
            let Some((issuer, list)) = read(der) else {
                warn!("a revocation list cannot be read and is left out");
                continue;
            };
            // Never back to an older one: that would take revocations back.
            let known = next.get(&issuer).or_else(|| self.lists.get(&issuer));
            let list = known.filter(|known| known.age > list.age).cloned().unwrap_or(list);
            next.insert(issuer, list);
        }
        while next.len() > MOST {
            let oldest = next.iter().min_by(|(_, a), (_, b)| a.age.cmp(&b.age));
            let Some(oldest) = oldest.map(|(issuer, _)| issuer.clone()) else {
                break;
            };
            next.remove(&oldest);
        }
        let changed = next != *self.lists;
        self.lists = Arc::new(next);
        changed
    }
}

fn read(der: Vec<u8>) -> Option<(Issuer, List)> {
    let (rest, crl) = CertificateRevocationList::from_der(&der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let key_id = crl
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
    let issuer = (crl.issuer().as_raw().to_vec(), key_id.unwrap_or_default());
    // Numbers of equal length compare as their bytes do.
    let number = crl.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default();
    let number = [vec![0; 20_usize.saturating_sub(number.len())], number].concat();
    let age = (crl.last_update().timestamp(), number);
    Some((issuer, List { age, der }))
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber};
    use time::{Duration, OffsetDateTime};

    use super::*;
    use crate::svids::testing::{Ca, ca};

    /// An empty list of this authority.
    pub(crate) fn crl(ca: &Ca, number: u64) -> Vec<u8> {
        let this_update = OffsetDateTime::from_unix_timestamp(1_750_000_000).unwrap();
        let params = CertificateRevocationListParams {
            this_update,
            next_update: this_update + Duration::hours(1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(ca).unwrap().der().to_vec()
    }

    #[test]
    fn each_authority_has_its_newest_list() {
        let (one, two) = (ca("one"), ca("two"));
        let mut crls = Crls::default();
        assert!(!crls.apply(true, vec![]));
        let (of_two, newest) = (crl(&two, 1), crl(&one, 300));
        assert!(crls.apply(false, vec![crl(&one, 1), of_two.clone()]));
        assert!(crls.apply(false, vec![newest.clone()]));
        assert!(!crls.apply(false, vec![crl(&one, 2)]), "never back to an older one");
        assert!(!crls.apply(false, vec![b"nonsense".to_vec()]));
        let held: Vec<_> = crls.all().map(<[u8]>::to_vec).collect();
        assert_eq!(held.len(), 2);
        assert!(held.contains(&newest) && held.contains(&of_two));
        assert!(crls.apply(true, vec![of_two]), "a snapshot has all there are");
        assert_eq!(crls.all().count(), 1);
    }
}
