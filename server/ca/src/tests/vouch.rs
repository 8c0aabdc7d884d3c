//! An older authority vouches for a newer one.

use super::*;

struct Made {
    cert: CertificateDer<'static>,
    signer: Arc<dyn Signer>,
}

async fn made(at: Timestamp) -> Made {
    let signer = signer(KeyType::EcP256).await;
    let cert = create_authority(&td(), signer.clone(), 24 * HOUR, at, &random_serial()).unwrap();
    Made { cert, signer }
}

impl Made {
    fn issuer(&self) -> Issuer {
        Issuer::new(td(), self.cert.clone(), self.signer.clone()).unwrap()
    }

    fn vouches_for(&self, other: &Self, until: Timestamp) -> CertificateDer<'static> {
        let by = Voucher {
            cert_der: &self.cert,
            signer: self.signer.clone(),
        };
        vouch(&td(), &other.cert, by, until, &random_serial()).unwrap()
    }
}

// Attack 24
#[tokio::test]
async fn who_knows_an_older_authority_only_believes_the_one_that_it_vouches_for() {
    let back = NOW.minus(Duration::from_secs(600));
    // The clock was set back, so the newer one begins before the older one.
    let (older, newer, stranger) = (made(NOW).await, made(back).await, made(NOW).await);
    let issuer = newer.issuer();
    let leaf = issuer.sign(
        issuer
            .prepare(request("spiffe://td.example/spire/server"), back)
            .unwrap(),
    );
    let leaf = leaf.unwrap();
    let vouched = older.vouches_for(&newer, leaf.not_after());
    let (alone, chain) = (
        leaf.chain().to_vec(),
        [leaf.chain(), std::slice::from_ref(&vouched)].concat(),
    );
    let believes = |who: &Made, chain: &[CertificateDer<'static>], at: Timestamp| {
        verify_x509_svid(chain, &anchors(&who.issuer()), at).is_ok()
    };
    assert!(!believes(&older, &alone, NOW));
    assert!(believes(&older, &chain, NOW), "by the right clock");
    assert!(believes(&newer, &chain, NOW) && believes(&newer, &chain, back));
    assert!(!believes(&stranger, &chain, NOW));
    assert!(!believes(&older, &chain, back), "it has not begun by that clock");

    // It lasts no longer than the SVID that it came with.
    let later = issuer.sign(
        issuer
            .prepare(request("spiffe://td.example/spire/server"), NOW)
            .unwrap(),
    );
    let later = [later.unwrap().chain(), &[vouched]].concat();
    let end = leaf.not_after();
    assert!(believes(&older, &later, end) && !believes(&older, &later, end.plus(Duration::from_secs(1))));
    assert!(believes(&newer, &later, end.plus(Duration::from_secs(1))));
}
