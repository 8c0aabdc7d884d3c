//! Parts 5, 6, 8 and 9: how authority ended, who refused what, what stands, and emergencies.

use std::collections::{BTreeMap, BTreeSet};

use super::parts::State;
use super::records::{
    BreakGlass, BreakGlassUse, Debt, EndingRow, Endings, ExceptionRow, PrivilegedRow, ProbeResult, ProbeRow, Probes,
};
use crate::Replay;
use crate::finding::Scope;
use crate::findings::{is_unsettled, uncovered};
use crate::meter::{DAY, Distribution, Listed, View, declared};
use crate::replay::{Request, Window};
use crate::span::{seconds, within};

/// What consumers are tried with; others that the log names are added.
const TESTS: [&str; 7] = [
    "none",
    "base",
    "other_window",
    "inside",
    "connection",
    "canary",
    "resumption",
];
/// Ways to a consumer that are tried apart from each other.
const CLASSES: [&str; 3] = ["cloud", "federated", "pipeline"];

pub(super) fn endings(replay: &Replay, view: &View) -> Endings {
    let windows: Vec<&Window> = view.windows(replay).collect();
    let mut by_cause: BTreeMap<String, u64> = BTreeMap::new();
    let (mut residual, mut to_settled, mut settled_by_checkpoints) = (vec![], vec![], 0);
    for window in &windows {
        let Some(ended) = &window.ended else { continue };
        if view.has(ended.at) {
            *by_cause.entry(ended.cause.clone()).or_default() += 1;
        }
        if let Some(settled) = &window.settled {
            residual.push(i64::try_from(settled.residual).unwrap_or(i64::MAX));
            to_settled.push(settled.at.saturating_sub(ended.at));
            settled_by_checkpoints += u64::from(settled.is_enforced);
        }
    }
    let unsettled: Vec<EndingRow> = windows
        .iter()
        .filter(|window| is_unsettled(window, view))
        .map(|window| row(window))
        .collect();
    let mut rows: Vec<EndingRow> = windows.iter().map(|window| row(window)).collect();
    rows.sort_by(|a, b| (b.residual, a.opened_at, &a.window).cmp(&(a.residual, b.opened_at, &b.window)));
    Endings {
        windows: windows.len() as u64,
        by_cause,
        settled_by_checkpoints,
        residual: Distribution::of(residual),
        to_settled: Distribution::of(to_settled),
        unsettled: Listed::first(sorted(unsettled), view.thresholds.rows),
        rows: Listed::first(rows, view.thresholds.rows),
        connections_closed: State::NotRecorded,
        derivations_ended: State::NotRecorded,
    }
}

fn sorted(mut rows: Vec<EndingRow>) -> Vec<EndingRow> {
    rows.sort_by(|a, b| (a.opened_at, &a.window).cmp(&(b.opened_at, &b.window)));
    rows
}

