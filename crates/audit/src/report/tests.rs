//! A month of activity on a stepped clock: hundreds of ordinary requests, and faults that were planted among them. The
//! report finds every one and nothing else.

mod month;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use serde_json::json;

use crate::finding::{Code, Severity, Thresholds};
use crate::meter::View;
use crate::report::{LogFacts, Report, State, TreeHead};
use crate::testing::{START, World};
use crate::{Details, Finding, Scope};
use month::{ALL, DAY, Fault, MONTH, play};

/// The month with every fault, made once.
fn faulty() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| play(1, &ALL))
}

fn view() -> View {
    View {
        from: START,
        to: START + MONTH,
        scope: Scope::All,
        thresholds: Thresholds::default(),
    }
}

fn facts(world: &World) -> LogFacts {
    LogFacts {
        origin: "td/log".into(),
        end: TreeHead {
            size: world.log.len() as u64,
            root: "5e".repeat(32),
        },
        ..LogFacts::default()
    }
}

fn report_of(world: &World, details: Details, view: &View) -> Report {
    Report::build(world.entries().into_iter().map(Ok), details, view, facts(world))
}

fn report(world: &World) -> Report {
    report_of(world, world.details.clone(), &view())
}

fn codes(report: &Report) -> Vec<&str> {
    let mut codes: Vec<&str> = report.findings.iter().map(|finding| finding.code.as_str()).collect();
    codes.sort_unstable();
    codes
}

fn expected(faults: &[Fault]) -> Vec<&'static str> {
    let mut codes: Vec<&str> = faults.iter().map(|fault| fault.code()).collect();
    codes.sort_unstable();
    codes
}

#[test]
fn a_month_with_planted_faults_shows_every_one_and_nothing_else() {
    let world = faulty();
    let report = report(world);
    assert_eq!(codes(&report), expected(&ALL), "{:#?}", report.findings);
    let of = |code: &str| -> &Finding { report.findings.iter().find(|finding| finding.code == code).unwrap() };
    assert_eq!(of("rubber-stamping").subject, "rob");
    assert_eq!(of("rubber-stamping").evidence.len(), 8);
    assert_eq!(
        of("disguised-standing-access").subject,
        "pay/db-migrate spiffe://td/ns/pay/looper"
    );
    assert_eq!(of("privileged-base-identity").subject, "spiffe://td/ops/backdoor");
    assert_eq!(of("expired-exception").subject, "x/ops/legacy");
    assert_eq!(of("expired-exception").since, START + 12 * DAY + 60);
    assert_eq!(of("unsettled-window").severity, Severity::High);
    let entries = world.entries();
    for finding in &report.findings {
        assert!(!finding.evidence.is_empty(), "{finding:?}");
        assert!(Code::find(&finding.code).is_some(), "{finding:?}");
        for index in &finding.evidence {
            assert!(entries.get(*index as usize).is_some(), "{finding:?}");
        }
    }
    let requests = report.approvals.requests.values().sum::<u64>();
    println!(
        "{} entries, {requests} requests, {} findings",
        world.log.len(),
        report.findings.len()
    );
    assert!(requests > 500, "{requests} requests are no noise");
}

#[test]
fn each_fault_is_found_by_itself_and_none_where_none_is() {
    for seed in 2..5 {
        let honest = report(&play(seed, &[]));
        assert_eq!(honest.findings, [], "seed {seed}");
        assert!(honest.claim.holds);
    }
    for fault in ALL {
        let report = report(&play(7, &[fault]));
        assert_eq!(codes(&report), [fault.code()], "{:#?}", report.findings);
    }
}

#[test]
fn who_knows_no_names_finds_the_same() {
    let world = faulty();
    let blind = report_of(world, Details::default(), &view());
    assert_eq!(codes(&blind), expected(&ALL));
    let text = String::from_utf8(blind.to_json()).unwrap();
    for name in ["rob", "olga", "keep going", "joe"] {
        assert!(
            !text.contains(&format!("\"{name}\"")),
            "{name} is in the report of somebody who does not know it"
        );
    }
    assert!(
        blind
            .approvals
            .people
            .iter()
            .any(|row| row.person.starts_with("commitment:"))
    );
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    let world = faulty();
    let (first, second) = (report(world), report(world));
    assert_eq!(first.to_json(), second.to_json());
    let read: Report = serde_json::from_slice(&first.to_json()).unwrap();
    assert_eq!(read, first);
    assert_eq!(read.to_json(), first.to_json());
    let mut other = facts(world);
    other.end.root = "00".repeat(32);
    let other = Report::build(
        world.entries().into_iter().map(Ok),
        world.details.clone(),
        &view(),
        other,
    );
    assert_ne!(other.zero_standing.most, u64::MAX);
    assert_ne!(
        other.to_json(),
        first.to_json(),
        "the instants follow from the root hash"
    );
}

