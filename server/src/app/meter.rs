//! How much power there is, as metrics: fed by what commits did, and read from the state when somebody asks. Nothing is
//! read from the database.
//!
//! Counters begin with the process. What the log says of a whole period is measured by `debt`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mayfly_model::task::{Stage, Task, TaskId, TaskName, Window};
use mayfly_model::{Delta, ExceptionState};
use mayfly_runtime::Clock;
use mayfly_svid::{Timestamp, WindowId};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::exceptions::{Cover, cover};
use crate::commit::{Applied, Committer, Snapshot};

/// Tasks that have a line of their own; the rest share one. There are as many as people define.
const TASKS_MAX: usize = 1_000;
/// The name that the rest has, which no task can have.
const OTHERS: &str = "others";
/// Upper ends, in seconds: what a window's SVIDs outlast its end by.
const RESIDUAL: [f64; 8] = [0.0, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0];
/// Upper ends, in seconds: how long people take. Faster than five seconds, nobody has read it.
const LATENCY: [f64; 9] = [2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];

/// Follows commits. Clones count together.
#[derive(Clone)]
pub struct Meter {
    clock: Arc<dyn Clock>,
    power: Arc<Mutex<Power>>,
    residual: Histogram,
    latency: Histogram,
    breakglass: Counter,
}

/// Power as it adds up.
#[derive(Default)]
struct Power {
    /// Seconds of windows that are not open any more.
    past: BTreeMap<TaskName, u64>,
    /// Windows that are open, what of, since when it was not counted, and their ends.
    open: HashMap<WindowId, (TaskName, Timestamp, Timestamp)>,
    /// What was shown last: a counter never falls, whatever the clock does.
    shown: BTreeMap<String, u64>,
}

impl Meter {
    /// Begins with the windows that are open in `state`.
    pub fn new(clock: Arc<dyn Clock>, state: &Snapshot) -> Self {
        let meter = Self {
            clock,
            power: Arc::default(),
            residual: Histogram::new(RESIDUAL),
            latency: Histogram::new(LATENCY),
            breakglass: Counter::default(),
        };
        let now = meter.now();
        let mut power = meter.lock();
        for task in state.live_tasks() {
            for window in &task.windows {
                power.follow(task, window, now);
            }
        }
        drop(power);
        meter
    }

    /// Takes over what a commit did. Called on the committing thread, so it does little.
    pub fn observe(&self, applied: &Applied) {
        // Of several steps of one task in a commit, each is compared with the one before it.
        let mut seen: HashMap<&TaskId, &Task> = HashMap::new();
        for delta in &applied.deltas {
            if let Delta::TaskPut(task) = delta {
                let before = seen.insert(&task.id, task);
                let before = before.or_else(|| applied.before.task(&task.id).map(AsRef::as_ref));
                self.step(before, task);
            }
        }
    }

    fn step(&self, before: Option<&Task>, after: &Task) {
        for approval in after
            .approvals
            .iter()
            .skip(before.map_or(0, |task| task.approvals.len()))
        {
            self.latency
                .observe(seconds(approval.at, after.request.requested_at) as f64);
        }
        for window in &after.windows {
            let earlier = before.and_then(|task| task.window(&window.id));
            let is_new = earlier.is_none();
            if is_new && window.spiffe_id.segments().next() == Some("breakglass") {
                self.breakglass.inc();
            }
            if let Some(residual) = window.residual
                && earlier.is_none_or(|earlier| earlier.residual.is_none())
            {
                self.residual.observe(f64::from(residual));
            }
            let is_moved =
                earlier.is_none_or(|earlier| earlier.stage != window.stage || earlier.closes_at != window.closes_at);
            if is_moved {
                let since = if is_new { window.opened_at } else { self.now() };
                self.lock().follow(after, window, since);
            }
        }
    }

    /// Adds everything to `registry`; what is a state is read from `committer` when somebody asks.
    pub fn register(&self, registry: &mut Registry, committer: Committer) {
        let tasks = registry.sub_registry_with_prefix("task");
        tasks.register(
            "residual_seconds",
            "From the end of a window to the last instant at which an SVID of it could count",
            self.residual.clone(),
        );
        tasks.register(
            "approval_latency_seconds",
            "From a request to each approval of it",
            self.latency.clone(),
        );
        tasks.register(
            "breakglass_uses",
            "Windows of break-glass tasks",
            self.breakglass.clone(),
        );
        registry.register_collector(Box::new(State {
            meter: self.clone(),
            committer,
        }));
    }

    fn now(&self) -> Timestamp {
        self.clock.now().into()
    }

