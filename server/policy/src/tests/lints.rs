use super::*;
use crate::LintKind::{self, NoWindowBound, PrincipalsOnly};

fn kinds(text: &str) -> Vec<LintKind> {
    set(text).lint().into_iter().map(|lint| lint.kind).collect()
}

// S5 S19
#[test]
fn the_examples_have_no_likely_mistake() {
    assert_eq!(PolicySet::load(&examples()).unwrap().lint(), []);
    assert_eq!(PolicySet::builtin().lint(), []);
}

// S19
#[test]
fn a_permit_that_asks_for_groups_and_nothing_else_is_found() {
    let by_group = r#"
        @id("leads")
        @window_cap("15m")
        permit (principal in Mayfly::Group::"leads", action in Mayfly::Action::"use", resource);
        "#;
    let lints = set(by_group).lint();
    assert_eq!(lints.len(), 1);
    let found = &lints[0];
    assert_eq!(
        (found.kind, found.policy.as_str(), found.file.as_str()),
        (PrincipalsOnly, "leads", "x.cedar")
    );
    assert_eq!(found.kind.code(), "principals-only");
    for more in [
        // Also of one task, also by a condition, also for one action only.
        r#"@id("a") permit (principal in Mayfly::Team::"pay", action in Mayfly::Action::"use",
           resource == Mayfly::TaskDefinition::"pay/x");"#,
        r#"@id("a") @window_cap("5m") permit (principal, action == Mayfly::Action::"open", resource)
           when { principal in Mayfly::Group::"leads" };"#,
    ] {
        assert_eq!(kinds(more), [PrincipalsOnly], "{more}");
    }
}

#[test]
fn a_policy_that_looks_at_the_task_or_only_narrows_is_not() {
    for good in [
        r#"@id("a") @window_cap("5m") permit (principal in Mayfly::Group::"leads", action in Mayfly::Action::"use", resource)
           when { context.allowed };"#,
        r#"@id("a") @window_cap("5m") permit (principal in Mayfly::Group::"leads", action in Mayfly::Action::"use", resource)
           when { resource.sensitivity < 2 };"#,
        r#"@id("a") forbid (principal, action in Mayfly::Action::"use", resource)
           unless { principal in Mayfly::Team::"pay" };"#,
        r#"@id("a") permit (principal in Mayfly::Group::"leads", action == Mayfly::Action::"revoke", resource);"#,
    ] {
        assert_eq!(kinds(good), [], "{good}");
    }
}

// S5
#[test]
fn a_permit_of_any_task_without_an_end_is_found() {
    let open = r#"@id("a") permit (principal, action in Mayfly::Action::"use", resource) when { context.allowed };"#;
    assert_eq!(kinds(open), [NoWindowBound]);
    let team = r#"@id("a") permit (principal, action == Mayfly::Action::"open", resource in Mayfly::Team::"pay")
                  when { context.allowed };"#;
    assert_eq!(kinds(team), [NoWindowBound]);
    for bounded in [
        open.replace(r#"@id("a")"#, r#"@id("a") @window_cap("15m")"#),
        open.replace(
            "context.allowed",
            r#"context.allowed && context.duration <= duration("15m")"#,
        ),
        open.replace(
            "context.allowed",
            r#"context.allowed && resource.max_window <= duration("1h")"#,
        ),
        open.replace("resource)", r#"resource == Mayfly::TaskDefinition::"pay/x")"#),
    ] {
        assert_eq!(kinds(&bounded), [], "{bounded}");
    }
}
