//! What follows from facts and Cedar cannot compute: who may run it, how old evidence is, which approvals count. And
//! the bounds of facts: nothing absurd reaches a policy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mayfly_model::task::{ApprovalRule, GroupId, PersonId, TaskClass, WINDOW_MAX, distinct_groups};
use mayfly_svid::Timestamp;

use crate::facts::{Approval, Facts, Person, Phase, Ticket};
use crate::{Process, Reason};

/// How far clocks may differ before evidence or an approval counts as of the future.
const SKEW: i64 = 30;
/// The first second that is not of this era: 10000-01-01.
const ERA_END: i64 = 253_402_300_800;

/// What is supposed for a look ahead. Nothing by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assumed {
    /// The ticket is there, open, and of the right kind.
    pub(crate) ticket: bool,
    /// So many people of the right groups approved.
    pub(crate) approvals: Option<u32>,
    /// It is later: evidence is fresh, earlier windows are settled.
    pub(crate) later: bool,
}

/// The approvals that count for one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) count: u32,
    pub(crate) distinct_groups: u32,
    pub(crate) oldest: Duration,
    pub(crate) by: BTreeSet<PersonId>,
    pub(crate) groups: BTreeSet<GroupId>,
}

/// The definition's rule, never below one person where one is a must.
pub(crate) fn rule_of(facts: &Facts) -> Option<ApprovalRule> {
    let mut rule = facts.definition.approval.clone();
    if facts.definition.sensitivity >= 2 || facts.definition.class == TaskClass::Breakglass {
        rule.count = rule.count.max(1);
    }
    (rule.count > 0).then_some(rule)
}

/// How many different groups `rule` wants.
pub(crate) fn groups_needed(rule: &ApprovalRule) -> u32 {
    rule.distinct_groups.unwrap_or(1).min(rule.count)
}

/// Whether the definition names this process.
pub(crate) fn is_allowed(facts: &Facts) -> bool {
    let allowed = &facts.definition.allowed;
    let Process { id, selectors, .. } = &facts.process;
    let is_named = allowed
        .workloads
        .iter()
        .any(|path| path.matches(id, &facts.trust_domain));
    is_named && allowed.selectors.is_subset_of(selectors)
}

/// Seconds since the process was attested; negative if that is yet to come by more than clocks differ.
pub(crate) fn evidence_age(facts: &Facts, assumed: &Assumed) -> i64 {
    let attested = facts.process.attested_at.unix();
    let ahead = attested - facts.now.unix();
    if ahead > SKEW {
        return -ahead;
    }
    let asked_at = match (&facts.window, facts.phase) {
        _ if assumed.later => return 0,
        (Some(window), Phase::Sweep) => window.renewed_at,
        _ => facts.now,
    };
    (asked_at.unix() - attested).max(0)
}

/// The age that policies see: evidence of the future is older than any, so that whoever asks for fresh evidence refuses
/// it.
pub(crate) fn evidence_shown(facts: &Facts, assumed: &Assumed) -> Duration {
    const HUNDRED_YEARS: Duration = Duration::from_secs(100 * 366 * 86_400);
    u64::try_from(evidence_age(facts, assumed)).map_or(HUNDRED_YEARS, Duration::from_secs)
}

/// The ticket as seen or supposed.
pub(crate) fn ticket(facts: &Facts, assumed: &Assumed) -> Option<Ticket> {
    if !assumed.ticket {
        return facts.ticket.clone();
    }
    let kinds = &facts.definition.ticket.kinds;
    let seen = facts.ticket.clone().unwrap_or_default();
    let is_right = kinds.is_empty() || kinds.contains(&seen.kind);
    let kind = if is_right {
        seen.kind
    } else {
        kinds.first().cloned().unwrap_or_default()
    };
    Some(Ticket {
        open: true,
        kind,
        owner: seen.owner,
    })
}

/// Whether `person` and whoever asks prove themselves with one key.
pub(crate) fn shares_key(facts: &Facts, person: &Person) -> bool {
    let requesters = facts.person.as_ref().and_then(|asks| asks.key.as_ref());
    requesters.is_some() && requesters == person.key.as_ref()
}

/// Whether `person` is who asks, by name or by key.
pub(crate) fn is_requester(facts: &Facts, person: &Person) -> bool {
    facts.person.as_ref().is_some_and(|asks| asks.id == person.id) || shares_key(facts, person)
}

/// Whether `person` answers for the process that asks.
pub(crate) fn is_owner(facts: &Facts, person: &Person) -> bool {
    facts.process.owner.as_ref() == Some(&person.id)
}

