//! Sums that a report must bear out by itself. Written from what the report says, not from how it is made.
//!
//! The numbers are somebody else's: whatever they are, they are added without overflow ([`total`]), and what is wrong is
//! told by its place, at most [`WRONG_MAX`] times.

use std::collections::BTreeSet;

use mayfly_audit::finding::Code;
use mayfly_audit::meter::{Distribution, Listed};
use mayfly_audit::report::{EndingRow, State};
use mayfly_audit::{Invariant, Report, Severity};

use super::{Check, brief};

/// Days that a report shows at most.
const DAYS_MAX: usize = 36_525;
const HOUR: i64 = 3_600;
/// Mistakes that are told; the rest is counted.
const WRONG_MAX: usize = 100;

/// What is wrong, and how much was looked at.
#[derive(Default)]
struct Sums {
    wrong: Vec<String>,
    untold: u64,
    looked_at: u64,
}

pub(super) fn sums(report: &Report) -> Check {
    let mut sums = Sums::default();
    claim(report, &mut sums);
    completeness(report, &mut sums);
    instants(report, &mut sums);
    joins(report, &mut sums);
    endings(report, &mut sums);
    probes(report, &mut sums);
    meter(report, &mut sums);
    debt(report, &mut sums);
    approvals(report, &mut sums);
    controls(report, &mut sums);
    if sums.untold > 0 {
        sums.wrong.push(format!("and {} more", sums.untold));
    }
    Check::new("sums", sums.wrong, format!("{} of them", sums.looked_at))
}

/// The sum of numbers of 64 bits: there is no report with so many that 128 bits would not do.
fn total<T: Into<i128>>(numbers: impl IntoIterator<Item = T>) -> i128 {
    numbers.into_iter().fold(0, |sum, number| sum + number.into())
}

/// How many rows a table has, those that are left out included.
fn rows_of<T>(listed: &Listed<T>) -> i128 {
    listed.rows.len() as i128 + i128::from(listed.left_out)
}

impl Sums {
    /// `what` has to be.
    fn must(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        self.looked_at += 1;
        match is_so {
            true => {}
            false if self.wrong.len() < WRONG_MAX => self.wrong.push(what()),
            false => self.untold += 1,
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, says: T, is: T) {
        self.must(says == is, || {
            format!("{what}: it says {says:?}, and its own rows make {is:?}")
        });
    }

    /// The same of numbers, of whatever width.
    fn adds_up(&mut self, what: &str, says: impl Into<i128>, is: i128) {
        self.same(what, says.into(), is);
    }

    fn distribution(&mut self, what: &str, of: &Distribution) {
        let is_ordered = of.p50 <= of.p95 && of.p95 <= of.max;
        let is_empty = of.count > 0 || (of.p50, of.p95, of.max) == (0, 0, 0);
        self.must(is_ordered && is_empty, || format!("{what}: {of:?} is no distribution"));
    }
}

fn claim(report: &Report, sums: &mut Sums) {
    let claim = &report.claim;
    sums.must(claim.from < claim.to, || "the period ends before it begins".into());
    let critical = report
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Critical)
        .count();
    sums.same("claim.holds", claim.holds, critical == 0);
    let begins_within = claim
        .log
        .begin
        .as_ref()
        .is_none_or(|begin| begin.size <= claim.log.end.size);
    sums.must(begins_within, || {
        "the log was larger at the begin of the period than at its end".into()
    });
    for finding in &report.findings {
        let is_known = Code::find(&finding.code).is_some();
        sums.must(is_known, || {
            format!("`{}` is no finding that is known here", brief(&finding.code))
        });
        let is_within = finding.evidence.iter().all(|index| *index < claim.log.end.size);
        sums.must(is_within, || {
            format!(
                "a finding `{}` names entries that the log does not have",
                brief(&finding.code)
            )
        });
    }
}

fn completeness(report: &Report, sums: &mut Sums) {
    let part = &report.completeness;
    let by_kind = total(part.by_kind.values().copied());
    sums.adds_up("completeness.entries", part.entries, by_kind);
    let unread = part.gaps.len() as i128;
    let read = total([part.entries, part.after_period]);
    let size = i128::from(report.claim.log.end.size);
    let adds_up = read <= size && read + unread >= size;
    sums.must(!part.is_whole || adds_up, || {
        format!("completeness: {read} entries were read or left out, and the checkpoint has {size}")
    });
    sums.must(part.in_period <= part.entries, || {
        "completeness: more entries are of the period than were read".into()
    });
    let has_finding = |code| report.findings.iter().any(|finding| finding.code == code);
    sums.must(
        (part.is_whole && part.gaps.is_empty()) || has_finding("invariant-violated"),
        || "completeness: the log has gaps, and no finding says so".into(),
    );
}

