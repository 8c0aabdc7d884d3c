//! X.509-SVIDs: whoever verifies was signed by an authority of the bundle, and keeps the rules of the leaf, which are
//! looked up here once more.

use arbitrary::Unstructured;
use mayfly_svid::verify::verify_x509_svid;
use mayfly_svid::{Timestamp, X509Svid};
use rustls_pki_types::CertificateDer;

use crate::der::{Der, bit_string, write};
use crate::input::{byte, edited, raw_or_edited, rest};
use crate::material::{self, ANCHORS, AUTHORITY, LEAF, LEAF_ID, NOW};

const ED25519_ID: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";
const SAN: &[u8] = b"\x06\x03\x55\x1d\x11";
const KEY_USAGE: &[u8] = b"\x06\x03\x55\x1d\x0f";
const BASIC_CONSTRAINTS: &[u8] = b"\x06\x03\x55\x1d\x13";

/// A chain; edits to a genuine one; or the content of a leaf, which the authority then signs.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let genuine = LEAF.as_ref();
    let (bytes, signed_here) = match byte(&mut input) % 5 {
        0 => (rest(&mut input).to_vec(), false),
        1 => (edited(genuine.to_vec(), &mut input), false),
        2 => (edited([genuine, AUTHORITY.der()].concat(), &mut input), false),
        3 => (signed(&raw_or_edited(&[content(genuine)], &mut input)), true),
        _ => (signed(&other_extensions(genuine, &mut input)), true),
    };
    let Ok(svid) = X509Svid::from_concatenated_der(&bytes) else {
        assert_ne!(bytes, genuine, "a genuine SVID is refused");
        return;
    };

    // What was read is what stands there, and reads the same again.
    assert!(svid.chain().iter().flat_map(|der| der.iter()).eq(&bytes));
    assert_eq!(X509Svid::from_chain(svid.chain().to_vec()).as_ref(), Ok(&svid));
    check_leaf(&svid);

    let verified = verify_x509_svid(svid.chain(), &ANCHORS, NOW);
    if let Ok(verified) = &verified {
        assert_eq!(verified, &svid, "what was verified is not what was read");
        assert!(svid.spiffe_id().is_member_of(&material::trust_domain()));
        assert!(svid.not_before() <= NOW && NOW <= svid.not_after());
        assert!(
            signed_here || svid.chain()[0] == *LEAF,
            "the authority never signed that one"
        );
    }
    // An instant outside its validity is enough to refuse it.
    if svid.not_after() < Timestamp::from_unix(i64::MAX) {
        let after = Timestamp::from_unix(svid.not_after().unix() + 1);
        assert!(verify_x509_svid(svid.chain(), &ANCHORS, after).is_err());
    }
    let stranger: Vec<CertificateDer<'static>> = vec![AUTHORITY.der().clone()];
    assert!(
        verify_x509_svid(&stranger, &ANCHORS, NOW).is_err(),
        "an authority is no SVID"
    );
}

/// The rules of X509-SVID §2 and §4 for a leaf.
fn check_leaf(svid: &X509Svid) {
    let certificate = Der(&svid.chain()[0]).next().expect("a SEQUENCE");
    let content = certificate.inside().next().expect("what is signed");
    // [3] holds the extensions.
    let extensions = content
        .inside()
        .find(|value| value.tag == 0xa3)
        .expect("an SVID has extensions");
    let extensions: Vec<_> = extensions.inside().next().expect("a SEQUENCE").inside().collect();
    let find = |oid: &[u8]| {
        let mut found = extensions.iter().filter(|extension| extension.content.starts_with(oid));
        let first = found.next();
        assert!(found.next().is_none(), "an extension is there twice");
        // The value is the OCTET STRING at the end.
        first.map(|extension| Der(extension.inside().last().expect("a value").content))
    };

    let names = find(SAN).expect("names").next().expect("a SEQUENCE").inside();
    let uris: Vec<_> = names.filter(|name| name.tag == 0x86).collect();
    assert_eq!(uris.len(), 1);
    assert_eq!(uris[0].content, svid.spiffe_id().as_str().as_bytes());
    assert!(!svid.spiffe_id().path().is_empty());

    let usage = find(KEY_USAGE).expect("key usage").next().expect("a BIT STRING");
    let bits = usage.content[1];
    assert_eq!(
        bits & 0b1000_0110,
        0b1000_0000,
        "digitalSignature, neither keyCertSign nor cRLSign"
    );
    let ca = find(BASIC_CONSTRAINTS).and_then(|mut value| value.next()?.inside().next());
    assert!(
        ca.is_none_or(|ca| ca.tag != 1 || ca.content == [0]),
        "a leaf that is a CA"
    );
}

fn content(certificate: &[u8]) -> &[u8] {
    let whole = Der(certificate).next().expect("a SEQUENCE");
    whole.inside().next().expect("what is signed").whole
}

fn signed(content: &[u8]) -> Vec<u8> {
    let signature = material::sign_as_authority(content);
    write(0x30, &[content, ED25519_ID, &bit_string(&signature)])
}

/// The content of `certificate` with extensions that the input chooses, well-formed around them.
fn other_extensions(certificate: &[u8], input: &mut Unstructured<'_>) -> Vec<u8> {
    let whole = Der(content(certificate)).next().expect("a SEQUENCE");
    let mut parts: Vec<Vec<u8>> = whole.inside().map(|part| part.whole.to_vec()).collect();
    let mut extensions = Vec::new();
    while !input.is_empty() && extensions.len() < 8 {
        let (choice, count) = (byte(input), usize::from(byte(input) % 64));
        let bytes = input.bytes(count.min(input.len())).unwrap_or(&[]);
        let id = LEAF_ID.as_bytes();
        let (oid, value) = match choice % 8 {
            0 => (SAN, write(0x30, &[&write(0x86, &[id])])),
            1 => (SAN, write(0x30, &[&write(0x86, &[id]), &write(0x82, &[bytes])])),
            2 => (SAN, write(0x30, &[&write(0x86, &[b"spiffe://td/", bytes])])),
            3 => (SAN, write(0x30, &[bytes])),
            4 => (KEY_USAGE, write(0x03, &[bytes])),
            5 => (KEY_USAGE, b"\x03\x02\x07\x80".to_vec()),
            6 => (BASIC_CONSTRAINTS, write(0x30, &[bytes])),
            _ => (b"\x06\x03\x55\x1d\x25".as_slice(), write(0x30, &[bytes])),
        };
        let critical: &[u8] = if choice & 0x80 == 0 { &[] } else { b"\x01\x01\xff" };
        extensions.push(write(0x30, &[oid, critical, &write(0x04, &[&value])]));
    }
    parts.retain(|part| part.first() != Some(&0xa3));
    parts.push(write(0xa3, &[&write(0x30, &[&extensions.concat()])]));
    write(0x30, &[&parts.concat()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_genuine_leaf_verifies() {
        verify_x509_svid(std::slice::from_ref(&*LEAF), &ANCHORS, NOW).unwrap();
        let again = signed(content(&LEAF));
        assert_eq!(again, LEAF.as_ref(), "signing is the same every time");
    }
}
