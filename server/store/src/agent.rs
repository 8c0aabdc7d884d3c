//! Agents in the database.

use mayfly_model::{Agent, Conflict, Delta, Entry, TokenHash};
use mayfly_svid::{Serial, SpiffeId, Timestamp};

use crate::dialect::Database;
use crate::entry::{entry_create, entry_delete_made_by_token};
use crate::step::{Effect, Refusal};
use crate::token::token_use;
use crate::{Changed, StoreError};

pub(crate) fn agent_list(database: &mut impl Database) -> Result<Vec<Agent>, StoreError> {
    let rows = database.query("agents", "SELECT data FROM agents ORDER BY id", &[])?;
    rows.iter().map(|row| row.json(0)).collect()
}

/// Nothing of an older record survives but a ban, which refuses. The token of a refused agent is not used up.
pub(crate) fn agent_attest(
    database: &mut impl Database,
    agent: &Agent,
    token: Option<&TokenHash>,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    if agent_find(database, &agent.id)?.is_some_and(|present| present.banned) {
        return Err(Conflict::AgentBanned.into());
    }
    let alias = match token {
        Some(hash) => token_use(database, hash, time)?.map(|name| Entry::alias_by_token(hash, name, &agent.id, time)),
        None => None,
    };
    effect.changed.push(Changed::Agent(agent.id.clone()));
    agent_put(database, agent.clone(), effect)?;
    let Some(Ok(alias)) = alias else { return Ok(()) };
    // A token of the same text may have brought one before.
    entry_delete_made_by_token(database, &agent.id, time, effect)?;
    match entry_create(database, &alias, true, effect) {
        // An operator's entry says the same already.
        Err(Refusal::Conflict(Conflict::EntryExists(_))) => Ok(()),
        made => made,
    }
}

pub(crate) fn agent_renew(
    database: &mut impl Database,
    id: &SpiffeId,
    by: &Serial,
    renewed: (Serial, Timestamp),
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let mut agent = live_agent(database, id)?;
    if !agent.uses(by) {
        return Err(Conflict::SerialNotInUse.into());
    }
    // What it shows must not be forgotten for what may never reach it.
    if let Some((seen, expires_at)) = agent.renewed.take()
        && seen == *by
    {
        agent.serial = Some(seen);
        agent.expires_at = expires_at;
    }
    agent.renewed = Some(renewed);
    agent_put(database, agent, effect)
}

pub(crate) fn agent_confirm(
    database: &mut impl Database,
    id: &SpiffeId,
    serial: &Serial,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let mut agent = live_agent(database, id)?;
    match agent.renewed.take() {
        Some((renewed, expires_at)) if renewed == *serial => {
            agent.serial = Some(renewed);
            agent.expires_at = expires_at;
            agent_put(database, agent, effect)
        }
        _ => Err(Conflict::SerialNotRenewed.into()),
    }
}

pub(crate) fn agent_report(
    database: &mut impl Database,
    id: &SpiffeId,
    version: &str,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let mut agent = agent_find(database, id)?.ok_or(Conflict::AgentNotFound)?;
    agent.version = version.into();
    agent_put(database, agent, effect)
}

/// Its certificates end; what the node attestor stated stays readable for operators.
pub(crate) fn agent_ban(database: &mut impl Database, id: &SpiffeId, effect: &mut Effect) -> Result<(), Refusal> {
    let mut agent = agent_find(database, id)?.ok_or(Conflict::AgentNotFound)?;
    agent.banned = true;
    agent.serial = None;
    agent.renewed = None;
    effect.changed.push(Changed::Agent(id.clone()));
    agent_put(database, agent, effect)
}

/// The alias that its join token brought goes too, as with SPIRE 1.15.2; other entries below it stay.
pub(crate) fn agent_delete(
    database: &mut impl Database,
    id: &SpiffeId,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    if database.execute("DELETE FROM agents WHERE id = ?1", &[id.as_str().into()])? == 0 {
        return Err(Conflict::AgentNotFound.into());
    }
    entry_delete_made_by_token(database, id, time, effect)?;
    effect.changed.push(Changed::Agent(id.clone()));
    effect.deltas.push(Delta::AgentGone(id.clone()));
    Ok(())
}

fn live_agent(database: &mut impl Database, id: &SpiffeId) -> Result<Agent, Refusal> {
    match agent_find(database, id)? {
        None => Err(Conflict::AgentNotFound.into()),
        Some(agent) if agent.banned => Err(Conflict::AgentBanned.into()),
        Some(agent) => Ok(agent),
    }
}

fn agent_find(database: &mut impl Database, id: &SpiffeId) -> Result<Option<Agent>, StoreError> {
    let rows = database.query("agents", "SELECT data FROM agents WHERE id = ?1", &[id.as_str().into()])?;
    rows.first().map(|row| row.json(0)).transpose()
}

fn agent_put(database: &mut impl Database, agent: Agent, effect: &mut Effect) -> Result<(), Refusal> {
    let data = serde_json::to_string(&agent).expect("an agent has string keys and finite numbers only");
    database.execute(
        "INSERT INTO agents (id, data) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET data = excluded.data",
        &[agent.id.as_str().into(), data.into()],
    )?;
    effect.deltas.push(Delta::AgentPut(agent.into()));
    Ok(())
}