fn instants(report: &Report, sums: &mut Sums) {
    let (part, claim) = (&report.zero_standing, &report.claim);
    let hours = claim.to.saturating_sub(1).div_euclid(HOUR) - claim.from.saturating_sub(1).div_euclid(HOUR);
    // Ten years are sampled hour by hour.
    sums.must(
        part.hourly == u64::try_from(hours).unwrap_or(0) || part.hourly > 87_660,
        || {
            format!(
                "zero_standing.hourly: it says {}, and the period has {hours} full hours",
                part.hourly
            )
        },
    );
    sums.same("zero_standing.samples", part.samples.len() as u64, part.hourly);
    let is_within = part
        .samples
        .iter()
        .all(|sample| (claim.from..claim.to).contains(&sample.at));
    sums.must(is_within, || "zero_standing: a sample is not of the period".into());
    let most = part
        .samples
        .iter()
        .map(|sample| sample.open.max(sample.live))
        .max()
        .unwrap_or(0);
    sums.must(part.most >= most, || {
        format!("zero_standing.most: it says {}, and a sample has {most}", part.most)
    });
    let is_broken = part
        .differences
        .rows
        .iter()
        .any(|row| row.what == "svid_without_window");
    let state = match (part.hourly | part.random, is_broken) {
        (0, _) => State::NotTested,
        (_, true) => State::Broken,
        (_, false) => State::Held,
    };
    sums.same("zero_standing.state", part.state, state);
    let is_told = report
        .findings
        .iter()
        .any(|finding| finding.code == "standing-authority");
    sums.must(is_broken <= is_told, || {
        "zero_standing: it is broken, and no finding says so".into()
    });
}

fn joins(report: &Report, sums: &mut Sums) {
    let part = &report.joins;
    let all: BTreeSet<Invariant> = Invariant::ALL.into_iter().map(|(invariant, _)| invariant).collect();
    sums.same(
        "joins.checks",
        part.checks.iter().map(|check| check.invariant).collect(),
        all,
    );
    let counted = |invariant| {
        part.violations
            .rows
            .iter()
            .filter(|row| row.invariant == invariant)
            .count() as u64
    };
    for check in &part.checks {
        if part.violations.left_out == 0 {
            sums.same(
                &format!("joins, {}", check.invariant),
                check.violations,
                counted(check.invariant),
            );
        }
        let state = match check.violations {
            _ if check.invariant == Invariant::I13 => State::NotRecorded,
            0 => State::Held,
            _ => State::Broken,
        };
        sums.same(&format!("joins, state of {}", check.invariant), check.state, state);
    }
    let violations = rows_of(&part.violations);
    let checked = total(part.checks.iter().map(|check| check.violations));
    sums.same("joins.violations", checked, violations);
    let told = report
        .findings
        .iter()
        .filter(|finding| finding.code == "invariant-violated")
        .count() as i128;
    sums.must(told >= violations, || {
        format!("joins: {violations} violations, and only {told} findings about them")
    });
}

fn endings(report: &Report, sums: &mut Sums) {
    let part = &report.endings;
    sums.adds_up("endings.rows", part.windows, rows_of(&part.rows));
    sums.distribution("endings.residual", &part.residual);
    sums.distribution("endings.to_settled", &part.to_settled);
    sums.must(part.settled_by_checkpoints <= part.residual.count, || {
        "endings: more windows were settled by consumers than were settled".into()
    });
    sums.adds_up("debt.unsettled", report.debt.unsettled, rows_of(&part.unsettled));
    for row in part.rows.rows.iter().chain(&part.unsettled.rows) {
        sums.must(row.opened_at <= row.closes_at, || {
            format!("window {} closes before it opens", brief(&row.window))
        });
        let is_over =
            row.ended_at.is_none_or(|at| at >= row.opened_at) && row.ended_at.is_some() >= row.settled_at.is_some();
        sums.must(is_over, || {
            format!(
                "window {} was settled without an end, or ended before it began",
                brief(&row.window)
            )
        });
        sums.must(row.settled_at.is_some() == row.residual.is_some(), || {
            format!(
                "window {} is settled without residual seconds, or has some and is not",
                brief(&row.window)
            )
        });
    }
    if part.rows.left_out == 0 {
        let residual = |row: &EndingRow| row.residual.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        let made = Distribution::of(part.rows.rows.iter().filter_map(residual).collect());
        sums.same("endings.residual", part.residual, made);
        let settled = |row: &EndingRow| Some(row.settled_at?.saturating_sub(row.ended_at?));
        let made = Distribution::of(part.rows.rows.iter().filter_map(settled).collect());
        sums.same("endings.to_settled", part.to_settled, made);
    }
}

