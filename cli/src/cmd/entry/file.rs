//! Files with many entries: our own JSON, as `entry list --output json` prints it, and SPIRE's `-data`.

use mayfly_proto::spire::types::entry::AdditionalAttributes;
use mayfly_proto::spire::types::{Entry, EntryMask};
use mayfly_svid::{SpiffeId, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::fields::{id_to_wire, selector_text_to_wire, trust_domain_text};
use crate::errors::CliError;
use crate::files::{self, shown};
use crate::values;

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 256 << 20;
const FORM: &str =
    "the file is a list of entries or {\"entries\": [...]}, as `mayfly entry list --output json` prints it";

/// An entry as written. What is absent is not stated.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    #[serde(alias = "entry_id")]
    id: Option<String>,
    spiffe_id: Option<String>,
    parent_id: Option<String>,
    selectors: Option<Vec<WrittenSelector>>,
    x509_svid_ttl: Option<WrittenTtl>,
    jwt_svid_ttl: Option<WrittenTtl>,
    federates_with: Option<Vec<String>>,
    dns_names: Option<Vec<String>>,
    hint: Option<String>,
    admin: Option<bool>,
    downstream: Option<bool>,
    store_svid: Option<bool>,
    #[serde(alias = "entry_expiry")]
    expires_at: Option<WrittenTime>,
    additional_attributes: Option<WrittenAttributes>,
    disable_x509_svid_prefetch: Option<bool>,
    // Printed by `list`; the server's to decide.
    #[serde(rename = "created_at")]
    _created_at: Option<Value>,
    #[serde(rename = "revision_number")]
    _revision_number: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenSelector {
    Text(String),
    Pair { r#type: String, value: String },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenTtl {
    Seconds(i32),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenTime {
    Unix(i64),
    Text(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenAttributes {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

/// Reads entries from the file `name`, or from stdin if that is `-`; each with the fields that it states.
///
/// # Errors
/// The file cannot be read, or an entry in it is not one: all that are wrong, by number.
pub(super) fn read_entries(name: &str) -> Result<Vec<(Entry, EntryMask)>, CliError> {
    let items = list_under(name, &read(name)?, "entries")?;
    let mut entries = Vec::with_capacity(items.len());
    let mut problems = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        match entry(item) {
            Ok(entry) => entries.push(entry),
            Err(problem) => problems.push(format!("entry {}: {problem}", index + 1)),
        }
    }
    if problems.is_empty() {
        return Ok(entries);
    }
    let count = problems.len();
    problems.truncate(10);
    Err(CliError::Input {
        what: format!(
            "{count} of the entries in {} cannot be used; nothing was sent",
            shown(name)
        ),
        hints: problems,
    })
}

/// Reads entry IDs: strings, or whole entries, in a list or under `ids` or `entries`.
///
/// # Errors
/// The file cannot be read, or something in it has no ID.
pub(super) fn read_ids(name: &str) -> Result<Vec<String>, CliError> {
    let document = read(name)?;
    let key = if document.get("ids").is_some() {
        "ids"
    } else {
        "entries"
    };
    let id = |(index, item): (usize, &Value)| {
        let id = item
            .as_str()
            .or_else(|| item.get("id")?.as_str())
            .or_else(|| item.get("entry_id")?.as_str());
        id.map(ToOwned::to_owned)
            .ok_or_else(|| CliError::input(format!("item {} in {} has no ID", index + 1, shown(name)), FORM))
    };
    list_under(name, &document, key)?.iter().enumerate().map(id).collect()
}

fn read(name: &str) -> Result<Value, CliError> {
    let bytes = files::read(name, FILE_MAX)?;
    serde_json::from_slice(&bytes).map_err(|error| CliError::input(format!("{}: {error}", shown(name)), FORM))
}

fn list_under(name: &str, document: &Value, key: &str) -> Result<Vec<Value>, CliError> {
    let list = document.as_array().or_else(|| document.get(key)?.as_array());
    match list {
        Some(list) if list.is_empty() => Err(CliError::input(format!("{} has nothing in it", shown(name)), FORM)),
        Some(list) => Ok(list.clone()),
        None => Err(CliError::input(format!("{} is not a list", shown(name)), FORM)),
    }
}

fn entry(item: Value) -> Result<(Entry, EntryMask), String> {
    let written: Written = serde_json::from_value(item).map_err(|error| slip(&error))?;
    let mut entry = Entry {
        id: written.id.unwrap_or_default(),
        ..Entry::default()
    };
    let mut mask = EntryMask::default();
    if let Some(text) = written.spiffe_id {
        (entry.spiffe_id, mask.spiffe_id) = (Some(id_to_wire(&id("spiffe_id", &text)?)), true);
    }
    if let Some(text) = written.parent_id {
        (entry.parent_id, mask.parent_id) = (Some(id_to_wire(&id("parent_id", &text)?)), true);
    }
    if let Some(selectors) = written.selectors {
        let texts = selectors.into_iter().map(|selector| match selector {
            WrittenSelector::Text(text) => text,
            WrittenSelector::Pair { r#type, value } => format!("{}:{value}", r#type),
        });
        let parsed = texts.map(|text| selector_text_to_wire(&text).map_err(|error| error.to_string()));
        (entry.selectors, mask.selectors) = (parsed.collect::<Result<_, _>>()?, true);
    }
    if let Some(ttl) = written.x509_svid_ttl {
        (entry.x509_svid_ttl, mask.x509_svid_ttl) = (ttl.seconds("x509_svid_ttl")?, true);
    }
    if let Some(ttl) = written.jwt_svid_ttl {
        (entry.jwt_svid_ttl, mask.jwt_svid_ttl) = (ttl.seconds("jwt_svid_ttl")?, true);
    }
    if let Some(domains) = written.federates_with {
        let parsed = domains
            .iter()
            .map(|text| trust_domain_text(text).map_err(|error| error.to_string()));
        (entry.federates_with, mask.federates_with) = (parsed.collect::<Result<_, _>>()?, true);
    }
    if let Some(names) = written.dns_names {
        (entry.dns_names, mask.dns_names) = (names, true);
    }
    if let Some(hint) = written.hint {
        (entry.hint, mask.hint) = (hint, true);
    }
    if let Some(admin) = written.admin {
        (entry.admin, mask.admin) = (admin, true);
    }
    if let Some(downstream) = written.downstream {
        (entry.downstream, mask.downstream) = (downstream, true);
    }
    if let Some(store) = written.store_svid {
        (entry.store_svid, mask.store_svid) = (store, true);
    }
    if let Some(time) = written.expires_at {
        (entry.expires_at, mask.expires_at) = (time.unix()?, true);
    }
    let prefetch = written.disable_x509_svid_prefetch;
    if written.additional_attributes.is_some() || prefetch.is_some() {
        let attributes = written.additional_attributes.unwrap_or_default();
        entry.additional_attributes = Some(AdditionalAttributes {
            disable_x509_svid_prefetch: prefetch.unwrap_or(attributes.disable_x509_svid_prefetch),
            jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        });
        mask.additional_attributes = true;
    }
    Ok((entry, mask))
}

/// What serde says; instead of all the fields that there are, the one that was probably meant.
fn slip(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let unknown = text
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once("`, expected "));
    let near = unknown.and_then(|(name, known)| values::nearest(name, known.split('`').skip(1).step_by(2)));
    match (unknown, near) {
        (Some((name, _)), Some(near)) => format!("unknown field `{name}`; did you mean `{near}`?"),
        _ => text,
    }
}

fn id(field: &str, text: &str) -> Result<SpiffeId, String> {
    values::spiffe_id(text).map_err(|error| format!("{field}: {error}"))
}

// === impl WrittenTtl ===

impl WrittenTtl {
    fn seconds(self, field: &str) -> Result<i32, String> {
        match self {
            Self::Seconds(seconds @ 0..) => Ok(seconds),
            Self::Seconds(_) => Err(format!("{field}: negative")),
            Self::Text(text) => values::ttl(&text).map_err(|error| format!("{field}: {error}")),
        }
    }
}

// === impl WrittenTime ===

impl WrittenTime {
    /// Seconds since 1970, 0 for never. "From now" is for command lines: a file may be read tomorrow.
    fn unix(self) -> Result<i64, String> {
        match self {
            Self::Unix(seconds) => Ok(seconds),
            Self::Text(text) => match values::when(&text)? {
                values::When::At(time) => Ok(Timestamp::unix(time)),
                values::When::Never => Ok(0),
                values::When::In(_) => Err("expires_at: write an instant, as 2030-01-31T12:00:00Z".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn our_own_list_and_spires_data_say_the_same() {
        let ours = json!({
            "id": "e1", "spiffe_id": "spiffe://td/web", "parent_id": "spiffe://td/spire/agent/x509pop/a",
            "selectors": ["unix:uid:1000"], "x509_svid_ttl": 900, "expires_at": "2030-01-31T12:00:00Z",
            "created_at": "2026-01-01T00:00:00Z", "revision_number": 3,
        });
        let spires = json!({
            "entry_id": "e1", "spiffe_id": "spiffe://td/web", "parent_id": "spiffe://td/spire/agent/x509pop/a",
            "selectors": [{"type": "unix", "value": "uid:1000"}], "x509_svid_ttl": "15m", "entry_expiry": 1_896_091_200,
        });
        assert_eq!(entry(ours).unwrap(), entry(spires).unwrap());
    }

    #[test]
    fn only_what_is_written_is_in_the_mask() {
        let (_, mask) = entry(json!({"id": "e1", "hint": "x"})).unwrap();
        assert_eq!(
            mask,
            EntryMask {
                hint: true,
                ..Default::default()
            }
        );
    }

    #[test]
    fn each_slip_in_a_file_is_named() {
        for (item, what) in [
            (
                json!({"spifeid": "x"}),
                "unknown field `spifeid`; did you mean `spiffe_id`?",
            ),
            (json!({"colour": "x"}), "expected one of"),
            (
                json!({"spiffe_id": "/web"}),
                "spiffe_id: a SPIFFE ID starts with its trust domain",
            ),
            (json!({"selectors": ["unix"]}), "has no `:`"),
            (json!({"x509_svid_ttl": -1}), "x509_svid_ttl: negative"),
            (json!({"expires_at": "8h"}), "write an instant"),
            (json!("e1"), "invalid type"),
        ] {
            let error = entry(item.clone()).unwrap_err();
            assert!(error.contains(what), "{item}: {error}");
        }
    }
}
