//! `mayfly audit monitor`: follows the log, and tells somebody what they should look at.
//!
//! Every entry is read, whatever is told, and each is verified before it is told: [`followed`]. What the server finds or
//! leaves out decides about nothing.

mod alert;
mod edge;
mod followed;
mod growth;
mod tell;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use mayfly_proto::mayfly::audit::SearchRequest;
use mayfly_runtime::BackoffPolicy;
use mayfly_runtime::files::{PUBLIC, write_atomic};
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::note::VerifierKey;
use tokio::time::Instant;
use tonic::Status;

use super::keys::{self, Of};
use super::search::open;
use super::view::EntryView;
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit, sentence};
use crate::{files, values};
use alert::{Alert, alert_of};
use followed::{Fault, Followed, Shown};
use growth::Growth;
use tell::Teller;

pub(super) const EXAMPLES: &str = "\
Every entry is read and verified: it is under a checkpoint that the log's key
has signed, and none was left out. The key is that of --key, or the first one
that is seen; new keys count once the log itself has named them. A log that
has become shorter, has another past, or hides entries is told as an alert,
and ends it with exit code 1. One that has stopped growing is told, too.

With --state it goes on where it stopped, and knows the log again; without, it
begins with what comes next. Goes on when the server restarts.

The command of --exec runs in a shell, once for each alert, with the alert as
JSON on stdin. While it runs, nothing else is told; after a minute it is ended.

Examples:
  mayfly audit monitor --team pay --key log.keys \\
      --state /var/lib/mayfly/monitor.json
  mayfly audit monitor --kind breakglass --exec 'page-somebody --json'";

const RECONNECT: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(200), Duration::from_secs(10));
/// Between two looks at the checkpoint, which follows an entry within a second.
const POLL: Duration = Duration::from_millis(500);
/// Entries that are asked for at a time.
const PAGE: u64 = 100_000;
/// Entries that are kept to be told of at once; for those behind them the log is read again.
const PENDING_MAX: usize = if cfg!(test) { 20 } else { 100_000 };

#[derive(Debug, clap::Args)]
pub(super) struct MonitorArgs {
    /// Only these alerts
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Vec<Alert>,
    /// Watch issuances for the tasks of this team
    #[arg(long, value_name = "TEAM")]
    team: Vec<String>,
    /// The log's key, or a file of such; without, the first one that is seen
    #[arg(long, value_name = "VKEY|FILE")]
    key: Vec<String>,
    /// Run this for each alert
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Remember here the log, as far as it was verified and told
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Begin with this entry; the whole log is verified
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Show names, as the server tells them; it is on record that they were read
    #[arg(long)]
    names: bool,
    /// Tell if nothing was added to the log for so long
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = values::duration)]
    quiet: Duration,
    /// End after so many alerts
    #[arg(long, value_name = "COUNT", value_parser = crate::values::count)]
    alerts: Option<u64>,
}

/// A monitor that runs.
struct Monitor<'a> {
    args: &'a MonitorArgs,
    pinned: Vec<VerifierKey>,
    /// The log, as far as everything was told.
    followed: Option<Followed>,
    /// The log behind that, verified, with what is still to be told of it.
    ahead: Option<Ahead>,
    /// A checkpoint of which a part was told: the rest is told by it and by no other, which could have another past.
    unfinished: Option<(SignedCheckpoint, Vec<u8>)>,
    teller: Teller<'a>,
    growth: Growth,
}

/// A part of the log that was verified.
struct Ahead {
    followed: Followed,
    /// What is still to be told of it.
    pending: VecDeque<(Alert, EntryView)>,
    /// There is more to be told than that.
    is_cut: bool,
}

/// How following ends without an error.
enum Ended {
    /// So many alerts were wanted.
    Enough,
    /// The server went away.
    Lost { status: Status, progressed: bool },
}

