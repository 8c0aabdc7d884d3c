//! `mayfly task cancel|suspend|resume|review|accept-risk|revoke`: authority that ends, rests, or is accounted for.

use clap::ArgGroup;
use mayfly_model::task::TaskName;
use mayfly_proto::mayfly::task::revoke_request::Scope;
use mayfly_proto::mayfly::task::{EndTaskRequest, RevokeRequest, Task, Window};
use mayfly_svid::SpiffeId;
use serde_json::json;
use tonic::{Response, Status};

use super::approve::answered;
use super::view::TaskView;
use super::{not_found_hint, requests};
use crate::Context;
use crate::connect::{SaidReason, Server};
use crate::errors::{CliError, Exit};
use crate::values;

pub(super) const REVOKE_EXAMPLES: &str = "\
Needs nobody's approval. At once nothing more is issued, holders lose the SVID
and verifiers refuse it; `mayfly task now` shows who has not acknowledged yet.
--hard-cut also takes the signing authority out of the bundle, so that verifiers
which know nothing of revocation refuse it too. Windows that go on get new ones.

Examples:
  mayfly task revoke --window 01hx… --reason 'INC-7'
  mayfly task revoke --workload spiffe://example.org/ns/pay/job --reason 'INC-7'
  mayfly task revoke --serial 0x3af19c --hard-cut --reason 'key was copied'
  mayfly task revoke --everything --reason 'INC-7'";

pub(super) const ACCEPT_RISK_EXAMPLES: &str = "\
For a window in `revocation_incomplete`: some consumer never said that it
refuses what was revoked. The first person with the admin role proposes it, a
second one settles it; neither asked for the window or owns what did. The
reasons stay in the record.";

#[derive(Debug, clap::Args)]
pub(super) struct EndArgs {
    /// The request, or its window
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    reason: SaidReason,
}

/// What becomes of what is named.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Cancel,
    Suspend,
    Resume,
    Review,
    AcceptRisk,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("scope").required(true))]
pub(super) struct RevokeArgs {
    /// This window
    #[arg(long, value_name = "ID", group = "scope")]
    window: Option<String>,
    /// This SVID, by its serial number: decimal, or hex with 0x
    #[arg(long, value_name = "SERIAL", group = "scope", value_parser = serial)]
    serial: Option<String>,
    /// All windows of this task
    #[arg(long, value_name = "TASK", group = "scope")]
    task: Option<TaskName>,
    /// All windows of this workload, by its base SPIFFE ID
    #[arg(long, value_name = "SPIFFE_ID", group = "scope", value_parser = values::spiffe_id)]
    workload: Option<SpiffeId>,
    /// All windows on this node, by its agent's SPIFFE ID
    #[arg(long, value_name = "SPIFFE_ID", group = "scope", value_parser = node)]
    node: Option<SpiffeId>,
    /// All windows there are
    #[arg(long, group = "scope")]
    everything: bool,
    /// Also take the authority that signed them out of the bundle
    #[arg(long)]
    hard_cut: bool,
    /// Do not ask, although it is --everything
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    reason: SaidReason,
}

/// Does one of the small things that end or account for a request.
///
/// # Errors
/// The server's status.
pub(super) async fn run(args: EndArgs, end: End, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    let task = TaskView::of(requests::get(&server, &args.id).await?);
    let id = end.id(&task, &args.id)?;
    let request = EndTaskRequest {
        id: id.clone(),
        reason: args.reason.text().to_owned(),
    };
    let answer = end.call(&server, request).await;
    let doing = format!("{} {}", end.infinitive(), args.id);
    let answer = answer.map_err(|status| not_found_hint(server.failed(doing, status)))?;
    let task = answer.into_inner();
    if let End::AcceptRisk = end {
        return risk_answered(&id, task, context);
    }
    answered(end.past(), task, context)
}

/// Shows whose turn it is: it takes two people.
fn risk_answered(window_id: &str, task: Task, context: &mut Context) -> Result<Exit, CliError> {
    let is_settled = |window: &Window| window.id == window_id && window.settled_at != 0;
    if task.windows.iter().any(is_settled) {
        return answered("accepted", task, context);
    }
    answered("proposed", task, context)?;
    if !context.out.is_json() {
        context
            .out
            .note("Proposed; a second person with the admin role has to accept it as well.");
    }
    Ok(Exit::Ok)
}

/// Ends authority.
///
/// # Errors
/// Nobody agreed to `--everything`; or the server's status.
pub(super) async fn revoke(args: RevokeArgs, context: &mut Context) -> Result<Exit, CliError> {
    let (scope, words) = args.scope();
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    if args.everything && !args.yes {
        let cut = if args.hard_cut {
            ", and takes every task authority out of the bundle"
        } else {
            ""
        };
        let question = format!("This ends every window there is, of all tasks on all nodes{cut}.");
        context
            .confirm(&question, "everything", "add --yes, if every window is to end")
            .await?;
    }
    let request = server.request(RevokeRequest {
        scope: Some(scope),
        reason: args.reason.text().to_owned(),
        hard_cut: args.hard_cut,
    });
    let answer = server.tasks().revoke(request).await;
    let answer = answer
        .map_err(|status| not_found_hint(server.failed(format!("revoke {words}"), status)))?
        .into_inner();
    if context.out.is_json() {
        context
            .out
            .json(&json!({"window_ids": answer.window_ids, "epoch": answer.epoch}))?;
        return Ok(Exit::Ok);
    }
    for id in &answer.window_ids {
        context.out.line(format!("ended  {id}"))?;
    }
    match answer.window_ids.len() {
        0 => context
            .out
            .note(format!("Revoked {words}, epoch {}; no window was open.", answer.epoch)),
        _ => context.out.note(format!(
            "Revoked {words}, epoch {}. `mayfly task now` shows who has not acknowledged yet.",
            answer.epoch
        )),
    }
    Ok(Exit::Ok)
}

