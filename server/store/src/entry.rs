//! Entries in the database.

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use mayfly_model::{Conflict, Delta, Entry, EntryId, EntryPatch, EntrySpec, Given, Selectors};
use mayfly_svid::{SpiffeId, Timestamp, TrustDomain};

use crate::dialect::Database;
use crate::exception::exception_binding;
use crate::step::{Effect, Refusal};
use crate::{Changed, StoreError};

/// How long the creation time of a deleted entry is remembered, in seconds. It matters only within the second of that
/// creation, the rest is for clocks that are set back.
const TOMBSTONE_SECONDS: i64 = 86_400;

pub(crate) fn entry_list(database: &mut impl Database) -> Result<Vec<Entry>, StoreError> {
    let rows = database.query("entries", "SELECT data FROM entries ORDER BY id", &[])?;
    rows.iter().map(|row| row.json(0)).collect()
}

/// Stores it with a later `created_at` than asked if an entry of this ID was there in the same second before. SPIRE's agents take an entry with an ID, revision and creation time that they know for one that they know.
pub(crate) fn entry_create(
    database: &mut impl Database,
    entry: &Entry,
    made_by_token: bool,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    if let Some(taken) = entry_find(database, &entry.id)? {
        return Err(Conflict::EntryExists(taken.into()).into());
    }
    refuse_similar(database, &entry.id, &entry.spec)?;
    require_bundles(database, &entry.spec.federates_with)?;
    let mut entry = entry.clone();
    let buried = database.query(
        "entry_tombstones",
        "SELECT created_at FROM entry_tombstones WHERE id = ?1",
        &[entry.id.as_str().into()],
    )?;
    if let Some(row) = buried.first() {
        entry.created_at = entry
            .created_at
            .max(Timestamp::from_unix(row.int(0)?.saturating_add(1)));
    }
    database.execute(
        "INSERT INTO entries (id, spiffe_id, parent_id, selectors_key, created_at, revision_number, made_by_token, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        &[
            entry.id.as_str().into(),
            entry.spec.spiffe_id.as_str().into(),
            entry.spec.parent_id.as_str().into(),
            selectors_key(&entry.spec.selectors).into(),
            entry.created_at.unix().into(),
            entry.revision_number.into(),
            i64::from(made_by_token).into(),
            to_json(&entry).into(),
        ],
    )?;
    federations_insert(database, &entry)?;
    effect.changed.push(Changed::entry(&entry));
    effect.deltas.push(Delta::EntryPut(entry.into()));
    Ok(())
}

pub(crate) fn entry_update(
    database: &mut impl Database,
    trust_domain: &TrustDomain,
    id: &EntryId,
    patch: &EntryPatch,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let present = entry_find(database, id)?.ok_or(Conflict::EntryNotFound)?;
    let spec = patch.clone().apply(&present.spec);
    spec.check(trust_domain).map_err(Conflict::EntryInvalid)?;
    refuse_similar(database, id, &spec)?;
    // Otherwise it would leave its exception behind.
    if Given::by(&spec) != Given::by(&present.spec)
        && let Some(exception) = exception_binding(database, id)?
    {
        return Err(Conflict::EntryExcepted(exception.id).into());
    }
    if patch.federates_with.is_some() {
        require_bundles(database, &spec.federates_with)?;
    }
    entry_replace(database, &present, spec, effect)
}

pub(crate) fn entry_delete(
    database: &mut impl Database,
    id: &EntryId,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let entry = entry_find(database, id)?.ok_or(Conflict::EntryNotFound)?;
    Ok(entry_remove(database, entry, time, effect)?)
}

pub(crate) fn entry_expire(
    database: &mut impl Database,
    id: &EntryId,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let entry = entry_find(database, id)?.filter(|entry| entry.is_expired(time));
    Ok(entry_remove(
        database,
        entry.ok_or(Conflict::EntryNotFound)?,
        time,
        effect,
    )?)
}

/// Removes the alias that came with the join token of `agent_id`, if it is still its.
pub(crate) fn entry_delete_made_by_token(
    database: &mut impl Database,
    agent_id: &SpiffeId,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let rows = database.query(
        "entries",
        "SELECT data FROM entries WHERE parent_id = ?1 AND made_by_token = 1 ORDER BY id",
        &[agent_id.as_str().into()],
    )?;
    rows.iter()
        .try_for_each(|row| Ok(entry_remove(database, row.json(0)?, time, effect)?))
}

/// The entries that federate with `trust_domain`, by ID.
pub(crate) fn entry_list_federated(
    database: &mut impl Database,
    trust_domain: &TrustDomain,
) -> Result<Vec<Entry>, StoreError> {
    let rows = database.query(
        "entries",
        "SELECT data FROM entries WHERE id IN (SELECT entry_id FROM entry_federations WHERE trust_domain = ?1)
         ORDER BY id",
        &[trust_domain.as_str().into()],
    )?;
    rows.iter().map(|row| row.json(0)).collect()
}

