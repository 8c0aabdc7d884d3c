//! Which verified identities may come in.

use std::fmt;

use mayfly_svid::{IdError, SpiffeId, TaskPath, TaskRoot, TrustDomain, WindowId};

/// Which SPIFFE IDs are let in. Names are compared segment by segment: `pay/db` is not the beginning of `pay/db-admin`.
///
/// There is no default and nothing that lets everybody in. Rules about tasks are about the service's own trust domain;
/// a task of a foreign one is no task here, unless [`in_trust_domain`](Self::in_trust_domain) says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    rules: Vec<Rule>,
}

/// The text is not what a rule is made of.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MatcherError {
    /// Not the name of a task.
    #[error("`{text}` is not the name of a task; write it as team/task, for example pay/db-migrate")]
    Task {
        /// What was given.
        text: String,
    },
    /// Not a pattern of paths.
    #[error("`{text}` is not a path; it begins with `/`, has segments of A-Z a-z 0-9 . _ - and may end in `/*`")]
    Pattern {
        /// What was given.
        text: String,
    },
    /// Not a SPIFFE ID.
    #[error("a rule is about a SPIFFE ID")]
    Id(#[from] IdError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Exact(SpiffeId),
    Below(SpiffeId),
    Task {
        root: TaskRoot,
        team: String,
        task: String,
        base: Pattern,
        /// Another one than the service's own.
        trust_domain: Option<TrustDomain>,
    },
}

/// A path, or all paths below one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    Exact(String),
    /// Not the path itself.
    Below(String),
}

impl Matcher {
    /// Anybody inside a window of the task `name`, which is written `team/task`.
    ///
    /// # Errors
    /// It is not the name of a task.
    pub fn task(name: &str) -> Result<Self, MatcherError> {
        let (team, task) = parts(name)?;
        Ok(Self::of_task(TaskRoot::Task, team, task, Pattern::Any))
    }

    /// [`task`](Self::task) for the tasks of emergencies, which a rule about ordinary tasks does not let in.
    ///
    /// # Errors
    /// It is not the name of a task.
    pub fn breakglass(name: &str) -> Result<Self, MatcherError> {
        let (team, task) = parts(name)?;
        Ok(Self::of_task(TaskRoot::Breakglass, team, task, Pattern::Any))
    }

    /// Who is inside a window of this task *and* has a base identity whose path fits `base`: a path, or with a last
    /// segment `*` all paths below it, not itself.
    ///
    /// # Errors
    /// One of the parts is not a name or a path.
    pub fn task_of(team: &str, task: &str, base: &str) -> Result<Self, MatcherError> {
        let name = format!("{team}/{task}");
        let (team, task) = parts(&name)?;
        Ok(Self::of_task(TaskRoot::Task, team, task, Pattern::parse(base)?))
    }

    /// This SPIFFE ID and no other.
    ///
    /// # Errors
    /// It is not a SPIFFE ID.
    pub fn exact(id: &str) -> Result<Self, MatcherError> {
        Ok(Self::one(Rule::Exact(id.parse()?)))
    }

    /// Every SPIFFE ID below `id`, not `id` itself. With the ID of a trust domain these are all its members, those
    /// inside a window included.
    ///
    /// # Errors
    /// It is not a SPIFFE ID.
    pub fn below(id: &str) -> Result<Self, MatcherError> {
        Ok(Self::one(Rule::Below(id.parse()?)))
    }

    /// Whoever one of `matchers` lets in; with none of them, nobody.
    pub fn any_of(matchers: impl IntoIterator<Item = Self>) -> Self {
        let rules = matchers.into_iter().flat_map(|matcher| matcher.rules).collect();
        Self { rules }
    }

    /// The same rules about tasks, for tasks of `trust_domain` instead of the service's own.
    #[must_use]
    pub fn in_trust_domain(mut self, of: &TrustDomain) -> Self {
        for rule in &mut self.rules {
            if let Rule::Task { trust_domain, .. } = rule {
                *trust_domain = Some(of.clone());
            }
        }
        self
    }

    /// Whether `id` is let in by a service of the trust domain `own`. `window` is what the certificate says; an ID that
    /// ends in `/w/<window>` fits as if that were not there.
    pub fn allows(&self, id: &SpiffeId, own: &TrustDomain, window: Option<WindowId>) -> bool {
        self.rules.iter().any(|rule| rule.allows(id, own, window))
    }

