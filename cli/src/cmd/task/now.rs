//! `mayfly task now`: what authority is in force at this moment, why, and for how long.

use std::collections::BTreeSet;
use std::time::Duration;

use mayfly_svid::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::requests::newest;
use super::view::{At, TaskView, WindowView};
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::output::Output;
use crate::values;

pub(super) const EXAMPLES: &str = "\
Windows that have ended are shown until nothing signed in them can count any
more: `closed` waits for it, `revocation_incomplete` waits in vain.

Examples:
  mayfly task now
  mayfly task now --watch
  mayfly task revoke --window ID --reason 'not expected at night'";

/// More windows than this are no overview.
const MOST: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(super) struct NowArgs {
    /// Go on showing it, until ctrl-C
    #[arg(long)]
    watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = every, requires = "watch")]
    every: Duration,
    /// With --watch, end after so many times
    #[arg(long, value_name = "COUNT", value_parser = values::count, requires = "watch")]
    updates: Option<u64>,
}

/// A window with what it belongs to. The field names are the keys of the JSON form.
#[derive(Debug, Serialize)]
struct Live {
    task: String,
    request_id: String,
    workload: String,
    person: String,
    reason: String,
    ticket: String,
    approved_by: Vec<String>,
    seconds_left: u64,
    #[serde(flatten)]
    window: WindowView,
    #[serde(skip)]
    who: String,
    #[serde(skip)]
    why: String,
}

/// How often something is looked at again.
pub(super) fn every(text: &str) -> Result<Duration, String> {
    match values::duration(text)? {
        Duration::ZERO => Err("it has to be 1 s or longer".into()),
        every => Ok(every),
    }
}

/// Shows what is open, once or again and again.
///
/// # Errors
/// The server's status; while it watches, only one that will not change.
pub(super) async fn run(args: &NowArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    if !args.watch {
        let live = look(&server, context.now()).await?;
        show(&live, context)?;
        return Ok(Exit::Ok);
    }
    let mut left = args.updates;
    loop {
        match look(&server, context.now()).await {
            Ok(live) => watched(&live, context)?,
            // A server that restarts comes back.
            Err(error) if error.exit() == Exit::Unreachable => context.out.note(format!("{error}; trying again")),
            Err(error) => return Err(error),
        }
        left = left.map(|left| left - 1);
        if left == Some(0) {
            return Ok(Exit::Ok);
        }
        tokio::time::sleep(args.every).await;
    }
}

/// Every window that is open or not settled: those that ended, then those that end next.
async fn look(server: &Server, now: Timestamp) -> Result<Vec<Live>, CliError> {
    let mut live: Vec<Live> = Vec::new();
    for filter in ["open", "unsettled"] {
        let (tasks, _) = newest(server, filter, "", MOST, |_| true).await?;
        for task in tasks {
            // One task can be open in one window and unsettled in another.
            live.extend(Live::of(TaskView::of(task), now));
        }
    }
    live.sort_by_cached_key(|live| (live.window.ends(), live.window.id.clone()));
    let mut seen = BTreeSet::new();
    live.retain(|live| seen.insert(live.window.id.clone()));
    Ok(live)
}

fn show(live: &[Live], context: &mut Context) -> Result<(), CliError> {
    if context.out.is_json() {
        return context.out.json(&json!({"windows": live}));
    }
    table(live, context.now(), &mut context.out)
}

fn watched(live: &[Live], context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    if context.out.is_json() {
        return context
            .out
            .json_line(&json!({"time": now.to_string(), "windows": live}));
    }
    context.out.clear()?;
    let time = context.out.moment(now);
    context.out.line(time)?;
    table(live, now, &mut context.out)
}

fn table(live: &[Live], now: Timestamp, out: &mut Output) -> Result<(), CliError> {
    let header = ["window", "task", "stage", "left", "who", "where", "why"];
    let rows = live.iter().map(|live| live.row(now)).collect();
    out.table(&header, rows, "No window is open.")
}

// === impl Live ===

impl Live {
    /// The windows of a request that are of interest.
    fn of(mut task: TaskView, now: Timestamp) -> Vec<Self> {
        let windows = std::mem::take(&mut task.windows);
        windows
            .into_iter()
            .filter(WindowView::is_live)
            .map(|window| Self {
                task: task.task.clone(),
                request_id: task.request_id.clone(),
                workload: task.workload.clone(),
                person: task.person.clone(),
                reason: task.reason.clone(),
                ticket: task.ticket.clone(),
                approved_by: task.approvals.iter().map(|approval| approval.person.clone()).collect(),
                seconds_left: left(&window, now).as_secs(),
                window,
                who: task.who(),
                why: task.why(),
            })
            .collect()
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        let window = &self.window;
        let stage = match (window.ending(), window.waiting_for.as_slice()) {
            (ending, []) if ending.is_empty() => window.stage.clone(),
            (ending, []) => format!("{} ({ending})", window.stage),
            (_, waiting) => format!("{}, waits for {}", window.stage, waiting.join(", ")),
        };
        let left = match window.closed_at {
            At(None) => values::span(left(window, now)),
            closed => format!("ended {}", closed.relative(now)),
        };
        let mut why = self.why.clone();
        if !self.approved_by.is_empty() {
            why.push_str(&format!(" (approved by {})", self.approved_by.join(", ")));
        }
        let node = window.agent_id.rsplit('/').next().unwrap_or_default();
        vec![
            window.id.clone(),
            self.task.clone(),
            stage,
            left,
            self.who.clone(),
            format!("{node}, pid {}", window.pid),
            why,
        ]
    }
}

fn left(window: &WindowView, now: Timestamp) -> Duration {
    match (window.closed_at.0, window.closes_at.0) {
        (None, Some(closes)) => closes.since(now),
        _ => Duration::ZERO,
    }
}
