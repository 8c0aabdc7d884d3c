//! `mayfly task crl`: revocation lists for servers that read them from a file.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use mayfly_proto::mayfly::task::GetRevocationListsRequest;
use serde_json::json;
use tokio::process::Command;

use super::now::every;
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::{files, values};

mod folder;
mod list;

#[cfg(test)]
mod tests;

use list::RevocationList;

pub(super) const EXAMPLES: &str = "\
There is one list for each authority that signs task SVIDs. A server that checks
with them refuses what was revoked at its next handshake, once it has read them
again; `--then` makes it. There is no list for base SVIDs: servers that want one
for each client (nginx, PostgreSQL) refuse those as well.

Files are replaced in one step and never by older lists. While the server cannot
be reached, they stay as they are and run out by themselves.

Examples:
  mayfly task crl
  mayfly task crl --out /etc/nginx/mayfly --watch --then 'nginx -s reload'
  mayfly task crl --out /etc/postgresql/mayfly --watch \\
      --then 'pg_ctlcluster 16 main reload'
  mayfly task crl --out /run/mayfly/crl --format der";

/// How long a command after a change may take.
const THEN_MAX: Duration = Duration::from_secs(60);

/// The form of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CrlFormat {
    /// `crl.pem`, all lists one after the other
    Pem,
    /// `<authority>.crl`, a file for each list
    Der,
}

#[derive(Debug, clap::Args)]
pub(super) struct CrlArgs {
    /// Write the lists into this folder; otherwise they are shown
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Form of the lists: pem (one file `crl.pem`), or der (`<authority>.crl` for each)
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FORM")]
    format: Option<CrlFormat>,
    /// Keep the files fresh, until ctrl-C
    #[arg(long, requires = "out")]
    watch: bool,
    /// How often to ask for news, with --watch
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = every, requires = "watch")]
    every: Duration,
    /// Run this by `sh -c` after each change of the files
    #[arg(long, value_name = "COMMAND", requires = "out")]
    then: Option<String>,
    /// With --watch, end after so many questions
    #[arg(long, value_name = "COUNT", value_parser = values::count, requires = "watch")]
    updates: Option<u64>,
}

/// Fetches the lists and shows or writes them, once or again and again.
///
/// # Errors
/// The server's status, lists that cannot be read or are older than what is there, a file that cannot be written, or a
/// command that failed. While it watches, these are remarks.
pub(super) async fn run(args: &CrlArgs, context: &mut Context) -> Result<Exit, CliError> {
    let Some(dir) = &args.out else {
        let server = Server::connect(&context.globals).await?;
        let (lists, epoch) = fetch(&server).await?;
        return show(&lists, epoch, args.format, context);
    };
    files::check_dir(dir)?;
    let server = Server::connect(&context.globals).await?;
    let mut keeper = Keeper {
        dir,
        format: args.format.unwrap_or(CrlFormat::Pem),
        then: args.then.as_deref(),
        owed: false,
        ends: None,
    };
    if !args.watch {
        keeper.refresh(&server, context).await?;
        return Ok(Exit::Ok);
    }
    let mut left = args.updates;
    let mut told = String::new();
    loop {
        match keeper.refresh(&server, context).await {
            Ok(()) => told.clear(),
            // The same again is no news.
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    context.out.note(keeper.worry(&error, context));
                    told = text;
                }
            }
        }
        left = left.map(|left| left - 1);
        if left == Some(0) {
            return Ok(if told.is_empty() { Exit::Ok } else { Exit::Failed });
        }
        tokio::time::sleep(args.every).await;
    }
}

async fn fetch(server: &Server) -> Result<(Vec<RevocationList>, u64), CliError> {
    let request = server.request(GetRevocationListsRequest {});
    let answer = server.tasks().get_revocation_lists(request).await;
    let answer = answer
        .map_err(|status| server.failed("fetch revocation lists", status))?
        .into_inner();
    let lists = answer.crls.into_iter().map(RevocationList::of);
    Ok((lists.collect::<Result<_, _>>()?, answer.epoch))
}

