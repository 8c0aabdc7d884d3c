//! Standing access that looks as if it were not: what repeats.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DAY, View, day_of};
use crate::Replay;
use crate::replay::{Request, Window};
use crate::span::{Span, merged, permille, seconds, within};

/// How one workload uses one task, where that is standing access by repetition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    /// Base identity.
    pub workload: String,
    /// The task.
    pub task: String,
    /// What shows it: `identical-requests`, `back-to-back`, `extensions`, `duty-cycle`.
    pub signs: Vec<String>,
    /// The most identical requests within the period of a loop.
    pub identical_requests: u64,
    /// Windows of the longest chain.
    pub chain_windows: u64,
    /// Seconds that it gave power.
    pub chain_seconds: i64,
    /// The most that one window was extended.
    pub extensions: u64,
    /// The share of the whole period.
    pub duty_permille: u64,
    /// The largest share of a whole day.
    pub day_permille: u64,
    /// When it began.
    pub since: i64,
    /// Entries that show it.
    pub evidence: Vec<u64>,
}

/// The shortest period that has a duty cycle: one window is a large part of an hour.
const DUTY_PERIOD: i64 = 7 * DAY;

/// All patterns, by workload and task.
pub fn patterns(replay: &Replay, view: &View) -> Vec<Pattern> {
    let mut users: BTreeMap<(String, String), (Vec<&Window>, Vec<&Request>)> = BTreeMap::new();
    for window in view.windows(replay) {
        users
            .entry((window.workload.clone(), window.task.clone()))
            .or_default()
            .0
            .push(window);
    }
    for request in view.requests(replay) {
        users
            .entry((request.workload.clone(), request.task.clone()))
            .or_default()
            .1
            .push(request);
    }
    users
        .into_iter()
        .filter_map(|((workload, task), (windows, requests))| pattern(workload, task, windows, &requests, view))
        .collect()
}

fn pattern(
    workload: String,
    task: String,
    mut windows: Vec<&Window>,
    requests: &[&Request],
    view: &View,
) -> Option<Pattern> {
    let limits = &view.thresholds;
    windows.sort_by_key(|window| (window.opened_at, window.index));
    let spans: Vec<Span> = windows
        .iter()
        .flat_map(|window| within(&window.in_force(view.to), view.frame()))
        .collect();
    let spans = merged(spans);
    let (mut signs, mut marks) = (vec![], vec![]);
    let mut sign = |word: &str, found: Vec<(i64, u64)>| {
        signs.push(word.to_owned());
        marks.extend(found);
    };

    let same = most_identical(requests, limits.loop_period);
    let identical_requests = same.len() as u64;
    if identical_requests >= limits.loop_requests {
        sign(
            "identical-requests",
            same.iter()
                .map(|request| (request.requested_at, request.index))
                .collect(),
        );
    }
    let chain = longest_chain(&windows, view);
    let powers = chain
        .iter()
        .flat_map(|window| within(&window.in_force(view.to), view.frame()))
        .collect();
    let (chain_windows, chain_seconds) = (chain.len() as u64, seconds(&merged(powers)));
    if chain_windows >= limits.chain_windows && chain_seconds >= limits.chain_seconds {
        sign(
            "back-to-back",
            chain.iter().map(|window| (window.opened_at, window.index)).collect(),
        );
    }
    let extended = windows.iter().max_by_key(|window| window.extensions.len());
    let extensions = extended.map_or(0, |window| window.extensions.len() as u64);
    if let Some(window) = extended.filter(|_| extensions >= limits.extensions) {
        sign(
            "extensions",
            window
                .extensions
                .iter()
                .map(|index| (window.opened_at, *index))
                .collect(),
        );
    }
    let duty_permille = permille(seconds(&spans), view.period());
    let (day, day_permille) = fullest_day(&spans, view);
    let is_long = view.period() >= DUTY_PERIOD && duty_permille >= limits.duty_permille;
    if is_long || day_permille >= limits.duty_day_permille {
        let shown = windows
            .iter()
            .filter(|window| is_long || day_of(window.opened_at) == day);
        sign(
            "duty-cycle",
            shown.map(|window| (window.opened_at, window.index)).collect(),
        );
    }
    if signs.is_empty() {
        return None;
    }
    marks.sort_unstable();
    marks.dedup();
    let since = marks.first().map_or(view.from, |(at, _)| *at);
    let most = usize::try_from(limits.evidence).unwrap_or(usize::MAX);
    let mut evidence: Vec<u64> = marks.into_iter().map(|(_, index)| index).collect();
    evidence.sort_unstable();
    evidence.dedup();
    evidence.truncate(most);
    Some(Pattern {
        workload,
        task,
        signs,
        identical_requests,
        chain_windows,
        chain_seconds,
        extensions,
        duty_permille,
        day_permille,
        since,
        evidence,
    })
}

/// The most requests with one digest that were made within `period`.
fn most_identical<'a>(requests: &[&'a Request], period: i64) -> Vec<&'a Request> {
    let mut by_digest: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        by_digest.entry(&request.digest).or_default().push(request);
    }
    let mut best: Vec<&Request> = vec![];
    for (_, mut same) in by_digest {
        same.sort_by_key(|request| (request.requested_at, request.index));
        let mut first = 0;
        for last in 0..same.len() {
            while same[last].requested_at.saturating_sub(same[first].requested_at) >= period {
                first += 1;
            }
            if last + 1 - first > best.len() {
                best = same[first..=last].to_vec();
            }
        }
    }
    best
}

/// The longest row of windows of which each begins as soon as the one before is over.
fn longest_chain<'a>(windows: &[&'a Window], view: &View) -> Vec<&'a Window> {
    let (mut best, mut chain): (Vec<&Window>, Vec<&Window>) = (vec![], vec![]);
    let mut end = i64::MIN;
    for window in windows {
        if window.opened_at > end.saturating_add(view.thresholds.chain_gap) {
            chain.clear();
        }
        chain.push(window);
        let own_end = window
            .ended
            .as_ref()
            .map_or(window.closes_at, |ended| ended.at.min(window.closes_at));
        end = end.max(own_end);
        if chain.len() > best.len() {
            best.clone_from(&chain);
        }
    }
    best
}

/// The day with the largest share, of those that are whole within the period.
fn fullest_day(spans: &[Span], view: &View) -> (i64, u64) {
    let mut days: BTreeMap<i64, i64> = BTreeMap::new();
    for (from, to) in spans {
        let mut at = *from;
        // A hundred years of days: a longer period is somebody's slip.
        while at < *to && days.len() < 36_525 {
            let end = day_of(at).saturating_add(DAY).min(*to);
            *days.entry(day_of(at)).or_default() += end - at;
            at = end;
        }
    }
    let is_whole = |day: i64| day >= view.from && day.saturating_add(DAY) <= view.to;
    let shares = days.into_iter().filter(|(day, _)| is_whole(*day));
    let best = shares.max_by_key(|(day, seconds)| (*seconds, std::cmp::Reverse(*day)));
    best.map_or((0, 0), |(day, seconds)| (day, permille(seconds, DAY)))
}