    fn one(rule: Rule) -> Self {
        Self { rules: vec![rule] }
    }

    fn of_task(root: TaskRoot, team: &str, task: &str, base: Pattern) -> Self {
        Self::one(Rule::Task {
            root,
            team: team.into(),
            task: task.into(),
            base,
            trust_domain: None,
        })
    }
}

impl Rule {
    fn allows(&self, id: &SpiffeId, own: &TrustDomain, window: Option<WindowId>) -> bool {
        match self {
            Self::Exact(expected) => id == expected,
            Self::Below(above) => {
                id.trust_domain_name() == above.trust_domain_name() && is_below(id.path(), above.path())
            }
            Self::Task {
                root,
                team,
                task,
                base,
                trust_domain,
            } => {
                let Some(path) = TaskPath::of(id) else {
                    return false;
                };
                id.is_member_of(trust_domain.as_ref().unwrap_or(own))
                    && path.root == *root
                    && path.team == team
                    && path.task == task
                    && base.fits(without_window(path.base, window))
            }
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, MatcherError> {
        if text == "/*" {
            return Ok(Self::Any);
        }
        let literal = text.strip_suffix("/*").unwrap_or(text);
        // The grammar of paths is that of SPIFFE IDs; any trust domain does to ask for it.
        if !literal.starts_with('/') || format!("spiffe://td{literal}").parse::<SpiffeId>().is_err() {
            return Err(MatcherError::Pattern { text: text.into() });
        }
        Ok(if literal.len() < text.len() {
            Self::Below(literal.into())
        } else {
            Self::Exact(literal.into())
        })
    }

    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(expected) => path == expected,
            Self::Below(above) => is_below(path, above),
        }
    }
}

/// `above` is a path without a slash at its end, or empty.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

fn without_window(base: &str, window: Option<WindowId>) -> &str {
    window
        .and_then(|window| base.strip_suffix(&format!("/w/{window}")))
        .filter(|rest| !rest.is_empty())
        .unwrap_or(base)
}

