//! Tables of tests beside policies: `*.test.toml`.
//!
//! ```toml
//! definition = "db-migrate.toml"      # a file beside it, or the definition itself as a table
//! [facts]                             # what all cases have in common, on top of facts under which nothing is wrong
//! person = { id = "bob" }
//! [[case]]
//! name = "not from staging"
//! phase = "open"
//! facts.process.environment = "staging"
//! expect = "deny"
//! reasons = ["environment-mismatch"]
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_model::task::Definition;
use mayfly_svid::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::facts::{Facts, Phase, SAMPLE_NOW};
use crate::{Decision, Missing, PolicySet, Verdict};

/// A table that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct TableError {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseResult {
    /// The file.
    pub file: String,
    /// The case's name.
    pub name: String,
    /// How it differs from what was expected; `None` if it does not.
    pub failure: Option<String>,
    /// What was decided.
    pub decision: Decision,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    definition: DefinitionOrFile,
    #[serde(default)]
    facts: toml::Table,
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DefinitionOrFile {
    File(String),
    Inline(toml::Table),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    phase: Phase,
    #[serde(default)]
    facts: toml::Table,
    expect: Verdict,
    /// All reasons must be there and no others, if given.
    reasons: Option<Vec<String>>,
    missing: Option<Vec<Missing>>,
    /// All policies that decided, if given.
    determining: Option<Vec<String>>,
    ttl_cap: Option<String>,
    window_cap: Option<String>,
    /// The `count` of each rule.
    approvals: Option<Vec<u32>>,
    duties: Option<Vec<String>>,
}

