//! `mayfly agent`: the agents that have attested.

use clap::{ArgMatches, Command};
use mayfly_proto::spire::server::agent::{
    CountAgentsRequest, GetAgentRequest, ListAgentsRequest, count_agents_request, list_agents_request,
};
use mayfly_proto::spire::types::Agent;
use mayfly_svid::{SpiffeId, Timestamp};
use serde_json::json;
use time::OffsetDateTime;

use super::entry::{MatchOn, id_to_wire, selector_text_to_wire};
use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;
use crate::connect::{Server, all_pages};
use crate::errors::{CliError, Exit};
use crate::values::{self, When};

mod change;
mod view;

#[cfg(test)]
mod tests;

use change::Change;
pub(crate) use view::AgentView;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "agent",
    command,
    run,
};

const PAGE: i32 = 500;

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List agents in a table
    #[command(after_help = LIST_EXAMPLES)]
    List(FilterArgs),
    /// Show agents in full
    Show(IdArgs),
    /// Count agents
    Count(FilterArgs),
    /// Shut agents out for good: at once nothing is issued to them, and they cannot attest again
    Ban(change::ChangeArgs),
    /// Forget agents: at once nothing is issued to them; they may attest again (and lift a ban that way)
    Evict(change::ChangeArgs),
    /// Forget agents whose SVID expired long ago and that can attest again by themselves
    #[command(after_help = change::PURGE_EXAMPLES)]
    Purge(change::PurgeArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  mayfly agent list --attestation-type x509pop
  mayfly agent list --banned
  mayfly agent list --expires-before 2030-01-31T12:00:00Z --output json";

#[derive(Debug, clap::Args)]
struct IdArgs {
    /// Agents, by SPIFFE ID
    #[arg(value_name = "SPIFFE_ID", value_parser = values::spiffe_id, required_unless_present = "spiffe_id")]
    ids: Vec<SpiffeId>,
    /// Agent, as SPIRE writes it
    #[arg(long, value_name = "ID", alias = "spiffeID", value_parser = values::spiffe_id, hide = true)]
    spiffe_id: Vec<SpiffeId>,
}

/// Which agents are meant. All conditions have to hold.
#[derive(Debug, Clone, Default, clap::Args)]
struct FilterArgs {
    /// With these selectors (repeat)
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<String>,
    /// How the agent's selectors compare with those given: exact, any, superset, subset
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value = "superset",
        value_name = "HOW",
        alias = "matchSelectorsOn"
    )]
    match_selectors_on: MatchOn,
    /// Attested by this method: join_token, x509pop, …
    #[arg(long, value_name = "TYPE", alias = "attestationType")]
    attestation_type: Option<String>,
    /// That can attest again by themselves (`=false`: that cannot)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true,
          alias = "canReattest")]
    can_reattest: Option<bool>,
    /// Banned ones (`=false`: the others)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true)]
    banned: Option<bool>,
    /// Whose SVID expires before: 2030-01-31T12:00:00Z, seconds since 1970, or from now as 8h
    #[arg(long, value_name = "WHEN", alias = "expiresBefore", value_parser = values::when)]
    expires_before: Option<When>,
}

fn command() -> Command {
    noun_with_verbs::<Verb>("agent", "Agents: the nodes that have attested")
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::List(filter) => list(&filter, context).await,
            Verb::Show(args) => show(args, context).await,
            Verb::Count(filter) => count(&filter, context).await,
            Verb::Ban(args) => change::run(args, Change::Ban, context).await,
            Verb::Evict(args) => change::run(args, Change::Evict, context).await,
            Verb::Purge(args) => change::purge(args, context).await,
        }
    })
}

async fn list(filter: &FilterArgs, context: &mut Context) -> Result<Exit, CliError> {
    let filter = filter.to_wire(context.now())?;
    let server = Server::connect(&context.globals).await?;
    let views: Vec<AgentView> = list_all(&server, filter).await?.iter().map(AgentView::of).collect();
    show_list(&views, context)?;
    Ok(Exit::Ok)
}

fn show_list(views: &[AgentView], context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    if context.out.is_json() {
        return context.out.json(&json!({"agents": views}));
    }
    let rows = views.iter().map(|view| view.row(now)).collect();
    context.out.table(&view::HEADER, rows, "No agent matches.")
}

async fn show(args: IdArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let mut views = Vec::new();
    for id in args.all() {
        let request = server.request(GetAgentRequest {
            id: Some(id_to_wire(&id)),
            output_mask: None,
        });
        let answer = server.agents().get_agent(request).await;
        let agent = answer.map_err(|status| not_found_hint(server.failed(format!("show agent {id}"), status)))?;
        views.push(AgentView::of(agent.get_ref()));
    }
    if context.out.is_json() {
        context.out.json(&json!({"agents": views}))?;
        return Ok(Exit::Ok);
    }
    let now = context.now();
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            context.out.line("")?;
        }
        let fields = view.fields(&context.out, now);
        context.out.block(&fields)?;
    }
    Ok(Exit::Ok)
}

async fn count(filter: &FilterArgs, context: &mut Context) -> Result<Exit, CliError> {
    let filter = filter
        .to_wire(context.now())?
        .map(|filter| count_agents_request::Filter {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        });
    let server = Server::connect(&context.globals).await?;
    let answer = server
        .agents()
        .count_agents(server.request(CountAgentsRequest { filter }))
        .await;
    let count = answer
        .map_err(|status| server.failed("count agents", status))?
        .into_inner()
        .count;
    context.out.count(count)?;
    Ok(Exit::Ok)
}

/// Every agent that passes `filter`, page by page.
///
/// # Errors
/// The server's status.
pub(crate) async fn list_all(
    server: &Server,
    filter: Option<list_agents_request::Filter>,
) -> Result<Vec<Agent>, CliError> {
    all_pages(async |page_token| {
        let request = ListAgentsRequest {
            filter: filter.clone(),
            output_mask: None,
            page_size: PAGE,
            page_token,
        };
        let answer = server.agents().list_agents(server.request(request)).await;
        let page = answer
            .map_err(|status| server.failed("list agents", status))?
            .into_inner();
        Ok((page.agents, page.next_page_token))
    })
    .await
}

fn not_found_hint(error: CliError) -> CliError {
    if error.exit() == Exit::NotFound {
        error.hint("`mayfly agent list` shows the agents")
    } else {
        error
    }
}

/// An instant as SPIRE's agent filter writes it: `2006-01-02 15:04:05 -0700 -07`, always in UTC.
fn before_text(time: Timestamp) -> String {
    let time = OffsetDateTime::from_unix_timestamp(time.unix()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!(
        "{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 +00",
        u8::from(month)
    )
}

// === impl IdArgs ===

impl IdArgs {
    fn all(self) -> Vec<SpiffeId> {
        self.ids.into_iter().chain(self.spiffe_id).collect()
    }
}

// === impl FilterArgs ===

impl FilterArgs {
    fn to_wire(&self, now: Timestamp) -> Result<Option<list_agents_request::Filter>, CliError> {
        let selectors = self
            .selector
            .iter()
            .map(|text| selector_text_to_wire(text))
            .collect::<Result<Vec<_>, _>>()?;
        let before = self.expires_before.and_then(|when| when.resolve(now));
        let filter = list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone().unwrap_or_default(),
            by_selector_match: self.match_selectors_on.selectors(selectors),
            by_banned: self.banned,
            by_can_reattest: self.can_reattest,
            by_expires_before: before.map(before_text).unwrap_or_default(),
        };
        Ok((filter != list_agents_request::Filter::default()).then_some(filter))
    }
}
