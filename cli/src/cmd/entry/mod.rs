//! `mayfly entry`: which processes get which identity.

use clap::{ArgMatches, Command};
use mayfly_proto::spire::server::entry::{
    CountEntriesRequest, GetEntryRequest, ListEntriesRequest, count_entries_request, list_entries_request,
};
use mayfly_proto::spire::types::{Entry, federates_with_match, selector_match};
use mayfly_svid::{SpiffeId, TrustDomain};
use serde_json::json;

use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;
use crate::connect::{ReasonArg, Server, all_pages};
use crate::errors::{CliError, Exit};
use crate::values;

mod batch;
mod check;
mod fields;
mod file;
mod view;

#[cfg(test)]
mod tests;

use fields::Fields;
pub(crate) use fields::{id_text, id_to_wire, selector_text_to_wire};
pub(crate) use view::EntryView;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "entry",
    command,
    run,
};

/// Items of a page; the server may give fewer.
const PAGE: i32 = 500;

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Give an identity to processes
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// Change what the given options name, and nothing else
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(Box<UpdateArgs>),
    /// Show entries in full, by ID or by filter
    Show(ShowArgs),
    /// List entries in a table
    #[command(after_help = LIST_EXAMPLES)]
    List(FilterArgs),
    /// Count entries
    Count(FilterArgs),
    /// Take identities back
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(DeleteArgs),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  mayfly entry create --spiffe-id spiffe://example.org/web \\
      --parent-id spiffe://example.org/spire/agent/x509pop/4f1e… \\
      --selector unix:user:www-data
  mayfly entry create --file entries.json        many at once; `-` reads stdin
  mayfly entry create … --x509-svid-ttl 15m --expires 8h --reason \"INC-1042\"

Selectors of the unix attestor:
  unix:uid:N  unix:gid:N  unix:user:NAME  unix:group:NAME
  unix:path:/abs/path  unix:sha256:HEX
  unix:supplementary_gid:N  unix:supplementary_group:NAME";

const UPDATE_EXAMPLES: &str = "\
Examples:
  mayfly entry update 8f6c… --x509-svid-ttl 15m
  mayfly entry update 8f6c… --dns '' --expires never --admin=false
  mayfly entry list --output json > e.json       edit it, then:
  mayfly entry update --file e.json";

const LIST_EXAMPLES: &str = "\
Examples:
  mayfly entry list --parent-id spiffe://example.org/spire/agent/x509pop/4f1e…
  mayfly entry list --selector unix:uid:1000 --match-selectors-on any
  mayfly entry list --output json | jq -r '.entries[].spiffe_id'";

const DELETE_EXAMPLES: &str = "\
Examples:
  mayfly entry delete 8f6c… 17aa…
  mayfly entry list --hint old --output json | mayfly entry delete --file -";

#[derive(Debug, clap::Args)]
struct CreateArgs {
    #[command(flatten)]
    fields: Fields,
    /// Entry ID to use; a random UUID otherwise
    #[arg(long, value_name = "ID", alias = "entryID")]
    entry_id: Option<String>,
    /// JSON with several entries; `-` is stdin
    #[arg(long, value_name = "FILE", alias = "data")]
    file: Option<String>,
    #[command(flatten)]
    insist: Insist,
    #[command(flatten)]
    reason: ReasonArg,
}

#[derive(Debug, clap::Args)]
struct UpdateArgs {
    /// Entry to change
    #[arg(value_name = "ID", conflicts_with = "file")]
    id: Option<String>,
    /// Entry to change, as SPIRE writes it
    #[arg(long, value_name = "ID", alias = "entryID", conflicts_with_all = ["file", "id"], hide = true)]
    entry_id: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// JSON with several entries, each with its `id`; `-` is stdin
    #[arg(long, value_name = "FILE", alias = "data")]
    file: Option<String>,
    #[command(flatten)]
    insist: Insist,
    #[command(flatten)]
    reason: ReasonArg,
}

