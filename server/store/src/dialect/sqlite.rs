//! SQLite: one file beside the server, in WAL mode, each commit synced to the disk before it counts.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use refinery::embed_migrations;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, params_from_iter};

use super::{Cell, Database, Row, Value};
use crate::StoreError;

embed_migrations!("migrations/sqlite");

/// How long a statement waits for another process, such as a backup or the server that is just ending.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Sqlite {
    path: PathBuf,
    /// None after an error that leaves it in doubt; the next use opens another one.
    connection: Option<Connection>,
}

impl Sqlite {
    /// Opens or creates the file, mode 0600.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(|source| StoreError::Open {
            path: path.into(),
            source: source.into(),
        })?;
        let connection = connect(path)?;
        Ok(Self {
            path: path.into(),
            connection: Some(connection),
        })
    }

    /// Opens a file that is there, for reading beside its writer.
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let refuse = |source: rusqlite::Error| StoreError::Open {
            path: path.into(),
            source: source.into(),
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(refuse)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(refuse)?;
        Ok(Self {
            path: path.into(),
            connection: Some(connection),
        })
    }

    fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.path)?);
        }
        Ok(self.connection.as_mut().expect("opened above"))
    }
}

impl Database for Sqlite {
    fn has_schema(&mut self) -> Result<bool, StoreError> {
        has_table(self.connection()?, "store").map_err(|error| explain(error, "read", &self.path))
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        migrate(self.connection()?, &path)
    }

    fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<usize, StoreError> {
        let run = |connection: &Connection| connection.prepare_cached(sql)?.execute(params_from_iter(values));
        run(self.connection()?).map_err(|error| explain(error, "write", &self.path))
    }

    fn execute_each(&mut self, sql: &'static str, rows: &[Vec<Value<'_>>]) -> Result<(), StoreError> {
        let run = |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql)?;
            rows.iter()
                .try_for_each(|values| statement.execute(params_from_iter(values)).map(drop))
        };
        run(self.connection()?).map_err(|error| explain(error, "write", &self.path))
    }

    fn query(&mut self, table: &'static str, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let run = |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let columns = statement.column_count();
            let rows = statement.query_map(params_from_iter(values), |row| {
                let cells = (0..columns)
                    .map(|column| row.get_ref(column).map(cell))
                    .collect::<rusqlite::Result<_>>()?;
                Ok(Row { table, cells })
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        run(self.connection()?).map_err(|error| explain(error, "read", &self.path))
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE", &[]).map(drop)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.execute("COMMIT", &[]).map(drop)
    }

    fn rollback(&mut self) {
        // SQLite ends the transaction by itself after some errors; a second ROLLBACK would be an error then.
        let Some(connection) = self.connection.take() else {
            return;
        };
        if connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok() {
            self.connection = Some(connection);
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.connection = None;
        self.connection().map(drop)
    }

    fn secure(&mut self) -> Result<(), StoreError> {
        // A commit whose sync failed may stand in the WAL file without having reached the disk. The checkpoint syncs
        // what this connection sees into the database and leaves nothing behind in the WAL.
        let busy = self
            .query("store", "PRAGMA wal_checkpoint(TRUNCATE)", &[])?
            .first()
            .map(|row| row.int(0));
        match busy {
            Some(Ok(0)) => Ok(()),
            _ => Err(StoreError::Busy {
                source: "the WAL cannot be written back while others read it".into(),
            }),
        }
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Owned(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Integer(number) => Cell::Int(number),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).map_or(Cell::Other, |text| Cell::Text(text.to_owned())),
        _ => Cell::Other,
    }
}

/// Creates the file before SQLite does, so that it is never readable for others; SQLite gives `-wal` and `-shm` the mode
/// of the database.
fn create_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(64);
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Ok(None);
        }
        connection.execute_batch(
            // What is erased is overwritten, and not only forgotten by the tables. `private` is what needs it, and the
            // setting is one of the connection: commits take as much CPU with it as without (50 rows of the log 400 µs, an
            // entry deleted and made 380 µs), and a row that is pruned 0.13 instead of 0.03 µs.
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;
             PRAGMA secure_delete = ON; PRAGMA journal_size_limit = 67108864;",
        )?;
        Ok(Some(connection))
    };
    let refuse = |source| StoreError::Open {
        path: path.into(),
        source,
    };
    match open() {
        Ok(Some(connection)) => Ok(connection),
        Ok(None) => Err(refuse("this file system does not allow SQLite's WAL mode".into())),
        Err(rusqlite::Error::SqliteFailure(failure, _)) if failure.code == ErrorCode::NotADatabase => {
            Err(refuse("the file is not an SQLite database".into()))
        }
        Err(error) => Err(refuse(error.into())),
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let refuse = |source: refinery::Error| StoreError::Migrate { source: source.into() };
    // In one transaction: a server that is killed between a step and its note could never start again.
    let runner = migrations::runner().set_grouped(true);
    let known = runner
        .get_migrations()
        .iter()
        .map(|migration| migration.version())
        .max()
        .unwrap_or(0);
    let has_history = has_table(connection, "refinery_schema_history").map_err(|error| explain(error, "read", path))?;
    if has_history
        && let Some(last) = runner.get_last_applied_migration(connection).map_err(refuse)?
        && last.version() > known
    {
        return Err(StoreError::NewerSchema {
            found: last.version().into(),
            known: known.into(),
        });
    }
    runner.run(connection).map_err(refuse)?;
    Ok(())
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.table_exists(None, name)
}

fn explain(error: rusqlite::Error, doing: &'static str, path: &Path) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { source: error.into() },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { source: error.into() },
        Some(ErrorCode::SystemIoFailure) if is_read_only(path) => StoreError::ReadOnly { source: error.into() },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { source: error.into() },
        _ => StoreError::Failed {
            doing,
            source: error.into(),
        },
    }
}

/// Whether the disk has turned read-only: with the file open, SQLite tells that like any other I/O error. Asked of the
/// WAL file, as closing the database file itself would give up the locks that SQLite holds on it.
fn is_read_only(path: &Path) -> bool {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let opened = OpenOptions::new().append(true).open(wal);
    opened.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod plans;
#[cfg(test)]
mod tests;
