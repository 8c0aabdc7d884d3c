//! No statement of a commit reads all of a table that grows: asked of SQLite for each statement of the conformance suite's
//! commits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mayfly_model::Step;

use super::*;
use crate::conformance::{self, Fixture, own};
use crate::sql_store::SqlStore;
use crate::{ArchiveReader, Committed, State, Store};

/// How SQLite does each statement.
type Plans = Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>;

/// Tables of a few rows, however large the deployment is.
const SMALL: [&str; 2] = ["store", "authorities"];

/// A database that asks for the plan of what it is to do.
struct Explaining {
    sqlite: Sqlite,
    plans: Plans,
    is_committing: Arc<AtomicBool>,
}

impl Explaining {
    fn explain(&mut self, sql: &'static str) {
        if !self.is_committing.load(Ordering::Relaxed) {
            return;
        }
        let connection = self.sqlite.connection().unwrap();
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = statement.parameter_count();
        let details = statement.query_map(params_from_iter(vec![1; count]), |row| row.get("detail"));
        let details = details.unwrap().collect::<Result<_, _>>().unwrap();
        self.plans.lock().unwrap().insert(sql, details);
    }
}

impl Database for Explaining {
    fn has_schema(&mut self) -> Result<bool, StoreError> {
        self.sqlite.has_schema()
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        self.sqlite.migrate()
    }

    fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<usize, StoreError> {
        self.explain(sql);
        self.sqlite.execute(sql, values)
    }

    fn execute_each(&mut self, sql: &'static str, rows: &[Vec<Value<'_>>]) -> Result<(), StoreError> {
        self.explain(sql);
        self.sqlite.execute_each(sql, rows)
    }

    fn query(&mut self, table: &'static str, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.explain(sql);
        self.sqlite.query(table, sql, values)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.sqlite.begin()
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.sqlite.commit()
    }

    fn rollback(&mut self) {
        self.sqlite.rollback();
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.sqlite.reopen()
    }

    fn secure(&mut self) -> Result<(), StoreError> {
        self.sqlite.secure()
    }
}

/// A store that says when it commits: a start may read all there is.
struct Committing {
    store: SqlStore<Explaining>,
    is_committing: Arc<AtomicBool>,
}

impl Store for Committing {
    fn load(&mut self) -> Result<State, StoreError> {
        self.store.load()
    }

    fn commit(&mut self, steps: &[Step]) -> Result<Committed, StoreError> {
        self.is_committing.store(true, Ordering::Relaxed);
        let committed = self.store.commit(steps);
        self.is_committing.store(false, Ordering::Relaxed);
        committed
    }

    fn is_healthy(&mut self) -> Result<(), StoreError> {
        self.store.is_healthy()
    }
}

fn fixture(plans: &Plans) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let plans = plans.clone();
    let database = path.clone();
    Fixture {
        archive: Box::new(move || ArchiveReader::open(&database).unwrap()),
        open: Box::new(move || {
            let is_committing = Arc::new(AtomicBool::new(false));
            let database = Explaining {
                sqlite: Sqlite::open(&path).unwrap(),
                plans: plans.clone(),
                is_committing: is_committing.clone(),
            };
            let store = SqlStore::open(database, &own()).unwrap();
            Box::new(Committing { store, is_committing })
        }),
        _alive: Box::new(folder),
    }
}

/// The table that a step of a plan reads from one end to the other.
fn scanned(detail: &str) -> Option<&str> {
    let what = detail.strip_prefix("SCAN ").filter(|what| *what != "CONSTANT ROW");
    what?.split(' ').next()
}

#[test]
fn a_commit_reads_no_whole_table() {
    let plans = Plans::default();
    // All kinds of changes, and those that the first case leaves out.
    conformance::random_changes_do_what_their_guards_say_and_survive_a_restart(&|| fixture(&plans));
    conformance::an_entry_is_not_expired_by_who_has_not_seen_it_move(&|| fixture(&plans));
    conformance::intents_and_outcomes_are_in_the_log(&|| fixture(&plans));
    let plans = plans.lock().unwrap();
    let scans: Vec<_> = plans
        .iter()
        .flat_map(|(sql, plan)| plan.iter().map(move |detail| (sql, detail)))
        .filter(|(_, detail)| scanned(detail).is_some_and(|table| !SMALL.contains(&table)))
        .collect();
    assert!(scans.is_empty(), "{scans:#?}");
    println!("{} statements", plans.len());
    assert!(plans.len() > 30, "{:#?}", plans.keys());
    assert!(plans.values().flatten().any(|detail| detail.starts_with("SEARCH ")));
}
