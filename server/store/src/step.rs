//! One step of a commit: which record's function does it.

use mayfly_model::{Change, Conflict, Delta, Step};
use mayfly_svid::{Timestamp, TrustDomain};

use crate::agent::{agent_attest, agent_ban, agent_confirm, agent_delete, agent_renew, agent_report};
use crate::authority::{authority_activate, authority_prepare, authority_prune, authority_revoke};
use crate::bundle::{bundle_append, bundle_create, bundle_delete, bundle_set, bundle_update};
use crate::definition::{definition_put, definition_retire, policy_set, proposal_add, proposal_decide};
use crate::dialect::Database;
use crate::entry::{entry_create, entry_delete, entry_expire, entry_update};
use crate::exception::exception_step;
use crate::log::private_erase;
use crate::task::{task_prune, task_step, task_submit};
use crate::token::{token_create, token_prune};
use crate::{Changed, StoreError};

/// What a step did.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    /// For memory.
    pub(crate) deltas: Vec<Delta>,
    /// For the change history.
    pub(crate) changed: Vec<Changed>,
}

/// Why a step did not happen.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Its guard: this step only.
    Conflict(Conflict),
    /// The database: the whole commit.
    Store(StoreError),
}

impl From<Conflict> for Refusal {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Does `step` in the present transaction. After a refusal the caller undoes what was done of it.
pub(crate) fn step_do(database: &mut impl Database, own: &TrustDomain, step: &Step) -> Result<Effect, Refusal> {
    let mut effect = Effect::default();
    change_do(database, own, &step.change, step.time, &mut effect)?;
    Ok(effect)
}

fn change_do(
    database: &mut impl Database,
    own: &TrustDomain,
    change: &Change,
    time: Timestamp,
    out: &mut Effect,
) -> Result<(), Refusal> {
    match change {
        Change::Together(changes) => {
            for change in changes {
                change_do(database, own, change, time, out)?;
            }
        }
        Change::EntryCreate(entry) => entry_create(database, entry, false, out)?,
        Change::EntryUpdate { id, patch } => entry_update(database, own, id, patch, out)?,
        Change::EntryDelete(id) => entry_delete(database, id, time, out)?,
        Change::EntryExpire(id) => entry_expire(database, id, time, out)?,
        Change::AgentAttest { agent, token } => agent_attest(database, agent, token.as_ref(), time, out)?,
        Change::AgentRenew {
            id,
            by,
            serial,
            expires_at,
        } => agent_renew(database, id, by, (serial.clone(), *expires_at), out)?,
        Change::AgentConfirm { id, serial } => agent_confirm(database, id, serial, out)?,
        Change::AgentReport { id, version } => agent_report(database, id, version, out)?,
        Change::AgentBan(id) => agent_ban(database, id, out)?,
        Change::AgentDelete(id) => agent_delete(database, id, time, out)?,
        Change::TokenCreate {
            hash,
            expires_at,
            alias,
        } => token_create(database, hash, *expires_at, alias.as_ref())?,
        Change::TokenPrune => token_prune(database, time)?,
        Change::AuthorityPrepare(authority) => authority_prepare(database, own, authority, out)?,
        Change::AuthorityActivate(id) => authority_activate(database, id, out)?,
        Change::AuthorityPrune(id) => authority_prune(database, own, id, time, out)?,
        Change::BundleAppend {
            x509_authorities,
            jwt_authorities,
        } => {
            bundle_append(database, own, x509_authorities, jwt_authorities, out)?;
        }
        Change::BundleCreate(bundle) => bundle_create(database, own, bundle, out)?,
        Change::BundleUpdate { trust_domain, patch } => bundle_update(database, own, trust_domain, patch, out)?,
        Change::BundleSet(bundle) => bundle_set(database, own, bundle, out)?,
        Change::BundleDelete { trust_domain, mode } => {
            bundle_delete(database, own, trust_domain, *mode, time, out)?;
        }
        Change::AuthorityRevoke(id) => authority_revoke(database, own, id, out)?,
        Change::DefinitionPut { definition, author } => definition_put(database, definition, author, time, out)?,
        Change::DefinitionRetire(name) => definition_retire(database, name, time, out)?,
        Change::PolicySet { policy, replaces } => policy_set(database, policy, *replaces, out)?,
        Change::ProposalAdd(proposal) => proposal_add(database, proposal, out)?,
        Change::ProposalDecide { id, by, approve } => proposal_decide(database, id, by, *approve, time, out)?,
        Change::ExceptionStep { id, step, approved_by } => {
            exception_step(database, id, step, approved_by, time, out)?;
        }
        Change::TaskSubmit(task) => task_submit(database, task, time, out)?,
        Change::TaskStep { id, step } => task_step(database, id, step, time, out)?,
        Change::PrivateErase(commitments) => private_erase(database, commitments)?,
        Change::TaskPrune { before } => task_prune(database, *before, out)?,
        record if record.is_record() => {}
        // The model grew and this function did not: refusing is safe, doing nothing and recording it would not be.
        _ => {
            return Err(StoreError::Failed {
                doing: "do an unknown change",
                source: "no rule for it".into(),
            }
            .into());
        }
    }
    Ok(())
}
