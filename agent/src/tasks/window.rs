//! One window's state, and the one function that decides what it needs now.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::Entry;
use mayfly_proto::mayfly::agent::IssuedTaskResponse;
use mayfly_proto::mayfly::workload::{Stage, TaskState};
use mayfly_runtime::{Backoff, BackoffPolicy};
use mayfly_svid::Timestamp;
use rand::Rng;
use tokio::time::Instant;

use super::metrics::End;
use super::{ProcessKey, Reply, TaskSvid};

/// An SVID is not renewed sooner after it came than this, however short it is.
const SHORTEST_RENEWAL: Duration = Duration::from_millis(500);
/// What ends this shortly before the window is not renewed: there would be nothing left to sign.
const END_MARGIN: Duration = Duration::from_secs(2);
/// The server gives no SVID that would be over in less than 20 s.
const LAST_STRETCH: Duration = Duration::from_secs(30);
/// Refusals of the server after which the window counts as gone.
const MAX_REFUSALS: u32 = 3;

/// What the keeper holds for one window.
pub(super) struct Window {
    pub(super) id: Arc<str>,
    pub(super) request_id: String,
    pub(super) process: ProcessKey,
    pub(super) entry: Arc<Entry>,
    pub(super) include_descendants: bool,
    pub(super) promote_default: bool,
    pub(super) hint: Arc<str>,
    pub(super) order: u64,
    /// Without word from the server for the lease there is no SVID.
    strict: bool,
    /// The end that the server named, Unix seconds.
    closes_at: i64,
    /// That on our clock.
    close: Instant,
    suspended: bool,
    svid: Option<Arc<TaskSvid>>,
    renew_at: Instant,
    /// Another SVID is needed, although this one would last.
    forced: bool,
    beats: Option<Beats>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    refusals: u32,
    /// What it shows may be another than when that was last published.
    pub(super) changed: bool,
    /// A renewal is under way.
    pub(super) renewing: bool,
    /// Who waits for it.
    pub(super) waiters: Vec<Reply>,
}

/// Signs of life.
struct Beats {
    interval: Duration,
    missed: u32,
    due: Instant,
    /// When the server heard of one.
    passed_on: Option<Instant>,
}

/// What becomes of the window.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is over, for this reason.
    End(End, &'static str),
    Keep {
        /// Its SVID is to be renewed now.
        renew: bool,
        /// When to look again.
        timer: Instant,
        /// Its SVID was withdrawn as the server was not heard.
        lease_lost: bool,
    },
}

/// What a new window is bound to.
pub(super) struct Binding {
    pub(super) request_id: String,
    pub(super) process: ProcessKey,
    pub(super) entry: Arc<Entry>,
    pub(super) include_descendants: bool,
    pub(super) order: u64,
}

impl Window {
    /// A window that the server opened, without an SVID so far.
    pub(super) fn new(binding: Binding, state: &TaskState, server_now: Timestamp, backoff: BackoffPolicy) -> Self {
        let now = Instant::now();
        let Binding {
            request_id,
            process,
            entry,
            include_descendants,
            order,
        } = binding;
        let hint = if state.hint.is_empty() {
            format!("task/{}", state.task)
        } else {
            state.hint.clone()
        };
        Self {
            id: state.window_id.as_str().into(),
            request_id,
            process,
            entry,
            include_descendants,
            promote_default: false,
            hint: hint.into(),
            order,
            strict: true,
            closes_at: state.closes_at,
            close: now + Timestamp::from_unix(state.closes_at).since(server_now),
            suspended: false,
            svid: None,
            renew_at: now,
            forced: false,
            beats: None,
            backoff: backoff.start(),
            retry_at: None,
            refusals: 0,
            changed: true,
            renewing: false,
            waiters: vec![],
        }
    }

    pub(super) fn svid(&self) -> Option<&Arc<TaskSvid>> {
        self.svid.as_ref()
    }

    /// Takes over what an answer says besides the certificate.
    pub(super) fn set_terms(&mut self, answer: &IssuedTaskResponse) {
        self.changed |= self.promote_default != answer.promote_default;
        self.promote_default = answer.promote_default;
        self.strict = answer.strict;
        let interval = Duration::from_secs(answer.heartbeat_seconds.into());
        if interval.is_zero() {
            self.beats = None;
        } else if self.beats.as_ref().is_none_or(|beats| beats.interval != interval) {
            let missed = answer.heartbeats_missed.max(1);
            self.beats = Some(Beats {
                interval,
                missed,
                due: Instant::now() + interval * missed,
                passed_on: None,
            });
        }
    }

