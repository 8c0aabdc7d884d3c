//! How much power there was, for how long, and how much of it only looked short.
//!
//! A window gives power from its opening to its end, without stops. *Privileged seconds* add up windows; the *duty cycle*
//! of somebody is the share of the period in which at least one window of theirs was open. Standing access by repetition
//! keeps each window short and the duty cycle high: [`patterns`] finds it by what repeats.

mod pattern;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Replay;
use crate::finding::{Scope, Thresholds};
use crate::replay::{Request, Window};
use crate::span::{Span, merged, permille, seconds, within};

pub use pattern::{Pattern, patterns};

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

/// What somebody looks at: a part of what there was, within a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The first second.
    pub from: i64,
    /// The first second that is not in it; how things stood then is how they stand.
    pub to: i64,
    /// About what.
    pub scope: Scope,
    /// From where on something is a finding.
    pub thresholds: Thresholds,
}

/// The rows of a table, cut where they would be too many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed<T> {
    /// The first ones.
    pub rows: Vec<T>,
    /// How many more there are.
    pub left_out: u64,
}

/// How values are distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they are")]
pub struct Distribution {
    pub count: u64,
    pub p50: i64,
    pub p95: i64,
    pub max: i64,
}

/// The power of somebody, or of something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterRow {
    /// Whose.
    pub name: String,
    /// Windows that were open within the period.
    pub windows: u64,
    /// Seconds that they gave power, each window by itself.
    pub privileged_seconds: i64,
    /// The share of the period in which at least one was open.
    pub duty_permille: u64,
    /// Seconds that were asked for.
    pub asked_seconds: i64,
    /// The longest.
    pub longest: i64,
    /// Seconds after their ends in which SVIDs could still count.
    pub residual_seconds: u64,
}

/// A day (UTC).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterDay {
    /// Its first second.
    pub at: i64,
    /// Windows that were opened.
    pub opened: u64,
    /// Seconds that windows gave power.
    pub privileged_seconds: i64,
    /// The residual seconds of windows that ended, at the 95th percentile.
    pub residual_p95: i64,
}

/// Part 7 of the report, and what `task debt` and the metrics show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// All windows.
    pub total: MeterRow,
    /// The share of what was asked for that was used.
    pub used_permille: u64,
    /// By who answers for the task.
    pub by_owner: Listed<MeterRow>,
    /// By task.
    pub by_task: Listed<MeterRow>,
    /// By base identity.
    pub by_workload: Listed<MeterRow>,
    /// By the person behind it.
    pub by_person: Listed<MeterRow>,
    /// By consumer that enforces.
    pub by_checkpoint: Listed<MeterRow>,
    /// Day by day.
    pub by_day: Vec<MeterDay>,
    /// Standing access that looks as if it were not.
    pub patterns: Vec<Pattern>,
}

impl View {
    /// Seconds of the period.
    pub fn period(&self) -> i64 {
        self.to.saturating_sub(self.from).max(0)
    }

    pub(crate) fn frame(&self) -> Span {
        (self.from, self.to)
    }

    /// Whether an instant is within the period.
    pub fn has(&self, at: i64) -> bool {
        (self.from..self.to).contains(&at)
    }

    /// Windows in scope that were open, or not settled, at some time within the period.
    pub fn windows<'a>(&'a self, replay: &'a Replay) -> impl Iterator<Item = &'a Window> {
        replay.windows().filter(|window| {
            let is_past = window.settled.as_ref().is_some_and(|settled| settled.at < self.from);
            window.opened_at < self.to
                && !is_past
                && self
                    .scope
                    .means(&window.task, &window.workload, &replay.details().show(&window.owner))
        })
    }

    /// Requests in scope that were made within the period.
    pub fn requests<'a>(&'a self, replay: &'a Replay) -> impl Iterator<Item = &'a Request> {
        self.all_requests(replay)
            .filter(|request| self.has(request.requested_at))
    }

    /// Requests in scope.
    pub fn all_requests<'a>(&'a self, replay: &'a Replay) -> impl Iterator<Item = &'a Request> {
        replay.requests().filter(|request| {
            let definition = replay.definition(&request.definition);
            let owner = definition
                .map(|definition| replay.details().show(&definition.owner))
                .unwrap_or_default();
            self.scope.means(&request.task, &request.workload, &owner)
        })
    }
}

impl<T> Listed<T> {
    /// The first `most` of `rows`.
    pub fn first(mut rows: Vec<T>, most: u64) -> Self {
        let left_out = (rows.len() as u64).saturating_sub(most);
        rows.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Self { rows, left_out }
    }
}

