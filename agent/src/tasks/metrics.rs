//! Counters of tasks.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What became of tasks on this node. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct TaskMetrics {
    /// Windows that are held.
    pub windows: Gauge,
    /// Task SVIDs received and taken, renewals included.
    pub issued: Counter,
    /// Attempts that brought no task SVID.
    pub failed: Counter,
    /// Windows that ended, by cause.
    pub ended: Family<EndLabel, Counter>,
    /// Windows that ended here and of which the server has not heard.
    pub closes_pending: Gauge,
    /// Task SVIDs withdrawn as the server was not heard for the lease.
    pub lease_lost: Counter,
    /// Task SVIDs withdrawn as they were revoked.
    pub revoked: Counter,
    /// Consumers that enforce what is revoked.
    pub consumers: Gauge,
}

/// Label of [`TaskMetrics::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndLabel {
    /// Why.
    pub cause: End,
}

/// Why a window ended, as far as this agent knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Its holder is done.
    Completed,
    /// Its holder failed, or died without a word.
    Failed,
    /// Its time is over.
    TimedOut,
    /// Its holder is not any more who it was.
    AttestationLost,
    /// Something was done to its holder that does not happen to one.
    Deviated,
    /// No signs of life.
    HeartbeatLost,
    /// The server said so.
    Server,
    /// The agent refuses the server's log.
    LogRefused,
}

impl EncodeLabelValue for End {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> std::fmt::Result {
        EncodeLabelValue::encode(&self.word(), encoder)
    }
}

impl End {
    /// The stable word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::AttestationLost => "attestation_lost",
            Self::Deviated => "deviated",
            Self::HeartbeatLost => "heartbeat_lost",
            Self::Server => "server",
            Self::LogRefused => "log_refused",
        }
    }
}

impl TaskMetrics {
    /// Adds the counters to `registry` as `task_…`.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            windows,
            issued,
            failed,
            ended,
            closes_pending,
            lease_lost,
            revoked,
            consumers,
        } = self;
        let registry = registry.sub_registry_with_prefix("task");
        registry.register("windows", "Windows that are held", windows.clone());
        registry.register("issued", "Task SVIDs received and taken", issued.clone());
        registry.register("failed", "Attempts that brought no task SVID", failed.clone());
        registry.register("ended", "Windows that ended", ended.clone());
        registry.register(
            "closes_pending",
            "Windows that ended here and of which the server has not heard",
            closes_pending.clone(),
        );
        registry.register(
            "lease_lost",
            "Task SVIDs withdrawn as the server was not heard for the lease",
            lease_lost.clone(),
        );
        registry.register("revoked", "Task SVIDs withdrawn as they were revoked", revoked.clone());
        registry.register("consumers", "Consumers that enforce what is revoked", consumers.clone());
    }

    pub(super) fn count_end(&self, cause: End) {
        self.ended.get_or_create(&EndLabel { cause }).inc();
    }
}
