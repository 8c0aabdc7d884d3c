//! The report from the log: entries in, parts out.

use std::collections::BTreeMap;

use super::parts::{Claim, ClockStep, Completeness, LogFacts, LogRow, REPORT_VERSION, Report, Silence, State};
use super::reading::{Counts, Reading};
use super::{control, ending, instant, limit, people, rules};
use crate::canonical::canonical;
use crate::finding::Severity;
use crate::findings::findings;
use crate::meter::{Listed, Meter, View};
use crate::{Details, Entry, EntryError, Invariant, Replay};

impl Report {
    /// Describes the period of `view`. `entries` are those of the whole log, from its first to the last of `log.end`, in
    /// their order; what is later than the period is left out.
    pub fn build(
        entries: impl IntoIterator<Item = Result<Entry, EntryError>>,
        details: Details,
        view: &View,
        log: LogFacts,
    ) -> Self {
        let mut reading = Reading::new(details, (view.from, view.to));
        entries.into_iter().for_each(|entry| reading.take(entry));
        let read = reading.counts();
        reading.judge(|replay| Self::of(replay, view, log, read))
    }

    fn of(replay: &Replay, view: &View, log: LogFacts, read: Counts) -> Self {
        let zero_standing = instant::zero_standing(replay, view, &log.end.root);
        let mut findings = findings(replay, view, &zero_standing);
        let completeness = completeness(replay, view, &log, read);
        if !completeness.is_whole {
            let message = format!(
                "the checkpoint says {} entries, and {} were handed over",
                log.end.size, read.total
            );
            let code = "invariant-violated";
            findings.insert(
                0,
                crate::findings::finding(code, Severity::Critical, "Completeness", view.to, message, vec![]),
            );
        }
        let probes = ending::probes(replay, view);
        let holds = findings.iter().all(|finding| finding.severity != Severity::Critical);
        let joins = rules::joins(replay, view);
        let is_cosigned = !log.cosigned_by.is_empty();
        let controls = control::controls(&findings, &joins, zero_standing.state, probes.state);
        Self {
            v: REPORT_VERSION,
            claim: Claim {
                sentence: sentence(holds, &log),
                holds,
                from: view.from,
                to: view.to,
                scope: view.scope.clone(),
                log,
            },
            limits: limit::limits(replay, view, &completeness, &probes, is_cosigned),
            completeness,
            zero_standing,
            joins,
            endings: ending::endings(replay, view),
            probes,
            meter: Meter::of(replay, view),
            debt: ending::debt(replay, view),
            break_glass: ending::break_glass(replay, view),
            approvals: people::approvals(replay, view),
            policy: rules::policy(replay, view),
            controls,
            findings,
            thresholds: view.thresholds.clone(),
        }
    }

    /// Its bytes: JSON in the one spelling that the log has as well.
    ///
    /// # Panics
    /// Never: a report has string keys and whole numbers only.
    pub fn to_json(&self) -> Vec<u8> {
        let value = serde_json::to_value(self).expect("a report has string keys only");
        canonical(&value).expect("a report has whole numbers only")
    }
}

fn sentence(holds: bool, log: &LogFacts) -> String {
    let of = format!(
        "the {} entries of the log `{}` with the root hash `{}`",
        log.end.size, log.origin, log.end.root
    );
    match holds {
        true => format!(
            "Within this period and scope nobody had the power of a task without an open window that somebody asked for, that \
             policy allowed, and that ended: nothing in {of} speaks against it."
        ),
        false => format!(
            "That nobody had the power of a task without an open window is not shown: {of} show power without one, or cannot \
             show that there was none."
        ),
    }
}

fn completeness(replay: &Replay, view: &View, log: &LogFacts, read: Counts) -> Completeness {
    let (notes, most) = (replay.notes(), view.thresholds.rows);
    let of_the_log = |invariant| matches!(invariant, Invariant::Completeness | Invariant::I14);
    let silences = notes
        .silences
        .iter()
        .filter(|(from, to)| *from < view.to && *to > view.from);
    let rows = replay.log_events().iter().map(|event| LogRow {
        index: event.index,
        at: event.at,
        kind: event.kind.clone(),
        detail: replay.details().show(&event.body),
    });
    let by_kind: BTreeMap<String, u64> = replay.counts().clone();
    Completeness {
        entries: by_kind.values().sum(),
        in_period: read.in_period,
        after_period: read.after_period,
        is_whole: read.total == log.end.size,
        by_kind,
        unknown_kinds: notes.unknown_kinds.clone(),
        gaps: replay
            .violations()
            .iter()
            .filter(|violation| of_the_log(violation.invariant))
            .cloned()
            .collect(),
        unread: notes.unread.clone(),
        clock_steps: notes
            .clock_steps
            .iter()
            .map(|(index, before, after)| ClockStep {
                index: *index,
                before: *before,
                after: *after,
            })
            .collect(),
        silences: Listed::first(
            silences.map(|(from, to)| Silence { from: *from, to: *to }).collect(),
            most,
        ),
        unknown_outcomes: notes.unknown_outcomes,
        log_events: Listed::first(rows.collect(), most),
    }
}

/// Whether something was looked at and holds.
pub(super) fn held(is_held: bool) -> State {
    if is_held { State::Held } else { State::Broken }
}