impl Distribution {
    /// Of these values, by the nearest rank.
    pub fn of(mut values: Vec<i64>) -> Self {
        values.sort_unstable();
        let rank = |percent: usize| {
            values
                .get((values.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
        };
        Self {
            count: values.len() as u64,
            p50: rank(50).unwrap_or_default(),
            p95: rank(95).unwrap_or_default(),
            max: values.last().copied().unwrap_or_default(),
        }
    }
}

/// What is added up for a row.
#[derive(Default)]
struct Sum {
    windows: u64,
    asked: i64,
    privileged: i64,
    longest: i64,
    residual: u64,
    spans: Vec<Span>,
}

impl Sum {
    fn add(&mut self, window: &Window, frame: Span) {
        let spans = within(&window.in_force(frame.1), frame);
        let privileged = seconds(&spans);
        self.windows += 1;
        self.asked = self.asked.saturating_add(window.asked);
        self.privileged = self.privileged.saturating_add(privileged);
        self.longest = self.longest.max(privileged);
        let residual = window.settled.as_ref().map_or(0, |settled| settled.residual);
        self.residual = self.residual.saturating_add(residual);
        self.spans.extend(spans);
    }

    fn row(self, name: String, period: i64) -> MeterRow {
        MeterRow {
            name,
            windows: self.windows,
            privileged_seconds: self.privileged,
            duty_permille: permille(seconds(&merged(self.spans)), period),
            asked_seconds: self.asked,
            longest: self.longest,
            residual_seconds: self.residual,
        }
    }
}

impl Meter {
    /// Measures.
    pub fn of(replay: &Replay, view: &View) -> Self {
        let (frame, most, details) = (view.frame(), view.thresholds.rows, replay.details());
        let windows: Vec<&Window> = view.windows(replay).filter(|window| is_counted(window, view)).collect();
        let by = |names: &dyn Fn(&Window) -> Vec<String>| {
            let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
            for window in &windows {
                for name in names(window) {
                    sums.entry(name).or_default().add(window, frame);
                }
            }
            let mut rows: Vec<MeterRow> = sums
                .into_iter()
                .map(|(name, sum)| sum.row(name, view.period()))
                .collect();
            rows.sort_by(|a, b| (b.privileged_seconds, &a.name).cmp(&(a.privileged_seconds, &b.name)));
            Listed::first(rows, most)
        };
        let mut total = Sum::default();
        windows.iter().for_each(|window| total.add(window, frame));
        let total = total.row("all".into(), view.period());
        Self {
            used_permille: permille(total.privileged_seconds, total.asked_seconds),
            total,
            by_owner: by(&|window| vec![details.show(&window.owner)]),
            by_task: by(&|window| vec![window.task.clone()]),
            by_workload: by(&|window| vec![window.workload.clone()]),
            by_person: by(&|window| match window.person.is_null() {
                true => vec![],
                false => vec![details.show(&window.person)],
            }),
            by_checkpoint: by(&|window| window.checkpoints.iter().cloned().collect()),
            by_day: days(&windows, view),
            patterns: patterns(replay, view),
        }
    }
}

/// Also a window that was over within the second of its opening was one.
fn is_counted(window: &Window, view: &View) -> bool {
    view.has(window.opened_at) || !within(&window.in_force(view.to), view.frame()).is_empty()
}

fn days(windows: &[&Window], view: &View) -> Vec<MeterDay> {
    let mut days: BTreeMap<i64, (u64, i64, Vec<i64>)> = BTreeMap::new();
    let mut day = day_of(view.from);
    // A hundred years of days are shown; a longer period is somebody's slip.
    while day < view.to && days.len() < 36_525 {
        days.insert(day, Default::default());
        day = day.saturating_add(DAY);
    }
    for window in windows {
        if let Some(day) = days.get_mut(&day_of(window.opened_at)) {
            day.0 += 1;
        }
        for (from, to) in within(&window.in_force(view.to), view.frame()) {
            let mut at = from;
            while at < to {
                let end = day_of(at).saturating_add(DAY).min(to);
                if let Some(day) = days.get_mut(&day_of(at)) {
                    day.1 += end - at;
                }
                at = end;
            }
        }
        if let (Some(ended), Some(settled)) = (&window.ended, &window.settled)
            && let Some(day) = days.get_mut(&day_of(ended.at))
        {
            day.2.push(i64::try_from(settled.residual).unwrap_or(i64::MAX));
        }
    }
    let day = |(at, (opened, privileged_seconds, residuals))| MeterDay {
        at,
        opened,
        privileged_seconds,
        residual_p95: Distribution::of(residuals).p95,
    };
    days.into_iter().map(day).collect()
}

/// The first second of a day.
pub(crate) fn day_of(at: i64) -> i64 {
    at.div_euclid(DAY).saturating_mul(DAY)
}

/// The names that stand for a set of consumers, for tables.
pub(crate) fn declared(replay: &Replay) -> BTreeSet<String> {
    let definitions = replay.definitions().filter(|definition| definition.until.is_none());
    definitions
        .flat_map(|definition| definition.checkpoints.iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let of = Distribution::of((1..=100).rev().collect());
        assert_eq!((of.count, of.p50, of.p95, of.max), (100, 50, 95, 100));
        assert_eq!(
            Distribution::of(vec![7]),
            Distribution {
                count: 1,
                p50: 7,
                p95: 7,
                max: 7
            }
        );
        assert_eq!(Distribution::of(vec![]), Distribution::default());
    }
}
