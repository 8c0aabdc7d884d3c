//! `mayfly audit verify`: a copy of the log checked without a server: every bit, every signature, and what entries say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mayfly_audit::{Entry, Replay, Violation};
use mayfly_tlog::files::{CHECKPOINT, Damage, Damages, LogDir, LogKeys, VerifiedLog};
use mayfly_tlog::note::{Algorithm, VerifierKey};
use serde::Serialize;
use serde_json::{Value, json};

use super::copy::{KEYS, named_key};
use super::keys::{self, Of};
use super::private::{self, PRIVATE};
use super::view::plural;
use crate::Context;
use crate::errors::{CliError, Exit};
use crate::output::visible_line;

pub(super) const EXAMPLES: &str = "\
Keys are what all trust begins with: have them from whoever runs the log, not
from the copy. One that the log had at any time is enough, as long as it has
signed: others that the log names are believed then.

What is damaged is named by file, entry and byte. Rules that must hold (I1 to
I14) are replayed from the entries, by code that shares nothing with the
server's.

Exit codes: 0 all is well, 1 something is wrong, 2 wrong input.

Examples:
  mayfly audit verify copy/ --key log.keys
  mayfly audit verify copy/ --key log.keys --witness-key w.keys --cosigned 2
  mayfly audit verify copy/ --key log.keys --output json | jq .damages";

/// The most violations that are shown.
const SHOWN_MAX: usize = 50;
/// Entries between two signs of progress.
const STRIDE: u64 = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The folder of the copy
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// A key of the log, or a file of such
    #[arg(long, value_name = "VKEY|FILE", required = true)]
    key: Vec<String>,
    /// A key of a witness, or a file of such
    #[arg(long, value_name = "VKEY|FILE")]
    witness_key: Vec<String>,
    /// So many of these witnesses have to have cosigned
    #[arg(long, value_name = "COUNT", default_value = "0")]
    cosigned: usize,
    /// Signatures whose keys are not known are let be
    #[arg(long)]
    allow_unknown: bool,
}

/// A place that is not what it was. The field names are the keys of the JSON form.
#[derive(Debug, Serialize)]
struct DamageView {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    problem: String,
}

/// What was found. The field names are the keys of the JSON form.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    ok: bool,
    origin: Option<String>,
    size: Option<u64>,
    root: Option<String>,
    from: Option<String>,
    to: Option<String>,
    cosigned_by: Vec<Value>,
    unknown_signatures: Vec<String>,
    damages: Vec<DamageView>,
    more_damages: u64,
    violations: Vec<Violation>,
    notes: Vec<String>,
    totals: Option<Value>,
    private: Option<Value>,
}

/// What the entries name besides what they say.
#[derive(Default)]
struct Named {
    keys: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    commitments: BTreeSet<String>,
    erased: BTreeSet<String>,
}

/// Checks the copy.
///
/// # Errors
/// Keys that cannot be read, or a folder that is none.
pub(super) fn run(args: &VerifyArgs, context: &mut Context) -> Result<Exit, CliError> {
    let keys = keys::read(&args.key, Of::Log)?;
    let witnesses = keys::read(&args.witness_key, Of::Witness)?;
    if !args.dir.is_dir() {
        return Err(CliError::input(
            format!("`{}` is not a folder", args.dir.display()),
            "name the folder of a copy, as `mayfly audit export` writes it",
        ));
    }
    let mut outcome = Outcome::default();
    context.out.live("tiles and signatures …");
    // Signatures of keys that the log names are looked at once it is known what it names.
    let trusted = LogKeys::new(keys.clone())
        .with_witnesses(witnesses.clone())
        .allow_unknown_signatures();
    match LogDir::open(&args.dir).verify_all(&trusted) {
        Ok(log) => entries(args, &log, (&keys, &witnesses), context, &mut outcome)?,
        Err(Damages { found, more }) => {
            outcome.damages.extend(found.iter().map(DamageView::of));
            outcome.more_damages = more;
        }
    }
    outcome.ok = outcome.damages.is_empty() && outcome.violations.is_empty();
    show(&outcome, context)?;
    Ok(if outcome.ok { Exit::Ok } else { Exit::Failed })
}

