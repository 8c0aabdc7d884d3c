//! Definitions, the operators' policy and proposals in the database.

use mayfly_model::task::{
    Definition, DefinitionVersion, PolicyFiles, Proposal, ProposalState, ProposedChange, TaskName, TaskStep,
};
use mayfly_model::{Conflict, Delta};
use mayfly_svid::Timestamp;

use crate::StoreError;
use crate::dialect::Database;
use crate::exception::exception_step;
use crate::step::{Effect, Refusal};
use crate::task::{task_apply, tasks_of};

/// The newest version of each, retired ones included.
pub(crate) fn definition_list(database: &mut impl Database) -> Result<Vec<DefinitionVersion>, StoreError> {
    let rows = database.query(
        "definitions",
        "SELECT data FROM definitions AS newest
         WHERE version = (SELECT MAX(version) FROM definitions WHERE name = newest.name) ORDER BY name",
        &[],
    )?;
    rows.iter().map(|row| row.json(0)).collect()
}

/// Every version of one, oldest first.
pub(crate) fn definition_versions(
    database: &mut impl Database,
    name: &TaskName,
) -> Result<Vec<DefinitionVersion>, StoreError> {
    let rows = database.query(
        "definitions",
        "SELECT data FROM definitions WHERE name = ?1 ORDER BY version",
        &[name.as_str().into()],
    )?;
    rows.iter().map(|row| row.json(0)).collect()
}

/// The newest version, retired or not.
pub(crate) fn definition_newest(
    database: &mut impl Database,
    name: &TaskName,
) -> Result<Option<DefinitionVersion>, StoreError> {
    let rows = database.query(
        "definitions",
        "SELECT data FROM definitions WHERE name = ?1 ORDER BY version DESC LIMIT 1",
        &[name.as_str().into()],
    )?;
    rows.first().map(|row| row.json(0)).transpose()
}

pub(crate) fn definition_put(
    database: &mut impl Database,
    definition: &Definition,
    author: &str,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let hash = definition.hash();
    let present = definition_newest(database, &definition.name)?;
    if present
        .as_ref()
        .is_some_and(|present| present.hash == hash && !present.retired)
    {
        return Err(Conflict::DefinitionUnchanged.into());
    }
    let version = DefinitionVersion {
        definition: definition.clone(),
        hash,
        version: present.map_or(1, |present| present.version + 1),
        retired: false,
        author: author.into(),
        defined_at: time,
    };
    version_write(database, version, effect)?;
    supersede(
        database,
        &definition.name,
        "its definition has changed; ask again",
        time,
        effect,
    )
}

pub(crate) fn definition_retire(
    database: &mut impl Database,
    name: &TaskName,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let present = definition_newest(database, name)?.filter(|present| !present.retired);
    let mut version = present.ok_or_else(|| Conflict::DefinitionNotFound(name.clone()))?;
    version.retired = true;
    version_write(database, version, effect)?;
    supersede(database, name, "its definition was retired", time, effect)
}

fn version_write(database: &mut impl Database, version: DefinitionVersion, effect: &mut Effect) -> Result<(), Refusal> {
    let data = serde_json::to_string(&version).expect("a definition has string keys and finite numbers only");
    database.execute(
        "INSERT INTO definitions (name, version, data) VALUES (?1, ?2, ?3)
         ON CONFLICT (name, version) DO UPDATE SET data = excluded.data",
        &[
            version.definition.name.as_str().into(),
            i64::from(version.version).into(),
            data.into(),
        ],
    )?;
    effect.deltas.push(Delta::DefinitionPut(version.into()));
    Ok(())
}

/// What waits or could be opened under another version counts for nothing any more (T10).
fn supersede(
    database: &mut impl Database,
    name: &TaskName,
    reason: &str,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    for task in tasks_of(database, name, None)? {
        if task.stage.is_waiting() || task.stage == mayfly_model::task::Stage::Armed {
            let step = TaskStep::Supersede { reason: reason.into() };
            task_apply(database, &task, &step, time, effect)?;
        }
    }
    Ok(())
}

