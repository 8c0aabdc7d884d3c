//! What is durable and not in memory, read on a connection of its own, so that no commit waits for a reader: the log, what
//! it commits to, old versions of definitions.

use std::path::Path;

use mayfly_model::LogEntry;
use mayfly_model::log::private::{Commitment, Reveal};
use mayfly_model::task::{DefinitionVersion, TaskName};

use crate::StoreError;
use crate::definition::definition_versions;
use crate::dialect::sqlite::Sqlite;
use crate::dialect::{Database, Row};
use crate::log::{int, log_size, private_find};

/// Private values that are read at a time.
const PRIVATE_PAGE: u64 = 512;

/// The value behind a commitment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateValue {
    /// SHA-256 of salt and value.
    pub commitment: Commitment,
    /// Hex.
    pub salt: String,
    /// Canonical JSON.
    pub value: String,
}

/// Reads the archive of a server. Blocking, and for one thread at a time; opening another one is cheap.
pub struct ArchiveReader(Sqlite);

impl ArchiveReader {
    /// Opens the database at `path`, which a [`Store`](crate::Store) has made.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self(Sqlite::open_to_read(path)?))
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn size(&mut self) -> Result<u64, StoreError> {
        log_size(&mut self.0)
    }

    /// Entries from index `from` on, at most `limit`, as they are hashed.
    ///
    /// # Errors
    /// As for [`size`](Self::size).
    pub fn entries(&mut self, from: u64, limit: usize) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT entry FROM log WHERE log_index >= ?1 ORDER BY log_index LIMIT ?2";
        let rows = self.0.query("log", sql, &[int(from), int(limit as u64)])?;
        rows.into_iter().map(|row| row.into_text()).collect()
    }

    /// Entries of one kind from index `from` on, at most `limit`, with their indexes.
    ///
    /// # Errors
    /// As for [`size`](Self::size).
    pub fn of_kind(&mut self, kind: &str, from: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let sql = "SELECT log_index, entry FROM log WHERE kind = ?1 AND log_index >= ?2 ORDER BY log_index LIMIT ?3";
        let rows = self.0.query("log", sql, &[kind.into(), int(from), int(limit as u64)])?;
        rows.iter().map(indexed).collect()
    }

    /// The newest decisions of policy, at most `limit`, newest first, as [`Self::read`] reads them.
    ///
    /// # Errors
    /// As for [`size`](Self::size).
    pub fn decisions(&mut self, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        let sql = "SELECT log_index, entry FROM log WHERE kind = 'policy.decided' ORDER BY log_index DESC LIMIT ?1";
        let rows = self.0.query("log", sql, &[int(limit as u64)])?;
        let found: Vec<(u64, String)> = rows.iter().map(indexed).collect::<Result<_, _>>()?;
        found.iter().map(|(index, entry)| self.read(*index, entry)).collect()
    }

    /// An entry with what is private, where that is still known.
    ///
    /// # Errors
    /// As for [`size`](Self::size), or it is no entry.
    pub fn read(&mut self, index: u64, entry: &str) -> Result<LogEntry, StoreError> {
        let corrupt = |problem: String| StoreError::Corrupt { table: "log", problem };
        let json = serde_json::from_str(entry).map_err(|error| corrupt(error.to_string()))?;
        let mut known = std::collections::HashMap::new();
        for commitment in Commitment::all_of(&json) {
            if let Some(private) = self.private(commitment)? {
                let value = serde_json::from_str(&private.value);
                known.insert(commitment, value.map_err(|error| corrupt(error.to_string()))?);
            }
        }
        let reveal = |commitment: &Commitment| known.get(commitment).cloned();
        LogEntry::parse(index, entry, &Reveal::new(&reveal)).map_err(|error| corrupt(error.to_string()))
    }

    /// The value behind a commitment, unless it was erased.
    ///
    /// # Errors
    /// As for [`size`](Self::size).
    pub fn private(&mut self, commitment: Commitment) -> Result<Option<PrivateValue>, StoreError> {
        let sql = "SELECT commitment, salt, value FROM private WHERE commitment = ?1";
        let rows = self.0.query("private", sql, &[commitment.to_string().into()])?;
        rows.first().map(private).transpose()
    }

    /// A page of the values in the order of their commitments, from behind `after` on. The next one begins behind its
    /// last value; an empty one is behind the end.
    ///
    /// # Errors
    /// As for [`size`](Self::size).
    pub fn private_page(&mut self, after: Option<Commitment>) -> Result<Vec<PrivateValue>, StoreError> {
        let sql = "SELECT commitment, salt, value FROM private WHERE commitment > ?1 ORDER BY commitment LIMIT ?2";
        let after = after.map(|commitment| commitment.to_string()).unwrap_or_default();
        let rows = self.0.query("private", sql, &[after.into(), int(PRIVATE_PAGE)])?;
        rows.iter().map(private).collect()
    }

    /// All values, in that order, read page by page; nothing follows an error.
    pub fn privates(&mut self) -> impl Iterator<Item = Result<PrivateValue, StoreError>> {
        let (mut page, mut after, mut is_over) = (vec![].into_iter(), None, false);
        std::iter::from_fn(move || {
            if page.len() == 0 && !is_over {
                match self.private_page(after) {
                    Ok(values) => page = values.into_iter(),
                    Err(error) => {
                        is_over = true;
                        return Some(Err(error));
                    }
                }
            }
            let value: Option<PrivateValue> = page.next();
            match &value {
                Some(value) => after = Some(value.commitment),
                None => is_over = true,
            }
            value.map(Ok)
        })
    }

    /// How many values there are.
    ///
    /// # Errors
    /// As for [`size`](Self::size).
    pub fn private_count(&mut self) -> Result<u64, StoreError> {
        let rows = self.0.query("private", "SELECT COUNT(*) FROM private", &[])?;
        rows.first().map_or(Ok(0), |row| row.unsigned(0))
    }

    /// The commitments to a value, which is canonical JSON: one, or none.
    ///
    /// # Errors
    /// As for [`size`](Self::size).
    pub fn commitment_to(&mut self, value: &str) -> Result<Option<Commitment>, StoreError> {
        private_find(&mut self.0, value)
    }

    /// Every version of a definition, oldest first.
    ///
    /// # Errors
    /// As for [`size`](Self::size).
    pub fn definition_versions(&mut self, name: &TaskName) -> Result<Vec<DefinitionVersion>, StoreError> {
        definition_versions(&mut self.0, name)
    }
}

fn indexed(row: &Row) -> Result<(u64, String), StoreError> {
    Ok((row.unsigned(0)?, row.text(1)?.to_owned()))
}

fn private(row: &Row) -> Result<PrivateValue, StoreError> {
    Ok(PrivateValue {
        commitment: row.parse(0)?,
        salt: row.text(1)?.to_owned(),
        value: row.text(2)?.to_owned(),
    })
}
