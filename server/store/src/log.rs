//! The log in the database.

use mayfly_model::{Actor, LogEntry, Revision, Step};
use mayfly_svid::Timestamp;

use crate::StoreError;
use crate::dialect::{Database, Row, Value};
use crate::step::Effect;

/// Records that wait for the revision of their commit.
#[derive(Default)]
pub(crate) struct PendingLog<'a>(Vec<Pending<'a>>);

struct Pending<'a> {
    actor: &'a Actor,
    time: Timestamp,
    kind: &'static str,
    subject: String,
    body: String,
}

impl<'a> PendingLog<'a> {
    /// Notes that `step` happened and what it did; answers how many records that makes.
    pub(crate) fn push(&mut self, step: &'a Step, effect: &Effect) -> usize {
        let before = self.0.len();
        self.0.extend(
            step.change
                .records(&effect.deltas)
                .into_iter()
                .map(|(kind, subject, body)| Pending {
                    actor: &step.actor,
                    time: step.time,
                    kind,
                    subject,
                    body,
                }),
        );
        self.0.len() - before
    }

    /// Appends the records behind the newest one, whose index is answered.
    pub(crate) fn write(self, database: &mut impl Database, revision: i64) -> Result<u64, StoreError> {
        if self.0.is_empty() {
            return Ok(0);
        }
        let newest = database.query("log", "SELECT COALESCE(MAX(log_index), 0) FROM log", &[])?;
        let newest = newest.first().map_or(Ok(0), |row| row.int(0))?;
        let rows: Vec<Vec<Value<'_>>> = (newest + 1..)
            .zip(self.0)
            .map(
                |(
                    index,
                    Pending {
                        actor: Actor { who, origin, reason },
                        time,
                        kind,
                        subject,
                        body,
                    },
                )| {
                    vec![
                        index.into(),
                        revision.into(),
                        kind.into(),
                        who.as_str().into(),
                        origin.as_str().into(),
                        reason.as_str().into(),
                        subject.into(),
                        time.unix().into(),
                        body.into(),
                    ]
                },
            )
            .collect();
        let sql = "INSERT INTO log (log_index, revision, kind, who, origin, reason, subject, time, body)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        database.execute_each(sql, &rows)?;
        Ok(u64::try_from(newest).unwrap_or(0))
    }
}

pub(crate) fn log_list(
    database: &mut impl Database,
    after_index: u64,
    limit: usize,
) -> Result<Vec<LogEntry>, StoreError> {
    let rows = database.query(
        "log",
        "SELECT log_index, revision, kind, who, origin, reason, subject, time, body FROM log
         WHERE log_index > ?1 ORDER BY log_index LIMIT ?2",
        &[
            i64::try_from(after_index).unwrap_or(i64::MAX).into(),
            i64::try_from(limit).unwrap_or(i64::MAX).into(),
        ],
    )?;
    rows.iter().map(read).collect()
}

pub(crate) fn log_decisions(database: &mut impl Database, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
    let rows = database.query(
        "log",
        "SELECT log_index, revision, kind, who, origin, reason, subject, time, body FROM log
         WHERE kind = 'policy.decided' ORDER BY log_index DESC LIMIT ?1",
        &[i64::try_from(limit).unwrap_or(i64::MAX).into()],
    )?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<LogEntry, StoreError> {
    let text = |column| row.text(column).map(str::to_owned);
    Ok(LogEntry {
        index: row.unsigned(0)?,
        revision: Revision(row.unsigned(1)?),
        kind: text(2)?,
        actor: Actor {
            who: text(3)?,
            origin: text(4)?,
            reason: text(5)?,
        },
        subject: text(6)?,
        time: Timestamp::from_unix(row.int(7)?),
        body: row.json(8)?,
    })
}
