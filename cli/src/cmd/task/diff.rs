//! What differs between two versions of a definition, field by field, and whether it gives more or less than before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use toml::Value;

use crate::errors::CliError;
use crate::output::visible_line;

/// What a change does to the authority that a definition gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Effect {
    /// More may do more, for longer, or with less consent.
    Wider,
    /// The reverse.
    Narrower,
    /// Neither, or not known.
    Other,
}

/// One difference. The field names are the keys of the JSON form.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    field: String,
    was: Option<String>,
    now: Option<String>,
    pub(crate) effect: Effect,
}

/// How the value of a field bears on authority.
#[derive(Clone, Copy)]
enum Weight {
    /// A greater number or longer time gives more; leaving it out gives most.
    Greater,
    /// A greater number gives less.
    Smaller,
    /// Each member gives more.
    Members,
    /// Each member gives more, but none at all stands for any.
    MembersOrAny,
    /// Each member gives less.
    Conditions,
    /// `true` gives less.
    Flag,
    /// Nothing is known of it.
    Unknown,
}

fn weight(field: &str) -> Weight {
    match field {
        "limits.max_window"
        | "limits.max_ttl"
        | "limits.max_uses"
        | "limits.concurrency"
        | "limits.evidence_max_age"
        | "limits.request_ttl"
        | "limits.open_within"
        | "approval.valid_for"
        | "heartbeat.interval"
        | "heartbeat.missed"
        | "review_by" => Weight::Greater,
        "approval.count" | "approval.distinct_groups" | "sensitivity" => Weight::Smaller,
        "scopes" | "allowed.workloads" | "approval.groups" => Weight::Members,
        "ticket.kinds" => Weight::MembersOrAny,
        "allowed.selectors" | "ending.checkpoints" => Weight::Conditions,
        "ticket.required" | "ending.settle_before_next" => Weight::Flag,
        _ => Weight::Unknown,
    }
}

/// The differences between two definitions in TOML, by the names of their fields. Comments and order are none.
///
/// # Errors
/// One of them is not TOML.
pub(crate) fn between(was: &str, now: &str) -> Result<Vec<Difference>, CliError> {
    let (was, now) = (fields(was)?, fields(now)?);
    let names: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
    let mut differences = Vec::new();
    for name in names {
        match (was.get(name), now.get(name)) {
            (was, now) if was == now => {}
            (Some(Value::Array(was)), Some(Value::Array(now))) => members(name, was, now, &mut differences),
            (Some(Value::Array(was)), None) => members(name, was, &[], &mut differences),
            (None, Some(Value::Array(now))) => members(name, &[], now, &mut differences),
            (was, now) => differences.push(Difference {
                field: name.clone(),
                was: was.map(text),
                now: now.map(text),
                effect: effect(weight(name), was, now),
            }),
        }
    }
    Ok(differences)
}

/// As lines for people: `limits.max_window  15m -> 1h  WIDER`.
pub(crate) fn lines(differences: &[Difference]) -> Vec<String> {
    let width = |of: &dyn Fn(&Difference) -> usize| differences.iter().map(of).max().unwrap_or(0);
    let names = width(&|difference| difference.field.len());
    let changes = width(&|difference| difference.change().chars().count().min(CHANGE_WIDTH));
    let line = |difference: &Difference| {
        let effect = match difference.effect {
            Effect::Wider => "WIDER",
            Effect::Narrower => "narrower",
            Effect::Other => "",
        };
        let change = difference.change();
        format!("{:names$}  {change:changes$}  {effect}", difference.field)
            .trim_end()
            .to_owned()
    };
    differences.iter().map(line).collect()
}

/// Longer changes do not move the last column of all.
const CHANGE_WIDTH: usize = 50;

fn fields(text: &str) -> Result<BTreeMap<String, Value>, CliError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| CliError::BadAnswer {
        who: "the server",
        what: format!("a definition that is not TOML: {}", error.message()),
    })?;
    let mut fields = BTreeMap::new();
    flatten("", Value::Table(table), &mut fields);
    Ok(fields)
}

fn flatten(name: &str, value: Value, fields: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                flatten(&name, value, fields);
            }
        }
        value => {
            fields.insert(name.to_owned(), value);
        }
    }
}

fn members(name: &str, was: &[Value], now: &[Value], differences: &mut Vec<Difference>) {
    let all: BTreeSet<String> = was.iter().chain(now).map(text).collect();
    let weight = weight(name);
    let any = matches!(weight, Weight::MembersOrAny) && (was.is_empty() || now.is_empty());
    for member in all {
        let had = was.iter().any(|value| text(value) == member);
        let has = now.iter().any(|value| text(value) == member);
        if had == has {
            continue;
        }
        let effect = match weight {
            // From any to some, or from some to any: each member tells the reverse of what it would.
            Weight::MembersOrAny if any && has => Effect::Narrower,
            Weight::MembersOrAny if any => Effect::Wider,
            Weight::Members | Weight::MembersOrAny if has => Effect::Wider,
            Weight::Conditions if had => Effect::Wider,
            Weight::Members | Weight::MembersOrAny | Weight::Conditions => Effect::Narrower,
            _ => Effect::Other,
        };
        differences.push(Difference {
            field: name.to_owned(),
            was: had.then(|| member.clone()),
            now: has.then_some(member),
            effect,
        });
    }
}

