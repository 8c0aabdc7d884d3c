//! Standing authority, who answers for it, and who does not enforce.

use std::collections::{BTreeMap, BTreeSet};

use super::finding;
use crate::Replay;
use crate::finding::{Finding, Scope, Severity};
use crate::meter::{DAY, View, declared};
use crate::replay::{Exception, Privileged, Probe};
use crate::span::{Span, merged, within, without};

/// How long a consumer may be away that definitions rely on.
const GONE: i64 = DAY;

/// When an identity had privileges of its own within the period and no exception said why. What follows an exception
/// that expired counts here as well.
pub(crate) fn uncovered(held: &Privileged, replay: &Replay, view: &View) -> Vec<Span> {
    let begin = held.since.saturating_add(view.thresholds.exception_grace);
    let span = within(&[(begin, held.until.unwrap_or(i64::MAX))], view.frame());
    let exceptions = covering(held, replay).flat_map(Exception::in_force).collect();
    without(&span, &merged(exceptions))
}

fn covering<'a>(held: &'a Privileged, replay: &'a Replay) -> impl Iterator<Item = &'a Exception> {
    replay.exceptions().filter(move |exception| exception.covers(held))
}

pub(super) fn findings(replay: &Replay, view: &View) -> Vec<Finding> {
    let mut findings = vec![];
    for held in replay
        .privileged()
        .iter()
        .filter(|held| view.scope.means_identity(&held.spiffe_id))
    {
        findings.extend(of_privileged(held, replay, view));
    }
    for exception in replay.exceptions() {
        let owner = replay.details().show(&exception.owner);
        let is_meant = view.scope.means_identity(&exception.identity) || view.scope == Scope::Owner(owner);
        if is_meant {
            findings.extend(of_exception(exception, replay, view));
        }
    }
    findings.extend(bolted_on(replay, view));
    findings.extend(of_definitions(replay, view));
    findings.extend(of_checkpoints(replay, view));
    findings.extend(of_probes(replay, view));
    findings
}

fn of_privileged(held: &Privileged, replay: &Replay, view: &View) -> Option<Finding> {
    // What follows an exception that expired is told with the exception.
    let is_told = |span: &Span| {
        let mut expired = covering(held, replay).filter(|exception| is_expired(exception, view));
        expired.any(|exception| exception.expires_at() <= span.0)
    };
    let spans: Vec<Span> = uncovered(held, replay, view)
        .into_iter()
        .filter(|span| !is_told(span))
        .collect();
    let since = spans.first()?.0.min(held.since.max(view.from));
    let rights: Vec<&str> = held.rights.iter().copied().collect();
    let message = format!(
        "the registration entry {} makes this identity `{}` without a request, and no exception says why",
        held.entry_id,
        rights.join("` and `")
    );
    let code = "privileged-base-identity";
    Some(finding(
        code,
        Severity::High,
        &held.spiffe_id,
        since,
        message,
        vec![held.index],
    ))
}

/// Whether an exception is over at the end of the period, and nobody renewed or ended it.
fn is_expired(exception: &Exception, view: &View) -> bool {
    exception.granted_at < view.to && exception.ended.is_none() && exception.expires_at() <= view.to
}

fn of_exception(exception: &Exception, replay: &Replay, view: &View) -> Vec<Finding> {
    let mut findings = vec![];
    let owner = replay.details().show(&exception.owner);
    let mut evidence = vec![exception.index];
    evidence.extend(exception.expired.map(|(_, index)| index));
    if is_expired(exception, view) {
        let is_held =
            |held: &&Privileged| held.spiffe_id == exception.identity && held.until.is_none_or(|until| until > view.to);
        let holds = replay.privileged().iter().find(is_held);
        let severity = if holds.is_some() {
            Severity::High
        } else {
            Severity::Medium
        };
        let rest = match holds {
            Some(held) => {
                evidence.push(held.index);
                "the identity still has its privileges"
            }
            None => "nobody renewed or ended it",
        };
        let message = format!(
            "the exception {} for {}, which {owner} answers for, expired {} days before the end of the period, and {rest}",
            exception.id,
            exception.identity,
            view.to.saturating_sub(exception.expires_at()) / DAY
        );
        let since = exception.expires_at();
        findings.push(finding(
            "expired-exception",
            severity,
            &exception.id,
            since,
            message,
            evidence.clone(),
        ));
    }
    let longest = exception
        .spans
        .iter()
        .map(|(from, to)| to.saturating_sub(*from))
        .max()
        .unwrap_or_default();
    let was_in_force = exception.granted_at < view.to && exception.expires_at() > view.from;
    if longest > view.thresholds.exception_max && was_in_force {
        let message = format!("the exception {} is for {} days", exception.id, longest / DAY);
        let code = "exception-too-long";
        findings.push(finding(
            code,
            Severity::Medium,
            &exception.id,
            exception.granted_at,
            message,
            evidence,
        ));
    }
    findings
}

/// A task is no control over what somebody has anyway (S5): one finding for each task and identity.
fn bolted_on(replay: &Replay, view: &View) -> Vec<Finding> {
    let holders = holders(replay, view);
    let mut findings = vec![];
    for definition in replay.definitions().filter(|definition| definition.until.is_none()) {
        let owner = replay.details().show(&definition.owner);
        for (identity, holder) in &holders {
            let has = |scope: &&str| definition.scopes.contains(*scope);
            let common: Vec<&str> = holder.scopes.iter().copied().filter(has).collect();
            if common.is_empty() || !view.scope.means(&definition.name, identity, &owner) {
                continue;
            }
            let (who, what) = match definition.allows(identity) {
                true => ("may run it, and", "the task adds nothing"),
                false => ("may not run it, and", "there is a way around the task"),
            };
            let message = format!(
                "{identity} {who} has `{}` without a window: {what}",
                common.join("`, `")
            );
            let mut evidence = vec![definition.index];
            evidence.extend(&holder.evidence);
            findings.push(finding(
                "task-over-standing-power",
                Severity::Medium,
                &definition.name,
                definition.defined_at.max(holder.since),
                message,
                evidence,
            ));
        }
    }
    findings
}

