//! `[[people]]`, `[[groups]]`, `[[workloads]]` and `[[operators]]`: who is who, and who may what.
//!
//! Whoever is named somewhere has to be defined somewhere: a misspelt group is a problem and not a group without members.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_model::reserved_path;
use mayfly_model::task::{GroupId, PathPattern, PersonId};
use mayfly_policy::{Role, RoleGrant};
use mayfly_runtime::config::{Reader, Section};
use mayfly_svid::{SpiffeId, TrustDomain};

use crate::app::people::{People, PersonRecord, WorkloadFacts};
use crate::app::standing::{Operators, is_made_up};

/// The longest name of a team or an environment, in bytes, as in definitions.
const WORD_MAX: usize = 64;

/// Everybody, and who may what besides the lists of `[roles]`. `own` is none only if that is a problem already.
pub(super) fn read(reader: &Reader, own: Option<&TrustDomain>) -> (People, Vec<Operators>) {
    let root = reader.root();
    let groups = groups(&root);
    let known: BTreeSet<GroupId> = groups.keys().cloned().collect();
    let people = people(&root, &known, own);
    let ids = people.iter().map(|person| person.id.clone()).collect();
    let workloads = workloads(&root, &ids);
    let operators = operators(&root, &known);
    let own = own.cloned().unwrap_or_else(|| "unknown".parse().expect("a name"));
    (People::new(own, people, &groups, workloads), operators)
}

fn groups(root: &Section<'_>) -> BTreeMap<GroupId, BTreeSet<GroupId>> {
    let sections = root.section_list("groups");
    let mut all = BTreeMap::new();
    let mut named = vec![];
    for section in &sections {
        let id = section.string("id").parse(|text| text.parse::<GroupId>()).required();
        let members = list(section, "members", str::parse::<GroupId>);
        named.push((section, members.clone()));
        if let Some(id) = id
            && all.insert(id, members).is_some()
        {
            section.problem("id", "is defined twice", "say all of it in one [[groups]]");
        }
    }
    let known = all.keys().cloned().collect();
    for (section, members) in named {
        check_groups(section, "members", &members, &known);
    }
    all
}

fn people(root: &Section<'_>, known: &BTreeSet<GroupId>, own: Option<&TrustDomain>) -> Vec<PersonRecord> {
    let (mut uids_of, mut ids_of) = (BTreeMap::new(), BTreeMap::new());
    let mut names = BTreeSet::new();
    let mut people = vec![];
    for section in root.section_list("people") {
        let id = section.string("id").parse(|text| text.parse::<PersonId>()).required();
        let uids = numbers(&section, "uids");
        let spiffe_ids = list(&section, "spiffe_ids", SpiffeId::parse_folded);
        let groups = list(&section, "groups", str::parse::<GroupId>);
        check_groups(&section, "groups", &groups, known);
        if uids.is_empty() && spiffe_ids.is_empty() {
            section.problem(
                "id",
                "nobody can prove to be this person",
                "add `uids = [1000]` or `spiffe_ids = [\"spiffe://…\"]`",
            );
        }
        for spiffe_id in &spiffe_ids {
            let is_own = own.is_some_and(|own| spiffe_id.is_member_of(own));
            if let Some(reserved) = reserved_path(spiffe_id).filter(|_| is_own) {
                let what = format!("`{spiffe_id}` is nobody's: {}", reserved.purpose());
                section.problem("spiffe_ids", &what, "people have base identities");
            }
        }
        let Some(id) = id else { continue };
        if !names.insert(id.clone()) {
            section.problem("id", "is defined twice", "say all of it in one [[people]]");
        }
        if is_made_up(&id) {
            let hint = "the server calls those so who have a role and are no [[people]]";
            section.problem("id", "begins with `uid-` or `svid-`", hint);
        }
        for uid in &uids {
            only_one(&section, "uids", uid, uids_of.insert(*uid, id.clone()));
        }
        for spiffe_id in &spiffe_ids {
            only_one(
                &section,
                "spiffe_ids",
                spiffe_id,
                ids_of.insert(spiffe_id.clone(), id.clone()),
            );
        }
        people.push(PersonRecord {
            id,
            uids,
            spiffe_ids,
            groups,
        });
    }
    people
}

