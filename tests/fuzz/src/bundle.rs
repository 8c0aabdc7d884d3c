//! Trust bundles in each of their forms: what is read is written, and reads the same again.

use std::collections::BTreeSet;

use arbitrary::Unstructured;
use mayfly_proto::spire::types;
use mayfly_svid::{Bundle, BundleFormatError, TrustAnchors, X509Authority};
use prost::Message as _;

use crate::input::{byte, raw_or_edited};
use crate::material::{self, AUTHORITY, trust_domain};

/// A document, or edits to a genuine one; the first byte says in which form.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    match byte(&mut input) % 4 {
        0 => json(&raw_or_edited(&[JSON], &mut input)),
        1 => pem(&raw_or_edited(
            &[material::bundle().x509_to_pem().as_bytes()],
            &mut input,
        )),
        2 => der(&raw_or_edited(&[AUTHORITY.der()], &mut input)),
        _ => wire(&raw_or_edited(
            &[&types::Bundle::from(&material::bundle()).encode_to_vec()],
            &mut input,
        )),
    }
}

const JSON: &[u8] = br#"{"keys":[{"use":"jwt-svid","kty":"EC","kid":"a","crv":"P-256",
"x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"},
{"use":"jwt-svid","kty":"EC","kid":"b","crv":"P-256",
"x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}],
"spiffe_sequence":3,"spiffe_refresh_hint":60}"#;

fn json(text: &[u8]) {
    let Ok(bundle) = Bundle::from_spiffe_json(trust_domain(), text) else {
        return;
    };
    check(&bundle);
    match bundle.to_spiffe_json() {
        Ok(again) => {
            let again = Bundle::from_spiffe_json(trust_domain(), &again);
            assert_eq!(again.as_ref().ok(), Some(&bundle), "{again:?}");
        }
        // An authority may have a key that has no form in JSON; JWT keys were made from one.
        Err(BundleFormatError::UnsupportedKey { kind, .. }) => assert_eq!(kind, "x509"),
        Err(error) => panic!("what was read cannot be written: {error}"),
    }
}

fn pem(text: &[u8]) {
    let Ok(bundle) = Bundle::from_pem(trust_domain(), text) else {
        return;
    };
    assert!(
        !bundle.x509_authorities.is_empty(),
        "no authorities are an error, not an empty trust"
    );
    check(&bundle);
    let again = Bundle::from_pem(trust_domain(), bundle.x509_to_pem().as_bytes());
    assert_eq!(again.as_ref().ok(), Some(&bundle), "{again:?}");
    der(&bundle.x509_concatenated_der());
}

fn der(bytes: &[u8]) {
    let Ok(bundle) = Bundle::from_concatenated_der(trust_domain(), bytes) else {
        return;
    };
    assert_eq!(bundle.x509_concatenated_der(), bytes);
    usable(&bundle);
}

fn wire(bytes: &[u8]) {
    let Ok(wire) = types::Bundle::decode(bytes) else { return };
    let Ok(bundle) = Bundle::try_from(&wire) else { return };
    check(&bundle);
    assert_eq!(Bundle::try_from(&types::Bundle::from(&bundle)), Ok(bundle));
}

/// No authority and no key ID is there twice, and the anchors are those authorities that can be used.
fn check(bundle: &Bundle) {
    let der = |authority: &X509Authority| authority.cert_der.to_vec();
    let x509: BTreeSet<_> = bundle.x509_authorities.iter().map(der).collect();
    assert_eq!(x509.len(), bundle.x509_authorities.len());
    let jwt: BTreeSet<_> = bundle.jwt_authorities.iter().map(|key| &key.key_id).collect();
    assert_eq!(jwt.len(), bundle.jwt_authorities.len());
    usable(bundle);
}

fn usable(bundle: &Bundle) {
    let anchors = TrustAnchors::from_bundle(bundle);
    assert_eq!(anchors.len() + anchors.unusable().len(), bundle.x509_authorities.len());
    assert_eq!(anchors.trust_domain(), &bundle.trust_domain);
}
