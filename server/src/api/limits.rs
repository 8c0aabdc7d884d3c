//! Bounds of `AttestAgent`, the one call with real work in it that strangers may make.
//!
//! Per address or local user a token bucket, over all addresses a number at a time. Who comes a little too early waits,
//! who comes much too early is told when to come back. Memory is bounded, however many call, and so is the time that a
//! slot is held, whatever the caller does with its stream.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mayfly_runtime::TaskSet;
use rand::Rng;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::app::attest_agent::AttestError;
use crate::app::issue::IssueError;

/// Sources that are remembered; beyond that they share one bucket until others are full again.
const SOURCES: usize = 65_536;
/// Between two looks for full buckets among all of them.
const WALK_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds of `AttestAgent`; settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttestLimits {
    /// Attestations per second and source (an IPv4 address, an IPv6 /64, a local user), in the long run. At least 1.
    pub per_second: u32,
    /// How many may come at once after a pause.
    pub burst: u32,
    /// Who would have to wait longer is told to come back.
    pub max_wait: Duration,
    /// Attestations at a time, over all sources.
    pub concurrent: usize,
    /// From the call to its end, all challenges included.
    pub deadline: Duration,
    /// Challenges of one attestation.
    pub challenges: usize,
}

impl Default for AttestLimits {
    fn default() -> Self {
        Self {
            per_second: 10,
            burst: 50,
            max_wait: Duration::from_secs(1),
            concurrent: 256,
            deadline: Duration::from_secs(30),
            challenges: 8,
        }
    }
}

pub(super) struct AttestGuard {
    limits: AttestLimits,
    buckets: Mutex<Buckets>,
    running: TaskSet,
}

/// Who has a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An address of the network; all of an IPv6 /64 is one.
    Address(IpAddr),
    /// A user of this machine, on the local socket.
    Uid(u32),
}

/// When each bucket will be full again: the only thing one has to know of a bucket.
#[derive(Default)]
struct Buckets {
    by_source: HashMap<Source, Instant>,
    shared: Option<Instant>,
    walked: Option<Instant>,
}

impl AttestGuard {
    pub(super) fn new(limits: AttestLimits) -> Self {
        Self {
            limits,
            buckets: Mutex::default(),
            running: TaskSet::new("attest_agent", u32::try_from(limits.concurrent).unwrap_or(u32::MAX)),
        }
    }

    pub(super) fn limits(&self) -> &AttestLimits {
        &self.limits
    }

    /// Waits for the turn of `source`.
    ///
    /// # Errors
    /// [`AttestError::Busy`], with when to come back.
    ///
    /// # Cancel safety
    /// If dropped while waiting, the place in the bucket is lost.
    pub(super) async fn pace(&self, source: Source) -> Result<(), AttestError> {
        let source = match source {
            Source::Address(address) => Source::Address(network(address)),
            uid @ Source::Uid(_) => uid,
        };
        let wait = self.take(source, Instant::now())?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Runs `attestation` in one of the slots, until `end` at most. To be called when the request is here and not
    /// before: who says nothing keeps nobody out. As a task, because HTTP/2 does not poll a stream whose caller gives
    /// it no room: a slot held by the stream would be held for as long as its caller likes.
    ///
    /// # Errors
    /// That of `attestation`; [`AttestError::Busy`], with when to come back; [`AttestError::TooSlow`].
    ///
    /// # Cancel safety
    /// If dropped, `attestation` is dropped at its next await.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        end: Instant,
        attestation: impl Future<Output = Result<T, AttestError>> + Send + 'static,
    ) -> Result<T, AttestError> {
        let (mut answer, answered) = oneshot::channel();
        let too_slow = AttestError::TooSlow(self.limits.deadline);
        let task = async move {
            let attested = tokio::select! {
                attested = timeout_at(end, attestation) => attested.unwrap_or(Err(too_slow)),
                () = answer.closed() => return,
            };
            let _ = answer.send(attested);
        };
        self.running
            .spawn(task)
            .map_err(|_| busy(self.limits.max_wait.max(Duration::from_millis(100))))?;
        // Without an answer the task was aborted, or an attestor panicked.
        answered.await.unwrap_or(Err(IssueError::Stopped.into()))
    }

    /// Takes one from the bucket of `source` and says how long to wait for it.
    fn take(&self, source: Source, now: Instant) -> Result<Duration, AttestError> {
        let each = Duration::from_secs(1) / self.limits.per_second.max(1);
        let burst = each * self.limits.burst.max(1);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.of(source, now).unwrap_or(now).max(now);
        // What is taken beyond the burst is waited for.
        let next = full_at + each;
        let wait = next.saturating_duration_since(now + burst);
        if wait > self.limits.max_wait {
            return Err(busy(wait));
        }
        buckets.put(source, next);
        Ok(wait)
    }
}

