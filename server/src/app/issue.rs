//! The only place that signs. Everything that becomes an SVID passes these steps, in this order:
//!
//! ```text
//!   who asks (api) ─▶ may it? (entry, agent, expiry) ─▶ CSR and profile ─▶ commit the intent ─▶ may it still? ─▶ sign
//!                                                                             │                                  │
//!                                                                       log: svid.intended               log: svid.outcome
//! ```
//!
//! A credential whose intent is not durable does not leave the server. A ban, a deletion or a change that commits while
//! the intent is being written still stops the signature: the question is asked again right before it.
//!
//! What lies below `/task` and `/breakglass` comes from windows only, by [`Issuance::for_window`] in `issue/window.rs`,
//! under authorities that sign nothing else (`mayfly-ca` refuses both ways).

mod error;
mod window;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mayfly_ca::{Issuer, Ticket, Validity, X509SvidRequest, parse_csr};
use mayfly_model::{Actor, Agent, Change, Entry, EntryId, KeyClass, Step, SvidIntent};
use mayfly_runtime::Clock;
use mayfly_svid::{Serial, SpiffeId, Timestamp, X509Svid};
use tracing::{debug, error};

use super::exceptions::{self, Cover};
use crate::commit::{CommitError, Committer, Done, Snapshot};

pub use error::IssueError;
pub use window::{WindowRequest, WindowSvid};

/// Lifetimes of what is issued.
#[derive(Clone, Copy, Debug)]
pub struct IssueSettings {
    /// Of a workload's SVID, where its entry does not say.
    pub x509_svid_ttl: Duration,
    /// Of an agent's SVID.
    pub agent_ttl: Duration,
    /// Entries with `admin` or `downstream` get nothing without an exception.
    pub require_exceptions: bool,
}

/// The authority that signs now, published by `authorities`.
pub struct ActiveIssuer {
    /// Lower-case hex of its subject key identifier.
    pub authority_id: String,
    /// Its key and profile.
    pub issuer: Issuer,
}

/// The authorities that sign now, one of each class.
#[derive(Default)]
pub struct ActiveIssuers {
    base: ArcSwapOption<ActiveIssuer>,
    task: ArcSwapOption<ActiveIssuer>,
    breakglass: ArcSwapOption<ActiveIssuer>,
}

impl ActiveIssuers {
    /// The one of `class`; none before it was brought up.
    pub fn of(&self, class: KeyClass) -> &ArcSwapOption<ActiveIssuer> {
        match class {
            KeyClass::Base => &self.base,
            KeyClass::Task => &self.task,
            KeyClass::Breakglass => &self.breakglass,
        }
    }
}

/// Issues SVIDs. Clones share everything.
#[derive(Clone)]
pub struct Issuance {
    committer: Committer,
    clock: Arc<dyn Clock>,
    active: Arc<ActiveIssuers>,
    settings: IssueSettings,
}

impl Issuance {
    /// Issues with whatever authorities `active` holds at the time.
    pub fn new(
        committer: Committer,
        clock: Arc<dyn Clock>,
        active: Arc<ActiveIssuers>,
        settings: IssueSettings,
    ) -> Self {
        Self {
            committer,
            clock,
            active,
            settings,
        }
    }

    /// Issues to workloads of `agent`, by entry, each with a CSR (DER). One answer per request, in order.
    pub async fn for_entries(
        &self,
        actor: &Actor,
        agent: &Agent,
        wanted: Vec<(EntryId, Vec<u8>)>,
    ) -> Vec<Result<X509Svid, IssueError>> {
        let now = self.now();
        let state = self.committer.snapshot();
        let requests = wanted
            .into_iter()
            .map(|(id, csr_der)| {
                let entry = state.entry(&id).filter(|entry| state.is_authorized(agent, entry));
                let entry = entry.ok_or(IssueError::EntryNotFound)?;
                let validity = self.validity_of(&state, entry, now)?;
                Ok(Request {
                    spiffe_id: entry.spec.spiffe_id.clone(),
                    dns_names: entry.spec.dns_names.clone(),
                    csr_der,
                    validity,
                    entry: Some(entry.clone()),
                })
            })
            .collect();
        let prepared = self.prepare(requests).await;
        let recorded = self.record(actor, prepared, vec![]).await.unwrap_or_else(all_failed);
        let (agent_id, issuance) = (agent.id.clone(), self.clone());
        let still = move |state: &Snapshot, prepared: &Prepared| {
            let entry = still_allowed(state, &agent_id, prepared)?;
            issuance.validity_of(state, entry, issuance.now()).map(|_| ())
        };
        self.sign(actor, recorded, still).await
    }

