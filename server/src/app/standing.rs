//! What a caller may do: the roles that the configuration gives, and the policy that says what roles are good for.
//!
//! ```text
//!   Caller ─▶ person, roles ─▶ method's Access, without a path ─▶ Standing ─▶ each thing the call is about, by its path
//!             people, RoleMap  the gate: PolicySet::authorize_call            the service: Standing::may
//! ```
//!
//! Agents and servers below this one are not operators: what they may is in the table of methods alone.
//!
//! Not here: who a caller is (`caller`), which method needs what (`api`'s `SERVICES`).

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest;
use mayfly_model::task::{GroupId, PersonId};
use mayfly_policy::{Access as Kind, CallFacts, Decision, RoleGrant};
use mayfly_svid::{SpiffeId, Timestamp};

use super::caller::{Access, Caller, CallerError, Role, RoleMap, authorize_downstream};
use super::people::{People, Person};
use super::policy::{InForce, PolicyHolder};
use crate::commit::Snapshot;

/// Some callers and their roles: the section `[[operators]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operators {
    /// What they are.
    pub roles: BTreeSet<RoleGrant>,
    /// Users of this machine.
    pub uids: BTreeSet<u32>,
    /// Remote callers.
    pub spiffe_ids: BTreeSet<SpiffeId>,
    /// People in one of these groups.
    pub groups: BTreeSet<GroupId>,
}

/// Decides who may call what.
#[derive(Debug)]
pub struct Authorizer {
    roles: RoleMap,
    people: Arc<People>,
    policy: Arc<PolicyHolder>,
}

/// An operator or a person, in one call.
#[derive(Clone, Debug)]
pub struct Standing {
    who: String,
    person: Option<Person>,
    facts: CallFacts,
    in_force: Arc<InForce>,
    /// It may for every path: it may without one, and there is no policy that could ask for the path.
    is_everywhere: bool,
}

// === impl Authorizer ===

impl Authorizer {
    /// Takes what it needs.
    pub fn new(roles: RoleMap, people: Arc<People>, policy: Arc<PolicyHolder>) -> Self {
        Self { roles, people, policy }
    }

    /// Who is who.
    pub fn people(&self) -> &Arc<People> {
        &self.people
    }

