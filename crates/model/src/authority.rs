//! Signing authorities and their life.

use mayfly_svid::Timestamp;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

/// What an authority may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyClass {
    /// Base SVIDs: who a workload is.
    Base,
    /// Task SVIDs, below `/task`.
    Task,
    /// SVIDs of emergencies, below `/breakglass`.
    Breakglass,
}

impl KeyClass {
    /// Each class has an active authority of its own.
    pub const ALL: [Self; 3] = [Self::Base, Self::Task, Self::Breakglass];

    /// The word for it in names and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Task => "task",
            Self::Breakglass => "breakglass",
        }
    }
}

/// Where an authority is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityState {
    /// In the bundle, so that verifiers learn it, but signs nothing yet.
    Prepared,
    /// Signs. One per class and server.
    Active,
    /// Signs nothing any more; what it signed is valid.
    Old,
    /// No longer trusted to have signed: holders must renew.
    Tainted,
    /// Out of the bundle.
    Revoked,
}

/// What can happen to an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityEvent {
    /// It becomes the one that signs.
    Activate,
    /// Another one took its place.
    Supersede,
    /// Its key is suspect.
    Taint,
    /// It leaves the bundle.
    Revoke,
}

/// An event that does not fit the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an authority that is {from:?} cannot {event:?}")]
pub struct InvalidTransition {
    /// The state it was in.
    pub from: AuthorityState,
    /// What was asked of it.
    pub event: AuthorityEvent,
}

impl AuthorityState {
    /// The state after `event`.
    ///
    /// # Errors
    /// The event does not fit the state; nothing changes.
    pub fn on(self, event: AuthorityEvent) -> Result<Self, InvalidTransition> {
        use AuthorityEvent as E;
        Ok(match (self, event) {
            (Self::Prepared, E::Activate) => Self::Active,
            (Self::Active, E::Supersede) => Self::Old,
            (Self::Old, E::Taint) => Self::Tainted,
            (Self::Tainted, E::Revoke) => Self::Revoked,
            (from, event) => return Err(InvalidTransition { from, event }),
        })
    }
}

/// A signing key and its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Lower-case hex of the certificate's subject key identifier.
    pub id: String,
    /// What it may sign.
    pub class: KeyClass,
    /// Where it is in its life.
    pub state: AuthorityState,
    /// Its certificate, DER.
    #[serde(with = "cert_hex")]
    pub cert_der: CertificateDer<'static>,
    /// The key's name in the key manager.
    pub key_id: String,
    /// `notBefore` of its certificate.
    pub not_before: Timestamp,
    /// `notAfter` of its certificate, inclusive.
    pub not_after: Timestamp,
}

mod cert_hex {
    use rustls_pki_types::CertificateDer;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(der: &CertificateDer<'_>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(der))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CertificateDer<'static>, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map(CertificateDer::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_lives_forward_only() {
        use {AuthorityEvent as E, AuthorityState as S};
        let legal = [
            (S::Prepared, E::Activate, S::Active),
            (S::Active, E::Supersede, S::Old),
            (S::Old, E::Taint, S::Tainted),
            (S::Tainted, E::Revoke, S::Revoked),
        ];
        for from in [S::Prepared, S::Active, S::Old, S::Tainted, S::Revoked] {
            for event in [E::Activate, E::Supersede, E::Taint, E::Revoke] {
                let expected = legal
                    .iter()
                    .find(|(f, e, _)| *f == from && *e == event)
                    .map(|(_, _, to)| *to);
                assert_eq!(from.on(event).ok(), expected, "{from:?} {event:?}");
            }
        }
    }
}