    /// For a few steps that leave it whole.
    fn lock(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Power {
    /// Notes where a window stands from `since` on.
    fn follow(&mut self, task: &Task, window: &Window, since: Timestamp) {
        let name = &task.request.task;
        if window.stage == Stage::Open {
            let open = self.open.entry(window.id);
            let open = open.or_insert_with(|| (name.clone(), since, window.closes_at));
            // It may have been extended.
            open.2 = window.closes_at;
            return;
        }
        if let Some((name, from, _)) = self.open.remove(&window.id) {
            let to = window.closed_at.unwrap_or(since).min(window.closes_at);
            *self.past.entry(name).or_default() += seconds(to, from);
        }
    }

    /// Seconds by task, those of open windows until `now`.
    fn totals(&mut self, now: Timestamp) -> Vec<(String, u64)> {
        let mut sums: BTreeMap<&TaskName, u64> = self.past.iter().map(|(name, sum)| (name, *sum)).collect();
        for (name, from, closes_at) in self.open.values() {
            *sums.entry(name).or_default() += seconds(now.min(*closes_at), *from);
        }
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        for (name, sum) in sums {
            let is_listed = self.shown.contains_key(name.as_str()) || self.shown.len() + totals.len() < TASKS_MAX;
            let name = if is_listed { name.as_str() } else { OTHERS };
            *totals.entry(name.to_owned()).or_default() += sum;
        }
        for (name, sum) in totals {
            let shown = self.shown.entry(name).or_default();
            *shown = sum.max(*shown);
        }
        self.shown.iter().map(|(name, sum)| (name.clone(), *sum)).collect()
    }
}

/// From `from` to `to`; nothing if that is earlier.
fn seconds(to: Timestamp, from: Timestamp) -> u64 {
    to.since(from).as_secs()
}

/// What is read from the state.
struct State {
    meter: Meter,
    committer: Committer,
}

/// Numbers of the state.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    open: i64,
    unsettled: i64,
    incomplete: i64,
    in_force: i64,
    expired: i64,
    without: i64,
}

impl Counts {
    fn of(snapshot: &Snapshot, now: Timestamp) -> Self {
        let mut counts = Self::default();
        for window in snapshot.live_tasks().flat_map(|task| &task.windows) {
            match window.stage {
                Stage::Open => counts.open += 1,
                Stage::Closing | Stage::Closed => counts.unsettled += 1,
                Stage::RevocationIncomplete => {
                    counts.unsettled += 1;
                    counts.incomplete += 1;
                }
                _ => {}
            }
        }
        for exception in snapshot.exceptions() {
            match exception.state {
                ExceptionState::Ended => {}
                _ if exception.is_in_force(now) => counts.in_force += 1,
                _ => counts.expired += 1,
            }
        }
        let live = snapshot.privileged_entries().filter(|entry| !entry.is_expired(now));
        let bare = live.filter(|entry| !matches!(cover(snapshot, entry, now), Cover::Until(_)));
        let identities: std::collections::BTreeSet<_> = bare.map(|entry| &entry.spec.spiffe_id).collect();
        counts.without = i64::try_from(identities.len()).unwrap_or(i64::MAX);
        counts
    }
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let now = self.meter.now();
        let totals = self.meter.lock().totals(now);
        let mut family = encoder.encode_descriptor(
            "task_privileged_seconds",
            "Seconds that windows were open, each by itself, since this process began",
            None,
            MetricType::Counter,
        )?;
        for (task, sum) in &totals {
            let labels = [("task", task.as_str())];
            ConstCounter::new(*sum).encode(family.encode_family(&labels)?)?;
        }
        let counts = Counts::of(&self.committer.snapshot(), now);
        let mut family = encoder.encode_descriptor(
            "exceptions",
            "Exceptions of the register that nobody ended",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in [("in_force", counts.in_force), ("expired", counts.expired)] {
            ConstGauge::new(count).encode(family.encode_family(&[("state", state)])?)?;
        }
        let gauges = [
            ("task_open_windows", "Windows that are open", counts.open),
            (
                "task_unsettled_windows",
                "Windows that have ended and are not settled",
                counts.unsettled,
            ),
            (
                "task_revocation_incomplete_windows",
                "Windows whose authority could not be shown dead in time",
                counts.incomplete,
            ),
            (
                "standing_privileged_identities",
                "Identities with power over this server and no exception in force",
                counts.without,
            ),
        ];
        for (name, help, count) in gauges {
            let gauge = ConstGauge::new(count);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

#[cfg(test)]
mod tests;
