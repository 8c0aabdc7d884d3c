//! `mayfly run`: a command with the authority of a task, as long as the command lasts.
//!
//! ```text
//!   mayfly run ── Request, wait, Open, FetchX509SVID ──▶ agent      (the window is bound to this process, by pidfd)
//!      │ stays: renews files, forwards signals, buries orphans, says how it ended
//!      └─▶ the command, in a cgroup or process group of its own
//! ```
//!
//! [`wait`] gets the window, [`session`] stays beside the command, [`job`] knows its processes, [`files`] holds the
//! identity in memory. What each of them promises is in `docs/run.md`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::{ArgMatches, Args, Command};
use mayfly_proto::mayfly::workload::RequestRequest;
use mayfly_runtime::TaskSet;
use mayfly_svid::SpiffeId;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{Noun, Running, parsed};
use crate::Context;
use crate::errors::{CliError, Exit};
use crate::values;
use crate::workload::Workload;

mod cgroup;
pub(crate) mod client;
pub(crate) mod codes;
mod command;
mod files;
mod held;
mod job;
mod session;
mod signals;
mod terminal;
mod voice;
mod wait;

use cgroup::Cgroup;
use client::Tasks;
use codes::{NO_AGENT, OWN_FAILURE};
use command::STAGE_OPTION;
use files::Files;
use session::Session;
use signals::Signals;
use voice::Voice;
use wait::{Answer, Asking};

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "run",
    command,
    run,
};

/// Followers of one run: of the request while it waits, then of window, identity and heartbeat.
const BACKGROUND: u32 = 64;
const REASON_MAX: usize = 1024;
const PARAMETER_MAX: usize = 256;

const EXAMPLES: &str = "\
The command finds its identity in files that MAYFLY_CERT_FILE, MAYFLY_KEY_FILE
and MAYFLY_BUNDLE_FILE name, and at SPIFFE_ENDPOINT_SOCKET. All of it ends with
the command. A request that waits for people is kept when this is interrupted;
the same command line finds it again.

Exit codes: the command's own, and 120 refused, 121 no agent, 122 the window
could not be opened, 123 it ended before the command, 124 the request waits,
125 this program failed, 126 the command cannot be executed, 127 it is not
there.

Examples:
  mayfly run --task pay/db-migrate --reason 'release 41' -- ./migrate.sh
  mayfly run --task pay/db-fix --reason 'stuck order' --ticket OPS-7 --for 10m \\
      --param order=4711 -- psql -h db.example.org orders
  mayfly run --task web/deploy --reason nightly --no-wait -- ./deploy";

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Which task
    #[arg(long, value_name = "TEAM/TASK", value_parser = task, required = false,
        required_unless_present = STAGE_OPTION)]
    task: String,
    /// Why, for those who approve and for the record
    #[arg(long, value_name = "TEXT", value_parser = reason, required = false,
        required_unless_present = STAGE_OPTION)]
    reason: String,
    /// The reference in the tracker
    #[arg(long, value_name = "REFERENCE", default_value = "", hide_default_value = true)]
    ticket: String,
    /// How long at most; without it as long as the definition allows
    #[arg(long = "for", value_name = "DURATION", value_parser = window_seconds)]
    window: Option<u32>,
    /// What the task is about; bound into what is approved; repeatable
    #[arg(long = "param", value_name = "KEY=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// Only this scope of the definition; repeatable
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// As which of the identities of this process, if it has several
    #[arg(long = "as", value_name = "SPIFFE_ID", value_parser = values::spiffe_id)]
    identity: Option<SpiffeId>,
    /// Sets this run apart from others with the same command line
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    key: String,
    /// End with exit code 124 instead of waiting for people or a ticket
    #[arg(long)]
    no_wait: bool,
    /// How long processes may take to end before they are killed
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    grace: Duration,
    /// Sent to the command when its identity was renewed: HUP, USR1
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    rotate_signal: Option<Signal>,
    /// The identity by the socket only
    #[arg(long, conflicts_with = "files_on_disk")]
    no_files: bool,
    /// Write the key to a disk if there is no file system in memory
    #[arg(long)]
    files_on_disk: bool,
    /// Socket of the agent, as --agent-socket
    #[arg(long, value_name = "ADDRESS")]
    socket: Option<String>,
    /// Say what is done
    #[arg(long, short)]
    verbose: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// For the child that is to become the command
    #[arg(long = STAGE_OPTION, id = STAGE_OPTION, hide = true)]
    in_child: Option<String>,
}

