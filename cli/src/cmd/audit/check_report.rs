//! `mayfly audit check-report`: what can be told about a report without a server.

use std::path::{Path, PathBuf};

use mayfly_audit::Details;
use mayfly_report::REPORT_MAX;
use mayfly_report::check::{Check, Outcome, With, check};
use mayfly_runtime::files::{PRIVATE, write_atomic};
use serde_json::json;

use super::keys::{self, Of};
use super::report::{Copied, note_of};
use crate::Context;
use crate::errors::{CliError, Exit};
use crate::files;
use crate::output::visible_line;

pub(super) const EXAMPLES: &str = "\
Looks at the form of the report and at its sums, at the signature over it
(FILE.note), at the page beside it (.html), at the checkpoint that it carries,
and that the log only grew within the period. With a copy of the log the report
is made anew and compared byte for byte. Have the key from whoever runs the log,
not from the report.

Exit codes: 0 all is well, 1 something is wrong, 2 wrong input.

Examples:
  mayfly audit check-report report.json --key log.keys
  mayfly audit check-report report.json --key log.keys --export copy/
  mayfly audit check-report report.json --key log.keys --witness-key w.keys \\
      --output json
  mayfly audit check-report report.json --key log.keys --write-page mine.html";

#[derive(Debug, clap::Args)]
pub(super) struct CheckReportArgs {
    /// The report's JSON
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A key of the log, or a file of such
    #[arg(long, value_name = "VKEY|FILE")]
    key: Vec<String>,
    /// A key of a witness, or a file of such
    #[arg(long, value_name = "VKEY|FILE")]
    witness_key: Vec<String>,
    /// Make the report anew from this copy of the log, and compare
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// Write the page of the report here, made from the JSON
    #[arg(long, value_name = "FILE")]
    write_page: Option<PathBuf>,
    /// There is no note: who made the report is not asked
    #[arg(long)]
    unsigned: bool,
}

/// Checks it.
///
/// # Errors
/// Something cannot be read; what is wrong with the report is no error but said.
pub(super) fn run(args: &CheckReportArgs, context: &mut Context) -> Result<Exit, CliError> {
    let keys = keys::read(&args.key, Of::Log)?;
    let witnesses = keys::read(&args.witness_key, Of::Witness)?;
    let json = read(&args.file)?;
    let note_path = note_of(&args.file);
    let note = match args.unsigned {
        true => None,
        false if note_path.exists() => Some(read(&note_path)?),
        false => {
            return Err(CliError::failed(
                format!("there is no signature: `{}` is missing", note_path.display()),
                "--unsigned checks all the rest",
            ));
        }
    };
    let page_path = args.file.with_extension("html");
    let page = match page_path.exists() && page_path != args.file {
        true => Some(read(&page_path)?),
        false => None,
    };
    let copied = match &args.export {
        None => None,
        Some(dir) => {
            context.out.live("checking the copy …");
            let copied = Copied::open(dir, &keys)?;
            let details = copied.details(dir)?;
            Some((copied, details))
        }
    };
    let copy = copied
        .as_ref()
        .map(|(copied, details): &(Copied, Details)| (&copied.log, details));
    let checks = check(
        &json,
        With {
            note: note.as_deref(),
            page: page.as_deref(),
            keys: &keys,
            witnesses: &witnesses,
            copy,
        },
    );
    let is_well = !checks.iter().any(Check::has_failed);
    if let Some(path) = &args.write_page {
        let made =
            mayfly_report::page(&json).map_err(|error| CliError::failed(error.to_string(), "nothing is written"))?;
        write_atomic(path, made.as_bytes(), PRIVATE)?;
    }
    show(&checks, is_well, context)?;
    Ok(if is_well { Exit::Ok } else { Exit::Failed })
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    files::read(&path.to_string_lossy(), REPORT_MAX as u64)
}

fn show(checks: &[Check], is_well: bool, context: &mut Context) -> Result<(), CliError> {
    if context.out.is_json() {
        let row = |check: &Check| match &check.outcome {
            Outcome::Passed(seen) => json!({ "check": check.what, "outcome": "passed", "seen": seen }),
            Outcome::Failed(wrong) => json!({ "check": check.what, "outcome": "failed", "wrong": wrong }),
            Outcome::NotChecked(why) => json!({ "check": check.what, "outcome": "not_checked", "why": why }),
        };
        let rows: Vec<_> = checks.iter().map(row).collect();
        return context.out.json(&json!({ "ok": is_well, "checks": rows }));
    }
    for check in checks {
        let lines = match &check.outcome {
            Outcome::Passed(seen) => vec![format!("ok           {}: {seen}", check.what)],
            Outcome::NotChecked(why) => vec![format!("not checked  {}: {why}", check.what)],
            Outcome::Failed(wrong) => wrong
                .iter()
                .map(|wrong| format!("WRONG        {}: {wrong}", check.what))
                .collect(),
        };
        for line in lines {
            context.out.line(visible_line(&line))?;
        }
    }
    let unchecked = checks
        .iter()
        .filter(|check| matches!(check.outcome, Outcome::NotChecked(_)))
        .count();
    context.out.line(match (is_well, unchecked) {
        (true, 0) => "ok           the report is what the log says".to_owned(),
        (true, _) => format!("ok           nothing is wrong with what was checked; {unchecked} were not"),
        (false, _) => "NOT OK       do not rely on this report".to_owned(),
    })
}
