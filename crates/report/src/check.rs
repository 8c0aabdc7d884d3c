//! What can be told about a report without a server, each by itself: its form and its sums, its signature, the checkpoint
//! that it carries, and, with a copy of the log, all of it.

#[cfg(test)]
mod hostile;
mod sums;
#[cfg(test)]
mod tests;

use mayfly_audit::meter::View;
use mayfly_audit::report::{REPORT_VERSION, TreeHead};
use mayfly_audit::{Details, LogFacts, Report, Thresholds};
use mayfly_tlog::Hash;
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::files::VerifiedLog;
use mayfly_tlog::merkle::verify_consistency;
use mayfly_tlog::note::VerifierKey;
use serde_json::{Value, json};

use crate::{export, note};

/// One check and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it has to be; what was seen.
    Passed(String),
    /// It is not; what is wrong, each by itself.
    Failed(Vec<String>),
    /// It was not looked at, and why.
    NotChecked(String),
}

/// What a report is checked with.
#[derive(Clone, Copy, Debug, Default)]
pub struct With<'a> {
    /// The note over it, if there is one.
    pub note: Option<&'a [u8]>,
    /// The page beside it, if there is one.
    pub page: Option<&'a [u8]>,
    /// Keys of the log, from somebody else than the report.
    pub keys: &'a [VerifierKey],
    /// Keys of witnesses.
    pub witnesses: &'a [VerifierKey],
    /// A copy of the log that was checked, and what is private in it.
    pub copy: Option<(&'a VerifiedLog, &'a Details)>,
}

impl Check {
    fn new(what: &'static str, wrong: Vec<String>, seen: impl Into<String>) -> Self {
        let outcome = match wrong.is_empty() {
            true => Outcome::Passed(seen.into()),
            false => Outcome::Failed(wrong),
        };
        Self { what, outcome }
    }

    fn skipped(what: &'static str, why: impl Into<String>) -> Self {
        Self {
            what,
            outcome: Outcome::NotChecked(why.into()),
        }
    }

    fn failed(what: &'static str, why: impl Into<String>) -> Self {
        Self {
            what,
            outcome: Outcome::Failed(vec![why.into()]),
        }
    }

    /// Whether something is wrong.
    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }
}

/// Checks the report in `json`. The first check fails alone if it is no report.
pub fn check(json: &[u8], with: With<'_>) -> Vec<Check> {
    let report: Report = match serde_json::from_slice(json) {
        Ok(report) => report,
        Err(error) => return vec![Check::failed(FORM, format!("this is not a report: {error}"))],
    };
    let mut checks = vec![
        form(&report, json),
        thresholds(&report),
        sums::sums(&report),
        signature(&report, json, with),
        page(json, with),
        checkpoint(&report, with.keys),
    ];
    checks.push(cosignatures(&report, with));
    checks.push(consistency(&report));
    checks.push(match with.copy {
        Some((copy, details)) => rebuilt(&report, json, copy, details),
        None => Check::skipped(REBUILT, "there is no copy of the log to make it from"),
    });
    checks
}

const FORM: &str = "form";
const REBUILT: &str = "same bytes from the log";

fn form(report: &Report, json: &[u8]) -> Check {
    let mut wrong = vec![];
    if report.v != REPORT_VERSION {
        wrong.push(format!(
            "it is of version {}, and only {REPORT_VERSION} is known here",
            report.v
        ));
    }
    let known = report.to_json();
    if known != json {
        wrong.push(match first_difference(json, &known) {
            Some((place, says, _)) => {
                format!("`{place}` has something that is not known here, and that nobody checked: {says}")
            }
            None => "it is not in the one spelling that reports have".into(),
        });
    }
    Check::new(
        FORM,
        wrong,
        format!("version {}, SHA-256 {}", report.v, note::digest_of(json)),
    )
}

/// Whoever makes a report does not choose from where on something is a finding.
fn thresholds(report: &Report) -> Check {
    const WHAT: &str = "thresholds";
    let (says, is) = (json!(report.thresholds), json!(Thresholds::default()));
    let fields = is.as_object().into_iter().flatten();
    let wrong = fields.filter(|(name, value)| says[name.as_str()] != **value);
    let wrong: Vec<String> = wrong
        .map(|(name, value)| format!("`{name}` is {}, and has to be {value}", says[name.as_str()]))
        .collect();
    Check::new(WHAT, wrong, "those of every report")
}

