use super::*;
use crate::{RevokeFacts, Revoker, why::somebody};

fn window(by: Revoker) -> RevokeFacts {
    RevokeFacts {
        now: plain(Phase::Open).now,
        by,
        window: "w1".into(),
        definition: definition("export.toml").into(),
        process: "spiffe://example.org/ns/data/exporter".parse().unwrap(),
        owner: Some("owner-of-bot".parse().unwrap()),
        requester: Some("requester".parse().unwrap()),
        approvers: ["approver1".parse().unwrap(), "approver2".parse().unwrap()].into(),
    }
}

#[test]
fn whoever_answers_for_a_window_ends_it_and_nobody_else() {
    let set = PolicySet::builtin();
    for (name, may) in [
        ("erin", true), // the definition's owner
        ("owner-of-bot", true),
        ("requester", true),
        ("approver1", true),
        ("approver2", true),
        ("stranger", false),
    ] {
        let decision = set.authorize_revoke(&window(Revoker::Person(somebody(name, Default::default()))));
        assert_eq!(decision.is_allowed(), may, "{name}: {decision:?}");
    }
    for (id, may) in [
        ("spiffe://example.org/ns/data/exporter", true),
        ("spiffe://example.org/ns/data/other", false),
        ("spiffe://other.example/ns/data/exporter", false),
    ] {
        let decision = set.authorize_revoke(&window(Revoker::Process(id.parse().unwrap())));
        assert_eq!(decision.is_allowed(), may, "{id}: {decision:?}");
    }
}

#[test]
fn a_policy_lets_others_end_windows_of_a_team() {
    let text = |team: &str| {
        format!(
            r#"@id("security") permit (principal in Mayfly::Group::"security", action == Mayfly::Action::"revoke",
               resource in Mayfly::Team::"{team}");"#
        )
    };
    let by = || Revoker::Person(somebody("sue", ["security".parse().unwrap()].into()));
    assert!(set(&text("data")).authorize_revoke(&window(by())).is_allowed());
    assert!(!set(&text("pay")).authorize_revoke(&window(by())).is_allowed());
}

#[test]
fn a_policy_reserves_changes_of_a_team_to_its_leads() {
    let text = r#"@id("leads") forbid (principal, action in [Mayfly::Action::"edit_policy",
        Mayfly::Action::"edit_definition"], resource in Mayfly::Team::"data")
        unless { principal in Mayfly::Group::"data/leads" };"#;
    let facts = |edited, groups: &[&str]| crate::EditFacts {
        now: plain(Phase::Open).now,
        edited,
        author: somebody("x", groups.iter().map(|group| group.parse().unwrap()).collect()),
        confirmed_by: vec![],
        two_person: false,
    };
    let policy = || crate::Edited::Policy { team: "data".into() };
    let definition = || crate::Edited::Definition(definition("export.toml").into());
    for edited in [policy, definition] as [fn() -> crate::Edited; 2] {
        assert!(set(text).authorize_edit(&facts(edited(), &["data/leads"])).is_allowed());
        assert_eq!(
            set(text).authorize_edit(&facts(edited(), &["leads"])).reason_ids(),
            ["leads"]
        );
    }
    let other = crate::Edited::Policy { team: "pay".into() };
    assert!(set(text).authorize_edit(&facts(other, &[])).is_allowed());
}
