//! Tasks as agents and processes see them, and what is revoked.

use mayfly_model::task::{CloseCause, Revocation, Stage, Task, Window};

use crate::mayfly::{agent, workload};

/// The states that a task is told in: one for each window, or one for the request while it has none.
pub fn task_states(task: &Task) -> Vec<workload::TaskState> {
    if task.windows.is_empty() {
        vec![task_state(task, None)]
    } else {
        task.windows
            .iter()
            .map(|window| task_state(task, Some(window)))
            .collect()
    }
}

/// Where a task stands, or one window of it.
pub fn task_state(task: &Task, window: Option<&Window>) -> workload::TaskState {
    let request = &task.request;
    let stage = stage_of(window.map_or(task.stage, |window| window.stage));
    let (missing, groups) = match task.stage {
        Stage::AwaitingApproval => task
            .missing_approvals(task.stage_since)
            .map_or((0, vec![]), |(count, groups)| {
                (count, groups.iter().map(ToString::to_string).collect())
            }),
        _ => (0, vec![]),
    };
    let mut reasons: Vec<String> = window
        .and_then(|window| window.cause)
        .map(|cause| cause.word().to_owned())
        .into_iter()
        .collect();
    if task.stage == Stage::Denied {
        reasons.extend(
            task.decisions
                .last()
                .map(|decision| decision.reasons.clone())
                .unwrap_or_default(),
        );
    }
    let expires_at = match task.stage {
        Stage::AwaitingTicket | Stage::AwaitingApproval => task.wait_until.unix(),
        Stage::Armed => task.grant.open_by.unix(),
        _ => 0,
    };
    workload::TaskState {
        request_id: task.id.to_string(),
        task: request.task.to_string(),
        stage: stage.into(),
        reasons,
        message: window.map_or_else(|| task.message.clone(), |window| window.detail.clone()),
        approvals_missing: missing,
        approver_groups: groups,
        digest: task.digest.to_string(),
        window_id: window.map(|window| window.id.to_string()).unwrap_or_default(),
        spiffe_id: window.map(|window| window.spiffe_id.to_string()).unwrap_or_default(),
        closes_at: window.map_or(0, |window| window.closes_at.unix()),
        hint: window.map(|_| format!("task/{}", request.task)).unwrap_or_default(),
        expires_at,
        // Three in the time that ends a window without one.
        heartbeat_seconds: task.grant.heartbeat.map_or(0, |limit| {
            u32::try_from((limit.as_secs() / 3).max(1)).unwrap_or(u32::MAX)
        }),
        holder_pid: window.map_or(0, |window| window.instance.pid),
        holder_start_ticks: window.map_or(0, |window| window.instance.start_ticks),
        opens_left: if task.stage == Stage::Armed {
            task.grant.uses_left
        } else {
            0
        },
    }
}

fn stage_of(stage: Stage) -> workload::Stage {
    match stage {
        Stage::Submitted | Stage::Approved => workload::Stage::Unspecified,
        Stage::Denied => workload::Stage::Denied,
        Stage::AwaitingTicket => workload::Stage::AwaitingTicket,
        Stage::AwaitingApproval => workload::Stage::AwaitingApproval,
        Stage::Armed => workload::Stage::Armed,
        Stage::Open => workload::Stage::Open,
        Stage::Suspended => workload::Stage::Suspended,
        Stage::Closing | Stage::Closed | Stage::RevocationIncomplete => workload::Stage::Closed,
        Stage::Settled | Stage::Consumed => workload::Stage::Settled,
        Stage::Expired | Stage::Cancelled | Stage::Superseded | Stage::Lapsed | Stage::Withdrawn => {
            workload::Stage::Lapsed
        }
    }
}

impl From<&Revocation> for workload::Revoked {
    fn from(revocation: &Revocation) -> Self {
        Self {
            window_id: if revocation.whole_window {
                revocation.window_id.to_string()
            } else {
                String::new()
            },
            serials: revocation
                .serials
                .iter()
                .map(|serial| serial.as_be_bytes().to_vec())
                .collect(),
            not_after: revocation.not_after.unix(),
            epoch: revocation.epoch,
        }
    }
}

/// Why an agent says that a window ended; none for a cause that agents do not have.
pub fn close_cause(cause: agent::CloseCause) -> Option<CloseCause> {
    match cause {
        agent::CloseCause::Unspecified => None,
        agent::CloseCause::Completed => Some(CloseCause::Completed),
        agent::CloseCause::Failed => Some(CloseCause::Failed),
        agent::CloseCause::TimedOut => Some(CloseCause::TimedOut),
        agent::CloseCause::AttestationLost => Some(CloseCause::AttestationLost),
        agent::CloseCause::HeartbeatLost => Some(CloseCause::HeartbeatLost),
        agent::CloseCause::LeaseLost => Some(CloseCause::LeaseLost),
        agent::CloseCause::Deviated => Some(CloseCause::Deviated),
    }
}
