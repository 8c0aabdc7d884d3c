//! Parts 7 to 10: how much power, what stands, emergencies, and people.

use maud::{Markup, html};
use mayfly_audit::Report;
use mayfly_audit::meter::{Listed, MeterRow};

use super::authority::windows;
use super::badge;
use super::chart::{Bar, Caption, Event, Marks, bars, columns, marks, timeline};
use super::table::Column::{N, T};
use super::table::{facts, table};
use super::words::{code, codes, count, dash, entries, percent, span, text, time, time_or_dash};

pub(super) fn meter(report: &Report) -> Markup {
    let part = &report.meter;
    let seconds = |rows: &Listed<MeterRow>| -> Vec<Bar> {
        let bar = |row: &MeterRow| Bar {
            label: row.name.clone(),
            value: row.privileged_seconds,
            text: span(row.privileged_seconds),
            is_high: false,
        };
        rows.rows.iter().map(bar).collect()
    };
    let limit = report.thresholds.duty_permille;
    let mut duty: Vec<&MeterRow> = part.by_workload.rows.iter().collect();
    duty.sort_by(|a, b| (b.duty_permille, &a.name).cmp(&(a.duty_permille, &b.name)));
    let duty: Vec<Bar> = duty
        .into_iter()
        .map(|row| Bar {
            label: row.name.clone(),
            value: i64::try_from(row.duty_permille).unwrap_or(i64::MAX),
            text: percent(row.duty_permille),
            is_high: row.duty_permille >= limit,
        })
        .collect();
    let days: Vec<(i64, i64)> = part.by_day.iter().map(|day| (day.at, day.privileged_seconds)).collect();
    let patterns = part.patterns.iter().map(|row| {
        vec![
            html! { (code(&row.task)) br; (code(&row.workload)) },
            codes(&row.signs),
            html! { (count(row.identical_requests)) },
            html! { (count(row.chain_windows)) " / " (span(row.chain_seconds)) },
            html! { (count(row.extensions)) },
            html! { (percent(row.duty_permille)) " / " (percent(row.day_permille)) },
            entries(&row.evidence),
        ]
    });
    let nothing = part.total.windows == 0;
    html! {
        (facts(vec![
            ("Privileged time", html! { (span(part.total.privileged_seconds)) " in " (count(part.total.windows)) " windows" }),
            ("Asked for", html! { (span(part.total.asked_seconds)) ", of which " (percent(part.used_permille)) " was used" }),
            ("Duty cycle", html! { (percent(part.total.duty_permille)) " of the period had at least one open window" }),
            ("Longest window", html! { (span(part.total.longest)) }),
        ]))
        @if nothing { p.empty { "No window was open within the period, so there is nothing to draw." } }
        @if !nothing {
            (bars(&Caption {
                id: "chart-owners",
                title: "Privileged time by owner",
                description: "Time that windows gave power, each window by itself, by who answers for the task.".into(),
            }, seconds(&part.by_owner), None))
            (bars(&Caption {
                id: "chart-tasks",
                title: "Privileged time by task",
                description: "The same by task.".into(),
            }, seconds(&part.by_task), None))
            (bars(&Caption {
                id: "chart-duty",
                title: "Duty cycle by workload",
                description: format!("The share of the period in which at least one window of the workload was open. \
                    From {} on, of one task, it counts as standing access in pieces.", percent(limit)),
            }, duty, Some((i64::try_from(limit).unwrap_or(i64::MAX), "threshold"))))
            @if days.len() > 1 {
                (columns(&Caption {
                    id: "chart-days",
                    title: "Privileged time, day by day",
                    description: "Days in UTC.".into(),
                }, &days, span))
            }
        }
        (table("Standing access that looks as if it were not",
            &[T("Who does what"), T("Signs"), N("Identical requests"), N("Chain"), N("Extensions"), N("Duty of period / day"), T("Entries")],
            patterns.collect(), 0))
        (rows("By owner", "Owner", &part.by_owner))
        (rows("By task", "Task", &part.by_task))
        (rows("By workload", "Workload", &part.by_workload))
        (rows("By person behind it", "Person", &part.by_person))
        (rows("By consumer that enforces", "Consumer", &part.by_checkpoint))
    }
}

fn rows(caption: &str, what: &'static str, listed: &Listed<MeterRow>) -> Markup {
    let cells = listed.rows.iter().map(|row| {
        vec![
            text(&row.name),
            html! { (count(row.windows)) },
            html! { (span(row.privileged_seconds)) },
            html! { (percent(row.duty_permille)) },
            html! { (span(row.asked_seconds)) },
            html! { (span(row.longest)) },
            html! { (span(i64::try_from(row.residual_seconds).unwrap_or(i64::MAX))) },
        ]
    });
    let columns = [
        T(what),
        N("Windows"),
        N("Privileged"),
        N("Duty"),
        N("Asked for"),
        N("Longest"),
        N("Residual"),
    ];
    table(caption, &columns, cells.collect(), listed.left_out)
}

