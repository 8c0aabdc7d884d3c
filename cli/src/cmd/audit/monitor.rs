//! `mayfly audit monitor`: follows the log, and tells somebody what they should look at.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use mayfly_proto::mayfly::audit::SearchRequest;
use mayfly_runtime::files::{PRIVATE, write_atomic};
use mayfly_runtime::{BackoffPolicy, Chain};
use mayfly_svid::{SpiffeId, TaskPath, TaskRoot};
use mayfly_tlog::checkpoint::SignedCheckpoint;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tonic::Status;

use super::keys;
use super::search::open;
use super::view::{EntryView, text};
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit, sentence};
use crate::files;
use crate::output::visible_line;

pub(super) const EXAMPLES: &str = "\
Goes on when the server restarts. With --state it goes on where it stopped,
also after a restart of its own; without, it begins with what comes next. A log
that has become shorter than what was seen is told as an alert, and ends it.

The command of --exec runs in a shell, once for each alert, with the alert as
JSON on stdin. While it runs, nothing else is told; after a minute it is ended.

Examples:
  mayfly audit monitor --team pay --state /var/lib/mayfly/monitor.json
  mayfly audit monitor --kind breakglass --exec 'page-somebody --json'";

/// An alert's command may take so long.
const EXEC_MAX: Duration = Duration::from_secs(60);
const RECONNECT: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(200), Duration::from_secs(10));
/// A checkpoint follows its entries within a second; a log without them for so long has lost them.
const CHECKPOINT_LAG: u32 = 10;
const STATE_MAX: u64 = 1 << 16;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Alert {
    /// A window of break-glass was opened
    Breakglass,
    /// A definition came into force, or was retired
    Definition,
    /// The policy was changed
    Policy,
    /// Private values were erased
    Erasure,
    /// The log has a new key
    Key,
    /// The end of a window could not be shown
    RevocationIncomplete,
    /// An SVID for a task of a team that is watched was to be issued
    Issuance,
}

#[derive(Debug, clap::Args)]
pub(super) struct MonitorArgs {
    /// Only these alerts
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Vec<Alert>,
    /// Watch issuances for the tasks of this team
    #[arg(long, value_name = "TEAM")]
    team: Vec<String>,
    /// Run this for each alert
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Remember here how far the log was read
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Begin with this entry
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// End after so many alerts
    #[arg(long, value_name = "COUNT", value_parser = crate::values::count)]
    alerts: Option<u64>,
}

/// How far the log was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    origin: String,
    next_index: u64,
}

/// Follows until it is interrupted.
///
/// # Errors
/// The log is another one than before, or has become shorter; or nobody may read it.
pub(super) async fn run(args: &MonitorArgs, context: &mut Context) -> Result<Exit, CliError> {
    if let Some(path) = &args.state {
        files::check_file(path)?;
    }
    let mut state = args.state.as_deref().map(read_state).transpose()?.flatten();
    let mut backoff = RECONNECT.start();
    let mut left = args.alerts;
    let mut told = false;
    loop {
        let status = match follow(args, &mut state, &mut left, context).await {
            Ok(Ended::Enough) => return Ok(Exit::Ok),
            Ok(Ended::Lost { status, progressed }) => {
                if progressed {
                    backoff.reset();
                    told = false;
                }
                sentence(&status)
            }
            // At the start a server that is not there is an error, later it is one that restarts.
            Err(error @ CliError::Connect { .. }) if state.is_some() => error.to_string(),
            Err(error) => return Err(error),
        };
        if !std::mem::replace(&mut told, true) {
            context
                .out
                .note(format!("the server is away: {status}; waiting for it"));
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// How following ends without an error.
enum Ended {
    /// So many alerts were wanted.
    Enough,
    /// The server went away.
    Lost { status: Status, progressed: bool },
}

async fn follow(
    args: &MonitorArgs,
    state: &mut Option<State>,
    left: &mut Option<u64>,
    context: &mut Context,
) -> Result<Ended, CliError> {
    let server = Server::connect(&context.globals).await?;
    let state = begin(args, state, &server, context).await?;
    let request = SearchRequest {
        kinds: kinds(args),
        from_index: state.next_index,
        follow: true,
        reveal: true,
        ..SearchRequest::default()
    };
    let lost = |status, progressed| Ok(Ended::Lost { status, progressed });
    let mut stream = match open(&server, request).await {
        Ok(stream) => stream,
        Err(CliError::Call { status, .. }) if is_passing(&status) => return lost(*status, false),
        Err(error) => return Err(error),
    };
    let mut progressed = false;
    loop {
        let found = match stream.message().await {
            Ok(Some(found)) => found,
            Ok(None) => return lost(Status::unavailable("the stream has ended"), progressed),
            Err(status) if is_passing(&status) => return lost(status, progressed),
            Err(status) => return Err(server.failed("follow the log", status)),
        };
        progressed = true;
        let view = EntryView::read(found.index, &found.entry)?;
        let alert = alert_of(&view, &args.team).filter(|alert| args.kind.is_empty() || args.kind.contains(alert));
        if let Some(alert) = alert {
            tell(args, alert, &view, context).await?;
        }
        state.next_index = found.index + 1;
        if let Some(path) = &args.state {
            write_state(path, state)?;
        }
        if alert.is_some() {
            *left = left.map(|left| left - 1);
            if *left == Some(0) {
                return Ok(Ended::Enough);
            }
        }
    }
}

/// Where to go on, after a look at whether this is the log that was seen before.
async fn begin<'a>(
    args: &MonitorArgs,
    state: &'a mut Option<State>,
    server: &Server,
    context: &mut Context,
) -> Result<&'a mut State, CliError> {
    for attempt in 0.. {
        let (bytes, keys) = keys::checkpoint(server).await?;
        let checkpoint = SignedCheckpoint::open(&bytes, &keys).map_err(|error| CliError::BadAnswer {
            who: "the server",
            what: format!("a checkpoint that its keys do not verify: {}", Chain(&error)),
        })?;
        let (origin, size) = (checkpoint.origin().to_owned(), checkpoint.size());
        let Some(known) = state.as_ref() else {
            let next_index = args.from.unwrap_or(size);
            if let Some(path) = &args.state {
                write_state(
                    path,
                    &State {
                        origin: origin.clone(),
                        next_index,
                    },
                )?;
            }
            context.out.note(format!("watching {origin} from entry {next_index}"));
            *state = Some(State { origin, next_index });
            break;
        };
        let problem = match (known.origin == origin, size < known.next_index) {
            (true, false) => break,
            (true, true) if attempt < CHECKPOINT_LAG => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            (false, _) => format!("this is another log: `{origin}`, and `{}` was watched", known.origin),
            (true, true) => format!(
                "the log has become SHORTER: it has {size} entries, and entry {} was seen",
                known.next_index - 1
            ),
        };
        let alert = json!({ "alert": "log_not_the_same", "message": problem });
        if let Some(command) = &args.exec {
            execute(command, &alert, context).await;
        }
        return Err(CliError::Coded {
            error: Box::new(CliError::Failed {
                what: problem,
                hints: vec!["compare with a copy: `mayfly audit export` refuses a log that was changed".into()],
            }),
            name: "LOG_NOT_THE_SAME",
            exit: Exit::Failed,
        });
    }
    Ok(state.as_mut().expect("set above, or known before"))
}

fn is_passing(status: &Status) -> bool {
    use tonic::Code;
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal | Code::DeadlineExceeded
    )
}

