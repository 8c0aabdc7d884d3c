//! Agents.

use mayfly_model::Agent;

use super::entry::keep;
use crate::spire::types;

impl From<&Agent> for types::Agent {
    fn from(agent: &Agent) -> Self {
        Self {
            id: Some((&agent.id).into()),
            attestation_type: agent.attestation_type.clone(),
            x509svid_serial_number: agent.serial.as_ref().map_or_else(String::new, ToString::to_string),
            x509svid_expires_at: agent.expires_at.unix(),
            selectors: agent.selectors.iter().map(Into::into).collect(),
            banned: agent.banned,
            can_reattest: agent.can_reattest,
            agent_version: agent.version.clone(),
        }
    }
}

impl types::AgentMask {
    /// `wire` with only `id` and the fields that this mask names.
    pub fn project(&self, wire: types::Agent) -> types::Agent {
        types::Agent {
            id: wire.id,
            attestation_type: keep(self.attestation_type, wire.attestation_type),
            x509svid_serial_number: keep(self.x509svid_serial_number, wire.x509svid_serial_number),
            x509svid_expires_at: keep(self.x509svid_expires_at, wire.x509svid_expires_at),
            selectors: keep(self.selectors, wire.selectors),
            banned: keep(self.banned, wire.banned),
            can_reattest: keep(self.can_reattest, wire.can_reattest),
            agent_version: keep(self.agent_version, wire.agent_version),
        }
    }
}
