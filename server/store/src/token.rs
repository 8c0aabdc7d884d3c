//! Join tokens in the database. Used ones are gone: only unused ones have a row.

use mayfly_model::{Conflict, TokenHash};
use mayfly_svid::{SpiffeId, Timestamp};

use crate::dialect::{Database, Value};
use crate::step::Refusal;

pub(crate) fn token_create(
    database: &mut impl Database,
    hash: &TokenHash,
    expires_at: Timestamp,
    alias: Option<&SpiffeId>,
) -> Result<(), Refusal> {
    let created = database.execute(
        "INSERT INTO tokens (hash, expires_at, alias) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        &[
            Value::Blob(hash.as_bytes()),
            expires_at.unix().into(),
            alias.map_or("", SpiffeId::as_str).into(),
        ],
    )?;
    if created == 1 {
        Ok(())
    } else {
        Err(Conflict::TokenExists.into())
    }
}

/// Uses it up: of all that try, one removes the row. Answers with the alias that it brings for its agent, if any.
pub(crate) fn token_use(
    database: &mut impl Database,
    hash: &TokenHash,
    time: Timestamp,
) -> Result<Option<SpiffeId>, Refusal> {
    let rows = database.query(
        "tokens",
        "SELECT alias FROM tokens WHERE hash = ?1",
        &[Value::Blob(hash.as_bytes())],
    )?;
    let alias = rows.first().map(|row| row.text(0)).transpose()?.unwrap_or_default();
    let used = database.execute(
        "DELETE FROM tokens WHERE hash = ?1 AND expires_at > ?2",
        &[Value::Blob(hash.as_bytes()), time.unix().into()],
    )?;
    if used != 1 {
        return Err(Conflict::TokenUnusable.into());
    }
    // What is no SPIFFE ID was never let in; an agent without its alias is better than one that cannot attest.
    Ok(alias.parse().ok())
}

pub(crate) fn token_prune(database: &mut impl Database, time: Timestamp) -> Result<(), Refusal> {
    database.execute("DELETE FROM tokens WHERE expires_at < ?1", &[time.unix().into()])?;
    Ok(())
}
