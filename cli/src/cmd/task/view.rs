//! How requests, windows and decisions are shown: JSON with stable keys, rows of tables, blocks.

mod window;

use std::collections::BTreeMap;

use mayfly_proto::mayfly::task::{Approval, Decision, Task};
use mayfly_svid::Timestamp;
use serde::{Serialize, Serializer};

use crate::output::{Field, Output, visible_line};
use crate::values;
pub(crate) use window::WindowView;

/// Digits of a hash or digest that are enough for people, and for the server.
pub(crate) const SHORT: usize = 12;

/// An instant of the wire, where 0 is none. RFC 3339 in UTC or null in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At(pub(crate) Option<Timestamp>);

/// A request and all that came of it. The field names are the keys of the JSON form.
#[derive(Debug, Serialize)]
pub(crate) struct TaskView {
    pub(crate) request_id: String,
    pub(crate) digest: String,
    pub(crate) task: String,
    pub(crate) definition_hash: String,
    pub(crate) stage: String,
    pub(crate) workload: String,
    agent_id: String,
    pub(crate) person: String,
    pub(crate) reason: String,
    pub(crate) ticket: String,
    scopes: Vec<String>,
    parameters: BTreeMap<String, String>,
    pub(crate) window_seconds: u32,
    pub(crate) requested_at: At,
    expires_at: At,
    pub(crate) approvals_needed: u32,
    approver_groups: Vec<String>,
    pub(crate) approvals: Vec<ApprovalView>,
    pub(crate) decisions: Vec<DecisionView>,
    pub(crate) windows: Vec<WindowView>,
    uses_left: u32,
    message: String,
    pub(crate) review_due: bool,
}

/// Somebody who agreed.
#[derive(Debug, Serialize)]
pub(crate) struct ApprovalView {
    pub(crate) person: String,
    groups: Vec<String>,
    authenticated_as: String,
    reason: String,
    at: At,
    valid_until: At,
}

/// What policy said.
#[derive(Debug, Serialize)]
pub(crate) struct DecisionView {
    pub(crate) phase: String,
    pub(crate) allowed: bool,
    reasons: Vec<String>,
    determining: Vec<String>,
    policy_digest: String,
    inputs_digest: String,
    at: At,
}

/// The first digits of a hash.
pub(crate) fn short(hash: &str) -> &str {
    hash.get(..SHORT).unwrap_or(hash)
}

/// A length of time as one would write it.
pub(super) fn seconds(seconds: u32) -> String {
    i32::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map_or_else(|| format!("{seconds}s"), values::ttl_text)
}

/// A SPIFFE ID without scheme and trust domain, where a column has no room for them.
pub(super) fn path_of(id: &str) -> &str {
    let rest = id.strip_prefix("spiffe://").unwrap_or(id);
    rest.find('/').map_or(id, |slash| &rest[slash..])
}

// === impl At ===

impl At {
    /// Of a field of the wire.
    pub(crate) fn of(unix: i64) -> Self {
        Self((unix != 0).then(|| Timestamp::from_unix(unix)))
    }

    /// `5 min ago`; empty if there is none.
    pub(crate) fn relative(self, now: Timestamp) -> String {
        self.0.map(|time| values::relative(time, now)).unwrap_or_default()
    }

    /// Absolute and relative; empty if there is none.
    pub(crate) fn full(self, out: &Output, now: Timestamp) -> String {
        self.0.map(|time| out.time(time, now)).unwrap_or_default()
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.map(|time| time.to_string()).serialize(serializer)
    }
}

// === impl TaskView ===

impl TaskView {
    /// The view of what the server sent.
    pub(crate) fn of(task: Task) -> Self {
        Self {
            request_id: task.request_id,
            digest: task.digest,
            task: task.task,
            definition_hash: task.definition_hash,
            stage: task.stage,
            workload: task.workload,
            agent_id: task.agent_id,
            person: task.person,
            reason: task.reason,
            ticket: task.ticket,
            scopes: task.scopes,
            parameters: task.parameters,
            window_seconds: task.window_seconds,
            requested_at: At::of(task.requested_at),
            expires_at: At::of(task.expires_at),
            approvals_needed: task.approvals_needed,
            approver_groups: task.approver_groups,
            approvals: task.approvals.into_iter().map(ApprovalView::of).collect(),
            decisions: task.decisions.into_iter().map(DecisionView::of).collect(),
            windows: task.windows.into_iter().map(WindowView::of).collect(),
            uses_left: task.uses_left,
            message: task.message,
            review_due: task.review_due,
        }
    }

    /// Who is behind it: the person, else the workload.
    pub(crate) fn who(&self) -> String {
        if self.person.is_empty() {
            path_of(&self.workload).to_owned()
        } else {
            format!("{} ({})", self.person, path_of(&self.workload))
        }
    }

    /// Why, in one line: the ticket, then the words.
    pub(crate) fn why(&self) -> String {
        match (self.ticket.is_empty(), self.reason.is_empty()) {
            (true, _) => visible_line(&self.reason),
            (false, true) => visible_line(&self.ticket),
            (false, false) => visible_line(&format!("{}: {}", self.ticket, self.reason)),
        }
    }

