//! The record of an attested agent.

use mayfly_svid::{Serial, SpiffeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Selectors;

/// An agent that has attested. The machine that it runs on is the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// `spiffe://<td>/spire/agent/…`.
    pub id: SpiffeId,
    /// The node attestor that vouched for it.
    pub attestation_type: String,
    /// Serial of the SVID that it may use now; none after a ban.
    pub serial: Option<Serial>,
    /// `notAfter` of that SVID.
    pub expires_at: Timestamp,
    /// Serial and `notAfter` of a renewed SVID that was not seen in use yet. Until it is, the old one stays valid, so that
    /// an answer lost on the way does not lock the agent out.
    pub renewed: Option<(Serial, Timestamp)>,
    /// What the node attestor stated of the node.
    pub selectors: Selectors,
    /// A banned agent gets nothing and may not attest again until it is evicted.
    pub banned: bool,
    /// Whether it can prove itself again, instead of renewing what it holds.
    pub can_reattest: bool,
    /// The version that it reported; empty until it did.
    pub version: String,
    /// When it last attested.
    pub attested_at: Timestamp,
}

impl Agent {
    /// Whether a certificate with `serial` is one that this agent may use.
    pub fn uses(&self, serial: &Serial) -> bool {
        self.serial.as_ref() == Some(serial) || self.renewed.as_ref().is_some_and(|(renewed, _)| renewed == serial)
    }
}