    /// Whether `caller` may call the method of the service `rpc`, which has `access`; what stands for it, if it is an operator
    /// or a person.
    ///
    /// # Errors
    /// It may not; the error says what is missing.
    pub fn authorize(
        &self,
        caller: &Caller,
        access: Access,
        (service, method): (&str, &str),
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<Option<Arc<Standing>>, CallerError> {
        let kind = match (access, caller) {
            (Access::Anyone, _) | (Access::Agent | Access::AgentOr(_), Caller::Agent(_)) => return Ok(None),
            (Access::Agent, Caller::Anonymous) => return Err(CallerError::NoCertificate),
            (Access::Agent, _) => return Err(CallerError::NotAnAgent { who: caller.who() }),
            (Access::Downstream, _) => return authorize_downstream(caller, snapshot, now).map(|()| None),
            (Access::Operator(role) | Access::AgentOr(role) | Access::Local(role), _) => kind_of(role),
            (Access::Register, _) => Kind::Register,
            (Access::Define, _) => Kind::Define,
            (Access::Confirm, _) => Kind::Approve,
            (Access::Person | Access::End, _) => Kind::Read,
        };
        match caller {
            Caller::Anonymous => return Err(CallerError::NoCertificate),
            Caller::Agent(agent) => return Err(CallerError::AgentWithoutRole { id: agent.id.clone() }),
            Caller::Local { .. } | Caller::Workload(_) => {}
        }
        let person = self.people.person_of(caller);
        let roles = self.roles.grants_of(caller, person.as_ref(), snapshot, now);
        let has_part = roles.iter().any(|grant| grant.paths.is_some());
        let is_nobody = roles.is_empty() && person.is_none();
        let mut standing = Standing {
            who: caller.who(),
            facts: CallFacts {
                caller: principal(caller, person.clone()),
                roles,
                rpc: format!("{service}/{method}"),
                access: kind,
                paths: BTreeSet::new(),
            },
            in_force: self.policy.of(snapshot),
            is_everywhere: false,
            person,
        };
        if access == Access::End && !is_nobody {
            return Ok(Some(Arc::new(standing)));
        }
        let refused = standing.ask(kind, None).err();
        // Whoever has a role for some paths, or may have one by a policy that names people, is asked for each of them.
        let is_asked_later = matches!(access, Access::Register | Access::Define | Access::Confirm)
            && matches!(refused, Some(CallerError::RoleMissing { .. }))
            && (has_part || standing.person.is_some());
        let is_person = access == Access::Person && (has_part || standing.person.is_some());
        match refused {
            None => {
                standing.is_everywhere = standing.in_force.is_builtin();
                Ok(Some(Arc::new(standing)))
            }
            Some(CallerError::RoleMissing { .. }) if is_asked_later || is_person => Ok(Some(Arc::new(standing))),
            Some(CallerError::RoleMissing { .. }) if is_nobody => Err(match caller {
                Caller::Local { uid, .. } => CallerError::UidWithoutRole { uid: *uid },
                Caller::Workload(id) => CallerError::IdWithoutRole { id: id.clone() },
                Caller::Agent(_) | Caller::Anonymous => CallerError::NoCertificate,
            }),
            Some(refused) => Err(refused),
        }
    }
}

fn kind_of(role: Role) -> Kind {
    match role {
        Role::Viewer => Kind::Read,
        Role::Admin => Kind::Admin,
    }
}

impl RoleMap {
    /// The roles of a caller: those of the lists, those of [`Operators`], and admin where an entry says so.
    pub fn grants_of(
        &self,
        caller: &Caller,
        person: Option<&Person>,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Vec<RoleGrant> {
        let listed = self.role_of(caller, snapshot, now).map(|role| RoleGrant {
            role: match role {
                Role::Viewer => mayfly_policy::Role::Viewer,
                Role::Admin => mayfly_policy::Role::Admin,
            },
            paths: None,
        });
        let is_one = |operators: &&Operators| {
            let by_credential = match caller {
                Caller::Local { uid, .. } => operators.uids.contains(uid),
                Caller::Workload(id) => operators.spiffe_ids.contains(id),
                Caller::Agent(_) | Caller::Anonymous => return false,
            };
            by_credential || person.is_some_and(|person| !person.groups.is_disjoint(&operators.groups))
        };
        let more = self
            .operators
            .iter()
            .filter(is_one)
            .flat_map(|operators| operators.roles.iter().cloned());
        let all: BTreeSet<RoleGrant> = listed.into_iter().chain(more).collect();
        all.into_iter().collect()
    }
}

// === impl Standing ===

impl Standing {
    /// The person who calls, if the caller is one.
    pub fn person(&self) -> Option<&Person> {
        self.person.as_ref()
    }

    /// The person who calls.
    ///
    /// # Errors
    /// The caller is none.
    pub fn require_person(&self) -> Result<&Person, CallerError> {
        let who = || self.who.clone();
        self.person
            .as_ref()
            .ok_or_else(|| CallerError::NotAPerson { who: who() })
    }

    /// Who it is for records of changes: the person, or `uid:1000` and the like where nobody is known by it.
    pub fn author(&self) -> String {
        self.person
            .as_ref()
            .map_or_else(|| self.who.clone(), |person| person.id.to_string())
    }

    /// Who it is for policies.
    pub fn principal(&self) -> &mayfly_policy::Person {
        &self.facts.caller
    }

    /// Whether nothing has to be asked: it is an administrator, and no policy of the operators is in force.
    pub fn is_unbounded(&self) -> bool {
        self.is_everywhere && self.is_admin()
    }

