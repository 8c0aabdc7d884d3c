use mayfly_model::{Actor, Change, Step};
use mayfly_svid::Timestamp;
use serde_json::json;

use super::*;
use crate::conformance::{create, entry, own};
use crate::dialect::Value;
use crate::dialect::sqlite::Sqlite;
use crate::history::{KEPT, SLACK};
use crate::log::log_size;

fn step(change: Change) -> Step {
    Step {
        actor: Actor::server(),
        time: Timestamp::from_unix(1_000_000),
        change,
    }
}

fn note(text: &str) -> Step {
    step(Change::Note {
        kind: "test.note",
        subject: String::new(),
        body: json!({ "text": text }),
    })
}

fn only_int(store: &mut SqlStore<impl Database>, sql: String) -> i64 {
    store.database.query("test", sql.leak(), &[]).unwrap()[0]
        .int(0)
        .unwrap()
}

#[test]
fn a_full_disk_refuses_the_commit_and_the_next_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = SqlStore::open(Sqlite::open(&folder.path().join("server.db")).unwrap(), &own()).unwrap();
    store.commit(&[note("before")]).unwrap();
    let pages = only_int(&mut store, "PRAGMA page_count".into());
    let limit = |store: &mut _, pages: i64| only_int(store, format!("PRAGMA max_page_count = {pages}"));
    limit(&mut store, pages);
    let before = store.load().unwrap();
    let big = "x".repeat(100_000);
    for _ in 0..3 {
        let error = store
            .commit(&[step(create(entry("a", "/group"))), note(&big)])
            .unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
    }
    let after = store.load().unwrap();
    assert_eq!((after.revision, after.entries.len()), (before.revision, 0));
    assert_eq!(log_size(&mut store.database).unwrap(), 1);

    limit(&mut store, 1_000_000);
    let committed = store.commit(&[step(create(entry("a", "/group"))), note(&big)]).unwrap();
    assert_eq!(committed.revision, Revision(2));
    assert_eq!(log_size(&mut store.database).unwrap(), 3);
}

#[test]
fn the_change_history_is_pruned_now_and_then() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = SqlStore::open(Sqlite::open(&folder.path().join("server.db")).unwrap(), &own()).unwrap();
    // The row that the next commit finds makes the history as long as it may get.
    store
        .database
        .execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO changes SELECT i, 0, 'bundle', 'x', '', '' FROM n",
            &[(KEPT + SLACK - 1).into()],
        )
        .unwrap();
    let count = |store: &mut _| only_int(store, "SELECT COUNT(*) FROM changes".into());
    assert_eq!(store.load().unwrap().changes.len(), usize::try_from(KEPT).unwrap());
    store.commit(&[step(create(entry("a", "/group")))]).unwrap();
    assert_eq!(count(&mut store), KEPT + SLACK);
    store.commit(&[step(create(entry("b", "/group")))]).unwrap();
    assert_eq!(count(&mut store), KEPT);
    let changes = store.load().unwrap().changes;
    assert_eq!(changes.len(), usize::try_from(KEPT).unwrap());
    assert_eq!(changes.last().unwrap().revision, Revision(2));
}

/// What goes wrong at the end of a commit.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It is lost, and an error says so.
    Lost,
    /// It is written, and yet there is an error.
    Written,
    /// It is written, there is an error, and then the database is away.
    WrittenAndAway,
}

/// SQLite whose disk fails when it is told to.
struct Faulty {
    sqlite: Sqlite,
    fault: Fault,
}

fn broken() -> StoreError {
    StoreError::Failed {
        doing: "write",
        source: "broken on purpose".into(),
    }
}

impl Database for Faulty {
    fn has_schema(&mut self) -> Result<bool, StoreError> {
        self.sqlite.has_schema()
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        self.sqlite.migrate()
    }

    fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<usize, StoreError> {
        self.sqlite.execute(sql, values)
    }

