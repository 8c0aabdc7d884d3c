//! From the question to the open window, with people in between.
//!
//! A request that waits is kept by the server: whoever stops waiting loses nothing, and the same command line finds the
//! same request again.

use std::time::Duration;

use mayfly_proto::mayfly::workload::{RequestRequest, Stage, TaskState};
use mayfly_runtime::TaskSet;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::{Event, Tasks};
use super::codes::{self, NOT_OPENED, REFUSED};
use super::signals::Signals;
use super::voice::{Voice, fields, why};
use crate::errors::CliError;
use crate::values;

/// What became of the question.
pub(super) enum Answer {
    /// The window is open for this process.
    Open(Box<TaskState>),
    /// It waits, and we do not.
    Parked,
}

/// Everything that asking needs.
pub(super) struct Asking<'a> {
    pub(super) tasks: &'a Tasks,
    /// The agent's socket, for messages.
    pub(super) endpoint: &'a str,
    pub(super) request: RequestRequest,
    /// Whether to stay while it waits.
    pub(super) wait: bool,
    /// The command line, to come back with.
    pub(super) again: String,
    pub(super) background: &'a TaskSet,
}

impl Asking<'_> {
    /// Asks, waits, opens.
    ///
    /// # Errors
    /// It is refused, came to nothing, or the agent is not there; with its exit code.
    pub(super) async fn open(&self, signals: &mut Signals, voice: &mut Voice<'_>) -> Result<Answer, CliError> {
        let mut state = self.ask().await?;
        let mut opened = false;
        loop {
            match state.stage() {
                Stage::Denied => return Err(refused(&state)),
                Stage::AwaitingTicket | Stage::AwaitingApproval => match self.wait(state, signals, voice).await? {
                    Some(next) => state = next,
                    None => return Ok(Answer::Parked),
                },
                Stage::Armed if opened => {
                    return Err(not_opened("the agent did not open it", "look at the agent's log"));
                }
                Stage::Armed => {
                    voice.detail(
                        "armed",
                        &format!("request {} is ready", state.request_id),
                        fields(&state),
                    );
                    let answer = self.tasks.open(&state.request_id).await;
                    let failed = |status| codes::of_status(status, "open the window", self.endpoint, NOT_OPENED);
                    state = answer.map_err(failed)?;
                    opened = true;
                }
                Stage::Open if opened => return Ok(Answer::Open(Box::new(state))),
                Stage::Open | Stage::Suspended => {
                    return Err(not_opened(
                        &format!("request {} is in use by another process", state.request_id),
                        "wait for its end, or ask for one of your own with --key",
                    ));
                }
                Stage::Closed | Stage::Settled | Stage::Lapsed => {
                    return Err(not_opened(
                        &format!("request {} is over: {}", state.request_id, why(&state)),
                        "--key with another value asks anew",
                    ));
                }
                Stage::Unspecified => {
                    return Err(not_opened(
                        "the agent knows a state that we do not",
                        "use programs of one version",
                    ));
                }
            }
        }
    }

    async fn ask(&self) -> Result<TaskState, CliError> {
        let answer = self.tasks.request(&self.request).await;
        // What the agent cannot make sense of, such as an unknown task, it refuses as well.
        answer.map_err(|status| codes::of_status(status, "ask for the task", self.endpoint, REFUSED))
    }

    /// Waits for the next stage; `None` if it is not for us to wait.
    async fn wait(
        &self,
        mut state: TaskState,
        signals: &mut Signals,
        voice: &mut Voice<'_>,
    ) -> Result<Option<TaskState>, CliError> {
        self.tell(None, &state, voice);
        if !self.wait {
            self.park(&state, "it is not waited for", voice);
            return Ok(None);
        }
        let since = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut events = self.follow(&state.request_id);
        let mut away = false;
        loop {
            tokio::select! {
                signal = signals.end() => {
                    self.park(&state, &format!("{signal} ended the waiting"), voice);
                    return Ok(None);
                }
                _ = tick.tick() => voice.live(&format!(
                    "waiting for {}, {}; ctrl-C leaves it parked",
                    waits_for(&state, &self.request.ticket),
                    values::span(since.elapsed()),
                )),
                event = events.recv() => match event {
                    Some(Event::State(next)) => {
                        if !matches!(next.stage(), Stage::AwaitingTicket | Stage::AwaitingApproval) {
                            return Ok(Some(*next));
                        }
                        if std::mem::take(&mut away) {
                            voice.say("agent_back", "the agent is back", fields(&next));
                        }
                        if *next != state {
                            self.tell(Some(&state), &next, voice);
                            state = *next;
                        }
                    }
                    Some(Event::Away(status)) if !away => {
                        let text = format!("the agent is away ({}); waiting for it", status.message());
                        voice.say("agent_away", &text, fields(&state));
                        away = true;
                    }
                    Some(Event::Unknown(_)) | None => {
                        // An agent that was started anew does not know us; the server knows the request.
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        let next = self.ask().await?;
                        if !matches!(next.stage(), Stage::AwaitingTicket | Stage::AwaitingApproval) {
                            return Ok(Some(next));
                        }
                        events = self.follow(&next.request_id);
                        state = next;
                    }
                    Some(_) => {}
                },
            }
        }
    }

    fn follow(&self, id: &str) -> mpsc::Receiver<Event> {
        // When full, the follower waits: states are few.
        let (sender, receiver) = mpsc::channel(16);
        let follow = self.tasks.clone().follow(id.to_owned(), sender);
        self.background
            .spawn(follow)
            .expect("the set is larger than what is followed");
        receiver
    }

    fn tell(&self, before: Option<&TaskState>, state: &TaskState, voice: &mut Voice<'_>) {
        let what = waits_for(state, &self.request.ticket);
        let until = match state.expires_at {
            0 => String::new(),
            at => format!(", until {}", voice.time(at)),
        };
        voice.say(
            "waiting",
            &format!("{} waits for {what}{until}", state.task),
            fields(state),
        );
        if !state.message.is_empty() && before.is_none_or(|before| before.message != state.message) {
            voice.say("message", &state.message, fields(state));
        }
        if before.is_none_or(|before| before.digest != state.digest) {
            let text = format!("request {}, digest {}", state.request_id, state.digest);
            voice.say("request", &text, fields(state));
        }
        let people = Stage::AwaitingApproval;
        if state.stage() == people && before.is_none_or(|before| before.stage() != people) {
            let text = format!("to approve it: mayfly task approve {}", state.request_id);
            voice.say("approve", &text, fields(state));
        }
    }

    fn park(&self, state: &TaskState, why: &str, voice: &mut Voice<'_>) {
        let text = format!("{why}; request {} stays parked", state.request_id);
        voice.say("parked", &text, fields(state));
        voice.say("again", &format!("to come back: {}", self.again), fields(state));
    }
}

