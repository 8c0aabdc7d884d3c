//! Wire messages to our nouns and back. What comes in is parsed, what goes out cannot fail.
//!
//! Each conversion names the field that it refuses, so that a caller reads `entry.selectors: …` and not "bad request".

mod agent;
mod bundle;
mod entry;
pub mod task;

use std::fmt;
use std::time::Duration;

use mayfly_model::{MatchBy, Selector, Selectors};
use mayfly_svid::{SpiffeId, TrustDomain};

pub use bundle::{bundle_patch, jwt_authorities, x509_authorities};
pub use entry::entry_patch;

use crate::spire::types;

/// A wire message that says something that our nouns cannot say.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertError {
    field: &'static str,
    what: String,
}

impl ConvertError {
    /// `field` is refused because of `what`.
    pub fn new(field: &'static str, what: impl fmt::Display) -> Self {
        Self {
            field,
            what: what.to_string(),
        }
    }

    /// The field that is refused, by its name on the wire.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.what)
    }
}

impl std::error::Error for ConvertError {}

/// Reads a SPIFFE ID. The trust domain may be given as `td` or `spiffe://td`, the path with or without its first slash.
///
/// # Errors
/// It is missing or not a SPIFFE ID.
pub fn spiffe_id(field: &'static str, wire: Option<&types::Spiffeid>) -> Result<SpiffeId, ConvertError> {
    let wire = wire.ok_or_else(|| ConvertError::new(field, "is missing"))?;
    let name = wire
        .trust_domain
        .strip_prefix("spiffe://")
        .unwrap_or(&wire.trust_domain);
    let slash = if wire.path.is_empty() || wire.path.starts_with('/') {
        ""
    } else {
        "/"
    };
    let text = format!("spiffe://{name}{slash}{}", wire.path);
    SpiffeId::parse_folded(&text).map_err(|error| ConvertError::new(field, error))
}

/// Reads a trust domain, given as `td` or `spiffe://td`.
///
/// # Errors
/// It is not a trust domain name.
pub fn trust_domain(field: &'static str, wire: &str) -> Result<TrustDomain, ConvertError> {
    TrustDomain::parse_folded(wire).map_err(|error| ConvertError::new(field, error))
}

/// Reads selectors.
///
/// # Errors
/// One of them is not a selector.
pub fn selectors(field: &'static str, wire: &[types::Selector]) -> Result<Selectors, ConvertError> {
    wire.iter()
        .map(|selector| {
            Selector::new(&selector.r#type, &selector.value).map_err(|error| ConvertError::new(field, error))
        })
        .collect()
}

/// Reads a selector filter and how it compares.
///
/// # Errors
/// A selector is not one, there are none, or the mode is unknown.
pub fn selector_match(field: &'static str, wire: &types::SelectorMatch) -> Result<(Selectors, MatchBy), ConvertError> {
    if wire.selectors.is_empty() {
        return Err(ConvertError::new(field, "holds no selector to compare with"));
    }
    let by = match_by(field, wire.r#match)?;
    Ok((selectors(field, &wire.selectors)?, by))
}

/// Both filters number their modes alike.
fn match_by(field: &'static str, mode: i32) -> Result<MatchBy, ConvertError> {
    use types::selector_match::MatchBehavior as Wire;
    match Wire::try_from(mode) {
        Ok(Wire::MatchExact) => Ok(MatchBy::Exact),
        Ok(Wire::MatchSubset) => Ok(MatchBy::Subset),
        Ok(Wire::MatchSuperset) => Ok(MatchBy::Superset),
        Ok(Wire::MatchAny) => Ok(MatchBy::Any),
        Err(_) => Err(ConvertError::new(field, format!("has the unknown match mode {mode}"))),
    }
}

/// Reads a trust domain filter and how it compares.
///
/// # Errors
/// A name is not a trust domain, there are none, or the mode is unknown.
pub fn federates_with_match(
    field: &'static str,
    wire: &types::FederatesWithMatch,
) -> Result<(Vec<TrustDomain>, MatchBy), ConvertError> {
    if wire.trust_domains.is_empty() {
        return Err(ConvertError::new(field, "holds no trust domain to compare with"));
    }
    let by = match_by(field, wire.r#match)?;
    let names = wire
        .trust_domains
        .iter()
        .map(|name| trust_domain(field, name))
        .collect::<Result<_, _>>()?;
    Ok((names, by))
}

/// Reads a TTL in seconds, where 0 means "the server's default".
///
/// # Errors
/// It is negative.
pub fn ttl(field: &'static str, seconds: i32) -> Result<Option<Duration>, ConvertError> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(ConvertError::new(
            field,
            format!("is {seconds} s; a lifetime is not negative"),
        )),
    }
}

fn ttl_to_wire(ttl: Option<Duration>) -> i32 {
    ttl.map_or(0, |ttl| i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX))
}

impl From<&SpiffeId> for types::Spiffeid {
    fn from(id: &SpiffeId) -> Self {
        Self {
            trust_domain: id.trust_domain_name().into(),
            path: id.path().into(),
        }
    }
}

impl From<&Selector> for types::Selector {
    fn from(selector: &Selector) -> Self {
        Self {
            r#type: selector.kind().into(),
            value: selector.value().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_id(trust_domain: &str, path: &str) -> types::Spiffeid {
        types::Spiffeid {
            trust_domain: trust_domain.into(),
            path: path.into(),
        }
    }

    #[test]
    fn ids_are_read_as_operators_write_them_and_written_as_parts() {
        for (trust_domain, path) in [("td", "/a"), ("spiffe://td", "a"), ("TD", "/a")] {
            let id = spiffe_id("id", Some(&wire_id(trust_domain, path))).unwrap();
            assert_eq!(types::Spiffeid::from(&id), wire_id("td", "/a"));
        }
    }

    #[test]
    fn refusals_name_the_field() {
        assert_eq!(
            spiffe_id("entry.parent_id", None).unwrap_err().to_string(),
            "entry.parent_id: is missing"
        );
        assert_eq!(
            spiffe_id("id", Some(&wire_id("t/d", ""))).map(|id| id.path().to_owned()),
            Ok("/d".into())
        );
        for (trust_domain, path) in [
            ("", "/a"),
            ("td:1", "/a"),
            ("u@td", "/a"),
            ("td", "/a/"),
            ("td", "/a?x"),
            ("td", "//a"),
        ] {
            assert!(
                spiffe_id("id", Some(&wire_id(trust_domain, path))).is_err(),
                "{trust_domain} {path}"
            );
        }
        assert_eq!(
            ttl("entry.x509_svid_ttl", -1).unwrap_err().field(),
            "entry.x509_svid_ttl"
        );
        let filter = types::SelectorMatch {
            selectors: vec![],
            r#match: 0,
        };
        assert!(selector_match("filter.by_selectors", &filter).is_err());
        let unknown = types::SelectorMatch {
            selectors: vec![types::Selector {
                r#type: "a".into(),
                value: "b".into(),
            }],
            r#match: 9,
        };
        assert!(selector_match("filter.by_selectors", &unknown).is_err());
    }
}
