//! `mayfly prove window`: a canary. It has to get in while its window is open, and nothing of it may count afterwards.

use std::time::Duration;

use mayfly_proto::mayfly::workload::{RequestRequest, Stage, TaskState};

use super::base;
use super::dial::{Dialer, Outcome};
use super::{Probe, Probes, Tried};
use crate::Context;
use crate::cmd::run::client::{Tasks, of_window};
use crate::errors::{CliError, Exit};
use crate::workload::{Identity, Workload};

pub(super) const EXAMPLES: &str = "\
Opens a window of the task for this process and connects with its SVID, which
has to be let in. Ends the window, and tries: the connection from inside it, its
key and certificate, its TLS session. Before that, without a certificate and
with the base SVID; with --other also the SVID of another task. Exit code 1 if
anything is let in that may not be.

A task that people approve waits for them: exit code 124, and the same command
line goes on when they have agreed.

Examples:
  mayfly prove window --task pay/db-migrate --connect db.example.org:8443 \\
      --checkpoint pay-db --reason 'monthly check'";

#[derive(Debug, clap::Args)]
pub(super) struct WindowArgs {
    /// The task that the consumer is protected by
    #[arg(long, value_name = "TEAM/TASK")]
    task: String,
    /// Another task, whose SVID the consumer may not let in
    #[arg(long, value_name = "TEAM/TASK")]
    other: Option<String>,
    /// Why, for those who approve and for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    tried: Tried,
}

/// A window that is open for this process.
struct Canary {
    state: TaskState,
    identity: Identity,
}

pub(super) async fn run(args: WindowArgs, context: &mut Context) -> Result<Exit, CliError> {
    let workload = Workload::connect(context.globals.agent_socket.as_deref()).await?;
    let tasks = Tasks::of(&workload, context.globals.timeout);
    let mut probes = Probes::begin(&args.tried, context).await?;
    let own = base::own(&args.tried, &workload, context).await?;
    base::try_all(&own, &mut probes, context).await?;
    if let Some(other) = &args.other {
        let Some(canary) = open(other, &args, &workload, &tasks, context).await? else {
            return waits(other, context);
        };
        let outcome = Dialer::of(&args.tried.connect, &canary.identity)?.dial().await?;
        tasks
            .end(&canary.state.request_id, true, "probe")
            .await
            .map_err(|status| workload.failed(status))?;
        probes
            .add(probe("other_window", Outcome::REFUSED, &outcome, &canary), context)
            .await?;
    }
    let Some(canary) = open(&args.task, &args, &workload, &tasks, context).await? else {
        return waits(&args.task, context);
    };
    let tried = inside_and_after(&args, &canary, &workload, &tasks, &mut probes, context).await;
    if let Err(error) = tried {
        // A window that was opened to try something is not left open. It may have been ended before.
        let _ = tasks.end(&canary.state.request_id, false, "probe").await;
        return Err(error);
    }
    probes.end(context)
}

async fn inside_and_after(
    args: &WindowArgs,
    canary: &Canary,
    workload: &Workload,
    tasks: &Tasks,
    probes: &mut Probes<'_>,
    context: &mut Context,
) -> Result<(), CliError> {
    let target = &args.tried.connect;
    let within = args.tried.within;
    // One that keeps sessions, and one that has none.
    let (returning, copied) = (
        Dialer::of(target, &canary.identity)?,
        Dialer::of(target, &canary.identity)?,
    );
    let inside = returning.dial().await?;
    probes
        .add(probe("inside", Outcome::ACCEPTED, &inside, canary), context)
        .await?;
    let ended = tasks.end(&canary.state.request_id, true, "probe").await;
    ended.map_err(|status| workload.failed(status))?;

    let connection = match inside {
        // There is nothing to cut; that it was not let in is said above.
        Outcome::Refused(_) => None,
        Outcome::Accepted(open) => Some(open.cut_within(within).await?),
    };
    if let Some(cut) = connection {
        let (outcome, detail) = match cut {
            Some((after, why)) => ("cut", format!("{why}, {} ms after the end", after.as_millis())),
            None => ("alive", format!("{} s after the end", within.as_secs())),
        };
        let probe = Probe {
            kind: "connection",
            expected: "cut",
            outcome,
            window: canary.state.window_id.clone(),
            detail,
        };
        probes.add(probe, context).await?;
    }
    for (kind, dialer) in [("canary", copied), ("resumption", returning)] {
        let (outcome, after) = dialer.dial_until_refused(within).await?;
        let mut probe = probe(kind, Outcome::REFUSED, &outcome, canary);
        probe.detail = format!("{} {} ms after the end", probe.detail, after.as_millis())
            .trim()
            .to_owned();
        probes.add(probe, context).await?;
    }
    Ok(())
}

fn probe(kind: &'static str, expected: &'static str, outcome: &Outcome, canary: &Canary) -> Probe {
    Probe {
        kind,
        expected,
        outcome: outcome.word(),
        window: canary.state.window_id.clone(),
        detail: outcome.detail(),
    }
}

/// A window of `task`, open for this process; `None` while it waits for people or a ticket.
async fn open(
    task: &str,
    args: &WindowArgs,
    workload: &Workload,
    tasks: &Tasks,
    context: &mut Context,
) -> Result<Option<Canary>, CliError> {
    let request = RequestRequest {
        task: task.to_owned(),
        reason: args.reason.clone(),
        spiffe_id: args
            .tried
            .identity
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        ..RequestRequest::default()
    };
    let refused = |status| CliError::Call {
        doing: format!("open a window of {task}"),
        endpoint: workload.address().to_string(),
        status: Box::new(status),
        hints: vec!["mayfly why-not says what would have to be different".into()],
    };
    let state = tasks.request(&request).await.map_err(refused)?;
    match state.stage() {
        Stage::Armed => {}
        Stage::AwaitingApproval | Stage::AwaitingTicket => return Ok(None),
        _ => {
            return Err(CliError::Failed {
                what: format!("{task} is refused: {}", state.message),
                hints: vec![format!("mayfly why-not {}", state.request_id)],
            });
        }
    }
    let state = tasks.open(&state.request_id).await.map_err(refused)?;
    // Some milliseconds: the SVID comes on the ordinary stream.
    let deadline = tokio::time::Instant::now() + context.globals.timeout;
    loop {
        if let Some(identity) = of_window(workload.fetch(context.globals.timeout).await?, &state) {
            return Ok(Some(Canary { state, identity }));
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(CliError::BadAnswer {
                who: "the agent",
                what: format!("no SVID of the window of {task}"),
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn waits(task: &str, context: &mut Context) -> Result<Exit, CliError> {
    context.out.note(format!(
        "{task} waits for people or its ticket; the same command line goes on when they have agreed"
    ));
    Ok(Exit::Of(crate::cmd::run::codes::WAITING))
}
