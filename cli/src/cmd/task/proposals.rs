//! `mayfly task proposals|proposal`: changes that wait for a second person.

use aws_lc_rs::digest::{SHA256, digest};
use clap::Subcommand;
use mayfly_proto::mayfly::task::{DecideProposalRequest, ListProposalsRequest, Proposal};
use mayfly_svid::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::view::{At, short};
use super::{definitions, diff};
use crate::Context;
use crate::cmd::policy;
use crate::connect::{ReasonArg, SaidReason, Server};
use crate::errors::{CliError, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Also those that are decided
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show what would be in force, and what is now
    Show(ShowArgs),
    /// Put a change of somebody else in force
    #[command(after_help = APPROVE_EXAMPLES)]
    Approve(ApproveArgs),
    /// Put a change aside
    Reject(RejectArgs),
}

const APPROVE_EXAMPLES: &str = "\
Shows what changes, and asks. In a script: --yes with the hash that a person
looked at (mayfly task proposal show ID).

Examples:
  mayfly task proposal approve 01hx…
  mayfly task proposal approve 01hx… --hash 9c0e51d2b7aa --yes";

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The proposal
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct ApproveArgs {
    /// The proposal
    #[arg(value_name = "ID")]
    id: String,
    /// What it has to be, exactly: the hash that was looked at (12 hex digits or more)
    #[arg(long, value_name = "HEX", value_parser = definitions::hash)]
    hash: Option<String>,
    /// Do not ask
    #[arg(long, requires = "hash")]
    yes: bool,
    #[command(flatten)]
    reason: ReasonArg,
}

#[derive(Debug, clap::Args)]
pub(super) struct RejectArgs {
    /// The proposal
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    reason: SaidReason,
}

/// A proposal for display. The field names are the keys of the JSON form.
#[derive(Debug, Serialize)]
struct ProposalView {
    id: String,
    kind: String,
    name: String,
    hash: String,
    author: String,
    proposed_at: At,
    state: String,
    decided_by: String,
    content: String,
}

/// Lists proposals in a table.
///
/// # Errors
/// The server's status.
pub(super) async fn list(args: &ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let mut views = all(&server).await?;
    views.retain(|view| args.all || view.state == "pending");
    if context.out.is_json() {
        context.out.json(&json!({"proposals": views}))?;
        return Ok(Exit::Ok);
    }
    let now = context.now();
    let rows = views.iter().map(|view| view.row(now)).collect();
    let header = ["proposal", "kind", "of", "hash", "author", "proposed", "state"];
    context.out.table(&header, rows, "Nothing waits for a second person.")?;
    Ok(Exit::Ok)
}

/// Shows a proposal or decides it.
///
/// # Errors
/// It is not what `--hash` says; whoever was asked did not agree; or the server's status.
pub(super) async fn run(verb: Verb, context: &mut Context) -> Result<Exit, CliError> {
    match verb {
        Verb::Show(args) => {
            let server = Server::connect(&context.globals).await?;
            let view = find(&server, &args.id).await?;
            if context.out.is_json() {
                context.out.json(&view)?;
            } else {
                brief(&server, &view, context).await?;
            }
            Ok(Exit::Ok)
        }
        Verb::Approve(args) => approve(args, context).await,
        Verb::Reject(args) => {
            let server = Server::connect(&context.globals).await?.said(&args.reason);
            let request = DecideProposalRequest { id: args.id.clone() };
            let answer = server.proposals().reject(server.request(request)).await;
            let answer = answer.map_err(|status| failed(&server, "reject", &args.id, status))?;
            decided("rejected", answer.into_inner(), context)
        }
    }
}

async fn approve(args: ApproveArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let view = find(&server, &args.id).await?;
    if let Some(hash) = args.hash.as_deref()
        && (hash.is_empty() || !view.hash.starts_with(hash))
    {
        return Err(CliError::Failed {
            what: format!("proposal {} has the hash {}, not {hash}", view.id, view.hash),
            hints: vec![format!(
                "this is not what was looked at; look again: mayfly task proposal show {}",
                view.id
            )],
        });
    }
    if !args.yes {
        if context.asker.is_there(context.out.is_json()) {
            brief(&server, &view, context).await?;
        }
        let otherwise = format!(
            "look at it with `mayfly task proposal show {}`, then add: --hash {} --yes",
            view.id,
            short(&view.hash)
        );
        let question = format!("Put this {} in force?", view.kind);
        context.confirm(&question, "yes", &otherwise).await?;
    }
    let request = server.request(DecideProposalRequest { id: args.id.clone() });
    let answer = server.proposals().approve(request).await;
    let answer = answer.map_err(|status| failed(&server, "approve", &args.id, status))?;
    decided("approved", answer.into_inner(), context)
}

