//! What is asked for, and whether what came is that: keys, CSRs, and the checks before a certificate is used.

use mayfly_svid::verify::{VerifyError, verify_x509_svid};
use mayfly_svid::{Bundle, SpiffeId, Timestamp, TrustAnchors, X509Svid};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

/// A fresh P-256 key.
pub(crate) struct NewKey {
    /// SubjectPublicKeyInfo, DER.
    public_key_der: Vec<u8>,
    /// PKCS#8, DER.
    pub(crate) private_key_der: Zeroizing<Vec<u8>>,
}

impl NewKey {
    /// Makes a key and a CSR for it. The CSR names nobody: the server takes the names from the entry.
    ///
    /// # Errors
    /// The system's randomness fails.
    pub(crate) fn generate() -> Result<(Self, Vec<u8>), rcgen::Error> {
        let mut pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&pair)?;
        let key = Self {
            public_key_der: pair.subject_public_key_info(),
            private_key_der: Zeroizing::new(pair.serialize_der()),
        };
        zeroize::Zeroize::zeroize(&mut pair);
        Ok((key, csr.der().to_vec()))
    }
}

/// The authorities of the own bundle, each for itself, so that it is known which of them an SVID hangs on.
pub(crate) struct Authorities {
    /// The most likely signer first: the newest that is not tainted.
    each: Vec<Authority>,
    all: TrustAnchors,
}

struct Authority {
    cert_der: CertificateDer<'static>,
    tainted: bool,
    anchors: TrustAnchors,
}

/// What a bundle says of an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Trusted,
    Tainted,
    Gone,
}

/// Why a certificate is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FaultySvid {
    #[error("the certificate does not verify against the own bundle")]
    NotVerified(#[from] VerifyError),
    #[error("the certificate is for `{got}`")]
    OtherId { got: SpiffeId },
    #[error("the certificate is for another key")]
    OtherKey,
    #[error("no single authority of the own bundle leads to the certificate")]
    NoAuthority,
}

impl Authorities {
    pub(crate) fn of(bundle: &Bundle) -> Self {
        let mut each: Vec<Authority> = bundle
            .x509_authorities
            .iter()
            .rev()
            .map(|authority| Authority {
                cert_der: authority.cert_der.clone(),
                tainted: authority.tainted,
                anchors: TrustAnchors::from_bundle(&Bundle {
                    x509_authorities: vec![authority.clone()],
                    ..Bundle::empty(bundle.trust_domain.clone())
                }),
            })
            .collect();
        each.sort_by_key(|authority| authority.tainted);
        Self {
            each,
            all: TrustAnchors::from_bundle(bundle),
        }
    }

    pub(crate) fn standing(&self, cert_der: &CertificateDer<'_>) -> Standing {
        match self.each.iter().find(|authority| authority.cert_der == *cert_der) {
            Some(authority) if authority.tainted => Standing::Tainted,
            Some(_) => Standing::Trusted,
            None => Standing::Gone,
        }
    }

    /// Checks what the server sent for `id` and `key`; returns it and the authority that it hangs on.
    ///
    /// Where this machine's clock is behind the server's, the certificate begins in our future. It is taken all the
    /// same, as it is peers who judge it, by clocks of their own.
    ///
    /// # Errors
    /// It is not that SVID, or nothing that peers would accept now.
    pub(crate) fn check(
        &self,
        chain: &[CertificateDer<'static>],
        id: &SpiffeId,
        key: &NewKey,
        now: Timestamp,
    ) -> Result<(X509Svid, CertificateDer<'static>), FaultySvid> {
        let begins = X509Svid::from_chain(chain.to_vec()).map(|svid| svid.not_before());
        let now = begins.map_or(now, |begins| begins.max(now));
        let verified = self.each.iter().find_map(|authority| {
            let svid = verify_x509_svid(chain, &authority.anchors, now).ok()?;
            Some((svid, authority.cert_der.clone()))
        });
        let (mut svid, authority) = match verified {
            Some(verified) => verified,
            // Against all of them at once, for an error that says what is wrong.
            None => {
                return Err(verify_x509_svid(chain, &self.all, now)
                    .err()
                    .map_or(FaultySvid::NoAuthority, Into::into));
            }
        };
        if svid.spiffe_id() != id {
            return Err(FaultySvid::OtherId {
                got: svid.spiffe_id().clone(),
            });
        }
        if svid.public_key_der() != key.public_key_der {
            return Err(FaultySvid::OtherKey);
        }
        // IOP-08: some servers send the authority along; it belongs in the bundle only.
        if svid.chain().len() > 1 && svid.chain().last() == Some(&authority) {
            let without = svid.chain()[..svid.chain().len() - 1].to_vec();
            svid = X509Svid::from_chain(without).map_err(VerifyError::from)?;
        }
        Ok((svid, authority))
    }
}