/// What it waits for: `2 approvals of dba or sre`, `ticket OPS-7`.
fn waits_for(state: &TaskState, ticket: &str) -> String {
    if state.stage() == Stage::AwaitingTicket {
        return match ticket {
            "" => "a ticket (--ticket names one)".to_owned(),
            ticket => format!("ticket {ticket}"),
        };
    }
    let count = match state.approvals_missing {
        1 => "1 approval".to_owned(),
        many => format!("{many} approvals"),
    };
    match state.approver_groups.as_slice() {
        [] => count,
        groups => format!("{count} of {}", groups.join(" or ")),
    }
}

fn refused(state: &TaskState) -> CliError {
    let what = format!("{} is refused: {}", state.task, why(state));
    REFUSED.of(CliError::failed(
        what,
        format!("the record has it under request {}", state.request_id),
    ))
}

fn not_opened(what: &str, hint: &str) -> CliError {
    NOT_OPENED.of(CliError::failed(what, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_for_whom_it_waits() {
        let mut state = TaskState {
            stage: Stage::AwaitingApproval.into(),
            approvals_missing: 2,
            approver_groups: vec!["dba".into(), "sre".into()],
            ..TaskState::default()
        };
        assert_eq!(waits_for(&state, ""), "2 approvals of dba or sre");
        state.approvals_missing = 1;
        state.approver_groups.clear();
        assert_eq!(waits_for(&state, ""), "1 approval");
        state.set_stage(Stage::AwaitingTicket);
        assert_eq!(waits_for(&state, "OPS-7"), "ticket OPS-7");
        assert_eq!(waits_for(&state, ""), "a ticket (--ticket names one)");
    }
}