fn parts(name: &str) -> Result<(&str, &str), MatcherError> {
    let refused = || MatcherError::Task { text: name.into() };
    let (team, task) = name.split_once('/').ok_or_else(refused)?;
    // Two whole segments: nothing that would be one more, or a dot segment.
    let fits = !task.contains('/') && format!("spiffe://td/{team}/{task}").parse::<SpiffeId>().is_ok();
    if fits { Ok((team, task)) } else { Err(refused()) }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return f.write_str("nobody");
        }
        for (n, rule) in self.rules.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { " or " })?;
            match rule {
                Rule::Exact(id) => write!(f, "`{id}`")?,
                Rule::Below(id) => write!(f, "an ID below `{id}`")?,
                Rule::Task {
                    root,
                    team,
                    task,
                    base,
                    trust_domain,
                } => {
                    write!(f, "{} `{team}/{task}`", root.segment())?;
                    match base {
                        Pattern::Any => {}
                        Pattern::Exact(path) => write!(f, " of `{path}`")?,
                        Pattern::Below(path) => write!(f, " of `{path}/*`")?,
                    }
                    if let Some(trust_domain) = trust_domain {
                        write!(f, " in `{trust_domain}`")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(matcher: &Matcher, id: &str) -> bool {
        matcher.allows(&id.parse().unwrap(), &"td".parse().unwrap(), None)
    }

    #[test]
    fn a_task_is_matched_segment_by_segment() {
        let matcher = Matcher::task("pay/db").unwrap();
        assert!(allows(&matcher, "spiffe://td/task/pay/db/ns/pay/job"));
        for other in [
            // siblings, and prefixes that are no segments
            "spiffe://td/task/pay/db-admin/ns/pay/job",
            "spiffe://td/task/pay/db.x/ns/pay/job",
            "spiffe://td/task/pay/d/b/job",
            "spiffe://td/task/payroll/db/job",
            "spiffe://td/task/pay/DB/job",
            "spiffe://td/task/pay/db",
            // the same words elsewhere
            "spiffe://td/ns/task/pay/db/job",
            "spiffe://td/tasks/pay/db/job",
            "spiffe://td/Task/pay/db/job",
            "spiffe://td/pay/db/job",
            "spiffe://td/breakglass/pay/db/human/ann",
            // the base identity, and another trust domain
            "spiffe://td/ns/pay/job",
            "spiffe://other/task/pay/db/ns/pay/job",
            "spiffe://td.other/task/pay/db/ns/pay/job",
        ] {
            assert!(!allows(&matcher, other), "{other}");
        }
    }

    #[test]
    fn a_task_can_be_bound_to_who_does_it() {
        let matcher = Matcher::task_of("pay", "db", "/ns/pay/*").unwrap();
        assert!(allows(&matcher, "spiffe://td/task/pay/db/ns/pay/job"));
        assert!(!allows(&matcher, "spiffe://td/task/pay/db/ns/payroll/job"));
        assert!(!allows(&matcher, "spiffe://td/task/pay/db/ns/pay"));
        let exact = Matcher::task_of("pay", "db", "/job").unwrap();
        assert!(allows(&exact, "spiffe://td/task/pay/db/job"));
        assert!(!allows(&exact, "spiffe://td/task/pay/db/job/x"));
        let any = Matcher::task_of("pay", "db", "/*").unwrap();
        assert!(allows(&any, "spiffe://td/task/pay/db/job"));
    }

    #[test]
    fn the_window_at_the_end_of_an_id_counts_only_if_it_is_the_certificates_own() {
        let matcher = Matcher::task_of("pay", "db", "/job").unwrap();
        let id = "spiffe://td/task/pay/db/job/w/000102030405060708090a0b0c0d0e0f"
            .parse()
            .unwrap();
        let own = "td".parse().unwrap();
        let window = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert!(matcher.allows(&id, &own, Some(window)));
        assert!(!matcher.allows(&id, &own, Some(WindowId([1; 16]))));
        assert!(!matcher.allows(&id, &own, None));
    }

    #[test]
    fn tasks_of_other_trust_domains_have_to_be_named() {
        let matcher = Matcher::task("pay/db")
            .unwrap()
            .in_trust_domain(&"other".parse().unwrap());
        assert!(allows(&matcher, "spiffe://other/task/pay/db/job"));
        assert!(!allows(&matcher, "spiffe://td/task/pay/db/job"));
    }

    #[test]
    fn ids_and_what_is_below_them() {
        let exact = Matcher::exact("spiffe://td/ns/pay").unwrap();
        assert!(allows(&exact, "spiffe://td/ns/pay"));
        assert!(!allows(&exact, "spiffe://td/ns/pay/x"));
        let below = Matcher::below("spiffe://td/ns/pay").unwrap();
        assert!(allows(&below, "spiffe://td/ns/pay/x/y"));
        for other in ["spiffe://td/ns/pay", "spiffe://td/ns/payroll", "spiffe://td2/ns/pay/x"] {
            assert!(!allows(&below, other), "{other}");
        }
        assert!(allows(&Matcher::below("spiffe://td").unwrap(), "spiffe://td/x"));
        let either = Matcher::any_of([exact, below]);
        assert!(allows(&either, "spiffe://td/ns/pay") && allows(&either, "spiffe://td/ns/pay/x"));
        assert!(!allows(&Matcher::any_of([]), "spiffe://td/ns/pay"));
        assert_eq!(
            either.to_string(),
            "`spiffe://td/ns/pay` or an ID below `spiffe://td/ns/pay`"
        );
    }

    #[test]
    fn what_could_mean_more_than_it_says_is_refused() {
        for name in [
            "", "pay", "pay/", "/db", "pay/db/x", "pay/..", "./db", "pay/*", "*/db", "pay/d b", "pay//db",
        ] {
            assert!(Matcher::task(name).is_err(), "{name}");
            assert!(Matcher::breakglass(name).is_err(), "{name}");
        }
        assert!(Matcher::task_of("pay/x", "db", "/a").is_err());
        for pattern in ["", "a", "/", "/a/", "*", "/a*", "/*/a", "/a/../b", "//*"] {
            assert!(Matcher::task_of("pay", "db", pattern).is_err(), "{pattern}");
        }
        assert!(Matcher::exact("td/a").is_err() && Matcher::below("spiffe://td/a/").is_err());
    }
}
