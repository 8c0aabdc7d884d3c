//! Names of teams, tasks, people and groups.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mayfly_svid::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

/// The longest name of a team, a task, a person or a part of a group's name, in bytes.
const NAME_MAX: usize = 64;

/// Text that is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A part is empty, too long, or has other characters.
    #[error("`{text}` is not a name: each part has 1 to {NAME_MAX} of a-z 0-9 - _ . and begins with a letter or digit")]
    Part {
        /// What was given.
        text: String,
    },
    /// A task without its team, or with more than that.
    #[error("`{text}` is not the name of a task; write it as team/task, for example pay/db-migrate")]
    NotTeamAndTask {
        /// What was given.
        text: String,
    },
    /// A path that is none.
    #[error("`{text}` is not a path; it begins with `/`, has segments of A-Z a-z 0-9 . _ - and may end in `/*`")]
    Path {
        /// What was given.
        text: String,
    },
}

fn part(text: &str) -> Result<(), NameError> {
    let fits = (1..=NAME_MAX).contains(&text.len());
    let begins_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if fits && begins_well && text.bytes().all(is_known) {
        Ok(())
    } else {
        Err(NameError::Part { text: text.into() })
    }
}

/// Gives a text newtype what all of them have.
macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// `<team>/<task>`, the name of a task definition. Both are lower case, so that two names never differ by case only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TaskName(Arc<str>);

text_type!(TaskName);

impl TaskName {
    /// The part before the slash.
    pub fn team(&self) -> &str {
        self.0.split_once('/').expect("checked when parsed").0
    }

    /// The part after the slash.
    pub fn task(&self) -> &str {
        self.0.split_once('/').expect("checked when parsed").1
    }
}

impl FromStr for TaskName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((team, task)) if !task.contains('/') => {
                part(team)?;
                part(task)?;
                Ok(Self(text.into()))
            }
            _ => Err(NameError::NotTeamAndTask { text: text.into() }),
        }
    }
}

/// A person as the server's configuration names them. Immutable: records and approvals refer to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PersonId(Arc<str>);

text_type!(PersonId);

impl FromStr for PersonId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        part(text)?;
        Ok(Self(text.into()))
    }
}

/// A group of people, of one part or more: `pay/leads`. Compared as a whole: `pay/leads` and `web/leads` have nothing in
/// common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GroupId(Arc<str>);

text_type!(GroupId);

impl FromStr for GroupId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.split('/').try_for_each(part)?;
        Ok(Self(text.into()))
    }
}

/// Which SPIFFE IDs of the own trust domain are meant: one path, or with a last segment `*` all paths below it (not itself).
/// Segments are compared whole: `/ns/pay/*` does not match `/ns/payroll/x`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PathPattern(Arc<str>);

text_type!(PathPattern);

impl PathPattern {
    /// Whether `id`, which must be of `own`, has a path that fits.
    pub fn matches(&self, id: &SpiffeId, own: &TrustDomain) -> bool {
        id.is_member_of(own) && self.matches_path(id.path())
    }

    fn matches_path(&self, path: &str) -> bool {
        match self.0.strip_suffix("/*") {
            None => path == &*self.0,
            Some(above) => path
                .strip_prefix(above)
                .is_some_and(|below| below.len() > 1 && below.starts_with('/')),
        }
    }

    /// The only ID of `own` that fits; none if it is all below a path.
    pub fn only(&self, own: &TrustDomain) -> Option<SpiffeId> {
        let is_one = !self.0.ends_with("/*");
        is_one
            .then(|| format!("spiffe://{own}{}", self.0).parse().ok())
            .flatten()
    }

    /// The first segment, `*` included.
    pub fn first_segment(&self) -> &str {
        self.0.split('/').nth(1).expect("begins with a slash")
    }
}

impl FromStr for PathPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Path { text: text.into() };
        if text == "/*" {
            return Ok(Self(text.into()));
        }
        let literal = text.strip_suffix("/*").unwrap_or(text);
        // The grammar of paths is that of SPIFFE IDs; any trust domain does to ask for it.
        let with_host = format!("spiffe://td{literal}");
        if literal.starts_with('/') && with_host.parse::<SpiffeId>().is_ok() {
            Ok(Self(text.into()))
        } else {
            Err(refused())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_a_team_and_a_name() {
        let name: TaskName = "pay/db-migrate".parse().unwrap();
        assert_eq!((name.team(), name.task()), ("pay", "db-migrate"));
        for wrong in [
            "pay", "", "/", "pay/", "/x", "a/b/c", "Pay/x", "pay/ x", "pay/..", "-pay/x", "pay/*",
        ] {
            assert!(wrong.parse::<TaskName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns_are_compared_segment_by_segment() {
        let own = "td".parse().unwrap();
        let fits = |pattern: &str, id: &str| {
            let pattern: PathPattern = pattern.parse().unwrap();
            pattern.matches(&id.parse().unwrap(), &own)
        };
        assert!(fits("/ns/pay", "spiffe://td/ns/pay"));
        assert!(!fits("/ns/pay", "spiffe://td/ns/pay/x"));
        assert!(fits("/ns/pay/*", "spiffe://td/ns/pay/x/y"));
        assert!(!fits("/ns/pay/*", "spiffe://td/ns/pay"));
        assert!(!fits("/ns/pay/*", "spiffe://td/ns/payroll/x"));
        assert!(!fits("/ns/pay/*", "spiffe://other/ns/pay/x"));
        assert!(fits("/*", "spiffe://td/x"));
        for wrong in ["", "ns", "/ns/", "/ns/../x", "/n s", "/ns/*/x", "*"] {
            assert!(wrong.parse::<PathPattern>().is_err(), "{wrong}");
        }
    }
}
