//! `mayfly doctor`: what is wrong with this installation, and what to do.
//!
//! Looks from outside, as an operator would: at sockets, at what server and agent answer, and whether their answers fit
//! together. It changes nothing. Each finding has a code that stays the same between versions; `docs/cli.md` lists them.

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command};
use serde::Serialize;
use serde_json::json;

use super::{Noun, Running, parsed};
use crate::Context;
use crate::errors::{CliError, Exit};

mod agent;
mod registrations;
mod server;
mod tasks;

#[cfg(test)]
mod tests;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "doctor",
    command,
    run,
};

const EXAMPLES: &str = "\
Exit code 0: nothing is broken (there may be warnings). 1: there are errors.

Examples:
  mayfly doctor
  mayfly doctor --server-only --data-dir /var/lib/mayfly/server
  mayfly doctor --output json | jq '.findings[] | select(.severity != \"ok\")'";

#[derive(Debug, clap::Args)]
struct DoctorArgs {
    /// Look at the server only
    #[arg(long, conflicts_with = "agent_only")]
    server_only: bool,
    /// Look at the agent only
    #[arg(long)]
    agent_only: bool,
    /// Data folder of the server, for the disk space
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Looked at and fine.
    Ok,
    /// Worth knowing.
    Info,
    /// Degraded, or will break.
    Warning,
    /// Broken.
    Error,
}

/// One thing that was looked at. The field names are the keys of the JSON form.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    severity: Severity,
    code: &'static str,
    what: String,
    todo: Option<String>,
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

fn command() -> Command {
    DoctorArgs::augment_args(Command::new("doctor").about("Find out what is wrong with this installation"))
        .after_help(EXAMPLES)
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        let args: DoctorArgs = parsed(matches)?;
        let now = context.now();
        let mut findings = Findings::default();
        let mut bundle = None;
        if !args.agent_only {
            bundle = server::examine(&context.globals, args.data_dir.as_deref(), now, &mut findings).await;
        }
        if !args.server_only {
            agent::examine(&context.globals, bundle.as_ref(), now, &mut findings).await;
        }
        show(&findings, context)
    })
}

fn show(findings: &Findings, context: &mut Context) -> Result<Exit, CliError> {
    let count = |severity| findings.0.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if context.out.is_json() {
        context
            .out
            .json(&json!({"findings": findings.0, "errors": errors, "warnings": warnings}))?;
    } else {
        for finding in &findings.0 {
            let mark = match finding.severity {
                Severity::Ok => "ok     ",
                Severity::Info => "info   ",
                Severity::Warning => "warning",
                Severity::Error => "ERROR  ",
            };
            let code = if finding.severity == Severity::Ok {
                String::new()
            } else {
                format!(" [{}]", finding.code)
            };
            context.out.line(format!("{mark}  {}{code}", finding.what))?;
            if let Some(todo) = &finding.todo {
                context.out.line(format!("         -> {todo}"))?;
            }
        }
        let summary = match (errors, warnings) {
            (0, 0) => "Nothing is wrong.".to_owned(),
            (errors, warnings) => format!("{}, {}.", counted(errors, "error"), counted(warnings, "warning")),
        };
        context.out.line(summary)?;
    }
    Ok(if errors == 0 { Exit::Ok } else { Exit::Failed })
}

/// `1 error`, `2 errors`, `3 entries`.
fn counted(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

/// `1 agent is`, `3 agents are`.
fn counted_are(count: usize, noun: &str) -> String {
    format!("{} {}", counted(count, noun), if count == 1 { "is" } else { "are" })
}

// === impl Findings ===

impl Findings {
    fn add(&mut self, severity: Severity, code: &'static str, what: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Finding {
            severity,
            code,
            what: what.into(),
            todo: Some(todo.into()),
        });
    }

    /// It is fine.
    pub(crate) fn ok(&mut self, code: &'static str, what: impl Into<String>) {
        self.0.push(Finding {
            severity: Severity::Ok,
            code,
            what: what.into(),
            todo: None,
        });
    }

    /// Worth knowing, with what to do.
    pub(crate) fn info(&mut self, code: &'static str, what: impl Into<String>, todo: impl Into<String>) {
        self.add(Severity::Info, code, what, todo);
    }

    /// Degraded, with what to do.
    pub(crate) fn warning(&mut self, code: &'static str, what: impl Into<String>, todo: impl Into<String>) {
        self.add(Severity::Warning, code, what, todo);
    }

    /// Broken, with what to do.
    pub(crate) fn error(&mut self, code: &'static str, what: impl Into<String>, todo: impl Into<String>) {
        self.add(Severity::Error, code, what, todo);
    }

    /// A failed call or connection, under `code`, with the hints of the error as what to do.
    pub(crate) fn failure(&mut self, code: &'static str, error: &CliError) {
        self.0.push(Finding {
            severity: Severity::Error,
            code,
            what: error.to_string(),
            // Not "ask the doctor".
            todo: error.hints().into_iter().find(|hint| !hint.contains("mayfly doctor")),
        });
    }
}
