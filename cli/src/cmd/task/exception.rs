//! `mayfly task exception`: standing power that somebody answers for.

use std::time::Duration;

use clap::Subcommand;
use mayfly_proto::mayfly::task::{
    EndExceptionRequest, Exception, ExceptionResponse, GrantExceptionRequest, ListExceptionsRequest,
    RenewExceptionRequest,
};
use mayfly_svid::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::define::second_person;
use super::view::At;
use crate::Context;
use crate::connect::{ReasonArg, SaidReason, Server};
use crate::errors::{CliError, Exit};
use crate::values;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Let an identity have standing power for a time
    #[command(after_help = GRANT_EXAMPLES)]
    Grant(GrantArgs),
    /// List exceptions: expired ones, then those that end next
    List(ListArgs),
    /// Look at an exception again, and let it go on
    Renew(RenewArgs),
    /// End an exception: its identity gets no more SVIDs
    #[command(after_help = END_EXAMPLES)]
    End(EndArgs),
}

const GRANT_EXAMPLES: &str = "\
Whoever grants an exception agrees to it, and is not its owner; where the server
wants two people it is a proposal at first. At its end its identity gets no more
SVIDs, until somebody looks at it again.

Examples:
  mayfly task exception grant --identity spiffe://example.org/legacy/backup \\
    --allows 'reads all backups' --scope backup:read --owner carol --for 30d \\
    --control 'its network is closed' --reason 'the appliance knows no tasks'
  mayfly task exception grant --identity ENTRY-ID --scope mayfly:admin …";

const END_EXAMPLES: &str = "\
An identity whose exception is over gets no SVIDs, because nobody knows whether
it still has the power. Take the power away first, then say so:

Examples:
  mayfly task exception end 01hx… --reason 'the appliance is gone'
  mayfly task exception end 01hx… --power-removed --reason 'asks for tasks now'";

