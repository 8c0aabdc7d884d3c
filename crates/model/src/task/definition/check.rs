//! What keeps a definition from being safe.

use std::time::Duration;

use super::{
    APPROVALS_MAX, ApprovalRule, BREAKGLASS_WINDOW_MAX, Definition, DefinitionProblem, HeartbeatRule, Limits,
    TTL_FLOOR, TTL_MAX, TaskClass, USES_MAX, WINDOW_MAX,
};
use crate::task::CheckpointRule;

impl Definition {
    /// Everything that keeps it from being safe; empty if nothing does.
    pub fn check(&self) -> Vec<DefinitionProblem> {
        let mut problems = vec![];
        let mut refuse = |field, problem: String| problems.push(DefinitionProblem { field, problem });
        self.check_texts(&mut refuse);
        self.check_limits(&mut refuse);
        self.check_approval(&mut refuse);
        problems
    }

    fn check_texts(&self, refuse: &mut impl FnMut(&'static str, String)) {
        for (field, text, max) in [
            ("description", &self.description, 4096),
            ("escalation", &self.escalation, 256),
            ("environment", &self.environment, 64),
        ] {
            if text.len() > max || text.chars().any(|c| c.is_control() && c != '\n') {
                refuse(field, format!("at most {max} bytes without control characters"));
            }
        }
        let words = [("scopes", &self.scopes), ("ticket.kinds", &self.ticket.kinds)];
        for (field, set) in words {
            let is_word = |word: &String| (1..=128).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic());
            if set.len() > 100 || !set.iter().all(is_word) {
                refuse(
                    field,
                    "at most 100, each 1 to 128 printable ASCII characters without space".into(),
                );
            }
        }
        let checkpoints = &self.ending.checkpoints;
        if checkpoints.len() > 100 || checkpoints.iter().any(|rule| rule.len() > 1024) {
            refuse("ending.checkpoints", "at most 100, each at most 1024 bytes".into());
        }
        for error in checkpoints.iter().filter_map(|rule| CheckpointRule::parse(rule).err()) {
            refuse("ending.checkpoints", error.to_string());
        }
        if self.allowed.workloads.is_empty() {
            refuse("allowed.workloads", "nobody may run it; name at least one path".into());
        }
        for path in &self.allowed.workloads {
            if matches!(path.first_segment(), "spire" | "task" | "breakglass") {
                refuse(
                    "allowed.workloads",
                    format!("`{path}` is a reserved path: a task is run by who a workload is, not by another task"),
                );
            }
        }
    }

    fn check_limits(&self, refuse: &mut impl FnMut(&'static str, String)) {
        let Limits {
            max_window,
            max_ttl,
            max_uses,
            concurrency,
            evidence_max_age,
            request_ttl,
            open_within,
        } = &self.limits;
        let shown = |duration: Duration| humantime::format_duration(duration).to_string();
        let cap = match self.class {
            TaskClass::Standard => WINDOW_MAX,
            TaskClass::Breakglass => BREAKGLASS_WINDOW_MAX,
        };
        let mut within = |field, value: Duration, least: Duration, most: Duration| {
            let whole = value.subsec_nanos() == 0;
            if value < least || value > most || !whole {
                let (value, least, most) = (shown(value), shown(least), shown(most));
                refuse(
                    field,
                    format!("{value} is not whole seconds between {least} and {most}"),
                );
            }
        };
        let week = Duration::from_secs(7 * 86_400);
        within("limits.max_window", *max_window, TTL_FLOOR, cap);
        within("limits.max_ttl", *max_ttl, TTL_FLOOR, TTL_MAX);
        within(
            "limits.evidence_max_age",
            *evidence_max_age,
            Duration::from_secs(1),
            WINDOW_MAX,
        );
        within("limits.request_ttl", *request_ttl, Duration::from_secs(1), week);
        within("limits.open_within", *open_within, Duration::from_secs(1), week);
        within(
            "approval.valid_for",
            self.approval.valid_for,
            Duration::from_secs(1),
            week,
        );
        if let Some(HeartbeatRule { interval, missed }) = &self.heartbeat {
            within(
                "heartbeat.interval",
                *interval,
                Duration::from_secs(1),
                Duration::from_secs(3600),
            );
            if !(1..=100).contains(missed) {
                refuse("heartbeat.missed", "between 1 and 100".into());
            }
        }
        if !(1..=USES_MAX).contains(max_uses) {
            refuse("limits.max_uses", format!("between 1 and {USES_MAX}"));
        }
        if !(1..=1000).contains(concurrency) {
            refuse("limits.concurrency", "between 1 and 1000".into());
        }
        if self.sensitivity > 3 {
            refuse("sensitivity", "between 0 and 3".into());
        }
    }

    fn check_approval(&self, refuse: &mut impl FnMut(&'static str, String)) {
        let ApprovalRule {
            count,
            groups,
            distinct_groups,
            valid_for: _,
        } = &self.approval;
        if *count > APPROVALS_MAX {
            refuse("approval.count", format!("at most {APPROVALS_MAX}"));
        }
        if *count > 0 && groups.is_empty() {
            refuse(
                "approval.groups",
                "approvals are wanted, but of nobody; name at least one group".into(),
            );
        }
        if *count == 0 && !groups.is_empty() {
            refuse(
                "approval.count",
                "groups are named, but no approval is wanted; say how many".into(),
            );
        }
        if let Some(distinct) = distinct_groups
            && (!(1..=*count).contains(distinct) || usize::try_from(*distinct).is_ok_and(|n| n > groups.len()))
        {
            refuse(
                "approval.distinct_groups",
                "more than there are approvals or groups, or none".into(),
            );
        }
        if *count == 0 && self.sensitivity >= 2 {
            refuse(
                "approval.count",
                "a task of sensitivity 2 or 3 needs at least one approval".into(),
            );
        }
        if self.class == TaskClass::Breakglass {
            if *count == 0 {
                refuse("approval.count", "break-glass needs at least one approval".into());
            }
            if !self.ticket.required {
                refuse("ticket.required", "break-glass needs a ticket; set it to true".into());
            }
            if self.limits.max_uses != 1 {
                refuse("limits.max_uses", "break-glass is opened once for each approval".into());
            }
            if self.escalation.is_empty() {
                refuse("escalation", "break-glass has to say whom to tell".into());
            }
        }
    }
}
