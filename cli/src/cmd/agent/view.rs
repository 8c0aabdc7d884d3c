//! How an agent is shown: JSON with stable keys, a row of a table, a block.

use mayfly_proto::spire::types::Agent;
use mayfly_svid::Timestamp;
use serde::Serialize;

use crate::cmd::entry::id_text;
use crate::output::{Field, Output, visible_line};
use crate::values;

/// Columns of the table.
pub(super) const HEADER: [&str; 5] = ["spiffe id", "attested by", "state", "svid expires", "selectors"];

/// An agent for display. The field names are the keys of the JSON form; times are RFC 3339 in UTC.
#[derive(Debug, Serialize)]
pub(crate) struct AgentView {
    pub(crate) spiffe_id: String,
    attestation_type: String,
    pub(crate) banned: bool,
    can_reattest: bool,
    svid_serial: String,
    svid_expires_at: Option<String>,
    pub(crate) selectors: Vec<String>,
    version: String,
    #[serde(skip)]
    pub(crate) expires: Option<Timestamp>,
}

impl AgentView {
    /// The view of what the server sent.
    pub(crate) fn of(agent: &Agent) -> Self {
        let expires = (agent.x509svid_expires_at != 0).then(|| Timestamp::from_unix(agent.x509svid_expires_at));
        Self {
            spiffe_id: id_text(agent.id.as_ref()),
            attestation_type: agent.attestation_type.clone(),
            banned: agent.banned,
            can_reattest: agent.can_reattest,
            svid_serial: agent.x509svid_serial_number.clone(),
            svid_expires_at: expires.map(|time| time.to_string()),
            selectors: agent
                .selectors
                .iter()
                .map(|s| format!("{}:{}", s.r#type, s.value))
                .collect(),
            version: agent.agent_version.clone(),
            expires,
        }
    }

    /// Whether it may be issued to at `now`.
    pub(crate) fn state(&self, now: Timestamp) -> &'static str {
        if self.banned {
            "banned"
        } else if self.expires.is_some_and(|expires| expires < now) {
            "expired"
        } else {
            "active"
        }
    }

    /// One row under [`HEADER`].
    pub(super) fn row(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.spiffe_id.clone(),
            self.attestation_type.clone(),
            self.state(now).to_owned(),
            self.expires.map(|time| values::relative(time, now)).unwrap_or_default(),
            self.selectors.join("\n"),
        ]
    }

    /// Everything, for a block.
    pub(super) fn fields(&self, output: &Output, now: Timestamp) -> Vec<Field> {
        let mut fields = vec![
            ("SPIFFE ID", self.spiffe_id.clone()),
            ("State", self.state(now).to_owned()),
            ("Attested by", self.attestation_type.clone()),
            (
                "Attests again",
                if self.can_reattest {
                    "by itself"
                } else {
                    "with a new token only"
                }
                .to_owned(),
            ),
            ("SVID serial", self.svid_serial.clone()),
            (
                "SVID expires",
                self.expires.map(|time| output.time(time, now)).unwrap_or_default(),
            ),
            ("Selectors", self.selectors.join("\n")),
        ];
        if !self.version.is_empty() {
            fields.push(("Version", visible_line(&self.version)));
        }
        fields
    }
}
