//! What a page must be whatever the report says. That a browser draws it is shown in `tests/stories/evidence/report.rs`.

use mayfly_audit::finding::{CODES, Code, Scope, Thresholds};
use mayfly_audit::meter::{Distribution, Listed, MeterDay, MeterRow, Pattern, View};
use mayfly_audit::report::{
    ApproverRow, BreakGlassUse, ChangeRow, DefinitionRow, Difference, DutyRow, EndingRow, ExceptionRow, LogRow,
    PolicyRow, PrivilegedRow, ProbeResult, ProbeRow, Sample,
};
use mayfly_audit::{Details, Finding, LogFacts, Severity, TreeHead};

use super::*;

/// Names that somebody chose who reads this code.
const HOSTILE: [&str; 6] = [
    "<script>alert(1)</script>",
    "\" onload=\"alert(1)",
    "'><img src=https://evil.example/x onerror=alert(1)>",
    "]]></style></svg><iframe src=//evil.example>",
    "\u{202e}nimda\u{2066} אבג عربي \0\u{feff}",
    "&lt;b&gt;&#x3c;",
];

fn empty() -> Report {
    let view = View {
        from: 1_793_491_200,
        to: 1_793_491_200 + 30 * 86_400,
        scope: Scope::All,
        thresholds: Thresholds::default(),
    };
    Report::build([], Details::default(), &view, LogFacts::default())
}

fn row(name: &str, seconds: i64) -> MeterRow {
    MeterRow {
        name: name.into(),
        windows: 3,
        privileged_seconds: seconds,
        duty_permille: 412,
        asked_seconds: seconds * 2,
        longest: seconds,
        residual_seconds: 7,
    }
}

