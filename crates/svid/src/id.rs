//! SPIFFE IDs and trust domain names.
//!
//! The grammar is the `spiffe` crate's; the length caps, the folding of operator input and the shared text are ours.
//! Both types are one reference-counted string, so that a hundred thousand entries of one parent share its text.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest SPIFFE ID that is accepted or generated, in bytes (SPIFFE-ID §2.3).
const MAX_ID_LEN: usize = 2048;

/// Text that is not a SPIFFE ID or not a trust domain name.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Longer than SPIFFE-ID §2.3 lets it be.
    #[error("`{}…` has {len} bytes, a SPIFFE ID at most 2048", head(text))]
    TooLong {
        /// What was given.
        text: String,
        /// Its length in bytes.
        len: usize,
    },
    /// Breaks the grammar of SPIFFE-ID §2.
    #[error("`{}` is not a SPIFFE ID: {source}", head(text))]
    NotAnId {
        /// What was given.
        text: String,
        /// The rule that it breaks.
        source: spiffe::SpiffeIdError,
    },
    /// Upper case in the scheme or the trust domain, which only operator input may have (SPIFFE-ID §2.1, §2.4).
    #[error("`{}` has upper case letters in its scheme or trust domain", head(text))]
    UpperCase {
        /// What was given.
        text: String,
    },
    /// Breaks the grammar of SPIFFE-ID §2.1.
    #[error("`{}` is not a trust domain name: {source}", head(text))]
    NotATrustDomain {
        /// What was given.
        text: String,
        /// The rule that it breaks.
        source: spiffe::SpiffeIdError,
    },
}

/// The start of `text`, short enough for an error message.
fn head(text: &str) -> &str {
    let end = (0..=80.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    &text[..end]
}

/// A trust domain name: `[a-z0-9._-]`, 1 to 255 bytes (SPIFFE-ID §2.1, §2.3). `Display` is the bare name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads `td` or `spiffe://td` as an operator wrote it; upper case is folded (SPIFFE-ID §2.4).
    ///
    /// # Errors
    /// The text, once folded, is not a trust domain name.
    pub fn parse_folded(text: &str) -> Result<Self, IdError> {
        let folded = text.to_ascii_lowercase();
        folded.strip_prefix("spiffe://").unwrap_or(&folded).parse()
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://<td>`: the name of the trust domain itself, which signing certificates carry (X509-SVID §3.2).
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            uri: format!("spiffe://{}", self.0).into(),
            authority_end: 9 + self.0.len(),
        }
    }

    /// The ID of this trust domain with `path`, which starts with a slash.
    ///
    /// # Errors
    /// The path breaks SPIFFE-ID §2.2, or the whole is too long.
    pub fn with_path(&self, path: &str) -> Result<SpiffeId, IdError> {
        format!("spiffe://{}{path}", self.0).parse()
    }

    /// `spiffe://<td>/spire/server`, the identity of the servers of this trust domain.
    pub fn server_id(&self) -> SpiffeId {
        self.with_path("/spire/server")
            .expect("a constant path is valid in every trust domain")
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match spiffe::TrustDomain::new(text) {
            Ok(domain) if domain.as_str() == text => Ok(Self(text.into())),
            // The library folds case, and reads whole IDs too.
            Ok(domain) if domain.as_str().eq_ignore_ascii_case(text) => Err(IdError::UpperCase { text: text.into() }),
            Ok(_) => Err(IdError::NotATrustDomain {
                text: head(text).into(),
                source: spiffe::SpiffeIdError::BadTrustDomainChar,
            }),
            Err(source) => Err(IdError::NotATrustDomain {
                text: head(text).into(),
                source,
            }),
        }
    }
}

/// A SPIFFE ID. Parsing is the only way to make one (SPIFFE-ID §2). `Display` is the URI.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Where the trust domain ends and the path begins.
    authority_end: usize,
}

impl SpiffeId {
    /// Reads an ID as an operator wrote it: scheme and trust domain are folded to lower case, the path is not
    /// (SPIFFE-ID §2.4).
    ///
    /// # Errors
    /// The text, once folded, is not a SPIFFE ID.
    pub fn parse_folded(text: &str) -> Result<Self, IdError> {
        let scheme_end = text.find("://").map_or(0, |i| i + 3);
        let authority_end = text[scheme_end..].find('/').map_or(text.len(), |i| scheme_end + i);
        let mut folded = text.to_owned();
        folded[..authority_end].make_ascii_lowercase();
        folded.parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The bare trust domain name.
    pub fn trust_domain_name(&self) -> &str {
        &self.uri[9..self.authority_end]
    }

    /// The trust domain that this ID belongs to.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_name().into())
    }

    /// The path with its leading slash; empty for the trust domain's own ID.
    pub fn path(&self) -> &str {
        &self.uri[self.authority_end..]
    }

    /// The path's segments, none for the trust domain's own ID.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    /// Whether this ID belongs to `trust_domain`.
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.as_str()
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() > MAX_ID_LEN {
            return Err(IdError::TooLong {
                text: head(text).into(),
                len: text.len(),
            });
        }
        match spiffe::SpiffeId::new(text) {
            Ok(id) => {
                let authority_end = 9 + id.trust_domain_name().len();
                // The library folds case; two spellings of one ID must not both be IDs.
                if text[..authority_end].bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(IdError::UpperCase { text: text.into() });
                }
                Ok(Self {
                    uri: text.into(),
                    authority_end,
                })
            }
            Err(source) => Err(IdError::NotAnId {
                text: text.into(),
                source,
            }),
        }
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}
impl Eq for SpiffeId {}
impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uri.cmp(&other.uri)
    }
}
impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}
impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.uri
    }
}

