//! The change history in the database: what watchers of an older revision must look at again.

use mayfly_model::Revision;

use crate::dialect::{Database, Row};
use crate::{ChangeRow, Changed, StoreError};

/// How many rows are kept and loaded.
pub(crate) const KEPT: i64 = 100_000;

/// How many rows beyond [`KEPT`] may gather before they are pruned: the cost of pruning is spread over as many.
pub(crate) const SLACK: i64 = 10_000;

/// Appends rows, and prunes the oldest when enough have gathered.
pub(crate) fn changes_append(
    database: &mut impl Database,
    revision: i64,
    changed: &[Changed],
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    // Each by itself: SQLite looks up one end of a table, but reads all of it to find both at once.
    let ends = database.query(
        "changes",
        "SELECT COALESCE((SELECT MIN(position) FROM changes), 1), COALESCE((SELECT MAX(position) FROM changes), 0)",
        &[],
    )?;
    let (oldest, newest) = ends.first().map_or(Ok((1, 0)), |row| Ok((row.int(0)?, row.int(1)?)))?;
    let mut position = newest;
    let rows: Vec<_> = changed
        .iter()
        .map(|what| {
            position += 1;
            let (kind, subject, parent_id, spiffe_id) = match what {
                Changed::Entry {
                    id,
                    parent_id,
                    spiffe_id,
                } => ("entry", id.as_str(), parent_id.as_str(), spiffe_id.as_str()),
                Changed::Agent(id) => ("agent", id.as_str(), "", ""),
                Changed::Bundle(trust_domain) => ("bundle", trust_domain.as_str(), "", ""),
            };
            vec![
                position.into(),
                revision.into(),
                kind.into(),
                subject.into(),
                parent_id.into(),
                spiffe_id.into(),
            ]
        })
        .collect();
    database.execute_each(
        "INSERT INTO changes (position, revision, kind, subject, parent_id, spiffe_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        &rows,
    )?;
    if position - oldest >= KEPT + SLACK {
        database.execute("DELETE FROM changes WHERE position <= ?1", &[(position - KEPT).into()])?;
    }
    Ok(())
}

/// The newest [`KEPT`] rows, oldest first.
pub(crate) fn changes_list(database: &mut impl Database) -> Result<Vec<ChangeRow>, StoreError> {
    let rows = database.query(
        "changes",
        "SELECT revision, kind, subject, parent_id, spiffe_id FROM changes
         WHERE position > (SELECT MAX(position) FROM changes) - ?1 ORDER BY position",
        &[KEPT.into()],
    )?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<ChangeRow, StoreError> {
    let what = match row.text(1)? {
        "entry" => Changed::Entry {
            id: row.parse(2)?,
            parent_id: row.parse(3)?,
            spiffe_id: row.parse(4)?,
        },
        "agent" => Changed::Agent(row.parse(2)?),
        "bundle" => Changed::Bundle(row.parse(2)?),
        other => return Err(row.corrupt(format!("unknown kind `{other}`"))),
    };
    Ok(ChangeRow {
        revision: Revision(row.unsigned(0)?),
        what,
    })
}
