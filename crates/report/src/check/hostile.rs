//! Reports that somebody made to break whoever checks or reads them: whatever they say, they are judged, and nothing ends
//! in a panic.

use mayfly_audit::Report;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Check, Outcome, With, check};
use crate::page::tests::full;

/// Numbers at which arithmetic breaks.
fn extreme(number: usize) -> Value {
    let values = [
        json!(i64::MIN),
        json!(i64::MIN + 1),
        json!(-1),
        json!(0),
        json!(1),
        json!(i64::MAX),
        json!(i64::MAX as u64 + 1),
        json!(u64::MAX),
    ];
    values[number % values.len()].clone()
}

/// Every number of a document, by its place.
fn numbers(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(_) => found.push(place.to_owned()),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, item)| numbers(item, &format!("{place}/{index}"), found));
        }
        Value::Object(fields) => {
            let fields = fields.iter();
            fields.for_each(|(name, field)| numbers(field, &format!("{place}/{name}"), found));
        }
        _ => {}
    }
}

/// A report with a row of everything, and not more than two.
fn document() -> (Value, Vec<String>) {
    let mut document = serde_json::to_value(full("name")).unwrap();
    shorten(&mut document);
    let mut found = vec![];
    numbers(&document, "", &mut found);
    (document, found)
}

fn shorten(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.truncate(2);
            items.iter_mut().for_each(shorten);
        }
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

/// Checks and draws a report, whatever it is.
fn judge(document: &Value) -> Vec<Check> {
    let json = mayfly_audit::canonical::canonical(document).unwrap();
    let is_drawn = crate::page(&json).is_ok();
    let checks = check(&json, With::default());
    assert_eq!(is_drawn, checks.len() > 1 && document["v"] == json!(1), "{checks:?}");
    checks
}

fn outcome<'a>(checks: &'a [Check], what: &str) -> &'a Outcome {
    let found = checks.iter().find(|check| check.what == what);
    &found.unwrap_or_else(|| panic!("no {what} in {checks:?}")).outcome
}

#[test]
fn each_number_may_be_any_number() {
    let (document, places) = document();
    println!("{} numbers", places.len());
    assert!(places.len() > 150, "{}", places.len());
    for place in &places {
        // The least and the largest of each width.
        for number in [0, 5, 7] {
            let mut changed = document.clone();
            *changed.pointer_mut(place).unwrap() = extreme(number);
            let checks = judge(&changed);
            assert!(checks[0].has_failed() || checks.len() > 5, "{place}: {checks:?}");
        }
    }
}

#[test]
fn all_numbers_may_be_extreme_at_once() {
    let (document, places) = document();
    for number in 0..8 {
        let mut changed = document.clone();
        for place in &places {
            // What no field can be is no report; those that are not negative are as large as they can be.
            let before = changed.pointer(place).unwrap().clone();
            *changed.pointer_mut(place).unwrap() = extreme(number);
            if serde_json::from_value::<Report>(changed.clone()).is_err() {
                *changed.pointer_mut(place).unwrap() = before;
            }
        }
        judge(&changed);
    }
}

#[test]
fn sums_that_no_number_can_hold_are_told_by_their_places() {
    let mut report = full("name");
    report.completeness.by_kind = [("a".into(), u64::MAX), ("b".into(), u64::MAX)].into();
    report
        .joins
        .checks
        .iter_mut()
        .for_each(|check| check.violations = u64::MAX);
    let row = report.meter.by_owner.rows[0].clone();
    report.meter.by_owner.left_out = 0;
    report.meter.by_owner.rows = vec![row; 3];
    for row in &mut report.meter.by_owner.rows {
        (row.privileged_seconds, row.windows) = (i64::MAX, u64::MAX);
    }
    report.approvals.people.iter_mut().for_each(|row| {
        (row.approved, row.refused) = (u64::MAX, u64::MAX);
    });
    let checks = check(&report.to_json(), With::default());
    let Outcome::Failed(wrong) = outcome(&checks, "sums") else {
        panic!("{checks:?}")
    };
    for place in [
        "completeness.entries",
        "joins.violations",
        "meter.by_owner:",
        "meter.by_owner, windows",
        "approvals, name",
    ] {
        assert!(
            wrong.iter().any(|wrong| wrong.starts_with(place)),
            "{place}: {wrong:#?}"
        );
    }
}

