//! Revocation lists (RFC 5280 §5) as the Workload API carries them.
//!
//! A list is read and its signature checked once, when it comes; handshakes look serial numbers up in a set of our own.

use std::collections::{HashMap, HashSet};

use mayfly_svid::{Bundle, Serial, TrustDomain};
use tracing::warn;
use webpki::BorrowedCertRevocationList;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// The newest list of each authority.
#[derive(Debug, Default)]
pub(crate) struct Crls {
    /// By the public key of the authority: names can be the same, keys are not.
    lists: HashMap<Vec<u8>, Crl>,
    /// What was read last, to read nothing twice.
    seen: Vec<Vec<u8>>,
}

/// One list.
#[derive(Debug)]
struct Crl {
    trust_domain: TrustDomain,
    /// Big-endian, without leading zeros.
    number: Vec<u8>,
    serials: HashSet<Serial>,
}

/// Why a list does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CrlError {
    #[error("not a revocation list, or one with features that are not known here")]
    Malformed,
    #[error("it has no number")]
    NoNumber,
    #[error("no authority of a known bundle signed it")]
    UnknownAuthority,
}

impl Crls {
    /// Takes over `lists`, DER each, which `bundles` have to vouch for. A list that is older than the known one of its
    /// authority does not count, nor does one that is missing now take anything back. Lists of authorities that are
    /// in no bundle any more are forgotten, as nothing they signed is accepted. Returns whether anything changed.
    pub(crate) fn update(&mut self, lists: &[Vec<u8>], bundles: &[Bundle], bundles_changed: bool) -> bool {
        if lists == self.seen && !bundles_changed {
            return false;
        }
        self.seen = lists.to_vec();
        let mut changed = false;
        for der in lists {
            match read(der, bundles) {
                Ok((key, crl)) => match self.lists.get(&key) {
                    Some(known) if !is_newer(&crl.number, &known.number) => {}
                    _ => {
                        self.lists.insert(key, crl);
                        changed = true;
                    }
                },
                Err(error) => warn!(%error, "a revocation list is ignored"),
            }
        }
        let keys: HashSet<Vec<u8>> = authorities(bundles).map(|(_, key, _)| key).collect();
        self.lists.retain(|key, _| keys.contains(key));
        changed
    }

    /// Whether an authority of `trust_domain` lists `serial`.
    pub(crate) fn contains(&self, trust_domain: &str, serial: &Serial) -> bool {
        self.lists
            .values()
            .any(|crl| crl.trust_domain.as_str() == trust_domain && crl.serials.contains(serial))
    }

    /// How many serial numbers are listed.
    pub(crate) fn len(&self) -> usize {
        self.lists.values().map(|crl| crl.serials.len()).sum()
    }
}

fn is_newer(number: &[u8], known: &[u8]) -> bool {
    (number.len(), number) > (known.len(), known)
}

/// Trust domain, public key (SubjectPublicKeyInfo, DER) and certificate of each authority that can be read.
fn authorities(bundles: &[Bundle]) -> impl Iterator<Item = (&TrustDomain, Vec<u8>, X509Certificate<'_>)> {
    bundles.iter().flat_map(|bundle| {
        bundle.x509_authorities.iter().filter_map(|authority| {
            let (_, certificate) = X509Certificate::from_der(&authority.cert_der).ok()?;
            Some((&bundle.trust_domain, certificate.public_key().raw.to_vec(), certificate))
        })
    })
}

fn read(der: &[u8], bundles: &[Bundle]) -> Result<(Vec<u8>, Crl), CrlError> {
    // The parser that the entries are read with passes over what it does not know, such as a critical extension.
    BorrowedCertRevocationList::from_der(der).map_err(|_| CrlError::Malformed)?;
    let Ok(([], list)) = CertificateRevocationList::from_der(der) else {
        return Err(CrlError::Malformed);
    };
    let number = list.crl_number().ok_or(CrlError::NoNumber)?.to_bytes_be();
    let issuer = list.issuer().as_raw();
    let (trust_domain, key, _) = authorities(bundles)
        .filter(|(_, _, certificate)| certificate.subject().as_raw() == issuer)
        .find(|(_, _, certificate)| list.verify_signature(certificate.public_key()).is_ok())
        .ok_or(CrlError::UnknownAuthority)?;
    let serials = list
        .iter_revoked_certificates()
        .map(|revoked| Serial::from_be_bytes(revoked.raw_serial()).map_err(|_| CrlError::Malformed))
        .collect::<Result<_, _>>()?;
    let crl = Crl {
        trust_domain: trust_domain.clone(),
        number,
        serials,
    };
    Ok((key, crl))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::tests::TestCa;

    #[test]
    fn a_list_counts_for_its_own_trust_domain_and_only_if_an_authority_signed_it() {
        let (ca, other) = (TestCa::new("td"), TestCa::new("other"));
        let bundles = [ca.bundle(), other.bundle()];
        let serial = Serial::from_be_bytes(&[5]).unwrap();
        let mut crls = Crls::default();
        assert!(crls.update(&[ca.crl(1, &[5])], &bundles, true));
        assert!(crls.contains("td", &serial));
        assert!(!crls.contains("other", &serial));
        assert!(!crls.contains("td", &Serial::from_be_bytes(&[6]).unwrap()));
        assert_eq!(crls.len(), 1);

        // Nobody knows who signed it; a byte of the signature is another one; it is junk.
        let mut wrong = ca.crl(2, &[6]);
        *wrong.last_mut().unwrap() ^= 1;
        let lists = [TestCa::new("td").crl(3, &[6]), wrong, vec![0x30, 0]];
        let mut crls = Crls::default();
        assert!(!crls.update(&lists, &bundles, true));
        assert_eq!(crls.len(), 0);
        assert_eq!(read(&lists[0], &bundles).err(), Some(CrlError::UnknownAuthority));
        assert_eq!(read(&lists[2], &bundles).err(), Some(CrlError::Malformed));
    }

    #[test]
    fn an_older_list_takes_nothing_back_and_neither_does_a_missing_one() {
        let ca = TestCa::new("td");
        let bundles = [ca.bundle()];
        let has = |crls: &Crls, serial: u8| crls.contains("td", &Serial::from_be_bytes(&[serial]).unwrap());
        let mut crls = Crls::default();
        crls.update(&[ca.crl(9, &[5])], &bundles, true);
        assert!(!crls.update(&[ca.crl(8, &[])], &bundles, false));
        assert!(!crls.update(&[], &bundles, false));
        assert!(has(&crls, 5));
        assert!(crls.update(&[ca.crl(256, &[6])], &bundles, false), "256 is more than 9");
        assert!(has(&crls, 6) && !has(&crls, 5));
        assert!(!crls.update(&[ca.crl(256, &[6])], &bundles, false), "read once");
        // The authority left the bundle.
        crls.update(&[], &[], true);
        assert_eq!(crls.len(), 0);
    }
}
