//! Who may call what of the API: roles with a path, and what policies add or take.

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{Context, Entities};
use mayfly_model::task::PathPattern;
use mayfly_svid::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::cedar::{Action, Kind, entity, set, text, uid};
use crate::decide::human;
use crate::decision::{Decision, Reason, Verdict};
use crate::set::{Answered, PolicySet, Question};
use crate::{Digest, Obligations, Person};

/// What somebody is to the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads; writes entries.
    Registrar,
    /// Reads; writes definitions and policies.
    Author,
    /// Reads; answers requests. Who may approve which request is another question: [`crate::Phase::Approve`].
    Approver,
    /// Everything.
    Admin,
}

/// What kind of thing an RPC does; each RPC has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Shows.
    Read,
    /// Creates, changes and deletes entries.
    Register,
    /// Defines and retires tasks; sets policies.
    Define,
    /// Answers requests for tasks.
    Approve,
    /// Agents, authorities, trust, everything else.
    Admin,
}

/// A role, for all paths or for some: `viewer`, `registrar:/ns/payments/*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RoleGrant {
    /// The role.
    pub role: Role,
    /// Where; everywhere if `None`, also for calls that are about no path.
    pub paths: Option<PathPattern>,
}

/// Text that is not a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no role; write viewer, registrar, author, approver or admin, for some paths as registrar:/ns/payments/*"
)]
pub struct RoleParseError(String);

/// A call, as far as its authorization goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallFacts {
    /// Who calls.
    pub caller: Person,
    /// The caller's roles.
    pub roles: Vec<RoleGrant>,
    /// `<service>/<method>`.
    pub rpc: String,
    /// What it does.
    pub access: Access,
    /// What it is about: paths of SPIFFE IDs; for tasks `/task/<team>/<task>`. Each must be allowed. None: the call is
    /// about no path, or about all.
    pub paths: BTreeSet<String>,
}

impl PolicySet {
    /// Decides whether a call may be made. For calls about many paths the reason names the first that is refused.
    pub fn authorize_call(&self, facts: &CallFacts) -> Decision {
        let none = [None];
        let paths: &mut dyn Iterator<Item = Option<&String>> = if facts.paths.is_empty() {
            &mut none.into_iter()
        } else {
            &mut facts.paths.iter().map(Some)
        };
        let mut determining = BTreeSet::new();
        let mut reasons = vec![];
        if let Some(path) = facts.paths.iter().find(|path| id_of(path).is_none()) {
            reasons.push(Reason::new("input-path", format!("`{path}` is no path of a SPIFFE ID")));
        }
        for path in paths {
            if !reasons.is_empty() {
                break;
            }
            match self.call(facts, path) {
                Ok(Answered::Permitted(by)) => determining.extend(by.iter().map(|policy| policy.id.clone())),
                Ok(Answered::Forbidden(by)) => {
                    determining = by.iter().map(|policy| policy.id.clone()).collect();
                    let about = path.map_or(String::new(), |path| format!(" on {path}"));
                    let what = format!("`{}` may not call `{}`{about}", facts.caller.id, facts.rpc);
                    let reason = |policy: &&crate::set::Loaded| {
                        let why = policy.annotations.reason.as_deref().unwrap_or("a policy forbids it");
                        Reason::new(&policy.id, format!("{what}: {why}"))
                    };
                    reasons.extend(by.iter().map(reason));
                    if reasons.is_empty() {
                        let text = format!("{what}; a role for it is needed");
                        reasons.push(Reason::new("no-permit", text));
                    }
                }
                Err(error) => {
                    let text = format!("the policies could not be evaluated, so nothing is allowed: {error}");
                    reasons.push(Reason::new("engine-error", text));
                }
            }
        }
        Decision {
            verdict: if reasons.is_empty() {
                Verdict::Allow
            } else {
                Verdict::Deny
            },
            reasons,
            missing: vec![],
            obligations: Obligations::default(),
            determining: determining.into_iter().collect(),
            policy_digest: self.digest,
            inputs_digest: Digest::of_json("mayfly policy call 1", facts),
        }
    }

    fn call(&self, facts: &CallFacts, path: Option<&String>) -> Result<Answered<'_>, String> {
        let id = path
            .map(|path| id_of(path).ok_or_else(|| format!("`{path}` is no path")))
            .transpose()?;
        let access = uid(Kind::Access, facts.access.name());
        let resource = uid(Kind::Rpc, &facts.rpc);
        let entities = vec![human(&facts.caller)?, entity(resource.clone(), vec![], [access])?];
        let entities = Entities::from_entities(entities, None).map_err(|e| e.to_string())?;
        let holds = |grant: &&RoleGrant| match (&grant.paths, &id) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(path)) => pattern.matches(path, &path.trust_domain()),
        };
        let roles = facts.roles.iter().filter(holds).map(|grant| grant.role.name());
        let mut context = vec![("roles".to_owned(), set(roles, text))];
        context.extend(path.map(|path| ("path".to_owned(), text(path))));
        let question = Question {
            action: Action::Call,
            principal: uid(Kind::Human, facts.caller.id.as_str()),
            resource,
            definition: None,
            entities: &entities,
        };
        self.ask(&question, Context::from_pairs(context).map_err(|e| e.to_string())?)
    }
}

/// An ID of any trust domain with this path: patterns compare IDs.
fn id_of(path: &str) -> Option<SpiffeId> {
    let id = path.starts_with('/').then(|| format!("spiffe://td{path}"))?;
    id.parse().ok()
}

macro_rules! names {
    ($type:ident: $($variant:ident $name:literal),*) => {
        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As policies and settings spell it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

names!(Role: Viewer "viewer", Registrar "registrar", Author "author", Approver "approver", Admin "admin");
names!(Access: Read "read", Register "register", Define "define", Approve "approve", Admin "admin");

impl FromStr for RoleGrant {
    type Err = RoleParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || RoleParseError(text.into());
        let (name, paths) = match text.split_once(':') {
            None => (text, None),
            Some((name, paths)) => (name, Some(paths.parse().map_err(|_| refused())?)),
        };
        let role = Role::ALL.iter().find(|role| role.name() == name).ok_or_else(refused)?;
        Ok(Self { role: *role, paths })
    }
}

impl TryFrom<String> for RoleGrant {
    type Error = RoleParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RoleGrant> for String {
    fn from(grant: RoleGrant) -> Self {
        match grant.paths {
            None => grant.role.name().into(),
            Some(paths) => format!("{}:{paths}", grant.role.name()),
        }
    }
}