    /// Issues to an agent. `record` makes the change of the agent's record, which is committed together with the intent:
    /// when its guard fails, nothing is signed.
    ///
    /// # Errors
    /// See [`IssueError`]; a refused change is in [`IssueError::Commit`].
    pub async fn for_agent(
        &self,
        actor: &Actor,
        agent_id: &SpiffeId,
        csr_der: &[u8],
        record: impl FnOnce(&Serial, Timestamp) -> Change,
    ) -> Result<X509Svid, IssueError> {
        let request = Request {
            spiffe_id: agent_id.clone(),
            dns_names: vec![],
            csr_der: csr_der.to_vec(),
            validity: Validity::For(self.settings.agent_ttl),
            entry: None,
        };
        let prepared = one(self.prepare(vec![Ok(request)]).await)?;
        let change = record(prepared.ticket.serial(), prepared.ticket.not_after());
        let recorded = one(self
            .record(actor, vec![Ok(prepared)], vec![change])
            .await
            .unwrap_or_else(all_failed))?;
        let agent_id = agent_id.clone();
        let still = move |state: &Snapshot, _: &Prepared| in_force(state, &agent_id).map(|_| ());
        one(self.sign(actor, vec![Ok(recorded)], still).await)
    }

    /// Issues to whom an operator says, without an entry. The caller has checked the role and the path.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub async fn minted(
        &self,
        actor: &Actor,
        spiffe_id: &SpiffeId,
        csr_der: &[u8],
        dns_names: Vec<String>,
        ttl: Option<Duration>,
    ) -> Result<X509Svid, IssueError> {
        let ttl = ttl.unwrap_or(self.settings.x509_svid_ttl);
        let now = self.now();
        let validity = match exceptions::cover_of(&self.committer.snapshot(), spiffe_id, now) {
            Cover::Over { id } => return Err(IssueError::ExceptionOver(id)),
            Cover::Unnamed => Validity::For(ttl),
            Cover::Until(end) => Validity::Until(end.minus(Duration::from_secs(1)).min(now.plus(ttl))),
        };
        let request = Request {
            spiffe_id: spiffe_id.clone(),
            dns_names,
            csr_der: csr_der.to_vec(),
            validity,
            entry: None,
        };
        let prepared = self.prepare(vec![Ok(request)]).await;
        let recorded = one(self.record(actor, prepared, vec![]).await.unwrap_or_else(all_failed))?;
        one(self.sign(actor, vec![Ok(recorded)], |_, _| Ok(())).await)
    }

    fn now(&self) -> Timestamp {
        self.clock.now().into()
    }

    /// As long as the entry or the default says, and never past the entry's own end or that of what excepts it.
    fn validity_of(&self, state: &Snapshot, entry: &Entry, now: Timestamp) -> Result<Validity, IssueError> {
        let ttl = entry.spec.x509_svid_ttl.unwrap_or(self.settings.x509_svid_ttl);
        let end = match entry.spec.expires_at {
            Some(end) if end <= now => return Err(IssueError::EntryExpired(end)),
            end => end,
        };
        let covered = match exceptions::cover(state, entry, now) {
            Cover::Over { id } => return Err(IssueError::ExceptionOver(id)),
            Cover::Unnamed if self.settings.require_exceptions && exceptions::power_of(entry).next().is_some() => {
                return Err(IssueError::ExceptionNeeded);
            }
            Cover::Unnamed => None,
            // A certificate's last second counts.
            Cover::Until(end) => Some(end.minus(Duration::from_secs(1))),
        };
        Ok(match end.into_iter().chain(covered).min() {
            None => Validity::For(ttl),
            Some(end) => Validity::Until(end.min(now.plus(ttl))),
        })
    }

    /// Checks each CSR and fixes what will be signed. A proof of possession costs a signature check.
    async fn prepare(&self, requests: Vec<Result<Request, IssueError>>) -> Vec<Result<Prepared, IssueError>> {
        let Some(active) = self.active.of(KeyClass::Base).load_full() else {
            return requests
                .into_iter()
                .map(|request| request.and(Err(IssueError::NoAuthority)))
                .collect();
        };
        let (count, now) = (requests.len(), self.now());
        blocking(count, move || {
            requests
                .into_iter()
                .map(|request| request.and_then(|request| request.prepare(&active, now)))
                .collect()
        })
        .await
    }

    /// Makes the intents durable, together with `companions`. `Err` says why none of them may be signed; it is the refusal
    /// of a companion or the failure of the store.
    async fn record(
        &self,
        actor: &Actor,
        prepared: Vec<Result<Prepared, IssueError>>,
        companions: Vec<Change>,
    ) -> Result<Vec<Result<Prepared, IssueError>>, (usize, CommitError)> {
        let intents: Vec<SvidIntent> = prepared.iter().flatten().map(Prepared::intent).collect();
        if intents.is_empty() && companions.is_empty() {
            return Ok(prepared);
        }
        match self.commit_intents(actor, intents, companions).await {
            Ok(_) => Ok(prepared),
            Err(refused) => Err((prepared.len(), refused)),
        }
    }

    /// One step of `companions` and then the intents, whose record is the step's last.
    async fn commit_intents(
        &self,
        actor: &Actor,
        intents: Vec<SvidIntent>,
        companions: Vec<Change>,
    ) -> Result<Done, CommitError> {
        let serials = intents.iter().map(|intent| intent.serial.clone()).collect();
        let time = self.now();
        let step = |change| Step {
            actor: actor.clone(),
            time,
            change,
        };
        // Together, so that a stranger's refused attestation leaves no trace in the log.
        let change = Change::Together(companions.into_iter().chain([Change::SvidIntents(intents)]).collect());
        let committed = self.committer.commit_logged(step(change)).await;
        if let Err(CommitError::Store(source)) = &committed
            && !source.will_pass()
        {
            // The intents may be durable all the same; the log shall say that nothing came of them.
            let (signed, failed) = (vec![], serials);
            self.committer.set_aside(step(Change::SvidOutcome { signed, failed }));
        }
        committed
    }

    /// Signs what `still` lets through by the state of that moment, and records what came of each.
    async fn sign(
        &self,
        actor: &Actor,
        recorded: Vec<Result<Prepared, IssueError>>,
        still: impl Fn(&Snapshot, &Prepared) -> Result<(), IssueError> + Send + 'static,
    ) -> Vec<Result<X509Svid, IssueError>> {
        let count = recorded.len();
        let is_short = count <= INLINE
            && recorded
                .iter()
                .flatten()
                .all(|prepared| prepared.active.issuer.is_quick());
        let committer = self.committer.clone();
        let (results, signed, failed) = blocking_with(
            is_short,
            move || {
                let (mut signed, mut failed) = (vec![], vec![]);
                let results = recorded
                    .into_iter()
                    .map(|item| {
                        let prepared = item?;
                        let serial = prepared.ticket.serial().clone();
                        let result = still(&committer.snapshot(), &prepared)
                            .and_then(|()| prepared.active.issuer.sign(prepared.ticket).map_err(IssueError::Sign));
                        if result.is_ok() {
                            signed.push(serial)
                        } else {
                            failed.push(serial)
                        }
                        result
                    })
                    .collect::<Vec<_>>();
                (results, signed, failed)
            },
            || ((0..count).map(|_| Err(IssueError::Stopped)).collect(), vec![], vec![]),
        )
        .await;
        for result in &results {
            match result {
                // Not `info`: the evidence has each of them, and a large fleet's log would be nothing else.
                Ok(svid) => {
                    debug!(spiffe_id = %svid.spiffe_id(), serial = %svid.serial(), not_after = %svid.not_after(),
                           actor = actor.who, "X509-SVID issued");
                }
                Err(failure @ IssueError::Sign(_)) => {
                    error!(error = %mayfly_runtime::Chain(failure), "the key did not sign");
                }
                Err(_) => {}
            }
        }
        if !signed.is_empty() || !failed.is_empty() {
            let change = Change::SvidOutcome { signed, failed };
            self.committer.set_aside(Step {
                actor: actor.clone(),
                time: self.now(),
                change,
            });
        }
        results
    }
}

