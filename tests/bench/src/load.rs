//! Load: offered at a rate whatever the answers do, or as much as so many callers can take.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::process::Process;

/// What came of a load.
#[derive(Debug)]
pub struct Load {
    /// Latencies in nanoseconds, from the moment that a call was due.
    pub latency: Histogram<u64>,
    /// Calls that were answered.
    pub done: u64,
    /// Calls that failed.
    pub failed: u64,
    /// What the first failure said.
    pub failure: Option<String>,
    /// From the first call to the last answer.
    pub time: Duration,
    /// CPU time of the system meanwhile.
    pub cpu: Duration,
}

/// An empty histogram for anything between a nanosecond and minutes, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are in order")
}

/// Adds a sample.
pub fn record(histogram: &mut Histogram<u64>, sample: Duration) {
    histogram.saturating_record(u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX));
}

/// The sample in milliseconds that `share` of all do not exceed.
#[allow(clippy::cast_precision_loss, reason = "a figure")]
pub fn quantile_ms(histogram: &Histogram<u64>, share: f64) -> f64 {
    histogram.value_at_quantile(share) as f64 / 1e6
}

/// `rate` calls per second for `time`. Calls do not wait for each other, so a slow system is not asked less, and
/// latency counts from when a call was due.
///
/// # Errors
/// The system is gone.
pub async fn open_loop<Fut>(
    system: Process,
    rate: f64,
    time: Duration,
    mut call: impl FnMut(u64) -> Fut,
) -> Result<Load>
where
    Fut: Future<Output = Result<()>> + 'static,
{
    let mut calls = Calls::begin(system)?;
    let mut number = 0u32;
    while Duration::from_secs_f64(f64::from(number) / rate) < time {
        let due = calls.start + Duration::from_secs_f64(f64::from(number) / rate);
        // Timers are good for a millisecond; the rest is waited for by looking at the clock.
        if let Some(far) = due.checked_duration_since(Instant::now() + Duration::from_millis(2)) {
            tokio::time::sleep(far).await;
        }
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        calls.spawn(due, call(number.into()));
        calls.collect();
        number += 1;
    }
    calls.end().await
}

/// `callers` calls at a time for `time`, each followed by the next.
///
/// # Errors
/// The system is gone.
pub async fn closed_loop<Fut>(
    system: Process,
    callers: usize,
    time: Duration,
    mut call: impl FnMut(u64) -> Fut,
) -> Result<Load>
where
    Fut: Future<Output = Result<()>> + 'static,
{
    let mut calls = Calls::begin(system)?;
    let mut number = 0;
    while calls.start.elapsed() < time {
        while calls.running.len() < callers {
            calls.spawn(Instant::now(), call(number));
            number += 1;
        }
        calls.next().await;
    }
    calls.end().await
}

struct Calls {
    system: Process,
    cpu: Duration,
    start: Instant,
    running: JoinSet<(Duration, Result<()>)>,
    load: Load,
}

impl Calls {
    fn begin(system: Process) -> Result<Self> {
        Ok(Self {
            system,
            cpu: system.cpu()?,
            start: Instant::now(),
            running: JoinSet::new(),
            load: Load {
                latency: histogram(),
                done: 0,
                failed: 0,
                failure: None,
                time: Duration::ZERO,
                cpu: Duration::ZERO,
            },
        })
    }

    fn spawn(&mut self, due: Instant, call: impl Future<Output = Result<()>> + 'static) {
        self.running.spawn_local(async move {
            let result = call.await;
            (due.elapsed(), result)
        });
    }

    fn collect(&mut self) {
        while let Some(ended) = self.running.try_join_next() {
            self.take(ended.expect("a call does not panic"));
        }
    }

    async fn next(&mut self) {
        if let Some(ended) = self.running.join_next().await {
            self.take(ended.expect("a call does not panic"));
        }
    }

    fn take(&mut self, (latency, result): (Duration, Result<()>)) {
        match result {
            Ok(()) => {
                self.load.done += 1;
                record(&mut self.load.latency, latency);
            }
            Err(error) => {
                self.load.failed += 1;
                self.load.failure.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    async fn end(mut self) -> Result<Load> {
        while !self.running.is_empty() {
            self.next().await;
        }
        self.load.time = self.start.elapsed();
        self.load.cpu = self.system.cpu()? - self.cpu;
        ensure!(
            self.load.failed == 0 && self.load.done > 0,
            "{} of {} calls failed: {}",
            self.load.failed,
            self.load.done + self.load.failed,
            self.load.failure.unwrap_or_default()
        );
        Ok(self.load)
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures")]
impl Load {
    /// Answers per second, where each is worth `each` operations.
    pub fn per_second(&self, each: usize) -> f64 {
        self.done as f64 * each as f64 / self.time.as_secs_f64()
    }

    /// CPU time of the system for one operation, in microseconds.
    pub fn cpu_micros(&self, each: usize) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / (self.done as f64 * each as f64)
    }

    /// Share of a processor that the system used.
    pub fn cpu_share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.time.as_secs_f64()
    }

    /// See [`quantile_ms`].
    pub fn quantile_ms(&self, share: f64) -> f64 {
        quantile_ms(&self.latency, share)
    }
}
