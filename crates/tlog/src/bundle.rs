//! Bundles of entries: up to 256 of them, each behind its length in two bytes, big-endian (C2SP tlog-tiles, Log entries).

use crate::tile::TILE_WIDTH;

/// The longest entry: its length is written in two bytes.
pub const MAX_ENTRY_BYTES: usize = u16::MAX as usize;
/// The longest bundle.
pub const MAX_BUNDLE_BYTES: usize = TILE_WIDTH as usize * (2 + MAX_ENTRY_BYTES);

/// An entry that is longer than [`MAX_ENTRY_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {length} bytes is too long: {MAX_ENTRY_BYTES} are the most")]
pub struct EntryTooLong {
    /// As long it is.
    pub length: usize,
}

/// A bundle that does not hold as many entries as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bundle is wrong at its entry {entry}, byte {offset}: {why}")]
pub struct BundleError {
    /// Which of its entries, from zero; as many as it should have, if bytes follow the last one.
    pub entry: u16,
    /// Where the length of this entry stands.
    pub offset: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// Adds an entry to a bundle. It is the caller who counts them.
///
/// # Errors
/// The entry is too long.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntryTooLong> {
    let length = u16::try_from(entry.len()).map_err(|_| EntryTooLong { length: entry.len() })?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// The entries of a bundle of exactly `width` of them, in their order.
///
/// # Errors
/// It ends before the last one, or goes on behind it.
pub fn entries(bundle: &[u8], width: u16) -> Result<Vec<&[u8]>, BundleError> {
    let mut found = Vec::with_capacity(usize::from(width.min(TILE_WIDTH)));
    let mut rest = bundle;
    let failed = |entry, rest: &[u8], why| BundleError {
        entry,
        offset: bundle.len() - rest.len(),
        why,
    };
    for number in 0..width {
        let (length, behind) = rest.split_first_chunk().ok_or(failed(number, rest, "it ends here"))?;
        let length = usize::from(u16::from_be_bytes(*length));
        let entry = behind
            .get(..length)
            .ok_or(failed(number, rest, "it ends in this entry"))?;
        found.push(entry);
        rest = &behind[length..];
    }
    if !rest.is_empty() {
        return Err(failed(width, rest, "it goes on behind its last entry"));
    }
    Ok(found)
}

/// The first entry of what is left of a bundle, and what is left then. `None` if it is cut off.
pub(crate) fn split_entry(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, behind) = rest.split_first_chunk()?;
    behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_holds_its_entries_and_nothing_else() {
        let longest = vec![7; MAX_ENTRY_BYTES];
        let mut bundle = Vec::new();
        for entry in [&b"one"[..], b"", &longest] {
            push_entry(&mut bundle, entry).unwrap();
        }
        assert_eq!(&bundle[..7], b"\0\x03one\0\0");
        assert_eq!(entries(&bundle, 3).unwrap(), [&b"one"[..], b"", &longest]);
        assert_eq!(entries(&[], 0).unwrap(), Vec::<&[u8]>::new());

        let at = |bundle: &[u8], width| {
            let error = entries(bundle, width).unwrap_err();
            (error.entry, error.offset)
        };
        assert_eq!(at(&bundle, 2), (2, 7), "a third entry that is not announced");
        assert_eq!(at(&bundle, 4), (3, bundle.len()), "a fourth that is not there");
        assert_eq!(at(&bundle[..bundle.len() - 1], 3), (2, 7), "a third that is cut off");
        assert_eq!(at(&bundle[..6], 3), (1, 5), "a length that is cut off");
        bundle.push(0);
        assert_eq!(at(&bundle, 3), (3, bundle.len() - 1));
    }

    #[test]
    fn an_entry_that_has_no_length_is_refused() {
        let mut bundle = Vec::new();
        let error = push_entry(&mut bundle, &vec![0; MAX_ENTRY_BYTES + 1]).unwrap_err();
        assert_eq!(error.length, 65_536);
        assert!(bundle.is_empty());
    }
}
