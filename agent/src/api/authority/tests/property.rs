//! Random header lists, encoded by others, come out as they went in, except for the authority.

use proptest::prelude::*;

use super::{super::Rewriter, CONTINUATION, END_HEADERS, HEADERS, PREFACE, frame, rewrite};

type List = Vec<(Vec<u8>, Vec<u8>)>;

fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let name = prop_oneof![
        Just(b":authority".to_vec()),
        Just(b":path".to_vec()),
        Just(b"user-agent".to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
        "[a-c]{1,2}".prop_map(String::into_bytes),
    ];
    let value = prop_oneof![
        Just(b"localhost".to_vec()),
        Just(b"tmp%2Fa.sock".to_vec()),
        Just(b"/".to_vec()),
        prop::collection::vec(any::<u8>(), 0..200),
        "[a-c]{0,2}".prop_map(String::into_bytes),
        "[ -~]{100,400}".prop_map(String::into_bytes),
    ];
    (name, value)
}

/// How the test's own encoder writes a field: which literal, name by index, whole field by index, Huffman.
#[derive(Debug, Clone, Copy)]
struct Choice {
    literal: u8,
    use_name: bool,
    use_field: bool,
    coded: bool,
}

fn choice() -> impl Strategy<Value = Choice> {
    (0..3_u8, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(literal, use_name, use_field, coded)| Choice {
        literal,
        use_name,
        use_field,
        coded,
    })
}

/// An encoder that makes the choices it is told, with a table of its own.
#[derive(Default)]
struct Encoder {
    table: List,
    max_size: Option<usize>,
}

impl Encoder {
    fn integer(out: &mut Vec<u8>, head: u8, prefix: u32, value: usize) {
        let mask = (1 << prefix) - 1;
        if value < mask {
            return out.push(head | value as u8);
        }
        out.push(head | mask as u8);
        let mut rest = value - mask;
        while rest > 127 {
            out.push(128 | (rest % 128) as u8);
            rest /= 128;
        }
        out.push(rest as u8);
    }

    fn string(out: &mut Vec<u8>, text: &[u8], coded: bool) {
        if coded {
            let text = super::huffman::tests::encode(text);
            Self::integer(out, 0x80, 7, text.len());
            out.extend(text);
        } else {
            Self::integer(out, 0, 7, text.len());
            out.extend(text);
        }
    }

    fn resize(&mut self, out: &mut Vec<u8>, size: usize) {
        Self::integer(out, 0x20, 5, size);
        self.max_size = Some(size);
        self.evict();
    }

    fn evict(&mut self) {
        let max = self.max_size.unwrap_or(4096);
        while self.table.iter().map(|(n, v)| n.len() + v.len() + 32).sum::<usize>() > max {
            self.table.pop();
        }
    }

    fn field(&mut self, out: &mut Vec<u8>, (name, value): &(Vec<u8>, Vec<u8>), choice: Choice) {
        let whole = self.table.iter().position(|(n, v)| (n, v) == (name, value));
        if let (true, Some(index)) = (choice.use_field, whole) {
            return Self::integer(out, 0x80, 7, 62 + index);
        }
        let (head, prefix) = [(0x40, 6), (0x00, 4), (0x10, 4)][usize::from(choice.literal)];
        let by_name = match name.as_slice() {
            b":authority" => Some(1),
            b":path" => Some(4),
            _ => self.table.iter().position(|(n, _)| n == name).map(|index| index + 62),
        };
        match by_name {
            Some(index) if choice.use_name => Self::integer(out, head, prefix, index),
            _ => {
                out.push(head);
                Self::string(out, name, choice.coded);
            }
        }
        Self::string(out, value, choice.coded);
        if choice.literal == 0 {
            self.table.insert(0, (name.clone(), value.clone()));
            self.evict();
        }
    }
}

/// What is to come out for `list`.
fn expected(list: &List) -> List {
    let bad = |name: &[u8], value: &[u8]| name == b":authority" && http::uri::Authority::try_from(value).is_err();
    list.iter()
        .map(|(name, value)| {
            (
                name.clone(),
                if bad(name, value) {
                    b"localhost".to_vec()
                } else {
                    value.clone()
                },
            )
        })
        .collect()
}

/// Sends blocks through one filter in pieces of `split` octets, each cut in two at `cut`, and reads every frame that
/// comes out with a fresh decoder that is not ours: nothing may depend on a table.
fn through_the_filter(blocks: &[Vec<u8>], split: usize, cut: usize) -> Vec<List> {
    let mut octets = PREFACE.to_vec();
    for (i, block) in blocks.iter().enumerate() {
        let (first, second) = block.split_at(cut.min(block.len()));
        octets.extend(frame(HEADERS, 0, 2 * i as u32 + 1, first));
        octets.extend(frame(CONTINUATION, END_HEADERS, 2 * i as u32 + 1, second));
    }
    let out = rewrite(&mut Rewriter::new(), octets.chunks(split)).unwrap();
    let mut rest = &out[PREFACE.len()..];
    let mut lists = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        assert_eq!((rest[3], rest[4]), (HEADERS, END_HEADERS));
        assert!(length <= 16_384);
        lists.push(loona_hpack::Decoder::new().decode(&rest[9..9 + length]).unwrap());
        rest = &rest[9 + length..];
    }
    lists
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn lists_by_an_encoder_that_makes_every_choice_come_out_the_same(
        lists in prop::collection::vec(prop::collection::vec((field(), choice()), 1..12), 1..6),
        sizes in prop::collection::vec(prop::option::of(0..4097_usize), 6),
        split in 1..600_usize,
        cut in 0..300_usize,
    ) {
        let mut encoder = Encoder::default();
        let mut blocks = Vec::new();
        for (list, size) in lists.iter().zip(&sizes) {
            let mut block = Vec::new();
            if let Some(size) = size {
                encoder.resize(&mut block, *size);
            }
            for (field, choice) in list {
                encoder.field(&mut block, field, *choice);
            }
            blocks.push(block);
        }
        let lists: Vec<List> = lists.into_iter().map(|list| list.into_iter().map(|(f, _)| f).collect()).collect();
        prop_assert_eq!(through_the_filter(&blocks, split, cut), lists.iter().map(expected).collect::<Vec<_>>());
    }

    #[test]
    fn lists_by_an_encoder_that_is_not_ours_come_out_the_same(
        lists in prop::collection::vec(prop::collection::vec(field(), 1..12), 1..6),
        split in 1..600_usize,
        cut in 0..300_usize,
    ) {
        let mut encoder = loona_hpack::Encoder::new();
        let encode = |list: &List| encoder.encode(list.iter().map(|(n, v)| (n.as_slice(), v.as_slice())));
        let blocks: Vec<Vec<u8>> = lists.iter().map(encode).collect();
        prop_assert_eq!(through_the_filter(&blocks, split, cut), lists.iter().map(expected).collect::<Vec<_>>());
    }

    #[test]
    fn octets_and_their_splits_never_matter(
        octets in prop::collection::vec(any::<u8>(), 0..600),
        splits in prop::collection::vec(1..64_usize, 1..8),
        with_preface in any::<bool>(),
    ) {
        let octets = if with_preface { [PREFACE, &octets].concat() } else { octets };
        let whole = rewrite(&mut Rewriter::new(), [octets.as_slice()]);
        let mut pieces = Vec::new();
        let (mut rest, mut sizes) = (octets.as_slice(), splits.iter().cycle());
        while !rest.is_empty() {
            let (piece, next) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = next;
        }
        prop_assert_eq!(rewrite(&mut Rewriter::new(), pieces), whole);
    }
}
