//! `mayfly policy` and `mayfly what-if`: the rules by which requests are decided.

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command};
use mayfly_proto::mayfly::task::{CheckPolicyRequest, GetPolicyRequest, PolicyFiles, SetPolicyRequest, WhatIfRequest};
use serde_json::json;

use super::task::second_person;
use super::task::view::{At, short};
use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;
use crate::connect::{ReasonArg, Server};
use crate::errors::{CliError, Exit};
use crate::files;
use crate::output::visible_line;

mod folder;
mod table;

pub(crate) use folder::{as_proposed, unified};

#[cfg(test)]
mod tests;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "policy",
    command,
    run,
};

/// Its own row: a question about the past, not a change.
pub(crate) const WHAT_IF: Noun = Noun {
    name: "what-if",
    command: what_if_command,
    run: run_what_if,
};

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show the policy that is in force
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Replace the policy, whole
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
    /// Show what files would change, line by line
    Diff(PathArgs),
    /// Have the server check files, without putting them in force
    Check(PathArgs),
    /// Run the tables of tests beside a policy, here
    #[command(after_help = table::EXAMPLES)]
    Test(PathArgs),
}

const SHOW_EXAMPLES: &str = "\
Examples:
  mayfly policy show
  mayfly policy show --out policy/        a folder that `set` takes";

const SET_EXAMPLES: &str = "\
What is not among the files is gone afterwards. Open windows that the new policy
does not allow end within seconds. If somebody else changes the policy in the
meantime, nothing is set.

Examples:
  mayfly policy check policy/
  mayfly policy diff policy/              what would change
  mayfly what-if policy/                  which past decisions would differ
  mayfly policy set policy/ --reason 'CHG-90: two approvals for exports'";

const WHAT_IF_EXAMPLES: &str = "\
The server decides again what it has decided before, by the same facts and these
files, and changes nothing.

Examples:
  mayfly what-if policy/
  mayfly what-if policy/ --output json | jq '.differences[].request_id'";

#[derive(Debug, clap::Args)]
struct PathArgs {
    /// Files, or folders with files *.cedar
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Write the files into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    #[command(flatten)]
    paths: PathArgs,
    /// The digest of what is replaced; nothing is set if another policy is in force
    #[arg(long, value_name = "HEX")]
    replaces: Option<String>,
    #[command(flatten)]
    reason: ReasonArg,
}

fn command() -> Command {
    noun_with_verbs::<Verb>(
        "policy",
        "Policy: the rules by which requests are decided, beside the built-in guards",
    )
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::Show(args) => show(&args, context).await,
            Verb::Set(args) => set(args, context).await,
            Verb::Diff(args) => diff(&args, context).await,
            Verb::Check(args) => check(&args, context).await,
            Verb::Test(args) => table::run(&args.paths, context),
        }
    })
}

fn what_if_command() -> Command {
    PathArgs::augment_args(
        Command::new("what-if").about("Show which past decisions would differ under other policy files"),
    )
    .after_help(WHAT_IF_EXAMPLES)
}

fn run_what_if<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        let args: PathArgs = parsed(matches)?;
        what_if(&args, context).await
    })
}

/// The policy that is in force.
///
/// # Errors
/// The server's status.
pub(crate) async fn present(server: &Server) -> Result<PolicyFiles, CliError> {
    let answer = server.policy().get(server.request(GetPolicyRequest {})).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| server.failed("show the policy", status))
}

async fn show(args: &ShowArgs, context: &mut Context) -> Result<Exit, CliError> {
    if let Some(dir) = &args.out {
        files::check_dir(dir)?;
    }
    let server = Server::connect(&context.globals).await?;
    let policy = present(&server).await?;
    let set_at = At::of(policy.set_at);
    let texts = policy.files;
    let written = match &args.out {
        Some(dir) => folder::write(dir, &texts)?,
        None => vec![],
    };
    if context.out.is_json() {
        context.out.json(
            &json!({"digest": policy.digest, "author": policy.author, "set_at": set_at,
            "files": texts, "written": written}),
        )?;
        return Ok(Exit::Ok);
    }
    let now = context.now();
    let fields = [
        ("Digest", policy.digest),
        ("Author", policy.author),
        ("Set", set_at.full(&context.out, now)),
    ];
    context.out.block(&fields)?;
    for path in &written {
        context.out.line(format!("wrote  {}", path.display()))?;
    }
    if args.out.is_none() {
        if texts.is_empty() {
            context
                .out
                .line("There are no files: the built-in guards alone decide, and they permit nothing.")?;
        }
        for (name, text) in &texts {
            context.out.line(format!("\n// === {}", visible_line(name)))?;
            context.out.line(text.trim_end())?;
        }
    }
    Ok(Exit::Ok)
}

