//! The rules by which something becomes a finding.

mod people;
mod standing;
#[cfg(test)]
mod tests;
mod window;

use crate::Replay;
use crate::finding::{Finding, Severity};
use crate::meter::{View, patterns};
use crate::report::ZeroStanding;

pub(crate) use people::approvers;
pub(crate) use standing::uncovered;
pub(crate) use window::is_unsettled;

/// Everything that somebody should look at, the worst first. `instants` is what sampling found.
pub fn findings(replay: &Replay, view: &View, instants: &ZeroStanding) -> Vec<Finding> {
    let mut findings = of_the_log(replay, view);
    findings.extend(at_instants(instants));
    findings.extend(repeated(replay, view));
    findings.extend(window::findings(replay, view));
    findings.extend(people::findings(replay, view));
    findings.extend(standing::findings(replay, view));
    for finding in &mut findings {
        finding
            .evidence
            .truncate(usize::try_from(view.thresholds.evidence).unwrap_or(usize::MAX));
    }
    findings.sort_by(|a, b| {
        (a.severity, &a.code, &a.subject, a.since, &a.evidence).cmp(&(
            b.severity,
            &b.code,
            &b.subject,
            b.since,
            &b.evidence,
        ))
    });
    findings
}

pub(crate) fn finding(
    code: &str,
    severity: Severity,
    subject: &str,
    since: i64,
    message: String,
    evidence: Vec<u64>,
) -> Finding {
    Finding {
        code: code.into(),
        severity,
        subject: subject.into(),
        since,
        message,
        evidence,
    }
}

fn of_the_log(replay: &Replay, view: &View) -> Vec<Finding> {
    let mut findings = vec![];
    for violation in replay.violations() {
        findings.push(finding(
            "invariant-violated",
            Severity::Critical,
            &violation.invariant.to_string(),
            violation.time,
            violation.message.clone(),
            vec![violation.index],
        ));
    }
    let notes = replay.notes();
    for (index, before, after) in &notes.clock_steps {
        if view.has(*after) || view.has(*before) {
            let message = format!("the server's clock was set back by {} s", before.saturating_sub(*after));
            findings.push(finding(
                "clock-set-back",
                Severity::Low,
                "clock",
                *after,
                message,
                vec![*index],
            ));
        }
    }
    for (kind, index) in &notes.unknown_kinds {
        let message = format!("entries of the kind `{kind}` are not known here; a newer `mayfly` may know them");
        findings.push(finding(
            "unknown-entries",
            Severity::Low,
            kind,
            view.from,
            message,
            vec![*index],
        ));
    }
    findings
}

fn at_instants(instants: &ZeroStanding) -> Vec<Finding> {
    let mut findings: Vec<Finding> = vec![];
    for difference in &instants.differences.rows {
        let is_told = findings.iter().any(|finding| finding.subject == difference.spiffe_id);
        if difference.what == "svid_without_window" && !is_told {
            let message = "an SVID counted when no window of this identity was open".to_owned();
            let id = &difference.spiffe_id;
            findings.push(finding(
                "standing-authority",
                Severity::Critical,
                id,
                difference.at,
                message,
                vec![],
            ));
        }
    }
    findings
}

fn repeated(replay: &Replay, view: &View) -> Vec<Finding> {
    let patterns = patterns(replay, view).into_iter();
    patterns
        .map(|pattern| {
            let mut facts = vec![];
            for sign in &pattern.signs {
                facts.push(match sign.as_str() {
                    "identical-requests" => format!("{} identical requests", pattern.identical_requests),
                    "back-to-back" => format!(
                        "{} windows one after the other, {} s of power",
                        pattern.chain_windows, pattern.chain_seconds
                    ),
                    "extensions" => format!("a window extended {} times", pattern.extensions),
                    _ => format!(
                        "open for {} ‰ of the period and {} ‰ of a day",
                        pattern.duty_permille, pattern.day_permille
                    ),
                });
            }
            let subject = format!("{} {}", pattern.task, pattern.workload);
            let message = format!("this is standing access in pieces: {}", facts.join("; "));
            finding(
                "disguised-standing-access",
                Severity::High,
                &subject,
                pattern.since,
                message,
                pattern.evidence,
            )
        })
        .collect()
}
