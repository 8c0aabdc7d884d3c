//! `mayfly audit prove` and `check-proof`: that something is in the log, shown by a file alone.

use std::path::PathBuf;

use mayfly_proto::mayfly::audit::prove_request::What;
use mayfly_proto::mayfly::audit::{Proof as WireProof, ProveRequest};
use mayfly_runtime::Chain;
use mayfly_runtime::files::{PUBLIC, write_atomic};
use mayfly_tlog::Hash;
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::proof::Proof;
use serde_json::json;

use super::keys::{self, Of};
use super::proof_file;
use super::search::{proven_json, proven_line, serial};
use super::view::{EntryView, plural};
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::files;
use crate::output::visible_line;

pub(super) const EXAMPLES: &str = "\
By an index: that entry. By a serial number: that an SVID was to be issued, what
came of it, and everything about its window. By a window: every entry about it,
its request and its SVIDs. Serial numbers are decimal, or hexadecimal with 0x.

The file holds C2SP tlog-proofs, one behind the other. What is private is not in
it, only commitments.

Examples:
  mayfly audit prove 4711
  mayfly audit prove 0199c2e1f0a37d5c9b1e6a2f4c8d7b30 --out window.tlog-proof
  mayfly audit check-proof window.tlog-proof --key log.keys";

pub(super) const CHECK_EXAMPLES: &str = "\
Asks nobody: the file and the key are all that it needs.

Examples:
  mayfly audit check-proof svid.tlog-proof --key log.keys
  mayfly audit check-proof - --key \"$(cat log.key)\" < svid.tlog-proof";

/// A window of a day has some thousand entries, of about two KiB with their proofs.
const FILE_MAX: u64 = 256 << 20;
/// Longer numbers are serial numbers.
const INDEX_DIGITS: usize = 15;
/// As long as IDs of windows are.
const WINDOW_DIGITS: usize = 32;

#[derive(Debug, clap::Args)]
pub(super) struct ProveArgs {
    /// An index, a serial number, or the ID of a window
    #[arg(value_name = "INDEX|SERIAL|WINDOW", value_parser = subject)]
    subject: What,
    /// The file; else the proof goes to stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A key that has to have signed, or a file of such
    #[arg(long, value_name = "VKEY|FILE")]
    key: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The file, or - for stdin
    #[arg(value_name = "FILE")]
    file: String,
    /// A key of the log, or a file of such
    #[arg(long, value_name = "VKEY|FILE", required = true)]
    key: Vec<String>,
    /// A key of a witness, or a file of such
    #[arg(long, value_name = "VKEY|FILE")]
    witness_key: Vec<String>,
}

/// What a word stands for, by its form.
fn subject(text: &str) -> Result<What, String> {
    let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_id = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    match text.len() {
        length if is_decimal && length <= INDEX_DIGITS => {
            text.parse().map(What::Index).map_err(|_| "this is no index".to_owned())
        }
        WINDOW_DIGITS if is_id && !is_decimal => Ok(What::WindowId(text.to_owned())),
        _ => serial(text).map(What::Serial),
    }
}

/// Has the server prove something, checks it, and writes it.
///
/// # Errors
/// There is nothing about it, or the proof is none.
pub(super) async fn prove(args: &ProveArgs, context: &mut Context) -> Result<Exit, CliError> {
    let pinned = keys::read(&args.key, Of::Log)?;
    if let Some(out) = &args.out {
        files::check_file(out)?;
    }
    let server = Server::connect(&context.globals).await?;
    let keys = match pinned.is_empty() {
        true => keys::checkpoint(&server).await?.1,
        false => pinned,
    };
    let what = Some(args.subject.clone());
    let stream = server.audit().prove(server.request(ProveRequest { what })).await;
    let mut stream = stream.map_err(|status| server.failed("prove it", status))?.into_inner();
    let (mut checkpoint, mut proofs) = (None, vec![]);
    while let Some(answer) = stream
        .message()
        .await
        .map_err(|status| server.failed("prove it", status))?
    {
        if checkpoint.is_none() {
            let opened = SignedCheckpoint::open(&answer.checkpoint, &keys);
            checkpoint = Some(opened.map_err(|error| bad(format!("a checkpoint: {}", Chain(&error))))?);
        }
        let checkpoint = checkpoint.as_ref().expect("set above");
        for proof in answer.proofs {
            proofs.push(read_proof(&proof, checkpoint)?);
        }
        context.out.live(&format!("{} entries proved", proofs.len()));
    }
    let text = proof_file::write(&proofs);
    let Some(out) = &args.out else {
        context.out.raw(text.as_bytes())?;
        return Ok(Exit::Ok);
    };
    write_atomic(out, text.as_bytes(), PUBLIC)?;
    if context.out.is_json() {
        let indexes: Vec<u64> = proofs.iter().map(Proof::index).collect();
        context
            .out
            .json(&json!({ "file": out, "proofs": indexes.len(), "indexes": indexes }))?;
    } else {
        let count = plural(proofs.len() as u64, "entry", "entries");
        context.out.line(format!("proved  {count}, in {}", out.display()))?;
    }
    Ok(Exit::Ok)
}

