//! Registration entries: which processes on which nodes get which identity.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use mayfly_svid::{SpiffeId, Timestamp, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::{Selector, SelectorError, Selectors, TokenHash, reserved::ReservedPath, reserved_path};

/// The ID of an entry: 1 to 255 of `[A-Za-z0-9._-]`; a UUID unless its creator chose one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EntryId(Arc<str>);

/// Text that is not an entry ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an entry ID has 1 to 255 of the characters A-Z a-z 0-9 . _ -")]
pub struct EntryIdError;

impl EntryId {
    /// A fresh random ID that sorts behind those that this process made before (UUID version 7, RFC 9562 §5.7): entries of
    /// the same second stay in the order of their creation, and the newest does not become a workload's default.
    pub fn random() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, EntryIdError> {
        let fits = (1..=255).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
            Ok(Self(text.into()))
        } else {
            Err(EntryIdError)
        }
    }
}

impl TryFrom<String> for EntryId {
    type Error = EntryIdError;

    fn try_from(text: String) -> Result<Self, EntryIdError> {
        text.parse()
    }
}

impl From<EntryId> for String {
    fn from(id: EntryId) -> Self {
        id.0.as_ref().into()
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SPIRE's tunables of an entry. Present with `disable_x509_svid_prefetch = false`, they ask our agents for prefetch;
/// absent, our agents make SVIDs on demand and SPIRE's agents follow their own default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdditionalAttributes {
    /// The SVID is made when a workload asks, not before.
    pub disable_x509_svid_prefetch: bool,
    /// Each JWT-SVID gets a `jti` of its own.
    pub jwt_svid_include_jti: bool,
}

/// What an operator states of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntrySpec {
    /// The identity that it gives.
    pub spiffe_id: SpiffeId,
    /// Who may serve it: an agent, a node alias, or the server for the alias itself.
    pub parent_id: SpiffeId,
    /// All of these must hold of the process (of the node, for an alias).
    pub selectors: Selectors,
    /// Lifetime of its X.509-SVIDs; the server's default if none.
    pub x509_svid_ttl: Option<Duration>,
    /// Lifetime of its JWT-SVIDs; the server's default if none.
    pub jwt_svid_ttl: Option<Duration>,
    /// Foreign trust domains whose bundles its holder gets.
    pub federates_with: Vec<TrustDomain>,
    /// Its holder may call the operators' API.
    pub admin: bool,
    /// Its holder may act as a downstream server.
    pub downstream: bool,
    /// After this instant nothing is issued for it, and what was issued ends by it.
    pub expires_at: Option<Timestamp>,
    /// DNS SANs of its X.509-SVIDs; the first is also the common name (IOP-29).
    pub dns_names: Vec<String>,
    /// For agents that write SVIDs to a store.
    pub store_svid: bool,
    /// Guidance for workloads that get several SVIDs, at most 1024 bytes (WAPI-25); empty for none.
    pub hint: String,
    /// SPIRE's tunables.
    pub additional_attributes: Option<AdditionalAttributes>,
}

/// A registration entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its ID.
    pub id: EntryId,
    /// What the operator stated.
    pub spec: EntrySpec,
    /// When it was created.
    pub created_at: Timestamp,
    /// 0 at creation, one more with each update.
    pub revision_number: i64,
}

