//! `mayfly agent ban|evict|purge`: agents that are to get nothing any more.

use std::time::Duration;

use mayfly_proto::spire::server::agent::{BanAgentRequest, DeleteAgentRequest, list_agents_request};
use mayfly_proto::status::code_name;
use mayfly_svid::SpiffeId;
use serde_json::json;
use tonic::Status;

use super::{AgentView, IdArgs, before_text, list_all, not_found_hint, show_list};
use crate::Context;
use crate::cmd::entry::id_to_wire;
use crate::connect::{ReasonArg, Server};
use crate::errors::{CliError, Exit, sentence};
use crate::values;

pub(super) const PURGE_EXAMPLES: &str = "\
Examples:
  mayfly agent purge --dry-run               shows which would go
  mayfly agent purge --expired-for 720h      forgets them";

#[derive(Debug, clap::Args)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    agents: IdArgs,
    #[command(flatten)]
    reason: ReasonArg,
}

#[derive(Debug, clap::Args)]
pub(super) struct PurgeArgs {
    /// How long their SVID has been expired, at least
    #[arg(long, value_name = "DURATION", alias = "expiredFor", default_value = "720h", value_parser = values::duration)]
    expired_for: Duration,
    /// Only show which
    #[arg(long, alias = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    reason: ReasonArg,
}

/// What becomes of the agents that are named.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// It cannot attest again.
    Ban,
    /// It can.
    Evict,
}

/// Bans or evicts the agents that are named.
///
/// # Errors
/// The server's status for the only one.
pub(super) async fn run(args: ChangeArgs, change: Change, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    change_each(&server, args.agents.all(), change, context).await
}

/// Evicts what has been expired for long and comes back by itself if it lives.
///
/// # Errors
/// The server's status.
pub(super) async fn purge(args: PurgeArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let until = context.now().minus(args.expired_for);
    let filter = list_agents_request::Filter {
        by_can_reattest: Some(true),
        by_expires_before: before_text(until),
        ..Default::default()
    };
    let mut views: Vec<AgentView> = list_all(&server, Some(filter))
        .await?
        .iter()
        .map(AgentView::of)
        .collect();
    // Deleting is not undone, so the server's reading of the date is checked. A ban ends with eviction: it stays.
    views.retain(|view| !view.banned && view.expires.is_some_and(|expires| expires < until));
    if args.dry_run {
        show_list(&views, context)?;
        return Ok(Exit::Ok);
    }
    let ids = views.iter().map(|view| view.spiffe_id.parse());
    let ids: Vec<SpiffeId> =
        ids.collect::<Result<_, _>>()
            .map_err(|error: mayfly_svid::IdError| CliError::BadAnswer {
                who: "the server",
                what: error.to_string(),
            })?;
    if ids.is_empty() && !context.out.is_json() {
        context.out.line("No agent has been expired for so long.")?;
        return Ok(Exit::Ok);
    }
    change_each(&server.because(&args.reason), ids, Change::Evict, context).await
}

async fn change_each(
    server: &Server,
    ids: Vec<SpiffeId>,
    change: Change,
    context: &mut Context,
) -> Result<Exit, CliError> {
    let total = ids.len();
    let mut results: Vec<(SpiffeId, Result<(), Status>)> = Vec::with_capacity(total);
    for id in ids {
        context.out.progress(results.len(), total);
        let result = change.call(server, &id).await;
        results.push((id, result));
    }
    if context.out.is_json() {
        let items = results.iter().map(|(id, result)| match result {
            Ok(()) => json!({"spiffe_id": id, "ok": true}),
            Err(status) => json!({"spiffe_id": id, "ok": false,
                                  "error": {"code": code_name(status.code()), "message": status.message()}}),
        });
        let failed = results.iter().filter(|(_, result)| result.is_err()).count();
        let items: Vec<_> = items.collect();
        context
            .out
            .json(&json!({"results": items, "succeeded": total - failed, "failed": failed}))?;
    }
    let mut exit = Exit::Ok;
    for (id, result) in results {
        match result {
            Ok(()) if context.out.is_json() => {}
            Ok(()) => context.out.line(format!("{}  {id}", change.past()))?,
            Err(status) if total == 1 => {
                let error = not_found_hint(server.failed(format!("{} agent {id}", change.infinitive()), status));
                if context.out.is_json() {
                    return Ok(error.exit());
                }
                return Err(error);
            }
            Err(status) => {
                exit = Exit::Failed;
                if !context.out.is_json() {
                    context.out.note(format!("failed  {id}: {}", sentence(&status)));
                }
            }
        }
    }
    Ok(exit)
}

// === impl Change ===

impl Change {
    async fn call(self, server: &Server, id: &SpiffeId) -> Result<(), Status> {
        let id = Some(id_to_wire(id));
        match self {
            Self::Ban => server
                .agents()
                .ban_agent(server.request(BanAgentRequest { id }))
                .await
                .map(drop),
            Self::Evict => server
                .agents()
                .delete_agent(server.request(DeleteAgentRequest { id }))
                .await
                .map(drop),
        }
    }

    fn infinitive(self) -> &'static str {
        match self {
            Self::Ban => "ban",
            Self::Evict => "evict",
        }
    }

    fn past(self) -> &'static str {
        match self {
            Self::Ban => "banned",
            Self::Evict => "evicted",
        }
    }
}
