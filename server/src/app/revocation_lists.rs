//! The revocation lists of the authorities of tasks: signed when something is revoked and before they end, and kept for
//! whoever wants them: agents (Watch), `GetRevocationLists`, and the page `/crl/<authority ID>.crl`.
//!
//! Nothing waits for a signature here. A commit only wakes [`RevocationLists::run`], which looks at the newest snapshot a
//! tenth of a second later: a revocation is on its list then, a burst of them a few times a second.
//!
//! There is a list for every authority in the bundle that is not `base`, also while it is prepared and while nothing is
//! revoked: a consumer that checks lists has one before it sees the first SVID. Numbers grow for ever, see [`number`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mayfly_ca::{AuthorityError, CrlError, RevocationList, Revoked};
use mayfly_keys::{KeyError, KeyManager};
use mayfly_model::task::CLOCK_SLACK;
use mayfly_model::task::TTL_MAX;
use mayfly_model::{Actor, Authority, AuthorityState, Change, KeyClass, Step};
use mayfly_runtime::{CancellationToken, Chain, Clock};
use mayfly_svid::{Serial, Timestamp};
use serde_json::json;
use tracing::{debug, warn};

use super::authorities::issuer_of;
use super::checkpoints::{ListSet, PublishedLists};
use crate::commit::{CommitError, Committer, Snapshot};

/// How long a list counts: a few times the longest life of a task SVID. Shorter would protect nobody, as what a stale list
/// lacks has expired by then, and would push lists to every workload all the time.
const LIFE: Duration = Duration::from_secs(3 * TTL_MAX.as_secs());
/// A list is signed anew at half of its life.
const RENEW: Duration = Duration::from_secs(LIFE.as_secs() / 2);
/// From a revocation to the lists that have it. Consumers that enforce revocations hear of each at once by their agents, and
/// a list is news for every workload of a node: it would be in their way, and they in its.
const GATHER: Duration = Duration::from_millis(100);
/// Between two signatures of one list, however many revocations there are.
const PAUSE: Duration = Duration::from_millis(250);
/// The wall clock may step; nothing sleeps longer than this without looking at it again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// After something failed.
const RETRY: Duration = Duration::from_secs(1);
/// So long an SVID stays on the list after its end: our clock may be ahead of the verifiers'.
const KEEP: Duration = CLOCK_SLACK;

/// The lists as they are now.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// All that was revoked up to here is on them.
    pub epoch: u64,
    /// One for each authority, in the order of their IDs.
    pub lists: Vec<Arc<SignedList>>,
    /// The largest number that was given.
    number: u128,
    /// Whether this process may give numbers.
    is_begun: bool,
}

/// One list.
#[derive(Clone, Debug)]
pub struct SignedList {
    /// Who signed it.
    pub authority_id: String,
    /// Of this class.
    pub class: KeyClass,
    /// Its number.
    pub number: u128,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// Itself.
    pub der: Vec<u8>,
    /// What is on it: since when it is refused, and until when it would have been valid.
    entries: BTreeMap<Serial, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Timestamp,
    not_after: Timestamp,
}

/// Why lists are not what they should be. Those from before stay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListsError {
    /// No number can be given.
    #[error("the beginning could not be recorded")]
    Begin(#[source] CommitError),
    /// The key manager failed.
    #[error("the key manager failed")]
    Key(#[source] KeyError),
    /// It has none of this authority.
    #[error("the key of authority `{0}` is gone")]
    KeyGone(String),
    /// The authority is none.
    #[error("authority `{id}` cannot sign")]
    Unusable {
        /// Its ID.
        id: String,
        /// Why.
        source: AuthorityError,
    },
    /// It was not signed.
    #[error("the list of authority `{id}` was not signed")]
    Sign {
        /// Its ID.
        id: String,
        /// Why.
        source: CrlError,
    },
    /// The work was cut off.
    #[error("the server is stopping")]
    Stopped,
}

/// What a pass did, and when the next one is due at the latest.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// How many lists were signed.
    pub signed: usize,
    /// The next renewal.
    pub due: Option<Timestamp>,
}

/// Keeps the lists.
pub struct RevocationLists {
    committer: Committer,
    keys: Arc<dyn KeyManager>,
    clock: Arc<dyn Clock>,
    current: ArcSwap<Lists>,
    published: PublishedLists,
    tell: Box<dyn Fn() + Send + Sync>,
}

