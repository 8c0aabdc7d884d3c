//! The life of the signing authorities: prepared at half the life of the active one, active at two thirds, pruned once
//! everything that they signed has expired. Each class has its own (base, task, breakglass), with the same life.
//!
//! A certificate is in the bundle, and the bundle with the agents, a sixth of a life before its key signs anything. The
//! state says what to do, a tick only wakes: the same pass brings up a new server, catches up after a long stop and goes
//! on after a failed step. Nothing here reads a timer to decide; the clock is asked.
//!
//! All classes are brought up with the server, also where nobody has defined a task. It costs a kilobyte in the bundle. In
//! return the first task SVID, and the one of an emergency, is known to consumers that read a file or poll a foreign
//! bundle each five minutes: a definition can be used the moment that it is there, and no request waits for certificates
//! to spread.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mayfly_ca::{
    AuthorityError, BACKDATE, CreateAuthorityError, Issuer, Voucher, create_authority, random_serial, vouch,
};
use mayfly_keys::{KeyError, KeyManager, KeyType, Signer};
use mayfly_model::{Actor, Authority, AuthorityState, Change, Conflict, Delta, KeyClass, Step};
use mayfly_runtime::Clock;
use mayfly_svid::{Serial, TaskRoot, Timestamp, TrustDomain, public_key_id};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tracing::{info, warn};

use super::issue::{ActiveIssuer, ActiveIssuers};
use crate::commit::{CommitError, Committer};

/// A hard cut meets a pass that changes the same authorities; so often it looks again.
const CUT_TRIES: usize = 5;

/// After this part of its life an authority is known everywhere: in a change that was prepared it is twice as old before it
/// signs anything.
const SPREAD: u32 = 12;
/// Authorities that vouch for a new one: a chain has at most eight certificates, and two reach whoever was away.
const VOUCHERS_MAX: usize = 2;

/// What new authorities are like.
#[derive(Clone, Copy, Debug)]
pub struct AuthoritySettings {
    /// Their lifetime.
    pub ttl: Duration,
    /// Their kind of key.
    pub key_type: KeyType,
}