fn effect(weight: Weight, was: Option<&Value>, now: Option<&Value>) -> Effect {
    let wider = match weight {
        Weight::Greater => match (was, now) {
            // Without a bound there is none.
            (Some(_), None) => Some(true),
            (None, Some(_)) => Some(false),
            (Some(was), Some(now)) => less(was, now),
            (None, None) => None,
        },
        Weight::Smaller => match (was, now) {
            (Some(_), None) => Some(true),
            (None, Some(_)) => Some(false),
            (Some(was), Some(now)) => less(now, was),
            (None, None) => None,
        },
        Weight::Flag => match (was.and_then(Value::as_bool), now.and_then(Value::as_bool)) {
            (Some(true), _) => Some(true),
            (_, Some(true)) => Some(false),
            _ => None,
        },
        Weight::Members | Weight::MembersOrAny | Weight::Conditions | Weight::Unknown => None,
    };
    match wider {
        Some(true) => Effect::Wider,
        Some(false) => Effect::Narrower,
        None => Effect::Other,
    }
}

/// Whether `a` is less than `b`; `None` if they cannot be compared.
fn less(a: &Value, b: &Value) -> Option<bool> {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => Some(a < b),
        (Value::String(a), Value::String(b)) => match (duration(a), duration(b)) {
            (Some(a), Some(b)) => Some(a < b),
            // Dates in RFC 3339 and UTC sort as text.
            _ => Some(a < b).filter(|_| a.ends_with('Z') && b.ends_with('Z')),
        },
        _ => None,
    }
}

fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => visible_line(text),
        value => value.to_string(),
    }
}

// === impl Difference ===

impl Difference {
    fn change(&self) -> String {
        match (&self.was, &self.now) {
            (Some(was), Some(now)) => format!("{was} -> {now}"),
            (None, Some(now)) => format!("+ {now}"),
            (Some(was), None) => format!("- {was}"),
            (None, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use mayfly_model::task::Definition;

    use super::*;

    const BASE: &str = r#"
name = "pay/x"
owner = "alice"
scopes = ["read"]
[allowed]
workloads = ["/ns/pay/x"]
selectors = ["unix:uid:7"]
[limits]
max_window = "15m"
[approval]
count = 2
groups = ["pay/leads"]
[ticket]
required = true
[heartbeat]
interval = "10s"
missed = 3
"#;

    fn changed(old: &str, new: &str) -> Vec<(String, Effect)> {
        assert!(BASE.contains(old), "{old}");
        let all_fields = |text: &str| Definition::parse(text).unwrap().to_toml();
        let differences = between(&all_fields(BASE), &all_fields(&BASE.replace(old, new))).unwrap();
        lines(&differences)
            .into_iter()
            .zip(differences.iter().map(|difference| difference.effect))
            .collect()
    }

    #[test]
    fn a_change_that_gives_more_is_told_from_one_that_gives_less() {
        for (old, new, line, effect) in [
            (
                "\"15m\"",
                "\"1h\"",
                "limits.max_window  15m -> 1h  WIDER",
                Effect::Wider,
            ),
            (
                "\"15m\"",
                "\"90s\"",
                "limits.max_window  15m -> 1m 30s  narrower",
                Effect::Narrower,
            ),
            ("count = 2", "count = 1", "approval.count  2 -> 1  WIDER", Effect::Wider),
            (
                "count = 2",
                "count = 3",
                "approval.count  2 -> 3  narrower",
                Effect::Narrower,
            ),
            (
                "[\"read\"]",
                "[\"read\", \"write\"]",
                "scopes  + write  WIDER",
                Effect::Wider,
            ),
            (
                "/ns/pay/x\"",
                "/ns/pay/x\", \"/ns/*\"",
                "allowed.workloads  + /ns/*  WIDER",
                Effect::Wider,
            ),
            (
                "[\"unix:uid:7\"]",
                "[]",
                "allowed.selectors  - unix:uid:7  WIDER",
                Effect::Wider,
            ),
            (
                "required = true",
                "required = false",
                "ticket.required  true -> false  WIDER",
                Effect::Wider,
            ),
            (
                "required = true",
                "required = true\nkinds = [\"change\"]",
                "ticket.kinds  + change  narrower",
                Effect::Narrower,
            ),
            ("alice", "bob", "owner  alice -> bob", Effect::Other),
            (
                "[approval]",
                "[ending]\nsettle_before_next = true\n[approval]",
                "ending.settle_before_next  false -> true  narrower",
                Effect::Narrower,
            ),
        ] {
            assert_eq!(changed(old, new), [(line.to_owned(), effect)], "{new}");
        }
    }

    #[test]
    fn taking_a_bound_away_gives_more() {
        let without = changed("[heartbeat]\ninterval = \"10s\"\nmissed = 3\n", "");
        assert!(
            without.len() == 2 && without.iter().all(|(_, effect)| *effect == Effect::Wider),
            "{without:?}"
        );
        let text = "owner = \"alice\"";
        let later = |date: &str| BASE.replace(text, &format!("{text}\nreview_by = {date}"));
        let of = |date: &str| Definition::parse(&later(date)).unwrap().to_toml();
        let differences = between(&of("2027-01-31"), &of("2027-11-30")).unwrap();
        assert_eq!(differences[0].effect, Effect::Wider, "{differences:?}");
    }

    #[test]
    fn comments_and_order_are_no_difference() {
        let other = format!(
            "# a comment\n{}",
            BASE.replace(
                "owner = \"alice\"\nscopes = [\"read\"]",
                "scopes = ['read']\nowner = 'alice'"
            )
        );
        assert_eq!(between(BASE, &other).unwrap(), []);
        assert!(between(BASE, "=").is_err());
    }

    #[test]
    fn fields_that_this_version_does_not_know_are_shown_too() {
        let differences = between("a.b = 1", "a.b = 2\nc = 'x'").unwrap();
        assert_eq!(lines(&differences), ["a.b  1 -> 2", "c    + x"]);
    }
}