pub(crate) fn policy_find(database: &mut impl Database) -> Result<Option<PolicyFiles>, StoreError> {
    let rows = database.query("policy", "SELECT data FROM policy", &[])?;
    rows.first().map(|row| row.json(0)).transpose()
}

pub(crate) fn policy_set(
    database: &mut impl Database,
    policy: &PolicyFiles,
    replaces: Option<Timestamp>,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    if let Some(replaces) = replaces {
        let present = policy_find(database)?.map_or(Timestamp::default(), |policy| policy.set_at);
        if present != replaces {
            return Err(Conflict::PolicyChanged.into());
        }
    }
    let data = serde_json::to_string(policy).expect("a policy has string keys only");
    database.execute(
        "INSERT INTO policy (only_row, data) VALUES (1, ?1) ON CONFLICT (only_row) DO UPDATE SET data = excluded.data",
        &[data.into()],
    )?;
    effect.deltas.push(Delta::PolicyPut(policy.clone().into()));
    Ok(())
}

pub(crate) fn proposal_list(database: &mut impl Database) -> Result<Vec<Proposal>, StoreError> {
    let rows = database.query("proposals", "SELECT data FROM proposals ORDER BY id", &[])?;
    rows.iter().map(|row| row.json(0)).collect()
}

pub(crate) fn proposal_add(
    database: &mut impl Database,
    proposal: &Proposal,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    if proposal_find(database, &proposal.id)?.is_some() {
        return Err(Conflict::ProposalNotPending(proposal.id.clone()).into());
    }
    proposal_write(database, proposal.clone(), effect)
}

pub(crate) fn proposal_decide(
    database: &mut impl Database,
    id: &str,
    by: &str,
    approve: bool,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let found = proposal_find(database, id)?.filter(|proposal| proposal.state == ProposalState::Pending);
    let mut proposal = found.ok_or_else(|| Conflict::ProposalNotPending(id.into()))?;
    // Their own they may take back.
    if approve && proposal.author == by {
        return Err(Conflict::OwnProposal.into());
    }
    if approve {
        let author = format!("{}, approved by {by}", proposal.author);
        match &proposal.change {
            ProposedChange::Definition { definition } => definition_put(database, definition, &author, time, effect)?,
            ProposedChange::Retirement { name } => definition_retire(database, name, time, effect)?,
            ProposedChange::Policy { files } => {
                let policy = PolicyFiles {
                    files: files.clone(),
                    author,
                    set_at: time,
                };
                policy_set(database, &policy, None, effect)?;
            }
            ProposedChange::Exception { id, change } => exception_step(database, id, change, &author, time, effect)?,
        }
    }
    proposal.state = if approve {
        ProposalState::Approved
    } else {
        ProposalState::Rejected
    };
    proposal.decided_by = by.into();
    proposal.decided_at = Some(time);
    proposal_write(database, proposal, effect)?;
    for forgotten in Proposal::forgotten(proposal_list(database)?.iter()) {
        database.execute("DELETE FROM proposals WHERE id = ?1", &[forgotten.as_str().into()])?;
    }
    Ok(())
}

fn proposal_find(database: &mut impl Database, id: &str) -> Result<Option<Proposal>, StoreError> {
    let rows = database.query("proposals", "SELECT data FROM proposals WHERE id = ?1", &[id.into()])?;
    rows.first().map(|row| row.json(0)).transpose()
}

fn proposal_write(database: &mut impl Database, proposal: Proposal, effect: &mut Effect) -> Result<(), Refusal> {
    let data = serde_json::to_string(&proposal).expect("a proposal has string keys and finite numbers only");
    database.execute(
        "INSERT INTO proposals (id, data) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET data = excluded.data",
        &[proposal.id.as_str().into(), data.into()],
    )?;
    effect.deltas.push(Delta::ProposalPut(proposal.into()));
    Ok(())
}
