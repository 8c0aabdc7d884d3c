use std::time::Duration;

use super::*;
use crate::{Missing, Verdict};

fn request(file: &str) -> Facts {
    Facts::sample(Phase::Request, definition(file))
}

// S36
#[test]
fn a_request_says_allowed_or_what_it_waits_for_or_denied() {
    let set = PolicySet::builtin();
    type Spoil = fn(&mut Facts);
    let table: &[(&str, Spoil, Verdict, &[Missing])] = &[
        ("research.toml", |_| (), Verdict::Allow, &[]),
        ("db-migrate.toml", |_| (), Verdict::Allow, &[]),
        (
            "db-migrate.toml",
            |f| f.ticket = None,
            Verdict::Wait,
            &[Missing::Ticket],
        ),
        (
            "export.toml",
            |f| f.approvals.clear(),
            Verdict::Wait,
            &[Missing::Approvals],
        ),
        (
            "emergency.toml",
            |f| {
                f.ticket = None;
                f.approvals.clear();
            },
            Verdict::Wait,
            &[Missing::Ticket, Missing::Approvals],
        ),
        ("export.toml", |f| f.process.node.banned = true, Verdict::Deny, &[]),
        (
            "export.toml",
            |f| {
                f.approvals.clear();
                f.scopes.insert("all".into());
            },
            Verdict::Deny,
            &[],
        ),
    ];
    for (file, spoil, verdict, missing) in table {
        let mut facts = request(file);
        spoil(&mut facts);
        let decision = set.decide(&facts);
        assert_eq!(
            (decision.verdict, &decision.missing[..]),
            (*verdict, *missing),
            "{file} {decision:?}"
        );
        assert_eq!(decision.verdict == Verdict::Allow, decision.reasons.is_empty());
    }
}

