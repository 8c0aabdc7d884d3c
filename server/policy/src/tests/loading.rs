use super::*;

fn problems(text: &str) -> Vec<String> {
    load(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

/// The first error of `text`, which has one, with its line.
fn only(text: &str) -> (usize, String) {
    let errors = load(text).unwrap_err().0;
    assert_eq!(errors.len(), 1, "{errors:?}");
    (errors[0].line, errors[0].to_string())
}

const OPEN: &str = r#"action == Mayfly::Action::"open""#;

#[test]
fn a_misspelt_attribute_keeps_the_set_from_being_loaded_and_its_line_is_said() {
    let text =
        format!("// one\n@id(\"a\")\nforbid (principal, {OPEN}, resource)\nwhen {{\n  context.reason_lenght < 5\n}};");
    let (line, error) = only(&text);
    assert_eq!(line, 5);
    assert!(error.starts_with("x.cedar:5: a: "), "{error}");
    assert!(
        error.contains("reason_lenght") && error.contains("reason_length"),
        "{error}"
    );
}

#[test]
fn unknown_annotations_are_refused_with_the_nearest() {
    let (line, error) = only(&format!(
        "\n@id(\"a\")\n@aprovals(\"2:sre\")\npermit (principal, {OPEN}, resource);"
    ));
    assert_eq!(line, 2);
    assert!(
        error.contains("`@aprovals` is no annotation here; did you mean `@approvals`?"),
        "{error}"
    );
}

#[test]
fn annotations_that_cannot_be_meant_are_refused() {
    for (annotation, problem) in [
        (r#"@approvals("0:sre")"#, "between 1 and 10"),
        (r#"@approvals("11:sre")"#, "between 1 and 10"),
        (r#"@approvals("-1:sre")"#, "is not a number of people"),
        (r#"@approvals("2")"#, "is not a number of people"),
        (r#"@approvals("2:")"#, "is not a name"),
        (r#"@approvals("2:SRE")"#, "is not a name"),
        (r#"@approvals"#, "is not a number of people"),
        (r#"@ttl_cap("0s")"#, "between 20s and 1h"),
        (r#"@ttl_cap("-5s")"#, "is not a duration"),
        (r#"@ttl_cap("2h")"#, "between 20s and 1h"),
        (r#"@ttl_cap("1500ms")"#, "whole seconds"),
        (r#"@window_cap("9h")"#, "between 20s and 8h"),
        (r#"@obligation("rotate:x")"#, "is no obligation"),
        (r#"@obligation("post-review:0s")"#, "whole seconds"),
        (r#"@reason("")"#, "a reason has 1 to 512 bytes"),
    ] {
        let (_, error) = only(&format!(
            "@id(\"a\") {annotation} permit (principal, {OPEN}, resource);"
        ));
        assert!(error.contains(problem), "{annotation}: {error}");
    }
}

#[test]
fn a_forbid_gives_nothing() {
    let (_, error) = only(&format!(
        "@id(\"a\") @ttl_cap(\"2m\") forbid (principal, {OPEN}, resource);"
    ));
    assert!(error.contains("a forbid gives none"), "{error}");
}

#[test]
fn every_policy_has_an_id_of_its_own() {
    let (line, error) = only(&format!("\n\nforbid (principal, {OPEN}, resource);"));
    assert_eq!(line, 3);
    assert!(error.contains("policy 1: has no `@id`"), "{error}");
    for (id, problem) in [
        ("environment-mismatch", "a guard, which nothing replaces"),
        ("default-use", "another policy"),
        ("engine-error", "a meaning of its own"),
        ("input-time", "a meaning of its own"),
        ("Has Space", "is no id"),
        ("", "is no id"),
    ] {
        let (_, error) = only(&format!("@id(\"{id}\") forbid (principal, {OPEN}, resource);"));
        assert!(error.contains(problem), "{id}: {error}");
    }
    let two = format!("@id(\"a\") forbid (principal, {OPEN}, resource);\n").repeat(2);
    assert_eq!(
        problems(&two),
        ["x.cedar:2: a: this is the id of another policy, at x.cedar:1"]
    );
}

#[test]
fn permits_name_their_actions() {
    let (_, error) = only("@id(\"a\") permit (principal, action, resource);");
    assert!(error.contains("would open the API too"), "{error}");
    assert!(load("@id(\"a\") forbid (principal, action, resource);").is_ok());
}

#[test]
fn templates_and_broken_texts_are_refused() {
    let (_, error) = only(&format!(
        "@id(\"a\") permit (principal == ?principal, {OPEN}, resource);"
    ));
    assert!(error.contains("slots"), "{error}");
    let (line, error) = only("@id(\"a\")\nforbid (principal, action, resource)\nwhen { context. };");
    assert_eq!(line, 3, "{error}");
}

#[test]
fn types_and_entities_that_do_not_exist_are_refused() {
    for (condition, problem) in [
        (r#"context.duration > 900"#, "duration"),
        (
            r#"principal in Mayfly::Group::"sre" && principal.owner == "x""#,
            "owner",
        ),
        (r#"principal == Mayfly::Persn::"x""#, "Persn"),
        (r#"context.ticket.owner == "x""#, "has"),
        (r#"context.parameters.getTag("x") == "y""#, "tag"),
        (r#"context.process.owner in Mayfly::Group::"x""#, "owner"),
        (r#"Mayfly::Action::"oppen" == action"#, "oppen"),
    ] {
        let errors = problems(&format!(
            "@id(\"a\") forbid (principal, {OPEN}, resource) when {{ {condition} }};"
        ));
        assert!(
            errors.iter().any(|error| error.contains(problem)),
            "{condition}: {errors:?}"
        );
    }
    // Entities whose groups are not known are no entities: `in` on them would be false, and a forbid silent.
    let errors = problems(&format!(
        "@id(\"a\") forbid (principal == Mayfly::Node::\"x\", {OPEN}, resource);"
    ));
    assert!(!errors.is_empty());
}

#[test]
fn a_policy_that_can_never_apply_is_a_mistake() {
    let errors = problems(&format!(
        "@id(\"a\") forbid (principal, {OPEN}, resource) when {{ false }};"
    ));
    assert!(errors[0].contains("impossible"), "{errors:?}");
}

#[test]
fn all_that_is_wrong_is_said_at_once_in_order() {
    let files = [
        ("b.cedar", "forbid (principal, action, resource);"),
        (
            "a.cedar",
            "@id(\"x\")\nforbid (principal, action, resource) when { nonsense };",
        ),
        (
            "c.cedar",
            "@id(\"y\") @why(\"z\") forbid (principal, action == Mayfly::Action::\"open\", resource)\nwhen { context.n };",
        ),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let errors = PolicySet::load(&files).unwrap_err();
    let places: Vec<(&str, usize)> = errors.0.iter().map(|error| (error.file.as_str(), error.line)).collect();
    assert_eq!(places.len(), 4, "{errors}");
    assert_eq!(
        places[..],
        [("a.cedar", 2), ("b.cedar", 1), ("c.cedar", 1), ("c.cedar", 2)],
        "{errors}"
    );
}

#[test]
fn too_much_is_refused() {
    let one = |i: usize| format!("@id(\"p{i}\") forbid (principal, {OPEN}, resource) when {{ context.sweep }};\n");
    let many: String = (0..2001).map(one).collect();
    assert!(problems(&many)[0].contains("at most 2000"));
    assert!(problems(&"// \n".repeat(300_000))[0].contains("at most 1048576"));
}

#[test]
fn annotations_combine_to_the_strictest() {
    let text = format!(
        "@id(\"a\") @ttl_cap(\"2m\") @window_cap(\"5m\") permit (principal, {OPEN}, resource);
         @id(\"b\") @ttl_cap(\"1m\") @window_cap(\"10m\") @obligation(\"post-review:48h\") permit (principal, {OPEN}, resource);
         @id(\"c\") @ttl_cap(\"30s\") permit (principal, {OPEN}, resource) when {{ context.sweep }};
         @id(\"d\") @obligation(\"post-review:2h\") permit (principal, {OPEN}, resource);"
    );
    let decision = set(&text).decide(&plain(Phase::Open));
    assert_eq!(decision.determining, ["a", "b", "d", "default-use"]);
    assert_eq!(decision.obligations.ttl_cap, Some(std::time::Duration::from_secs(60)));
    assert_eq!(
        decision.obligations.window_cap,
        Some(std::time::Duration::from_secs(300))
    );
    let duties: Vec<String> = decision.obligations.duties.iter().map(ToString::to_string).collect();
    assert_eq!(duties, ["post-review:2h"]);
}
