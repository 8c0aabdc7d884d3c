//! `mayfly task define|retire`: what tasks there are.

use mayfly_model::task::TaskName;
use mayfly_proto::mayfly::task::{DefineRequest, DefineResponse, RetireRequest};
use mayfly_proto::status::code_name;
use serde_json::{Value, json};
use tonic::Status;

use super::local::{self, Local};
use super::not_found_hint;
use super::view::short;
use crate::Context;
use crate::connect::{ReasonArg, SaidReason, Server};
use crate::errors::{CliError, Exit, sentence};

pub(super) const DEFINE_EXAMPLES: &str = "\
Each file is checked here before anything is sent. A definition that is in
force already, word for word or not, stays as it is. A new version voids what
waits for approval under the old one.

Examples:
  mayfly task define tasks/*.toml --reason 'CHG-81: exports at night'
  mayfly task define --check tasks/*.toml        sends nothing
  mayfly task diff tasks/export.toml             what would change";

#[derive(Debug, clap::Args)]
pub(super) struct DefineArgs {
    /// TOML files, one definition each; `-` is stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Only check the files, and send nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    reason: ReasonArg,
}

#[derive(Debug, clap::Args)]
pub(super) struct RetireArgs {
    /// The task, as team/name
    #[arg(value_name = "TASK")]
    name: TaskName,
    #[command(flatten)]
    reason: SaidReason,
}

/// Checks all files, then defines one after the other.
///
/// # Errors
/// A file is no definition, and nothing was sent; or the server's status for the only one.
pub(super) async fn define(args: DefineArgs, context: &mut Context) -> Result<Exit, CliError> {
    let locals = local::read_all(&args.files)?;
    if args.check {
        return checked(&locals, context);
    }
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let mut results: Vec<(&Local, Result<DefineResponse, Status>)> = Vec::new();
    for local in &locals {
        let request = DefineRequest {
            definition: local.text.clone(),
        };
        let answer = server.definitions().define(server.request(request)).await;
        let answer = answer.map(tonic::Response::into_inner);
        if locals.len() == 1
            && let Err(status) = answer
        {
            return Err(server.failed(format!("define {}", local.definition.name), status));
        }
        results.push((local, answer));
    }
    if context.out.is_json() {
        let failed = results.iter().filter(|(_, result)| result.is_err()).count();
        let items: Vec<Value> = results
            .iter()
            .map(|(local, result)| match result {
                Ok(answer) => outcome_json(answer),
                Err(status) => json!({"name": local.definition.name.as_str(), "ok": false,
                    "error": {"code": code_name(status.code()), "message": status.message()}}),
            })
            .collect();
        context
            .out
            .json(&json!({"results": items, "succeeded": results.len() - failed, "failed": failed}))?;
        return Ok(if failed == 0 { Exit::Ok } else { Exit::Failed });
    }
    let mut exit = Exit::Ok;
    for (local, result) in results {
        match result {
            Ok(answer) => outcome(&answer, "in force", context)?,
            Err(status) => {
                exit = Exit::Failed;
                context
                    .out
                    .note(format!("failed  {}: {}", local.definition.name, sentence(&status)));
            }
        }
    }
    Ok(exit)
}

fn checked(locals: &[Local], context: &mut Context) -> Result<Exit, CliError> {
    if context.out.is_json() {
        let items: Vec<Value> = locals
            .iter()
            .map(|local| json!({"name": local.definition.name.as_str(), "hash": local.definition.hash().to_string()}))
            .collect();
        context.out.json(&json!({"definitions": items}))?;
        return Ok(Exit::Ok);
    }
    for local in locals {
        let Local { definition, name, .. } = local;
        context.out.line(format!(
            "sound  {}  version {}  {name}",
            definition.name,
            definition.hash().short()
        ))?;
    }
    Ok(Exit::Ok)
}

/// No new requests of a task; what is open ends.
///
/// # Errors
/// The server's status.
pub(super) async fn retire(args: RetireArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    let request = RetireRequest {
        name: args.name.to_string(),
    };
    let answer = server.definitions().retire(server.request(request)).await;
    let answer = answer.map_err(|status| not_found_hint(server.failed(format!("retire {}", args.name), status)))?;
    if context.out.is_json() {
        context.out.json(&outcome_json(answer.get_ref()))?;
    } else {
        outcome(answer.get_ref(), "retired", context)?;
    }
    Ok(Exit::Ok)
}

fn outcome(answer: &DefineResponse, done: &str, context: &mut Context) -> Result<(), CliError> {
    let said = if answer.unchanged {
        "unchanged"
    } else if answer.in_force {
        done
    } else {
        "proposed"
    };
    context
        .out
        .line(format!("{said}  {}  version {}", answer.name, short(&answer.hash)))?;
    if !answer.in_force && !answer.unchanged {
        context.out.note(second_person(&answer.proposal_id));
    }
    Ok(())
}

/// What to do about a change that waits.
pub(crate) fn second_person(proposal: &str) -> String {
    format!("It waits for a second person:\n  mayfly task proposal approve {proposal}")
}

fn outcome_json(answer: &DefineResponse) -> Value {
    json!({
        "name": answer.name,
        "ok": true,
        "hash": answer.hash,
        "in_force": answer.in_force,
        "unchanged": answer.unchanged,
        "proposal_id": (!answer.proposal_id.is_empty()).then_some(&answer.proposal_id),
    })
}