#[test]
fn denial_by_something_that_approvals_do_not_help_does_not_speak_of_approvals() {
    let mut facts = request("export.toml");
    facts.approvals.clear();
    let set = set(r#"@id("never") forbid (principal, action == Mayfly::Action::"open", resource);"#);
    let decision = set.decide(&facts);
    assert_eq!(
        (decision.verdict, decision.reason_ids()),
        (Verdict::Deny, vec!["never"])
    );
}

#[test]
fn a_policy_that_wants_more_people_than_the_definition_is_found_out() {
    let mut facts = request("export.toml");
    facts.approvals.clear();
    let text = r#"@id("four") @reason("four people") forbid (principal, action == Mayfly::Action::"open", resource)
                  when { context.approvals.count < 4 };"#;
    let decision = set(text).decide(&facts);
    assert_eq!(
        (decision.verdict, &decision.missing[..]),
        (Verdict::Wait, &[Missing::Approvals][..])
    );
    assert_eq!(decision.obligations.approvals[0].count, 4);
    assert_eq!(decision.reason_ids(), ["four", "approvals-missing"]);
    // More than there can be is never.
    let eleven = text.replace("< 4", "< 11");
    assert_eq!(set(&eleven).decide(&facts).verdict, Verdict::Deny);
}

#[test]
fn rules_of_policies_come_on_top_of_the_definitions_own() {
    let text = r#"@id("sre") @approvals("1:sre") permit (principal, action in Mayfly::Action::"use", resource);"#;
    let set = set(text);
    let mut facts = request("export.toml");
    let decision = set.decide(&facts);
    assert_eq!(decision.verdict, Verdict::Wait, "two approved, but nobody of sre");
    let counts: Vec<u32> = decision.obligations.approvals.iter().map(|rule| rule.count).collect();
    assert_eq!(counts, [2, 1]);
    facts.approvals[0].by.groups.insert("sre".parse().unwrap());
    assert_eq!(set.decide(&facts).verdict, Verdict::Allow);
    // A third one, of that group alone, may approve too.
    facts.phase = Phase::Approve;
    facts.approver = Some(crate::why::somebody("sue", ["sre".parse().unwrap()].into()));
    assert!(set.decide(&facts).is_allowed());
}

#[test]
fn approvals_by_nobody_in_particular_are_not_waited_for() {
    // A policy wants a person, and neither definition nor policy says whom to ask.
    let text = r#"@id("one") forbid (principal, action == Mayfly::Action::"open", resource)
                  when { context.approvals.count < 1 };"#;
    let decision = set(text).decide(&request("research.toml"));
    assert_eq!((decision.verdict, decision.reason_ids()), (Verdict::Deny, vec!["one"]));
}

// S37
#[test]
fn a_request_that_waited_is_armed_although_its_evidence_is_old_and_opened_only_with_new_evidence() {
    let set = PolicySet::builtin();
    let mut facts = request("export.toml");
    facts.process.attested_at = facts.now.minus(Duration::from_secs(3 * 3600));
    assert_eq!(
        set.decide(&facts).reason_ids(),
        ["evidence-stale"],
        "asking needs fresh evidence"
    );
    facts.phase = Phase::Arm;
    assert_eq!(set.decide(&facts).verdict, Verdict::Allow);
    facts.phase = Phase::Approve;
    facts.approver = Some(crate::why::somebody("sue", ["privacy".parse().unwrap()].into()));
    assert_eq!(set.decide(&facts).verdict, Verdict::Allow);
    facts.phase = Phase::Open;
    assert_eq!(set.decide(&facts).reason_ids(), ["evidence-stale"]);
}

// Attack 21
#[test]
fn eligibility_that_is_gone_by_the_opening_is_gone() {
    let set = PolicySet::builtin();
    let mut facts = request("export.toml");
    assert!(set.decide(&facts).is_allowed());
    facts.phase = Phase::Open;
    facts.now = facts.now.plus(Duration::from_secs(3601));
    facts.process.attested_at = facts.now;
    assert_eq!(
        set.decide(&facts).reason_ids(),
        ["approvals-missing"],
        "approvals count for an hour"
    );
}

#[test]
fn windows_that_will_be_settled_do_not_keep_from_asking() {
    let set = PolicySet::builtin();
    let mut facts = request("db-migrate.toml");
    facts.usage.unsettled = 1;
    facts.usage.open_windows = 1;
    assert_eq!(set.decide(&facts).verdict, Verdict::Allow);
    facts.phase = Phase::Open;
    assert_eq!(set.decide(&facts).reason_ids(), ["not-settled", "too-many-windows"]);
}

#[test]
fn approving_what_would_be_denied_anyway_is_refused_with_that_reason() {
    let mut facts = Facts::sample(Phase::Approve, definition("export.toml"));
    facts.process.node.banned = true;
    assert_eq!(PolicySet::builtin().decide(&facts).reason_ids(), ["node-banned"]);
}

// Attack 22
#[test]
fn a_sweep_closes_what_a_new_policy_forbids_and_leaves_alone_what_is_between_renewals() {
    let mut facts = Facts::sample(Phase::Sweep, definition("research.toml"));
    let earlier = facts.now.minus(Duration::from_secs(3000));
    facts.process.attested_at = earlier;
    let window = facts.window.as_mut().unwrap();
    (window.opened_at, window.renewed_at) = (earlier, earlier);
    assert!(
        PolicySet::builtin().decide(&facts).is_allowed(),
        "the evidence was fresh at the last renewal"
    );
    let stricter = set(r#"@id("stop") forbid (principal, action in Mayfly::Action::"use", resource);"#);
    assert_eq!(stricter.decide(&facts).reason_ids(), ["stop"]);
    facts.phase = Phase::Renew;
    assert_eq!(PolicySet::builtin().decide(&facts).reason_ids(), ["evidence-stale"]);
}

#[test]
fn break_glass_owes_a_review() {
    let decision = PolicySet::builtin().decide(&Facts::sample(Phase::Open, definition("emergency.toml")));
    let duties: Vec<String> = decision.obligations.duties.iter().map(ToString::to_string).collect();
    assert_eq!(
        (decision.is_allowed(), duties),
        (true, vec!["post-review:1day".to_owned()])
    );
}
