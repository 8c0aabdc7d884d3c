//! Part 1, the findings, and how to check all of it.

use maud::{Markup, html};
use mayfly_audit::finding::{Code, remedy};
use mayfly_audit::{Finding, Report, Severity};

use super::table::facts;
use super::words::{code, codes, count, entries, many, moment, percent, prose, shortened, span, text, time};

pub(super) fn claim(report: &Report, sha256: &str) -> Markup {
    let (claim, log) = (&report.claim, &report.claim.log);
    let (class, verdict) = match claim.holds {
        true => ("holds", "The claim holds"),
        false => ("fails", "The claim does not hold"),
    };
    let head = |size: u64, root: &str| html! { (count(size)) " entries, root " (code(root)) };
    let begin = log.begin.as_ref().map_or_else(
        || html! { "the beginning of the log" },
        |begin| head(begin.size, &begin.root),
    );
    let cosigned = match log.cosigned_by.is_empty() {
        true => html! { span.badge.untested { "by nobody" } },
        false => codes(&log.cosigned_by),
    };
    html! {
        section #claim aria-labelledby="claim-h" {
            p.kind { "Report on zero standing privilege" }
            h1 #claim-h { (moment(claim.from)) " to " (moment(claim.to)) " UTC" }
            div class=(format!("verdict {class}")) role="status" {
                p.word { (verdict) }
                p { (prose(&claim.sentence)) }
                @if !report.findings.is_empty() {
                    p.but { a href="#findings" { (many(report.findings.len() as u64, "finding")) } ": " (by_severity(report)) }
                }
            }
            (tiles(report))
            (facts(vec![
                ("Scope", code(&claim.scope.to_string())),
                ("Log", code(&log.origin)),
                ("At the begin", begin),
                ("At the end", head(log.end.size, &log.end.root)),
                ("Cosigned", cosigned),
                ("SHA-256 of report.json", code(sha256)),
            ]))
        }
    }
}

/// `4 high, 1 medium`.
fn by_severity(report: &Report) -> String {
    let counts = [Severity::Critical, Severity::High, Severity::Medium, Severity::Low].map(|severity| {
        let found = report
            .findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count();
        (found > 0).then(|| format!("{found} {}", name(severity).1))
    });
    counts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn tiles(report: &Report) -> Markup {
    let (meter, endings) = (&report.meter, &report.endings);
    let cells = report.probes.matrix.iter().flat_map(|row| row.by_kind.values());
    let untested = cells.chain(report.probes.classes.values());
    let untested = untested
        .filter(|state| **state == mayfly_audit::report::State::NotTested)
        .count() as u64;
    let tile = |name: &str, value: String, below: String| {
        html! { div.tile { p.name { (name) } p.value { (value) } p.below { (below) } } }
    };
    html! {
        div.tiles {
            (tile("Windows", count(meter.total.windows), format!("{} SVIDs of tasks in the log", count(report.joins.task_svids))))
            (tile("Privileged time", span(meter.total.privileged_seconds), format!("{} of the period", percent(meter.total.duty_permille))))
            (tile("Residual, 95th percentile", span(endings.residual.p95), format!("at most {}", span(endings.residual.max))))
            (tile("Not settled", count(report.debt.unsettled), format!("of {}", many(endings.windows, "window"))))
            (tile("Break-glass", count(report.break_glass.uses.len() as u64), span(report.break_glass.privileged_seconds)))
            (tile("Not tested", count(untested), "tests of part 6".into()))
        }
    }
}

pub(super) fn findings(report: &Report) -> Markup {
    let of = |severity: Severity| {
        report
            .findings
            .iter()
            .filter(move |finding| finding.severity == severity)
    };
    html! {
        section #findings aria-labelledby="findings-h" {
            header { h2 #findings-h { span.at { "!" } "Findings" } }
            @if report.findings.is_empty() {
                p.good { "None: nothing in the log passes a threshold of this report." }
            }
            @for severity in [Severity::Critical, Severity::High, Severity::Medium, Severity::Low] {
                @let (name, class) = name(severity);
                @let found: Vec<&Finding> = of(severity).collect();
                @if !found.is_empty() {
                    h3 { (name) " " span.tally { (found.len()) } }
                    @for finding in found.iter().take(200) { (one(finding, class)) }
                    @if found.len() > 200 { p.more { (found.len() - 200) " more in " code { "report.json" } "." } }
                }
            }
        }
    }
}

fn one(finding: &Finding, class: &str) -> Markup {
    let meaning = Code::find(&finding.code).map(|code| code.says);
    html! {
        article class=(format!("finding {class}")) {
            h4 { (code(&finding.code)) @if let Some(meaning) = meaning { span.meaning { (meaning) } } }
            p.subject { (text(&finding.subject)) }
            p { (prose(&finding.message)) }
            p.todo { strong { "To do: " } (advised(&sentence(remedy(&finding.code)))) }
            p.source { "since " (time(finding.since)) " · entries " (entries(&finding.evidence)) }
        }
    }
}

/// A phrase of ours as a sentence.
fn sentence(phrase: &str) -> String {
    let mut chars = phrase.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    first.chain(chars).chain(['.']).collect()
}

/// Words of ours, in which commands stand between backticks.
pub(super) fn advised(words: &str) -> Markup {
    html! {
        @for (place, part) in words.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn name(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Critical => ("Critical", "critical"),
        Severity::High => ("High", "high"),
        Severity::Medium => ("Medium", "medium"),
        Severity::Low => ("Low", "low"),
    }
}

pub(super) fn verify(report: &Report, sha256: &str) -> Markup {
    let log = &report.claim.log;
    let key = log
        .keys
        .first()
        .map_or_else(|| "<the verifier key of the log>".into(), |key| lines(key));
    html! {
        section #verify aria-labelledby="verify-h" {
            header { h2 #verify-h { span.at { "✓" } "Check it yourself" } }
            p { "This page is made from " code { "report.json" } " and from nothing else. Its SHA-256 is " (code(sha256))
                ", and " code { "report.json.note" } " is a signed note of the log's key over it." }
            ol {
                li { p { "The signature, the checkpoint and the sums, without a server:" }
                    pre { code { "mayfly audit check-report report.json --key '" (key) "'" } } }
                li { p { "Everything, from a copy of the log: the report is made anew and compared byte for byte:" }
                    pre { code { "mayfly audit export log/\nmayfly audit check-report report.json --key '" (key) "' --export log/" } } }
            }
            p { "Take the key from somewhere else than this page: whoever makes a page can make a key." }
            @if !log.keys.is_empty() { h3 { "Keys of the log, by its own word" } @for key in &log.keys { pre { code { (lines(key)) } } } }
            @if !log.checkpoint.is_empty() { h3 { "The checkpoint" } pre { code { (lines(&log.checkpoint)) } } }
        }
    }
}

/// Lines of a note, whatever they are.
fn lines(note: &str) -> String {
    let lines: Vec<String> = note.lines().take(60).map(|line| shortened(line, 400)).collect();
    lines.join("\n")
}