/// What an identity has without a window at the end of the period.
#[derive(Default)]
struct Holder<'a> {
    scopes: BTreeSet<&'a str>,
    evidence: BTreeSet<u64>,
    since: i64,
}

impl<'a> Holder<'a> {
    fn has(&mut self, scopes: impl Iterator<Item = &'a str>, since: i64, index: u64) {
        self.scopes.extend(scopes);
        self.evidence.insert(index);
        self.since = self.since.max(since);
    }
}

/// Who has standing power that is known: by exceptions in force, and by entries with power over the server.
fn holders<'a>(replay: &'a Replay, view: &View) -> BTreeMap<&'a str, Holder<'a>> {
    let mut holders: BTreeMap<&str, Holder<'_>> = BTreeMap::new();
    let is_held = |held: &&Privileged| held.since < view.to && held.until.is_none_or(|until| until >= view.to);
    for held in replay.privileged().iter().filter(is_held) {
        let scopes = held.rights.iter().map(|right| match *right {
            "admin" => "mayfly:admin",
            _ => "mayfly:downstream",
        });
        let holder = holders.entry(&held.spiffe_id).or_default();
        holder.has(scopes, held.since, held.index);
    }
    for exception in replay.exceptions() {
        let mut spans = exception.in_force().into_iter();
        if !spans.any(|(from, to)| from < view.to && to >= view.to) {
            continue;
        }
        let named = exception.identity.as_str();
        let identity = if named.starts_with("spiffe://") {
            Some(named)
        } else {
            replay.identity_of_entry(named)
        };
        if let Some(identity) = identity {
            let scopes = exception.scopes.iter().map(String::as_str);
            let holder = holders.entry(identity).or_default();
            holder.has(scopes, exception.granted_at, exception.index);
        }
    }
    holders
}

fn of_definitions(replay: &Replay, view: &View) -> Vec<Finding> {
    let mut findings = vec![];
    for definition in replay.definitions().filter(|definition| definition.until.is_none()) {
        let owner = replay.details().show(&definition.owner);
        if !view.scope.means(&definition.name, "", &owner) {
            continue;
        }
        if let Some(due) = definition.review_by.filter(|due| *due < view.to) {
            let message = format!(
                "its review, by {owner}, has been due for {} days",
                view.to.saturating_sub(due) / DAY
            );
            let code = "definition-overdue";
            findings.push(finding(
                code,
                Severity::Low,
                &definition.name,
                due,
                message,
                vec![definition.index],
            ));
        }
        let used = definition.used_at.unwrap_or(definition.defined_at);
        if view.to.saturating_sub(used) >= view.thresholds.dormant {
            let message = format!("nobody has used it for {} days", view.to.saturating_sub(used) / DAY);
            let code = "definition-dormant";
            findings.push(finding(
                code,
                Severity::Low,
                &definition.name,
                used,
                message,
                vec![definition.index],
            ));
        }
    }
    findings
}

fn of_checkpoints(replay: &Replay, view: &View) -> Vec<Finding> {
    let mut findings = vec![];
    if view.scope != Scope::All {
        return findings;
    }
    let declared = declared(replay);
    let is_declared = |name: &str| {
        declared
            .iter()
            .any(|rule| rule.split_once('@').map_or(rule.as_str(), |(name, _)| name) == name)
    };
    for checkpoint in replay.checkpoints() {
        let name = &checkpoint.name;
        if let Some(lost) = checkpoint
            .lost_at
            .filter(|lost| view.to.saturating_sub(*lost) > GONE && is_declared(name))
        {
            let message =
                "definitions rely on this consumer, and it has gone: what they end is shown dead only by expiry"
                    .to_owned();
            findings.push(finding(
                "checkpoint-gone",
                Severity::Low,
                name,
                lost,
                message,
                vec![checkpoint.index],
            ));
        }
    }
    findings
}

fn of_probes(replay: &Replay, view: &View) -> Vec<Finding> {
    let mut by_test: BTreeMap<(&str, &str), Vec<&Probe>> = BTreeMap::new();
    for probe in replay.probes().iter().filter(|probe| view.has(probe.at)) {
        by_test.entry((&probe.checkpoint, &probe.kind)).or_default().push(probe);
    }
    let mut findings = vec![];
    for ((checkpoint, kind), probes) in by_test {
        let failed: Vec<&&Probe> = probes.iter().filter(|probe| probe.outcome != probe.expected).collect();
        let Some(first) = failed.first() else { continue };
        let is_mended = probes.last().is_some_and(|last| last.outcome == last.expected);
        let (severity, rest) = match (is_mended, first.expected.as_str()) {
            // Nobody got in who should not; but what was refused afterwards proves nothing.
            (_, "accepted") => (Severity::Medium, ", so that the other tests prove nothing"),
            (true, _) => (Severity::High, ", and does not any more"),
            (false, _) => (Severity::Critical, ""),
        };
        let code = if kind == "base" {
            "base-privileged"
        } else {
            "probe-failed"
        };
        let message = format!(
            "the test `{kind}` ended with `{}` where `{}` has to be{rest}",
            first.outcome, first.expected
        );
        let evidence = failed.iter().map(|probe| probe.index).collect();
        findings.push(finding(code, severity, checkpoint, first.at, message, evidence));
    }
    findings
}