/// A rule that an entry breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The ID or the parent belongs to another trust domain.
    #[error("{field} `{id}` is not in the trust domain `{trust_domain}`")]
    ForeignTrustDomain {
        /// `spiffe_id` or `parent_id`.
        field: &'static str,
        /// What was given.
        id: SpiffeId,
        /// The server's own.
        trust_domain: TrustDomain,
    },
    /// The ID has no path (X509-SVID §3.1).
    #[error("{field} `{id}` has no path; the trust domain itself is not a workload")]
    NoPath {
        /// `spiffe_id` or `parent_id`.
        field: &'static str,
        /// What was given.
        id: SpiffeId,
    },
    /// The ID lies in a reserved space.
    #[error("spiffe_id `{id}` is reserved: {}", .space.purpose())]
    Reserved {
        /// What was given.
        id: SpiffeId,
        /// Which space.
        space: ReservedPath,
    },
    /// The parent lies in a space that has no agents.
    #[error("parent_id `{id}` is reserved: {}", .space.purpose())]
    ReservedParent {
        /// What was given.
        id: SpiffeId,
        /// Which space.
        space: ReservedPath,
    },
    /// There are no selectors, or too many.
    #[error("an entry has 1 to 100 selectors, this one has {count}")]
    SelectorCount {
        /// How many were given.
        count: usize,
    },
    /// A TTL outside 20 seconds to 366 days.
    #[error("{field} of {seconds} s is outside 20 s to 366 days")]
    Ttl {
        /// `x509_svid_ttl` or `jwt_svid_ttl`.
        field: &'static str,
        /// What was given.
        seconds: u64,
    },
    /// It would federate with the server's own trust domain.
    #[error("an entry cannot federate with its own trust domain `{0}`")]
    FederatesWithItself(TrustDomain),
    /// The hint is longer than 1024 bytes (WAPI-25).
    #[error("the hint has {len} bytes, at most 1024 are allowed")]
    HintTooLong {
        /// Its length.
        len: usize,
    },
    /// The hint holds what would steer a terminal or turn text around.
    #[error("the hint holds a control character or a change of writing direction; write plain text")]
    HintText,
    /// Not a DNS name that certificates can carry.
    #[error("`{name}` is not a DNS name")]
    DnsName {
        /// What was given.
        name: String,
    },
    /// More foreign trust domains than anybody needs: each is looked up within the commit.
    #[error("an entry federates with at most 1000 trust domains, this one with {count}")]
    FederationCount {
        /// How many were given.
        count: usize,
    },
    /// More DNS names than 100.
    #[error("an entry has at most 100 DNS names, this one has {count}")]
    DnsNameCount {
        /// How many were given.
        count: usize,
    },
}

impl EntrySpec {
    /// A spec with the three mandatory parts and nothing else.
    pub fn new(spiffe_id: SpiffeId, parent_id: SpiffeId, selectors: Selectors) -> Self {
        Self {
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: vec![],
            admin: false,
            downstream: false,
            expires_at: None,
            dns_names: vec![],
            store_svid: false,
            hint: String::new(),
            additional_attributes: None,
        }
    }