fn show(
    lists: &[RevocationList],
    epoch: u64,
    format: Option<CrlFormat>,
    context: &mut Context,
) -> Result<Exit, CliError> {
    match format {
        Some(CrlFormat::Pem) => {
            let text: String = lists.iter().map(RevocationList::pem).collect();
            context.out.raw(text.as_bytes())?;
        }
        Some(CrlFormat::Der) => {
            return Err(CliError::input(
                "lists in DER cannot be told apart in one stream",
                "name a folder for them with --out, or take --format pem",
            ));
        }
        None if context.out.is_json() => context.out.json(&json!({"epoch": epoch, "lists": lists}))?,
        None => {
            let now = context.now();
            let rows = lists.iter().map(|list| list.row(now)).collect();
            context.out.table(
                &list::HEADER,
                rows,
                "There is no revocation list: no authority for tasks has signed anything yet.",
            )?;
        }
    }
    Ok(Exit::Ok)
}

/// Keeps the files of a folder as the server wants them.
struct Keeper<'a> {
    dir: &'a Path,
    format: CrlFormat,
    then: Option<&'a str>,
    /// The files have changed, and the command has not succeeded since.
    owed: bool,
    /// When the first of the lists in the folder runs out.
    ends: Option<mayfly_svid::Timestamp>,
}

impl Keeper<'_> {
    async fn refresh(&mut self, server: &Server, context: &mut Context) -> Result<(), CliError> {
        let (lists, epoch) = fetch(server).await?;
        if lists.is_empty() {
            context
                .out
                .note("There is no revocation list yet; the files stay as they are.");
            return Ok(());
        }
        let written = match self.format {
            CrlFormat::Pem => folder::write_pem(self.dir, &lists)?,
            CrlFormat::Der => folder::write_der(self.dir, &lists)?,
        };
        self.ends = lists.iter().filter_map(|list| list.next_update.0).min();
        if !written.is_empty() {
            self.owed = true;
            let revoked: usize = lists.iter().map(|list| list.revoked).sum();
            if context.out.is_json() {
                context
                    .out
                    .json_line(&json!({"epoch": epoch, "revoked": revoked, "files": written}))?;
            } else {
                for path in &written {
                    context.out.line(format!("wrote  {}", path.display()))?;
                }
                context.out.note(format!("{revoked} revoked, epoch {epoch}"));
            }
        }
        if let Some(command) = self.then.filter(|_| self.owed) {
            run_command(command).await?;
        }
        self.owed = false;
        Ok(())
    }

    /// What an error means for those who read the files.
    fn worry(&self, error: &CliError, context: &Context) -> String {
        match self.ends {
            Some(ends) => format!(
                "{error}; the lists in {} run out {}",
                self.dir.display(),
                values::relative(ends, context.now())
            ),
            None => error.to_string(),
        }
    }
}

/// What it prints belongs to the remarks: stdout is for results of ours.
async fn run_command(command: &str) -> Result<(), CliError> {
    let failed = |why: String| CliError::failed(format!("`{command}` {why}"), "the files are written; it was not told");
    let stderr = rustix::io::dup(std::io::stderr()).map_err(|error| failed(format!("cannot run: {error}")))?;
    let child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::from(stderr))
        .kill_on_drop(true)
        .status();
    match tokio::time::timeout(THEN_MAX, child).await {
        Err(_) => Err(failed(format!(
            "took longer than {} s and was ended",
            THEN_MAX.as_secs()
        ))),
        Ok(Err(error)) => Err(failed(format!("cannot run: {error}"))),
        Ok(Ok(status)) if !status.success() => Err(failed(format!("failed: {status}"))),
        Ok(Ok(_)) => Ok(()),
    }
}
