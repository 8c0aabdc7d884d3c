//! Tasks: is anything not settled that should be, is a review due, does a change wait?

use mayfly_svid::Timestamp;
use tonic::Code;

use super::registrations::named;
use super::{Findings, counted};
use crate::cmd::task::requests;
use crate::cmd::task::view::{TaskView, WindowView};
use crate::connect::Server;
use crate::errors::{CliError, Exit};

/// More requests than this are not looked at.
const LOOK_BACK: usize = 2000;

/// Adds what is to be said of tasks.
pub(super) async fn examine(server: &Server, now: Timestamp, findings: &mut Findings) {
    let unsettled = match requests::newest(server, "unsettled", "", LOOK_BACK, |_| true).await {
        Ok((tasks, _)) => tasks.into_iter().map(TaskView::of).collect::<Vec<_>>(),
        // A server that knows no tasks has none that could be wrong; who may not look has been told by `role`.
        Err(CliError::Call { status, .. }) if status.code() == Code::Unimplemented => return,
        Err(error) if error.exit() == Exit::Denied => return,
        Err(error) => return findings.failure("TASKS", &error),
    };
    let due = match requests::newest(server, "review", "", LOOK_BACK, |_| true).await {
        Ok((tasks, _)) => tasks,
        Err(error) => return findings.failure("TASKS", &error),
    };
    let windows: Vec<&WindowView> = unsettled.iter().flat_map(|task| &task.windows).collect();
    let incomplete: Vec<&WindowView> = of_stage(&windows, "revocation_incomplete");
    for window in &incomplete {
        let whom = match window.waiting_for.as_slice() {
            [] => "no consumer is named".to_owned(),
            names => format!("{} did not say that they refuse it", names.join(", ")),
        };
        findings.error(
            "REVOCATION_INCOMPLETE",
            format!(
                "window {} ended {} and could still count: {whom}",
                window.id,
                window.closed_at.relative(now)
            ),
            "look at these consumers; `mayfly task revoke --hard-cut` reaches those that know nothing of revocation, \
             `mayfly task accept-risk` settles it in writing",
        );
    }
    let ended = of_stage(&windows, "closed").len() + of_stage(&windows, "closing").len();
    if ended > 0 {
        findings.info(
            "WINDOW_UNSETTLED",
            format!("{} ended and could still count", counted(ended, "window")),
            "that is so for some seconds after each end; `mayfly task now` shows them",
        );
    }
    if !due.is_empty() {
        let ids = named(due.iter().map(|task| task.request_id.as_str()), due.len());
        findings.warning(
            "REVIEW_DUE",
            format!("{} of break-glass to review: {ids}", counted(due.len(), "use")),
            "`mayfly task review ID --reason …`; before that there is no next use",
        );
    }
    if incomplete.is_empty() && ended == 0 && due.is_empty() {
        findings.ok("TASKS", "every window that ended is settled, no review is due");
    }
}

fn of_stage<'w>(windows: &[&'w WindowView], stage: &str) -> Vec<&'w WindowView> {
    windows.iter().copied().filter(|window| window.stage == stage).collect()
}
