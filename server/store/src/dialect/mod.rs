//! The seam between the records and a database: the few operations that a back end offers.
//!
//! Records state their SQL once, in the part of the language that SQLite and PostgreSQL share, with parameters as `?1`,
//! `?2`, …; a back end is one file here, with its own `migrations/` folder, and passes the conformance suite.
//!
//! What guards rely on: between [`Database::begin`] and its end no other writer, in this process or elsewhere, changes
//! what was read.

pub(crate) mod sqlite;

use crate::StoreError;

/// A value that goes into a statement.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Owned(String),
    Blob(&'a [u8]),
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Owned(text)
    }
}

/// A value that comes out of the database.
#[derive(Debug)]
pub(crate) enum Cell {
    Int(i64),
    Text(String),
    /// NULL, and the types that no table of ours has.
    Other,
}

/// One row of an answer.
#[derive(Debug)]
pub(crate) struct Row {
    /// For errors only.
    pub(crate) table: &'static str,
    pub(crate) cells: Vec<Cell>,
}

impl Row {
    pub(crate) fn int(&self, column: usize) -> Result<i64, StoreError> {
        match self.cells.get(column) {
            Some(Cell::Int(number)) => Ok(*number),
            _ => Err(self.corrupt(format!("column {column} is not a number"))),
        }
    }

    pub(crate) fn unsigned(&self, column: usize) -> Result<u64, StoreError> {
        u64::try_from(self.int(column)?).map_err(|_| self.corrupt(format!("column {column} is negative")))
    }

    pub(crate) fn text(&self, column: usize) -> Result<&str, StoreError> {
        match self.cells.get(column) {
            Some(Cell::Text(text)) => Ok(text),
            _ => Err(self.corrupt(format!("column {column} is not text"))),
        }
    }

    /// The text of a row of one column.
    pub(crate) fn into_text(mut self) -> Result<String, StoreError> {
        match self.cells.pop() {
            Some(Cell::Text(text)) if self.cells.is_empty() => Ok(text),
            _ => Err(self.corrupt("a row is not one text".into())),
        }
    }

    /// Text that is parsed, such as an ID.
    pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self, column: usize) -> Result<T, StoreError> {
        self.text(column)?
            .parse()
            .map_err(|error: T::Err| self.corrupt(error.to_string()))
    }

    /// A record that is kept as JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<T, StoreError> {
        serde_json::from_str(self.text(column)?).map_err(|error| self.corrupt(error.to_string()))
    }

    pub(crate) fn corrupt(&self, problem: String) -> StoreError {
        StoreError::Corrupt {
            table: self.table,
            problem,
        }
    }
}

/// A connection to a database of one kind.
pub(crate) trait Database: Send {
    /// Whether it is more than an empty database.
    fn has_schema(&mut self) -> Result<bool, StoreError>;

    /// Brings the schema up to date; refuses one that is newer than this program.
    fn migrate(&mut self) -> Result<(), StoreError>;

    /// Does a statement, answers how many rows it wrote or removed.
    fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<usize, StoreError>;

    /// Does a statement once for each row of values.
    fn execute_each(&mut self, sql: &'static str, rows: &[Vec<Value<'_>>]) -> Result<(), StoreError>;

    /// Asks `sql`, which reads `table`.
    fn query(&mut self, table: &'static str, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError>;

    /// Begins a transaction that may write and that excludes other writers.
    fn begin(&mut self) -> Result<(), StoreError>;

    /// Makes the transaction durable. After an error its fate is unknown until it was looked at after
    /// [`reopen`](Self::reopen).
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Ends the transaction, if there is one, without effect. Where that cannot be done in order the connection is given
    /// up, which has the same effect.
    fn rollback(&mut self);

    /// Gives the connection up and opens another one, which sees what the database really holds.
    fn reopen(&mut self) -> Result<(), StoreError>;

    /// Makes durable what this connection sees.
    fn secure(&mut self) -> Result<(), StoreError>;

    /// Marks a place in the transaction to return to. They do not nest.
    fn savepoint(&mut self) -> Result<(), StoreError> {
        self.execute("SAVEPOINT step", &[]).map(drop)
    }

    /// Forgets the mark and keeps what happened since.
    fn release(&mut self) -> Result<(), StoreError> {
        self.execute("RELEASE step", &[]).map(drop)
    }

    /// Returns to the mark and forgets it.
    fn undo(&mut self) -> Result<(), StoreError> {
        self.execute("ROLLBACK TO step", &[])?;
        self.release()
    }
}
