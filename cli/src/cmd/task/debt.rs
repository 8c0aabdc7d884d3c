//! `mayfly task debt` and `mayfly task lint`: what stands, and what is likely a mistake.

use std::time::Duration;

use mayfly_proto::mayfly::task::{
    CheckpointRow, DebtResponse, DueReview, Finding, GetDebtRequest, GetLintsRequest, Lint, PowerRow, PrivilegedEntry,
    UnsettledWindow,
};
use mayfly_svid::Timestamp;
use serde_json::{Value, json};

use super::exception::{ExceptionView, table};
use super::view::At;
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::values;

pub(super) const DEBT_EXAMPLES: &str = "\
Measured over the log of the period; what stands now is listed beside it. The
worst comes first, with what to do about it.

Examples:
  mayfly task debt
  mayfly task debt --over 7d --scope team:pay
  mayfly task debt --output json | jq '.findings[].code'";

pub(super) const LINT_EXAMPLES: &str = "\
Looks for tasks that give what somebody has anyway (S5), policies that ask
only who somebody is (S19), approvals that nobody thinks about (S42), and
windows that only look short (S85).

Examples:
  mayfly task lint
  mayfly task lint --strict";

/// A log takes a while to read.
const PATIENCE: Duration = Duration::from_secs(300);
/// Rows of a table on a terminal; JSON has all.
const ROWS: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct DebtArgs {
    #[command(flatten)]
    period: Period,
    /// About what: all, team:NAME, task:TEAM/TASK, workload:SPIFFE-ID (also with /*), owner:PERSON
    #[arg(long, value_name = "SCOPE", default_value = "all")]
    scope: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct LintArgs {
    #[command(flatten)]
    period: Period,
    /// End with code 1 if something is found
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, clap::Args)]
struct Period {
    /// How long the period is that is looked at; it ends now
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = values::duration)]
    over: Duration,
}

impl Period {
    /// Its first second. The end is the server's now, whatever this machine's clock says.
    fn since(&self, now: Timestamp) -> i64 {
        now.minus(self.over).unix().max(1)
    }
}

/// Shows what stands.
///
/// # Errors
/// The server's status.
pub(super) async fn debt(args: &DebtArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let mut request = server.request(GetDebtRequest {
        since: args.period.since(context.now()),
        until: 0,
        scope: args.scope.clone(),
    });
    request.set_timeout(PATIENCE.max(context.globals.timeout));
    let answer = server.debt().get(request).await;
    let answer = answer
        .map_err(|status| server.failed("measure the log", status))?
        .into_inner();
    if context.out.is_json() {
        context.out.json(&debt_json(answer))?;
    } else {
        show(answer, context)?;
    }
    Ok(Exit::Ok)
}

/// Shows what is likely a mistake.
///
/// # Errors
/// The server's status.
pub(super) async fn lint(args: &LintArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let mut request = server.request(GetLintsRequest {
        since: args.period.since(context.now()),
        until: 0,
    });
    request.set_timeout(PATIENCE.max(context.globals.timeout));
    let answer = server.debt().lint(request).await;
    let answer = answer.map_err(|status| server.failed("lint", status))?.into_inner();
    let exit = if args.strict && !answer.lints.is_empty() {
        Exit::Failed
    } else {
        Exit::Ok
    };
    if context.out.is_json() {
        let lints: Vec<Value> = answer.lints.iter().map(lint_json).collect();
        context.out.json(&json!({
            "lints": lints,
            "definitions": answer.definitions,
            "policies": answer.policies,
            "entries": answer.entries,
        }))?;
        return Ok(exit);
    }
    for lint in &answer.lints {
        let place = match lint.file.as_str() {
            "" => lint.subject.clone(),
            file => format!("{} ({file})", lint.subject),
        };
        context
            .out
            .line(format!("{}  {}  {place}", lint.requirement, lint.code))?;
        context.out.line(format!("    {}", lint.message))?;
        context.out.line(format!("    do: {}", lint.remedy))?;
    }
    context.out.line(format!(
        "{} found; looked at {} definitions, {} policies, {} entries of the log",
        answer.lints.len(),
        answer.definitions,
        answer.policies,
        answer.entries
    ))?;
    Ok(exit)
}

fn lint_json(lint: &Lint) -> Value {
    json!({
        "requirement": lint.requirement,
        "code": lint.code,
        "subject": lint.subject,
        "file": lint.file,
        "message": lint.message,
        "remedy": lint.remedy,
    })
}

fn debt_json(answer: DebtResponse) -> Value {
    let rows = |rows: &[PowerRow]| rows.iter().map(power_json).collect::<Vec<_>>();
    json!({
        "since": At::of(answer.since),
        "until": At::of(answer.until),
        "scope": answer.scope,
        "entries": answer.entries,
        "findings": answer.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "total": answer.total.as_ref().map(power_json),
        "by_owner": rows(&answer.by_owner),
        "by_task": rows(&answer.by_task),
        "by_identity": rows(&answer.by_identity),
        "exceptions": answer.exceptions.into_iter().map(ExceptionView::of).collect::<Vec<_>>(),
        "unsettled": answer.unsettled.iter().map(unsettled_json).collect::<Vec<_>>(),
        "reviews": answer.reviews.iter().map(review_json).collect::<Vec<_>>(),
        "privileged": answer.privileged.iter().map(privileged_json).collect::<Vec<_>>(),
        "checkpoints": answer.checkpoints.iter().map(checkpoint_json).collect::<Vec<_>>(),
    })
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "code": finding.code,
        "severity": finding.severity,
        "subject": finding.subject,
        "since": At::of(finding.since),
        "message": finding.message,
        "remedy": finding.remedy,
        "evidence": finding.evidence,
    })
}

