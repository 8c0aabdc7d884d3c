//! `mayfly audit keys`, `rotate-key` and `erase`: what operators do to the log, each of which the log says itself.

use mayfly_proto::mayfly::audit::erase_request::What;
use mayfly_proto::mayfly::audit::{EraseRequest, RotateKeyRequest};
use mayfly_runtime::Chain;
use mayfly_tlog::checkpoint::SignedCheckpoint;
use serde_json::json;

use super::keys;
use super::view::plural;
use crate::Context;
use crate::connect::{SaidReason, Server};
use crate::errors::{CliError, Exit};

pub(super) const ROTATE_EXAMPLES: &str = "\
The log names the new key in an entry, and the old key signs beside it until
the next rotation, so that who knows only the old one learns of the new. Hand
out the new one, too.

Examples:
  mayfly audit rotate-key --reason 'yearly'";

pub(super) const ERASE_EXAMPLES: &str = "\
What is forgotten cannot be had back. The entries stay as they are, and so do
all proofs: they only commit to what was there. A value is forgotten wherever
it stands; a larger one that has it in itself (parameters, selectors) as a
whole. What is still needed is not in the log and stays: people in the
configuration, definitions in force, requests until they are pruned. So do
copies that were made with --private.

Examples:
  mayfly audit erase --value joe --reason 'request 2026-7 of a former employee'
  mayfly audit erase --entry 4711 --reason 'a ticket number was typed into it'";

#[derive(Debug, clap::Args)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    reason: SaidReason,
}

#[derive(Debug, clap::Args)]
#[group(id = "what", required = true, multiple = false, args = ["value", "entry"])]
pub(super) struct EraseArgs {
    /// A name, a reason, a ticket: the text as a whole
    #[arg(long, value_name = "TEXT")]
    value: Option<String>,
    /// Everything that the entry with this index commits to
    #[arg(long, value_name = "INDEX")]
    entry: Option<u64>,
    #[command(flatten)]
    reason: SaidReason,
}

/// The checkpoint and the keys.
///
/// # Errors
/// Those of the call, or a checkpoint that the keys do not verify.
pub(super) async fn keys(context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let (bytes, keys) = keys::checkpoint(&server).await?;
    let checkpoint = SignedCheckpoint::open(&bytes, &keys).map_err(|error| CliError::BadAnswer {
        who: "the server",
        what: format!("a checkpoint that its keys do not verify: {}", Chain(&error)),
    })?;
    let (size, root) = (checkpoint.size(), checkpoint.root().to_string());
    let signatures: Vec<&str> = checkpoint.note().signatures().iter().map(|line| line.name()).collect();
    if context.out.is_json() {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        context.out.json(
            &json!({ "origin": checkpoint.origin(), "size": size, "root": root, "keys": keys,
            "signatures": signatures, "checkpoint": String::from_utf8_lossy(&bytes) }),
        )?;
        return Ok(Exit::Ok);
    }
    context.out.block(&[
        ("Log", checkpoint.origin().to_owned()),
        ("Entries", size.to_string()),
        ("Root", root),
        ("Signed by", signatures.join("\n")),
        (
            "Keys",
            keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        ),
    ])?;
    Ok(Exit::Ok)
}

/// A new key.
///
/// # Errors
/// Those of the call.
pub(super) async fn rotate(args: &RotateArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    let reason = args.reason.text().to_owned();
    let answer = server
        .audit()
        .rotate_key(server.request(RotateKeyRequest { reason }))
        .await;
    let answer = answer.map_err(|status| server.failed("give the log a new key", status))?;
    let key = answer.into_inner().verifier_key;
    if context.out.is_json() {
        context.out.json(&json!({ "key": key }))?;
    } else {
        context.out.line(format!("new key  {key}"))?;
    }
    Ok(Exit::Ok)
}

/// Forgets.
///
/// # Errors
/// There is nothing to forget, or those of the call.
pub(super) async fn erase(args: &EraseArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.said(&args.reason);
    let what = match (&args.value, args.entry) {
        (Some(value), _) => What::Value(value.clone()),
        (None, index) => What::Index(index.expect("clap asks for one of them")),
    };
    let request = EraseRequest {
        what: Some(what),
        reason: args.reason.text().to_owned(),
    };
    let answer = server.audit().erase(server.request(request)).await;
    let erased = answer
        .map_err(|status| server.failed("forget it", status))?
        .into_inner()
        .erased;
    if context.out.is_json() {
        context.out.json(&json!({ "erased": erased }))?;
    } else {
        let count = plural(u64::from(erased), "value", "values");
        context.out.line(format!("erased  {count}"))?;
    }
    Ok(Exit::Ok)
}