fn row(window: &Window) -> EndingRow {
    let (ended, settled) = (window.ended.as_ref(), window.settled.as_ref());
    EndingRow {
        window: window.id.clone(),
        task: window.task.clone(),
        workload: window.workload.clone(),
        opened_at: window.opened_at,
        closes_at: window.closes_at,
        ended_at: ended.map(|ended| ended.at),
        cause: ended.map(|ended| ended.cause.clone()),
        last_not_after: window.last_not_after,
        epoch: ended.and_then(|ended| ended.epoch),
        confirmed_at: window.confirmed_at,
        settled_at: settled.map(|settled| settled.at),
        residual: settled.map(|settled| settled.residual),
        is_accepted_risk: settled.is_some_and(|settled| settled.is_accepted_risk),
        checkpoints: settled.map(|settled| settled.checkpoints.clone()).unwrap_or_default(),
        evidence: [
            Some(window.index),
            ended.map(|ended| ended.index),
            settled.map(|settled| settled.index),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

pub(super) fn probes(replay: &Replay, view: &View) -> Probes {
    let within: Vec<_> = replay.probes().iter().filter(|probe| view.has(probe.at)).collect();
    let kinds: BTreeSet<&str> = TESTS
        .into_iter()
        .chain(within.iter().map(|probe| probe.kind.as_str()))
        .collect();
    let registered = replay.checkpoints().map(|checkpoint| checkpoint.name.clone());
    let tried = within.iter().map(|probe| probe.checkpoint.clone());
    // Where a rule has a name, that is what the consumer is called.
    let declared = declared(replay).into_iter().map(|rule| match rule.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => rule,
    });
    let names: BTreeSet<String> = registered.chain(tried).chain(declared).collect();
    let state = |name: &str, kind: &str| {
        let newest = within
            .iter()
            .rev()
            .find(|probe| probe.checkpoint == name && probe.kind == kind);
        newest.map_or(State::NotTested, |probe| state_of(probe.outcome == probe.expected))
    };
    let row = |name: &String| ProbeRow {
        checkpoint: name.clone(),
        by_kind: kinds
            .iter()
            .map(|kind| ((*kind).to_owned(), state(name, kind)))
            .collect(),
    };
    let matrix: Vec<ProbeRow> = names.iter().map(row).collect();
    let mut cells = matrix.iter().flat_map(|row| row.by_kind.values());
    // One test that went well says nothing of those that nobody made.
    let is_complete = !within.is_empty() && cells.all(|state| *state != State::NotTested);
    let results = within.iter().map(|probe| ProbeResult {
        index: probe.index,
        at: probe.at,
        checkpoint: probe.checkpoint.clone(),
        kind: probe.kind.clone(),
        window: probe.window.clone(),
        outcome: probe.outcome.clone(),
        expected: probe.expected.clone(),
    });
    Probes {
        state: match within.iter().all(|probe| probe.outcome == probe.expected) {
            false => State::Broken,
            true if is_complete => State::Held,
            true => State::NotTested,
        },
        matrix,
        results: Listed::first(results.collect(), view.thresholds.rows),
        classes: CLASSES
            .into_iter()
            .map(|class| (class.to_owned(), State::NotTested))
            .collect(),
    }
}

fn state_of(is_held: bool) -> State {
    if is_held { State::Held } else { State::Broken }
}

pub(super) fn debt(replay: &Replay, view: &View) -> Debt {
    let details = replay.details();
    let is_meant = |identity: &str, owner: &str| {
        view.scope.means_identity(identity) || view.scope == Scope::Owner(owner.to_owned())
    };
    let mut exceptions: Vec<ExceptionRow> = vec![];
    for exception in replay.exceptions() {
        let owner = details.show(&exception.owner);
        if !is_meant(&exception.identity, &owner) {
            continue;
        }
        let state = match () {
            () if exception.ended.is_some() => "ended",
            () if exception.expires_at() <= view.to => "expired",
            () => "in_force",
        };
        exceptions.push(ExceptionRow {
            id: exception.id.clone(),
            identity: exception.identity.clone(),
            owner,
            reason: details.show(&exception.reason),
            control: details.show(&exception.control),
            granted_at: exception.granted_at,
            expires_at: exception.expires_at(),
            renewals: exception.renewals,
            age_days: view.to.saturating_sub(exception.granted_at) / DAY,
            state: state.into(),
            index: exception.index,
        });
    }
    exceptions.sort_by(|a, b| (a.granted_at, &a.id).cmp(&(b.granted_at, &b.id)));
    let held = replay
        .privileged()
        .iter()
        .filter(|held| view.scope.means_identity(&held.spiffe_id));
    let held = held.filter(|held| held.since < view.to && held.until.is_none_or(|until| until > view.from));
    let privileged = held.map(|held| PrivilegedRow {
        identity: held.spiffe_id.clone(),
        entry_id: held.entry_id.clone(),
        rights: held.rights.iter().map(|right| (*right).to_owned()).collect(),
        since: held.since,
        until: held.until,
        exceptions: exceptions
            .iter()
            .filter(|row| row.identity == held.spiffe_id || row.identity == held.entry_id)
            .map(|row| row.id.clone())
            .collect(),
        uncovered_seconds: seconds(&uncovered(held, replay, view)),
        index: held.index,
    });
    let privileged = privileged.collect();
    let is_risk = |window: &&Window| window.settled.as_ref().is_some_and(|settled| settled.is_accepted_risk);
    Debt {
        exceptions,
        privileged,
        accepted_risks: sorted(view.windows(replay).filter(is_risk).map(row).collect()),
        unsettled: view.windows(replay).filter(|window| is_unsettled(window, view)).count() as u64,
        legacy: State::NotRecorded,
    }
}

pub(super) fn break_glass(replay: &Replay, view: &View) -> BreakGlass {
    let requests: BTreeMap<&str, &Request> = replay
        .requests()
        .map(|request| (request.id.as_str(), request))
        .collect();
    let details = replay.details();
    let mut uses = vec![];
    for window in view.windows(replay).filter(|window| window.is_breakglass) {
        let request = requests.get(window.request.as_str());
        let reviewed = request.and_then(|request| request.reviewed.as_ref());
        let ended = window.ended.as_ref().map(|ended| ended.at);
        let due = ended
            .unwrap_or(window.closes_at)
            .saturating_add(view.thresholds.review_within);
        let review = match reviewed {
            Some(_) => "done",
            None if view.to > due => "overdue",
            None => "due",
        };
        uses.push(BreakGlassUse {
            request: window.request.clone(),
            window: window.id.clone(),
            task: window.task.clone(),
            workload: window.workload.clone(),
            person: details.show(&window.person),
            ticket: request.map(|request| details.show(&request.ticket)).unwrap_or_default(),
            reason: request.map(|request| details.show(&request.reason)).unwrap_or_default(),
            approvers: request
                .map(|request| {
                    request
                        .approvals
                        .iter()
                        .map(|approval| details.show(&approval.person))
                        .collect()
                })
                .unwrap_or_default(),
            opened_at: window.opened_at,
            ended_at: ended,
            privileged_seconds: seconds(&within(&window.in_force(view.to), view.frame())),
            review: review.into(),
            reviewed_by: reviewed.map(|reviewed| details.show(&reviewed.by)).unwrap_or_default(),
            reviewed_at: reviewed.map(|reviewed| reviewed.at),
            index: window.index,
        });
    }
    uses.sort_by_key(|used| (used.opened_at, used.index));
    BreakGlass {
        privileged_seconds: uses
            .iter()
            .fold(0, |sum: i64, used| sum.saturating_add(used.privileged_seconds)),
        uses,
    }
}