/// What is refused here unless one insists.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Insist {
    /// Take selectors that no known attestor makes
    #[arg(long)]
    allow_unknown_selector: bool,
    /// Take a parent that is neither an attested agent nor an entry
    #[arg(long)]
    allow_unknown_parent: bool,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Entries to show
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Entry to show, as SPIRE writes it
    #[arg(long, value_name = "ID", alias = "entryID", hide = true)]
    entry_id: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Debug, clap::Args)]
struct DeleteArgs {
    /// Entries to delete
    #[arg(value_name = "ID", conflicts_with = "file", required_unless_present_any = ["file", "entry_id"])]
    ids: Vec<String>,
    /// Entry to delete, as SPIRE writes it
    #[arg(long, value_name = "ID", alias = "entryID", hide = true)]
    entry_id: Vec<String>,
    /// JSON with entries or their IDs; `-` is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    #[command(flatten)]
    reason: ReasonArg,
}

/// Which entries are meant. All conditions have to hold.
#[derive(Debug, Clone, Default, clap::Args)]
struct FilterArgs {
    /// With this SPIFFE ID
    #[arg(long, value_name = "ID", alias = "spiffeID", value_parser = values::spiffe_id)]
    spiffe_id: Option<SpiffeId>,
    /// With this parent
    #[arg(long, value_name = "ID", alias = "parentID", value_parser = values::spiffe_id)]
    parent_id: Option<SpiffeId>,
    /// With these selectors (repeat)
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<String>,
    /// How the entry's selectors compare with those given: exact, any, superset, subset
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value = "superset",
        value_name = "HOW",
        alias = "matchSelectorsOn"
    )]
    match_selectors_on: MatchOn,
    /// That federate with these trust domains (repeat)
    #[arg(long, value_name = "TRUST_DOMAIN", alias = "federatesWith", value_parser = values::trust_domain)]
    federates_with: Vec<TrustDomain>,
    /// How the entry's trust domains compare with those given: exact, any, superset, subset
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value = "superset",
        value_name = "HOW",
        alias = "matchFederatesWithOn"
    )]
    match_federates_with_on: MatchOn,
    /// With this hint
    #[arg(long)]
    hint: Option<String>,
    /// For downstream servers (`=false`: for others)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true)]
    downstream: Option<bool>,
}

/// How a filter compares sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MatchOn {
    /// The same set
    Exact,
    /// At least one in common
    Any,
    /// All of those given, and maybe more
    #[default]
    Superset,
    /// Nothing but those given
    Subset,
}

fn command() -> Command {
    noun_with_verbs::<Verb>("entry", "Registration entries: which processes get which identity")
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::Create(args) => create(*args, context).await,
            Verb::Update(args) => update(*args, context).await,
            Verb::Show(args) => show(args, context).await,
            Verb::List(filter) => list(&filter, context).await,
            Verb::Count(filter) => count(&filter, context).await,
            Verb::Delete(args) => delete(args, context).await,
        }
    })
}

async fn create(args: CreateArgs, context: &mut Context) -> Result<Exit, CliError> {
    let now = context.now();
    let entries = match &args.file {
        Some(name) => {
            args.fields.refuse_beside_file(args.entry_id.is_some())?;
            file::read_entries(name)?.into_iter().map(|(entry, _)| entry).collect()
        }
        None => {
            let (mut entry, _) = args.fields.to_wire(now)?;
            entry.id = args.entry_id.clone().unwrap_or_default();
            args.fields.require_for_create()?;
            vec![entry]
        }
    };
    if !args.insist.allow_unknown_selector {
        check::selectors(&entries)?;
    }
    let server = Server::connect(&context.globals).await?;
    if !args.insist.allow_unknown_parent {
        check::parents(&server, &entries).await?;
    }
    batch::create(&server.because(&args.reason), entries, context).await
}