/// Why a pass over the authorities did not get through. The next pass begins where this one stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The key manager failed.
    #[error("the key manager failed")]
    Key(#[source] KeyError),
    /// The certificate could not be made.
    #[error("the authority's certificate could not be made")]
    Create(#[source] CreateAuthorityError),
    /// A recorded authority cannot issue with its key.
    #[error("authority `{id}` cannot issue")]
    Unusable {
        /// Its ID.
        id: String,
        /// Why.
        source: AuthorityError,
    },
    /// A step could not be made durable.
    #[error("the step could not be recorded")]
    Commit(#[source] CommitError),
    /// The base authority is not cut: every identity, the agents' and the server's own, would end with it.
    #[error("the base authority is not revoked at once: every identity would end with it")]
    BaseCut,
    /// The work was cut off.
    #[error("the server is stopping")]
    Stopped,
}

/// What a hard cut did.
#[derive(Debug)]
pub struct Cut {
    /// The authority that signs now.
    pub authority_id: String,
    /// Those that nobody accepts any more.
    pub revoked: Vec<String>,
    /// What the commit did.
    pub deltas: Vec<Delta>,
}

/// Keeps an authority of each class active.
pub struct Authorities {
    committer: Committer,
    keys: Arc<dyn KeyManager>,
    clock: Arc<dyn Clock>,
    settings: AuthoritySettings,
    active: Arc<ActiveIssuers>,
}

/// The authority that comes next, and whether it was made just now and is not in the state yet.
struct Next {
    authority: Arc<Authority>,
    is_new: bool,
}

impl Authorities {
    /// Nothing is active before the first [`Self::pass`].
    pub fn new(
        committer: Committer,
        keys: Arc<dyn KeyManager>,
        clock: Arc<dyn Clock>,
        settings: AuthoritySettings,
    ) -> Self {
        Self {
            committer,
            keys,
            clock,
            settings,
            active: Arc::default(),
        }
    }

    /// Where the authorities that sign now are found.
    pub fn active(&self) -> Arc<ActiveIssuers> {
        self.active.clone()
    }

    /// Does whatever is due: brings up an authority where none can sign, prepares the next, changes over, prunes. What is
    /// due at the same time is one commit, and so one new bundle. A class that fails does not hold up the others.
    ///
    /// # Errors
    /// See [`RotateError`], of the first class that failed; what was done before stays done, and the authorities that sign
    /// keep signing.
    pub async fn pass(&self) -> Result<(), RotateError> {
        let now = self.now();
        let (mut changes, mut sound, mut failure) = (vec![], vec![], None);
        // Together, as making a key may take its time.
        let due = join_all(KeyClass::ALL.map(|class| self.due(class, now))).await;
        for (class, due) in KeyClass::ALL.into_iter().zip(due) {
            match due {
                Ok(due) => {
                    sound.push(class);
                    changes.extend(due);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if !changes.is_empty() {
            self.commit(Actor::server(), changes).await?;
        }
        for class in sound {
            if let Err(error) = self.publish(class).await {
                failure = failure.or(Some(error));
            }
        }
        self.prune(now).await?;
        failure.map_or(Ok(()), Err)
    }

    /// The hard cut: from this commit on the bundle lacks every authority of `class` that signed something, so that no
    /// verifier accepts any of it, also those that know nothing of revocation. Windows that go on get SVIDs of the
    /// authority that takes their place: the prepared one, which verifiers know already, or else a new one. `companions`
    /// are committed with it, or nothing is.
    ///
    /// # Errors
    /// See [`RotateError`]: [`RotateError::BaseCut`] for the base authority, and in [`RotateError::Commit`] the refusal of
    /// a companion. Once it is committed it stands, also if the new authority cannot sign yet; the next pass sees to that.
    pub async fn cut(&self, actor: &Actor, class: KeyClass, companions: Vec<Change>) -> Result<Cut, RotateError> {
        if class == KeyClass::Base {
            return Err(RotateError::BaseCut);
        }
        let mut tries = 0;
        let (next, revoked, deltas) = loop {
            let now = self.now();
            let next = self.next(class, now).await?;
            let state = self.committer.snapshot();
            let signed = |authority: &Authority| {
                use AuthorityState::{Active, Old, Tainted};
                authority.class == class && matches!(authority.state, Active | Old | Tainted)
            };
            let revoked: Vec<Arc<Authority>> = state.authorities().filter(|found| signed(found)).cloned().collect();
            let prepare = next
                .is_new
                .then(|| Change::AuthorityPrepare(Box::new(next.authority.as_ref().clone())));
            let changes = companions
                .iter()
                .cloned()
                .chain(prepare)
                .chain([Change::AuthorityActivate(next.authority.id.clone())])
                .chain(
                    revoked
                        .iter()
                        .map(|authority| Change::AuthorityRevoke(authority.id.clone())),
                );
            match self.commit(actor.clone(), changes.collect()).await {
                Ok(deltas) => break (next, revoked, deltas),
                // A pass has just changed over: look again.
                Err(RotateError::Commit(CommitError::Conflict(Conflict::AuthorityState(_)))) if tries < CUT_TRIES => {
                    tries += 1;
                }
                Err(failure) => return Err(failure),
            }
        };
        let revoked_ids = revoked.iter().map(|authority| authority.id.clone()).collect();
        warn!(
            class = class.word(),
            authority_id = next.authority.id,
            revoked = revoked.len(),
            actor = actor.who,
            reason = actor.reason,
            "hard cut: what authorities of this class signed is accepted no more"
        );
        self.publish(class).await?;
        for authority in revoked {
            self.keys.delete(&authority.key_id).await.map_err(RotateError::Key)?;
        }
        Ok(Cut {
            authority_id: next.authority.id.clone(),
            revoked: revoked_ids,
            deltas,
        })
    }

    /// The certificates by which older base authorities vouch for the one that signs now, until `until`; none if that has
    /// been in the bundle for a while. One that had to begin at once, as when the clock was set back to before the one
    /// that was active, is not known to agents that were away: without these they would not believe the server that could
    /// tell them.
    ///
    /// # Errors
    /// See [`RotateError`].
    pub async fn vouchers(&self, until: Timestamp) -> Result<Vec<CertificateDer<'static>>, RotateError> {
        let (state, now) = (self.committer.snapshot(), self.now());
        let Some(active) = state.active_authority(KeyClass::Base) else {
            return Ok(vec![]);
        };
        let spread_at = active
            .not_before
            .plus(active.not_after.since(active.not_before) / SPREAD);
        if now >= spread_at {
            return Ok(vec![]);
        }
        let mut made = vec![];
        // The newest first: whoever was away knows one of those.
        let mut all: Vec<_> = state.authorities().collect();
        all.sort_by_key(|older| std::cmp::Reverse(older.not_after));
        for older in all {
            if made.len() == VOUCHERS_MAX {
                break;
            }
            // Not by one that is tainted or revoked, and not by one that is over. That it has not begun by our clock is for
            // those to judge who are to believe it.
            let may = older.class == KeyClass::Base && older.state == AuthorityState::Old && older.not_after > now;
            let Some(signer) = (if may { self.signer(older).await? } else { None }) else {
                continue;
            };
            let serial = random_serial();
            let until = until.min(older.not_after).min(spread_at);
            // Recorded first, as all that is signed.
            self.note_voucher(&active.id, &older.id, &serial, until).await?;
            let (older, active, trust_domain) = (older.clone(), active.clone(), state.trust_domain().clone());
            let vouched = tokio::task::spawn_blocking(move || {
                let cert_der = &older.cert_der;
                let by = Voucher { cert_der, signer };
                vouch(&trust_domain, &active.cert_der, by, until, &serial)
            });
            made.push(
                vouched
                    .await
                    .map_err(|_| RotateError::Stopped)?
                    .map_err(RotateError::Create)?,
            );
        }
        Ok(made)
    }

    async fn note_voucher(&self, of: &str, by: &str, serial: &Serial, until: Timestamp) -> Result<(), RotateError> {
        let change = Change::Note {
            kind: "authority.vouched",
            subject: of.to_owned(),
            body: json!({ "older": by, "serial": serial, "not_after": until }),
        };
        let (actor, time) = (Actor::server(), self.now());
        let step = Step { actor, time, change };
        self.committer.commit(step).await.map_err(RotateError::Commit)?;
        Ok(())
    }

    /// The changes that are due of the authorities of `class`.
    async fn due(&self, class: KeyClass, now: Timestamp) -> Result<Vec<Change>, RotateError> {
        let active = self.usable_active(class, now).await?;
        let (prepare, activate) = match &active {
            // Nobody can sign: at once.
            None => (true, true),
            Some(active) => {
                let life = active.not_after.since(active.not_before);
                let is_past = |part: Duration| now >= active.not_before.plus(part);
                (is_past(life / 2), is_past(life * 2 / 3))
            }
        };
        if !prepare {
            return Ok(vec![]);
        }
        let Next { authority, is_new } = self.next(class, now).await?;
        let id = authority.id.clone();
        let prepared = is_new.then(|| Change::AuthorityPrepare(Box::new(authority.as_ref().clone())));
        let activated = activate.then_some(Change::AuthorityActivate(id));
        Ok(prepared.into_iter().chain(activated).collect())
    }

    /// The active authority, if it is valid and its key is at hand.
    async fn usable_active(&self, class: KeyClass, now: Timestamp) -> Result<Option<Arc<Authority>>, RotateError> {
        let state = self.committer.snapshot();
        let Some(active) = state.active_authority(class) else {
            return Ok(None);
        };
        if active.not_after <= now {
            warn!(authority_id = active.id, not_after = %active.not_after, "the active authority has expired");
            return Ok(None);
        }
        if !has_begun(active, now) {
            warn!(authority_id = active.id, not_before = %active.not_before, "the clock was set back to before the active \
                                                                            authority: it cannot sign until then");
            return Ok(None);
        }
        if self.signer(active).await?.is_none() {
            warn!(
                authority_id = active.id,
                "the active authority's key is gone; agents that know only its certificate \
                                             will have to learn the new one"
            );
            return Ok(None);
        }
        Ok(Some(active.clone()))
    }

    /// A prepared authority whose key is at hand, or else a new one.
    async fn next(&self, class: KeyClass, now: Timestamp) -> Result<Next, RotateError> {
        let state = self.committer.snapshot();
        for authority in state.authorities() {
            if authority.class == class
                && authority.state == AuthorityState::Prepared
                && authority.not_after > now
                && has_begun(authority, now)
                && self.signer(authority).await?.is_some()
            {
                let (authority, is_new) = (authority.clone(), false);
                return Ok(Next { authority, is_new });
            }
        }
        let (authority, is_new) = (Arc::new(self.make(class, now).await?), true);
        Ok(Next { authority, is_new })
    }

    /// Makes a key and a certificate.
    async fn make(&self, class: KeyClass, now: Timestamp) -> Result<Authority, RotateError> {
        let serial = random_serial();
        let key_id = format!("{}-{}", class.word(), &serial.to_string()[..12]);
        let generated = self.keys.generate(&key_id, self.settings.key_type).await;
        let signer = generated.map_err(RotateError::Key)?;
        let id = hex::encode(public_key_id(signer.public_key_der()));
        let trust_domain = self.committer.snapshot().trust_domain().clone();
        let ttl = self.settings.ttl;
        // Signing may be a round trip to an HSM.
        let cert_der = tokio::task::spawn_blocking(move || create_authority(&trust_domain, signer, ttl, now, &serial))
            .await
            .map_err(|_| RotateError::Stopped)?
            .map_err(RotateError::Create)?;
        Ok(Authority {
            id,
            class,
            state: AuthorityState::Prepared,
            cert_der,
            key_id,
            not_before: now,
            not_after: now.plus(ttl),
        })
    }

    /// Hands the active authority of `class` to those who sign, unless they have it already.
    async fn publish(&self, class: KeyClass) -> Result<(), RotateError> {
        let state = self.committer.snapshot();
        let Some(authority) = state.active_authority(class) else {
            return Ok(());
        };
        let place = self.active.of(class);
        if place
            .load()
            .as_ref()
            .is_some_and(|active| active.authority_id == authority.id)
        {
            return Ok(());
        }
        let signer = self.signer(authority).await?.ok_or(RotateError::Stopped)?;
        let trust_domain = state.trust_domain().clone();
        let issuer = issuer_of(class, trust_domain, authority.cert_der.clone(), signer);
        let issuer = issuer.map_err(|source| RotateError::Unusable {
            id: authority.id.clone(),
            source,
        })?;
        place.store(Some(Arc::new(ActiveIssuer {
            authority_id: authority.id.clone(),
            issuer,
        })));
        Ok(())
    }

    /// Takes out what has expired, and destroys its key. The key of what was revoked goes at once.
    async fn prune(&self, now: Timestamp) -> Result<(), RotateError> {
        let state = self.committer.snapshot();
        for authority in state.authorities() {
            if authority.not_after < now && authority.state != AuthorityState::Active {
                self.commit(Actor::server(), vec![Change::AuthorityPrune(authority.id.clone())])
                    .await?;
                self.keys.delete(&authority.key_id).await.map_err(RotateError::Key)?;
                info!(authority_id = authority.id, "authority pruned");
            } else if authority.state == AuthorityState::Revoked && self.signer(authority).await?.is_some() {
                self.keys.delete(&authority.key_id).await.map_err(RotateError::Key)?;
            }
        }
        Ok(())
    }

    async fn signer(&self, authority: &Authority) -> Result<Option<Arc<dyn Signer>>, RotateError> {
        self.keys.find(&authority.key_id).await.map_err(RotateError::Key)
    }

    /// All of it or nothing; keys that were made for nothing are destroyed.
    async fn commit(&self, actor: Actor, changes: Vec<Change>) -> Result<Vec<Delta>, RotateError> {
        let made = |change: &Change| match change {
            Change::AuthorityPrepare(authority) => Some(authority.as_ref().clone()),
            _ => None,
        };
        let made: Vec<Authority> = changes.iter().filter_map(made).collect();
        let activated = |change: &Change| match change {
            Change::AuthorityActivate(id) => Some(id.clone()),
            _ => None,
        };
        let activated: Vec<String> = changes.iter().filter_map(activated).collect();
        let step = Step {
            actor,
            time: self.now(),
            change: Change::Together(changes),
        };
        match self.committer.commit(step).await {
            Ok(deltas) => {
                for authority in &made {
                    info!(authority_id = authority.id, class = authority.class.word(), not_after = %authority.not_after,
                          "authority prepared");
                }
                for id in activated {
                    info!(authority_id = id, "authority active");
                }
                Ok(deltas)
            }
            Err(failure) => {
                // Where it is not known whether the commit happened, they may be needed.
                let is_undone = match &failure {
                    CommitError::Conflict(_) => true,
                    CommitError::Store(source) => source.will_pass(),
                    CommitError::Stopped => false,
                };
                for authority in made.iter().filter(|_| is_undone) {
                    self.keys.delete(&authority.key_id).await.map_err(RotateError::Key)?;
                }
                Err(RotateError::Commit(failure))
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now().into()
    }
}

/// The issuer of an authority of `class`: it signs what is of that class and nothing else.
pub(super) fn issuer_of(
    class: KeyClass,
    trust_domain: TrustDomain,
    cert_der: CertificateDer<'static>,
    signer: Arc<dyn Signer>,
) -> Result<Issuer, AuthorityError> {
    match class {
        KeyClass::Base => Issuer::new(trust_domain, cert_der, signer),
        KeyClass::Task => Issuer::of_tasks(trust_domain, TaskRoot::Task, cert_der, signer),
        KeyClass::Breakglass => Issuer::of_tasks(trust_domain, TaskRoot::Breakglass, cert_der, signer),
    }
}

/// By the certificate's own measure, which begins a little before the authority was made.
fn has_begun(authority: &Authority, now: Timestamp) -> bool {
    authority.not_before.minus(BACKDATE) <= now
}

#[cfg(test)]
mod tests;
