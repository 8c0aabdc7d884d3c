//! `mayfly agent`: the agents that have attested.

use std::time::Duration;

use clap::{ArgMatches, Command};
use mayfly_proto::spire::server::agent::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, count_agents_request,
    list_agents_request,
};
use mayfly_proto::spire::types::Agent;
use mayfly_svid::{SpiffeId, Timestamp};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use tonic::Status;

use super::entry::{MatchOn, id_text, id_to_wire, selector_text_to_wire};
use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;
use crate::connect::{ReasonArg, Server};
use crate::errors::{CliError, Exit, code_name, sentence};
use crate::output::{Field, Output};
use crate::values::{self, When};

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "agent",
    command,
    run,
};

const PAGE: i32 = 500;
const HEADER: [&str; 5] = ["spiffe id", "attested by", "state", "svid expires", "selectors"];

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
    Ban(ChangeArgs),
    /// Forget agents: at once nothing is issued to them; they may attest again (and lift a ban that way)
    Evict(ChangeArgs),
    /// Forget agents whose SVID expired long ago and that can attest again by themselves
    #[command(after_help = PURGE_EXAMPLES)]
    Purge(PurgeArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  mayfly agent list --attestation-type x509pop
  mayfly agent list --banned
  mayfly agent list --expires-before 2030-01-31T12:00:00Z --output json";

const PURGE_EXAMPLES: &str = "\
Examples:
  mayfly agent purge --dry-run               shows which would go
  mayfly agent purge --expired-for 720h      forgets them";

#[derive(Debug, clap::Args)]
struct IdArgs {
    /// Agents, by SPIFFE ID
    #[arg(value_name = "SPIFFE_ID", value_parser = values::spiffe_id, required_unless_present = "spiffe_id")]
    ids: Vec<SpiffeId>,
    /// Agent, as SPIRE writes it
    #[arg(long, value_name = "ID", alias = "spiffeID", value_parser = values::spiffe_id, hide = true)]
    spiffe_id: Vec<SpiffeId>,
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
    #[command(flatten)]
    agents: IdArgs,
    #[command(flatten)]
    reason: ReasonArg,
}

#[derive(Debug, clap::Args)]
struct PurgeArgs {
    /// How long their SVID has been expired, at least
    #[arg(long, value_name = "DURATION", alias = "expiredFor", default_value = "720h", value_parser = values::duration)]
    expired_for: Duration,
    /// Only show which
    #[arg(long, alias = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    reason: ReasonArg,
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

/// An agent for display. The field names are the keys of the JSON form; times are RFC 3339 in UTC.
#[derive(Debug, Serialize)]
pub(crate) struct AgentView {
    pub(crate) spiffe_id: String,
    attestation_type: String,
    pub(crate) banned: bool,
    can_reattest: bool,
    svid_serial: String,
    svid_expires_at: Option<String>,
    pub(crate) selectors: Vec<String>,
    version: String,
    #[serde(skip)]
    pub(crate) expires: Option<Timestamp>,
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
            Verb::Ban(args) => change(args, Change::Ban, context).await,
            Verb::Evict(args) => change(args, Change::Evict, context).await,
            Verb::Purge(args) => purge(args, context).await,
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
    context.out.table(&HEADER, rows, "No agent matches.")
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
    if context.out.is_json() {
        context.out.json(&json!({"count": count}))?;
    } else {
        context.out.line(count.to_string())?;
    }
    Ok(Exit::Ok)
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Ban,
    Evict,
}

async fn change(args: ChangeArgs, change: Change, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    change_each(&server, args.agents.all(), change, context).await
}

async fn purge(args: PurgeArgs, context: &mut Context) -> Result<Exit, CliError> {
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

/// Every agent that passes `filter`, page by page.
///
/// # Errors
/// The server's status.
pub(crate) async fn list_all(
    server: &Server,
    filter: Option<list_agents_request::Filter>,
) -> Result<Vec<Agent>, CliError> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
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
        all.extend(page.agents);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
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

// === impl AgentView ===

impl AgentView {
    /// The view of what the server sent.
    pub(crate) fn of(agent: &Agent) -> Self {
        let expires = (agent.x509svid_expires_at != 0).then(|| Timestamp::from_unix(agent.x509svid_expires_at));
        Self {
            spiffe_id: id_text(agent.id.as_ref()),
            attestation_type: agent.attestation_type.clone(),
            banned: agent.banned,
            can_reattest: agent.can_reattest,
            svid_serial: agent.x509svid_serial_number.clone(),
            svid_expires_at: expires.map(|time| time.to_string()),
            selectors: agent
                .selectors
                .iter()
                .map(|s| format!("{}:{}", s.r#type, s.value))
                .collect(),
            version: agent.agent_version.clone(),
            expires,
        }
    }

    /// Whether it may be issued to at `now`.
    pub(crate) fn state(&self, now: Timestamp) -> &'static str {
        if self.banned {
            "banned"
        } else if self.expires.is_some_and(|expires| expires < now) {
            "expired"
        } else {
            "active"
        }
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.spiffe_id.clone(),
            self.attestation_type.clone(),
            self.state(now).to_owned(),
            self.expires.map(|time| values::relative(time, now)).unwrap_or_default(),
            self.selectors.join("\n"),
        ]
    }

    fn fields(&self, output: &Output, now: Timestamp) -> Vec<Field> {
        let mut fields = vec![
            ("SPIFFE ID", self.spiffe_id.clone()),
            ("State", self.state(now).to_owned()),
            ("Attested by", self.attestation_type.clone()),
            (
                "Attests again",
                if self.can_reattest {
                    "by itself"
                } else {
                    "with a new token only"
                }
                .to_owned(),
            ),
            ("SVID serial", self.svid_serial.clone()),
            (
                "SVID expires",
                self.expires.map(|time| output.time(time, now)).unwrap_or_default(),
            ),
            ("Selectors", self.selectors.join("\n")),
        ];
        if !self.version.is_empty() {
            fields.push(("Version", self.version.clone()));
        }
        fields
    }
}

#[cfg(test)]
mod tests;