fn command() -> Command {
    RunArgs::augment_args(Command::new("run"))
        .about("Run a command with the authority of a task")
        .after_help(EXAMPLES)
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        if let Some(told) = matches.get_one::<String>(STAGE_OPTION) {
            let command: Vec<OsString> = matches.get_many("command").unwrap_or_default().cloned().collect();
            return command::become_command(told, &command, &mut Voice::of(context, true));
        }
        let args: RunArgs = parsed(matches)?;
        go(args, context).await.map_err(|error| OWN_FAILURE.of(error))
    })
}

async fn go(args: RunArgs, context: &mut Context) -> Result<Exit, CliError> {
    let request = request(&args)?;
    command::check(args.command.first().expect("clap asks for a command"))?;
    let (timeout, socket) = (context.globals.timeout, context.globals.agent_socket.clone());
    let workload = Workload::connect(args.socket.as_deref().or(socket.as_deref()))
        .await
        .map_err(|error| NO_AGENT.of(error))?;
    let endpoint = workload.address().to_string();
    let mut voice = Voice::of(context, args.verbose);
    let files = files(&args, &mut voice).await?;
    let mut signals = Signals::listen().map_err(|source| CliError::System {
        doing: "listen to signals of",
        path: "this process".into(),
        source,
    })?;
    let tasks = Tasks::of(&workload, timeout);
    let background = TaskSet::new("run", BACKGROUND);
    let asking = Asking {
        tasks: &tasks,
        endpoint: &endpoint,
        request,
        wait: !args.no_wait,
        again: own_command_line(),
        background: &background,
    };
    let state = match asking.open(&mut signals, &mut voice).await? {
        Answer::Open(state) => *state,
        Answer::Parked => return Ok(Exit::Of(codes::WAITING)),
    };
    let session = Session {
        tasks,
        workload,
        background: &background,
        timeout,
        command: &args.command,
        grace: args.grace,
        rotate_signal: args.rotate_signal,
        verbose: args.verbose,
        state,
        files,
    };
    session.run(&mut signals, &mut voice).await
}

/// Takes away what killed runs left, and makes the folder for this one: before anything is asked for, so that no window
/// is open for a command that cannot have its identity.
async fn files(args: &RunArgs, voice: &mut Voice<'_>) -> Result<Option<Files>, CliError> {
    let mut places = files::places();
    let disk = std::env::temp_dir();
    places.push(disk.clone());
    let (folders, cgroups) = (files::sweep(&places), Cgroup::sweep().await);
    if folders + cgroups > 0 {
        let text = format!("cleared away after runs that were killed: {folders} folders, {cgroups} cgroups");
        voice.detail("swept", &text, json!({"folders": folders, "cgroups": cgroups}));
    }
    if args.no_files {
        return Ok(None);
    }
    // A folder for temporary files that lives in memory is as good.
    Files::make(&places, args.files_on_disk.then_some(disk.as_path() as &Path)).map(Some)
}

fn request(args: &RunArgs) -> Result<RequestRequest, CliError> {
    let mut parameters = BTreeMap::new();
    for (key, value) in &args.parameters {
        if parameters.insert(key.clone(), value.clone()).is_some() {
            let what = format!("--param {key} is given twice");
            return Err(CliError::input(what, "a parameter has one value"));
        }
    }
    Ok(RequestRequest {
        task: args.task.clone(),
        reason: args.reason.clone(),
        ticket: args.ticket.clone(),
        window_seconds: args.window.unwrap_or(0),
        scopes: args.scopes.clone(),
        parameters,
        idempotency_key: args.key.clone(),
        spiffe_id: args.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
    })
}

fn own_command_line() -> String {
    let words = std::env::args_os().map(|word| values::shell_word(Path::new(&word)));
    words.collect::<Vec<_>>().join(" ")
}

fn task(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((team, task)) if !team.is_empty() && !task.is_empty() && !task.contains('/') => Ok(text.to_owned()),
        _ => Err("write it as <team>/<task>, such as pay/db-migrate".to_owned()),
    }
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why".to_owned()),
        text if text.len() > REASON_MAX => Err(format!("this is longer than {REASON_MAX} bytes")),
        text => Ok(text.to_owned()),
    }
}

fn window_seconds(text: &str) -> Result<u32, String> {
    match u32::try_from(values::duration(text)?.as_secs()) {
        Ok(0) => Err("it has to be 1 s or longer".to_owned()),
        Ok(seconds) => Ok(seconds),
        Err(_) => Err("this is too long".to_owned()),
    }
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value")?;
    let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if key.is_empty() || !key.chars().all(is_key) {
        return Err("a key consists of a-z, 0-9, `.`, `_`, `-`".to_owned());
    }
    if value.len() > PARAMETER_MAX {
        return Err(format!("a value has {PARAMETER_MAX} bytes at most"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse().map_err(|_| "write it as HUP or USR1".to_owned())
}