impl PolicySet {
    /// Runs all tables in `files` (names that end in `.test.toml`). Definitions are files among them too.
    ///
    /// # Errors
    /// A table that cannot be run: all of them, and nothing was run. A case that fails is no error, but a result.
    pub fn test(&self, files: &BTreeMap<String, String>) -> Result<Vec<CaseResult>, Vec<TableError>> {
        let tables = files.iter().filter(|(name, _)| name.ends_with(".test.toml"));
        let (mut ready, mut errors) = (vec![], vec![]);
        for (file, text) in tables {
            match read(file, text, files) {
                Ok(cases) => ready.extend(cases.into_iter().map(|case| (file, case))),
                Err(problem) => errors.push(TableError {
                    file: file.clone(),
                    problem,
                }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let run = |(file, (case, facts)): (&String, (Case, Facts))| {
            let decision = self.decide(&facts);
            CaseResult {
                file: file.clone(),
                failure: case.failure(&decision),
                name: case.name,
                decision,
            }
        };
        Ok(ready.into_iter().map(run).collect())
    }
}

fn read(file: &str, text: &str, files: &BTreeMap<String, String>) -> Result<Vec<(Case, Facts)>, String> {
    let table: Table = toml::from_str(text).map_err(|e| e.to_string())?;
    let definition = Arc::new(match table.definition {
        DefinitionOrFile::File(name) => {
            let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
            let beside = if folder.is_empty() {
                name.clone()
            } else {
                format!("{folder}/{name}")
            };
            let text = files
                .get(&beside)
                .ok_or_else(|| format!("there is no file `{beside}`"))?;
            Definition::parse(text).map_err(|e| format!("{name}: {e}"))?
        }
        DefinitionOrFile::Inline(table) => {
            let text = toml::to_string(&table).map_err(|e| e.to_string())?;
            Definition::parse(&text).map_err(|e| format!("definition: {e}"))?
        }
    });
    let facts = |case: &Case| {
        let json = |table: &toml::Table| serde_json::to_value(table).map_err(|e| e.to_string());
        let mut changes = json(&table.facts)?;
        overlay(&mut changes, json(&case.facts)?);
        let now = SAMPLE_NOW.unix();
        let now = changes.get("now").map_or(Ok(now), |at| instant(at, now))?;
        let sample = Facts::sample_at(Timestamp::from_unix(now), case.phase, definition.clone());
        let mut value = serde_json::to_value(sample).map_err(|e| e.to_string())?;
        merge(&mut value, changes, "", now)?;
        serde_json::from_value(value).map_err(|e| e.to_string())
    };
    let ready = |case: Case| match facts(&case) {
        Ok(facts) => Ok((case, facts)),
        Err(problem) => Err(format!("case `{}`: {problem}", case.name)),
    };
    table.case.into_iter().map(ready).collect()
}

/// Keys whose values are instants.
const INSTANTS: [&str; 5] = ["now", "attested_at", "at", "opened_at", "renewed_at"];

/// Facts that may be absent.
const OPTIONAL: [&str; 7] = ["person", "team", "owner", "ticket", "approver", "window", "key"];

/// Lays the facts of a case over those of all.
fn overlay(all: &mut Value, case: Value) {
    match (all, case) {
        (Value::Object(all), Value::Object(case)) => {
            for (key, value) in case {
                overlay(all.entry(key).or_insert(Value::Null), value);
            }
        }
        (all, case) => *all = case,
    }
}

/// Lays `changes` over `facts`: tables key by key, all else in place of what is there. Keys that facts do not have
/// stay, for the reader to refuse.
fn merge(facts: &mut Value, changes: Value, key: &str, now: i64) -> Result<(), String> {
    match (facts, changes) {
        (Value::Object(facts), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(facts.entry(key.clone()).or_insert(Value::Null), change, &key, now)?;
            }
        }
        (facts @ Value::Null, Value::Object(changes)) => {
            *facts = Value::Object(serde_json::Map::new());
            merge(facts, Value::Object(changes), key, now)?;
        }
        (facts, Value::Array(items)) => {
            let read = |item: Value| {
                let mut value = Value::Null;
                merge(&mut value, item, key, now).map(|()| value)
            };
            *facts = Value::Array(items.into_iter().map(read).collect::<Result<_, _>>()?);
        }
        (facts, change) if INSTANTS.contains(&key) => *facts = instant(&change, now)?.into(),
        // No TOML has null: `false` takes away what may be absent.
        (facts, Value::Bool(false)) if OPTIONAL.contains(&key) => *facts = Value::Null,
        (facts, change) => *facts = change,
    }
    Ok(())
}

/// Seconds, RFC 3339, or a distance from now such as `-6m`.
fn instant(value: &Value, now: i64) -> Result<i64, String> {
    let refused = || format!("`{value}` is no instant; write 2027-01-31T12:00:00Z, -6m or +1h");
    let Value::String(text) = value else {
        return value.as_i64().ok_or_else(refused);
    };
    let distance = |text: &str| {
        let distance = humantime::parse_duration(text).map_err(|_| refused())?;
        i64::try_from(distance.as_secs()).map_err(|_| refused())
    };
    match text.split_at_checked(1) {
        Some(("-", ago)) => Ok(now - distance(ago)?),
        Some(("+", ahead)) => Ok(now + distance(ahead)?),
        _ => OffsetDateTime::parse(text, &Rfc3339)
            .map(OffsetDateTime::unix_timestamp)
            .map_err(|_| refused()),
    }
}

impl Case {
    /// How `decision` differs from what this case expects.
    fn failure(&self, decision: &Decision) -> Option<String> {
        let shown = |duration: Option<std::time::Duration>| {
            duration.map_or("none".into(), |duration| {
                humantime::format_duration(duration).to_string()
            })
        };
        let obligations = &decision.obligations;
        let counts: Vec<u32> = obligations.approvals.iter().map(|rule| rule.count).collect();
        let duties: Vec<String> = obligations.duties.iter().map(ToString::to_string).collect();
        let mut failures = vec![];
        let mut differs = |what: &str, got: String, wanted: Option<String>| {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != got) {
                failures.push(format!("{what}: expected {wanted}, got {got}"));
            }
        };
        let ids = |ids: Vec<&str>| {
            let mut ids = ids;
            ids.sort_unstable();
            ids.dedup();
            format!("{ids:?}")
        };
        let wanted =
            |list: &Option<Vec<String>>| list.as_ref().map(|list| ids(list.iter().map(String::as_str).collect()));
        let decided = decision.determining.iter().map(String::as_str).collect();
        differs(
            "verdict",
            format!("{:?}", decision.verdict),
            Some(format!("{:?}", self.expect)),
        );
        differs("reasons", ids(decision.reason_ids()), wanted(&self.reasons));
        differs(
            "missing",
            format!("{:?}", decision.missing),
            self.missing.as_ref().map(|m| format!("{m:?}")),
        );
        differs("determining", ids(decided), wanted(&self.determining));
        differs("ttl_cap", shown(obligations.ttl_cap), self.ttl_cap.clone());
        differs("window_cap", shown(obligations.window_cap), self.window_cap.clone());
        differs(
            "approvals",
            format!("{counts:?}"),
            self.approvals.as_ref().map(|counts| format!("{counts:?}")),
        );
        differs(
            "duties",
            format!("{duties:?}"),
            self.duties.as_ref().map(|duties| format!("{duties:?}")),
        );
        if failures.is_empty() {
            return None;
        }
        let reasons = decision
            .reasons
            .iter()
            .map(|reason| format!("  {}: {}", reason.id, reason.text));
        failures.extend(reasons);
        Some(failures.join("\n"))
    }
}
