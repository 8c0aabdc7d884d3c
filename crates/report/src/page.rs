//! The page: the thirteen parts of a report for somebody who reads, looks at charts and prints.
//!
//! One file that needs nothing else: no scripts, and by its content policy nothing may be fetched. Names in a log are
//! chosen by whoever asks for something, so everything from the report goes through `maud`, which escapes it, and through
//! [`words`], which spells out what would be unseen or would turn the direction of the text around it.

mod authority;
mod chart;
mod claim;
mod governance;
mod measures;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use aws_lc_rs::digest;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use mayfly_audit::Report;
use mayfly_audit::report::{REPORT_VERSION, State};

/// Nothing is fetched, and no script runs, whatever the page says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Bytes that are no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// Not a report, or not one of ours.
    #[error("this is not a report: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Made by something newer.
    #[error("the report is of version {0}, and only {REPORT_VERSION} is known here; a newer `mayfly` may know it")]
    Version(u64),
}

/// The page of the report in `json`. The same bytes make the same page.
///
/// # Errors
/// They are not those of a report.
pub fn page(json: &[u8]) -> Result<String, PageError> {
    let report: Report = serde_json::from_slice(json)?;
    if report.v != REPORT_VERSION {
        return Err(PageError::Version(report.v));
    }
    let sha256 = hex::encode(digest::digest(&digest::SHA256, json));
    Ok(document(&report, &sha256).into_string())
}

/// A part: where it is on the page, and what it is called.
struct Part {
    number: u8,
    title: &'static str,
    /// What it shows, in one sentence.
    about: &'static str,
    state: fn(&Report) -> Option<State>,
    body: fn(&Report) -> Markup,
}

const PARTS: [Part; 12] = [
    Part {
        number: 2,
        title: "Completeness",
        about: "Whether the log is whole: every entry between its beginning and the checkpoint is read and classified.",
        state: |report| {
            Some(held(
                report.completeness.is_whole && report.completeness.gaps.is_empty(),
            ))
        },
        body: authority::completeness,
    },
    Part {
        number: 3,
        title: "Zero standing authority at sampled instants",
        about: "At each full hour, and at instants that the log's root hash chose: identities with an SVID that counts, and \
                identities with an open window. Both by replay of the log, not from the live database.",
        state: |report| Some(report.zero_standing.state),
        body: authority::zero_standing,
    },
    Part {
        number: 4,
        title: "Nothing issued without its window",
        about: "Each task SVID is joined with its window, its decision, its policy and its approvals; what does not join is a \
                violation.",
        state: |report| Some(held(report.joins.checks.iter().all(|check| check.violations == 0))),
        body: authority::joins,
    },
    Part {
        number: 5,
        title: "The end of authority",
        about: "How windows ended, how long anything could still count after that, and who confirmed it.",
        state: |report| Some(held(report.endings.unsettled.rows.is_empty())),
        body: authority::endings,
    },
    Part {
        number: 6,
        title: "Negative probes",
        about: "What consumers refused when they were tried from outside. What nobody tried is not shown.",
        state: |report| Some(report.probes.state),
        body: authority::probes,
    },
    Part {
        number: 7,
        title: "Standing meter",
        about: "How much power there was, for how long, and how much of it only looked short.",
        state: |report| Some(held(report.meter.patterns.is_empty())),
        body: measures::meter,
    },
    Part {
        number: 8,
        title: "Exceptions and debt",
        about: "What stands all the same, and who answers for it.",
        state: |report| {
            Some(held(
                report.debt.privileged.iter().all(|row| row.uncovered_seconds == 0),
            ))
        },
        body: measures::debt,
    },
    Part {
        number: 9,
        title: "Break-glass",
        about: "Each emergency, who agreed, how long it gave power, and whether somebody looked at it.",
        state: |report| {
            Some(held(
                report.break_glass.uses.iter().all(|used| used.review != "overdue"),
            ))
        },
        body: measures::break_glass,
    },
    Part {
        number: 10,
        title: "Quality of approvals",
        about: "How fast and for whom people agree.",
        state: |report| Some(held(report.approvals.people.iter().all(|person| person.flag.is_none()))),
        body: measures::approvals,
    },
    Part {
        number: 11,
        title: "Policy",
        about: "By which rules was decided, and who changed them.",
        state: |_| None,
        body: governance::policy,
    },
    Part {
        number: 12,
        title: "Control mapping",
        about: "The controls of published standards that the parts speak to, by their labels of today and by older ones that \
                documents still use.",
        state: |_| None,
        body: governance::controls,
    },
    Part {
        number: 13,
        title: "Limits",
        about: "What this report does not show.",
        state: |_| None,
        body: governance::limits,
    },
];

fn document(report: &Report, sha256: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { "Zero standing privilege, " (words::day(report.claim.from)) " to " (words::day(report.claim.to)) }
                style { (PreEscaped(include_str!("page/style.css"))) }
            }
            body {
                a.skip href="#claim" { "To the claim" }
                div.sheet {
                    (contents(report))
                    main {
                        (claim::claim(report, sha256))
                        (claim::findings(report))
                        @for part in &PARTS { (section(part, report)) }
                        (claim::verify(report, sha256))
                    }
                }
            }
        }
    }
}

fn contents(report: &Report) -> Markup {
    html! {
        nav aria-label="Contents" {
            p.brand { "Mayfly" }
            ol {
                li { a href="#claim" { span.at { "1" } "Claim" } (dot(Some(held(report.claim.holds)))) }
                li { a href="#findings" { span.at { "!" } "Findings" } span.tally { (report.findings.len()) } }
                @for part in &PARTS {
                    li { a href=(format!("#part-{}", part.number)) { span.at { (part.number) } (part.title) } (dot((part.state)(report))) }
                }
                li { a href="#verify" { span.at { "✓" } "Check it yourself" } }
            }
        }
    }
}

fn section(part: &Part, report: &Report) -> Markup {
    let id = format!("part-{}", part.number);
    html! {
        section id=(id) aria-labelledby=(format!("{id}-h")) {
            header {
                h2 id=(format!("{id}-h")) { span.at { (part.number) } (part.title) }
                @if let Some(state) = (part.state)(report) { (badge(state)) }
            }
            p.about { (part.about) }
            ((part.body)(report))
        }
    }
}

/// How something stands, in words and in colour.
fn badge(state: State) -> Markup {
    let (class, word) = words_of(state);
    html! { span class=(format!("badge {class}")) { (word) } }
}

fn dot(state: Option<State>) -> Markup {
    html! {
        @if let Some(state) = state {
            @let (class, word) = words_of(state);
            span class=(format!("dot {class}")) role="img" aria-label=(word) title=(word) {}
        }
    }
}

fn words_of(state: State) -> (&'static str, &'static str) {
    match state {
        State::Held => ("held", "held"),
        State::Broken => ("broken", "broken"),
        State::NotTested => ("untested", "not tested"),
        State::NotRecorded => ("unrecorded", "not recorded"),
    }
}

fn held(is_held: bool) -> State {
    if is_held { State::Held } else { State::Broken }
}
