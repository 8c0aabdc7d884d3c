use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::{Decision, GUARDS};

static BUILTIN: LazyLock<PolicySet> = LazyLock::new(PolicySet::builtin);

/// Conditions that users could write, true and false ones.
const CONDITIONS: &[&str] = &[
    "true",
    "context.allowed",
    "!context.allowed",
    "context.actor == \"human\"",
    "context.process.node.banned",
    "context.evidence_age > duration(\"1m\")",
    "context.usage.unsettled > 0",
    "context.approvals.includes_requester",
    "context.ticket.present",
    "!context.ticket.open",
    "context.process.environment != resource.environment",
    "context.reason_length > 5",
    "resource.sensitivity >= 1",
    "resource.breakglass",
    "context.process.path like \"/*\"",
    "context has person",
    "context.parameters.hasTag(\"x\")",
    "context.now > datetime(\"2020-01-01\")",
];
const PRINCIPALS: &[&str] = &[
    "principal",
    "principal is Mayfly::Workload",
    "principal is Mayfly::Human",
    "principal in Mayfly::Team::\"pay\"",
];
const ACTIONS: &[&str] = &[
    "action in Mayfly::Action::\"use\"",
    "action in [Mayfly::Action::\"open\", Mayfly::Action::\"renew\"]",
    "action in [Mayfly::Action::\"use\", Mayfly::Action::\"approve\"]",
];
const RESOURCES: &[&str] = &[
    "resource",
    "resource is Mayfly::TaskDefinition",
    "resource in Mayfly::Team::\"pay\"",
    "resource in Mayfly::Team::\"data\"",
    "resource == Mayfly::TaskDefinition::\"pay/db-migrate\"",
    "resource == Mayfly::TaskDefinition::\"data/export\"",
];
const ANNOTATIONS: &[&str] = &[
    "",
    "@ttl_cap(\"2m\")",
    "@window_cap(\"5m\")",
    "@approvals(\"1:privacy\")",
];

/// A policy of a user, `{n}` where its number goes.
fn policy(effects: &'static [&'static str]) -> impl Strategy<Value = String> {
    let parts = (
        select(effects),
        select(PRINCIPALS),
        select(ACTIONS),
        select(RESOURCES),
        select(CONDITIONS),
        select(CONDITIONS),
        select(ANNOTATIONS),
    );
    parts.prop_map(|(effect, principal, action, resource, one, other, annotation)| {
        let annotation = if effect == "permit" { annotation } else { "" };
        format!(
            "@id(\"user{{n}}\") {annotation} {effect} ({principal}, {action}, {resource}) when {{ {one} || {other} }};"
        )
    })
}

fn policies(effects: &'static [&'static str]) -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::vec(policy(effects), 0..6).prop_map(|texts| {
        let file = |(n, text): (usize, String)| (format!("{n}.cedar"), text.replace("{n}", &n.to_string()));
        texts.into_iter().enumerate().map(file).collect()
    })
}

/// Facts with some things wrong.
fn facts() -> impl Strategy<Value = Facts> {
    let file = select(
        &[
            "db-migrate.toml",
            "deploy.toml",
            "export.toml",
            "emergency.toml",
            "research.toml",
        ][..],
    );
    let phase = select(
        &[
            Phase::Request,
            Phase::Arm,
            Phase::Approve,
            Phase::Open,
            Phase::Renew,
            Phase::Sweep,
            Phase::Extend,
        ][..],
    );
    let wrong = proptest::collection::btree_set(0_usize..14, 0..3);
    (file, phase, wrong).prop_map(|(file, phase, wrong)| {
        let mut facts = Facts::sample(phase, definition(file));
        wrong.into_iter().for_each(|what| spoil(&mut facts, what));
        facts
    })
}