    /// Whether one of its roles is admin.
    pub fn is_admin(&self) -> bool {
        self.facts
            .roles
            .iter()
            .any(|grant| grant.role == mayfly_policy::Role::Admin)
    }

    /// Whether this call may be about `path`: of a SPIFFE ID of the own trust domain, or `/task/<team>/<task>`.
    ///
    /// # Errors
    /// It may not.
    pub fn may(&self, path: &str) -> Result<(), CallerError> {
        if self.is_everywhere {
            return Ok(());
        }
        self.ask(self.facts.access, Some(path))
    }

    /// Whether this call may be about no path, or about all.
    ///
    /// # Errors
    /// It may not.
    pub fn may_everywhere(&self) -> Result<(), CallerError> {
        self.ask(self.facts.access, None)
    }

    /// Whether this call may do to `path` what takes the role admin.
    ///
    /// # Errors
    /// It may not.
    pub fn may_as_admin(&self, path: &str) -> Result<(), CallerError> {
        self.ask(Kind::Admin, Some(path))
    }

    /// Whether the same caller could call `rpc` with `access` if `other` were in force.
    pub fn could(&self, rpc: &str, access: Kind, other: &mayfly_policy::PolicySet) -> bool {
        let facts = CallFacts {
            rpc: rpc.to_owned(),
            access,
            ..self.facts.clone()
        };
        other.authorize_call(&facts).is_allowed()
    }

    fn ask(&self, access: Kind, path: Option<&str>) -> Result<(), CallerError> {
        let facts = CallFacts {
            // Policies that cannot be read may have forbidden it. Somebody has to be able to mend them.
            access: if self.in_force.is_usable() { access } else { Kind::Admin },
            paths: path.map(str::to_owned).into_iter().collect(),
            ..self.facts.clone()
        };
        let decision = self.in_force.set().authorize_call(&facts);
        if decision.is_allowed() {
            return Ok(());
        }
        Err(self.refusal(facts.access, path, decision))
    }

    fn refusal(&self, access: Kind, path: Option<&str>, decision: Decision) -> CallerError {
        let who = self.who.clone();
        let about = path.map_or(String::new(), |path| format!(" on `{path}`"));
        let has_role = !self.facts.roles.is_empty();
        let is_by_role = decision.reasons.iter().all(|reason| reason.id == "no-permit");
        if !is_by_role {
            let reasons: Vec<String> = decision.reasons.into_iter().map(|reason| reason.text).collect();
            let reason = reasons.join("; ");
            return CallerError::Forbidden { who, about, reason };
        }
        let is_reader = |grant: &RoleGrant| grant.role == mayfly_policy::Role::Viewer;
        if access == Kind::Admin && has_role && self.facts.roles.iter().all(is_reader) {
            return CallerError::AdminOnly { who };
        }
        let role = match access {
            Kind::Read => "viewer",
            Kind::Register => "registrar",
            Kind::Define => "author",
            Kind::Approve => "approver",
            Kind::Admin => "admin",
        };
        CallerError::RoleMissing { who, role, about }
    }
}

/// Who calls, for policies: the person, or a made-up name where nobody is known by it.
fn principal(caller: &Caller, person: Option<Person>) -> mayfly_policy::Person {
    if let Some(person) = person {
        return person.into();
    }
    let name = match caller {
        Caller::Local { uid, .. } => format!("uid-{uid}"),
        _ => {
            let hash = digest::digest(&digest::SHA256, caller.who().as_bytes());
            format!("svid-{}", hex::encode(&hash.as_ref()[..8]))
        }
    };
    mayfly_policy::Person {
        id: name.parse().expect("letters and digits"),
        groups: BTreeSet::new(),
        key: Some(caller.who()),
    }
}

/// Whether a name could be that of a caller who is no person.
pub fn is_made_up(id: &PersonId) -> bool {
    id.as_str().starts_with("uid-") || id.as_str().starts_with("svid-")
}

#[cfg(test)]
mod tests;