async fn update(args: UpdateArgs, context: &mut Context) -> Result<Exit, CliError> {
    let now = context.now();
    let id = args.id.clone().or(args.entry_id.clone());
    let mut changes = match (&args.file, id) {
        (Some(name), None) => {
            args.fields.refuse_beside_file(false)?;
            file::read_entries(name)?
        }
        (None, Some(id)) => {
            let (mut entry, mask) = args.fields.to_wire(now)?;
            entry.id = id;
            vec![(entry, mask)]
        }
        _ => {
            return Err(CliError::input(
                "no entry is named",
                "give its ID, or --file with several",
            ));
        }
    };
    if let Some(index) = changes.iter().position(|(entry, _)| entry.id.is_empty()) {
        return Err(CliError::input(
            format!("entry {} of the file has no `id`", index + 1),
            "update finds entries by ID",
        ));
    }
    if changes.iter().any(|(_, mask)| *mask == Default::default()) {
        return Err(CliError::input(
            "nothing is to change",
            "give the options that are to change, for example --x509-svid-ttl 15m",
        ));
    }
    let of_changes = |changes: &[(Entry, _)]| changes.iter().map(|(entry, _)| entry.clone()).collect::<Vec<_>>();
    if !args.insist.allow_unknown_selector {
        check::selectors(&of_changes(&changes))?;
    }
    let server = Server::connect(&context.globals).await?;
    if !args.insist.allow_unknown_parent {
        check::parents(&server, &of_changes(&changes)).await?;
    }
    if args.file.is_none() && args.fields.changes_attributes() {
        // They travel together; the one that was not given has to stay as it is.
        let (entry, _) = &mut changes[0];
        let current = get(&server, &entry.id).await?;
        args.fields.merge_attributes(entry, current.additional_attributes);
    }
    batch::update(&server.because(&args.reason), changes, context).await
}

async fn show(args: ShowArgs, context: &mut Context) -> Result<Exit, CliError> {
    let ids: Vec<String> = args.ids.into_iter().chain(args.entry_id).collect();
    let filter = args.filter.to_list_filter()?;
    if !ids.is_empty() && filter.is_some() {
        return Err(CliError::input(
            "entries are named by ID and by filter",
            "leave out one of them",
        ));
    }
    let server = Server::connect(&context.globals).await?;
    let mut entries = Vec::new();
    if ids.is_empty() {
        entries = list_all(&server, filter).await?;
    }
    for id in &ids {
        entries.push(get(&server, id).await?);
    }
    let now = context.now();
    let views: Vec<EntryView> = entries.iter().map(EntryView::of).collect();
    if context.out.is_json() {
        context.out.json(&json!({"entries": views}))?;
    } else if views.is_empty() {
        context.out.line("No entry matches.")?;
    }
    if !context.out.is_json() {
        for (index, view) in views.iter().enumerate() {
            if index > 0 {
                context.out.line("")?;
            }
            let fields = view.fields(&context.out, now);
            context.out.block(&fields)?;
        }
    }
    Ok(Exit::Ok)
}

async fn list(filter: &FilterArgs, context: &mut Context) -> Result<Exit, CliError> {
    let filter = filter.to_list_filter()?;
    let server = Server::connect(&context.globals).await?;
    let entries = list_all(&server, filter).await?;
    let views: Vec<EntryView> = entries.iter().map(EntryView::of).collect();
    if context.out.is_json() {
        context.out.json(&json!({"entries": views}))?;
    } else {
        let now = context.now();
        let short = context.out.is_terminal();
        let rows = views.iter().map(|view| view.row(now, short)).collect();
        context.out.table(&view::HEADER, rows, "No entry matches.")?;
    }
    Ok(Exit::Ok)
}

