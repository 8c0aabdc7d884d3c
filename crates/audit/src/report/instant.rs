//! Part 3: who had authority at sampled instants.

use std::collections::BTreeMap;

use super::parts::{Difference, Sample, State, ZeroStanding};
use crate::Replay;
use crate::canonical::sha256;
use crate::meter::{Listed, View};
use crate::span::Span;

/// The most samples at full hours: ten years.
const HOURS_MAX: i64 = 87_660;
const HOUR: i64 = 3_600;

/// Identities at an instant: with an open window, with an SVID that counts.
type Holders<'a> = BTreeMap<&'a str, (bool, bool)>;

pub(super) fn zero_standing(replay: &Replay, view: &View, root: &str) -> ZeroStanding {
    let hourly = hours(view);
    let random = random(view, root);
    let mut instants: Vec<i64> = hourly.iter().chain(&random).copied().collect();
    instants.sort_unstable();
    instants.dedup();
    let mut holders: Vec<Holders<'_>> = vec![Holders::new(); instants.len()];
    let mut mark = |id, span: Span, is_svid: bool| {
        let first = instants.partition_point(|at| *at < span.0);
        let last = instants.partition_point(|at| *at < span.1);
        for holder in &mut holders[first..last.max(first)] {
            let (open, live) = holder.entry(id).or_insert((false, false));
            *(if is_svid { live } else { open }) = true;
        }
    };
    for window in view.windows(replay) {
        window
            .in_force(view.to)
            .into_iter()
            .for_each(|span| mark(window.spiffe_id.as_str(), span, false));
        window
            .svids_counted(view.to)
            .into_iter()
            .for_each(|span| mark(window.spiffe_id.as_str(), span, true));
    }
    for stray in replay.strays() {
        mark(stray.spiffe_id.as_str(), stray.span, true);
    }
    let count = |holders: &Holders<'_>, which: fn(&(bool, bool)) -> bool| {
        holders.values().filter(|both| which(both)).count() as u64
    };
    let samples = instants
        .iter()
        .zip(&holders)
        .filter(|(at, _)| hourly.binary_search(at).is_ok());
    let samples = samples.map(|(at, holders)| Sample {
        at: *at,
        open: count(holders, |(open, _)| *open),
        live: count(holders, |(_, live)| *live),
    });
    let samples: Vec<Sample> = samples.collect();
    let mut differences = vec![];
    for (at, holders) in instants.iter().zip(&holders) {
        for (id, (_, live)) in holders.iter().filter(|(_, (open, live))| open != live) {
            let what = if *live {
                "svid_without_window"
            } else {
                "window_without_svid"
            };
            differences.push(Difference {
                at: *at,
                spiffe_id: (*id).into(),
                what: what.into(),
            });
        }
    }
    // Those that must not be come first, so that none of them is cut off.
    differences.sort_by(|a, b| (&a.what, a.at, &a.spiffe_id).cmp(&(&b.what, b.at, &b.spiffe_id)));
    let is_held = differences
        .iter()
        .all(|difference| difference.what != "svid_without_window");
    ZeroStanding {
        state: match (is_held, instants.is_empty()) {
            (_, true) => State::NotTested,
            (true, _) => State::Held,
            (false, _) => State::Broken,
        },
        hourly: hourly.len() as u64,
        random: random.len() as u64,
        most: holders
            .iter()
            .map(|holders| count(holders, |(open, live)| *open || *live))
            .max()
            .unwrap_or_default(),
        samples,
        differences: Listed::first(differences, view.thresholds.rows),
    }
}

/// The full hours of the period.
fn hours(view: &View) -> Vec<i64> {
    let first = view.from.div_euclid(HOUR) + i64::from(view.from.rem_euclid(HOUR) != 0);
    let last = view.to.saturating_sub(1).div_euclid(HOUR);
    (first..=last.min(first.saturating_add(HOURS_MAX)))
        .map(|hour| hour * HOUR)
        .filter(|at| view.has(*at))
        .collect()
}

/// Seconds that nobody could choose who did not know the whole log: they follow from its root hash.
fn random(view: &View, root: &str) -> Vec<i64> {
    let Ok(period) = u64::try_from(view.period()) else {
        return vec![];
    };
    if period == 0 {
        return vec![];
    }
    let second = |number: u64| {
        let hash = sha256(&[b"mayfly audit instants 1\n", root.as_bytes(), &number.to_be_bytes()]);
        let number = u64::from_be_bytes(hash[..8].try_into().expect("8 of 32 bytes"));
        view.from + i64::try_from(number % period).unwrap_or_default()
    };
    (0..view.thresholds.random_instants).map(second).collect()
}