/// The kinds of entries that alerts come from.
fn kinds(args: &MonitorArgs) -> Vec<String> {
    let all = Alert::value_variants().iter();
    let wanted = all.filter(|alert| args.kind.is_empty() || args.kind.contains(alert));
    let wanted = wanted.filter(|alert| **alert != Alert::Issuance || !args.team.is_empty());
    let kinds = wanted.flat_map(|alert| match alert {
        Alert::Breakglass => &["window.opened"][..],
        Alert::Definition => &["definition"],
        Alert::Policy => &["policy.set"],
        Alert::Erasure => &["private.erased"],
        Alert::Key => &["log.key_rotated"],
        Alert::RevocationIncomplete => &["window.revocation_incomplete"],
        Alert::Issuance => &["svid.intended"],
    });
    kinds.map(ToString::to_string).collect()
}

fn alert_of(view: &EntryView, teams: &[String]) -> Option<Alert> {
    let root_and_team = |id: &str| {
        let id: SpiffeId = id.parse().ok()?;
        let path = TaskPath::of(&id)?;
        Some((path.root, path.team.to_owned()))
    };
    match view.kind() {
        "window.opened" => {
            let id = view.get("body").pointer("/window/spiffe_id").and_then(Value::as_str)?;
            let (root, _) = root_and_team(id)?;
            (root == TaskRoot::Breakglass).then_some(Alert::Breakglass)
        }
        "definition.put" | "definition.retired" => Some(Alert::Definition),
        "policy.set" => Some(Alert::Policy),
        "private.erased" => Some(Alert::Erasure),
        "log.key_rotated" => Some(Alert::Key),
        "window.revocation_incomplete" => Some(Alert::RevocationIncomplete),
        "svid.intended" => {
            let (_, team) = root_and_team(view.subject())?;
            teams.contains(&team).then_some(Alert::Issuance)
        }
        _ => None,
    }
}

async fn tell(args: &MonitorArgs, alert: Alert, view: &EntryView, context: &mut Context) -> Result<(), CliError> {
    let json = json!({ "alert": alert, "entry": view.json() });
    if context.out.is_json() {
        context.out.json_line(&json)?;
    } else {
        let name = text(&json["alert"]);
        let line = format!("ALERT {name}  {}", view.line(&context.out));
        context.out.line(visible_line(&line))?;
    }
    if let Some(command) = &args.exec {
        execute(command, &json, context).await;
    }
    Ok(())
}

/// Runs the command; that it fails is told, and keeps nobody from the next alert.
async fn execute(command: &str, alert: &Value, context: &mut Context) {
    let run = async {
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read is no failed one.
            let _ = stdin.write_all(format!("{alert}\n").as_bytes()).await;
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    };
    let problem = match tokio::time::timeout(EXEC_MAX, run).await {
        Ok(Ok(())) => return,
        Ok(Err(problem)) => problem,
        Err(_) => format!("it did not end within {} s", EXEC_MAX.as_secs()),
    };
    context.out.note(format!("the command of --exec has failed: {problem}"));
}

fn read_state(path: &Path) -> Result<Option<State>, CliError> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = files::read(&path.to_string_lossy(), STATE_MAX)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        CliError::input(
            format!("`{}` is not the state of a monitor: {error}", path.display()),
            "remove it to begin anew",
        )
    })
}

fn write_state(path: &Path, state: &State) -> Result<(), CliError> {
    let text = serde_json::to_string(state).expect("a text and a number");
    Ok(write_atomic(path, format!("{text}\n").as_bytes(), PRIVATE)?)
}
