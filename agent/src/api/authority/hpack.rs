//! Header blocks: a full HPACK decoder (RFC 7541) with limits, and an encoder that keeps no state.
//!
//! The decoder follows the client's dynamic table, which lets the filter send on every field as a plain literal: the
//! reader behind the filter needs no table, so that what is changed here cannot put two tables out of step. Names and
//! values are opaque octets; whether they are good headers is for the HTTP/2 server to say.

use std::{borrow::Cow, collections::VecDeque};

use super::huffman;

/// The dynamic table that a client may use: the protocol's default (RFC 9113 §6.5.2), which `hyper` and `h2` leave as
/// it is. A server behind the filter must not announce another.
pub const TABLE_SIZE: usize = 4096;
/// The largest decoded list, counted as RFC 9113 §6.5.2 does: names, values and 32 octets for each field.
pub const MAX_LIST_SIZE: usize = 16 * 1024;
/// The most fields in one list.
pub const MAX_FIELDS: usize = 128;

/// What each field costs beside its octets (RFC 7541 §4.1).
const FIELD_OVERHEAD: usize = 32;

/// Why a header block was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HpackError {
    /// The block ends inside a field.
    #[error("the header block ends inside a field")]
    Truncated,
    /// An integer is longer than anything sent here can be.
    #[error("an integer in the header block is too large")]
    Integer,
    /// A table index that stands for nothing.
    #[error("the header block uses an index that is not in the table")]
    Index,
    /// A table size above what was announced, or not at the start of a block (RFC 7541 §4.2).
    #[error("the header block has a table size update that is too large or out of place")]
    TableSize,
    /// Huffman-coded text with bad padding or the end symbol in it.
    #[error("the header block has a malformed Huffman string")]
    Huffman,
    /// More than [`MAX_LIST_SIZE`].
    #[error("the header list is larger than {MAX_LIST_SIZE} octets")]
    ListTooLarge,
    /// More than [`MAX_FIELDS`].
    #[error("the header list has more than {MAX_FIELDS} fields")]
    TooManyFields,
}

/// Decoder of one direction of one connection.
#[derive(Debug)]
pub(super) struct Decoder {
    table: DynamicTable,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            table: DynamicTable {
                fields: VecDeque::new(),
                size: 0,
                max_size: TABLE_SIZE,
            },
        }
    }

    /// Decodes one whole header block and calls `each` with every field, in order.
    ///
    /// # Errors
    /// The block is malformed or above a limit. The table is then out of step with the client's: the connection
    /// cannot go on (RFC 7541 §2.2).
    pub(super) fn decode(&mut self, block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), HpackError> {
        let mut reader = Reader { rest: block };
        let mut budget = MAX_LIST_SIZE;
        let mut fields = 0;
        while let Some(&head) = reader.rest.first() {
            if head & 0xe0 == 0x20 {
                // Dynamic table size update (§6.3), before the first field only.
                let size = reader.integer(5)?;
                if fields > 0 || size > TABLE_SIZE {
                    return Err(HpackError::TableSize);
                }
                self.table.resize(size);
                continue;
            }
            fields += 1;
            if fields > MAX_FIELDS {
                return Err(HpackError::TooManyFields);
            }
            budget = budget.checked_sub(FIELD_OVERHEAD).ok_or(HpackError::ListTooLarge)?;
            if head & 0x80 != 0 {
                // Indexed field (§6.1).
                let (name, value) = self.table.get(reader.integer(7)?)?;
                budget = budget
                    .checked_sub(name.len() + value.len())
                    .ok_or(HpackError::ListTooLarge)?;
                each(name, value);
                continue;
            }
            // Literal field (§6.2): with incremental indexing, or without, or never indexed.
            let indexing = head & 0x40 != 0;
            let name = match reader.integer(if indexing { 6 } else { 4 })? {
                0 => reader.string(budget)?,
                index => Cow::Borrowed(self.table.get(index)?.0),
            };
            budget = budget.checked_sub(name.len()).ok_or(HpackError::ListTooLarge)?;
            let value = reader.string(budget)?;
            budget = budget.checked_sub(value.len()).ok_or(HpackError::ListTooLarge)?;
            each(&name, &value);
            if indexing {
                let field = Field::new(&name, &value);
                self.table.insert(field);
            }
        }
        Ok(())
    }
}

/// Appends a field as a literal without indexing, with a literal name and no Huffman code (RFC 7541 §6.2.2).
///
/// It takes at most 7 octets more than name and value, so less than the field counts in its list: a list within
/// [`MAX_LIST_SIZE`] makes a block that is smaller still.
pub(super) fn encode(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        encode_length(out, text.len());
        out.extend_from_slice(text);
    }
}

/// An integer with a 7-bit prefix whose first bit, the Huffman flag, is not set (RFC 7541 §5.1, §5.2).
fn encode_length(out: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        out.push(length as u8);
        return;
    };
    out.push(127);
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What of a block is still to be read.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn octet(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.rest.split_first().ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// An integer with a prefix of `prefix` bits (§5.1), below 2^21 plus the prefix: no length or index that we take
    /// is larger, and nobody can make us read a long one.
    fn integer(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let mask = (1_usize << prefix) - 1;
        let mut value = usize::from(self.octet()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14] {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Integer)
    }

    /// A string (§5.2) of at most `limit` octets when decoded.
    fn string(&mut self, limit: usize) -> Result<Cow<'a, [u8]>, HpackError> {
        let huffman = self.rest.first().is_some_and(|head| head & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
        self.rest = rest;
        if !huffman {
            return Ok(Cow::Borrowed(text));
        }
        // The shortest code has five bits.
        let mut out = Vec::with_capacity((text.len() * 8 / 5).min(limit));
        huffman::decode(text, &mut out, limit)?;
        Ok(Cow::Owned(out))
    }
}

/// One entry of the dynamic table, name and value in one allocation.
#[derive(Debug)]
struct Field {
    octets: Box<[u8]>,
    name_length: usize,
}

impl Field {
    fn new(name: &[u8], value: &[u8]) -> Self {
        Self {
            octets: [name, value].concat().into_boxed_slice(),
            name_length: name.len(),
        }
    }

    fn size(&self) -> usize {
        self.octets.len() + FIELD_OVERHEAD
    }
}

/// The client's dynamic table (§2.3.2), newest field first.
#[derive(Debug)]
struct DynamicTable {
    fields: VecDeque<Field>,
    /// Sum of the fields' sizes, never above `max_size`.
    size: usize,
    max_size: usize,
}

impl DynamicTable {
    /// The field with `index` in the one address space of both tables (§2.3.3).
    fn get(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError::Index)?;
        if let Some((name, value)) = STATIC_TABLE.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let field = self.fields.get(index - STATIC_TABLE.len()).ok_or(HpackError::Index)?;
        Ok(field.octets.split_at(field.name_length))
    }

    fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.make_room(0);
    }

    /// Adds a field; one that is larger than the whole table empties it, which is no error (§4.4).
    fn insert(&mut self, field: Field) {
        let size = field.size();
        self.make_room(size);
        if size <= self.max_size {
            self.size += size;
            self.fields.push_front(field);
        }
    }

    fn make_room(&mut self, size: usize) {
        while self.size + size > self.max_size {
            let Some(oldest) = self.fields.pop_back() else { break };
            self.size -= oldest.size();
        }
    }
}

/// RFC 7541 Appendix A.
#[rustfmt::skip]
static STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];