    fn execute_each(&mut self, sql: &'static str, rows: &[Vec<Value<'_>>]) -> Result<(), StoreError> {
        self.sqlite.execute_each(sql, rows)
    }

    fn query(&mut self, table: &'static str, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.sqlite.query(table, sql, values)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.sqlite.begin()
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        match self.fault {
            Fault::None => self.sqlite.commit(),
            Fault::Lost => Err(broken()),
            Fault::Written | Fault::WrittenAndAway => {
                self.sqlite.commit()?;
                Err(broken())
            }
        }
    }

    fn rollback(&mut self) {
        self.sqlite.rollback();
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.fault == Fault::WrittenAndAway {
            Err(broken())
        } else {
            self.sqlite.reopen()
        }
    }

    fn secure(&mut self) -> Result<(), StoreError> {
        self.sqlite.secure()
    }
}

#[test]
fn the_fate_of_a_commit_that_failed_at_its_end_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(&folder.path().join("server.db")).unwrap();
    let mut store = SqlStore::open(
        Faulty {
            sqlite,
            fault: Fault::None,
        },
        &own(),
    )
    .unwrap();
    store.commit(&[note("1")]).unwrap();

    store.database.fault = Fault::Lost;
    assert!(matches!(store.commit(&[note("lost")]), Err(StoreError::Failed { .. })));
    store.database.fault = Fault::None;
    assert_eq!(store.commit(&[note("2")]).unwrap().revision, Revision(2));

    store.database.fault = Fault::Written;
    assert_eq!(store.commit(&[note("3")]).unwrap().revision, Revision(3));

    store.database.fault = Fault::WrittenAndAway;
    assert!(matches!(store.commit(&[note("4")]), Err(StoreError::FateUnknown)));
    // Until memory is built anew nothing more is done: it may lack what was committed.
    assert!(matches!(store.commit(&[note("5")]), Err(StoreError::FateUnknown)));
    assert!(matches!(store.is_healthy(), Err(StoreError::FateUnknown)));
    assert!(store.load().is_err());
    store.database.fault = Fault::None;
    assert_eq!(store.load().unwrap().revision, Revision(4));
    assert_eq!(store.commit(&[note("5")]).unwrap().revision, Revision(5));

    let rows = store
        .database
        .query("log", "SELECT entry FROM log ORDER BY log_index", &[])
        .unwrap();
    let entries = rows.iter().map(|row| row.json::<serde_json::Value>(0).unwrap());
    let texts: Vec<_> = entries.map(|entry| entry["body"]["text"].clone()).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5"]);
}

#[test]
fn what_was_erased_is_in_none_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let mut store = SqlStore::open(Sqlite::open(&path).unwrap(), &own()).unwrap();
    // So many that pages are split and filled again.
    let person = |number: usize| format!("somebody-{number}-{}", "x".repeat(number * 37 % 900));
    for number in 0..300 {
        let (kind, subject) = ("test.note", String::new());
        let body = json!({ "person": person(number) });
        store.commit(&[step(Change::Note { kind, subject, body })]).unwrap();
    }
    let mut archive = crate::ArchiveReader::open(&path).unwrap();
    let value = |number| format!("\"{}\"", person(number));
    let erased: Vec<_> = (7..300)
        .step_by(20)
        .map(|number| archive.commitment_to(&value(number)).unwrap().unwrap())
        .collect();
    drop(archive);
    store.commit(&[step(Change::PrivateErase(erased))]).unwrap();
    let files: Vec<Vec<u8>> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    let is_there = |number: usize| {
        let name = format!("\"somebody-{number}-");
        files
            .iter()
            .any(|file| file.windows(name.len()).any(|window| window == name.as_bytes()))
    };
    let found: Vec<usize> = (0..300).filter(|number| is_there(*number)).collect();
    let kept: Vec<usize> = (0..300).filter(|number| number % 20 != 7).collect();
    assert_eq!(found, kept);
}