    /// Checks the rules that hold for every entry of `trust_domain`, whoever creates it.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        for (field, id) in [("spiffe_id", &self.spiffe_id), ("parent_id", &self.parent_id)] {
            if !id.is_member_of(trust_domain) {
                return Err(EntryError::ForeignTrustDomain {
                    field,
                    id: id.clone(),
                    trust_domain: trust_domain.clone(),
                });
            }
            if id.path().is_empty() {
                return Err(EntryError::NoPath { field, id: id.clone() });
            }
        }
        if let Some(space) = reserved_path(&self.spiffe_id) {
            return Err(EntryError::Reserved {
                id: self.spiffe_id.clone(),
                space,
            });
        }
        if let Some(space @ (ReservedPath::Task | ReservedPath::Breakglass)) = reserved_path(&self.parent_id) {
            return Err(EntryError::ReservedParent {
                id: self.parent_id.clone(),
                space,
            });
        }
        if !(1..=100).contains(&self.selectors.len()) {
            return Err(EntryError::SelectorCount {
                count: self.selectors.len(),
            });
        }
        for (field, ttl) in [
            ("x509_svid_ttl", self.x509_svid_ttl),
            ("jwt_svid_ttl", self.jwt_svid_ttl),
        ] {
            if let Some(ttl) = ttl
                && !(20..=366 * 86400).contains(&ttl.as_secs())
            {
                return Err(EntryError::Ttl {
                    field,
                    seconds: ttl.as_secs(),
                });
            }
        }
        if self.federates_with.len() > 1000 {
            return Err(EntryError::FederationCount {
                count: self.federates_with.len(),
            });
        }
        if self.federates_with.contains(trust_domain) {
            return Err(EntryError::FederatesWithItself(trust_domain.clone()));
        }
        if self.hint.len() > 1024 {
            return Err(EntryError::HintTooLong { len: self.hint.len() });
        }
        if self.hint.chars().any(|c| c.is_control() || is_direction_mark(c)) {
            return Err(EntryError::HintText);
        }
        if self.dns_names.len() > 100 {
            return Err(EntryError::DnsNameCount {
                count: self.dns_names.len(),
            });
        }
        match self.dns_names.iter().find(|name| !is_dns_name(name)) {
            Some(name) => Err(EntryError::DnsName { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Whether `other` would give the same identity to the same processes: SPIRE calls such entries similar and allows
    /// one of them.
    pub fn is_similar_to(&self, other: &Self) -> bool {
        self.spiffe_id == other.spiffe_id && self.parent_id == other.parent_id && self.selectors == other.selectors
    }
}

impl Entry {
    /// Another name for an agent that used a join token, in SPIRE's form: below the agent, for no process of its node, as
    /// no process has such a selector.
    ///
    /// # Errors
    /// The agent's ID is too long for a selector.
    pub fn alias_by_token(
        token: &TokenHash,
        name: SpiffeId,
        agent_id: &SpiffeId,
        created_at: Timestamp,
    ) -> Result<Self, SelectorError> {
        let selector = Selector::new("spiffe_id", agent_id.as_str())?;
        // One token makes one alias, so its hash names it; it tells nothing, as the token is used up by then.
        let id = EntryId(hex::encode(&token.as_bytes()[..16]).into());
        let spec = EntrySpec::new(name, agent_id.clone(), [selector].into_iter().collect());
        Ok(Self {
            id,
            spec,
            created_at,
            revision_number: 0,
        })
    }

    /// Whether it has expired at `now`: nothing is issued for it from then on.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.spec.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether agents should make its SVID before a workload asks.
    pub fn prefetch(&self) -> bool {
        self.spec
            .additional_attributes
            .is_some_and(|attributes| !attributes.disable_x509_svid_prefetch)
    }
}

/// An order-free digest of a set of entries, by which an agent and its server find out that they hold the same: the exclusive
/// or, over all entries, of the first 8 octets (big-endian) of SHA-256(`<id> <revision_number> <created_at>`). 0 for none.
pub fn entries_digest<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    entries.into_iter().fold(0, |sum, entry| {
        let text = format!("{} {} {}", entry.id, entry.revision_number, entry.created_at.unix());
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let head = digest.as_ref().first_chunk().expect("SHA-256 has 32 octets");
        sum ^ u64::from_be_bytes(*head)
    })
}

/// Whether `c` changes the direction of what follows: a hint with it would read as another one.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A host name as certificates carry it: labels of letters, digits, `-` and `_`, the first may be `*`; at most 253 bytes.
fn is_dns_name(name: &str) -> bool {
    let labels = name.strip_prefix("*.").unwrap_or(name);
    (1..=253).contains(&name.len())
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> EntrySpec {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let selectors = ["unix:uid:1000".parse().unwrap()].into_iter().collect();
        EntrySpec::new(
            id("spiffe://td/web"),
            id("spiffe://td/spire/agent/x509pop/a"),
            selectors,
        )
    }

    fn check(change: impl FnOnce(&mut EntrySpec)) -> Result<(), EntryError> {
        let mut spec = spec();
        change(&mut spec);
        spec.check(&"td".parse().unwrap())
    }

    // WAPI-23
    #[test]
    fn ids_sort_in_the_order_in_which_they_were_made() {
        let ids: Vec<EntryId> = (0..1_000).map(|_| EntryId::random()).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
    }

    #[test]
    fn an_ordinary_entry_passes() {
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(
            check(|s| s.dns_names = vec!["a.example".into(), "*.b_c.example".into()]),
            Ok(())
        );
        assert_eq!(
            check(|s| s.parent_id = "spiffe://td/spire/server".parse().unwrap()),
            Ok(())
        );
        assert_eq!(check(|s| s.parent_id = "spiffe://td/group/a".parse().unwrap()), Ok(()));
    }

    // Nobody reaches such an entry, but SPIRE's controller-manager makes one to learn which fields a server keeps.
    #[test]
    fn an_entry_may_be_its_own_parent() {
        assert_eq!(check(|s| s.parent_id = s.spiffe_id.clone()), Ok(()));
    }

    // S2
    #[test]
    fn reserved_paths_cannot_be_registered() {
        for path in [
            "/task/a",
            "/task",
            "/breakglass/x",
            "/spire/server",
            "/spire/agent/x",
            "/spire/else",
        ] {
            let result = check(|s| s.spiffe_id = format!("spiffe://td{path}").parse().unwrap());
            assert!(matches!(result, Err(EntryError::Reserved { .. })), "{path}");
        }
        let result = check(|s| s.parent_id = "spiffe://td/task/a".parse().unwrap());
        assert!(matches!(result, Err(EntryError::ReservedParent { .. })));
    }

    // XSVID-05 SVID-14 WAPI-25 SPID-13
    #[test]
    fn what_an_entry_may_not_say() {
        assert!(matches!(
            check(|s| s.spiffe_id = "spiffe://td".parse().unwrap()),
            Err(EntryError::NoPath { .. })
        ));
        assert!(matches!(
            check(|s| s.spiffe_id = "spiffe://other/a".parse().unwrap()),
            Err(EntryError::ForeignTrustDomain { .. })
        ));
        assert_eq!(check(|s| s.hint = "h".repeat(1024)), Ok(()));
        assert!(matches!(
            check(|s| s.hint = "h".repeat(1025)),
            Err(EntryError::HintTooLong { len: 1025 })
        ));
        // WAPI-26: free text, as long as it is text.
        assert_eq!(check(|s| s.hint = "für intern, 内部".into()), Ok(()));
        for hint in ["a\u{1b}[31m", "a\nb", "a\u{202e}b"] {
            assert_eq!(check(|s| s.hint = hint.into()), Err(EntryError::HintText), "{hint:?}");
        }
        assert!(matches!(
            check(|s| s.selectors = Selectors::default()),
            Err(EntryError::SelectorCount { count: 0 })
        ));
        assert!(matches!(
            check(|s| s.federates_with = vec!["td".parse().unwrap()]),
            Err(EntryError::FederatesWithItself(_))
        ));
        assert!(matches!(
            check(|s| s.federates_with = vec!["x".parse().unwrap(); 1001]),
            Err(EntryError::FederationCount { count: 1001 })
        ));
        assert!(matches!(
            check(|s| s.x509_svid_ttl = Some(Duration::from_secs(19))),
            Err(EntryError::Ttl { .. })
        ));
        for name in ["", "a..b", "-a", "a-", "ä", "a b", "*", "a.*.b", &"a".repeat(64)] {
            assert!(
                matches!(
                    check(|s| s.dns_names = vec![name.into()]),
                    Err(EntryError::DnsName { .. })
                ),
                "{name}"
            );
        }
    }

    #[test]
    fn the_digest_ignores_order_and_notices_each_revision() {
        let entry = |id: &str, revision_number| Entry {
            id: id.parse().unwrap(),
            spec: spec(),
            created_at: Timestamp::from_unix(1),
            revision_number,
        };
        let (a, b) = (entry("a", 0), entry("b", 0));
        assert_eq!(entries_digest([&a, &b]), entries_digest([&b, &a]));
        assert_ne!(entries_digest([&a, &b]), entries_digest([&a, &entry("b", 1)]));
        assert_ne!(entries_digest([&a]), entries_digest([&a, &b]));
        assert_eq!(entries_digest([]), 0);
    }

    #[test]
    fn entry_ids_have_a_small_alphabet() {
        assert!("a.B-1_".parse::<EntryId>().is_ok());
        for bad in ["", "a b", "a/b", "ä", &"a".repeat(256)] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad}");
        }
    }
}
