//! Parts 4 and 11: what had to come first, and by which rules it was decided.

use super::parts::{ChangeRow, DefinitionRow, JoinCheck, Joins, Policy, PolicyRow, State};
use crate::meter::{Listed, View};
use crate::{Invariant, Replay};

pub(super) fn joins(replay: &Replay, view: &View) -> Joins {
    let totals = replay.totals();
    let check = |(invariant, says): (Invariant, &str)| {
        let violations = replay
            .violations()
            .iter()
            .filter(|violation| violation.invariant == invariant)
            .count() as u64;
        JoinCheck {
            invariant,
            says: says.into(),
            state: match violations {
                _ if invariant == Invariant::I13 => State::NotRecorded,
                0 => State::Held,
                _ => State::Broken,
            },
            violations,
        }
    };
    Joins {
        task_svids: totals.task_svids,
        windows: totals.windows,
        decisions: totals.decisions,
        base_svids: totals.base_svids,
        checks: Invariant::ALL.into_iter().map(check).collect(),
        violations: Listed::first(replay.violations().to_vec(), view.thresholds.rows),
    }
}

pub(super) fn policy(replay: &Replay, view: &View) -> Policy {
    let details = replay.details();
    let digests = replay
        .policies()
        .iter()
        .filter(|(_, used)| used.first_at < view.to && used.last_at >= view.from);
    let mut digests: Vec<PolicyRow> = digests
        .map(|(digest, used)| PolicyRow {
            digest: digest.clone(),
            first_at: used.first_at,
            last_at: used.last_at,
            verdicts: used.verdicts.clone(),
        })
        .collect();
    digests.sort_by(|a, b| (a.first_at, &a.digest).cmp(&(b.first_at, &b.digest)));
    let changes = replay
        .governance()
        .iter()
        .filter(|change| view.has(change.at))
        .map(|change| ChangeRow {
            index: change.index,
            at: change.at,
            kind: change.kind.clone(),
            subject: change.subject.clone(),
            author: details.show(&change.author),
            decided_by: details.show(&change.decided_by),
        });
    let in_force = replay.definitions().filter(|definition| definition.until.is_none());
    let rows = in_force.map(|definition| DefinitionRow {
        name: definition.name.clone(),
        version: definition.version,
        hash: definition.hash.clone(),
        owner: details.show(&definition.owner),
        is_breakglass: definition.is_breakglass,
        sensitivity: definition.sensitivity,
        approvals: definition.approvals,
        max_window: definition.max_window,
        checkpoints: definition.checkpoints.clone(),
        review_by: definition.review_by,
        used_at: definition.used_at,
        defined_at: definition.defined_at,
    });
    let mut definitions: Vec<DefinitionRow> = rows.filter(|row| view.scope.means(&row.name, "", &row.owner)).collect();
    definitions.sort_by(|a, b| a.name.cmp(&b.name));
    Policy {
        digests,
        refusals: replay.reasons().clone(),
        changes: changes.collect(),
        definitions,
        solver: State::NotRecorded,
        replay: State::NotTested,
    }
}
