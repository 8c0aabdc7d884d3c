//! How the bytes of an input become something that reaches further than raw bytes do.

use arbitrary::Unstructured;

/// The most edits that one input makes.
const MAX_EDITS: usize = 8;

/// The next byte; 0 where there is none left.
pub(crate) fn byte(input: &mut Unstructured<'_>) -> u8 {
    input.arbitrary().unwrap_or(0)
}

/// A number below `bound`, which is not 0.
pub(crate) fn below(input: &mut Unstructured<'_>, bound: usize) -> usize {
    let number: u16 = input.arbitrary().unwrap_or(0);
    usize::from(number) % bound
}

/// All that is left.
pub(crate) fn rest<'a>(input: &mut Unstructured<'a>) -> &'a [u8] {
    input.bytes(input.len()).unwrap_or(&[])
}

/// `genuine` with as many edits as are left in `input`: a byte set, changed in one bit, put in or taken out, or the
/// end cut off.
pub(crate) fn edited(mut genuine: Vec<u8>, input: &mut Unstructured<'_>) -> Vec<u8> {
    for _ in 0..MAX_EDITS {
        if input.is_empty() {
            break;
        }
        let (what, value) = (byte(input), byte(input));
        let at = below(input, genuine.len() + 1);
        match (what % 5, genuine.get_mut(at)) {
            (0, Some(place)) => *place = value,
            (1, Some(place)) => *place ^= 1 << (value % 8),
            (2, Some(_)) => drop(genuine.remove(at)),
            (3, Some(_)) => genuine.truncate(at),
            _ => genuine.insert(at, value),
        }
    }
    genuine
}

/// Raw bytes, or edits to one of `genuine`: the first byte says which.
pub(crate) fn raw_or_edited(genuine: &[&[u8]], input: &mut Unstructured<'_>) -> Vec<u8> {
    let choice = usize::from(byte(input)) % (genuine.len() + 1);
    match choice.checked_sub(1) {
        None => rest(input).to_vec(),
        Some(index) => edited(genuine[index].to_vec(), input),
    }
}
