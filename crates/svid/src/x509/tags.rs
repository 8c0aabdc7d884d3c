//! Whether the extensions that are read here are DER down to their tags.
//!
//! The parser compares the numbers of tags and neither their class nor whether they are constructed: it takes an OBJECT
//! IDENTIFIER or `[PRIVATE 6]` among the names for a URI, `[6]`. What another reader would not find there must not be
//! found here either.

use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Extension};

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// Whether names, key usage and basic constraints have the tags of RFC 5280 §4.2.1; all other extensions have.
pub(super) fn are_proper(extension: &X509Extension<'_>) -> bool {
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(_) => is_sequence_of(extension.value, is_general_name),
        ParsedExtension::BasicConstraints(_) => is_sequence_of(extension.value, |tag| matches!(tag, BOOLEAN | INTEGER)),
        ParsedExtension::KeyUsage(_) => matches!(values(extension.value).as_deref(), Some([(BIT_STRING, _)])),
        _ => true,
    }
}

/// `otherName`, `x400Address`, `directoryName` and `ediPartyName` are constructed, the other five are not.
fn is_general_name(tag: u8) -> bool {
    matches!(tag, 0xa0 | 0x81 | 0x82 | 0xa3..=0xa5 | 0x86..=0x88)
}

fn is_sequence_of(der: &[u8], proper: impl Fn(u8) -> bool) -> bool {
    match values(der).as_deref() {
        Some([(SEQUENCE, content)]) => values(content).is_some_and(|inner| inner.iter().all(|(tag, _)| proper(*tag))),
        _ => false,
    }
}

/// The first octet and the content of each of the values that stand one after another; `None` if that is not DER. Tags of
/// more than one octet are none of ours, whatever their first one.
fn values(mut der: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut values = Vec::new();
    while let Some(tag) = der.first() {
        let (rest, value) = Any::from_der(der).ok()?;
        values.push((*tag, value.data));
        der = rest;
    }
    Some(values)
}
