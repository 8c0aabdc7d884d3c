//! `docs/clients.md`: the words are written by hand, the tables by the stories.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use mayfly_tests::Library;
use mayfly_tests::binaries::{sources, target_dir};
use serde_json::{Value, json};

/// The sections are written one at a time.
static PAGE: Mutex<()> = Mutex::new(());

/// How one library did in one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    /// What was looked at.
    pub(crate) case: &'static str,
    /// How the library differs from what one would wish; nothing to say of most.
    pub(crate) note: Option<&'static str>,
}

/// The table of cases and libraries, and the notes below it.
///
/// # Panics
/// The libraries did not all do the same cases.
pub(crate) fn cases(results: &[(Library, Vec<Cell>)]) -> String {
    let mut text = String::from("| |");
    for (library, _) in results {
        write!(text, " {}: {library} {} |", library.language(), library.version()).expect("a text");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(results.len()));
    let mut notes: Vec<&str> = vec![];
    let all = results.first().map(|(_, cells)| cells.as_slice()).unwrap_or_default();
    for (row, Cell { case, .. }) in all.iter().enumerate() {
        write!(text, "\n| {case} |").expect("a text");
        for (library, cells) in results {
            let cell = &cells[row];
            assert_eq!((cell.case, cells.len()), (*case, all.len()), "{library}");
            text.push_str(" ok");
            if let Some(note) = cell.note {
                let at = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
                    notes.push(note);
                    notes.len() - 1
                });
                write!(text, " ({})", at + 1).expect("a text");
            }
            text.push_str(" |");
        }
    }
    text.push('\n');
    for (at, note) in notes.iter().enumerate() {
        write!(text, "\n{}. {note}", at + 1).expect("a text");
    }
    text.push('\n');
    text
}

/// The table of pairs.
pub(crate) fn pairs(libraries: &[Library]) -> String {
    let mut text = String::from("| dials ↓, serves → |");
    for library in libraries {
        write!(text, " {} |", library.language()).expect("a text");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(libraries.len()));
    for dialing in libraries {
        write!(text, "\n| {} |{}", dialing.language(), " ok |".repeat(libraries.len())).expect("a text");
    }
    text.push('\n');
    text
}

/// Leaves what was seen, figures and all, beside the builds.
pub(crate) fn keep(section: &str, seen: &Value) {
    let path = target_dir().join(format!("stories-clients-{section}.json"));
    let text = serde_json::to_string_pretty(&json!({ "section": section, "seen": seen })).expect("plain values");
    std::fs::write(&path, text).expect("the target folder is writable");
    println!("kept in {}", path.display());
}

/// Compares a section of the page with what was seen, or writes it if `MAYFLY_UPDATE_DOCS` is set.
///
/// # Panics
/// They differ, or the page has no such section.
pub(crate) fn compare(section: &str, seen: &str) {
    let alone = PAGE.lock().expect("nobody panics with it");
    let path: PathBuf = sources().join("../docs/clients.md");
    let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (begin, end) = (
        format!("<!-- {section}: begin -->\n"),
        format!("<!-- {section}: end -->"),
    );
    let parts = page.split_once(&begin).and_then(|(before, rest)| {
        let (present, after) = rest.split_once(&end)?;
        Some((before, present, after))
    });
    let (before, present, after) = parts.unwrap_or_else(|| panic!("docs/clients.md has no section `{section}`"));
    if present == seen {
        return;
    }
    if std::env::var_os("MAYFLY_UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{seen}{end}{after}")).expect("the page is writable");
        println!("docs/clients.md: section `{section}` written");
        return;
    }
    drop(alone);
    panic!(
        "docs/clients.md does not say what was seen; `MAYFLY_UPDATE_DOCS=1 tests/run clients:: sdks::` writes it.\n\
         --- the page\n{present}\n--- seen\n{seen}"
    );
}
