use super::*;

const MIGRATE: &str = r#"
name = "pay/db-migrate"
owner = "alice"
environment = "prod"
scopes = ["schema:write"]
review_by = 2027-06-30

[allowed]
workloads = ["/ns/pay/migrator", "/ns/pay/jobs/*"]

[limits]
max_window = "30m"
"#;

fn with(old: &str, new: &str) -> Result<Definition, DefinitionError> {
    assert!(MIGRATE.contains(old), "{old}");
    Definition::parse(&MIGRATE.replace(old, new))
}

fn problems(definition: Result<Definition, DefinitionError>) -> Vec<&'static str> {
    match definition {
        Err(DefinitionError::Unsafe(problems)) => problems.into_iter().map(|problem| problem.field).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let definition = Definition::parse(MIGRATE).unwrap();
    assert_eq!(definition.limits.max_window, Duration::from_secs(1800));
    assert_eq!(definition.limits.max_ttl, Duration::from_secs(300));
    assert_eq!(definition.limits.max_uses, 1);
    assert_eq!(definition.approval.count, 0);
    assert_eq!(definition.ending.staleness, Staleness::Strict);
    assert_eq!(definition.review_by, Some(Timestamp::from_unix(1_814_313_600)));
    assert_eq!(definition.root(), "task");
}

#[test]
fn its_own_text_means_the_same_and_has_the_same_hash() {
    let definition = Definition::parse(MIGRATE).unwrap();
    let again = Definition::parse(&definition.to_toml()).unwrap();
    assert_eq!(again, definition);
    assert_eq!(again.hash(), definition.hash());
}

#[test]
fn every_change_of_content_changes_the_hash() {
    let before = Definition::parse(MIGRATE).unwrap().hash();
    assert_eq!(
        with("owner = \"alice\"", "# a comment\nowner = 'alice'")
            .unwrap()
            .hash(),
        before
    );
    for (old, new) in [
        ("alice", "bob"),
        ("prod", "stage"),
        ("30m", "31m"),
        ("/ns/pay/migrator", "/ns/pay/migrate"),
        ("schema:write", "schema:drop"),
        ("2027-06-30", "2027-07-01"),
    ] {
        assert_ne!(with(old, new).unwrap().hash(), before, "{new}");
    }
}

#[test]
fn what_could_not_be_safe_is_refused_with_the_key() {
    assert_eq!(problems(with("30m", "9h")), ["limits.max_window"]);
    assert_eq!(problems(with("30m", "10s")), ["limits.max_window"]);
    assert_eq!(problems(with("/ns/pay/jobs/*", "/task/pay/x")), ["allowed.workloads"]);
    assert_eq!(
        problems(with(
            "[allowed]\nworkloads = [\"/ns/pay/migrator\", \"/ns/pay/jobs/*\"]",
            "[allowed]\nworkloads = []"
        )),
        ["allowed.workloads"]
    );
    // S39: approvals of nobody, groups that nobody asks, and a critical task that asks nobody.
    assert_eq!(
        problems(with("[limits]", "[approval]\ncount = 1\n[limits]")),
        ["approval.groups"]
    );
    assert_eq!(
        problems(with("[limits]", "[approval]\ngroups = ['pay/leads']\n[limits]")),
        ["approval.count"]
    );
    assert_eq!(
        problems(with("review_by", "sensitivity = 2\nreview_by")),
        ["approval.count"]
    );
    assert_eq!(
        problems(with(
            "[limits]",
            "[approval]\ncount = 2\ngroups = ['a']\ndistinct_groups = 2\n[limits]"
        )),
        ["approval.distinct_groups"]
    );
}

#[test]
fn a_checkpoint_is_an_identity_and_not_a_name_that_anybody_can_take() {
    let declared = |rule: &str| with("[limits]", &format!("[ending]\ncheckpoints = [\"{rule}\"]\n[limits]"));
    for good in ["/svc/pay-db", "/svc/*", "pay-db@/svc/pay-db"] {
        assert!(declared(good).is_ok(), "{good}");
    }
    assert_eq!(problems(declared("pay-db")), ["ending.checkpoints"]);
    assert_eq!(problems(declared("/task/*")), ["ending.checkpoints"]);
    let refused = declared("pay-db").unwrap_err().to_string();
    assert!(refused.contains("`pay-db` does not say whom to believe"), "{refused}");
}

#[test]
fn break_glass_is_short_approved_and_has_a_ticket() {
    assert_eq!(
        problems(with("review_by", "class = 'breakglass'\nreview_by")),
        ["approval.count", "ticket.required", "escalation"]
    );
    let text = MIGRATE
        .replace("review_by", "class = 'breakglass'\nescalation = 'on-call'\nreview_by")
        .replace("30m", "2h")
        + "[approval]\ncount = 1\ngroups = ['sre']\n[ticket]\nrequired = true\n";
    assert_eq!(problems(Definition::parse(&text)), ["limits.max_window"]);
}

#[test]
fn a_misspelt_key_a_missing_owner_and_no_toml_are_refused_with_their_line() {
    for (text, says) in [
        (MIGRATE.replace("max_window", "max_windows"), "max_windows"),
        (MIGRATE.replace("owner = \"alice\"", ""), "owner"),
        ("name = ".into(), "line 1"),
        (MIGRATE.replace("pay/db-migrate", "db-migrate"), "team/task"),
        (MIGRATE.replace("2027-06-30", "'soon'"), "soon"),
    ] {
        match Definition::parse(&text) {
            Err(DefinitionError::Syntax(message)) => assert!(message.contains(says), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}
