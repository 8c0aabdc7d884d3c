//! How entries are shown: one line each, a block, or JSON with all that they say.

use mayfly_audit::Details;
use mayfly_svid::Timestamp;
use serde_json::{Map, Value, json};

use crate::errors::CliError;
use crate::output::{Field, Output, visible_line};

/// Digits of a commitment, a hash or an ID that are enough to recognize it.
const SHORT: usize = 12;
/// Fields of a body that nothing is known of.
const FIELDS_MAX: usize = 5;

/// An entry of the log.
#[derive(Clone, Debug)]
pub(super) struct EntryView {
    pub(super) index: u64,
    fields: Map<String, Value>,
}

impl EntryView {
    /// Reads the bytes of an entry, of any version.
    ///
    /// # Errors
    /// They are no JSON object.
    pub(super) fn read(index: u64, bytes: &[u8]) -> Result<Self, CliError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self { index, fields }),
            _ => Err(CliError::BadAnswer {
                who: "the server",
                what: format!("an entry {index} that is no JSON object"),
            }),
        }
    }

    pub(super) fn get(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }

    pub(super) fn kind(&self) -> &str {
        self.get("kind").as_str().unwrap_or_default()
    }

    pub(super) fn subject(&self) -> &str {
        self.get("subject").as_str().unwrap_or_default()
    }

    pub(super) fn time(&self) -> Timestamp {
        Timestamp::from_unix(self.get("time").as_i64().unwrap_or_default())
    }

    /// The index and all fields of the entry.
    pub(super) fn json(&self) -> Value {
        let mut all = Map::from_iter([("index".to_owned(), json!(self.index))]);
        all.extend(self.fields.clone());
        Value::Object(all)
    }

    /// Time, index, kind, what it is about, who did it and why.
    pub(super) fn line(&self, out: &Output) -> String {
        let mut line = format!("{}  {:>6}  {:<20}", out.moment(self.time()), self.index, self.kind());
        let says = self.says().into_iter().filter(|word| !word.is_empty());
        let says: Vec<String> = says.collect();
        if !says.is_empty() {
            line.push_str(&format!("  {}", says.join(", ")));
        }
        line.push_str(&format!("  by {}", text(self.get("who"))));
        let reason = text(self.get("reason"));
        if !reason.is_empty() {
            line.push_str(&format!(": {reason}"));
        }
        visible_line(&line)
    }

    /// Everything, for people.
    pub(super) fn block(&self, out: &Output, now: Timestamp) -> Vec<Field> {
        let body = serde_json::to_string_pretty(self.get("body")).unwrap_or_default();
        let field = |name: &str| visible_line(&text(self.get(name)));
        vec![
            ("Index", self.index.to_string()),
            ("Kind", field("kind")),
            ("Subject", field("subject")),
            ("Time", out.time(self.time(), now)),
            ("Who", field("who")),
            ("From", field("origin")),
            ("Reason", field("reason")),
            ("Revision", self.get("revision").to_string()),
            ("Body", body),
        ]
    }

    /// The particulars that matter, by kind.
    fn says(&self) -> Vec<String> {
        let body = self.get("body");
        let of = |pointer: &str| text(body.pointer(pointer).unwrap_or(&Value::Null));
        let with = |label: &str, pointer: &str| match of(pointer) {
            empty if empty.is_empty() => String::new(),
            found => format!("{label} {found}"),
        };
        let until = |pointer: &str| match body.pointer(pointer).and_then(Value::as_i64) {
            None => String::new(),
            Some(time) => format!("until {}", Timestamp::from_unix(time)),
        };
        let verdict = |pointer: &str| match body.pointer(pointer) {
            Some(Value::Bool(true)) => "allowed".to_owned(),
            Some(Value::Bool(false)) => "refused".to_owned(),
            Some(Value::String(verdict)) => verdict.clone(),
            _ => String::new(),
        };
        let subject = self.subject().to_owned();
        let (family, _) = self.kind().split_once('.').unwrap_or((self.kind(), ""));
        match (family, self.kind()) {
            (_, "task.requested") => vec![
                of("/request/task"),
                with("for", "/request/workload"),
                with("asked by", "/request/person"),
                with("because", "/request/reason"),
                with("ticket", "/request/ticket"),
                format!("request {subject}"),
            ],
            (_, "task.approved") => vec![
                subject,
                with("approved by", "/approval/person"),
                verdict("/decision/allowed"),
            ],
            (_, "policy.decided") => vec![
                subject,
                verdict("/decision/verdict"),
                listed(body.pointer("/decision/reasons"), "id"),
                with("task", "/facts/definition/name"),
            ],
            (_, "window.opened") => vec![
                of("/window/spiffe_id"),
                until("/window/closes_at"),
                with("window", "/window/id"),
                with("on", "/window/instance/agent_id"),
            ],
            ("window", _) => vec![
                with("window", "/window"),
                with("SVID", "/issuance/serial"),
                until("/issuance/not_after"),
                until("/closes_at"),
                with("because of", "/cause"),
                of("/detail"),
                with("residual seconds", "/residual"),
            ],
            ("task", _) => vec![subject, with("by", "/by"), with("because", "/reason"), of("/message")],
            (_, "svid.intended") => vec![
                subject,
                with("serial", "/serial"),
                until("/not_after"),
                with("window", "/window_id"),
            ],
            (_, "svid.outcome") => vec![
                counted("signed", body.get("signed")),
                counted("failed", body.get("failed")),
            ],
            ("entry", _) => vec![of("/spec/spiffe_id"), with("below", "/spec/parent_id"), subject],
            ("definition", _) => vec![subject, with("version", "/version"), with("hash", "/hash")],
            (_, "private.erased") => vec![counted("values erased:", body.get("commitments"))],
            _ => {
                let mut words = vec![subject];
                let plain = body
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(_, value)| !value.is_array());
                let plain = plain
                    .map(|(name, value)| (name, word(name, value)))
                    .filter(|(_, value)| !value.is_empty());
                words.extend(plain.take(FIELDS_MAX).map(|(name, value)| format!("{name} {value}")));
                words
            }
        }
    }
}

/// A value in one word: what is private and not known is the beginning of the commitment to it.
pub(super) fn text(value: &Value) -> String {
    if let Some(commitment) = mayfly_audit::commitment_of(value) {
        return format!("({}…)", &commitment[..SHORT]);
    }
    match value {
        Value::Object(fields) => fields.get("id").map(text).unwrap_or_default(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => Details::default().show(other),
    }
}

/// A field of which no more is known than its name: instants as such, digests by their beginnings.
fn word(name: &str, value: &Value) -> String {
    let is_instant = name.ends_with("_at") || matches!(name, "not_after" | "not_before");
    match value {
        Value::Number(number) if is_instant => Timestamp::from_unix(number.as_i64().unwrap_or_default()).to_string(),
        Value::String(digest) if name.ends_with("_sha256") => digest.chars().take(SHORT).collect(),
        value => text(value),
    }
}

fn counted(label: &str, list: Option<&Value>) -> String {
    match list.and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
        [] => String::new(),
        [one] => format!("{label} {}", text(one)),
        more => format!("{label} {} and {} more", text(&more[0]), more.len() - 1),
    }
}

fn listed(list: Option<&Value>, name: &str) -> String {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    let words: Vec<String> = items.map(|item| text(&item[name])).collect();
    words.join(" ")
}

/// A number and what it counts.
pub(super) fn plural(count: u64, one: &str, more: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    }
}