/// A report in which every text is `name`, and every table has a row.
pub(crate) fn full(name: &str) -> Report {
    let mut report = empty();
    let own = || name.to_owned();
    let at = report.claim.from + 5_000;
    let listed = |rows| Listed { rows, left_out: 2 };
    let of = Distribution {
        count: 3,
        p50: 2,
        p95: 700,
        max: 90_000,
    };
    let ending = EndingRow {
        window: own(),
        task: own(),
        workload: own(),
        opened_at: at,
        closes_at: at + 60,
        ended_at: Some(at + 60),
        cause: Some(own()),
        last_not_after: at,
        epoch: None,
        confirmed_at: None,
        settled_at: None,
        residual: None,
        is_accepted_risk: false,
        checkpoints: vec![],
        evidence: (0..40).collect(),
    };
    report.claim.sentence = own();
    report.claim.scope = Scope::Team(own());
    report.claim.log = LogFacts {
        origin: own(),
        begin: Some(TreeHead { size: 3, root: own() }),
        end: TreeHead { size: 9, root: own() },
        cosigned_by: vec![own()],
        checkpoint: own(),
        consistency: vec![own()],
        keys: vec![own()],
    };
    let finding = |code: &Code| Finding {
        code: code.name.into(),
        severity: Severity::High,
        subject: own(),
        since: at,
        message: own(),
        evidence: vec![1],
    };
    report.findings = CODES.iter().map(finding).collect();
    report.completeness.by_kind.insert(own(), 3);
    report.completeness.log_events = listed(vec![LogRow {
        index: 1,
        at,
        kind: own(),
        detail: own(),
    }]);
    report.zero_standing.samples = (0..720)
        .map(|h| Sample {
            at: report.claim.from + h * 3600,
            open: 2,
            live: 1,
        })
        .collect();
    report.zero_standing.differences.rows.push(Difference {
        at,
        spiffe_id: own(),
        what: own(),
    });
    report.endings.by_cause.insert(own(), 2);
    (report.endings.residual, report.endings.to_settled) = (of, of);
    report.endings.unsettled.rows.push(ending.clone());
    report.endings.rows.rows = vec![ending; 150];
    let by_kind = [(own(), State::NotTested), ("base".into(), State::Held)].into();
    report.probes.matrix.push(ProbeRow {
        checkpoint: own(),
        by_kind,
    });
    report.probes.results.rows.push(ProbeResult {
        index: 1,
        at,
        checkpoint: own(),
        kind: own(),
        window: Some(own()),
        outcome: own(),
        expected: "refused".into(),
    });
    report.meter.total = row("all", 90_000);
    for rows in [
        &mut report.meter.by_owner,
        &mut report.meter.by_task,
        &mut report.meter.by_workload,
        &mut report.meter.by_person,
        &mut report.meter.by_checkpoint,
    ] {
        rows.rows = (1..20).map(|n| row(name, n * 1_000)).collect();
    }
    report.meter.by_day = (0..30)
        .map(|day| MeterDay {
            at: report.claim.from + day * 86_400,
            opened: 1,
            privileged_seconds: day * 60,
            residual_p95: day,
        })
        .collect();
    report.meter.patterns.push(Pattern {
        workload: own(),
        task: own(),
        signs: vec![own()],
        identical_requests: 30,
        chain_windows: 1,
        chain_seconds: 1,
        extensions: 0,
        duty_permille: 3,
        day_permille: 5,
        since: at,
        evidence: vec![],
    });
    report.debt.exceptions.push(ExceptionRow {
        id: own(),
        identity: own(),
        owner: own(),
        reason: own(),
        control: own(),
        granted_at: at,
        expires_at: at,
        renewals: 0,
        age_days: 3,
        state: "expired".into(),
        index: 1,
    });
    report.debt.privileged.push(PrivilegedRow {
        identity: own(),
        entry_id: own(),
        rights: [own()].into(),
        since: at,
        until: None,
        exceptions: vec![own()],
        uncovered_seconds: 60,
        index: 1,
    });
    report.break_glass.uses.push(BreakGlassUse {
        request: own(),
        window: own(),
        task: own(),
        workload: own(),
        person: own(),
        ticket: own(),
        reason: own(),
        approvers: vec![own()],
        opened_at: at,
        ended_at: Some(at + 600),
        privileged_seconds: 600,
        review: "overdue".into(),
        reviewed_by: own(),
        reviewed_at: None,
        index: 1,
    });
    report.approvals.requests.insert(own(), 1);
    report.approvals.latency = of;
    report.approvals.people.push(ApproverRow {
        person: own(),
        approved: 1,
        refused: 0,
        approved_permille: 1000,
        latency: of,
        self_group_permille: 0,
        flag: Some(own()),
    });
    report.approvals.matrix.rows.push(DutyRow {
        requester: own(),
        approver: own(),
        approvals: 3,
    });
    report.policy.digests.push(PolicyRow {
        digest: own(),
        first_at: at,
        last_at: at,
        verdicts: [(own(), 3)].into(),
    });
    report.policy.refusals.insert(own(), 3);
    report.policy.changes.push(ChangeRow {
        index: 1,
        at,
        kind: own(),
        subject: own(),
        author: own(),
        decided_by: String::new(),
    });
    report.policy.definitions.push(DefinitionRow {
        name: own(),
        version: 1,
        hash: own(),
        owner: own(),
        is_breakglass: true,
        sensitivity: 3,
        approvals: 1,
        max_window: Some(600),
        checkpoints: [own()].into(),
        review_by: None,
        used_at: Some(at),
        defined_at: at,
    });
    report
}

fn page_of(report: &Report) -> String {
    page(&report.to_json()).unwrap()
}

/// Every tag of the page, as `name attribute attribute`, without values; values checked to be closed.
fn tags(html: &str) -> Vec<String> {
    let style = html.find("</style>").unwrap();
    html[style..]
        .match_indices('<')
        .map(|(at, _)| {
            let tag = &html[style + at + 1..];
            let (mut shape, mut in_value) = (String::new(), false);
            for c in tag.chars() {
                match c {
                    '"' => in_value = !in_value,
                    '>' if !in_value => return shape,
                    _ if in_value => {}
                    c => shape.push(c),
                }
            }
            panic!("a tag that is not closed: {:?}", &tag[..tag.len().min(80)]);
        })
        .collect()
}

