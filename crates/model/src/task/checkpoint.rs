//! Which consumers a definition believes when they say that they enforce the end of its windows.

use std::fmt;
use std::str::FromStr;

use mayfly_svid::{SpiffeId, TrustDomain};

use super::PathPattern;

/// The longest name that a consumer registers with, in bytes.
pub const CHECKPOINT_MAX: usize = 128;

/// Who counts as a checkpoint, as written under `ending.checkpoints`: `/svc/db` for whoever has that base SPIFFE ID, `/svc/*`
/// for all below it, and `db@/svc/*` for those of them that registered with the name `db`.
///
/// A name by itself is no rule: any process may register with any name, but its ID is what its agent attested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRule<'a> {
    name: Option<&'a str>,
    who: PathPattern,
}

/// Text that is not a [`CheckpointRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` does not say whom to believe: write the path of the consumer's SPIFFE ID, such as /svc/db or /svc/*, or \
     name@/svc/db with the name that it registers with"
)]
pub struct CheckpointRuleError(String);

/// Whether a consumer may register with this name.
pub fn is_checkpoint_name(name: &str) -> bool {
    let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._/-".contains(&b);
    (1..=CHECKPOINT_MAX).contains(&name.len()) && name.bytes().all(is_known)
}

impl<'a> CheckpointRule<'a> {
    /// Reads a rule.
    ///
    /// # Errors
    /// It names nobody: a name without a path, or a path that is none.
    pub fn parse(text: &'a str) -> Result<Self, CheckpointRuleError> {
        let refused = || CheckpointRuleError(text.chars().take(2 * CHECKPOINT_MAX).collect());
        let (name, path) = match text.split_once('@') {
            Some((name, path)) if is_checkpoint_name(name) => (Some(name), path),
            Some(_) => return Err(refused()),
            None => (None, text),
        };
        let who = PathPattern::from_str(path).map_err(|_| refused())?;
        // Neither agents nor servers have the kit, and a task does not vouch for tasks.
        if matches!(who.first_segment(), "spire" | "task" | "breakglass") {
            return Err(refused());
        }
        Ok(Self { name, who })
    }

    /// Whether a consumer that registered as `name` and is `id`, by the word of its agent, is meant. `own` is the server's
    /// trust domain.
    pub fn means(&self, name: &str, id: &SpiffeId, own: &TrustDomain) -> bool {
        self.name.is_none_or(|wanted| wanted == name) && self.may_mean(id, own)
    }

    /// Whether a consumer that is `id` is meant if it registers with the right name.
    pub fn may_mean(&self, id: &SpiffeId, own: &TrustDomain) -> bool {
        self.who.matches(id, own)
    }

    /// The only ID that is meant; none if it is all below a path.
    pub fn only(&self, own: &TrustDomain) -> Option<SpiffeId> {
        self.who.only(own)
    }
}

impl fmt::Display for CheckpointRule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name {
            write!(f, "{name}@")?;
        }
        write!(f, "{}", self.who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_believes_identities_and_no_names() {
        let own = "td".parse().unwrap();
        let means = |rule: &str, name: &str, id: &str| {
            let rule = CheckpointRule::parse(rule).unwrap();
            rule.means(name, &id.parse().unwrap(), &own)
        };
        let only = |rule: &str| CheckpointRule::parse(rule).unwrap().only(&own);
        assert_eq!(only("db@/svc/db"), Some("spiffe://td/svc/db".parse().unwrap()));
        assert_eq!((only("/svc/*"), only("/*")), (None, None));
        assert!(means("/svc/db", "whatever", "spiffe://td/svc/db"));
        assert!(!means("/svc/db", "svc/db", "spiffe://td/ns/evil"));
        assert!(!means("/svc/db", "db", "spiffe://other/svc/db"));
        assert!(means("/svc/*", "db", "spiffe://td/svc/db/1"));
        assert!(means("db@/svc/*", "db", "spiffe://td/svc/db"));
        assert!(!means("db@/svc/*", "web", "spiffe://td/svc/db"));
        assert!(!means("db@/svc/*", "db", "spiffe://td/ns/evil"));
    }

    #[test]
    fn a_name_alone_is_no_rule() {
        for wrong in [
            "db",
            "",
            "@",
            "db@",
            "@/svc/db",
            "Db@/svc/db",
            "db@svc",
            "/svc//x",
            "/task/*",
            "x@/spire/agent/a",
        ] {
            let refused = CheckpointRule::parse(wrong).map(|rule| rule.to_string());
            assert!(refused.is_err(), "{wrong}: {refused:?}");
        }
        for right in ["/svc/db", "/*", "pay/db@/svc/*"] {
            assert_eq!(CheckpointRule::parse(right).unwrap().to_string(), right);
        }
        assert!(
            CheckpointRule::parse("pay-db")
                .unwrap_err()
                .to_string()
                .contains("whom to believe")
        );
    }
}
