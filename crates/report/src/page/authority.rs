//! Parts 2 to 6: whether the log is whole, who had authority, how it began, how it ended, and who refused it.

use maud::{Markup, html};
use mayfly_audit::Report;
use mayfly_audit::meter::Distribution;
use mayfly_audit::report::{EndingRow, State};

use super::badge;
use super::chart::{Bar, Caption, Marks, bars, columns, marks, steps};
use super::table::Column::{N, T};
use super::table::{facts, table};
use super::words::{code, codes, count, dash, entries, many, plain, span, text, time, time_or_dash};

pub(super) fn completeness(report: &Report) -> Markup {
    let part = &report.completeness;
    let gaps = part.gaps.iter().map(|gap| {
        vec![
            html! { (gap.index) },
            time(gap.time),
            html! { (gap.invariant) },
            text(&gap.message),
        ]
    });
    let steps = part
        .clock_steps
        .iter()
        .map(|step| vec![html! { (step.index) }, time(step.before), time(step.after)]);
    let silences = part.silences.rows.iter();
    let silences = silences.map(|silence| {
        vec![
            time(silence.from),
            time(silence.to),
            html! { (span(silence.to.saturating_sub(silence.from))) },
        ]
    });
    let events = part.log_events.rows.iter();
    let events = events.map(|event| {
        vec![
            html! { (event.index) },
            time(event.at),
            code(&event.kind),
            text(&event.detail),
        ]
    });
    let mut kinds: Vec<(&String, &u64)> = part.by_kind.iter().collect();
    kinds.sort_by_key(|(kind, number)| (std::cmp::Reverse(**number), *kind));
    let kinds = kinds.into_iter().map(|(kind, number)| {
        vec![
            code(kind),
            html! { (count(*number)) @if part.unknown_kinds.contains_key(kind) { " (not known here)" } },
        ]
    });
    html! {
        (facts(vec![
            ("Entries read", html! { (count(part.entries)) }),
            ("Of the period", html! { (count(part.in_period)) }),
            ("Later, left out", html! { (count(part.after_period)) }),
            ("As many as the checkpoint says", badge(if part.is_whole { State::Held } else { State::Broken })),
            ("Kept beside the log and unknown here", html! { (many(part.unread.len() as u64, "entry").replace("entrys", "entries")) }),
            ("SVIDs of unknown outcome", html! { (count(part.unknown_outcomes)) }),
        ]))
        (table("Gaps and entries that cannot be read", &[N("Entry"), T("At"), T("Rule"), T("What is wrong")], gaps.collect(), 0))
        (table("The clock was set back", &[N("Entry"), T("Before"), T("After")], steps.collect(), 0))
        (table("An hour or more without entries", &[T("From"), T("To"), N("For")], silences.collect(), part.silences.left_out))
        (table("The log itself: keys, witnesses, erasures, reports", &[N("Entry"), T("At"), T("Kind"), T("What")], events.collect(), part.log_events.left_out))
        (table("Entries by kind, of the whole log", &[T("Kind"), N("Entries")], kinds.collect(), 0))
    }
}

pub(super) fn zero_standing(report: &Report) -> Markup {
    let part = &report.zero_standing;
    let samples: Vec<(i64, u64, u64)> = part
        .samples
        .iter()
        .map(|sample| (sample.at, sample.open, sample.live))
        .collect();
    let differences = part.differences.rows.iter().map(|row| {
        let what = match row.what.as_str() {
            "svid_without_window" => html! { span.badge.broken { "an SVID, and no window" } },
            "window_without_svid" => html! { "a window, and no SVID: nobody renewed" },
            other => text(other),
        };
        vec![time(row.at), code(&row.spiffe_id), what]
    });
    let must_not = part
        .differences
        .rows
        .iter()
        .filter(|row| row.what == "svid_without_window")
        .count() as u64;
    html! {
        (facts(vec![
            ("Instants", html! { (count(part.hourly)) " full hours, and " (count(part.random)) " chosen by the root hash" }),
            ("SVIDs without a window", html! { (count(must_not)) }),
            ("The most identities with authority at once", html! { (count(part.most)) }),
        ]))
        @if samples.is_empty() {
            p.empty { "The period has no full hour, so there is nothing to draw." }
        } @else {
            (steps(&Caption {
                id: "chart-standing",
                title: "Identities with authority, at full hours",
                description: "The area is identities with an SVID that counts; the line is identities with an open window. \
                              An area above the line would be standing power.".into(),
            }, &samples))
        }
        (table("Where the two differ", &[T("At"), T("Identity"), T("Has")], differences.collect(), part.differences.left_out))
    }
}