async fn all(server: &Server) -> Result<Vec<ProposalView>, CliError> {
    let answer = server.proposals().list(server.request(ListProposalsRequest {})).await;
    let answer = answer.map_err(|status| server.failed("list proposals", status))?;
    let proposals = answer.into_inner().proposals;
    Ok(proposals.into_iter().map(ProposalView::of).collect())
}

async fn find(server: &Server, id: &str) -> Result<ProposalView, CliError> {
    let found = all(server).await?.into_iter().find(|view| view.id == id);
    found.ok_or_else(|| {
        let status = tonic::Status::not_found("proposal not found");
        failed(server, "show", id, status)
    })
}

fn failed(server: &Server, doing: &str, id: &str, status: tonic::Status) -> CliError {
    let error = server.failed(format!("{doing} proposal {id}"), status);
    if error.exit() == Exit::NotFound {
        error.hint("`mayfly task proposals --all` shows them")
    } else {
        error
    }
}

/// What somebody has to know before he puts it in force.
async fn brief(server: &Server, view: &ProposalView, context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    let fields = [
        ("Proposal", view.id.clone()),
        ("Kind", view.of_what()),
        ("Author", view.author.clone()),
        ("Proposed", view.proposed_at.full(&context.out, now)),
        ("State", view.state_shown()),
        ("Hash", view.hash.clone()),
    ];
    context.out.block(&fields)?;
    context.out.line("")?;
    let lines = match view.kind.as_str() {
        "definition" => match definitions::find(server, &view.name).await? {
            Some(present) if present.hash == view.hash => {
                context.out.line("This version is in force:")?;
                vec![present.text]
            }
            Some(present) => {
                let version = format!("Version {}, {}", present.version, short(&present.hash));
                context.out.line(format!("{version} would change:"))?;
                diff::lines(&diff::between(&present.text, &view.content)?)
            }
            None => {
                context.out.line("A new task:")?;
                vec![view.content.clone()]
            }
        },
        "retirement" => {
            let ends = format!(
                "{} would take no more requests, and its open windows would end.",
                view.name
            );
            return context.out.line(ends);
        }
        "policy" => {
            let present = policy::present(server).await?;
            let title = format!("What would change in policy {}:", short(&present.digest));
            context.out.line(title)?;
            vec![policy::unified(&policy::as_proposed(&present.files), &view.content)]
        }
        _ => vec![view.content.clone()],
    };
    for line in lines.iter().flat_map(|text| text.trim_end().lines()) {
        context.out.line(format!("  {line}"))?;
    }
    Ok(())
}

fn decided(done: &str, proposal: Proposal, context: &mut Context) -> Result<Exit, CliError> {
    let view = ProposalView::of(proposal);
    if context.out.is_json() {
        context.out.json(&view)?;
    } else {
        context.out.line(format!("{done}  {}  {}", view.id, view.of_what()))?;
    }
    Ok(Exit::Ok)
}

// === impl ProposalView ===

impl ProposalView {
    fn of(proposal: Proposal) -> Self {
        // The server hashes definitions; what else there is gets a hash here, to be named by those who looked at it.
        let hash = match proposal.hash.as_str() {
            "" => {
                let all = [&proposal.kind, &proposal.name, &proposal.content]
                    .map(String::as_str)
                    .join("\0");
                hex::encode(digest(&SHA256, all.as_bytes()))
            }
            hash => hash.to_owned(),
        };
        Self {
            id: proposal.id,
            kind: proposal.kind,
            name: proposal.name,
            hash,
            author: proposal.author,
            proposed_at: At::of(proposal.proposed_at),
            state: proposal.state,
            decided_by: proposal.decided_by,
            content: proposal.content,
        }
    }

    fn of_what(&self) -> String {
        match self.name.as_str() {
            "" => self.kind.clone(),
            name => format!("{} of {name}", self.kind),
        }
    }

    fn state_shown(&self) -> String {
        match self.decided_by.as_str() {
            "" => self.state.clone(),
            person => format!("{} by {person}", self.state),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.id.clone(),
            self.kind.clone(),
            self.name.clone(),
            short(&self.hash).to_owned(),
            self.author.clone(),
            self.proposed_at.relative(now),
            self.state_shown(),
        ]
    }
}
