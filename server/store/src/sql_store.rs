//! The store over any [`Database`]: what a commit is, and what is done when one fails.

use std::collections::HashSet;

use mayfly_model::{Change, Revision, Step};
use mayfly_svid::TrustDomain;

use crate::agent::agent_list;
use crate::authority::authority_list;
use crate::bundle::{bundle_list, own_bundle_ensure};
use crate::definition::{definition_list, policy_find, proposal_list};
use crate::dialect::{Database, Row};
use crate::entry::entry_list;
use crate::exception::exception_list;
use crate::history::{changes_append, changes_list};
use crate::log::PendingLog;
use crate::step::{Refusal, step_do};
use crate::task::{epoch_now, revocations_of, task_list};
use crate::{Committed, State, Store, StoreError};

pub(crate) struct SqlStore<D> {
    database: D,
    trust_domain: TrustDomain,
    /// What memory was built up to; none while that is in doubt, until the next `load`.
    revision: Option<Revision>,
}

impl<D: Database> SqlStore<D> {
    /// Makes a new database this trust domain's, and brings the schema of one that is up to date. One of another trust
    /// domain is refused before anything is done to it.
    pub(crate) fn open(database: D, trust_domain: &TrustDomain) -> Result<Self, StoreError> {
        let mut store = Self {
            database,
            trust_domain: trust_domain.clone(),
            revision: None,
        };
        if store.database.has_schema()? {
            is_own(&mut store.database, trust_domain)?;
        }
        store.database.migrate()?;
        let revision = store.in_transaction(|database, own| {
            if !is_own(database, own)? {
                database.execute(
                    "INSERT INTO store (only_row, history, trust_domain, revision) VALUES (1, ?1, ?2, 0)",
                    &[uuid::Uuid::new_v4().to_string().into(), own.as_str().into()],
                )?;
            }
            own_bundle_ensure(database, own)?;
            revision_now(database)
        })?;
        store.revision = Some(revision);
        Ok(store)
    }

    fn in_transaction<T>(
        &mut self,
        run: impl FnOnce(&mut D, &TrustDomain) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.database.begin()?;
        let result = run(&mut self.database, &self.trust_domain).and_then(|value| {
            self.database.commit()?;
            Ok(value)
        });
        if result.is_err() {
            self.database.rollback();
        }
        result
    }

    /// Does the steps in the transaction that is open; whether any happened.
    fn steps_do(&mut self, before: Revision, steps: &[Step]) -> Result<(Committed, bool), StoreError> {
        let database = &mut self.database;
        let found = revision_now(database)?;
        if found != before {
            return Err(StoreError::ChangedElsewhere {
                expected: before,
                found,
            });
        }
        let mut outcomes = Vec::with_capacity(steps.len());
        let mut changed = Vec::new();
        let mut log = PendingLog::default();
        // How many records each step left.
        let mut counts = Vec::with_capacity(steps.len());
        for step in steps {
            // What cannot be refused has nothing to undo; most commits of a busy server are of that kind.
            let guarded = !step.change.is_record();
            if guarded {
                database.savepoint()?;
            }
            outcomes.push(match step_do(database, &self.trust_domain, step) {
                Ok(mut effect) => {
                    if guarded {
                        database.release()?;
                    }
                    counts.push(log.push(step, &effect));
                    changed.append(&mut effect.changed);
                    Ok(effect.deltas)
                }
                Err(Refusal::Conflict(conflict)) => {
                    database.undo()?;
                    counts.push(0);
                    Err(conflict)
                }
                Err(Refusal::Store(error)) => return Err(error),
            });
        }
        if outcomes.iter().all(Result::is_err) {
            return Ok((
                Committed {
                    revision: before,
                    log_indexes: vec![None; outcomes.len()],
                    outcomes,
                },
                false,
            ));
        }
        let revision = i64::try_from(before.0 + 1).expect("a server does not live for 2^63 commits");
        let mut seen = HashSet::new();
        changed.retain(|what| seen.insert(what.clone()));
        changes_append(database, revision, &changed)?;
        let mut size = log.write(database, Revision(before.0 + 1))?;
        let log_indexes = counts
            .into_iter()
            .map(|count| {
                size += count as u64;
                (count > 0).then(|| size - 1)
            })
            .collect();
        database.execute("UPDATE store SET revision = ?1", &[revision.into()])?;
        Ok((
            Committed {
                revision: Revision(before.0 + 1),
                outcomes,
                log_indexes,
            },
            true,
        ))
    }

