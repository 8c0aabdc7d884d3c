//! What one agent said, and whom it told something before and says nothing of any more.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{ConsumerKey, Enforcing, Report, StreamId};

/// Consumers that are remembered of one agent by name. More of them are remembered by their SPIFFE ID alone.
const LOST_MAX: usize = 1000;
/// One of best effort goes on without a word for as long as its process lives, which nobody knows but its agent. When that
/// does not come back, or was started anew, it is remembered for so long.
const BEST_EFFORT_KEPT: Duration = Duration::from_secs(86_400);

/// The last that an agent said.
#[derive(Debug)]
pub(super) struct Reported {
    said: BTreeMap<ConsumerKey, Said>,
    /// Which run of it said so, if one has.
    run: Option<u64>,
    /// What it acknowledged: whoever registers with it is told at least that.
    applied: u64,
    stream: Stream,
    /// Until when those may have a fresh word whom it told something over an earlier stream; none if there was no earlier one.
    before: Option<Instant>,
    /// It is another run, and until then there may be somebody of whom its predecessor had not told yet.
    hides_until: Option<Instant>,
    /// Those whom another run of it told something, or that an agent which forgets left out: they count with what they
    /// enforced last, until then.
    lost: BTreeMap<ConsumerKey, (Said, Instant)>,
}

/// How an agent is heard.
#[derive(Clone, Copy, Debug)]
enum Stream {
    /// It has not said on it yet who is behind it. That has no end but its own: until then consumers may have a fresh word of
    /// the agent, also one that is old.
    Unsaid(StreamId),
    /// It says on it who is behind it.
    Told(StreamId),
    /// There is none, and until then its consumers may have a fresh word of it. `is_first`: there was none before, either.
    Gone { until: Instant, is_first: bool },
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
    /// Of one that has not come back since this process began. Until then its consumers may have a fresh word of it.
    pub(super) fn expected(until: Instant) -> Self {
        Self {
            said: BTreeMap::new(),
            run: None,
            applied: 0,
            stream: Stream::Gone { until, is_first: true },
            before: None,
            hides_until: None,
            lost: BTreeMap::new(),
        }
    }

    /// A stream of it is open, on which it has said nothing yet.
    pub(super) fn opened(&mut self, stream: StreamId, gone_for: Duration) {
        let now = Instant::now();
        match self.stream {
            Stream::Gone { is_first: true, .. } => {}
            Stream::Gone { until, .. } => {
                self.before = Some(until);
                // Those who refuse everything by now do not come back by it.
                self.said
                    .retain(|_, said| until > now || said.enforcing.best_effort > 0);
            }
            Stream::Unsaid(_) | Stream::Told(_) => self.before = Some(now + gone_for),
        }
        self.stream = Stream::Unsaid(stream);
        self.applied = 0;
    }

    /// Its stream has ended.
    pub(super) fn gone(&mut self, gone_for: Duration) {
        self.stream = Stream::Gone {
            until: Instant::now() + gone_for,
            is_first: false,
        };
    }

    /// Over which stream it is heard.
    pub(super) fn present(&self) -> Option<StreamId> {
        match self.stream {
            Stream::Unsaid(stream) | Stream::Told(stream) => Some(stream),
            Stream::Gone { .. } => None,
        }
    }

    pub(super) fn applied(&mut self, epoch: u64) {
        self.applied = self.applied.max(epoch);
    }

    /// Takes over what it says now over `stream`. Only the run that told consumers something knows when they count on it no
    /// more; what any other one, or an agent that does not say which it is, leaves out is lost and not gone. So is whoever it
    /// names and may not speak for any more.
    pub(super) fn report(&mut self, stream: StreamId, report: Report, gone_for: Duration) {
        let now = Instant::now();
        let is_first = matches!(self.stream, Stream::Unsaid(_));
        self.stream = Stream::Told(stream);
        let until = if is_first {
            self.before.take()
        } else {
            Some(now + gone_for)
        };
        let before = std::mem::take(&mut self.said);
        self.lost.retain(|_, (_, until)| *until > now);
        let is_other = self.run != Some(report.run) || (report.run == 0 && is_first);
        if is_other {
            // Its predecessor may have told somebody something and not said so before it ended.
            self.hides_until = self.hides_until.max(until);
        }
        let knows_all = report.run != 0 && !is_other;
        for (key, said) in before.iter().filter(|_| !knows_all) {
            let still = report.consumers.get(key).map_or(0, Enforcing::count);
            if is_other || still < said.enforcing.count() {
                self.lose(key, *said, until.unwrap_or(now + gone_for));
            }
        }
        for (key, enforcing) in report.not_its_own.iter().filter(|(_, said)| said.count() > 0) {
            let of_whatever_name = || before.get(&(String::new(), key.1.clone()));
            if let Some(said) = before.get(key).or_else(of_whatever_name) {
                let enforcing = said.enforcing.worse(*enforcing);
                self.lose(key, Said { enforcing, ..*said }, now + gone_for);
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
        self.run = Some(report.run);
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

    /// Consumers that count `now`, with how they stand.
    pub(super) fn counted(&self, now: Instant) -> impl Iterator<Item = (&ConsumerKey, Said, Standing)> {
        let stream = self.stream;
        let said = self.said.iter().filter_map(move |(key, said)| {
            let standing = match stream {
                Stream::Told(_) => Standing::Told,
                Stream::Unsaid(_) => Standing::Silent,
                Stream::Gone { until, .. } if now <= until => Standing::Silent,
                Stream::Gone { until, .. } if said.enforcing.best_effort > 0 && now < until + BEST_EFFORT_KEPT => {
                    Standing::Lost
                }
                Stream::Gone { .. } => return None,
            };
            Some((key, *said, standing))
        });
        let lost = self.lost.iter().filter(move |(_, (_, until))| *until > now);
        said.chain(lost.map(|(key, (said, _))| (key, *said, Standing::Lost)))
    }

    /// Whether it may have somebody behind it that it has not told of and that does not know what was revoked up to `epoch`.
    pub(super) fn may_hide(&self, epoch: u64, now: Instant) -> bool {
        let hides = match self.stream {
            Stream::Unsaid(_) => true,
            Stream::Told(_) => self.applied < epoch,
            Stream::Gone { until, .. } => now <= until,
        };
        hides || self.hides_until.is_some_and(|until| now <= until)
    }

    /// Whether there is nothing left to remember of it. What it may say later is all new.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let is_gone = matches!(self.stream, Stream::Gone { .. });
        is_gone && !self.may_hide(u64::MAX, now) && self.counted(now).next().is_none()
    }
}
