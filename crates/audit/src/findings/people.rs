//! How people agree.

use std::collections::BTreeMap;

use super::finding;
use crate::Replay;
use crate::finding::{Finding, Severity, Thresholds};
use crate::meter::{DAY, Distribution, View};
use crate::report::ApproverRow;
use crate::span::permille;

/// What somebody answered within the period.
#[derive(Default)]
struct Answers {
    latencies: Vec<i64>,
    refused: u64,
    self_group: u64,
    evidence: Vec<u64>,
    since: Option<i64>,
}

/// Everybody who answered, with the entries that show it and when it began.
pub(crate) fn approvers(replay: &Replay, view: &View) -> Vec<(ApproverRow, Vec<u64>, i64)> {
    let mut people: BTreeMap<String, Answers> = BTreeMap::new();
    let details = replay.details();
    for request in view.all_requests(replay) {
        for approval in request.approvals.iter().filter(|approval| view.has(approval.at)) {
            let answers = people.entry(details.show(&approval.person)).or_default();
            answers.latencies.push(approval.latency);
            answers.self_group += u64::from(!approval.groups.is_disjoint(&request.person_groups));
            answers.evidence.push(approval.index);
            answers.since = Some(answers.since.unwrap_or(i64::MAX).min(approval.at));
        }
        if let Some(refused) = request.refused.as_ref().filter(|refused| view.has(refused.at)) {
            people.entry(details.show(&refused.by)).or_default().refused += 1;
        }
    }
    let row = |(person, answers): (String, Answers)| {
        let Answers {
            latencies,
            refused,
            self_group,
            mut evidence,
            since,
        } = answers;
        let approved = latencies.len() as u64;
        let share = |part: u64, whole: u64| {
            permille(
                i64::try_from(part).unwrap_or(i64::MAX),
                i64::try_from(whole).unwrap_or(i64::MAX),
            )
        };
        let mut row = ApproverRow {
            person,
            approved,
            refused,
            approved_permille: share(approved, approved + refused),
            latency: Distribution::of(latencies),
            self_group_permille: share(self_group, approved),
            flag: None,
        };
        row.flag = flag(&row, &view.thresholds).map(|(code, _)| code.to_owned());
        evidence.sort_unstable();
        (row, evidence, since.unwrap_or(view.from))
    };
    people.into_iter().map(row).collect()
}

fn flag(row: &ApproverRow, limits: &Thresholds) -> Option<(&'static str, Severity)> {
    let is_often = row.approved >= limits.approval_count;
    if is_often && row.latency.p50 < limits.approval_seconds {
        return Some(("rubber-stamping", Severity::Medium));
    }
    if is_often && row.self_group_permille >= limits.self_group_permille {
        return Some(("self-group-approvals", Severity::Low));
    }
    (row.refused == 0 && row.approved >= limits.never_refused).then_some(("never-refuses", Severity::Low))
}

pub(super) fn findings(replay: &Replay, view: &View) -> Vec<Finding> {
    let mut findings = vec![];
    for (row, evidence, since) in approvers(replay, view) {
        if let Some((code, severity)) = flag(&row, &view.thresholds) {
            let message = match code {
                "rubber-stamping" => format!(
                    "agreed {} times and refused {} times, half of it within {} s of being asked",
                    row.approved, row.refused, row.latency.p50
                ),
                "never-refuses" => format!("agreed {} times and never refused", row.approved),
                _ => format!(
                    "{} ‰ of {} approvals were for people of their own groups",
                    row.self_group_permille, row.approved
                ),
            };
            findings.push(finding(code, severity, &row.person, since, message, evidence));
        }
    }
    findings.extend(break_glass(replay, view));
    findings
}

fn break_glass(replay: &Replay, view: &View) -> Vec<Finding> {
    let limits = &view.thresholds;
    let mut findings = vec![];
    let mut uses: BTreeMap<&str, Vec<(i64, u64)>> = BTreeMap::new();
    for window in view.windows(replay).filter(|window| window.is_breakglass) {
        if view.has(window.opened_at) {
            uses.entry(&window.task)
                .or_default()
                .push((window.opened_at, window.index));
        }
        let reviewed = replay
            .requests()
            .find(|request| request.id == window.request)
            .and_then(|request| request.reviewed.as_ref());
        let due = window
            .ended
            .as_ref()
            .map_or(window.closes_at, |ended| ended.at)
            .saturating_add(limits.review_within);
        if reviewed.map_or(view.to, |reviewed| reviewed.at) > due {
            let when = match reviewed {
                Some(reviewed) => format!("only {} h after it was due", reviewed.at.saturating_sub(due) / 3600),
                None => "never".to_owned(),
            };
            let message = format!("an emergency of {} was looked at {when}", window.task);
            let severity = if reviewed.is_some() {
                Severity::Low
            } else {
                Severity::Medium
            };
            findings.push(finding(
                "break-glass-unreviewed",
                severity,
                &window.id,
                due,
                message,
                vec![window.index],
            ));
        }
    }
    for (task, uses) in uses {
        if uses.len() as u64 >= limits.breakglass_uses {
            let message = format!("{} was used {} times in {} days", task, uses.len(), view.period() / DAY);
            let evidence = uses.iter().map(|(_, index)| *index).collect();
            let since = uses.iter().map(|(at, _)| *at).min().unwrap_or(view.from);
            findings.push(finding(
                "break-glass-frequent",
                Severity::Medium,
                task,
                since,
                message,
                evidence,
            ));
        }
    }
    findings
}