async fn set(args: SetArgs, context: &mut Context) -> Result<Exit, CliError> {
    let texts = folder::read(&args.paths.paths, folder::POLICY)?;
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let before = present(&server).await?;
    let changes = folder::changes(&before.files, &texts);
    let request = server.request(SetPolicyRequest {
        files: texts,
        replaces: args.replaces.unwrap_or(before.digest),
    });
    let answer = server.policy().set(request).await;
    let answer = answer
        .map_err(|status| server.failed("set the policy", status))?
        .into_inner();
    if context.out.is_json() {
        context.out.json(&json!({
            "digest": answer.digest,
            "in_force": answer.in_force,
            "proposal_id": (!answer.proposal_id.is_empty()).then_some(&answer.proposal_id),
            "changes": changes,
        }))?;
        return Ok(Exit::Ok);
    }
    let said = if answer.in_force { "in force" } else { "proposed" };
    context.out.line(format!("{said}  policy {}", short(&answer.digest)))?;
    if changes.is_empty() {
        context.out.line("  every file is as it was")?;
    }
    for change in &changes {
        context.out.line(format!("  {}", change.line()))?;
    }
    if !answer.in_force {
        context.out.note(second_person(&answer.proposal_id));
    }
    Ok(Exit::Ok)
}

async fn diff(args: &PathArgs, context: &mut Context) -> Result<Exit, CliError> {
    let texts = folder::read(&args.paths, folder::POLICY)?;
    let server = Server::connect(&context.globals).await?;
    let before = present(&server).await?;
    let changes = folder::changes(&before.files, &texts);
    let text = unified(&as_proposed(&before.files), &as_proposed(&texts));
    if context.out.is_json() {
        context
            .out
            .json(&json!({"digest": before.digest, "changes": changes, "diff": text}))?;
    } else if changes.is_empty() {
        context.out.line("They say the same.")?;
    } else {
        context.out.line(text.trim_end())?;
    }
    Ok(Exit::Ok)
}

async fn check(args: &PathArgs, context: &mut Context) -> Result<Exit, CliError> {
    let texts = folder::read(&args.paths, folder::POLICY)?;
    let server = Server::connect(&context.globals).await?;
    let count = texts.len();
    let request = server.request(CheckPolicyRequest { files: texts });
    let answer = server.policy().check(request).await;
    let answer = answer
        .map_err(|status| server.failed("check the policy", status))?
        .into_inner();
    let exit = if answer.problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    };
    if context.out.is_json() {
        context
            .out
            .json(&json!({"digest": answer.digest, "problems": answer.problems}))?;
    } else if answer.problems.is_empty() {
        let files = if count == 1 { "file" } else { "files" };
        context
            .out
            .line(format!("sound  {count} {files}, policy {}", short(&answer.digest)))?;
    } else {
        for problem in &answer.problems {
            context.out.line(problem)?;
        }
    }
    Ok(exit)
}

async fn what_if(args: &PathArgs, context: &mut Context) -> Result<Exit, CliError> {
    let texts = folder::read(&args.paths, folder::POLICY)?;
    let server = Server::connect(&context.globals).await?;
    let request = server.request(WhatIfRequest { files: texts });
    let answer = server.policy().what_if(request).await;
    let answer = answer
        .map_err(|status| server.failed("decide again", status))?
        .into_inner();
    if context.out.is_json() {
        let differences: Vec<_> = answer
            .differences
            .iter()
            .map(|difference| {
                json!({"request_id": difference.request_id, "task": difference.task,
                    "spiffe_id": difference.spiffe_id, "phase": difference.phase, "was": difference.was,
                    "would_be": difference.would_be})
            })
            .collect();
        context
            .out
            .json(&json!({"decisions": answer.decisions, "differences": differences}))?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = answer
        .differences
        .into_iter()
        .map(|difference| {
            vec![
                difference.request_id,
                difference.task,
                difference.spiffe_id,
                difference.phase,
                difference.was,
                difference.would_be,
            ]
        })
        .collect();
    context.out.line(match (rows.len(), answer.decisions) {
        (_, 0) => "There are no past decisions to compare with.".to_owned(),
        (count, of) => format!("{count} of {of} past decisions would differ."),
    })?;
    if !rows.is_empty() {
        let header = ["request", "task", "for", "phase", "was", "would be"];
        context.out.table(&header, rows, "")?;
    }
    Ok(Exit::Ok)
}