#[test]
fn mistakes_are_told_up_to_a_number_and_names_up_to_a_length() {
    let mut report = full(&"x".repeat(10_000));
    let row = report.meter.by_task.rows[0].clone();
    report.meter.by_task.rows = vec![row; 1_000];
    for row in &mut report.meter.by_task.rows {
        row.duty_permille = 1_001;
    }
    let checks = check(&report.to_json(), With::default());
    let Outcome::Failed(wrong) = outcome(&checks, "sums") else {
        panic!("{checks:?}")
    };
    assert_eq!(wrong.len(), 101);
    assert!(
        wrong[100].starts_with("and ") && wrong[100].ends_with(" more"),
        "{}",
        wrong[100]
    );
    assert!(wrong.iter().all(|wrong| wrong.len() < 500));
}

#[test]
fn what_was_added_at_any_place_is_refused_by_its_place() {
    let (document, _) = document();
    let mut places = vec![];
    objects(&document, "", &mut places);
    assert!(places.len() > 30);
    for place in places {
        let mut changed = document.clone();
        changed.pointer_mut(&place).unwrap()["zz_new"] = json!("seen by nobody");
        let checks = judge(&changed);
        assert!(checks[0].has_failed(), "{place}");
        let Outcome::Failed(wrong) = &checks[0].outcome else {
            panic!()
        };
        assert!(wrong[0].contains("zz_new"), "{place}: {wrong:?}");
    }
}

/// Objects whose fields are named by the report, not by the log.
fn objects(value: &Value, place: &str, found: &mut Vec<String>) {
    // In these, any name may stand.
    const OF_NAMES: [&str; 8] = [
        "by_kind",
        "unknown_kinds",
        "by_cause",
        "requests",
        "refusals",
        "verdicts",
        "classes",
        "approvals/requests",
    ];
    match value {
        Value::Object(fields) => {
            if !OF_NAMES.iter().any(|name| place.ends_with(name)) {
                found.push(place.to_owned());
            }
            let fields = fields.iter();
            fields.for_each(|(name, field)| objects(field, &format!("{place}/{name}"), found));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, item)| objects(item, &format!("{place}/{index}"), found));
        }
        _ => {}
    }
}

#[test]
fn what_json_leaves_open_is_refused() {
    let report = full("name");
    let json = String::from_utf8(report.to_json()).unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let seconds = format!("\"privileged_seconds\":{}", report.break_glass.privileged_seconds);
    let kinds = "\"by_kind\":{";
    let mut changed: Vec<String> = [
        "NaN",
        "Infinity",
        "1.0",
        "1e3",
        "-0",
        "01",
        "18446744073709551616",
        "\"1\"",
        "null",
    ]
    .iter()
    .map(|number| json.replace(&seconds, &format!("\"privileged_seconds\":{number}")))
    .collect();
    changed.extend([
        json.replacen("\"findings\":[", &format!("\"findings\":[{deep},"), 1),
        json.replacen("\"findings\":[", "\"findings\":[],\"findings\":[", 1),
        json.replacen(kinds, &format!("{kinds}\"name\":1,"), 1),
        json.replacen("\"v\":1", "\"v\":1,\"v\":1", 1),
        format!("{json}{json}"),
        format!("{json}\n"),
        format!("\u{feff}{json}"),
        deep,
    ]);
    for changed in changed {
        assert_ne!(changed, json);
        let checks = check(changed.as_bytes(), With::default());
        let told: String = changed.chars().take(100).collect();
        assert!(checks[0].has_failed(), "{told}: {checks:?}");
    }
    assert!(!check(json.as_bytes(), With::default())[0].has_failed());
}

#[test]
fn the_page_beside_a_report_is_the_one_that_it_makes() {
    let json = full("name").to_json();
    let page = crate::page(&json).unwrap();
    let of = |json: &[u8], page: Option<&[u8]>| {
        let with = With {
            page,
            ..With::default()
        };
        outcome(&check(json, with), "page").clone()
    };
    assert!(matches!(of(&json, Some(page.as_bytes())), Outcome::Passed(_)));
    assert!(matches!(of(&json, None), Outcome::NotChecked(_)));
    let lies = [
        page.replacen("does not hold", "holds", 1),
        page.replacen("holds", "Holds", 1),
        page.replacen("</body>", "<p>and more</p></body>", 1),
        format!("{page}\n"),
        String::new(),
    ];
    for lie in lies.iter().filter(|lie| **lie != page) {
        assert!(matches!(of(&json, Some(lie.as_bytes())), Outcome::Failed(_)));
    }
    // Nor is that of another report.
    let other = full("another").to_json();
    assert!(matches!(of(&other, Some(page.as_bytes())), Outcome::Failed(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_report_breaks_who_checks_it(changes in proptest::collection::vec((any::<usize>(), any::<usize>()), 1..40)) {
        let (mut document, places) = document();
        for (place, number) in changes {
            *document.pointer_mut(&places[place % places.len()]).unwrap() = extreme(number);
        }
        judge(&document);
    }
}