/// Follows until it is interrupted.
///
/// # Errors
/// The log is not what it was, or hides something; or nobody may read it.
pub(super) async fn run(args: &MonitorArgs, context: &mut Context) -> Result<Exit, CliError> {
    let pinned = keys::read(&args.key, Of::Log)?;
    let mut followed = None;
    if let Some(path) = &args.state {
        files::check_file(path)?;
        followed = Followed::load(path)?;
    }
    let teller = Teller::new(args.exec.as_deref(), args.alerts);
    let mut monitor = Monitor {
        args,
        pinned,
        followed,
        ahead: None,
        unfinished: None,
        teller,
        growth: Growth::new(),
    };
    let mut backoff = RECONNECT.start();
    let mut told = false;
    loop {
        let status = match monitor.follow(context).await {
            Ok(Ended::Enough) => return Ok(Exit::Ok),
            Ok(Ended::Lost { status, progressed }) => {
                if progressed {
                    backoff.reset();
                    told = false;
                }
                sentence(&status)
            }
            // At the start a server that is not there is an error, later it is one that restarts.
            Err(error @ CliError::Connect { .. }) if monitor.followed.is_some() => error.to_string(),
            Err(error) => return Err(error),
        };
        if !std::mem::replace(&mut told, true) {
            context
                .out
                .note(format!("the server is away: {status}; waiting for it"));
        }
        monitor.growth.pause();
        if monitor.tell_silence(context).await? {
            return Ok(Exit::Ok);
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// The status of an answer that a restart of the server may have cost.
macro_rules! or_lost {
    ($answer:expr, $progressed:expr) => {
        match $answer {
            Err(CliError::Call { status, .. }) if is_passing(&status) => {
                return Ok(Ended::Lost {
                    status: *status,
                    progressed: $progressed,
                });
            }
            other => other?,
        }
    };
}

impl Monitor<'_> {
    async fn follow(&mut self, context: &mut Context) -> Result<Ended, CliError> {
        let server = Server::connect(&context.globals).await?;
        let mut progressed = false;
        loop {
            if or_lost!(self.tell(&server, context).await, progressed) {
                return Ok(Ended::Enough);
            }
            if let Some((checkpoint, bytes)) = self.unfinished.clone() {
                if or_lost!(self.read(&server, checkpoint, &bytes, context).await, progressed) {
                    return Ok(Ended::Enough);
                }
                continue;
            }
            let (bytes, offered) = or_lost!(step(&server, keys::checkpoint(&server)).await, progressed);
            if self.followed.is_none() {
                or_lost!(self.begin(&server, &bytes, &offered, context).await, progressed);
                // What it began with may be newer than this checkpoint.
                continue;
            }
            self.check_pinned(&bytes, context).await?;
            let followed = self.followed.as_ref().expect("begun above");
            match followed.judge(&bytes) {
                Err(fault) => return Err(self.refuse(&fault, &bytes, context).await),
                Ok(Shown::Same) => {}
                Ok(Shown::Larger(checkpoint)) => {
                    if or_lost!(self.read(&server, *checkpoint, &bytes, context).await, progressed) {
                        return Ok(Ended::Enough);
                    }
                    self.growth = Growth::new();
                    progressed = true;
                    continue;
                }
            }
            progressed = true;
            or_lost!(self.growth.look(&server, followed.size()).await, progressed);
            if self.tell_silence(context).await? {
                return Ok(Ended::Enough);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The log is seen for the first time.
    async fn begin(
        &mut self,
        server: &Server,
        bytes: &[u8],
        offered: &[VerifierKey],
        context: &mut Context,
    ) -> Result<(), CliError> {
        let trusted = if self.pinned.is_empty() { offered } else { &self.pinned };
        let (begun, judged) = match self.args.from {
            Some(from) => (Followed::from_start(bytes, trusted, from), bytes.to_vec()),
            None => {
                // The checkpoint that comes with its tiles, which may be a larger one by now.
                let (edge, tiles) = step(server, edge::right_edge(server)).await?;
                (Followed::from_here(&edge, trusted, &tiles), edge)
            }
        };
        let followed = match begun {
            Ok(followed) => followed,
            Err(fault) => return Err(self.refuse(&fault, &judged, context).await),
        };
        let (origin, from) = (followed.origin(), followed.next_index);
        context.out.note(format!("watching {origin} from entry {from}"));
        if self.pinned.is_empty() {
            for key in followed.keys() {
                context.out.note(format!(
                    "TRUSTING the key {key} because it is the first that was seen: compare it with the one that the \
                     operator has handed out, or give that with --key"
                ));
            }
        }
        self.followed = Some(followed);
        self.save()
    }

    /// Keys that the operator has given speak for the log, or the log is not the one that is meant.
    async fn check_pinned(&mut self, bytes: &[u8], context: &mut Context) -> Result<(), CliError> {
        let (Some(followed), false) = (&mut self.followed, self.pinned.is_empty()) else {
            return Ok(());
        };
        match followed.pin(bytes, &self.pinned) {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.refuse(&fault, bytes, context).await),
        }
    }

    /// Reads and verifies all entries up to a checkpoint, and finds those to be told; `true` if it took so long that this
    /// was told, and is enough.
    async fn read(
        &mut self,
        server: &Server,
        checkpoint: SignedCheckpoint,
        bytes: &[u8],
        context: &mut Context,
    ) -> Result<bool, CliError> {
        let followed = self.followed.as_ref().expect("begun before");
        let next_index = followed.next_index;
        let mut advance = followed.advance(checkpoint.clone());
        let (mut pending, mut is_cut) = (VecDeque::new(), false);
        self.growth.pause();
        let mut fault = None;
        while let (Some(next), None) = (advance.wants(), &fault) {
            let limit = u32::try_from(advance.left().min(PAGE)).unwrap_or(u32::MAX);
            let request = SearchRequest {
                from_index: next,
                limit,
                ..SearchRequest::default()
            };
            let mut stream = step(server, open(server, request)).await?;
            // Who sends more than was asked for is not listened to.
            while advance.wants().is_some() {
                let found = step(server, async {
                    let found = stream.message().await;
                    found.map_err(|status| server.failed("follow the log", status))
                });
                let Some(found) = found.await? else {
                    break;
                };
                // Entries that trickle in are no reason to say nothing.
                if self.tell_silence(context).await? {
                    return Ok(true);
                }
                if let Err(refused) = advance.take(found.index, &found.entry) {
                    fault = Some(refused);
                    break;
                }
                if is_cut || found.index < next_index {
                    continue;
                }
                let Ok(view) = EntryView::read(found.index, &found.entry) else {
                    continue; // It is in the log and says nothing that anybody could be told.
                };
                let Some(alert) = self.args.alert_of(&view) else {
                    continue;
                };
                // The rest is verified, too, before the first of these is told.
                is_cut = pending.len() == PENDING_MAX;
                if !is_cut {
                    pending.push_back((alert, view));
                }
            }
            if advance.wants() == Some(next) {
                fault.get_or_insert(Fault::LeftOut { index: next });
            }
        }
        let followed = self.followed.as_ref().expect("begun before");
        match fault.map_or_else(|| followed.arrived(advance), Err) {
            Ok(arrived) => {
                self.unfinished = is_cut.then(|| (checkpoint, bytes.to_vec()));
                self.ahead = Some(Ahead {
                    followed: arrived,
                    pending,
                    is_cut,
                });
                Ok(false)
            }
            Err(fault) => Err(self.refuse(&fault, bytes, context).await),
        }
    }

    /// Tells what is to be told, and remembers it; `true` if so many alerts are enough. The file has the log as it was
    /// before until everything is told: whoever is ended in between verifies that part once more.
    async fn tell(&mut self, server: &Server, context: &mut Context) -> Result<bool, CliError> {
        while let Some((alert, view)) = self.ahead.as_ref().and_then(|ahead| ahead.pending.front()).cloned() {
            let mut shown = view;
            // Who is told of readings by reading would never be done.
            if self.args.names && alert != Alert::PrivateRead {
                shown = match tell::with_names(server, &shown).await? {
                    Some(named) => named,
                    None => {
                        let fault = Fault::OtherEntry { index: shown.index };
                        return Err(self.refuse(&fault, b"", context).await);
                    }
                };
            }
            let is_enough = self.teller.tell(alert, &shown, context).await?;
            if let Some(ahead) = &mut self.ahead {
                ahead.pending.pop_front();
            }
            let followed = self.followed.as_mut().expect("begun before");
            followed.next_index = followed.next_index.max(shown.index + 1);
            self.save()?;
            if is_enough {
                return Ok(true);
            }
        }
        if let Some(Ahead {
            mut followed, is_cut, ..
        }) = self.ahead.take()
        {
            // However long it took to tell, the log has not stood still for it.
            self.growth = Growth::new();
            if !is_cut {
                followed.next_index = followed.next_index.max(followed.size());
                self.followed = Some(followed);
                self.save()?;
            }
        }
        Ok(false)
    }

    fn save(&self) -> Result<(), CliError> {
        match (&self.args.state, &self.followed) {
            (Some(path), Some(followed)) => followed.save(path),
            _ => Ok(()),
        }
    }

    /// Tells once of a log that does not grow any more; `true` if so many alerts are enough.
    async fn tell_silence(&mut self, context: &mut Context) -> Result<bool, CliError> {
        let Some(problem) = self.growth.problem(self.args.quiet, Instant::now()) else {
            return Ok(false);
        };
        self.teller.tell_of_the_log("log_frozen", &problem, context).await
    }

    /// Keeps what was shown, tells, and says why this is the end.
    async fn refuse(&mut self, fault: &Fault, bytes: &[u8], context: &mut Context) -> CliError {
        let mut hints = vec![
            "compare with a copy: `mayfly audit export` refuses a log that was changed, and names where".to_owned(),
        ];
        if let Fault::Unsigned { .. } = fault {
            hints.push("if the log's key was lost or has changed often, give the new one with --key".into());
        }
        if let Some(state) = self.args.state.as_ref().filter(|_| !bytes.is_empty()) {
            let mut kept = state.as_os_str().to_owned();
            kept.push(".refused");
            let kept = PathBuf::from(kept);
            match write_atomic(&kept, bytes, PUBLIC) {
                Ok(()) => hints.push(format!(
                    "what the server has shown is kept in `{}`; with the checkpoint of the state it is evidence",
                    kept.display()
                )),
                Err(error) => context.out.note(format!("what was shown cannot be kept: {error}")),
            }
        }
        let what = fault.to_string();
        if let Err(error) = self.teller.tell_of_the_log("log_not_the_same", &what, context).await {
            return error;
        }
        CliError::Coded {
            error: Box::new(CliError::Failed { what, hints }),
            name: "LOG_NOT_THE_SAME",
            exit: Exit::Failed,
        }
    }
}

/// One step with the server, which takes no longer than a call: whoever waits for ever tells nobody anything.
async fn step<T>(server: &Server, step: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let late = |_| server.failed("follow the log", Status::deadline_exceeded("no answer in time"));
    tokio::time::timeout(server.timeout(), step).await.map_err(late)?
}

fn is_passing(status: &Status) -> bool {
    use tonic::Code;
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal | Code::DeadlineExceeded
    )
}

impl MonitorArgs {
    /// What an entry is told as, if it is.
    fn alert_of(&self, view: &EntryView) -> Option<Alert> {
        alert_of(view, &self.team).filter(|alert| self.kind.is_empty() || self.kind.contains(alert))
    }
}

#[cfg(test)]
mod tests;
