//! `mayfly audit witness`: a witness of logs, anywhere (C2SP tlog-witness). What it accepts is in [`site`].

mod site;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use mayfly_runtime::admin_http::AdminHttp;
use mayfly_runtime::files::{FileError, PRIVATE, lock_dir, read_text, write_atomic};
use mayfly_runtime::{CancellationToken, Chain};
use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner as _};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::keys::{self, Of};
use crate::Context;
use crate::errors::{CliError, Exit};
use site::{Event, Site};

pub(super) const EXAMPLES: &str = "\
Remembers the last checkpoint of each log and cosigns the next one only if the
log goes on from there. A log that lost entries, or has another past, is
refused, and what was shown is kept below DIR/refused. The server's settings
name it under [[witnesses]], with its key. Ends with ctrl-C.

A log that gets a new key says so in its entries, which no witness is sent. So
give the keys as a file: what is added to it counts at once. The file `keys`
of a copy that `mayfly audit export` renews has all that the log has named.

Examples:
  mayfly audit witness --dir /var/lib/witness --name witness.example.org \\
      --print-key
  mayfly audit witness --dir /var/lib/witness --listen 0.0.0.0:8090 \\
      --log /var/lib/witness-copy/keys

The key of a log is what its server shows at /log/keys.";

/// The key, PKCS#8, mode 0600.
const KEY_FILE: &str = "key";
/// The name that cosignatures are in.
const NAME_FILE: &str = "name";
const NAME_BYTES: u64 = 4096;
/// Events that wait to be printed; further ones are not.
const EVENTS: usize = 256;

#[derive(Debug, clap::Args)]
pub(super) struct WitnessArgs {
    /// Where its key and what it remembers are kept; made if missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What its cosignatures are in the name of; needed once
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where it takes checkpoints, over HTTP
    #[arg(long, value_name = "ADDRESS", required_unless_present = "print_key")]
    listen: Option<SocketAddr>,
    /// A key of a log that it witnesses, or a file of such; a log may have several
    #[arg(long, value_name = "VKEY|FILE", required_unless_present = "print_key")]
    log: Vec<String>,
    /// Show its own key, and end
    #[arg(long, conflicts_with_all = ["listen", "log"])]
    print_key: bool,
}

/// Runs the witness until it is interrupted.
///
/// # Errors
/// Its folder is in use or damaged, or the address cannot be listened on.
pub(super) async fn run(args: &WitnessArgs, context: &mut Context) -> Result<Exit, CliError> {
    make_dir(&args.dir)?;
    let lock = lock_dir(&args.dir).map_err(CliError::File)?;
    let signer = own_key(&args.dir, args.name.as_deref())?;
    let key = signer.verifier_key().to_string();
    if args.print_key {
        return print_key(&key, context);
    }
    let listen = args.listen.expect("clap wants it without --print-key");
    let (told, mut events) = mpsc::channel(EVENTS);
    let given = args.log.clone();
    let read = move || keys::read(&given, Of::Log).map_err(|error| error.to_string());
    // What is wrong with them is said with a hint once, at the start.
    keys::read(&args.log, Of::Log)?;
    let site = Site::open(&args.dir, Box::new(read), signer, told).map_err(|error| {
        let hint = "a witness that began anew would take a log that lost entries: restore the folder; if you cannot, \
                    start with an empty one, under a new name";
        CliError::failed(Chain(&error).to_string(), hint)
    })?;
    let pages = AdminHttp::bind(listen, site.clone().router());
    let pages = pages.map_err(|error| CliError::failed(Chain(&error).to_string(), "choose another --listen"))?;
    let address = pages.address();
    if context.out.is_json() {
        context
            .out
            .json_line(&json!({"event": "listening", "address": address.to_string(), "key": key}))?;
    } else {
        context.out.line(format!("listening on http://{address}"))?;
        context.out.line(format!("key {key}"))?;
    }
    let failed = |source| CliError::System {
        doing: "listen to signals of",
        path: "/".into(),
        source,
    };
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let stop = CancellationToken::new();
    let serving = pages.serve(stop.clone());
    tokio::pin!(serving);
    loop {
        tokio::select! {
            () = &mut serving => break,
            _ = int.recv(), if !stop.is_cancelled() => stop.cancel(),
            _ = term.recv(), if !stop.is_cancelled() => stop.cancel(),
            _ = hangup.recv() => site.read_keys(),
            event = events.recv() => if let Some(event) = event { show(&event, context)? },
        }
    }
    drop(lock);
    Ok(Exit::Ok)
}

fn print_key(key: &str, context: &mut Context) -> Result<Exit, CliError> {
    if context.out.is_json() {
        context.out.json(&json!({ "key": key }))?;
    } else {
        context.out.line(key)?;
    }
    Ok(Exit::Ok)
}

fn show(event: &Event, context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    if context.out.is_json() {
        let mut value = event.json();
        value["time"] = json!(now.to_string());
        return context.out.json_line(&value);
    }
    match event {
        Event::Cosigned { .. } | Event::Keys { .. } => context.out.line(event.to_string()),
        Event::Refused { .. } | Event::NewKey { .. } | Event::Failed { .. } => {
            context.out.note(event.to_string());
            Ok(())
        }
    }
}

fn make_dir(dir: &Path) -> Result<(), CliError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| CliError::System {
        doing: "create folder",
        path: dir.into(),
        source,
    })
}

/// The key in its name. The name is kept: a witness that changed it would be another one to everybody.
fn own_key(dir: &Path, wanted: Option<&str>) -> Result<Ed25519Key, CliError> {
    let file = dir.join(NAME_FILE);
    let kept = match read_text(&file, NAME_BYTES) {
        Ok(text) => Some(text.trim_end().to_owned()),
        Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(CliError::File(error)),
    };
    let name = match (kept.as_deref(), wanted) {
        (Some(kept), Some(wanted)) if kept != wanted => {
            let what = format!("this witness is `{kept}`, not `{wanted}`");
            return Err(CliError::input(
                what,
                "leave --name out, or choose another --dir for another witness",
            ));
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => {
            let hint = "add --name with a name of your own, such as the host's: witness.example.org";
            return Err(CliError::input("a new witness needs a name", hint));
        }
    };
    let key = Ed25519Key::open_or_create(&dir.join(KEY_FILE), name, Algorithm::CosignatureV1);
    let key = key.map_err(|error| {
        let hint =
            "a name is one word without `+`; for a lost key, begin with a new --dir, and a new key in the settings";
        CliError::failed(Chain(&error).to_string(), hint)
    })?;
    if kept.is_none() {
        write_atomic(&file, format!("{name}\n").as_bytes(), PRIVATE).map_err(CliError::File)?;
    }
    Ok(key)
}
