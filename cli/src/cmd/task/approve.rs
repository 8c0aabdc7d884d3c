//! `mayfly task approve|deny`: a person answers a request.
//!
//! What is agreed to is a digest, of the request and of the definition that it refers to. So that nobody agrees to a number,
//! what it stands for is shown first: who asks for what, what has changed in the definition since somebody last agreed to
//! the task, and how it went before.

use mayfly_proto::mayfly::task::{DecideRequest, Definition, Task};
use mayfly_svid::Timestamp;

use super::view::{At, TaskView, short};
use super::{definitions, diff, requests};
use crate::Context;
use crate::connect::{SaidReason, Server};
use crate::errors::{CliError, Exit};
use crate::output::visible_line;
use crate::values;

/// How many earlier windows are shown.
const RUNS: usize = 10;
/// How many earlier requests are looked through.
const LOOK_BACK: usize = 500;

pub(super) const APPROVE_EXAMPLES: &str = "\
Shows who asks for what, what changed in the definition since it was last
approved, and the last windows; then asks. Your name is the one that the server
knows for your user here, or for your client certificate.

In a script, which cannot look: --yes with the digest that a person looked at
(mayfly task request ID). A request that has another digest is not approved.

Examples:
  mayfly task approve 01hx… --reason 'CHG-81, as planned'
  mayfly task approve 01hx… --digest 9c0e… --yes --reason 'CHG-81'";

#[derive(Debug, clap::Args)]
pub(super) struct ApproveArgs {
    /// The request
    #[arg(value_name = "ID")]
    id: String,
    /// What it has to be, exactly: the digest that was looked at (12 hex digits or more)
    #[arg(long, value_name = "HEX", value_parser = definitions::hash)]
    digest: Option<String>,
    /// Do not ask
    #[arg(long, requires = "digest")]
    yes: bool,
    #[command(flatten)]
    reason: SaidReason,
}

#[derive(Debug, clap::Args)]
pub(super) struct DenyArgs {
    /// The request
    #[arg(value_name = "ID")]
    id: String,
    /// What it has to be, exactly: its digest (12 hex digits or more)
    #[arg(long, value_name = "HEX", value_parser = definitions::hash)]
    digest: Option<String>,
    #[command(flatten)]
    reason: SaidReason,
}

/// Shows what a request stands for, asks, and agrees to it.
///
/// # Errors
/// It is not what `--digest` says; whoever was asked did not agree; or the server's status.
pub(super) async fn approve(args: ApproveArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    let task = TaskView::of(requests::get(&server, &args.id).await?);
    same_digest(args.digest.as_deref(), &task)?;
    if !args.yes {
        let otherwise = format!(
            "look at it with `mayfly task request {id}`, then add: --digest {} --yes",
            short(&task.digest),
            id = task.request_id
        );
        if context.asker.is_there(context.out.is_json()) {
            brief(&server, &task, context).await?;
        }
        let question = format!("Approve {} for {}?", task.task, task.who());
        context.confirm(&question, "yes", &otherwise).await?;
    }
    let request = server.request(decision(&task, &args.reason));
    let answer = server.tasks().approve(request).await;
    let answer = answer.map_err(|status| server.failed(format!("approve request {}", args.id), status))?;
    answered("approved", answer.into_inner(), context)
}

/// Refuses a request.
///
/// # Errors
/// It is not what `--digest` says; or the server's status.
pub(super) async fn deny(args: DenyArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    let task = TaskView::of(requests::get(&server, &args.id).await?);
    same_digest(args.digest.as_deref(), &task)?;
    let request = server.request(decision(&task, &args.reason));
    let answer = server.tasks().deny(request).await;
    let answer = answer.map_err(|status| server.failed(format!("deny request {}", args.id), status))?;
    answered("denied", answer.into_inner(), context)
}

/// Shows what became of a request, as JSON or in a line.
///
/// # Errors
/// The output is closed.
pub(super) fn answered(done: &str, task: Task, context: &mut Context) -> Result<Exit, CliError> {
    let view = TaskView::of(task);
    if context.out.is_json() {
        context.out.json(&view)?;
        return Ok(Exit::Ok);
    }
    let lacking = usize::try_from(view.approvals_needed)
        .unwrap_or(usize::MAX)
        .saturating_sub(view.approvals.len());
    let rest = if done == "approved" && lacking > 0 {
        format!(
            "{} of {} approvals, {}",
            view.approvals.len(),
            view.approvals_needed,
            view.stage
        )
    } else {
        view.stage.clone()
    };
    context
        .out
        .line(format!("{done}  {}  {}  {rest}", view.request_id, view.task))?;
    Ok(Exit::Ok)
}

