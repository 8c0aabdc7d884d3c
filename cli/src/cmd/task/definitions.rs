//! `mayfly task list|show|diff`: definitions and their versions.

use std::path::Path;

use mayfly_model::task::TaskName;
use mayfly_proto::mayfly::task::{Definition, GetDefinitionRequest, ListDefinitionsRequest};
use mayfly_svid::Timestamp;
use serde::Serialize;
use serde_json::json;
use tonic::Code;

use super::diff::{self, Difference};
use super::local;
use super::not_found_hint;
use super::view::{At, short};
use crate::Context;
use crate::connect::{Server, all_pages};
use crate::errors::{CliError, Exit};

const PAGE: i32 = 200;
/// Hex digits that the server takes for a hash, at least.
const HASH_MIN: usize = 12;

pub(super) const SHOW_EXAMPLES: &str = "\
Examples:
  mayfly task show pay/db-migrate
  mayfly task show pay/db-migrate 3af19c04d2b7     a version, by its hash
  mayfly task show pay/db-migrate --toml > db-migrate.toml";

pub(super) const DIFF_EXAMPLES: &str = "\
WIDER marks what lets more be done, by more, for longer, or with less consent.

Examples:
  mayfly task diff tasks/db-migrate.toml           in force -> file
  mayfly task diff pay/db-migrate 3af19c04d2b7     this version -> in force
  mayfly task diff pay/db-migrate 3af19c04d2b7 77e0b1c2d3f4";

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Also those that are retired
    #[arg(long)]
    retired: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The task, as team/name
    #[arg(value_name = "TASK")]
    name: TaskName,
    /// A version, by its hash (12 digits or more); otherwise the present one
    #[arg(value_name = "HASH", value_parser = hash, default_value = "", hide_default_value = true)]
    hash: String,
    /// Only the text, as `define` reads it
    #[arg(long)]
    toml: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// A file (`-` is stdin), or a task as team/name
    #[arg(value_name = "FILE|TASK")]
    what: String,
    /// The earlier version, by its hash
    #[arg(value_name = "FROM", value_parser = hash)]
    from: Option<String>,
    /// The later version, by its hash; otherwise the present one
    #[arg(value_name = "TO", value_parser = hash)]
    to: Option<String>,
}

/// A definition for display. The field names are the keys of the JSON form.
#[derive(Debug, Serialize)]
pub(super) struct DefinitionView {
    name: String,
    version: u32,
    hash: String,
    retired: bool,
    author: String,
    defined_at: At,
    #[serde(rename = "toml")]
    text: String,
    definition: Option<toml::Table>,
}

/// A hash or digest of the server's, whole or its first digits.
pub(super) fn hash(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let is_hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    if text.is_empty() || is_hex && (HASH_MIN..=64).contains(&text.len()) {
        Ok(text)
    } else {
        Err(format!("a hash has {HASH_MIN} to 64 hex digits"))
    }
}

/// One version of a definition; the present one if `hash` is empty.
///
/// # Errors
/// The server's status.
pub(super) async fn get(server: &Server, name: &str, hash: &str) -> Result<Definition, CliError> {
    let request = server.request(GetDefinitionRequest {
        name: name.to_owned(),
        hash: hash.to_owned(),
    });
    let answer = server.definitions().get(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        let what = if hash.is_empty() {
            format!("show {name}")
        } else {
            format!("show version {hash} of {name}")
        };
        not_found_hint(server.failed(what, status))
    })
}

