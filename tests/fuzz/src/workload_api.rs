//! Answers of a Workload API, as a client of it reads them, and its requests: what is taken as an identity is one.

use std::sync::LazyLock;

use arbitrary::Unstructured;
use mayfly_proto::spiffe::workload::{
    JwtsvidRequest, ValidateJwtsvidRequest, WitsvidRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use mayfly_svid::verify::verify_x509_svid;
use mayfly_svid::{Bundle, SpiffeId, TrustAnchors, TrustDomain, X509Svid};
use prost::Message;

use crate::input::{byte, edited, rest};
use crate::material::{self, AUTHORITY, LEAF, LEAF_ID, NOW};

static GENUINE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let svid = X509svid {
        spiffe_id: LEAF_ID.to_owned(),
        x509_svid: LEAF.to_vec(),
        x509_svid_key: material::leaf_key().serialize_der(),
        bundle: AUTHORITY.der().to_vec(),
        hint: "h".to_owned(),
    };
    let answer = X509svidResponse {
        svids: vec![svid],
        crl: vec![],
        federated_bundles: [("spiffe://td2".to_owned(), AUTHORITY.der().to_vec())].into(),
    };
    answer.encode_to_vec()
});

/// A message on the wire, or edits to a genuine answer.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    match byte(&mut input) % 4 {
        0 => svids(rest(&mut input)),
        1 => svids(&edited(GENUINE.clone(), &mut input)),
        2 => bundles(rest(&mut input)),
        _ => requests(rest(&mut input)),
    }
}

fn svids(bytes: &[u8]) {
    let Ok(answer) = X509svidResponse::decode(bytes) else {
        return;
    };
    // Secrets do not reach a log, whatever the message: with other keys it looks the same.
    let mut without_keys = answer.clone();
    for wire in &mut without_keys.svids {
        wire.x509_svid_key.fill(0);
    }
    assert_eq!(format!("{answer:?}"), format!("{without_keys:?}"), "a key is shown");
    for wire in &answer.svids {
        let (Ok(id), Ok(svid)) = (
            wire.spiffe_id.parse::<SpiffeId>(),
            X509Svid::from_concatenated_der(&wire.x509_svid),
        ) else {
            continue;
        };
        let Ok(bundle) = Bundle::from_concatenated_der(id.trust_domain(), &wire.bundle) else {
            continue;
        };
        assert_eq!(bundle.x509_concatenated_der(), wire.bundle);
        let verified = verify_x509_svid(svid.chain(), &TrustAnchors::from_bundle(&bundle), NOW);
        if let Ok(verified) = verified {
            assert_eq!(verified.chain()[0], *LEAF, "the authority never signed that one");
            assert!(id.is_member_of(&verified.spiffe_id().trust_domain()));
        }
    }
    let again = X509svidResponse::decode(answer.encode_to_vec().as_slice());
    assert_eq!(again.as_ref(), Ok(&answer));
    named(answer.federated_bundles.iter());
}

fn bundles(bytes: &[u8]) {
    if let Ok(answer) = X509BundlesResponse::decode(bytes) {
        named(answer.bundles.iter());
    }
}

fn named<'a>(bundles: impl Iterator<Item = (&'a String, &'a Vec<u8>)>) {
    for (name, der) in bundles {
        let Ok(trust_domain) = TrustDomain::parse_folded(name) else {
            continue;
        };
        if let Ok(bundle) = Bundle::from_concatenated_der(trust_domain, der) {
            assert_eq!(&bundle.x509_concatenated_der(), der);
        }
    }
}

/// What an agent decodes before it looks at anything.
fn requests(bytes: &[u8]) {
    let _ = X509svidRequest::decode(bytes);
    let _ = JwtsvidRequest::decode(bytes);
    let _ = WitsvidRequest::decode(bytes);
    if let Ok(request) = ValidateJwtsvidRequest::decode(bytes) {
        let mut without_token = request.clone();
        without_token.svid = "0".repeat(request.svid.len());
        assert_eq!(format!("{request:?}"), format!("{without_token:?}"), "a token is shown");
    }
}