fn serial(text: &str) -> Result<String, String> {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    // openssl and browsers show bytes with colons.
    let plain = text.replace(':', "");
    match plain.strip_prefix("0x").or(plain.strip_prefix("0X")) {
        Some(digits) if hex(digits) && digits.len() <= 40 => Ok(format!("0x{}", digits.to_ascii_lowercase())),
        None if text.contains(':') && hex(&plain) && plain.len() <= 40 => {
            Ok(format!("0x{}", plain.to_ascii_lowercase()))
        }
        None if !text.is_empty() && text.len() <= 50 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(text.to_owned()),
        None if hex(&plain) => Err(format!("is this hex? Write it as 0x{plain}")),
        _ => Err("write it in decimal, or in hex with 0x".to_owned()),
    }
}

fn node(text: &str) -> Result<SpiffeId, String> {
    let id = values::spiffe_id(text)?;
    if id.path().starts_with("/spire/agent/") {
        Ok(id)
    } else {
        Err("a node is named by its agent; `mayfly agent list` shows them".to_owned())
    }
}

// === impl RevokeArgs ===

impl RevokeArgs {
    /// What is to end, for the server and in words.
    fn scope(&self) -> (Scope, String) {
        let Self {
            window,
            serial,
            task,
            workload,
            node,
            everything: _,
            hard_cut: _,
            yes: _,
            reason: _,
        } = self;
        if let Some(id) = window {
            (Scope::WindowId(id.clone()), format!("window {id}"))
        } else if let Some(serial) = serial {
            (Scope::Serial(serial.clone()), format!("the SVID with serial {serial}"))
        } else if let Some(task) = task {
            (Scope::Task(task.to_string()), format!("all windows of {task}"))
        } else if let Some(id) = workload {
            (Scope::Workload(id.to_string()), format!("all windows of {id}"))
        } else if let Some(id) = node {
            (Scope::Node(id.to_string()), format!("all windows on {id}"))
        } else {
            // clap asks for one of them.
            (Scope::Everything(true), "everything".to_owned())
        }
    }
}

// === impl End ===

impl End {
    /// What the server wants named: the request for what concerns it as a whole, else its window.
    ///
    /// # Errors
    /// It has no window, or several, and the request was named.
    fn id(self, task: &TaskView, given: &str) -> Result<String, CliError> {
        let stages: &[&str] = match self {
            Self::Cancel | Self::Review => return Ok(task.request_id.clone()),
            Self::Suspend => &["open"],
            Self::Resume => &["suspended"],
            Self::AcceptRisk => &["revocation_incomplete"],
        };
        if task.windows.iter().any(|window| window.id == given) {
            return Ok(given.to_owned());
        }
        let fitting = task
            .windows
            .iter()
            .filter(|window| stages.contains(&window.stage.as_str()));
        let fitting: Vec<&str> = fitting.map(|window| window.id.as_str()).collect();
        match fitting[..] {
            [only] => Ok(only.to_owned()),
            [] => Err(CliError::failed(
                format!(
                    "request {} has no window that is {}",
                    task.request_id,
                    stages.join(" or ")
                ),
                format!("`mayfly task request {}` shows its windows", task.request_id),
            )),
            _ => Err(CliError::input(
                format!(
                    "request {} has several windows that are {}",
                    task.request_id,
                    stages.join(" or ")
                ),
                format!("name one of them: {}", fitting.join(", ")),
            )),
        }
    }

    async fn call(self, server: &Server, request: EndTaskRequest) -> Result<Response<Task>, Status> {
        let request = server.request(request);
        let mut tasks = server.tasks();
        match self {
            Self::Cancel => tasks.cancel(request).await,
            Self::Suspend => tasks.suspend(request).await,
            Self::Resume => tasks.resume(request).await,
            Self::Review => tasks.review(request).await,
            Self::AcceptRisk => tasks.accept_risk(request).await,
        }
    }

    fn infinitive(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Review => "review",
            Self::AcceptRisk => "accept the risk of",
        }
    }

    fn past(self) -> &'static str {
        match self {
            Self::Cancel => "cancelled",
            Self::Suspend => "suspended",
            Self::Resume => "resumed",
            Self::Review => "reviewed",
            Self::AcceptRisk => "accepted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_read_as_it_is_shown_elsewhere() {
        assert_eq!(
            serial("123456789012345678901234567890").unwrap(),
            "123456789012345678901234567890"
        );
        assert_eq!(serial("0x3AF1").unwrap(), "0x3af1");
        assert_eq!(serial("3A:F1").unwrap(), "0x3af1");
        assert_eq!(serial("3AF1").unwrap_err(), "is this hex? Write it as 0x3AF1");
        for wrong in ["", "0x", "x", "0xg", "-5", "1.5"] {
            assert!(serial(wrong).is_err(), "{wrong}");
        }
    }
}
