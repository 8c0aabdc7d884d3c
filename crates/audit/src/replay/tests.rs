mod invariants;

use mayfly_model::task::{CloseCause, TaskStep};
use mayfly_svid::Timestamp;
use serde_json::json;

use crate::testing::{APPROVED, UNATTENDED, WORKLOAD, World, replay};
use crate::{Entry, Invariant, Violation};

/// A log in which everything happens as it should: a window of each kind, stopped and resumed, extended, refused.
pub(super) fn honest() -> World {
    let mut world = World::new();
    world.define(UNATTENDED);
    world.define(APPROVED);
    world.register(WORKLOAD, false);
    world.base_svid(WORKLOAD);
    let id = world.request("pay/db-migrate", WORKLOAD, None, "schema 17");
    world.now += 5;
    world.work(&id, 800);
    let id = world.request("pay/export", WORKLOAD, Some("joe"), "figures");
    world.now += 60;
    world.approve(&id, "ann");
    world.now += 30;
    world.work(&id, 600);
    let id = world.request("pay/export", WORKLOAD, Some("joe"), "more figures");
    world.now += 90;
    world.refuse(&id, "ann");
    world
}

fn violations(entries: &[Entry]) -> Vec<Violation> {
    replay(entries).violations().to_vec()
}

fn place(entries: &[Entry], kind: &str) -> usize {
    entries.iter().position(|entry| entry.kind == kind).unwrap()
}

/// What a change of the honest log breaks.
fn broken(change: impl FnOnce(&mut Vec<Entry>)) -> Vec<Invariant> {
    let mut entries = honest().entries();
    change(&mut entries);
    let mut found: Vec<Invariant> = violations(&entries)
        .iter()
        .map(|violation| violation.invariant)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn change_of(kind: &str, change: impl FnOnce(&mut Entry)) -> Vec<Invariant> {
    broken(|entries| {
        let at = place(entries, kind);
        change(&mut entries[at]);
    })
}

/// The entry of `kind` is gone and nobody is to see it: what follows moves up.
fn without(kind: &str) -> Vec<Invariant> {
    broken(|entries| {
        let at = place(entries, kind);
        entries.remove(at);
        (0..).zip(entries).for_each(|(index, entry)| entry.index = index);
    })
}

#[test]
fn an_honest_log_breaks_nothing_and_is_counted() {
    let world = honest();
    let replay = world.replay();
    assert_eq!(replay.violations(), []);
    let totals = replay.totals();
    assert_eq!((totals.requests, totals.windows, totals.base_svids), (3, 2, 1));
    assert_eq!(
        totals.task_svids,
        replay.windows().map(|window| window.issued).sum::<u64>()
    );
    assert_eq!(replay.notes().unknown_outcomes, 0);
    let window = replay.windows().next().unwrap();
    assert_eq!(window.in_force(i64::MAX), [(window.opened_at, window.opened_at + 800)]);
    assert_eq!(window.svids_counted(i64::MAX), window.in_force(i64::MAX));
    assert_eq!(window.settled.as_ref().unwrap().residual, 2);
}

#[test]
fn the_same_holds_for_who_knows_the_names() {
    let world = honest();
    let mut replay = crate::Replay::with_history(world.details.clone());
    world.entries().iter().for_each(|entry| replay.take(entry));
    replay.finish();
    assert_eq!(replay.violations(), []);
    let asked = replay.requests().find(|request| !request.approvals.is_empty()).unwrap();
    assert_eq!(
        (&asked.person, &asked.approvals[0].person),
        (&json!("joe"), &json!("ann"))
    );
    assert_eq!(asked.approvals[0].latency, 60);
}

#[test]
fn what_a_newer_server_writes_is_listed_and_breaks_nothing() {
    let mut world = honest();
    world.raw("agent.teleported", "x", json!({ "window": 1 }));
    let known = json!({ "step": "cancel", "reason": "", "colour": { "new": [1] } });
    let id = world.request("pay/db-migrate", WORKLOAD, None, "again");
    world.raw("task.cancelled", id.as_str(), known);
    let replay = world.replay();
    assert_eq!(replay.violations(), []);
    assert_eq!(
        replay.notes().unknown_kinds.keys().collect::<Vec<_>>(),
        ["agent.teleported"]
    );
    // Of SVIDs and windows nobody may keep anything to himself.
    for kind in ["window.teleported", "svid.teleported"] {
        let mut world = honest();
        world.raw(kind, "x", json!({ "window": 1 }));
        let found = violations(&world.entries());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].invariant, Invariant::Completeness);
    }
}