/// What the entries of a log say, which are known to be those that were signed.
fn entries(
    args: &VerifyArgs,
    log: &VerifiedLog,
    (keys, witnesses): (&[VerifierKey], &[VerifierKey]),
    context: &mut Context,
    outcome: &mut Outcome,
) -> Result<(), CliError> {
    let checkpoint = log.checkpoint();
    outcome.origin = Some(checkpoint.origin().to_owned());
    outcome.size = Some(checkpoint.size());
    outcome.root = Some(checkpoint.root().to_string());
    let private = args.dir.join(PRIVATE);
    let details = match private.exists() {
        false => None,
        true => {
            let (details, faults) = private::read(&private)?;
            outcome.damages.extend(faults.into_iter().map(|fault| DamageView {
                file: PRIVATE.into(),
                entry: None,
                offset: Some(fault.offset),
                line: Some(fault.line),
                problem: fault.problem,
            }));
            Some(details)
        }
    };
    let mut named = Named::default();
    let mut replay = Replay::new(details.clone().unwrap_or_default());
    for entry in log.entries() {
        let (index, bytes) = match entry {
            Ok(entry) => entry,
            Err(damage) => {
                outcome.damages.push(DamageView::of(&damage));
                return Ok(());
            }
        };
        named.take(&bytes);
        match Entry::parse(index, &bytes) {
            Ok(entry) => replay.take(&entry),
            Err(error) => outcome.violations.push(Violation {
                invariant: mayfly_audit::Invariant::Completeness,
                index,
                time: replay.times().map_or(0, |(_, latest)| latest),
                message: error.problem.to_string(),
            }),
        }
        if index % STRIDE == 0 {
            context.out.live(&format!("entry {index} of {}", checkpoint.size()));
        }
    }
    replay.finish();
    outcome.violations.extend(replay.violations().iter().cloned());
    outcome.violations.sort_by_key(|violation| violation.index);
    outcome.notes = notes(&replay);
    let totals = replay.totals();
    outcome.totals = Some(json!({
        "entries": totals.entries, "requests": totals.requests, "windows": totals.windows,
        "task_svids": totals.task_svids, "base_svids": totals.base_svids, "decisions": totals.decisions,
    }));
    if let Some((from, to)) = replay.times() {
        let time = |unix| mayfly_svid::Timestamp::from_unix(unix).to_string();
        (outcome.from, outcome.to) = (Some(time(from)), Some(time(to)));
    }
    let kept: Option<BTreeSet<&str>> = details
        .as_ref()
        .map(|details| details.iter().map(|(name, ..)| name).collect());
    let is_known = |commitment: &&String| kept.as_ref().is_some_and(|kept| kept.contains(commitment.as_str()));
    let missing = named.commitments.iter().filter(|commitment| !is_known(commitment));
    let missing = missing.filter(|commitment| !named.erased.contains(*commitment)).count();
    outcome.private = Some(json!({
        "commitments": named.commitments.len(), "erased": named.erased.len(),
        "known": kept.as_ref().map(BTreeSet::len), "not_in_the_copy": missing,
    }));
    signatures(args, log, (keys, witnesses), &named, outcome);
    key_file(&args.dir, keys, &named, outcome);
    Ok(())
}

/// The signatures on the checkpoint once more, now that it is known which keys the log names.
fn signatures(
    args: &VerifyArgs,
    log: &VerifiedLog,
    (keys, witnesses): (&[VerifierKey], &[VerifierKey]),
    named: &Named,
    outcome: &mut Outcome,
) {
    let note = log.checkpoint().note();
    let all = [keys, &named.keys, witnesses, &named.witnesses].concat();
    let mut damage = |problem: String| {
        outcome.damages.push(DamageView {
            file: CHECKPOINT.into(),
            entry: None,
            offset: None,
            line: None,
            problem,
        });
    };
    if let Err(error) = note.verified_by(&all) {
        damage(error.to_string());
        return;
    }
    let all_witnesses = [witnesses, &named.witnesses].concat();
    let cosigned = log.checkpoint().cosigned_by(&all_witnesses).unwrap_or_default();
    let counted = cosigned
        .iter()
        .filter(|cosigned| witnesses.contains(cosigned.key))
        .count();
    if counted < args.cosigned {
        damage(format!(
            "{} witnesses have to have cosigned, and {counted} have",
            args.cosigned
        ));
    }
    let unknown = note
        .signatures()
        .iter()
        .filter(|signature| !all.iter().any(|key| signature.is_by(key)));
    let unknown: Vec<String> = unknown.map(|signature| signature.name().to_owned()).collect();
    if !args.allow_unknown {
        for name in &unknown {
            damage(format!(
                "whether the signature of `{name}` is damaged cannot be said: give the key with --witness-key, or let \
                 such signatures be with --allow-unknown"
            ));
        }
    }
    outcome.cosigned_by = cosigned
        .iter()
        .map(|cosigned| {
            let key = cosigned.key;
            json!({ "name": key.name(), "key": key.to_string(), "at": cosigned.timestamp })
        })
        .collect();
    outcome.unknown_signatures = unknown;
}

/// The file with the keys, which is there for those who do not know better: it has to say what the log says.
fn key_file(dir: &Path, keys: &[VerifierKey], named: &Named, outcome: &mut Outcome) {
    let Some(wrong) = wrong_keys(dir, named) else { return };
    outcome.damages.push(DamageView {
        file: KEYS.into(),
        entry: None,
        offset: Some(wrong),
        line: None,
        problem: "the keys are not those that the log names".into(),
    });
    debug_assert!(!keys.is_empty(), "the command line asks for one");
}

/// The first byte of the file that is not what it has to be.
fn wrong_keys(dir: &Path, named: &Named) -> Option<u64> {
    let expected: String = named.keys.iter().rev().map(|key| format!("{key}\n")).collect();
    // A copy that somebody made of the pages of the log may have none.
    let found = std::fs::read(dir.join(KEYS)).ok()?;
    let same = expected
        .bytes()
        .zip(&found)
        .take_while(|(one, other)| one == *other)
        .count();
    (same < expected.len().max(found.len())).then_some(same as u64)
}