/// The present version, or none if there is no such task.
///
/// # Errors
/// The server's status.
pub(super) async fn find(server: &Server, name: &str) -> Result<Option<Definition>, CliError> {
    match get(server, name, "").await {
        Ok(definition) => Ok(Some(definition)),
        Err(CliError::Call { status, .. }) if status.code() == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists definitions in a table.
///
/// # Errors
/// The server's status.
pub(super) async fn list(args: &ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let all = all_pages(async |page_token| {
        let request = server.request(ListDefinitionsRequest {
            page_size: PAGE,
            page_token,
        });
        let answer = server.definitions().list(request).await;
        let page = answer.map_err(|status| server.failed("list definitions", status))?;
        let page = page.into_inner();
        Ok((page.definitions, page.next_page_token))
    })
    .await?;
    let views: Vec<DefinitionView> = all
        .into_iter()
        .filter(|definition| args.retired || !definition.retired)
        .map(DefinitionView::of)
        .collect();
    if context.out.is_json() {
        context.out.json(&json!({"definitions": views}))?;
        return Ok(Exit::Ok);
    }
    let now = context.now();
    let header = [
        "task",
        "version",
        "hash",
        "class",
        "approvals",
        "window",
        "owner",
        "defined",
    ];
    let rows = views.iter().map(|view| view.row(now)).collect();
    context.out.table(
        &header,
        rows,
        "No task is defined. `mayfly task define FILE` defines one.",
    )?;
    Ok(Exit::Ok)
}

/// Shows one version in full.
///
/// # Errors
/// The server's status.
pub(super) async fn show(args: &ShowArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let view = DefinitionView::of(get(&server, args.name.as_str(), &args.hash).await?);
    if context.out.is_json() {
        context.out.json(&view)?;
    } else if args.toml {
        context.out.line(view.text.trim_end())?;
    } else {
        let now = context.now();
        let fields = [
            ("Task", view.name.clone()),
            ("Version", view.version_shown()),
            ("Hash", view.hash.clone()),
            ("Author", view.author.clone()),
            ("Defined", view.defined_at.full(&context.out, now)),
        ];
        context.out.block(&fields)?;
        context.out.line("")?;
        context.out.line(view.text.trim_end())?;
    }
    Ok(Exit::Ok)
}

/// What differs: a file from what is in force, or one version from another.
///
/// # Errors
/// The file is no definition; or the server's status.
pub(super) async fn diff(args: &DiffArgs, context: &mut Context) -> Result<Exit, CliError> {
    let is_file = args.what == "-" || args.what.ends_with(".toml") || Path::new(&args.what).is_file();
    if is_file {
        if args.from.is_some() {
            return Err(CliError::input(
                "a file is compared with what is in force, not with a version",
                "name the task to compare versions: mayfly task diff pay/db-migrate HASH HASH",
            ));
        }
        let local = local::read_all(std::slice::from_ref(&args.what))?.remove(0);
        let name = local.definition.name.as_str();
        let server = Server::connect(&context.globals).await?;
        let Some(present) = find(&server, name).await? else {
            if context.out.is_json() {
                context.out.json(
                    &json!({"name": name, "was": null, "now": local.definition.hash().to_string(),
                    "differences": null}),
                )?;
            } else {
                context
                    .out
                    .line(format!("{name} is new: there is nothing to compare it with."))?;
            }
            return Ok(Exit::Ok);
        };
        let title = format!(
            "{name}: version {}, {} -> {}",
            present.version,
            short(&present.hash),
            local.name
        );
        let hashes = (present.hash.as_str(), local.definition.hash().to_string());
        let differences = diff::between(&present.text, &local.definition.to_toml())?;
        return show_diff(name, &title, (hashes.0, &hashes.1), &differences, context);
    }
    let name: TaskName = args.what.parse().map_err(|_| {
        CliError::input(
            format!("`{}` is neither a file nor a task", args.what),
            "name a file with a definition, or a task as team/name",
        )
    })?;
    let Some(from) = &args.from else {
        return Err(CliError::input(
            format!("{name} is one task: with what is it to be compared?"),
            format!("name a version by its hash: mayfly task diff {name} HASH [HASH]"),
        ));
    };
    let server = Server::connect(&context.globals).await?;
    let was = get(&server, name.as_str(), from).await?;
    let now = get(&server, name.as_str(), args.to.as_deref().unwrap_or_default()).await?;
    let title = format!(
        "{name}: version {}, {} -> version {}, {}",
        was.version,
        short(&was.hash),
        now.version,
        short(&now.hash)
    );
    let differences = diff::between(&was.text, &now.text)?;
    show_diff(name.as_str(), &title, (&was.hash, &now.hash), &differences, context)
}

fn show_diff(
    name: &str,
    title: &str,
    (was, now): (&str, &str),
    differences: &[Difference],
    context: &mut Context,
) -> Result<Exit, CliError> {
    if context.out.is_json() {
        context
            .out
            .json(&json!({"name": name, "was": was, "now": now, "differences": differences}))?;
        return Ok(Exit::Ok);
    }
    context.out.line(title)?;
    if differences.is_empty() {
        context.out.line("They say the same.")?;
    }
    for line in diff::lines(differences) {
        context.out.line(format!("  {line}"))?;
    }
    Ok(Exit::Ok)
}

// === impl DefinitionView ===

impl DefinitionView {
    fn of(definition: Definition) -> Self {
        Self {
            name: definition.name,
            version: definition.version,
            hash: definition.hash,
            retired: definition.retired,
            author: definition.author,
            defined_at: At::of(definition.defined_at),
            // A newer server may write what this version cannot read as its own; it is TOML all the same.
            definition: toml::from_str(&definition.text).ok(),
            text: definition.text,
        }
    }

    fn version_shown(&self) -> String {
        if self.retired {
            format!("{} (retired)", self.version)
        } else {
            self.version.to_string()
        }
    }

    fn field(&self, name: &str) -> String {
        let value = self.definition.as_ref().and_then(|table| {
            let (first, rest) = name.split_once('.').unwrap_or((name, ""));
            let value = table.get(first)?;
            if rest.is_empty() { Some(value) } else { value.get(rest) }
        });
        match value {
            Some(toml::Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.name.clone(),
            self.version_shown(),
            short(&self.hash).to_owned(),
            self.field("class"),
            self.field("approval.count"),
            self.field("limits.max_window"),
            self.field("owner"),
            self.defined_at.relative(now),
        ]
    }
}