/// A request that passed authorization.
struct Request {
    spiffe_id: SpiffeId,
    dns_names: Vec<String>,
    csr_der: Vec<u8>,
    validity: Validity,
    /// As it was when it was asked for.
    entry: Option<Arc<Entry>>,
}

impl Request {
    fn prepare(self, active: &Arc<ActiveIssuer>, now: Timestamp) -> Result<Prepared, IssueError> {
        let csr = parse_csr(&self.csr_der).map_err(IssueError::Csr)?;
        let request = X509SvidRequest {
            spiffe_id: self.spiffe_id,
            public_key: csr.public_key,
            dns_names: self.dns_names,
            validity: self.validity,
        };
        let ticket = active.issuer.prepare(request, now).map_err(IssueError::Profile)?;
        Ok(Prepared {
            ticket,
            entry: self.entry,
            active: active.clone(),
        })
    }
}

/// A checked request with the authority that will sign it.
struct Prepared {
    ticket: Ticket,
    entry: Option<Arc<Entry>>,
    active: Arc<ActiveIssuer>,
}

impl Prepared {
    fn intent(&self) -> SvidIntent {
        SvidIntent {
            spiffe_id: self.ticket.spiffe_id().clone(),
            entry_id: self.entry.as_ref().map(|entry| entry.id.clone()),
            serial: self.ticket.serial().clone(),
            public_key_sha256: *self.ticket.public_key_hash(),
            authority_id: self.active.authority_id.clone(),
            not_after: self.ticket.not_after(),
            window_id: self.ticket.window_id(),
        }
    }
}