/// Two people whom one credential makes would approve what one of them asks for.
fn only_one(section: &Section<'_>, key: &str, credential: impl std::fmt::Display, other: Option<PersonId>) {
    if let Some(other) = other {
        let what = format!("`{credential}` is that of `{other}` already");
        section.problem(key, &what, "each belongs to one person, so that nobody is two");
    }
}

fn workloads(root: &Section<'_>, people: &BTreeSet<PersonId>) -> Vec<(PathPattern, WorkloadFacts)> {
    let mut all: Vec<(PathPattern, WorkloadFacts)> = vec![];
    for section in root.section_list("workloads") {
        let path = section
            .string("path")
            .parse(|text| text.parse::<PathPattern>())
            .required();
        let word = |key: &str| section.string(key).parse(|text| word(&text)).optional();
        let team = word("team");
        let environment = word("environment");
        let owner = section
            .string("owner")
            .parse(|text| text.parse::<PersonId>())
            .optional();
        if let Some(owner) = &owner
            && !people.contains(owner)
        {
            section.problem(
                "owner",
                "is nobody that there is",
                "add a [[people]] section with this id",
            );
        }
        let Some(path) = path else { continue };
        if matches!(path.first_segment(), "spire" | "task" | "breakglass") {
            section.problem("path", "is a reserved path", "name base identities");
        }
        if all.iter().any(|(other, _)| *other == path) {
            section.problem("path", "is there twice", "say all of it in one [[workloads]]");
        }
        let facts = WorkloadFacts {
            team,
            environment: environment.unwrap_or_default(),
            owner,
        };
        all.push((path, facts));
    }
    all
}

fn operators(root: &Section<'_>, known: &BTreeSet<GroupId>) -> Vec<Operators> {
    let mut all = vec![];
    for section in root.section_list("operators") {
        let roles = section.string_list("roles").parse_each(str::parse::<RoleGrant>);
        let roles: BTreeSet<RoleGrant> = roles.required().unwrap_or_default().into_iter().collect();
        for grant in &roles {
            let is_whole = matches!(grant.role, Role::Viewer | Role::Admin);
            if is_whole && grant.paths.is_some() {
                let what = format!("`{}` is for everything or not at all", grant.role.name());
                section.problem(
                    "roles",
                    &what,
                    "leave the path out; registrar, author and approver can have one",
                );
            }
        }
        let operators = Operators {
            roles,
            uids: numbers(&section, "uids"),
            spiffe_ids: list(&section, "spiffe_ids", SpiffeId::parse_folded),
            groups: list(&section, "groups", str::parse::<GroupId>),
        };
        check_groups(&section, "groups", &operators.groups, known);
        if operators.uids.is_empty() && operators.spiffe_ids.is_empty() && operators.groups.is_empty() {
            section.problem("roles", "are those of nobody", "name uids, spiffe_ids or groups");
        }
        all.push(operators);
    }
    all
}

fn check_groups(section: &Section<'_>, key: &str, groups: &BTreeSet<GroupId>, known: &BTreeSet<GroupId>) {
    for group in groups.difference(known) {
        let what = format!("`{group}` is no group that there is");
        section.problem(key, &what, "add a [[groups]] section with this id, or mend the name");
    }
}

fn list<T: Ord + std::fmt::Debug + 'static, E: std::fmt::Display>(
    section: &Section<'_>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> BTreeSet<T> {
    let each = section.string_list(key).parse_each(parse);
    each.or(vec![]).into_iter().collect()
}

fn numbers(section: &Section<'_>, key: &str) -> BTreeSet<u32> {
    section.integer_list::<u32>(key).or(vec![]).into_iter().collect()
}

fn word(text: &str) -> Result<String, String> {
    if (1..=WORD_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!("has 1 to {WORD_MAX} printable ASCII characters without space"))
    }
}
