//! Each finding has a log that shows it, and one that is almost the same and does not.

use std::collections::BTreeSet;

use mayfly_model::task::{CloseCause, TaskId, TaskStep};
use mayfly_svid::WindowId;
use serde_json::json;

use crate::finding::CODES;
use crate::meter::View;
use crate::report::{LogFacts, Report, TreeHead};
use crate::testing::{APPROVED, START, UNATTENDED, WORKLOAD, World};
use crate::{Details, Finding, Scope, Thresholds};

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

fn world() -> World {
    let mut world = World::new();
    world.define(UNATTENDED);
    world.define(APPROVED);
    world
}

/// The codes of the findings at the end of `days`.
fn codes(world: &World, days: i64) -> Vec<String> {
    let findings = of_days(world, days, Scope::All);
    findings.into_iter().map(|finding| finding.code).collect()
}

/// The findings at the end of `days`.
fn of_days(world: &World, days: i64, scope: Scope) -> Vec<Finding> {
    let view = View {
        from: START,
        to: START + days * DAY,
        scope,
        thresholds: Thresholds::default(),
    };
    let log = LogFacts {
        end: TreeHead {
            size: world.log.len() as u64,
            root: String::new(),
        },
        ..LogFacts::default()
    };
    Report::build(world.entries().into_iter().map(Ok), Details::default(), &view, log).findings
}

fn opened(world: &mut World) -> (TaskId, WindowId) {
    let id = world.request("pay/db-migrate", WORKLOAD, None, "once");
    let window = world.open(&id);
    (id, window)
}

fn ended(world: &mut World) -> (TaskId, WindowId) {
    let (id, window) = opened(world);
    world.now += 100;
    world.close(&id, window, CloseCause::Completed);
    world.confirm(&id, window);
    (id, window)
}

fn exception(world: &mut World, identity: &str, days: i64, scopes: &[&str]) {
    let body = json!({
        "id": "x1", "identity": identity, "owner": "olga", "reason": "no other way", "compensating_control": "watched",
        "scopes": scopes, "expires_at": world.now + days * DAY,
    });
    world.raw("exception.granted", "x1", body);
}

fn probe(world: &mut World, kind: &str, outcome: &str) {
    let body = json!({ "checkpoint": "pay-db", "kind": kind, "outcome": outcome, "expected": "refused" });
    world.raw("probe.finished", "pay-db", body);
}

fn emergency(world: &mut World) -> TaskId {
    world.define(
        "name = \"ops/rescue\"\nowner = \"olga\"\nescalation = \"#ops\"\nclass = \"breakglass\"\nsensitivity = 3\n\
         [allowed]\nworkloads = [\"/ns/*\"]\n[limits]\nmax_window = \"30m\"\nmax_ttl = \"5m\"\n\
         [approval]\ncount = 1\ngroups = [\"leads\"]\n[ticket]\nrequired = true\n",
    );
    emergency_again(world)
}

fn emergency_again(world: &mut World) -> TaskId {
    let id = world.request("ops/rescue", WORKLOAD, Some("joe"), "it burns");
    world.now += 60;
    world.approve(&id, "ann");
    world.work(&id, 300);
    id
}

fn review(world: &mut World, id: &TaskId) {
    let review = TaskStep::Review {
        by: "bob".parse().unwrap(),
        reason: "fine".into(),
    };
    world.step(id, review, vec![]);
}

fn approved(world: &mut World, times: u64, person: &str, after: i64) {
    for turn in 0..times {
        let id = world.request("pay/export", WORKLOAD, Some("joe"), &format!("figures {turn}"));
        world.now += after;
        world.approve(&id, person);
        world.work(&id, 60);
        world.now += HOUR;
    }
}