fn signature(report: &Report, json: &[u8], with: With<'_>) -> Check {
    const WHAT: &str = "signature";
    let Some(bytes) = with.note else {
        return Check::skipped(WHAT, "there is no note");
    };
    let log = &report.claim.log;
    if with.keys.is_empty() {
        let named = log
            .keys
            .first()
            .map_or_else(String::new, |key| format!("; by its own word the key is {key}"));
        return Check::failed(WHAT, format!("no key of the log is given to check it with{named}"));
    }
    match note::verify(&log.origin, json, bytes, with.keys) {
        Ok(keys) => Check::new(WHAT, vec![], format!("by {} over {}", keys[0], note::digest_of(json))),
        Err(error) => Check::failed(WHAT, error.to_string()),
    }
}

/// The note signs the JSON alone: the page counts if it is the one that the JSON makes.
fn page(json: &[u8], with: With<'_>) -> Check {
    const WHAT: &str = "page";
    let Some(shown) = with.page else {
        return Check::skipped(WHAT, "there is none beside the report");
    };
    match crate::page(json) {
        Ok(made) if made.as_bytes() == shown => {
            Check::new(WHAT, vec![], "the one that the report makes, byte for byte")
        }
        Ok(_) => Check::failed(
            WHAT,
            "it is not the one that this release makes of the report: somebody changed it, or another release made it; \
             `--write-page` makes one of what was signed",
        ),
        Err(error) => Check::failed(WHAT, error.to_string()),
    }
}

fn checkpoint(report: &Report, keys: &[VerifierKey]) -> Check {
    const WHAT: &str = "checkpoint";
    let log = &report.claim.log;
    if log.checkpoint.is_empty() {
        return Check::failed(WHAT, "the report carries none");
    }
    if keys.is_empty() {
        return Check::skipped(WHAT, "no key of the log is given to check it with");
    }
    match SignedCheckpoint::open(log.checkpoint.as_bytes(), keys) {
        Err(error) => Check::failed(WHAT, error.to_string()),
        Ok(signed) => {
            let root = hex::encode(signed.root().as_bytes());
            let mut wrong = vec![];
            let mut same = |name: &str, says: &str, has: &str| {
                if says != has {
                    wrong.push(format!("the report says the {name} {says}, and its checkpoint {has}"));
                }
            };
            same("origin", &log.origin, signed.origin());
            same("size", &log.end.size.to_string(), &signed.size().to_string());
            same("root", &log.end.root, &root);
            Check::new(WHAT, wrong, format!("{} entries of {}", signed.size(), signed.origin()))
        }
    }
}

fn cosignatures(report: &Report, with: With<'_>) -> Check {
    const WHAT: &str = "cosignatures";
    let log = &report.claim.log;
    if log.cosigned_by.is_empty() {
        return Check::skipped(WHAT, "no witness cosigned");
    }
    if with.keys.is_empty() {
        return Check::skipped(WHAT, "no key of the log is given to check the checkpoint with");
    }
    let signed = match SignedCheckpoint::open(log.checkpoint.as_bytes(), with.keys) {
        Ok(signed) => signed,
        Err(_) => return Check::skipped(WHAT, "its checkpoint is none"),
    };
    let found = match signed.cosigned_by(with.witnesses) {
        Ok(found) => found,
        Err(error) => return Check::failed(WHAT, error.to_string()),
    };
    let is_there = |name: &String| {
        signed
            .note()
            .signatures()
            .iter()
            .any(|line| line.name() == name.as_str())
    };
    let absent = log.cosigned_by.iter().filter(|name| !is_there(name));
    let wrong: Vec<String> = absent
        .map(|name| format!("{name} is said to have cosigned and did not"))
        .collect();
    if !wrong.is_empty() {
        return Check::new(WHAT, wrong, "");
    }
    match found.len() {
        0 => Check::skipped(WHAT, format!("no key of {} is given", log.cosigned_by.join(", "))),
        verified => Check::new(
            WHAT,
            vec![],
            format!("{verified} of {} witnesses", log.cosigned_by.len()),
        ),
    }
}

