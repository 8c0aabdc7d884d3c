//! SVIDs of windows: the only way to what is below `/task` and `/breakglass`.
//!
//! Right before the signature the durable state is asked whether there is an open window of this task, agent and identity
//! to which exactly this SVID was counted (I1, I2). A caller that forgot to record it gets nothing.

use mayfly_ca::{ProfileError, Validity, X509SvidRequest, parse_csr};
use mayfly_model::task::{
    DefinitionHash, Issuance as Lease, Stage, TTL_FLOOR, Task, TaskClass, TaskId, TtlTerm, Window,
};
use mayfly_model::{Actor, AuthorityState, Change, Delta, KeyClass};
use mayfly_svid::{SpiffeId, TaskExtension, TaskPath, Timestamp, WindowId, X509Svid};

use super::{IssueError, Prepared, blocking, in_force, one};
use crate::app::issue::Issuance;
use crate::commit::Snapshot;

/// An SVID of a window that policy allows.
#[derive(Clone, Debug)]
pub struct WindowRequest {
    /// The request that the window is opened by, or was.
    pub task_id: TaskId,
    /// The window.
    pub window_id: WindowId,
    /// Who holds it: the agent that asks.
    pub agent_id: SpiffeId,
    /// The identity that it gives, below the root of its class.
    pub spiffe_id: SpiffeId,
    /// Of the definition.
    pub class: TaskClass,
    /// Of the definition.
    pub definition: DefinitionHash,
    /// PKCS#10, DER; its key is used for nothing else.
    pub csr_der: Vec<u8>,
    /// The first second in which the SVID is valid; it has come.
    pub not_before: Timestamp,
    /// The last one; before `closes_at`. Cut to the life of the authority.
    pub not_after: Timestamp,
    /// What made it so short.
    pub ttl_term: TtlTerm,
    /// The first instant at which the window is over.
    pub closes_at: Timestamp,
}

/// What came of it.
#[derive(Debug)]
pub struct WindowSvid {
    /// The SVID.
    pub svid: X509Svid,
    /// As it was recorded.
    pub issuance: Lease,
    /// What the commit did, such as the task as it stands now.
    pub deltas: Vec<Delta>,
    /// Where the log has the intent; the certificate says so as well.
    pub log_index: u64,
}

impl Issuance {
    /// Issues an SVID of a window. `record` makes the changes that count it to the window (a [`Change::TaskStep`] that opens
    /// or renews it with this very issuance), which are committed together with the intent: when a guard fails, nothing is
    /// signed.
    ///
    /// # Errors
    /// See [`IssueError`]; a refused change is in [`IssueError::Commit`]. After [`IssueError::Sign`],
    /// [`IssueError::WindowNotOpen`], [`IssueError::AgentNotActive`] and [`IssueError::AuthorityRevoked`] what was recorded
    /// stands, without a certificate: the window can be renewed or closed.
    pub async fn for_window(
        &self,
        actor: &Actor,
        request: WindowRequest,
        record: impl FnOnce(&Lease) -> Vec<Change>,
    ) -> Result<WindowSvid, IssueError> {
        let now = self.now();
        in_force(&self.committer.snapshot(), &request.agent_id)?;
        let class = match request.class {
            TaskClass::Standard => KeyClass::Task,
            TaskClass::Breakglass => KeyClass::Breakglass,
        };
        let active = self.active.of(class).load_full().ok_or(IssueError::NoAuthority)?;
        let asked = request.clone();
        let prepare = move || vec![asked.prepare(active, now)];
        let prepared = one(blocking(1, prepare).await)?;
        let ticket = &prepared.ticket;
        let is_cut = ticket.not_after() < request.not_after;
        let issuance = Lease {
            serial: ticket.serial().clone(),
            public_key_sha256: hex::encode(ticket.public_key_hash()),
            not_before: ticket.not_before(),
            not_after: ticket.not_after(),
            authority_id: prepared.active.authority_id.clone(),
            ttl_term: if is_cut { TtlTerm::Authority } else { request.ttl_term },
            revoked: None,
        };
        let left = issuance.not_after.since(now);
        if left < TTL_FLOOR {
            let term = issuance.ttl_term;
            return Err(IssueError::WindowTooShort { left, term });
        }
        let changes = record(&issuance);
        let done = self.commit_intents(actor, vec![prepared.intent()], changes).await;
        let done = done.map_err(IssueError::Commit)?;
        let log_index = done.log_index.expect("an intent leaves an entry");
        let recorded = Prepared {
            ticket: prepared.ticket.recorded_at(log_index),
            ..prepared
        };
        let still = move |state: &Snapshot, prepared: &Prepared| request.still_allowed(state, prepared);
        let svid = one(self.sign(actor, vec![Ok(recorded)], still).await)?;
        Ok(WindowSvid {
            svid,
            issuance,
            deltas: done.deltas,
            log_index,
        })
    }
}