#[test]
fn every_part_says_what_there_was() {
    let world = faulty();
    let report = report(world);
    assert_eq!(report.completeness.entries, world.log.len() as u64);
    assert!(report.completeness.is_whole && report.completeness.gaps.is_empty());
    assert_eq!((report.zero_standing.hourly, report.zero_standing.random), (720, 256));
    assert_eq!(report.zero_standing.state, State::Held);
    assert_eq!(report.zero_standing.differences.rows, []);
    assert!(report.zero_standing.most >= 2, "nobody had power at any instant");
    assert!(report.joins.checks.iter().all(|check| check.state != State::Broken));
    assert_eq!(report.endings.windows, report.joins.windows);
    assert_eq!(report.endings.unsettled.rows.len(), 1);
    assert_eq!((report.endings.residual.p50, report.endings.residual.max), (2, 2));
    assert_eq!(report.probes.state, State::NotTested);
    let total = &report.meter.total;
    let by_day: i64 = report.meter.by_day.iter().map(|day| day.privileged_seconds).sum();
    let by_task: i64 = report.meter.by_task.rows.iter().map(|row| row.privileged_seconds).sum();
    assert_eq!((by_day, by_task), (total.privileged_seconds, total.privileged_seconds));
    assert_eq!(report.meter.by_day.len(), 30);
    assert_eq!(report.meter.patterns[0].identical_requests, 60);
    assert_eq!(report.meter.patterns[0].chain_windows, 60);
    let exceptions: Vec<_> = report
        .debt
        .exceptions
        .iter()
        .map(|row| (row.id.as_str(), row.state.as_str()))
        .collect();
    assert_eq!(exceptions, [("x/ops/console", "in_force"), ("x/ops/legacy", "expired")]);
    assert_eq!(report.debt.privileged.len(), 3);
    let emergency = &report.break_glass.uses[0];
    assert_eq!(
        (emergency.review.as_str(), emergency.reviewed_by.as_str()),
        ("done", "bob")
    );
    assert_eq!(emergency.approvers, ["ann"]);
    assert_eq!(report.policy.digests.len(), 1);
    assert_eq!(report.policy.definitions.len(), 3);
    let overprivileged = report
        .controls
        .iter()
        .find(|control| control.id == "NHI5:2025")
        .unwrap();
    assert_eq!(
        (overprivileged.state, overprivileged.older_labels.as_slice()),
        (State::Broken, &["NHI-03".to_owned()][..])
    );
    assert!(report.limits.iter().any(|limit| limit.what == "Probes"));
}

#[test]
fn a_scope_measures_its_part_and_judges_the_whole_log() {
    let world = faulty();
    let mut view = view();
    view.scope = "task:pay/export".parse().unwrap();
    let part = report_of(world, world.details.clone(), &view);
    assert_eq!(codes(&part), ["rubber-stamping"]);
    assert_eq!(part.meter.by_task.rows.len(), 1);
    assert_eq!(part.joins.windows, report(world).joins.windows);
    view.scope = "workload:spiffe://td/ops/*".parse().unwrap();
    let part = report_of(world, world.details.clone(), &view);
    assert_eq!(codes(&part), ["expired-exception", "privileged-base-identity"]);
}

#[test]
fn what_is_later_than_the_period_is_left_out() {
    let world = faulty();
    let mut view = view();
    view.to = START + 5 * DAY;
    let early = report_of(world, world.details.clone(), &view);
    assert!(early.completeness.after_period > 0 && early.completeness.is_whole);
    assert_eq!(codes(&early), Vec::<&str>::new(), "{:#?}", early.findings);
    view.to = START + 10 * DAY;
    let week = report_of(world, world.details.clone(), &view);
    assert_eq!(codes(&week), ["privileged-base-identity", "rubber-stamping"]);
}

#[test]
fn an_entry_that_is_missing_breaks_the_claim() {
    let world = &play(1, &[]);
    let entries = || world.entries().into_iter().filter(|entry| entry.index != 700).map(Ok);
    let report = Report::build(entries(), world.details.clone(), &view(), facts(world));
    assert!(!report.claim.holds && !report.completeness.is_whole);
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.code == "invariant-violated")
    );
}

#[test]
fn a_stray_svid_is_standing_authority() {
    let mut world = play(1, &[]);
    let body = json!({
        "authority_id": "authority-task", "entry_id": null, "not_after": START + MONTH + 7_200,
        "public_key_sha256": "77", "serial": "777777",
    });
    world.now += 60;
    world.raw("svid.intended", "spiffe://td/task/pay/db-migrate/ns/pay/x", body);
    let mut view = view();
    view.to += DAY;
    let report = report_of(&world, world.details.clone(), &view);
    assert!(!report.claim.holds);
    let codes: BTreeSet<&str> = codes(&report).into_iter().collect();
    assert_eq!(codes, ["invariant-violated", "standing-authority"].into());
    assert_eq!(report.zero_standing.state, State::Broken);
}
