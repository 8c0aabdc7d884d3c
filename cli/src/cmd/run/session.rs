//! The command inside its window: from the first identity to the last process.
//!
//! ```text
//!   the command ends ──▶ files gone ──▶ Complete or Fail ──▶ what it left: SIGTERM, grace, SIGKILL ──▶ its exit code
//!   the window ends  ──▶ files gone ──▶ command and all:     SIGTERM, grace, SIGKILL ──▶ exit code 123
//! ```
//!
//! The authority ends first, and the processes after it: whatever outlives the command has nothing any more.

use std::ffi::OsString;
use std::pin::pin;
use std::time::Duration;

use mayfly_proto::mayfly::workload::{Stage, TaskState};
use mayfly_runtime::TaskSet;
use mayfly_svid::Timestamp;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::cgroup::Cgroup;
use super::client::{Event, Tasks, follow_identity, is_over};
use super::codes::{self, ENDED_EARLY, NOT_OPENED};
use super::command::{self, environment};
use super::files::Files;
use super::job::{Ended, Job, News, Stragglers};
use super::signals::{Asked, Signals};
use super::terminal::Terminal;
use super::voice::{Voice, fields, why};
use crate::errors::{CliError, Exit};
use crate::workload::{Identity, Workload};

/// How long the agent's answer to the end is waited for before what is left is told to end, too.
const END_FIRST: Duration = Duration::from_secs(1);
/// And at most: it sees our own end in any case.
const END_MOST: Duration = Duration::from_secs(5);
/// The agent knows better why a window ended; it is given this long to say so.
const AFTER_CLOSE: Duration = Duration::from_secs(1);

/// One window and the command in it.
pub(super) struct Session<'a> {
    pub(super) tasks: Tasks,
    pub(super) workload: Workload,
    pub(super) background: &'a TaskSet,
    pub(super) timeout: Duration,
    pub(super) command: &'a [OsString],
    pub(super) grace: Duration,
    pub(super) rotate_signal: Option<Signal>,
    pub(super) verbose: bool,
    pub(super) state: TaskState,
    /// `None`: by the socket only.
    pub(super) files: Option<Files>,
}

/// What ended first.
enum Over {
    Command(Ended),
    Window(String),
}

