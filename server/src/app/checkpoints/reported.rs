//! What one agent said, and whom it told something before and says nothing of any more.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{ConsumerKey, Enforcing, Report};

/// Consumers that are remembered of one agent by name. More of them are remembered by their SPIFFE ID alone.
const LOST_MAX: usize = 1000;
/// One of best effort goes on without a word for as long as its process lives, which nobody knows but its agent. When that
/// does not come back, or was started anew, it is remembered for so long.
const BEST_EFFORT_KEPT: Duration = Duration::from_secs(86_400);

/// The last that an agent said.
#[derive(Debug, Default)]
pub(super) struct Reported {
    said: BTreeMap<ConsumerKey, Said>,
    /// Which run of it said so.
    run: u64,
    /// What it acknowledged: whoever registers with it is told at least that.
    applied: u64,
    /// It has no stream, or has not said yet on its new one who is behind it. Until then its consumers may have a fresh word
    /// of it.
    silent_until: Option<Instant>,
    /// Those whom another run of it told something, or that an agent which forgets left out: they count with what they
    /// enforced last, until then.
    lost: BTreeMap<ConsumerKey, (Said, Instant)>,
}

/// What an agent said of some consumers, and when it did so first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) enforcing: Enforcing,
    pub(super) since: Instant,
}

/// How consumers stand that still have to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Their agent says so now.
    Told,
    /// They are behind an agent that is silent.
    Silent,
    /// Their agent knows nothing of them any more.
    Lost,
}

impl Reported {
    /// A stream of it is open, on which it has said nothing yet.
    pub(super) fn opened(&mut self, gone_for: Duration) {
        self.silent_until = Some(Instant::now() + gone_for);
        self.applied = 0;
    }

    /// Its stream has ended.
    pub(super) fn gone(&mut self, gone_for: Duration) {
        self.silent_until = Some(Instant::now() + gone_for);
    }

    pub(super) fn applied(&mut self, epoch: u64) {
        self.applied = self.applied.max(epoch);
    }

    /// Takes over what it says now. Only the run that told consumers something knows when they count on it no more; what any
    /// other one, or an agent that does not say which it is, leaves out is lost and not gone.
    pub(super) fn report(&mut self, report: Report, gone_for: Duration) {
        let (now, was_silent) = (Instant::now(), self.silent_until.take());
        let before = std::mem::take(&mut self.said);
        self.lost.retain(|_, (_, until)| *until > now);
        let is_other = report.run != self.run || (report.run == 0 && was_silent.is_some());
        let knows_all = report.run != 0 && !is_other;
        for (key, said) in before.iter().filter(|_| !knows_all) {
            let still = report.consumers.get(key).map_or(0, Enforcing::count);
            if is_other || still < said.enforcing.count() {
                self.lose(key, *said, was_silent.unwrap_or(now + gone_for));
            }
        }
        let since = |key: &ConsumerKey, enforcing: &Enforcing| {
            let same = before.get(key).filter(|said| said.enforcing == *enforcing);
            same.map_or(now, |said| said.since)
        };
        let said = report
            .consumers
            .into_iter()
            .filter(|(_, enforcing)| enforcing.count() > 0);
        self.said = said
            .map(|(key, enforcing)| {
                let since = since(&key, &enforcing);
                (key, Said { enforcing, since })
            })
            .collect();
        for id in report.left_out {
            let enforcing = Enforcing {
                away: 1,
                ..Enforcing::default()
            };
            self.said.insert((String::new(), id), Said { enforcing, since: now });
        }
        self.run = report.run;
    }

    fn lose(&mut self, key: &ConsumerKey, said: Said, until: Instant) {
        let until = match said.enforcing.best_effort {
            0 => until,
            _ => Instant::now() + BEST_EFFORT_KEPT,
        };
        if until <= Instant::now() {
            return;
        }
        let key = if self.lost.len() < LOST_MAX || self.lost.contains_key(key) {
            key.clone()
        } else {
            (String::new(), key.1.clone())
        };
        let (lost, end) = self.lost.entry(key).or_insert((said, until));
        lost.enforcing = lost.enforcing.worse(said.enforcing);
        *end = (*end).max(until);
    }

    /// Consumers that count, with how they stand.
    pub(super) fn counted(&self) -> impl Iterator<Item = (&ConsumerKey, Said, Standing)> {
        let now = Instant::now();
        let (is_silent, is_over) = (self.is_silent(), self.silent_until.is_some_and(|until| until < now));
        let is_kept = self.silent_until.is_some_and(|until| now < until + BEST_EFFORT_KEPT);
        let said = self
            .said
            .iter()
            .filter_map(move |(key, said)| match (is_silent, is_over) {
                (true, _) => Some((key, *said, Standing::Silent)),
                (_, true) if said.enforcing.best_effort > 0 && is_kept => Some((key, *said, Standing::Lost)),
                (_, true) => None,
                _ => Some((key, *said, Standing::Told)),
            });
        let lost = self.lost.iter().filter(move |(_, (_, until))| *until > now);
        said.chain(lost.map(|(key, (said, _))| (key, *said, Standing::Lost)))
    }

    /// Whether it may have somebody behind it that it has not told of and that does not know what was revoked up to `epoch`.
    pub(super) fn may_hide(&self, epoch: u64) -> bool {
        self.is_silent() || (self.silent_until.is_none() && self.applied < epoch)
    }

    /// Whether there is nothing left to remember of it. What it may say later is all new.
    pub(super) fn is_over(&self) -> bool {
        self.silent_until.is_some_and(|until| until < Instant::now()) && self.counted().next().is_none()
    }

    fn is_silent(&self) -> bool {
        self.silent_until.is_some_and(|until| Instant::now() <= until)
    }
}