fn spoil(facts: &mut Facts, what: usize) {
    match what {
        0 => facts.process.environment.push('x'),
        1 => facts.process.node.banned = true,
        2 => facts.process.attested_at = facts.now.minus(std::time::Duration::from_secs(4000)),
        3 => facts.approvals.clear(),
        4 => facts.ticket = None,
        5 => drop(facts.scopes.insert("foreign".into())),
        6 => facts.usage.unsettled = 1,
        7 => facts.usage.reviews_due = 1,
        8 => facts.usage.open_windows = 2,
        9 => facts.process.id = "spiffe://example.org/nobody".parse().unwrap(),
        10 => facts.duration = std::time::Duration::from_secs(8 * 3600),
        11 => facts.process.owner = facts.approvals.first().map(|approval| approval.by.id.clone()),
        12 => facts.usage.previous_approvers = facts.approvals.iter().map(|approval| approval.by.id.clone()).collect(),
        _ => facts.person = facts.approvals.first().map(|approval| approval.by.clone()),
    }
}

fn guards_in(decision: &Decision) -> Vec<&str> {
    decision
        .reason_ids()
        .into_iter()
        .filter(|id| GUARDS.iter().any(|guard| guard.id == *id))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    // Attack 3
    #[test]
    fn no_policies_of_users_allow_what_a_guard_forbids(files in policies(&["permit", "forbid"]), facts in facts()) {
        let builtin = BUILTIN.decide(&facts);
        let users = PolicySet::load(&files).unwrap();
        let decision = users.decide(&facts);
        if !guards_in(&builtin).is_empty() {
            prop_assert!(!decision.is_allowed(), "{builtin:?}\n{decision:?}\n{files:?}");
        }
        // The guards that are forbids of Cedar speak for themselves in every set.
        if builtin.verdict == crate::Verdict::Deny {
            prop_assert_eq!(decision.verdict, crate::Verdict::Deny);
        }
    }

    #[test]
    fn forbids_only_take(files in policies(&["forbid"]), facts in facts()) {
        let builtin = BUILTIN.decide(&facts);
        let narrower = PolicySet::load(&files).unwrap().decide(&facts);
        prop_assert!(narrower.verdict >= builtin.verdict, "{builtin:?}\n{narrower:?}\n{files:?}");
    }

    #[test]
    fn permits_only_add_duties_to_what_is_allowed(files in policies(&["permit"]), facts in facts()) {
        let builtin = BUILTIN.decide(&facts);
        let more = PolicySet::load(&files).unwrap().decide(&facts);
        prop_assert!(more.verdict >= builtin.verdict || facts.phase == Phase::Approve, "{builtin:?}\n{more:?}\n{files:?}");
    }

    #[test]
    fn slices_say_what_the_whole_set_says(files in policies(&["permit", "forbid"]), facts in facts()) {
        // The same policies with their resource scope as a condition, which nothing slices by.
        let whole = files.iter().map(|(name, text)| (name.clone(), unsliced(text))).collect();
        let (sliced, whole) = (PolicySet::load(&files).unwrap(), PolicySet::load(&whole).unwrap());
        let (sliced, whole) = (sliced.decide(&facts), whole.decide(&facts));
        prop_assert_eq!(sliced.verdict, whole.verdict);
        prop_assert_eq!(sliced.determining, whole.determining);
        prop_assert_eq!(sliced.obligations, whole.obligations);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_flip_flips(facts in facts(), files in policies(&["permit", "forbid"])) {
        let set = PolicySet::load(&files).unwrap();
        let verdict = set.decide(&facts).verdict;
        for flip in set.why_not(&facts) {
            prop_assert!(flip.verdict != verdict && !flip.facts.is_empty());
        }
    }
}

fn unsliced(text: &str) -> String {
    let scope = RESOURCES[2..].iter().find(|scope| text.contains(**scope));
    let Some(scope) = scope else { return text.into() };
    let text = text.replacen(scope, "resource", 1);
    text.replacen("when {", &format!("when {{ {scope} }} when {{"), 1)
}
