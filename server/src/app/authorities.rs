//! The life of the signing authorities: prepared at half the life of the active one, active at two thirds, pruned once
//! everything that they signed has expired.
//!
//! A certificate is in the bundle, and the bundle with the agents, a sixth of a life before its key signs anything. The
//! state says what to do, a tick only wakes: the same pass brings up a new server, catches up after a long stop and goes
//! on after a failed step. Nothing here reads a timer to decide; the clock is asked.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mayfly_ca::{AuthorityError, BACKDATE, CreateAuthorityError, Issuer, create_authority, random_serial};
use mayfly_keys::{KeyError, KeyManager, KeyType, Signer};
use mayfly_model::{Actor, Authority, AuthorityState, Change, KeyClass, Step};
use mayfly_runtime::Clock;
use mayfly_svid::{Timestamp, public_key_id};
use tracing::{info, warn};

use super::issue::ActiveIssuer;
use crate::commit::{CommitError, Committer};

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
    /// The work was cut off.
    #[error("the server is stopping")]
    Stopped,
}

/// Keeps an authority active.
pub struct Authorities {
    committer: Committer,
    keys: Arc<dyn KeyManager>,
    clock: Arc<dyn Clock>,
    settings: AuthoritySettings,
    active: Arc<ArcSwapOption<ActiveIssuer>>,
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

    /// Where the authority that signs now is found.
    pub fn active(&self) -> Arc<ArcSwapOption<ActiveIssuer>> {
        self.active.clone()
    }

    /// Does whatever is due: brings up an authority where none can sign, prepares the next, changes over, prunes.
    ///
    /// # Errors
    /// See [`RotateError`]; what was done before stays done, and the authority that signs keeps signing.
    pub async fn pass(&self) -> Result<(), RotateError> {
        let now = self.now();
        match self.usable_active(now).await? {
            Some(active) => {
                self.publish(&active).await?;
                self.rotate(&active, now).await?;
            }
            None => self.bring_up(now).await?,
        }
        self.prune(now).await
    }

    /// The active authority, if it is valid and its key is at hand.
    async fn usable_active(&self, now: Timestamp) -> Result<Option<Arc<Authority>>, RotateError> {
        let state = self.committer.snapshot();
        let Some(active) = state.active_authority(KeyClass::Base) else {
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
        if self
            .keys
            .find(&active.key_id)
            .await
            .map_err(RotateError::Key)?
            .is_none()
        {
            warn!(
                authority_id = active.id,
                "the active authority's key is gone; agents that know only its certificate \
                                             will have to learn the new one"
            );
            return Ok(None);
        }
        Ok(Some(active.clone()))
    }

    /// A prepared authority whose key is at hand becomes active at once; without one, a new one is prepared first.
    async fn bring_up(&self, now: Timestamp) -> Result<(), RotateError> {
        let prepared = match self.usable_prepared(now).await? {
            Some(prepared) => prepared,
            None => self.prepare(now).await?,
        };
        self.activate(&prepared).await
    }

    async fn rotate(&self, active: &Authority, now: Timestamp) -> Result<(), RotateError> {
        let life = active.not_after.since(active.not_before);
        if now < active.not_before.plus(life / 2) {
            return Ok(());
        }
        let prepared = match self.usable_prepared(now).await? {
            Some(prepared) => prepared,
            None => self.prepare(now).await?,
        };
        if now >= active.not_before.plus(life * 2 / 3) {
            self.activate(&prepared).await?;
        }
        Ok(())
    }

    async fn usable_prepared(&self, now: Timestamp) -> Result<Option<Arc<Authority>>, RotateError> {
        let state = self.committer.snapshot();
        for authority in state.authorities() {
            if authority.state == AuthorityState::Prepared
                && authority.not_after > now
                && has_begun(authority, now)
                && self
                    .keys
                    .find(&authority.key_id)
                    .await
                    .map_err(RotateError::Key)?
                    .is_some()
            {
                return Ok(Some(authority.clone()));
            }
        }
        Ok(None)
    }

    /// Makes a key and a certificate and puts the certificate into the bundle.
    async fn prepare(&self, now: Timestamp) -> Result<Arc<Authority>, RotateError> {
        let serial = random_serial();
        let key_id = format!("base-{}", &serial.to_string()[..12]);
        let signer = self
            .keys
            .generate(&key_id, self.settings.key_type)
            .await
            .map_err(RotateError::Key)?;
        let id = hex::encode(public_key_id(signer.public_key_der()));
        let trust_domain = self.committer.snapshot().trust_domain().clone();
        let ttl = self.settings.ttl;
        // Signing may be a round trip to an HSM.
        let cert_der = tokio::task::spawn_blocking(move || create_authority(&trust_domain, signer, ttl, now, &serial))
            .await
            .map_err(|_| RotateError::Stopped)?
            .map_err(RotateError::Create)?;
        let authority = Authority {
            id: id.clone(),
            class: KeyClass::Base,
            state: AuthorityState::Prepared,
            cert_der,
            key_id,
            not_before: now,
            not_after: now.plus(ttl),
        };
        self.commit(Change::AuthorityPrepare(Box::new(authority.clone())))
            .await?;
        info!(authority_id = id, not_after = %authority.not_after, "authority prepared");
        Ok(Arc::new(authority))
    }

    async fn activate(&self, authority: &Authority) -> Result<(), RotateError> {
        self.commit(Change::AuthorityActivate(authority.id.clone())).await?;
        info!(authority_id = authority.id, "authority active");
        self.publish(authority).await
    }

    /// Hands the authority to those who sign, unless they have it already.
    async fn publish(&self, authority: &Authority) -> Result<(), RotateError> {
        if self
            .active
            .load()
            .as_ref()
            .is_some_and(|active| active.authority_id == authority.id)
        {
            return Ok(());
        }
        let signer: Arc<dyn Signer> = self
            .keys
            .find(&authority.key_id)
            .await
            .map_err(RotateError::Key)?
            .ok_or(RotateError::Stopped)?;
        let trust_domain = self.committer.snapshot().trust_domain().clone();
        let issuer =
            Issuer::new(trust_domain, authority.cert_der.clone(), signer).map_err(|source| RotateError::Unusable {
                id: authority.id.clone(),
                source,
            })?;
        self.active.store(Some(Arc::new(ActiveIssuer {
            authority_id: authority.id.clone(),
            issuer,
        })));
        Ok(())
    }

    /// Takes out what has expired, and destroys its key.
    async fn prune(&self, now: Timestamp) -> Result<(), RotateError> {
        let state = self.committer.snapshot();
        for authority in state.authorities() {
            if authority.not_after < now && authority.state != AuthorityState::Active {
                self.commit(Change::AuthorityPrune(authority.id.clone())).await?;
                self.keys.delete(&authority.key_id).await.map_err(RotateError::Key)?;
                info!(authority_id = authority.id, "authority pruned");
            }
        }
        Ok(())
    }

    async fn commit(&self, change: Change) -> Result<(), RotateError> {
        let step = Step {
            actor: Actor::server(),
            time: self.now(),
            change,
        };
        self.committer
            .commit(step)
            .await
            .map(|_| ())
            .map_err(RotateError::Commit)
    }

    fn now(&self) -> Timestamp {
        self.clock.now().into()
    }
}

/// By the certificate's own measure, which begins a little before the authority was made.
fn has_begun(authority: &Authority, now: Timestamp) -> bool {
    authority.not_before.minus(BACKDATE) <= now
}

#[cfg(test)]
mod tests;
