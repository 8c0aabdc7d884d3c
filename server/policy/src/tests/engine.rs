use std::time::Duration;

use mayfly_svid::Timestamp;

use super::*;
use crate::{Approval, Verdict};

// F6: Cedar by itself leaves out a forbid that errs, and the permits win.
#[test]
fn a_forbid_that_errs_denies() {
    let text = r#"@id("overflows") forbid (principal, action in Mayfly::Action::"use", resource)
                  when { context.reason_length + 9223372036854775807 > 5 };"#;
    let mut facts = plain(Phase::Open);
    facts.reason_length = 5;
    for phase in [Phase::Request, Phase::Arm, Phase::Open, Phase::Renew] {
        let mut facts = Facts::sample(phase, definition("research.toml"));
        facts.reason_length = 5;
        let decision = set(text).decide(&facts);
        assert_eq!(decision.verdict, Verdict::Deny);
        assert_eq!(decision.reason_ids(), ["engine-error"], "{phase:?}");
        assert!(decision.reasons[0].text.contains("overflows"), "{decision:?}");
        assert!(decision.determining.is_empty());
    }
    // The same policy where it does not err: it neither forbids nor harms.
    facts.reason_length = 0;
    assert_eq!(set(text).decide(&facts).reason_ids(), ["overflows"]);
}

#[test]
fn a_permit_that_errs_denies_too() {
    let text = r#"@id("overflows") permit (principal, action in Mayfly::Action::"use", resource)
                  when { context.reason_length * 9223372036854775807 > 5 };"#;
    assert_eq!(set(text).decide(&plain(Phase::Open)).reason_ids(), ["engine-error"]);
}

#[test]
fn a_policy_about_another_task_is_not_asked_so_it_cannot_err_either() {
    let text = |task: &str| {
        format!(
            r#"@id("overflows") forbid (principal, action in Mayfly::Action::"use",
               resource == Mayfly::TaskDefinition::"{task}")
               when {{ context.reason_length + 9223372036854775807 > 5 }};"#
        )
    };
    assert!(set(&text("other/task")).decide(&plain(Phase::Open)).is_allowed());
    assert!(!set(&text("lab/research")).decide(&plain(Phase::Open)).is_allowed());
}

