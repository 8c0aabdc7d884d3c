//! Certificate serial numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// A certificate's serial number: positive, at most 20 octets, big-endian without leading zeros (RFC 5280 §4.1.2.2).
///
/// `Display` and [`FromStr`] are decimal, as SPIRE prints it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Serial(Box<[u8]>);

/// The bytes are not a serial number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a serial number is a positive number of at most 20 octets")]
pub struct SerialError;

impl Serial {
    /// Reads a big-endian number; leading zeros are dropped.
    ///
    /// # Errors
    /// Zero, empty, or longer than 20 octets.
    pub fn from_be_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let start = bytes.iter().position(|b| *b != 0).ok_or(SerialError)?;
        let digits = &bytes[start..];
        // 20 octets are the DER content, so a number that needs a sign octet may have 19 and a half.
        if digits.len() > 20 || (digits.len() == 20 && digits[0] & 0x80 != 0) {
            return Err(SerialError);
        }
        Ok(Self(digits.into()))
    }

    /// Big-endian, without leading zeros.
    pub fn as_be_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nine digits at a time: serials are printed with every SVID.
        const GROUP: u64 = 1_000_000_000;
        let mut number = [0u32; 5];
        for (place, byte) in self.0.iter().rev().enumerate() {
            number[4 - place / 4] |= u32::from(*byte) << (place % 4 * 8);
        }
        // 160 bits have at most 49 digits.
        let (mut groups, mut count) = ([0; 6], 0);
        while number.iter().any(|limb| *limb != 0) {
            let mut rest = 0;
            for limb in &mut number {
                let value = (rest << 32) | u64::from(*limb);
                *limb =
                    u32::try_from(value / GROUP).expect("a remainder below the divisor keeps the quotient in one limb");
                rest = value % GROUP;
            }
            groups[count] = rest;
            count += 1;
        }
        let (first, others) = groups[..count].split_last().expect("a serial number is not zero");
        write!(f, "{first}")?;
        others.iter().rev().try_for_each(|group| write!(f, "{group:09}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        if text.is_empty() || text.len() > 49 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(SerialError);
        }
        let mut number = [0u8; 21];
        for digit in text.bytes() {
            let mut carry = u16::from(digit - b'0');
            for byte in number.iter_mut().rev() {
                let value = u16::from(*byte) * 10 + carry;
                *byte = u8::try_from(value & 0xff).expect("masked to one octet");
                carry = value >> 8;
            }
            if carry != 0 {
                return Err(SerialError);
            }
        }
        Self::from_be_bytes(&number)
    }
}

impl Serialize for Serial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl TryFrom<String> for Serial {
    type Error = SerialError;

    fn try_from(text: String) -> Result<Self, SerialError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_decimal_like_spire() {
        assert_eq!(Serial::from_be_bytes(&[0, 1, 0]).unwrap().to_string(), "256");
        assert_eq!("256".parse::<Serial>().unwrap().as_be_bytes(), [1, 0]);
        let largest = "730750818665451459101842416358141509827966271487";
        assert_eq!(
            Serial::from_be_bytes(&[&[0x7f][..], &[0xff; 19]].concat())
                .unwrap()
                .to_string(),
            largest
        );
        for text in [
            "1",
            "999999999",
            "1000000000",
            "1000000000000000001",
            "340282366920938463463374607431768211456",
        ] {
            assert_eq!(text.parse::<Serial>().unwrap().to_string(), text);
        }
    }

    // XINH-01
    #[test]
    fn is_positive_and_at_most_20_octets() {
        assert!(Serial::from_be_bytes(&[]).is_err());
        assert!(Serial::from_be_bytes(&[0, 0]).is_err());
        assert!(Serial::from_be_bytes(&[0x7f; 20]).is_ok());
        assert!(Serial::from_be_bytes(&[0x80; 20]).is_err());
        assert!(Serial::from_be_bytes(&[1; 21]).is_err());
        assert!("".parse::<Serial>().is_err());
        assert!("-1".parse::<Serial>().is_err());
        assert!("9".repeat(49).parse::<Serial>().is_err());
    }

    proptest! {
        #[test]
        fn decimal_round_trip(bytes in proptest::collection::vec(any::<u8>(), 1..19)) {
            if let Ok(serial) = Serial::from_be_bytes(&bytes) {
                prop_assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial);
            }
        }
    }
}