#[test]
fn a_body_of_another_kind_is_told_and_read_over() {
    let found = change_of("task.refused", |entry| entry.kind = "task.approved".into());
    assert_eq!(found, [Invariant::Completeness]);
}

#[test]
fn a_clock_that_is_set_back_is_a_note() {
    let mut world = honest();
    world.now -= 4_000;
    world.register("spiffe://td/x", false);
    world.register("spiffe://td/y", false);
    let replay = world.replay();
    assert_eq!(replay.violations(), []);
    assert_eq!(replay.notes().clock_steps.len(), 1);
}

#[test]
fn what_is_settled_takes_no_memory() {
    let mut world = World::new();
    world.define(UNATTENDED);
    for _ in 0..50 {
        let id = world.request("pay/db-migrate", WORKLOAD, None, "again");
        world.work(&id, 100);
    }
    let mut replay = crate::Replay::new(crate::Details::default());
    world.entries().iter().for_each(|entry| replay.take(entry));
    replay.finish();
    assert_eq!(replay.violations(), []);
    assert_eq!(
        (
            replay.windows().count(),
            replay.requests().count(),
            replay.totals().windows
        ),
        (0, 0, 50)
    );
}

#[test]
fn stops_and_extensions_count_for_what_they_are() {
    let mut world = World::new();
    world.define(UNATTENDED);
    let id = world.request("pay/db-migrate", WORKLOAD, None, "stop and go");
    let window = world.open(&id);
    let opened_at = world.now;
    world.now += 100;
    world.step(
        &id,
        TaskStep::Suspend {
            window,
            reason: "hm".into(),
        },
        vec![],
    );
    world.now += 50;
    let decision = mayfly_model::task::Decision {
        phase: mayfly_model::task::Phase::Renew,
        allowed: true,
        reasons: vec![],
        determining: vec![],
        policy_digest: world.policy.clone(),
        inputs_digest: "11".into(),
        at: Timestamp::from_unix(world.now),
    };
    let note = World::note(&decision, "sweep", "allow", &id, json!(null));
    world.step(&id, TaskStep::Resume { window, decision }, vec![note]);
    world.renew(&id, window);
    world.now += 50;
    world.close(&id, window, CloseCause::Completed);
    let replay = world.replay();
    assert_eq!(replay.violations(), []);
    let window = replay.windows().next().unwrap();
    assert_eq!(
        window.in_force(i64::MAX),
        [(opened_at, opened_at + 100), (opened_at + 150, opened_at + 200)]
    );
    assert_eq!(window.svids_counted(i64::MAX), window.in_force(i64::MAX));
}

#[test]
fn a_risk_is_accepted_by_two_and_a_settlement_is_shown_by_whom_the_definition_names() {
    let mut world = World::new();
    world.define(&format!("{UNATTENDED}[ending]\ncheckpoints = [\"/svc/db\"]\n"));
    let id = world.request("pay/db-migrate", WORKLOAD, None, "once");
    let window = world.open(&id);
    world.close(&id, window, CloseCause::Revoked);
    world.confirm(&id, window);
    let found = |world: &World| -> Vec<Invariant> {
        violations(&world.entries())
            .into_iter()
            .map(|violation| violation.invariant)
            .collect()
    };
    let settled = |epoch: u64, name: &str| {
        let mut world = world.clone();
        let said = json!([{ "name": name, "consumers": 1, "epoch": epoch, "at": 0 }]);
        let body = json!({ "window": window, "residual": 0, "term": "enforced", "checkpoints": said });
        world.raw("window.settled", id.as_str(), body);
        found(&world)
    };
    assert_eq!(settled(1, "/svc/db"), []);
    assert_eq!(settled(0, "/svc/db"), [Invariant::I11]);
    assert_eq!(settled(1, "/svc/other"), [Invariant::I11]);
    let accepted = |people: &[&str]| {
        let mut world = world.clone();
        world.raw("window.revocation_incomplete", id.as_str(), json!({ "window": window }));
        for (place, by) in people.iter().enumerate() {
            let kind = if place + 1 == people.len() {
                "window.risk_accepted"
            } else {
                "window.risk_proposed"
            };
            world.raw(kind, id.as_str(), json!({ "window": window, "by": by }));
        }
        found(&world)
    };
    assert_eq!(accepted(&["ann", "rob"]), []);
    assert_eq!(accepted(&["ann", "ann"]), [Invariant::I4]);
    assert_eq!(accepted(&["ann"]), [Invariant::I4]);
}
