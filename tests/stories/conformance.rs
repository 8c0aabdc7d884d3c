//! The rules of the SPIFFE standards: the list of them agrees with the tests, and what is issued, served and asked for
//! is as other implementations read it.

mod citations;
mod client;
mod issued;
mod list;

use std::collections::BTreeSet;
use std::path::Path;

use mayfly_tests::binaries::sources;
use serde_json::Value;

use citations::Citations;
use list::{List, State};

/// What is wrong between the page and the tests.
fn differences(list: &List, citations: &Citations) -> Vec<String> {
    let mut wrong = Vec::new();
    for (row, (level, state)) in &list.rows {
        let tests = citations.by_tests.get(row);
        match (state, tests) {
            (State::Tested | State::Met, None) => wrong.push(format!("{row} ({level:?}): no test names it")),
            (State::NotMet | State::NotUsed | State::NotOursYet, Some(tests)) => {
                wrong.push(format!("{row} is {state:?} on the page, yet named by {tests:?}"));
            }
            _ => {}
        }
    }
    for (row, places) in citations.by_tests.iter().chain(&citations.mentioned) {
        let is_known =
            list.rows.contains_key(row) || list.other_sections.contains(&row.section) || row.section == "AMB";
        if !is_known {
            wrong.push(format!("{row} is no row of the page: {places:?}"));
        }
    }
    wrong
}

#[test]
fn the_page_and_the_tests_agree() {
    let root = sources().parent().expect("the workspace's folder");
    let page = std::fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let (list, mut wrong) = list::read(&page);
    let citations = citations::of_tree(root);
    wrong.extend(differences(&list, &citations));
    println!("rows, tested or met, not met, not used, not ours yet:");
    for (section, counts) in &list.counted {
        println!("{section:>6}: {counts:3?}");
    }
    let places: BTreeSet<&String> = citations.by_tests.values().flatten().collect();
    println!("named by {} tests and programs", places.len());
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(list.rows.len(), 219, "rows are never dropped");
}

/// The checks that a Python program has printed, none of them failed, and all of them made that its source names.
pub(crate) fn passed(script: &str, checks: &[&Value]) {
    let failed: Vec<&&Value> = checks.iter().filter(|check| check["ok"] != true).collect();
    assert!(failed.is_empty(), "{script}: {failed:#?}");
    let made: BTreeSet<String> = checks
        .iter()
        .flat_map(|check| citations::rows_in(check["row"].as_str().unwrap_or_default()))
        .map(|row| row.to_string())
        .collect();
    let named: BTreeSet<String> = named_by(script);
    let missing: Vec<&String> = named.difference(&made).collect();
    assert!(
        missing.is_empty(),
        "{script} names rows that it did not check: {missing:?}"
    );
    println!("{script}: {} checks of {} rows", checks.len(), made.len());
}

/// The rows in the checks of a Python program and of what it imports.
fn named_by(script: &str) -> BTreeSet<String> {
    let folder = sources().join("clients/python");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let source = read(script);
    let mut rows = rows_of(&source);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = Path::new(path.file_name().unwrap()).display().to_string();
        if citations::imports(&source, &name) && name.ends_with(".py") {
            rows.extend(rows_of(&read(&name)));
        }
    }
    rows
}

fn rows_of(source: &str) -> BTreeSet<String> {
    let rows = citations::labels(source).into_iter().flat_map(citations::rows_in);
    rows.map(|row| row.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
| AA | letters | 3 | 2 | 1 | 0 | 0 |
| All | together | 3 | 2 | 1 | 0 | 0 |
Sections whose rows are not here yet: CC.
| AA-01 | MUST | a thing | tested |
| AA-02 | SHOULD | a thing | met |
| AA-03 | SHOULD | a thing | not met: nobody did |
";

    fn wrong(page: &str, rust: &str) -> Vec<String> {
        let (list, mut wrong) = list::read(page);
        let mut citations = Citations::default();
        citations.rust("a.rs", rust);
        wrong.extend(differences(&list, &citations));
        wrong
    }

    const TESTS: &str = "// AA-01 AA-02 CC-07 AMB-01\n#[test]\nfn a() {\n}\n";

    #[test]
    fn page_and_tests_that_agree_pass() {
        assert_eq!(wrong(PAGE, TESTS), Vec::<String>::new());
    }

    #[test]
    fn each_kind_of_difference_is_found() {
        let one = |page: &str, rust: &str, expected: &str| {
            let found = wrong(page, rust);
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        };
        one(PAGE, &TESTS.replace("AA-01", ""), "AA-01 (Must): no test names it");
        one(PAGE, &TESTS.replace("AA-02", ""), "AA-02 (Should): no test names it");
        one(
            PAGE,
            &TESTS.replace("AA-02", "AA-02 AA-03"),
            "AA-03 is NotMet on the page, yet named",
        );
        one(
            PAGE,
            "// AA-01 AA-02\nfn a() {\n}\n// AA-01\n#[test]\nfn b() {\n}\n",
            "AA-02 (Should)",
        );
        let unknown = wrong(PAGE, &format!("{TESTS}// DD-01\nfn product() {{\n}}\n"));
        assert_eq!(unknown, ["DD-01 is no row of the page: {\"a.rs\"}"]);
        let unknown = wrong(PAGE, &TESTS.replace("CC-07", "AA-04"));
        assert!(
            unknown.iter().all(|line| line.starts_with("AA-04 is no row")),
            "{unknown:?}"
        );
        let ours = PAGE
            .replace("not met: nobody did", "not ours yet: later")
            .replace("| 2 | 1 | 0 | 0 |", "| 2 | 0 | 0 | 1 |");
        one(
            &ours,
            &TESTS.replace("AA-02", "AA-02 AA-03"),
            "AA-03 is NotOursYet on the page, yet named",
        );
        let gap = PAGE.replace("| AA-02 | SHOULD | a thing | met |\n", "");
        assert!(wrong(&gap, TESTS).contains(&"AA-02 is missing".to_owned()));
    }
}