fn decision(task: &TaskView, reason: &SaidReason) -> DecideRequest {
    DecideRequest {
        request_id: task.request_id.clone(),
        digest: task.digest.clone(),
        reason: reason.text().to_owned(),
    }
}

fn same_digest(given: Option<&str>, task: &TaskView) -> Result<(), CliError> {
    match given {
        Some(digest) if digest.is_empty() || !task.digest.starts_with(digest) => Err(CliError::Failed {
            what: format!(
                "request {} has the digest {}, not {digest}",
                task.request_id, task.digest
            ),
            hints: vec![format!(
                "this is not what was looked at; look again: mayfly task request {}",
                task.request_id
            )],
        }),
        _ => Ok(()),
    }
}

/// What somebody has to know before he agrees.
async fn brief(server: &Server, task: &TaskView, context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    let definition = definitions::get(server, &task.task, &task.definition_hash).await?;
    let mut fields = task.asked(&context.out, now);
    if let Some(decision) = task.decisions.last() {
        fields.push(("Policy", decision.lines(now)));
    }
    let meant: toml::Table = toml::from_str(&definition.text).unwrap_or_default();
    let checkpoints = meant.get("ending").and_then(|ending| ending.get("checkpoints"));
    for (label, value) in [
        ("Is for", meant.get("description")),
        ("Owner", meant.get("owner")),
        ("Class", meant.get("class")),
        ("Enforced by", checkpoints),
    ] {
        match value {
            Some(toml::Value::Array(names)) => {
                fields.push((label, names.iter().map(plain).collect::<Vec<_>>().join(", ")))
            }
            Some(value) => fields.push((label, plain(value))),
            None => {}
        }
    }
    context.out.block(&fields)?;
    let (earlier, _) = requests::newest(server, "", &task.task, LOOK_BACK, |other| {
        other.request_id != task.request_id
    })
    .await?;
    let earlier: Vec<TaskView> = earlier.into_iter().map(TaskView::of).collect();
    definition_brief(server, &definition, &earlier, context).await?;
    runs_brief(&earlier, context)
}

async fn definition_brief(
    server: &Server,
    definition: &Definition,
    earlier: &[TaskView],
    context: &mut Context,
) -> Result<(), CliError> {
    let now = context.now();
    let this = format!(
        "Definition: version {}, {}",
        definition.version,
        short(&definition.hash)
    );
    context.out.line("")?;
    let Some(last) = earlier.iter().find(|task| !task.approvals.is_empty()) else {
        context.out.line(format!("{this}, which nobody has approved yet:"))?;
        return indented(&definition.text, context);
    };
    let whose = match last.approvals.last() {
        Some(approval) => format!("{}, {}", approval.person, last.requested_at.relative(now)),
        None => String::new(),
    };
    if last.definition_hash == definition.hash {
        context
            .out
            .line(format!("{this}, the same as at the last approval ({whose})."))?;
        return context.out.line(format!(
            "  mayfly task show {} {}",
            definition.name,
            short(&definition.hash)
        ));
    }
    let before = definitions::get(server, &definition.name, &last.definition_hash).await?;
    context.out.line(format!(
        "{this}, CHANGED since the last approval ({whose}; version {}, {}):",
        before.version,
        short(&before.hash)
    ))?;
    let differences = diff::between(&before.text, &definition.text)?;
    indented(&diff::lines(&differences).join("\n"), context)
}

fn runs_brief(earlier: &[TaskView], context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    context.out.line("")?;
    let runs: Vec<String> = earlier
        .iter()
        .flat_map(|task| task.windows.iter().map(move |window| (task, window)))
        .take(RUNS)
        .map(|(task, window)| {
            let ending = match window.ending() {
                ending if ending.is_empty() => window.stage.clone(),
                ending => ending,
            };
            let length = length(window.opened_at, window.closed_at, now);
            format!("{}, {length}, {}: {ending}", window.opened_at.relative(now), task.who())
        })
        .collect();
    if runs.is_empty() {
        return context.out.line("It has never run.");
    }
    context.out.line("Last windows:")?;
    indented(&runs.join("\n"), context)
}

fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), visible_line)
}

fn length(opened: At, closed: At, now: Timestamp) -> String {
    opened
        .0
        .map(|opened| values::span(closed.0.unwrap_or(now).since(opened)))
        .unwrap_or_default()
}

fn indented(text: &str, context: &mut Context) -> Result<(), CliError> {
    for line in text.trim_end().lines() {
        context.out.line(format!("  {line}"))?;
    }
    Ok(())
}