async fn count(filter: &FilterArgs, context: &mut Context) -> Result<Exit, CliError> {
    let filter = filter.to_list_filter()?.map(|filter| count_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    });
    let server = Server::connect(&context.globals).await?;
    let request = server.request(CountEntriesRequest { filter });
    let answer = server.entries().count_entries(request).await;
    let count = answer
        .map_err(|status| server.failed("count entries", status))?
        .into_inner()
        .count;
    context.out.count(count)?;
    Ok(Exit::Ok)
}

async fn delete(args: DeleteArgs, context: &mut Context) -> Result<Exit, CliError> {
    let ids = match &args.file {
        Some(name) => file::read_ids(name)?,
        None => args.ids.iter().chain(&args.entry_id).cloned().collect(),
    };
    let server = Server::connect(&context.globals).await?;
    batch::delete(&server.because(&args.reason), ids, context).await
}

/// Every entry that passes `filter`, page by page.
///
/// # Errors
/// The server's status.
pub(crate) async fn list_all(
    server: &Server,
    filter: Option<list_entries_request::Filter>,
) -> Result<Vec<Entry>, CliError> {
    all_pages(async |page_token| {
        let request = ListEntriesRequest {
            filter: filter.clone(),
            output_mask: None,
            page_size: PAGE,
            page_token,
        };
        let answer = server.entries().list_entries(server.request(request)).await;
        let page = answer
            .map_err(|status| server.failed("list entries", status))?
            .into_inner();
        Ok((page.entries, page.next_page_token))
    })
    .await
}

/// One entry by its ID.
async fn get(server: &Server, id: &str) -> Result<Entry, CliError> {
    let request = server.request(GetEntryRequest {
        id: id.to_owned(),
        output_mask: None,
    });
    let answer = server.entries().get_entry(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        let error = server.failed(format!("show entry {id}"), status);
        if error.exit() == Exit::NotFound {
            error.hint("`mayfly entry list` shows the IDs")
        } else {
            error
        }
    })
}

// === impl FilterArgs ===

impl FilterArgs {
    fn to_list_filter(&self) -> Result<Option<list_entries_request::Filter>, CliError> {
        let selectors = self
            .selector
            .iter()
            .map(|text| selector_text_to_wire(text))
            .collect::<Result<Vec<_>, _>>()?;
        let domains: Vec<String> = self.federates_with.iter().map(ToString::to_string).collect();
        let filter = list_entries_request::Filter {
            by_spiffe_id: self.spiffe_id.as_ref().map(id_to_wire),
            by_parent_id: self.parent_id.as_ref().map(id_to_wire),
            by_selectors: self.match_selectors_on.selectors(selectors),
            by_federates_with: (!domains.is_empty()).then(|| mayfly_proto::spire::types::FederatesWithMatch {
                trust_domains: domains,
                r#match: self.match_federates_with_on.federates_with().into(),
            }),
            by_hint: self.hint.clone(),
            by_downstream: self.downstream,
        };
        Ok((filter != list_entries_request::Filter::default()).then_some(filter))
    }
}

// === impl MatchOn ===

impl MatchOn {
    /// The wire's form of a selector filter; none without selectors.
    pub(crate) fn selectors(
        self,
        selectors: Vec<mayfly_proto::spire::types::Selector>,
    ) -> Option<mayfly_proto::spire::types::SelectorMatch> {
        use selector_match::MatchBehavior as By;
        let by = match self {
            Self::Exact => By::MatchExact,
            Self::Any => By::MatchAny,
            Self::Superset => By::MatchSuperset,
            Self::Subset => By::MatchSubset,
        };
        (!selectors.is_empty()).then(|| mayfly_proto::spire::types::SelectorMatch {
            selectors,
            r#match: by.into(),
        })
    }

    fn federates_with(self) -> federates_with_match::MatchBehavior {
        use federates_with_match::MatchBehavior as By;
        match self {
            Self::Exact => By::MatchExact,
            Self::Any => By::MatchAny,
            Self::Superset => By::MatchSuperset,
            Self::Subset => By::MatchSubset,
        }
    }
}
