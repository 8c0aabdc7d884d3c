//! `mayfly why` and `mayfly why-not`: what a decision rests on, and what would turn it.

use clap::{ArgMatches, Args, Command};
use mayfly_proto::mayfly::task::ExplainRequest;
use serde_json::json;

use super::task::requests;
use super::task::view::{DecisionView, TaskView};
use super::{Noun, Running, parsed};
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::output::visible_line;

/// A row of [`super::COMMANDS`].
pub(crate) const WHY: Noun = Noun {
    name: "why",
    command: why_command,
    run: run_why,
};

/// A row of [`super::COMMANDS`].
pub(crate) const WHY_NOT: Noun = Noun {
    name: "why-not",
    command: why_not_command,
    run: run_why_not,
};

const WHY_EXAMPLES: &str = "\
Shows each decision as it was taken: what it rests on, under which policy.

Examples:
  mayfly why 01hx…                    a request, or a window of it";

const WHY_NOT_EXAMPLES: &str = "\
Decides again by the facts of this moment, and shows the smallest sets of facts
that would turn the decision. Changes nothing.

Examples:
  mayfly why-not 01hx…";

#[derive(Debug, clap::Args)]
struct IdArgs {
    /// The request, or its window
    #[arg(value_name = "ID")]
    id: String,
}

fn why_command() -> Command {
    IdArgs::augment_args(Command::new("why").about("Show why a request was decided as it was")).after_help(WHY_EXAMPLES)
}

fn why_not_command() -> Command {
    IdArgs::augment_args(Command::new("why-not").about("Show what would have to be different for another decision"))
        .after_help(WHY_NOT_EXAMPLES)
}

fn run_why<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        let args: IdArgs = parsed(matches)?;
        why(&args, context).await
    })
}

fn run_why_not<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        let args: IdArgs = parsed(matches)?;
        why_not(&args, context).await
    })
}

async fn why(args: &IdArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let task = TaskView::of(requests::get(&server, &args.id).await?);
    if context.out.is_json() {
        context.out.json(
            &json!({"request_id": task.request_id, "task": task.task, "stage": task.stage,
            "decisions": task.decisions}),
        )?;
        return Ok(Exit::Ok);
    }
    head(&task, context)?;
    let now = context.now();
    if task.decisions.is_empty() {
        context.out.line("Nothing has been decided about it.")?;
    }
    for decision in &task.decisions {
        context.out.line(decision.lines(now))?;
    }
    Ok(Exit::Ok)
}

async fn why_not(args: &IdArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    // The server explains requests; people also have the IDs of windows.
    let task = TaskView::of(requests::get(&server, &args.id).await?);
    let request = server.request(ExplainRequest {
        request_id: task.request_id.clone(),
    });
    let answer = server.policy().explain(request).await;
    let answer = answer
        .map_err(|status| server.failed(format!("explain request {}", args.id), status))?
        .into_inner();
    let decision = answer.now.map(DecisionView::of);
    if context.out.is_json() {
        context.out.json(
            &json!({"request_id": task.request_id, "task": task.task, "stage": task.stage,
            "now": decision, "flips": answer.flips}),
        )?;
        return Ok(Exit::Ok);
    }
    head(&task, context)?;
    let now = context.now();
    let allowed = decision.as_ref().is_some_and(|decision| decision.allowed);
    if let Some(decision) = &decision {
        context
            .out
            .line(format!("By the facts and the policy of now: {}", decision.lines(now)))?;
    }
    context.out.line(match (answer.flips.is_empty(), allowed) {
        (true, _) => "No small change of facts would turn it.",
        (false, true) => "It would be refused if any of these held:",
        (false, false) => "It would be allowed if any of these held:",
    })?;
    for flip in &answer.flips {
        context.out.line(format!("  {}", visible_line(flip)))?;
    }
    Ok(Exit::Ok)
}

fn head(task: &TaskView, context: &mut Context) -> Result<(), CliError> {
    context.out.line(format!(
        "{}  {} for {}, {}",
        task.request_id,
        task.task,
        task.who(),
        task.stage
    ))?;
    context.out.line("")
}

#[cfg(test)]
mod tests {
    use crate::testing::Fake;
    use crate::testing::tasks::{EXPORT, open, request};

    #[tokio::test]
    async fn a_decision_is_explained_with_what_would_turn_it() {
        let fake = Fake::start().await;
        let hash = fake.define(EXPORT);
        fake.state().tasks = vec![request("r2", &hash), open("r1", &hash)];
        insta::assert_snapshot!("why", fake.mayfly(&["why", "w-r1"]).await.text());
        assert_eq!(
            fake.mayfly(&["why", "r1", "--output", "json"]).await.json()["decisions"][0]["allowed"],
            false
        );
        let none = fake.mayfly(&["why-not", "r2"]).await;
        assert!(
            none.out.ends_with("No small change of facts would turn it.\n"),
            "{none:?}"
        );
        fake.state().flips = vec!["2 approvals of pay/leads".into(), "sensitivity 1 or less".into()];
        insta::assert_snapshot!("why_not", fake.mayfly(&["why-not", "w-r1"]).await.text());
        let json = fake.mayfly(&["why-not", "r2", "--output", "json"]).await.json();
        assert_eq!(json["flips"][1], "sensitivity 1 or less");
        for command in ["why", "why-not"] {
            assert_eq!(fake.mayfly(&[command, "r9"]).await.code, 5);
        }
    }
}
