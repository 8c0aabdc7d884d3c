//! `mayfly audit export`: a copy of the log in a folder, or a copy brought up to date.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use mayfly_proto::mayfly::audit::{ExportRequest, ExportResponse};
use mayfly_tlog::bundle::MAX_BUNDLE_BYTES;
use serde_json::json;

use super::copy::{Copy, check_dir};
use super::keys::{self, Of};
use super::private::{self, PRIVATE};
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};

pub(super) const EXAMPLES: &str = "\
What is there already is not fetched again. Everything that comes is verified
on its way: hashes, signatures, and that it goes on from the copy. A log that
has become shorter or has another past is refused with exit code 1, the copy
stays as it was, and the checkpoint that shows the fraud is kept beside it.

Names, reasons and tickets are not in the log; --private adds what of them is
known, for an auditor who may read it.

Examples:
  mayfly audit export copy/
  mayfly audit export copy/ --key /etc/mayfly/log.keys --private
  mayfly audit verify copy/ --key copy/keys";

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// The folder of the copy
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// With `private.jsonl`: names, reasons and tickets that are still known
    #[arg(long)]
    private: bool,
    /// A key that has to have signed, or a file of such
    #[arg(long, value_name = "VKEY|FILE")]
    key: Vec<String>,
}

/// A file that comes in pieces.
#[derive(Default)]
struct Arriving {
    path: String,
    bytes: Vec<u8>,
}

/// Makes the copy, or continues it.
///
/// # Errors
/// What comes is not the log that the copy is of, or cannot be written.
pub(super) async fn run(args: &ExportArgs, context: &mut Context) -> Result<Exit, CliError> {
    let pinned = keys::read(&args.key, Of::Log)?;
    check_dir(&args.dir)?;
    let mut copy = Copy::open(&args.dir, pinned)?;
    let server = Server::connect(&context.globals).await?;
    let request = ExportRequest {
        have_size: copy.size(),
        include_private: args.private,
    };
    let stream = server.audit().export(server.stream_request(request)).await;
    let mut stream = stream
        .map_err(|status| server.failed("copy the log", status))?
        .into_inner();
    let mut arriving = Arriving::default();
    let mut private = None;
    let mut count = 0;
    while let Some(piece) = stream
        .message()
        .await
        .map_err(|status| server.failed("copy the log", status))?
    {
        if piece.path == PRIVATE {
            append_private(&mut private, &copy.private_file(), &piece.data)?;
            continue;
        }
        if arriving.take(piece)? {
            copy.take(&arriving.path, &arriving.bytes)?;
            count += 1;
            context.out.live(&format!("{count} files, {}", arriving.path));
            arriving = Arriving::default();
        }
    }
    let private_path = private.is_some().then(|| copy.private_file());
    let mut values = None;
    if let Some(path) = &private_path {
        let (details, faults) = private::read(path)?;
        if let Some(fault) = faults.first() {
            return Err(CliError::BadAnswer {
                who: "the server",
                what: format!("private values, line {}: {}", fault.line, fault.problem),
            });
        }
        values = Some(details.len());
    }
    let copied = copy.finish(private_path.as_deref())?;
    let checkpoint = &copied.checkpoint;
    if !args.private && args.dir.join(PRIVATE).exists() {
        context.out.note(
            "private.jsonl is of an earlier export, and may have what was erased since: renew it with --private, or \
             remove it",
        );
    }
    let added = checkpoint.size() - copied.before;
    let signatures = checkpoint.note().signatures().len();
    if context.out.is_json() {
        context.out.json(&json!({
            "dir": args.dir, "origin": checkpoint.origin(), "size": checkpoint.size(), "added": added,
            "root": checkpoint.root().to_string(), "signatures": signatures, "private_values": values,
            "keys": copied.keys.iter().rev().map(ToString::to_string).collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Ok);
    }
    let mut fields = vec![
        ("Log", checkpoint.origin().to_owned()),
        ("Entries", format!("{}, {added} of them new", checkpoint.size())),
        ("Root", checkpoint.root().to_string()),
        ("Signatures", signatures.to_string()),
    ];
    if let Some(values) = values {
        fields.push(("Private", format!("{values} values in {PRIVATE}")));
    }
    context.out.block(&fields)?;
    Ok(Exit::Ok)
}

/// Private values may be many: they go to a file as they come, for its owner only.
fn append_private(file: &mut Option<fs::File>, path: &std::path::Path, data: &[u8]) -> Result<(), CliError> {
    let failed = |source| CliError::System {
        doing: "write",
        path: path.to_owned(),
        source,
    };
    if file.is_none() {
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder).map_err(failed)?;
        let opened = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        *file = Some(opened.map_err(failed)?);
    }
    let written = file.as_mut().map_or(Ok(()), |file| file.write_all(data));
    written.map_err(failed)
}

impl Arriving {
    /// Takes a piece; `true` if the file is whole now.
    fn take(&mut self, piece: ExportResponse) -> Result<bool, CliError> {
        let bad = |what: String| CliError::BadAnswer {
            who: "the server",
            what,
        };
        if self.path.is_empty() {
            self.path = piece.path;
        } else if self.path != piece.path {
            return Err(bad(format!("a file `{}` that does not end", self.path)));
        }
        self.bytes.extend_from_slice(&piece.data);
        match self.bytes.len() > MAX_BUNDLE_BYTES {
            true => Err(bad(format!("a file `{}` that is too large", self.path))),
            false => Ok(piece.end),
        }
    }
}
