//! Which tests name which rows. The rule is on `docs/conformance.md`: in Rust a `//` comment directly above a test or in
//! its body, in Python the first argument of `check(…)` in a program that a story starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::list::Row;

/// Where rows are named.
#[derive(Debug, Default)]
pub(super) struct Citations {
    /// By tests: these count.
    pub(super) by_tests: BTreeMap<Row, BTreeSet<String>>,
    /// By comments that prove nothing, of the product and beside tests.
    pub(super) mentioned: BTreeMap<Row, BTreeSet<String>>,
}

/// All rows that a text names, ranges (`WEP-12 to WEP-19`) included.
pub(super) fn rows_in(text: &str) -> Vec<Row> {
    let words: Vec<&str> = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
        .filter(|word| !word.is_empty())
        .collect();
    let mut rows: Vec<Row> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Some(row) = Row::parse(word) else { continue };
        let from = match at.checked_sub(2).map(|first| (words[first], words[at - 1])) {
            Some((first, "to")) => Row::parse(first).filter(|first| first.section == row.section),
            _ => None,
        };
        let first = from.map_or(row.number, |from| from.number + 1);
        rows.extend((first..=row.number).map(|number| Row {
            section: row.section.clone(),
            number,
        }));
    }
    rows
}

impl Citations {
    fn cite(&mut self, rows: &[Row], place: &str) {
        for row in rows {
            self.by_tests.entry(row.clone()).or_default().insert(place.into());
        }
    }

    /// Reads a file of Rust as `cargo fmt` leaves it: a function ends with a brace in the column of its first word.
    pub(super) fn rust(&mut self, file: &str, source: &str) {
        let mut above: Vec<Row> = Vec::new();
        let mut is_test = false;
        let mut inside: Option<(String, String)> = None;
        for line in source.lines() {
            let text = line.trim_start();
            let comment = if text.starts_with("//") { rows_in(text) } else { vec![] };
            for row in &comment {
                self.mentioned.entry(row.clone()).or_default().insert(file.into());
            }
            let is_plain = text.starts_with("//") && !text.starts_with("///") && !text.starts_with("//!");
            if let Some((place, end)) = &inside {
                if is_plain {
                    self.cite(&comment, place);
                }
                if line == end {
                    inside = None;
                }
            } else if is_plain {
                above.extend(comment);
            } else if text.starts_with("#[test]") || text.starts_with("#[tokio::test") {
                is_test = true;
            } else if text.starts_with("#[") || text.starts_with("///") {
                // Stands between a comment and its function.
            } else if let Some(name) = function(text).filter(|_| is_test) {
                let place = format!("{file}: {name}");
                self.cite(&above, &place);
                let indent = &line[..line.len() - text.len()];
                inside = (!text.ends_with('}')).then(|| (place, format!("{indent}}}")));
                (above, is_test) = (Vec::new(), false);
            } else {
                (above, is_test) = (Vec::new(), false);
            }
        }
    }

    /// Reads a Python program that a story starts.
    pub(super) fn python(&mut self, file: &str, source: &str) {
        for label in labels(source) {
            self.cite(&rows_in(label), file);
        }
    }
}

fn function(text: &str) -> Option<&str> {
    let rest = text
        .split_once("fn ")
        .filter(|(before, _)| matches!(before.trim(), "" | "async" | "pub"))?
        .1;
    rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next()
}

/// The first argument of each `check(…)`, where it is a literal.
pub(super) fn labels(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, call) in source.match_indices("check(") {
        let line = source[..at].rsplit('\n').next().unwrap_or_default();
        let is_call = line.trim().is_empty() || line.ends_with([' ', '(', ':']) && !line.contains(['#', '"']);
        let argument = source[at + call.len()..].trim_start().trim_start_matches('f');
        if let Some(rest) = argument.strip_prefix('"').filter(|_| is_call && !line.contains("def ")) {
            found.extend(rest.split('"').next());
        }
    }
    found
}

/// Reads the whole tree.
pub(super) fn of_tree(root: &Path) -> Citations {
    let mut citations = Citations::default();
    let mut sources = Vec::new();
    for folder in ["agent", "cli", "crates", "proto", "server", "tests"] {
        walk(&root.join(folder), &mut sources);
    }
    let read =
        |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut stories = String::new();
    for path in sources
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
    {
        let name = path.strip_prefix(root).expect("found below it").display().to_string();
        let source = read(path);
        citations.rust(&name, &source);
        if name.starts_with("tests/") {
            stories += &source;
        }
    }
    let programs: BTreeMap<String, String> = sources
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "py"))
        .map(|path| {
            (
                path.file_name().expect("a file").to_string_lossy().into_owned(),
                read(path),
            )
        })
        .collect();
    for name in started(&stories, &programs) {
        citations.python(&name, &programs[&name]);
    }
    citations
}