macro_rules! text_like {
    ($type:ty, $text:expr) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text: fn(&$type) -> &str = $text;
                f.write_str(text(self))
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text: fn(&$type) -> &str = $text;
                f.write_str(text(self))
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
    };
}
text_like!(TrustDomain, |domain| &domain.0);
text_like!(SpiffeId, |id| &id.uri);

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Result<SpiffeId, IdError> {
        text.parse()
    }

    // SPID-01 SPID-11 SPID-16 SPID-19
    #[test]
    fn valid_ids_keep_their_text_and_parts() {
        for text in [
            "spiffe://td",
            "spiffe://td/a",
            "spiffe://10.0.0.1/a",
            "spiffe://a_b-c.d/A/b.c/_x-",
            "spiffe://td/...",
            "spiffe://td/.a/a.",
        ] {
            let parsed = id(text).unwrap();
            assert_eq!(parsed.as_str(), text);
            assert_eq!(format!("spiffe://{}{}", parsed.trust_domain(), parsed.path()), text);
        }
        assert_eq!(
            id("spiffe://td/a/b").unwrap().segments().collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(id("spiffe://td").unwrap().segments().count(), 0);
    }

    // SPID-02 SPID-03 SPID-04 SPID-05 SPID-06 SPID-07 SPID-08 SPID-10 SPID-14 SPID-15 SPID-17
    #[test]
    fn refuses_what_the_grammar_refuses() {
        for text in [
            "",
            "td/a",
            "http://td/a",
            "spiffee://td/a",
            "spiffe:/td/a",
            "spiffe:///a",
            "spiffe://",
            "spiffe://td/a?x=1",
            "spiffe://td/a?",
            "spiffe://td/a#f",
            "spiffe://td/a#",
            "spiffe://td?x",
            "spiffe://u@td/a",
            "spiffe://@td/a",
            "spiffe://td:8443/a",
            "spiffe://td:/a",
            "spiffe://Td/a",
            "SPIFFE://td/a",
            "spiffe://t%64/a",
            "spiffe://[::1]/a",
            "spiffe://td/a%2Fb",
            "spiffe://td/%41",
            "spiffe://td//a",
            "spiffe://td/a//b",
            "spiffe://td/a/./b",
            "spiffe://td/../a",
            "spiffe://td/",
            "spiffe://td/a/",
            "spiffe://td/é",
            "spiffe://td/a b",
        ] {
            assert!(id(text).is_err(), "{text} was accepted");
        }
    }

    // SPID-09
    #[test]
    fn trust_domain_names_use_only_the_allowed_bytes() {
        for byte in 0..=255u8 {
            let text = format!("spiffe://a{}b/p", char::from(byte));
            let allowed = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'/');
            assert_eq!(id(&text).is_ok(), allowed, "byte {byte:#x}");
        }
    }

    // SPID-18
    #[test]
    fn path_segments_use_only_the_allowed_bytes() {
        for byte in 0..=255u8 {
            let text = format!("spiffe://td/a{}b", char::from(byte));
            let allowed = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/');
            assert_eq!(id(&text).is_ok(), allowed, "byte {byte:#x}");
        }
    }

    // SPID-20 SPID-21
    #[test]
    fn an_id_of_2048_bytes_is_accepted_and_one_of_2049_is_not() {
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        assert_eq!(longest.len(), 2048);
        assert!(id(&longest).is_ok());
        assert!(matches!(
            id(&format!("{longest}a")),
            Err(IdError::TooLong { len: 2049, .. })
        ));
    }

    // SPID-22
    #[test]
    fn a_trust_domain_name_of_255_bytes_is_accepted_and_one_of_256_is_not() {
        assert!("a".repeat(255).parse::<TrustDomain>().is_ok());
        assert!("a".repeat(256).parse::<TrustDomain>().is_err());
    }

    // SPID-23 SPID-24
    #[test]
    fn operator_input_is_folded_in_the_authority_but_not_in_the_path() {
        assert_eq!(
            SpiffeId::parse_folded("SPIFFE://TD.example/A").unwrap(),
            id("spiffe://td.example/A").unwrap()
        );
        assert_ne!(id("spiffe://td/a").unwrap(), id("spiffe://td/A").unwrap());
        assert_eq!(
            TrustDomain::parse_folded("Example.ORG").unwrap().as_str(),
            "example.org"
        );
        assert_eq!(
            TrustDomain::parse_folded("SPIFFE://Example.org").unwrap().as_str(),
            "example.org"
        );
        for text in ["spiffe://td", "Td", "td/a", "spiffe://td/a", "http://td", "td ", ""] {
            assert!(text.parse::<TrustDomain>().is_err(), "{text} was accepted");
        }
        assert!(TrustDomain::parse_folded("spiffe://td/a").is_err());
    }

    #[test]
    fn errors_name_the_text_and_the_rule() {
        let error = id("spiffe://td/a/").unwrap_err().to_string();
        assert!(error.contains("spiffe://td/a/"), "{error}");
    }
}
