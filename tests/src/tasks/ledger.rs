//! The invariants of the task model, asked of the log: what a server has done, read by somebody who trusts none of its
//! code. What entries mean is `mayfly-audit`'s word; here the database is read from outside, and what the server goes by
//! is compared with what its log says.

use std::path::Path;
use std::time::Duration;

use mayfly_audit::{Details, Entry, Replay};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// How much there was to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Requests.
    pub requests: usize,
    /// Windows.
    pub windows: usize,
    /// SVIDs of windows.
    pub svids: usize,
    /// Decisions of policy.
    pub decisions: usize,
}

/// Reads the log of the server whose folder is `dir`, and fails unless every invariant holds in it: for who knows what is
/// private, and for who does not.
///
/// # Panics
/// One does not hold; says which entry breaks it.
pub fn check(dir: &Path) -> Checked {
    let path = dir.join("server/server.db");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut database =
        Connection::open_with_flags(&path, flags).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    database.busy_timeout(Duration::from_secs(10)).expect("a plain setting");
    // One view of log and state, while the server goes on.
    let view = database.transaction().expect("the database can be read");
    let entries = entries(&view);
    let stranger = replay(&entries, Details::default());
    let replay = replay(&entries, details(&view));
    assert_eq!(stranger.totals(), replay.totals(), "names make a difference");
    compare_revision(&view, &entries);
    compare_state(&view, &replay);
    let totals = replay.totals();
    let count = |count: u64| usize::try_from(count).expect("a count");
    Checked {
        requests: count(totals.requests),
        windows: count(totals.windows),
        svids: count(totals.task_svids),
        decisions: count(totals.decisions),
    }
}

fn replay(entries: &[Entry], details: Details) -> Replay {
    let mut replay = Replay::with_history(details);
    entries.iter().for_each(|entry| replay.take(entry));
    replay.finish();
    let violations: Vec<String> = replay.violations().iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}", told(&violations, entries, &replay));
    let notes = replay.notes();
    assert!(
        notes.unknown_kinds.is_empty(),
        "{:?} are in no schema",
        notes.unknown_kinds
    );
    replay
}

/// The violations with the entries that show them.
fn told(violations: &[String], entries: &[Entry], replay: &Replay) -> String {
    let shown = replay.violations().iter().take(5).map(|violation| {
        let entry = usize::try_from(violation.index)
            .ok()
            .and_then(|index| entries.get(index));
        format!("{entry:#?}")
    });
    let shown: Vec<String> = shown.collect();
    format!("{}\n{}", violations.join("\n"), shown.join("\n"))
}

fn entries(view: &Connection) -> Vec<Entry> {
    let mut statement = view
        .prepare("SELECT log_index, entry FROM log ORDER BY log_index")
        .expect("plain SQL");
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .expect("the log can be read");
    let entry = |(index, text): (i64, String)| {
        let index = u64::try_from(index).expect("indices begin at 0");
        Entry::parse(index, text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    rows.map(|row| entry(row.expect("a row"))).collect()
}

/// What is kept beside the log, each value if it is what is committed to.
fn details(view: &Connection) -> Details {
    let mut statement = view
        .prepare("SELECT commitment, salt, value FROM private")
        .expect("plain SQL");
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .expect("the values can be read");
    let mut details = Details::default();
    for row in rows {
        let (commitment, salt, value): (String, String, String) = row.expect("a row");
        let salt = (0..salt.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&salt[at..at + 2], 16).expect("hex"));
        let value = serde_json::from_str(&value).expect("JSON");
        details
            .add(&commitment, &salt.collect::<Vec<u8>>(), value)
            .expect("it is what is committed to");
    }
    details
}

// I14
fn compare_revision(view: &Connection, entries: &[Entry]) {
    let revision: i64 = view
        .query_row("SELECT revision FROM store", [], |row| row.get(0))
        .expect("the row is always there");
    let last = entries.last().map_or(0, |entry| entry.revision);
    assert_eq!(
        i64::try_from(last),
        Ok(revision),
        "I14: the state is behind its log, or before it"
    );
}

/// What the server goes by is what its log says.
fn compare_state(view: &Connection, replay: &Replay) {
    let mut statement = view.prepare("SELECT data FROM tasks").expect("plain SQL");
    let tasks = statement
        .query_map([], |row| row.get::<_, String>(0))
        .expect("the tasks can be read");
    for task in tasks {
        let task: Value = serde_json::from_str(&task.expect("a text")).expect("JSON");
        for held in task["windows"].as_array().into_iter().flatten() {
            let logged = replay.window(held["id"].as_str().unwrap_or_default());
            let logged = logged.unwrap_or_else(|| panic!("I14: not in the log: {held}"));
            let is_live = matches!(held["stage"].as_str(), Some("open" | "suspended"));
            assert_eq!(is_live, logged.is_live(), "I14: the log says otherwise: {held}");
            let is_settled = held["stage"] == "settled";
            assert_eq!(
                is_settled,
                logged.settled.is_some(),
                "I14: the log says otherwise: {held}"
            );
            assert_eq!(held["closes_at"].as_i64(), Some(logged.closes_at), "I14: {held}");
            for issuance in held["issuances"].as_array().into_iter().flatten() {
                let is_known = replay.has_serial(issuance["serial"].as_str().unwrap_or_default());
                assert!(is_known, "I3, I14: not in the log: {issuance}");
            }
        }
    }
}
