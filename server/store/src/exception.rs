//! The register of exceptions in the database.

use mayfly_model::{Conflict, Delta, Excepted, Exception, ExceptionStep};
use mayfly_svid::Timestamp;

use crate::StoreError;
use crate::dialect::Database;
use crate::step::{Effect, Refusal};

/// All, those that are over too, in the order of granting.
pub(crate) fn exception_list(database: &mut impl Database) -> Result<Vec<Exception>, StoreError> {
    let rows = database.query("exceptions", "SELECT data FROM exceptions ORDER BY number", &[])?;
    rows.iter().map(|row| row.json(0)).collect()
}

pub(crate) fn exception_step(
    database: &mut impl Database,
    id: &str,
    step: &ExceptionStep,
    approved_by: &str,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let sql = "SELECT data FROM exceptions WHERE id = ?1";
    let rows = database.query("exceptions", sql, &[id.into()])?;
    let present: Option<Exception> = rows.first().map(|row| row.json(0)).transpose()?;
    let identity = match (&present, step) {
        (Some(present), _) => &present.identity,
        (None, ExceptionStep::Grant { exception }) => &exception.identity,
        (None, _) => return Err(Conflict::ExceptionNotFound.into()),
    };
    let newest = exception_newest(database, identity)?;
    let after = Exception::after(present.as_ref(), newest.as_ref(), step, approved_by, time)?;
    let data = serde_json::to_string(&after).expect("an exception has string keys and finite numbers only");
    database.execute(
        "INSERT INTO exceptions (id, identity, data) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET data = excluded.data",
        &[id.into(), after.identity.to_string().into(), data.into()],
    )?;
    effect.deltas.push(Delta::ExceptionPut(after.into()));
    Ok(())
}

/// The one that was granted last.
fn exception_newest(database: &mut impl Database, identity: &Excepted) -> Result<Option<Exception>, StoreError> {
    let rows = database.query(
        "exceptions",
        "SELECT data FROM exceptions WHERE identity = ?1 ORDER BY number DESC LIMIT 1",
        &[identity.to_string().into()],
    )?;
    rows.first().map(|row| row.json(0)).transpose()
}