pub(super) fn joins(report: &Report) -> Markup {
    let part = &report.joins;
    let checks = part.checks.iter().map(|check| {
        vec![
            html! { (check.invariant) },
            text(&check.says),
            badge(check.state),
            html! { (count(check.violations)) },
        ]
    });
    let violations = part.violations.rows.iter().map(|row| {
        vec![
            html! { (row.index) },
            time(row.time),
            html! { (row.invariant) },
            text(&row.message),
        ]
    });
    html! {
        (facts(vec![
            ("SVIDs of tasks", html! { (count(part.task_svids)) }),
            ("Windows", html! { (count(part.windows)) }),
            ("Decisions", html! { (count(part.decisions)) }),
            ("Other SVIDs", html! { (count(part.base_svids)) ", which carry no privileges by themselves (part 8)" }),
        ]))
        (table("Rules that no policy and no administrator can switch off", &[T("Rule"), T("Says"), T("State"), N("Violations")], checks.collect(), 0))
        (table("Violations", &[N("Entry"), T("At"), T("Rule"), T("What is wrong")], violations.collect(), part.violations.left_out))
    }
}

pub(super) fn endings(report: &Report) -> Markup {
    let part = &report.endings;
    let causes = part.by_cause.iter().map(|(cause, number)| Bar {
        label: plain(cause),
        value: i64::try_from(*number).unwrap_or(i64::MAX),
        text: count(*number),
        is_high: false,
    });
    let row = |label: &str, of: &Distribution, is_high: bool| Marks {
        label: label.into(),
        p50: of.p50,
        p95: of.p95,
        max: of.max,
        count: of.count,
        is_high,
    };
    let limit = report.thresholds.settle_within;
    let spans = vec![
        row("Residual", &part.residual, false),
        row("Until settled", &part.to_settled, part.to_settled.max > limit),
    ];
    let days: Vec<(i64, i64)> = report
        .meter
        .by_day
        .iter()
        .map(|day| (day.at, day.residual_p95))
        .collect();
    let by_cause: Vec<Bar> = causes.collect();
    let quantile = |name: &'static str, of: &Distribution| {
        vec![
            html! { (name) },
            html! { (count(of.count)) },
            html! { (span(of.p50)) },
            html! { (span(of.p95)) },
            html! { (span(of.max)) },
        ]
    };
    html! {
        (facts(vec![
            ("Windows open within the period", html! { (count(part.windows)) }),
            ("Settled because consumers said so", html! { (count(part.settled_by_checkpoints)) }),
            ("Connections that consumers closed", badge(part.connections_closed)),
            ("What SVIDs were exchanged for", badge(part.derivations_ended)),
        ]))
        (marks(&Caption {
            id: "chart-residual",
            title: "Seconds of authority after the end of windows",
            description: format!(
                "Residual: until the last SVID could not count any more; median {}, 95th percentile {}, most {}. Until settled: \
                 until that was shown; median {}, most {}. Circle: median. Square: 95th percentile. Bar: the most. The scale is logarithmic.",
                span(part.residual.p50), span(part.residual.p95), span(part.residual.max), span(part.to_settled.p50), span(part.to_settled.max)
            ),
        }, spans, Some((limit, "to be settled by"))))
        (table("Seconds after the end", &[T("Of"), N("Windows"), N("Median"), N("95th percentile"), N("Most")],
            vec![quantile("Residual", &part.residual), quantile("Until settled", &part.to_settled)], 0))
        @if !by_cause.is_empty() {
            (bars(&Caption {
                id: "chart-causes",
                title: "Why windows ended",
                description: "Windows that ended within the period, by cause.".into(),
            }, by_cause, None))
        }
        @if days.len() > 1 {
            (columns(&Caption {
                id: "chart-residual-days",
                title: "Residual seconds, 95th percentile, day by day",
                description: "Of windows that ended on that day, UTC.".into(),
            }, &days, span))
        }
        (windows("Not settled", &part.unsettled.rows, part.unsettled.left_out))
        (windows("Windows, the longest residual first", &part.rows.rows, part.rows.left_out))
    }
}

