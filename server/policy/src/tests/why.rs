use super::*;
use crate::{Flip, Verdict};

fn facts_of(flips: &[Flip]) -> Vec<Vec<&str>> {
    flips
        .iter()
        .map(|flip| flip.facts.iter().map(|signal| signal.fact.as_str()).collect())
        .collect()
}

// S25
#[test]
fn one_fact_that_is_wrong_is_named() {
    let set = PolicySet::builtin();
    let mut facts = Facts::sample(Phase::Open, definition("db-migrate.toml"));
    facts.process.environment = "staging".into();
    let flips = set.why_not(&facts);
    assert_eq!(facts_of(&flips), [["process.environment"]]);
    assert_eq!(flips[0].facts[0].words, "the process ran in environment `prod`");
    assert_eq!(flips[0].verdict, Verdict::Allow);
}

#[test]
fn two_facts_are_named_as_a_pair_and_three_as_the_least_that_helps() {
    let set = PolicySet::builtin();
    let mut facts = Facts::sample(Phase::Open, definition("db-migrate.toml"));
    facts.process.environment = "staging".into();
    facts.ticket = None;
    assert_eq!(facts_of(&set.why_not(&facts)), [["process.environment", "ticket"]]);
    facts.process.node.banned = true;
    facts.usage.same_day = 50;
    assert_eq!(
        facts_of(&set.why_not(&facts)),
        [["process.environment", "process.node.banned", "ticket"]]
    );
}

#[test]
fn what_no_fact_can_change_is_not_explained_away() {
    let set = set(r#"@id("stop") forbid (principal, action in Mayfly::Action::"use", resource);"#);
    assert_eq!(set.why_not(&plain(Phase::Open)), []);
}

#[test]
fn alternatives_are_all_shown() {
    let text = r#"@id("x") forbid (principal, action == Mayfly::Action::"open", resource)
                  when { context.usage.same_day > 3 && context.reason_length < 20 };"#;
    let mut facts = plain(Phase::Open);
    facts.usage.same_day = 5;
    facts.reason_length = 3;
    assert_eq!(
        facts_of(&set(text).why_not(&facts)),
        [["usage.same_day"], ["reason_length"]]
    );
}

// S13
#[test]
fn for_a_permission_it_says_what_would_take_it_away() {
    let facts = Facts::sample(Phase::Open, definition("export.toml"));
    let flips = PolicySet::builtin().why_not(&facts);
    let named: Vec<&str> = flips.iter().map(|flip| flip.facts[0].fact.as_str()).collect();
    let expected = [
        "process.id",
        "process.environment",
        "process.actor",
        "process.node.banned",
        "process.attested_at",
        "scopes",
        "duration",
        "definition.review_by",
        "usage.open_windows",
        "approvals",
    ];
    assert_eq!(named, expected);
    assert!(flips.iter().all(|flip| flip.verdict == Verdict::Deny));
}

#[test]
fn an_approver_learns_that_somebody_else_may() {
    let mut facts = Facts::sample(Phase::Approve, definition("export.toml"));
    facts.person = facts.approver.clone();
    assert_eq!(facts_of(&PolicySet::builtin().why_not(&facts)), [["approver"]]);
}

#[test]
fn a_request_that_waits_is_told_what_would_end_the_waiting() {
    let mut facts = Facts::sample(Phase::Request, definition("emergency.toml"));
    facts.approvals.clear();
    facts.ticket = None;
    let flips = PolicySet::builtin().why_not(&facts);
    assert_eq!(facts_of(&flips), [["ticket", "approvals"]]);
    assert_eq!(flips[0].verdict, Verdict::Allow);
}