#[derive(Debug, clap::Args)]
pub(super) struct GrantArgs {
    /// Who: a SPIFFE ID, or the ID of an entry
    #[arg(long, value_name = "SPIFFE-ID|ENTRY-ID")]
    identity: String,
    /// What it may do, in words
    #[arg(long, value_name = "TEXT")]
    allows: String,
    /// The same, as definitions name it; repeat for several
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Who answers for it
    #[arg(long, value_name = "PERSON")]
    owner: String,
    /// What is done instead, so that it does no harm
    #[arg(long, value_name = "TEXT")]
    control: String,
    /// For how long, at most 90 days
    #[arg(long = "for", value_name = "DURATION", value_parser = values::duration)]
    life: Duration,
    #[command(flatten)]
    reason: SaidReason,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Also those that were ended
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RenewArgs {
    /// The exception
    #[arg(value_name = "ID")]
    id: String,
    /// For how long from now, at most 90 days
    #[arg(long = "for", value_name = "DURATION", value_parser = values::duration)]
    life: Duration,
    #[command(flatten)]
    reason: SaidReason,
}

#[derive(Debug, clap::Args)]
pub(super) struct EndArgs {
    /// The exception
    #[arg(value_name = "ID")]
    id: String,
    /// The identity has no standing power any more, and gets SVIDs as any other
    #[arg(long)]
    power_removed: bool,
    #[command(flatten)]
    reason: ReasonArg,
}

/// An exception for display. The field names are the keys of the JSON form.
#[derive(Debug, Serialize)]
pub(super) struct ExceptionView {
    id: String,
    identity: String,
    allows: String,
    scopes: Vec<String>,
    owner: String,
    reason: String,
    compensating_control: String,
    approved_by: String,
    granted_at: At,
    approved_at: At,
    expires_at: At,
    renewals: u32,
    state: String,
    ended_at: At,
    power_removed: bool,
    stops_issuance: bool,
}

/// Grants, lists, renews or ends.
///
/// # Errors
/// The server's status.
pub(super) async fn run(verb: Verb, context: &mut Context) -> Result<Exit, CliError> {
    match verb {
        Verb::Grant(args) => grant(args, context).await,
        Verb::List(args) => list(&args, context).await,
        Verb::Renew(args) => renew(args, context).await,
        Verb::End(args) => end(args, context).await,
    }
}

async fn grant(args: GrantArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    let request = GrantExceptionRequest {
        identity: args.identity.clone(),
        allows: args.allows,
        scopes: args.scopes,
        owner: args.owner,
        reason: args.reason.text().to_owned(),
        compensating_control: args.control,
        expires_at: context.now().plus(args.life).unix(),
    };
    let answer = server.exceptions().grant(server.request(request)).await;
    let doing = format!("grant an exception to {}", args.identity);
    outcome(
        "granted",
        answer.map_err(|status| server.failed(doing, status))?.into_inner(),
        context,
    )
}

async fn renew(args: RenewArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    let request = RenewExceptionRequest {
        id: args.id.clone(),
        reason: args.reason.text().to_owned(),
        expires_at: context.now().plus(args.life).unix(),
    };
    let answer = server.exceptions().renew(server.request(request)).await;
    let answer = answer.map_err(|status| failed(&server, "renew", &args.id, status))?;
    outcome("renewed", answer.into_inner(), context)
}

async fn end(args: EndArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let EndArgs { id, power_removed, .. } = args;
    let request = server.request(EndExceptionRequest {
        id: id.clone(),
        power_removed,
    });
    let answer = server.exceptions().end(request).await;
    let answer = answer.map_err(|status| failed(&server, "end", &id, status))?;
    outcome("ended", answer.into_inner(), context)
}

async fn list(args: &ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let answer = server.exceptions().list(server.request(ListExceptionsRequest {})).await;
    let answer = answer.map_err(|status| server.failed("list exceptions", status))?;
    let all = answer.into_inner().exceptions.into_iter().map(ExceptionView::of);
    let views: Vec<_> = all
        .filter(|view| args.all || view.state != "ended" || view.stops_issuance)
        .collect();
    if context.out.is_json() {
        context.out.json(&json!({"exceptions": views}))?;
    } else {
        table(&views, context, "Nobody has standing power that is excepted.")?;
    }
    Ok(Exit::Ok)
}

/// Exceptions as rows.
///
/// # Errors
/// Nobody reads them.
pub(super) fn table(views: &[ExceptionView], context: &mut Context, empty: &str) -> Result<(), CliError> {
    let now = context.now();
    let header = ["exception", "identity", "allows", "owner", "state", "expires"];
    let rows = views.iter().map(|view| view.row(now)).collect();
    context.out.table(&header, rows, empty)
}

fn failed(server: &Server, doing: &str, id: &str, status: tonic::Status) -> CliError {
    let error = server.failed(format!("{doing} exception {id}"), status);
    if error.exit() == Exit::NotFound {
        error.hint("`mayfly task exception list --all` shows them")
    } else {
        error
    }
}

fn outcome(done: &str, answer: ExceptionResponse, context: &mut Context) -> Result<Exit, CliError> {
    let ExceptionResponse { exception, proposal_id } = answer;
    let view = exception.map(ExceptionView::of);
    if context.out.is_json() {
        let proposal = (!proposal_id.is_empty()).then_some(&proposal_id);
        context.out.json(&json!({"exception": view, "proposal_id": proposal}))?;
        return Ok(Exit::Ok);
    }
    let Some(view) = view else {
        context.out.line(format!("proposed  {proposal_id}"))?;
        context.out.note(second_person(&proposal_id));
        return Ok(Exit::Ok);
    };
    let now = context.now();
    let until = match view.state.as_str() {
        "in_force" => format!("until {}", view.expires_at.full(&context.out, now)),
        state => state.to_owned(),
    };
    context
        .out
        .line(format!("{done}  {}  {}  {until}", view.id, view.identity))?;
    if view.stops_issuance {
        context
            .out
            .note("Its identity gets no more SVIDs; those that it has end by themselves.");
    }
    Ok(Exit::Ok)
}

// === impl ExceptionView ===

impl ExceptionView {
    /// The view of what the server sent.
    pub(super) fn of(exception: Exception) -> Self {
        Self {
            id: exception.id,
            identity: exception.identity,
            allows: exception.allows,
            scopes: exception.scopes,
            owner: exception.owner,
            reason: exception.reason,
            compensating_control: exception.compensating_control,
            approved_by: exception.approved_by,
            granted_at: At::of(exception.granted_at),
            approved_at: At::of(exception.approved_at),
            expires_at: At::of(exception.expires_at),
            renewals: exception.renewals,
            state: exception.state,
            ended_at: At::of(exception.ended_at),
            power_removed: exception.power_removed,
            stops_issuance: exception.stops_issuance,
        }
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        let state = match (self.stops_issuance, self.power_removed) {
            (true, _) => format!("{}, issuance stopped", self.state),
            (_, true) => format!("{}, power removed", self.state),
            _ => self.state.clone(),
        };
        vec![
            self.id.clone(),
            self.identity.clone(),
            self.allows.clone(),
            self.owner.clone(),
            state,
            self.expires_at.relative(now),
        ]
    }
}