fn notes(replay: &Replay) -> Vec<String> {
    let notes = replay.notes();
    let mut all = vec![];
    for (index, before, time) in &notes.clock_steps {
        all.push(format!("entry {index}: the clock was set back from {before} to {time}"));
    }
    for (kind, index) in &notes.unknown_kinds {
        all.push(format!(
            "entries of kind `{kind}` are not known here, the first is {index}: a newer `mayfly` may know them"
        ));
    }
    if !notes.unread.is_empty() {
        all.push(format!(
            "{} entries are kept beside the log as a whole and are not in the copy, the first is {}",
            notes.unread.len(),
            notes.unread[0]
        ));
    }
    if notes.unknown_outcomes > 0 {
        all.push(format!(
            "of {} SVIDs the log does not say whether they were signed",
            notes.unknown_outcomes
        ));
    }
    all
}

fn show(outcome: &Outcome, context: &mut Context) -> Result<(), CliError> {
    if context.out.is_json() {
        return context.out.json(outcome);
    }
    if let (Some(origin), Some(size), Some(root)) = (&outcome.origin, outcome.size, &outcome.root) {
        let mut fields = vec![
            ("Log", visible_line(origin)),
            ("Entries", size.to_string()),
            ("Root", root.clone()),
            ("Cosigned", outcome.cosigned_by.len().to_string()),
        ];
        if let (Some(from), Some(to)) = (&outcome.from, &outcome.to) {
            fields.push(("Time", format!("{from} to {to}")));
        }
        if let Some(totals) = &outcome.totals {
            let of = |name: &str| totals[name].as_u64().unwrap_or_default();
            fields.push((
                "Replayed",
                format!(
                    "{} requests, {} windows, {} task SVIDs, {} other SVIDs, {} decisions",
                    of("requests"),
                    of("windows"),
                    of("task_svids"),
                    of("base_svids"),
                    of("decisions")
                ),
            ));
        }
        context.out.block(&fields)?;
    }
    for damage in &outcome.damages {
        context
            .out
            .line(format!("DAMAGED  {}", visible_line(&damage.to_string())))?;
    }
    if outcome.more_damages > 0 {
        context
            .out
            .line(format!("DAMAGED  and {} more places", outcome.more_damages))?;
    }
    for violation in outcome.violations.iter().take(SHOWN_MAX) {
        context
            .out
            .line(format!("VIOLATED {}", visible_line(&violation.to_string())))?;
    }
    if outcome.violations.len() > SHOWN_MAX {
        context
            .out
            .line(format!("VIOLATED and {} more", outcome.violations.len() - SHOWN_MAX))?;
    }
    for note in &outcome.notes {
        context.out.note(format!("note: {note}"));
    }
    let count = outcome.damages.len() as u64 + outcome.more_damages;
    context.out.line(match (outcome.ok, count) {
        (true, _) => "ok       every entry is the one that was signed, and the rules hold".to_owned(),
        (false, 0) => format!(
            "NOT OK   the log is whole, and shows {} things that must not be",
            outcome.violations.len()
        ),
        (false, count) => format!("NOT OK   {}", plural(count, "place is damaged", "places are damaged")),
    })
}

// === impl Named ===

impl Named {
    fn take(&mut self, bytes: &[u8]) {
        self.keys
            .extend(named_key(bytes).filter(|key| !self.keys.contains(key)));
        let Ok(entry) = serde_json::from_slice::<Value>(bytes) else {
            return;
        };
        collect(&entry, &mut self.commitments);
        let texts = |value: &Value| {
            let items = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            items.map(str::to_owned).collect::<Vec<_>>()
        };
        match entry["kind"].as_str() {
            Some("private.erased") => self.erased.extend(texts(&entry["body"]["commitments"])),
            Some("witness.registered") => {
                let key = entry["body"]["vkey"]
                    .as_str()
                    .and_then(|key| key.parse::<VerifierKey>().ok());
                let key = key.filter(|key| key.algorithm() == Algorithm::CosignatureV1);
                self.witnesses.extend(key.filter(|key| !self.witnesses.contains(key)));
            }
            _ => {}
        }
    }
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    if let Some(commitment) = mayfly_audit::commitment_of(value) {
        found.insert(commitment.to_owned());
        return;
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| collect(value, found)),
        Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

// === impl DamageView ===

impl DamageView {
    fn of(damage: &Damage) -> Self {
        Self {
            file: damage.file.clone(),
            entry: damage.entry,
            offset: damage.offset,
            line: None,
            problem: damage.kind.to_string(),
        }
    }
}

impl std::fmt::Display for DamageView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        for (name, number) in [("line", self.line), ("entry", self.entry), ("byte", self.offset)] {
            if let Some(number) = number {
                write!(f, ", {name} {number}")?;
            }
        }
        write!(f, ": {}", self.problem)
    }
}
