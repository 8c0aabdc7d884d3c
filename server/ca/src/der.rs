//! DER as far as requests and leaves need it. Elements are written from the inside to the outside.

use mayfly_svid::Timestamp;
use time::OffsetDateTime;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// One element, with its parts one after another as its content.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut whole = Vec::with_capacity(len + 5);
    whole.push(tag);
    match u8::try_from(len) {
        Ok(short @ 0..=0x7f) => whole.push(short),
        _ => {
            let len = len.to_be_bytes();
            let digits = len
                .iter()
                .position(|byte| *byte != 0)
                .map_or(&[][..], |first| &len[first..]);
            whole.push(0x80 | u8::try_from(digits.len()).expect("a usize has few bytes"));
            whole.extend_from_slice(digits);
        }
    }
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole
}

/// Whole octets as a BIT STRING.
pub(crate) fn bit_string(octets: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], octets])
}

/// The content of a SEQUENCE of up to 65535 bytes.
pub(crate) fn content(sequence: &[u8]) -> Option<&[u8]> {
    let header = match sequence {
        [SEQUENCE, 0x82, ..] => 4,
        [SEQUENCE, 0x81, ..] => 3,
        [SEQUENCE, ..] => 2,
        _ => return None,
    };
    sequence.get(header..)
}

/// The content of the SEQUENCE of less than 128 bytes that `bytes` begin with, and what follows it.
pub(crate) fn short_sequence(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    match bytes {
        [SEQUENCE, len @ 0..=0x7f, rest @ ..] => rest.split_at_checked(usize::from(*len)),
        _ => None,
    }
}

/// A date of a certificate (RFC 5280 §4.1.2.5); `None` beyond the year 9999.
pub(crate) fn date(at: Timestamp) -> Option<Vec<u8>> {
    let at = offset(at)?;
    let two = |number: u8| [b'0' + number / 10, b'0' + number % 10];
    let half = |half: i32| two(u8::try_from(half).expect("half of a year of four digits"));
    let (century, year) = (half(at.year() / 100), half(at.year() % 100));
    let (month, day) = (two(at.month().into()), two(at.day()));
    let (hour, minute, second) = (two(at.hour()), two(at.minute()), two(at.second()));
    let parts: [&[u8]; 8] = [&century, &year, &month, &day, &hour, &minute, &second, b"Z"];
    Some(if at.year() < 2050 {
        element(UTC_TIME, &parts[1..])
    } else {
        element(GENERALIZED_TIME, &parts)
    })
}

/// The instant as a date and time; `None` where a certificate cannot say it.
pub(crate) fn offset(at: Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at.unix())
        .ok()
        .filter(|at| (1950..=9999).contains(&at.year()))
}