pub(super) fn debt(report: &Report) -> Markup {
    let part = &report.debt;
    let exceptions = part.exceptions.iter().map(|row| {
        let state = match row.state.as_str() {
            "expired" => html! { span.badge.broken { "expired" } },
            "in_force" => html! { span.badge.due { "in force" } },
            other => text(other),
        };
        vec![
            code(&row.id),
            code(&row.identity),
            text(&row.owner),
            text(&row.reason),
            text(&row.control),
            html! { (row.age_days) " d, renewed " (row.renewals) "×" },
            time(row.expires_at),
            state,
            html! { (row.index) },
        ]
    });
    let privileged = part.privileged.iter().map(|row| {
        let uncovered = match row.uncovered_seconds {
            0 => html! { "0 s" },
            seconds => html! { span.badge.broken { (span(seconds)) } },
        };
        vec![
            code(&row.identity),
            codes(&row.rights),
            time(row.since),
            time_or_dash(row.until),
            codes(&row.exceptions),
            uncovered,
            html! { (row.index) },
        ]
    });
    html! {
        (facts(vec![
            ("Windows not settled at the end", html! { (count(part.unsettled)) }),
            ("Systems that only take standing authority", badge(part.legacy)),
        ]))
        (table("Register of exceptions, the oldest first",
            &[T("Exception"), T("Identity"), T("Owner"), T("Reason"), T("Instead"), T("Age"), T("Expires"), T("State"), N("Entry")], exceptions.collect(), 0))
        (table("Identities with privileges of their own",
            &[T("Identity"), T("Rights"), T("Since"), T("Until"), T("Exceptions"), N("Without one"), N("Entry")], privileged.collect(), 0))
        (windows("Accepted risks", &part.accepted_risks, 0))
    }
}

pub(super) fn break_glass(report: &Report) -> Markup {
    let part = &report.break_glass;
    let is_late = |review: &str| review == "overdue";
    let events: Vec<Event> = part
        .uses
        .iter()
        .map(|used| Event {
            label: used.task.clone(),
            from: used.opened_at,
            to: used.opened_at.saturating_add(used.privileged_seconds),
            text: format!("review {}", used.review),
            is_high: is_late(&used.review),
        })
        .collect();
    let uses = part.uses.iter().map(|used| {
        let review = match used.review.as_str() {
            "done" => html! { (badge(mayfly_audit::report::State::Held)) br; (text(&used.reviewed_by)) " " (time_or_dash(used.reviewed_at)) },
            "overdue" => html! { span.badge.broken { "overdue" } },
            other => html! { span.badge.due { (text(other)) } },
        };
        vec![
            html! { (code(&used.task)) br; (code(&used.workload)) },
            text(&used.person),
            text(&used.ticket),
            text(&used.reason),
            html! { @for (place, who) in used.approvers.iter().enumerate() { @if place > 0 { ", " } (text(who)) } @if used.approvers.is_empty() { (dash()) } },
            html! { (time(used.opened_at)) br; (time_or_dash(used.ended_at)) },
            html! { (span(used.privileged_seconds)) },
            review,
            html! { (used.index) },
        ]
    });
    html! {
        @if events.is_empty() {
            p.good { "Nobody broke glass within the period." }
        } @else {
            (timeline(&Caption {
                id: "chart-break-glass",
                title: "Emergencies within the period",
                description: format!("Each use of break-glass, from its begin to its end: {} in all. ▲ marks those that nobody \
                    looked at in time.", span(part.privileged_seconds)),
            }, (report.claim.from, report.claim.to), events))
            (table("Uses",
                &[T("Task and workload"), T("Person"), T("Ticket"), T("Reason"), T("Agreed"), T("From, to"), N("Power"), T("Review"), N("Entry")], uses.collect(), 0))
        }
    }
}

pub(super) fn approvals(report: &Report) -> Markup {
    let part = &report.approvals;
    let mut latencies = vec![Marks {
        label: "All answers".into(),
        p50: part.latency.p50,
        p95: part.latency.p95,
        max: part.latency.max,
        count: part.latency.count,
        is_high: false,
    }];
    latencies.extend(part.people.iter().map(|row| Marks {
        label: row.person.clone(),
        p50: row.latency.p50,
        p95: row.latency.p95,
        max: row.latency.max,
        count: row.latency.count,
        is_high: row.flag.is_some(),
    }));
    let people = part.people.iter().map(|row| {
        vec![
            text(&row.person),
            html! { (count(row.approved)) },
            html! { (count(row.refused)) },
            html! { (percent(row.approved_permille)) },
            html! { (span(row.latency.p50)) },
            html! { (span(row.latency.p95)) },
            html! { (percent(row.self_group_permille)) },
            row.flag
                .as_ref()
                .map_or_else(dash, |flag| html! { span.badge.broken { (text(flag)) } }),
        ]
    });
    let matrix = part.matrix.rows.iter().map(|row| {
        let is_same = row.requester == row.approver;
        vec![
            text(&row.requester),
            html! { (text(&row.approver)) @if is_same { " " span.badge.broken { "the same" } } },
            html! { (count(row.approvals)) },
        ]
    });
    let requests = part
        .requests
        .iter()
        .map(|(stage, number)| vec![text(stage), html! { (count(*number)) }]);
    let limit = report.thresholds.approval_seconds;
    html! {
        (facts(vec![
            ("Windows that somebody agreed to", html! { (count(part.approved_windows)) }),
            ("Windows that policy alone allowed", html! { (count(part.unattended_windows)) }),
        ]))
        @if part.latency.count == 0 && part.people.is_empty() {
            p.empty { "Nobody was asked within the period." }
        } @else {
            (marks(&Caption {
                id: "chart-latency",
                title: "Time to answer",
                description: format!("From the moment that people are asked to their answer. Circle: median. Square: 95th percentile. \
                    Bar: the longest. The scale is logarithmic. A median below {} says that nobody read.", span(limit)),
            }, latencies, Some((limit, "reads nothing"))))
            (table("People who answered",
                &[T("Person"), N("Agreed"), N("Refused"), N("Share"), N("Median"), N("95th percentile"), N("Own groups"), T("Finding")], people.collect(), 0))
            (table("Separation of duties: who agreed to whose requests", &[T("Asked"), T("Agreed"), N("Times")], matrix.collect(), part.matrix.left_out))
        }
        (table("Requests by where they stand", &[T("Stage"), N("Requests")], requests.collect(), 0))
    }
}