/// Windows with how they ended.
pub(super) fn windows(caption: &str, rows: &[EndingRow], left_out: u64) -> Markup {
    let rows = rows.iter().map(|row| {
        let settled = match (row.settled_at, row.is_accepted_risk) {
            (Some(at), true) => html! { (time(at)) " " span.badge.due { "risk accepted" } },
            (Some(at), false) => time(at),
            (None, _) if row.ended_at.is_some() || row.closes_at <= 0 => html! { span.badge.broken { "not settled" } },
            (None, _) => dash(),
        };
        let consumers = html! {
            @for acknowledgement in &row.checkpoints { (code(&acknowledgement.name)) " " }
            @if row.checkpoints.is_empty() { (dash()) }
        };
        vec![
            html! { (code(&row.window)) br; (code(&row.task)) },
            code(&row.workload),
            time(row.opened_at),
            html! { (time_or_dash(row.ended_at)) @if let Some(cause) = &row.cause { br; (text(cause)) } },
            row.residual.map_or_else(
                dash,
                |seconds| html! { (span(i64::try_from(seconds).unwrap_or(i64::MAX))) },
            ),
            settled,
            consumers,
            entries(&row.evidence),
        ]
    });
    let columns = [
        T("Window"),
        T("Workload"),
        T("Opened"),
        T("Ended"),
        N("Residual"),
        T("Settled"),
        T("Confirmed by"),
        T("Entries"),
    ];
    table(caption, &columns, rows.collect(), left_out)
}

pub(super) fn probes(report: &Report) -> Markup {
    let part = &report.probes;
    let kinds: Vec<&String> = part
        .matrix
        .first()
        .map(|row| row.by_kind.keys().collect())
        .unwrap_or_default();
    let results = part.results.rows.iter().map(|row| {
        let is_as_expected = row.outcome == row.expected;
        vec![
            html! { (row.index) },
            time(row.at),
            code(&row.checkpoint),
            code(&row.kind),
            row.window.as_ref().map_or_else(dash, |window| code(window)),
            html! { (text(&row.outcome)) @if !is_as_expected { " " span.badge.broken { "expected " (text(&row.expected)) } } },
        ]
    });
    html! {
        @if part.matrix.is_empty() {
            p { (badge(State::NotTested)) " No consumer registered, and no definition declares one." }
        } @else {
            div.scroll role="region" aria-label="Consumers and tests" tabindex="0" {
                table {
                    caption { "Consumers, by kind of test; the newest result of each" }
                    thead { tr {
                        th scope="col" { "Consumer" }
                        @for kind in &kinds { th scope="col" { (text(kind)) } }
                    } }
                    tbody {
                        @for row in part.matrix.iter().take(200) {
                            tr {
                                th scope="row" { (code(&row.checkpoint)) }
                                @for kind in &kinds { td { (badge(row.by_kind.get(*kind).copied().unwrap_or(State::NotTested))) } }
                            }
                        }
                    }
                }
            }
            @if part.matrix.len() > 200 { p.more { (part.matrix.len() - 200) " more in " code { "report.json" } "." } }
        }
        (table("Ways to a consumer", &[T("Way"), T("State")], part.classes.iter().map(|(name, state)| vec![text(name), badge(*state)]).collect(), 0))
        (table("Results", &[N("Entry"), T("At"), T("Consumer"), T("Test"), T("Window"), T("Outcome")], results.collect(), part.results.left_out))
        @if part.state == State::NotTested { p { "Consumers of the log: " (codes(&part.matrix.iter().map(|row| row.checkpoint.clone()).collect::<Vec<_>>())) ". Try them with " code { "mayfly prove" } "." } }
    }
}