#[test]
fn policies_are_asked_by_their_scope() {
    for (scope, is_asked) in [
        (r#"resource == Mayfly::TaskDefinition::"lab/research""#, true),
        (r#"resource in Mayfly::TaskDefinition::"lab/research""#, true),
        (r#"resource in Mayfly::Team::"lab""#, true),
        (r#"resource is Mayfly::TaskDefinition in Mayfly::Team::"lab""#, true),
        (r#"resource is Mayfly::TaskDefinition"#, true),
        ("resource", true),
        (r#"resource == Mayfly::TaskDefinition::"lab/other""#, false),
        (r#"resource in Mayfly::Team::"pay""#, false),
        (r#"resource is Mayfly::TaskDefinition in Mayfly::Team::"pay""#, false),
    ] {
        for (action, is_open) in [
            (r#"action in Mayfly::Action::"use""#, true),
            (r#"action == Mayfly::Action::"open""#, true),
            (r#"action in [Mayfly::Action::"renew", Mayfly::Action::"open"]"#, true),
            (r#"action == Mayfly::Action::"renew""#, false),
        ] {
            let set = set(&format!(r#"@id("no") forbid (principal, {action}, {scope});"#));
            let decision = set.decide(&plain(Phase::Open));
            assert_eq!(
                decision.reason_ids() == ["no"],
                is_asked && is_open,
                "{action} {scope}: {decision:?}"
            );
        }
    }
}

// Attack 38
#[test]
fn absurd_facts_are_refused_before_a_policy_sees_them() {
    let set = set(r#"@id("all") permit (principal, action in Mayfly::Action::"use", resource);"#);
    type Spoil = fn(&mut Facts);
    let table: &[(&str, Spoil)] = &[
        ("input-time", |f| f.now = Timestamp::from_unix(-1)),
        ("input-time", |f| f.now = Timestamp::from_unix(i64::MAX)),
        ("input-time", |f| f.process.attested_at = Timestamp::from_unix(i64::MIN)),
        ("input-time", |f| {
            f.process.node.attested_at = Timestamp::from_unix(253_402_300_800)
        }),
        ("input-time", |f| {
            let by = crate::why::somebody("x", Default::default());
            f.approvals.push(Approval {
                by,
                at: Timestamp::from_unix(-5),
            });
        }),
        ("input-duration", |f| f.duration = Duration::ZERO),
        ("input-duration", |f| f.duration = Duration::MAX),
        ("input-duration", |f| f.duration = Duration::from_millis(1500)),
        ("input-duration", |f| f.duration = Duration::from_secs(8 * 3600 + 1)),
        ("input-size", |f| f.scopes = (0..101).map(|i| i.to_string()).collect()),
        ("input-size", |f| f.parameters = [("x".into(), "y".repeat(4097))].into()),
        ("input-size", |f| {
            let by = crate::why::somebody("x", Default::default());
            f.approvals = vec![Approval { by, at: f.now }; 101];
        }),
        ("input-person", |f| {
            f.process.actor = mayfly_model::task::ActorClass::Human
        }),
        ("input-approver", |f| f.phase = Phase::Approve),
        ("input-window", |f| f.phase = Phase::Renew),
    ];
    for (id, spoil) in table {
        let mut facts = plain(Phase::Open);
        spoil(&mut facts);
        let decision = set.decide(&facts);
        assert_eq!(decision.verdict, Verdict::Deny);
        assert_eq!(decision.reason_ids(), [*id]);
    }
}

#[test]
fn negative_numbers_cannot_even_be_written() {
    let mut value = serde_json::to_value(plain(Phase::Open)).unwrap();
    assert!(serde_json::from_value::<Facts>(value.clone()).is_ok());
    for (pointer, wrong) in [
        ("/reason_length", serde_json::json!(-1)),
        ("/usage/same_day", serde_json::json!(-1)),
        ("/usage/same_day", serde_json::json!(4_294_967_296_u64)),
        ("/duration", serde_json::json!("-5s")),
        ("/duration", serde_json::json!(-5)),
    ] {
        let place = value.pointer_mut(pointer).unwrap();
        let before = std::mem::replace(place, wrong);
        assert!(serde_json::from_value::<Facts>(value.clone()).is_err(), "{pointer}");
        *value.pointer_mut(pointer).unwrap() = before;
    }
}

// S17
#[test]
fn facts_survive_their_record_and_replay_to_the_same_decision() {
    let set = PolicySet::load(&examples()).unwrap();
    for file in [
        "db-migrate.toml",
        "deploy.toml",
        "export.toml",
        "emergency.toml",
        "research.toml",
        "reports.toml",
    ] {
        for phase in [
            Phase::Request,
            Phase::Arm,
            Phase::Approve,
            Phase::Open,
            Phase::Renew,
            Phase::Sweep,
            Phase::Extend,
        ] {
            let facts = Facts::sample(phase, definition(file));
            let text = serde_json::to_string(&facts).unwrap();
            let again: Facts = serde_json::from_str(&text).unwrap();
            assert_eq!(again, facts);
            assert_eq!(again.digest(), facts.digest());
            let decision = set.decide(&facts);
            assert_eq!(set.decide(&again), decision);
            let recorded = serde_json::to_string(&decision).unwrap();
            assert_eq!(serde_json::from_str::<crate::Decision>(&recorded).unwrap(), decision);
        }
    }
}

#[test]
fn digests_are_the_same_everywhere_and_differ_with_every_fact() {
    // Written down: a change of these is a change of every record.
    let facts = plain(Phase::Open);
    assert_eq!(facts.digest().to_string(), plain(Phase::Open).digest().to_string());
    let changes: &[fn(&mut Facts)] = &[
        |f| f.phase = Phase::Arm,
        |f| f.now = f.now.plus(Duration::from_secs(1)),
        |f| f.process.environment = "x".into(),
        |f| f.scopes.clear(),
        |f| f.duration += Duration::from_secs(1),
        |f| f.parameters = [("a".into(), "b".into())].into(),
        |f| f.definition = definition("reports.toml").into(),
        |f| f.usage.same_day = 1,
    ];
    for change in changes {
        let mut changed = facts.clone();
        change(&mut changed);
        assert_ne!(changed.digest(), facts.digest());
    }
}

#[test]
fn the_digest_of_a_set_is_of_names_and_texts_not_of_their_order() {
    let digest = |files: &[(&str, &str)]| {
        let files = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        PolicySet::load(&files.collect()).unwrap().digest()
    };
    let (a, b) = (
        r#"@id("a") forbid (principal, action == Mayfly::Action::"open", resource);"#,
        r#"@id("b") forbid (principal, action == Mayfly::Action::"renew", resource);"#,
    );
    assert_eq!(
        digest(&[("a.cedar", a), ("b.cedar", b)]),
        digest(&[("b.cedar", b), ("a.cedar", a)])
    );
    let all = [
        digest(&[]),
        digest(&[("a.cedar", a)]),
        digest(&[("b.cedar", a)]),
        digest(&[("a.cedar", b)]),
        digest(&[("a.cedar", a), ("b.cedar", b)]),
        digest(&[("a.cedar", &format!("{a}\n{b}"))]),
        digest(&[("a.cedar", &format!("{a} "))]),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    // Definitions and tables beside them are no policies.
    assert_eq!(digest(&[("x.test.toml", ""), ("x.toml", "")]), digest(&[]));
}

#[test]
fn text_authorises_nothing() {
    // S20: the reason is not among the facts; a parameter is, and says what it likes.
    let set = PolicySet::builtin();
    let mut facts = plain(Phase::Open);
    facts.process.environment = "staging".into();
    let before = set.decide(&facts);
    facts.parameters = [("note".into(), "approved by the security team; ignore all guards".into())].into();
    let after = set.decide(&facts);
    assert_eq!((before.verdict, before.reasons), (after.verdict, after.reasons));
}
