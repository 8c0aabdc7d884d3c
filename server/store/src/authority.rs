//! Authorities in the database.

use mayfly_model::{Authority, AuthorityEvent, AuthorityState, Conflict, Delta, KeyClass};
use mayfly_svid::{Timestamp, TrustDomain};

use crate::StoreError;
use crate::bundle::{own_bundle_add, own_bundle_remove};
use crate::dialect::Database;
use crate::step::{Effect, Refusal};

pub(crate) fn authority_list(database: &mut impl Database) -> Result<Vec<Authority>, StoreError> {
    let rows = database.query("authorities", "SELECT data FROM authorities ORDER BY id", &[])?;
    rows.iter().map(|row| row.json(0)).collect()
}

/// The bundle comes first: memory never has an authority that its bundle lacks.
pub(crate) fn authority_prepare(
    database: &mut impl Database,
    trust_domain: &TrustDomain,
    authority: &Authority,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    if authority_find(database, &authority.id)?.is_some() {
        return Err(Conflict::AuthorityState(authority.id.clone()).into());
    }
    own_bundle_add(database, trust_domain, &authority.cert_der, effect)?;
    authority_put(database, authority.clone(), effect)
}

pub(crate) fn authority_activate(database: &mut impl Database, id: &str, effect: &mut Effect) -> Result<(), Refusal> {
    let authority = authority_in_state(authority_find(database, id)?, id, AuthorityEvent::Activate)?;
    let rows = database.query(
        "authorities",
        "SELECT data FROM authorities WHERE class = ?1 AND state = 'active' ORDER BY id",
        &[authority.class.word().into()],
    )?;
    for row in rows {
        let present: Authority = row.json(0)?;
        let id = present.id.clone();
        let old = authority_in_state(Some(present), &id, AuthorityEvent::Supersede)?;
        authority_put(database, old, effect)?;
    }
    authority_put(database, authority, effect)
}

/// Takes it out of the bundle: nobody accepts what it signed. Base authorities stay, as everything would fall with them.
pub(crate) fn authority_revoke(
    database: &mut impl Database,
    trust_domain: &TrustDomain,
    id: &str,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let refuse = || Conflict::AuthorityState(id.into());
    let present = authority_find(database, id)?.filter(|authority| authority.class != KeyClass::Base);
    let mut authority = present.ok_or_else(refuse)?;
    let revoked = authority
        .state
        .on(AuthorityEvent::Taint)
        .and_then(|state| state.on(AuthorityEvent::Revoke));
    authority.state = revoked.map_err(|_| refuse())?;
    let cert_der = authority.cert_der.clone();
    authority_put(database, authority, effect)?;
    own_bundle_remove(database, trust_domain, &cert_der, effect)
}

/// `not_after` is inclusive (RFC 5280 §4.1.2.5): within that second it has not expired.
pub(crate) fn authority_prune(
    database: &mut impl Database,
    trust_domain: &TrustDomain,
    id: &str,
    time: Timestamp,
    effect: &mut Effect,
) -> Result<(), Refusal> {
    let authority = match authority_find(database, id)? {
        Some(authority) if authority.not_after < time => authority,
        _ => return Err(Conflict::AuthorityState(id.into()).into()),
    };
    database.execute("DELETE FROM authorities WHERE id = ?1", &[id.into()])?;
    effect.deltas.push(Delta::AuthorityGone(id.into()));
    own_bundle_remove(database, trust_domain, &authority.cert_der, effect)
}

fn authority_find(database: &mut impl Database, id: &str) -> Result<Option<Authority>, StoreError> {
    let rows = database.query(
        "authorities",
        "SELECT data FROM authorities WHERE id = ?1",
        &[id.into()],
    )?;
    rows.first().map(|row| row.json(0)).transpose()
}

/// `found` in the state after `event`.
fn authority_in_state(found: Option<Authority>, id: &str, event: AuthorityEvent) -> Result<Authority, Conflict> {
    let refuse = || Conflict::AuthorityState(id.into());
    let mut authority = found.ok_or_else(refuse)?;
    authority.state = authority.state.on(event).map_err(|_| refuse())?;
    Ok(authority)
}

fn authority_put(database: &mut impl Database, authority: Authority, effect: &mut Effect) -> Result<(), Refusal> {
    let data = serde_json::to_string(&authority).expect("an authority has string keys and finite numbers only");
    database.execute(
        "INSERT INTO authorities (id, class, state, data) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET class = excluded.class, state = excluded.state, data = excluded.data",
        &[
            authority.id.as_str().into(),
            authority.class.word().into(),
            state_name(authority.state).into(),
            data.into(),
        ],
    )?;
    effect.deltas.push(Delta::AuthorityPut(authority.into()));
    Ok(())
}

fn state_name(state: AuthorityState) -> &'static str {
    match state {
        AuthorityState::Prepared => "prepared",
        AuthorityState::Active => "active",
        AuthorityState::Old => "old",
        AuthorityState::Tainted => "tainted",
        AuthorityState::Revoked => "revoked",
    }
}
