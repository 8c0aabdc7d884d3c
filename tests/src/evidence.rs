//! The server's database, read from outside while the server runs.
//!
//! What the stories ask is what an auditor would: is there a record for each thing that was done, and no gap.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

/// A server's database, for reading only.
#[derive(Debug)]
pub struct Evidence(Connection);

impl Evidence {
    /// The database of the server whose folder is `dir`.
    ///
    /// # Panics
    /// It cannot be opened.
    pub fn of(dir: &Path) -> Self {
        let path = dir.join("server/server.db");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database =
            Connection::open_with_flags(&path, flags).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        database
            .busy_timeout(std::time::Duration::from_secs(10))
            .expect("a plain setting");
        Self(database)
    }

    /// The revision of the newest commit.
    pub fn revision(&self) -> i64 {
        self.0
            .query_row("SELECT revision FROM store", [], |row| row.get(0))
            .expect("the row is always there")
    }

    /// How many records there are of `kind`.
    pub fn count(&self, kind: &str) -> usize {
        self.0
            .query_row("SELECT COUNT(*) FROM log WHERE kind = ?1", [kind], |row| {
                row.get::<_, i64>(0)
            })
            .expect("the log can be read")
            .try_into()
            .expect("a count")
    }

    /// The subjects of all records of `kind`.
    pub fn subjects(&self, kind: &str) -> BTreeSet<String> {
        self.strings("SELECT json_extract(entry, '$.subject') FROM log WHERE kind = ?1", kind)
    }

    /// The serials of all SVIDs that the server has said it would sign.
    pub fn intended_serials(&self) -> BTreeSet<String> {
        self.strings(
            "SELECT json_extract(entry, '$.body.serial') FROM log WHERE kind = ?1",
            "svid.intended",
        )
    }

    /// How many tokens are there that nobody has used.
    pub fn unused_tokens(&self) -> i64 {
        self.0
            .query_row("SELECT COUNT(*) FROM tokens", [], |row| row.get(0))
            .expect("the tokens can be counted")
    }

    /// The entries of the log, as they are hashed.
    pub fn entries(&self) -> Vec<String> {
        self.strings("SELECT entry FROM log WHERE kind <> ?1 ORDER BY log_index", "")
    }

    /// Fails unless the log is numbered from 0 without gaps, in the order of its revisions.
    ///
    /// # Panics
    /// It is not.
    pub fn check_order(&self) {
        let (count, first, last): (i64, Option<i64>, Option<i64>) = self
            .0
            .query_row("SELECT COUNT(*), MIN(log_index), MAX(log_index) FROM log", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .expect("the log can be read");
        assert_eq!(
            (first, last.map(|last| last + 1)),
            (Some(0), Some(count)),
            "the log has gaps"
        );
        let disorder: i64 = self
            .0
            .query_row(
                "SELECT COUNT(*) FROM log a JOIN log b ON b.log_index = a.log_index + 1
                 WHERE json_extract(b.entry, '$.revision') < json_extract(a.entry, '$.revision')",
                [],
                |row| row.get(0),
            )
            .expect("the log can be read");
        assert_eq!(disorder, 0, "the log is out of order");
        let check: String = self
            .0
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .expect("the database can be checked");
        assert_eq!(check, "ok");
    }

    fn strings<T: FromIterator<String>>(&self, sql: &str, kind: &str) -> T {
        let mut statement = self.0.prepare(sql).expect("plain SQL");
        let rows = statement
            .query_map([kind], |row| row.get(0))
            .expect("the log can be read");
        rows.map(|row| row.expect("a text")).collect()
    }
}
