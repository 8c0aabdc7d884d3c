//! SPIFFE IDs and trust domain names: what is accepted is what the grammar of SPIFFE-ID §2, written here anew, accepts.

use mayfly_proto::convert;
use mayfly_proto::spire::types::Spiffeid;
use mayfly_svid::{SpiffeId, TrustDomain};

/// One text, as an ID, as a trust domain name, as both in a message.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (id, name) = (text.parse::<SpiffeId>(), text.parse::<TrustDomain>());
    assert_eq!(id.is_ok(), is_id(text), "{id:?}");
    assert_eq!(name.is_ok(), is_name(text), "{name:?}");

    if let Ok(id) = id {
        assert_eq!(id.to_string(), text);
        assert_eq!(id.trust_domain_name().parse(), Ok(id.trust_domain()));
        assert!(id.is_member_of(&id.trust_domain()));
        if id.path().is_empty() {
            assert_eq!(id.trust_domain().id(), id);
        } else {
            assert_eq!(id.trust_domain().with_path(id.path()), Ok(id.clone()));
        }
        let path: String = id.segments().flat_map(|segment| ["/", segment]).collect();
        assert_eq!(path, id.path());
        assert_eq!(SpiffeId::parse_folded(text), Ok(id.clone()));
        assert_eq!(convert::spiffe_id("id", Some(&(&id).into())), Ok(id));
    }
    if let Ok(folded) = SpiffeId::parse_folded(text) {
        assert!(is_id(folded.as_str()) && folded.as_str().eq_ignore_ascii_case(text));
        assert!(text.ends_with(folded.path()), "the path is not folded");
    }
    if let Ok(folded) = TrustDomain::parse_folded(text) {
        let bare = text.get(..9).filter(|head| head.eq_ignore_ascii_case("spiffe://"));
        let bare = bare.map_or(text, |_| &text[9..]);
        assert!(is_name(folded.as_str()) && folded.as_str().eq_ignore_ascii_case(bare));
    }

    // A message carries name and path apart; however they are cut, what comes out is an ID made of both.
    let (trust_domain, path) = text.split_once('|').unwrap_or(("td", text));
    let wire = Spiffeid {
        trust_domain: trust_domain.to_owned(),
        path: path.to_owned(),
    };
    if let Ok(id) = convert::spiffe_id("id", Some(&wire)) {
        assert!(is_id(id.as_str()));
        assert_eq!(convert::spiffe_id("id", Some(&(&id).into())), Ok(id));
    }
}

fn is_id(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let (name, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let segment = |segment: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        !["", ".", ".."].contains(&segment) && segment.bytes().all(allowed)
    };
    text.len() <= 2048 && is_name(name) && (path.is_empty() || path[1..].split('/').all(segment))
}

fn is_name(text: &str) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    (1..=255).contains(&text.len()) && text.bytes().all(allowed)
}