fn consistency(report: &Report) -> Check {
    const WHAT: &str = "only grew within the period";
    let log = &report.claim.log;
    let Some(begin) = &log.begin else {
        return Check::skipped(WHAT, "the period begins with the log");
    };
    let shown = || {
        let hashes: Option<Vec<Hash>> = log.consistency.iter().map(|text| hash(text)).collect();
        let (from, to) = (hash(&begin.root)?, hash(&log.end.root)?);
        Some(verify_consistency(begin.size, from, log.end.size, to, &hashes?))
    };
    match shown() {
        None => Check::failed(WHAT, "a root or a hash of the proof is none"),
        Some(Err(error)) => Check::failed(WHAT, error.to_string()),
        Some(Ok(())) => Check::new(WHAT, vec![], format!("from {} to {} entries", begin.size, log.end.size)),
    }
}

fn hash(text: &str) -> Option<Hash> {
    let bytes: [u8; Hash::LEN] = hex::decode(text).ok()?.try_into().ok()?;
    Some(Hash::new(bytes))
}

fn rebuilt(report: &Report, json: &[u8], copy: &VerifiedLog, details: &Details) -> Check {
    let claim = &report.claim;
    if copy.checkpoint().origin() != claim.log.origin {
        let why = format!(
            "the copy is of {}, and the report is about {}",
            copy.checkpoint().origin(),
            claim.log.origin
        );
        return Check::failed(REBUILT, why);
    }
    let view = View {
        from: claim.from,
        to: claim.to,
        scope: claim.scope.clone(),
        // Never those of the report: they say how much is to be computed.
        thresholds: Thresholds::default(),
    };
    // What only the checkpoint says is checked by itself; what can be had from the entries is made anew.
    let log = || LogFacts {
        begin: None::<TreeHead>,
        consistency: vec![],
        ..claim.log.clone()
    };
    let mut difference = None;
    // Made with names or without: whoever made it chose.
    let known = [Details::default(), details.clone()];
    for details in known.into_iter().take(if details.is_empty() { 1 } else { 2 }) {
        match export::of_copy(copy, details, &view, log()) {
            Err(error) => return Check::failed(REBUILT, error.to_string()),
            Ok(made) if made.to_json() == json => {
                return Check::new(
                    REBUILT,
                    vec![],
                    format!("{} bytes from {} entries", json.len(), claim.log.end.size),
                );
            }
            Ok(made) => difference = first_difference(json, &made.to_json()),
        }
    }
    let place = difference.map_or_else(String::new, |(place, says, is)| {
        format!(": `{place}` says {says}, and the log {is}")
    });
    Check::failed(REBUILT, format!("the log makes another report{place}"))
}

/// The beginning of a text that somebody else chose.
fn brief(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where two documents differ first, and what is there.
fn first_difference(says: &[u8], is: &[u8]) -> Option<(String, String, String)> {
    let (says, is): (Value, Value) = (serde_json::from_slice(says).ok()?, serde_json::from_slice(is).ok()?);
    let mut place = String::new();
    let (mut a, mut b) = (&says, &is);
    const NOTHING: &Value = &Value::Null;
    loop {
        let next = match (a, b) {
            (Value::Object(left), Value::Object(right)) => {
                let differs = left.iter().find(|(name, a)| right.get(*name) != Some(*a));
                let differs = differs.map(|(name, a)| (name, a, right.get(name).unwrap_or(NOTHING)));
                let absent = || right.iter().find(|(name, _)| !left.contains_key(*name));
                let found = differs.or_else(|| absent().map(|(name, b)| (name, NOTHING, b)));
                found.map(|(name, a, b)| (name.clone(), a, b))
            }
            (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
                let differs = left.iter().zip(right).enumerate().find(|(_, (a, b))| a != b);
                differs.map(|(index, (a, b))| (index.to_string(), a, b))
            }
            _ => None,
        };
        let Some((step, left, right)) = next else { break };
        if !place.is_empty() {
            place.push('.');
        }
        place.push_str(&step);
        (a, b) = (left, right);
    }
    let short = |value: &Value| brief(&value.to_string());
    (a != b).then(|| (brief(&place), short(a), short(b)))
}
