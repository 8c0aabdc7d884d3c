//! Lists in pages: how many, how large, and where the next one begins.
//!
//! A page ends at 1000 items or at 3 MiB, whichever comes first: SPIRE's clients read at most 4 MiB. A walk over many
//! items that do not match gives other calls a turn. The token of the next page says after which item it begins; it is
//! bound to the filter that it was made for and holds nothing else.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use tonic::Status;

use super::status::invalid;

/// The most items on a page, and how many there are when a caller does not say.
pub(super) const PAGE_MAX: usize = 1000;
/// Where a page ends, in encoded bytes; it has one item at least.
const PAGE_BYTES: usize = 3 << 20;
/// After so many items that did not match the walk pauses.
const TURN: usize = 4096;
/// Tokens are refused beyond this length: ours have less than 3000 bytes (a SPIFFE ID has 2048).
const TOKEN_MAX: usize = 4096;
const TAG: usize = 8;

/// One page of a list on the wire.
pub(super) struct Page<W> {
    pub(super) items: Vec<W>,
    /// For the next page; empty on the last one.
    pub(super) next_token: String,
}

/// Which page a caller wants.
pub(super) struct Wanted {
    count: usize,
    tag: [u8; TAG],
    /// The key of the last item of the page before.
    pub(super) after: Option<String>,
}

impl Wanted {
    /// Reads a request for a page. `filter` is what the pages have in common, encoded.
    ///
    /// # Errors
    /// The size is negative, or the token is none that was made for this list and filter.
    pub(super) fn parse(list: &str, filter: &[u8], size: i32, token: &str) -> Result<Self, Status> {
        let count = match usize::try_from(size) {
            Ok(0) => PAGE_MAX,
            Ok(count) => count.min(PAGE_MAX),
            Err(_) => return Err(invalid(format!("page_size: is {size}; it cannot be negative"))),
        };
        let tag = tag(list, filter);
        let after = if token.is_empty() {
            None
        } else {
            Some(decode(&tag, token).ok_or_else(bad_token)?)
        };
        Ok(Self { count, tag, after })
    }

    /// The key that the page begins after.
    ///
    /// # Errors
    /// The token holds none.
    pub(super) fn after<K: std::str::FromStr>(&self) -> Result<Option<K>, Status> {
        self.after
            .as_deref()
            .map(|key| key.parse().map_err(|_| bad_token()))
            .transpose()
    }

    /// Takes a page of those `items` that `matches`; `items` begin after [`Self::after`], in the order of their keys.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub(super) async fn collect<T, W: Message>(
        self,
        items: impl Iterator<Item = T>,
        matches: impl Fn(&T) -> bool,
        key: impl Fn(&T) -> String,
        wire: impl Fn(&T) -> W,
    ) -> Page<W> {
        let mut page = Page {
            items: vec![],
            next_token: String::new(),
        };
        let (mut bytes, mut last) = (0, String::new());
        for (walked, item) in items.enumerate() {
            if walked % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            if !matches(&item) {
                continue;
            }
            let message = wire(&item);
            bytes += message.encoded_len();
            if page.items.len() == self.count || (bytes > PAGE_BYTES && !page.items.is_empty()) {
                page.next_token = encode(&self.tag, &last);
                break;
            }
            page.items.push(message);
            last = key(&item);
        }
        page
    }
}

/// Counts the items that match, with pauses.
pub(super) async fn count<T>(items: impl Iterator<Item = T>, matches: impl Fn(&T) -> bool) -> i32 {
    let mut count: i32 = 0;
    for (walked, item) in items.enumerate() {
        if walked % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        if matches(&item) {
            count = count.saturating_add(1);
        }
    }
    count
}

fn tag(list: &str, filter: &[u8]) -> [u8; TAG] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(list.as_bytes());
    context.update(&[0]);
    context.update(filter);
    context.finish().as_ref()[..TAG]
        .try_into()
        .expect("SHA-256 has more octets than a tag")
}

fn encode(tag: &[u8; TAG], key: &str) -> String {
    URL_SAFE_NO_PAD.encode([tag.as_slice(), key.as_bytes()].concat())
}

fn decode(tag: &[u8; TAG], token: &str) -> Option<String> {
    if token.len() > TOKEN_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    String::from_utf8(bytes.strip_prefix(tag)?.to_vec()).ok()
}

fn bad_token() -> Status {
    invalid("page_token: was not made for this list and filter")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn page(size: i32, token: &str, filter: &str) -> Result<(Vec<String>, String), Status> {
        let all: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
        let wanted = Wanted::parse("things", filter.as_bytes(), size, token)?;
        let after = wanted.after::<String>()?;
        let rest = all.iter().filter(|key| after.as_ref().is_none_or(|after| *key > after));
        let page = wanted
            .collect(
                rest,
                |key| key.contains(filter),
                |key| (*key).clone(),
                |key| (*key).clone(),
            )
            .await;
        Ok((page.items, page.next_token))
    }

    #[tokio::test]
    async fn pages_join_into_the_whole_list_and_the_last_one_has_no_token() {
        let (mut all, mut token, mut pages) = (vec![], String::new(), 0);
        loop {
            let (items, next) = page(4, &token, "k").await.unwrap();
            all.extend(items);
            pages += 1;
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!((all.len(), pages), (10, 3));
        let (items, next) = page(10, "", "k").await.unwrap();
        assert_eq!(
            (items.len(), next.as_str()),
            (10, ""),
            "exactly full, and nothing follows"
        );
    }

    #[tokio::test]
    async fn tokens_are_good_for_their_list_and_filter_only() {
        let (_, token) = page(2, "", "k").await.unwrap();
        for (filter, bad) in [
            ("1", token.as_str()),
            ("k", "x"),
            ("k", "AAAA"),
            ("k", &"A".repeat(5000)),
        ] {
            assert_eq!(
                page(2, bad, filter).await.unwrap_err().code(),
                tonic::Code::InvalidArgument,
                "{bad}"
            );
        }
    }

    // A number that a caller states sets no memory aside.
    #[tokio::test]
    async fn a_page_is_as_large_as_we_allow_whatever_is_asked_for() {
        assert_eq!(Wanted::parse("l", b"", i32::MAX, "").unwrap().count, PAGE_MAX);
        assert_eq!(Wanted::parse("l", b"", 0, "").unwrap().count, PAGE_MAX);
        assert!(Wanted::parse("l", b"", -1, "").is_err());
        let wanted = Wanted::parse("l", b"", 0, "").unwrap();
        let big = "x".repeat(1 << 20);
        let page = wanted
            .collect(
                std::iter::repeat_n(&big, 10),
                |_| true,
                |_| "k".into(),
                |text| (*text).clone(),
            )
            .await;
        assert_eq!(page.items.len(), 2);
        assert!(!page.next_token.is_empty());
    }
}