fn power_json(row: &PowerRow) -> Value {
    json!({
        "name": row.name,
        "windows": row.windows,
        "privileged_seconds": row.privileged_seconds,
        "duty_permille": row.duty_permille,
        "longest_seconds": row.longest_seconds,
        "residual_seconds": row.residual_seconds,
    })
}

fn unsettled_json(window: &UnsettledWindow) -> Value {
    json!({
        "id": window.id,
        "task": window.task,
        "workload": window.workload,
        "stage": window.stage,
        "closed_at": At::of(window.closed_at),
        "request_id": window.request_id,
    })
}

fn review_json(review: &DueReview) -> Value {
    json!({
        "kind": review.kind,
        "subject": review.subject,
        "owner": review.owner,
        "due": At::of(review.due),
    })
}

fn privileged_json(entry: &PrivilegedEntry) -> Value {
    json!({
        "entry_id": entry.entry_id,
        "identity": entry.identity,
        "rights": entry.rights,
        "exception_id": (!entry.exception_id.is_empty()).then_some(&entry.exception_id),
    })
}

fn checkpoint_json(row: &CheckpointRow) -> Value {
    json!({
        "rule": row.rule,
        "tasks": row.tasks,
        "consumers": row.consumers,
        "behind": row.behind,
        "agent_gone": row.agent_gone,
    })
}

fn show(answer: DebtResponse, context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    let (since, until) = (At::of(answer.since), At::of(answer.until));
    let period = match (since.0, until.0) {
        (Some(since), Some(until)) => values::span(until.since(since)),
        _ => String::new(),
    };
    context.out.line(format!(
        "{period} until {}, {}, {} entries of the log",
        until.full(&context.out, now),
        answer.scope,
        answer.entries
    ))?;
    context.out.line("")?;
    if answer.findings.is_empty() {
        context.out.line("Nothing that somebody should look at.")?;
    }
    for finding in &answer.findings {
        let Finding {
            severity,
            code,
            subject,
            message,
            remedy,
            ..
        } = finding;
        context.out.line(format!("{severity}  {code}  {subject}"))?;
        context.out.line(format!("    {message}"))?;
        context.out.line(format!("    do: {remedy}"))?;
    }
    let total = answer.total.into_iter().filter(|total| total.windows > 0);
    for (title, rows) in [
        (
            "task owner",
            answer.by_owner.into_iter().chain(total).collect::<Vec<_>>(),
        ),
        ("task", answer.by_task),
        ("identity", answer.by_identity),
    ] {
        power(title, rows, context)?;
    }
    let views: Vec<ExceptionView> = answer.exceptions.into_iter().map(ExceptionView::of).collect();
    if !views.is_empty() {
        context.out.line("")?;
        table(&views, context, "")?;
    }
    let unsettled = answer.unsettled.iter().map(|window| {
        let ended = At::of(window.closed_at).relative(now);
        [&window.id, &window.task, &window.workload, &window.stage, &ended].map(String::clone)
    });
    section(
        ["unsettled window", "task", "workload", "stage", "ended"],
        unsettled,
        context,
    )?;
    let reviews = answer.reviews.iter().map(|review| {
        let due = At::of(review.due).relative(now);
        [&review.subject, &review.kind, &review.owner, &due].map(String::clone)
    });
    section(["review due", "kind", "owner", "due"], reviews, context)?;
    let privileged = answer.privileged.iter().map(|entry| {
        let why = match entry.exception_id.as_str() {
            "" => "no exception".to_owned(),
            id => id.to_owned(),
        };
        [
            entry.identity.clone(),
            entry.entry_id.clone(),
            entry.rights.join(", "),
            why,
        ]
    });
    section(
        ["privileged identity", "entry", "has", "exception"],
        privileged,
        context,
    )?;
    let checkpoints = answer.checkpoints.iter().map(|row| {
        let word = match (row.consumers, row.agent_gone, row.behind) {
            (0, ..) => "nobody is connected".to_owned(),
            (_, true, _) => "its agent is away".to_owned(),
            (_, _, 0) => "up to date".to_owned(),
            (_, _, behind) => format!("{behind} revocations behind"),
        };
        [row.rule.clone(), row.tasks.join(", "), row.consumers.to_string(), word]
    });
    section(["checkpoint", "of tasks", "consumers", "word"], checkpoints, context)
}

fn power(title: &str, rows: Vec<PowerRow>, context: &mut Context) -> Result<(), CliError> {
    let rows = rows.into_iter().map(|row| {
        let seconds = u64::try_from(row.privileged_seconds).unwrap_or_default();
        [
            row.name,
            values::span(Duration::from_secs(seconds)),
            format!("{}.{} %", row.duty_permille / 10, row.duty_permille % 10),
            row.windows.to_string(),
            format!("{} s", row.residual_seconds),
        ]
    });
    section(
        [title, "had power for", "of the period", "windows", "residual"],
        rows,
        context,
    )
}

/// A table of its own, if there is something in it.
fn section<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    context: &mut Context,
) -> Result<(), CliError> {
    let mut rows: Vec<Vec<String>> = rows.map(Vec::from).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let left_out = rows.len().saturating_sub(ROWS);
    rows.truncate(ROWS);
    context.out.line("")?;
    context.out.table(&header, rows, "")?;
    if left_out > 0 {
        context
            .out
            .line(format!("and {left_out} more; `--output json` has all"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