    /// Finds out whether a commit happened whose end reported `error`.
    fn settle(&mut self, before: Revision, committed: Committed, error: StoreError) -> Result<Committed, StoreError> {
        self.revision = None;
        let found = self.database.reopen().and_then(|()| revision_now(&mut self.database));
        match found {
            // Nothing of it is there. That the rest is on the disk was reported by the commits that wrote it.
            Ok(found) if found == before => {
                self.revision = Some(before);
                Err(error)
            }
            Ok(found) if found == committed.revision && self.database.secure().is_ok() => {
                tracing::warn!(revision = found.0, error = %error, "commit reported an error but is durable");
                self.revision = Some(found);
                Ok(committed)
            }
            _ => {
                tracing::error!(error = %error, "commit failed and its fate is unknown");
                Err(StoreError::FateUnknown)
            }
        }
    }
}

impl<D: Database> Store for SqlStore<D> {
    fn load(&mut self) -> Result<State, StoreError> {
        if self.revision.is_none() {
            self.database.reopen()?;
            self.database.secure()?;
        }
        let state = self.in_transaction(|database, _| {
            let rows = database.query("store", "SELECT history FROM store", &[])?;
            let history = rows
                .first()
                .map(|row| row.text(0))
                .transpose()?
                .ok_or_else(no_store_row)?
                .to_owned();
            let tasks = task_list(database)?;
            Ok(State {
                history,
                definitions: definition_list(database)?,
                policy: policy_find(database)?,
                proposals: proposal_list(database)?,
                exceptions: exception_list(database)?,
                revocations: revocations_of(&tasks),
                tasks,
                epoch: epoch_now(database)?,
                revision: revision_now(database)?,
                entries: entry_list(database)?,
                agents: agent_list(database)?,
                authorities: authority_list(database)?,
                bundles: bundle_list(database)?,
                changes: changes_list(database)?,
            })
        })?;
        self.revision = Some(state.revision);
        Ok(state)
    }

    fn commit(&mut self, steps: &[Step]) -> Result<Committed, StoreError> {
        let before = self.revision.ok_or(StoreError::FateUnknown)?;
        self.database.begin()?;
        match self.steps_do(before, steps) {
            Ok((committed, true)) => match self.database.commit() {
                Ok(()) => {
                    self.revision = Some(committed.revision);
                    let is_erasure = |step: &Step| matches!(step.change, Change::PrivateErase(_));
                    // What was erased stands in the WAL until that is written back; who reads now delays it to the next.
                    if steps.iter().any(is_erasure) && self.database.secure().is_err() {
                        tracing::warn!("what was erased is in the WAL until the next erasure or start");
                    }
                    Ok(committed)
                }
                Err(error) => self.settle(before, committed, error),
            },
            Ok((committed, false)) => {
                self.database.rollback();
                Ok(committed)
            }
            Err(error) => {
                self.database.rollback();
                Err(error)
            }
        }
    }

    fn is_healthy(&mut self) -> Result<(), StoreError> {
        self.revision.ok_or(StoreError::FateUnknown)?;
        self.database.begin()?;
        let result = revision_now(&mut self.database).map(drop);
        self.database.rollback();
        result
    }
}

/// Whether the database is that of `own`; false if it is nobody's yet.
fn is_own(database: &mut impl Database, own: &TrustDomain) -> Result<bool, StoreError> {
    let rows = database.query("store", "SELECT trust_domain FROM store", &[])?;
    match rows.first().map(|row| row.text(0)).transpose()? {
        None => Ok(false),
        Some(found) if found == own.as_str() => Ok(true),
        Some(found) => Err(StoreError::ForeignTrustDomain {
            found: found.into(),
            expected: own.clone(),
        }),
    }
}

fn revision_now(database: &mut impl Database) -> Result<Revision, StoreError> {
    let rows: Vec<Row> = database.query("store", "SELECT revision FROM store", &[])?;
    Ok(Revision(rows.first().ok_or_else(no_store_row)?.unsigned(0)?))
}

fn no_store_row() -> StoreError {
    StoreError::Corrupt {
        table: "store",
        problem: "its one row is missing".into(),
    }
}

#[cfg(test)]
mod tests;