/// Keeps `entry` without its federation with `trust_domain`.
pub(crate) fn entry_dissociate(
    database: &mut impl Database,
    entry: &Entry,
    trust_domain: &TrustDomain,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let mut spec = entry.spec.clone();
    spec.federates_with.retain(|other| other != trust_domain);
    entry_replace(database, entry, spec, effect)
}

pub(crate) fn entry_remove(
    database: &mut impl Database,
    entry: Entry,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), StoreError> {
    database.execute("DELETE FROM entries WHERE id = ?1", &[entry.id.as_str().into()])?;
    database.execute(
        "INSERT INTO entry_tombstones (id, created_at) VALUES (?1, ?2)
         ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at",
        &[entry.id.as_str().into(), entry.created_at.unix().into()],
    )?;
    database.execute(
        "DELETE FROM entry_tombstones WHERE created_at < ?1",
        &[time.unix().saturating_sub(TOMBSTONE_SECONDS).into()],
    )?;
    effect.changed.push(Changed::entry(&entry));
    effect.deltas.push(Delta::EntryGone(entry.into()));
    Ok(())
}

pub(crate) fn entry_find(database: &mut impl Database, id: &EntryId) -> Result<Option<Entry>, StoreError> {
    let rows = database.query(
        "entries",
        "SELECT data FROM entries WHERE id = ?1",
        &[id.as_str().into()],
    )?;
    rows.first().map(|row| row.json(0)).transpose()
}

/// Refuses a spec that is similar to that of an entry other than `id`.
fn refuse_similar(database: &mut impl Database, id: &EntryId, spec: &EntrySpec) -> Result<(), Refusal> {
    let rows = database.query(
        "entries",
        "SELECT data FROM entries WHERE spiffe_id = ?1 AND parent_id = ?2 AND selectors_key = ?3 AND id <> ?4",
        &[
            spec.spiffe_id.as_str().into(),
            spec.parent_id.as_str().into(),
            selectors_key(&spec.selectors).into(),
            id.as_str().into(),
        ],
    )?;
    match rows.first() {
        Some(row) => Err(Conflict::EntryExists(row.json::<Entry>(0)?.into()).into()),
        None => Ok(()),
    }
}

/// Refuses trust domains whose bundles an entry could not hand out.
fn require_bundles(database: &mut impl Database, names: &[TrustDomain]) -> Result<(), Refusal> {
    for name in names.iter().collect::<BTreeSet<_>>() {
        let sql = "SELECT trust_domain FROM bundles WHERE trust_domain = ?1";
        if database.query("bundles", sql, &[name.as_str().into()])?.is_empty() {
            return Err(Conflict::FederatedBundleNotFound(name.clone()).into());
        }
    }
    Ok(())
}

fn entry_replace(
    database: &mut impl Database,
    present: &Entry,
    spec: EntrySpec,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let entry = Entry {
        id: present.id.clone(),
        spec,
        created_at: present.created_at,
        revision_number: present.revision_number.saturating_add(1),
    };
    database.execute(
        "UPDATE entries SET spiffe_id = ?2, parent_id = ?3, selectors_key = ?4, revision_number = ?5, data = ?6
         WHERE id = ?1",
        &[
            entry.id.as_str().into(),
            entry.spec.spiffe_id.as_str().into(),
            entry.spec.parent_id.as_str().into(),
            selectors_key(&entry.spec.selectors).into(),
            entry.revision_number.into(),
            to_json(&entry).into(),
        ],
    )?;
    if entry.spec.federates_with != present.spec.federates_with {
        database.execute(
            "DELETE FROM entry_federations WHERE entry_id = ?1",
            &[entry.id.as_str().into()],
        )?;
        federations_insert(database, &entry)?;
    }
    let (there, here) = (Changed::entry(present), Changed::entry(&entry));
    effect.changed.extend((there != here).then_some(there));
    effect.changed.push(here);
    effect.deltas.push(Delta::EntryPut(entry.into()));
    Ok(())
}

fn federations_insert(database: &mut impl Database, entry: &Entry) -> Result<(), StoreError> {
    // The list comes as the operator wrote it, perhaps with one name twice.
    let names: BTreeSet<_> = entry.spec.federates_with.iter().collect();
    let rows: Vec<_> = names
        .into_iter()
        .map(|trust_domain| vec![trust_domain.as_str().into(), entry.id.as_str().into()])
        .collect();
    let sql = "INSERT INTO entry_federations (trust_domain, entry_id) VALUES (?1, ?2)";
    database.execute_each(sql, &rows)
}

/// Hex SHA-256 of the sorted selectors, each behind its length in eight octets: values may hold any character, so that no
/// separator could keep two sets apart.
fn selectors_key(selectors: &Selectors) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for selector in selectors {
        let length = u64::try_from(selector.as_str().len()).expect("a length fits 64 bits");
        context.update(&length.to_be_bytes());
        context.update(selector.as_str().as_bytes());
    }
    hex::encode(context.finish())
}

fn to_json(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("an entry has string keys and finite numbers only")
}
