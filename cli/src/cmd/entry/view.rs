//! How an entry is shown: JSON with stable keys, a row of a table, a block.

use mayfly_proto::spire::types::Entry;
use mayfly_svid::Timestamp;
use serde::Serialize;

use super::fields::id_text;
use crate::output::{Field, Output, visible_line};
use crate::values;

/// Columns of the table.
pub(super) const HEADER: [&str; 6] = ["id", "spiffe id", "parent", "selectors", "ttl", "notes"];

/// Characters of an agent's name that are enough to tell it from others.
const NAME_SHORT: usize = 12;

/// An entry for display. The field names are the keys of the JSON form and a promise; lifetimes are seconds, 0 for the
/// server's default; times are RFC 3339 in UTC.
#[derive(Debug, Serialize)]
pub(crate) struct EntryView {
    pub(crate) id: String,
    pub(crate) spiffe_id: String,
    pub(crate) parent_id: String,
    pub(crate) selectors: Vec<String>,
    x509_svid_ttl: i32,
    jwt_svid_ttl: i32,
    federates_with: Vec<String>,
    dns_names: Vec<String>,
    hint: String,
    admin: bool,
    downstream: bool,
    store_svid: bool,
    expires_at: Option<String>,
    created_at: Option<String>,
    revision_number: i64,
    additional_attributes: Option<AttributesView>,
    #[serde(skip)]
    pub(crate) expires: Option<Timestamp>,
    #[serde(skip)]
    created: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct AttributesView {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

impl EntryView {
    /// The view of what the server sent.
    pub(crate) fn of(entry: &Entry) -> Self {
        let time = |seconds: i64| (seconds != 0).then(|| Timestamp::from_unix(seconds));
        let (expires, created) = (time(entry.expires_at), time(entry.created_at));
        Self {
            id: entry.id.clone(),
            spiffe_id: id_text(entry.spiffe_id.as_ref()),
            parent_id: id_text(entry.parent_id.as_ref()),
            selectors: entry
                .selectors
                .iter()
                .map(|s| format!("{}:{}", s.r#type, s.value))
                .collect(),
            x509_svid_ttl: entry.x509_svid_ttl,
            jwt_svid_ttl: entry.jwt_svid_ttl,
            federates_with: entry.federates_with.clone(),
            dns_names: entry.dns_names.clone(),
            hint: entry.hint.clone(),
            admin: entry.admin,
            downstream: entry.downstream,
            store_svid: entry.store_svid,
            expires_at: expires.map(|time| time.to_string()),
            created_at: created.map(|time| time.to_string()),
            revision_number: entry.revision_number,
            additional_attributes: entry.additional_attributes.as_ref().map(|attributes| AttributesView {
                disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
                jwt_svid_include_jti: attributes.jwt_svid_include_jti,
            }),
            expires,
            created,
        }
    }

    /// One row under [`HEADER`]; `short` spares room for what identifies the entry.
    pub(super) fn row(&self, now: Timestamp, short: bool) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        for (set, name) in [
            (self.admin, "admin"),
            (self.downstream, "downstream"),
            (self.store_svid, "store"),
        ] {
            if set {
                notes.push(name.to_owned());
            }
        }
        match self.expires {
            Some(time) if time <= now => notes.push("expired".to_owned()),
            Some(time) => notes.push(format!("ends {}", values::relative(time, now))),
            None => {}
        }
        if !self.hint.is_empty() {
            notes.push(format!("hint {}", visible_line(&self.hint)));
        }
        vec![
            self.id.clone(),
            self.spiffe_id.clone(),
            if short {
                short_parent(&self.parent_id)
            } else {
                self.parent_id.clone()
            },
            self.selectors.join("\n"),
            values::ttl_text(self.x509_svid_ttl),
            notes.join(", "),
        ]
    }

    /// Everything, for a block. What is not set is left out.
    pub(super) fn fields(&self, output: &Output, now: Timestamp) -> Vec<Field> {
        let mut fields = vec![
            ("Entry ID", self.id.clone()),
            ("SPIFFE ID", self.spiffe_id.clone()),
            ("Parent ID", self.parent_id.clone()),
            ("Selectors", self.selectors.join("\n")),
            ("X.509-SVID TTL", values::ttl_text(self.x509_svid_ttl)),
            ("JWT-SVID TTL", values::ttl_text(self.jwt_svid_ttl)),
        ];
        let mut add = |label, text: String| {
            if !text.is_empty() {
                fields.push((label, text));
            }
        };
        add("Federates with", self.federates_with.join("\n"));
        add("DNS names", self.dns_names.join("\n"));
        add("Hint", visible_line(&self.hint));
        let rights = [
            (self.admin, "admin"),
            (self.downstream, "downstream server"),
            (self.store_svid, "store SVID"),
        ];
        let rights: Vec<&str> = rights.iter().filter_map(|(set, name)| set.then_some(*name)).collect();
        add("Special", rights.join(", "));
        if let Some(attributes) = &self.additional_attributes {
            add(
                "Prefetch",
                if attributes.disable_x509_svid_prefetch {
                    "no"
                } else {
                    "yes"
                }
                .to_owned(),
            );
            add(
                "JWT ID",
                if attributes.jwt_svid_include_jti {
                    "each JWT-SVID has one"
                } else {
                    ""
                }
                .to_owned(),
            );
        }
        add(
            "Expires",
            self.expires.map(|time| output.time(time, now)).unwrap_or_default(),
        );
        add(
            "Created",
            self.created.map(|time| output.time(time, now)).unwrap_or_default(),
        );
        add("Revision", self.revision_number.to_string());
        fields
    }
}

/// `x509pop/4f1e0c2a9b7d…` of an agent, the path of anything else: entries have one trust domain, that of their server.
fn short_parent(id: &str) -> String {
    let path = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    let Some((_, path)) = path else {
        return id.to_owned();
    };
    let Some((method, name)) = path
        .strip_prefix("spire/agent/")
        .and_then(|agent| agent.split_once('/'))
    else {
        return format!("/{path}");
    };
    match name.char_indices().nth(NAME_SHORT) {
        Some((end, _)) => format!("{method}/{}…", &name[..end]),
        None => format!("{method}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_shortened_to_what_tells_it_from_others() {
        for (id, short) in [
            (
                "spiffe://td/spire/agent/x509pop/4f1e0c2a9b7d55",
                "x509pop/4f1e0c2a9b7d…",
            ),
            ("spiffe://td/spire/agent/x509pop/rack-7", "x509pop/rack-7"),
            ("spiffe://td/spire/server", "/spire/server"),
            ("spiffe://td/racks/7", "/racks/7"),
            ("", ""),
        ] {
            assert_eq!(short_parent(id), short);
        }
    }
}