    /// Takes a new SVID in; the one before is dropped, and its key wiped.
    pub(super) fn accept(&mut self, svid: Arc<TaskSvid>) {
        let life = svid.deadline.saturating_duration_since(svid.given_at);
        let half = life.mul_f64(0.5 * rand::rng().random_range(0.9..=1.1));
        self.renew_at = svid.given_at + half.max(SHORTEST_RENEWAL);
        // Whatever clock the end was counted by: the server's was not before this certificate's begin. It may have been set
        // right or wrong since its last word.
        let left = Timestamp::from_unix(self.closes_at).since(svid.svid().not_before());
        self.close = self.close.min(svid.given_at + left);
        self.svid = Some(svid);
        self.changed = true;
        self.forced = false;
        self.retry_at = None;
        self.refusals = 0;
        self.backoff.reset();
    }

    /// The SVID is not to be served any more, and another is needed.
    pub(super) fn withdraw(&mut self) {
        self.wipe();
        self.retry_at = None;
    }

    fn wipe(&mut self) {
        self.changed |= self.svid.take().is_some();
    }

    /// Another SVID is needed; this one does until it is there. `gently`: after a pause, as the last one did not help.
    pub(super) fn renew_soon(&mut self, gently: bool) {
        self.renew_at = Instant::now();
        self.forced = true;
        self.retry_at = gently.then(|| Instant::now() + self.backoff.next_delay());
    }

    /// The server was not reached, or what it sent is of no use.
    pub(super) fn renewal_failed(&mut self) {
        self.retry_at = Some(Instant::now() + self.backoff.next_delay());
    }

    /// The server did not give another SVID. The window may be suspended or over, which is still on its way, or too close
    /// to its end for another: what is held stays, as nothing was said against it. Says whether that was said too often for a
    /// window that has time left.
    pub(super) fn renewal_refused(&mut self) -> bool {
        let now = Instant::now();
        self.refusals += 1;
        self.retry_at = Some(now + self.backoff.next_delay());
        self.refusals >= MAX_REFUSALS && self.close > now + LAST_STRETCH
    }

    /// The server can be reached again.
    pub(super) fn server_is_back(&mut self) {
        self.retry_at = None;
        self.backoff.reset();
    }

    /// The server's word on an open window: whether it is suspended, and whether its end was moved.
    pub(super) fn told(&mut self, state: &TaskState) {
        let suspended = state.stage == Stage::Suspended as i32;
        if suspended {
            self.wipe();
            self.refusals = 0;
        } else if self.suspended {
            self.retry_at = None;
        }
        self.suspended = suspended;
        // An extension is a decision of the server's that it tells by itself; a renewal never moves the end.
        match state.closes_at - self.closes_at {
            0 => return,
            later @ 1.. => self.close += Duration::from_secs(later.unsigned_abs()),
            sooner => {
                let by = Duration::from_secs(sooner.unsigned_abs());
                self.close = self.close.checked_sub(by).unwrap_or_else(Instant::now);
            }
        }
        self.closes_at = state.closes_at;
    }

    /// A sign of life came. Says whether the server is to hear of it.
    pub(super) fn beat(&mut self, now: Instant) -> bool {
        let Some(beats) = &mut self.beats else { return false };
        beats.due = now + beats.interval * beats.missed;
        // Who beats like mad costs the server nothing.
        let pass_on = beats.passed_on.is_none_or(|at| now >= at + beats.interval / 4);
        if pass_on {
            beats.passed_on = Some(now);
        }
        pass_on
    }

    /// The server has not heard of the last sign of life.
    pub(super) fn beat_was_lost(&mut self) {
        if let Some(beats) = &mut self.beats {
            beats.passed_on = None;
        }
    }

    /// Drops what may not be held any more and says what is to be done next and when. All rules are here; it may be called
    /// at any time and as often as one likes. `fresh_until`: until when the server's last word counts.
    pub(super) fn settle(&mut self, now: Instant, fresh_until: Option<Instant>) -> Plan {
        if now >= self.close {
            return Plan::End(End::TimedOut, "the window's time is over");
        }
        if self.beats.as_ref().is_some_and(|beats| now >= beats.due) {
            return Plan::End(End::HeartbeatLost, "no sign of life came from the process");
        }
        let fresh = fresh_until.is_some_and(|until| now < until);
        let mut timers = vec![Some(self.close), self.beats.as_ref().map(|beats| beats.due)];
        let lease_lost = self.strict && !fresh && self.svid.is_some();
        if lease_lost || self.svid.as_ref().is_some_and(|svid| !svid.is_valid(now)) {
            self.wipe();
        }
        if self.strict && fresh {
            timers.push(fresh_until);
        }
        let mut renew = false;
        if !self.suspended && (fresh || !self.strict) {
            let due = match &self.svid {
                None => Some(now),
                Some(svid) => {
                    timers.push(Some(svid.deadline));
                    let lasts = svid.deadline + END_MARGIN >= self.close && !self.forced;
                    (!lasts).then_some(self.renew_at)
                }
            };
            let due = due.map(|due| due.max(self.retry_at.unwrap_or(due)));
            match due {
                Some(due) if due <= now => renew = !self.renewing,
                later => timers.push(later),
            }
        }
        let timer = timers.into_iter().flatten().min().unwrap_or(self.close);
        Plan::Keep {
            renew,
            timer,
            lease_lost,
        }
    }
}
