//! Who is who: people, the groups that they are in, and what is known of workloads by their paths.
//!
//! All of it is written in the server's configuration, where a second pair of eyes can be demanded, and none of it comes
//! from a request. A person is known by how they authenticated: a uid of this machine, or the SPIFFE ID of their
//! certificate. Each of these belongs to one person, so that nobody is two.
//!
//! Not here: what people may do (roles in `caller`, approvals in policy).

use std::collections::{BTreeMap, BTreeSet};

use mayfly_model::task::{GroupId, PathPattern, PersonId};
use mayfly_svid::{SpiffeId, TrustDomain};

use super::caller::Caller;

/// A person who calls, or on whose behalf a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Who.
    pub id: PersonId,
    /// All groups they are in, those within groups included.
    pub groups: BTreeSet<GroupId>,
    /// How they are known: `uid:1000`, or the SPIFFE ID of their certificate.
    pub authenticated_as: String,
}

/// What is known of a workload by its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadFacts {
    /// Whose it is.
    pub team: Option<String>,
    /// Where it runs; empty if that is not known.
    pub environment: String,
    /// Who answers for it, and so does not approve what it asks for.
    pub owner: Option<PersonId>,
}

/// A person as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonRecord {
    /// Who.
    pub id: PersonId,
    /// Users of this machine, and of the nodes whose processes they run by hand.
    pub uids: BTreeSet<u32>,
    /// Certificates.
    pub spiffe_ids: BTreeSet<SpiffeId>,
    /// Groups they are in, not those above these.
    pub groups: BTreeSet<GroupId>,
}

/// Everybody, and all that is known of workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct People {
    own: TrustDomain,
    groups: BTreeMap<PersonId, BTreeSet<GroupId>>,
    known_groups: BTreeSet<GroupId>,
    by_uid: BTreeMap<u32, PersonId>,
    by_spiffe_id: BTreeMap<SpiffeId, PersonId>,
    /// The most specific first.
    workloads: Vec<(PathPattern, WorkloadFacts)>,
}

impl People {
    /// `members` says which groups are in a group: whoever is in one of them is in it too, however deep. It names all groups
    /// there are. The facts of a workload are those of the most specific path that fits.
    pub fn new(
        own: TrustDomain,
        people: impl IntoIterator<Item = PersonRecord>,
        members: &BTreeMap<GroupId, BTreeSet<GroupId>>,
        workloads: impl IntoIterator<Item = (PathPattern, WorkloadFacts)>,
    ) -> Self {
        let mut all = Self {
            own,
            groups: BTreeMap::new(),
            known_groups: members.keys().cloned().collect(),
            by_uid: BTreeMap::new(),
            by_spiffe_id: BTreeMap::new(),
            workloads: workloads.into_iter().collect(),
        };
        for PersonRecord {
            id,
            uids,
            spiffe_ids,
            groups,
        } in people
        {
            all.by_uid.extend(uids.into_iter().map(|uid| (uid, id.clone())));
            all.by_spiffe_id
                .extend(spiffe_ids.into_iter().map(|svid| (svid, id.clone())));
            all.groups.insert(id, with_those_above(groups, members));
        }
        // Of two patterns that fit one path, one is the path, or the longer one is below the other.
        let is_below = |pattern: &PathPattern| pattern.as_str().ends_with('*');
        all.workloads
            .sort_by_key(|(pattern, _)| (is_below(pattern), usize::MAX - pattern.as_str().len()));
        all
    }

    /// Nobody, in the trust domain `own`.
    pub fn nobody(own: TrustDomain) -> Self {
        Self::new(own, [], &BTreeMap::new(), [])
    }

    /// The person who calls. Agents are none, and neither is who shows no certificate.
    pub fn person_of(&self, caller: &Caller) -> Option<Person> {
        match caller {
            Caller::Local { uid, .. } => self.person_of_uid(*uid),
            Caller::Workload(id) => Some(self.person(self.by_spiffe_id.get(id)?, id.to_string())),
            Caller::Agent(_) | Caller::Anonymous => None,
        }
    }

    /// The person whose user a process runs as.
    pub fn person_of_uid(&self, uid: u32) -> Option<Person> {
        Some(self.person(self.by_uid.get(&uid)?, format!("uid:{uid}")))
    }

    /// Whether there is this person.
    pub fn is_known(&self, id: &PersonId) -> bool {
        self.groups.contains_key(id)
    }

    /// Whether there is this group, with people in it or without.
    pub fn is_group(&self, group: &GroupId) -> bool {
        self.known_groups.contains(group)
    }

    /// All groups that a person is in; none for who is not known.
    pub fn groups_of(&self, id: &PersonId) -> BTreeSet<GroupId> {
        self.groups.get(id).cloned().unwrap_or_default()
    }

    /// How many people are in at least one of `groups`.
    pub fn count_in(&self, groups: &BTreeSet<GroupId>) -> usize {
        self.groups.values().filter(|own| !own.is_disjoint(groups)).count()
    }

    /// What is known of the workload `id`. Of those of other trust domains nothing is.
    pub fn workload_facts(&self, id: &SpiffeId) -> WorkloadFacts {
        let fits = |(pattern, _): &&(PathPattern, WorkloadFacts)| pattern.matches(id, &self.own);
        let found = self.workloads.iter().find(fits);
        found.map(|(_, facts)| facts.clone()).unwrap_or_default()
    }