impl Session<'_> {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// It was not started, or the window ended before it.
    pub(super) async fn run(mut self, signals: &mut Signals, voice: &mut Voice<'_>) -> Result<Exit, CliError> {
        let mut events = self.follow();
        let started = self.start(&mut events, signals, voice).await;
        let (mut job, mut terminal) = match started {
            Ok(started) => started,
            Err(error) => {
                self.files = None;
                // What went wrong is more than that the agent could not be told of it: it sees our end.
                let told = self
                    .tasks
                    .end(&self.state.request_id, false, "the command was not started");
                let _ = tokio::time::timeout(END_MOST, told).await;
                return Err(error);
            }
        };
        let over = self.attend(&mut job, &mut terminal, &mut events, signals, voice).await;
        self.files = None;
        match over {
            Over::Command(ended) => {
                terminal.take_back();
                self.command_ended(ended, job, signals, voice).await;
                Ok(Exit::Of(ended.code()))
            }
            Over::Window(why) => {
                let text = format!("the window of {} ended before the command: {why}", self.state.task);
                let left = job.end(self.grace, signals).await;
                terminal.take_back();
                say_stragglers(left, "ended with the window", &self.state, voice);
                let hint = "the command was ended; what it did until then is done";
                Err(ENDED_EARLY.of(CliError::failed(text, hint)))
            }
        }
    }

    /// Follows the window, its identity, and gives signs of life.
    fn follow(&self) -> mpsc::Receiver<Event> {
        // When full, the followers wait: nothing of it is urgent twice.
        let (sender, events) = mpsc::channel(16);
        let id = &self.state.request_id;
        let full = "the set is larger than what is followed";
        let follow = self.tasks.clone().follow(id.clone(), sender.clone());
        self.background.spawn(follow).expect(full);
        if self.state.heartbeat_seconds > 0 {
            let pause = Duration::from_secs(self.state.heartbeat_seconds.into());
            let live = self.tasks.clone().live(id.clone(), pause, sender.clone());
            self.background.spawn(live).expect(full);
        }
        let identity = follow_identity(self.workload.clone(), self.state.clone(), sender);
        self.background.spawn(identity).expect(full);
        events
    }

    /// Waits for the identity and starts the command with it.
    async fn start(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        signals: &mut Signals,
        voice: &mut Voice<'_>,
    ) -> Result<(Job, Terminal), CliError> {
        let identity = self.first_identity(events, signals).await?;
        let text = format!(
            "window {} of {} is open until {}: you are {}",
            self.state.window_id,
            self.state.task,
            voice.time(self.state.closes_at),
            identity.svid.spiffe_id(),
        );
        voice.detail("open", &text, fields(&self.state));
        if let Some(files) = &mut self.files {
            files.write(&identity)?;
            let text = format!("the identity is in {}", files.dir().display());
            voice.detail("files", &text, json!({"dir": files.dir()}));
        }
        drop(identity);
        let cgroup = match Cgroup::make() {
            Ok(cgroup) if cgroup.path().to_str().is_some() => Some(cgroup),
            Ok(_) => None,
            Err(why) => {
                let text = format!("no cgroup for the command ({why}): it has a process group");
                voice.detail("no_cgroup", &text, json!({}));
                None
            }
        };
        // Before there is a child: what it leaves orphaned becomes ours from its first moment.
        nix::sys::prctl::set_child_subreaper(true).map_err(|errno| CliError::System {
            doing: "adopt the orphans of",
            path: "the command".into(),
            source: errno.into(),
        })?;
        let mut terminal = Terminal::open();
        let stage = command::Stage {
            parent: std::process::id(),
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
            terminal: terminal.is_for_command(),
            verbose: self.verbose,
            json: voice.is_json(),
        };
        let environment = environment(self.workload.address(), &self.state, self.files.as_ref());
        let child = command::start(&stage, self.command, environment)?;
        let job = Job::of(child.id(), cgroup);
        if stage.terminal {
            terminal.give(job.group());
        }
        Ok((job, terminal))
    }

    async fn first_identity(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        signals: &mut Signals,
    ) -> Result<Box<Identity>, CliError> {
        let mut unusable = None;
        let mut late = pin!(tokio::time::sleep(self.timeout));
        loop {
            tokio::select! {
                signal = signals.end() => return Err(codes::interrupted(signal)),
                () = &mut late => {
                    let what = unusable.unwrap_or_else(|| "the window is open, but has no identity".to_owned());
                    return Err(NOT_OPENED.of(CliError::failed(what, "the agent's log has the cause")));
                }
                event = events.recv() => match event {
                    Some(Event::Identity(identity)) => return Ok(identity),
                    Some(Event::Unusable(what)) => unusable = Some(what),
                    Some(event) => if let Some(why) = self.note(event) {
                        let text = format!("the window of {} ended before the command was started: {why}", self.state.task);
                        return Err(ENDED_EARLY.of(CliError::failed(text, "the record of the task has the cause")));
                    },
                    None => return Err(codes::interrupted(Signal::SIGPIPE)),
                },
            }
        }
    }

    /// Stays beside the command until it or its window is over.
    async fn attend(
        &mut self,
        job: &mut Job,
        terminal: &mut Terminal,
        events: &mut mpsc::Receiver<Event>,
        signals: &mut Signals,
        voice: &mut Voice<'_>,
    ) -> Over {
        let mut closes = self.deadline(voice.now());
        let mut away = false;
        loop {
            tokio::select! {
                // What ends by itself at the same moment as its window has ended by itself.
                biased;
                asked = signals.next() => match asked {
                    Asked::Child => for news in job.reap() {
                        match news {
                            News::Ended(ended) => return Over::Command(ended),
                            News::Stopped(signal) => terminal.stopped(job.group(), signal),
                        }
                    },
                    Asked::Forward(signal) => job.signal_main(signal),
                    Asked::Stop => job.signal_group(Signal::SIGTSTP),
                    Asked::Continue => job.signal_group(Signal::SIGCONT),
                },
                event = events.recv() => match event {
                    Some(Event::Identity(identity)) => self.renewed(&identity, job, voice),
                    Some(Event::NoIdentity) => if let Some(files) = &mut self.files {
                        files.clear();
                    },
                    Some(Event::Unusable(what)) => voice.say("unusable", &what, json!({})),
                    Some(Event::Away(status)) => if !std::mem::replace(&mut away, true) {
                        let text = format!("the agent is away ({}); the command goes on", status.message());
                        voice.say("agent_away", &text, fields(&self.state));
                    },
                    Some(event) => {
                        away = false;
                        let before = self.state.stage();
                        if let Some(why) = self.note(event) {
                            return Over::Window(why);
                        }
                        self.say_suspension(before, voice);
                        closes = self.deadline(voice.now());
                    }
                    None => return Over::Window("nobody follows it any more".to_owned()),
                },
                () = at(closes) => return Over::Window("its time is over".to_owned()),
            }
        }
    }

    /// Takes in what happened; why the window is over, if it is.
    fn note(&mut self, event: Event) -> Option<String> {
        match event {
            Event::State(state) => {
                self.state = *state;
                is_over(self.state.stage()).then(|| why(&self.state))
            }
            Event::Unknown(status) => Some(gone(&status)),
            Event::Away(_) | Event::Identity(_) | Event::NoIdentity | Event::Unusable(_) => None,
        }
    }

    fn renewed(&mut self, identity: &Identity, job: &Job, voice: &mut Voice<'_>) {
        if let Some(files) = &mut self.files
            && let Err(error) = files.write(identity)
        {
            voice.say(
                "not_written",
                &format!("the renewed identity is not in its files: {error}"),
                json!({}),
            );
            return;
        }
        let text = format!(
            "the identity is renewed, until {}",
            voice.time(identity.svid.not_after().unix())
        );
        voice.detail("renewed", &text, fields(&self.state));
        if let Some(signal) = self.rotate_signal {
            job.signal_main(signal);
        }
    }

    fn say_suspension(&mut self, before: Stage, voice: &mut Voice<'_>) {
        match (before, self.state.stage()) {
            (Stage::Suspended, Stage::Open) => {
                voice.say(
                    "resumed",
                    &format!("{} is resumed", self.state.task),
                    fields(&self.state),
                );
            }
            (Stage::Suspended, _) => {}
            (_, Stage::Suspended) => {
                if let Some(files) = &mut self.files {
                    files.clear();
                }
                let text = format!("{} is suspended: {}", self.state.task, why(&self.state));
                voice.say("suspended", &text, fields(&self.state));
            }
            _ => {}
        }
    }

    /// When the window is over by our own reckoning, on a clock that does not jump.
    fn deadline(&self, now: Timestamp) -> Option<Instant> {
        let closes = Timestamp::from_unix(self.state.closes_at);
        let left = closes.since(now).saturating_add(AFTER_CLOSE);
        (self.state.closes_at > 0)
            .then(|| Instant::now().checked_add(left))
            .flatten()
    }

    /// Says so, then ends what the command left.
    async fn command_ended(&self, ended: Ended, job: Job, signals: &mut Signals, voice: &mut Voice<'_>) {
        let well = ended == Ended::Exit(0);
        let detail = ended.to_string();
        let tell = self.tasks.end(&self.state.request_id, well, &detail);
        let mut tell = pin!(tokio::time::timeout(END_MOST, tell));
        let early = tokio::time::timeout(END_FIRST, &mut tell).await;
        let left = job.end(self.grace, signals).await;
        let told = match early {
            Ok(told) => told,
            Err(_) => tell.await,
        };
        match told {
            Ok(Ok(state)) => voice.detail("closed", &format!("the window is closed ({detail})"), fields(&state)),
            // It was over already, and nobody had told us yet.
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {}
            Ok(Err(status)) => say_untold(status.message(), &self.state, voice),
            Err(_) => say_untold("it does not answer", &self.state, voice),
        }
        say_stragglers(left, "left by the command", &self.state, voice);
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn gone(status: &Status) -> String {
    format!("the agent does not know it any more ({})", status.message())
}

fn say_untold(why: &str, state: &TaskState, voice: &mut Voice<'_>) {
    let text = format!("the agent was not told of the end ({why}); it closes the window when this process is gone");
    voice.say("untold", &text, fields(state));
}

fn say_stragglers(left: Stragglers, of: &str, state: &TaskState, voice: &mut Voice<'_>) {
    let count = |count: usize| {
        if count == 1 {
            "1 process".to_owned()
        } else {
            format!("{count} processes")
        }
    };
    if left.found > 0 {
        let text = format!("{} {of}; {} killed", count(left.found), left.killed);
        voice.detail("stragglers", &text, json!({"found": left.found, "killed": left.killed}));
    }
    if left.left > 0 {
        let text = format!("{} cannot be ended; without authority, but there", count(left.left));
        voice.say("left", &text, fields(state));
    }
}