fn in_force<'s>(state: &'s Snapshot, id: &SpiffeId) -> Result<&'s Agent, IssueError> {
    let agent = state.agent(id).filter(|agent| !agent.banned);
    agent.map(AsRef::as_ref).ok_or(IssueError::AgentNotActive)
}

/// Whether the agent may still have what was prepared for one of its entries.
fn still_allowed<'s>(
    state: &'s Snapshot,
    agent_id: &SpiffeId,
    prepared: &Prepared,
) -> Result<&'s Arc<Entry>, IssueError> {
    let agent = in_force(state, agent_id)?;
    let asked = prepared.entry.as_ref().ok_or(IssueError::EntryNotFound)?;
    let entry = state.entry(&asked.id).filter(|entry| state.is_authorized(agent, entry));
    let entry = entry.ok_or(IssueError::EntryNotFound)?;
    let version = |entry: &Entry| (entry.revision_number, entry.created_at);
    if version(entry) == version(asked) {
        Ok(entry)
    } else {
        Err(IssueError::EntryChanged)
    }
}

fn one<T>(results: Vec<Result<T, IssueError>>) -> Result<T, IssueError> {
    results.into_iter().next().unwrap_or(Err(IssueError::Stopped))
}

fn all_failed((count, refused): (usize, CommitError)) -> Vec<Result<Prepared, IssueError>> {
    (0..count).map(|_| Err(IssueError::Commit(refused.clone()))).collect()
}

/// So few SVIDs are checked, or signed by a quick key, where their request runs: 0.1 ms of work each, and handing it to
/// another thread costs as much again.
const INLINE: usize = 1;

async fn blocking<T: Send + 'static>(
    count: usize,
    work: impl FnOnce() -> Vec<Result<T, IssueError>> + Send + 'static,
) -> Vec<Result<T, IssueError>> {
    blocking_with(count <= INLINE, work, || {
        (0..count).map(|_| Err(IssueError::Stopped)).collect()
    })
    .await
}

/// Runs `work` where it may take its time, here if it is short; `stopped` stands in when the runtime is going down, or
/// when a part of the work panicked.
async fn blocking_with<T: Send + 'static>(
    is_short: bool,
    work: impl FnOnce() -> T + Send + 'static,
    stopped: impl FnOnce() -> T,
) -> T {
    let done = if is_short {
        // As on a thread of its own, a panic ends this request and not its connection.
        catch_unwind(AssertUnwindSafe(work)).map_err(|_| "panicked".to_owned())
    } else {
        tokio::task::spawn_blocking(work).await.map_err(|cut| cut.to_string())
    };
    done.unwrap_or_else(|why| {
        error!(why, "issuing was cut off");
        stopped()
    })
}

#[cfg(test)]
mod tests;