/// Programs that a story names, and what they import.
fn started(stories: &str, programs: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<&String> = programs
        .keys()
        .filter(|name| stories.contains(&format!("\"{name}\"")))
        .collect();
    while let Some(name) = next.pop() {
        if found.insert(name.clone()) {
            next.extend(programs.keys().filter(|other| imports(&programs[name], other)));
        }
    }
    found
}

/// Whether one of our programs imports another.
pub(super) fn imports(source: &str, other: &str) -> bool {
    let module = other.trim_end_matches(".py");
    let is_import = |line: &str| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("import" | "from")) && words.next() == Some(module)
    };
    source.lines().any(is_import)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder that is read").path())
        .collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().expect("an entry has a name").to_string_lossy();
        if path.is_dir() && !matches!(&*name, "target" | "node_modules") && !name.starts_with('.') {
            walk(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs" || end == "py") && path.is_file() {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<String> {
        rows.into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lists_and_ranges_are_read() {
        let rows = |text: &str| texts(&rows_in(text));
        assert_eq!(
            rows("// Promise 3; WAPI-09, WAPI-12: p99 ≤ 150 ms. WAX-02"),
            ["WAPI-09", "WAPI-12", "WAX-02"]
        );
        assert_eq!(
            rows("WEP-12 to WEP-15 IOP-01"),
            ["WEP-12", "WEP-13", "WEP-14", "WEP-15", "IOP-01"]
        );
        assert_eq!(rows("WEP-12 to IOP-14"), ["WEP-12", "IOP-14"]);
        assert_eq!(rows("XSVID-07 XSVID-08"), ["XSVID-07", "XSVID-08"]);
        assert!(rows("SHA-256, RFC 5280, UTF-8, X-123, P-256, wep-12").is_empty());
    }

    // With a margin, so that these comments are not taken for our own.
    const RUST: &str = r#"
|//! AA-01 of the file
|/// AA-02 of the product
|fn product() {
|    // AA-03
|}
|
|#[cfg(test)]
|mod tests {
|    // AA-04: a helper
|    fn helper() {
|        // AA-05
|    }
|
|    // AA-06
|    // and AA-07
|    #[tokio::test(flavor = "multi_thread")]
|    /// AA-08
|    async fn a_test() {
|        let text = "// AA-09";
|        {
|            // AA-10
|        }
|    }
|
|    // AA-11
|
|    #[test]
|    fn another() {}
|    // AA-12
|    const X: u8 = 0;
|    #[test]
|    fn third() {
|        call(); // AA-13
|    }
|}
"#;

    #[test]
    fn only_comments_above_and_within_tests_count() {
        let mut citations = Citations::default();
        citations.rust("a.rs", &RUST.replace("\n|", "\n"));
        assert_eq!(texts(citations.by_tests.keys()), ["AA-06", "AA-07", "AA-10"]);
        assert!(citations.by_tests[&rows_in("AA-06")[0]].contains("a.rs: a_test"));
        let all = texts(citations.mentioned.keys());
        for row in ["AA-01", "AA-02", "AA-03", "AA-04", "AA-05", "AA-11", "AA-12"] {
            assert!(all.contains(&row.to_owned()), "{row}");
        }
    }

    const PYTHON: &str = r#"
"""check("AA-01", …) in words"""
def check(row, ok):  # AA-02
    say(row)
# check("AA-03", True)
check("AA-04, AA-05 more", 1)
for x in y:
    check(
        f"AA-06 {x}", x)
    if x: check("AA-07", x)
recheck("AA-08", 1)
say("AA-09")
"#;

    #[test]
    fn of_python_the_labels_of_checks_count() {
        let mut citations = Citations::default();
        citations.python("a.py", PYTHON);
        assert_eq!(texts(citations.by_tests.keys()), ["AA-04", "AA-05", "AA-06", "AA-07"]);
    }

    #[test]
    fn programs_count_that_a_story_starts_and_what_they_import() {
        let programs: BTreeMap<String, String> = [
            ("a.py", "import json\nfrom shared import check\n"),
            ("shared.py", ""),
            ("lonely.py", "import shared\n"),
        ]
        .map(|(name, source)| (name.to_owned(), source.to_owned()))
        .into();
        let found = started(r#"Program::python("a.py", &[])"#, &programs);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a.py", "shared.py"]);
    }
}
