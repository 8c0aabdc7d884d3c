//! The log in the database: entries as they are hashed, and beside them what they only commit to.

use std::collections::HashMap;

use aws_lc_rs::{digest, rand};
use mayfly_model::log::private::{Commitment, Hide, SALT_LEN};
use mayfly_model::log::{Envelope, Record};
use mayfly_model::{Conflict, Revision, Step};

use crate::StoreError;
use crate::dialect::{Database, Value};
use crate::step::{Effect, Refusal};

/// Private values of at most so many bytes are looked up once in a commit: names, addresses.
const SHORT: usize = 256;

/// Records that wait for the revision of their commit, by the step that left them.
#[derive(Default)]
pub(crate) struct PendingLog<'a>(Vec<(&'a Step, Vec<Record>)>);

impl<'a> PendingLog<'a> {
    /// Notes that `step` happened and what it did; answers how many records that makes.
    pub(crate) fn push(&mut self, step: &'a Step, effect: &Effect) -> usize {
        let records = step.change.records(&effect.deltas);
        let count = records.len();
        self.0.push((step, records));
        count
    }

    /// Appends the records behind the newest one; answers how many there were before.
    pub(crate) fn write(self, database: &mut impl Database, revision: Revision) -> Result<u64, StoreError> {
        let before = log_size(database)?;
        let mut rows = Vec::with_capacity(self.0.iter().map(|(_, records)| records.len()).sum());
        // An agent asks for many SVIDs in one commit, from one address. Nothing is erased from here on.
        let mut kept: HashMap<String, Commitment> = HashMap::new();
        let mut keep = |value: &str| {
            if let Some(commitment) = kept.get(value) {
                return Ok(*commitment);
            }
            let commitment = private_keep(database, value)?;
            if value.len() <= SHORT {
                kept.insert(value.to_owned(), commitment);
            }
            Ok(commitment)
        };
        let mut hide = Hide::new(&mut keep);
        let mut index = before;
        for (step, records) in self.0 {
            let envelope = Envelope::new(revision, step.time, &step.actor, &mut hide)?;
            for record in records {
                let kind = record.kind;
                let entry = envelope.seal(record, &mut hide)?;
                rows.push(vec![int(index), kind.into(), entry.into()]);
                index += 1;
            }
        }
        database.execute_each("INSERT INTO log (log_index, kind, entry) VALUES (?1, ?2, ?3)", &rows)?;
        Ok(before)
    }
}

/// How many entries there are.
pub(crate) fn log_size(database: &mut impl Database) -> Result<u64, StoreError> {
    let rows = database.query("log", "SELECT COALESCE(MAX(log_index), -1) + 1 FROM log", &[])?;
    rows.first().map_or(Ok(0), |row| row.unsigned(0))
}

/// The commitment to `value`: the one that it has already, or a new one.
fn private_keep(database: &mut impl Database, value: &str) -> Result<Commitment, StoreError> {
    if let Some(found) = private_find(database, value)? {
        return Ok(found);
    }
    let mut salt = [0; SALT_LEN];
    rand::fill(&mut salt).map_err(|_| StoreError::Failed {
        doing: "draw a salt",
        source: "the system has no randomness".into(),
    })?;
    let commitment = Commitment::new(&salt, value);
    database.execute(
        "INSERT INTO private (commitment, salt, value, value_sha256) VALUES (?1, ?2, ?3, ?4)",
        &[
            commitment.to_string().into(),
            hex::encode(salt).into(),
            value.into(),
            sha256_hex(value).into(),
        ],
    )?;
    Ok(commitment)
}

/// The commitment that stands for `value`, canonical JSON, if there is one.
pub(crate) fn private_find(database: &mut impl Database, value: &str) -> Result<Option<Commitment>, StoreError> {
    let sql = "SELECT commitment FROM private WHERE value_sha256 = ?1";
    let rows = database.query("private", sql, &[sha256_hex(value).into()])?;
    rows.first().map(|row| row.parse(0)).transpose()
}

fn sha256_hex(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Forgets values.
pub(crate) fn private_erase(database: &mut impl Database, commitments: &[Commitment]) -> Result<(), Refusal> {
    let mut erased = 0;
    for commitment in commitments {
        let sql = "DELETE FROM private WHERE commitment = ?1";
        erased += database.execute(sql, &[commitment.to_string().into()])?;
    }
    if erased == 0 {
        Err(Conflict::NothingToErase.into())
    } else {
        Ok(())
    }
}

/// A number as the database has it: nothing here counts to 2^63.
pub(crate) fn int<'a>(number: u64) -> Value<'a> {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}