impl Buckets {
    fn of(&mut self, source: Source, now: Instant) -> Option<Instant> {
        let is_due = || self.walked.is_none_or(|walked| now >= walked + WALK_INTERVAL);
        if !self.by_source.contains_key(&source) && self.by_source.len() >= SOURCES && is_due() {
            // Full buckets are as good as none.
            self.by_source.retain(|_, full_at| *full_at > now);
            self.walked = Some(now);
        }
        self.by_source.get(&source).copied().or_else(|| {
            let room = self.by_source.len() < SOURCES;
            if room { None } else { self.shared }
        })
    }

    fn put(&mut self, source: Source, full_at: Instant) {
        if self.by_source.len() < SOURCES || self.by_source.contains_key(&source) {
            self.by_source.insert(source, full_at);
        } else {
            self.shared = Some(full_at);
        }
    }
}

/// A delay of at least `wait`, drawn so that those who were refused together do not come back together.
fn busy(wait: Duration) -> AttestError {
    AttestError::Busy {
        retry_after: wait + rand::rng().random_range(Duration::ZERO..=wait),
    }
}

/// A single host can have all 2^64 addresses of its IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn guard(concurrent: usize) -> AttestGuard {
        let limits = AttestLimits {
            per_second: 10,
            burst: 5,
            concurrent,
            ..AttestLimits::default()
        };
        AttestGuard::new(limits)
    }

    fn ip(text: &str) -> Source {
        Source::Address(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_then_one_waits_then_one_is_sent_away() {
        let guard = guard(100);
        let start = Instant::now();
        for _ in 0..5 {
            guard.pace(ip("192.0.2.1")).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for n in 1..=10 {
            let wait = guard.take(ip("192.0.2.1"), start).unwrap();
            assert_eq!(wait, Duration::from_millis(100) * n);
        }
        let refused = guard.pace(ip("192.0.2.1")).await.unwrap_err();
        let retry = refused.retry_after().unwrap();
        assert!(
            retry >= Duration::from_millis(1_100) && retry <= Duration::from_millis(2_200),
            "{retry:?}"
        );
        assert!(
            guard.pace(ip("192.0.2.2")).await.is_ok(),
            "another address is not disturbed"
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(guard.pace(ip("192.0.2.1")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_network_is_one_caller_and_so_is_a_user() {
        let guard = guard(100);
        for n in 0..5 {
            guard.pace(ip(&format!("2001:db8::{n:x}"))).await.unwrap();
            guard.pace(Source::Uid(7)).await.unwrap();
        }
        let now = Instant::now();
        for (one, other) in [
            (ip("2001:db8::"), ip("2001:db8:0:1::")),
            (Source::Uid(7), Source::Uid(8)),
        ] {
            assert!(!guard.take(one, now).unwrap().is_zero());
            assert!(guard.take(other, now).unwrap().is_zero());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_run_at_a_time_and_none_for_ever() {
        let guard = guard(2);
        let start = Instant::now();
        let end = start + Duration::from_secs(30);
        let stuck = || guard.run(end, std::future::pending::<Result<(), _>>());
        let quick = || guard.run(end, async { Ok(()) });
        let mut held = [Box::pin(stuck()), Box::pin(stuck())];
        for stuck in &mut held {
            assert!(futures_util::poll!(stuck).is_pending());
        }
        assert!(matches!(quick().await, Err(AttestError::Busy { .. })));
        let [left, kept] = held;
        drop(left);
        tokio::time::sleep(Duration::from_millis(1)).await;
        quick().await.expect("whoever leaves makes room");
        assert!(matches!(kept.await, Err(AttestError::TooSlow(_))));
        assert_eq!(start.elapsed(), Duration::from_secs(30));
    }

    #[test]
    fn any_number_of_sources_takes_bounded_memory() {
        let guard = guard(1);
        let now = Instant::now();
        for n in 0..SOURCES as u32 + 20 {
            let _ = guard.take(Source::Address(IpAddr::V4(n.into())), now);
        }
        let buckets = guard.buckets.lock().unwrap();
        assert_eq!(buckets.by_source.len(), SOURCES);
        assert!(buckets.shared.is_some());
    }

    // Else each new address would cost a walk over all of them, under the lock that everybody needs.
    #[test]
    fn a_full_table_is_walked_once_a_second_and_not_for_every_newcomer() {
        let guard = guard(1);
        let start = Instant::now();
        let fill = |from: u32, now| {
            for n in from..from + SOURCES as u32 {
                let _ = guard.take(Source::Address(IpAddr::V4(n.into())), now);
            }
        };
        let walked = || guard.buckets.lock().unwrap().walked;
        fill(0, start);
        fill(1 << 24, start);
        assert_eq!(walked(), Some(start));
        fill(2 << 24, start + Duration::from_millis(999));
        assert_eq!(walked(), Some(start), "though all buckets are full again");
        let later = start + Duration::from_secs(1);
        fill(3 << 24, later);
        assert_eq!(walked(), Some(later));
        let newcomer = Source::Address(Ipv4Addr::from(3 << 24).into());
        assert!(guard.buckets.lock().unwrap().by_source.contains_key(&newcomer));
    }
}
