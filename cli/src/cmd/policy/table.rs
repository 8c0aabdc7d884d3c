//! `mayfly policy test`: tables of decisions that a policy has to make, without a server.

use std::path::PathBuf;

use mayfly_policy::{CaseResult, PolicySet};
use serde_json::json;

use super::folder;
use crate::Context;
use crate::errors::{CliError, Exit};
use crate::output::visible_line;

pub(super) const EXAMPLES: &str = "\
Loads *.cedar, with the built-in guards, as a server would; then runs all tables
*.test.toml. Definitions that they name are files *.toml beside them. Nothing is
sent: this is for an editor and for CI.

Examples:
  mayfly policy test policy/
  mayfly policy test policy/ --output json | jq '.cases[] | select(.ok | not)'";

/// Runs every table of the files and folders.
///
/// # Errors
/// A policy or a table cannot be read; or there is no table.
pub(super) fn run(paths: &[PathBuf], context: &mut Context) -> Result<Exit, CliError> {
    let policies = folder::read(paths, folder::POLICY)?;
    let tables = folder::read(paths, folder::TABLE)?;
    let set = PolicySet::load(&policies).map_err(|errors| {
        let problems: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        faults("the policy cannot be loaded", &problems)
    })?;
    let results = set.test(&tables).map_err(|errors| {
        let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
        faults("the tables cannot be run", &problems)
    })?;
    if results.is_empty() {
        return Err(CliError::input(
            "there is no table to run",
            "tables are files *.test.toml beside the policy",
        ));
    }
    let failed = results.iter().filter(|result| result.failure.is_some()).count();
    if context.out.is_json() {
        let cases: Vec<_> = results.iter().map(case).collect();
        context
            .out
            .json(&json!({"cases": cases, "succeeded": results.len() - failed, "failed": failed}))?;
    } else {
        for result in &results {
            if let Some(failure) = &result.failure {
                context
                    .out
                    .line(format!("FAILED  {}: {}", result.file, visible_line(&result.name)))?;
                for line in failure.lines() {
                    context.out.line(format!("        {line}"))?;
                }
            }
        }
        let count = results.len() - failed;
        context.out.line(match failed {
            0 => format!("All {count} cases are decided as they should be."),
            _ => format!("{failed} of {} cases are decided otherwise.", results.len()),
        })?;
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
}

fn case(result: &CaseResult) -> serde_json::Value {
    json!({"file": result.file, "name": result.name, "ok": result.failure.is_none(), "failure": result.failure,
        "determining": result.decision.determining})
}

fn faults(what: &str, problems: &[String]) -> CliError {
    CliError::Input {
        what: format!("{what}\n  {}", problems.join("\n").replace('\n', "\n  ")),
        hints: vec![],
    }
}