#[test]
fn names_in_a_log_add_nothing_to_a_page_but_text() {
    let plain = tags(&page_of(&full("name")));
    for name in HOSTILE {
        let html = page_of(&full(name));
        assert_eq!(tags(&html), plain, "{name:?} changed the tags of the page");
        assert!(
            !html.contains(name) || name.starts_with(|c: char| c.is_alphanumeric()),
            "{name:?} is there as it is"
        );
        let is_unseen = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\0' | '\u{feff}');
        assert!(!html.contains(is_unseen), "{name:?} has characters that steer");
    }
}

#[test]
fn very_long_names_are_cut_on_the_page_and_whole_in_the_json() {
    let long = "x".repeat(20_000);
    let report = full(&long);
    let html = page_of(&report);
    assert!(
        !html.contains(&"x".repeat(2_000)),
        "a long name is on the page as a whole"
    );
    // 150 windows, and 40 tables and charts: less than a hundred kilobytes of names.
    assert!(html.len() < 800_000, "{} bytes", html.len());
    assert!(report.to_json().windows(long.len()).any(|part| part == long.as_bytes()));
}

#[test]
fn a_page_needs_nothing_and_runs_nothing() {
    for report in [empty(), full("name")] {
        let html = page_of(&report);
        for tag in tags(&html) {
            let name = tag.split([' ', '/']).next().unwrap_or_default().to_owned();
            let forbidden = [
                "script", "link", "img", "iframe", "object", "embed", "form", "input", "use", "image", "base",
            ];
            assert!(!forbidden.contains(&name.as_str()), "<{tag}>");
            let has = |attribute: &str| tag.contains(&format!(" {attribute}="));
            assert!(
                !has("src") && !has("style") && !has("srcset") && !tag.contains(" on"),
                "<{tag}>"
            );
        }
        assert!(
            !html.contains("url(") && !html.contains("@import"),
            "the style fetches something"
        );
        assert!(html.contains("default-src 'none'"));
        for (at, _) in html.match_indices("href=\"") {
            assert_eq!(
                html.as_bytes()[at + 6],
                b'#',
                "a link leads away: {}",
                &html[at..at + 40]
            );
        }
    }
}

#[test]
fn every_part_is_there_and_nothing_untested_is_blank() {
    for report in [empty(), full("name")] {
        let html = page_of(&report);
        for part in 2..=13 {
            assert!(html.contains(&format!("id=\"part-{part}\"")), "part {part} is missing");
        }
        assert!(html.contains("id=\"claim\"") && html.contains("id=\"findings\"") && html.contains("id=\"verify\""));
        for cell in ["<td></td>", "<td class=\"number\"></td>", "<dd></dd>"] {
            assert!(!html.contains(cell), "a blank");
        }
    }
    // Two ways that nobody tries, and one consumer with a test that nobody made, beside the parts.
    let html = page_of(&full("name"));
    let untested = html.matches("badge untested\">not tested").count();
    assert!(untested >= 4, "{untested} cells are marked as not tested");
    for finding in &full("name").findings {
        assert!(
            html.contains(&format!("{}</bdi></code>", finding.code)),
            "{} is missing",
            finding.code
        );
    }
    let todo = html.matches("class=\"todo\"").count();
    assert_eq!(todo, CODES.len(), "each finding says what to do");
}

#[test]
fn charts_have_titles_descriptions_and_names_of_their_own() {
    let html = page_of(&full("name"));
    let charts = html.matches("<svg ").count();
    assert_eq!(charts, html.matches("<desc ").count());
    assert_eq!(charts, html.matches("role=\"img\" aria-labelledby").count());
    assert!(charts >= 9, "{charts} charts");
    let mut ids: Vec<&str> = html
        .split(" id=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "two elements have one id");
    let tables = html.matches("<table>").count();
    assert_eq!(tables, html.matches("<caption>").count());
    assert_eq!(html.matches("<th>").count(), 0, "a heading without a scope");
}

#[test]
fn the_same_bytes_make_the_same_page_and_others_none() {
    let json = full("name").to_json();
    assert_eq!(page(&json).unwrap(), page(&json).unwrap());
    let mut newer = full("name");
    newer.v = 2;
    assert!(matches!(page(&newer.to_json()), Err(PageError::Version(2))));
    assert!(matches!(page(b"{}"), Err(PageError::Syntax(_))));
}