/// A log that shows `code` and what is found in it, within how many days; then an almost equal one that shows nothing.
fn logs(code: &str) -> (World, World, i64) {
    let (mut bad, mut good) = (world(), world());
    let mut days = 1;
    match code {
        "invariant-violated" => {
            let (id, window) = ended(&mut bad);
            bad.settle(&id, window, 1);
            bad.raw(
                "window.settled",
                id.as_str(),
                json!({ "window": window, "residual": 1 }),
            );
            let (id, window) = ended(&mut good);
            good.settle(&id, window, 1);
        }
        "standing-authority" => {
            let body = |not_after: i64| json!({ "authority_id": "authority-task", "not_after": not_after, "public_key_sha256": "7", "serial": "7777" });
            let end = bad.now + 2 * HOUR;
            bad.raw("svid.intended", "spiffe://td/task/pay/db-migrate/ns/pay/x", body(end));
            good.base_svid(WORKLOAD);
        }
        "probe-failed" => {
            probe(&mut bad, "canary", "accepted");
            probe(&mut good, "canary", "refused");
        }
        "base-privileged" => {
            probe(&mut bad, "base", "accepted");
            probe(&mut good, "base", "refused");
        }
        "privileged-base-identity" => {
            bad.register("spiffe://td/ops", true);
            good.register("spiffe://td/ops", false);
        }
        "expired-exception" => {
            exception(&mut bad, "spiffe://td/legacy", 3, &[]);
            exception(&mut good, "spiffe://td/legacy", 3, &[]);
            good.now += DAY;
            good.raw("exception.ended", "x1", json!({ "id": "x1" }));
            days = 7;
        }
        "task-over-standing-power" => {
            exception(&mut bad, WORKLOAD, 30, &["schema"]);
            exception(&mut good, WORKLOAD, 30, &["backup"]);
        }
        "exception-too-long" => {
            exception(&mut bad, "spiffe://td/legacy", 91, &[]);
            exception(&mut good, "spiffe://td/legacy", 90, &[]);
        }
        "disguised-standing-access" => {
            for turn in 0..23 {
                good.now = START + 60 + turn * 3_000;
                let id = good.request("pay/db-migrate", WORKLOAD, None, "again");
                good.work(&id, 10);
            }
            for turn in 0..24 {
                bad.now = START + 60 + turn * 3_000;
                let id = bad.request("pay/db-migrate", WORKLOAD, None, "again");
                bad.work(&id, 10);
            }
        }
        "window-not-ended" => {
            opened(&mut bad);
            let (id, window) = ended(&mut good);
            good.settle(&id, window, 1);
        }
        "unsettled-window" => {
            ended(&mut bad);
            let (id, window) = ended(&mut good);
            good.now += HOUR;
            good.settle(&id, window, 1);
        }
        "risk-accepted" => {
            let given_up = |world: &mut World| {
                let (id, window) = ended(world);
                world.now += 40;
                world.step(
                    &id,
                    TaskStep::GiveUp {
                        window,
                        detail: "pay-db".into(),
                        checkpoints: vec![],
                    },
                    vec![],
                );
                world.now += 60;
                (id, window)
            };
            let (id, window) = given_up(&mut bad);
            for by in ["ann", "rob"] {
                let (by, reason) = (by.parse().unwrap(), "gone for good".into());
                bad.step(&id, TaskStep::AcceptRisk { window, by, reason }, vec![]);
            }
            let (id, window) = given_up(&mut good);
            good.settle(&id, window, 100);
        }
        "rubber-stamping" => {
            approved(&mut bad, 5, "rob", 4);
            approved(&mut good, 5, "rob", 5);
        }
        "never-refuses" => {
            approved(&mut bad, 50, "yes", 60);
            approved(&mut good, 50, "yes", 60);
            let id = good.request("pay/export", WORKLOAD, Some("joe"), "one too many");
            good.refuse(&id, "yes");
            days = 7;
        }
        "self-group-approvals" => {
            bad.define(&APPROVED.replace("leads", "joes"));
            approved(&mut bad, 5, "pal", 60);
            approved(&mut good, 5, "pal", 60);
        }
        "break-glass-unreviewed" => {
            emergency(&mut bad);
            let id = emergency(&mut good);
            review(&mut good, &id);
            days = 3;
        }
        "break-glass-frequent" => {
            for (world, times) in [(&mut bad, 5), (&mut good, 4)] {
                let id = emergency(world);
                review(world, &id);
                for _ in 1..times {
                    let id = emergency_again(world);
                    review(world, &id);
                }
            }
        }
        "definition-overdue" => {
            let due = |date: &str| UNATTENDED.replace("scopes", &format!("review_by = {date}\nscopes"));
            bad.define(&due("2026-11-20"));
            good.define(&due("2026-12-20"));
            days = 25;
        }
        "definition-dormant" => {
            days = 95;
            good.now += 40 * DAY;
            for task in ["pay/db-migrate", "pay/export"] {
                let id = good.request(task, WORKLOAD, None, "in use");
                if task == "pay/export" {
                    good.now += 60;
                    good.approve(&id, "ann");
                }
                good.work(&id, 10);
            }
        }
        "checkpoint-gone" => {
            for world in [&mut bad, &mut good] {
                world.define(&format!(
                    "{UNATTENDED}[ending]\ncheckpoints = [\"pay-db@/svc/pay-db\"]\n"
                ));
                world.raw("checkpoint.registered", "pay-db", json!({ "name": "pay-db" }));
                world.raw("checkpoint.lost", "pay-db", json!({ "name": "pay-db" }));
            }
            good.now += HOUR;
            good.raw("checkpoint.registered", "pay-db", json!({ "name": "pay-db" }));
            days = 3;
        }
        "clock-set-back" => {
            for (world, back) in [(&mut bad, 60), (&mut good, 4)] {
                world.now += HOUR;
                world.base_svid(WORKLOAD);
                world.now -= back;
                world.base_svid(WORKLOAD);
            }
        }
        "unknown-entries" => bad.raw("future.came", "", json!({})),
        other => panic!("no log shows `{other}`: add one"),
    }
    (bad, good, days)
}