fn read_proof(proof: &WireProof, checkpoint: &SignedCheckpoint) -> Result<Proof, CliError> {
    let hashes = proof.hashes.iter().map(|hash| hash[..].try_into().map(Hash::new));
    let hashes = hashes
        .collect::<Result<_, _>>()
        .map_err(|_| bad("a hash of another length".into()))?;
    Proof::new(&proof.entry, proof.index, hashes, checkpoint)
        .map_err(|error| bad(format!("a proof of entry {}: {}", proof.index, Chain(&error))))
}

fn bad(what: String) -> CliError {
    CliError::BadAnswer {
        who: "the server",
        what,
    }
}

/// Checks a file of proofs.
///
/// # Errors
/// One does not hold.
pub(super) fn check(args: &CheckArgs, context: &mut Context) -> Result<Exit, CliError> {
    let keys = keys::read(&args.key, Of::Log)?;
    let witnesses = keys::read(&args.witness_key, Of::Witness)?;
    let bytes = files::read(&args.file, FILE_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| CliError::Failed {
        what: format!("{} is no proof: it is not text", files::shown(&args.file)),
        hints: vec![],
    })?;
    let proven = proof_file::verify(&text, &keys)?;
    let mut views = vec![];
    for proven in &proven {
        let view = EntryView::read(proven.index(), proven.entry())?;
        views.push((view, proven.checkpoint()));
    }
    let first = views
        .first()
        .map(|(_, checkpoint)| *checkpoint)
        .expect("a text has at least one part");
    let cosigned = first.cosigned_by(&witnesses).map_err(|error| CliError::Failed {
        what: format!("a cosignature does not hold: {}", Chain(&error)),
        hints: vec![],
    })?;
    if context.out.is_json() {
        let entries: Vec<_> = views.iter().map(|(view, of)| proven_json(view, of.size())).collect();
        let names: Vec<&str> = cosigned.iter().map(|cosigned| cosigned.key.name()).collect();
        context.out.json(
            &json!({ "origin": first.origin(), "size": first.size(), "root": first.root().to_string(),
            "cosigned_by": names, "entries": entries }),
        )?;
        return Ok(Exit::Ok);
    }
    let mut fields = vec![
        ("Log", visible_line(first.origin())),
        ("Checkpoint", format!("{} entries, root {}", first.size(), first.root())),
    ];
    if !witnesses.is_empty() {
        fields.push(("Cosigned", format!("by {} of the given witnesses", cosigned.len())));
    }
    context.out.block(&fields)?;
    for (view, _) in &views {
        let line = proven_line(view, context);
        context.out.line(line)?;
    }
    let count = plural(views.len() as u64, "entry is", "entries are");
    context.out.line(format!("ok  {count} in the log, as it was signed"))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_an_index_a_window_or_a_serial_number_by_its_form() {
        assert_eq!(subject("4711"), Ok(What::Index(4711)));
        let window = "0199c2e1f0a37d5c9b1e6a2f4c8d7b30";
        assert_eq!(subject(window), Ok(What::WindowId(window.into())));
        let decimal = "170141183460469231731687303715884105728";
        assert_eq!(subject(decimal), Ok(What::Serial(decimal.into())));
        assert_eq!(subject("0xff"), Ok(What::Serial("255".into())));
        assert_eq!(subject("01:00"), Ok(What::Serial("256".into())));
        assert!(subject("window").is_err() && subject("").is_err());
    }
}
