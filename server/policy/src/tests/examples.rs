use super::*;

#[test]
fn the_six_policies_do_what_their_tables_say_all_loaded_together() {
    let files = examples();
    let set = PolicySet::load(&files).unwrap_or_else(|errors| panic!("{errors}"));
    let results = set.test(&files).unwrap();
    let failed: Vec<String> = results
        .iter()
        .filter_map(|r| {
            r.failure
                .as_ref()
                .map(|failure| format!("{}: {}:\n{failure}", r.file, r.name))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("{} cases", results.len());
    assert!(results.len() >= 55, "{}", results.len());
}

#[test]
fn every_policy_of_the_examples_and_every_guard_of_tasks_decides_in_some_case() {
    let files = examples();
    let set = PolicySet::load(&files).unwrap();
    let results = set.test(&files).unwrap();
    let decided: std::collections::BTreeSet<&str> = results
        .iter()
        .flat_map(|r| r.decision.determining.iter().map(String::as_str))
        .collect();
    let silent: Vec<_> = set
        .policies()
        .into_iter()
        .filter(|(id, file, _)| !file.starts_with("builtin/") && !decided.contains(id))
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn a_case_that_expects_something_else_fails_and_says_how() {
    let mut files = examples();
    let table = files.get_mut("4-agent-envelope.test.toml").unwrap();
    *table = table.replace(
        "expect = \"allow\"\nttl_cap = \"1m\"",
        "expect = \"deny\"\nttl_cap = \"2m\"",
    );
    let set = PolicySet::load(&files).unwrap();
    let failures: Vec<String> = set
        .test(&files)
        .unwrap()
        .into_iter()
        .filter_map(|r| r.failure)
        .collect();
    assert_eq!(
        failures,
        ["verdict: expected Deny, got Allow\nttl_cap: expected 2m, got 1m"]
    );
}

#[test]
fn a_table_with_a_misspelt_fact_is_not_run() {
    for (from, to, what) in [
        ("facts.usage.same_day = 20", "facts.usage.sameday = 20", "sameday"),
        ("expect = \"allow\"\nttl_cap", "expects = \"allow\"\nttl_cap", "expects"),
        (
            "definition = \"research.toml\"",
            "definition = \"nothing.toml\"",
            "there is no file `nothing.toml`",
        ),
        (
            "facts.usage.same_day = 20",
            "facts.usage.same_day = -20",
            "invalid value",
        ),
        (
            "facts.usage.same_day = 20",
            "facts.now = \"yesterday\"",
            "is no instant",
        ),
    ] {
        let mut files = examples();
        let table = files.get_mut("4-agent-envelope.test.toml").unwrap();
        assert!(table.contains(from));
        *table = table.replacen(from, to, 1);
        let errors = PolicySet::load(&files).unwrap().test(&files).unwrap_err();
        assert!(errors.len() == 1 && errors[0].problem.contains(what), "{errors:?}");
    }
}

#[test]
fn a_definition_can_stand_in_the_table_itself() {
    let table = r#"
        [definition]
        name = "pay/x"
        owner = "alice"
        allowed.workloads = ["/ns/pay/x"]
        [[case]]
        name = "as it is"
        phase = "open"
        expect = "allow"
    "#;
    let files = [("x.test.toml".to_owned(), table.to_owned())].into();
    let results = PolicySet::builtin().test(&files).unwrap();
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].failure, None);
}

#[test]
fn what_another_set_would_have_said_is_shown_and_nothing_else() {
    let files = examples();
    let with = PolicySet::load(&files).unwrap();
    let past: Vec<Facts> = (0..30)
        .map(|i| {
            let mut facts = plain(Phase::Open);
            facts.process.id = "spiffe://example.org/agent/finder".parse().unwrap();
            facts.scopes = ["wiki:read".into()].into();
            facts.usage.same_day = i;
            facts
        })
        .collect();
    let mut without = files.clone();
    let agents = without.get_mut("4-agent-envelope.cedar").unwrap();
    *agents = agents.replace(">= 20", ">= 10");
    let without = PolicySet::load(&without).unwrap();
    let differences = with.replay(&past, &without);
    let at: Vec<usize> = differences.iter().map(|d| d.index).collect();
    assert_eq!(at, (10..20).collect::<Vec<_>>());
    assert!(
        differences
            .iter()
            .all(|d| d.before.is_allowed() && d.after.reason_ids() == ["agents/often"])
    );
    assert_eq!(with.replay(&past, &with), []);
}
