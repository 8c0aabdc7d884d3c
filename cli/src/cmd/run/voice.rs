//! What `mayfly run` says while it runs. stdout is the command's alone, so all of it goes to stderr.

use mayfly_proto::mayfly::workload::{Stage, TaskState};
use mayfly_svid::Timestamp;
use serde_json::{Value, json};

use crate::Context;
use crate::output::visible_line;

/// The way to say something.
pub(super) struct Voice<'a> {
    context: &'a mut Context,
    verbose: bool,
}

impl<'a> Voice<'a> {
    /// Through the output of `context`; details with `verbose` only.
    pub(super) fn of(context: &'a mut Context, verbose: bool) -> Self {
        Self { context, verbose }
    }

    /// What one has to know. `event` is the stable word for programs, `fields` what belongs to it.
    pub(super) fn say(&mut self, event: &str, text: &str, fields: Value) {
        if self.context.out.is_json() {
            let now = self.context.now().to_string();
            let mut all = json!({"event": event, "time": now, "message": text});
            if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
                all.extend(fields);
            }
            self.context.out.note_json(&all);
        } else {
            self.context.out.note(format!("mayfly: {}", visible_line(text)));
        }
    }

    /// What only helps to understand.
    pub(super) fn detail(&mut self, event: &str, text: &str, fields: Value) {
        if self.verbose {
            self.say(event, text, fields);
        }
    }

    /// The line that is redrawn.
    pub(super) fn live(&mut self, text: &str) {
        if !self.context.out.is_json() {
            self.context.out.live(text);
        }
    }

    /// Whether it speaks to programs.
    pub(super) fn is_json(&self) -> bool {
        self.context.out.is_json()
    }

    /// The present moment.
    pub(super) fn now(&self) -> Timestamp {
        self.context.now()
    }

    /// A moment of the wire for people: absolute and from now.
    pub(super) fn time(&self, unix: i64) -> String {
        self.context.out.time(Timestamp::from_unix(unix), self.context.now())
    }
}

/// The stable words of a state.
pub(super) fn fields(state: &TaskState) -> Value {
    json!({
        "request_id": state.request_id,
        "task": state.task,
        "stage": stage(state.stage()),
        "reasons": state.reasons,
        "approvals_missing": state.approvals_missing,
        "approver_groups": state.approver_groups,
        "digest": state.digest,
        "window_id": state.window_id,
        "spiffe_id": state.spiffe_id,
        "closes_at": state.closes_at,
        "expires_at": state.expires_at,
    })
}

/// Why, as the agent says it: for people, else by its stable words.
pub(super) fn why(state: &TaskState) -> String {
    let reasons = state.reasons.join(", ");
    match (state.message.as_str(), reasons.as_str()) {
        ("", "") => stage(state.stage()).to_owned(),
        ("", reasons) => visible_line(reasons),
        (message, "") => visible_line(message),
        (message, reasons) => visible_line(&format!("{message} ({reasons})")),
    }
}

/// A stage in lower case.
pub(super) fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Unspecified => "unknown",
        Stage::Denied => "denied",
        Stage::AwaitingTicket => "awaiting-ticket",
        Stage::AwaitingApproval => "awaiting-approval",
        Stage::Armed => "armed",
        Stage::Open => "open",
        Stage::Suspended => "suspended",
        Stage::Closed => "closed",
        Stage::Settled => "settled",
        Stage::Lapsed => "lapsed",
    }
}
