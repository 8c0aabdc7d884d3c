//! A log as it is read for a period, and read on when there is more of it.

use super::instant;
use crate::finding::Finding;
use crate::findings::findings;
use crate::meter::{Meter, View};
use crate::span::Span;
use crate::{Details, Entry, EntryError, Replay};

/// Reads a log from its beginning, and lets be what is later than a period.
///
/// Clocks are set back, so an entry of the period may stand behind later ones: these then count as well.
#[derive(Debug)]
pub struct Reading {
    replay: Replay,
    period: Span,
    later: Vec<Result<Entry, EntryError>>,
    in_period: u64,
    total: u64,
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) in_period: u64,
    pub(super) after_period: u64,
    pub(super) total: u64,
}

impl Reading {
    /// Nothing is read yet, for a period from its first second to the first that is not in it.
    pub fn new(details: Details, period: Span) -> Self {
        Self {
            replay: Replay::with_history(details),
            period,
            later: vec![],
            in_period: 0,
            total: 0,
        }
    }

    /// Takes the next entry of the log.
    pub fn take(&mut self, entry: Result<Entry, EntryError>) {
        self.total += 1;
        let is_in_time = entry.as_ref().is_ok_and(|entry| entry.time < self.period.1);
        self.later.push(entry);
        if is_in_time {
            std::mem::take(&mut self.later)
                .into_iter()
                .for_each(|entry| self.take_now(entry));
        }
    }

    /// Whether what was read so far is all of a period that ends at `to`, or its beginning.
    pub fn may_go_on_to(&self, to: i64) -> bool {
        self.replay.times().is_none_or(|(_, latest)| latest < to)
    }

    /// Goes on to another end of the period, to which it [may](Self::may_go_on_to) go on.
    pub fn go_on_to(&mut self, to: i64) {
        self.period.1 = to;
        let last = self
            .later
            .iter()
            .rposition(|entry| entry.as_ref().is_ok_and(|entry| entry.time < to));
        if let Some(last) = last {
            let later = self.later.split_off(last + 1);
            for entry in std::mem::replace(&mut self.later, later) {
                self.take_now(entry);
            }
        }
    }

    fn take_now(&mut self, entry: Result<Entry, EntryError>) {
        let (from, to) = self.period;
        match entry {
            Ok(entry) => {
                self.in_period += u64::from((from..to).contains(&entry.time));
                self.replay.take(&entry);
            }
            Err(error) => self.replay.take_unreadable(&error),
        }
    }

    /// What private values of entries to come are shown with.
    pub fn details_mut(&mut self) -> &mut Details {
        self.replay.details_mut()
    }

    /// Entries that were read.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Entries that were read and are later than the period.
    pub fn later(&self) -> usize {
        self.later.len()
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            in_period: self.in_period,
            after_period: self.later.len() as u64,
            total: self.total,
        }
    }

    /// The replay, as if the log ended here.
    pub(super) fn judge<T>(&mut self, look: impl FnOnce(&Replay) -> T) -> T {
        // What nobody can read may be of any time: it is told wherever it stands.
        let unreadable = self.later.iter().filter_map(|entry| entry.as_ref().err());
        self.replay.as_if_over(unreadable, look)
    }

    /// What somebody should look at and how much power there was, within the period of `view`, which ends where this one
    /// does. `root` draws random instants.
    pub fn measure(&mut self, view: &View, root: &str) -> (Vec<Finding>, Meter) {
        self.judge(|replay| {
            let instants = instant::zero_standing(replay, view, root);
            (findings(replay, view, &instants), Meter::of(replay, view))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Scope, Thresholds};
    use crate::report::{LogFacts, Report};
    use crate::testing::{APPROVED, START, UNATTENDED, WORKLOAD, World};

    const ROOT: &str = "00";

    fn view(to: i64) -> View {
        View {
            from: START,
            to,
            scope: Scope::All,
            thresholds: Thresholds::default(),
        }
    }

    /// As if nobody had read anything before.
    fn anew(entries: &[Entry], to: i64) -> (Vec<Finding>, Meter) {
        let mut reading = Reading::new(Details::default(), (START, to));
        entries.iter().for_each(|entry| reading.take(Ok(entry.clone())));
        reading.measure(&view(to), ROOT)
    }

    fn log() -> World {
        let mut world = World::new();
        world.define(UNATTENDED);
        world.define(APPROVED);
        for turn in 0..4 {
            let id = world.request("pay/db-migrate", WORKLOAD, None, "again");
            world.work(&id, 400);
            world.now += 60;
            let id = world.request("pay/export", WORKLOAD, Some("joe"), &format!("figures {turn}"));
            world.now += 3;
            world.approve(&id, "ann");
            world.open(&id);
            world.now += 1_000;
            // The clock is set back now and then.
            world.now -= if turn % 3 == 0 { 300 } else { 0 };
        }
        world.register("spiffe://td/ops", true);
        world
    }

    #[test]
    fn what_is_read_on_is_the_same_as_what_is_read_at_once() {
        let entries = log().entries();
        let end = entries.iter().map(|entry| entry.time).max().unwrap() + 2;
        let mut kept = Reading::new(Details::default(), (START, START));
        let mut questions = 0;
        for index in 0..=entries.len() {
            // Questions after each commit: up to now, up to a while ago, up to some time that is to come.
            let is_complete =
                index == 0 || index == entries.len() || entries[index - 1].revision != entries[index].revision;
            let now = entries[..index].last().map_or(START, |entry| entry.time);
            for to in [now - 400, now, now + 1, now + 5_000, end] {
                if !is_complete || !kept.may_go_on_to(to) {
                    continue;
                }
                kept.go_on_to(to);
                questions += 1;
                assert_eq!(
                    kept.measure(&view(to), ROOT),
                    anew(&entries[..index], to),
                    "{index} entries, {to}"
                );
            }
            if let Some(entry) = entries.get(index) {
                kept.take(Ok(entry.clone()));
            }
        }
        assert!(questions > 50, "{questions}");
        let (found, meter) = kept.measure(&view(end), ROOT);
        assert!(found.len() > 3 && meter.total.windows == 8, "{found:?}");
    }

    #[test]
    fn what_cannot_be_read_and_what_is_unknown_is_told_each_time_and_once() {
        let mut world = log();
        world.raw(
            "svid.intended",
            "x",
            serde_json::json!({ "commitment": "ab".repeat(32) }),
        );
        let mut entries: Vec<_> = world.entries().into_iter().map(Ok).collect();
        let broken = Entry::parse(entries.len() as u64, b"nothing");
        assert!(broken.is_err());
        entries.push(broken);
        let to = world.now + 1;
        let mut kept = Reading::new(Details::default(), (START, to));
        entries.iter().for_each(|entry| kept.take(entry.clone()));
        let (first, _) = kept.measure(&view(to), ROOT);
        let told = first.iter().filter(|found| found.code == "invariant-violated").count();
        assert!(told >= 2, "{first:?}");
        assert_eq!(kept.measure(&view(to), ROOT).0, first);
        let facts = LogFacts {
            end: crate::TreeHead {
                size: entries.len() as u64,
                root: ROOT.into(),
            },
            ..LogFacts::default()
        };
        let report = Report::build(entries, Details::default(), &view(to), facts);
        assert_eq!(report.findings, first);
    }
}
