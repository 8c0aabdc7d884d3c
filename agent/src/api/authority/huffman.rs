//! The Huffman code of HPACK (RFC 7541 Appendix B), decoding only.
//!
//! The code is canonical: symbols of one length have consecutive codes in the order of their values, and lengths
//! follow each other. So the 257 lengths are the whole table; first codes and the symbol order are worked out when
//! this is compiled. A test compares the codes with those of another implementation.

use super::hpack::HpackError;

/// The end-of-string symbol. Its code is thirty ones; it may not occur in a string (RFC 7541 §5.2).
const EOS: u16 = 256;
const LONGEST: usize = 30;

/// Code length in bits of each symbol, 0 to 255 and [`EOS`].
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The canonical code, by length.
struct Code {
    /// The code of the first symbol of each length.
    first: [u32; LONGEST + 1],
    /// How many symbols have each length.
    count: [u32; LONGEST + 1],
    /// Where the symbols of each length start in `symbols`.
    start: [u16; LONGEST + 1],
    /// All symbols by (length, value).
    symbols: [u16; 257],
}

const CODE: Code = {
    let mut code = Code {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut length, mut next, mut at) = (1, 0, 0);
    while length <= LONGEST {
        code.first[length] = next;
        code.start[length] = at as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[at] = symbol as u16;
                code.count[length] += 1;
                at += 1;
            }
            symbol += 1;
        }
        next = (next + code.count[length]) << 1;
        length += 1;
    }
    code
};

/// Reads one symbol from the top of `bits`: the symbol and its length.
fn symbol(bits: u32) -> (u16, u32) {
    for length in 5..=LONGEST {
        let offset = (bits >> (32 - length)).wrapping_sub(CODE.first[length]);
        if offset < CODE.count[length] {
            return (
                CODE.symbols[CODE.start[length] as usize + offset as usize],
                length as u32,
            );
        }
    }
    unreachable!("the code is complete: thirty bits always hold a symbol")
}

/// Appends what `coded` stands for to `out`.
///
/// # Errors
/// EOS in the string, padding that is longer than 7 bits or not ones, or more than `limit` octets.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), HpackError> {
    let end = out.len() + limit;
    let mut octets = coded.iter();
    // The unread bits, left-aligned, and how many they are.
    let (mut bits, mut held) = (0_u64, 0_u32);
    loop {
        while held <= 32 {
            let Some(octet) = octets.next() else { break };
            bits |= u64::from(*octet) << (56 - held);
            held += 8;
        }
        // Behind the end the bits read as ones, which is what the padding has to be.
        let padded = bits | u64::MAX.checked_shr(held).unwrap_or(0);
        let (symbol, length) = symbol((padded >> 32) as u32);
        if length > held {
            // Only a prefix of EOS, so only ones, is left incomplete by padding with ones up to thirty bits.
            return if symbol == EOS && held < 8 {
                Ok(())
            } else {
                Err(HpackError::Huffman)
            };
        }
        if symbol == EOS {
            return Err(HpackError::Huffman);
        }
        if out.len() == end {
            return Err(HpackError::ListTooLarge);
        }
        out.push(symbol as u8);
        bits <<= length;
        held -= length;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The code of `symbol` as (bits, length).
    fn code_of(symbol: u16) -> (u32, u32) {
        let length = LENGTHS[symbol as usize] as usize;
        let first = CODE.start[length] as usize;
        let rank = CODE.symbols[first..].iter().position(|s| *s == symbol).unwrap();
        (CODE.first[length] + rank as u32, length as u32)
    }

    /// Huffman-codes `text`.
    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let (mut out, mut bits, mut held) = (Vec::new(), 0_u64, 0);
        for octet in text {
            let (code, length) = code_of(u16::from(*octet));
            bits = bits << length | u64::from(code);
            held += length;
            while held >= 8 {
                held -= 8;
                out.push((bits >> held) as u8);
            }
        }
        if held > 0 {
            out.push((bits << (8 - held)) as u8 | (0xff >> held));
        }
        out
    }

    #[test]
    fn every_symbol_has_the_code_that_another_implementation_reads() {
        for symbol in 0..=255_u8 {
            // Three times, so that all alignments of the shorter codes occur.
            let text = [symbol, b'a', symbol, symbol];
            let coded = encode(&text);
            let theirs = loona_hpack::huffman::HuffmanDecoder::new().decode(&coded).unwrap();
            assert_eq!(theirs, text, "symbol {symbol}");
            let mut ours = Vec::new();
            decode(&coded, &mut ours, 4).unwrap();
            assert_eq!(ours, text, "symbol {symbol}");
        }
        assert_eq!(code_of(EOS), (0x3fff_ffff, 30));
    }

    #[test]
    fn a_known_string_of_the_standard_is_read() {
        // RFC 7541 C.4.1
        let coded = hex::decode("f1e3c2e5f23a6ba0ab90f4ff").unwrap();
        let mut out = Vec::new();
        decode(&coded, &mut out, 100).unwrap();
        assert_eq!(out, b"www.example.com");
        assert_eq!(encode(b"www.example.com"), coded);
    }

    #[test]
    fn bad_padding_and_the_end_symbol_are_refused() {
        for coded in [
            "ff",
            "ffff",
            "ffffffff",
            "fffffffc",
            "f1e3c2e5f23a6ba0ab90f400",
            "18",
            "f1ff",
            "00",
        ] {
            let coded = hex::decode(coded).unwrap();
            let mut out = Vec::new();
            assert_eq!(decode(&coded, &mut out, 100), Err(HpackError::Huffman), "{coded:x?}");
        }
    }

    #[test]
    fn output_stops_at_the_limit() {
        let mut out = Vec::new();
        assert_eq!(decode(&encode(b"aaaa"), &mut out, 3), Err(HpackError::ListTooLarge));
        assert_eq!(out.len(), 3);
    }
}