    /// What is asked for and by whom: what an approver has to know of it.
    pub(crate) fn asked(&self, out: &Output, now: Timestamp) -> Vec<Field> {
        let mut fields = vec![
            ("Request", self.request_id.clone()),
            ("Task", self.task.clone()),
            ("Stage", self.stage_shown()),
            ("Asked by", self.workload.clone()),
            ("On node", self.agent_id.clone()),
        ];
        if !self.person.is_empty() {
            fields.push(("Person", self.person.clone()));
        }
        fields.push(("Asked", self.requested_at.full(out, now)));
        fields.push(("Reason", visible_line(&self.reason)));
        if !self.ticket.is_empty() {
            fields.push(("Ticket", visible_line(&self.ticket)));
        }
        fields.push((
            "Scopes",
            self.scopes
                .iter()
                .map(|s| visible_line(s))
                .collect::<Vec<_>>()
                .join("\n"),
        ));
        let parameters = self.parameters.iter();
        let parameters: Vec<_> = parameters
            .map(|(name, value)| visible_line(&format!("{name} = {value}")))
            .collect();
        if !parameters.is_empty() {
            fields.push(("Parameters", parameters.join("\n")));
        }
        fields.push(("Window", seconds(self.window_seconds)));
        fields.push(("Approvals", self.approvals_shown(now)));
        if self.expires_at.0.is_some() {
            fields.push(("Until", self.expires_at.full(out, now)));
        }
        fields.push(("Digest", self.digest.clone()));
        fields
    }

    /// Everything, for a block.
    pub(crate) fn fields(&self, out: &Output, now: Timestamp) -> Vec<Field> {
        let mut fields = self.asked(out, now);
        fields.push(("Definition", self.definition_hash.clone()));
        if self.uses_left > 0 {
            fields.push(("Uses left", self.uses_left.to_string()));
        }
        if !self.message.is_empty() {
            fields.push(("Outcome", visible_line(&self.message)));
        }
        if self.review_due {
            fields.push((
                "Review",
                format!("due: mayfly task review {} --reason …", self.request_id),
            ));
        }
        for decision in &self.decisions {
            fields.push(("Decision", decision.lines(now)));
        }
        for window in &self.windows {
            fields.push(("Window", window.lines(now)));
        }
        fields
    }

    fn stage_shown(&self) -> String {
        if self.review_due {
            format!("{}, review is due", self.stage)
        } else {
            self.stage.clone()
        }
    }

    fn approvals_shown(&self, now: Timestamp) -> String {
        let mut lines = vec![match (self.approvals_needed, self.approver_groups.is_empty()) {
            (0, _) => "none needed".to_owned(),
            (needed, true) => format!("{} of {needed}", self.approvals.len()),
            (needed, false) => format!(
                "{} of {needed}, by {}",
                self.approvals.len(),
                self.approver_groups.join(" or ")
            ),
        }];
        lines.extend(self.approvals.iter().map(|approval| approval.line(now)));
        lines.join("\n")
    }
}

// === impl ApprovalView ===

impl ApprovalView {
    fn of(approval: Approval) -> Self {
        Self {
            person: approval.person,
            groups: approval.groups,
            authenticated_as: approval.authenticated_as,
            reason: approval.reason,
            at: At::of(approval.at),
            valid_until: At::of(approval.valid_until),
        }
    }

    fn line(&self, now: Timestamp) -> String {
        let groups = if self.groups.is_empty() {
            String::new()
        } else {
            format!(" of {}", self.groups.join(", "))
        };
        let until = match self.valid_until.0 {
            Some(until) if until < now => format!(", lapsed {}", self.valid_until.relative(now)),
            Some(until) => format!(", counts for {}", values::span(until.since(now))),
            None => String::new(),
        };
        visible_line(&format!(
            "{}{groups} ({}) {}{until}: {}",
            self.person,
            self.authenticated_as,
            self.at.relative(now),
            self.reason
        ))
    }
}

// === impl DecisionView ===

impl DecisionView {
    /// The view of what the server sent.
    pub(crate) fn of(decision: Decision) -> Self {
        Self {
            phase: decision.phase,
            allowed: decision.allowed,
            reasons: decision.reasons,
            determining: decision.determining,
            policy_digest: decision.policy_digest,
            inputs_digest: decision.inputs_digest,
            at: At::of(decision.at),
        }
    }

    /// In words, a line for each thing that it rests on.
    pub(crate) fn lines(&self, now: Timestamp) -> String {
        let verdict = if self.allowed { "allowed" } else { "not allowed" };
        let mut lines = vec![
            format!("{} {verdict} {}", self.phase, self.at.relative(now))
                .trim_end()
                .to_owned(),
        ];
        lines.extend(
            self.reasons
                .iter()
                .map(|reason| format!("  because {}", visible_line(reason))),
        );
        if !self.determining.is_empty() {
            lines.push(format!("  by {}", visible_line(&self.determining.join(", "))));
        }
        lines.push(format!(
            "  policy {}, inputs {}",
            short(&self.policy_digest),
            short(&self.inputs_digest)
        ));
        lines.join("\n")
    }
}
