//! The register of exceptions in the database.

use mayfly_model::{Conflict, Delta, EntryId, Excepted, Exception, ExceptionStep, Given};
use mayfly_svid::Timestamp;

use crate::StoreError;
use crate::dialect::Database;
use crate::entry::entry_find;
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
    let mut after = Exception::after(present.as_ref(), newest.as_ref(), step, approved_by, time)?;
    if present.is_none() {
        // Whatever who asks for it says.
        after.gives = match &after.identity {
            Excepted::Identity(_) => None,
            Excepted::Entry(id) => {
                let entry = entry_find(database, id)?.ok_or(Conflict::EntryNotFound)?;
                Some(Given::by(&entry.spec))
            }
        };
    }
    let data = serde_json::to_string(&after).expect("an exception has string keys and finite numbers only");
    database.execute(
        "INSERT INTO exceptions (id, identity, data) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET data = excluded.data",
        &[id.into(), after.identity.to_string().into(), data.into()],
    )?;
    effect.deltas.push(Delta::ExceptionPut(after.into()));
    Ok(())
}

/// The exception that is about what this entry gives, if its power was not taken away.
pub(crate) fn exception_binding(
    database: &mut impl Database,
    entry: &EntryId,
) -> Result<Option<Exception>, StoreError> {
    let newest = exception_newest(database, &Excepted::Entry(entry.clone()))?;
    Ok(newest.filter(|exception| !exception.power_removed))
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