#[test]
fn every_finding_has_a_log_that_shows_it_and_one_that_does_not() {
    for code in CODES.iter().map(|code| code.name) {
        let (bad, good, days) = logs(code);
        let found: BTreeSet<String> = codes(&bad, days).into_iter().collect();
        // An SVID of no window breaks an invariant as well, and so says both.
        let also: &[&str] = if code == "standing-authority" {
            &["invariant-violated"]
        } else {
            &[]
        };
        let expected: BTreeSet<String> = also.iter().copied().chain([code]).map(str::to_owned).collect();
        assert_eq!(found, expected, "{code}");
        assert_eq!(codes(&good, days), Vec::<String>::new(), "{code}: the honest one");
    }
}

#[test]
fn each_sign_of_standing_access_is_enough() {
    let signs = |world: &World, days: i64| -> Vec<String> {
        let view = View {
            from: START,
            to: START + days * DAY,
            scope: Scope::All,
            thresholds: Thresholds::default(),
        };
        let patterns = crate::meter::patterns(&world.replay(), &view);
        patterns.into_iter().flat_map(|pattern| pattern.signs).collect()
    };
    // The reasons differ, but one window begins where the other ends.
    let mut chain = world();
    for turn in 0..9 {
        let id = chain.request("pay/db-migrate", WORKLOAD, None, &format!("part {turn}"));
        chain.work(&id, 890);
        chain.now += 30;
    }
    assert_eq!(signs(&chain, 1), ["back-to-back"]);
    // Extended by and by.
    let mut extended = world();
    extended.define(&UNATTENDED.replace("15m", "4h"));
    let id = extended.request("pay/db-migrate", WORKLOAD, None, "a little more");
    let window = extended.open(&id);
    for _ in 0..8 {
        let step = json!({ "window": window, "closes_at": extended.now + 15_000, "decision": {} });
        extended.raw("window.extended", id.as_str(), step);
        extended.now += 60;
    }
    extended.close(&id, window, CloseCause::Completed);
    assert_eq!(signs(&extended, 1), ["extensions"]);
    // One long window each day.
    let mut duty = world();
    duty.define(&UNATTENDED.replace("15m", "8h"));
    for day in 0..7 {
        duty.now = START + day * DAY + 60;
        let id = duty.request("pay/db-migrate", WORKLOAD, None, &format!("day {day}"));
        duty.work(&id, 7 * HOUR);
    }
    assert_eq!(signs(&duty, 7), ["duty-cycle"]);
    assert_eq!(signs(&duty, 14), Vec::<String>::new());
}

#[test]
fn a_window_of_no_second_is_a_window() {
    let mut world = world();
    for turn in 0..3 {
        let id = world.request("pay/db-migrate", WORKLOAD, None, &format!("short {turn}"));
        world.work(&id, 0);
    }
    let view = View {
        from: START,
        to: START + DAY,
        scope: Scope::All,
        thresholds: Thresholds::default(),
    };
    let meter = crate::meter::Meter::of(&world.replay(), &view);
    assert_eq!((meter.total.windows, meter.total.privileged_seconds), (3, 0));
    assert_eq!((meter.by_day[0].opened, meter.by_task.rows[0].windows), (3, 3));
}

// S5
#[test]
fn power_that_stands_beside_a_task_is_told_by_task_and_identity() {
    let told = |world: &World, scope: &str| -> Vec<String> {
        let findings = of_days(world, 1, scope.parse().unwrap());
        let found = findings
            .into_iter()
            .filter(|found| found.code == "task-over-standing-power");
        found
            .map(|found| format!("{}: {}", found.subject, found.message))
            .collect()
    };
    let mut world = world();
    world.define(&UNATTENDED.replace("scopes = [\"schema\"]", "scopes = [\"schema\", \"mayfly:admin\"]"));
    assert_eq!(told(&world, "all"), Vec::<String>::new());
    let entry = world.register("spiffe://td/legacy", false);
    exception(&mut world, entry.as_str(), 30, &["schema"]);
    let legacy = "pay/db-migrate: spiffe://td/legacy may not run it, and has `schema` without a window: there is a way \
                  around the task";
    assert_eq!(
        told(&world, "all"),
        [legacy],
        "an exception by an entry is one for its identity"
    );
    world.register(WORKLOAD, true);
    let own = format!(
        "pay/db-migrate: {WORKLOAD} may run it, and has `mayfly:admin` without a window: the task adds nothing"
    );
    assert_eq!(told(&world, "all"), [legacy, own.as_str()]);
    assert_eq!(told(&world, &format!("workload:{WORKLOAD}")), [own.as_str()]);
    assert_eq!(told(&world, "team:web"), Vec::<String>::new());
}
