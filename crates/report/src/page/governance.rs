//! Parts 11 to 13: rules, controls of standards, and what is not shown.

use maud::{Markup, html};
use mayfly_audit::Report;

use super::badge;
use super::table::Column::{N, T};
use super::table::{facts, table};
use super::words::{code, codes, count, dash, prose, span, text, time, time_or_dash};

pub(super) fn policy(report: &Report) -> Markup {
    let part = &report.policy;
    let digests = part.digests.iter().map(|row| {
        let verdicts = html! {
            @for (place, (verdict, number)) in row.verdicts.iter().enumerate() { @if place > 0 { ", " } (text(verdict)) " " (count(*number)) }
        };
        vec![code(&row.digest), time(row.first_at), time(row.last_at), verdicts]
    });
    let refusals = part
        .refusals
        .iter()
        .map(|(reason, number)| vec![text(reason), html! { (count(*number)) }]);
    let changes = part.changes.iter().map(|row| {
        let decided = match row.decided_by.is_empty() {
            true => html! { span.badge.due { "nobody was asked" } },
            false => text(&row.decided_by),
        };
        vec![
            html! { (row.index) },
            time(row.at),
            code(&row.kind),
            code(&row.subject),
            text(&row.author),
            decided,
        ]
    });
    let definitions = part.definitions.iter().map(|row| {
        vec![
            html! { (code(&row.name)) @if row.is_breakglass { " " span.badge.due { "break-glass" } } },
            html! { (row.version) },
            text(&row.owner),
            html! { (row.sensitivity) },
            html! { (row.approvals) },
            row.max_window.map_or_else(dash, |seconds| html! { (span(seconds)) }),
            codes(&row.checkpoints),
            time_or_dash(row.review_by),
            time_or_dash(row.used_at),
        ]
    });
    html! {
        (facts(vec![
            ("Proofs about policies by a solver", badge(part.solver)),
            ("Decisions of the period, decided anew", badge(part.replay)),
        ]))
        (table("Policies by which was decided", &[T("Digest"), T("First"), T("Last"), T("Verdicts")], digests.collect(), 0))
        (table("Why something was refused", &[T("Reason"), N("Times")], refusals.collect(), 0))
        (table("Changes of definitions and policy", &[N("Entry"), T("At"), T("Kind"), T("What"), T("By"), T("Decided by")], changes.collect(), 0))
        (table("Definitions in force at the end",
            &[T("Task"), N("Version"), T("Owner"), N("Sensitivity"), N("Approvals"), N("Longest window"), T("Consumers"), T("Review by"), T("Used last")],
            definitions.collect(), 0))
    }
}

pub(super) fn controls(report: &Report) -> Markup {
    let mut frameworks: Vec<&str> = vec![];
    for control in &report.controls {
        if !frameworks.contains(&control.framework.as_str()) {
            frameworks.push(&control.framework);
        }
    }
    html! {
        p { "A control that held here was not seen broken in the log. That an organisation has the process behind it is not shown." }
        @for framework in frameworks {
            @let rows = report.controls.iter().filter(|control| control.framework == framework).map(|control| {
                let older = match control.older_labels.is_empty() {
                    true => dash(),
                    false => html! { @for (place, label) in control.older_labels.iter().enumerate() { @if place > 0 { ", " } (text(label)) } },
                };
                let parts = html! { @for (place, part) in control.parts.iter().enumerate() {
                    @if place > 0 { ", " }
                    a href=(match part { 1 => "#claim".to_owned(), part => format!("#part-{part}") }) { (part) }
                } };
                let findings = match control.findings.is_empty() {
                    true => html! {},
                    false => html! { br; "against it: " (codes(&control.findings)) },
                };
                vec![code(&control.id), text(&control.title), older, badge(control.state), parts, html! { (text(&control.note)) (findings) }]
            });
            (table(framework, &[T("Control"), T("Title"), T("Older labels"), T("State"), T("Parts"), T("What is shown")], rows.collect(), 0))
        }
    }
}

pub(super) fn limits(report: &Report) -> Markup {
    html! {
        dl.facts {
            @for limit in &report.limits { div { dt { (text(&limit.what)) } dd { (prose(&limit.why)) } } }
        }
    }
}
