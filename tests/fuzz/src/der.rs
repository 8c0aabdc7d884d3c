//! The little of DER that the targets need to look at what was accepted with other eyes than the product's.

/// Values one after another.
#[derive(Clone, Copy)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

/// One value.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// Tag and length too.
    pub(crate) whole: &'a [u8],
}

impl<'a> Iterator for Der<'a> {
    type Item = Value<'a>;

    /// `None` at the end, and where no whole value follows.
    fn next(&mut self) -> Option<Value<'a>> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (len, rest) = match usize::from(first & 0x7f) {
            len if first & 0x80 == 0 => (len, rest),
            count if (1..=4).contains(&count) => {
                let (len, rest) = rest.split_at_checked(count)?;
                (len.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(len)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Value {
            tag: *tag,
            content,
            whole,
        })
    }
}

impl<'a> Value<'a> {
    /// What it holds, value by value.
    pub(crate) fn inside(self) -> Der<'a> {
        Der(self.content)
    }
}

/// One value, written.
pub(crate) fn write(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = content.len();
    let mut whole = vec![tag];
    match len {
        0..=0x7f => whole.push(len as u8),
        0x80..=0xff => whole.extend([0x81, len as u8]),
        _ => whole.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    whole.extend(content);
    whole
}

/// A BIT STRING of whole bytes, written.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    write(0x03, &[&[0], bytes])
}
