//! `mayfly audit tail`, `show` and `search`: the log as the server has it now.

use mayfly_proto::mayfly::audit::SearchRequest;
use mayfly_tlog::leaf_hash;
use serde_json::json;
use tonic::Streaming;

use super::view::EntryView;
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::output::visible_line;
use crate::values::{self, When};

pub(super) const TAIL_EXAMPLES: &str = "\
Examples:
  mayfly audit tail
  mayfly audit tail -f --kind window --kind task
  mayfly audit tail -n 100 --output json | jq .kind";

pub(super) const SHOW_EXAMPLES: &str = "\
Examples:
  mayfly audit show 4711
  mayfly audit show 4711 --sealed      as it stands in the log, with commitments";

pub(super) const SEARCH_EXAMPLES: &str = "\
All options have to fit; those of one name that are given several times, too,
but for --kind, of which one has to. A person is found by name as long as the
name is not erased. Times are RFC 3339, Unix seconds, or so long ago (2h).

Examples:
  mayfly audit search --person joe --since 24h
  mayfly audit search --task pay/db-migrate --kind window
  mayfly audit search --serial 0x1f00ab… --output json
  mayfly audit search --kind policy.decided --last 20";

#[derive(Debug, clap::Args)]
pub(super) struct TailArgs {
    /// Go on with entries as they come
    #[arg(long, short = 'f')]
    follow: bool,
    /// How many of the newest entries
    #[arg(long, short = 'n', value_name = "COUNT", default_value = "20")]
    lines: u32,
    /// Only entries of this kind or family
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    #[command(flatten)]
    form: FormArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Where in the log, from 0
    #[arg(value_name = "INDEX", required = true)]
    indexes: Vec<u64>,
    #[command(flatten)]
    form: FormArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct SearchArgs {
    /// Of this kind or family: `window.opened`, `svid`
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// About this SPIFFE ID
    #[arg(long, value_name = "ID", value_parser = values::spiffe_id)]
    identity: Vec<mayfly_svid::SpiffeId>,
    /// About this task, `team/task`
    #[arg(long, value_name = "NAME")]
    task: Vec<String>,
    /// About this person
    #[arg(long, value_name = "NAME")]
    person: Vec<String>,
    /// About the SVID with this serial number: decimal, or hexadecimal with 0x or colons
    #[arg(long, value_name = "NUMBER", value_parser = serial)]
    serial: Vec<String>,
    /// About this window, or this request
    #[arg(long, value_name = "ID", alias = "request")]
    window: Vec<String>,
    /// With this text in it, as a whole
    #[arg(long, value_name = "TEXT")]
    value: Vec<String>,
    /// Not before
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    since: Option<When>,
    /// Before
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    until: Option<When>,
    /// At most so many, from the first
    #[arg(long, value_name = "COUNT", conflicts_with = "last")]
    limit: Option<u32>,
    /// At most so many, the last ones
    #[arg(long, value_name = "COUNT")]
    last: Option<u32>,
    #[command(flatten)]
    form: FormArgs,
}

#[derive(Debug, clap::Args)]
struct FormArgs {
    /// As it stands in the log: commitments in the place of what is private
    #[arg(long)]
    sealed: bool,
}

/// The newest entries.
///
/// # Errors
/// Those of the call.
pub(super) async fn tail(args: &TailArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let request = SearchRequest {
        kinds: args.kind.clone(),
        newest: args.lines.max(1),
        follow: args.follow,
        reveal: !args.form.sealed,
        ..SearchRequest::default()
    };
    print(&server, request, context).await
}

/// Entries in full.
///
/// # Errors
/// There is none with an index.
pub(super) async fn show(args: &ShowArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let mut all = vec![];
    for index in &args.indexes {
        let request = SearchRequest {
            from_index: *index,
            limit: 1,
            reveal: !args.form.sealed,
            ..SearchRequest::default()
        };
        let mut stream = open(&server, request).await?;
        let found = stream
            .message()
            .await
            .map_err(|status| server.failed("read the log", status))?;
        let found = found.filter(|found| found.index == *index).ok_or_else(|| {
            let status = tonic::Status::not_found(format!("the log has no entry {index} yet"));
            server.failed("show an entry", status)
        })?;
        let leaf = args.form.sealed.then(|| leaf_hash(&found.entry));
        all.push((EntryView::read(found.index, &found.entry)?, leaf));
    }
    if context.out.is_json() {
        let all: Vec<_> = all.iter().map(|(view, _)| view.json()).collect();
        context.out.json(&all)?;
        return Ok(Exit::Ok);
    }
    let now = context.now();
    for (number, (view, leaf)) in all.iter().enumerate() {
        if number > 0 {
            context.out.line("")?;
        }
        let mut fields = view.block(&context.out, now);
        if let Some(leaf) = leaf {
            fields.push(("Leaf hash", leaf.to_string()));
        }
        context.out.block(&fields)?;
    }
    Ok(Exit::Ok)
}

/// Entries that fit.
///
/// # Errors
/// Those of the call.
pub(super) async fn search(args: &SearchArgs, context: &mut Context) -> Result<Exit, CliError> {
    let now = context.now();
    // What is given as a span is so long ago.
    let unix = |when: Option<When>| match when {
        None | Some(When::Never) => 0,
        Some(When::At(time)) => time.unix(),
        Some(When::In(ago)) => now
            .unix()
            .saturating_sub(i64::try_from(ago.as_secs()).unwrap_or(i64::MAX)),
    };
    let identities = args.identity.iter().map(ToString::to_string);
    let texts = [&args.task, &args.person, &args.serial, &args.window, &args.value];
    let request = SearchRequest {
        kinds: args.kind.clone(),
        values: identities.chain(texts.into_iter().flatten().cloned()).collect(),
        since: unix(args.since),
        until: unix(args.until),
        limit: args.limit.unwrap_or(0),
        newest: args.last.unwrap_or(0),
        reveal: !args.form.sealed,
        ..SearchRequest::default()
    };
    let server = Server::connect(&context.globals).await?;
    print(&server, request, context).await
}

/// Opens a stream of entries.
///
/// # Errors
/// The server refuses.
pub(super) async fn open(
    server: &Server,
    request: SearchRequest,
) -> Result<Streaming<mayfly_proto::mayfly::audit::SearchResponse>, CliError> {
    let stream = server.audit().search(server.stream_request(request)).await;
    stream
        .map(tonic::Response::into_inner)
        .map_err(|status| server.failed("read the log", status))
}

async fn print(server: &Server, request: SearchRequest, context: &mut Context) -> Result<Exit, CliError> {
    let mut stream = open(server, request).await?;
    loop {
        let message = stream
            .message()
            .await
            .map_err(|status| server.failed("read the log", status))?;
        let Some(found) = message else {
            return Ok(Exit::Ok);
        };
        let view = EntryView::read(found.index, &found.entry)?;
        if context.out.is_json() {
            context.out.json_line(&view.json())?;
        } else {
            let line = view.line(&context.out);
            context.out.line(line)?;
        }
    }
}

/// A serial number in decimal, as entries have it.
pub(super) fn serial(text: &str) -> Result<String, String> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = text.strip_prefix("0x").unwrap_or(text).replace(':', "");
    let serial = match is_decimal {
        true => text.parse::<mayfly_svid::Serial>(),
        false => {
            let padded = if digits.len() % 2 == 1 {
                format!("0{digits}")
            } else {
                digits
            };
            let bytes = hex::decode(padded.to_lowercase())
                .map_err(|_| "write it in decimal, or in hexadecimal as 0x1f… or 1f:…".to_owned())?;
            mayfly_svid::Serial::from_be_bytes(&bytes)
        }
    };
    serial
        .map(|serial| serial.to_string())
        .map_err(|error| error.to_string())
}

/// An entry that was verified, for [`super::prove`]: a line for people.
pub(super) fn proven_line(view: &EntryView, context: &Context) -> String {
    visible_line(&view.line(&context.out))
}

/// The same for scripts.
pub(super) fn proven_json(view: &EntryView, size: u64) -> serde_json::Value {
    json!({ "index": view.index, "tree_size": size, "entry": view.json() })
}
