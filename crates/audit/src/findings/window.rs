//! Windows whose authority did not end as it has to.

use super::finding;
use crate::Replay;
use crate::finding::{Finding, Severity};
use crate::meter::View;
use crate::replay::Window;

/// Whether a window's authority is not shown dead at the end of the period, or was later than it has to be.
pub(crate) fn is_unsettled(window: &Window, view: &View) -> bool {
    window.settled.is_none() && (window.ended.is_some() || window.closes_at <= view.to)
}

pub(super) fn findings(replay: &Replay, view: &View) -> Vec<Finding> {
    view.windows(replay)
        .filter_map(|window| of_window(window, view))
        .collect()
}

fn of_window(window: &Window, view: &View) -> Option<Finding> {
    let limits = &view.thresholds;
    let what = format!("a window of {} of {}", window.task, window.workload);
    let told =
        |code, severity, since, message, evidence| Some(finding(code, severity, &window.id, since, message, evidence));
    let Some(ended) = &window.ended else {
        let late = view.to.saturating_sub(window.closes_at);
        let message = format!("{what} was over {late} s before the end of the period, and nothing says that it ended");
        let found = told(
            "window-not-ended",
            Severity::High,
            window.closes_at,
            message,
            vec![window.index],
        );
        return found.filter(|_| late > limits.end_within);
    };
    let mut evidence = vec![window.index, ended.index];
    evidence.extend(window.incomplete.map(|(_, index)| index));
    let Some(settled) = &window.settled else {
        let late = view.to.saturating_sub(ended.at);
        let message = match window.incomplete {
            Some(_) => format!(
                "{what} ended {late} s before the end of the period, and consumers did not say that they refuse it"
            ),
            None => format!("{what} ended {late} s before the end of the period, and its authority is not shown dead"),
        };
        let found = told("unsettled-window", Severity::High, ended.at, message, evidence);
        return found.filter(|_| late > limits.settle_within);
    };
    evidence.push(settled.index);
    let late = settled.at.saturating_sub(ended.at);
    if settled.is_accepted_risk {
        let message = format!("{what} ended, and somebody accepted that this could not be shown");
        return told("risk-accepted", Severity::Medium, settled.at, message, evidence);
    }
    if late > limits.settle_within {
        let message = format!("{what} was settled only {late} s after its end");
        return told("unsettled-window", Severity::Medium, ended.at, message, evidence);
    }
    None
}