impl RevocationLists {
    /// Publishes to `published`, and calls `tell` each time that there is something new there.
    pub fn new(
        committer: Committer,
        keys: Arc<dyn KeyManager>,
        clock: Arc<dyn Clock>,
        published: PublishedLists,
        tell: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            committer,
            keys,
            clock,
            current: ArcSwap::default(),
            published,
            tell: Box::new(tell),
        }
    }

    /// The lists as they are now. Cheap.
    pub fn current(&self) -> Arc<Lists> {
        self.current.load_full()
    }

    /// Keeps the lists until `stop`. One at a time.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut revision = self.committer.revision();
        while !stop.is_cancelled() {
            revision.borrow_and_update();
            let (mut pause, mut quiet) = (LOOK_AGAIN, Duration::ZERO);
            match self.pass().await {
                Ok(passed) => {
                    if passed.signed > 0 {
                        quiet = PAUSE;
                    }
                    if let Some(due) = passed.due {
                        pause = pause.min(due.since(self.now()));
                    }
                }
                Err(failure) => {
                    warn!(error = %Chain(&failure), "revocation lists are not up to date; trying again");
                    quiet = RETRY;
                }
            }
            let look_again = async {
                tokio::time::sleep(quiet).await;
                tokio::select! {
                    () = tokio::time::sleep(pause) => true,
                    changed = revision.changed() => {
                        tokio::time::sleep(GATHER).await;
                        changed.is_ok()
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                goes_on = look_again => if !goes_on { return },
            }
        }
    }

    /// Signs the lists that lack something or are half over, and drops those whose authority is gone.
    ///
    /// # Errors
    /// See [`ListsError`], the first one; the other lists are renewed all the same.
    pub async fn pass(&self) -> Result<Passed, ListsError> {
        self.begin().await?;
        let (state, now, before) = (self.committer.snapshot(), self.now(), self.current());
        let mut after = Lists {
            lists: vec![],
            ..before.as_ref().clone()
        };
        // What was revoked up to the epoch of the lists is on them.
        let mut new = revoked(&state, before.epoch, now);
        let (mut signed, mut failure) = (0, None);
        for authority in state.authorities().filter(|authority| has_list(authority, now)) {
            let previous = before.of(&authority.id);
            let mut entries = match previous {
                Some(_) => new.remove(&authority.id).unwrap_or_default(),
                // The first one of this process, or of this authority: whatever is revoked of it.
                None => revoked(&state, 0, now).remove(&authority.id).unwrap_or_default(),
            };
            if let Some(previous) = previous {
                if previous.holds(&entries) && previous.is_fresh(now) {
                    after.lists.push(previous.clone());
                    continue;
                }
                previous.carry_over(&mut entries, now);
            }
            let number = number(&state, after.number);
            match self.sign(authority, number, entries, now).await {
                Ok(list) => {
                    debug!(
                        authority_id = authority.id,
                        entries = list.entries.len(),
                        "revocation list signed"
                    );
                    after.number = number;
                    after.lists.push(Arc::new(list));
                    signed += 1;
                }
                Err(error) => {
                    after.lists.extend(previous.cloned());
                    failure = failure.or(Some(error));
                }
            }
        }
        after.lists.sort_by(|a, b| a.authority_id.cmp(&b.authority_id));
        if failure.is_none() {
            after.epoch = state.epoch();
        }
        let due = after.lists.iter().map(|list| list.signed_at.plus(RENEW)).min();
        let is_new = signed > 0 || after.lists.len() != before.lists.len();
        let is_ahead = after.epoch != before.epoch;
        if is_new || is_ahead {
            let set = ListSet {
                ders: after.lists.iter().map(|list| list.der.clone()).collect(),
                epoch: after.epoch,
            };
            self.current.store(Arc::new(after));
            self.published.store(Arc::new(set));
        }
        if is_new {
            (self.tell)();
        }
        failure.map_or(Ok(Passed { signed, due }), Err)
    }

    /// A commit of this process's own, so that what it numbers is above all that an earlier one did.
    async fn begin(&self) -> Result<(), ListsError> {
        if self.current.load().is_begun {
            return Ok(());
        }
        let change = Change::Note {
            kind: "revocation_lists.begun",
            subject: String::new(),
            body: json!({}),
        };
        let (actor, time) = (Actor::server(), self.now());
        let committed = self.committer.commit(Step { actor, time, change }).await;
        committed.map_err(ListsError::Begin)?;
        self.current.rcu(|lists| Lists {
            is_begun: true,
            ..lists.as_ref().clone()
        });
        Ok(())
    }

    async fn sign(
        &self,
        authority: &Arc<Authority>,
        number: u128,
        entries: BTreeMap<Serial, Entry>,
        now: Timestamp,
    ) -> Result<SignedList, ListsError> {
        let id = || authority.id.clone();
        let signer = self.keys.find(&authority.key_id).await.map_err(ListsError::Key)?;
        let signer = signer.ok_or_else(|| ListsError::KeyGone(id()))?;
        let trust_domain = self.committer.snapshot().trust_domain().clone();
        let issuer = issuer_of(authority.class, trust_domain, authority.cert_der.clone(), signer);
        let issuer = issuer.map_err(|source| ListsError::Unusable { id: id(), source })?;
        let revoked = entries.iter().map(|(serial, entry)| Revoked {
            serial: serial.clone(),
            at: entry.at,
        });
        let list = RevocationList {
            number,
            life: LIFE,
            revoked: revoked.collect(),
        };
        let der = tokio::task::spawn_blocking(move || issuer.sign_crl(&list, now))
            .await
            .map_err(|_| ListsError::Stopped)?
            .map_err(|source| ListsError::Sign { id: id(), source })?;
        Ok(SignedList {
            authority_id: id(),
            class: authority.class,
            number,
            signed_at: now,
            der: der.to_vec(),
            entries,
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now().into()
    }
}

impl Lists {
    /// The list of this authority.
    pub fn of(&self, authority_id: &str) -> Option<&Arc<SignedList>> {
        self.lists.iter().find(|list| list.authority_id == authority_id)
    }
}

impl SignedList {
    /// The serial numbers on it.
    pub fn serials(&self) -> impl Iterator<Item = &Serial> {
        self.entries.keys()
    }

    fn holds(&self, entries: &BTreeMap<Serial, Entry>) -> bool {
        entries.keys().all(|serial| self.entries.contains_key(serial))
    }

    /// Not if the clock was set back to before it either: nobody would take it.
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.signed_at <= now && now < self.signed_at.plus(RENEW)
    }

    /// What is on this list stays with its date, unless its end is long over.
    fn carry_over(&self, entries: &mut BTreeMap<Serial, Entry>, now: Timestamp) {
        for (serial, entry) in &self.entries {
            if entry.not_after.plus(KEEP) >= now {
                entries.insert(serial.clone(), *entry);
            }
        }
    }
}

/// The next number: epoch, revision of the database, and a count, in 48, 48 and 32 bits. Both of the first are durable and
/// never go back, and each process makes a commit before it numbers anything, so the next process begins above this one,
/// whatever the clock says.
fn number(state: &Snapshot, previous: u128) -> u128 {
    let begin = (u128::from(state.epoch()) << 80) | (u128::from(state.revision().0) << 32) | 1;
    begin.max(previous + 1)
}

/// Whether consumers may want a list of it: it is in the bundle and signs SVIDs of tasks, now, before or after.
fn has_list(authority: &Authority, now: Timestamp) -> bool {
    authority.class != KeyClass::Base && authority.state != AuthorityState::Revoked && authority.not_after >= now
}

/// What was revoked after `epoch` and could still count, by the authority that signed it.
fn revoked(state: &Snapshot, epoch: u64, now: Timestamp) -> HashMap<String, BTreeMap<Serial, Entry>> {
    let mut found: HashMap<String, BTreeMap<Serial, Entry>> = HashMap::new();
    let recent = state
        .revocations_after(epoch)
        .filter(|revocation| revocation.not_after.plus(KEEP) >= now);
    for revocation in recent {
        let task = state.task_of_window(&revocation.window_id);
        let Some(window) = task.and_then(|task| task.window(&revocation.window_id)) else {
            continue;
        };
        let at = window.closed_at.unwrap_or(now).min(now);
        let refused = window.issuances.iter().filter(|lease| lease.revoked.is_some());
        for lease in refused.filter(|lease| lease.not_after.plus(KEEP) >= now) {
            let not_after = lease.not_after;
            let entries = found.entry(lease.authority_id.clone()).or_default();
            entries.insert(lease.serial.clone(), Entry { at, not_after });
        }
    }
    found
}

#[cfg(test)]
mod tests;