/// The approvals that count for `rule`: of its groups, in its time, each person and each key once, none by who asks.
pub(crate) fn counted(facts: &Facts, rule: &ApprovalRule) -> Counted {
    let (when, after) = match (&facts.window, facts.phase) {
        (Some(window), Phase::Renew | Phase::Sweep) => (window.opened_at, None),
        (Some(window), Phase::Extend) => (facts.now, Some(window.opened_at)),
        _ => (facts.now, None),
    };
    let is_timely = |at: Timestamp| {
        at.unix() - when.unix() <= SKEW && when.since(at) <= rule.valid_for && after.is_none_or(|after| at > after)
    };
    // Nobody named and nobody wanted: all count, for policies that look at them.
    let all_groups = rule.groups.is_empty() && rule.count == 0;
    let mut people: BTreeMap<&PersonId, (BTreeSet<&GroupId>, Timestamp)> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for Approval { by, at } in &facts.approvals {
        let of: BTreeSet<&GroupId> = by
            .groups
            .iter()
            .filter(|g| all_groups || rule.groups.contains(g))
            .collect();
        let is_member = all_groups || !of.is_empty();
        let is_other = !is_requester(facts, by) && !is_owner(facts, by);
        let is_new = !people.contains_key(&by.id) && by.key.as_ref().is_none_or(|key| !keys.contains(key));
        if is_member && is_other && is_new && is_timely(*at) {
            keys.extend(&by.key);
            people.insert(&by.id, (of, *at));
        }
    }
    let sets: Vec<&BTreeSet<&GroupId>> = people.values().map(|(groups, _)| groups).collect();
    Counted {
        count: u32::try_from(people.len()).expect("bounded by out_of_range"),
        distinct_groups: distinct_groups(&sets),
        oldest: people.values().map(|(_, at)| when.since(*at)).max().unwrap_or_default(),
        by: people.keys().map(|id| (*id).clone()).collect(),
        groups: sets
            .iter()
            .flat_map(|set| set.iter().map(|group| (*group).clone()))
            .collect(),
    }
}

/// Whether they are enough for `rule`.
pub(crate) fn is_met(facts: &Facts, rule: &ApprovalRule) -> bool {
    let counted = counted(facts, rule);
    counted.count >= rule.count && counted.distinct_groups >= groups_needed(rule)
}

/// Whether Cedar can write it, with four digits for the year.
pub(crate) fn is_of_era(at: Timestamp) -> bool {
    (0..ERA_END).contains(&at.unix())
}

/// What is absurd or missing; such facts are refused before any policy sees them.
pub(crate) fn out_of_range(facts: &Facts) -> Vec<Reason> {
    let mut reasons = vec![];
    let mut refuse = |what: &str, text: &str| reasons.push(Reason::new(format!("input-{what}"), text));
    let approvals = facts.approvals.iter().map(|approval| approval.at);
    let window = facts
        .window
        .iter()
        .flat_map(|window| [window.opened_at, window.renewed_at]);
    let mut instants = [facts.now, facts.process.attested_at, facts.process.node.attested_at]
        .into_iter()
        .chain(facts.definition.review_by)
        .chain(approvals)
        .chain(window);
    if !instants.all(is_of_era) {
        refuse(
            "time",
            "an instant is not between 1970 and 9999; the server's record is damaged",
        );
    }
    if facts.duration < Duration::from_secs(1) || facts.duration > WINDOW_MAX || facts.duration.subsec_nanos() > 0 {
        refuse("duration", "ask for whole seconds, at least one and at most 8 hours");
    }
    let words = facts
        .parameters
        .iter()
        .flat_map(|(key, value)| [key.len(), value.len()]);
    let many = facts.scopes.len() > 100
        || facts.parameters.len() > 64
        || facts.approvals.len() > 100
        || facts.process.selectors.len() > 1000;
    if many || words.max() > Some(4096) {
        refuse(
            "size",
            "at most 100 scopes, 64 parameters of 4 KiB, 100 approvals, 1000 selectors",
        );
    }
    if facts.process.actor == mayfly_model::task::ActorClass::Human && facts.person.is_none() {
        refuse(
            "person",
            "a process that a person runs by hand needs to say which person; the server has to add it",
        );
    }
    if facts.phase == Phase::Approve && facts.approver.is_none() {
        refuse("approver", "an approval without approver; the server has to add it");
    }
    if matches!(facts.phase, Phase::Renew | Phase::Sweep | Phase::Extend) && facts.window.is_none() {
        refuse(
            "window",
            "a step of an open window without the window; the server has to add it",
        );
    }
    reasons
}
