//! Part 10: how people agreed.

use std::collections::BTreeMap;

use super::records::{Approvals, DutyRow};
use crate::Replay;
use crate::findings::approvers;
use crate::meter::{Distribution, Listed, View};

pub(super) fn approvals(replay: &Replay, view: &View) -> Approvals {
    let details = replay.details();
    let mut requests: BTreeMap<String, u64> = BTreeMap::new();
    for request in view.requests(replay) {
        let stage = serde_json::to_value(request.stage).ok();
        let word = stage.as_ref().and_then(|stage| stage.as_str()).unwrap_or_default();
        *requests.entry(word.to_owned()).or_default() += 1;
    }
    let mut latencies = vec![];
    let mut matrix: BTreeMap<(String, String), u64> = BTreeMap::new();
    for request in view.all_requests(replay) {
        let requester = match request.person.is_null() {
            true => request.workload.clone(),
            false => details.show(&request.person),
        };
        for approval in request.approvals.iter().filter(|approval| view.has(approval.at)) {
            latencies.push(approval.latency);
            *matrix
                .entry((requester.clone(), details.show(&approval.person)))
                .or_default() += 1;
        }
        latencies.extend(
            request
                .refused
                .iter()
                .filter(|refused| view.has(refused.at))
                .map(|refused| refused.latency),
        );
    }
    let opened = || view.windows(replay).filter(|window| view.has(window.opened_at));
    let matrix = matrix.into_iter().map(|((requester, approver), approvals)| DutyRow {
        requester,
        approver,
        approvals,
    });
    Approvals {
        requests,
        approved_windows: opened().filter(|window| window.is_approved).count() as u64,
        unattended_windows: opened().filter(|window| !window.is_approved).count() as u64,
        latency: Distribution::of(latencies),
        people: approvers(replay, view).into_iter().map(|(row, ..)| row).collect(),
        matrix: Listed::first(matrix.collect(), view.thresholds.rows),
    }
}