fn probes(report: &Report, sums: &mut Sums) {
    let part = &report.probes;
    if part.results.left_out > 0 {
        return;
    }
    for row in &part.matrix {
        for (kind, state) in &row.by_kind {
            let of = |result: &&mayfly_audit::report::ProbeResult| {
                result.checkpoint == row.checkpoint && result.kind == *kind
            };
            let made = match part.results.rows.iter().rfind(of) {
                None => State::NotTested,
                Some(result) if result.outcome == result.expected => State::Held,
                Some(_) => State::Broken,
            };
            sums.same(
                &format!("probes, {} of {}", brief(kind), brief(&row.checkpoint)),
                *state,
                made,
            );
        }
    }
    let mut cells = part.matrix.iter().flat_map(|row| row.by_kind.values());
    let is_complete = !part.results.rows.is_empty() && cells.all(|state| *state != State::NotTested);
    let made = match part.results.rows.iter().all(|result| result.outcome == result.expected) {
        false => State::Broken,
        true if is_complete => State::Held,
        true => State::NotTested,
    };
    sums.same("probes.state", part.state, made);
}

fn meter(report: &Report, sums: &mut Sums) {
    let part = &report.meter;
    let power = part.total.privileged_seconds;
    for (by, rows) in [
        ("by_owner", &part.by_owner),
        ("by_task", &part.by_task),
        ("by_workload", &part.by_workload),
    ] {
        if rows.left_out == 0 {
            let seconds = total(rows.rows.iter().map(|row| row.privileged_seconds));
            sums.adds_up(&format!("meter.{by}"), power, seconds);
            let windows = total(rows.rows.iter().map(|row| row.windows));
            sums.adds_up(&format!("meter.{by}, windows"), part.total.windows, windows);
        }
    }
    if part.by_day.len() < DAYS_MAX {
        let days = total(part.by_day.iter().map(|day| day.privileged_seconds));
        sums.adds_up("meter.by_day", power, days);
    }
    let lists = [
        &part.by_owner,
        &part.by_task,
        &part.by_workload,
        &part.by_person,
        &part.by_checkpoint,
    ];
    for row in lists.into_iter().flat_map(|list| &list.rows).chain([&part.total]) {
        let is_share = row.duty_permille <= 1000 && row.longest <= row.privileged_seconds.max(0);
        sums.must(is_share, || {
            format!("meter, {}: more than there can be", brief(&row.name))
        });
    }
    let used = mayfly_audit::span::permille(power, part.total.asked_seconds);
    sums.same("meter.used_permille", part.used_permille, used);
    let told = report
        .findings
        .iter()
        .filter(|finding| finding.code == "disguised-standing-access")
        .count();
    sums.same("meter.patterns", part.patterns.len(), told);
}

fn debt(report: &Report, sums: &mut Sums) {
    let (part, to) = (&report.debt, report.claim.to);
    for row in &part.exceptions {
        let is_right = match row.state.as_str() {
            "in_force" => row.expires_at > to,
            "expired" => row.expires_at <= to,
            _ => row.state == "ended",
        };
        sums.must(is_right, || {
            format!("the exception {} is said to be {}", brief(&row.id), brief(&row.state))
        });
    }
    for row in &part.privileged {
        let known = |id: &String| part.exceptions.iter().any(|exception| exception.id == *id);
        sums.must(row.exceptions.iter().all(known), || {
            format!("{} has an exception that is not listed", brief(&row.identity))
        });
    }
    let used = total(report.break_glass.uses.iter().map(|used| used.privileged_seconds));
    sums.adds_up(
        "break_glass.privileged_seconds",
        report.break_glass.privileged_seconds,
        used,
    );
}

fn approvals(report: &Report, sums: &mut Sums) {
    let part = &report.approvals;
    sums.distribution("approvals.latency", &part.latency);
    for row in &part.people {
        sums.distribution(&format!("approvals, {}", brief(&row.person)), &row.latency);
        let (approved, all) = (i128::from(row.approved), total([row.approved, row.refused]));
        let share = u64::try_from(if all > 0 { approved * 1000 / all } else { 0 }).unwrap_or(u64::MAX);
        sums.same(
            &format!("approvals, {}", brief(&row.person)),
            row.approved_permille,
            share,
        );
    }
}

fn controls(report: &Report, sums: &mut Sums) {
    let found: BTreeSet<&String> = report.findings.iter().map(|finding| &finding.code).collect();
    for control in &report.controls {
        let are_found = control.findings.iter().all(|code| found.contains(code));
        sums.must(are_found, || {
            format!("{}: it names findings that there are none of", brief(&control.id))
        });
        let is_told = control.findings.is_empty() || control.state == State::Broken;
        sums.must(is_told, || {
            format!(
                "{}: findings speak against it, and it is not broken",
                brief(&control.id)
            )
        });
        let is_untested = control.state != State::Held
            || !control.parts.contains(&6)
            || control.parts.len() > 1
            || report.probes.state != State::NotTested;
        sums.must(is_untested, || {
            format!("{}: it held by tests that nobody made", brief(&control.id))
        });
    }
}
