//! Join tokens in the database. Used ones are gone: only unused ones have a row.

use mayfly_model::{Conflict, TokenHash};
use mayfly_svid::Timestamp;

use crate::dialect::{Database, Value};
use crate::step::Refusal;

pub(crate) fn token_create(
    database: &mut impl Database,
    hash: &TokenHash,
    expires_at: Timestamp,
) -> Result<(), Refusal> {
    let created = database.execute(
        "INSERT INTO tokens (hash, expires_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        &[Value::Blob(hash.as_bytes()), expires_at.unix().into()],
    )?;
    if created == 1 {
        Ok(())
    } else {
        Err(Conflict::TokenExists.into())
    }
}

/// Uses it up: of all that try, one removes the row.
pub(crate) fn token_use(database: &mut impl Database, hash: &TokenHash, time: Timestamp) -> Result<(), Refusal> {
    let used = database.execute(
        "DELETE FROM tokens WHERE hash = ?1 AND expires_at > ?2",
        &[Value::Blob(hash.as_bytes()), time.unix().into()],
    )?;
    if used == 1 {
        Ok(())
    } else {
        Err(Conflict::TokenUnusable.into())
    }
}

pub(crate) fn token_prune(database: &mut impl Database, time: Timestamp) -> Result<(), Refusal> {
    database.execute("DELETE FROM tokens WHERE expires_at < ?1", &[time.unix().into()])?;
    Ok(())
}