impl WindowRequest {
    fn prepare(self, active: std::sync::Arc<super::ActiveIssuer>, now: Timestamp) -> Result<Prepared, IssueError> {
        let csr = parse_csr(&self.csr_der).map_err(IssueError::Csr)?;
        let extension = self.extension();
        let request = X509SvidRequest {
            spiffe_id: self.spiffe_id,
            public_key: csr.public_key,
            dns_names: vec![],
            validity: Validity::Between(self.not_before, self.not_after),
        };
        let ticket = active.issuer.prepare_task(request, extension, now);
        let ticket = ticket.map_err(|refused| match refused {
            // Not a fault of who asked: too little is left.
            ProfileError::NoValidity => IssueError::WindowTooShort {
                left: self.not_after.since(now),
                term: self.ttl_term,
            },
            refused => IssueError::Profile(refused),
        })?;
        Ok(Prepared {
            ticket,
            entry: None,
            active,
        })
    }

    fn extension(&self) -> TaskExtension {
        let (definition_hash, _) = self.definition.0.split_at(16);
        TaskExtension {
            window_id: self.window_id,
            definition_hash: definition_hash.try_into().expect("half of 32 bytes are 16"),
            closes: Timestamp::from_unix(self.closes_at.unix().saturating_sub(1)),
            // Set once it is known.
            log_index: 0,
        }
    }

    /// Whether the state has it all: the agent, the window, and in it this SVID.
    fn still_allowed(&self, state: &Snapshot, prepared: &Prepared) -> Result<(), IssueError> {
        in_force(state, &self.agent_id)?;
        let task = state.task(&self.task_id).ok_or(IssueError::WindowNotOpen)?;
        let window = task.window(&self.window_id).ok_or(IssueError::WindowNotOpen)?;
        if !self.is_of(task) || !self.is_open(window, prepared) || self.is_of_other_class(state, task) {
            return Err(IssueError::WindowNotOpen);
        }
        let authority = state
            .authorities()
            .find(|authority| authority.id == prepared.active.authority_id);
        match authority.map(|authority| authority.state) {
            Some(AuthorityState::Active | AuthorityState::Old) => Ok(()),
            _ => Err(IssueError::AuthorityRevoked),
        }
    }

    fn is_of(&self, task: &Task) -> bool {
        let name = &task.request.task;
        let is_named = |path: TaskPath<'_>| path.team == name.team() && path.task == name.task();
        task.request.definition == self.definition && TaskPath::of(&self.spiffe_id).is_some_and(is_named)
    }

    fn is_open(&self, window: &Window, prepared: &Prepared) -> bool {
        let ticket = &prepared.ticket;
        let counted = window.issuances.iter().find(|lease| lease.serial == *ticket.serial());
        let is_counted = counted.is_some_and(|lease| {
            lease.revoked.is_none()
                && lease.public_key_sha256 == hex::encode(ticket.public_key_hash())
                && lease.not_after == ticket.not_after()
        });
        is_counted
            && window.stage == Stage::Open
            && window.spiffe_id == self.spiffe_id
            && window.instance.agent_id == self.agent_id
            // An extension that was committed meanwhile moves it further, nothing moves it back.
            && window.closes_at >= self.closes_at
    }

    /// The definition may have gone since, which ends windows in its own way.
    fn is_of_other_class(&self, state: &Snapshot, task: &Task) -> bool {
        let version = state.definition(&task.request.task);
        version.is_some_and(|version| version.hash == self.definition && version.definition.class != self.class)
    }
}

#[cfg(test)]
mod tests;