    fn person(&self, id: &PersonId, authenticated_as: String) -> Person {
        Person {
            id: id.clone(),
            groups: self.groups_of(id),
            authenticated_as,
        }
    }
}

/// `groups` and all groups that these are in. Ends also where groups are in each other: none is looked at twice.
fn with_those_above(groups: BTreeSet<GroupId>, members: &BTreeMap<GroupId, BTreeSet<GroupId>>) -> BTreeSet<GroupId> {
    let mut all = BTreeSet::new();
    let mut next: Vec<GroupId> = groups.into_iter().collect();
    while let Some(group) = next.pop() {
        if all.contains(&group) {
            continue;
        }
        let above = members.iter().filter(|(_, within)| within.contains(&group));
        next.extend(above.map(|(above, _)| above.clone()));
        all.insert(group);
    }
    all
}

impl From<Person> for mayfly_policy::Person {
    fn from(person: Person) -> Self {
        Self {
            id: person.id,
            groups: person.groups,
            key: Some(person.authenticated_as),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups<const N: usize>(names: [&str; N]) -> BTreeSet<GroupId> {
        names.into_iter().map(|name| name.parse().unwrap()).collect()
    }

    fn record(id: &str, uid: u32, of: BTreeSet<GroupId>) -> PersonRecord {
        PersonRecord {
            id: id.parse().unwrap(),
            uids: [uid].into(),
            spiffe_ids: [format!("spiffe://td/people/{id}").parse().unwrap()].into(),
            groups: of,
        }
    }

    fn people() -> People {
        let members = [
            ("all", groups(["pay", "web"])),
            ("pay", groups(["pay/leads"])),
            ("pay/leads", groups([])),
            ("web", groups(["ring"])),
            ("ring", groups(["gnir"])),
            ("gnir", groups(["ring"])),
        ];
        let members = members.map(|(group, within)| (group.parse().unwrap(), within)).into();
        let everybody = [
            record("alice", 1000, groups(["pay/leads"])),
            record("bob", 1001, groups(["gnir"])),
            record("carol", 1002, groups([])),
        ];
        let facts = |environment: &str| WorkloadFacts {
            environment: environment.into(),
            ..WorkloadFacts::default()
        };
        let workloads = ["/*", "/ns/pay/*", "/ns/pay/jobs/*", "/ns/pay/jobs/x", "/ns/pay"];
        let workloads = workloads.map(|path| (path.parse().unwrap(), facts(path)));
        People::new("td".parse().unwrap(), everybody, &members, workloads)
    }

    #[test]
    fn who_is_in_a_group_is_in_all_groups_above_it_also_where_those_are_in_each_other() {
        let people = people();
        let of = |id: &str| people.groups_of(&id.parse().unwrap());
        assert_eq!(of("alice"), groups(["pay/leads", "pay", "all"]));
        assert_eq!(of("bob"), groups(["gnir", "ring", "web", "all"]));
        assert_eq!(of("carol"), groups([]));
        assert_eq!(of("nobody"), groups([]));
        assert_eq!(people.count_in(&groups(["all"])), 2);
        assert_eq!(people.count_in(&groups(["pay", "ring"])), 2);
        assert_eq!(people.count_in(&groups([])), 0);
        // Of the same last part, and nothing in common.
        assert!(!of("bob").contains(&"pay/leads".parse().unwrap()));
    }

    #[test]
    fn a_caller_is_a_person_by_uid_or_certificate_and_an_agent_is_none() {
        let people = people();
        let local = |uid| Caller::Local { uid, gid: 1000, pid: 7 };
        let alice = people.person_of(&local(1000)).unwrap();
        assert_eq!(
            (alice.id.as_str(), alice.authenticated_as.as_str()),
            ("alice", "uid:1000")
        );
        // The group of the caller says nothing.
        assert_eq!(people.person_of(&local(7)), None);
        let remote = |id: &str| people.person_of(&Caller::Workload(id.parse().unwrap()));
        let alice = remote("spiffe://td/people/alice").unwrap();
        assert_eq!(alice.authenticated_as, "spiffe://td/people/alice");
        assert_eq!(remote("spiffe://other/people/alice"), None);
        assert_eq!(remote("spiffe://td/people/alice/x"), None);
        assert_eq!(people.person_of(&Caller::Anonymous), None);
        assert_eq!(people.person_of_uid(1001).unwrap().id.as_str(), "bob");
    }

    #[test]
    fn the_most_specific_path_says_what_a_workload_is() {
        let people = people();
        let of = |id: &str| people.workload_facts(&id.parse().unwrap()).environment;
        assert_eq!(of("spiffe://td/ns/pay/jobs/x"), "/ns/pay/jobs/x");
        assert_eq!(of("spiffe://td/ns/pay/jobs/y"), "/ns/pay/jobs/*");
        assert_eq!(of("spiffe://td/ns/pay/jobs"), "/ns/pay/*");
        assert_eq!(of("spiffe://td/ns/pay"), "/ns/pay");
        assert_eq!(of("spiffe://td/ns/payroll"), "/*");
        assert_eq!(of("spiffe://other/ns/pay/jobs/x"), "");
    }
}
